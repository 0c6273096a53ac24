"""Constants, the chains by which exporters compute shapes, and casts that keep every value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from tests.unit.onnx_cases.case import Case, f32, ints, node

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE


def constants() -> Iterator[Case]:
    """The node under test adds a constant; what is tested is the `Constant` before it."""
    for shape in ((1, 3), (3,), (2, 3)):
        held: list[dict[str, Any]] = [{"value": numpy_helper.from_array(f32(3))}, {"value_float": 1.25},
                                      {"value_floats": [0.5, -1.0, 2.0]},
                                      {"value": numpy_helper.from_array(f32(1, 3))}]  # fmt: skip
        for attributes, opset in itertools.product(held, (12, 13, 19)):
            yield Case("Add", shape, ("h", "k"), before=(node("Constant", [], ["k"], **attributes),), opset=opset)
        for attributes in ({"value_ints": [-1]}, {"value_ints": [3, -1]}):
            yield Case("Reshape", shape, ("h", "k"), before=(node("Constant", [], ["k"], **attributes),))
        one = (node("Constant", [], ["i"], value_int=-1), node("Unsqueeze", ["i", "z0"], ["k"]))
        yield Case("Reshape", shape, ("h", "k"), before=one, tensors={"z0": np.array([0])})
    value = numpy_helper.from_array(np.array([0.75], dtype=np.float32))
    filled = (node("ConstantOfShape", ["s"], ["k"], value=value),)
    yield Case("Mul", (2, 3), ("h", "k"), before=filled, tensors={"s": ints(2, 3)}, opset=9)


def shapes_computed() -> Iterator[Case]:
    """The exporters' chains Shape -> Gather -> Concat -> Reshape, and other arithmetic on constants."""
    for shape, opset in itertools.product(((1, 2, 3), (2, 2, 5), (1, 4, 3, 2)), (9, 11, 13, 15)):
        chain = (node("Shape", ["h"], ["s"]), node("Gather", ["s", "i"], ["b"], axis=0),
                 node("Concat", ["b", "m"], ["t"], axis=0))  # fmt: skip
        yield Case("Reshape", shape, ("h", "t"), before=chain, opset=opset,
                   tensors={"i": np.array([0]), "m": np.array([-1])})  # fmt: skip
    for start, end in ((0, 1), (-2, None), (1, -1), (-9, 9), (None, 2), (-1, None)):
        attributes = {k: v for k, v in (("start", start), ("end", end)) if v is not None}
        chain = (node("Shape", ["h"], ["s"], **attributes), node("Concat", ["s", "m"], ["t"], axis=0))
        yield Case("Reshape", (1, 2, 3), ("h", "t"), before=chain, opset=15, tensors={"m": np.array([-1])})
    for op in ("Add", "Sub", "Mul", "Div"):
        yield Case("Add", (1, 3), ("h", "c"), before=(node(op, ["p", "q"], ["c"]),),
                   tensors={"p": f32(3), "q": f32(3)})  # fmt: skip
    halves = (node("Split", ["p"], ["c", "d"], axis=0), node("MatMul", ["c", "d"], ["e"]))
    yield Case("Add", (1, 2), ("h", "e"), before=halves, tensors={"p": f32(4, 2)[:, :2]})
    # A shape computed by arithmetic, and a mask made from a range.
    chain = (node("Shape", ["h"], ["s"]), node("Slice", ["s", "one", "two"], ["n"]), node("Mul", ["n", "two"], ["d"]),
             node("Concat", ["m", "d"], ["t"], axis=0))  # fmt: skip
    yield Case("Reshape", (2, 3, 2), ("h", "t"), before=chain,
               tensors={"one": ints(1), "two": ints(2), "m": ints(-1)})  # fmt: skip
    mask = (node("Range", ["r0", "r4", "r1"], ["r"]), node("Greater", ["r", "r1"], ["g"]),
            node("Not", ["g"], ["k"]))  # fmt: skip
    yield Case("Where", (1, 4), ("k", "h", "zero"), before=mask,
               tensors={"r0": np.array(0), "r4": np.array(4), "r1": np.array(1),
                        "zero": np.array(0, dtype=np.float32)})  # fmt: skip


def sizes() -> Iterator[Case]:
    for shape, opset in itertools.product(((1, 2, 3), (2, 3), (4,), (2, 1, 2, 2), (1, 1)), (13, 19, 21, 24)):
        size = (node("Size", ["h"], ["s"]), node("Unsqueeze", ["s", "zero"], ["t"]))
        yield Case("Reshape", shape, ("h", "t"), before=size, tensors={"zero": np.array([0])}, opset=opset)


def casts(op: str) -> Iterator[Case]:
    for shape, opset in itertools.product(((1, 3), (4,), (2, 1, 3)), (9, 13, 19, 21, 23, 25)):
        if op == "CastLike":
            if opset < 15:
                opset += 6
            for kind, like in ((FLOAT, np.float32), (FLOAT, np.float64), (DOUBLE, np.float64)):
                yield Case(op, shape, ("h", "k"), tensors={"k": np.ones(1, dtype=like)}, opset=opset, kind=kind)
            continue
        for kind, to in ((FLOAT, FLOAT), (FLOAT, DOUBLE), (DOUBLE, DOUBLE)):
            yield Case(op, shape, attributes={"to": to}, opset=opset, kind=kind)
    if op == "Cast":
        half = (node("Cast", ["p"], ["c"], to=FLOAT),)
        yield Case("Add", (1, 3), ("h", "c"), before=half, tensors={"p": np.ones(3, dtype=np.float16)})
        yield Case("Cast", (1, 3), attributes={"to": DOUBLE, "saturate": 1}, opset=19)


CASES = {
    "Constant": constants(), "Shape": shapes_computed(), "Size": sizes(), "Cast": casts("Cast"),
    "CastLike": casts("CastLike"),
}  # fmt: skip

"""Every lowering rule against onnxruntime: each accepted combination of attributes, alone and in a residual block."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verifkit.errors import UnsupportedOperator
from verifkit.io.onnx import model_from_bytes
from verifkit.io.onnx_ops import RULES
from verifkit.ops import Affine

RNG = np.random.default_rng(20240611)
F32 = np.float32


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(F32)


@dataclass(frozen=True)
class Case:
    """One ONNX node under test: it reads 'h' (of `shape`) and the initialisers, and computes 'y'."""

    op: str
    shape: tuple[int, ...]
    inputs: tuple[str, ...] = ("h",)
    attributes: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    opset: int = 13
    before: tuple[onnx.NodeProto, ...] = ()
    outputs: tuple[str, ...] = ("y",)
    kind: int = TensorProto.FLOAT

    def node(self) -> onnx.NodeProto:
        return helper.make_node(self.op, self.inputs, self.outputs, name="tested", **self.attributes)

    def build(self, *, residual: bool) -> bytes:
        """The node alone, or between two residual blocks: h = x + relu(x), z = y + tanh(y)."""
        if residual:
            first = [helper.make_node("Relu", ["x"], ["/r"]), helper.make_node("Add", ["x", "/r"], ["h"])]
            last = [helper.make_node("Tanh", ["y"], ["/t"]), helper.make_node("Add", ["/t", "y"], ["z"])]
        else:
            first, last = [helper.make_node("Identity", ["x"], ["h"])], [helper.make_node("Identity", ["y"], ["z"])]
        graph = helper.make_graph(
            [*first, *self.before, self.node(), *last],
            "case",
            [helper.make_tensor_value_info("x", self.kind, self.shape)],
            [helper.make_empty_tensor_value_info("z")],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in self.tensors.items()],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}-{list(self.shape)}-{self.attributes}"


def windows(op: str) -> Iterator[Case]:
    """Kernels, strides, dilations and paddings of every kind, over one to three axes."""
    ceils = (0,) if op == "Conv" else (0, 1)
    counts = (None, 0, 1) if op == "AveragePool" else (None,)
    for n, auto, ceil, count in itertools.product((1, 2, 3), (None, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"),
                                                  ceils, counts):  # fmt: skip
        geometries = (
            (1, 1, 1, (0, 0)), (2, 1, 1, (1, 0)), (2, 2, 1, (0, 1)), (3, 1, 1, (1, 1)), (3, 2, 1, (2, 0)),
            (3, 3, 1, (0, 2)), (2, 1, 2, (1, 1)), (2, 3, 2, (0, 1)), (3, 2, 2, (2, 2)),
        )  # fmt: skip
        for kernel, stride, dilation, (a, z) in geometries[:: 1 if n == 2 else 2]:
            explicit, same = auto in (None, "NOTSET"), auto in ("SAME_UPPER", "SAME_LOWER")
            if (same and dilation > 1) or (ceil and not explicit):
                continue  # refused: see below
            attributes: dict[str, Any] = {"kernel_shape": [kernel] * n}
            if stride > 1:
                attributes["strides"] = [stride, 1, 2][:n]
            if dilation > 1:
                attributes["dilations"] = [dilation, 1, 2][:n] if n > 1 else [dilation]
            if explicit and (a or z):
                attributes["pads"] = [a] * n + [z] * n
            if auto is not None:
                attributes["auto_pad"] = auto
            if ceil:
                attributes["ceil_mode"] = 1
            if count is not None:
                attributes["count_include_pad"] = count
            shape = (1, 2, *(7, 6, 8)[:n])
            opset = 19 if op == "AveragePool" and dilation > 1 else 22 if n == 3 else 11
            if same and op != "Conv" and any(k < s for k, s in zip([kernel] * n, attributes.get("strides", [1] * n),
                                                                   strict=True)):  # fmt: skip
                continue
            yield Case(op, shape, attributes=attributes, opset=opset)


def conv() -> Iterator[Case]:
    for i, case in enumerate(windows("Conv")):
        group, kernel = 1 + i % 2, case.attributes["kernel_shape"]
        attributes = {**case.attributes, **({"group": group} if group > 1 else {})}
        if i % 3 == 0:
            attributes.pop("kernel_shape")
        tensors = {"w": f32(4, 2 // group, *kernel)}
        yield replace(case, inputs=("h", "w"), attributes=attributes, tensors=tensors)
        yield replace(case, inputs=("h", "w", "c"), attributes=attributes, tensors={**tensors, "c": f32(4)})
    # A bias that is computed, and one left out by an empty name.
    reduce = helper.make_node("Flatten", ["h"], ["flat"], axis=0)
    pick = helper.make_node("MatMul", ["flat", "m"], ["row"])
    shape = helper.make_node("Reshape", ["row", "three"], ["c"])
    tensors = {"w": f32(3, 2, 2, 2), "m": f32(24, 3), "three": np.array([3])}
    yield Case("Conv", (1, 2, 3, 4), ("h", "w", "c"), {}, tensors, before=(reduce, pick, shape))
    yield Case("Conv", (2, 2, 3, 4), ("h", "w", ""), {}, {"w": f32(3, 2, 2, 2)})


def max_pool() -> Iterator[Case]:
    for case in windows("MaxPool"):
        yield case
        yield replace(case, attributes={**case.attributes, "storage_order": 0}, shape=(2, *case.shape[1:]))


def arithmetic(op: str) -> Iterator[Case]:
    pairs = [((1, 3), (1, 3)), ((1, 3), (3,)), ((1, 3), ()), ((2, 1, 3), (4, 1)), ((3,), (2, 3)), ((1,), (3, 1, 2)),
             ((2, 3, 4), (3, 1)), ((1, 1, 5), (5,)),
             ((4,), (1, 1, 4)), ((), (3,)), ((1, 3), (1, 1)), ((3, 1), (1, 2))]  # fmt: skip
    for shape, other in pairs:
        constant = {"c": np.where(f32(*other) < 0, F32(-1.5), F32(0.75)) * (1 + np.abs(f32(*other)))}
        yield Case(op, shape, ("h", "c"), tensors=constant)
        yield Case(op, shape, ("h", "c"), tensors=constant, opset=7)
        doubles = {"c": constant["c"].astype(np.float64)}
        yield Case(op, shape, ("h", "c"), tensors=doubles, kind=TensorProto.DOUBLE, opset=14)
        if op == "Div":
            continue
        yield Case(op, shape, ("c", "h"), tensors=constant)
        # Two operands that both depend on the input: one expanded, one not.
        wide = helper.make_node("Mul", ["h", "c"], ["v"])
        yield Case(op, shape, ("h", "v"), tensors=constant, before=(wide,))
        yield Case(op, shape, ("v", "h"), tensors=constant, before=(wide,))


def matmul() -> Iterator[Case]:
    for shape, other in (((3,), (3, 4)), ((1, 3), (3, 4)), ((2, 3), (3, 1)), ((2, 5, 3), (3, 4)),
                         ((1, 2, 5, 3), (3, 2)),
                         ((3,), (3,)), ((2, 3), (3,)), ((2, 5, 3), (3,)), ((1, 1), (1, 4))):  # fmt: skip
        for opset in (7, 9, 13):
            yield Case("MatMul", shape, ("h", "w"), tensors={"w": f32(*other)}, opset=opset)
    for other, shape in (((4, 3), (3,)), ((4, 3), (3, 1)), ((4, 3), (3, 2)), ((4, 3), (2, 3, 5)),
                         ((1, 3), (1, 1, 3, 2)),
                         ((3,), (3,)), ((3,), (3, 2)), ((3,), (2, 3, 5)), ((3,), (3, 1))):  # fmt: skip
        for opset in (7, 9, 13):
            yield Case("MatMul", shape, ("w", "h"), tensors={"w": f32(*other)}, opset=opset)


def gemm() -> Iterator[Case]:
    m, k, n = 2, 3, 4
    for (left, alpha, beta), (ta, tb), c in itertools.product(
        ((True, None, None), (True, 0.7, 1.3), (False, 2.0, -0.5), (True, 0.0, 1.0), (False, None, 0.0)),
        itertools.product((0, 1), (0, 1)),
        (None, "", (n,), (m, 1), (1,), (), (m, n), (1, n), "computed"),
    ):
        attributes = {"transA": ta, "transB": tb, "alpha": alpha, "beta": beta}
        attributes = {key: v for key, v in attributes.items() if v is not None}
        a, b = ((k, m) if ta else (m, k)), ((n, k) if tb else (k, n))
        names, shape, other = (("h", "w"), a, b) if left else (("w", "h"), b, a)
        tensors, before = {"w": f32(*other)}, []
        if c == "computed":
            size = int(np.prod(shape))
            tensors |= {"u": f32(size, n)}
            before = [helper.make_node("Flatten", ["h"], ["flat"], axis=0),
                      helper.make_node("MatMul", ["flat", "u"], ["c"])]  # fmt: skip
        elif isinstance(c, tuple):
            tensors |= {"c": f32(*c)}
        third = () if c is None else ("",) if c == "" else ("c",)
        opset = 11 if c is None or c == "" else 9
        yield Case("Gemm", shape, (*names, *third), attributes, tensors, opset=opset, before=tuple(before))


def pad() -> Iterator[Case]:
    shape = (1, 2, 4, 5)
    choices = ((0, 0, 1, 2, 0, 0, 3, 0), (0, 0, -1, 0, 0, 0, 0, -2), (0, 1, -1, 2, 0, 0, 1, -1), (0,) * 8)
    for pads, value in itertools.product(choices, (None, 0.0, 1.5, -2.0)):
        for mode in ({}, {"mode": "constant"}):
            old: dict[str, Any] = {"pads": pads, **mode, **({} if value is None else {"value": value})}
            yield Case("Pad", shape, attributes=old, opset=10)
            tensors = {"p": np.array(pads), **({} if value is None else {"v": np.array(value, dtype=F32)})}
            names = ("h", "p") if value is None else ("h", "p", "v")
            yield Case("Pad", shape, names, mode, tensors, opset=13)
            axes = {"p": np.array([pads[2], pads[3], pads[6], pads[7]]), "a": np.array([2, -1])}
            filled = {**axes, **({} if value is None else {"v": np.array(value, dtype=F32)})}
            yield Case("Pad", shape, ("h", "p", "" if value is None else "v", "a"), mode, filled, opset=18)


def flatten() -> Iterator[Case]:
    for shape in ((1, 2, 3), (2, 3), (4,), (1, 2, 3, 4)):
        for axis in (None, *range(-len(shape), len(shape) + 1)):
            if axis is None and len(shape) < 1:
                continue
            yield Case("Flatten", shape, attributes={} if axis is None else {"axis": axis}, opset=13)
            if axis is None or axis >= 0:
                yield Case("Flatten", shape, attributes={} if axis is None else {"axis": axis}, opset=9)


def reshape() -> Iterator[Case]:
    for shape, targets in (
        ((1, 2, 6), ((1, 12), (-1,), (0, -1), (0, 0, 0), (2, 2, 3), (0, 3, -1), (1, -1, 2, 2), (-1, 0), (12, 1, 1))),
        ((4,), ((2, 2), (1, 4), (0,), (-1, 1))),
        ((1, 1), ((), (1,), (1, 1, 1))),
    ):
        for target in targets:
            yield Case("Reshape", shape, ("h", "s"), tensors={"s": np.array(target, dtype=np.int64)}, opset=7)
            for allow in (0, 1):
                if allow and 0 in target:
                    continue
                yield Case("Reshape", shape, ("h", "s"), {"allowzero": allow},
                           {"s": np.array(target, dtype=np.int64)}, opset=14)  # fmt: skip


def transpose() -> Iterator[Case]:
    for shape in ((2, 3), (1, 2, 3), (1, 2, 1, 3)):
        yield Case("Transpose", shape)
        for perm in itertools.permutations(range(len(shape))):
            yield Case("Transpose", shape, attributes={"perm": perm})
    yield Case("Transpose", (3,))


def plain(op: str) -> Iterator[Case]:
    for shape, opset in itertools.product(((1, 3), (4,), (1, 2, 3, 2), (2, 5)), (7, 9, 13, 14, 21)):
        yield Case(op, shape, opset=opset)


def dropout() -> Iterator[Case]:
    for shape, opset in itertools.product(((1, 3), (2, 4), (5,)), (7, 10)):
        yield Case("Dropout", shape, attributes={"ratio": 0.4}, opset=opset)
        yield Case("Dropout", shape, opset=opset, outputs=("y", "mask"))
    ratio, off = {"q": np.array(0.3, dtype=F32)}, {"t": np.array(False)}
    for opset, attributes in itertools.product((12, 13, 22), ({}, {"seed": 3})):
        yield Case("Dropout", (1, 3), attributes=attributes, opset=opset)
        yield Case("Dropout", (1, 3), ("h", "q"), attributes, ratio, opset=opset)
        yield Case("Dropout", (1, 3), ("h", "q", "t"), attributes, {**ratio, **off}, opset=opset)
        yield Case("Dropout", (1, 3), ("h", "", "t"), attributes, off, opset=opset, outputs=("y", "mask"))


def constants() -> Iterator[Case]:
    """The node under test adds a constant; what is tested is the `Constant` before it."""
    for shape in ((1, 3), (3,), (2, 3)):
        held: list[dict[str, Any]] = [{"value": numpy_helper.from_array(f32(3))}, {"value_float": 1.25},
                                      {"value_floats": [0.5, -1.0, 2.0]},
                                      {"value": numpy_helper.from_array(f32(1, 3))}]  # fmt: skip
        for attributes, opset in itertools.product(held, (12, 13, 19)):
            yield Case("Add", shape, ("h", "k"), before=(helper.make_node("Constant", [], ["k"], **attributes),),
                       opset=opset)  # fmt: skip
        for attributes in ({"value_ints": [-1]}, {"value_ints": [3, -1]}):
            yield Case("Reshape", shape, ("h", "k"), before=(helper.make_node("Constant", [], ["k"], **attributes),))
        one = (helper.make_node("Constant", [], ["i"], value_int=-1), helper.make_node("Unsqueeze", ["i", "z0"], ["k"]))
        yield Case("Reshape", shape, ("h", "k"), before=one, tensors={"z0": np.array([0])})


def shapes_computed() -> Iterator[Case]:
    """The exporters' chains Shape -> Gather -> Concat -> Reshape, and other arithmetic on constants."""
    for shape, opset in itertools.product(((1, 2, 3), (2, 2, 5), (1, 4, 3, 2)), (9, 11, 13, 15)):
        chain = (
            helper.make_node("Shape", ["h"], ["s"]), helper.make_node("Gather", ["s", "i"], ["b"], axis=0),
            helper.make_node("Concat", ["b", "m"], ["t"], axis=0),
        )  # fmt: skip
        yield Case("Reshape", shape, ("h", "t"), before=chain, opset=opset,
                   tensors={"i": np.array([0]), "m": np.array([-1])})  # fmt: skip
    for start, end in ((0, 1), (-2, None), (1, -1), (-9, 9), (None, 2), (-1, None)):
        attributes = {k: v for k, v in (("start", start), ("end", end)) if v is not None}
        chain = (helper.make_node("Shape", ["h"], ["s"], **attributes),
                 helper.make_node("Concat", ["s", "m"], ["t"], axis=0))  # fmt: skip
        yield Case("Reshape", (1, 2, 3), ("h", "t"), before=chain, opset=15, tensors={"m": np.array([-1])})
    size = (helper.make_node("Size", ["h"], ["s"]), helper.make_node("Unsqueeze", ["s", "zero"], ["t"]))
    yield Case("Reshape", (1, 2, 3), ("h", "t"), before=size, tensors={"zero": np.array([0])})
    for op in ("Add", "Sub", "Mul", "Div"):
        folded = (helper.make_node(op, ["p", "q"], ["c"]),)
        yield Case("Add", (1, 3), ("h", "c"), before=folded, tensors={"p": f32(3), "q": f32(3)})
    halves = (helper.make_node("Split", ["p"], ["c", "d"], axis=0), helper.make_node("MatMul", ["c", "d"], ["e"]))
    yield Case("Add", (1, 2), ("h", "e"), before=halves, tensors={"p": f32(4, 2)[:, :2]})


CASES = {
    "Add": arithmetic("Add"), "Sub": arithmetic("Sub"), "Mul": arithmetic("Mul"), "Div": arithmetic("Div"),
    "MatMul": matmul(), "Gemm": gemm(), "Conv": conv(), "AveragePool": windows("AveragePool"), "MaxPool": max_pool(),
    "Pad": pad(), "Flatten": flatten(), "Reshape": reshape(), "Transpose": transpose(), "Constant": constants(),
    "Identity": plain("Identity"), "Dropout": dropout(), "Relu": plain("Relu"), "Sigmoid": plain("Sigmoid"),
    "Tanh": plain("Tanh"), "Shape": shapes_computed(),
}  # fmt: skip
CASES = {op: list(cases) for op, cases in CASES.items()}


def test_every_rule_is_generated_at_least_twenty_times() -> None:
    assert set(CASES) == set(RULES) - {"Size"}  # Size is in the chains of Shape
    assert {op: len(cases) for op, cases in CASES.items() if len(cases) < 20} == {}


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("op", CASES)
def test_agrees_with_onnxruntime(op: str, residual: bool) -> None:
    # In the block every third case of the operators with hundreds of them, and at least twenty.
    step = 3 if residual and len(CASES[op]) > 100 else 1
    for number, case in enumerate(CASES[op][::step]):
        data = case.build(residual=residual)
        try:
            model = model_from_bytes(data, str(case))
        except Exception as error:
            raise AssertionError(f"case {number}: {case} {case.attributes}") from error
        x = np.random.default_rng(number).standard_normal((3, *case.shape)).astype(model.dtype)
        expected = model.call(x)
        assert model.network is not None
        assert model.network.output_shape == model.output_shape == expected.shape[1:], case
        tolerance = 1e-5 if model.dtype is np.float32 else 1e-13
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        np.testing.assert_allclose(
            model.network.evaluate(x), expected, rtol=0, atol=tolerance * scale, err_msg=str(case)
        )


def two_outputs(op: str) -> bytes:
    """A pool or dropout whose second output is used."""
    attributes = {"kernel_shape": [2]} if op == "MaxPool" else {}
    nodes = [helper.make_node(op, ["x"], ["h", "i"], name="tested", **attributes),
             helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Add", ["h", "f"], ["z"])]  # fmt: skip
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4])],
                              [helper.make_empty_tensor_value_info("z")])  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


def double(name: str = "h") -> tuple[onnx.NodeProto, ...]:
    return (helper.make_node("Add", [name, name], ["v"]),)


IMAGE = (1, 2, 5, 5)
W = {"w": f32(2, 2, 2, 2)}
REFUSED: list[tuple[Case, str]] = [
    (Case("Conv", IMAGE, ("h", "w"), {"auto_pad": "SAME_UPPER", "dilations": [2, 2]}, W), "dilations"),
    (Case("Conv", IMAGE, ("h", "w"), {"auto_pad": "SAME_LOWER", "dilations": [2, 1]}, W), "dilations"),
    (Case("Conv", IMAGE, ("h", "w"), {"pads": [-1, 0, 0, 0]}, W), "not negative"),
    (Case("Conv", IMAGE, ("h", "w"), {"kernel_shape": [3, 3]}, W), "do not fit"),
    (Case("Conv", IMAGE, ("h", "w"), {"group": 2}, W), "2 groups"),
    (Case("Conv", IMAGE, ("h", "w"), {"strides": [1]}, W), "do not fit"),
    (Case("Conv", IMAGE, ("h", "w"), {"dilations": [9, 9]}, W), "window covers"),
    (Case("Conv", (1, 1, 3, 3), ("c", "h"), {}, {"c": f32(1, 1, 5, 5)}), "first input is a constant"),
    (Case("Conv", (1, 1, 3, 3), ("h", "h")), "weights depend"),
    (Case("Conv", (1, 1, 2, 2, 2, 2), ("h", "w"), {}, {"w": f32(1, 1, 1, 1, 1, 1)}), "4 spatial axes"),
    (Case("MaxPool", IMAGE, ("h",), {"kernel_shape": [2, 2], "storage_order": 1}), "storage_order"),
    (Case("MaxPool", IMAGE, ("h",), {"kernel_shape": [2, 2], "auto_pad": "VALID", "ceil_mode": 1}), "ceil_mode"),
    (Case("MaxPool", IMAGE, ("h",), {"kernel_shape": [2, 2], "pads": [2, 0, 0, 0]}), "padded by 2"),
    (Case("MaxPool", IMAGE, ("h",), {"kernel_shape": [1, 1], "strides": [2, 3], "auto_pad": "SAME_UPPER"}), "crop"),
    (Case("MaxPool", IMAGE, ("h",), {"kernel_shape": [2, 2], "dilations": [2, 2], "auto_pad": "SAME_LOWER"}),
     "dilations"),
    (Case("MaxPool", (1, 1, 3), ("h",), {"kernel_shape": [2], "pads": [1, 1], "dilations": [4]}),
     "wholly in the padding"),
    (Case("AveragePool", IMAGE, ("h",), {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "ceil_mode": 1}),
     "ceil_mode"),
    (Case("AveragePool", IMAGE, ("h",), {"kernel_shape": [2, 2], "pads": [0, 0, 2, 2]}), "padded by 2"),
    (Case("AveragePool", IMAGE, ("h",), {"kernel_shape": [2, 2], "auto_pad": "odd"}), "auto_pad 'odd'"),
    (Case("AveragePool", (1, 1, 4), ("h",), {"kernel_shape": [2], "pads": [1, 1], "dilations": [5]}, opset=19),
     "wholly in the padding"),
    (Case("Pad", IMAGE, ("h",), {"pads": [0] * 8, "mode": "reflect"}, opset=10), "mode 'reflect'"),
    (Case("Pad", IMAGE, ("h", "p"), {"mode": "edge"}, {"p": np.array([0] * 8)}), "mode 'edge'"),
    (Case("Pad", IMAGE, ("h", "p"), {"mode": "wrap"}, {"p": np.array([0] * 8)}, opset=19), "mode 'wrap'"),
    (Case("Pad", (2,), ("h", "p", "v"), {}, {"p": np.array([0, 1])}, before=(
        helper.make_node("ReduceMax", ["h"], ["v"], keepdims=0),)), "no rule"),
    (Case("Pad", (2,), ("h", "p"), {}, {"p": np.array([-1, -1])}), "leave nothing"),
    (Case("Pad", (2,), ("h", "p"), {}, {"p": np.array([1])}), "do not fit"),
    (Case("MatMul", (2, 2), ("h", "h")), "both factors"),
    (Case("MatMul", (2, 2), ("h", "w"), {}, {"w": f32(3, 2, 2)}), "only vectors and matrices"),
    (Case("MatMul", (2, 2), ("h", "w"), {}, {"w": f32(3, 2)}), "does not fit"),
    (Case("Gemm", (2, 2), ("h", "h")), "both factors"),
    (Case("Gemm", (2, 2), ("h", "w"), {}, {"w": f32(3, 2)}), "do not fit"),
    (Case("Gemm", (2, 2, 2), ("h", "w"), {}, {"w": f32(2, 2)}), "must be matrices"),
    (Case("Gemm", (2, 2), ("h", "w", "c"), {}, {"w": f32(2, 2), "c": f32(3, 1, 2)}), "does not broadcast"),
    (Case("Gemm", (2, 2), ("h", "w", "c"), {"beta": 0.3}, {"w": np.eye(2), "c": np.ones(2)}, kind=TensorProto.DOUBLE),
     "exactly"),
    (Case("Gemm", (2, 2), ("h", "w"), {"broadcast": 1}, {"w": f32(2, 2)}), "'broadcast'"),
    (Case("Div", (2,), ("h", "h")), "divides by a value"),
    (Case("Div", (2,), ("c", "h"), {}, {"c": f32(2)}), "divides by a value"),
    (Case("Div", (2,), ("h", "c"), {}, {"c": np.array([1, 0], dtype=F32)}), "zero"),
    (Case("Add", (2,), ("h", "c"), {}, {"c": f32(3)}), "do not broadcast"),
    (Case("Reshape", (2, 3), ("h", "s"), {}, {"s": np.array([4, -1])}), "does not fit"),
    (Case("Reshape", (2, 3), ("h", "s"), {}, {"s": np.array([-1, -1])}), "makes no sense"),
    (Case("Reshape", (2, 3), ("h", "s"), {"allowzero": 1}, {"s": np.array([0, 3])}, opset=14), "makes no sense"),
    (Case("Reshape", (2,), ("h", "s"), {}, {"s": np.array([2, 0])}), "copies an axis"),
    (Case("Flatten", (2,), attributes={"axis": 3}), "axis 3"),
    (Case("Transpose", (2, 3), attributes={"perm": [0, 0]}), "no permutation"),
    (Case("Dropout", (2,), ("h", "", "t"), {}, {"t": np.array(True)}), "training"),
    (Case("Add", (2,), ("h", "k"), before=(helper.make_node("Constant", [], ["k"], name="tested", value_string="a"),)),
     "value_string"),
    (Case("Add", (1,), ("h", "k"), before=(helper.make_node("RandomNormal", [], ["k"], name="tested", shape=[1]),)),
     "no rule"),
    (Case("Add", (1,), ("h", "k"), tensors={"r": f32(1)}, before=(
        helper.make_node("RandomNormalLike", ["r"], ["k"], name="tested"),)), "no rule"),
    *((Case(op, (2,)), "no rule") for op in ("Softplus", "Selu", "Erf", "Softmax", "ReduceSum", "LeakyRelu", "Exp")),
]  # fmt: skip


@pytest.mark.parametrize(("case", "why"), REFUSED, ids=lambda v: str(v)[:60].replace("\n", " "))
def test_refused_by_name(case: Case, why: str) -> None:
    with pytest.raises(UnsupportedOperator) as caught:
        model_from_bytes(case.build(residual=False), "m")
    assert why in caught.value.why
    assert caught.value.opset == case.opset
    if why != "no rule":
        assert caught.value.node == "tested"
        assert f"node 'tested' ({caught.value.operator}, opset {case.opset})" in str(caught.value)


@pytest.mark.parametrize("op", ["MaxPool", "Dropout"])
def test_a_second_output_in_use_is_refused(op: str) -> None:
    with pytest.raises(UnsupportedOperator, match="'i' is used"):
        model_from_bytes(two_outputs(op), "m")


def network_of(case: Case) -> Sequence[Any]:
    network = model_from_bytes(case.build(residual=False), "m").network
    assert network is not None
    return network.nodes


def test_bias_is_fused_and_division_stays_exact() -> None:
    _, affine = network_of(Case("Add", (1, 2), ("v", "c"), tensors={"w": f32(2, 2), "c": f32(2)},
                                before=(helper.make_node("MatMul", ["h", "w"], ["v"], name="product"),)))  # fmt: skip
    assert isinstance(affine, Affine)
    assert affine.origin == ("product", "tested")
    assert affine.bias is not None
    _, first, second = network_of(Case("AveragePool", IMAGE, attributes={"kernel_shape": [3, 3]}))
    assert set(np.unique(first.maps[0].weight)) == {1.0}
    assert second.maps[0].divide
    assert set(np.unique(second.maps[0].factor)) == {9.0}


def test_a_product_that_others_read_keeps_its_own_node() -> None:
    nodes = (helper.make_node("MatMul", ["h", "w"], ["v"]), helper.make_node("Add", ["v", "c"], ["u"]))
    network = network_of(Case("Add", (1, 2), ("u", "v"), tensors={"w": f32(2, 2), "c": f32(2)}, before=nodes))
    assert [n.name for n in network] == ["x", "v", "u", "z"]
    assert network[3].parents == (2, 1)


def test_the_shared_bias_is_not_rounded_twice() -> None:
    tensors = {"c": np.array([1e-9], dtype=F32), "d": np.array([1.0], dtype=F32)}
    before = (helper.make_node("Add", ["h", "c"], ["v"]),)
    network = network_of(Case("Add", (1,), ("v", "d"), tensors=tensors, before=before))
    assert [float(n.bias[0]) for n in network[1:]] == [float(F32(1e-9)), 1.0]

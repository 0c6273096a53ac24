"""Operators that move numbers about: reshapes, permutations, joining, cutting, picking and padding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.unit.onnx_cases.case import F32, Case, f32, ints, node, opsets

SHAPES = ((1, 2, 3), (2, 3), (4,), (1, 2, 3, 4))


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
            for opset in (18, 19, 21, 28):
                yield Case("Pad", shape, ("h", "p", "" if value is None else "v", "a"), mode, filled, opset=opset)
    moving = ((0, 0, 1, 2, 0, 0, 3, 0), (0, 1, 0, 0, 0, 1, 0, 4), (0,) * 8, (0, 0, 3, 4, 0, 0, 3, 4))
    for pads, mode in itertools.product(moving, ("reflect", "edge", "wrap")):
        if mode != "wrap":
            yield Case("Pad", shape, attributes={"pads": pads, "mode": mode}, opset=10)
            yield Case("Pad", shape, ("h", "p"), {"mode": mode}, {"p": np.array(pads)}, opset=13)
        yield Case("Pad", shape, ("h", "p"), {"mode": mode}, {"p": np.array(pads)}, opset=19)
    yield Case("Pad", (4,), ("h", "p"), {"mode": "reflect"}, {"p": ints(3, 2)})


def flatten() -> Iterator[Case]:
    for shape in SHAPES:
        for axis in (None, *range(-len(shape), len(shape) + 1)):
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


def squeeze() -> Iterator[Case]:
    for shape, axes in (((1, 3), (0,)), ((1, 3, 1), (2,)), ((1, 3, 1), (0, 2)), ((1, 3, 1), (2, 0)), ((2, 1, 3), (1,)),
                        ((1, 1), (0, 1)), ((1, 3, 1), None), ((2, 3), None), ((1,), None)):  # fmt: skip
        negative = None if axes is None else tuple(a - len(shape) for a in axes)
        for chosen in (axes, negative):
            held = {} if chosen is None else {"axes": chosen}
            yield Case("Squeeze", shape, attributes=held, opset=11)
            if chosen is None or chosen is axes:
                yield Case("Squeeze", shape, attributes=held, opset=7)
            names = ("h",) if chosen is None else ("h", "a")
            tensors = {} if chosen is None else {"a": ints(*chosen)}
            for opset in (13, 21, 28):
                yield Case("Squeeze", shape, names, tensors=tensors, opset=opset)


def unsqueeze() -> Iterator[Case]:
    for shape, axes in (((3,), (0,)), ((3,), (1,)), ((2, 3), (0, 3)), ((2, 3), (1, 2)), ((2, 3), (3, 0)), ((), (0,))):
        rank = len(shape) + len(axes)
        for chosen in (axes, tuple(a - rank for a in axes)):
            if chosen is axes:
                yield Case("Unsqueeze", shape, attributes={"axes": chosen}, opset=7)
            yield Case("Unsqueeze", shape, attributes={"axes": chosen}, opset=11)
            for opset in (13, 21, 28):
                yield Case("Unsqueeze", shape, ("h", "a"), tensors={"a": ints(*chosen)}, opset=opset)


def concat() -> Iterator[Case]:
    for shape in SHAPES:
        for axis in range(-len(shape), len(shape)):
            other = list(shape)
            other[axis] = 2
            tensors = {"c": f32(*other)}
            double = node("Add", ["h", "h"], ["v"])
            for names in (("h", "v"), ("h", "c"), ("c", "h"), ("h", "c", "v", "h"), ("h",)):
                for opset in (11, 13) if axis < 0 else (7, 13):
                    yield Case("Concat", shape, names, {"axis": axis}, tensors, before=(double,), opset=opset)


def split() -> Iterator[Case]:
    """The parts are joined again, in another order and one of them scaled."""
    for shape, axis in (((6,), 0), ((1, 6), 1), ((1, 6), -1), ((6, 2), None), ((2, 6, 3), 1)):
        held: dict[str, Any] = {} if axis is None else {"axis": axis}
        join = node("Concat", ["q", "p", "q"], ["y"], axis=axis or 0)
        for sizes in ((3, 3), (2, 4), (5, 1)):
            if axis is None or axis >= 0:
                yield Case("Split", shape, attributes={**held, "split": sizes}, opset=7, outputs=("p", "q"),
                           after=(join,))  # fmt: skip
            yield Case("Split", shape, attributes={**held, "split": sizes}, opset=11, outputs=("p", "q"), after=(join,))
            for opset in (13, 18):
                yield Case("Split", shape, ("h", "s"), held, {"s": ints(*sizes)}, opset, outputs=("p", "q"),
                           after=(join,))  # fmt: skip
        for opset in (7, 11, 13):
            if opset > 7 or axis is None or axis >= 0:
                yield Case("Split", shape, attributes=held, opset=opset, outputs=("p", "q"), after=(join,))
        yield Case("Split", shape, attributes={**held, "num_outputs": 2}, opset=18, outputs=("p", "q"), after=(join,))
        yield Case("Split", shape, attributes=held, opset=13, outputs=("y", "unused", "unused too"))
    join = node("Concat", ["q", "p"], ["y"], axis=0)
    yield Case("Split", (5,), attributes={"num_outputs": 3}, opset=18, outputs=("p", "r", "q"), after=(join,))
    yield Case("Split", (7,), attributes={"num_outputs": 2}, opset=28, outputs=("p", "q"), after=(join,))


def slice_() -> Iterator[Case]:
    least, most = -(2**63), 2**63 - 1
    cuts: tuple[tuple[tuple[int, ...], ...], ...] = (  # starts, ends, axes
        ((1,), (3,), (0,)), ((0, 1), (2, 3), (0, 1)), ((1,), (most,), (1,)), ((-2,), (-1,), (1,)), ((0,), (-1,), (0,)),
        ((-100,), (100,), (1,)), ((1, 0), (4, 2), (1, 0)), ((2,), (4,), (-1,)),
    )  # fmt: skip
    for starts, ends, axes in cuts:
        tensors = {"s": ints(*starts), "e": ints(*ends), "a": ints(*axes), "t": ints(*[1] * len(axes))}
        for shape in ((4, 5), (3, 4, 2)):
            if shape == (3, 4, 2) and axes == (-1,):
                continue
            if axes != (-1,):
                yield Case("Slice", shape, attributes={"starts": starts, "ends": ends, "axes": axes}, opset=7)
            for opset, names in itertools.product((10, 11, 13), (("h", "s", "e", "a"), ("h", "s", "e", "a", "t"))):
                yield Case("Slice", shape, names, tensors=tensors, opset=opset)
        if axes == tuple(range(len(axes))):
            yield Case("Slice", (4, 5), attributes={"starts": starts, "ends": ends}, opset=7)
            yield Case("Slice", (4, 5), ("h", "s", "e"), tensors=tensors)
            yield Case("Slice", (4, 5), ("h", "s", "e", "", "t"), tensors=tensors)
    for start, end, step in ((0, 5, 2), (1, most, 3), (-1, least, -1), (-1, 0, -1), (3, 0, -2), (100, -100, -3),
                             (-100, least, -1), (2, -100, -1), (4, 1, -1), (0, 1, 7)):  # fmt: skip
        tensors = {"s": ints(start), "e": ints(end), "a": ints(1), "t": ints(step)}
        for opset in (10, 13):
            yield Case("Slice", (2, 5), ("h", "s", "e", "a", "t"), tensors=tensors, opset=opset)
    both = {"s": ints(-1, 0), "e": ints(least, most), "a": ints(0, 1), "t": ints(-1, 2)}
    yield Case("Slice", (3, 4), ("h", "s", "e", "a", "t"), tensors={k: v.astype(np.int64) for k, v in both.items()})


def gather() -> Iterator[Case]:
    for shape in SHAPES:
        for axis in (None, *range(-len(shape), len(shape))):
            n = shape[axis or 0]
            for index in (np.array(0), ints(n - 1, 0), ints(0, 0, n - 1, 0), ints(-1, 0), ints(0, -n).reshape(2, 1),
                          np.array([0], dtype=np.int32)):  # fmt: skip
                if index.size and index.min() < 0 and (axis is None or axis < 0):
                    opset = 11
                else:
                    opset = 13 if index.ndim % 2 else 11
                held = {} if axis is None else {"axis": axis}
                yield Case("Gather", shape, ("h", "i"), held, {"i": index}, opset)


def gather_elements() -> Iterator[Case]:
    for shape, index in (((3,), ints(2, 0, -1, 0)), ((2, 3), ints(0, 1, 1, 0, -1, 1).reshape(2, 3)),
                         ((2, 3), ints(1, 0).reshape(1, 2)), ((2, 3), np.array([[2, 0, 1, -3], [0, 0, 0, 1]])),
                         ((2, 2, 2), ints(1, 0, 0, 1).reshape(2, 1, 2))):  # fmt: skip
        for axis, opset in itertools.product((None, *range(-len(shape), len(shape))), (11, 13)):
            chosen = (axis or 0) % len(shape)
            n = shape[chosen]
            fits = all(i <= m for a, (i, m) in enumerate(zip(index.shape, shape, strict=True)) if a != chosen)
            if not fits or index.max() >= n or index.min() < -n:
                continue
            held = {} if axis is None else {"axis": axis}
            yield Case("GatherElements", shape, ("h", "i"), held, {"i": index}, opset)


def gather_nd() -> Iterator[Case]:
    for shape, index, batch in (
        ((2, 3), ints(0, 1, 1, 2).reshape(2, 2), 0), ((2, 3), ints(1, 0).reshape(2, 1), 0), ((2, 3), ints(-1, -2), 0),
        ((2, 2, 2), ints(0, 1, 1, 0).reshape(2, 1, 2), 0), ((2, 3), ints(0, -1).reshape(2, 1), 1),
        ((2, 2, 3), ints(1, 0).reshape(2, 1), 1), ((2, 2, 3), ints(1, 2, 0, 1).reshape(2, 1, 2), 1),
        ((2, 2, 3), ints(1, 2, 0, 1).reshape(2, 2, 1), 2), ((4,), ints(3).reshape(1, 1), 0),
    ):  # fmt: skip
        for opset in (12, 13, 28):
            yield Case("GatherND", shape, ("h", "i"), {"batch_dims": batch}, {"i": index}, opset)
            if batch == 0:
                yield Case("GatherND", shape, ("h", "i"), {}, {"i": index}, 11 if opset == 12 else opset)


def expand() -> Iterator[Case]:
    for shape, target in (
        ((1, 3), (2, 3)),
        ((3,), (2, 3)),
        ((3, 1), (2, 1, 4)),
        ((3,), (1,)),
        ((2, 3), (1, 1)),
        ((1,), (3, 2)),
        ((), (2,)),
        ((2, 1, 3), (4, 1)),
        ((2, 3), (2, 3)),
        ((1, 1), (1, 5)),
    ):
        for opset in (8, 13):
            yield Case("Expand", shape, ("h", "s"), tensors={"s": ints(*target)}, opset=opset)


def tile() -> Iterator[Case]:
    for shape, repeats in (((3,), (2,)), ((1, 3), (2, 1)), ((2, 3), (1, 1)), ((2, 3), (2, 3)), ((1, 1), (1, 4)),
                           ((2, 1, 3), (1, 2, 2)), ((1, 2, 2), (3, 1, 1)), ((5,), (1,)), ((2, 2), (3, 1)),
                           ((1, 2, 1, 2), (1, 1, 3, 2))):  # fmt: skip
        for opset in (7, 13):
            yield Case("Tile", shape, ("h", "r"), tensors={"r": ints(*repeats)}, opset=opset)


def where() -> Iterator[Case]:
    double = node("Add", ["h", "h"], ["v"])
    for shape, mask in (((1, 3), (3,)), ((2, 3), (2, 3)), ((3,), (2, 1)), ((2, 1), (1, 3)), ((4,), ())):
        tensors = {"m": np.resize([True, False, True, True], mask).astype(bool), "c": f32(*shape),
                   "i": np.full(shape, np.inf, dtype=F32)}  # fmt: skip
        tensors["n"] = np.ones(mask, dtype=bool)
        for names, opset in itertools.product((("m", "h", "v"), ("m", "h", "c"), ("m", "c", "h"), ("n", "h", "i"),
                                               ("n", "v", "h")), (9, 16)):  # fmt: skip
            if names == ("m", "c", "h") and not mask:
                continue  # the mask leaves nothing of h
            yield Case("Where", shape, names, tensors=tensors, before=(double,), opset=opset)


def blocks(op: str) -> Iterator[Case]:
    deep = ((1, 4, 2, 3), (2, 8, 1, 2), (1, 9, 2, 1))
    wide = ((1, 2, 4, 6), (2, 1, 2, 2), (1, 1, 3, 6), (1, 3, 6, 6), (2, 2, 2, 4))
    for shape, size in itertools.product(deep if op == "DepthToSpace" else wide, (1, 2, 3)):
        if (shape[1] % size**2) if op == "DepthToSpace" else (shape[2] % size or shape[3] % size):
            continue
        for opset in opsets(op):
            yield Case(op, shape, attributes={"blocksize": size}, opset=opset)
            for mode in ("DCR", "CRD") if opset >= (11 if op == "DepthToSpace" else 28) else ():
                yield Case(op, shape, attributes={"blocksize": size, "mode": mode}, opset=opset)


def trilu() -> Iterator[Case]:
    for shape, k, upper in itertools.product(((3, 3), (2, 4), (2, 3, 2)), (None, -1, 0, 1, 5), (None, 0, 1)):
        held = {} if upper is None else {"upper": upper}
        names = ("h",) if k is None else ("h", "k")
        yield Case("Trilu", shape, names, held, {} if k is None else {"k": np.array(k)}, opset=14)


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


CASES = {
    "Pad": pad(), "Flatten": flatten(), "Reshape": reshape(), "Transpose": transpose(), "Squeeze": squeeze(),
    "Unsqueeze": unsqueeze(), "Concat": concat(), "Split": split(), "Slice": slice_(), "Gather": gather(),
    "GatherElements": gather_elements(), "GatherND": gather_nd(), "Expand": expand(), "Tile": tile(),
    "Where": where(), "DepthToSpace": blocks("DepthToSpace"), "SpaceToDepth": blocks("SpaceToDepth"),
    "Trilu": trilu(), "Identity": plain("Identity"), "Dropout": dropout(),
}  # fmt: skip

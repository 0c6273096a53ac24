"""Reductions over axes, and softmax."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.unit.onnx_cases.case import F32, Case, ints, node, opsets

AXES: tuple[tuple[tuple[int, ...], tuple[int, ...] | None], ...] = (
    ((3,), None), ((3,), (0,)), ((2, 3), None), ((2, 3), (0,)), ((2, 3), (1,)), ((2, 3), (-1,)), ((2, 3), (0, 1)),
    ((2, 3, 2), (0, 2)), ((2, 3, 2), (2, 0)), ((2, 3, 2), (-2,)), ((1, 3, 2, 2), (2, 3)), ((1, 3, 2, 2), (1, -1)),
    ((1, 4), (1,)), ((1, 1), (1,)), ((), None),
)  # fmt: skip
"""Shapes with the axes to reduce; None for all of them."""

SINCE_INPUT = {"ReduceSum": 13}
"""From which opset on the axes are an input; 18 for the others."""

BEFORE = {"ReduceLogSum": (node("Abs", ["h"], ["a"]), node("Add", ["a", "half"], ["v"])),
          "ReduceLogSumExp": (node("Mul", ["h", "half"], ["v"]),)}  # fmt: skip


def reduction(op: str) -> Iterator[Case]:
    """Axes as an attribute and as an input, the opsets of each form in turn."""
    since = SINCE_INPUT.get(op, 18)
    before = BEFORE.get(op, (node("Add", ["h", "half"], ["v"]),))
    half = {"half": np.array(0.5, dtype=F32)}
    versions = opsets(op, 20)
    older, newer = [v for v in versions if v < since], [v for v in versions if v >= since]
    for i, ((shape, axes), keepdims) in enumerate(itertools.product(AXES, (None, 0, 1))):
        held: dict[str, Any] = {} if keepdims is None else {"keepdims": keepdims}
        opset = 11 if axes is not None and min(axes, default=0) < 0 else older[i % len(older)]
        yield Case(op, shape, ("v",), held if axes is None else {**held, "axes": axes}, half, opset, before)
        opset = newer[i % len(newer)]
        names = ("v",) if axes is None else ("v", "axes")
        tensors = {**half, **({} if axes is None else {"axes": ints(*axes)})}
        yield Case(op, shape, names, held, tensors, opset, before)
        yield Case(op, shape, names, {**held, "noop_with_empty_axes": 0}, tensors, opset, before)
        if axes is not None:
            yield Case(op, shape, names, {**held, "noop_with_empty_axes": 1}, tensors, opset, before)
            continue
        yield Case(op, shape, ("v", "none"), held, {**half, "none": ints()}, opset, before)
        if op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"):
            yield Case(op, shape, ("v",), {**held, "noop_with_empty_axes": 1}, half, opset, before)


def softmax(op: str) -> Iterator[Case]:
    for shape in ((1, 3), (3,), (2, 4), (2, 3, 2), (1, 2, 2, 2)):
        for axis in (None, *range(-len(shape), len(shape))):
            held = {} if axis is None else {"axis": axis}
            for opset in (7, 11, 13, 28):
                if opset == 7 and axis is not None and axis < 0:
                    continue
                if opset < 13 and axis is None and len(shape) == 1:
                    continue  # axis 1 is cut behind the last one: nothing is left in a row
                last = shape[-1 if axis is None else axis]
                flat = np.prod(shape[(1 if axis is None else axis % len(shape)) :])
                if (last if opset >= 13 else flat) == 1:
                    continue  # a constant
                yield Case(op, shape, attributes=held, opset=opset)


_OPS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum",
        "ReduceLogSumExp")  # fmt: skip
CASES = {**{op: reduction(op) for op in _OPS}, "Softmax": softmax("Softmax"), "LogSoftmax": softmax("LogSoftmax")}

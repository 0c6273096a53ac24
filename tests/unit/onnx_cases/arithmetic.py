"""Arithmetic on several inputs, and matrix products."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.unit.onnx_cases.case import F32, Case, f32, ints, node, opsets

WIDE = node("Mul", ["h", "c"], ["v"])


def elementwise(op: str) -> Iterator[Case]:
    pairs = [((1, 3), (1, 3)), ((1, 3), (3,)), ((1, 3), ()), ((2, 1, 3), (4, 1)), ((3,), (2, 3)), ((1,), (3, 1, 2)),
             ((2, 3, 4), (3, 1)), ((1, 1, 5), (5,)),
             ((4,), (1, 1, 4)), ((), (3,)), ((1, 3), (1, 1)), ((3, 1), (1, 2))]  # fmt: skip
    for shape, other in pairs:
        constant = {"c": np.where(f32(*other) < 0, F32(-1.5), F32(0.75)) * (1 + np.abs(f32(*other)))}
        for opset in opsets(op):
            yield Case(op, shape, ("h", "c"), tensors=constant, opset=opset)
        doubles = {"c": constant["c"].astype(np.float64)}
        yield Case(op, shape, ("h", "c"), tensors=doubles, kind=TensorProto.DOUBLE, opset=14)
        if op == "Div":
            yield from _quotients(shape, constant)
            continue
        yield Case(op, shape, ("c", "h"), tensors=constant)
        # Two operands that both depend on the input: one expanded, one not.
        yield Case(op, shape, ("h", "v"), tensors=constant, before=(WIDE,))
        yield Case(op, shape, ("v", "h"), tensors=constant, before=(WIDE,))


def _quotients(shape: tuple[int, ...], constant: dict[str, np.ndarray]) -> Iterator[Case]:
    """Divisors that depend on the input: |h c| + 1/2."""
    tensors = {**constant, "half": np.array(0.5, dtype=F32)}
    positive = (WIDE, node("Abs", ["v"], ["a"]), node("Add", ["a", "half"], ["d"]))
    for numerator in ("h", "c"):
        yield Case("Div", shape, (numerator, "d"), tensors=tensors, before=positive)


def several(op: str) -> Iterator[Case]:
    """Any number of inputs, each a value or a constant."""
    shapes = (((1, 3), (3,)), ((2, 3), (2, 1)), ((3,), (2, 3)), ((2, 1, 2), ()), ((2, 3), (2, 3)))
    names = (("h",), ("h", "c"), ("c", "h"), ("h", "v"), ("h", "c", "d"), ("v", "d", "h", "c"), ("h", "h", "v"))
    for (shape, other), inputs in itertools.product(shapes, names):
        if op in ("Max", "Min") and inputs == ("h", "h", "v"):
            inputs = ("h", "v", "v")
        tensors = {"c": f32(*other), "d": f32(*other)}
        for opset in opsets(op):
            if opset < 8 and shape != other:
                continue  # no broadcasting yet
            yield Case(op, shape, inputs, tensors=tensors, before=(WIDE,), opset=opset)
    if op in ("Max", "Min"):
        yield Case(op, (1, 4), ("h", "c"), tensors={"c": np.zeros(4, dtype=F32)})
        yield Case(op, (1, 4), ("c", "h"), tensors={"c": np.zeros((), dtype=F32)})


def clip() -> Iterator[Case]:
    low, high = np.array(-0.5, dtype=F32), np.array(0.75, dtype=F32)
    least = (node("ReduceMin", ["h"], ["m"], keepdims=0), node("ReduceMax", ["h"], ["M"], keepdims=0),
             node("Mul", ["m", "q"], ["lo"]), node("Mul", ["M", "q"], ["hi"]))  # fmt: skip
    for shape in ((1, 4), (5,), (1, 2, 3, 2)):
        attributes: tuple[dict[str, float], ...] = (
            {}, {"min": -0.5}, {"max": 0.75}, {"min": -0.5, "max": 0.75}, {"min": 0.0}, {"min": 0.0, "max": 6.0},
            {"min": -3.4028234663852886e38, "max": 0.75}, {"min": -0.5, "max": 3.4028234663852886e38},
        )  # fmt: skip
        for held in attributes:
            yield Case("Clip", shape, attributes=held, opset=7)
        for opset, names in itertools.product(
            (11, 12, 13, 28), (("h",), ("h", "l"), ("h", "", "u"), ("h", "l", "u"), ("h", "o"), ("h", "o", "u"))
        ):
            tensors = {"l": low, "u": high, "o": np.zeros((), dtype=F32)}
            yield Case("Clip", shape, names, tensors=tensors, opset=opset)
        for names in (("h", "lo"), ("h", "", "hi"), ("h", "lo", "hi"), ("h", "l", "hi"), ("h", "lo", "u")):
            tensors = {"l": low, "u": high, "q": np.array(0.5, dtype=F32)}
            yield Case("Clip", shape, names, tensors=tensors, before=least)


def matmul() -> Iterator[Case]:
    for shape, other in (((3,), (3, 4)), ((1, 3), (3, 4)), ((2, 3), (3, 1)), ((2, 5, 3), (3, 4)),
                         ((1, 2, 5, 3), (3, 2)), ((3,), (3,)), ((2, 3), (3,)), ((2, 5, 3), (3,)), ((1, 1), (1, 4)),
                         ((5, 3), (2, 3, 4)), ((2, 5, 3), (2, 3, 4)), ((1, 5, 3), (2, 3, 4)), ((3,), (2, 3, 4)),
                         ((2, 1, 5, 3), (4, 3, 2))):  # fmt: skip
        for opset in (7, 9, 13):
            yield Case("MatMul", shape, ("h", "w"), tensors={"w": f32(*other)}, opset=opset)
    for other, shape in (((4, 3), (3,)), ((4, 3), (3, 1)), ((4, 3), (3, 2)), ((4, 3), (2, 3, 5)),
                         ((1, 3), (1, 1, 3, 2)), ((3,), (3,)), ((3,), (3, 2)), ((3,), (2, 3, 5)), ((3,), (3, 1)),
                         ((2, 4, 3), (3,)), ((2, 4, 3), (3, 5)), ((2, 4, 3), (2, 3, 5)), ((2, 4, 3), (1, 3, 5)),
                         ((4, 5, 3), (2, 1, 3, 2))):  # fmt: skip
        for opset in (7, 9, 13):
            yield Case("MatMul", shape, ("w", "h"), tensors={"w": f32(*other)}, opset=opset)
    yield from _two_values()


def _two_values() -> Iterator[Case]:
    """Products of h and a value of another shape that is computed from it."""
    for shape, other in (((2, 3), (3, 4)), ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 2, 3), (3, 2)),
                         ((2, 2, 3), (2, 3, 1)), ((1, 2, 3), (2, 3, 2)), ((2, 1, 2, 3), (3, 3, 2))):  # fmt: skip
        size = int(np.prod(other))
        tensors = {"w": f32(int(np.prod(shape)), size), "s": ints(*other)}
        before = (node("Flatten", ["h"], ["flat"], axis=0), node("MatMul", ["flat", "w"], ["row"]),
                  node("Reshape", ["row", "s"], ["v"]))  # fmt: skip
        yield Case("MatMul", shape, ("h", "v"), tensors=tensors, before=before)
    for shape in ((3, 3), (2, 3, 3), (1, 2, 2, 2)):
        yield Case("MatMul", shape, ("h", "h"))


def gemm() -> Iterator[Case]:
    m, k, n = 2, 3, 4
    for (left, alpha, beta), (ta, tb), c in itertools.product(
        ((True, None, None), (True, 0.7, 1.3), (False, 2.0, -0.5), (True, 0.0, 1.0), (False, None, 0.0)),
        itertools.product((0, 1), (0, 1)),
        (None, "", (n,), (m, 1), (1,), (), (m, n), (1, n), "computed"),
    ):
        attributes: dict[str, Any] = {"transA": ta, "transB": tb, "alpha": alpha, "beta": beta}
        attributes = {key: v for key, v in attributes.items() if v is not None}
        a, b = ((k, m) if ta else (m, k)), ((n, k) if tb else (k, n))
        names, shape, other = (("h", "w"), a, b) if left else (("w", "h"), b, a)
        tensors, before = {"w": f32(*other)}, []
        if c == "computed":
            size = int(np.prod(shape))
            tensors |= {"u": f32(size, n)}
            before = [node("Flatten", ["h"], ["flat"], axis=0), node("MatMul", ["flat", "u"], ["c"])]
        elif isinstance(c, tuple):
            tensors |= {"c": f32(*c)}
        third = () if c is None else ("",) if c == "" else ("c",)
        opset = 11 if c is None or c == "" else 9
        yield Case("Gemm", shape, (*names, *third), attributes, tensors, opset=opset, before=tuple(before))
    for ta, tb, alpha in itertools.product((0, 1), (0, 1), (1.0, 0.7)):
        attributes = {"transA": ta, "transB": tb, "alpha": alpha}
        yield Case("Gemm", (3, 3), ("h", "v", "c"), attributes, {"c": f32(3)}, before=(WIDE,))


def cum_sum() -> Iterator[Case]:
    for shape, exclusive, reverse, opset in itertools.product(((4,), (2, 3), (1, 3, 2)), (0, 1), (0, 1), (11, 14)):
        for axis in (0, -1, len(shape) - 1):
            attributes = {"exclusive": exclusive, "reverse": reverse}
            yield Case("CumSum", shape, ("h", "a"), attributes, {"a": np.array(axis)}, opset=opset)


CASES = {
    "Add": elementwise("Add"), "Sub": elementwise("Sub"), "Mul": elementwise("Mul"), "Div": elementwise("Div"),
    "Sum": several("Sum"), "Mean": several("Mean"), "Max": several("Max"), "Min": several("Min"), "Clip": clip(),
    "MatMul": matmul(), "Gemm": gemm(), "CumSum": cum_sum(),
}  # fmt: skip

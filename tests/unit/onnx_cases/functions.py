"""Functions of one input. Those with a domain get inputs that lie in it by construction: |h| + 1/2."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.unit.onnx_cases.case import F32, Case, above, f32, node, opsets

SHAPES = ((1, 3), (4,), (1, 2, 3, 2), (2, 5), ())
HALF = {"half": np.array(0.5, dtype=F32)}
POSITIVE = (node("Abs", ["h"], ["a"]), node("Add", ["a", "half"], ["v"]))
Attributes = dict[str, Any]


def function(
    op: str,
    attributes: Sequence[Attributes] = ({},), *, double: bool = False, more: Sequence[int] = (13, 21),
    newest: int = 28,
) -> Iterator[Case]:  # fmt: skip
    """The operator on every shape, in every opset that changed it and in `more`, with each of `attributes`."""
    versions = opsets(op, newest)
    for held, shape in itertools.product(attributes, SHAPES):
        for opset in sorted({*versions, *(v for v in more if v > versions[0])}):
            yield Case(op, shape, attributes=held, opset=opset)
        if double:
            yield Case(op, shape, attributes=held, opset=versions[-1], kind=TensorProto.DOUBLE)


def positive(op: str) -> Iterator[Case]:
    for shape, opset in itertools.product(SHAPES, {*opsets(op), 13, 21}):
        yield Case(op, shape, ("v",), tensors=HALF, before=POSITIVE, opset=opset)
        doubles = {"half": np.array(0.5)}
        yield Case(op, shape, ("v",), tensors=doubles, before=POSITIVE, opset=opset, kind=TensorProto.DOUBLE)


def small(op: str) -> Iterator[Case]:
    """Exponentials of a tenth of the input, so that their size stays in reach."""
    before = (node("Mul", ["h", "tenth"], ["v"]),)
    for shape, opset in itertools.product(SHAPES, {*opsets(op), 13, 21}):
        yield Case(op, shape, ("v",), tensors={"tenth": np.array(0.1, dtype=F32)}, before=before, opset=opset)


def power() -> Iterator[Case]:
    for shape, exponent in itertools.product(((1, 3), (2, 2), (4,)), (1.0, 2.0, 3.0, 4.0, 7.0)):
        for opset in opsets("Pow"):
            yield Case("Pow", shape, ("h", "e"), tensors={"e": np.array(exponent, dtype=F32)}, opset=opset)
        for kind in (np.int64, np.int32):
            yield Case("Pow", shape, ("h", "e"), tensors={"e": np.array(exponent, dtype=kind)}, opset=13)
        uniform = np.full(shape, exponent, dtype=F32)
        yield Case("Pow", shape, ("h", "e"), tensors={"e": uniform}, opset=15)
    yield Case("Pow", (1, 3), ("h", "e"), tensors={"e": np.full((2, 3), 2, dtype=F32)}, opset=15)
    for shape, exponent in itertools.product(((1, 3), (4,)), (0.5, -0.5, -1.0, -2.0, -3.0)):
        tensors = {**HALF, "e": np.array(exponent, dtype=F32)}
        yield Case("Pow", shape, ("v", "e"), tensors=tensors, before=POSITIVE)
    yield Case("Pow", (1, 3), ("h", "e"), tensors={"e": np.array(2.0)}, kind=TensorProto.DOUBLE)


def prelu() -> Iterator[Case]:
    for shape, slope in (((1, 3), (3,)), ((1, 3), (1,)), ((2, 3), (2, 3)), ((2, 3), (2, 1)), ((1, 2, 3, 2), (2, 1, 1)),
                         ((1, 2, 3, 2), ()), ((4,), (4,)), ((4,), (1,))):  # fmt: skip
        for opset in opsets("PRelu"):
            yield Case("PRelu", shape, ("h", "s"), tensors={"s": f32(*slope)}, opset=opset)
        yield Case("PRelu", shape, ("h", "s"), tensors={"s": above(*slope)}, opset=16)
        yield Case("PRelu", shape, ("h", "s"), tensors={"s": np.zeros(slope, dtype=F32)}, opset=16)


ALPHAS: tuple[Attributes, ...] = ({}, {"alpha": 0.3}, {"alpha": 1.5})

CASES = {
    "Relu": function("Relu", double=True), "Sigmoid": function("Sigmoid", double=True),
    "Tanh": function("Tanh", double=True), "Abs": function("Abs", double=True), "Neg": function("Neg", double=True),
    "Sign": function("Sign", double=True), "Sin": function("Sin", double=True), "Cos": function("Cos", double=True),
    "Erf": function("Erf"), "Softplus": function("Softplus"), "Softsign": function("Softsign"),
    "Exp": small("Exp"), "Sqrt": positive("Sqrt"), "Log": positive("Log"), "Reciprocal": positive("Reciprocal"),
    "Pow": power(), "PRelu": prelu(),
    "LeakyRelu": function("LeakyRelu", (*ALPHAS, {"alpha": -0.5}, {"alpha": 0.0})),
    "Elu": function("Elu", ALPHAS), "Selu": function("Selu", (*ALPHAS, {"gamma": 2.0}, {"alpha": 0.5, "gamma": 0.7})),
    "Celu": function("Celu", ALPHAS), "ThresholdedRelu": function("ThresholdedRelu", ({"alpha": 0.0},)),
    "HardSigmoid": function("HardSigmoid", (*ALPHAS, {"beta": 0.1}, {"alpha": 0.5, "beta": 0.0}, {"alpha": -0.5})),
    "HardSwish": function("HardSwish"), "Mish": function("Mish"),
    "Gelu": function("Gelu", ({}, {"approximate": "none"}, {"approximate": "tanh"})),
    "Swish": function("Swish", (*ALPHAS, {"alpha": -0.5}), newest=24),
}  # fmt: skip

"""How each scalar function is written as ONNX; one that onnxruntime lacks in double is composed of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from verifkit.errors import ModelError
from verifkit.functions import (
    Abs,
    Clip,
    Cos,
    Elu,
    Erf,
    Exp,
    LeakyRelu,
    Log,
    Power,
    Reciprocal,
    Relu,
    ScalarFunction,
    Sigmoid,
    Sign,
    Sin,
    Softplus,
    Sqrt,
    Tanh,
)
from verifkit.io.writing.steps import Steps

_OPERATORS: dict[type[ScalarFunction], str] = {
    Relu: "Relu", Sigmoid: "Sigmoid", Tanh: "Tanh", Abs: "Abs", Sign: "Sign", Sqrt: "Sqrt",
    Reciprocal: "Reciprocal", Exp: "Exp", Log: "Log", Sin: "Sin", Cos: "Cos",
}  # fmt: skip


def parameters(function: ScalarFunction) -> list[np.ndarray]:
    """The numbers that the function holds and that must be written as they are; an infinite bound is none."""
    if isinstance(function, Clip):
        ends = np.concatenate([np.asarray(end, dtype=np.float64).reshape(-1) for end in (function.low, function.high)])
        return [ends[~np.isinf(ends)]]
    if isinstance(function, Elu):
        return [np.asarray(function.alpha, dtype=np.float64)]
    return [np.asarray(function.slope)] if isinstance(function, LeakyRelu) else []


def write_function(steps: Steps, function: ScalarFunction, x: str, name: str, node: str) -> None:
    """Tensor `name` as function(x). Raises `ModelError`, which names `node`, where ONNX has no such function."""
    operator = _OPERATORS.get(type(function))
    if operator is not None:
        steps.step(operator, [x], name)
        return
    rule = _RULES.get(type(function))
    if rule is None:
        raise ModelError(f"activation '{function.name}' of node '{node}' cannot be written as ONNX")
    rule(steps, function, x, name, node)


def _erf(steps: Steps, function: Erf, x: str, name: str, node: str) -> None:
    if steps.double:
        raise ModelError(
            f"activation 'erf' of node '{node}' cannot be written as ONNX: the network has weights that are no "
            f"float32, and onnxruntime has no Erf for doubles"
        )
    steps.step("Erf", [x], name)


def _softplus(steps: Steps, function: Softplus, x: str, name: str, node: str) -> None:
    if not steps.double:
        steps.step("Softplus", [x], name)
        return
    # max(x, 0) + log(1 + exp(-|x|))
    size = steps.step("Neg", [steps.step("Abs", [x], f"{name}/size")], f"{name}/minus_size")
    tail = steps.step("Exp", [size], f"{name}/tail")
    one = steps.step("Add", [tail, steps.constant(np.array(1.0), f"{name}/one")], f"{name}/one_and_tail")
    log = steps.step("Log", [one], f"{name}/log")
    steps.step("Add", [steps.step("Relu", [x], f"{name}/positive"), log], name)


def _power(steps: Steps, function: Power, x: str, name: str, node: str) -> None:
    steps.step("Pow", [x, steps.constant(np.array(float(function.exponent)), f"{name}/exponent")], name)


def _leaky_relu(steps: Steps, function: LeakyRelu, x: str, name: str, node: str) -> None:
    slope = np.asarray(function.slope, dtype=np.float64)
    if not steps.double and slope.ndim == 0:
        steps.step("LeakyRelu", [x], name, alpha=float(slope))
    elif not steps.double:
        steps.step("PRelu", [x, steps.constant(slope, f"{name}/slope")], name)
    else:
        # max(x, 0) + slope min(x, 0)
        scaled = steps.step("Mul", [_negative(steps, x, name), steps.constant(slope, f"{name}/slope")], f"{name}/part")
        steps.step("Add", [steps.step("Relu", [x], f"{name}/positive"), scaled], name)


def _negative(steps: Steps, x: str, name: str) -> str:
    return steps.step("Min", [x, steps.constant(np.array(0.0), f"{name}/zero")], f"{name}/negative")


def _clip(steps: Steps, function: Clip, x: str, name: str, node: str) -> None:
    low, high = (np.asarray(end, dtype=np.float64) for end in (function.low, function.high))
    if low.ndim == high.ndim == 0:
        bounds = ["" if np.isinf(end) else steps.constant(end, f"{name}/bound") for end in (low, high)]
        steps.step("Clip", [x, *bounds] if bounds[1] else [x, bounds[0]] if bounds[0] else [x], name)
        return
    largest = np.finfo(steps.dtype).max  # stands for no bound at all
    least = steps.constant(np.maximum(low, -largest), f"{name}/low")
    most = steps.constant(np.minimum(high, largest), f"{name}/high")
    steps.step("Min", [steps.step("Max", [x, least], f"{name}/above"), most], name)


def _elu(steps: Steps, function: Elu, x: str, name: str, node: str) -> None:
    if not steps.double:
        steps.step("Elu", [x], name, alpha=function.alpha)
        return
    # max(x, 0) + alpha (exp(min(x, 0)) - 1)
    curve = steps.step("Exp", [_negative(steps, x, name)], f"{name}/exp")
    shifted = steps.step("Sub", [curve, steps.constant(np.array(1.0), f"{name}/one")], f"{name}/shifted")
    scaled = steps.step("Mul", [shifted, steps.constant(np.array(function.alpha), f"{name}/alpha")], f"{name}/scaled")
    steps.step("Add", [steps.step("Relu", [x], f"{name}/positive"), scaled], name)


_RULES: dict[type[ScalarFunction], Callable[[Steps, Any, str, str, str], None]] = {
    Erf: _erf, Softplus: _softplus, Power: _power, LeakyRelu: _leaky_relu, Clip: _clip, Elu: _elu,
}  # fmt: skip

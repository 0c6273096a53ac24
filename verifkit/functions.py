"""Scalar functions that an `Activation` applies elementwise: value and derivative, nothing else.

A bound method keeps its own table from these types to its rules, so that "which activations does it know" can be
printed, and a new function edits no method. A parameter is a number for all entries, or an array that broadcasts
against the node's shape (leading axes are the caller's).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from verifkit.arrays import Array, erf, namespace


class ScalarFunction(ABC):
    """A function from R to R, applied to every entry of an array."""

    name: ClassVar[str]
    """The ONNX operator's name in lower case."""

    @abstractmethod
    def __call__(self, x: Array) -> Array:
        """Values, same shape and dtype as `x`; NaN or infinite outside the function's domain."""

    @abstractmethod
    def derivative(self, x: Array) -> Array:
        """Derivatives (at a kink: one of the one-sided ones), same shape and dtype as `x`."""

    def cast(self, convert: Callable[[np.ndarray], Array]) -> ScalarFunction:
        """The same function with its array parameters converted."""
        return self


@dataclass(frozen=True)
class Relu(ScalarFunction):
    """max(0, x)."""

    name: ClassVar[str] = "relu"

    def __call__(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.maximum(x, xp.zeros_like(x))

    def derivative(self, x: Array) -> Array:
        return namespace(x).astype(x > 0, x.dtype)


@dataclass(frozen=True, eq=False)
class LeakyRelu(ScalarFunction):
    """x where x >= 0, slope * x elsewhere; any finite slope, one or an array of them (PRelu)."""

    slope: Array

    name: ClassVar[str] = "leakyrelu"

    def __call__(self, x: Array) -> Array:
        return namespace(x).where(x >= 0, x, self.slope * x)

    def derivative(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.where(x >= 0, xp.ones_like(x), self.slope * xp.ones_like(x))

    def cast(self, convert: Callable[[np.ndarray], Array]) -> ScalarFunction:
        return replace(self, slope=convert(self.slope))


@dataclass(frozen=True, eq=False)
class Clip(ScalarFunction):
    """min(max(x, low), high), low <= high; an end may be infinite."""

    low: Array
    high: Array

    name: ClassVar[str] = "clip"

    def __call__(self, x: Array) -> Array:
        xp = namespace(x)
        zero = xp.zeros_like(x)
        return xp.minimum(xp.maximum(x, self.low + zero), self.high + zero)

    def derivative(self, x: Array) -> Array:
        return namespace(x).astype((x > self.low) & (x < self.high), x.dtype)

    def cast(self, convert: Callable[[np.ndarray], Array]) -> ScalarFunction:
        return replace(self, low=convert(self.low), high=convert(self.high))


@dataclass(frozen=True)
class Abs(ScalarFunction):
    """|x|."""

    name: ClassVar[str] = "abs"

    def __call__(self, x: Array) -> Array:
        return namespace(x).abs(x)

    def derivative(self, x: Array) -> Array:
        return namespace(x).sign(x)


@dataclass(frozen=True)
class Sign(ScalarFunction):
    """-1, 0 or 1. Its derivative is 0 wherever it has one."""

    name: ClassVar[str] = "sign"

    def __call__(self, x: Array) -> Array:
        return namespace(x).sign(x)

    def derivative(self, x: Array) -> Array:
        return namespace(x).zeros_like(x)


@dataclass(frozen=True)
class Power(ScalarFunction):
    """x^exponent for a whole exponent of 2 or more, by repeated multiplication."""

    exponent: int

    name: ClassVar[str] = "pow"

    def __call__(self, x: Array) -> Array:
        return _power(x, self.exponent)

    def derivative(self, x: Array) -> Array:
        return self.exponent * _power(x, self.exponent - 1)


def _power(x: Array, exponent: int) -> Array:
    """Square and multiply: the relative error is that of exponent - 1 roundings, since squaring doubles an error."""
    result, square = None, x
    while exponent:
        if exponent & 1:
            result = square if result is None else result * square
        exponent >>= 1
        square = square * square if exponent else square
    assert result is not None
    return result


@dataclass(frozen=True)
class Sqrt(ScalarFunction):
    """The square root, for x >= 0."""

    name: ClassVar[str] = "sqrt"

    def __call__(self, x: Array) -> Array:
        return namespace(x).sqrt(x)

    def derivative(self, x: Array) -> Array:
        return 0.5 / namespace(x).sqrt(x)


@dataclass(frozen=True)
class Reciprocal(ScalarFunction):
    """1 / x, for x other than 0."""

    name: ClassVar[str] = "reciprocal"

    def __call__(self, x: Array) -> Array:
        return 1.0 / x

    def derivative(self, x: Array) -> Array:
        y = 1.0 / x
        return -y * y


@dataclass(frozen=True)
class Exp(ScalarFunction):
    """e^x."""

    name: ClassVar[str] = "exp"

    def __call__(self, x: Array) -> Array:
        return namespace(x).exp(x)

    def derivative(self, x: Array) -> Array:
        return namespace(x).exp(x)


@dataclass(frozen=True)
class Log(ScalarFunction):
    """The natural logarithm, for x > 0."""

    name: ClassVar[str] = "log"

    def __call__(self, x: Array) -> Array:
        return namespace(x).log(x)

    def derivative(self, x: Array) -> Array:
        return 1.0 / x


@dataclass(frozen=True)
class Sin(ScalarFunction):
    """The sine, in radians."""

    name: ClassVar[str] = "sin"

    def __call__(self, x: Array) -> Array:
        return namespace(x).sin(x)

    def derivative(self, x: Array) -> Array:
        return namespace(x).cos(x)


@dataclass(frozen=True)
class Cos(ScalarFunction):
    """The cosine, in radians."""

    name: ClassVar[str] = "cos"

    def __call__(self, x: Array) -> Array:
        return namespace(x).cos(x)

    def derivative(self, x: Array) -> Array:
        return -namespace(x).sin(x)


@dataclass(frozen=True)
class Sigmoid(ScalarFunction):
    """1 / (1 + exp(-x)), written so that it neither overflows nor loses the small tail."""

    name: ClassVar[str] = "sigmoid"

    def __call__(self, x: Array) -> Array:
        xp = namespace(x)
        tail = xp.exp(-xp.abs(x))  # in (0, 1]: cannot overflow
        return xp.where(x >= 0, 1.0 / (1.0 + tail), tail / (1.0 + tail))

    def derivative(self, x: Array) -> Array:
        xp = namespace(x)
        tail = xp.exp(-xp.abs(x))  # the derivative is even; written so, it keeps its relative accuracy in both tails
        return tail / ((1.0 + tail) * (1.0 + tail))


@dataclass(frozen=True)
class Tanh(ScalarFunction):
    """The hyperbolic tangent."""

    name: ClassVar[str] = "tanh"

    def __call__(self, x: Array) -> Array:
        return namespace(x).tanh(x)

    def derivative(self, x: Array) -> Array:
        return 4.0 * Sigmoid().derivative(2.0 * x)


@dataclass(frozen=True)
class Erf(ScalarFunction):
    """The error function (of GELU)."""

    name: ClassVar[str] = "erf"

    def __call__(self, x: Array) -> Array:
        return erf(x)

    def derivative(self, x: Array) -> Array:
        return 1.1283791670955126 * namespace(x).exp(-x * x)  # 2 / sqrt(pi)


@dataclass(frozen=True)
class Softplus(ScalarFunction):
    """log(1 + exp(x)), written so that it does not overflow."""

    name: ClassVar[str] = "softplus"

    def __call__(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.maximum(x, xp.zeros_like(x)) + xp.log1p(xp.exp(-xp.abs(x)))

    def derivative(self, x: Array) -> Array:
        return Sigmoid()(x)


@dataclass(frozen=True)
class Elu(ScalarFunction):
    """x where x >= 0, alpha (exp(x) - 1) elsewhere; alpha any finite number."""

    alpha: float = 1.0

    name: ClassVar[str] = "elu"

    def __call__(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.where(x >= 0, x, self.alpha * xp.expm1(xp.minimum(x, xp.zeros_like(x))))

    def derivative(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.where(x >= 0, xp.ones_like(x), self.alpha * xp.exp(xp.minimum(x, xp.zeros_like(x))))

"""Scalar functions that an `Activation` applies elementwise: value and derivative, nothing else.

A bound method keeps its own table from these types to its rules, so that "which activations does it know" can be
printed, and a new function edits no method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from verifkit.arrays import Array, namespace


class ScalarFunction(ABC):
    """A function from R to R, applied to every entry of an array."""

    name: ClassVar[str]
    """The ONNX operator's name in lower case."""

    @abstractmethod
    def __call__(self, x: Array) -> Array:
        """Values, same shape and dtype as `x`."""

    @abstractmethod
    def derivative(self, x: Array) -> Array:
        """Derivatives (at a kink: one of the one-sided ones), same shape and dtype as `x`."""


@dataclass(frozen=True)
class Relu(ScalarFunction):
    """max(0, x)."""

    name: ClassVar[str] = "relu"

    def __call__(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.maximum(x, xp.zeros_like(x))

    def derivative(self, x: Array) -> Array:
        return namespace(x).astype(x > 0, x.dtype)


@dataclass(frozen=True)
class Sigmoid(ScalarFunction):
    """1 / (1 + exp(-x)), written so that it neither overflows nor loses the small tail."""

    name: ClassVar[str] = "sigmoid"

    def __call__(self, x: Array) -> Array:
        xp = namespace(x)
        tail = xp.exp(-xp.abs(x))  # in (0, 1]: cannot overflow
        return xp.where(x >= 0, 1.0 / (1.0 + tail), tail / (1.0 + tail))

    def derivative(self, x: Array) -> Array:
        y = self(x)
        return y * (1.0 - y)


@dataclass(frozen=True)
class Tanh(ScalarFunction):
    """The hyperbolic tangent."""

    name: ClassVar[str] = "tanh"

    def __call__(self, x: Array) -> Array:
        return namespace(x).tanh(x)

    def derivative(self, x: Array) -> Array:
        y = self(x)
        return 1.0 - y * y

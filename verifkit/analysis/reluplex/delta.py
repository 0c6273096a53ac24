"""Numbers c + k delta, delta an infinitely small positive number: what makes a strict bound a closed one.

x < 3 is x <= 3 - delta. Source: Dutertre, de Moura, "A fast linear-arithmetic solver for DPLL(T)", CAV 2006, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import total_ordering
from typing import Any

Number = Any
"""A float, a Fraction or a Delta: the search is written once for all of them. Infinite ends of bounds are floats."""


@total_ordering
@dataclass(frozen=True, eq=False)
class Delta:
    """real + delta * (the infinitely small number), compared by `real` first. Mixes with rationals and with +-inf."""

    real: Fraction
    delta: Fraction

    def __add__(self, other: Number) -> Number:
        if isinstance(other, float):  # an infinite end
            return other
        return Delta(self.real + real(other), self.delta + small(other))

    __radd__ = __add__

    def __neg__(self) -> Delta:
        return Delta(-self.real, -self.delta)

    def __sub__(self, other: Number) -> Number:
        return self + (-other)

    def __rsub__(self, other: Number) -> Number:
        return -self + other

    def __mul__(self, factor: Fraction | int) -> Delta:
        return Delta(self.real * factor, self.delta * factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Fraction | int) -> Delta:
        return Delta(self.real / divisor, self.delta / divisor)

    def __eq__(self, other: object) -> bool:
        return (self.real, self.delta) == (real(other), small(other))

    def __lt__(self, other: Number) -> bool:
        return (self.real, self.delta) < (real(other), small(other))

    def __hash__(self) -> int:
        return hash((self.real, self.delta))

    def __abs__(self) -> Delta:
        return -self if self < 0 else self

    def __float__(self) -> float:
        return float(self.real)

    def __str__(self) -> str:
        return f"{self.real} {'-' if self.delta < 0 else '+'} {abs(self.delta)} delta"


def real(value: Number) -> Any:
    return value.real if isinstance(value, Delta) else value


def small(value: Number) -> Fraction | int:
    return value.delta if isinstance(value, Delta) else 0


def concrete(values: Iterable[Number], ordered: Iterable[tuple[Number, Number]]) -> list[Fraction]:
    """The values with a positive rational for delta, small enough that first <= second stays true of every pair."""
    size = Fraction(1)
    for first, second in ordered:
        if real(first) == -math.inf or real(second) == math.inf:
            continue
        rise = small(first) - small(second)
        if rise > 0:  # then first <= second because of the real parts: they must keep their order
            size = min(size, Fraction(real(second) - real(first)) / rise)
    return [real(value) + small(value) * size for value in values]

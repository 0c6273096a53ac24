"""Which way a function bends over a range: what its lines are built from.

Every smooth function here has at most one turn inside a range on which lines are worth drawing: left and right of it
the function is convex, concave or straight. At a turn that is a kink the two sides have slopes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from verifkit.analysis.ranges import FAR
from verifkit.arrays import Array, epsilon, namespace
from verifkit.functions import (
    Cos,
    Elu,
    Erf,
    Exp,
    Log,
    Power,
    Reciprocal,
    ScalarFunction,
    Sigmoid,
    Sin,
    Softplus,
    Sqrt,
    Tanh,
)


@dataclass(frozen=True, eq=False)
class Bends:
    """turn: a point of each [lower, upper]. left, right: the sign of f'' on either side of it: 1 convex, -1 concave, 0
    straight. All `(B, *shape)`.

    single: whether at most one turn lies inside; nothing may be built on the rest where not. doubt: how far the
    function's own turn may be from `turn`, or from a range that seems to have none. kinked: whether the slope jumps.
    """

    turn: Array
    left: Array
    right: Array
    single: Array | None = None
    doubt: Array | None = None
    kinked: bool = False


def _at_zero(lower: Array, upper: Array) -> Array:
    """0, or the end next to it."""
    xp = namespace(lower)
    return xp.minimum(xp.maximum(lower, xp.zeros_like(lower)), upper)


def _convex(function: ScalarFunction, lower: Array, upper: Array) -> Bends:
    one = namespace(lower).ones_like(lower)
    return Bends(upper, one, 0 * one)


def _concave(function: ScalarFunction, lower: Array, upper: Array) -> Bends:
    one = namespace(lower).ones_like(lower)
    return Bends(upper, -one, 0 * one)


def _s_shaped(function: ScalarFunction, lower: Array, upper: Array) -> Bends:
    """Convex left of 0, concave right of it."""
    one = namespace(lower).ones_like(lower)
    return Bends(_at_zero(lower, upper), one, -one)


def _power(function: ScalarFunction, lower: Array, upper: Array) -> Bends:
    assert isinstance(function, Power)
    one = namespace(lower).ones_like(lower)
    if function.exponent % 2:
        return Bends(_at_zero(lower, upper), -one, one)
    return Bends(upper, one, 0 * one)


def _reciprocal(function: ScalarFunction, lower: Array, upper: Array) -> Bends:
    """Convex where positive, concave where negative; a range with the pole inside has no lines."""
    xp = namespace(lower)
    one = xp.ones_like(lower)
    return Bends(upper, xp.where(lower > 0, one, -one), 0 * one, single=(lower > 0) | (upper < 0))


def _elu(function: ScalarFunction, lower: Array, upper: Array) -> Bends:
    """alpha (exp(x) - 1), then straight; for alpha = 1 without a kink."""
    assert isinstance(function, Elu)
    one = namespace(lower).ones_like(lower)
    sign = (function.alpha > 0) - (function.alpha < 0)
    return Bends(_at_zero(lower, upper), sign * one, 0 * one, kinked=function.alpha != 1)


def _wave(function: ScalarFunction, lower: Array, upper: Array) -> Bends:
    """In half turns: the sine is concave from an even multiple of pi to the next; the cosine a quarter turn earlier."""
    xp = namespace(lower)
    shift = 0.0 if isinstance(function, Sin) else 0.5
    first, last = xp.floor(lower / math.pi + shift), xp.floor(upper / math.pi + shift)
    turn = xp.where(last > first, (last - shift) * math.pi, upper)
    left = xp.where(first == 2 * xp.floor(first / 2), -xp.ones_like(lower), xp.ones_like(lower))
    largest = xp.maximum(xp.abs(lower), xp.abs(upper))
    return Bends(
        xp.minimum(xp.maximum(turn, lower), upper),
        left,
        -left,
        single=(last - first <= 1) & (largest <= FAR),
        doubt=8.0 * epsilon(lower) * (1.0 + largest),
    )


BENDS: Mapping[type[ScalarFunction], Callable[[ScalarFunction, Array, Array], Bends]] = {
    Exp: _convex,
    Softplus: _convex,
    Sqrt: _concave,
    Log: _concave,
    Sigmoid: _s_shaped,
    Tanh: _s_shaped,
    Erf: _s_shaped,
    Power: _power,
    Reciprocal: _reciprocal,
    Elu: _elu,
    Sin: _wave,
    Cos: _wave,
}


def slope_left_of_kink(function: ScalarFunction, x: Array) -> Array:
    """The derivative, at a kink that of the left side: the side on which such a function bends."""
    if isinstance(function, Elu):
        xp = namespace(x)
        return function.alpha * xp.exp(xp.minimum(x, xp.zeros_like(x)))
    return function.derivative(x)

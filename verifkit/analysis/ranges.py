"""The range of a scalar function over an interval, rounded outwards: one rule per function.

A rule gives infinite bounds where the interval leaves the function's domain (a pole, the root of a negative number):
nothing is claimed there. Where the range is known as such (an exponential is never negative), rounding does not leave
it, so that a square root or a quotient further on keeps its domain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from verifkit.analysis.accuracy import value_error
from verifkit.arrays import Array, epsilon, like, namespace
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

Bounds = tuple[Array, Array]
"""(lower, upper), each `(B, *node shape)`."""

Rule = Callable[[ScalarFunction, Array, Array], Bounds]

FAR = 2.0**16
"""Radians beyond which nothing is assumed of how a library reduces the argument of a sine."""


def function_bounds(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    """Bounds on function(x) for x in [lower, upper]; rigorous, and never NaN.

    An argument about which nothing is known (NaN, or both ends infinite) gives a value about which nothing is known,
    even where the function is bounded: it may stand for a function that left its domain. Raises KeyError for a
    function without a rule.
    """
    rule = INTERVAL_RULES[type(function)]
    with np.errstate(all="ignore"):
        if all_finite(lower, upper):
            low, high = rule(function, lower, upper)
            return (low, high) if all_finite(low, high) else without_nan(low, high)
        lower, upper = without_nan(lower, upper)
        low, high = without_nan(*rule(function, lower, upper))
        return forget(low, high, nothing_known(lower, upper))


def all_finite(lower: Array, upper: Array) -> bool:
    """Whether every end is finite; may say no where finite ones are near the largest float."""
    return math.isfinite(float((upper - lower).sum()))


def without_nan(lower: Array, upper: Array) -> Bounds:
    """NaN ends (inf - inf, 0 * inf), about which nothing is known, made infinite."""
    xp = namespace(lower)
    infinity = xp.full_like(lower, xp.inf)
    return xp.where(xp.isnan(lower), -infinity, lower), xp.where(xp.isnan(upper), infinity, upper)


def nothing_known(lower: Array, upper: Array) -> Array:
    """Where both ends are infinite or NaN."""
    xp = namespace(lower)
    return ~((lower > -xp.inf) | (upper < xp.inf))


def forget(lower: Array, upper: Array, where: Array) -> Bounds:
    """The bounds made infinite in the entries `where`."""
    xp = namespace(lower)
    infinity = xp.full_like(lower, xp.inf)
    return xp.where(where, -infinity, lower), xp.where(where, infinity, upper)


def _widen(function: ScalarFunction, low: Array, high: Array) -> Bounds:
    """Computed values of the function moved outwards by what they may be off; one that overflowed is still finite."""
    xp = namespace(low)
    largest = float(xp.finfo(low.dtype).max)
    low, high = xp.clip(low, None, largest), xp.clip(high, -largest, None)
    return low - value_error(function, low), high + value_error(function, high)


def _exact(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    """Non-decreasing, computed without rounding."""
    return function(lower), function(upper)


def _monotone(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    """Non-decreasing, kept inside the range that the function has on all of its domain."""
    low, high = _widen(function, function(lower), function(upper))
    least, most = RANGES.get(type(function), (None, None))
    xp = namespace(lower)
    return xp.clip(low, least, None), xp.clip(high, None, most)


def _above_zero(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    """Non-decreasing on x > 0 (or x >= 0 for the square root), undefined elsewhere."""
    low, high = _monotone(function, lower, upper)
    outside = lower < 0 if isinstance(function, Sqrt) else lower <= 0
    return forget(low, high, outside)


def _reciprocal(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    """Decreasing on either side of its pole at 0."""
    xp = namespace(lower)
    low, high = _widen(function, function(upper), function(lower))
    low, high = xp.where(lower > 0, xp.clip(low, 0.0, None), low), xp.where(upper < 0, xp.clip(high, None, 0.0), high)
    return forget(low, high, (lower <= 0) & (upper >= 0))


def _absolute(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    xp = namespace(lower)
    return xp.clip(xp.maximum(lower, -upper), 0.0, None), xp.maximum(-lower, upper)


def _power(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    assert isinstance(function, Power)
    if function.exponent % 2:
        return _monotone(function, lower, upper)
    small, large = _absolute(function, lower, upper)
    low, high = _widen(function, function(small), function(large))
    return namespace(low).clip(low, 0.0, None), high


def _bent(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    """The identity right of 0, monotone left of it in either direction: the extremes are at the ends or at 0."""
    xp = namespace(lower)
    zero = xp.zeros_like(lower)
    low, high = _bent_value(function, xp.minimum(xp.maximum(zero, lower), upper))
    for x in (lower, upper):
        below, above = _bent_value(function, x)
        low, high = xp.minimum(low, below), xp.maximum(high, above)
    if isinstance(function, Elu) and function.alpha > 0:
        floor = like(-function.alpha, lower)
        low = xp.maximum(low, floor + zero) if float(floor) <= -function.alpha else low
    return low, high


def _bent_value(function: ScalarFunction, x: Array) -> Bounds:
    xp, value = namespace(x), function(x)
    error = xp.where(x >= 0, xp.zeros_like(x), value_error(function, value))
    return value - error, value + error


def _wave(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    """Between the values at the ends, unless a crest or a trough lies between them.

    One that may lie there, rounding considered, counts as lying there. In turns, the sine has its crests at whole
    numbers plus 1/4 and its troughs half a turn further; the cosine has its crests at whole numbers.
    """
    xp = namespace(lower)
    first, last = function(lower), function(upper)
    low, high = _widen(function, xp.minimum(first, last), xp.maximum(first, last))
    low, high = xp.clip(low, -1.0, None), xp.clip(high, None, 1.0)
    crest = 0.25 if isinstance(function, Sin) else 0.0
    far = ~(xp.maximum(xp.abs(lower), xp.abs(upper)) <= FAR)
    begin, end = lower / (2.0 * math.pi), upper / (2.0 * math.pi)
    doubt = 8.0 * epsilon(lower) * (1.0 + xp.abs(begin) + xp.abs(end))
    one = xp.ones_like(lower)
    for turn, sign in ((crest, 1), (crest + 0.5, -1)):
        passed = far | (xp.floor(end - turn + doubt) >= xp.ceil(begin - turn - doubt))
        low, high = (low, xp.where(passed, one, high)) if sign > 0 else (xp.where(passed, -one, low), high)
    return low, high


RANGES: Mapping[type[ScalarFunction], tuple[float | None, float | None]] = {
    Exp: (0.0, None),
    Sqrt: (0.0, None),
    Softplus: (0.0, None),
    Sigmoid: (0.0, 1.0),
    Tanh: (-1.0, 1.0),
    Erf: (-1.0, 1.0),
}
"""Least and largest value on the whole domain, of functions that `_monotone` serves."""

INTERVAL_RULES: dict[type[ScalarFunction], Rule] = {
    Relu: _exact,
    Clip: _exact,
    Sign: _exact,
    Abs: _absolute,
    LeakyRelu: _bent,
    Elu: _bent,
    Power: _power,
    Exp: _monotone,
    Softplus: _monotone,
    Sigmoid: _monotone,
    Tanh: _monotone,
    Erf: _monotone,
    Sqrt: _above_zero,
    Log: _above_zero,
    Reciprocal: _reciprocal,
    Sin: _wave,
    Cos: _wave,
}
"""Every function with a rule: what interval propagation knows."""

"""Bounds on every entry of a network's gradient over a region, and on how far a row can fall between two points.

Row coefficients are pulled back through the graph as intervals: an affine node takes its adjoint (midpoint and
radius), an activation the range of its derivative over its own bounds, a product the range of the other factor. For a
ReLU network with one hidden layer that is Fast-Lip's constant C plus the signed sums L and U over unstable units.

Why the chain rule may be used at kinks: along a segment x(t) a node's value z is absolutely continuous, and z' = 0 at
almost every t at which z stays on a kink, so that any slope is right there. A function that jumps (sign) has no place
here.

Sources: Weng et al. 2018 (Fast-Lin and Fast-Lip), section 3; midpoint-radius arithmetic: Rump, "Fast and
parallel interval arithmetic", BIT 39, 1999.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from verifkit.analysis.accuracy import slope_error
from verifkit.analysis.interval import Bounds
from verifkit.analysis.ranges import forget, function_bounds, nothing_known, without_nan
from verifkit.analysis.region import Region, magnitude
from verifkit.analysis.rounding import down, gamma, inflate, tiny, up
from verifkit.analysis.support import least_over
from verifkit.arrays import Array, namespace
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
    Sin,
    Softplus,
    Sqrt,
    Tanh,
)
from verifkit.maps import LinearMap
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Node, Product

Rule = Callable[[ScalarFunction, Array, Array], Bounds]


# --- the range of a derivative ----------------------------------------------------------------------------------


@np.errstate(all="ignore")
def slope_bounds(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    """Bounds on function'(x) for x in [lower, upper] (at a kink: on both one-sided derivatives); rigorous.

    Infinite where nothing is known, which an argument without bounds means too: it may stand for a function that left
    its domain. Raises KeyError for a function without a rule.
    """
    lower, upper = without_nan(lower, upper)
    low, high = without_nan(*SLOPE_RULES[type(function)](function, lower, upper))
    return forget(low, high, nothing_known(lower, upper))


def _two_slopes(left: Array, right: Array, kink: Array, lower: Array, upper: Array) -> Bounds:
    """One slope left of a kink and one right of it."""
    xp = namespace(lower)
    zero = xp.zeros_like(lower)
    left, right = left + zero, right + zero
    low, high = xp.minimum(left, right), xp.maximum(left, right)
    is_left, is_right = upper <= kink, lower >= kink
    return (
        xp.where(is_left, left, xp.where(is_right, right, low)),
        xp.where(is_left, left, xp.where(is_right, right, high)),
    )


def _relu(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    return _two_slopes(0.0, 1.0, 0.0, lower, upper)


def _leaky(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    assert isinstance(function, LeakyRelu)
    return _two_slopes(function.slope, 1.0, 0.0, lower, upper)


def _abs(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    return _two_slopes(-1.0, 1.0, 0.0, lower, upper)


def _clip(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    assert isinstance(function, Clip)
    xp = namespace(lower)
    zero, one = xp.zeros_like(lower), xp.ones_like(lower)
    inside = (lower >= function.low) & (upper <= function.high)
    outside = (upper <= function.low) | (lower >= function.high)
    return xp.where(inside & ~outside, one, zero), xp.where(outside, zero, one)


def _bell(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    """An even derivative that falls with |x| and is never negative."""
    xp = namespace(lower)
    near, far = function_bounds(Abs(), lower, upper)
    high, low = function.derivative(near), function.derivative(far)
    return xp.clip(low - slope_error(function, low), 0.0, None), high + slope_error(function, high)


def _wave(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    if isinstance(function, Sin):
        return function_bounds(Cos(), lower, upper)
    low, high = function_bounds(Sin(), lower, upper)
    return -high, -low


def _power(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    assert isinstance(function, Power)
    n = function.exponent
    low, high = (lower, upper) if n == 2 else function_bounds(Power(n - 1), lower, upper)
    return down(n * low), up(n * high)


def _root(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    """1 / (2 sqrt(x)): without a bound where the range reaches 0."""
    low, high = function_bounds(Reciprocal(), *function_bounds(Sqrt(), lower, upper))
    return down(low / 2), up(high / 2)


def _logarithm(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    xp = namespace(lower)
    low, high = function_bounds(Reciprocal(), lower, upper)
    infinity = xp.full_like(low, xp.inf)
    return xp.where(lower > 0, low, -infinity), xp.where(lower > 0, high, infinity)


def _reciprocal(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    low, high = function_bounds(Power(2), *function_bounds(Reciprocal(), lower, upper))
    return -high, -low


def _elu(function: ScalarFunction, lower: Array, upper: Array) -> Bounds:
    """alpha exp(x) left of 0, monotone; 1 right of it."""
    assert isinstance(function, Elu)
    xp = namespace(lower)
    zero, one = xp.zeros_like(lower), xp.ones_like(lower)
    low, high = function_bounds(Exp(), xp.minimum(lower, zero), xp.minimum(upper, zero))
    ends = function.alpha * low, function.alpha * high
    low, high = down(xp.minimum(*ends)), up(xp.maximum(*ends))
    right = lower >= 0
    low = xp.where(right, one, xp.where(upper > 0, xp.minimum(low, one), low))
    return low, xp.where(right, one, xp.where(upper > 0, xp.maximum(high, one), high))


SLOPE_RULES: Mapping[type[ScalarFunction], Rule] = {
    Relu: _relu,
    LeakyRelu: _leaky,
    Abs: _abs,
    Clip: _clip,
    Elu: _elu,
    Power: _power,
    Exp: lambda function, lower, upper: function_bounds(Exp(), lower, upper),
    Softplus: lambda function, lower, upper: function_bounds(Sigmoid(), lower, upper),
    Sigmoid: _bell,
    Tanh: _bell,
    Erf: _bell,
    Sqrt: _root,
    Log: _logarithm,
    Reciprocal: _reciprocal,
    Sin: _wave,
    Cos: _wave,
}
"""Every function whose derivative has a rule: all but those that jump."""


# --- the gradient ------------------------------------------------------------------------------------------------


@np.errstate(all="ignore")
def gradient_bounds(network: Network, bounds: list[Bounds], rows: Mapping[int, Bounds]) -> Bounds:
    """Bounds `(B, R, *input_shape)` on the gradient of sum over nodes k of rows[k] . value of node k; rigorous.

    rows: node index -> bounds on the coefficients, each `(B, R, *node shape)`. bounds: of every node's value over the
    region, `(B, *node shape)`. `network` is in the arrays' arithmetic and has no `Max` (see `Network.without_max`).
    Entries of which nothing is known are infinite or NaN.
    """
    pending = dict(rows)
    sample = next(iter(pending.values()))[0]
    for index in range(max(pending), 0, -1):
        coefficients = pending.pop(index, None)
        if coefficients is None:
            continue
        node = network.nodes[index]
        for parent, pulled in zip(node.parents, _pulled(node, coefficients, bounds), strict=True):
            pending[parent] = _plus(pending[parent], pulled) if parent in pending else pulled
    if 0 in pending:
        return pending[0]
    zero = namespace(sample).zeros((*sample.shape[:2], *network.input_shape), dtype=sample.dtype)
    return zero, zero


def _pulled(node: Node, coefficients: Bounds, bounds: list[Bounds]) -> list[Bounds]:
    """Bounds on the coefficients of each of the node's parents."""
    if isinstance(node, Affine):
        return [_through_map(linear, coefficients) for linear in node.maps]
    if isinstance(node, Activation):
        return [_times(coefficients, slope_bounds(node.function, *bounds[node.parents[0]]))]
    if isinstance(node, Product):
        left, right = node.parents
        return [_times(coefficients, bounds[right]), _times(coefficients, bounds[left])]
    raise TypeError(f"no gradient rule for {type(node).__name__}")


def _through_map(linear: LinearMap, coefficients: Bounds) -> Bounds:
    """[m - r, m + r] goes to [W'm - |W|'r, W'm + |W|'r]; the radius also carries rounding errors."""
    lower, upper = coefficients
    xp = namespace(lower)
    g = gamma(linear.adjoint_terms + 1, lower)
    middle = lower / 2 + upper / 2
    reach = inflate(xp.maximum(upper - middle, middle - lower)) + g * xp.abs(middle)
    center, radius = linear.adjoint(middle), linear.absolute.adjoint(reach)
    radius = radius * (1.0 + 2.0 * g) + (linear.adjoint_terms + 1) * tiny(radius)
    return down(center - radius), up(center + radius)


def _times(coefficients: Bounds, factor: Bounds) -> Bounds:
    """Interval product of `(B, R, *shape)` and `(B, *shape)`; exact where the factor is 0 or 1."""
    xp = namespace(coefficients[0])
    corners = [c * f[:, None, ...] for c in coefficients for f in factor]
    low, high = corners[0], corners[0]
    for corner in corners[1:]:
        low, high = xp.minimum(low, corner), xp.maximum(high, corner)
    plain = ((factor[0] == 0) | (factor[0] == 1)) & ((factor[1] == 0) | (factor[1] == 1))
    plain = plain[:, None, ...]
    return xp.where(plain, low, down(low)), xp.where(plain, high, up(high))


def _plus(a: Bounds, b: Bounds) -> Bounds:
    return down(a[0] + b[0]), up(a[1] + b[1])


# --- from the gradient to a bound --------------------------------------------------------------------------------


def inner_point(region: Region) -> Array:
    """A point of the region's box, (B, *input_shape), that the segment from any input of the set stays near.

    The box's middle, or the ball's center, moved into the clip box where it lies outside: entry by entry that brings
    it no farther from any input inside the box, so that the ball of the same radius around it covers the set.
    """
    xp = namespace(region.lower)
    middle = region.lower / 2 + region.upper / 2 if region.center is None else region.center
    return xp.minimum(xp.maximum(middle, region.lower), region.upper)


def shrunk(region: Region, point: Array, share: float) -> Region:
    """Contains point + t (x - point) for every x of the set and 0 <= t <= share <= 1; point as from `inner_point`."""
    xp = namespace(point)
    lower = xp.maximum(region.lower, down(point - inflate(share * inflate(point - region.lower))))
    upper = xp.minimum(region.upper, up(point + inflate(share * inflate(region.upper - point))))
    if region.center is None or region.radius is None:
        return Region(lower, upper)
    return Region(lower, upper, point, region.radius if share == 1 else inflate(share * region.radius), region.norm)


@np.errstate(all="ignore")
def least_fall(gradient: Bounds, region: Region, point: Array) -> Array:
    """A lower bound `(B, R)`, never above 0, on g . (x - point) over gradients g within the bounds, x in the region.

    Over a box sum_i min(g_i (lower_i - point_i), g_i (upper_i - point_i)), over a ball minus the radius times the dual
    norm of max |g_i|, over a clipped ball the better of that and of what mixes both. Minus infinity where nothing is
    known.
    """
    low, high = gradient
    xp = namespace(low)
    batch, count = low.shape[:2]
    below, above = inflate(point - region.lower), inflate(region.upper - point)
    falls = xp.minimum(xp.minimum(-high * below[:, None, ...], low * above[:, None, ...]), xp.zeros_like(low))
    terms = math.prod(low.shape[2:])
    flat = xp.reshape(falls, (batch, count, -1))
    total = xp.sum(flat, axis=-1)
    total = total * (1.0 + 2.0 * gamma(terms + 2, total)) - (terms + 1) * tiny(total)
    if region.center is not None:
        reach = xp.maximum(below, above)
        zero = xp.zeros_like(reach)
        steps = Region(zero, reach, zero, region.radius, region.norm)  # of the sizes |x_i - point_i|
        value, slack = least_over(-magnitude(low, high), steps)
        ball = down(value - slack)
        total = xp.where(ball > total, xp.minimum(ball, xp.zeros_like(ball)), total)
    return xp.where(xp.isnan(total), -xp.inf * xp.ones_like(total), total)


def row_bounds(rows: np.ndarray, error: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on coefficients that are off by at most `error`."""
    return (rows, rows) if error is None else (down(rows - error), up(rows + error))

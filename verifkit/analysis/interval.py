"""Interval bound propagation with outward rounding: one rule per node kind; functions have theirs in `ranges`.

Sources: Gowal et al., "On the effectiveness of interval bound propagation", 2018; midpoint-radius arithmetic: Rump,
"Fast and parallel interval arithmetic", BIT 39, 1999; the error of a sum: Knuth, "The Art of Computer Programming",
volume 2, 4.2.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verifkit.analysis.ranges import (
    INTERVAL_RULES,
    Bounds,
    all_finite,
    forget,
    function_bounds,
    nothing_known,
    without_nan,
)
from verifkit.analysis.rounding import down, gamma, inflate, tiny, up
from verifkit.arrays import Array, epsilon, namespace
from verifkit.functions import Log, Reciprocal, Sqrt
from verifkit.maps import LinearMap, Rearrangement
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Max, Node, Product
from verifkit.weighted_maps import BatchedDense, Conv, Dense, Scale

__all__ = ["INTERVAL_RULES", "Bounds", "node_bounds", "propagate"]


def propagate(network: Network, lower: Array, upper: Array) -> list[Bounds]:
    """Bounds on every node's value for inputs in [lower, upper], `(B, *input_shape)`; rigorous.

    A bound that overflows is infinite, never wrong. Where a value may leave the domain of a function, nothing is
    claimed of it nor of what is computed from it: both bounds are infinite. Raises KeyError for a function without a
    rule: capabilities rule that out.
    """
    network, signs = network.cast(lower), needs_signs(network)
    bounds: list[Bounds] = [(lower, upper)]
    with np.errstate(all="ignore"):
        for node in network.nodes[1:]:
            bounds.append(node_bounds(node, [bounds[p] for p in node.parents], signs=signs))
    return bounds


def needs_signs(network: Network) -> bool:
    """Whether the network has a function of which nothing is known next to 0: a root, a logarithm, a reciprocal."""
    return any(isinstance(node.function, Sqrt | Log | Reciprocal) for _, node in network.activations())


def node_bounds(node: Node, parents: Sequence[Bounds], *, signs: bool = True) -> Bounds:
    """Bounds on one node's value from those of its parents (the node's weights in the arrays' arithmetic).

    signs: whether a sum of terms that cannot be negative must come out so in spite of rounding; that costs a look at
    the weights, which a network of piecewise linear functions has no use for.
    """
    if isinstance(node, Affine):
        lower, upper = _sums(node, parents) or _affine(node, parents, signs)
    elif isinstance(node, Activation):
        return function_bounds(node.function, *parents[0])
    elif isinstance(node, Max):
        lower, upper = _max(node, parents[0])
    elif isinstance(node, Product):
        lower, upper = _product(parents[0], parents[1], same=node.parents[0] == node.parents[1])
    else:
        raise TypeError(f"no interval rule for {type(node).__name__}")
    return (lower, upper) if all_finite(lower, upper) else without_nan(lower, upper)


def _affine(node: Affine, parents: Sequence[Bounds], signs: bool) -> Bounds:
    """Midpoint and radius: [c - r, c + r] goes to [Wc - |W|r, Wc + |W|r]; the radius also carries rounding errors."""
    center: Array | None = None
    radius: Array | None = None
    g = gamma(node.terms + 1, parents[0][0])
    for linear, (lower, upper) in zip(node.maps, parents, strict=True):
        xp = namespace(lower)
        middle = lower / 2 + upper / 2
        reach = inflate(xp.maximum(upper - middle, middle - lower)) + g * xp.abs(middle)
        c, r = linear.apply(middle), linear.absolute.apply(reach)
        center, radius = (c, r) if center is None else (center + c, radius + r)
    assert center is not None
    assert radius is not None
    if node.bias is not None:
        center = center + node.bias
        radius = radius + g * namespace(center).abs(node.bias)
    radius = radius * (1.0 + 2.0 * g) + tiny(center)
    lower, upper = down(center - radius), up(center + radius)
    return _at_least_the_bias(node, parents, lower) if signs else lower, upper


def _at_least_the_bias(node: Affine, parents: Sequence[Bounds], lower: Array) -> Array:
    """A sum of terms that cannot be negative is at least its bias: rounding must not take a square root's domain."""
    positive: Array | bool = True
    for linear, bounds in zip(node.maps, parents, strict=True):
        found = _cannot_be_negative(linear, *bounds)
        if found is None:
            return lower
        positive = positive & found
    xp = namespace(lower)
    floor = xp.zeros_like(lower) if node.bias is None else node.bias + xp.zeros_like(lower)
    return xp.where(positive & ~(lower >= floor), floor, lower)


def _cannot_be_negative(linear: LinearMap, lower: Array, upper: Array) -> Array | None:
    """Where the map's value is a sum of products that are surely >= 0, broadcast to its shape; None: nowhere."""
    xp = namespace(lower)
    if isinstance(linear, Scale):
        return ((linear.factor >= 0) & (lower >= 0)) | ((linear.factor <= 0) & (upper <= 0))
    if linear.absolute is linear:  # sums and moves, without weights: where no negative number enters
        return linear.apply(xp.astype(~(lower >= 0), lower.dtype)) == 0
    if not bool(xp.min(lower) >= 0):
        return None
    if isinstance(linear, Dense | BatchedDense):
        rows = xp.all(linear.weight >= 0, axis=-1)
        return rows if isinstance(linear, Dense) else rows[..., None, :]
    if isinstance(linear, Conv):
        channels = xp.all(xp.reshape(linear.weight >= 0, (linear.weight.shape[0], -1)), axis=-1)
        return xp.reshape(channels, (-1, *(1,) * len(linear.strides)))
    return None


def _sums(node: Affine, parents: Sequence[Bounds]) -> Bounds | None:
    """Of a node that only moves numbers and adds or subtracts them; None for any other. Exact where the sums are."""
    total: Bounds | None = None
    for linear, (lower, upper) in zip(node.maps, parents, strict=True):
        if isinstance(linear, Rearrangement):
            term = linear.apply(lower), linear.apply(upper)
        elif isinstance(linear, Scale) and bool(namespace(lower).all(abs(linear.factor) == 1)):
            xp, minus = namespace(lower), linear.factor < 0
            term = xp.where(minus, -upper, lower), xp.where(minus, -lower, upper)
        else:
            return None
        total = term if total is None else (_plus(total[0], term[0], -1), _plus(total[1], term[1], 1))
    assert total is not None
    return total if node.bias is None else (_plus(total[0], node.bias, -1), _plus(total[1], node.bias, 1))


def _plus(a: Array, b: Array, direction: int) -> Array:
    """a + b rounded down (direction -1) or up (1); unchanged where it is exact, which its error term tells."""
    xp, total = namespace(a), a + b
    shown = total - a
    error = (a - (total - shown)) + (b - shown)
    # Far from underflow, so that the error term is itself exact, on devices without subnormal numbers too.
    least = tiny(total) / epsilon(total)
    normal = ((a == 0) | (xp.abs(a) >= least)) & ((b == 0) | (xp.abs(b) >= least))
    return xp.where(normal & (error == 0), total, down(total, 1) if direction < 0 else up(total, 1))


def _max(node: Max, bounds: Bounds) -> Bounds:
    """The maximum of intervals is exact: no rule by differences, which would double the width."""
    lower, upper = (node.evaluate([end]) for end in bounds)
    if all_finite(*bounds):
        return lower, upper
    xp = namespace(lower)
    unknown = xp.astype(nothing_known(*bounds), lower.dtype)
    return forget(lower, upper, node.evaluate([unknown]) > 0)


def _product(left: Bounds, right: Bounds, *, same: bool) -> Bounds:
    """From the products of the ends; `same`: of one value with itself, which is a square."""
    xp = namespace(left[0])
    corners = [a * b for a in left for b in right]
    finite = all_finite(*left) and all_finite(*right)
    if not finite:
        # An end is infinite for want of a bound: times 0 it stays 0. (NaN comes from nothing else here.)
        corners = [xp.where(xp.isnan(corner), xp.zeros_like(corner), corner) for corner in corners]
    low, high = corners[0], corners[0]
    for corner in corners[1:]:
        low, high = xp.minimum(low, corner), xp.maximum(high, corner)
    low, high = down(low), up(high)
    # Rounding must not lose the sign that the factors give. (Not read off the corners: those may have underflowed.)
    (a, b), (c, d) = left, right
    positive = ((a >= 0) & (c >= 0)) | ((b <= 0) & (d <= 0))
    negative = ((a >= 0) & (d <= 0)) | ((b <= 0) & (c >= 0))
    if same:
        crosses = (a < 0) & (b > 0)
        low, positive = xp.where(crosses, xp.zeros_like(low), low), xp.ones_like(positive)
    low = xp.where(positive, xp.clip(low, 0.0, None), low)
    high = xp.where(negative, xp.clip(high, None, 0.0), high)
    return (low, high) if finite else forget(low, high, nothing_known(*left) | nothing_known(*right))

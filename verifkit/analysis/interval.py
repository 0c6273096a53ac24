"""Interval bound propagation with outward rounding: one rule per node kind.

Sources: Gowal et al., "On the effectiveness of interval bound propagation", 2018; midpoint-radius arithmetic: Rump,
"Fast and parallel interval arithmetic", BIT 39, 1999.
"""

from __future__ import annotations

from collections.abc import Sequence

from verifkit.analysis.rounding import down, gamma, inflate, tiny, up
from verifkit.arrays import Array, namespace
from verifkit.functions import Relu, ScalarFunction, Sigmoid, Tanh
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Max, Node, Product

Bounds = tuple[Array, Array]
"""(lower, upper), each `(B, *node shape)`."""

MONOTONE: dict[type[ScalarFunction], int] = {Relu: 0, Sigmoid: 16, Tanh: 16}
"""Non-decreasing functions with how many units in the last place their computed value may be off."""


def propagate(network: Network, lower: Array, upper: Array) -> list[Bounds]:
    """Bounds on every node's value for inputs in [lower, upper], `(B, *input_shape)`; rigorous.

    A bound that overflows is infinite, never wrong. Raises KeyError for a function without a rule: capabilities rule
    that out.
    """
    network = network.cast(lower)
    bounds: list[Bounds] = [(lower, upper)]
    for node in network.nodes[1:]:
        bounds.append(node_bounds(node, [bounds[p] for p in node.parents]))
    return bounds


def node_bounds(node: Node, parents: Sequence[Bounds]) -> Bounds:
    """Bounds on one node's value from those of its parents (the node's weights in the arrays' arithmetic)."""
    if isinstance(node, Affine):
        lower, upper = _affine(node, parents)
    elif isinstance(node, Activation):
        lower, upper = _monotone(node.function, parents[0])
    elif isinstance(node, Max):
        lower, upper = _max(node, parents[0])
    elif isinstance(node, Product):
        lower, upper = _product(parents[0], parents[1])
    else:
        raise TypeError(f"no interval rule for {type(node).__name__}")
    xp = namespace(lower)
    # inf - inf and 0 * inf give NaN, about which nothing is known.
    infinity = xp.full_like(lower, xp.inf)
    return xp.where(xp.isnan(lower), -infinity, lower), xp.where(xp.isnan(upper), infinity, upper)


def _affine(node: Affine, parents: Sequence[Bounds]) -> Bounds:
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
    return down(center - radius), up(center + radius)


def _monotone(function: ScalarFunction, bounds: Bounds) -> Bounds:
    ulps = MONOTONE[type(function)]
    lower, upper = function(bounds[0]), function(bounds[1])
    return (down(lower, ulps), up(upper, ulps)) if ulps else (lower, upper)


def _max(node: Max, bounds: Bounds) -> Bounds:
    """The maximum of intervals is exact: no rule by differences, which would double the width."""
    lower, upper = (node.evaluate([end]) for end in bounds)
    return lower, upper


def _product(left: Bounds, right: Bounds) -> Bounds:
    xp = namespace(left[0])
    corners = [a * b for a in left for b in right]
    low, high = corners[0], corners[0]
    for corner in corners[1:]:
        low, high = xp.minimum(low, corner), xp.maximum(high, corner)
    return down(low), up(high)

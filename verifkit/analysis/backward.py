"""Backward linear bounds: one traversal for every method that replaces activations by lines, and products by planes.

Rows over some nodes are pulled back to the input, activation by activation, and bounded there over the region by its
dual norm. Methods differ only in their table of relaxations (CROWN, Fast-Lin, ...); with no lines at all a row is
bounded at the first activation it meets, which is interval propagation.

Every rounding error on the way is bounded and subtracted: an error e in a coefficient of x costs at most |e| |x|, and
interval bounds on every node's value are at hand.

Sources: Zhang et al. 2018 (CROWN), section 3; dual norm: corollary 3.3 there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from verifkit.analysis.interval import Bounds
from verifkit.analysis.region import Region, magnitude
from verifkit.analysis.rounding import down, gamma, tiny
from verifkit.arrays import Array, namespace
from verifkit.evidence import Lines, Planes
from verifkit.network import Network
from verifkit.ops import Affine, Node

Relaxed = Mapping[int, Lines | Planes]
"""Node index -> lines of an activation, or planes of a product."""


@dataclass(eq=False)
class _Total:
    """The constant part of a row's bound as it grows, with what rounding may have cost. All `(B, R)`."""

    constant: Array
    size: Array
    slack: Array
    terms: int = 0

    def add(self, values: Array, slack: Array) -> None:
        self.constant = self.constant + values
        self.size = self.size + namespace(values).abs(values)
        self.slack = self.slack + slack
        self.terms += 1

    def lower(self) -> Array:
        error = gamma(self.terms + 2, self.constant) * self.size + self.slack * (
            1.0 + gamma(self.terms + 4, self.slack)
        )
        return down(self.constant - error - tiny(self.constant))


def lower_bounds(
    network: Network,
    rows: Mapping[int, Array],
    bounds: Mapping[int, Bounds] | list[Bounds],
    relaxed: Relaxed,
    region: Region,
) -> Array:
    """Rigorous lower bounds `(B, R)` on sum over nodes k of rows[k] . value of node k, over the region.

    rows: node index -> coefficients `(B, R, *node shape)`. bounds: every node's value bounds. relaxed: the lines or
    planes of activations and products; one that is not there is bounded by its own interval. `network` is in the
    arrays' arithmetic and has no `Max` (see `Network.without_max`) unless intervals are to bound it.
    """
    pending = dict(rows)
    first = next(iter(pending.values()))
    xp = namespace(first)
    zero = xp.zeros_like(xp.sum(xp.reshape(first, (*first.shape[:2], -1)), axis=-1))
    total = _Total(zero, zero, zero)
    for index in range(max(pending), 0, -1):
        coefficients = pending.pop(index, None)
        if coefficients is None:
            continue
        node = network.nodes[index]
        if isinstance(node, Affine):
            _through_affine(node, coefficients, bounds, pending, total)
        elif index in relaxed:
            _through_relaxation(node, coefficients, relaxed[index], bounds, pending, total)
        else:
            value, slack = dot_box(coefficients, *bounds[index])
            total.add(value, slack)
    if 0 in pending:
        value, slack = _over_region(pending[0], region)
        total.add(value, slack)
    return total.lower()


def _flat_sum(x: Array) -> Array:
    """Sum over all axes but the first two."""
    xp = namespace(x)
    return xp.sum(xp.reshape(x, (*x.shape[:2], -1)), axis=-1)


def _rowwise(x: Array) -> Array:
    """`(B, *shape)` as `(B, 1, *shape)`."""
    return x[:, None, ...]


def _accumulate(
    pending: dict[int, Array],
    parent: int,
    pulled: Array,
    terms: int,
    reach: Array,
    total: _Total,
) -> None:
    """Adds coefficients, each the sum of `terms` products, to those that other paths left at the parent.

    reach: the largest size of each of the parent's values, `(B, 1, *shape)`.
    """
    # A coefficient that underflowed is off by less than `tiny`, but its value may be large.
    total.slack = total.slack + terms * tiny(reach) * _flat_sum(reach)
    if parent not in pending:
        pending[parent] = pulled
        return
    merged = pending[parent] + pulled
    xp = namespace(merged)
    pending[parent] = merged
    total.slack = total.slack + gamma(math.prod(merged.shape[2:]) + 2, merged) * _flat_sum(xp.abs(merged) * reach)


def _through_affine(
    node: Affine,
    coefficients: Array,
    bounds: Mapping[int, Bounds] | list[Bounds],
    pending: dict[int, Array],
    total: _Total,
) -> None:
    xp = namespace(coefficients)
    reach: Array | None = None if node.bias is None else xp.abs(node.bias)[None]
    for linear, parent in zip(node.maps, node.parents, strict=True):
        largest = magnitude(*bounds[parent])
        share = linear.absolute.apply(largest)
        reach = share if reach is None else reach + share
        _accumulate(pending, parent, linear.adjoint(coefficients), linear.adjoint_terms, _rowwise(largest), total)
    terms = max(math.prod(node.shape), *(m.adjoint_terms for m in node.maps)) + node.terms + 4
    slack = gamma(terms, coefficients) * _flat_sum(xp.abs(coefficients) * _rowwise(reach))
    bias = xp.zeros_like(slack) if node.bias is None else _flat_sum(coefficients * node.bias)
    total.add(bias, slack)


def _through_relaxation(
    node: Node,
    coefficients: Array,
    relaxed: Lines | Planes,
    bounds: Mapping[int, Bounds] | list[Bounds],
    pending: dict[int, Array],
    total: _Total,
) -> None:
    """A positive coefficient takes the line (or plane) below, a negative one the line above."""
    if isinstance(relaxed, Lines):
        slopes = [(relaxed.lower_slope, relaxed.upper_slope)]
    else:
        slopes = [(relaxed.lower_left, relaxed.upper_left), (relaxed.lower_right, relaxed.upper_right)]
    xp = namespace(coefficients)
    positive = xp.clip(coefficients, 0.0, None)
    negative = coefficients - positive  # exact
    low, high = positive * _rowwise(relaxed.lower_offset), negative * _rowwise(relaxed.upper_offset)
    size = xp.abs(low) + xp.abs(high)
    for parent, (lower_slope, upper_slope) in zip(node.parents, slopes, strict=True):
        pulled = positive * _rowwise(lower_slope) + negative * _rowwise(upper_slope)
        reach = _rowwise(magnitude(*bounds[parent]))
        size = size + xp.abs(pulled) * reach
        _accumulate(pending, parent, pulled, 2, reach, total)
    lost = gamma(math.prod(node.shape) + 4, size) * _flat_sum(size) + 2 * math.prod(node.shape) * tiny(size)
    total.add(_flat_sum(low + high), lost)


def dot_box(coefficients: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Least value of coefficients . x over the box, and what rounding may have cost: both `(B, R)`.

    coefficients: (B, R, *shape); lower, upper: (B, *shape).
    """
    xp = namespace(coefficients)
    positive = xp.clip(coefficients, 0.0, None)
    negative = coefficients - positive  # exact
    # 0 * inf is NaN: an entry without weight costs nothing even where its bound is infinite.
    low = xp.where(positive > 0, positive * _rowwise(lower), 0.0 * positive)
    high = xp.where(negative < 0, negative * _rowwise(upper), 0.0 * negative)
    size = xp.abs(low) + xp.abs(high)
    count = math.prod(coefficients.shape[2:])
    return _flat_sum(low + high), gamma(count + 3, size) * _flat_sum(size) + 2 * count * tiny(size)


def _over_region(coefficients: Array, region: Region) -> tuple[Array, Array]:
    """Least value over the region: the box bound, or the dual norm's c . x0 - radius |c|_q where that is larger."""
    value, slack = dot_box(coefficients, region.lower, region.upper)
    if region.center is None or region.radius is None:
        return value, slack
    xp = namespace(coefficients)
    flat = xp.abs(xp.reshape(coefficients, (*coefficients.shape[:2], -1)))
    largest = xp.max(flat, axis=-1)
    dual = largest
    if region.norm == "2":  # scaled by the largest entry: squares of small ones would underflow, of large ones overflow
        unit = xp.where(largest > 0, largest, xp.ones_like(largest))
        dual = largest * xp.linalg.vector_norm(flat / unit[..., None], axis=-1) + tiny(largest)
    at_center = coefficients * _rowwise(region.center)
    ball = _flat_sum(at_center) - region.radius[:, None] * dual
    size = _flat_sum(xp.abs(at_center)) + region.radius[:, None] * dual
    count = math.prod(coefficients.shape[2:])
    ball_slack = gamma(2 * count + 8, size) * size + 2 * (count + 1) * tiny(size) * (1.0 + region.radius[:, None])
    better = ball - ball_slack > value - slack
    return xp.where(better, ball, value), xp.where(better, ball_slack, slack)

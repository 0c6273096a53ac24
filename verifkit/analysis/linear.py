"""Backward linear bounds: one traversal for every method that replaces activations by lines.

Rows over some nodes are pulled back to the input, activation by activation, and bounded there over the region by its
dual norm. Methods differ only in their table of relaxations (CROWN, Fast-Lin, ...); with no lines at all a row is
bounded at the first activation it meets, which is interval propagation.

Every rounding error on the way is bounded and subtracted: an error e in a coefficient of x costs at most |e| |x|, and
interval bounds on every node's value are at hand.

Sources: Zhang et al. 2018 (CROWN), section 3; dual norm: corollary 3.3 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from verifkit.analysis.interval import Bounds, node_bounds
from verifkit.analysis.region import Region, magnitude
from verifkit.analysis.relaxation import Relaxation
from verifkit.analysis.rounding import down, gamma, tiny
from verifkit.analysis.rows import Rows
from verifkit.arrays import Array, like, namespace
from verifkit.budget import Clock
from verifkit.evidence import Lines
from verifkit.functions import Relu, ScalarFunction
from verifkit.network import Network
from verifkit.ops import Activation, Affine

CHUNK = 2**23
"""Entries of one coefficient array: rows are taken in chunks so that memory stays bounded."""


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
    lines: Mapping[int, Lines],
    region: Region,
) -> Array:
    """Rigorous lower bounds `(B, R)` on sum over nodes k of rows[k] . value of node k, over the region.

    rows: node index -> coefficients `(B, R, *node shape)`. bounds: every node's value bounds. lines: activation node
    index -> lines; an activation without lines is bounded by its own interval. `network` is in the arrays' arithmetic
    and has no `Max` (see `Network.without_max`) unless intervals are to bound it.
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
        elif isinstance(node, Activation) and index in lines:
            _through_lines(node, coefficients, lines[index], bounds, pending, total)
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
    bounds: Mapping[int, Bounds] | list[Bounds],
    total: _Total,
) -> None:
    """Adds coefficients, each the sum of `terms` products, to those that other paths left at the parent."""
    reach = _rowwise(magnitude(*bounds[parent]))
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
        share = linear.absolute.apply(magnitude(*bounds[parent]))
        reach = share if reach is None else reach + share
        _accumulate(pending, parent, linear.adjoint(coefficients), linear.adjoint_terms, bounds, total)
    terms = max(math.prod(node.shape), *(m.adjoint_terms for m in node.maps)) + node.terms + 4
    slack = gamma(terms, coefficients) * _flat_sum(xp.abs(coefficients) * _rowwise(reach))
    bias = xp.zeros_like(slack) if node.bias is None else _flat_sum(coefficients * node.bias)
    total.add(bias, slack)


def _through_lines(
    node: Activation,
    coefficients: Array,
    lines: Lines,
    bounds: Mapping[int, Bounds] | list[Bounds],
    pending: dict[int, Array],
    total: _Total,
) -> None:
    xp = namespace(coefficients)
    positive, negative = xp.clip(coefficients, 0.0, None), xp.clip(coefficients, None, 0.0)
    pulled = positive * _rowwise(lines.lower_slope) + negative * _rowwise(lines.upper_slope)
    low, high = positive * _rowwise(lines.lower_offset), negative * _rowwise(lines.upper_offset)
    parent = node.parents[0]
    reach = _rowwise(magnitude(*bounds[parent]))
    size = xp.abs(pulled) * reach + xp.abs(low) + xp.abs(high)
    lost = gamma(math.prod(node.shape) + 4, size) * _flat_sum(size) + 2 * math.prod(node.shape) * tiny(size)
    total.add(_flat_sum(low + high), lost)
    _accumulate(pending, parent, pulled, 2, bounds, total)


def dot_box(coefficients: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Least value of coefficients . x over the box, and what rounding may have cost: both `(B, R)`.

    coefficients: (B, R, *shape); lower, upper: (B, *shape).
    """
    xp = namespace(coefficients)
    positive, negative = xp.clip(coefficients, 0.0, None), xp.clip(coefficients, None, 0.0)
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


@dataclass(frozen=True, eq=False)
class LinearAnalysis:
    """bounds: of every node's value. lines: of every activation whose lines were drawn."""

    network: Network
    region: Region
    bounds: list[Bounds]
    lines: dict[int, Lines] = field(default_factory=dict)

    def property_rows(self, rows: Rows) -> Array:
        """Rigorous lower bounds `(B, R)` on the left side of every row of an unsafe set."""
        sample, batch = self.region.lower, self.region.batch
        last, count = len(self.network.nodes) - 1, rows.outputs.shape[0]
        xp = namespace(sample)
        if not count:  # a disjunct without rows: every input of the set is unsafe
            return xp.zeros((batch, 0), dtype=sample.dtype)
        shape = self.network.output_shape
        start = {last: _expand(rows.outputs.reshape(count, *shape), sample, batch)}
        if rows.inputs is not None:
            start[0] = _expand(rows.inputs.reshape(count, *self.network.input_shape), sample, batch)
        lower = lower_bounds(self.network, start, self.bounds, self.lines, self.region)
        for error, node in ((rows.output_error, last), (rows.input_error, 0)):
            if error is not None:
                shaped = like(error.reshape(count, *self.network.nodes[node].shape), sample)
                cost = _flat_sum(shaped[None] * _rowwise(magnitude(*self.bounds[node])))
                terms = math.prod(shaped.shape[1:])
                lower = down(lower - cost * (1.0 + 2.0 * gamma(terms, cost)) - terms * tiny(cost))
        return xp.where(xp.isnan(lower), -xp.inf * xp.ones_like(lower), lower)


def _expand(rows: np.ndarray, sample: Array, batch: int) -> Array:
    array = like(rows, sample)
    return namespace(sample).broadcast_to(array[None], (batch, *rows.shape))


def analyse(
    network: Network,
    region: Region,
    relaxations: Mapping[type[ScalarFunction], Relaxation],
    clock: Clock,
    *,
    tighten: bool = True,
) -> LinearAnalysis:
    """Bounds and lines for every node, in topological order.

    Interval bounds come first; where `tighten`, the inputs of activations are then bounded by a backward pass of
    their own - only the entries whose interval leaves the activation undecided need one. With an empty table this is
    interval propagation. Calls `clock.check` between chunks.
    """
    network = network.cast(region.lower)
    result = LinearAnalysis(network, region, [(region.lower, region.upper)])
    activated = {node.parents[0] for _, node in network.activations() if type(node.function) in relaxations}
    for index, node in enumerate(network.nodes):
        clock.check()
        if index:
            result.bounds.append(node_bounds(node, [result.bounds[p] for p in node.parents]))
        if index in activated and tighten and isinstance(node, Affine):
            result.bounds[index] = _tightened(result, index, clock)
        if isinstance(node, Activation) and type(node.function) in relaxations:
            result.lines[index] = relaxations[type(node.function)](*result.bounds[node.parents[0]])
    return result


def _tightened(analysis: LinearAnalysis, index: int, clock: Clock) -> Bounds:
    """The node's bounds intersected with backward bounds of the entries that some activation leaves undecided."""
    lower, upper = analysis.bounds[index]
    if not analysis.lines and analysis.region.center is None:
        return lower, upper  # affine in the input over a box: the interval is as tight already
    xp = namespace(lower)
    node = analysis.network.nodes[index]
    size, batch = math.prod(node.shape), analysis.region.batch
    kept = _undecided(analysis, index, xp.reshape(lower, (batch, -1)), xp.reshape(upper, (batch, -1)))
    flat_lower, flat_upper = xp.reshape(lower, (batch, -1)), xp.reshape(upper, (batch, -1))
    widest = max(math.prod(n.shape) for n in analysis.network.nodes[: index + 1])
    step = max(1, CHUNK // (2 * batch * widest))
    lows, highs = [], []
    for start in range(0, kept.size, step):
        clock.check()
        chosen = kept[start : start + step]
        unit = np.zeros((2 * chosen.size, size))
        unit[np.arange(chosen.size), chosen] = 1.0
        unit[chosen.size + np.arange(chosen.size), chosen] = -1.0
        rows = _expand(unit.reshape(-1, *node.shape), lower, batch)
        found = lower_bounds(analysis.network, {index: rows}, analysis.bounds, analysis.lines, analysis.region)
        lows.append(found[:, : chosen.size])
        highs.append(-found[:, chosen.size :])
    if not lows:
        return lower, upper
    place = np.full(size, -1)
    place[kept] = np.arange(kept.size)
    shape = (batch, *node.shape)
    return (
        xp.reshape(_merge(flat_lower, xp.concat(lows, axis=1), place, xp.maximum), shape),
        xp.reshape(_merge(flat_upper, xp.concat(highs, axis=1), place, xp.minimum), shape),
    )


def _undecided(analysis: LinearAnalysis, index: int, lower: Array, upper: Array) -> np.ndarray:
    """Flat indices whose sign is open in some batch entry, or all of them where a smooth function follows."""
    readers = [n for _, n in analysis.network.activations() if n.parents[0] == index]
    if any(not isinstance(n.function, Relu) for n in readers):
        return np.arange(lower.shape[1])
    return np.flatnonzero(np.asarray(((lower < 0) & (upper > 0)).any(axis=0)))


def _merge(old: Array, new: Array, place: np.ndarray, better: Callable[[Array, Array], Array]) -> Array:
    """`old` with the columns in `place` improved by `new`; a NaN improves nothing."""
    xp = namespace(old)
    spread = new[:, np.where(place < 0, 0, place)]
    usable = xp.asarray(place >= 0)[None] & ~xp.isnan(spread)
    return xp.where(usable, better(old, xp.where(usable, spread, old)), old)

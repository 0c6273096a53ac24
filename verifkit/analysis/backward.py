"""Backward linear bounds: one traversal for every method that replaces activations by lines, and products by planes.

Rows over some nodes are pulled back to the input, activation by activation, and bounded there over the region. Methods
differ only in their table of relaxations (CROWN, Fast-Lin, ...) and in the multipliers they add; with no lines at all a
row is bounded at the first activation it meets, which is interval propagation.

Every rounding error on the way is bounded and subtracted: an error e in a coefficient of x costs at most |e| |x|, and
interval bounds on every node's value are at hand.

Sources: Zhang et al. 2018 (CROWN), section 3; multipliers on a node's bounds: Wang et al. 2021 (beta-CROWN), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from verifkit.analysis.interval import Bounds
from verifkit.analysis.region import Region, magnitude
from verifkit.analysis.rounding import down, gamma, tiny
from verifkit.analysis.support import dot_box, least_over
from verifkit.arrays import Array, namespace
from verifkit.evidence import Held, Lines, Planes
from verifkit.ops import Affine, Node

Relaxed = Mapping[int, Lines | Planes]
"""Node index -> lines of an activation, or planes of a product."""


def lower_bounds(
    network: Graph,
    rows: Mapping[int, Array],
    bounds: Mapping[int, Bounds] | Sequence[Bounds],
    relaxed: Relaxed,
    region: Region,
    held: Held | None = None,
    reach: Reach | None = None,
    trace: dict[int, Array] | None = None,
) -> Array:
    """Rigorous lower bounds `(B, R)` on sum over nodes k of rows[k] . value of node k, over the region.

    rows: node index -> coefficients `(B, R, *node shape)`. bounds: every node's value bounds. relaxed: the lines or
    planes of activations and products, `(B, *node shape)` or one for each row `(B, R, *node shape)`; an activation or
    product without is bounded by its own interval. held: node index -> multipliers, not negative, `(B, R, *node shape)`
    on "value >= lower bound" and "value <= upper bound" there; whatever they are, the bound holds, and NaN claims
    nothing. `network` is in the arrays' arithmetic and has no `Max` (see `Network.without_max`) unless intervals are to
    bound it. reach: what may be kept from one call to the next while no bound grows. trace: takes the coefficients,
    `(B, R, *shape)`, with which the rows arrived at every activation and product, and at the input.
    """
    ground = reach or Reach(network, bounds)
    return _Pass(network, bounds, relaxed, region, held or {}, ground, {} if trace is None else trace).run(rows)


class Graph(Protocol):
    """A network, or as much of one as there is yet."""

    @property
    def nodes(self) -> Sequence[Node]: ...


class Reach:
    """How large the values of nodes can be: what errors in their coefficients cost. Computed once for each node.

    It may be kept while bounds only get tighter.
    """

    def __init__(self, network: Graph, bounds: Mapping[int, Bounds] | Sequence[Bounds]) -> None:
        self._network, self._bounds = network, bounds
        self._largest: dict[int, tuple[Array, Array]] = {}
        self._sums: dict[int, Array] = {}

    def forget(self, index: int) -> None:
        """The node's bounds, or its shape, are new."""
        self._largest.pop(index, None)
        self._sums.pop(index, None)

    def of(self, index: int) -> tuple[Array, Array]:
        """The largest size of each value of a node, as a column `(B, n, 1)`, and their sum `(B, 1)`."""
        if index not in self._largest:
            largest = magnitude(*self._bounds[index])
            column = namespace(largest).reshape(largest, (largest.shape[0], -1, 1))
            self._largest[index] = column, namespace(largest).sum(column, axis=1)
        return self._largest[index]

    def of_terms(self, index: int) -> Array:
        """Of an affine node: the largest sum of the sizes of the terms of each entry, bias included, `(B, n, 1)`."""
        if index not in self._sums:
            node = self._network.nodes[index]
            assert isinstance(node, Affine)
            total: Array | None = None
            for linear, parent in zip(node.maps, node.parents, strict=True):
                share = linear.absolute.apply(magnitude(*self._bounds[parent]))
                total = share if total is None else total + share
            assert total is not None
            xp = namespace(total)
            if node.bias is not None:
                total = total + xp.abs(node.bias)
            self._sums[index] = xp.reshape(total, (total.shape[0], -1, 1))
        return self._sums[index]


@dataclass(eq=False)
class _Total:
    """The constant part of a row's bound as it grows, with what rounding may have cost. All `(B, R)`."""

    constant: Array
    size: Array
    slack: Array
    terms: int = 0
    losses: int = 0

    def add(self, values: Array, slack: Array) -> None:
        self.constant = self.constant + values
        self.size = self.size + namespace(values).abs(values)
        self.terms += 1
        self.lose(slack)

    def lose(self, slack: Array) -> None:
        self.slack = self.slack + slack
        self.losses += 1

    def lower(self) -> Array:
        error = gamma(self.terms + 2, self.constant) * self.size
        error = error + self.slack * (1.0 + gamma(self.losses + 4, self.slack))
        return down(self.constant - error - tiny(self.constant))


class _Pass:
    """One traversal from the rows' nodes down to the input."""

    def __init__(
        self,
        network: Graph,
        bounds: Mapping[int, Bounds] | Sequence[Bounds],
        relaxed: Relaxed,
        region: Region,
        held: Held,
        reach: Reach,
        trace: dict[int, Array],
    ) -> None:
        self.network, self.bounds, self.relaxed, self.region = network, bounds, relaxed, region
        self.held, self.reach, self.trace = held, reach, trace
        self.pending: dict[int, Array] = {}

    def run(self, rows: Mapping[int, Array]) -> Array:
        self.pending = dict(rows)
        first = next(iter(rows.values()))
        zero = namespace(first).zeros(first.shape[:2], dtype=first.dtype, device=first.device)
        self.total = _Total(zero, zero, zero)
        for index in range(max(self.pending), 0, -1):
            coefficients = self.pending.pop(index, None)
            if coefficients is None:
                continue
            node = self.network.nodes[index]
            if index in self.held:
                coefficients = self._hold(index, coefficients)
            if isinstance(node, Affine):
                self._through_affine(index, node, coefficients)
                continue
            self.trace[index] = coefficients
            if index in self.relaxed:
                self._through_relaxation(node, coefficients, self.relaxed[index])
            else:
                self.total.add(*dot_box(coefficients, *self.bounds[index]))
        if 0 in self.pending:
            coefficients = self.pending.pop(0)
            coefficients = self.trace[0] = self._hold(0, coefficients) if 0 in self.held else coefficients
            self.total.add(*least_over(coefficients, self.region))
        return self.total.lower()

    def _hold(self, index: int, coefficients: Array) -> Array:
        """c z >= (c - m + n) z + m l - n u for multipliers m, n >= 0, as l <= z <= u."""
        below, above = self.held[index]
        xp = namespace(coefficients)
        low, high = (xp.reshape(end, (end.shape[0], -1, 1)) for end in self.bounds[index])
        # A multiplier on a bound that is infinite says nothing, and a negative one is none.
        below, above = (xp.where(xp.isfinite(end)[:, None], xp.clip(m, 0.0, None), xp.zeros_like(m))
                        for end, m in zip(self.bounds[index], self.held[index], strict=True))  # fmt: skip
        low, high = (xp.where(xp.isfinite(end), end, xp.zeros_like(end)) for end in (low, high))
        flat_below, flat_above = _flat(below), _flat(above)
        value = (flat_below @ low - flat_above @ high)[..., 0]
        size = (flat_below @ xp.abs(low) + flat_above @ xp.abs(high))[..., 0]
        count = low.shape[1]
        largest, total = self.reach.of(index)
        shifted = coefficients - below + above
        moved = ((xp.abs(_flat(coefficients)) + flat_below + flat_above) @ largest)[..., 0]
        lost = gamma(2, size) * moved * (1.0 + gamma(count + 4, size)) + 2 * tiny(size) * total
        self.total.add(value, gamma(2 * count + 4, size) * size + 4 * count * tiny(size) + lost)
        return shifted

    def _through_affine(self, index: int, node: Affine, coefficients: Array) -> None:
        xp = namespace(coefficients)
        flat = _flat(coefficients)
        for linear, parent in zip(node.maps, node.parents, strict=True):
            self._accumulate(parent, linear.adjoint(coefficients), linear.adjoint_terms)
        terms = max(math.prod(node.shape), *(m.adjoint_terms for m in node.maps)) + node.terms + 4
        slack = gamma(terms, coefficients) * (xp.abs(flat) @ self.reach.of_terms(index))[..., 0]
        if node.bias is None:
            self.total.lose(slack)
        else:
            self.total.add((flat @ xp.reshape(node.bias, (-1, 1)))[..., 0], slack)

    def _through_relaxation(self, node: Node, coefficients: Array, relaxed: Lines | Planes) -> None:
        """A positive coefficient takes the line (or plane) below, a negative one the line above."""
        if isinstance(relaxed, Lines):
            slopes = [(relaxed.lower_slope, relaxed.upper_slope)]
        else:
            slopes = [(relaxed.lower_left, relaxed.upper_left), (relaxed.lower_right, relaxed.upper_right)]
        xp = namespace(coefficients)
        positive = xp.clip(coefficients, 0.0, None)
        negative = coefficients - positive  # exact
        value, size = _dot_offset(positive, relaxed.lower_offset)
        above, above_size = _dot_offset(negative, relaxed.upper_offset)
        value, size = value + above, size + above_size
        for parent, (lower_slope, upper_slope) in zip(node.parents, slopes, strict=True):
            pulled = positive * self._rowwise(lower_slope, node) + negative * self._rowwise(upper_slope, node)
            size = size + (xp.abs(_flat(pulled)) @ self.reach.of(parent)[0])[..., 0]
            self._accumulate(parent, pulled, 2)
        entries = math.prod(node.shape)
        self.total.add(value, gamma(entries + 6, size) * size + 4 * entries * tiny(size))

    def _rowwise(self, x: Array, node: Node) -> Array:
        """`(B, *shape)` as `(B, 1, *shape)`; what has a row axis stays."""
        return x[:, None, ...] if x.ndim == 1 + len(node.shape) else x

    def _accumulate(self, parent: int, pulled: Array, terms: int) -> None:
        """Adds coefficients, each the sum of `terms` products, to those that other paths left at the parent."""
        largest, total = self.reach.of(parent)
        # A coefficient that underflowed is off by less than `tiny`, but its value may be large.
        self.total.lose(terms * tiny(total) * total)
        if parent not in self.pending:
            self.pending[parent] = pulled
            return
        merged = self.pending[parent] + pulled
        self.pending[parent] = merged
        lost = (namespace(merged).abs(_flat(merged)) @ largest)[..., 0]
        self.total.lose(gamma(largest.shape[1] + 2, merged) * lost)


def _flat(x: Array) -> Array:
    """All axes but the first two as one."""
    return namespace(x).reshape(x, (*x.shape[:2], -1))


def _dot_offset(coefficients: Array, offset: Array) -> tuple[Array, Array]:
    """coefficients . offset and the same of absolute values, `(B, R)`; offset with or without a row axis.

    All coefficients have one sign.
    """
    xp, flat = namespace(coefficients), _flat(coefficients)
    if offset.ndim == coefficients.ndim:
        terms = flat * _flat(offset)
        return xp.sum(terms, axis=-1), xp.sum(xp.abs(terms), axis=-1)
    column = xp.reshape(offset, (offset.shape[0], -1, 1))
    if not bool(xp.any(column != 0)):
        zero = xp.zeros(flat.shape[:2], dtype=flat.dtype, device=flat.device)
        return zero, zero
    value = (flat @ column)[..., 0]
    return value, xp.abs(value if bool(xp.all(column >= 0)) else (flat @ xp.abs(column))[..., 0])

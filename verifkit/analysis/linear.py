"""Linear bounds on every node of a network: intervals first, then lines and planes, and backward passes to tighten.

Sources: Zhang et al. 2018 (CROWN), section 3. The backward pass itself is in `backward`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from verifkit.analysis.backward import lower_bounds
from verifkit.analysis.compact import Compact
from verifkit.analysis.interval import Bounds, needs_signs, node_bounds
from verifkit.analysis.linear_analysis import LinearAnalysis, joined
from verifkit.analysis.products import product_planes
from verifkit.analysis.ranges import all_finite
from verifkit.analysis.readers import Kinks, holding, readers, undecided
from verifkit.analysis.region import Region
from verifkit.analysis.relaxation import Relaxation, adapted, crown_relu
from verifkit.analysis.rounding import down
from verifkit.analysis.slopes import Ascent, raise_rows
from verifkit.analysis.windows import WindowPass, window_chain
from verifkit.arrays import Array, namespace
from verifkit.budget import Clock
from verifkit.evidence import Lines, Planes
from verifkit.functions import ScalarFunction
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Node, Product
from verifkit.sparse_maps import Sparse
from verifkit.weighted_maps import Dense

CHUNK = 2**18
"""Entries of one coefficient array: rows are taken in chunks that a processor's cache holds."""

WIDE = 128
"""From this many entries in some node on, the regions of a batch are analysed one by one: each then has rows of its
own, and matrices without the units that it does not use."""


def analyse(
    network: Network,
    region: Region,
    relaxations: Mapping[type[ScalarFunction], Relaxation],
    clock: Clock,
    *,
    tighten: bool = True,
    ascent: Ascent | None = None,
) -> LinearAnalysis:
    """Bounds and lines for every node, in topological order.

    Interval bounds come first; where `tighten`, what activations and products read is then bounded by a backward pass
    of its own - only the entries whose interval leaves the activation undecided need one. With an empty table this is
    interval propagation; with any other one products get planes. An activation or product whose lines or planes
    would be infinite has none, and is bounded by its interval. ascent: optimise the slopes of the rows that leave a
    reader undecided. Calls `clock.check` between chunks.
    """
    widest = max(math.prod(node.shape) for node in network.nodes[1:] or network.nodes)
    if region.batch > 1 and tighten and relaxations and widest >= WIDE:
        parts = tuple(analyse(network, part, relaxations, clock, ascent=ascent) for part in region.single())
        return joined(parts, region)
    with np.errstate(all="ignore"):
        return _Builder(network.cast(region.lower), region, relaxations, clock, ascent, tighten=tighten).build()


class _Builder:
    """One analysis as it grows, node by node."""

    def __init__(
        self,
        network: Network,
        region: Region,
        relaxations: Mapping[type[ScalarFunction], Relaxation],
        clock: Clock,
        ascent: Ascent | None,
        *,
        tighten: bool,
    ) -> None:
        self.network, self.region, self.relaxations, self.clock = network, region, relaxations, clock
        self.ascent, self.tighten = ascent, tighten
        self.own: dict[int, Bounds] = {}  # backward bounds alone, where there are some
        self.compact = Compact(network, region, relaxing=bool(relaxations), removing=tighten)
        self.result = LinearAnalysis(network, region, [(region.lower, region.upper)], compact=self.compact)

    def build(self) -> LinearAnalysis:
        compact, result, signs = self.compact, self.result, needs_signs(self.network)
        found = readers(self.network, self.relaxations) if self.tighten else {}
        for index, node in enumerate(self.network.nodes[1:], start=1):
            self.clock.check()
            bounds = node_bounds(node, [result.bounds[p] for p in node.parents], signs=signs)
            compact.append(node, bounds)
            if index in found:
                bounds = self._tightened(index, bounds, found[index])
                compact.tighten(bounds)
            self.result.bounds.append(bounds)
            relaxed = self._relaxed(node)
            if relaxed is None:
                continue
            if isinstance(relaxed, Lines):
                result.lines[index] = relaxed
            else:
                result.planes[index] = relaxed
            compact.relax(relaxed)
        return result

    def _relaxed(self, node: Node) -> Lines | Planes | None:
        """Lines or planes of a node, if there is a rule for it and they are finite."""
        relaxed: Lines | Planes
        parents = [self.result.bounds[p] for p in node.parents]
        if isinstance(node, Activation) and type(node.function) in self.relaxations:
            relaxation = self.relaxations[type(node.function)]
            relaxed = relaxation(node.function, *parents[0])
            if relaxation is crown_relu and node.parents[0] in self.own:
                relaxed = adapted(relaxed, parents[0], self.own[node.parents[0]])
        elif isinstance(node, Product) and self.relaxations:
            relaxed = product_planes(*parents, same=node.parents[0] == node.parents[1])
        else:
            return None
        return relaxed if all_finite(relaxed.lower_offset, relaxed.upper_offset) else None

    def _tightened(self, index: int, bounds: Bounds, kinks: Kinks) -> Bounds:
        """The node's bounds intersected with backward bounds of the entries that some reader leaves undecided.

        Upper ends come first: a unit that turns out not to be positive is decided by that.
        """
        lower, upper = bounds
        if not self.compact.relaxed and self.region.center is None:
            return bounds  # affine in the input over a box: the interval is as tight already
        xp, own_lower, own_upper = namespace(lower), lower, upper
        chosen = undecided(lower, upper, kinks)
        if chosen.size:
            found = -_where_open(self._rows(index, chosen, -1.0, kinks), holding(lower, upper, kinks), chosen)
            own_upper = _merged(upper, chosen, found, lambda _, new: new)
            upper = _merged(upper, chosen, found, xp.minimum)
            if kinks == [0.0]:
                chosen = undecided(lower, upper, kinks)
        if chosen.size:
            found = _where_open(self._rows(index, chosen, 1.0, kinks), holding(lower, upper, kinks), chosen)
            own_lower = _merged(lower, chosen, found, lambda _, new: new)
            lower = _merged(lower, chosen, found, xp.maximum)
        self.own[index] = own_lower, own_upper
        return lower, upper

    def _rows(self, index: int, chosen: np.ndarray, sign: float, kinks: Kinks) -> Array:
        """Lower bounds `(B, entries)` on sign * value of the chosen entries of the last node."""
        xp, compact = namespace(self.region.lower), self.compact
        # Where readers have their only kink at 0, a bound beyond it has done its work.
        goal = xp.full_like(self.region.lower, 0.0 if kinks == [0.0] else xp.inf)
        goal = xp.reshape(goal, (self.region.batch, -1))[:, :1]
        if self.ascent is None and self.compact.flat and self.region.center is None:
            windowed = self._windowed(index, chosen, sign)
            if windowed is not None:
                return windowed
        widest = max(math.prod(n.shape) for n in compact.nodes)
        step = chosen.size if self.ascent else max(1, CHUNK // (self.region.batch * widest))
        found = []
        for start in range(0, chosen.size, step):
            self.clock.check()
            rows, constant = self._unit_rows(index, chosen[start : start + step], sign)
            if self.ascent is not None:
                found.append(raise_rows(compact, rows, constant, goal, self.ascent, self.clock).lower)
                continue
            lower = lower_bounds(compact, rows, compact.bounds, compact.relaxed, compact.region, reach=compact.reach)
            found.append(lower if constant is None else down(lower + constant))
        return xp.concat(found, axis=1)

    def _windowed(self, index: int, chosen: np.ndarray, sign: float) -> Array | None:
        """The same for an entry of a chain of convolutions, whose rows are small windows; None for any other."""
        chain = window_chain(self.network, index, self.result.lines)
        if chain is None or len(chain) < 3:
            return None
        known = [*self.result.bounds, self.compact.bounds[index]]
        return WindowPass(self.network, chain, known, self.result.lines, self.region).lower(chosen, sign)

    def _unit_rows(self, index: int, chosen: np.ndarray, sign: float) -> tuple[dict[int, Array], Array | None]:
        """sign * the chosen entries, as rows over the node's parents and constants where it is made of matrices."""
        node, batch, xp = self.compact.nodes[index], self.region.batch, namespace(self.region.lower)
        if not isinstance(node, Affine) or not _plain(node):
            unit = np.zeros((chosen.size, math.prod(node.shape)))
            unit[np.arange(chosen.size), chosen] = sign
            return {index: self.result.expand(unit.reshape(-1, *node.shape))}, None
        rows = {}
        for linear, parent in zip(node.maps, node.parents, strict=True):
            if isinstance(linear, Dense):
                picked = sign * linear.weight[chosen]
            else:
                assert isinstance(linear, Sparse)
                picked = np.asarray((sign * linear.matrix[chosen]).toarray(order="F"))
            shaped = xp.reshape(picked, (1, -1, *linear.in_shape))
            rows[parent] = xp.broadcast_to(shaped, (batch, *shaped.shape[1:]))
        return rows, None if node.bias is None else sign * xp.reshape(node.bias, (1, -1))[:, chosen]


def _plain(node: Affine) -> bool:
    """Whether the node is made of matrices, one for each of its parents."""
    plain = all((isinstance(m, Dense) and math.prod(m.outer) == 1) or isinstance(m, Sparse) for m in node.maps)
    return plain and len(set(node.parents)) == len(node.parents)


def _where_open(found: Array, open_ones: Array, chosen: np.ndarray) -> Array:
    """Bounds (B, entries) of the chosen entries, NaN in the regions that leave an entry decided: as if asked alone."""
    xp = namespace(found)
    mask = xp.reshape(open_ones, (found.shape[0], -1))[:, chosen]
    return xp.where(mask, found, xp.full_like(found, xp.nan))


def _merged(old: Array, chosen: np.ndarray, new: Array, better: Callable[[Array, Array], Array]) -> Array:
    """`old` with the flat entries `chosen` improved by `new` (B, entries); a NaN improves nothing."""
    xp, batch = namespace(old), old.shape[0]
    flat = xp.reshape(old, (batch, -1))
    place = np.full(flat.shape[1], -1)
    place[chosen] = np.arange(chosen.size)
    spread = new[:, np.where(place < 0, 0, place)]
    usable = xp.asarray(place >= 0, device=old.device)[None] & ~xp.isnan(spread)
    return xp.reshape(xp.where(usable, better(flat, xp.where(usable, spread, flat)), flat), old.shape)

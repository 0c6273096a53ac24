"""Zonotopes through a network: the affine forms of every node, from the input to the output.

Affine nodes are exact on affine forms; an activation becomes a pair of parallel lines, a product a pair of parallel
planes, each with one new symbol per entry. Branches that meet again are correlated by the symbols they share. A row
over the output is the same affine form that a backward pass with the same lines finds.

Sources: Gehr et al. (AI2), IEEE S&P 2018, section IV; Singh et al. (DeepZ), NeurIPS 2018, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from verifkit.analysis.affine_forms import Forms, InputSymbols, boxed, capacity, combined, reduced, relaxed
from verifkit.analysis.interval import Bounds, needs_signs, node_bounds
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.parallel import PARALLEL_RELAXATIONS, parallel_planes
from verifkit.analysis.ranges import all_finite
from verifkit.analysis.readers import Kinks, readers, undecided
from verifkit.analysis.region import Region
from verifkit.analysis.relaxation import Relaxation
from verifkit.analysis.rows import Rows
from verifkit.arrays import Array, float_type, like, namespace
from verifkit.budget import Clock
from verifkit.evidence import Lines, Planes
from verifkit.functions import ScalarFunction
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Node, Product
from verifkit.weighted_maps import Dense


@dataclass(frozen=True, eq=False)
class ZonotopeAnalysis:
    """linear: bounds of every node, with the lines and planes that were used. inputs, outputs: forms of the first and
    the last node, in the symbols `symbols`, of reach `reach`. reduced: some node may have lost symbols."""

    linear: LinearAnalysis
    symbols: InputSymbols
    reach: Array
    inputs: Forms
    outputs: Forms
    reduced: bool

    def property_rows(self, rows: Rows) -> Array:
        """Rigorous lower bounds `(B, R)` on the left side of every row of an unsafe set, by the output's zonotope."""
        return namespace(self.reach).stack(self.rows_each([rows] * self.linear.region.batch), axis=0)

    def rows_each(self, rows: Sequence[Rows]) -> list[Array]:
        """The same (R,) for each region of the batch, with an unsafe set of its own."""
        with np.errstate(all="ignore"):
            return [self._rows_of(entry, each) for entry, each in enumerate(rows)]

    def _rows_of(self, entry: int, rows: Rows) -> Array:
        if not rows.outputs.shape[0]:  # a disjunct without rows: every input of the set is unsafe
            return namespace(self.reach).zeros(0, dtype=self.reach.dtype, device=self.reach.device)
        lower = self.symbols.least(row_forms(rows, self.inputs, self.outputs, self.reach))
        return self.linear.one(entry).certain([rows], lower[entry : entry + 1])[0]


def row_forms(rows: Rows, inputs: Forms, outputs: Forms, reach: Array) -> Forms:
    """The forms (B, R) of the rows' left sides, with the stored coefficients."""
    rows = rows.held_in(float_type(outputs.center))
    maps, parents = [Dense(like(rows.outputs, outputs.center))], [outputs.flat]
    if rows.inputs is not None:
        maps.append(Dense(like(rows.inputs, outputs.center)))
        parents.append(inputs.flat)
    return combined(maps, parents, None, (rows.outputs.shape[0],), reach)


def zonotopes(
    network: Network,
    region: Region,
    clock: Clock,
    *,
    relaxations: Mapping[type[ScalarFunction], Relaxation] = PARALLEL_RELAXATIONS,
    generators: int | None = None,
) -> ZonotopeAnalysis:
    """Affine forms and bounds of every node, in topological order; the network has no `Max`.

    relaxations: to lines with one slope (see `parallel`). generators: how many symbols a node may keep, those of a
    ball's input not counted (the others go to an interval around it); None keeps all that memory holds. Bounds are the
    better of the interval and the zonotope where something that reads the node needs to know, as in `linear.analyse`:
    with the same lines and all symbols, both give the same.
    Calls `clock.check` between nodes.
    """
    with np.errstate(all="ignore"):
        return _Builder(network.cast(region.lower), region, relaxations, clock, generators).build()


class _Builder:
    """One analysis as it grows, node by node."""

    def __init__(
        self,
        network: Network,
        region: Region,
        relaxations: Mapping[type[ScalarFunction], Relaxation],
        clock: Clock,
        generators: int | None,
    ) -> None:
        self.network, self.region, self.relaxations = network, region, relaxations
        self.clock, self.generators = clock, generators
        self.result = LinearAnalysis(network, region, [(region.lower, region.upper)])
        self.symbols = InputSymbols(region)
        self.reach = self.symbols.reach
        self.forms: dict[int, Forms] = {0: self.symbols.forms()}
        self.cut = False

    def build(self) -> ZonotopeAnalysis:
        signs, inputs = needs_signs(self.network), self.forms[0]
        needed = readers(self.network, self.relaxations)
        last_reader = {p: index for index, node in enumerate(self.network.nodes) for p in node.parents}
        for index, node in enumerate(self.network.nodes[1:], start=1):
            self.clock.check()
            bounds = self.result.bounds
            bounds.append(node_bounds(node, [bounds[p] for p in node.parents], signs=signs))
            self.forms[index] = self._forms(index, node)
            if index in needed:
                bounds[index] = self._tightened(index, needed[index])
            for parent in set(node.parents):
                if last_reader[parent] == index:
                    del self.forms[parent]
        return ZonotopeAnalysis(self.result, self.symbols, self.reach, inputs, self.forms[len(bounds) - 1], self.cut)

    def _forms(self, index: int, node: Node) -> Forms:
        shapes = [self.network.nodes[k].shape for k in (index, *node.parents)]
        room = capacity(self.region.batch, *shapes)
        limit = room if self.generators is None else min(room, self.generators)
        parents = [self._reduced(self.forms[p], limit) for p in node.parents]
        if isinstance(node, Affine):
            forms = combined(node.maps, parents, node.bias, node.shape, self.reach, self.clock)
        else:
            forms = self._relaxed(index, node, parents, limit)
            self._reach_to(forms)
        return self._reduced(forms, limit)

    def _reduced(self, forms: Forms, limit: int) -> Forms:
        fixed = 0 if self.region.center is None else self.symbols.count  # boxed, they would lose the ball's shape
        self.cut |= limit < max(forms.symbols.size - fixed, math.prod(forms.center.shape[1:]))
        return reduced(forms, self.reach, limit, fixed)

    def _relaxed(self, index: int, node: Node, parents: Sequence[Forms], limit: int) -> Forms:
        """By parallel lines or planes where they are finite, else by the interval."""
        found, first = self._lines(node, [self.result.bounds[p] for p in node.parents]), self.reach.shape[1]
        if found is None or not all_finite(found.lower_offset, found.upper_offset):
            return boxed(*self.result.bounds[index], first, limit)
        if isinstance(found, Lines):
            self.result.lines[index] = found
            slopes = [found.lower_slope]
        else:
            self.result.planes[index] = found
            slopes = [found.lower_left, found.lower_right]
        return relaxed(parents, slopes, found.lower_offset, found.upper_offset, self.reach, first, limit)

    def _lines(self, node: Node, parents: Sequence[Bounds]) -> Lines | Planes | None:
        if isinstance(node, Activation) and type(node.function) in self.relaxations:
            return self.relaxations[type(node.function)](node.function, *parents[0])
        if isinstance(node, Product):
            return parallel_planes(*parents, same=node.parents[0] == node.parents[1])
        return None

    def _reach_to(self, forms: Forms) -> None:
        """New symbols have a reach of 1."""
        xp, known = namespace(self.reach), self.reach.shape[1]
        fresh = int(forms.symbols[-1]) + 1 - known if forms.symbols.size else 0
        if fresh > 0:
            ones = xp.ones((self.reach.shape[0], fresh), dtype=self.reach.dtype, device=self.reach.device)
            self.reach = xp.concat([self.reach, ones], axis=1)

    def _tightened(self, index: int, kinks: Kinks) -> Bounds:
        """The node's interval cut to its zonotope's, in the entries that some reader leaves undecided."""
        lower, upper = self.result.bounds[index]
        below, above = self.symbols.bounds(self.forms[index])
        upper = _cut(upper, above, undecided(lower, upper, kinks), above < upper)
        return _cut(lower, below, undecided(lower, upper, kinks), below > lower), upper


def _cut(old: Array, new: Array, chosen: np.ndarray, better: Array) -> Array:
    """`new` in the flat entries `chosen` where it is better."""
    xp = namespace(old)
    mask = np.zeros(old[0, ...].size if isinstance(old, np.ndarray) else old[0].numel(), dtype=bool)
    mask[chosen] = True
    shape = tuple(old.shape[1:])
    return xp.where(xp.asarray(mask.reshape(1, *shape), device=old.device) & better, new, old)

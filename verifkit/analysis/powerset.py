"""A bounded powerset of zonotopes through a ReLU network, by case splits and joins.

ReLU_i(a) = (a meet {x_i >= 0}) join I_(x_i <- 0)(a meet {x_i < 0}), unit by unit. Both sides of a split have the same
affine forms in all entries but the i-th, so that a case is its halfspaces, and the join of the two sides keeps the
forms and drops the newest halfspace: only the i-th entry needs a new form, which holds x_i where it is positive, and 0.

Source: Gehr et al. (AI2), IEEE S&P 2018, sections III and IV.
"""

from __future__ import annotations

import math

import numpy as np

from verifkit.analysis.affine_forms import Forms, InputSymbols, boxed, capacity, combined, reduced, relaxed
from verifkit.analysis.interval import Bounds, node_bounds
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.parallel import parallel_relu
from verifkit.analysis.ranges import all_finite
from verifkit.analysis.region import Region
from verifkit.analysis.rows import Rows
from verifkit.analysis.zonotope import row_forms
from verifkit.analysis.zonotope_meet import Halfspaces, case_bounds, met_bounds
from verifkit.budget import Clock
from verifkit.evidence import Lines
from verifkit.network import Network
from verifkit.ops import Activation, Affine


class Powerset:
    """A network's values over a region (a batch of one) as the union of at most `limit` cases.

    The network has ReLU activations only. bounds: of every node, (1, *shape), over all cases. Calls `clock.check`.
    chord: join by the chord's slope, as DeepZ; else by the slope 0, which is the common part of the two sides' forms.
    """

    def __init__(self, network: Network, region: Region, limit: int, *, chord: bool, clock: Clock) -> None:
        self.network, self.limit, self.chord, self.clock = network, limit, chord, clock
        self.symbols = InputSymbols(region)
        self.reach = self.symbols.reach
        self.halfspaces = Halfspaces.none()
        self.forms: dict[int, Forms] = {0: self.symbols.forms()}
        self.ranges: dict[int, Bounds] = {0: (region.lower, region.upper)}
        self.bounds: list[Bounds] = [self.ranges[0]]
        self.linear = LinearAnalysis(network, region, self.bounds)
        self._inputs = self.forms[0]
        with np.errstate(all="ignore"):
            self._run()

    @property
    def cases(self) -> int:
        return int(self.halfspaces.center.shape[0])

    def property_rows(self, rows: Rows) -> np.ndarray:
        """Rigorous lower bounds (cases, R) on the left side of every row of an unsafe set, case by case."""
        count = rows.outputs.shape[0]
        if not count:  # a disjunct without rows: every input of the set is unsafe
            return np.zeros((self.cases, 0))
        with np.errstate(all="ignore"):
            forms = row_forms(rows, self._inputs, self.forms[len(self.network.nodes) - 1], self.reach)
            lower = case_bounds(self.symbols, forms, self.cases)[0]
            if self.halfspaces.count:
                met = met_bounds(self.symbols, self.reach, forms, np.arange(count), self.halfspaces, self.clock)[0]
                lower = np.where(met > lower, met, lower)
            return np.concatenate([self.linear.certain([rows], case[None]) for case in lower])

    def _run(self) -> None:
        nodes = self.network.nodes
        last_reader = {p: index for index, node in enumerate(nodes) for p in node.parents}
        for index, node in enumerate(nodes[1:], start=1):
            self.clock.check()
            if isinstance(node, Affine):
                parents = [reduced(self.forms[p], self.reach, self._room(index)) for p in node.parents]
                self.forms[index] = combined(node.maps, parents, node.bias, node.shape, self.reach, self.clock)
                self._bound(index)
            else:
                assert isinstance(node, Activation)
                self._relu(index, node.parents[0])
            lower, upper = self.ranges[index]
            self.bounds.append((lower.min(axis=0, keepdims=True), upper.max(axis=0, keepdims=True)))
            for parent in set(node.parents):
                if last_reader[parent] == index:
                    del self.forms[parent], self.ranges[parent]

    def _room(self, index: int) -> int:
        """How many symbols memory holds, of a node and its parents."""
        nodes = self.network.nodes
        return capacity(self.cases, *(nodes[k].shape for k in (index, *nodes[index].parents)))

    def _bound(self, index: int) -> None:
        """The better of interval and zonotope for every entry, case by case."""
        node = self.network.nodes[index]
        interval = node_bounds(node, [self.ranges[p] for p in node.parents], signs=False)
        self.ranges[index] = _common(interval, case_bounds(self.symbols, self.forms[index], self.cases))

    def _relu(self, index: int, parent: int) -> None:
        self._refine(parent)
        before = self.cases
        self._split(parent)
        if self.cases > before:
            self._refine(parent)
        lower, upper = self.ranges[parent]
        self.ranges[index] = node_bounds(self.network.nodes[index], [(lower, upper)])
        lines = parallel_relu(self.network.nodes[index].function, lower, upper)  # type: ignore[attr-defined]
        if not self.chord:
            lines = _by_the_common_part(lines, lower, upper)
        first = self.reach.shape[1]
        if all_finite(lines.lower_offset, lines.upper_offset):
            low, high = lines.lower_offset, lines.upper_offset
            parents = [reduced(self.forms[parent], self.reach, self._room(index))]
            forms = relaxed(parents, [lines.lower_slope], low, high, self.reach, first, self._room(index))
        else:
            forms = boxed(*self.ranges[index], first, self._room(index))
        self.forms[index] = forms
        fresh = int(forms.symbols[-1]) + 1 - first if forms.symbols.size else 0
        self.reach = np.concatenate([self.reach, np.ones((1, max(0, fresh)))], axis=1)

    def _refine(self, index: int) -> None:
        """Better bounds of the entries whose sign is open, by the halfspaces of each case; empty cases go."""
        lower, upper = self.ranges[index]
        chosen = np.flatnonzero(((lower < 0) & (upper > 0)).any(axis=0))
        if not self.halfspaces.count or not chosen.size:
            return
        self.clock.check()
        self._improve(index, chosen)
        lower, upper = self.ranges[index]
        possible = np.flatnonzero(~(lower > upper).reshape(len(lower), -1).any(axis=1))
        if 0 < possible.size < self.cases:
            self._take(possible)

    def _improve(self, index: int, entries: np.ndarray) -> None:
        """Bounds of some entries over the meets."""
        met = met_bounds(self.symbols, self.reach, self.forms[index], entries, self.halfspaces, self.clock)
        lower, upper = self._flat(index)
        lower[:, entries], upper[:, entries] = _common((lower[:, entries], upper[:, entries]), met)
        self._put(index, lower, upper)

    def _flat(self, index: int) -> Bounds:
        """A node's bounds as matrices of their own, (cases, entries)."""
        shape = (self.cases, *self.network.nodes[index].shape)
        lower, upper = (np.array(np.broadcast_to(end, shape)).reshape(self.cases, -1) for end in self.ranges[index])
        return lower, upper

    def _put(self, index: int, lower: np.ndarray, upper: np.ndarray) -> None:
        shape = (self.cases, *self.network.nodes[index].shape)
        self.ranges[index] = lower.reshape(shape), upper.reshape(shape)

    def _split(self, index: int) -> None:
        """Splits cases at units whose sign is open, those with the largest relaxation first, while there is room."""
        split = np.zeros(math.prod(self.network.nodes[index].shape), dtype=bool)
        while self.cases < self.limit:
            self.clock.check()
            area = np.where(split, 0.0, _area(*self._flat(index)).sum(axis=0))
            unit = int(area.argmax())
            if not area[unit] > 0:
                return
            split[unit] = True
            self._improve(index, np.array([unit]))
            lower, upper = (end[:, unit] for end in self._flat(index))
            loss = _area(lower, upper)
            order = np.argsort(-loss, kind="stable")[: self.limit - self.cases]
            chosen = order[loss[order] > 0]
            if chosen.size:
                self._split_cases(index, unit, chosen)

    def _split_cases(self, index: int, unit: int, chosen: np.ndarray) -> None:
        """Each of the cases `chosen` becomes two: x >= 0 in its place, x <= 0 behind the others."""
        before = self.cases
        signs = np.zeros(before + chosen.size)
        signs[chosen], signs[before:] = 1.0, -1.0
        self._take(np.concatenate([np.arange(before), chosen]))
        self.halfspaces = self.halfspaces.met(self.forms[index], unit, signs, self.reach.shape[1])
        lower, upper = self._flat(index)
        lower[signs > 0, unit] = np.maximum(lower[signs > 0, unit], 0.0)
        upper[signs < 0, unit] = np.minimum(upper[signs < 0, unit], 0.0)
        self._put(index, lower, upper)

    def _take(self, cases: np.ndarray) -> None:
        self.halfspaces = self.halfspaces.taken(cases)
        self.forms = {k: forms.taken(cases) for k, forms in self.forms.items()}
        self.ranges = {
            k: (low if len(low) == 1 else low[cases], high if len(high) == 1 else high[cases])
            for k, (low, high) in self.ranges.items()
        }


def _common(one: Bounds, other: Bounds) -> Bounds:
    """The intersection; a NaN of the other says nothing."""
    (a, b), (c, d) = one, other
    return np.where(c > a, c, a), np.where(d < b, d, b)


def _area(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """u |l| / (u - l), the height of the relaxation of an open unit; 0 where the sign is known, or nothing is."""
    crossing = (lower < 0) & (upper > 0) & np.isfinite(upper - lower)
    height = -lower * (upper / np.where(crossing, upper - lower, 1.0))
    return np.where(crossing & np.isfinite(height), height, 0.0)


def _by_the_common_part(lines: Lines, lower: np.ndarray, upper: np.ndarray) -> Lines:
    """The lines with those of open units made constants: 0 and the upper end."""
    crossing = (lower < 0) & (upper > 0)
    slope, high = np.where(crossing, 0.0, lines.lower_slope), np.where(crossing, upper, lines.upper_offset)
    return Lines(slope, lines.lower_offset, slope, high)

"""Branch and bound by the phases of ReLUs.

The parts with the least lower bounds are split first, in batches; once many are open the latest come first, so that
memory stays bounded. The unit to split is, of the few whose relaxation costs the bound most, the one whose two phases
have the best bounds before any step (filtered smart branching: De Palma et al. 2021, "Improved branch and bound for
neural network verification via Lagrangian decomposition", section 5.2).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from verifkit.analysis.bab.phase_bounds import Parts, PhaseBounds, Steps
from verifkit.analysis.bab.workers import Workers
from verifkit.budget import Clock
from verifkit.evidence import PhaseTree
from verifkit.result import Reason

MANY = 2**15
"""Open parts from which on the latest are split first, not the least certain."""

KEPT = 2**23
"""Slopes and multipliers of leaves that evidence may hold; a search that leaves more ends without."""

CANDIDATES = 4
"""Units whose two phases are compared."""

ROOT, STEPS = Steps(60, slope=0.2), Steps(15)
"""Gradient steps for the whole question, and for each part."""

TRIED = 16
"""Minimisers of the least certain parts that are tried as witnesses, in a round."""

ALONE = 0.5
"""Seconds that one process searches alone before it calls others to help."""

ROUND = 1e10
"""Products that one process makes in a round, at most, so that a time limit is seen in time."""

FEWEST = 16
"""Parts that a helper's share must have to be worth sending."""


@dataclass(frozen=True, eq=False)
class Split:
    """Both phases of one unit of each of P parts: parts (2P), z >= 0 first, margins (2P,), those of the parts' own
    weights alone (2P,), which may be less, the bounds' minimisers (2P, n), the units whose relaxation costs most with
    these costs (2P, C), and the units (P,) that were split."""

    parts: Parts
    margin: np.ndarray
    own: np.ndarray
    point: np.ndarray
    units: np.ndarray
    costs: np.ndarray
    unit: np.ndarray


def split(bounds: PhaseBounds, clock: Clock, *batch: np.ndarray) -> Split:
    """Splits parts, given as their arrays and then the margins (P,), units (P, C) and costs (P, C)."""
    *arrays, margin, units, costs = batch
    parts = Parts(*arrays)
    unit = _chosen(bounds, parts, units, costs)
    return _examined(bounds, bounds.raised(bounds.split(parts, unit), STEPS, clock), np.tile(margin, 2), unit)


def _examined(bounds: PhaseBounds, parts: Parts, margin: np.ndarray, unit: np.ndarray) -> Split:
    found = bounds.examined(parts)
    order = np.argsort(-found.cost, axis=1, kind="stable")[:, :CANDIDATES]
    costs = np.take_along_axis(found.cost, order, axis=1)
    return Split(parts, np.maximum(found.margin, margin), found.margin, found.point, order, costs, unit)


def _chosen(bounds: PhaseBounds, parts: Parts, units: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Which of the units (P, C) to split in each part."""
    count, width = units.shape
    if width == 1:
        return units[:, 0]
    owner, column = np.nonzero(costs >= 0)
    value = bounds.values(bounds.split(parts.of(owner), units[owner, column]))
    sides = np.full((2, count, width), -np.inf)
    sides[:, owner, column] = np.minimum(value, 0).reshape(2, -1)
    score = sides.min(axis=0) + 0.5 * sides.max(axis=0)
    best = np.where(np.isnan(score), -np.inf, score).argmax(axis=1)
    return np.asarray(units[np.arange(count), best])


def _joined(each: Sequence[Split], starts: Sequence[int]) -> Split:
    """The sides of consecutive shares of a batch, all with z >= 0 first."""
    if len(each) == 1:
        return each[0]
    sizes = [s.unit.size for s in each]
    ends = np.cumsum([0, *(2 * size for size in sizes)])
    first = np.concatenate([end + np.arange(size) for end, size in zip(ends[:-1], sizes, strict=True)])
    places = np.concatenate([first, first + np.repeat(sizes, sizes)])
    parts = Parts.joined([s.parts for s in each]).of(places)
    margin, own, point, units, costs = (
        np.concatenate([getattr(s, name) for s in each])[places]
        for name in ("margin", "own", "point", "units", "costs")
    )
    return Split(parts, margin, own, point, units, costs, np.concatenate([s.unit for s in each]))


Entry = tuple[float, int, Parts, np.ndarray, np.ndarray, float]
"""An open part: its margin, its number in the tree, itself, its candidates to split and their costs, and the margin of
its own weights."""


@dataclass(eq=False)
class _Tree:
    """The record of a search as it grows; see `PhaseTree`."""

    nodes: int
    splits: list[tuple[int, int, int]] = field(default_factory=list)
    leaves: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)
    held: int = 0

    def leaf(self, number: int, parts: Parts, place: int) -> None:
        self.held += parts.weight.shape[1] + 1
        if self.held <= KEPT:
            self.leaves.append((number, parts.weight[place], parts.mix[place]))
        else:
            self.leaves.clear()

    def evidence(self, bounds: PhaseBounds, disjuncts: np.ndarray, still_open: Iterable[Entry]) -> PhaseTree | None:
        """The tree, whose leaves are what is refuted and what is still open."""
        leaves = [*self.leaves, *((e[1], e[2].weight[0], e[2].mix[0]) for e in still_open)]
        if self.held + sum(e[1].size for e in leaves[len(self.leaves) :]) > KEPT:
            return None
        number, weight, mix = zip(*leaves, strict=True)
        parent, unit, first = np.array(self.splits, dtype=np.int64).reshape(-1, 3).T
        low, high = bounds.ends
        found = np.array(number), np.stack(weight), np.stack(mix)
        return PhaseTree(disjuncts, bounds.places, parent, unit, first, *found, self.nodes, low, high)


@dataclass(frozen=True, eq=False)
class Found:
    """What a search came to. reason: None where every part is refuted. margin: a lower bound on the whole question's.
    witness: a point that `attack` returned. proved: what the tree's leaves prove of the margin."""

    reason: Reason | None
    margin: float
    tree: PhaseTree | None = None
    witness: np.ndarray | None = None
    proved: float = -np.inf


Leaf = Callable[[PhaseBounds, Parts, Clock], tuple[Parts, np.ndarray] | None]
"""For a part without an open unit, the best weights and a point (1, n) to try, if it finds any."""


@dataclass(eq=False)
class PhaseSearch:
    """One search; `run` it once.

    batch: parts split at a time. processes: how many share the work. attack: asked for a witness near points (P, n).
    leaf: asked for parts without an open unit.
    """

    bounds: PhaseBounds
    clock: Clock
    batch: int
    processes: int
    attack: Callable[[np.ndarray], np.ndarray | None] | None = None
    leaf: Leaf | None = None
    splits: int = 0

    def run(self, start: Parts, nodes: int | None) -> Found:
        """Splits `start` until every part is refuted, or time or nodes are up."""
        self.heap: list[Entry] = []
        self.late: list[Entry] = []
        self.points: list[np.ndarray] = []
        self.stuck, self.proved, self.tree = np.inf, np.inf, _Tree(len(start))
        work = 4.0 * (STEPS.count + 1) * self.bounds.entries
        self.count = int(max(1, min(self.batch, ROUND / work)))
        for first in range(0, len(start), self.count):
            if self.clock.remaining <= 0:
                return Found(Reason.TIMEOUT, -np.inf)
            some = np.arange(first, min(first + self.count, len(start)))
            raised = self.bounds.raised(start.of(some), ROOT, self.clock)
            found = _examined(self.bounds, raised, np.full(some.size, -np.inf), np.zeros(0, dtype=np.int64))
            self._keep(found, some)
            self.points.append(found.point[np.argsort(found.margin)[:TRIED]])
        return self._from(start.disjunct, nodes)

    def _from(self, disjuncts: np.ndarray, nodes: int | None) -> Found:
        """Splits what is open."""
        work = partial(split, self.bounds, self.clock)
        with Workers(work, _joined, fewest=FEWEST, processes=self.processes) as workers:
            while True:
                points = np.concatenate(self.points)
                self.points.clear()
                witness = None if self.attack is None else self.attack(points)
                if witness is not None:
                    return Found(None, -np.inf, witness=witness)
                if not (self.heap or self.late):
                    break
                if self.clock.remaining <= 0:
                    return Found(Reason.TIMEOUT, self.margin)
                if nodes is not None and self.splits >= nodes:
                    return self._undecided(disjuncts, Reason.INCOMPLETE)
                if self.clock.elapsed > ALONE and len(self.heap) > FEWEST:
                    workers.start()
                found = self._round(workers)
                self.points.append(found.point[np.argsort(found.margin)[:TRIED]])
        if self.stuck < np.inf:
            return self._undecided(disjuncts, Reason.UNCONFIRMED)
        return Found(None, 0.0, self.tree.evidence(self.bounds, disjuncts, ()), proved=0.0)

    def _undecided(self, disjuncts: np.ndarray, reason: Reason) -> Found:
        """What is proved while parts are open or stuck, with a tree that proves it."""
        entries = [*self.heap, *self.late]
        tree = self.tree.evidence(self.bounds, disjuncts, entries)
        return Found(reason, self.margin, tree, proved=min([self.proved, *(entry[5] for entry in entries)]))

    @property
    def margin(self) -> float:
        """What is proved so far."""
        least = min((entry[0] for entry in self.late), default=np.inf)
        return min(self.stuck, least, self.heap[0][0] if self.heap else np.inf)

    @property
    def open(self) -> int:
        return len(self.heap) + len(self.late)

    def _round(self, workers: Workers[Split]) -> Split:
        count = self.count * workers.processes
        if self.late:
            some, self.late = self.late[-count:], self.late[:-count]
        else:
            some = [heapq.heappop(self.heap) for _ in range(min(count, len(self.heap)))]
        parts = Parts.joined([entry[2] for entry in some])
        margin = np.array([entry[0] for entry in some])
        units, costs = np.concatenate([e[3] for e in some]), np.concatenate([e[4] for e in some])
        found = workers.apply(*parts.arrays, margin, units, costs)
        self.splits += len(some)
        first = self.tree.nodes + 2 * np.arange(len(some))
        self.tree.nodes += 2 * len(some)
        for entry, unit, number in zip(some, found.unit.tolist(), first.tolist(), strict=True):
            self.tree.splits.append((entry[1], unit, number))
        self._keep(found, np.concatenate([first, first + 1]))
        return found

    def _keep(self, found: Split, numbers: np.ndarray) -> None:
        """Opens what is not refuted; a part without an open unit is solved, or stays stuck."""
        refuted = self.bounds.refuted(found.parts, found.margin)
        for place, number in enumerate(numbers.tolist()):
            if refuted[place]:
                self.tree.leaf(number, found.parts, place)
            elif not found.units.shape[1] or found.costs[place, 0] < 0:
                part = found.parts.of(slice(place, place + 1))
                self._solve(part, float(found.margin[place]), float(found.own[place]), number)
            else:
                some = slice(place, place + 1)
                part, own = Parts(*(array[some].copy() for array in found.parts.arrays)), float(found.own[place])
                entry = (float(found.margin[place]), number, part, found.units[some], found.costs[some], own)
                if len(self.heap) >= MANY:
                    self.late.append(entry)
                else:
                    heapq.heappush(self.heap, entry)

    def _solve(self, part: Parts, margin: float, own: float, number: int) -> None:
        """Closes a part without an open unit, by the solver or as one that stays stuck."""
        solved = None if self.leaf is None else self.leaf(self.bounds, part, self.clock)
        if solved is not None:
            self.points.append(solved[1])
            found = self.bounds.examined(solved[0]).margin
            if self.bounds.refuted(solved[0], found)[0]:
                self.tree.leaf(number, solved[0], 0)
                return
            if solved[0].mix.sum() > 0.5 and found[0] > own:  # else it says nothing of the rows, or less
                part, own = solved[0], float(found[0])
        self.tree.leaf(number, part, 0)
        self.stuck, self.proved = min(self.stuck, max(margin, own)), min(self.proved, own)

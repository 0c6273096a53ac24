"""Branch and bound by bisecting boxes of inputs, for a network that is a chain.

The boxes with the least lower bounds are examined first, in batches, and while many are open the latest first, so that
memory stays bounded. In every round the most promising points are moved downhill a few steps and replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from verifkit.analysis.bab.box_examination import Bounded, Disjuncts, examine
from verifkit.analysis.bab.chain import Chain
from verifkit.analysis.bab.chain_attack import CLOSE, ChainAttack
from verifkit.analysis.bab.chain_bounds import ChainBounds
from verifkit.analysis.bab.workers import Workers
from verifkit.budget import Clock
from verifkit.evidence import BoxTree
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason

MANY = 2**15
"""Open boxes from which on the latest are examined first, not the least certain."""

KEPT = 2**19
"""Boxes of which the evidence is kept; a search with more of them ends without."""

STALLED = 4000
"""Boxes examined after a point as close as that was found, after which the search gives up: a whole face of the unsafe
set may touch what the network reaches, and bisection never ends there."""

ROUND = 4e8
"""Products that one process makes in a round, at most, so that a time limit is seen in time."""

ALONE = 0.25
"""Seconds that one process searches alone before it calls others to help."""

FEWEST = 32
"""Boxes that a helper's share must have to be worth sending."""


@dataclass(eq=False)
class _Open:
    """Boxes yet to be examined: ends (N, n), lower bounds (N,) on their margin, numbers (N,) in the tree."""

    lower: np.ndarray
    upper: np.ndarray
    margin: np.ndarray
    number: np.ndarray

    def __len__(self) -> int:
        return int(self.margin.size)

    def taken(self, count: int) -> tuple[_Open, _Open]:
        """`count` of them to examine next, and the others."""
        if len(self) <= count:
            return self, self.of(np.zeros(0, dtype=np.int64))
        if len(self) > MANY:
            chosen = np.arange(len(self) - count, len(self))
        else:
            chosen = np.sort(np.argpartition(self.margin, count)[:count])
        rest = np.ones(len(self), dtype=bool)
        rest[chosen] = False
        return self.of(chosen), self.of(np.flatnonzero(rest))

    def of(self, places: np.ndarray) -> _Open:
        return _Open(self.lower[places], self.upper[places], self.margin[places], self.number[places])

    def joined(self, other: _Open) -> _Open:
        return _Open(
            np.concatenate([self.lower, other.lower]),
            np.concatenate([self.upper, other.upper]),
            np.concatenate([self.margin, other.margin]),
            np.concatenate([self.number, other.number]),
        )


@dataclass(eq=False)
class _Tree:
    """The record of a search as it grows; see `BoxTree`."""

    nodes: int = 1
    parts: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def add(
        self, parents: np.ndarray, lower: np.ndarray, upper: np.ndarray, dim: np.ndarray, at: np.ndarray
    ) -> np.ndarray:
        """Bisects boxes; returns the numbers of the lower halves, whose upper halves follow them."""
        first = self.nodes + 2 * np.arange(parents.size)
        self.nodes += 2 * parents.size
        if self.nodes <= KEPT:
            self.parts.append((parents, lower, upper, dim, at, first))
        else:
            self.parts.clear()
        return first

    def evidence(self) -> BoxTree | None:
        if self.nodes > KEPT:
            return None
        none = tuple(np.zeros(0) for _ in range(6))
        parent, lower, upper, dim, at, first = map(np.concatenate, zip(*(self.parts or [none]), strict=True))
        return BoxTree(parent, lower, upper, dim, at, first, self.nodes)


class InputSearch:
    """One search; `run` it once.

    query: as of `ChainAttack`. batch: boxes examined at a time. processes: how many share the work.
    """

    def __init__(
        self, query: Query | None, chain: Chain, disjuncts: Disjuncts, clock: Clock, *, batch: int, processes: int
    ) -> None:
        self.chain, self.disjuncts, self.clock = chain, disjuncts, clock
        self.bounds = ChainBounds(chain)
        self.batch, self.processes = int(max(1, min(batch, ROUND / self.bounds.work))), processes
        self.attack = ChainAttack(query, chain, self.disjuncts, self.bounds.matrices)
        self.tree, self.examined, self.tied, self.touched = _Tree(), 0, 0, -1
        self.proved = np.inf  # the least margin of the boxes set aside as ties

    def run(self, nodes: int | None) -> Outcome:
        """HOLDS, VIOLATED, or what stayed open when time or nodes ran out."""
        start = np.array([-np.inf])
        boxes = _Open(self.chain.lower[None], self.chain.upper[None], start, np.zeros(1, dtype=np.int64))
        work = partial(examine, self.bounds, self.disjuncts)
        with Workers(work, Bounded.joined, fewest=FEWEST, processes=self.processes) as workers:
            while len(boxes):
                if self.clock.remaining <= 0:
                    return self._undecided(boxes, Reason.TIMEOUT, "time ran out")
                if nodes is not None and self.examined >= nodes:
                    return self._undecided(boxes, Reason.INCOMPLETE, f"{self.examined} boxes examined")
                if self.touched >= 0 and self.examined - self.touched > STALLED:
                    why = f"a point within {CLOSE:g} of unsafe, and no end of boxes around it"
                    return self._undecided(boxes, Reason.UNCONFIRMED, why)
                if self.clock.elapsed > ALONE and len(boxes) > self.batch:
                    workers.start()
                now, boxes = boxes.taken(self.batch * workers.processes)
                self.examined += len(now)
                found = workers.apply(now.lower, now.upper)
                if not found.place.size:
                    continue
                points = found.tries.reshape(-1, found.tries.shape[2])
                values = self.attack.values(points)
                witness = self.attack.near(points, self.attack.loss(values))
                if self.touched < 0 and self.attack.touched:
                    self.touched = self.examined
                if witness is not None:
                    return Outcome.violated(witness, statistics=self._statistics())
                boxes = boxes.joined(self._halves(now, found, values[1::2]))
        if self.tied:
            detail = f"the margin lies within {CLOSE:g} of 0 in {self.tied} boxes"
            return Outcome.unknown(Reason.UNCONFIRMED, detail, statistics=self._statistics())
        evidence = self.tree.evidence()
        detail = "" if evidence is not None else f"more than {KEPT} boxes: the tree was not kept"
        proof = Guarantee(arithmetic=Arithmetic.ROUNDED)
        return Outcome.holds(proof, evidence, detail=detail, statistics=self._statistics())

    def _halves(self, now: _Open, found: Bounded, y: np.ndarray) -> _Open:
        """Both halves of every open box, but for those that are ties as far as floats can tell.

        y: the rows' values (M, R) at each box's second point to try.
        """
        each = np.arange(found.dim.size)
        low, high = found.lower[each, found.dim], found.upper[each, found.dim]
        at = low / 2 + high / 2
        scale = CLOSE * (1.0 + np.abs(y).max(axis=1))
        tied = ((found.margin >= -scale) & (self.attack.loss(y) <= scale)) | ~((low < at) & (at < high))
        self.tied += int(tied.sum())
        self.proved = min(self.proved, float(found.margin[tied].min(initial=np.inf)))
        keep = np.flatnonzero(~tied)
        lower, upper, dim, at = (v[keep] for v in (found.lower, found.upper, found.dim, at))
        margin = np.maximum(found.margin, now.margin[found.place])[keep]
        first = self.tree.add(now.number[found.place[keep]], lower, upper, dim, at)
        each = np.arange(keep.size)
        above, below = lower.copy(), upper.copy()
        above[each, dim], below[each, dim] = at, at
        return _Open(
            np.concatenate([lower, above]),
            np.concatenate([below, upper]),
            np.concatenate([margin, margin]),
            np.concatenate([first, first + 1]),
        )

    def _statistics(self) -> dict[str, float | int | str]:
        return {"boxes": self.examined, "least violation tried": self.attack.least}

    def _undecided(self, boxes: _Open, reason: Reason, why: str) -> Outcome:
        margin = min(self.proved, float(boxes.margin.min()))
        detail = f"{why}; {len(boxes)} boxes open, margin >= {margin:.6g}"
        return Outcome.unknown(reason, detail, statistics={**self._statistics(), "margin": margin})

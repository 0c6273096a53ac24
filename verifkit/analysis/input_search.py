"""Branch and bound by bisecting boxes of inputs, for a network that is a chain.

The boxes with the least lower bounds are examined first, in batches, and while many are open the latest first, so that
memory stays bounded. In every round the most promising points are moved downhill a few steps and replayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from verifkit.analysis.box_examination import Bounded, Disjuncts
from verifkit.analysis.box_workers import BoxWorkers
from verifkit.analysis.chain import Chain
from verifkit.analysis.chain_bounds import ChainBounds
from verifkit.analysis.region import region_of
from verifkit.analysis.rows import Rows
from verifkit.budget import Clock
from verifkit.confirm import confirm
from verifkit.evidence import BoxTree
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason

MANY = 2**15
"""Open boxes from which on the latest are examined first, not the least certain."""

KEPT = 2**19
"""Boxes of which the evidence is kept; a search with more of them ends without."""

CLOSE = 1e-7
"""A box whose margin lies this close to 0 on both sides, relative to 1 + the largest output, is set aside."""

STALLED = 4000
"""Boxes examined after a point as close as that was found, after which the search gives up: a whole face of the unsafe
set may touch what the network reaches, and bisection never ends there."""

POINTS, STEPS = 16, 10
"""How many points are moved downhill in a round, and how far."""

ROUND = 4e8
"""Products that one process makes in a round, at most, so that a time limit is seen in time."""

ALONE = 0.25
"""Seconds that one process searches alone before it calls others to help."""


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
    """One search; `run` it once."""

    def __init__(self, query: Query, chain: Chain, rows: Rows, clock: Clock, *, batch: int, processes: int) -> None:
        self.query, self.chain, self.rows, self.clock = query, chain, rows, clock
        self.bounds, self.disjuncts = ChainBounds(chain), Disjuncts.of(rows)
        self.batch, self.processes = int(max(1, min(batch, ROUND / self.bounds.work))), processes
        self.tree, self.examined, self.tied, self.least = _Tree(), 0, 0, np.inf
        self.tried, self.touched = np.inf, -1
        self.proved = np.inf  # the least margin of the boxes set aside as ties
        self.fixed = region_of(query).lower.reshape(-1)

    def run(self, nodes: int | None) -> Outcome:
        """HOLDS, VIOLATED, or what stayed open when time or nodes ran out."""
        start = np.array([-np.inf])
        boxes = _Open(self.chain.lower[None], self.chain.upper[None], start, np.zeros(1, dtype=np.int64))
        with BoxWorkers(self.bounds, self.disjuncts) as workers:
            while len(boxes):
                if self.clock.remaining <= 0:
                    return self._undecided(boxes, Reason.TIMEOUT, "time ran out")
                if nodes is not None and self.examined >= nodes:
                    return self._undecided(boxes, Reason.INCOMPLETE, f"{self.examined} boxes examined")
                if self.touched >= 0 and self.examined - self.touched > STALLED:
                    why = f"a point within {CLOSE:g} of unsafe, and no end of boxes around it"
                    return self._undecided(boxes, Reason.UNCONFIRMED, why)
                if self.clock.elapsed > ALONE and len(boxes) > self.batch:
                    workers.start(self.processes - 1)
                now, boxes = boxes.taken(self.batch * (1 + workers.count))
                self.examined += len(now)
                found = workers.examine(now.lower, now.upper)
                if not found.place.size:
                    continue
                values = self._values(found.tries.reshape(-1, found.tries.shape[2]))
                witness = self._attacked(found, self._loss(values))
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
        tied = ((found.margin >= -scale) & (self._loss(y) <= scale)) | ~((low < at) & (at < high))
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

    def _values(self, x: np.ndarray) -> np.ndarray:
        """The rows less their bounds at points (P, n): (P, R)."""
        return list(self._forward(x))[-1]

    def _loss(self, values: np.ndarray) -> np.ndarray:
        """(P,): at or below 0 the point is unsafe."""
        return np.asarray(values[:, self.disjuncts.rows].max(axis=2).min(axis=1))

    def _forward(self, x: np.ndarray) -> Iterator[np.ndarray]:
        h = x
        for layer in self.chain.layers[:-1]:
            z = h @ layer.weight.T + layer.bias
            yield z
            h = np.maximum(z, 0.0) if layer.relu else z
        last = self.chain.layers[-1]
        y = h @ last.weight.T + last.bias
        yield y if self.chain.coupling is None else y + x @ self.chain.coupling.T

    def _attacked(self, found: Bounded, loss: np.ndarray) -> np.ndarray | None:
        """A confirmed witness near the points to try, of that loss, if a few steps downhill lead to one."""
        x = found.tries.reshape(-1, found.tries.shape[2])
        x = x[np.argsort(loss, kind="stable")[:POINTS]]
        half = (self.chain.upper - self.chain.lower) / 2
        for step in range(STEPS + 1):
            values = list(self._forward(x))
            by_disjunct = values[-1][:, self.disjuncts.rows].max(axis=2)
            loss = by_disjunct.min(axis=1)
            best = int(np.argmin(loss))
            self.least = min(self.least, float(loss[best]))
            if self.touched < 0 and loss[best] <= CLOSE * (1.0 + float(np.abs(values[-1][best]).max())):
                self.touched = self.examined
            if loss[best] <= 0 and loss[best] < self.tried:
                point = self.fixed.copy()
                point[self.chain.inputs] = x[best]
                if confirm(self.query, point) is not None:
                    return np.asarray(point)
                self.tried = float(loss[best])  # what fails to replay is tried again only where it is clearer
            if step == STEPS:
                break
            gradient = self._gradient(values, by_disjunct.argmin(axis=1)) * half
            size = np.maximum((gradient * gradient).sum(axis=1), 1e-300)
            # As far as a linear function would have to go, and a little: the violation should be clear.
            length = (loss + 1e-6 * np.abs(loss)) / size
            x = np.clip(x - length[:, None] * gradient * half, self.chain.lower, self.chain.upper)
        return None

    def _gradient(self, values: list[np.ndarray], disjunct: np.ndarray) -> np.ndarray:
        """Of the largest row of each point's disjunct, (P, n)."""
        rows = self.disjuncts.rows[disjunct]
        each = np.arange(rows.shape[0])
        row = rows[each, values[-1][each[:, None], rows].argmax(axis=1)]
        gradient: np.ndarray = self.chain.layers[-1].weight[row]
        for layer, z in zip(self.chain.layers[-2::-1], values[-2::-1], strict=True):
            gradient = (gradient * (z > 0) if layer.relu else gradient) @ layer.weight
        return gradient if self.chain.coupling is None else gradient + self.chain.coupling[row]

    def _statistics(self) -> dict[str, float | int | str]:
        return {"boxes": self.examined, "least violation tried": self.least}

    def _undecided(self, boxes: _Open, reason: Reason, why: str) -> Outcome:
        margin = min(self.proved, float(boxes.margin.min()))
        detail = f"{why}; {len(boxes)} boxes open, margin >= {margin:.6g}"
        return Outcome.unknown(reason, detail, statistics={**self._statistics(), "margin": margin})

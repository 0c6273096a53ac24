"""Fast minimum-norm attack: looks for the unsafe input that is nearest to the center, in l-inf, l2 or l1.

Paper: Pintor, Roli, Brendel, Biggio, "Fast minimum-norm adversarial attacks through adaptive norm constraints",
NeurIPS 2021, algorithm 1, which generalises the decoupled direction and norm (DDN) of Rony et al., CVPR 2019. Each
start descends inside a ball of its own, which shrinks while the point is unsafe and grows while it is not. Its `radius`
is the distance of the nearest witness, found in one search instead of by bisection.
Guarantee: VIOLATED with a replayed witness; never HOLDS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from verifkit.analysis.attack import (
    UNREACHABLE,
    Neighbourhood,
    dealt,
    loss_gradient,
    losses_of,
    neighbourhood_of,
    random_points,
    row_weights,
    surroundings,
)
from verifkit.analysis.interval import INTERVAL_RULES
from verifkit.analysis.nearest import nearest_unsafe
from verifkit.analysis.projection import TINY
from verifkit.analysis.region import region_of
from verifkit.analysis.rows import Rows, rows_of
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.confirm import confirm
from verifkit.errors import OptionError
from verifkit.input_sets import rational
from verifkit.network import Network
from verifkit.ops import Max, Product
from verifkit.query import Query
from verifkit.radius import Radius, RadiusEnd, RadiusSearch
from verifkit.result import Outcome, Reason, Verdict
from verifkit.verifier import Verifier

FINEST = 1e-3
"""Relative change of a ball's radius in the last step."""

LAST_STEP = 0.01
"""Of the descent, as a share of the first."""

FAVOURED = 3
"""Of the disjuncts, those that the starts which have come no nearer are sent to."""

CANDIDATES = 8
"""Of the starts, those whose nearest unsafe points are tried as witnesses."""


@dataclass(frozen=True, kw_only=True)
class Fmn(Verifier):
    """steps: gradient steps from each start. starts: how many, in one batch, dealt out to the disjuncts as in pgd.

    step_size: the first step in units of the ball's current radius; it falls to a hundredth along a cosine.
    rate: the first relative change of a ball's radius, between 0 and 1; it falls to 0.001 in the same way.
    """

    steps: int = 100
    starts: int = 64
    step_size: float = 0.5
    rate: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1 or self.starts < 1 or not self.step_size > 0 or not 0 < self.rate < 1:
            raise OptionError(
                f"fmn needs steps >= 1, starts >= 1, step_size > 0 and 0 < rate < 1, not {self.options()}"
            )

    name: ClassVar[str] = "fmn"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.FALSIFIER, "2": Kind.FALSIFIER, "1": Kind.FALSIFIER},
        operators=frozenset({Max, Product}),
        activations=frozenset(INTERVAL_RULES),
        coupling=True,
        paper=Paper(
            "pintor2021fmn",
            "Pintor, Maura and Roli, Fabio and Brendel, Wieland and Biggio, Battista",
            "Fast minimum-norm adversarial attacks through adaptive norm constraints",
            "NeurIPS",
            2021,
        ),
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        rows, region = rows_of(query.prop), region_of(query)
        if not rows.n_disjuncts:
            return Outcome.unknown(Reason.INCOMPLETE, "the unsafe set is empty: nothing to find")
        near, radius = neighbourhood_of(region)
        if not all(disjunct.constraints for disjunct in query.prop.unsafe):  # every input is unsafe
            return Outcome.violated(near.project(near.center, np.full(1, radius)))
        radii = np.full(self.starts, radius)
        x = random_points(region.lower, region.upper, self.starts, rng)
        x[0] = near.center[0]
        descent = _Descent(query.network, rows, near, near.project(x, radii))
        steps, least = self.steps if (region.upper > region.lower).any() else 0, math.inf
        for step in range(steps + 1):
            clock.check()
            loss = descent.look()
            least = min(least, float(loss.min()))
            for index in np.argsort(loss)[:3]:
                witness = descent.x[index]
                if loss[index] <= 0 and confirm(query, witness) is not None:
                    return Outcome.violated(witness, statistics={"loss": float(loss[index]), "steps": step})
            if step < steps:
                descent.move(radii, self._length(step))
        detail = f"no violation found from {self.starts} starts; least loss {least:.6g}"
        return Outcome.unknown(Reason.INCOMPLETE, detail, statistics={"loss": least})

    def _radius(self, search: RadiusSearch) -> Radius:
        """The distance of the nearest unsafe point found, moved onto floats and replayed; else by bisection."""
        family, clock, seed = search.family, search.clock, search.seed
        query = family.at(0)
        at_center = self.verify(query, budget=clock.share(), seed=seed)
        if at_center.verdict is Verdict.VIOLATED:
            return Radius(family.norm, None, RadiusEnd(0.0, at_center))
        found = None
        if not any(disjunct.box for disjunct in family.unsafe) and family.unsafe:
            rows = rows_of(query.prop)
            points = self._nearest(query.network, rows, surroundings(family), clock, self._rng(query, seed))
            found = nearest_unsafe(family, rows, points)
        if found is None:
            return super()._radius(search)
        value, x = found
        query = family.at(rational(value))
        outcome = self._confirmed(query, Outcome.violated(x))
        return Radius(family.norm, None, RadiusEnd(value, self._result(query, outcome, clock, seed)))

    def _nearest(
        self, network: Network, rows: Rows, near: Neighbourhood, clock: Clock, rng: np.random.Generator
    ) -> np.ndarray:
        """Algorithm 1 for all starts at once: the nearest unsafe points found, (at most CANDIDATES, n_inputs)."""
        descent = self._around(network, rows, near, rng)
        radius, best = np.zeros(self.starts), np.full(self.starts, np.inf)
        nearest = descent.x.copy()
        for step in range(self.steps + 1):
            if clock.remaining <= 0:
                break
            unsafe = descent.look() <= 0
            distance = near.distance(descent.x)
            better = unsafe & (distance < best)
            best[better], nearest[better] = distance[better], descent.x[better]
            rate = FINEST + (self.rate - FINEST) * self._cosine(step)
            grown = np.where(np.isfinite(best), radius * (1.0 + rate), descent.boundary(distance))
            radius = np.where(unsafe, np.minimum(radius * (1.0 - rate), best), grown)
            # Only the nearest of all is wanted: no start need look beyond it.
            radius = np.minimum(radius, best.min() * (1.0 - FINEST))
            if step in (self.steps // 4, self.steps // 2) and np.isfinite(best).any():
                again = np.argsort(best, kind="stable")[(self.starts + 1) // 2 :]
                descent.restart(again, best, rng)
                best[again] = np.inf  # the nearest points found are among the others
            descent.move(radius, self._length(step))
        order = np.argsort(best, kind="stable")[:CANDIDATES]
        points: np.ndarray = nearest[order[np.isfinite(best[order])]]
        return points.reshape(len(points), network.n_inputs)

    def _around(self, network: Network, rows: Rows, near: Neighbourhood, rng: np.random.Generator) -> _Descent:
        """One start at the center for each disjunct, the others at random within about the nearest one's distance."""
        first = _Descent(network, rows, near, near.center)
        guess = float(first.closeness.min())
        x = near.random_within(guess if 0.0 < guess < UNREACHABLE else 1.0, self.starts, rng)
        x[: rows.n_disjuncts] = near.center
        return _Descent(network, rows, near, near.project(x, near.distance(x)))

    def _cosine(self, step: int) -> float:
        return (1.0 + math.cos(math.pi * step / self.steps)) / 2.0

    def _length(self, step: int) -> float:
        return self.step_size * (LAST_STEP + (1.0 - LAST_STEP) * self._cosine(step))


class _Descent:
    """All starts side by side: x (B, *input_shape), each going for a disjunct of its own.

    closeness: for each disjunct, how far from the center its boundary would be if the network were linear there.
    """

    def __init__(self, network: Network, rows: Rows, near: Neighbourhood, x: np.ndarray) -> None:
        self._network, self._rows, self._near = network, rows, near
        self._targets = self._kinds = np.arange(rows.n_disjuncts)
        self.x = np.repeat(near.center, rows.n_disjuncts, axis=0)
        self.look()
        self.closeness = self.boundary(np.zeros(rows.n_disjuncts))
        self._targets, self._kinds = dealt(rows, self.closeness, len(x))
        self.x = x

    def look(self) -> np.ndarray:
        """The loss of each point's least safe disjunct, (B,)."""
        values = self._network.values(self.x)
        losses, gaps = losses_of(self._rows, values[-1], self.x)
        weights = row_weights(self._rows, gaps, self._targets)
        self._gradient = self._near.free(self.x, loss_gradient(self._network, values, self._rows, weights))
        self._loss = losses[np.arange(len(losses)), self._targets]
        return np.asarray(losses.min(axis=1))

    def restart(self, again: np.ndarray, best: np.ndarray, rng: np.random.Generator) -> None:
        """Sends the starts `again` (indices) to random points within the least of the distances `best`, (B,).

        They go for the disjuncts that were reached nearest to the center, FAVOURED of them at most.
        """
        reached = np.full(self._rows.n_disjuncts, np.inf)
        np.minimum.at(reached, self._targets, best)
        favoured = np.argsort(reached, kind="stable")[: min(FAVOURED, int(np.isfinite(reached).sum()))]
        self._targets[again] = favoured[np.arange(len(again)) % len(favoured)]
        self.x[again] = self._near.random_within(float(best.min()), len(again), rng)
        self.look()

    def boundary(self, distance: np.ndarray) -> np.ndarray:
        """Each point's distance, (B,), plus how much further its disjunct would be if the network were linear."""
        return np.asarray(distance + np.maximum(self._loss, 0.0) / np.maximum(self._near.slope(self._gradient), TINY))

    def move(self, radius: np.ndarray, length: float) -> None:
        """One step of `length` in units of the radii, (B,), projected into the balls."""
        step = (length * radius).reshape(-1, *(1,) * (self.x.ndim - 1))
        moved = self.x + step * self._near.downhill(self._gradient, self._kinds)
        self.x = self._near.project(moved, radius)

"""Projected gradient descent with restarts: looks for an input of the set whose output is unsafe.

Paper: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018. Loss, steps and
projections are in `verifkit.analysis.attack`; gradients come from the network's own adjoint in NumPy. Guarantee:
VIOLATED with a replayed witness; never HOLDS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from verifkit.analysis.attack import dealt, loss_gradient, losses_of, neighbourhood_of, random_points, row_weights
from verifkit.analysis.interval import INTERVAL_RULES
from verifkit.analysis.region import region_of
from verifkit.analysis.rows import rows_of
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.confirm import confirm
from verifkit.errors import OptionError
from verifkit.ops import Max, Product
from verifkit.query import Query
from verifkit.result import Outcome, Reason
from verifkit.verifier import Verifier


@dataclass(frozen=True, kw_only=True)
class Pgd(Verifier):
    """steps: gradient steps from each start. starts: how many, the center among them, all in one batch.

    step_size: the first step in units of the set's half width (box) or radius (ball); it shrinks linearly to a tenth.
    Starts are dealt out to the disjuncts in turn, those nearest to violation at the center first.
    """

    steps: int = 40
    starts: int = 64
    step_size: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 0 or self.starts < 1 or not self.step_size > 0:
            raise OptionError(f"pgd needs steps >= 0, starts >= 1 and step_size > 0, not {self.options()}")

    name: ClassVar[str] = "pgd"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.FALSIFIER, "2": Kind.FALSIFIER, "1": Kind.FALSIFIER},
        operators=frozenset({Max, Product}),
        activations=frozenset(INTERVAL_RULES),
        coupling=True,
        paper=Paper(
            "madry2018pgd",
            "Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian",
            "Towards deep learning models resistant to adversarial attacks",
            "ICLR",
            2018,
        ),
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        region, rows, network = region_of(query), rows_of(query.prop), query.network
        if not rows.n_disjuncts:
            return Outcome.unknown(Reason.INCOMPLETE, "the unsafe set is empty: nothing to find")
        near, radius = neighbourhood_of(region)
        radii = np.full(self.starts, radius)
        losses, _ = losses_of(rows, network.values(near.center)[-1], near.center)
        targets, kinds = dealt(rows, losses[0], self.starts)
        x = random_points(region.lower, region.upper, self.starts, rng)
        x[0] = near.center[0]
        x = near.project(x, radii)
        best, steps = np.inf, self.steps if (region.upper > region.lower).any() else 0
        for step in range(steps + 1):
            clock.check()
            values = network.values(x)
            losses, gaps = losses_of(rows, values[-1], x)
            best = min(best, float(losses.min()))
            for index in np.argsort(losses.min(axis=1))[:3]:
                if losses[index].min() <= 0 and confirm(query, x[index]) is not None:
                    statistics = {"loss": float(losses[index].min()), "steps": step}
                    return Outcome.violated(x[index], statistics=statistics)
            if step < steps:
                length = radius * self.step_size * (1.0 - 0.9 * step / steps)
                gradient = loss_gradient(network, values, rows, row_weights(rows, gaps, targets))
                x = near.project(x + length * near.downhill(near.free(x, gradient), kinds), radii)
        detail = f"no violation found from {self.starts} starts; least loss {best:.6g}"
        return Outcome.unknown(Reason.INCOMPLETE, detail, statistics={"loss": best})

"""Projected gradient descent with restarts: looks for an input of the set whose output is unsafe.

Paper: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018. The loop is
`verifkit.analysis.descent`; gradients come from the network's own adjoint in NumPy. Guarantee: VIOLATED with a replayed
witness; never HOLDS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from verifkit.analysis.descent import descend
from verifkit.analysis.interval import INTERVAL_RULES
from verifkit.analysis.region import member
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
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
        if not query.prop.unsafe:
            return Outcome.unknown(Reason.INCOMPLETE, "the unsafe set is empty: nothing to find")
        if not all(disjunct.constraints for disjunct in query.prop.unsafe):  # every input is unsafe
            return Outcome.violated(member(query))
        found = descend(query, self.starts, self.steps, self.step_size, clock, rng)
        if found.confirmed:
            return Outcome.violated(found.x, statistics={"loss": found.loss, "steps": found.steps})
        detail = f"no violation found from {self.starts} starts; least loss {found.loss:.6g}"
        return Outcome.unknown(Reason.INCOMPLETE, detail, statistics={"loss": found.loss})

"""AI2: ReLUs by zonotope meet and join, unit by unit, in a bounded powerset of zonotopes.

Paper: Gehr, Mirman, Drachsler-Cohen, Tsankov, Chaudhuri, Vechev, "AI2: safety and robustness certification of neural
networks with abstract interpretation", IEEE S&P 2018. The powerset is `verifkit.analysis.powerset`, the meet
`verifkit.analysis.zonotope_meet`. Guarantee: HOLDS about the network, real semantics, rounded arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from verifkit.analysis.powerset import Powerset
from verifkit.analysis.refute import conclude
from verifkit.analysis.region import region_of
from verifkit.analysis.rows import rows_of
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import OptionError
from verifkit.functions import Relu
from verifkit.ops import Max
from verifkit.query import Query
from verifkit.result import Outcome
from verifkit.verifier import Verifier

JOINS = ("chord", "common")


@dataclass(frozen=True, kw_only=True)
class Ai2(Verifier):
    """AI2 with zonotopes, in all norms, intersected with interval bounds.

    disjuncts: how many cases are kept apart; once there are as many, a split unit's two sides are joined at once. 1 is
    plain zonotopes. join: the form of a joined unit: "chord", DeepZ's, in which it stays correlated with its input, or
    "common", the common part of the two sides' forms, which leaves an interval.
    """

    disjuncts: int = 16
    join: str = "chord"

    name: ClassVar[str] = "ai2"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE, "1": Kind.INCOMPLETE, "0": Kind.INCOMPLETE},
        operators=frozenset({Max}),
        activations=frozenset({Relu}),
        coupling=True,
        paper=Paper(
            "gehr2018ai2",
            "Gehr, Timon and Mirman, Matthew and Drachsler-Cohen, Dana and Tsankov, Petar and Chaudhuri, Swarat and "
            "Vechev, Martin",
            "AI2: safety and robustness certification of neural networks with abstract interpretation",
            "IEEE S&P",
            2018,
        ),
    )

    def __post_init__(self) -> None:
        if self.disjuncts < 1:
            raise OptionError(f"ai2 needs disjuncts >= 1, not {self.disjuncts}")
        if self.join not in JOINS:
            raise OptionError(f"ai2's join is one of {', '.join(JOINS)}, not '{self.join}'")

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        region, rows = region_of(query), rows_of(query.prop)
        chord = self.join == "chord"
        powerset = Powerset(query.network.without_max(), region, self.disjuncts, chord=chord, clock=clock)
        cases = powerset.property_rows(rows)
        # Every case has to be refuted; the one that is furthest from it speaks for all.
        worst = min(cases, key=lambda lower: (None not in rows.refuting(lower), rows.margin(lower)))
        outcome = conclude(query, rows, worst, powerset.linear)
        # No evidence: its format knows neither zonotopes nor halfspaces.
        return replace(outcome, evidence=None, statistics={**outcome.statistics, "cases": powerset.cases})

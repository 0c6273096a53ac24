"""The default: falsify first, then cheap bounds, then a complete method, within one budget.

Its first form asks `pgd`, `interval`, `crown` and `milp` in turn and stops at the first definite answer; the result's
details say which of them gave it. The stages come from the registry, so another installed verifier can take any place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from verifkit.analysis.interval import INTERVAL_RULES
from verifkit.budget import BudgetExhausted, Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.ops import Max, Product
from verifkit.query import Query
from verifkit.radius import Radius, RadiusSearch, merge
from verifkit.registry import create
from verifkit.result import Outcome, Reason, Result, Verdict
from verifkit.verifier import Verifier


@dataclass(frozen=True, kw_only=True)
class Auto(Verifier):
    """stages: registered names, asked in this order with their default options.

    Every stage but the last may spend at most a quarter of the time left.
    """

    stages: tuple[str, ...] = ("pgd", "interval", "crown", "milp")

    name: ClassVar[str] = "auto"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.COMPLETE, "1": Kind.COMPLETE, "2": Kind.INCOMPLETE},
        operators=frozenset({Max, Product}),
        activations=frozenset(INTERVAL_RULES),
        coupling=True,
        paper=Paper(
            "verifkit_auto",
            "The verifkit authors",
            "A portfolio of falsification, linear bounds and mixed-integer programming",
            "verifkit documentation",
            2026,
        ),
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        last: Result | None = None
        asked = [v for v in map(create, self.stages) if _can_take(v, query)]
        for number, verifier in enumerate(asked):
            share = 1.0 if number == len(asked) - 1 else 0.25
            result = verifier.verify(query, budget=clock.share(share), seed=int(rng.integers(2**31)))
            statistics = {**result.statistics, "stage": verifier.name}
            if result.verdict is Verdict.HOLDS and result.guarantee is not None:
                detail = f"decided by {verifier.name}"
                return Outcome.holds(result.guarantee, result.evidence, detail=detail, statistics=statistics)
            if result.witness is not None:
                return Outcome.violated(result.witness.x, detail=f"decided by {verifier.name}", statistics=statistics)
            last = result
        if last is None:
            return Outcome.unknown(Reason.UNSUPPORTED, f"none of {', '.join(self.stages)} can take this question")
        return Outcome.unknown(
            last.reason or Reason.INCOMPLETE, f"{last.verifier}: {last.detail}", statistics=last.statistics
        )

    def _radius(self, search: RadiusSearch) -> Radius:
        """Every stage's bracket in turn, each starting below the smallest falsified end so far."""
        asked = [v for v in map(create, self.stages) if _can_take(v, search.family.at(0))]
        found = [Radius(search.family.norm, None, search.falsified)]
        for number, verifier in enumerate(asked):
            bracket = merge(search.family.norm, found)
            if bracket.closed(search.tolerance):
                break
            if search.falsified is not None and verifier.capabilities.kinds[search.family.norm] is Kind.FALSIFIER:
                continue  # its part is done
            try:
                clock = Clock(search.clock.share(1.0 if number == len(asked) - 1 else 0.25))
                found.append(verifier._radius(replace(search, clock=clock, falsified=bracket.falsified)))
            except BudgetExhausted:
                found.append(Radius(search.family.norm, None, None, ((0.0, Reason.TIMEOUT),)))
        return merge(search.family.norm, found)


def _can_take(verifier: Verifier, query: Query) -> bool:
    return not verifier.capabilities.missing_modules() and verifier.capabilities.refusal(query) is None

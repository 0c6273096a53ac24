"""The default: falsify first, then the complete method that suits the network, on all cores, within one budget.

Falsifiers come first, then `bab`, which begins with cheap bounds. Where it takes the question, incomplete methods are
passed over; where it does not, they are asked in turn before any other complete method. The next complete method is
asked only if the one before ended with time left: near a tie `bab` and `milp` say so at once, and `smt` decides
exactly. The stages come from the registry, so another installed verifier can take any place; the result's details say
who was asked, and why.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from verifkit.analysis.interval import INTERVAL_RULES
from verifkit.budget import BudgetExhausted, Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import OptionError
from verifkit.ops import Max, Product
from verifkit.query import Query
from verifkit.radius import Radius, RadiusSearch, merge
from verifkit.registry import create
from verifkit.result import Outcome, Reason, Result, Verdict
from verifkit.verifier import Verifier


@dataclass(frozen=True, kw_only=True)
class Auto(Verifier):
    """stages: registered names, asked in this order. processes: how many share the work of a stage that has a field of
    that name; 0 stands for the number of CPUs that this process may use.

    A falsifier, and an incomplete method that is not the last, may spend at most a quarter of the time left.
    """

    stages: tuple[str, ...] = ("pgd", "bab", "interval", "crown", "alpha_crown", "milp", "smt")
    processes: int = 0

    def __post_init__(self) -> None:
        if self.processes < 0:
            raise OptionError(f"auto's processes must be >= 0, not {self.processes}")
        if self.name in self.stages:
            raise OptionError("auto cannot be one of its own stages: name other verifiers (`verifkit list`)")

    name: ClassVar[str] = "auto"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.COMPLETE, "1": Kind.COMPLETE, "2": Kind.INCOMPLETE},
        operators=frozenset({Max, Product}),
        activations=frozenset(INTERVAL_RULES),
        coupling=True,
        paper=Paper(
            "verifkit_auto",
            "The verifkit authors",
            "A portfolio of falsification, linear bounds, branch and bound, and exact methods",
            "verifkit documentation",
            2026,
        ),
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        last: Result | None = None
        asked: list[str] = []
        spent = False
        plan = self._plan(query)
        for number, verifier in enumerate(plan):
            kind = verifier.capabilities.kinds[query.norm]
            if spent:
                break
            share = 1.0 if kind is Kind.COMPLETE or number == len(plan) - 1 else 0.25
            result = verifier.verify(query, budget=clock.share(share), seed=int(rng.integers(2**31)))
            asked.append(verifier.name)
            statistics = {**result.statistics, "stage": verifier.name}
            detail = _told(asked, result, complete=plan[-1].capabilities.kinds[query.norm] is Kind.COMPLETE)
            if result.verdict is Verdict.HOLDS and result.guarantee is not None:
                return Outcome.holds(result.guarantee, result.evidence, detail=detail, statistics=statistics)
            if result.witness is not None:
                return Outcome.violated(result.witness.x, detail=detail, statistics=statistics)
            spent = kind is Kind.COMPLETE and result.reason in (Reason.TIMEOUT, Reason.MEMOUT)
            if kind is not Kind.FALSIFIER or last is None:
                last = result
        if last is None:
            return Outcome.unknown(Reason.UNSUPPORTED, f"none of {', '.join(self.stages)} can take this question")
        statistics = {**last.statistics, "stage": last.verifier}
        return Outcome.unknown(
            last.reason or Reason.INCOMPLETE, f"{last.verifier}: {last.detail}", statistics=statistics
        )

    def _plan(self, query: Query) -> list[Verifier]:
        """Who is asked, in order: no incomplete method after a complete one."""
        plan: list[Verifier] = []
        complete = False
        for verifier in map(create, self.stages):
            if not _can_take(verifier, query):
                continue
            kind = verifier.capabilities.kinds[query.norm]
            complete = complete or kind is Kind.COMPLETE
            if kind is not Kind.INCOMPLETE or not complete:
                plan.append(self._on_all_cores(verifier))
        return plan

    def _on_all_cores(self, verifier: Verifier) -> Verifier:
        if "processes" not in verifier.options():
            return verifier
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return replace(verifier, processes=self.processes or usable or 1)  # type: ignore[type-var]

    def _radius(self, search: RadiusSearch) -> Radius:
        """Every stage's bracket in turn, each starting below the smallest falsified end so far."""
        asked = self._plan(search.family.at(0))
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


def _told(asked: list[str], result: Result, *, complete: bool) -> str:
    """Who decided, and why it was asked."""
    before = f"; {', '.join(asked[:-1])} did not" if len(asked) > 1 else ""
    why = "" if complete else "; no complete method takes this question"
    return "; ".join(filter(None, [f"decided by {result.verifier}{before}{why}", result.detail]))


def _can_take(verifier: Verifier, query: Query) -> bool:
    return not verifier.capabilities.missing_modules() and verifier.capabilities.refusal(query) is None

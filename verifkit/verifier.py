"""The one interface of every certifier, and the part of it that trusts no certifier about its own success."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, final

import numpy as np

from verifkit.budget import Budget, BudgetExhausted, Clock
from verifkit.capabilities import Capabilities, Kind
from verifkit.confirm import confirm
from verifkit.errors import OptionError
from verifkit.evidence import Cases
from verifkit.input_sets import rational
from verifkit.layer_bounds import hull
from verifkit.query import Query, QueryFamily
from verifkit.radius import TOLERANCE, Radius, RadiusEnd, RadiusSearch, bisect, merge
from verifkit.registry import create, falsifiers, substitutes, verifier_class
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Result, Semantics, Verdict
from verifkit.vetting import guarantee_fault, vetted_radius

NOT_REPLAYED = "a candidate counterexample did not replay as one"
"""The detail of an UNKNOWN that stands for a counterexample which no replay confirmed."""


class Verifier(ABC):
    """Answers queries. Concrete ones are `@dataclass(frozen=True, kw_only=True)`: their fields are their options.

    A new certifier writes `name`, `capabilities` and `_decide`, and nothing else; `_radius` only where the method has
    a closed form.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    @abstractmethod
    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        """The method itself, for a query with one input region (disjuncts carry no boxes of their own).

        Called only with queries that `capabilities` admits. May call `clock.check()`, whose exception means "timeout".
        """

    def _decide_batch(
        self, queries: Sequence[Query], clock: Clock, rngs: Sequence[np.random.Generator]
    ) -> list[Outcome]:
        """The method for several queries about one model; one that has no faster way leaves it as it is."""
        return [self._decide(query, clock, rng) for query, rng in zip(queries, rngs, strict=True)]

    @final
    def verify(self, query: Query, *, budget: Budget = Budget(), seed: int = 0) -> Result:  # noqa: B008 (frozen)
        """Answers `query`; raises `MissingPackage` where an optional package is not installed, `OptionError` where a
        required option is not set, and nothing else for running out of time or for a question it cannot take: those
        are reasons of an UNKNOWN.
        """
        self.require_usable()
        clock = Clock(budget)
        refusal = self.capabilities.refusal(query)
        if refusal is not None:
            return self._result(query, self._refuse(query, refusal), clock, seed)
        parts: list[Outcome] = []
        cases = query.cases()
        if not cases and self.capabilities.kinds[query.norm] is Kind.FALSIFIER:
            nothing = Outcome.unknown(Reason.INCOMPLETE, "the unsafe set admits no input: there is nothing to find")
            return self._result(query, nothing, clock, seed)
        for case in cases:
            outcome = self._checked(case, clock, seed)
            parts.append(outcome)
            if outcome.verdict is Verdict.VIOLATED:
                break
        # Where a violation ended it, the bounds say nothing of the other cases.
        bounds = hull([p.bounds for p in parts]) if len(parts) == len(cases) else None
        return self._result(query, dataclasses.replace(_combine(parts), bounds=bounds), clock, seed)

    @final
    def verify_batch(
        self,
        queries: Sequence[Query],
        *,
        budget: Budget = Budget(),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> list[Result]:
        """Answers several queries, as `verify` does, in one pass where the method can: a test set at one radius.

        budget: for all of them together. The seconds of a result are an equal share of the pass it was answered in.
        """
        self.require_usable()
        clock = Clock(budget)
        alone: list[int] = []
        groups: dict[int, list[int]] = {}
        for place, query in enumerate(queries):
            plain = self.capabilities.refusal(query) is None and len(query.cases()) == 1
            (groups.setdefault(id(query.model), []) if plain else alone).append(place)
        found: dict[int, Result] = {}
        for places in groups.values():
            started = clock.elapsed, clock.cpu
            cases = [queries[place].cases()[0] for place in places]
            outcomes = self._checked_batch(cases, clock, seed)
            shares = ((clock.elapsed - started[0]) / len(places), (clock.cpu - started[1]) / len(places))
            for place, outcome in zip(places, outcomes, strict=True):
                result = self._result(queries[place], outcome, clock, seed)
                found[place] = dataclasses.replace(result, wall_seconds=shares[0], cpu_seconds=shares[1])
        for place in alone:
            if clock.remaining <= 0:
                late = Outcome.unknown(Reason.TIMEOUT)
                found[place] = self._result(queries[place], late, clock, seed)
                continue
            seconds = None if budget.seconds is None else clock.remaining
            left = dataclasses.replace(budget, seconds=seconds)
            found[place] = self.verify(queries[place], budget=left, seed=seed)
        return [found[place] for place in range(len(queries))]

    @final
    def radius(
        self,
        family: QueryFamily,
        *,
        budget: Budget = Budget(),  # noqa: B008 (frozen)
        seed: int = 0,
        tolerance: float = TOLERANCE,
        attack: bool = True,
    ) -> Radius:
        """Brackets the largest radius at which the family's query holds.

        tolerance: how wide the bracket may stay, relative to its upper end. attack: first let the installed falsifiers
        look for the upper end, in at most a quarter of the time each; it names the one that found it. Not done for a
        method that is a falsifier itself, nor for one about another subject. Raises `OptionError`, `MissingPackage`.
        """
        if not 0 < tolerance < 1:
            raise OptionError(f"the radius's tolerance must lie strictly between 0 and 1, not {tolerance}")
        self.require_usable()
        clock = Clock(budget)
        if self.capabilities.refusal(family.at(0)) is not None:
            refused = self.verify(family.at(0), seed=seed)
            why = ((0.0, refused.reason or Reason.UNSUPPORTED),)
            return Radius(family.norm, None, None, why, detail=refused.detail)
        proving = self.capabilities.kinds[family.norm] in (Kind.COMPLETE, Kind.INCOMPLETE)
        falsified = _attacked(family, clock, seed) if attack and proving else None
        try:
            with np.errstate(all="ignore"):  # as in `_checked`
                found = self._radius(RadiusSearch(family, clock, seed, tolerance, falsified))
        except BudgetExhausted:
            return Radius(family.norm, None, falsified, ((0.0, Reason.TIMEOUT),))
        return vetted_radius(family, found, self.capabilities.kinds[family.norm], self.name, falsified)

    def _radius(self, search: RadiusSearch) -> Radius:
        """Bisection on `verify`; a method with a closed form overrides it and concludes through `_result`."""

        def ask(radius: float) -> Result | None:
            try:
                # Half of what is left: a radius that takes all the time must not keep the others from being asked.
                budget = search.clock.share(0.5)
            except BudgetExhausted:
                return None
            return self.verify(search.family.at(rational(radius)), budget=budget, seed=search.seed)

        falsifying = self.capabilities.kinds[search.family.norm] is Kind.FALSIFIER
        return bisect(search, ask, falsifying=falsifying)

    @final
    def describe(self) -> str:
        """name(option=value, ...): the canonical text of the verifier with all its options."""
        options = json.dumps(self.options(), sort_keys=True, default=str)
        return f"{self.name}{options}"

    @final
    def options(self) -> dict[str, Any]:
        """Option names and values, for records; options are set through the constructor."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @final
    def require_usable(self) -> None:
        """Raises `MissingPackage` without an optional package that it needs, `OptionError` without an option."""
        for option, what in self.capabilities.required.items():
            if not getattr(self, option):
                raise OptionError(f"verifier '{self.name}' needs the option '{option}': {what}")
        self.capabilities.require_modules(self.name)

    @final
    def _rng(self, query: Query, seed: int) -> np.random.Generator:
        """One generator from (seed, query, verifier): independent streams, and the same answer every time.

        Options that can change no answer (a field's metadata says `"seeds": False`) do not change the streams either.
        """
        seeding = {f.name for f in dataclasses.fields(self) if f.metadata.get("seeds", True)}  # type: ignore[arg-type]
        options = json.dumps({k: v for k, v in self.options().items() if k in seeding}, sort_keys=True, default=str)
        text = f"{seed} {query.digest} {self.name}{options}".encode()
        return np.random.default_rng(np.frombuffer(hashlib.sha256(text).digest(), dtype=np.uint32))

    @final
    def _checked(self, query: Query, clock: Clock, seed: int) -> Outcome:
        """Runs `_decide` and checks what it claims."""
        return self._guarded([query], clock, lambda: [self._decide(query, clock, self._rng(query, seed))])[0]

    @final
    def _checked_batch(self, queries: Sequence[Query], clock: Clock, seed: int) -> list[Outcome]:
        if type(self)._decide_batch is Verifier._decide_batch:  # one by one: what is answered in time stands
            return [self._checked(query, clock, seed) for query in queries]
        rngs = [self._rng(query, seed) for query in queries]
        return self._guarded(queries, clock, lambda: self._decide_batch(queries, clock, rngs))

    @final
    def _guarded(self, queries: Sequence[Query], clock: Clock, run: Callable[[], list[Outcome]]) -> list[Outcome]:
        try:
            clock.check()
            with np.errstate(all="ignore"):  # an overflow ends in an infinite bound or a NaN: both prove nothing
                outcomes = run()
        except BudgetExhausted as late:
            return [Outcome.unknown(Reason.TIMEOUT, str(late))] * len(queries)
        except MemoryError:
            return [Outcome.unknown(Reason.MEMOUT)] * len(queries)
        if len(outcomes) != len(queries):
            return [Outcome.unknown(Reason.ERROR, f"{self.name} did not answer every query")] * len(queries)
        return [self._vetted(query, outcome) for query, outcome in zip(queries, outcomes, strict=True)]

    @final
    def _vetted(self, query: Query, outcome: Outcome) -> Outcome:
        """What is left of a claim after checking it."""
        if not isinstance(outcome, Outcome) or not isinstance(outcome.verdict, Verdict):
            return Outcome.unknown(Reason.ERROR, f"{self.name} answered with something that is no Outcome")
        kind = self.capabilities.kinds[query.norm]
        if outcome.verdict is Verdict.HOLDS:
            fault = guarantee_fault(outcome.guarantee, kind)
            if fault is not None:
                return Outcome.unknown(Reason.ERROR, f"{self.name} {fault}")
        if outcome.verdict is Verdict.VIOLATED:
            return self._confirmed(query, outcome)
        return outcome

    @final
    def _confirmed(self, query: Query, outcome: Outcome) -> Outcome:
        witness = None if outcome.witness is None else confirm(query, outcome.witness)
        if witness is None:
            return Outcome.unknown(
                Reason.UNCONFIRMED,
                NOT_REPLAYED,
                statistics=outcome.statistics,
            )
        exact = any(r.arithmetic == "rational" and r.unsafe for r in witness.replays)
        guarantee = Guarantee(
            semantics=Semantics.REAL if exact else Semantics.FLOAT32,
            arithmetic=Arithmetic.EXACT if exact else Arithmetic.FLOAT,
        )
        return dataclasses.replace(outcome, guarantee=guarantee, evidence=witness)

    @final
    def _refuse(self, query: Query, refusal: str) -> Outcome:
        others = substitutes(query, self.capabilities)
        able_text = f"; can take it: {', '.join(others)}" if others else "; no installed verifier can take it"
        return Outcome.unknown(Reason.UNSUPPORTED, f"{self.name}: {refusal}{able_text}")

    @final
    def _result(self, query: Query, outcome: Outcome, clock: Clock, seed: int) -> Result:
        return Result(
            verdict=outcome.verdict,
            reason=outcome.reason,
            detail=outcome.detail,
            guarantee=outcome.guarantee,
            evidence=outcome.evidence,
            verifier=self.name,
            query_digest=query.digest,
            seed=seed,
            wall_seconds=clock.elapsed,
            cpu_seconds=clock.cpu,
            statistics=outcome.statistics,
            bounds=outcome.bounds,
        )


def _attacked(family: QueryFamily, clock: Clock, seed: int) -> RadiusEnd | None:
    """The smallest radius that an installed falsifier finds violated.

    Those that look for the nearest violation itself are asked, where there are any: bisecting takes the others several
    times as long, and ends hardly nearer.
    """
    found = []
    names = falsifiers(family.at(0))
    nearest = [name for name in names if verifier_class(name)._radius is not Verifier._radius]
    for name in nearest or names:
        try:
            budget = clock.share(0.25)
        except BudgetExhausted:
            break
        found.append(create(name).radius(family, budget=budget, seed=seed))
    return merge(family.norm, found).falsified


def _combine(parts: list[Outcome]) -> Outcome:
    """A violation anywhere is a violation; HOLDS needs every case; else the first UNKNOWN speaks."""
    if not parts:  # every disjunct's box misses the input set
        proof = Guarantee(arithmetic=Arithmetic.EXACT)
        return Outcome.holds(proof, Cases(()), detail="the unsafe set is unreachable: it admits no input")
    for verdict in (Verdict.VIOLATED, Verdict.UNKNOWN):
        for part in parts:
            if part.verdict is verdict:
                return part
    if len(parts) == 1:
        return parts[0]
    guarantee = _joint([p.guarantee for p in parts if p.guarantee is not None])
    details = dict.fromkeys(p.detail for p in parts if p.detail)
    statistics = {f"case {k}: {name}": v for k, p in enumerate(parts) for name, v in p.statistics.items()}
    evidence = Cases(tuple(p.evidence for p in parts))
    return Outcome.holds(guarantee, evidence, detail="; ".join(details), statistics=statistics)


def _joint(guarantees: list[Guarantee]) -> Guarantee:
    """What several regions' guarantees say together: the least sure arithmetic, all assumptions, summed chances."""
    order = (Arithmetic.EXACT, Arithmetic.ROUNDED, Arithmetic.FLOAT, Arithmetic.SOLVER)
    real = all(g.semantics is Semantics.REAL for g in guarantees)
    return Guarantee(
        subject=guarantees[0].subject,
        semantics=Semantics.REAL if real else Semantics.FLOAT32,
        arithmetic=max((g.arithmetic for g in guarantees), key=order.index),
        failure_probability=min(1.0, sum(g.failure_probability for g in guarantees)),
        scope=guarantees[0].scope,
        assumptions=tuple(dict.fromkeys(a for g in guarantees for a in g.assumptions)),
    )

"""Every registered verifier, and two written here as a third party would, against the public conformance suite."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest

from verifkit import registry
from verifkit.analysis.interval import propagate
from verifkit.analysis.region import region_of
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper, robust_label
from verifkit.errors import MissingPackage, VerifkitError
from verifkit.evidence import SolverBound
from verifkit.functions import Relu
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason
from verifkit.testing.conformance import Check, ConformanceError, check_verifier, checks_for
from verifkit.verifier import Verifier

PAPER = Paper("nobody2026", "Nobody", "A plug-in", "nowhere", 2026)


FEWER = {"lp_cvxpy": 16, "marabou": 24, "smt": 24}
"""Random questions per norm for a verifier that makes a conic program or a process of each, where not 64."""


def all_checks() -> list[Check]:
    found = []
    for name in registry.names():
        verifier = registry.create(name)
        if not verifier.capabilities.missing_modules() and not verifier.capabilities.required:
            found += checks_for(verifier, queries=FEWER.get(name, 64))
    return found


@pytest.mark.parametrize("check", all_checks(), ids=str)
def test_registered(check: Check) -> None:
    check()


# --- third parties ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Logits(Verifier):
    """Robustness of a label by interval bounds on the outputs alone: a plug-in as small as they come.

    slack: what is added to every rival's upper bound.
    """

    slack: float = 0.0

    name: ClassVar[str] = "logits"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE}, activations=frozenset({Relu}), robustness_only=True, paper=PAPER
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        region, label = region_of(query), robust_label(query)
        lower, upper = (end.reshape(-1) for end in propagate(query.network, region.lower, region.upper)[-1])
        rivals = np.delete(upper, label) + self.slack
        if lower[label] > rivals.max():
            return Outcome.holds(Guarantee(arithmetic=Arithmetic.ROUNDED), None)
        return Outcome.unknown(Reason.INCOMPLETE)


@dataclass(frozen=True, kw_only=True)
class Corners(Verifier):
    """Calls the model at random corners: a falsifier that needs no white box."""

    tries: int = 64
    name: ClassVar[str] = "corners"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.FALSIFIER}, operators=None, coupling=True, paper=PAPER
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        region = region_of(query)
        share = rng.integers(0, 2, (self.tries, query.prop.n_inputs))
        points = np.where(share, region.upper.reshape(-1), region.lower.reshape(-1))
        for x in np.unique(points, axis=0):
            clock.check()
            outcome = Outcome.violated(x)
            if self._confirmed(query, outcome).reason is None:
                return outcome
        return Outcome.unknown(Reason.INCOMPLETE)


@pytest.mark.parametrize("verifier", [Logits(), Logits(slack=1.0), Corners()], ids=lambda v: v.describe())
def test_third_party(verifier: Verifier) -> None:
    check_verifier(verifier, queries=40)


# --- the suite itself: what it must not let through ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Yes(Verifier):
    """Says HOLDS of everything."""

    name: ClassVar[str] = "yes"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE}, activations=frozenset({Relu}), paper=PAPER
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        return Outcome.holds(Guarantee(arithmetic=Arithmetic.ROUNDED), None)


class Never(Yes):
    """Proves nothing."""

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        return Outcome.unknown(Reason.INCOMPLETE)


class Raises(Yes):
    """Breaks down."""

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        raise ZeroDivisionError("no pivot")


class Prints(Logits):
    """Talks."""

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        print("Set parameter Threads to value 1")  # noqa: T201
        return super()._decide(query, clock, rng)


class Draws(Logits):
    """Uses the global generator."""

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        np.random.random()  # noqa: NPY002
        return super()._decide(query, clock, rng)


class Wavers(Logits):
    """Answers by its own whim."""

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        return Outcome.unknown(Reason.INCOMPLETE, statistics={"whim": float(np.random.default_rng().random())})


class Lingers(Logits):
    """Ignores its budget."""

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        while clock.elapsed < 1.2 and query.model.n_inputs > 18:
            pass
        return super()._decide(query, clock, rng)


class Boasts(Logits):
    """Declares a norm that it then refuses."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE},
        activations=frozenset({Relu}),
        robustness_only=True,
        paper=PAPER,
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        if query.norm == "2":
            return Outcome.unknown(Reason.UNSUPPORTED, "not really")
        return super()._decide(query, clock, rng)


class Overstates(Never):
    """Claims a solver's bound that nothing supports."""

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        region = region_of(query)
        if np.ptp(region.upper - region.lower) > 1e-3:
            return Outcome.unknown(Reason.INCOMPLETE)
        return Outcome.holds(Guarantee(arithmetic=Arithmetic.SOLVER), SolverBound("none", (1e9,), 0.0))


@dataclass(frozen=True, kw_only=True)
class Unfinished(Logits):
    """Has an option without a stable description."""

    thing: object = field(default_factory=object)


@pytest.mark.parametrize(
    ("verifier", "check"),
    [
        (Yes(), "empty_and_full_unsafe_sets|never_holds_on_a_violation|linear_balls_are_exact"),
        (Never(), "easy_questions_are_proved"),
        (Raises(), "ZeroDivisionError"),
        (Prints(), "global_state_is_untouched.*prints"),
        (Draws(), "global_state_is_untouched.*generator"),
        (Wavers(), "same_seed_same_answer"),
        (Lingers(), "budget_is_kept"),
        (Boasts(), "capabilities_are_taken"),
        (Overstates(), "HOLDS"),
        (Unfinished(), "options_are_data"),
    ],
    ids=lambda v: v.name if isinstance(v, Verifier) else "",
)
def test_misbehaviour_is_caught(verifier: Verifier, check: str) -> None:
    with pytest.raises(ConformanceError, match=f"(?s){check}"):
        check_verifier(verifier, queries=40)


def test_failure_shows_a_reproducer() -> None:
    check = next(c for c in checks_for(Yes(), queries=40) if c.name == "never_holds_on_a_violation")
    with pytest.raises(ConformanceError) as error:
        check()
    text = str(error.value)
    assert "verifier 'yes' fails 'never_holds_on_a_violation': HOLDS, but the input (" in text
    assert "ToyNet([[[" in text
    assert "(declare-const X_0 Real)" in text


def test_expected_failures() -> None:
    checks = checks_for(Never(), queries=8, expected_failures={"easy_questions_are_proved": "not written yet"})
    next(c for c in checks if c.name == "easy_questions_are_proved")()
    declared = checks_for(Logits(), queries=8, expected_failures={"easy_questions_are_proved": "not written yet"})
    with pytest.raises(ConformanceError, match="take the declaration back"):
        next(c for c in declared if c.name == "easy_questions_are_proved")()
    with pytest.raises(VerifkitError, match="soundness"):
        checks_for(Yes(), expected_failures={"never_holds_on_a_violation": "it is fast"})
    with pytest.raises(VerifkitError, match="no conformance check"):
        checks_for(Yes(), expected_failures={"speed": "it is slow"})


def test_missing_package() -> None:
    class Needs(Yes):
        """Needs what is not there."""

        capabilities: ClassVar[Capabilities] = Capabilities(
            kinds={"inf": Kind.INCOMPLETE}, modules={"no_such_solver": "all"}, paper=PAPER
        )

    with pytest.raises(MissingPackage, match="no_such_solver"):
        checks_for(Needs())

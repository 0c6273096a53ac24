"""What a verifier may claim: guarantees that its kind can give, and radii whose ends stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.evidence import Replay, Witness
from verifkit.input_sets import rational
from verifkit.io.onnx import model_from_network
from verifkit.network import dense_network
from verifkit.query import Query, QueryFamily, robustness_family
from verifkit.radius import Radius, RadiusEnd, RadiusSearch
from verifkit.registry import create
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Result, Subject, Verdict
from verifkit.verifier import Verifier
from verifkit.vetting import guarantee_fault

SOUND = Guarantee(arithmetic=Arithmetic.ROUNDED)


@dataclass(frozen=True, kw_only=True)
class Claimant(Verifier):
    """Answers whatever the test gives it."""

    outcome: Outcome | None = None
    bracket: Callable[[RadiusSearch], Any] | None = None

    name = "claimant"
    capabilities = Capabilities(
        kinds={"inf": Kind.COMPLETE}, paper=Paper("none2026", "Nobody", "None", "Nowhere", 2026), operators=None
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        assert self.outcome is not None
        return self.outcome

    def _radius(self, search: RadiusSearch) -> Radius:
        assert self.bracket is not None
        found: Radius = self.bracket(search)
        return found


@pytest.fixture
def family() -> QueryFamily:
    """Class 0 of (x + 1, 0): violated from radius 1 on."""
    network = dense_network([np.array([[1.0], [0.0]])], [np.array([1.0, 0.0])])
    return robustness_family(model_from_network(network, "line"), np.array([0.0]), 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"failure_probability": -1.0}, "failure probability of -1.0"),
        ({"failure_probability": float("nan")}, "failure probability of nan"),
        ({"failure_probability": True}, "failure probability of True"),
        ({"failure_probability": 0.01}, "does not fit it"),
        ({"subject": "Network"}, "'Network', which is no subject"),
        ({"semantics": "ideal"}, "'ideal', which is no semantics"),
        ({"arithmetic": "magic"}, "'magic', which is no arithmetic"),
        ({"subject": Subject.SMOOTHED}, "smoothed classifier without a failure probability"),
    ],
)
def test_a_guarantee_that_a_complete_method_cannot_give(
    family: QueryFamily, change: dict[str, Any], words: str
) -> None:
    result = Claimant(outcome=Outcome.holds(replace(SOUND, **change), None)).verify(family.at("0.5"))
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.ERROR)
    assert words in result.detail


def test_guarantees_that_fit_have_no_fault() -> None:
    assert guarantee_fault(SOUND, Kind.INCOMPLETE) is None
    smoothed = replace(SOUND, subject=Subject.SMOOTHED, failure_probability=0.001)
    assert guarantee_fault(smoothed, Kind.PROBABILISTIC) is None
    assert guarantee_fault(SOUND, Kind.FALSIFIER) is not None


def holding(search: RadiusSearch, radius: float) -> Result:
    return create("crown").verify(search.family.at(rational(radius)))


def invented(search: RadiusSearch, x: Fraction) -> Result:
    """A violation that says of itself that it was confirmed."""
    honest = holding(search, 0.5)
    witness = Witness((x,), (Replay("onnxruntime", (0.0, 1.0), True),), "onnxruntime", True, True)
    return replace(honest, verdict=Verdict.VIOLATED, evidence=witness)


def test_a_falsified_end_without_a_counterexample_does_not_stand(family: QueryFamily) -> None:
    def bracket(search: RadiusSearch) -> Radius:
        return Radius("inf", RadiusEnd(0.5, holding(search, 0.5)), RadiusEnd(0.0, holding(search, 0.5)))

    found = Claimant(bracket=bracket).radius(family, attack=False)
    assert found.falsified is None
    assert not found.misclassified
    assert found.certified is not None
    assert (0.0, Reason.UNCONFIRMED) in found.undecided
    assert "does not replay" in found.detail


@pytest.mark.parametrize(("x", "radius"), [(Fraction(1, 2), 0.5), (Fraction(-2), 0.6), (Fraction(0), 1e-9)])
def test_a_counterexample_that_is_none_or_lies_outside_closes_nothing(
    family: QueryFamily, x: Fraction, radius: float
) -> None:
    def bracket(search: RadiusSearch) -> Radius:
        return Radius("inf", RadiusEnd(0.5, holding(search, 0.5)), RadiusEnd(radius, invented(search, x)))

    found = Claimant(bracket=bracket).radius(family)
    assert found.falsified is not None  # the attack's own, which is a real one
    assert found.falsified.value >= 1
    assert not found.closed(0.01)


def test_a_certified_end_needs_a_verdict_and_a_guarantee(family: QueryFamily) -> None:
    def open_one(search: RadiusSearch) -> Radius:
        return Radius("inf", RadiusEnd(0.5, replace(holding(search, 0.5), verdict=Verdict.UNKNOWN)), None)

    def without(search: RadiusSearch) -> Radius:
        return Radius("inf", RadiusEnd(0.5, replace(holding(search, 0.5), guarantee=None)), None)

    def endless(search: RadiusSearch) -> Radius:
        return Radius("inf", RadiusEnd(float("inf"), holding(search, 0.5)), None)

    for bracket in (open_one, without, endless):
        found = Claimant(bracket=bracket).radius(family, attack=False)
        assert found.certified is None
        assert found.undecided == ((0.0, Reason.ERROR),)


def test_other_norms_and_whole_boxes_that_are_not(family: QueryFamily) -> None:
    def other(search: RadiusSearch) -> Radius:
        return Radius("1", RadiusEnd(0.5, holding(search, 0.5)), None)

    def whole(search: RadiusSearch) -> Radius:
        return Radius("inf", RadiusEnd(0.5, holding(search, 0.5)), None, complete=True)

    assert Claimant(bracket=other).radius(family, attack=False).certified is None
    assert Claimant(bracket=lambda search: None).radius(family, attack=False).certified is None
    assert not Claimant(bracket=whole).radius(family, attack=False).complete

"""Who can stand in for a verifier that refuses a question; and what a radius search says that certified nothing."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifkit.bench.running.worker import _undecided
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import PropertyError
from verifkit.evidence import Witness
from verifkit.input_sets import LpBall
from verifkit.io.onnx import model_from_network
from verifkit.network import dense_network
from verifkit.properties import Property, misclassified
from verifkit.query import Query, QueryFamily, robustness_family
from verifkit.radius import Radius, RadiusEnd
from verifkit.registry import create, substitutes, verifier_class
from verifkit.result import Outcome, Reason, Result, Verdict

MODEL = model_from_network(dense_network([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)]), "identity")
PAPER = Paper("nobody2026", "Nobody", "A plug-in", "nowhere", 2026)


def question(norm: str) -> Query:
    ball = LpBall((Fraction(1), Fraction(0)), Fraction(1, 4), norm)  # type: ignore[arg-type]
    return Query(MODEL, Property(ball, misclassified(0, 2), 2))


def kinds_of(names: list[str], norm: str) -> set[Kind]:
    return {verifier_class(name).capabilities.kinds[norm] for name in names}  # type: ignore[index]


@pytest.mark.parametrize(
    ("kind", "fitting"),
    [
        (Kind.COMPLETE, {Kind.COMPLETE, Kind.INCOMPLETE}),
        (Kind.INCOMPLETE, {Kind.COMPLETE, Kind.INCOMPLETE}),
        (Kind.FALSIFIER, {Kind.COMPLETE, Kind.FALSIFIER}),
        (Kind.PROBABILISTIC, {Kind.COMPLETE, Kind.INCOMPLETE, Kind.PROBABILISTIC}),
    ],
)
@pytest.mark.parametrize("declared", ["1", "2", "inf"])
def test_only_kinds_that_answer_the_same(kind: Kind, fitting: set[Kind], declared: str) -> None:
    for norm in ("1", "2"):
        capabilities = Capabilities(kinds={declared: kind}, paper=PAPER)  # type: ignore[dict-item]
        found = substitutes(question(norm), capabilities)
        assert kinds_of(found, norm) <= fitting
        assert found


def test_the_refusal_lists_them() -> None:
    detail = create("lp").verify(question("2")).detail
    able = detail.partition("; can take it: ")[2].split(", ")
    assert "crown" in able
    assert not {"pgd", "fmn", "smoothing", "lp"} & set(able)


def test_an_input_outside_its_clip_box() -> None:
    for norm in ("inf", "1", "2"):
        with pytest.raises(
            PropertyError, match=r"the input lies outside its clip box: entry 1 is 0, which .* \[0.5, 1\]"
        ):
            robustness_family(MODEL, np.array([1.0, 0.0]), 0, norm, clip=("0.5", 1))  # type: ignore[arg-type]
    box = robustness_family(MODEL, np.zeros(2), 0, clip=(0, 1)).clip
    with pytest.raises(PropertyError, match="entry 0 is beyond all floats"):
        QueryFamily(MODEL, (Fraction(10**400), Fraction(0)), "inf", misclassified(0, 2), box)


def falsified(at: float) -> RadiusEnd:
    x = (Fraction(0), Fraction(1))
    witness = Witness(x, (), "rational", True, True)
    return RadiusEnd(at, _result(Outcome.violated(np.zeros(2)), witness))


def _result(outcome: Outcome, witness: Witness) -> Result:
    return Result(
        verdict=Verdict.VIOLATED, reason=None, detail="", guarantee=outcome.guarantee, evidence=witness, verifier="pgd",
        query_digest="", seed=0, wall_seconds=0.0, cpu_seconds=0.0,
    )  # fmt: skip


def test_why_nothing_is_certified() -> None:
    found = Radius("inf", None, falsified(0.25), ())
    assert _undecided(found, proving=False) == (
        Reason.INCOMPLETE,
        "a method that only looks for violations certifies no radius; it found a violation",
    )
    reason, detail = _undecided(found, proving=True)
    assert reason is Reason.INCOMPLETE
    assert detail == "every radius that was tried, down to 0.25, is violated; smaller ones were not tried"
    assert _undecided(Radius("inf", None, None, ()), proving=True)[0] is Reason.TIMEOUT

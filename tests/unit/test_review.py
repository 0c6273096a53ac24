"""What an audit sums up: findings, attacks by where they were, and counterexamples by how far they can be trusted."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.unit.rows_builder import NETWORK, SMOOTHED, radius_row, row, witness
from verifkit.bench.audit.finding import ContradictionKind
from verifkit.bench.audit.review import AttackCount, review
from verifkit.bench.audit.unattacked import Reason, Unattacked
from verifkit.bench.audit.witnesses import WitnessClass, WitnessCount
from verifkit.bench.rows.frame import frame
from verifkit.radius import LARGEST
from verifkit.verifier import NOT_REPLAYED

SAMPLE = {"radius": 0.1, "index": 0, "label": 0}
BALL = {**SAMPLE, "property": "test.npz[0] linf 0.1", "property_hash": "ball"}
INSIDE = {**SAMPLE, "audit": "inside"}
OUTSIDE = {**SAMPLE, "audit": "outside", "radius": 0.2, "property_hash": "beyond"}


def test_an_attack_inside_a_claim_is_the_first_finding() -> None:
    rows = [
        row("milp", expected="sat", firmness="reported", property_hash="other"),
        radius_row("liar", certified=0.1),
        row("pgd", "VIOLATED", **{**INSIDE, "property": "test.npz[0] linf 0.1", "property_hash": "inside"}),
    ]
    found = review(frame(rows))
    assert [f.kind for f in found.findings] == [ContradictionKind.SOUNDNESS, ContradictionKind.REPORTED]
    assert found.findings[0].rows == (2, 3)
    assert found.violations == found.findings[:1]
    assert found.inside == AttackCount(asked=1, succeeded=1, resisted=0)


def test_a_broken_law_is_a_violation_among_the_others() -> None:
    bounds = [row(name, margin=margin, statistics={"margin": margin}) for name, margin in (("fastlin", 2), ("dual", 1))]
    found = review(frame([{**r, "kind": "incomplete"} for r in bounds]))
    assert [f.kind for f in found.violations] == [ContradictionKind.LAW]
    assert [(law.checked, law.broken) for law in found.laws] == [(1, 1)]


def test_attacks_are_counted_by_where_they_were() -> None:
    rows = [
        row("pgd", "UNKNOWN", **INSIDE),
        row("pgd", "UNKNOWN", reason="timeout", **INSIDE),
        row("pgd", "UNKNOWN", reason="unsupported", **INSIDE),
        row("pgd", "VIOLATED", **OUTSIDE),
        row("pgd", "UNKNOWN", **OUTSIDE),
        row("pgd", "VIOLATED", **SAMPLE, property_hash="the suite's own"),
    ]
    found = review(frame(rows))
    assert found.inside == AttackCount(asked=3, succeeded=0, resisted=1)
    assert found.inside.undone == 2
    assert found.outside == AttackCount(asked=2, succeeded=1, resisted=1)
    assert not found.violations


@pytest.mark.parametrize(
    ("claim", "attacks", "reason"),
    [
        (radius_row("smoothing", certified=0.1, guarantee=SMOOTHED), [], Reason.SUBJECT),
        (radius_row("crown", certified=0.1, guarantee=NETWORK | {"failure_probability": 0.01}), [], Reason.CHANCE),
        (row("crown"), [], Reason.PROPERTY),
        (row("crown"), [row("pgd", "UNKNOWN")], None),
        (row("crown"), [row("pgd", "UNKNOWN", reason="unsupported")], Reason.UNDONE),
        (radius_row("crown", certified=0.1, norm="0"), [], Reason.SPARSE),
        (radius_row("crown", certified=0.1), [], Reason.ABSENT),
        (radius_row("crown", certified=0.1), [row("pgd", "UNKNOWN", **BALL)], None),
        (radius_row("crown", certified=0.11), [row("pgd", "UNKNOWN", **BALL)], Reason.ABSENT),
        (radius_row("crown", certified=0.11), [row("pgd", "VIOLATED", **BALL)], None),
        (radius_row("crown", certified=0.09), [row("pgd", "VIOLATED", **BALL)], Reason.ABSENT),  # outside: no test
        (radius_row("crown", certified=0.1), [row("pgd", "UNKNOWN", reason="timeout", **BALL)], Reason.UNDONE),
        (radius_row("crown", certified=0.1), [row("pgd", "UNKNOWN", **{**BALL, "index": 1})], Reason.ABSENT),
        (radius_row("crown", certified=math.inf), [row("pgd", "UNKNOWN", **{**BALL, "radius": LARGEST})], None),
        (row("crown", **BALL), [row("pgd", "UNKNOWN", **BALL)], None),
    ],
)
def test_claims_that_no_attack_put_to_the_test(
    claim: dict[str, Any], attacks: list[dict[str, Any]], reason: Reason | None
) -> None:
    assert review(frame([claim, *attacks])).unattacked == (() if reason is None else (Unattacked(reason, 1),))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"witness": witness()}, WitnessClass.STRICT),
        ({"witness": witness(written=False)}, WitnessClass.TOLERATED),
        ({"witness": witness(written=False) | {"within_tolerance": False}}, WitnessClass.INVALID),
        ({"witness": witness() | {"confirmed_by": None}}, WitnessClass.INVALID),
        ({"witness": None}, WitnessClass.INVALID),
        (
            {"verdict": "UNKNOWN", "reason": "unconfirmed", "detail": NOT_REPLAYED, "witness": None},
            WitnessClass.INVALID,
        ),
        ({"verdict": "UNKNOWN", "reason": "unconfirmed", "detail": "a tie", "witness": None}, None),
        ({"verdict": "HOLDS", "witness": None}, None),
    ],
)
def test_counterexamples_have_three_classes(changes: dict[str, Any], kind: WitnessClass | None) -> None:
    found = review(frame([row("tool", **{"verdict": "VIOLATED", **changes})]))
    assert [w.kind for w in found.witnesses] == ([] if kind is None else [kind])
    assert sum(c.strict + c.tolerated + c.invalid for c in found.witness_counts) == len(found.witnesses)


def test_they_are_counted_per_verifier() -> None:
    rows = [row("b", "VIOLATED"), row("a", "VIOLATED", witness=witness(written=False)), row("b", "VIOLATED")]
    assert review(frame(rows)).witness_counts == (WitnessCount("a", 0, 1, 0), WitnessCount("b", 2, 0, 0))


def test_a_counterexample_within_tolerance_contradicts_no_proof() -> None:
    rows = [row("crown"), row("tool", "VIOLATED", witness=witness(written=False))]
    found = review(frame(rows))
    assert [f.kind for f in found.findings] == [ContradictionKind.TOLERATED]
    assert not found.violations
    assert "establishes no `sat`" in found.findings[0].sentence


def test_nothing_is_found_in_nothing() -> None:
    found = review(frame([]))
    assert (found.findings, found.laws, found.witnesses, found.inside.asked) == ((), (), (), 0)

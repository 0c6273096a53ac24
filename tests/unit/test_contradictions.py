"""Which answers contradict each other, and which of those are soundness violations."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.rows_builder import NETWORK, SMOOTHED, radius_row, row, witness
from verifkit.bench.audit.contradictions import (
    Contradiction,
    ContradictionKind,
    coverage,
    find,
    misses,
    soundness_violations,
)
from verifkit.bench.rows.frame import frame

Rows = list[dict[str, Any]]


def kinds(*rows: dict[str, Any]) -> list[ContradictionKind]:
    return [c.kind for c in find(frame(rows))]


def single(*rows: dict[str, Any]) -> Contradiction:
    (found,) = find(frame(rows))
    return found


def test_holds_against_a_confirmed_witness() -> None:
    found = single(row("crown"), row("pgd", "VIOLATED"))
    assert found.kind is ContradictionKind.SOUNDNESS
    assert found.rows == (1, 2)
    assert soundness_violations([found])
    for word in ("crown (row 1)", "HOLDS", "pgd (row 2)", "confirmed by onnxruntime", "prop_1", "net.onnx"):
        assert word in found.sentence


@pytest.mark.parametrize(
    "other",
    [
        row("pgd", "VIOLATED", property_hash="p2"),
        row("pgd", "VIOLATED", model_hash="other"),
        row("pgd", "UNKNOWN"),
        row("milp", "HOLDS"),
        row("pgd", "VIOLATED", guarantee=SMOOTHED | {"failure_probability": 0.0}),
    ],
)
def test_other_questions_and_subjects_do_not_contradict(other: dict[str, Any]) -> None:
    assert kinds(row("crown"), other) == []


def test_smoothed_classifier_is_not_refuted_by_a_witness_on_the_network() -> None:
    assert kinds(row("smoothing"), row("pgd", "VIOLATED")) == []


def test_witness_that_nothing_confirmed_is_listed_only() -> None:
    found = single(row("crown"), row("tool", "VIOLATED", witness=None))
    assert found.kind is ContradictionKind.UNCONFIRMED
    assert not soundness_violations([found])


def test_semantics_must_agree() -> None:
    only_float = witness(rational=False)
    assert kinds(row("crown"), row("pgd", "VIOLATED", witness=only_float)) == [ContradictionKind.SEMANTICS]
    float32 = row("crown", guarantee=NETWORK | {"semantics": "float32"})
    assert kinds(float32, row("pgd", "VIOLATED", witness=only_float)) == [ContradictionKind.SOUNDNESS]
    assert kinds(float32, row("smt", "VIOLATED", witness=witness(onnxruntime=False))) == [ContradictionKind.SEMANTICS]


def test_double_precision_speaks_for_real_where_no_exact_replay_exists() -> None:
    assert kinds(row("crown"), row("pgd", "VIOLATED", witness=witness(rational=None))) == [ContradictionKind.SOUNDNESS]


@pytest.mark.parametrize(
    ("verdict", "expected", "firmness", "kind"),
    [
        ("HOLDS", "sat", "firm", ContradictionKind.EXPECTED),
        ("VIOLATED", "unsat", "firm", ContradictionKind.EXPECTED),
        ("HOLDS", "sat", "reported", ContradictionKind.REPORTED),
        ("VIOLATED", "unsat", "reported", ContradictionKind.REPORTED),
        ("HOLDS", "unsat", "firm", None),
        ("VIOLATED", "sat", "reported", None),
        ("UNKNOWN", "sat", "firm", None),
    ],
)
def test_against_expected_verdicts(verdict: str, expected: str, firmness: str, kind: ContradictionKind | None) -> None:
    found = find(frame([row("milp", verdict, expected=expected, firmness=firmness)]))
    assert [c.kind for c in found] == ([] if kind is None else [kind])
    assert soundness_violations(found) == (kind is ContradictionKind.EXPECTED)


def test_the_sentence_says_where_a_witness_lies() -> None:
    found = single(row("milp", "VIOLATED", expected="unsat", firmness="firm", witness=witness(written=False)))
    assert found.kind is ContradictionKind.TOLERATED
    assert "confirmed by onnxruntime" in found.sentence
    assert "not in the written one" in found.sentence


@pytest.mark.parametrize(("falsified", "violation"), [(0.04, True), (0.05, True), (0.06, False)])
def test_attack_inside_a_certified_radius(falsified: float, violation: bool) -> None:
    found = find(frame([radius_row("crown", certified=0.05), radius_row("pgd", falsified=falsified)]))
    assert soundness_violations(found) is violation
    if violation:
        assert "certifies l-inf radius 0.05" in found[0].sentence
        assert f"within l-inf radius {falsified}" in found[0].sentence


def test_radii_of_other_samples_norms_and_models_do_not_meet() -> None:
    safe = radius_row("crown", certified=0.5)
    assert kinds(safe, radius_row("pgd", falsified=0.1, index=1)) == []
    assert kinds(safe, radius_row("pgd", falsified=0.1, norm="2", property_hash="q")) == []
    assert kinds(safe, radius_row("pgd", falsified=0.1, model_hash="n")) == []


def test_a_row_can_contradict_itself() -> None:
    assert single(radius_row("broken", certified=0.5, falsified=0.1)).rows == (1,)


@pytest.mark.parametrize(("radius", "violation"), [(0.1, True), (0.01, False)])
def test_questions_at_a_radius_meet_radii(radius: float, violation: bool) -> None:
    asked = row("crown", "HOLDS", radius=radius, index=0, label=0, property="test.npz[0] linf", property_hash="a")
    assert soundness_violations(find(frame([asked, radius_row("pgd", falsified=0.05)]))) is violation


def test_questions_at_different_radii_meet() -> None:
    sample = {"index": 3, "label": 1}
    large = row("crown", radius=0.2, property_hash="a", **sample)
    small = row("pgd", "VIOLATED", radius=0.1, property_hash="b", **sample)
    assert kinds(large, small) == [ContradictionKind.SOUNDNESS]


def test_samples_of_other_files_and_other_clip_boxes_do_not_meet() -> None:
    elsewhere = row("crown", radius=0.1, index=0, label=0, property="train.npz[0] linf 0.1", property_hash="a")
    assert kinds(elsewhere, radius_row("pgd", falsified=0.05)) == []
    clipped = radius_row("crown", certified=0.1, property_hash="clipped")
    assert kinds(clipped, radius_row("pgd", falsified=0.05)) == []


def test_one_pair_is_reported_once() -> None:
    sample = {"radius": 0.1, "index": 3, "label": 1}
    assert len(find(frame([row("crown", **sample), row("pgd", "VIOLATED", **sample)]))) == 1


def test_probabilistic_misses_are_counted_against_alpha() -> None:
    likely = NETWORK | {"failure_probability": 0.01}
    rows = [row("sampler", guarantee=likely, kind="probabilistic", property_hash=str(i)) for i in range(200)]
    rows += [row("pgd", "VIOLATED", property_hash="7"), row("milp", "VIOLATED", property_hash="7")]
    rows += [row("sampler", guarantee=likely, property_hash="x", expected="sat", firmness="firm")]
    df = frame(rows)
    (count,) = misses(df)
    assert (count.claims, count.misses, count.alpha, count.allowed) == (201, 2, 0.01, pytest.approx(2.01))
    found = find(df)
    assert [c.kind for c in found] == [ContradictionKind.MISS]
    assert found[0].rows == (8, 203)
    assert not soundness_violations(found)
    assert "2 of 201 answers" in found[0].sentence


def test_no_misses_is_said_too() -> None:
    (count,) = misses(frame([row("smoothing"), row("pgd", "VIOLATED", property_hash="p2")]))
    assert (count.claims, count.misses) == (1, 0)


def test_coverage_counts_what_could_have_been_contradicted() -> None:
    rows = [
        row("crown"),
        row("milp"),
        row("pgd", "UNKNOWN"),
        row("milp", "VIOLATED", property_hash="p2", expected="sat"),
    ]
    seen = coverage(frame(rows))
    assert (seen.rows, seen.shared, seen.expected, seen.compared) == (4, 1, 1, 0)


def test_violations_come_first_and_nothing_is_found_in_nothing() -> None:
    rows = [
        row("milp", expected="sat", firmness="reported"),
        row("pgd", "VIOLATED"),
        row("t", "VIOLATED", witness=None),
    ]
    assert kinds(*rows)[0] is ContradictionKind.SOUNDNESS
    assert find(frame([])) == []


def test_samples_in_other_clip_boxes_do_not_meet_at_other_radii() -> None:
    sample = {"index": 0, "label": 0}
    clipped = row("crown", radius=0.3, property="test.npz[0] linf 0.3 in [0, 1]", property_hash="a", **sample)
    free = row("pgd", "VIOLATED", radius=0.2, property="test.npz[0] linf 0.2", property_hash="b", **sample)
    assert kinds(clipped, free) == []
    same = {**free, "property": "test.npz[0] linf 0.2 in [0, 1]"}
    assert kinds(clipped, same) == [ContradictionKind.SOUNDNESS]


def test_a_witness_outside_the_written_set_counts_as_no_miss() -> None:
    likely = NETWORK | {"failure_probability": 0.01}
    claim = row("sampler", guarantee=likely, kind="probabilistic")
    assert misses(frame([claim, row("pgd", "VIOLATED")]))[0].misses == 1
    assert misses(frame([claim, row("pgd", "VIOLATED", witness=witness(written=False))]))[0].misses == 0


def test_coverage_compares_no_two_subjects() -> None:
    """A certificate about the smoothed classifier beside a witness on the network: nothing to contradict."""
    rows = frame([radius_row("smoothing", 0.5), radius_row("pgd", None, 0.3)])
    found = coverage(rows)
    assert (found.compared, found.shared) == (0, 0)
    both = coverage(frame([radius_row("smoothing", 0.5), radius_row("crown", 0.2), radius_row("pgd", None, 0.3)]))
    assert (both.compared, both.shared) == (1, 1)

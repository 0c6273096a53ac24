"""Order laws on rows: each can be broken, by a bound that is moved, and only full answers are compared."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.rows_builder import SMOOTHED, radius_row, row
from verifkit.bench.audit.finding import ContradictionKind
from verifkit.bench.audit.laws import check_laws
from verifkit.bench.rows.frame import frame

Rows = dict[str, Any]
OPTIONS: dict[str, Rows] = {"lp": {"tighten": "crown"}, "alpha_crown": {"layer_iterations": 0}}


def bound(verifier: str, margin: float | None, **changes: Any) -> Rows:
    """A verdict at radius 0.1 with a margin."""
    verdict = changes.pop("verdict", "HOLDS" if margin is None or margin > 0 else "UNKNOWN")
    statistics = {"margin": margin, **({"reduced": 0} if verifier == "zonotope" else {})}
    about = {"radius": 0.1, "index": 0, "label": 0, "kind": "incomplete", "options": OPTIONS.get(verifier, {})}
    return row(verifier, verdict, **{**about, "margin": margin, "statistics": statistics, **changes})


def attack(loss: float, **changes: Any) -> Rows:
    statistics = {"loss": loss}
    verdict = "VIOLATED" if loss <= 0 else "UNKNOWN"
    return row("pgd", verdict, **{"radius": 0.1, "index": 0, "label": 0, "statistics": statistics, **changes})


def reach(verifier: str, certified: float, gap: float = 1e-5, why: str = "incomplete", **changes: Any) -> Rows:
    """A radius, with the next one tried left open."""
    end = {"undecided": [[certified + gap, why]], "statistics": {"margin": 1e-3}, "kind": "incomplete"}
    options = OPTIONS.get(verifier, {})
    return radius_row(verifier, certified or None, **{"options": options, "margin": 1e-3, **end, **changes})


def broken(*rows: Rows) -> int:
    found, counts = check_laws(frame(list(rows)))
    assert all(f.kind is ContradictionKind.LAW and f.is_violation for f in found)
    assert sum(c.broken for c in counts) == len(found)
    return len(found)


def checked(*rows: Rows) -> int:
    return sum(c.checked for c in check_laws(frame(list(rows)))[1])


EQUAL = [("fastlin", "dual"), ("fastlin", "zonotope"), ("dual", "zonotope")]
ORDERED = [("crown", "alpha_crown"), ("crown", "lp"), ("alpha_crown", "lp"), ("interval", "lp")]


@pytest.mark.parametrize(("lower", "upper"), EQUAL + ORDERED)
@pytest.mark.parametrize("level", [1.0, -1.0, -300.0])
def test_a_margin_on_the_wrong_side_is_found(lower: str, upper: str, level: float) -> None:
    assert checked(bound(lower, level), bound(upper, level)) >= 1
    assert broken(bound(lower, level), bound(upper, level)) == 0
    assert broken(bound(lower, level * (1 - 1e-12)), bound(upper, level)) == 0
    higher = level + 0.5
    assert broken(bound(lower, higher), bound(upper, level)) == 1
    assert broken(bound(lower, level), bound(upper, higher)) == ((lower, upper) in EQUAL)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [("interval", "crown"), ("interval", "fastlin"), ("fastlin", "crown"), ("fastlin", "lp"), ("crown", "interval")],
)
def test_what_is_no_law_is_not_tested(lower: str, upper: str) -> None:
    assert checked(bound(lower, 2.0), bound(upper, 1.0)) == 0


def test_settings_that_make_it_no_law() -> None:
    assert broken(bound("crown", 2.0), bound("alpha_crown", 1.0)) == 1
    assert checked(bound("crown", 2.0), bound("alpha_crown", 1.0, options={"layer_iterations": 10})) == 0
    assert checked(bound("crown", 2.0), bound("lp", 1.0, options={"tighten": "lp"})) == 0
    assert broken(bound("interval", 2.0), bound("lp", 1.0, options={"tighten": "lp"})) == 1
    assert checked(bound("fastlin", 2.0, options={"precision": "float32"}), bound("dual", 1.0)) == 0
    assert checked(bound("fastlin", 2.0), bound("zonotope", 1.0, statistics={"margin": 1.0, "reduced": 1})) == 0
    assert checked(bound("fastlin", 2.0, norm="2"), bound("zonotope", 1.0, norm="2")) == 0
    assert broken(bound("fastlin", 2.0, norm="2"), bound("dual", 1.0, norm="2")) == 1
    pooled = bound("interval", 2.0, statistics={"margin": 2.0, "max nodes": 1})
    assert checked(pooled, bound("lp", 1.0)) == 0


@pytest.mark.parametrize("reason", ["timeout", "memout", "error", "unconfirmed", "unsupported"])
def test_answers_that_were_cut_off_break_nothing(reason: str) -> None:
    cut = bound("dual", 1.0, verdict="UNKNOWN", reason=reason)
    assert checked(bound("fastlin", 2.0), cut) == 0
    assert checked(bound("crown", 2.0), attack(1.0, reason=reason)) == 0


def test_other_questions_models_and_subjects_do_not_meet() -> None:
    assert checked(bound("fastlin", 2.0), bound("dual", 1.0, property_hash="q")) == 0
    assert checked(bound("fastlin", 2.0), bound("dual", 1.0, model_hash="n")) == 0
    assert checked(bound("crown", 2.0, guarantee=SMOOTHED, kind="incomplete"), attack(1.0)) == 0


@pytest.mark.parametrize("name", ["crown", "milp", "liar"])
@pytest.mark.parametrize(("margin", "loss", "count"), [(1.0, 1.0, 0), (1.0, 0.5, 1), (-1.0, -2.0, 1), (0.1, 3.0, 0)])
def test_a_margin_above_what_an_attack_saw(name: str, margin: float, loss: float, count: int) -> None:
    kind = "complete" if name == "milp" else "incomplete"
    assert broken(bound(name, margin, kind=kind), attack(loss)) == count


def test_the_sentence_names_both_rows_and_numbers() -> None:
    found, _ = check_laws(frame([bound("crown", 2.5), attack(1.25)]))
    (one,) = found
    assert one.rows == (1, 2)
    for word in ("crown (row 1) has margin 2.5", "pgd (row 2) the value 1.25", "prop_1", "net.onnx", "no larger than"):
        assert word in one.sentence


def test_at_radius_zero_a_bound_is_the_forward_pass() -> None:
    at = {"radius": 0.0}
    assert broken(bound("crown", 1.0, **at), attack(1.0, **at)) == 0
    assert broken(bound("crown", 0.9, **at), attack(1.0, **at)) == 1
    assert broken(bound("crown", 0.9, **at), bound("ai2", 1.0, **at)) == 1
    assert broken(bound("other", 0.9, **at), attack(1.0, **at)) == 0  # nobody knows what that one promises


@pytest.mark.parametrize(
    ("small", "large", "count"),
    [(2.0, 1.0, 0), (-1.0, -2.0, 0), (1.0, 2.0, 1), (-2.0, -1.0, 1), (-0.1, 0.1, 1)],
)
def test_a_smaller_ball_has_no_smaller_margin(small: float, large: float, count: int) -> None:
    at_small, at_large = {"radius": 0.1}, {"radius": 0.2, "property_hash": "large"}
    for name, options in (("interval", {}), ("lp", {"tighten": "lp"})):
        pair = bound(name, small, options=options, **at_small), bound(name, large, options=options, **at_large)
        assert broken(*pair) == count
    assert checked(bound("crown", small, **at_small), bound("crown", large, **at_large)) == 0
    assert checked(bound("lp", small, **at_small), bound("lp", large, **at_large)) == 0
    elsewhere = bound("interval", large, property="other.npz[0] linf 0.2", **at_large)
    assert checked(bound("interval", small, property="this.npz[0] linf 0.1", **at_small), elsewhere) == 0


def test_a_radius_and_a_verdict_of_intervals() -> None:
    radius = reach("interval", 0.2, property="test.npz[0] linf radius")
    left = {"property": "test.npz[0] linf", "verdict": "UNKNOWN"}
    assert broken(radius, bound("interval", None, radius=0.1, **left)) == 1
    assert broken(radius, bound("interval", None, radius=0.3, **left)) == 0
    holds = bound("interval", None, radius=0.3, property="test.npz[0] linf", verdict="HOLDS")
    assert broken(radius, holds) == 1  # the bisection found a smaller radius undecided


@pytest.mark.parametrize(("one", "other", "count"), [(0.1, 0.1, 0), (0.1, 0.10005, 0), (0.1, 0.11, 1), (0.11, 0.1, 1)])
def test_equal_methods_have_equal_radii(one: float, other: float, count: int) -> None:
    assert broken(reach("fastlin", one), reach("dual", other)) == count
    assert broken(reach("fastlin", one), reach("dual", other, why="timeout")) == 0
    assert broken(reach("fastlin", one), reach("dual", other, gap=0.05)) == 0


@pytest.mark.parametrize(("one", "other", "count"), [(0.1, 0.1, 0), (0.1, 0.0999, 0), (0.1, 0.2, 0), (0.11, 0.1, 1)])
def test_intervals_certify_no_more_than_the_linear_program(one: float, other: float, count: int) -> None:
    assert broken(reach("interval", one), reach("lp", other)) == count
    assert broken(reach("interval", one), reach("lp", other, why="timeout")) == 0


def test_where_the_looser_method_is_not_monotone_only_equal_radii_are_compared() -> None:
    assert broken(reach("crown", 0.11), reach("lp", 0.1)) == 0
    assert broken(reach("crown", 0.11), reach("lp", 0.1, undecided=[[0.11, "incomplete"]])) == 1
    assert broken(reach("crown", 0.11), reach("lp", 0.1, undecided=[[0.11, "timeout"]])) == 0


def test_nothing_is_found_in_nothing() -> None:
    assert check_laws(frame([])) == ([], [])

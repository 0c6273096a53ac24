"""Which attacks a study adds to what was certified."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import permutations
from typing import Any

import pytest

from tests.unit.rows_builder import NETWORK, SMOOTHED, radius_row, row
from verifkit.bench.audit.attacks import BEYOND, SECONDS, Attacker, Claims, decimal_text
from verifkit.bench.rows.schema import Row
from verifkit.bench.suites.instance import Instance, Sample
from verifkit.budget import Budget
from verifkit.radius import LARGEST

PGD = Attacker("pgd", {"steps": 40}, frozenset({"inf", "2", "1"}))
FMN = Attacker("fmn", {}, frozenset({"inf"}))


def asked(radius: str | None = None, **changes: Any) -> Instance:
    sample = Sample(inputs="/s/test.npz", index=0, label=0, norm="inf", radius=radius, clip=("0", "1"))
    sample = replace(sample, **{k: changes.pop(k) for k in list(changes) if hasattr(sample, k)})
    what = "radius" if radius is None else radius
    fields = {"id": f"net/test[0] linf {what}", "property_name": f"test.npz[0] linf {what}", "suite": "toy"}
    files = {"model_path": "/m/net.onnx", "model_name": "net.onnx", "limits": Budget(seconds=60)}
    return Instance(**{**fields, **files, "sample": sample, "grid": ("0.1",), "verifiers": ("crown",), **changes})


def about(values: dict[str, Any], instance: Instance | None = None) -> tuple[Row, Instance]:
    radius = values["radius"]
    return Row.from_json(values), instance or asked(None if radius is None else str(radius))


def verdict(verifier: str = "crown", said: str = "HOLDS", radius: float = 0.1, **changes: Any) -> dict[str, Any]:
    return row(verifier, said, radius=radius, index=0, label=0, **changes)


def attacks(
    answered: Iterable[tuple[Row, Instance]], own: tuple[Attacker, ...], default: Attacker | None
) -> list[tuple[Instance, Attacker]]:
    claims = Claims()
    for answer, instance in answered:
        claims.add(answer, instance)
    return claims.attacks(own, default)


def added(*answered: tuple[Row, Instance], own: tuple[Attacker, ...] = ()) -> list[tuple[str | None, str, str]]:
    found = attacks(answered, own, PGD)
    assert all(i.sample is not None and i.sample.radius is not None for i, _ in found)
    return [(i.audit, i.sample.radius or "", a.name) for i, a in found if i.sample is not None]


def test_the_largest_certified_radius_is_attacked_exactly() -> None:
    rows = [about(radius_row("crown", certified=0.1)), about(radius_row("lp", certified=0.3))]
    ((why, radius, name),) = added(*rows)
    assert (why, name) == ("inside", "pgd")
    assert Fraction(radius) == Fraction(0.3)  # the float, digit by digit, and not three tenths
    assert Fraction(radius) != Fraction("0.3")


@pytest.mark.parametrize("value", [0.1, 1e-30, 2.0**60, 5e-324, 0.25])
def test_a_radius_as_text_is_the_float(value: float) -> None:
    text = decimal_text(value)
    assert Decimal(text) == Decimal(value)
    assert "E" not in text
    assert float(text) == value


def test_an_attack_is_a_question_of_its_own() -> None:
    ((instance, attacker),) = attacks([about(radius_row("crown", certified=0.25))], (), PGD)
    assert attacker is PGD
    assert instance.question == "verify"
    assert (instance.audit, instance.grid, instance.expected, instance.verifiers) == ("inside", None, None, None)
    assert instance.limits == Budget(seconds=SECONDS)
    assert instance.id == "net/test[0] linf 0.25 (attack inside)"
    assert instance.property_name == "test.npz[0] linf 0.25"
    assert instance.sample is not None
    assert instance.sample.clip == ("0", "1")


def test_it_has_no_more_time_than_the_claim_had() -> None:
    ((instance, _),) = attacks([about(radius_row("crown", certified=0.25, timeout=2.0))], (), PGD)
    assert instance.limits == Budget(seconds=2.0)
    ((instance, _),) = attacks([about(radius_row("crown", certified=0.25, timeout=None))], (), PGD)
    assert instance.limits == Budget(seconds=SECONDS)


def test_what_holds_at_a_given_radius_is_attacked_as_the_suite_wrote_it() -> None:
    assert added(about(verdict(radius=0.1), asked("0.10"))) == [("inside", "0.10", "pgd")]


@pytest.mark.parametrize(
    "values",
    [
        radius_row("crown"),
        radius_row("crown", falsified=0.0),
        radius_row("smoothing", certified=0.3, guarantee=SMOOTHED),
        radius_row("sampler", certified=0.3, guarantee=NETWORK | {"failure_probability": 0.01}),
        radius_row("pgd", falsified=0.3),
        verdict(said="UNKNOWN"),
        verdict("pgd", "VIOLATED"),
        verdict("smoothing", guarantee=SMOOTHED),
    ],
)
def test_what_claims_nothing_about_the_network_is_left_alone(values: dict[str, Any]) -> None:
    assert added(about(values)) == []


def test_a_property_file_is_left_alone() -> None:
    instance = asked(sample=None, property_path="/p/p.vnnlib")
    assert added(about(row("crown"), instance)) == []


def test_outside_an_exact_radius_it_should_succeed() -> None:
    exact = radius_row("milp", certified=0.2, falsified=0.2001, kind="complete")
    found = added(about(exact))
    assert [why for why, _, _ in found] == ["inside", "outside"]
    assert float(found[1][1]) == 0.2001 * BEYOND


@pytest.mark.parametrize(
    "changes",
    [
        {"falsified": 0.3},  # open still
        {"falsified": 0.2001, "kind": "incomplete"},
        {"falsified": None, "complete": True},
    ],
)
def test_nothing_is_tried_outside_what_is_not_exact(changes: dict[str, Any]) -> None:
    values = {"certified": 0.2, "kind": "complete", **changes}
    assert [why for why, _, _ in added(about(radius_row("milp", **values)))] == ["inside"]


def test_the_suites_own_attacks_are_used_where_they_take_the_norm() -> None:
    claim = about(radius_row("crown", certified=0.3))
    assert [name for *_, name in added(claim, own=(FMN,))] == ["fmn"]
    other = Attacker("pgd", {"steps": 7}, frozenset({"2"}))
    assert [name for *_, name in added(claim, own=(other,))] == ["pgd"]
    in_l2 = about(radius_row("crown", certified=0.3, norm="2"), asked(norm="2"))
    assert [name for *_, name in added(in_l2, own=(FMN,))] == ["pgd"]
    in_l0 = about(radius_row("interval", certified=2.0, norm="0"), asked(norm="0"))
    assert added(in_l0, own=(FMN,)) == []


def test_no_attack_is_installed() -> None:
    assert attacks([about(radius_row("crown", certified=0.3))], (), None) == []


def test_what_the_suite_asks_of_an_attack_is_not_asked_again() -> None:
    pgd = verdict("pgd", "UNKNOWN", options={"steps": 40})
    assert added(about(verdict()), about(pgd), own=(PGD,)) == []
    assert len(added(about(verdict()), about({**pgd, "options": {"steps": 3}}), own=(PGD,))) == 1
    assert len(added(about(verdict()), about({**pgd, "radius": 0.2}), own=(PGD,))) == 1


def test_other_samples_and_clip_boxes_are_other_questions() -> None:
    first = about(radius_row("crown", certified=0.3))
    unclipped = about(radius_row("crown", certified=0.4), asked(clip=None))
    second = about(radius_row("crown", certified=0.5), asked(index=1))
    assert len(added(first, unclipped, second)) == 3


def test_the_order_of_the_rows_changes_nothing() -> None:
    rows = [
        about(radius_row("milp", certified=0.2, falsified=0.2001, kind="complete")),
        about(radius_row("crown", certified=0.1, timeout=2.0)),
        about(verdict(radius=0.15, timeout=3.0)),
    ]
    wanted = attacks(rows, (PGD, FMN), None)
    assert len(wanted) == 6
    assert all(attacks(order, (PGD, FMN), None) == wanted for order in permutations(rows))


def test_its_own_rows_are_no_claims() -> None:
    answered = about(verdict("liar", radius=0.1), replace(asked("0.1"), audit="inside"))
    assert added(answered) == []


def test_a_radius_beyond_all_floats_is_attacked_within_them() -> None:
    ((_, radius, _),) = added(about(radius_row("liar", certified=1e300)))
    assert float(radius) == LARGEST

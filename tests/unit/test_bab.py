"""Branch and bound as a verifier: it agrees with the oracle, keeps its budget, and answers the same every time."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import fields, is_dataclass
from fractions import Fraction
from itertools import count
from typing import Any

import numpy as np
import pytest

from tests.unit.phase_evidence import least_output, recheck
from verifiers.complete.bab import Bab, Branching
from verifkit.analysis.bab.l1_ball import without_ball
from verifkit.analysis.region import Region, region_of
from verifkit.analysis.rows import rows_of
from verifkit.budget import Budget
from verifkit.errors import OptionError
from verifkit.evidence import Cases, Evidence, LayerBoxes, PhaseTree
from verifkit.exact import evaluate_exactly
from verifkit.input_sets import Box, InputSet, LpBall
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.result import Reason, Result, Verdict
from verifkit.testing.oracle import ToyNet
from verifkit.testing.questions import showing
from verifkit.testing.samples import describe_property, describe_toy, is_unsafe
from verifkit.testing.toys import ask_oracle, random_question, random_toy, sample_points, to_model

BRANCHINGS: tuple[Branching, ...] = ("phase", "input")


@pytest.mark.parametrize("options", [{"branching": "relu"}, {"batch": 0}, {"processes": 0}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="bab"):
        Bab(**options)


@pytest.mark.parametrize(
    ("number", "verdict"),
    [
        pytest.param(661, Verdict.VIOLATED, id="the unsafe set is one vertex of the ball"),
        pytest.param(1110, Verdict.HOLDS, id="flat next to the unsafe set"),
        pytest.param(2513, Verdict.HOLDS, id="flat next to the unsafe set, many kinks"),
    ],
)
def test_questions_of_the_oracle_that_bisection_alone_does_not_decide(number: int, verdict: Verdict) -> None:
    rng = np.random.default_rng([20260101, number])
    toy, prop = random_question(rng, random_toy(rng, max_relus=14))
    query = Query(to_model(toy), prop)
    result = Bab().verify(query)
    assert result.verdict is verdict
    _check(result, toy, query, number)


def _check(result: Result, toy: ToyNet, query: Query, where: object) -> str:
    """Checks an answer against the oracle; what it was."""
    truth = ask_oracle(toy, query.prop)
    case = f"{where}: margin {truth.margin}, {result.detail}\n{describe_toy(toy)}\n{describe_property(query.prop)}"
    if result.verdict is Verdict.HOLDS:
        assert not truth.violated, case
        for piece, part in zip(_pieces(result.evidence), query.cases(), strict=True):
            if isinstance(piece, PhaseTree | LayerBoxes):
                recheck(part, piece)
    elif result.verdict is Verdict.VIOLATED:
        assert truth.violated, case
        assert result.witness is not None, case
        assert is_unsafe(toy, query.prop, result.witness.x, query.model.dtype), case
    else:
        assert truth.in_band, case
        assert result.reason is Reason.UNCONFIRMED, case
    return str(result.verdict)


def _pieces(evidence: Evidence | None) -> tuple[Evidence | None, ...]:
    return evidence.parts if isinstance(evidence, Cases) else (evidence,)


def _ask(branching: Branching, first: int, last: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for number in range(first, last):
        rng = np.random.default_rng([20260101, number])
        toy, prop = random_question(rng, random_toy(rng, magnitudes=number % 10 == 9))
        query = Query(to_model(toy), prop)
        batch = (1, 3, 64)[number % 3]
        result = Bab(branching=branching, batch=batch).verify(query)
        found[_check(result, toy, query, (branching, number))] += 1
    return found


@pytest.mark.parametrize("branching", BRANCHINGS)
def test_agrees_with_the_oracle(branching: Branching) -> None:
    found = _ask(branching, 0, 60)
    assert found["HOLDS"] > 15
    assert found["VIOLATED"] > 15


@pytest.mark.slow
@pytest.mark.parametrize("first", range(60, 1060, 100))
@pytest.mark.parametrize("branching", BRANCHINGS)
def test_agrees_with_the_oracle_often(branching: Branching, first: int) -> None:
    _ask(branching, first, first + 100)


@pytest.mark.parametrize("branching", BRANCHINGS)
def test_agrees_on_l1_balls(branching: Branching) -> None:
    found: Counter[str] = Counter()
    for number in range(30):
        rng = np.random.default_rng([41, number])
        toy, prop = random_question(rng, random_toy(rng, max_relus=7), kinds=("l1",))
        query = Query(to_model(toy), prop)
        found[_check(Bab(branching=branching).verify(query), toy, query, (branching, number))] += 1
    assert min(found["HOLDS"], found["VIOLATED"]) > 5


@pytest.mark.parametrize("name", ["conv", "max_pool"])
def test_a_violation_that_sampling_finds_in_a_ball_is_found(name: str) -> None:
    """In a ball two rows must hold at once: steps downhill alone end in the kinks of their maximum."""
    shown = showing(name, "1", 1, Fraction(1, 4), True, 0)
    result = Bab(branching="phase").verify(shown.query, budget=Budget(seconds=20))
    assert result.verdict is Verdict.VIOLATED


def test_a_ball_becomes_a_row() -> None:
    """The output added is the distance, exactly; a point is unsafe there if and only if it is and lies in the ball."""
    rng, inside = np.random.default_rng(5), Counter[bool]()
    for _ in range(20):
        toy, prop = random_question(rng, kinds=("l1",), boxes=False)
        assert isinstance(prop.input_set, LpBall)
        query = Query(to_model(toy), prop)
        region, rows = region_of(query), rows_of(prop)
        assert region.center is not None
        network, box, more = without_ball(query.network, region, rows)
        assert box.center is None
        assert more.n_disjuncts == rows.n_disjuncts
        assert np.bincount(more.disjunct).tolist() == [n + 1 for n in np.bincount(rows.disjunct).tolist()]
        bounding = prop.input_set.bounding_box()
        center = [Fraction(v) for v in region.center.reshape(-1).tolist()]
        for x in sample_points(rng, bounding, 5):
            *y, distance = evaluate_exactly(network, x)
            assert tuple(y) == evaluate_exactly(query.network, x)
            assert distance == sum((abs(a - b) for a, b in zip(x, center, strict=True)), Fraction(0))
            contained = prop.input_set.contains(x)
            inside[contained] += 1
            assert not contained or distance <= Fraction(float(more.bound[-1]))
    assert min(inside.values()) > 10
    plain = Region(region.lower, region.upper)
    assert without_ball(query.network, plain, rows)[1] is plain
    with pytest.raises(ValueError, match="l2"):
        without_ball(query.network, Region(region.lower, region.upper, region.center, region.radius, "2"), rows)


@pytest.mark.parametrize(
    "region",
    [
        Box((Fraction(-1), Fraction(1)), (Fraction(1), Fraction(3, 2))),
        LpBall((Fraction(0), Fraction(0)), Fraction(1), "1", None),
        # The middle of what the box leaves lies outside the ball.
        LpBall((Fraction(0),) * 2, Fraction(1), "1", Box((Fraction(1, 2),) * 2, (Fraction(2),) * 2)),
    ],
)
def test_without_rows_every_input_is_unsafe(region: InputSet) -> None:
    toy = ToyNet((((1.0, 2.0),), ((1.0,),)), ((0.0,), (0.0,)))
    row = Constraint(((0, Fraction(1)),), Fraction(-9), False, ())
    for unsafe in ((Polyhedron(()),), (Polyhedron((row,)), Polyhedron(()))):
        result = Bab().verify(Query(to_model(toy), Property(region, unsafe, 1)))
        assert result.verdict is Verdict.VIOLATED


def test_networks_without_a_hidden_layer() -> None:
    rng = np.random.default_rng(6)
    for number in range(12):
        toy, prop = random_question(rng, random_toy(rng, hidden=[], n_inputs=2, n_outputs=2), rows=2)
        query = Query(to_model(toy), prop)
        for branching in BRANCHINGS:
            _check(Bab(branching=branching).verify(query), toy, query, number)


def _same(a: Any, b: Any) -> bool:
    """Whether two pieces of evidence are equal, arrays and all."""
    if is_dataclass(a) and not isinstance(a, type):
        return type(a) is type(b) and all(_same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(np.array_equal(a, b))


@pytest.mark.parametrize("branching", BRANCHINGS)
def test_a_budget_of_nodes_gives_the_same_answer_twice(branching: Branching) -> None:
    query = least_output(2, (2, 16, 16, 16, 1), 0.05)
    few, many, batch = Budget(nodes=12), Budget(nodes=100_000), 4 if branching == "input" else 64
    for budget in (few, many):
        first, second = (Bab(branching=branching, batch=batch).verify(query, budget=budget) for _ in range(2))
        assert first.verdict is second.verdict
        assert first.statistics == second.statistics
        assert first.detail == second.detail
        assert _same(first.evidence, second.evidence)
        assert first.verdict is (Verdict.UNKNOWN if budget is few else Verdict.HOLDS)
        assert first.reason is (Reason.INCOMPLETE if budget is few else None)


def test_few_inputs_are_bisected_and_many_are_not() -> None:
    narrow = Bab().verify(least_output(2, (2, 8, 1), 0.05))
    wide = Bab().verify(least_output(3, (20, 8, 1), 3.0, spread=0.1))
    assert "splits" not in narrow.statistics
    assert narrow.verdict is Verdict.HOLDS
    assert wide.verdict is Verdict.HOLDS
    assert Bab(branching="phase").verify(least_output(2, (2, 8, 1), 0.05)).verdict is Verdict.HOLDS


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("widths", "margin", "branching"),
    [
        ((2, 16, 16, 16, 1), 1e-3, "phase"),
        ((8, 40, 40, 40, 40, 1), 2.0, "input"),
        ((5, 12, 2, 12, 12, 12, 12, 1), 0.05, "phase"),
    ],
)
def test_a_second_is_kept(widths: tuple[int, ...], margin: float, branching: Branching, processes: int) -> None:
    query = least_output(0, widths, margin)
    begun = time.perf_counter()
    result = Bab(branching=branching, processes=processes).verify(query, budget=Budget(seconds=1.0))
    taken = time.perf_counter() - begun
    assert result.verdict is Verdict.UNKNOWN
    assert result.reason is Reason.TIMEOUT
    assert taken < 3.0
    assert float(result.statistics["margin"]) < 0


def test_a_second_is_kept_on_a_wide_network() -> None:
    query = least_output(1, (60, 900, 900, 1), 0.0, spread=0.2)
    for seconds in (0.5, 3.0):
        begun = time.perf_counter()
        result = Bab(branching="phase").verify(query, budget=Budget(seconds=seconds))
        assert time.perf_counter() - begun < seconds + 2.0
        assert result.verdict is not Verdict.HOLDS


@pytest.mark.parametrize("branching", BRANCHINGS)
def test_a_tie_is_not_decided_wrongly(branching: Branching) -> None:
    touched = ToyNet((((1.0,), (-1.0,)), ((1.0, 1.0),)), ((0.0, 0.0), (0.0,)))  # |x|
    for low, strict in ((Fraction(-1, 3), True), (Fraction(-1, 3), False), (Fraction(-1), False), (Fraction(0), True)):
        row = Constraint(((0, Fraction(1)),), Fraction(0), strict, ())
        query = Query(to_model(touched), Property(Box((low,), (Fraction(1),)), (Polyhedron((row,)),), 1))
        result = Bab(branching=branching).verify(query)
        assert result.reason in (None, Reason.UNCONFIRMED)
        assert result.verdict is not (Verdict.VIOLATED if strict else Verdict.HOLDS)


def test_ties_of_random_networks() -> None:
    rng, asked = np.random.default_rng(8), 0
    for number in count():
        toy, prop = random_question(rng, random_toy(rng, max_relus=6), kinds=("box",))
        if ask_oracle(toy, prop).margin != 0:
            continue
        asked += 1
        query = Query(to_model(toy), prop)
        for branching in BRANCHINGS:
            _check(Bab(branching=branching).verify(query), toy, query, number)
        if asked == 12:
            break


def test_a_network_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifkit.analysis.bab.chain.ENTRIES", 20)
    result = Bab().verify(least_output(2, (2, 8, 8, 1), 0.05))
    assert result.reason is Reason.UNSUPPORTED
    assert "too large" in result.detail

"""Marabou behind the interface: right on random questions, careful near ties, ended in time, silent."""

from __future__ import annotations

import os
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("maraboupy")

from tests.conformance.test_oracle_agreement import problem
from verifiers.external.marabou import Marabou
from verifkit.budget import Budget, Clock
from verifkit.errors import MissingPackage
from verifkit.functions import LeakyRelu
from verifkit.input_sets import Box
from verifkit.io.onnx import load_model, model_from_network
from verifkit.io.vnnlib import load_property
from verifkit.network import dense_network
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.result import Arithmetic, Reason, Verdict
from verifkit.solvers import marabou
from verifkit.solvers.marabou import RANGE, MarabouQuery
from verifkit.solvers.mixed_program import Unfit
from verifkit.testing.samples import Sample, sample_of
from verifkit.testing.toys import random_question, random_toy

ROOT = Path(__file__).resolve().parents[2]
F = Fraction


def box_questions(first: int, last: int) -> list[Sample]:
    """Those of the oracle's questions that are about boxes."""
    found = []
    for number in range(first, last):
        rng = np.random.default_rng([20260101, number])
        toy, prop = random_question(rng, random_toy(rng, max_relus=14, magnitudes=number % 10 == 9))
        if isinstance(prop.input_set, Box):
            found.append(sample_of(f"question {number}", toy, prop))
    return found


def agrees(first: int, last: int) -> int:
    """How many box questions there were; fails where an answer is wrong, or missing outside the band of ties."""
    samples = box_questions(first, last)
    for sample in samples:
        result = Marabou().verify(sample.query)
        # "milp": a complete method that may leave ties open
        wrong = problem("milp", result, sample.toy, sample.query, sample.truth)
        assert wrong is None, f"{sample.name}: {wrong}; exact margin {sample.truth.margin}"
    return len(samples)


def test_agreement_with_the_oracle() -> None:
    assert agrees(0, 60) > 25


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(60, 4060, 500))
def test_agreement_with_the_oracle_on_many(first: int) -> None:
    assert agrees(first, first + 500) > 200


def folding(bound: Fraction, *, strict: bool = False, slope: float | None = None) -> Query:
    """f = g(x_0 + x_1) + g(x_0 - x_1) over [-1, 1]^2, of ReLUs at most 2 (relaxed one by one 3). Unsafe: f >= bound."""
    weights = [np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([[1.0, 1.0]])]
    functions = {} if slope is None else {"function": LeakyRelu(slope)}
    network = dense_network(weights, [np.zeros(2), np.zeros(1)], *functions.values())
    row = Constraint(outputs=((0, F(-1)),), bound=-bound, strict=strict)
    return Query(model_from_network(network, "folding"), Property(Box((-1, -1), (1, 1)), (Polyhedron((row,)),), 1))


class TestGuarantee:
    def test_holds_names_marabou_and_its_tolerance(self) -> None:
        result = Marabou().verify(folding(F(5, 2)))
        assert result.verdict is Verdict.HOLDS
        assert result.guarantee is not None
        assert result.guarantee.arithmetic is Arithmetic.SOLVER
        (assumed,) = result.guarantee.assumptions
        assert assumed.startswith("Marabou 2")
        assert "1e-05" in assumed

    def test_bounds_that_suffice_are_rounded(self) -> None:
        result = Marabou().verify(folding(F(7, 2)))
        assert result.guarantee is not None
        assert result.guarantee.arithmetic is Arithmetic.ROUNDED
        assert not result.guarantee.assumptions

    def test_violated_is_replayed(self) -> None:
        result = Marabou().verify(folding(F(3, 2)))
        assert result.verdict is Verdict.VIOLATED
        assert result.witness is not None

    @pytest.mark.parametrize("strict", [False, True])
    def test_a_tie_is_left_open_or_decided_rightly(self, strict: bool) -> None:
        result = Marabou().verify(folding(F(2), strict=strict))
        right = Verdict.HOLDS if strict else Verdict.VIOLATED
        assert result.verdict in (right, Verdict.UNKNOWN)
        assert result.reason in (None, Reason.UNCONFIRMED)

    @pytest.mark.parametrize("away", [F(1, 2**17), F(1, 2**16)])
    def test_both_sides_of_a_tie(self, away: Fraction) -> None:
        assert Marabou().verify(folding(F(2) + away)).verdict is Verdict.HOLDS
        assert Marabou().verify(folding(F(2) - away)).verdict is Verdict.VIOLATED

    def test_leaky_relus(self) -> None:
        assert Marabou().verify(folding(F(5, 2), slope=0.25)).verdict is Verdict.HOLDS
        assert Marabou().verify(folding(F(3, 2), slope=0.25)).verdict is Verdict.VIOLATED


class TestEncoding:
    def encoded(self, query: Query) -> MarabouQuery:
        from verifkit.analysis.linear import analyse
        from verifkit.analysis.region import region_of
        from verifkit.analysis.relaxation import CROWN_RELAXATIONS

        clock = Clock(Budget())
        analysis = analyse(query.network, region_of(query), CROWN_RELAXATIONS, clock)
        return MarabouQuery(query.network.cast(analysis.region.lower), analysis.bounds, clock)

    def test_columns_have_one_range_and_relus_one_scale(self) -> None:
        task = self.encoded(folding(F(5, 2)))
        assert len(task.relus) == 2
        for z, r, _ in task.relus:
            assert task.scale[z] == task.scale[r]
            assert RANGE / 2 <= task.upper[z] - task.lower[z] <= RANGE * 2
        assert (np.log2(task.scale) % 1 == 0).all()

    def test_a_narrow_box_is_no_constant(self) -> None:
        """An input that moves by 1e-9 only, and a weight that makes it matter: Marabou alone would fix it."""
        network = dense_network([np.eye(1), np.array([[2.0**30]])], [np.zeros(1), np.zeros(1)])
        model = model_from_network(network, "steep")
        region = Box((F(1, 2**40),), (F(1, 2**30),))
        for bound, verdict in ((F(3, 4), Verdict.VIOLATED), (F(3, 2), Verdict.HOLDS)):
            row = Constraint(outputs=((0, F(-1)),), bound=-bound)
            query = Query(model, Property(region, (Polyhedron((row,)),), 1))
            assert Marabou().verify(query).verdict is verdict

    def test_values_that_cannot_be_scaled_are_refused(self) -> None:
        """Marabou makes anything of a NaN."""
        network = dense_network([np.eye(1), np.eye(1)], [np.zeros(1), np.zeros(1)])
        least = np.full((1, 1), 1e-312)
        with pytest.raises(Unfit, match="too small or too large"):
            MarabouQuery(network, [(-least, least)] * len(network.nodes), Clock(Budget()))

    def test_rows_that_the_bounds_decide(self) -> None:
        from verifkit.analysis.rows import rows_of

        query = folding(F(5, 2))
        task, one = self.encoded(query), np.zeros(1, dtype=int)
        far = rows_of(folding(F(-100)).prop)
        assert task.rows(far, one, np.zeros(1))[1].size == 0  # type: ignore[index]
        assert task.rows(rows_of(folding(F(100)).prop), one, np.zeros(1)) is None
        said = marabou.ask(task, task.rows(far, one, np.zeros(1)), Clock(Budget()))
        assert said is not None
        assert said.word == "sat"


def hard() -> Query:
    model = load_model(ROOT / "benchmarks" / "zoo" / "digits-3x100.onnx")
    return Query(model, load_property(ROOT / "benchmarks" / "suites" / "props" / "one-is-no-seven.vnnlib"))


def test_its_time_is_kept_inside_the_native_call() -> None:
    start = time.monotonic()
    result = Marabou().verify(hard(), budget=Budget(seconds=1.0))
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.TIMEOUT)
    assert time.monotonic() - start < 3.0


def test_a_solver_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*arguments: Any) -> None:
        os._exit(3)

    monkeypatch.setattr(marabou, "_solve", dies)
    for budget in (Budget(), Budget(seconds=30.0)):
        result = Marabou().verify(folding(F(5, 2)), budget=budget)
        assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.ERROR)
        assert "ended without an answer" in result.detail


def test_an_answer_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marabou, "_solve", lambda *arguments: marabou.Said("UNKNOWN"))
    result = Marabou().verify(folding(F(5, 2)))
    assert (result.reason, result.detail) == (Reason.ERROR, "Marabou says UNKNOWN")


def test_a_point_that_is_none_is_unconfirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marabou, "_solve", lambda query, *rest: marabou.Said("sat", np.zeros(query.size)))
    result = Marabou().verify(folding(F(5, 2)))
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.UNCONFIRMED)


def test_nothing_is_printed(capfd: Any) -> None:
    assert Marabou().verify(folding(F(5, 2))).verdict is Verdict.HOLDS
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifkit.capabilities._installed", lambda module: module != "maraboupy")
    with pytest.raises(MissingPackage, match=r"needs the package 'maraboupy': run `pip install 'verifkit\[marabou\]'`"):
        Marabou().verify(folding(F(5, 2)))

"""Conic solvers that hang, or take their process down: the budget is kept, and what was bounded before stands."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from verifkit.budget import Budget
from verifkit.input_sets import Box
from verifkit.processes import can_fork
from verifkit.properties import Property
from verifkit.query import Query
from verifkit.registry import create
from verifkit.result import Reason, Verdict
from verifkit.testing.checks_evidence import outputs_far
from verifkit.testing.toys import random_toy, to_model

cp = pytest.importorskip("cvxpy")
pytestmark = pytest.mark.skipif(not can_fork(), reason="without fork a solver's own limit is all there is")

VERIFIERS = [("lp_cvxpy", {}), ("sdp", {"solver": "CLARABEL", "every_row": True}), ("sdp", {"every_row": True})]


def question() -> Query:
    toy = random_toy(np.random.default_rng(1), n_inputs=3, n_outputs=2, hidden=[4, 4], weights="gaussian")
    prop = outputs_far(Property(Box((Fraction(-1),) * 3, (Fraction(1),) * 3), (), 2), False)
    return Query(to_model(toy), prop)


def solving(monkeypatch: pytest.MonkeyPatch, other: Callable[[], None], after: int) -> None:
    """From the solve numbered `after` on, `other` happens first."""
    count, solve = 0, cp.Problem.solve

    def patched(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count > after:
            other()
        return solve(self, *args, **options)

    monkeypatch.setattr(cp.Problem, "solve", patched)


@pytest.mark.parametrize(("name", "options"), VERIFIERS)
@pytest.mark.parametrize("after", [0, 2])
def test_a_solver_that_hangs(name: str, options: dict[str, Any], after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    solving(monkeypatch, lambda: time.sleep(60), after)
    began = time.monotonic()
    result = create(name, options).verify(question(), budget=Budget(seconds=1.5))
    assert time.monotonic() - began < 3.5
    if name == "lp_cvxpy":
        assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.TIMEOUT)
    else:  # CROWN refutes these rows: what the programs were for is a better bound
        assert result.verdict is Verdict.HOLDS


@pytest.mark.parametrize(("name", "options"), VERIFIERS)
def test_a_solver_that_takes_its_process_down(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = create("crown").verify(question()).statistics["margin"]
    solving(monkeypatch, lambda: os._exit(3), 1)
    result = create(name, options).verify(question(), budget=Budget(seconds=30))
    assert result.statistics["margin"] >= wanted
    assert result.verdict is Verdict.HOLDS


@pytest.mark.parametrize(("name", "options"), VERIFIERS)
def test_the_answer_is_the_same_with_and_without_a_limit(name: str, options: dict[str, Any]) -> None:
    free, limited = (create(name, options).verify(question(), budget=b) for b in (Budget(), Budget(seconds=60)))
    assert free.verdict is limited.verdict
    assert free.statistics == limited.statistics


def test_a_bound_that_came_in_time_is_in_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that nothing refutes, the first solve's bound is told before the second hangs."""
    query = question()
    easy = outputs_far(query.prop, False)
    rows = tuple(type(d)(tuple(type(r)(r.outputs, Fraction(50)) for r in d.constraints)) for d in easy.unsafe)
    open_query = Query(query.model, Property(query.prop.input_set, rows, 2))
    solving(monkeypatch, lambda: time.sleep(60), 1)
    verifier = create("sdp", {"solver": "CLARABEL", "every_row": True})
    result = verifier.verify(open_query, budget=Budget(seconds=2))
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.TIMEOUT)
    assert result.statistics["programs"] == 1
    assert "margin >=" in result.detail

"""Searches by phases: what they leave as evidence is checked from scratch, and helpers change nothing."""

from __future__ import annotations

import os
import signal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.unit.phase_evidence import chain_by_phase, leaf_margins, least_output, recheck, refuted_leaves
from verifkit.analysis.bab import phase_search
from verifkit.analysis.bab.chain_attack import ChainAttack
from verifkit.analysis.bab.phase_bounds import PhaseBounds
from verifkit.analysis.bab.phase_search import Found, Leaf, PhaseSearch
from verifkit.analysis.bab.workers import Workers
from verifkit.budget import Budget, Clock
from verifkit.confirm import confirm
from verifkit.evidence import PhaseTree
from verifkit.input_sets import Box
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.result import Reason
from verifkit.solvers.leaf_program import solve_leaf
from verifkit.testing.oracle import ToyNet
from verifkit.testing.toys import to_model

WIDTHS = (2, 16, 16, 16, 1)


def _search(
    query: Query,
    nodes: int | None,
    *,
    batch: int = 64,
    processes: int = 1,
    budget: Budget = Budget(),  # noqa: B008
) -> tuple[PhaseBounds, Found]:
    chain, disjuncts = chain_by_phase(query)
    bounds = PhaseBounds(chain, disjuncts)
    attack = ChainAttack(query, bounds.chain, disjuncts, bounds.base.matrices)
    search = PhaseSearch(bounds, Clock(budget), batch, processes, attack.at, solve_leaf)
    return bounds, search.run(bounds.whole(np.arange(disjuncts.rows.shape[0])), nodes)


@pytest.mark.parametrize(("seed", "least"), [(2, 500), (5, 100)])
def test_the_leaves_of_a_proof_cover_and_are_refuted(seed: int, least: int) -> None:
    bounds, found = _search(least_output(seed, WIDTHS, 0.05), None)
    assert found.reason is None
    assert found.witness is None
    assert found.tree is not None
    assert refuted_leaves(bounds, found.tree) > least
    # Nothing less is accepted.
    for spoilt in (found.tree.leaf[1:], np.append(found.tree.leaf[1:], found.tree.parent[0])):
        shorter = PhaseTree(**{**vars(found.tree), "leaf": spoilt})
        with pytest.raises(AssertionError):
            refuted_leaves(bounds, shorter)


def test_a_tree_with_open_leaves_proves_what_it_says() -> None:
    for seed, nodes in ((0, 64), (1, 300), (3, 700)):
        bounds, found = _search(least_output(seed, WIDTHS, 0.05), nodes)
        assert found.reason is Reason.INCOMPLETE
        assert found.tree is not None
        _, margins = leaf_margins(bounds, found.tree)
        assert found.proved == pytest.approx(min(margins.min(), 0.0), rel=1e-9)
        assert found.proved <= found.margin < 0


def test_a_violation_is_found() -> None:
    query = least_output(0, (6, 16, 16, 1), 0.2)
    _, found = _search(query, None)
    assert found.witness is not None
    assert confirm(query, found.witness) is not None


def test_the_latest_first_where_many_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase_search, "MANY", 8)
    bounds, found = _search(least_output(5, WIDTHS, 0.05), None, batch=4)
    assert found.tree is not None
    assert refuted_leaves(bounds, found.tree) > 100


def test_a_proof_that_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    query = least_output(5, WIDTHS, 0.05)
    monkeypatch.setattr(phase_search, "KEPT", 1000)
    _, found = _search(query, None)
    assert (found.reason, found.tree) == (None, None)
    _, found = _search(query, 64)
    assert (found.reason, found.tree) == (Reason.INCOMPLETE, None)


@pytest.mark.parametrize("leaf", [None, solve_leaf])
def test_a_leaf_that_is_not_refuted_stays_stuck(leaf: Leaf | None) -> None:
    """|x| touches 0, and nothing is asked for a witness."""
    toy = ToyNet((((1.0,), (-1.0,)), ((1.0, 1.0),)), ((0.0, 0.0), (0.0,)))
    row = Constraint(((0, Fraction(1)),), Fraction(0), False, ())
    query = Query(to_model(toy), Property(Box((Fraction(-1, 3),), (Fraction(1),)), (Polyhedron((row,)),), 1))
    chain, disjuncts = chain_by_phase(query)
    bounds = PhaseBounds(chain, disjuncts)
    found = PhaseSearch(bounds, Clock(Budget()), 64, 1, leaf=leaf).run(bounds.whole(np.zeros(1, dtype=np.int64)), None)
    assert found.reason is Reason.UNCONFIRMED
    assert (-0.1 if leaf is None else -1e-9) < found.margin <= 0
    assert found.tree is not None
    _, margins = leaf_margins(bounds, found.tree)
    assert found.proved == pytest.approx(min(margins.min(), 0.0))


@pytest.mark.parametrize("killed", [False, True])
def test_helpers_change_nothing(monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    query, helped = least_output(2, WIDTHS, 0.05), []
    plain = Workers.apply

    def spied(self: Workers[Any], *batch: np.ndarray) -> Any:
        helped.append(self.count)
        if killed and len(helped) == 12:
            os.kill(self._children[0], signal.SIGKILL)
        return plain(self, *batch)

    monkeypatch.setattr(phase_search, "FEWEST", 4)
    monkeypatch.setattr(phase_search, "ALONE", 1e9)
    _, alone = _search(query, None, batch=16, processes=2)
    monkeypatch.setattr(phase_search, "ALONE", 0.0)
    monkeypatch.setattr(Workers, "apply", spied)
    bounds, found = _search(query, None, batch=16, processes=2)
    assert max(helped) == 1
    assert helped[-1] == (0 if killed else 1)
    assert found.tree is not None
    assert alone.tree is not None
    assert refuted_leaves(bounds, found.tree) > 500
    assert np.array_equal(found.tree.unit, alone.tree.unit)
    assert np.array_equal(found.tree.parent, alone.tree.parent)


def test_time_runs_out() -> None:
    query = least_output(0, WIDTHS, 0.05)
    _, found = _search(query, None, budget=Budget(seconds=1e-9))
    assert found.reason is Reason.TIMEOUT
    assert found.margin == -np.inf
    _, found = _search(query, None, budget=Budget(seconds=0.5))
    assert found.reason is Reason.TIMEOUT
    assert -np.inf < found.margin < 0


def test_evidence_of_the_verifier_is_whole() -> None:
    from verifiers.complete.bab import Bab

    query = least_output(2, WIDTHS, 0.05)
    assert recheck(query, Bab(branching="phase").verify(query).evidence) > 500

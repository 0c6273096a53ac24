"""Bisecting boxes of inputs: the same verdicts as the oracle, and a tree that covers the region."""

from __future__ import annotations

import os
import signal
from fractions import Fraction

import numpy as np
import pytest

from tests.unit.phase_evidence import refuted_boxes
from verifkit.analysis.bab.box_examination import Bounded, Disjuncts
from verifkit.analysis.bab.chain import chain_of, piecewise_linear
from verifkit.analysis.bab.input_search import InputSearch
from verifkit.analysis.bab.workers import Workers
from verifkit.analysis.linear import analyse
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import rows_of
from verifkit.budget import Budget, Clock
from verifkit.confirm import confirm
from verifkit.evidence import BoxTree
from verifkit.input_sets import Box
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.result import Outcome, Reason, Verdict
from verifkit.testing.oracle import ToyNet
from verifkit.testing.toys import ask_oracle, random_question, random_toy, to_model


def _search(query: Query, budget: Budget = Budget(), batch: int = 64, processes: int = 1) -> InputSearch:  # noqa: B008
    rows, clock = rows_of(query.prop), Clock(budget)
    network = query.network.without_max()
    analysis = analyse(network, region_of(query), CROWN_RELAXATIONS, clock)
    chain = chain_of(network, analysis.bounds, rows)
    assert chain is not None
    return InputSearch(query, chain, Disjuncts.of(rows), clock, batch=batch, processes=processes)


def _hard(seed: int = 1, margin: float = 0.02) -> Query:
    """A net of two inputs whose least output is known by sampling; the unsafe set lies `margin` below it."""
    rng = np.random.default_rng(seed)
    shapes = [(16, 2), (16, 16), (16, 16), (1, 16)]
    weights = [(rng.normal(size=s) * 1.6 / np.sqrt(s[1])).astype(np.float32).astype(float) for s in shapes]
    biases = [(rng.normal(size=s[0]) * 0.3).astype(np.float32).astype(float) for s in shapes]
    toy = ToyNet(tuple(tuple(map(tuple, w)) for w in weights), tuple(map(tuple, biases)))
    model = to_model(toy)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 201)] * 2), -1).reshape(-1, 2).astype(np.float32)
    least = float(model(grid).min())
    row = Constraint(((0, Fraction(1)),), Fraction(least - margin), False, ())
    box = Box((Fraction(-1),) * 2, (Fraction(1),) * 2)
    return Query(model, Property(box, (Polyhedron((row,)),), 1))


def _boxes_question(number: int) -> tuple[ToyNet, Property, Query] | None:
    rng = np.random.default_rng([31, number])
    toy, prop = random_question(rng, random_toy(rng, magnitudes=number % 10 == 9))
    query = Query(to_model(toy), prop)
    plain = isinstance(prop.input_set, Box) and all(d.box is None and d.constraints for d in prop.unsafe)
    return (toy, prop, query) if plain and piecewise_linear(query.network.without_max()) and prop.unsafe else None


def _agrees(number: int) -> bool:
    """Whether the question is one about boxes and a chain; if it is, the answer is checked."""
    asked = _boxes_question(number)
    if asked is None:
        return False
    toy, prop, query = asked
    truth = ask_oracle(toy, prop)
    outcome = _search(query).run(100_000)
    if outcome.verdict is Verdict.HOLDS:
        assert not truth.violated, number
    elif outcome.verdict is Verdict.VIOLATED:
        assert truth.violated, number
        assert outcome.witness is not None
        assert confirm(query, outcome.witness) is not None
    else:
        assert truth.in_band, (number, outcome.detail)
    return True


@pytest.mark.parametrize("block", range(6))
def test_agrees_with_the_oracle(block: int) -> None:
    assert sum(_agrees(number) for number in range(50 * block, 50 * block + 50)) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("block", range(6, 60))
def test_agrees_with_the_oracle_often(block: int) -> None:
    assert sum(_agrees(number) for number in range(50 * block, 50 * block + 50)) >= 8


def _held(outcome: Outcome) -> BoxTree:
    assert outcome.verdict is Verdict.HOLDS
    assert isinstance(outcome.evidence, BoxTree)
    return outcome.evidence


def test_the_tree_covers_the_region() -> None:
    search = _search(_hard())
    tree = _held(search.run(None))
    assert tree.boxes > 50
    assert refuted_boxes(search.chain, search.disjuncts, tree) == tree.parent.size + 1


@pytest.mark.parametrize("killed", [False, True])
def test_helpers_find_the_same_every_time(monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    monkeypatch.setattr("verifkit.analysis.bab.input_search.ALONE", 0.0)
    monkeypatch.setattr("verifkit.analysis.bab.input_search.FEWEST", 2)
    helped = []
    plain = Workers.apply

    def spied(self: Workers[Bounded], *boxes: np.ndarray) -> Bounded:
        helped.append(self.count)
        if killed and len(helped) == 6:
            os.kill(self._children[0], signal.SIGKILL)
        return plain(self, *boxes)

    monkeypatch.setattr(Workers, "apply", spied)
    query = _hard(margin=0.005)
    search = _search(query, batch=8, processes=2)
    tree = _held(search.run(None))
    assert max(helped) == 1
    assert helped[-1] == (0 if killed else 1)
    assert refuted_boxes(search.chain, search.disjuncts, tree) == tree.parent.size + 1
    if not killed:
        assert np.array_equal(tree.at, _held(_search(query, batch=8, processes=2).run(None)).at)


def test_nodes_and_time_run_out() -> None:
    query = _hard(margin=0.005)
    few = _search(query, batch=4).run(8)
    assert few.reason is Reason.INCOMPLETE
    late = _search(query)
    late.clock = Clock(Budget(seconds=1e-9))
    outcome = late.run(None)
    assert outcome.reason is Reason.TIMEOUT
    assert float(outcome.statistics["margin"]) <= 0


def test_a_tie_is_not_decided() -> None:
    toy = ToyNet((((1.0,), (-1.0,)), ((1.0, 1.0),)), ((0.0, 0.0), (0.0,)))  # |x|
    row = Constraint(((0, Fraction(1)),), Fraction(0), True, ())
    prop = Property(Box((Fraction(-1, 3),), (Fraction(1),)), (Polyhedron((row,)),), 1)
    outcome = _search(Query(to_model(toy), prop)).run(4000)
    assert outcome.verdict in (Verdict.HOLDS, Verdict.UNKNOWN)
    assert outcome.reason in (None, Reason.UNCONFIRMED)

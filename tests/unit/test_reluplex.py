"""Reluplex: verdicts against the oracle in both arithmetics, ties, certificates checked again, lazy against eager."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.unit.phase_tree_checker import Checker
from verifkit.analysis.reluplex import search as search_module
from verifkit.analysis.reluplex import simplex as simplex_module
from verifkit.analysis.reluplex.bounds import LOWER, UPPER, BoundStack, explain
from verifkit.analysis.reluplex.delta import Delta, concrete
from verifkit.analysis.reluplex.system import System
from verifkit.analysis.reluplex.tableau import FloatTableau, RationalTableau
from verifkit.budget import Budget, Clock
from verifkit.errors import OptionError
from verifkit.evidence import Cases, Evidence, Farkas, FarkasTree, FarkasTrees, PhaseSplit, Variable
from verifkit.input_sets import Box, LpBall
from verifkit.io.onnx import model_from_network
from verifkit.maps import Identity
from verifkit.network import Network, dense_network
from verifkit.ops import Affine, Input, Max
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.registry import create
from verifkit.result import Arithmetic, Reason, Result, Verdict
from verifkit.testing.oracle import OracleAnswer, ToyNet
from verifkit.testing.samples import is_unsafe
from verifkit.testing.toys import ask_oracle, random_question, random_toy, to_model

F = Fraction
MODES = pytest.mark.parametrize("arithmetic", ["float", "rational"])


def ask(query: Query, arithmetic: str, seconds: float = 60.0, **options: object) -> Result:
    return create("reluplex", {"arithmetic": arithmetic, **options}).verify(query, budget=Budget(seconds=seconds))


def numbered(number: int) -> tuple[ToyNet, Property, OracleAnswer, Query]:
    """Question `number` of tests/conformance/test_oracle_agreement.py."""
    rng = np.random.default_rng([20260101, number])
    toy, prop = random_question(rng, random_toy(rng, magnitudes=number % 10 == 9))
    return toy, prop, ask_oracle(toy, prop), Query(to_model(toy), prop)


def parts(evidence: Evidence | None, prop: Property) -> list[tuple[Property, FarkasTrees]]:
    if isinstance(evidence, Cases):
        return [(c, e) for c, e in zip(prop.cases(), evidence.parts, strict=True) if isinstance(e, FarkasTrees)]
    return [(prop.cases()[0], evidence)] if isinstance(evidence, FarkasTrees) else []


# --- verdicts -------------------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("first", range(0, 200, 40))
def test_every_question_is_decided_as_the_oracle_does_ties_included(arithmetic: str, first: int) -> None:
    tally: Counter[str] = Counter()
    for number in range(first, first + 40):
        toy, prop, truth, query = numbered(number)
        result = ask(query, arithmetic)
        tally[f"{result.verdict}{' in the band' if truth.in_band else ''}"] += 1
        assert result.verdict is (Verdict.VIOLATED if truth.violated else Verdict.HOLDS), (number, result)
        assert result.guarantee is not None
        if arithmetic == "rational":
            assert result.guarantee.arithmetic is Arithmetic.EXACT
        if result.witness is not None:
            assert is_unsafe(toy, prop, result.witness.x, query.model.dtype)
        for case, evidence in parts(result.evidence, prop):
            assert Checker(toy, case, evidence).problem() is None, number
    assert {"HOLDS", "VIOLATED"} <= set(tally)


def absolute(bound: Fraction, *, strict: bool = False, scale: float = 1.0) -> Query:
    """Whether |x| / scale stays above `bound` on [-1, 1]; the least value is 0."""
    network = dense_network([np.array([[1.0], [-1.0]]), np.array([[1.0, 1.0]]) / scale], [np.zeros(2), np.zeros(1)])
    row = Constraint(outputs=((0, F(1)),), bound=bound, strict=strict)
    return Query(model_from_network(network, "absolute"), Property(Box((F(-1),), (F(1),)), (Polyhedron((row,)),), 1))


@MODES
def test_closed_touching_is_a_violation_and_strict_touching_is_none(arithmetic: str) -> None:
    assert ask(absolute(F(0)), arithmetic).verdict is Verdict.VIOLATED
    assert ask(absolute(F(0), strict=True), arithmetic).verdict is Verdict.HOLDS
    assert ask(absolute(F(-1, 2**200)), arithmetic).verdict is Verdict.HOLDS
    for strict in (False, True):
        assert ask(absolute(F(1, 2**60), strict=strict), arithmetic).verdict is Verdict.VIOLATED


@MODES
def test_a_witness_may_lie_between_all_floats(arithmetic: str) -> None:
    """x = 1/3 is the only input with -x <= -1/3 and x <= 1/3."""
    network = dense_network([np.array([[1.0]]), np.array([[1.0]])], [np.zeros(1), np.zeros(1)])
    rows = (Constraint(((0, F(-1)),), F(-1, 3)), Constraint(((0, F(1)),), F(1, 3)))
    query = Query(model_from_network(network, "id"), Property(Box((F(-1),), (F(1),)), (Polyhedron(rows),), 1))
    result = ask(query, arithmetic)
    assert result.verdict is Verdict.VIOLATED
    assert result.witness is not None
    assert result.witness.x == (F(1, 3),)
    assert result.witness.confirmed_by == "rational"
    open_rows = tuple(replace(row, strict=True) for row in rows)
    assert ask(Query(query.model, replace(query.prop, unsafe=(Polyhedron(open_rows),))), arithmetic).verdict is (
        Verdict.HOLDS
    )


@MODES
def test_the_effective_box_is_covered(arithmetic: str) -> None:
    """The box ends at 1/10; its effective one reaches the next float32, where the output passes 1/10."""
    network = dense_network([np.array([[1.0]]), np.array([[1.0]])], [np.ones(1), -np.ones(1)])
    above = F(float(np.float32(0.1)))
    assert above > F(1, 10)
    row = Constraint(outputs=((0, F(-1)),), bound=-above)
    prop = Property(Box((F(0),), (F(1, 10),)), (Polyhedron((row,)),), 1)
    result = ask(Query(model_from_network(network, "id"), prop), arithmetic)
    assert result.witness is not None
    assert result.witness.x == (above,)
    assert not result.witness.in_written_set


@MODES
def test_l1_balls_coupled_rows_and_several_disjuncts(arithmetic: str) -> None:
    """x + y over |x| + |y| <= 1 is at most 1; the ball's box would allow 2."""
    network = dense_network([np.eye(2), np.ones((1, 2))], [np.ones(2), np.full(1, -2.0)])
    model, ball = model_from_network(network, "sum"), LpBall((F(0), F(0)), F(1), "1")

    def verdict(*bounds: Fraction, strict: bool = False) -> Verdict:
        rows = [Constraint(outputs=((0, F(-1)),), bound=-b, strict=strict) for b in bounds]
        return ask(Query(model, Property(ball, tuple(Polyhedron((r,)) for r in rows), 1)), arithmetic).verdict

    assert verdict(F(3, 2), F(5, 4)) is Verdict.HOLDS
    assert verdict(F(3, 2), F(1)) is Verdict.VIOLATED
    assert verdict(F(1), strict=True) is Verdict.HOLDS
    coupled = Constraint(outputs=((0, F(-1)),), inputs=((0, F(1)), (1, F(1))), bound=F(-1, 2))  # y >= x0 + x1 + 1/2
    assert ask(Query(model, Property(ball, (Polyhedron((coupled,)),), 1)), arithmetic).verdict is Verdict.HOLDS


@MODES
def test_max_pooling(arithmetic: str) -> None:
    """max(x, y, z) over [-1, 1]^3 with z >= 0 for rows on the output alone: its range is [-1, 1]."""
    groups = np.array([[0, 1, 2]])
    nodes = (
        Input(shape=(3,), name="input"),
        Affine(shape=(3,), parents=(0,), name="same", maps=(Identity((3,)),)),
        Max(shape=(1,), parents=(1,), name="max", groups=groups, parent_shape=(3,)),
    )
    model = model_from_network(Network(nodes), "max")
    box = Box((F(-1), F(-1), F(0)), (F(1), F(1), F(1)))
    for bound, expected in ((F(-1, 8), Verdict.HOLDS), (F(0), Verdict.VIOLATED)):
        row = Constraint(outputs=((0, F(1)),), bound=bound)
        result = ask(Query(model, Property(box, (Polyhedron((row,)),), 1)), arithmetic)
        assert result.verdict is expected, bound


# --- certificates ---------------------------------------------------------------------------------------------------


def tiny(seed: int, n_inputs: int, hidden: list[int], offset: float) -> tuple[ToyNet, Query]:
    """Whether y0 - y1 stays above about its least value over [-1, 1]^n, plus a share `offset` of its range."""
    rng = np.random.default_rng([seed, n_inputs, *hidden])
    sizes = [n_inputs, *hidden, 2]
    weights = [(rng.normal(size=(b, a)) * np.sqrt(2 / a)).astype(np.float32) for a, b in pairwise(sizes)]
    biases = [(rng.normal(size=b) * 0.3).astype(np.float32) for b in sizes[1:]]
    network = dense_network(weights, biases)

    def lead(x: np.ndarray) -> np.ndarray:
        y = network.evaluate(x)
        return np.asarray(y[:, 0] - y[:, 1])

    best = rng.uniform(-1, 1, (4000, n_inputs))
    width = np.ptp(lead(best))
    for spread in (0.3, 0.1, 0.03, 0.01, 0.003):
        best = best[np.argsort(lead(best))[:20]]
        near = np.clip(best.repeat(40, axis=0) + spread * rng.normal(size=(800, n_inputs)), -1, 1)
        best = np.concatenate([best, near])
    bound = F(float(np.float32(lead(best).min() + offset * width)))
    row = Constraint(outputs=((0, F(1)), (1, F(-1))), bound=bound)
    box = Box((F(-1),) * n_inputs, (F(1),) * n_inputs)
    toy = ToyNet(weights, biases)  # type: ignore[arg-type]
    return toy, Query(to_model(toy), Property(box, (Polyhedron((row,)),), 2))


def leaves(tree: FarkasTree) -> int:
    return 1 if isinstance(tree, Farkas) else leaves(tree.negative) + leaves(tree.nonnegative)


@MODES
@pytest.mark.parametrize("shape", [(2, [5, 5]), (2, [7, 7]), (5, [5, 5])], ids=str)
def test_trees_of_splits_check_and_tampered_ones_do_not(arithmetic: str, shape: tuple[int, list[int]]) -> None:
    toy, query = tiny(2, *shape, -0.02)
    result = ask(query, arithmetic)
    assert result.verdict is Verdict.HOLDS
    evidence = result.evidence
    assert isinstance(evidence, FarkasTrees)
    (tree,) = evidence.trees
    assert isinstance(tree, PhaseSplit)
    assert leaves(tree) > 4
    checker = Checker(toy, query.prop, evidence)
    assert checker.problem() is None
    if shape[0] == 2:
        assert checker.intermediate_problem() is None
    for bad in (tampered(tree), replace(tree, nonnegative=Farkas({}))):
        assert Checker(toy, query.prop, replace(evidence, trees=(bad,))).problem() is not None


def tampered(tree: FarkasTree) -> FarkasTree:
    """The first leaf's multipliers negated: a form that is surely positive becomes one that is surely negative."""
    if isinstance(tree, PhaseSplit):
        return replace(tree, negative=tampered(tree.negative))
    return Farkas({v: -m for v, m in tree.multipliers.items()})


def test_what_floats_cannot_prove_is_searched_in_rationals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every certificate in floats is refused: the verdicts stay, from branches in rationals."""
    real = search_module.contradicts

    def refuse(system: System, multipliers: dict[int, object], *ends: object) -> object:
        floats = any(isinstance(m, float) for m in multipliers.values())
        return None if floats else real(system, multipliers, *ends)  # type: ignore[arg-type]

    monkeypatch.setattr(search_module, "contradicts", refuse)
    toy, query = tiny(2, 2, [5, 5], -0.02)
    result = ask(query, "float")
    assert result.verdict is Verdict.HOLDS
    assert result.statistics["branches in rationals"]
    assert isinstance(result.evidence, FarkasTrees)
    assert Checker(toy, query.prop, result.evidence).problem() is None


@MODES
def test_blands_rule_from_the_start(arithmetic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplex_module, "PATIENCE", 0)
    for number in range(20):
        _, _, truth, query = numbered(number)
        assert ask(query, arithmetic).verdict is (Verdict.VIOLATED if truth.violated else Verdict.HOLDS)


# --- lazy against eager ---------------------------------------------------------------------------------------------


def test_lazy_splitting_splits_less_than_eager() -> None:
    """Tiny queries of the shape of ACAS Xu: five inputs, several layers; half of them hold."""
    splits: Counter[int] = Counter()
    for shape in ([5, 5], [6, 6], [5, 5, 5]):
        for seed in range(3):
            for offset in (-0.02, 0.02):
                _, query = tiny(seed, 5, shape, offset)
                for after in (5, 0):
                    result = ask(query, "float", splits_after=after)
                    assert result.verdict is (Verdict.HOLDS if offset < 0 else Verdict.VIOLATED)
                    splits[after] += int(result.statistics.get("splits", 0))
                    assert after or not result.statistics.get("repairs", 0)
    assert 0 < splits[5] < splits[0] / 2, splits


# --- steps ----------------------------------------------------------------------------------------------------------


def test_the_trace_tells_every_kind_of_step(tmp_path: Path) -> None:
    file = tmp_path / "steps.txt"
    _, query = tiny(3, 2, [7, 7], -0.02)
    result = ask(query, "rational", trace=str(file))
    text = file.read_text()
    for word in ("bounds:", "pairs (b, f)", "initial tableau:", "unsafe region 0", "; rational arithmetic"):
        assert word in text
    steps = Counter(line.split(":")[0].split()[-1] for line in text.splitlines() if line[:5].strip().isdigit())
    found = result.statistics
    assert steps["pivot"] == found["pivots"]
    assert steps["repair"] == found["repairs"]
    assert steps["split"] == found["splits"]
    assert steps["tighten"] == found["tightened bounds"]
    assert steps["phase"] == found["deduced phases"]
    assert steps["conflict"] == found["leaves"]
    assert steps["backtrack"] == found["splits"]
    assert "Farkas multipliers" in text
    assert ask(query, "rational").statistics == found
    ask(query, "rational", trace=str(file))
    assert not text.startswith("\n")
    assert file.read_text() == f"{text}\n{text}"


def test_a_wrong_option_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'float' or 'rational'"):
        create("reluplex", {"arithmetic": "double"})
    with pytest.raises(OptionError, match="number of repairs"):
        create("reluplex", {"splits_after": -1})
    with pytest.raises(OptionError, match="cannot be written"):
        ask(absolute(F(0)), "float", trace=str(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_is_full_is_told_of_in_a_sentence() -> None:
    with pytest.raises(OptionError, match="cannot be written"):
        ask(absolute(F(0)), "rational", trace="/dev/full")


@MODES
def test_time_is_kept_and_told(arithmetic: str) -> None:
    _, query = tiny(0, 6, [40, 40, 40], -0.01)
    start = time.perf_counter()
    result = ask(query, arithmetic, seconds=1.5)
    assert time.perf_counter() - start < 3.5
    assert result.reason is Reason.TIMEOUT
    assert "% of the case tree is refuted" in result.detail


# --- parts ----------------------------------------------------------------------------------------------------------


def test_delta_is_smaller_than_every_positive_rational() -> None:
    three, less = F(3), Delta(F(3), F(-1))
    assert less < three < Delta(F(3), F(1)) < F(3) + F(1, 10**30)
    assert less > F(3) - F(1, 10**30)
    assert -less + three == Delta(F(0), F(1))
    assert 2 * less / F(2) == less
    assert less < float("inf")
    assert less + float("-inf") == float("-inf")
    assert max(less, 0) is less
    assert concrete([less, F(1)], [(F(2), less), (less, F(3))]) == [F(2), F(1)]
    assert concrete([less], [(F(5, 2), less)]) == [F(5, 2)]


def random_system(rng: np.random.Generator, rows: int, columns: int) -> System:
    system = System()
    for k in range(columns):
        system.add(Variable("x", 0, k), f"x{k}", F(-1), F(1))
    for k in range(rows):
        terms = [(v, F(int(rng.integers(-4, 5)), 4)) for v in range(columns)]
        system.add(Variable("row", 0, k), f"r{k}", F(-4), F(4), terms)
    return system


def test_a_pivot_changes_the_tableau_and_no_solution() -> None:
    rng, clock = np.random.default_rng(5), Clock(Budget())
    system = random_system(rng, 5, 4)
    exact, floats = RationalTableau(system, clock), FloatTableau(system, clock)
    x = [F(int(v), 8) for v in rng.integers(-8, 9, 4)]
    values = [*x, *(sum((c * x[w] for w, c in terms), F(0)) for terms in system.definitions.values())]
    for _ in range(60):
        leaving = int(rng.choice(exact.basic))
        entering = int(rng.choice([v for v, _ in exact.row(leaving)]))
        for tableau in (exact, floats):
            tableau.pivot(leaving, entering)
        assert not exact.is_basic(leaving)
        for basic in exact.basic:
            row = exact.row(basic)
            assert sum((c * values[v] for v, c in row), F(0)) == values[basic]
            near = dict(floats.row(basic))
            assert all(abs(near.get(v, 0.0) - float(c)) <= 1e-9 * (1 + abs(float(c))) for v, c in row)
            assert all((basic, c) in exact.column(v) for v, c in row)


def test_bounds_know_where_they_came_from() -> None:
    """x1 = x0 / 2 and x2 = x1 + x0 with x0 in [2, 4]: what x2 >= 3 rests on is both definitions."""
    stack = BoundStack([F(2), F(-10), F(-10)], [F(4), F(10), F(10)])
    mark = stack.mark()
    half, both = [(0, F(1, 2))], [(0, F(1)), (1, F(1))]
    stack.set(LOWER, 1, stack.implied(LOWER, half), stack.derive(LOWER, 1, half))
    stack.set(LOWER, 2, stack.implied(LOWER, both), stack.derive(LOWER, 2, both))
    assert stack.ends[LOWER] == [2, 1, 3]
    assert stack.ends[UPPER] == [4, 10, 10]
    # against x2 <= 2: x2's definition, and x1's, which it rests on; x1 itself cancels
    assert explain(stack.why[LOWER][2], None) == {2: -1, 1: 0, 0: F(3, 2)}
    stack.undo(mark)
    assert stack.ends[LOWER] == [2, -10, -10]
    assert stack.why[LOWER] == [None] * 3

"""`smt`: exact answers where others have tolerances, the formula of every kind of unit, limits that hold."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from verifiers.complete.smt import Smt
from verifkit import registry
from verifkit.budget import Budget, Clock
from verifkit.confirm import confirm
from verifkit.errors import MissingPackage, OptionError
from verifkit.exact import evaluate_exactly, rational_entries
from verifkit.functions import Abs, Clip, LeakyRelu, Relu, ScalarFunction
from verifkit.input_sets import Box, InputSet, LpBall
from verifkit.io.onnx import model_from_network
from verifkit.maps import Adjoint
from verifkit.network import Network, dense_network
from verifkit.ops import Activation, Affine, Input, Max, Node
from verifkit.processes import children
from verifkit.properties import Constraint, Polyhedron, Property, misclassified
from verifkit.query import Query, QueryFamily
from verifkit.result import Arithmetic, Reason, Result, Verdict
from verifkit.solvers import smt_process
from verifkit.solvers.smt_process import SolverProcess
from verifkit.solvers.smt_question import encode
from verifkit.testing.samples import is_unsafe, row_minimum
from verifkit.testing.toys import ask_oracle, random_question, random_toy, to_model
from verifkit.weighted_maps import Dense, Scale

pytest.importorskip("z3")
BACKENDS = [b for b in ("z3", "cvc5") if smt_process.installed(b)]


def row(
    *outputs: float, bound: Fraction | float = 0, strict: bool = False, inputs: tuple[float, ...] = ()
) -> Constraint:
    terms = (tuple((k, Fraction(v)) for k, v in enumerate(part)) for part in (outputs, inputs))
    over_outputs, over_inputs = terms
    return Constraint(outputs=over_outputs, bound=Fraction(bound), strict=strict, inputs=over_inputs)


def ask(network: Network, region: InputSet, *rows: Constraint, seconds: float = 60.0, **options: object) -> Result:
    query = Query(model_from_network(network, "toy"), Property(region, (Polyhedron(rows),), network.n_outputs))
    return Smt(**options).verify(query, budget=Budget(seconds=seconds))  # type: ignore[arg-type]


def box(low: Fraction | float, high: Fraction | float, size: int = 1) -> Box:
    return Box((Fraction(low),) * size, (Fraction(high),) * size)


def through(function: ScalarFunction, size: int = 2) -> Network:
    """y = sum of a function of the inputs, shifted and mixed."""
    weight = np.array([[1.0, -0.5], [0.75, 1.0]])[:size, :size]
    return dense_network([weight, np.ones((1, size))], [np.array([0.25, -0.5])[:size], np.zeros(1)], function)


def with_max() -> Network:
    """The maximum of three inputs."""
    entry = Input(shape=(1, 3), name="x")
    groups = np.array([[[0, 1, 2]]])
    return Network((entry, Max(shape=(1, 1), parents=(0,), name="max", groups=groups, parent_shape=(1, 3))))


def with_division() -> Network:
    """relu(x) / 3 - relu(-x) / 10: neither reciprocal is a float."""
    nodes: list[Node] = [Input(shape=(1, 1), name="x")]
    nodes.append(Affine(shape=(1, 2), parents=(0,), name="pair", maps=(Dense(np.array([[1.0], [-1.0]]), (1,)),)))
    nodes.append(Activation(shape=(1, 2), parents=(1,), name="relu", function=Relu()))
    nodes.append(Affine(shape=(1, 2), parents=(2,), name="parts", maps=(Scale(np.array([[3.0, 10.0]]), divide=True),)))
    nodes.append(Affine(shape=(1, 1), parents=(3,), name="y", maps=(Dense(np.array([[1.0, -1.0]]), (1,)),)))
    return Network(tuple(nodes))


NETWORKS = {
    "relu": through(Relu()),
    "abs": through(Abs()),
    "leaky": through(LeakyRelu(np.float64(0.1))),
    "steep": through(LeakyRelu(np.float64(3.5))),
    "falling": through(LeakyRelu(np.float64(-0.7))),
    "clip": through(Clip(np.float64(-0.3), np.float64(0.6))),
    "clip above": through(Clip(np.float64(-np.inf), np.float64(0.1))),
    "max": with_max(),
    "division": with_division(),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", list(NETWORKS))
def test_the_formula_is_the_network(kind: str, backend: str) -> None:
    # Unsafe: y is exactly the value at one point, and x is that point. Strictly beside it nothing is.
    network = NETWORKS[kind]
    n, rng = network.n_inputs, np.random.default_rng(len(kind))
    for _ in range(4):
        x = tuple(Fraction(int(v), 12) for v in rng.integers(-12, 13, n))
        (y,) = evaluate_exactly(network, x)
        at = [row(bound=s * x[i], inputs=tuple(s * (i == k) for k in range(n))) for i in range(n) for s in (1, -1)]
        found = ask(network, box(-1, 1, n), *at, row(1, bound=y), row(-1, bound=-y), backend=backend)
        assert found.verdict is Verdict.VIOLATED
        assert found.witness is not None
        assert found.witness.x == x
        beside = ask(network, box(-1, 1, n), *at, row(1, bound=y, strict=True), backend=backend)
        assert beside.verdict is Verdict.HOLDS


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", [2, 9, 11, 14, 20, 29, 35, 42, 53, 81, 145, 154])
def test_oracle(number: int, backend: str) -> None:
    rng = np.random.default_rng([20260101, number])
    toy, prop = random_question(rng, random_toy(rng, magnitudes=number % 10 == 9))
    truth, query = ask_oracle(toy, prop), Query(to_model(toy), prop)
    result = Smt(backend=backend, triangles=number % 2 == 0).verify(query)  # type: ignore[arg-type]
    assert result.verdict is (Verdict.VIOLATED if truth.violated else Verdict.HOLDS), result.detail
    if result.witness is not None:
        assert is_unsafe(toy, prop, result.witness.x, query.model.dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tie_is_violated_where_closed_and_holds_where_strict(backend: str) -> None:
    third = dense_network([np.array([[3.0], [-3.0]]), np.ones((1, 2))], [np.array([-1.0, 1.0]), np.zeros(1)])
    closed = ask(third, box(-1, 1), row(1), backend=backend)  # |3 x - 1| <= 0
    assert closed.verdict is Verdict.VIOLATED
    assert closed.witness is not None
    assert closed.witness.x == (Fraction(1, 3),)
    assert closed.witness.confirmed_by == "rational"
    strict = ask(third, box(-1, 1), row(1, strict=True), backend=backend)
    assert strict.verdict is Verdict.HOLDS


def test_a_tie_that_floats_call_safe_is_confirmed() -> None:
    # The doubles 0.1 and 0.2 add up to less than their sum in floats: y <= exact sum is a tie that floats miss.
    parts = [0.1, 0.2]
    exact = sum(map(Fraction, parts), Fraction(0))
    network = dense_network([np.array([parts])], [np.zeros(1)])
    query = Query(model_from_network(network, "tie"), Property(box(1, 1, 2), (Polyhedron((row(1, bound=exact),)),), 1))
    assert sum(parts) > exact
    assert confirm(query, (Fraction(1), Fraction(1))) is not None
    assert Smt().verify(query).verdict is Verdict.VIOLATED


def test_the_effective_box_is_searched() -> None:
    network = dense_network([np.array([[1.0], [-1.0]]), np.array([[1.0, -1.0]])], [np.zeros(2), np.zeros(1)])  # y = x
    end = Fraction(float(np.nextafter(np.float32(0.1), np.float32(0))))  # the float32 below 1 / 10
    region = Box((Fraction(1, 10),), (Fraction(1, 2),))
    assert region.floats()[0][0] == end
    inside = ask(network, region, row(1, bound=end))
    assert inside.verdict is Verdict.VIOLATED
    assert inside.witness is not None
    assert not inside.witness.in_written_set
    assert ask(network, region, row(1, bound=end, strict=True)).verdict is Verdict.HOLDS


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_l1_ball_with_a_clip_box_and_a_coupled_row(backend: str) -> None:
    network = through(Abs())
    ball = LpBall((Fraction(0), Fraction(0)), Fraction(1, 3), "1", box(Fraction(-1, 4), 1, 2))
    # x0 + x1 is at least -1/3 on the ball, between (-1/4, -1/12) and (-1/12, -1/4).
    touching = ask(network, ball, row(bound=Fraction(-1, 3), inputs=(1, 1)), row(1, bound=9), backend=backend)
    assert touching.verdict is Verdict.VIOLATED
    assert touching.witness is not None
    assert ball.contains(touching.witness.x)
    beyond = ask(
        network, ball, row(bound=Fraction(-1, 3), inputs=(1, 1), strict=True), row(1, bound=9), backend=backend
    )
    assert beyond.verdict is Verdict.HOLDS


def test_what_a_proof_says_of_itself() -> None:
    network = dense_network([np.array([[1.0], [-1.0]]), np.ones((1, 2))], [np.zeros(2), np.zeros(1)])  # |x|
    easy = ask(network, box(-1, 1), row(1, bound=-1))
    assert easy.guarantee is not None
    assert easy.guarantee.arithmetic is Arithmetic.ROUNDED
    assert "solver" not in easy.statistics
    tie = ask(network, box(-1, 1), row(1, strict=True))  # that floats cannot refute, and rational bounds can
    assert tie.guarantee is not None
    assert tie.guarantee.arithmetic is Arithmetic.EXACT
    assert not tie.guarantee.assumptions
    same = dense_network([np.array([[1.0], [-1.0]]), np.array([[1.0, -1.0]])], [np.zeros(2), np.zeros(1)])  # x
    searched = ask(same, box(-1, 1), row(1, strict=True, inputs=(-1,)))
    assert searched.guarantee is not None
    assert searched.guarantee.arithmetic is Arithmetic.EXACT
    assert any("Z3" in text for text in searched.guarantee.assumptions)
    assert searched.statistics["undecided units"] == 2


def test_cancellation_that_float64_cannot_see_is_decided() -> None:
    big = 2.0**60  # exactly y = 1 + x; in float64 it is x
    network = dense_network(
        [np.array([[big], [big], [1.0], [-1.0]]), np.array([[1.0, -1.0, 1.0, -1.0]])],
        [np.array([big + 256, big, 0.0, 0.0]), np.array([-255.0])],
    )
    region = box(Fraction(-3, 4), Fraction(-5, 8))
    assert ask(network, region, row(1, bound=0.5)).verdict is Verdict.VIOLATED
    assert ask(network, region, row(1, bound=Fraction(1, 5))).verdict is Verdict.HOLDS


def test_numbers_longer_than_python_converts_at_once() -> None:
    network = dense_network([np.array([[2.0**-1000]]), np.array([[1.0]])], [np.zeros(1), np.zeros(1)])
    short = Fraction(1, 3**8900)  # with the weight's denominator more than 4300 digits
    assert ask(network, box(-1, 1), row(1, bound=-short)).verdict is Verdict.HOLDS
    assert ask(network, box(-1, 1), row(1, bound=short), row(-1, bound=-short)).verdict is Verdict.VIOLATED


@pytest.mark.parametrize("number", range(40))
def test_bounds_in_rationals_contain_every_value(number: int) -> None:
    rng = np.random.default_rng([7, number])
    toy, prop = random_question(rng, random_toy(rng), rows=1, disjuncts=1, boxes=False)
    query = Query(to_model(toy), prop)
    formula = encode(query.network, prop.input_set, query.model.dtype, Clock(Budget()))
    for sign in (Fraction(1), Fraction(-1)):
        for y in range(toy.n_outputs):
            least = formula.least(formula.outputs[y].line(sign, Fraction(0)))
            exact = row_minimum(
                toy, replace(prop, unsafe=(Polyhedron((Constraint(((y, sign),), Fraction(0)),)),)), 0, 0
            )
            assert least <= exact


def test_entries_are_exact() -> None:
    division = Scale(np.array([3.0, 0.1]), divide=True)
    wanted = [(0, 0, Fraction(1, 3)), (1, 1, 1 / Fraction(0.1))]
    assert list(rational_entries(division)) == wanted
    assert list(rational_entries(Adjoint(division))) == wanted


# --- limits -----------------------------------------------------------------------------------------------------


def hard(width: int = 24) -> Query:
    rng = np.random.default_rng(3)
    sizes = [4, width, width, width, 2]
    weights = [(rng.normal(size=(n, m)) * np.sqrt(2 / m)).astype(np.float32) for m, n in pairwise(sizes)]
    model = model_from_network(dense_network(weights, [np.zeros(n) for n in sizes[1:]]), "hard")
    unsafe = Polyhedron((row(1, bound=-12), row(0, 1, bound=-1)))
    return Query(model, Property(box(-1, 1, 4), (unsafe, Polyhedron((row(1, bound=-1000),))), 2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seconds", [0.01, 1.5])
def test_the_time_is_kept_inside_the_solver(backend: str, seconds: float) -> None:
    start = time.perf_counter()
    result = Smt(backend=backend).verify(hard(), budget=Budget(seconds=seconds))  # type: ignore[arg-type]
    assert time.perf_counter() - start < seconds + 1
    assert result.reason is Reason.TIMEOUT
    if seconds > 1:
        assert "1 of 2 unsafe regions not excluded" in result.detail
    assert not children(os.getpid())


def test_a_solver_that_is_killed_has_run_out_of_memory() -> None:
    with SolverProcess("z3") as process:
        process._process.kill()
        said = process.decide("(set-logic QF_LRA)", [""], [], Clock(Budget()))
    assert said.reason is Reason.MEMOUT
    assert not said.answers


def test_text_that_the_solver_does_not_take_is_an_error() -> None:
    for backend in BACKENDS:
        with SolverProcess(backend) as process:
            said = process.decide("(set-logic QF_LRA)", ["(assert (< nothing 1.0))"], [], Clock(Budget()))
        assert [answer.status for answer in said.answers] == ["unknown"]
        assert said.answers[0].why


def test_a_process_that_is_not_asked_ends() -> None:
    with SolverProcess("z3"):
        assert len(children(os.getpid())) == 1
    assert not children(os.getpid())


# --- options, packages, radius ------------------------------------------------------------------------------------


def test_options() -> None:
    with pytest.raises(OptionError, match="z3, cvc5"):
        Smt(backend="mathsat")  # type: ignore[arg-type]
    assert registry.create("smt", {"backend": "cvc5", "triangles": "false"}) == Smt(backend="cvc5", triangles=False)


def test_a_back_end_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifiers.complete.smt.installed", lambda name: name != "cvc5")
    network = NETWORKS["relu"]
    with pytest.raises(MissingPackage, match=r"verifkit\[cvc5\]"):
        ask(network, box(-1, 1, 2), row(1), backend="cvc5")
    assert ask(network, box(-1, 1, 2), row(1, bound=-1)).verdict is Verdict.HOLDS


def test_radius() -> None:
    # y0 - y1 = |x| - 1/3 scaled: the label changes at a distance of 1/3.
    network = dense_network(
        [np.array([[1.0], [-1.0]]), np.array([[-3.0, -3.0], [0.0, 0.0]])], [np.zeros(2), np.array([1.0, 0.0])]
    )
    family = QueryFamily(model_from_network(network, "abs"), (Fraction(0),), "inf", misclassified(0, 2))
    found = Smt().radius(family, budget=Budget(seconds=60), tolerance=1e-3)
    assert found.certified is not None
    assert found.falsified is not None
    assert found.certified.value < 1 / 3 <= found.falsified.value
    assert found.falsified.value - found.certified.value <= 1e-3

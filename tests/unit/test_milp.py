"""The mixed-integer program: its encoding, its options, its two solvers, its exact radii and its time limits."""

from __future__ import annotations

import importlib.util
import os
import time
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from verifkit.analysis.encoding import add_l1_distance, add_linf_distance, encode
from verifkit.analysis.interval import Bounds
from verifkit.analysis.linear import analyse
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import rows_of
from verifkit.analysis.tolerance import hidden_by_tolerance
from verifkit.budget import Budget, BudgetExhausted, Clock
from verifkit.errors import MissingPackage, OptionError
from verifkit.functions import LeakyRelu
from verifkit.io.onnx import load_model, model_from_network
from verifkit.io.vnnlib import load_property
from verifkit.network import Network, dense_network
from verifkit.ops import Activation, Affine
from verifkit.properties import Property
from verifkit.query import Query, QueryFamily, robustness_family
from verifkit.radius import RadiusSearch
from verifkit.registry import create
from verifkit.result import Arithmetic, Reason, Verdict
from verifkit.solvers import encoded_query, gurobi, highs, isolated, triangle_bounds
from verifkit.testing.oracle import ToyNet, evaluate
from verifkit.testing.samples import float_points, is_unsafe
from verifkit.testing.toys import ask_oracle, random_question, random_toy, to_model
from verifkit.verifier import Verifier

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = Path(os.environ.get("VERIFKIT_VNNCOMP", ROOT.parent / "shared" / "vnncomp"))
SLOPES = (0.25, -0.5, 1.5, 0.0)
FOREVER = Clock(Budget())

needs_gurobi = pytest.mark.skipif(importlib.util.find_spec("gurobipy") is None, reason="gurobipy is not installed")


def leaky_question(number: int) -> tuple[ToyNet, Query]:
    """A question about a leaky network, and the network again with relu(z) - slope relu(-z) for every unit."""
    rng = np.random.default_rng([77, number])
    slope = SLOPES[number % len(SLOPES)]
    toy = random_toy(rng, hidden=((3,), (4,), (2, 2), (3, 2))[number % 4], residual=False)
    weights, biases = [np.array(w, dtype=object) for w in toy.weights], [np.array(b, dtype=object) for b in toy.biases]
    last, twice, both = len(weights) - 1, [], []
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        wide = weight if k == 0 else np.hstack([weight, -Fraction(slope) * weight])
        twice.append(wide if k == last else np.vstack([wide, -wide]))
        both.append(bias if k == last else np.concatenate([bias, -bias]))
    plain, prop = random_question(rng, ToyNet(twice, both))  # type: ignore[arg-type]
    matrices = [np.array(w, dtype=float) for w in weights]
    vectors = [np.array(b, dtype=float) for b in (*biases[:-1], plain.biases[-1])]
    network = dense_network(matrices, vectors, LeakyRelu(slope))
    return plain, Query(model_from_network(network, "leaky"), prop)


def toy_family(number: int, norm: str) -> tuple[ToyNet, QueryFamily]:
    rng = np.random.default_rng([78, number])
    toy = random_toy(rng, n_outputs=3, n_inputs=3, hidden=(4, 4), residual=False, quirks=False)
    center = rng.integers(-8, 9, 3) / 8
    label = int(np.argmax([float(v) for v in evaluate(toy, [Fraction(v) for v in center])]))
    clip = (-2, 2) if number % 2 else None
    return toy, robustness_family(to_model(toy), center, label, norm, clip)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_leaky_networks_are_decided_as_the_oracle_decides_them(first: int) -> None:
    for number in range(first, first + 20):
        plain, query = leaky_question(number)
        truth = ask_oracle(plain, query.prop)
        result = create("milp", {"start": bool(number % 2)}).verify(query, budget=Budget(seconds=30))
        if result.verdict is Verdict.UNKNOWN:
            assert truth.in_band, (number, result.detail)
            assert result.reason is Reason.UNCONFIRMED
        else:
            assert (result.verdict is Verdict.VIOLATED) == truth.violated, number
        if result.witness is not None:
            assert is_unsafe(plain, query.prop, result.witness.x, query.model.dtype)


def perturbed(network: Network, bounds: list[Bounds], x: np.ndarray, rng: np.random.Generator, by: float) -> np.ndarray:
    """The output when every affine node is off by up to `by`, and every unstable unit by what its rows let pass."""
    values = [x]
    for node in network.nodes[1:]:
        before = values[node.parents[0]]
        if isinstance(node, Affine):
            exact = node.evaluate([values[p] for p in node.parents])
            values.append(exact + by * np.sign(rng.normal(size=exact.shape)))
            continue
        assert isinstance(node, Activation)
        low, high = (end[0] for end in bounds[node.parents[0]])
        slope = node.function.slope if isinstance(node.function, LeakyRelu) else 0.0
        off = by * (1.0 + np.maximum(-low, high)) * np.sign(rng.normal(size=before.shape))
        r = np.maximum(before, 0.0) + np.where((low < 0) & (high > 0), off, 0.0)
        # a unit that is stable by its bounds is a line in the program, whatever the sign of its value
        values.append(np.where(low >= 0, before, np.where(high <= 0, slope * before, slope * before + (1 - slope) * r)))
    return values[-1]


@pytest.mark.parametrize("number", range(24))
def test_what_a_tolerance_hides_is_bounded(number: int) -> None:
    _, query = leaky_question(number)
    clock, rows = FOREVER, rows_of(query.prop)
    analysis = analyse(query.network, region_of(query), CROWN_RELAXATIONS, clock)
    hidden = hidden_by_tolerance(query.network, analysis.bounds, rows, 1e-4)
    rng = np.random.default_rng(number)
    low, high = analysis.bounds[0]
    for _ in range(40):
        x = rng.uniform(low[0], high[0])
        off = perturbed(query.network, analysis.bounds, x, rng, 1e-4) - query.network.evaluate(x)
        assert (np.abs(rows.outputs @ off.reshape(-1)) <= hidden).all()


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("norm", ["inf", "1"])
def test_columns_at_an_input_satisfy_the_program(number: int, norm: str) -> None:
    _, query = leaky_question(number)
    analysis = analyse(query.network, region_of(query), CROWN_RELAXATIONS, FOREVER)
    encoding = encode(query.network, analysis.bounds, FOREVER)
    low, high = (end.reshape(-1) for end in analysis.bounds[0])
    center = (low + high) / 2
    add = add_linf_distance if norm == "inf" else add_l1_distance
    distance = add(encoding, center, 1e3)
    x = float_points(np.random.default_rng(number), query.prop.input_set, 1)[0]
    values = query.network.values(x.reshape(query.network.input_shape))
    columns = encoding.point([v.reshape(-1) for v in values])
    matrix, least, most = encoding.matrix()
    assert ((matrix @ columns >= least - 1e-9) & (matrix @ columns <= most + 1e-9)).all()
    assert (columns >= np.concatenate(encoding.lower) - 1e-9).all()
    assert (columns <= np.concatenate(encoding.upper) + 1e-9).all()
    assert encoding.output is not None
    output = encoding.widen(encoding.output.matrix) @ columns + encoding.output.constant
    assert np.allclose(output, values[-1].reshape(-1), rtol=0, atol=1e-9)
    order = np.inf if norm == "inf" else 1
    assert columns[distance] == pytest.approx(np.linalg.norm(x - center, order), rel=1e-12)


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("norm", ["inf", "1"])
@pytest.mark.parametrize("solver", ["highs", pytest.param("gurobi", marks=needs_gurobi)])
def test_the_exact_radius_is_exact(number: int, norm: str, solver: str) -> None:
    toy, family = toy_family(number, norm)
    milp = create("milp", {"solver": solver})
    found = milp.radius(family, budget=Budget(seconds=60), tolerance=1e-5, attack=bool(number % 3))
    if found.misclassified or found.complete:
        return
    assert found.certified is not None
    assert found.falsified is not None, found.undecided
    assert found.closed(1e-4)
    holds = ask_oracle(toy, family.at(Fraction(found.certified.value)).prop)
    assert not holds.violated
    assert is_unsafe(toy, family.at(Fraction(found.falsified.value)).prop, found.falsified.result.witness.x)  # type: ignore[union-attr]
    other = Verifier._radius(milp, RadiusSearch(family, Clock(Budget(seconds=60)), 1, 1e-6))
    assert other.certified is not None
    assert abs(other.certified.value - found.certified.value) <= 1e-5 * max(1.0, other.certified.value)


def test_a_violation_found_by_descent_needs_no_program() -> None:
    counts = {}
    for start in (True, False):
        answers = []
        for number in range(40):
            rng = np.random.default_rng([79, number])
            toy, prop = random_question(rng, random_toy(rng))
            answers.append(create("milp", {"start": start}).verify(Query(to_model(toy), prop)))
        counts[start] = [(a.verdict, int(a.statistics.get("programs", 0))) for a in answers]
    assert [v for v, _ in counts[True]] == [v for v, _ in counts[False]]
    violated = [(a, b) for (v, a), (_, b) in zip(counts[True], counts[False], strict=True) if v is Verdict.VIOLATED]
    assert sum(a == 0 and b > 0 for a, b in violated) > len(violated) / 2


def digits_family(name: str = "digits-2x50") -> QueryFamily:
    model = load_model(ROOT / "benchmarks" / "zoo" / f"{name}.onnx")
    data = np.load(ROOT / "benchmarks" / "suites" / "digits-samples.npz")
    return robustness_family(model, data["x"][8], int(data["y"][8]), "inf", (0, 1))


def digits_query(radius: str, name: str = "digits-2x50") -> Query:
    return digits_family(name).at(radius)


def test_bounds_by_linear_programs_leave_fewer_binaries() -> None:
    query, clock = digits_query("0.05", "digits-3x100"), FOREVER
    settings = encoded_query.Settings(solver="highs", tolerance=1e-9, tighten="crown")
    tasks = [encoded_query.encoded(query, replace(settings, tighten=t), clock) for t in ("crown", "lp")]
    crown, lp = (sum(int(i.sum()) for i in task.encoding.integer) for task in tasks)
    assert lp < crown
    assert (tasks[1].lower >= tasks[0].lower).all()
    query = digits_query("0.07")
    result = create("milp", {"tighten": "lp"}).verify(query, budget=Budget(seconds=60))
    assert result.verdict is create("milp").verify(query, budget=Budget(seconds=60)).verdict


def test_options_that_make_no_sense_are_refused() -> None:
    for options in (
        {"tolerance": 1e-11},
        {"tolerance": 1e-5},
        {"tolerance": 1e-10, "solver": "gurobi"},
        {"solver": "cplex"},
        {"tighten": "none"},
    ):
        with pytest.raises(OptionError, match="milp's"):
            create("milp", options)


@needs_gurobi
@pytest.mark.parametrize("first", range(0, 60, 20))
def test_gurobi_decides_as_the_oracle_does(first: int) -> None:
    milp = create("milp", {"solver": "gurobi", "start": False})
    for number in range(first, first + 20):
        rng = np.random.default_rng([20260101, number])
        toy, prop = random_question(rng, random_toy(rng, magnitudes=number % 10 == 9))
        truth, query = ask_oracle(toy, prop), Query(to_model(toy), prop)
        result = milp.verify(query, budget=Budget(seconds=30))
        if result.verdict is Verdict.UNKNOWN:
            assert truth.in_band, (number, result.detail)
        else:
            assert (result.verdict is Verdict.VIOLATED) == truth.violated, number
        if result.guarantee is not None and result.guarantee.arithmetic is Arithmetic.SOLVER:
            assert "Gurobi" in result.guarantee.assumptions[0]


def random_net(*widths: int) -> Query:
    rng = np.random.default_rng(5)
    weights = [rng.normal(size=(b, a)) / np.sqrt(a) for a, b in pairwise(widths)]
    network = dense_network(weights, [np.zeros(w.shape[0]) for w in weights])
    label = int(network.evaluate(np.zeros(widths[0])).argmax())
    return robustness_family(model_from_network(network, "wide"), np.zeros(widths[0]), label).at(1)


@needs_gurobi
def test_a_free_licence_that_is_too_small_is_said_up_front() -> None:
    milp = create("milp", {"solver": "gurobi", "start": False})
    query = random_net(5, 800, 800, 2)
    began = time.perf_counter()
    result = milp.verify(query, budget=Budget(seconds=60))
    if result.reason is not Reason.UNSUPPORTED:
        pytest.skip("this licence of Gurobi's has no limit")
    assert str(gurobi.FREE) in result.detail
    assert "highs" in result.detail
    assert time.perf_counter() - began < 30


def test_without_gurobipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gurobipy" else there(name))
    with pytest.raises(MissingPackage, match=r"verifkit\[gurobi\]"):
        create("milp", {"solver": "gurobi", "start": False}).verify(digits_query("0.08"))


def test_an_isolated_call_returns_tells_and_is_killed() -> None:
    told: list[float] = []

    def work(tell: object) -> int:
        for k in range(3):
            tell(float(k))  # type: ignore[operator]
        return 7

    assert isolated.isolated(work, told.append, Clock(Budget(seconds=20))) == 7
    assert told == [0.0, 1.0, 2.0]
    began = time.perf_counter()

    def hang(tell: object) -> None:
        tell(1.0)  # type: ignore[operator]
        time.sleep(60)

    assert isolated.isolated(hang, told.append, Clock(Budget(seconds=0.2))) is None
    assert time.perf_counter() - began < 10
    assert told[-1] == 1.0
    assert isolated.isolated(lambda tell: os._exit(3), told.append, Clock(Budget(seconds=20))) is None


def test_a_solver_whose_process_is_killed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highs, "SMALL", 0)
    monkeypatch.setattr(highs.HighsProgram, "_run", lambda *arguments: os._exit(9))
    family = digits_family()
    result = create("milp", {"start": False}).verify(family.at("0.08"), budget=Budget(seconds=30))
    assert result.reason is Reason.ERROR
    assert "ended before its time" in result.detail
    radius = create("milp", {"start": False}).radius(family, budget=Budget(seconds=60))
    assert radius.certified is not None
    assert radius.undecided[-1][1] is Reason.ERROR


@pytest.mark.skipif(not PUBLIC.exists(), reason="no public instances: set VERIFKIT_VNNCOMP")
@pytest.mark.parametrize("tighten", ["crown", "lp"])
def test_a_large_program_ends_with_the_clock(tighten: str) -> None:
    model = load_model(PUBLIC / "mnist_fc" / "onnx" / "mnist-net_256x6.onnx")
    prop: Property = load_property(PUBLIC / "mnist_fc" / "vnnlib" / "prop_1_0.05.vnnlib")
    began = time.perf_counter()
    result = create("milp", {"tighten": tighten}).verify(Query(model, prop), budget=Budget(seconds=5))
    assert time.perf_counter() - began < 7
    assert result.reason is Reason.TIMEOUT
    assert "best bound" in result.detail


@pytest.mark.parametrize(("name", "options"), [("milp", {"tighten": "lp"}), ("lp", {"tighten": "lp"}), ("lp", {})])
def test_wherever_time_runs_out_the_bounds_so_far_are_told(
    monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, object]
) -> None:
    """Not only during the search: here the clock stops at the first linear program, or the first column."""

    def late(*arguments: object, **more: object) -> None:
        raise BudgetExhausted

    for module, what in (
        (encoded_query, "_by_programs"),
        (encoded_query, "encode"),
        (triangle_bounds, "TriangleProgram"),
    ):
        monkeypatch.setattr(module, what, late)
    result = create(name, options).verify(digits_family().at("0.08"))
    assert result.reason is Reason.TIMEOUT
    assert float(result.detail.removeprefix("best bound ")) < 0

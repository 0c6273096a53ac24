"""The triangle relaxation by linear programs: order laws, the two statements of it against each other, failures."""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from verifiers.incomplete.lp import Lp
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.budget import Budget, Clock
from verifkit.errors import OptionError
from verifkit.functions import LeakyRelu, Sigmoid
from verifkit.input_sets import Box, LpBall
from verifkit.io.onnx import model_from_network
from verifkit.network import dense_network
from verifkit.properties import Property, robustness
from verifkit.query import Query
from verifkit.registry import create
from verifkit.result import Reason, Verdict
from verifkit.solvers.linear_program import Duals, LinearProgram
from verifkit.solvers.triangle_bounds import property_bounds, tightened
from verifkit.testing.checks_evidence import outputs_far
from verifkit.testing.gallery import Exhibit, exhibits
from verifkit.testing.oracle import evaluate
from verifkit.testing.samples import float_points, row_minimum
from verifkit.testing.toys import random_region, random_toy, sample_points, to_model
from verifkit.verifier import Verifier

conic = pytest.mark.skipif(importlib.util.find_spec("cvxpy") is None, reason="cvxpy is not installed")

LAW = 1e-7
"""What solvers' tolerances may take from an order law, relative to 1 + |bound|."""


def question(seed: int, kinds: tuple[str, ...] = ("box", "l1"), coupled: bool = True) -> Query:
    rng = np.random.default_rng(seed)
    toy = random_toy(rng, max_relus=14)
    region = random_region(rng, toy.n_inputs, kinds=kinds)  # type: ignore[arg-type]
    return Query(to_model(toy), outputs_far(Property(region, (), toy.n_outputs), coupled))


def analysed(query: Query) -> tuple[LinearAnalysis, Rows]:
    network = query.network.without_max()
    return analyse(network, region_of(query), CROWN_RELAXATIONS, Clock(Budget())), rows_of(query.prop)


def bounds(analysis: LinearAnalysis, rows: Rows) -> np.ndarray:
    return property_bounds(analysis, rows, Clock(Budget()))[0]


def below(lower: np.ndarray, upper: np.ndarray) -> bool:
    return bool((lower <= upper + LAW * (1.0 + np.abs(upper))).all())


@pytest.mark.parametrize("seed", range(40))
def test_interval_and_crown_are_below_lp_and_lp_is_below_the_exact_minimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    toy = random_toy(rng, max_relus=10)
    prop = outputs_far(Property(random_region(rng, toy.n_inputs), (), toy.n_outputs), True)
    query = Query(to_model(toy), prop)
    analysis, rows = analysed(query)
    interval = analyse(query.network, region_of(query), {}, Clock(Budget()))
    lower = bounds(analysis, rows)
    tight = bounds(tightened(analysis, CROWN_RELAXATIONS, Clock(Budget())), rows)
    assert (lower >= np.asarray(analysis.property_rows(rows))[0]).all()
    assert below(np.asarray(interval.property_rows(rows))[0], lower)
    assert below(lower, tight)
    for number, bound in enumerate(tight):
        assert Fraction(bound) <= row_minimum(toy, prop, number, 0)


@pytest.mark.parametrize("seed", range(20))
def test_tightened_bounds_lie_inside_the_given_ones_and_contain_every_value(seed: int) -> None:
    query = question(seed)
    analysis, _ = analysed(query)
    better = tightened(analysis, CROWN_RELAXATIONS, Clock(Budget()))
    points = float_points(np.random.default_rng(seed), query.prop.input_set, 300)
    values = query.network.values(points.reshape(-1, *query.network.input_shape))
    for old, new, value in zip(analysis.bounds, better.bounds, values, strict=True):
        assert (new[0] >= old[0]).all()
        assert (new[1] <= old[1]).all()
        slack = 1e-9 * (1.0 + np.abs(value))
        assert (value >= new[0] - slack).all()
        assert (value <= new[1] + slack).all()


def test_tightening_gains() -> None:
    gains = []
    for seed in range(20):
        analysis, rows = analysed(question(seed))
        gains.append(
            (bounds(tightened(analysis, CROWN_RELAXATIONS, Clock(Budget())), rows) - bounds(analysis, rows)).max()
        )
    assert max(gains) > 0.01


def test_the_same_bounds_for_one_region_of_a_batch() -> None:
    query = question(3)
    analysis, rows = analysed(query)
    region = region_of(query)
    twice = analyse(
        query.network,
        type(region)(*(np.concatenate([end, end]) for end in (region.lower, region.upper))),
        CROWN_RELAXATIONS,
        Clock(Budget()),
    )
    if region.center is None:
        np.testing.assert_allclose(bounds(twice.one(1), rows), bounds(analysis, rows), rtol=1e-8, atol=1e-8)
    assert twice.one(1).region.batch == 1


# --- the two statements of the relaxation -----------------------------------------------------------------------------


def cvxpy_bounds(analysis: LinearAnalysis, rows: Rows) -> np.ndarray:
    from verifiers.incomplete.lp_cvxpy import safe_minima

    return safe_minima(analysis, rows, "CLARABEL", Clock(Budget()))[0]


@conic
@pytest.mark.parametrize("seed", range(25))
def test_lp_equals_lp_cvxpy(seed: int) -> None:
    analysis, rows = analysed(question(seed))
    np.testing.assert_allclose(bounds(analysis, rows), cvxpy_bounds(analysis, rows), rtol=1e-6, atol=1e-6)


def piecewise_linear() -> list[Exhibit]:
    capabilities = Lp().capabilities
    return [e for e in exhibits() if next(capabilities.obstacles(e.network), None) is None]


@conic
@pytest.mark.parametrize("exhibit", piecewise_linear(), ids=lambda e: e.name)
@pytest.mark.parametrize("norm", ["inf", "1"])
def test_lp_equals_lp_cvxpy_on_every_shape_of_graph(exhibit: Exhibit, norm: str) -> None:
    network = exhibit.network
    center = tuple(Fraction(k % 3, 4) for k in range(network.n_inputs))
    box = Box(tuple(c - Fraction(1, 2) for c in center), tuple(c + Fraction(1, 2) for c in center))
    region = box if norm == "inf" else LpBall(center, Fraction(1), "1", box)
    prop = outputs_far(Property(region, (), network.n_outputs), False)
    query = Query(exhibit.model, prop)
    analysis, rows = analysed(query)
    lower = bounds(analysis, rows)
    np.testing.assert_allclose(lower, cvxpy_bounds(analysis, rows), rtol=1e-6, atol=1e-6)
    assert (lower >= np.asarray(analysis.property_rows(rows))[0]).all()
    points = float_points(np.random.default_rng(0), region, 500)
    outputs = network.evaluate(points.reshape(-1, *network.input_shape)).reshape(len(points), -1)
    least = (outputs @ rows.outputs.T).min(axis=0)
    assert (lower <= least + 1e-9 * (1.0 + np.abs(least))).all()


@conic
@pytest.mark.parametrize("seed", range(20))
def test_an_l2_ball_lies_between_crown_and_samples(seed: int) -> None:
    query = question(seed, ("l2",), coupled=False)
    analysis, rows = analysed(query)
    lower = cvxpy_bounds(analysis, rows)
    assert (lower >= np.asarray(analysis.property_rows(rows))[0]).all()
    points = float_points(np.random.default_rng(seed), query.prop.input_set, 300)
    outputs = query.network.evaluate(points.reshape(-1, *query.network.input_shape)).reshape(len(points), -1)
    least = (outputs @ rows.outputs.T).min(axis=0)
    assert (lower <= least + 1e-9 * (1.0 + np.abs(least))).all()


@conic
def test_an_l2_ball_is_worth_its_cone() -> None:
    gains = []
    for seed in range(12):
        analysis, rows = analysed(question(seed, ("l2",)))
        gains.append((cvxpy_bounds(analysis, rows) - np.asarray(analysis.property_rows(rows))[0]).max())
    assert max(gains) > 0.05


@pytest.mark.parametrize("name", ["lp", "lp_cvxpy"])
@pytest.mark.parametrize("norm", ["inf", "1", "2"])
def test_radius_zero_is_the_forward_pass(name: str, norm: str) -> None:
    verifier = create(name)
    if verifier.capabilities.missing_modules() or norm not in verifier.capabilities.kinds:
        pytest.skip("not for this verifier")
    toy = random_toy(np.random.default_rng(5), n_inputs=3, n_outputs=3, hidden=[5, 4], weights="gaussian")
    x = np.full(3, 0.25)
    y = [float(v) for v in evaluate(toy, [Fraction(1, 4)] * 3)]
    label = int(np.argmax(y))
    prop = robustness(x, label, 0, norm, n_outputs=3)  # type: ignore[arg-type]
    result = verifier.verify(Query(to_model(toy), prop))
    assert result.verdict is Verdict.HOLDS
    assert result.statistics["margin"] == pytest.approx(y[label] - sorted(y)[-2], abs=1e-5)


# --- what is refused, and what fails ---------------------------------------------------------------------------------


def test_l2_balls_and_other_activations_are_refused() -> None:
    l2 = Lp().verify(question(0, ("l2",)))
    assert l2.reason is Reason.UNSUPPORTED
    assert "norm 2" in l2.detail
    with pytest.raises(ValueError, match="not linear"):
        bounds(*analysed(question(0, ("l2",))))
    weights = [np.eye(2), np.eye(2)]
    network = dense_network(weights, [np.zeros(2)] * 2, Sigmoid())
    smooth = Query(model_from_network(network, "smooth"), robustness([0.0, 1.0], 1, 0.1, n_outputs=2))
    for name in ("lp", "lp_cvxpy"):
        if not create(name).capabilities.missing_modules():
            refused = create(name).verify(smooth)
            assert refused.reason is Reason.UNSUPPORTED
            assert "sigmoid" in refused.detail
            assert "act1" in refused.detail


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match="tighten"):
        Lp(tighten="interval")  # type: ignore[arg-type]
    if importlib.util.find_spec("cvxpy") is not None:
        from verifiers.incomplete.lp_cvxpy import LpCvxpy

        with pytest.raises(OptionError, match="solver"):
            LpCvxpy(solver="MAGIC")  # type: ignore[arg-type]


def nothing(self: LinearProgram, cost: np.ndarray, clock: Clock) -> Duals | None:
    return None


def nonsense(self: LinearProgram, cost: np.ndarray, clock: Clock) -> Duals | None:
    rng = np.random.default_rng(cost.size)
    columns = rng.choice([np.nan, np.inf, -1.0, 5.0], self.n_columns)
    return Duals(rng.normal(size=self.n_rows) * 1e3, columns, columns)


@pytest.mark.parametrize("answer", [nothing, nonsense])
@pytest.mark.parametrize("tighten", ["crown", "lp"])
def test_a_solver_that_fails_costs_tightness_only(
    answer: object, tighten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinearProgram, "minimise", answer)
    for seed in range(10):
        query = question(seed)
        analysis, rows = analysed(query)
        if tighten == "lp":
            analysis = tightened(analysis, CROWN_RELAXATIONS, Clock(Budget()))
        lower = bounds(analysis, rows)
        assert (lower >= np.asarray(analysis.property_rows(rows))[0]).all()
        points = sample_points(np.random.default_rng(seed), query.prop.input_set, 40)
        x = np.array([[float(v) for v in point] for point in points]).reshape(len(points), -1)
        y = query.network.evaluate(x.reshape(-1, *query.network.input_shape)).reshape(len(points), -1)
        assert rows.inputs is not None
        least = (y @ rows.outputs.T + x @ rows.inputs.T).min(axis=0)
        assert (lower <= least + 1e-9 * (1.0 + np.abs(least))).all()


@conic
def test_a_conic_solver_that_fails_is_named_and_crowns_bound_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    import cvxpy as cp

    def fails(self: object, *args: object, **options: object) -> None:
        raise cp.error.SolverError("no")

    query = question(4)
    expected = create("crown").verify(query)
    monkeypatch.setattr(cp.Problem, "solve", fails)
    result = create("lp_cvxpy").verify(query)
    assert "the solver failed on" in result.detail
    assert result.verdict is expected.verdict
    assert result.statistics["margin"] == expected.statistics["margin"]


def verifiers() -> list[Verifier]:
    found = [create("lp"), Lp(tighten="lp"), create("lp_cvxpy")]
    return [v for v in found if not v.capabilities.missing_modules()]


@pytest.mark.parametrize("verifier", verifiers(), ids=lambda v: v.describe())
@pytest.mark.parametrize("scale", [1e-20, 1e15, 1e100])
def test_weights_that_solvers_cannot_take_cost_tightness_only(verifier: Verifier, scale: float) -> None:
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=(4, 2)) * scale, rng.normal(size=(4, 4)) * scale, rng.normal(size=(2, 4))]
    network = dense_network(weights, [rng.normal(size=n) for n in (4, 4, 2)])
    box = Box((Fraction(-1),) * 2, (Fraction(1),) * 2)
    query = Query(model_from_network(network, "large"), outputs_far(Property(box, (), 2), False))
    result = verifier.verify(query)
    assert result.reason is not Reason.ERROR
    crown = create("crown").verify(query)
    assert result.statistics["margin"] >= crown.statistics["margin"] or np.isnan(crown.statistics["margin"])


@pytest.mark.parametrize("verifier", verifiers(), ids=lambda v: v.describe())
def test_time_runs_out(verifier: Verifier) -> None:
    rng = np.random.default_rng(2)
    sizes = [20, 150, 150, 150, 10]
    weights = [rng.normal(size=(b, a)) for a, b in pairwise(sizes)]
    network = dense_network(weights, [np.zeros(n) for n in sizes[1:]])
    query = Query(model_from_network(network, "wide"), robustness(np.zeros(20), 0, 1, n_outputs=10))
    result = verifier.verify(query, budget=Budget(seconds=0.3))
    assert result.reason is Reason.TIMEOUT
    assert result.wall_seconds < 5.0


def test_leaky_units_of_every_slope() -> None:
    rng = np.random.default_rng(9)
    for slope in (-1.0, -0.25, 0.5, 1.0, 3.0):
        function = LeakyRelu(np.array(slope))
        weights = [rng.normal(size=(5, 2)), rng.normal(size=(4, 5)), rng.normal(size=(2, 4))]
        network = dense_network(weights, [rng.normal(size=n) * 0.2 for n in (5, 4, 2)], function)
        box = Box((Fraction(-1),) * 2, (Fraction(1),) * 2)
        analysis, rows = analysed(Query(model_from_network(network, "leaky"), outputs_far(Property(box, (), 2), True)))
        lower = bounds(analysis, rows)
        x = rng.uniform(-1.0, 1.0, (4000, 2))
        assert rows.inputs is not None
        least = (network.evaluate(x) @ rows.outputs.T + x @ rows.inputs.T).min(axis=0)
        assert (lower <= least + 1e-9).all()
        assert below(np.asarray(analysis.property_rows(rows))[0], lower)

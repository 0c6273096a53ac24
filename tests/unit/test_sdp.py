"""The semidefinite relaxation: safe whatever the solver says, never looser than CROWN, tighter than the triangles."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cvxpy")

from verifiers.incomplete.crown import Crown
from verifiers.incomplete.lp import Lp
from verifiers.incomplete.sdp import Sdp
from verifkit.analysis.eigenvalue_shift import safe_bound
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.analysis.semidefinite import Multipliers, Relaxed, order_of, relaxed
from verifkit.budget import Budget, Clock
from verifkit.errors import OptionError
from verifkit.input_sets import Box, InputSet, Norm, ball
from verifkit.io.onnx import load_model
from verifkit.properties import Constraint, Polyhedron, Property, robustness
from verifkit.query import Query, robustness_family
from verifkit.registry import create
from verifkit.result import Reason, Verdict
from verifkit.testing.oracle import ToyNet
from verifkit.testing.samples import float_points, row_minimum
from verifkit.testing.toys import random_region, random_toy, to_model, to_network

ZOO = Path(__file__).parents[2] / "benchmarks" / "zoo"
SAMPLES = ZOO.parent / "suites" / "digits-samples.npz"


def rows_query(toy: ToyNet, inputs: InputSet, number: int | None = None) -> Query:
    """Unsafe: y_j / 3 + x_0 <= 0, for every output or for one."""
    terms = {"bound": Fraction(0), "inputs": ((0, Fraction(1)),)}
    rows = [Constraint(outputs=((j, Fraction(1, 3)),), **terms) for j in range(toy.n_outputs)]  # type: ignore[arg-type]
    chosen = rows if number is None else [rows[number]]
    return Query(to_model(toy), Property(inputs, tuple(Polyhedron((row,)) for row in chosen), toy.n_outputs))


def analysed(query: Query) -> tuple[LinearAnalysis, Rows, Relaxed]:
    analysis = analyse(query.network.without_max(), region_of(query), CROWN_RELAXATIONS, Clock(Budget()))
    rows = rows_of(query.prop)
    problem = relaxed(analysis, rows)
    assert problem is not None
    return analysis, rows, problem


def random_multipliers(rng: np.random.Generator, problem: Relaxed, scale: float) -> Multipliers:
    units = problem.places.size
    first, second = rng.exponential(size=(2, units)) * scale
    free, box = rng.normal(size=units) * scale, rng.exponential(size=problem.order) * scale
    return Multipliers(first, second, free, box, float(rng.exponential()) * problem.is_ball)


@pytest.mark.parametrize("seed", range(40))
def test_any_multipliers_give_a_bound_below_the_exact_minimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    toy = random_toy(rng, magnitudes=seed % 3 == 0)
    query = rows_query(toy, random_region(rng, toy.n_inputs, kinds=("box",)))
    _, _, problem = analysed(query)
    for row in range(toy.n_outputs):
        least = row_minimum(toy, query.prop, row, 0)
        for scale in (0.0, 1e-3, 1.0, 1e3):
            bound = safe_bound(problem, row, random_multipliers(rng, problem, scale))
            assert np.isfinite(bound)
            assert Fraction(bound) <= least
        broken = random_multipliers(rng, problem, 1.0)
        for values in (broken.negative, broken.chord, broken.disjoint, broken.box):
            values[::2], values[1::3] = np.nan, -1.0
        assert Fraction(safe_bound(problem, row, broken)) <= least


@pytest.mark.parametrize("seed", range(40))
def test_solved_bounds_are_below_the_minimum_and_not_below_crowns(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    toy = random_toy(rng, magnitudes=seed % 3 == 0)
    inputs = random_region(rng, toy.n_inputs, kinds=("box",))
    for row in range(toy.n_outputs):
        query = rows_query(toy, inputs, row)
        margin = float(Sdp(every_row=True).verify(query).statistics["margin"])
        assert margin >= float(Crown().verify(query).statistics["margin"])
        assert Fraction(margin) <= row_minimum(toy, query.prop, 0, 0)


@pytest.mark.parametrize("seed", range(12))
def test_forms_and_quadratics_are_what_they_say_at_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    toy = random_toy(rng, n_inputs=3, n_outputs=2, hidden=[5, 4], quirks=False)
    inputs = ball(rng.integers(-4, 5, 3) / 4, Fraction(3, 4), "2" if seed % 2 else "inf")
    query = rows_query(toy, inputs)
    analysis, rows, problem = analysed(query)
    network = to_network(toy, outer=(1,))
    points = float_points(rng, inputs, 200).reshape(-1, *analysis.network.input_shape)
    values = analysis.network.values(points)
    np.testing.assert_allclose(values[-1], network.evaluate(points), atol=1e-9)
    w = _variables(analysis, values)
    assert (np.abs(w) <= 1 + 1e-9).all()
    left = values[-1].reshape(len(points), -1) @ rows.outputs.T + points.reshape(len(points), -1) @ rows.inputs.T
    form = problem.rows.constant + w @ problem.rows.slopes
    np.testing.assert_allclose(form, left, atol=1e-9)
    negative = problem.shift + w @ problem.slopes.T
    share = (1 + w[:, problem.places]) / 2
    assert (np.abs(negative * share) <= 1e-9).all()
    assert (negative >= -1e-9).all()
    assert (negative <= problem.cap * (1 - share) + 1e-9).all()
    multipliers = random_multipliers(rng, problem, 1.0)
    matrix, lost = problem.matrix(0, multipliers)
    lifted = np.concatenate([np.ones((len(w), 1)), w], axis=1)
    quadratic = np.einsum("ka,ab,kb->k", lifted, matrix, lifted)
    sphere = 1 - ((problem.offset + w * problem.width) ** 2).sum(axis=1) if problem.is_ball else 0.0
    wanted = (
        form[:, 0]
        - negative @ multipliers.negative
        - (problem.cap * (1 - share) - negative) @ multipliers.chord
        + (negative * share) @ multipliers.disjoint
        - (1 - w * w) @ multipliers.box
        - multipliers.ball * sphere
    )
    np.testing.assert_allclose(quadratic, wanted, atol=1e-9)
    assert 0 <= lost < 1e-9
    assert (quadratic <= left[:, 0] + 1e-9).all()


def _variables(analysis: LinearAnalysis, values: list[np.ndarray]) -> np.ndarray:
    """w for each point, (points, N): inputs that vary, then unstable units."""
    count = len(values[0])
    low, high = (end.reshape(-1) for end in (analysis.region.lower, analysis.region.upper))
    parts = [((values[0].reshape(count, -1) - (low + high) / 2) / ((high - low) / 2))[:, low < high]]
    for index, node in analysis.network.activations():
        low, high = (end.reshape(-1) for end in analysis.bounds[node.parents[0]])
        chosen = ~((low >= 0) | (high <= 0))
        parts.append((2 * values[index].reshape(count, -1) / np.where(chosen, high, 1.0) - 1)[:, chosen])
    found = np.concatenate(parts, axis=1)
    assert found.shape[1] == order_of(analysis)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_l2_balls_are_bounded_below_sampled_values_and_better_than_their_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    toy = random_toy(rng, n_inputs=4, n_outputs=1, hidden=[6], weights="gaussian", quirks=False)
    clip = Box((Fraction(-1, 2),) * 4, (Fraction(1),) * 4)
    center = rng.integers(-2, 5, 4) / 4
    inputs = ball(center, Fraction(1, 2), "2", clip)
    query = rows_query(toy, inputs)
    margin = float(Sdp(every_row=True).verify(query).statistics["margin"])
    points = float_points(rng, inputs, 3000)
    rows = rows_of(query.prop)
    left = to_network(toy).evaluate(points).reshape(len(points), -1) @ rows.outputs.T + points @ rows.inputs.T
    assert margin <= left.min() + 1e-9
    boxed = float(Sdp(every_row=True).verify(rows_query(toy, inputs.bounding_box())).statistics["margin"])  # type: ignore[union-attr]
    assert margin >= boxed - 1e-6
    assert margin >= float(Crown().verify(query).statistics["margin"])


def test_it_is_strictly_tighter_than_the_triangles_on_a_committed_network() -> None:
    model, samples = load_model(ZOO / "toy-spirals.onnx"), np.load(ZOO / "toy-samples.npz")
    family = robustness_family(model, samples["x"][2], int(samples["y"][2]), clip=(0, 1))
    for radius, gain in (("0.05", 0.9), ("0.1", 1.5)):
        query = family.at(radius)
        crown, lp, sdp = (v.verify(query).statistics["margin"] for v in (Crown(), Lp(), Sdp(every_row=True)))
        assert sdp > lp + gain  # type: ignore[operator]
        assert lp >= crown - 1e-9  # type: ignore[operator]


def test_radius_zero_is_the_forward_pass() -> None:
    rng = np.random.default_rng(3)
    toy = random_toy(rng, n_inputs=3, n_outputs=2, hidden=[4], weights="gaussian")
    x = np.array([0.25, -0.5, 1.0])
    for norm in ("inf", "2"):
        query = Query(to_model(toy), robustness(x, 0, 0, norm, n_outputs=2))
        y = to_network(toy).evaluate(x.reshape(1, 3)).reshape(-1)
        margin = Sdp(every_row=True).verify(query).statistics["margin"]
        assert margin == pytest.approx(y[0] - y[1], abs=1e-5)


def test_a_matrix_that_is_too_large_is_refused_before_any_program() -> None:
    toy = random_toy(np.random.default_rng(1), n_inputs=4, hidden=[6], n_outputs=2, weights="gaussian", quirks=False)
    query = rows_query(toy, Box((Fraction(-1),) * 4, (Fraction(1),) * 4))
    result = Sdp(max_size=4, every_row=True).verify(query)
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.INCOMPLETE)
    assert "max_size" in result.detail
    assert result.bounds is not None


def test_units_without_finite_bounds_have_no_relaxation_or_say_nothing() -> None:
    toy = random_toy(np.random.default_rng(1), n_inputs=4, hidden=[6], n_outputs=2, weights="gaussian", quirks=False)
    analysis, rows, problem = analysed(rows_query(toy, Box((Fraction(-1),) * 4, (Fraction(1),) * 4)))
    assert problem.places.size
    index = next(node.parents[0] for _, node in analysis.network.activations())
    low, high = analysis.bounds[index]
    for ends in ((low, high + np.inf), (low, high * np.nan)):
        bounds = [ends if k == index else kept for k, kept in enumerate(analysis.bounds)]
        assert relaxed(replace(analysis, bounds=bounds), rows) is None
    for end in (low - np.inf, low * np.nan):
        bounds = [(end, high) if k == index else kept for k, kept in enumerate(analysis.bounds)]
        open_below = relaxed(replace(analysis, bounds=bounds), rows)
        assert open_below is not None
        assert not open_below.slopes.any()  # nothing is known of the negative parts


def test_a_budget_ends_the_programs() -> None:
    model = load_model(ZOO / "digits-2x50.onnx")
    query = Query(model, robustness(np.full(64, 0.5), 0, "0.1", n_outputs=10))
    result = Sdp(solver="SCS", every_row=True).verify(query, budget=Budget(seconds=0.5))
    assert result.reason is Reason.TIMEOUT
    assert result.wall_seconds < 10


@pytest.mark.parametrize(
    "options", [{"solver": "MOSEK"}, {"accuracy": 0.0}, {"accuracy": 1.0}, {"iterations": 0}, {"max_size": 0}]
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="sdp"):
        Sdp(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_a_single_point_of_a_convolutional_network_is_the_forward_pass(norm: Norm) -> None:
    model = load_model(ZOO / "digits-conv-small.onnx")
    with np.load(SAMPLES) as samples:
        x, label = samples["x"][0], (int(samples["y"][0]) + 1) % 10  # another class than it has
    result = create("sdp").verify(robustness_family(model, x, label, norm).at(0))
    y = model.call(x.reshape(1, *model.input_shape).astype(model.dtype)).reshape(-1)
    assert result.statistics["margin"] == pytest.approx(float(min(y[label] - np.delete(y, label))), rel=1e-4)

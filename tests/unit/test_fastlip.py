"""Fast-Lip: derivatives, gradients and falls contain what they bound; centers outside the clip box; shells."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifiers.incomplete.fastlip import FastLip
from verifkit.analysis.gradient import pull_back
from verifkit.analysis.linear import analyse
from verifkit.analysis.lipschitz import (
    SLOPE_RULES,
    gradient_bounds,
    inner_point,
    least_fall,
    shrunk,
    slope_bounds,
)
from verifkit.analysis.region import Region, region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.budget import Budget, Clock
from verifkit.errors import OptionError
from verifkit.functions import Clip, Elu, LeakyRelu, Log, Power, Reciprocal, ScalarFunction, Sqrt
from verifkit.input_sets import Box, InputSet, LpBall
from verifkit.io.onnx import model_from_network
from verifkit.network import Network, dense_network
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.result import Reason, Verdict
from verifkit.testing.gallery import exhibits
from verifkit.testing.samples import float_points, row_minimum
from verifkit.testing.toys import random_region, random_toy, to_model

FUNCTIONS: list[ScalarFunction] = [
    *(kind() for kind in SLOPE_RULES if kind not in (LeakyRelu, Clip, Power, Elu)),  # type: ignore[abstract]
    *(LeakyRelu(slope) for slope in (0.1, -0.5, 3.0)),
    Clip(-0.5, 1.0),
    *(Power(n) for n in (2, 3, 4, 7)),
    *(Elu(alpha) for alpha in (1.0, 0.3, 2.5, -1.0)),
]


def row_query(network: Network, region: InputSet, bound: str = "-1000000") -> Query:
    """Unsafe: y_0 <= bound, so that the statistics' margin is the lower bound on y_0, less `bound`."""
    row = Constraint(outputs=((0, Fraction(1)),), bound=Fraction(bound))
    model = model_from_network(network, "row")
    return Query(model, Property(region, (Polyhedron((row,)),), network.n_outputs))


def lower_bound(network: Network, region: InputSet, shells: int = 1) -> float:
    return float(FastLip(shells=shells).verify(row_query(network, region, "0")).statistics["margin"])


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_derivatives_lie_within_their_bounds(function: ScalarFunction) -> None:
    rng = np.random.default_rng(1)
    positive = isinstance(function, Sqrt | Log | Reciprocal)
    ends = np.sort(rng.normal(size=(300, 2)) * rng.choice([0.01, 1.0, 8.0], size=(300, 1)), axis=1)
    ends[:20, 1] = ends[:20, 0]
    ends[20:30, 0], ends[30:40, 1] = np.minimum(ends[20:30, 1], 0.0), np.maximum(ends[30:40, 0], 0.0)
    ends = np.sort(np.abs(ends) + 0.01, axis=1) if positive else np.sort(ends, axis=1)
    low, high = slope_bounds(function, ends[:, 0], ends[:, 1])
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()
    x = ends[:, :1] + np.linspace(0, 1, 201) * (ends[:, 1:] - ends[:, :1])
    x = np.clip(x, ends[:, :1], ends[:, 1:])
    with np.errstate(all="ignore"):
        # A quotient of differences is a mean of derivatives: it lies within the bounds for kinked functions as well.
        rise = (function(x[:, 1:]) - function(x[:, :-1])) / (x[:, 1:] - x[:, :-1])
    known = (x[:, 1:] - x[:, :-1]) > 1e-4
    assert (np.where(known, rise, np.inf) >= low[:, None] - 1e-8).all()
    assert (np.where(known, rise, -np.inf) <= high[:, None] + 1e-8 * (1 + np.abs(high[:, None]))).all()
    slope = function.derivative(x[:, 1:-1])
    kinked = isinstance(function, Clip)  # whose derivative at a kink is that of one side
    assert kinked or (slope >= low[:, None] - 1e-12 * (1 + np.abs(slope))).all()
    assert kinked or (slope <= high[:, None] + 1e-12 * (1 + np.abs(slope))).all()


@pytest.mark.parametrize("function", [Sqrt(), Log(), Reciprocal()], ids=str)
def test_nothing_is_known_of_a_derivative_outside_the_domain(function: ScalarFunction) -> None:
    low, high = slope_bounds(function, np.array([-1.0, 0.0, -np.inf]), np.array([1.0, 1.0, np.inf]))
    assert (low[[0, 2]] == -np.inf).all()
    assert (high == np.inf).all()


def test_an_argument_without_bounds_has_no_slope() -> None:
    for function in FUNCTIONS:
        for end in (np.inf, np.nan):
            low, high = slope_bounds(function, np.array([-end]), np.array([end]))
            assert (low[0], high[0]) == (-np.inf, np.inf)


@pytest.mark.parametrize("radius", [0.5, 1 / 64])
def test_gradients_of_every_graph_lie_within_their_bounds(radius: float) -> None:
    rng = np.random.default_rng(2)
    for exhibit in exhibits():
        network = exhibit.network.without_max()
        if not {type(n.function) for _, n in network.activations()} <= set(SLOPE_RULES):
            continue
        center = rng.uniform(-0.5, 0.5, size=(2, *network.input_shape))
        region = Region(center - radius, center + radius)
        analysis = analyse(network, region, CROWN_RELAXATIONS, Clock(Budget()))
        rows = rng.normal(size=(2, 3, *network.output_shape))
        low, high = gradient_bounds(network, analysis.bounds, {len(network.nodes) - 1: (rows, rows)})
        x = rng.uniform(-1, 1, size=(40, 2, *network.input_shape)) * radius + center
        for k in range(3):
            for points in x:
                found = pull_back(network, network.values(points), rows[:, k])
                slack = 1e-9 * (1 + np.abs(found))
                known = np.isfinite(low[:, k]) & np.isfinite(high[:, k])
                assert (~known | ((low[:, k] - slack <= found) & (found <= high[:, k] + slack))).all(), exhibit.name
        assert radius > 0.1 or np.isfinite(low).all(), exhibit.name


@pytest.mark.parametrize("seed", range(60))
def test_bounds_lie_below_the_exact_minimum_and_shells_only_help(seed: int) -> None:
    rng = np.random.default_rng(seed)
    toy = random_toy(rng, magnitudes=seed % 3 == 0)
    inputs = random_region(rng, toy.n_inputs, kinds=("box", "l1"))
    one = Fraction(1, 3)  # no float
    rows = [Constraint(outputs=((j, one),), bound=Fraction(0), inputs=((0, one),)) for j in range(toy.n_outputs)]
    for row in rows:
        prop = Property(inputs, (Polyhedron((row,)),), toy.n_outputs)
        least = row_minimum(toy, prop, 0, 0)
        plain, shells = (
            float(FastLip(shells=n).verify(Query(to_model(toy), prop)).statistics["margin"]) for n in (1, 4)
        )
        assert Fraction(plain) <= least
        assert Fraction(shells) <= least


def test_a_center_outside_the_clip_box_is_moved_into_it() -> None:
    rng = np.random.default_rng(3)
    for norm in ("1", "2"):
        for _ in range(20):
            center = tuple(Fraction(int(v), 8) for v in rng.integers(-12, 13, 4))
            clip = Box((Fraction(-1, 2),) * 4, (Fraction(3, 4),) * 4)
            gaps = [max(low - c, c - high, 0) for c, low, high in zip(center, clip.lower, clip.upper, strict=True)]
            ball = LpBall(center, sum(gaps, Fraction(1, 4)), norm, clip)  # type: ignore[arg-type]
            weights = [rng.normal(size=(5, 4)), rng.normal(size=(1, 5))]
            network = dense_network(weights, [rng.normal(size=5), np.zeros(1)])
            region = region_of(row_query(network, ball))
            point = inner_point(region)
            assert ((region.lower <= point) & (point <= region.upper)).all()
            x = float_points(rng, ball, 400)
            reach = np.linalg.norm(x - point, ord=int(norm), axis=1)
            assert (reach <= float(ball.radius) * (1 + 1e-9)).all()
            for share in (0.25, 1.0):
                small = shrunk(region, point, share)
                moved = point + share * (x - point)
                assert small.radius is not None
                assert ((small.lower <= moved + 1e-15) & (moved - 1e-15 <= small.upper)).all()
                assert (np.linalg.norm(moved - point, ord=int(norm), axis=1) <= small.radius * (1 + 1e-9)).all()
            for n in (1, 7):
                assert lower_bound(network, ball, n) <= network.evaluate(x).min() + 1e-12


def test_falls_are_the_dual_norms_and_a_clip_box_mixes_with_them() -> None:
    gradient = (np.array([[[-3.0, 0.0, 1.0]]]), np.array([[[2.0, 4.0, 1.0]]]))
    zero = np.zeros((1, 3))
    box = least_fall(gradient, Region(zero - [[1.0, 2.0, 3.0]], zero + 1.0), zero)
    assert box[0, 0] == pytest.approx(-(3.0 + 8.0 + 3.0), rel=1e-12)
    wide = zero - 100.0, zero + 100.0
    for norm, dual in (("1", 4.0), ("2", np.sqrt(26.0))):
        ball = least_fall(gradient, Region(*wide, zero, np.array([2.0]), norm), zero)
        assert ball[0, 0] == pytest.approx(-2 * dual, rel=1e-12)
        tight = Region(zero - 1.5, zero + 1.5, zero, np.array([2.0]), norm)
        box_alone = least_fall(gradient, Region(tight.lower, tight.upper), zero)[0, 0]
        assert least_fall(gradient, tight, zero)[0, 0] > max(-2 * dual, box_alone) + 0.01
    unknown = (np.array([[[np.nan, 0.0, 0.0]]]), np.zeros((1, 1, 3)))
    assert least_fall(unknown, Region(*wide), zero)[0, 0] == -np.inf


def test_radius_zero_is_the_forward_pass() -> None:
    rng = np.random.default_rng(4)
    network = dense_network([rng.normal(size=(6, 3)), rng.normal(size=(2, 6))], [rng.normal(size=6), np.zeros(2)])
    x = rng.normal(size=3)
    at = tuple(map(Fraction, x.tolist()))
    for region in (Box(at, at), LpBall(at, Fraction(0), "2"), LpBall(at, Fraction(0), "1")):
        # A box's ends count as widened to the nearest float32.
        tolerance = 1e-5 if isinstance(region, Box) else 1e-12
        assert lower_bound(network, region) == pytest.approx(network.evaluate(x)[0], abs=tolerance)


def test_a_root_at_the_end_of_its_domain_is_left_undecided() -> None:
    exhibit = next(e for e in exhibits() if Sqrt in e.needs)
    n = exhibit.network.n_inputs
    far = Box((Fraction(-100),) * n, (Fraction(100),) * n)
    result = FastLip(shells=2).verify(row_query(exhibit.network, far))
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.INCOMPLETE)


def test_shells_must_be_a_sensible_number() -> None:
    for shells in (0, -1, 10**6):
        with pytest.raises(OptionError, match="shells"):
            FastLip(shells=shells)

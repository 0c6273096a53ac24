"""Interval rules: valid in high precision, tight to a few units in the last place, and honest outside a domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from tests.unit.reference_functions import CASES, DIGITS, Case, in_domain, intervals, points_of
from verifkit.analysis import interval
from verifkit.analysis.interval import Bounds, propagate
from verifkit.analysis.ranges import function_bounds
from verifkit.functions import (
    Cos,
    Exp,
    Log,
    Power,
    Reciprocal,
    Relu,
    ScalarFunction,
    Sigmoid,
    Sin,
    Softplus,
    Sqrt,
    Tanh,
)
from verifkit.maps import Identity, LinearMap, Select, Sum
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input, Max, Node, Product
from verifkit.weighted_maps import Conv, Dense, Scale

COUNT = 120
DTYPES = [np.float64, np.float32]
EXTREMES = {np.float64: (1e-320, 1e-160, 1e154, 1e300), np.float32: (1e-44, 1e-20, 1e19, 1e38)}


def outside(case: Case, bounds: Bounds, lower: np.ndarray, upper: np.ndarray) -> str | None:
    """The first value of the function that lies outside its bounds, or None."""
    ends = [end.tolist() for end in (*bounds, lower, upper)]
    with mpmath.workdps(DIGITS):
        for low, high, a, b in zip(*ends, strict=True):
            for x in points_of(case, a, b, lower.dtype.type):
                value = case.exact(mpmath.mpf(x))
                if not low <= value <= high:
                    return f"{value} at {x!r} in [{a!r}, {b!r}] is outside [{low!r}, {high!r}]"
    return None


@pytest.mark.parametrize("extreme", [False, True], ids=["usual", "extreme"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_ranges_hold_in_high_precision(case: Case, dtype: type, extreme: bool) -> None:
    scales = EXTREMES[dtype] if extreme else case.scales
    lower, upper = intervals(case, dtype, COUNT, seed=2, scales=scales)
    bounds = function_bounds(case.cast(lower), lower, upper)
    assert all(end.dtype == dtype and not np.isnan(end).any() for end in bounds)
    inside = in_domain(case, lower, upper)
    assert (bounds[0][~inside] == -np.inf).all()
    assert (bounds[1][~inside] == np.inf).all()
    low, high = (end[inside] for end in bounds)
    assert outside(case, (low, high), lower[inside], upper[inside]) is None


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_ranges_are_no_wider_than_they_must_be(case: Case) -> None:
    lower, upper = intervals(case, np.float64, COUNT, seed=3, scales=(1e-3, 1.0, 5.0))
    kept = in_domain(case, lower, upper)
    lower, upper = lower[kept], upper[kept]
    low, high = function_bounds(case.function, lower, upper)
    for a, b, below, above in zip(lower.tolist(), upper.tolist(), low.tolist(), high.tolist(), strict=True):
        inner = [s for s in case.special if a <= s <= b]
        values = case.function(np.array([a, b, *inner]))
        slack = 1e-14 * (1.0 + np.abs(values).max())
        assert below >= values.min() - slack
        assert above <= values.max() + slack


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_torch_agrees(case: Case, dtype: type) -> None:
    torch = pytest.importorskip("torch")
    lower, upper = intervals(case, dtype, COUNT, seed=4)
    ours = function_bounds(case.cast(lower), lower, upper)
    function = case.function.cast(lambda v: torch.tensor(v, dtype=torch.tensor(lower).dtype))
    theirs = function_bounds(function, torch.tensor(lower), torch.tensor(upper))
    unit = float(np.finfo(dtype).eps)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=64 * unit, atol=64 * unit)


def bounds_of(function: ScalarFunction, lower: float, upper: float) -> tuple[float, float]:
    low, high = function_bounds(function, np.array([[lower]]), np.array([[upper]]))
    return float(low[0, 0]), float(high[0, 0])


NOTHING = (-math.inf, math.inf)


def test_nothing_is_claimed_outside_a_domain() -> None:
    for function, lower, upper in (
        (Sqrt(), -1e-300, 4.0), (Log(), 0.0, 1.0), (Log(), -1.0, 1.0),
        (Reciprocal(), 0.0, 1.0), (Reciprocal(), -1.0, 0.0), (Reciprocal(), -1.0, 1.0), (Reciprocal(), 0.0, 0.0),
    ):  # fmt: skip
        assert bounds_of(function, lower, upper) == NOTHING
    assert bounds_of(Sqrt(), 0.0, 4.0)[0] == 0.0


def test_what_is_computed_from_nothing_known_is_not_known_either() -> None:
    for function in (Sigmoid(), Sin(), Relu(), Power(2), Exp(), Tanh()):
        assert bounds_of(function, *NOTHING) == NOTHING
        assert bounds_of(function, math.nan, math.nan) == NOTHING
    assert bounds_of(Sigmoid(), 0.0, math.inf)[1] == 1.0  # for want of a finite bound, the value being a number


def test_rounding_does_not_leave_the_range_of_a_function() -> None:
    for function, lower, upper, least, most in (
        (Exp(), -1e4, -800.0, 0.0, None), (Softplus(), -1e4, -900.0, 0.0, None), (Sqrt(), 0.0, 0.0, 0.0, None),
        (Power(2), -1e-200, 1e-200, 0.0, None), (Sigmoid(), -1e4, 1e4, 0.0, 1.0), (Tanh(), -50.0, 50.0, -1.0, 1.0),
        (Sin(), -9.0, 9.0, -1.0, 1.0), (Cos(), 0.0, 0.0, None, 1.0), (Reciprocal(), 1.0, 1e308, 0.0, None),
        (Reciprocal(), -1e308, -1.0, None, 0.0),
    ):  # fmt: skip
        low, high = bounds_of(function, lower, upper)
        assert least is None or low >= least
        assert most is None or high <= most


def test_a_wave_knows_its_crests_and_troughs() -> None:
    quarter = math.pi / 2
    assert bounds_of(Sin(), 1.0, 2.0)[1] == 1.0  # over the crest
    assert bounds_of(Sin(), 4.0, 5.0)[0] == -1.0
    assert bounds_of(Sin(), -0.5, 0.5) == pytest.approx((math.sin(-0.5), math.sin(0.5)))
    assert bounds_of(Cos(), -0.1, 0.2) == pytest.approx((math.cos(0.2), 1.0))
    assert bounds_of(Cos(), 3.0, 3.5)[0] == -1.0
    assert bounds_of(Sin(), quarter, quarter)[1] == 1.0
    assert bounds_of(Sin(), 0.0, 7.0) == (-1.0, 1.0)
    assert bounds_of(Sin(), 1e7, 1e7) == (-1.0, 1.0)  # too far out to trust a library's reduction
    assert bounds_of(Cos(), 2.0**15, 2.0**15) == pytest.approx((math.cos(2.0**15),) * 2)


def test_a_crest_counts_where_rounding_leaves_it_open() -> None:
    # Far out in single precision neighbouring floats lie 1/256 apart: that the crest is between them is easily lost.
    rng = np.random.default_rng(0)
    with mpmath.workdps(DIGITS):
        crests = [(int(k) + mpmath.mpf(1) / 4) * 2 * mpmath.pi for k in rng.integers(-10000, 10000, 2000)]
        below = [np.float32(float(t)) for t in crests]
        below = [np.nextafter(b, np.float32(-np.inf)) if b > t else b for b, t in zip(below, crests, strict=True)]
    lower = np.array(below)
    upper = np.nextafter(lower, np.float32(np.inf))
    assert (function_bounds(Sin(), lower, upper)[1] == 1.0).all()
    quarter = np.float32(math.pi / 2)
    assert (function_bounds(Cos(), lower - quarter, upper - quarter)[1] >= 0.99).all()


def test_a_value_that_overflows_is_still_a_number() -> None:
    low, high = bounds_of(Exp(), 800.0, 900.0)
    assert 1e308 < low < math.inf
    assert high == math.inf


# --- node kinds ---------------------------------------------------------------------------------------------------


def affine(*maps: LinearMap, bias: np.ndarray | None = None) -> Affine:
    return Affine(shape=maps[0].out_shape, parents=tuple(range(len(maps))), name="a", maps=maps, bias=bias)


def node_bounds(node: Node, parents: Sequence[Bounds]) -> Bounds:
    with np.errstate(all="ignore"):  # as `propagate` has it
        return interval.node_bounds(node, parents)


def of(node: Node, *parents: tuple[Sequence[float], Sequence[float]]) -> tuple[list[float], list[float]]:
    low, high = node_bounds(node, [(np.array([lower]), np.array([upper])) for lower, upper in parents])
    return low[0].tolist(), high[0].tolist()


def test_moved_and_added_numbers_are_exact_where_the_sum_is() -> None:
    swap = Select((2,), np.array([1, 0]))
    assert of(affine(swap), ([1.0, -2.0], [3.0, 0.1])) == ([-2.0, 1.0], [0.1, 3.0])
    minus = Scale(np.array([-1.0, 1.0]))
    low, high = of(affine(swap, minus), ([1.0, -2.0], [3.0, 0.5]), ([0.25, 0.0], [0.5, 8.0]))
    assert (low, high) == ([-2.5, 1.0], [0.25, 11.0])
    low, high = of(affine(Scale(np.array([-1.0])), bias=np.array([1.0])), ([0.0], [1.0]))
    assert (low, high) == ([0.0], [1.0])  # 1 - x keeps its sign


def test_an_inexact_sum_is_rounded_outwards() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 500)) * rng.choice([1e-20, 1.0, 1e9, 1e-310], (2, 500))
    node = affine(Identity((500,)), Identity((500,)), bias=y)
    low, high = node_bounds(node, [(x[None], x[None]), (y[None], y[None])])
    for a, b, c, d in zip(x.tolist(), y.tolist(), low[0].tolist(), high[0].tolist(), strict=True):
        exact = Fraction(a) + 2 * Fraction(b)
        assert Fraction(c) <= exact <= Fraction(d)
        assert d - c <= 1e-14 * (abs(a) + abs(b)) + 1e-300


POSITIVE = ([0.0, 0.0, 0.0], [1.0, 1e-9, 3.0])


@pytest.mark.parametrize(
    "linear",
    [
        Dense(np.array([[0.1, 0.3, 0.0], [0.7, 1e-5, 3.0]])),
        Sum((3,), (0,)),
        Scale(np.array([0.1, 3.0, 0.0])),
        Scale(np.array([0.1, 3.0, 7.0]), divide=True),
        Conv(np.array([[[0.1, 0.7]]]), (1, 1, 3), (1,), ((1, 0),), (1,)),
    ],
    ids=lambda m: type(m).__name__,
)
def test_a_sum_that_cannot_be_negative_is_not(linear: LinearMap) -> None:
    low, high = POSITIVE
    ends = [np.array(v).reshape(1, *linear.in_shape) for v in (low, high)]
    assert (node_bounds(affine(linear), [(ends[0], ends[1])])[0] == 0.0).all()
    bias = np.full(linear.out_shape, 0.3)
    assert (node_bounds(affine(linear, bias=bias), [(ends[0], ends[1])])[0] == 0.3).all()
    huge = (ends[0], np.full_like(ends[1], np.inf))  # an exponential that overflowed
    found = node_bounds(affine(linear, bias=bias), [huge])
    assert (found[0] == 0.3).all() or isinstance(linear, Scale)


def test_a_sum_that_can_be_negative_gets_no_floor() -> None:
    rows = Dense(np.array([[0.5, -1e-12, 1.0], [0.5, 1.0, 1.0]]))
    low, _ = of(affine(rows), ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]))
    assert low[0] <= -1e-12
    assert low[1] == 0.0
    low, _ = of(affine(rows), ([0.0, 0.0, -1e-300], [1.0, 1.0, 1.0]))
    assert (np.array(low) < 0).all()


def product(same: bool) -> Product:
    return Product(shape=(1,), parents=(0, 0) if same else (0, 1), name="p")


@pytest.mark.parametrize("seed", range(200))
def test_products_hold_and_are_tight(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = rng.choice([1e-200, 1e-3, 1.0, 1e3, 1e150], 2)
    (a, b), (c, d) = (sorted((rng.normal(size=2) * s + rng.choice([0, 0, 3]) * s).tolist()) for s in scale)
    low, high = of(product(same=False), ([a], [b]), ([c], [d]))
    corners = [Fraction(x) * Fraction(y) for x in (a, b) for y in (c, d)]
    assert Fraction(low[0]) <= min(corners)
    assert max(corners) <= Fraction(high[0])
    assert high[0] - low[0] <= float(max(corners) - min(corners)) * (1 + 1e-14) + 1e-13 * abs(high[0]) + 1e-300
    low, high = of(product(same=True), ([a], [b]), ([a], [b]))
    squares = [Fraction(x) ** 2 for x in (a, b)]
    least = Fraction(0) if a <= 0 <= b else min(squares)
    assert 0 <= Fraction(low[0]) <= least
    assert max(squares) <= Fraction(high[0])


def test_products_with_infinite_ends() -> None:
    inf = math.inf
    assert of(product(same=False), ([0.0], [1.0]), ([1.0], [inf])) == ([0.0], [inf])  # 0 times a number is 0
    assert of(product(same=False), ([0.0], [0.0]), ([-inf], [inf])) == ([-inf], [inf])  # but not 0 times nothing known
    assert of(product(same=False), ([-1.0], [1.0]), ([-inf], [5.0])) == ([-inf], [inf])
    assert of(product(same=True), ([-inf], [inf]), ([-inf], [inf])) == ([-inf], [inf])


def test_the_maximum_with_something_unknown_is_unknown() -> None:
    node = Max(shape=(2,), parents=(0,), name="m", groups=np.array([[0, 1], [2, -1]]), parent_shape=(3,))
    low, high = of(node, ([0.0, -math.inf, 1.0], [1.0, math.inf, 2.0]))
    assert (low, high) == ([-math.inf, 1.0], [math.inf, 2.0])


def test_nothing_is_claimed_of_what_follows_a_value_outside_its_domain() -> None:
    nodes: list[Node] = [Input(shape=(2,), name="x")]
    for function in (Sqrt(), Sigmoid(), Relu()):
        nodes.append(Activation(shape=(2,), parents=(len(nodes) - 1,), name=function.name, function=function))
    lower, upper = np.array([[-1e-30, 0.0]]), np.array([[1.0, 1.0]])
    bounds = propagate(Network(tuple(nodes)), lower, upper)
    for low, high in bounds[1:]:
        assert low[0].tolist()[0] == -math.inf
        assert high[0].tolist()[0] == math.inf
        assert np.isfinite(low[0, 1])
        assert np.isfinite(high[0, 1])


def test_overflow_ends_in_infinite_bounds_without_a_warning() -> None:
    weight = np.full((2, 2), 1e200)
    layers = [Affine(shape=(2,), parents=(k,), name=f"a{k}", maps=(Dense(weight),)) for k in range(3)]
    bounds = propagate(Network((Input(shape=(2,), name="x"), *layers)), np.full((1, 2), -1.0), np.full((1, 2), 1.0))
    assert (bounds[-1][0] == -np.inf).all()
    assert (bounds[-1][1] == np.inf).all()


def test_a_softmax_stays_between_0_and_1_even_where_its_exponentials_overflow() -> None:
    gaps = Affine(shape=(2,), parents=(0,), name="gaps", maps=(Dense(np.array([[-1.0, 1.0], [1.0, -1.0]])),))
    exponentials = Activation(shape=(2,), parents=(1,), name="exp", function=Exp())
    total = Affine(shape=(2,), parents=(2,), name="sum", maps=(Identity((2,)),), bias=np.ones(2))
    share = Activation(shape=(2,), parents=(3,), name="share", function=Reciprocal())
    network = Network((Input(shape=(2,), name="x"), gaps, exponentials, total, share))
    for reach in (1.0, 1000.0):
        low, high = propagate(network, np.full((1, 2), -reach), np.full((1, 2), reach))[-1]
        assert (low >= 0).all()
        assert (high <= 1.0 + 1e-15).all()

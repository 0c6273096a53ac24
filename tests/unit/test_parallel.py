"""Parallel lines and planes: one slope, valid in high precision whatever the range, near where theory says how near."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.reference_functions import CASES, DIGITS, Case, in_domain, intervals, points_of
from verifkit.analysis.parallel import PARALLEL_RELAXATIONS, parallel_lines, parallel_planes
from verifkit.analysis.ranges import function_bounds
from verifkit.analysis.relaxation import CROWN_RELAXATIONS, crown_relu
from verifkit.evidence import Lines
from verifkit.functions import Exp, LeakyRelu, Power, Relu, Sigmoid, Softplus, Sqrt, Tanh

COUNT = 100
DTYPES = [np.float64, np.float32]
EXTREMES = {np.float64: (1e-320, 1e-160, 1e100, 1e300), np.float32: (1e-44, 1e-20, 1e15, 1e38)}


def crossing(case: Case, lines: Lines, lower: np.ndarray, upper: np.ndarray) -> str | None:
    """The first of two parallel lines that the function crosses at some point of its range, or None."""
    columns = (lower, upper, lines.lower_slope, lines.lower_offset, lines.upper_offset)
    with mpmath.workdps(DIGITS):
        for low, high, slope, below, above in zip(*(c.tolist() for c in columns), strict=True):
            for x in points_of(case, low, high, lower.dtype.type):
                rest = case.exact(mpmath.mpf(x)) - slope * mpmath.mpf(x)
                if not below <= rest <= above:
                    return f"[{low!r}, {high!r}] at {x!r}: {rest} outside [{below!r}, {above!r}], slope {slope!r}"
    return None


def test_the_table_has_every_function_that_has_lines() -> None:
    assert set(PARALLEL_RELAXATIONS) == set(CROWN_RELAXATIONS)


@pytest.mark.parametrize("extreme", [False, True], ids=["usual", "extreme"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_lines_hold_in_high_precision(case: Case, dtype: type, extreme: bool) -> None:
    lower, upper = intervals(case, dtype, COUNT, seed=2, scales=EXTREMES[dtype] if extreme else case.scales)
    lines = parallel_lines(case.cast(lower), lower, upper)
    assert np.array_equal(lines.lower_slope, lines.upper_slope)
    parts = (lines.lower_slope, lines.lower_offset, lines.upper_offset)
    assert all(p.dtype == dtype and p.shape == lower.shape and not np.isnan(p).any() for p in parts)
    inside = in_domain(case, lower, upper)
    known = np.isfinite(lines.lower_offset) & np.isfinite(lines.upper_offset)
    assert not known[~inside].any()
    assert extreme or known[inside].mean() > 0.9
    kept = Lines(*(p[known] for p in (*parts[:2], parts[0], parts[2])))
    assert crossing(case, kept, lower[known], upper[known]) is None


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(CASES),
    st.sampled_from(DTYPES),
    st.floats(-700, 700, width=32),
    st.floats(2.0**-40, 2.0**10, width=32),
    st.booleans(),
)
def test_lines_of_any_range_hold(case: Case, dtype: type, start: float, width: float, at_special: bool) -> None:
    low = float(case.special[int(abs(start)) % len(case.special)]) if at_special else start
    low = abs(low) if case.positive else low
    lower, upper = np.array([low], dtype), np.array([low + width], dtype)
    lines = parallel_lines(case.cast(lower), lower, upper)
    if np.isfinite([lines.lower_offset, lines.upper_offset]).all():
        assert crossing(case, lines, lower, upper) is None


def test_relu_has_the_chord_of_crown_twice() -> None:
    rng = np.random.default_rng(1)
    lower = np.concatenate([rng.normal(size=200), [0.0, 0.0, -1.0, -1e-300]])
    upper = np.concatenate([lower[:200] + np.abs(rng.normal(size=200)), [0.0, 1.0, 0.0, 1e300]])
    ours, crown = parallel_lines(Relu(), lower, upper), crown_relu(Relu(), lower, upper)
    for name in ("upper_slope", "upper_offset", "lower_offset"):
        assert np.array_equal(getattr(ours, name), getattr(crown, name))
    assert np.array_equal(ours.lower_slope, crown.upper_slope)
    stable = (lower >= 0) | (upper <= 0)
    assert not ours.upper_offset[stable].any()
    assert set(ours.lower_slope[stable].tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_lines_are_no_further_apart_than_constants(case: Case) -> None:
    lower, upper = intervals(case, np.float64, 200, seed=3, scales=(0.1, 1.0, 3.0))
    inside = in_domain(case, lower, upper) & (lower > 0 if case.positive else True)
    lower, upper = lower[inside], upper[inside]
    lines = parallel_lines(case.function, lower, upper)
    low, high = function_bounds(case.function, lower, upper)
    slack = 1e-14 * (1.0 + np.abs(high) + np.abs(low))
    assert (lines.upper_offset - lines.lower_offset <= high - low + slack).all()


@pytest.mark.parametrize("function", [Exp(), Softplus(), Sqrt(), Power(2), Power(4)], ids=lambda f: f.name)
def test_convex_and_concave_functions_have_the_best_pair(function: Exp) -> None:
    # The chord and its parallel tangent: on a dense grid no slope does better.
    lower, upper = np.array([0.1, 0.5, 1.0]), np.array([0.2, 2.0, 3.0])
    lines = parallel_lines(function, lower, upper)
    x = np.linspace(lower, upper, 4001)
    for slope in np.linspace(0.0, 120.0, 2401):
        rest = function(x) - slope * x
        apart = rest.max(axis=0) - rest.min(axis=0)
        assert (lines.upper_offset - lines.lower_offset <= apart * (1.0 + 1e-5) + 1e-9).all()


@pytest.mark.parametrize("function", [Sigmoid(), Tanh()], ids=lambda f: f.name)
def test_s_shaped_lines_are_no_further_apart_than_with_the_flatter_end(function: Sigmoid) -> None:
    rng = np.random.default_rng(4)
    lower = rng.normal(size=300) * 3
    upper = lower + np.abs(rng.normal(size=300)) * 4
    lines = parallel_lines(function, lower, upper)
    slope = np.minimum(function.derivative(lower), function.derivative(upper))
    deepz = (function(upper) - slope * upper) - (function(lower) - slope * lower)
    assert (lines.upper_offset - lines.lower_offset <= deepz + 1e-13).all()


def test_leaky_relu_by_hand() -> None:
    # Slope 1/2 left of 0, on [-2, 2]: chord slope 3/4; f(x) - 3x/4 runs from 1/2 at the ends to 0 at 0.
    lines = parallel_lines(LeakyRelu(np.array(0.5)), np.array([-2.0]), np.array([2.0]))
    assert lines.lower_slope[0] == 0.75
    assert lines.lower_offset[0] == pytest.approx(0.0, abs=1e-14)
    assert lines.upper_offset[0] == pytest.approx(0.5, abs=1e-14)


@pytest.mark.parametrize("scale", [1.0, 1e-160, 1e150, 1e-3])
def test_planes_hold_exactly_at_corners(scale: float) -> None:
    rng = np.random.default_rng(5)
    (a, b), (c, d) = (np.sort(rng.normal(size=(2, 60)) * scale, axis=0) for _ in range(2))
    b[:5], d[3:8] = a[:5], c[3:8]
    planes = parallel_planes((a, b), (c, d))
    assert planes.lower_left is planes.upper_left
    assert planes.lower_right is planes.upper_right
    for k in range(60):
        p, q = Fraction(planes.lower_left[k]), Fraction(planes.lower_right[k])
        for x in (Fraction(a[k]), Fraction(b[k])):
            for y in (Fraction(c[k]), Fraction(d[k])):
                rest = x * y - p * x - q * y
                assert Fraction(planes.lower_offset[k]) <= rest <= Fraction(planes.upper_offset[k])
    apart, best = planes.upper_offset - planes.lower_offset, (b - a) * (d - c) / 2
    sizes = np.maximum(abs(a), abs(b)) * np.maximum(abs(c), abs(d))
    assert (apart <= best + 1e-13 * sizes + 1e-300).all()


def test_planes_of_a_square_are_lines() -> None:
    ends = np.array([-1.0]), np.array([3.0])
    planes = parallel_planes(ends, ends, same=True)
    assert planes.lower_left[0] == 2.0  # the chord from (-1, 1) to (3, 9)
    assert planes.lower_right[0] == 0.0
    assert planes.lower_offset[0] == pytest.approx(-1.0, abs=1e-8)
    assert planes.upper_offset[0] == pytest.approx(3.0, abs=1e-13)


def test_nothing_is_claimed_of_infinite_ranges() -> None:
    infinite, one = np.array([-np.inf]), np.array([1.0])
    for function in (Relu(), Sigmoid(), LeakyRelu(np.array(0.1))):
        lines = parallel_lines(function, infinite, one)
        assert not np.isfinite(lines.upper_offset - lines.lower_offset).any()
    planes = parallel_planes((infinite, one), (one, one))
    assert not np.isfinite(planes.upper_offset - planes.lower_offset).any()

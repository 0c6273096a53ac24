"""Lines of every function: valid in high precision whatever the range, tight where theory says so, alike in torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import iv

from tests.unit.reference_functions import CASES, DIGITS, Case, in_domain, intervals, points_of
from verifkit.analysis.parallel import PARALLEL_RELAXATIONS
from verifkit.analysis.relaxation import CROWN_RELAXATIONS, Relaxation, relu_lines
from verifkit.evidence import Lines
from verifkit.functions import (
    Abs,
    Clip,
    Elu,
    LeakyRelu,
    Log,
    Reciprocal,
    Relu,
    ScalarFunction,
    Sigmoid,
    Sign,
    Sqrt,
    Tanh,
)

COUNT = 100
DTYPES = [np.float64, np.float32]
EXTREMES = {np.float64: (1e-320, 1e-160, 1e100, 1e300), np.float32: (1e-44, 1e-20, 1e15, 1e38)}


def lines_of(function: ScalarFunction, lower: np.ndarray, upper: np.ndarray) -> Lines:
    return CROWN_RELAXATIONS[type(function)](function, lower, upper)


def parts(lines: Lines) -> tuple[np.ndarray, ...]:
    return lines.lower_slope, lines.lower_offset, lines.upper_slope, lines.upper_offset


def crossing(case: Case, lines: Lines, lower: np.ndarray, upper: np.ndarray) -> str | None:
    """The first line that the function crosses at some point of its range, or None."""
    with mpmath.workdps(DIGITS):
        for low, high, a, b, c, d in zip(
            lower.tolist(), upper.tolist(), *(p.tolist() for p in parts(lines)), strict=True
        ):
            for x in points_of(case, low, high, lower.dtype.type):
                at = mpmath.mpf(x)
                value = case.exact(at)
                if a * at + b > value or c * at + d < value:
                    return f"[{low!r}, {high!r}] at {x!r}: {value}, below {a!r} x + {b!r}, above {c!r} x + {d!r}"
    return None


@pytest.mark.parametrize("extreme", [False, True], ids=["usual", "extreme"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_lines_hold_in_high_precision(case: Case, dtype: type, extreme: bool) -> None:
    lower, upper = intervals(case, dtype, COUNT, seed=1, scales=EXTREMES[dtype] if extreme else case.scales)
    lines = lines_of(case.cast(lower), lower, upper)
    assert all(p.dtype == dtype and p.shape == lower.shape and not np.isnan(p).any() for p in parts(lines))
    inside = in_domain(case, lower, upper)
    known = np.isfinite(lines.lower_offset) & np.isfinite(lines.upper_offset)
    assert not known[~inside].any()
    assert extreme or known[inside].mean() > 0.9
    kept = Lines(*(p[known] for p in parts(lines)))
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
    lines = lines_of(case.cast(lower), lower, upper)
    if np.isfinite([lines.lower_offset, lines.upper_offset]).all():
        assert crossing(case, lines, lower, upper) is None


def hull(x: np.ndarray, y: np.ndarray, at: float) -> tuple[float, float]:
    """The convex hull of the points (x, y) over `at`: its lower and its upper end."""
    left, right = x <= at, x >= at
    gap = x[right][None] - x[left][:, None]
    share = np.where(gap > 0, (at - x[left][:, None]) / np.where(gap > 0, gap, 1.0), 0.0)
    heights = y[left][:, None] * (1.0 - share) + y[right][None] * share
    return float(heights.min()), float(heights.max())


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in ("relu", "sign")], ids=lambda c: c.name)
def test_lines_support_the_hull_at_the_middle(case: Case) -> None:
    # Least area is least height over the middle, where nothing is nearer than the hull itself.
    lower, upper = intervals(case, np.float64, 60, seed=5, scales=(0.1, 1.0, 3.0))
    kept = in_domain(case, lower, upper) & (upper - lower > 1e-3)
    if case.name in ("sin", "cos"):  # a range with two turns has constants
        turns = [s for s in case.special if abs(case.function(np.array(s))) < 0.5]
        kept &= sum((lower < s) & (s < upper) for s in turns) <= 1
    lower, upper = lower[kept], upper[kept]
    lines = lines_of(case.function, lower, upper)
    for k, (low, high) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True)):
        middle = (low + high) / 2
        inner = [s for s in case.special if low <= s <= high]
        x = np.unique(np.concatenate([np.linspace(low, high, 301), [middle], inner]))
        y = case.function(x)
        below, above = hull(x, y, middle)
        slack = 1e-4 * (y.max() - y.min()) + 1e-13 * (1.0 + np.abs(y).max())
        assert lines.lower_slope[k] * middle + lines.lower_offset[k] >= below - slack
        assert lines.upper_slope[k] * middle + lines.upper_offset[k] <= above + slack


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_gap_between_lines_of_a_smooth_function_shrinks_with_the_square_of_the_width(case: Case) -> None:
    at, ratios = 0.7390851, []
    for width in (0.1, 0.01):
        lower, upper = np.array([at - width]), np.array([at + width])
        lines = lines_of(case.function, lower, upper)
        gap = (lines.upper_slope - lines.lower_slope) * np.array([lower, upper]) + (
            lines.upper_offset - lines.lower_offset
        )
        ratios.append(float(gap.max()) / width**2)
    assert ratios[1] <= 1.2 * ratios[0] + 1e-9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_torch_gives_the_same_lines(case: Case, dtype: type) -> None:
    torch = pytest.importorskip("torch")
    lower, upper = intervals(case, dtype, COUNT, seed=6, scales=(0.1, 1.0, 5.0))
    kept = upper - lower > 1e-2  # narrow ranges have any slope
    lower, upper = lower[kept], upper[kept]
    ours = lines_of(case.cast(lower), lower, upper)
    function = case.function.cast(lambda v: torch.tensor(v, dtype=torch.tensor(lower).dtype))
    theirs = CROWN_RELAXATIONS[type(function)](function, torch.tensor(lower), torch.tensor(upper))
    middle, slack = (lower + upper) / 2, 2e3 * float(np.finfo(dtype).eps)
    a, b, c, d = parts(ours)
    p, q, r, s = (t.numpy() for t in parts(theirs))
    known = np.isfinite(b) & np.isfinite(d)
    np.testing.assert_array_equal(known, np.isfinite(q) & np.isfinite(s))
    for mine, other in ((a * middle + b, p * middle + q), (c * middle + d, r * middle + s)):
        np.testing.assert_allclose(mine[known], other[known], rtol=slack, atol=slack)
    assert torch.tensor(lower).dtype == theirs.lower_slope.dtype


INFINITE = [(-math.inf, math.inf), (-math.inf, 1.0), (1.0, math.inf), (math.nan, 1.0), (-1.0, math.nan)]


@pytest.mark.parametrize("ends", INFINITE)
@pytest.mark.parametrize("case", [c for c in CASES if c.name != "relu"], ids=lambda c: c.name)
def test_a_range_without_ends_has_lines_that_claim_nothing(case: Case, ends: tuple[float, float]) -> None:
    lines = lines_of(case.function, np.array([ends[0]]), np.array([ends[1]]))
    assert lines.lower_offset[0] == -np.inf
    assert lines.upper_offset[0] == np.inf
    assert lines.lower_slope[0] == lines.upper_slope[0] == 0


def test_a_range_outside_the_domain_has_lines_that_claim_nothing() -> None:
    for function in (Sqrt(), Log(), Reciprocal()):
        lines = lines_of(function, np.array([-1.0]), np.array([2.0]))
        assert lines.lower_offset[0] == -np.inf
        assert lines.upper_offset[0] == np.inf


# --- piecewise linear functions ----------------------------------------------------------------------------------


def line_at(function: ScalarFunction, low: float, high: float) -> tuple[float, ...]:
    return tuple(float(p[0]) for p in parts(lines_of(function, np.array([low]), np.array([high]))))


def test_a_range_inside_one_segment_has_the_segment_itself() -> None:
    for function, low, high, slope, offset in (
        (LeakyRelu(np.array(0.1)), -3.0, 0.0, 0.1, 0.0), (LeakyRelu(np.array(-0.7)), -3.0, -0.1, -0.7, 0.0),
        (LeakyRelu(np.array(0.1)), 0.0, 3.0, 1.0, 0.0), (Abs(), -3.0, -1.0, -1.0, 0.0), (Abs(), 0.0, 2.0, 1.0, 0.0),
        (Clip(np.array(-1.0), np.array(1.0)), -1.0, 1.0, 1.0, 0.0),
        (Clip(np.array(-1.0), np.array(1.0)), 1.0, 5.0, 0.0, 1.0), (Sign(), 0.5, 2.0, 0.0, 1.0),
        (Sign(), -2.0, -0.5, 0.0, -1.0), (Sign(), 0.0, 0.0, 0.0, 0.0),
    ):  # fmt: skip
        assert line_at(function, low, high) == (slope, offset, slope, offset)


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.5, 2.0, -1.0])
def test_leaky_lines_choose_as_crown_does(slope: float) -> None:
    # Over the larger part of the range the line on the kink's side is the segment there; the other is the chord.
    for low, high in ((-1.0, 2.0), (-2.0, 1.0)):
        below_slope, _, above_slope, _ = line_at(LeakyRelu(np.array(slope)), low, high)
        segment, chord = (1.0 if high > -low else slope), (high - slope * low) / (high - low)
        assert (below_slope, above_slope) == pytest.approx((segment, chord) if slope < 1 else (chord, segment))


def test_sign_has_slanted_lines_where_they_help() -> None:
    below_slope, below, above_slope, above = line_at(Sign(), -1.0, 4.0)
    assert (below_slope, below) == pytest.approx((0.5, -1.0))
    assert (above_slope, above) == pytest.approx((0.0, 1.0))


def test_elu_lines_use_the_kink() -> None:
    # Where most of the range lies right of 0: x itself is below a convex kink, and above a concave one.
    below_slope, below, _, _ = line_at(Elu(0.5), -0.5, 3.0)
    assert (below_slope, below) == pytest.approx((1.0, 0.0), abs=1e-12)
    _, _, above_slope, above = line_at(Elu(3.0), -0.5, 3.0)
    assert (above_slope, above) == pytest.approx((1.0, 0.0), abs=1e-12)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_relu_lines_hold_exactly_at_both_ends(slope: float) -> None:
    rng = np.random.default_rng(3)
    low, high = -np.exp(rng.normal(0, 20, 2000)), np.exp(rng.normal(0, 20, 2000))
    lines = relu_lines(low, high, np.full(2000, slope))
    for k in range(0, 2000, 7):
        for z in (Fraction(low[k]), Fraction(0), Fraction(high[k])):
            value = max(z, Fraction(0))
            assert Fraction(lines.upper_slope[k]) * z + Fraction(lines.upper_offset[k]) >= value
            assert Fraction(lines.lower_slope[k]) * z + Fraction(lines.lower_offset[k]) <= value


def test_relu_keeps_its_adaptive_slope() -> None:
    low, high = np.array([-1.0, -2.0, -1.0, 0.0, -3.0]), np.array([2.0, 1.0, 1.0, 1.0, 0.0])
    lines = lines_of(Relu(), low, high)
    np.testing.assert_array_equal(lines.lower_slope, [1, 0, 0, 1, 0])
    np.testing.assert_array_equal(lines.lower_offset, np.zeros(5))
    np.testing.assert_allclose(lines.upper_slope, [2 / 3, 1 / 3, 1 / 2, 1, 0])
    np.testing.assert_allclose(lines.upper_offset, [2 / 3, 2 / 3, 1 / 2, 0, 0])


@pytest.mark.parametrize("function", [Sigmoid(), Tanh()])
@pytest.mark.parametrize("ends", [(-50.0, 40.0), (-0.1, 30.0), (-1e4, 2.0), (3.0, 3.0), (20.0, 500.0)])
def test_s_shaped_lines_stay_near_on_wide_ranges(function: ScalarFunction, ends: tuple[float, float]) -> None:
    a, b, c, d = line_at(function, *ends)
    x = np.array(ends)
    least, most = float(function(x[0])), float(function(x[1]))
    assert (a * x + b >= least - (most - least) - 1e-12).all()  # never further out than the range is wide
    assert (c * x + d <= most + (most - least) + 1e-12).all()


# --- sigmoid and tanh: whole ranges, by interval arithmetic ----------------------------------------------------------

Interval = Any
"""An mpmath interval: every operation encloses the exact value."""


def s_value(function: ScalarFunction, x: Interval) -> Interval:
    e = iv.exp(-x if isinstance(function, Sigmoid) else -2 * x)
    return 1 / (1 + e) if isinstance(function, Sigmoid) else (1 - e) / (1 + e)


def tangents(function: ScalarFunction, slope: float) -> list[tuple[Interval, Interval]]:
    """Enclosures (x, f(x)) of the points where f has this slope: s (1 - s) for the sigmoid s, 1 - t^2 for tanh t."""
    if slope <= 0:
        return []
    square = 1 - 4 * iv.mpf(slope) if isinstance(function, Sigmoid) else 1 - iv.mpf(slope)
    if square.b < 0:
        return []
    root = iv.sqrt(iv.mpf([max(square.a, 0), square.b]))
    found = []
    for sign in (-1, 1):
        value = (1 + sign * root) / 2 if isinstance(function, Sigmoid) else sign * root
        odds = value / (1 - value) if isinstance(function, Sigmoid) else (1 + value) / (1 - value)
        found.append((iv.log(odds) if isinstance(function, Sigmoid) else iv.log(odds) / 2, value))
    return found


def proved(function: ScalarFunction, line: tuple[float, float], ends: tuple[float, float], sign: int) -> str | None:
    """None if sign * (f(x) - line(x)) >= 0 on all of the range, else where it is not.

    The difference is least at an end or where f has the line's slope; a dense grid is looked at as well.
    """
    (slope, offset), (low, high) = line, ends
    points = [(iv.mpf(x), s_value(function, iv.mpf(x))) for x in np.unique([low, *np.linspace(low, high, 101), high])]
    points += [(x, y) for x, y in tangents(function, slope) if x.b >= low and x.a <= high]
    for x, y in points:
        gap = sign * (y - slope * x - offset)
        if not gap.a >= 0:
            return f"{function.name} on [{low!r}, {high!r}], line {slope!r} x + {offset!r}, at {x}: {gap}"
    return None


@pytest.mark.parametrize("table", [CROWN_RELAXATIONS, PARALLEL_RELAXATIONS], ids=["crown", "parallel"])
@pytest.mark.parametrize("function", [Sigmoid(), Tanh()], ids=lambda f: f.name)
def test_lines_of_sigmoid_and_tanh_hold_on_the_whole_range(
    function: ScalarFunction, table: Mapping[type[ScalarFunction], Relaxation]
) -> None:
    rng = np.random.default_rng(17)
    middle, width = rng.normal(0, 3, 60), np.exp(rng.uniform(-9, 3, 60))
    lower = np.concatenate([middle - width, [-1e-3, -20.0, 0.0, -5.0, -30.0, -0.5, 12.0, -2.0]])
    upper = np.concatenate([middle + width, [1e-3, 20.0, 5.0, 0.0, 0.1, 30.0, 20.0, -2.0]])
    lines = table[type(function)](function, lower, upper)
    with mpmath.workdps(DIGITS):
        before, iv.dps = iv.dps, DIGITS
        try:
            for k, ends in enumerate(zip(lower.tolist(), upper.tolist(), strict=True)):
                a, b, c, d = (float(part[k]) for part in parts(lines))
                assert proved(function, (a, b), ends, 1) is None
                assert proved(function, (c, d), ends, -1) is None
        finally:
            iv.dps = before


def test_the_proof_finds_a_line_that_crosses_between_the_points_of_the_grid() -> None:
    # The tangent of tanh at 0.5003, raised by 1e-9: it cuts the curve only within 1e-4 of there.
    at = 0.5003
    slope = 1 - math.tanh(at) ** 2
    offset = math.tanh(at) - slope * at
    assert proved(Tanh(), (slope, offset - 1e-9), (0.0, 1.0), -1) is not None
    assert proved(Tanh(), (slope, offset + 1e-12), (0.0, 1.0), -1) is None

"""Privacy mechanisms, sizes and bounds on expected scores, against exact arithmetic and each other."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist

import mpmath
import numpy as np
import pytest

from verifkit.analysis import privacy
from verifkit.analysis.privacy import DELTAS, SIZES, classical_multiplier, gaussian_delta, stays_on_top
from verifkit.errors import OptionError

PAIRS = [(0.501, 0.499), (0.6, 0.4), (0.6, 0.05), (0.9, 0.1), (0.9, 1e-4), (0.999, 0.001), (1 - 1e-9, 1e-9), (0.3, 0.2)]
pairs = pytest.mark.parametrize("pair", PAIRS, ids=str)


def exact_delta(eps: float, size: float) -> mpmath.mpf:
    """Balle & Wang 2018, theorem 8, to fifty digits."""
    with mpmath.workdps(50):
        e, s = mpmath.mpf(eps), mpmath.mpf(size)
        return mpmath.ncdf(s / 2 - e / s) - mpmath.exp(e) * mpmath.ncdf(-s / 2 - e / s)


@pytest.mark.parametrize("size", [1e-3, 0.1, 0.57, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("eps", [0.0, 1e-8, 0.01, 0.5, 1.0, 5.0, 30.0])
def test_the_privacy_curve_of_gaussian_noise_is_rounded_up(eps: float, size: float) -> None:
    found, exact = float(gaussian_delta(eps, size)), exact_delta(eps, size)
    assert exact <= found <= exact + 1e-11


def test_the_curve_is_what_the_worst_set_of_outputs_shows() -> None:
    """P[N(size, 1) in S] - e^eps P[N(0, 1) in S] is largest for the half-line where the likelihood ratio is e^eps."""
    for eps, size in ((0.1, 0.3), (1.0, 0.8), (2.0, 3.0)):
        at = eps / size + size / 2
        normal = NormalDist()
        worst = (1 - normal.cdf(at - size)) - math.exp(eps) * (1 - normal.cdf(at))
        assert float(gaussian_delta(eps, size)) == pytest.approx(worst, abs=1e-11)


def test_the_published_mechanism_is_implied_by_the_exact_one() -> None:
    """At size eps / m(delta) the exact delta is below the stated one for every eps <= 1: at most a third of it."""
    eps = np.linspace(1e-3, 1.0, 200)
    for delta in DELTAS:
        assert (gaussian_delta(eps, eps / classical_multiplier(delta)) - 1e-12 <= delta / 3).all()


@pairs
@pytest.mark.parametrize("mechanism", SIZES)
def test_the_inequality_holds_for_what_is_reported(mechanism: str, pair: tuple[float, float]) -> None:
    """In exact arithmetic, with the mechanism's own privacy at the reported size."""
    lower, upper = pair
    found = SIZES[mechanism](lower, upper)
    assert found.size > 0
    with mpmath.workdps(50):
        e, delta = mpmath.mpf(found.eps), mpmath.mpf(found.delta)
        assert mpmath.mpf(lower) > mpmath.exp(2 * e) * mpmath.mpf(upper) + (1 + mpmath.exp(e)) * delta
        if mechanism == "laplace":
            assert found.size <= found.eps
            assert found.delta == 0
        else:
            assert exact_delta(found.eps, found.size) <= found.delta
        if mechanism == "gaussian":
            assert found.size <= e / mpmath.sqrt(2 * mpmath.log(mpmath.mpf("1.25") / delta))
            assert found.eps <= 1


@pairs
def test_no_gaussian_size_is_beyond_what_is_true_of_half_spaces(pair: tuple[float, float]) -> None:
    """A half-space votes Phi(Phi^-1(p) - size) after a shift: the radius of Cohen et al. for two bounds is exact."""
    lower, upper = pair
    exact = (NormalDist().inv_cdf(lower) - NormalDist().inv_cdf(upper)) / 2
    classical, analytic = SIZES["gaussian"](lower, upper).size, SIZES["analytic"](lower, upper).size
    assert classical < analytic < exact
    assert analytic > 0.4 * exact or lower > 0.99


@pytest.mark.parametrize("mechanism", SIZES)
def test_sizes_grow_with_the_first_bound_and_fall_with_the_second(mechanism: str) -> None:
    """Up to the search's own fineness."""
    size = SIZES[mechanism]
    lowers = [size(lower, 0.05).size for lower in np.linspace(0.1, 0.999, 60)]
    uppers = [size(0.9, upper).size for upper in np.linspace(1e-6, 0.89, 60)]
    assert all(b >= a * (1 - 1e-9) for a, b in pairwise(lowers))
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(uppers))


@pytest.mark.parametrize("mechanism", SIZES)
def test_classes_that_are_not_apart_have_no_size(mechanism: str) -> None:
    for lower, upper in ((0.5, 0.5), (0.4, 0.6), (0.0, 0.0), (math.nan, 0.1), (0.6, math.nan), (0.5, 0.5 - 1e-16)):
        assert SIZES[mechanism](lower, upper).size == 0.0
    assert 0 < SIZES[mechanism](1.0, 0.0).size < math.inf


def test_the_analytic_search_finds_what_a_fine_grid_does() -> None:
    for lower, upper in PAIRS[1:6]:
        found = SIZES["analytic"](lower, upper).size
        eps = np.linspace(0.0, math.log(lower / upper) / 2, 4001)
        allowed = (lower - np.exp(2 * eps) * upper) / (1 + np.exp(eps))
        fits = (gaussian_delta(eps, found * (1 + 1e-6)) <= allowed).any()
        assert not fits
        assert (gaussian_delta(eps, found * (1 - 1e-4)) <= allowed).any()


def test_the_inequality_is_strict() -> None:
    assert not stays_on_top(0.5, 0.5, 0.0, 0.0)
    assert not stays_on_top(0.5, 0.4, 0.0, 0.05)
    assert stays_on_top(0.5, 0.4, 0.0, 0.0499)


def test_scales_of_the_paper() -> None:
    assert privacy.gaussian_scale(0.1, 1.0, 0.05) == pytest.approx(0.1 * math.sqrt(2 * math.log(25)))
    assert privacy.laplace_scale(0.1, 0.5) == 0.2
    for wrong in ((0.0, 1.0, 0.05), (0.1, 1.5, 0.05), (0.1, 1.0, 1.0)):
        with pytest.raises(OptionError, match="needs size > 0"):
            privacy.gaussian_scale(*wrong)
    with pytest.raises(OptionError, match="needs size > 0"):
        privacy.laplace_scale(0.1, 0.0)


# --- bounds on expected scores -------------------------------------------------------------------------------------


def test_vote_bounds_are_those_of_the_binomial_tails() -> None:
    """At eta / K for each of the classes, recomputed term by term."""
    lower, upper = privacy.vote_bounds([700, 250, 50], 0, 0.03)
    with mpmath.workdps(40):

        def tail(p: float, ks: range) -> mpmath.mpf:
            q = mpmath.mpf(p)
            return mpmath.fsum(mpmath.binomial(1000, k) * q**k * (1 - q) ** (1000 - k) for k in ks)

        assert tail(lower, range(700, 1001)) == pytest.approx(0.01, rel=1e-9)
        assert tail(upper, range(251)) == pytest.approx(0.01, rel=1e-9)
        assert tail(lower, range(700, 1001)) <= 0.01
        assert tail(upper, range(251)) <= 0.01


def test_rivals_are_never_above_what_the_first_bound_leaves() -> None:
    lower, upper = privacy.vote_bounds([2000, *[0] * 9], 0, 0.05)
    assert upper == pytest.approx(1 - lower, rel=1e-9)
    assert upper >= 1 - lower
    assert privacy.vote_bounds([10, 10], 0, 0.05)[1] > 0.5


def test_score_widths() -> None:
    sums, squares = np.array([900.0, 100.0]), np.array([815.0, 15.0])
    hoeffding = privacy.score_widths(sums, squares, 1000, 1e-3)  # the second Bernstein term is .019: not this one
    log = math.log(4000)
    second = 7 * log / (3 * 999)
    variance = (815.0 - 810.0) / 999
    assert second < 0.025
    assert hoeffding == pytest.approx([math.sqrt(2 * variance * log / 1000) + second] * 2)
    few = privacy.score_widths(sums / 10, squares / 10, 100, 1e-3)
    assert few == pytest.approx([math.sqrt(math.log(2000) / 200)] * 2)
    assert privacy.score_widths(np.array([1.0, 0.0]), np.array([1.0, 0.0]), 1, 0.05).tolist() == [1.0, 1.0]


def test_mean_bounds_are_the_means_and_their_widths() -> None:
    sums, squares = [900.0, 70.0, 30.0], [815.0, 6.0, 1.0]
    widths = privacy.score_widths(np.array(sums), np.array(squares), 1000, 0.01)
    lower, upper = privacy.mean_bounds(sums, squares, 1000, 0, 0.01)
    assert lower == pytest.approx(0.9 - widths[0])
    assert upper == pytest.approx(0.07 + widths[1])
    assert lower < 0.9 - widths[0]
    assert upper > 0.07 + widths[1]


@pytest.mark.parametrize("scores", ["votes", "softmax"])
@pytest.mark.parametrize(("classes", "eta"), [(2, 0.05), (10, 0.05), (1000, 1e-6)])
def test_the_least_number_of_draws_certifies_and_one_less_does_not(scores: str, classes: int, eta: float) -> None:
    def size(draws: int) -> float:
        counts = [draws, *[0] * (classes - 1)]
        if scores == "votes":
            return SIZES["laplace"](*privacy.vote_bounds(counts, 0, eta)).size
        return SIZES["laplace"](*privacy.mean_bounds(counts, counts, draws, 0, eta)).size

    least = privacy.least_draws(scores, classes, eta)
    assert size(least) > 0
    assert size(least - 1) == 0


def test_softmax() -> None:
    found = privacy.softmax(np.array([[1e4, 0.0, -1e4], [0.0, 0.0, math.log(2)]], dtype=np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[1.0, 0.0, 0.0], [0.25, 0.25, 0.5]], atol=1e-7)

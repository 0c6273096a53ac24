"""Randomized smoothing against the numbers of Cohen, Rosenfeld and Kolter, ICML 2019."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifkit.analysis.confidence import clopper_pearson_lower, clopper_pearson_upper, least_draws
from verifkit.analysis.smoothing.noise import Gaussian
from verifkit.budget import Budget
from verifkit.errors import ModelError, OptionError
from verifkit.evidence import SampleCounts
from verifkit.model import Model
from verifkit.properties import robustness
from verifkit.query import Query, robustness_family
from verifkit.radius import format_radius
from verifkit.registry import create
from verifkit.result import Reason, Subject, Verdict


def linear_model(weights: np.ndarray, bias: float = 0.0) -> Model:
    """Two classes, scores (0, w . x + b): g's exact radius at x is |w . x + b| / |w|, whatever sigma."""

    def call(x: np.ndarray) -> np.ndarray:
        return np.stack([np.zeros(len(x)), x.reshape(len(x), -1) @ weights + bias], axis=1)

    return Model("linear", (weights.size,), (2,), call, "0" * 64, dtype=np.float64)


def test_all_of_the_draws_in_one_class_certify_the_published_radius() -> None:
    always = Model("constant", (3,), (2,), lambda x: np.tile([0.0, 1.0], (len(x), 1)), "0" * 64)
    family = robustness_family(always, (Fraction(0),) * 3, 1, "2")
    radius = create("smoothing", {"sigma": 0.25, "n": 100_000, "alpha": 0.001}).radius(family)
    assert radius.certified is not None
    assert radius.certified.value == pytest.approx(0.952864, abs=5e-7)
    assert format_radius(radius.certified.value, 4) == "0.9528"
    assert format_radius(0.9528999) == "0.9528"


def test_golden_radii() -> None:
    """All n draws in one class, and known probabilities: R / sigma."""
    from verifkit.analysis.smoothing.certificate import Plan

    for n, alpha, expected in ((100_000, 0.001, 3.811457), (100_000, 0.01, 3.910511), (1000, 0.001, 2.463263)):
        lower, rivals = Plan(n, alpha).bounds((0, n), 1)
        assert Gaussian(1.0).radius(lower, rivals) == pytest.approx(expected, abs=1e-6)
    for p, expected in ((0.6, 0.2533471), (0.8, 0.8416212), (0.9, 1.2815516), (0.99, 2.3263479), (0.999, 3.0902323)):
        assert Gaussian(1.0).radius(p) == pytest.approx(expected, abs=1e-6)


def test_bounds_are_never_above_the_exact_ones() -> None:
    """The error of the inverse beta function, by summing the binomial tail in 40 digits, is far below the slack."""
    from scipy.special import betaincinv

    mp = pytest.importorskip("mpmath").mp

    def tail(k: int, n: int, p: float) -> float:
        term, total = mp.binomial(n, k) * p**k * (1 - p) ** (n - k), mp.mpf(0)
        for i in range(k, n + 1):
            total += term
            if term < total * mp.mpf(10) ** -30:
                break
            term *= p / (1 - p) * (n - i) / (i + 1)
        return total

    with mp.workdps(40):
        for n in (10, 100, 10_000, 100_000):
            for alpha in (0.05, 0.001, 0.0005, 1e-6):
                for k in {1, n // 3, n // 2 + 1, 9 * n // 10, n - 1, n}:
                    raw = mp.mpf(float(betaincinv(k, n - k + 1, alpha)))
                    slope = k * mp.binomial(n, k) * raw ** (k - 1) * (1 - raw) ** (n - k)
                    assert abs(tail(k, n, raw) - mp.mpf(alpha)) / slope < mp.mpf("5e-14") * raw
                    assert tail(k, n, mp.mpf(clopper_pearson_lower(k, n, alpha))) < mp.mpf(alpha)
                    assert tail(n - k + 1, n, 1 - mp.mpf(clopper_pearson_upper(k - 1, n, alpha))) < mp.mpf(alpha)


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("n", [20, 1000, 100_000])
def test_no_count_certifies_more_than_all_draws_agreeing(n: int, alpha: float) -> None:
    from scipy.stats import norm

    best = 0.25 * norm.ppf(alpha ** (1 / n))
    for successes in {n, n - 1, n // 2}:
        assert Gaussian(0.25).radius(clopper_pearson_lower(successes, n, alpha)) <= max(best, 0.0)


@pytest.mark.parametrize(
    ("successes", "n", "alpha"), [(0, 10, 0.05), (7, 10, 0.05), (990, 1000, 0.001), (100, 100, 0.01)]
)
def test_clopper_pearson_is_the_exact_binomial_tail(successes: int, n: int, alpha: float) -> None:
    from scipy.stats import binom

    lower = clopper_pearson_lower(successes, n, alpha)
    if successes:
        assert binom.sf(successes - 1, n, lower) <= alpha
        assert binom.sf(successes - 1, n, lower * (1 + 1e-9)) > alpha * (1 - 1e-6)
    else:
        assert lower == 0


def test_a_linear_classifier_is_certified_just_below_its_exact_radius() -> None:
    model = linear_model(np.array([3.0, 4.0]), bias=1.0)  # at 0 the distance to the boundary is 1 / 5
    smoothing = create("smoothing", {"sigma": 0.25, "n": 100_000})
    radius = smoothing.radius(robustness_family(model, (Fraction(0),) * 2, 1, "2"))
    assert radius.certified is not None
    assert 0.95 * 0.2 < radius.certified.value < 0.2
    near, far = (Query(model, robustness(np.zeros(2), 1, r, "2", n_outputs=2)) for r in (0.15, 0.21))
    held = smoothing.verify(near)
    assert held.verdict is Verdict.HOLDS
    assert held.guarantee is not None
    assert held.guarantee.subject is Subject.SMOOTHED
    assert held.guarantee.failure_probability == 0.001
    assert smoothing.verify(far).reason is Reason.INCOMPLETE


def test_selection_draws_are_not_used_again() -> None:
    model = linear_model(np.array([1.0]))
    result = create("smoothing", {"n0": 100, "n": 1000}).radius(robustness_family(model, (Fraction(1),), 1, "2"))
    assert result.certified is not None
    counts = result.certified.result.evidence
    assert isinstance(counts, SampleCounts)
    assert (sum(counts.selection), sum(counts.estimation)) == (100, 1000)


def test_another_class_or_no_class_is_no_certificate() -> None:
    smoothing = create("smoothing", {"n": 1000})
    far = robustness(np.array([1.0]), 0, 0.1, "2", n_outputs=2)
    wrong = smoothing.verify(Query(linear_model(np.array([1.0])), far))
    assert (wrong.verdict, wrong.reason) == (Verdict.UNKNOWN, Reason.INCOMPLETE)
    assert "class 1" in wrong.detail
    tied = smoothing.verify(Query(linear_model(np.array([1.0])), robustness(np.array([0.0]), 1, 0.1, "2", n_outputs=2)))
    assert "abstains" in tied.detail


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sigma": 0}, "sigma > 0"),
        ({"sigma": -1}, "sigma > 0"),
        ({"alpha": 1}, "between 0 and 1"),
        ({"n0": 2000, "n": 1000}, "n0 <= n"),
        ({"n0": 5, "n": 9}, "least n that can is 10"),
    ],
)
def test_options_that_cannot_certify_are_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        create("smoothing", options)


def test_the_least_n_certifies_and_one_less_does_not() -> None:
    n = least_draws(0.001)
    assert Gaussian(1.0).radius(clopper_pearson_lower(n, n, 0.001)) > 0
    assert Gaussian(1.0).radius(clopper_pearson_lower(n - 1, n - 1, 0.001)) == 0


def test_outputs_that_are_no_numbers_are_an_error() -> None:
    broken = Model("broken", (1,), (2,), lambda x: np.full((len(x), 2), np.nan), "0" * 64)
    with pytest.raises(ModelError, match="no finite numbers"):
        create("smoothing").verify(Query(broken, robustness([0.0], 0, 0.1, "2", n_outputs=2)))


def test_time_out_is_a_reason() -> None:
    model = linear_model(np.array([1.0]))
    result = create("smoothing", {"n": 10_000_000}).verify(
        Query(model, robustness([1.0], 1, 0.1, "2", n_outputs=2)), budget=Budget(seconds=0.05)
    )
    assert result.reason is Reason.TIMEOUT

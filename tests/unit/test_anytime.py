"""The confidence sequence against exact integrals, by simulation, and in what it saves."""

from __future__ import annotations

import math
import time

import mpmath
import numpy as np
import pytest
from scipy.stats import binom, norm

from verifkit.analysis.confidence import clopper_pearson_lower
from verifkit.analysis.smoothing.anytime import HORIZON_SHARE, SHAPE, ConfidenceSequence, log_wealth
from verifkit.errors import OptionError

RUNS = 20_000
GRID = (0.5, 0.6, 0.8413, 0.977, 0.9987, 0.99997)


def allowed(alpha: float, runs: int = RUNS) -> int:
    """So many failures of a bound with failure probability alpha have a chance of 1e-6 or more."""
    return int(binom.ppf(1 - 1e-6, runs, alpha))


def counts_at(looks: np.ndarray, p: float, rng: np.random.Generator, runs: int = RUNS) -> np.ndarray:
    """Successes so far at every look, shape (runs, looks)."""
    return np.cumsum(rng.binomial(np.diff(looks, prepend=0), p, size=(runs, len(looks))), axis=1)


@pytest.mark.parametrize("p", GRID)
def test_the_truth_is_rarely_excluded_whenever_one_looks(p: float) -> None:
    """The true p is "exceeded" at some look: that is every false answer, of any p asked about."""
    looks = np.unique(np.concatenate([np.arange(1, 65), np.geomspace(65, 100_000, 60).astype(int)]))
    wealth = log_wealth(counts_at(looks, p, np.random.default_rng(1)), looks, p).max(axis=1)
    for alpha in (0.05, 0.001):
        assert np.count_nonzero(wealth >= -math.log(alpha)) <= allowed(alpha)


def test_a_look_after_every_draw_is_paid_for() -> None:
    looks = np.arange(1, 513)
    wealth = log_wealth(counts_at(looks, 0.84, np.random.default_rng(2), 4000), looks, 0.84).max(axis=1)
    for alpha in (0.05, 0.01):
        assert np.count_nonzero(wealth >= -math.log(alpha)) <= allowed(alpha, 4000)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_the_planned_last_look_is_paid_for(alpha: float) -> None:
    looks, p = np.arange(256, 5121, 256), 0.9
    counts = counts_at(looks, p, np.random.default_rng(3))
    shown = log_wealth(counts, looks, p).max(axis=1) >= -math.log(alpha * (1 - HORIZON_SHARE))
    least = next(k for k in range(4608, 5121) if exceeded_at_the_end(alpha, k, p))
    wrong = np.count_nonzero(shown | (counts[:, -1] >= least))
    assert np.count_nonzero(counts[:, -1] >= least) > 0
    assert wrong <= allowed(alpha)


def exceeded_at_the_end(alpha: float, successes: int, p: float) -> bool:
    sequence = ConfidenceSequence(alpha, horizon=5120)
    sequence.update(successes, 5120)
    return sequence.exceeds(p)


@pytest.mark.parametrize(
    ("successes", "draws", "p"), [(40, 40, 0.84), (990, 1000, 0.977), (60, 100, 0.5), (3, 4, 0.01), (9000, 10000, 0.89)]
)
def test_the_wealth_is_the_integral_it_says(successes: int, draws: int, p: float) -> None:
    failures = draws - successes
    with mpmath.workdps(40):  # by u = (1 - q)^b, which is uniform under the prior
        null, b = mpmath.mpf(p), mpmath.mpf(SHAPE)

        def ratio(u: mpmath.mpf) -> mpmath.mpf:
            rest = u ** (1 / b)
            return ((1 - rest) / null) ** successes * (rest / (1 - null)) ** failures

        end = (1 - null) ** b
        peak = (mpmath.mpf(failures) / draws) ** b
        spread = peak / mpmath.sqrt(draws) + mpmath.mpf(1) / draws
        points = [u for u in (peak + k * spread for k in (-8, -3, 0, 3, 8)) if 0 < u < end]
        exact = float(mpmath.log(mpmath.quad(ratio, [0, *points, end]) / end))
    found = float(log_wealth(successes, draws, p))
    assert found <= exact + 1e-12
    assert found == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.001, 1e-9])
def test_what_is_shown_of_p_is_shown_of_everything_below(alpha: float) -> None:
    rng = np.random.default_rng(4)
    for draws in (1, 7, 60, 256, 5000, 100_000):
        for successes in {draws, draws - 1, int(rng.integers(0, draws + 1)), draws // 2}:
            at = np.linspace(1e-6, 1 - 1e-6, 4001)
            at = at[at * draws < successes]
            shown = log_wealth(successes, draws, at) >= -math.log(alpha)
            assert not (shown[1:] & ~shown[:-1]).any()


def test_the_lower_bound_is_the_largest_value_exceeded() -> None:
    for successes, draws in ((40, 40), (990, 1000), (0, 10), (1, 1), (77_001, 100_000)):
        sequence = ConfidenceSequence(0.001)
        sequence.update(successes, draws)
        lower = sequence.lower()
        assert lower < clopper_pearson_lower(successes, draws, 0.001) or lower == 0
        again = ConfidenceSequence(0.001)
        again.update(successes, draws)
        assert lower == 0 or again.exceeds(lower)
        assert not again.exceeds(lower + 1e-6)


def test_what_was_shown_stands() -> None:
    sequence = ConfidenceSequence(0.05)
    sequence.update(100, 100)
    first = sequence.lower()
    sequence.update(0, 100)
    assert sequence.lower() == first > 0.9
    assert sequence.exceeds(first / 2)
    assert not sequence.exceeds(first + 1e-3)
    assert (sequence.successes, sequence.draws) == (100, 200)


def test_a_planned_last_look_is_narrower_there_and_only_there() -> None:
    plain, planned, passed = (ConfidenceSequence(0.001, horizon=h) for h in (None, 10_000, 10_000))
    plain.update(9000, 10_000)
    planned.update(4500, 5000)
    planned.update(4500, 5000)
    passed.update(9000, 10_001)
    assert passed.lower() < plain.lower() < planned.lower()
    assert planned.lower() == clopper_pearson_lower(9000, 10_000, 0.00025)


def test_it_refutes_as_it_shows() -> None:
    sequence = ConfidenceSequence(0.001)
    sequence.update(500, 1000)
    assert sequence.below(0.6)
    assert not sequence.below(0.5)
    assert not sequence.below(0.51)
    assert sequence.exceeds(0.4)
    assert not sequence.exceeds(0.5)
    assert not sequence.below(0.0)
    assert sequence.below(1.5)
    assert sequence.exceeds(-0.1)
    assert not sequence.exceeds(1.0)


def test_without_draws_nothing_is_shown() -> None:
    sequence = ConfidenceSequence(0.001, horizon=100)
    sequence.update(0, 0)
    assert sequence.lower() == 0
    assert not sequence.exceeds(0.0)
    assert not sequence.below(0.99)


@pytest.mark.parametrize(
    ("margin", "most"), [(math.inf, 60), (1.5, 110), (1.0, 350), (0.5, 500)]
)  # beyond the radius asked for, in sigma
def test_a_clear_radius_query_takes_tens_to_hundreds_of_draws(margin: float, most: int) -> None:
    """Radius 1 sigma at alpha .001; the true radius is beyond it by `margin` sigma (inf: all draws agree)."""
    asked, truth = float(norm.cdf(1.0)), float(norm.cdf(1.0 + margin))
    rng, took = np.random.default_rng(5), []
    for _ in range(50):
        sequence = ConfidenceSequence(0.001)
        draws = rng.random(4000) < truth
        while not sequence.exceeds(asked) and sequence.draws < 4000:
            sequence.update(int(draws[sequence.draws]), 1)
        took.append(sequence.draws)
    assert np.mean(took) <= most


def test_a_look_costs_microseconds() -> None:
    sequence = ConfidenceSequence(0.001)
    sequence.update(890, 1000)
    sequence.exceeds(0.88)  # imports
    start = time.process_time()
    for _ in range(100):
        sequence.exceeds(0.88)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, math.nan])
def test_alpha_lies_between_0_and_1(alpha: float) -> None:
    with pytest.raises(OptionError, match="between 0 and 1"):
        ConfidenceSequence(alpha)
    with pytest.raises(OptionError, match="between 0 and 1"):
        ConfidenceSequence(0.1, refuting=alpha)


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(OptionError, match="make no proportion"):
        ConfidenceSequence(0.1).update(3, 2)
    with pytest.raises(OptionError, match="one draw or more"):
        ConfidenceSequence(0.1, horizon=0)

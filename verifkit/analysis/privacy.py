"""What differential privacy says of a classifier whose scores are computed under noise.

A mechanism that is (eps, delta)-private for changes of its input up to some size has scores, in [0, 1], that obey
E A_i(x) <= e^eps E A_i(x') + delta. So class k stays on top for every such change where

    E A_k(x) > e^(2 eps) max over i != k of E A_i(x) + (1 + e^eps) delta.

Here are the mechanisms, the bounds on expectations that hold together with probability 1 - eta, and the search for the
largest size. Sizes are those for noise of scale 1 at sensitivity 1: noise of scale s D, where D bounds the sensitivity
of what comes before the noise, certifies changes of s times that size. All of them are rounded down.

Sources: Lecuyer et al., "Certified robustness to adversarial examples with differential privacy", IEEE S&P 2019
(propositions 1 and 2, section III); Balle & Wang, "Improving the Gaussian mechanism for differential privacy:
analytical calibration and optimal denoising", ICML 2018 (theorem 8); Maurer & Pontil, "Empirical Bernstein bounds and
sample variance penalization", COLT 2009 (theorem 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from verifkit.analysis import confidence
from verifkit.analysis.confidence import clopper_pearson_lower, clopper_pearson_upper
from verifkit.errors import OptionError
from verifkit.evidence import PrivacyCounts

LARGEST_EPS = 30.0
"""Of the searches: beyond it nothing is gained that counts could show."""
DELTAS = np.concatenate([np.geomspace(1e-8, 1e-3, 101)[:-1], np.arange(1, 300) / 1000.0])
"""Of the search under the Gaussian mechanism as published: the paper's steps of .001, and smaller ones for classes that
are hardly apart."""
RELEASED_ETA = 0.05
"""What the released code takes, whatever it is told."""
ROUNDING = 1e-13
"""Relative: above what the closed forms here lose."""
_TAIL_ERROR = 1e-12
"""Absolute: above the error of `gaussian_delta`'s two tails."""


@dataclass(frozen=True)
class PrivateSize:
    """A certified size of change, for noise of scale 1 at sensitivity 1, and the (eps, delta) that it was shown with.

    A size of 0 is no certificate: the classes were not told apart.
    """

    size: float
    eps: float
    delta: float


NOTHING = PrivateSize(0.0, 0.0, 0.0)


def classical_multiplier(delta: float | np.ndarray) -> np.ndarray:
    """m(delta) = sqrt(2 ln(1.25 / delta)): noise N(0, (m size / eps)^2) is (eps, delta)-private for eps <= 1."""
    return np.asarray(np.sqrt(2.0 * np.log(1.25 / np.asarray(delta, dtype=np.float64))))


def gaussian_scale(size: float, eps: float, delta: float) -> float:
    """The standard deviation, at sensitivity 1, that the paper gives for changes up to `size` (its L)."""
    if not (size > 0 and 0 < eps <= 1 and 0 < delta < 1):
        raise OptionError(f"Gaussian noise needs size > 0, eps in (0, 1], delta in (0, 1); not {size}, {eps}, {delta}")
    return float(classical_multiplier(delta)) * size / eps


def laplace_scale(size: float, eps: float) -> float:
    """The scale of Laplace noise, at sensitivity 1, that is (eps, 0)-private for l1 changes up to `size`."""
    if not (size > 0 and eps > 0):
        raise OptionError(f"Laplace noise needs size > 0 and eps > 0, not {size}, {eps}")
    return size / eps


def gaussian_delta(eps: float | np.ndarray, size: float | np.ndarray) -> np.ndarray:
    """The least delta at which N(0, 1) noise is (eps, delta)-private for changes of this l2 size, rounded up.

    Phi(size / 2 - eps / size) - e^eps Phi(-size / 2 - eps / size); size > 0.
    """
    from scipy.special import log_ndtr, ndtr

    ratio = np.asarray(eps / size)
    exact = ndtr(size / 2.0 - ratio) - np.exp(eps + log_ndtr(-size / 2.0 - ratio))
    return np.asarray(np.clip(exact, 0.0, None) + _TAIL_ERROR)


def stays_on_top(lower: float, upper: float, eps: float, delta: float) -> bool:
    """Whether the theorem's inequality holds, with room for rounding."""
    return lower > (math.exp(2.0 * eps) * upper + (1.0 + math.exp(eps)) * delta) * (1.0 + ROUNDING / 10.0)


# --- the largest certified size ----------------------------------------------------------------------------------


def classical_size(lower: float, upper: float) -> PrivateSize:
    """The largest size under the Gaussian mechanism as published: the best of `DELTAS`, each with its largest eps <= 1.

    lower, upper: bounds on the expected score of the class on top and of every other, under the noise.
    """
    if not _apart(lower, upper):
        return NOTHING
    eps = _classical_eps(lower, upper, DELTAS)
    best = int(np.argmax(eps / classical_multiplier(DELTAS)))
    found, delta = float(eps[best]), float(DELTAS[best])
    return _checked(lower, upper, found / float(classical_multiplier(delta)), found, delta)


def analytic_size(lower: float, upper: float) -> PrivateSize:
    """The largest size under the exact privacy curve of Gaussian noise, at the best single (eps, delta)."""
    if not _apart(lower, upper):
        return NOTHING
    widest = LARGEST_EPS if upper <= 0 else min(LARGEST_EPS, math.log(lower / upper) / 2.0)
    eps = _maximiser(lambda e: _analytic_sizes(lower, upper, e), 0.0, widest)
    size = float(_analytic_sizes(lower, upper, np.array([eps]))[0])
    return NOTHING if size <= 0 else _checked(lower, upper, size, eps, float(gaussian_delta(eps, size)))


def laplace_size(lower: float, upper: float) -> PrivateSize:
    """The largest l1 size under Laplace noise: ln(lower / upper) / 2, as delta is 0."""
    if not _apart(lower, upper):
        return NOTHING
    widest = math.log(lower / upper) / 2.0 if upper > 0 else math.inf
    eps = min(widest, LARGEST_EPS) * (1.0 - ROUNDING) - ROUNDING
    return _checked(lower, upper, eps, eps, 0.0)


SIZES: dict[str, Callable[[float, float], PrivateSize]] = {
    "gaussian": classical_size,
    "analytic": analytic_size,
    "laplace": laplace_size,
}
"""By the mechanism's name."""


def _apart(lower: float, upper: float) -> bool:
    return 0.0 <= upper < lower <= 1.0


def _checked(lower: float, upper: float, size: float, eps: float, delta: float) -> PrivateSize:
    """The size, rounded down, once the inequality itself has been tried on the numbers that are reported."""
    if eps < 0 or size <= 0 or not stays_on_top(lower, upper, eps, delta):
        return NOTHING
    return PrivateSize(size * (1.0 - ROUNDING), eps, delta)


def _classical_eps(lower: float, upper: float, delta: np.ndarray) -> np.ndarray:
    """For each delta the largest eps <= 1 that the inequality, a quadratic in e^eps, allows; 0 where there is none."""
    room = np.clip(lower * (1.0 - 2.0 * ROUNDING) - delta, 0.0, None)
    root = 2.0 * room / (delta + np.sqrt(delta * delta + 4.0 * upper * room))
    found: np.ndarray = np.clip(np.log(np.clip(root, 1.0, None)) - ROUNDING, 0.0, 1.0)
    return found


def _analytic_sizes(lower: float, upper: float, eps: np.ndarray) -> np.ndarray:
    """For each eps the largest size whose delta the inequality allows, from below."""
    allowed = (lower * (1.0 - 2.0 * ROUNDING) - np.exp(2.0 * eps) * upper) / (1.0 + np.exp(eps))
    low, high = np.zeros_like(eps), np.full_like(eps, 64.0)
    for _ in range(64):
        middle = (low + high) / 2.0
        fits = gaussian_delta(eps, middle) <= allowed
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return low


def _maximiser(value: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> float:
    """Where `value` is largest in [low, high], by grids around the best place so far; any place is safe to use."""
    for _ in range(8):
        grid = np.linspace(low, high, 129)
        best = int(np.argmax(value(grid)))
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 128)])
        at = float(grid[best])
    return at


# --- bounds on expected scores -------------------------------------------------------------------------------------


def vote_bounds(counts: Sequence[int], chosen: int, eta: float) -> tuple[float, float]:
    """Bounds on how often the noise votes for the chosen class, from below, and for any other, from above.

    They hold together with probability 1 - eta, if `chosen` does not depend on these draws: each of the K classes has
    one Clopper-Pearson bound at eta / K. The second is never above 1 minus the first.
    """
    draws, level = sum(counts), eta / len(counts)
    lower = clopper_pearson_lower(counts[chosen], draws, level)
    rivals = [clopper_pearson_upper(c, draws, level) for k, c in enumerate(counts) if k != chosen]
    return lower, _rival(lower, max(rivals, default=0.0))


def mean_bounds(
    sums: Sequence[float], squares: Sequence[float], draws: int, chosen: int, eta: float
) -> tuple[float, float]:
    """As `vote_bounds`, of scores in [0, 1] that add up to 1: from their sums and sums of squares over the draws.

    Each class has one bound at eta / K: Hoeffding's, or, for as many draws as bring its second term down to .025, the
    empirical Bernstein bound. Which of them it is does not depend on the draws.
    """
    widths = score_widths(np.asarray(sums), np.asarray(squares), draws, eta)
    means = np.asarray(sums) / draws
    slack = 8.0 * draws * np.finfo(np.float64).eps  # of sums in any order; scores are at most 1
    lower = max(0.0, float(means[chosen] - widths[chosen]) - slack)
    rivals = np.delete(means + widths, chosen)
    return lower, _rival(lower, min(1.0, float(rivals.max(initial=0.0)) + slack))


def score_widths(sums: np.ndarray, squares: np.ndarray, draws: int, eta: float) -> np.ndarray:
    """How far each of K expected scores may lie from its mean, on either side, at eta / K each; (K,)."""
    if draws < 2:
        return np.ones(sums.shape)
    log = math.log(2.0 * sums.size / eta)
    second = 7.0 * log / (3.0 * (draws - 1))
    if second > 0.025:
        return np.full(sums.shape, math.sqrt(math.log(sums.size / eta) / (2.0 * draws)) * (1.0 + ROUNDING))
    slack = 8.0 * draws * draws * np.finfo(np.float64).eps / (draws - 1)
    variance = np.clip((squares - sums * sums / draws) / (draws - 1), 0.0, None) + slack
    return np.asarray((np.sqrt(2.0 * variance * log / draws) + second) * (1.0 + ROUNDING))


def least_draws(scores: str, classes: int, eta: float) -> int:
    """The least number of draws that can certify: a score of 1 in every draw must be shown to be above 1/2."""
    if scores == "votes":
        return confidence.least_draws(eta / classes)
    return max(2, math.floor(2.0 * math.log(classes / eta)) + 1)  # Hoeffding's width is below 1/2


def softmax(outputs: np.ndarray) -> np.ndarray:
    """Scores (B, K) in [0, 1] that add up to 1, in float64."""
    wide = np.asarray(outputs, dtype=np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _rival(lower: float, upper: float) -> float:
    """All scores add up to 1, so that no other one is above 1 - lower."""
    return min(upper, 1.0 - lower * (1.0 - ROUNDING))


# --- from counts to a certificate ------------------------------------------------------------------------------------


def certified(
    mechanism: str, estimation: Sequence[float], squares: Sequence[float], draws: int, chosen: int, eta: float
) -> tuple[float, float, PrivateSize]:
    """Bounds on the chosen class's expected score and on every other, and the size that follows; no squares: votes."""
    if squares:
        lower, upper = mean_bounds(estimation, squares, draws, chosen, eta)
    else:
        lower, upper = vote_bounds([int(votes) for votes in estimation], chosen, eta)
    return lower, upper, SIZES[mechanism](lower, upper)


def radius_of(size: PrivateSize, scale: float, center_error: float) -> float:
    """The certified radius around the center as asked, rounded down, for noise of this scale at sensitivity 1."""
    reach = scale * size.size * (1.0 - ROUNDING)
    return reach if center_error == 0 else max(0.0, float(np.nextafter(reach - center_error, -1.0)))


def recompute(counts: PrivacyCounts) -> tuple[float, float, float]:
    """(lower, upper, radius) as they follow from the rest of the record."""
    rules = released if counts.released else certified
    lower, upper, size = rules(
        counts.mechanism, counts.estimation, counts.squares, counts.draws, counts.chosen, counts.eta
    )
    return lower, upper, radius_of(size, counts.scale, counts.center_error)


# --- the released code ---------------------------------------------------------------------------------------------


def released_vote_bounds(counts: Sequence[int]) -> tuple[float, float]:
    """The bounds of the released code: its level is .05 / K whatever eta is, and the class on top is that of the very
    draws that bound it. What it calls a chance of 95 % is one of 90 % by a plain union bound.
    """
    draws, level = sum(counts), RELEASED_ETA / len(counts)
    top, second = sorted(counts, reverse=True)[:2]
    return clopper_pearson_lower(top, draws, level), clopper_pearson_upper(second, draws, level)


def released_gaussian_size(lower: float, upper: float) -> PrivateSize:
    """The search of the released code: delta in steps of .001 up to .299, eps by bisection to a width of .001."""
    best = NOTHING
    for delta in np.arange(1, 300) / 1000.0:
        low, high = 0.0, 1.0
        while high - low > 1e-3:
            middle = (low + high) / 2.0
            kept = lower >= math.exp(2.0 * middle) * upper + (1.0 + math.exp(middle)) * delta
            low, high = (middle, high) if kept else (low, middle)
        found = PrivateSize(low / float(classical_multiplier(delta)), low, float(delta))
        best = max(best, found, key=lambda f: f.size)
    return best


def released_laplace_size(lower: float, upper: float) -> PrivateSize:
    """ln(lower / upper) / 2, and 0 where that is negative."""
    size = max(0.0, math.log(lower / upper) / 2.0) if lower > 0 else 0.0
    return PrivateSize(size, size, 0.0)


def released(
    mechanism: str, estimation: Sequence[float], squares: Sequence[float], draws: int, chosen: int, eta: float
) -> tuple[float, float, PrivateSize]:
    """As `certified`, by the released code's rules for votes: no certificate."""
    lower, upper = released_vote_bounds([int(votes) for votes in estimation])
    search = released_laplace_size if mechanism == "laplace" else released_gaussian_size
    return lower, upper, search(lower, upper)

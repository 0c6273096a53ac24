"""From counts to bounds on class probabilities, and from those to a radius: everything follows from the record.

`bounds_of` and `radius_of` are functions of a `SampleCounts`' fields alone; `recompute` is what a checker calls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from verifkit.analysis.confidence import clopper_pearson_lower, clopper_pearson_upper, least_draws
from verifkit.analysis.smoothing.anytime import HORIZON_SHARE, ConfidenceSequence
from verifkit.analysis.smoothing.noise import Ablation, Gaussian, Laplace, Noise, RoundedGaussian, Uniform
from verifkit.errors import OptionError
from verifkit.evidence import SampleCounts

Mode = Literal["fixed", "anytime"]

GIVE_UP = 0.001
"""Chance, at each look, of giving up on a probability that would have led to a certificate after n draws."""

FAMILIES: tuple[type[Noise], ...] = (Gaussian, Laplace, Uniform, Ablation, RoundedGaussian)


@dataclass(frozen=True)
class Plan:
    """How the draws were planned, fixed before any. n: their number, in mode "anytime" the most there can be.

    mode: "fixed" looks once, after n draws; "anytime" whenever it likes, and may stop there. runner_up: separate
    bounds, alpha / 2 for the chosen class and alpha / (2 (K - 1)) for every other, instead of one bound at alpha with
    1 - p_A for the others.
    """

    n: int
    alpha: float
    mode: Mode = "fixed"
    runner_up: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise OptionError(f"smoothing needs alpha strictly between 0 and 1, not {self.alpha}")
        if self.mode not in ("fixed", "anytime"):
            raise OptionError(f"smoothing's mode is 'fixed' or 'anytime', not {self.mode!r}")
        if not self._certifies(self.n):
            least = least_draws(self.alpha)  # no plan does better than one bound at all of alpha
            while not self._certifies(least):
                least += 1
            raise OptionError(
                f"n = {self.n} draws can never certify at alpha = {self.alpha:g}: the least n that can is {least}"
            )

    def _certifies(self, n: int) -> bool:
        """Whether n draws of one class are enough. Then the others' bound is 1 - lower at most."""
        alpha = self.alpha / 2 if self.runner_up else self.alpha
        if self.mode == "fixed":
            return n >= least_draws(alpha)
        sequence = ConfidenceSequence(alpha, horizon=n)
        sequence.update(n, n)
        return sequence.exceeds(0.5)

    def bounds(self, counts: Sequence[int], chosen: int) -> tuple[float, float]:
        """(lower bound on the chosen class's probability, upper bound on every other class's), wrong together with
        probability at most alpha; counts: of the draws made so far, per class."""
        draws, wins = int(sum(counts)), int(counts[chosen])
        if not self.runner_up:
            lower = self._lower(wins, draws, self.alpha)
            return lower, 1.0 - lower
        rivals = [int(c) for k, c in enumerate(counts) if k != chosen]
        lower = self._lower(wins, draws, self.alpha / 2)
        if not rivals:
            return lower, 0.0
        upper = self._upper(max(rivals), draws, self.alpha / (2 * len(rivals)))
        return lower, min(upper, math.nextafter(1.0 - lower, 2.0))  # both hold wherever all the bounds do

    def hopeless(self, counts: Sequence[int], chosen: int, noise: Noise, radius: Fraction) -> bool:
        """Whether going on is pointless, as far as the draws show: `radius` is out of reach of the true probabilities,
        or of the plan, which ends after n draws. Claims nothing: giving up in error loses an answer, no guarantee."""
        draws, wins = int(sum(counts)), int(counts[chosen])
        if not self.runner_up:
            needed = _least_reaching(self.n, self.alpha * HORIZON_SHARE, noise, radius)
            return needed > self.n or clopper_pearson_upper(wins, draws, GIVE_UP) < needed / self.n
        best = _sequence_upper(wins, draws, self.alpha)
        rival = ConfidenceSequence(self.alpha)
        rival.update(max((int(c) for k, c in enumerate(counts) if k != chosen), default=0), draws)
        least = min(rival.lower(), 1.0 - best)
        return best <= least or noise.radius(best, least) < radius

    def _lower(self, wins: int, draws: int, alpha: float) -> float:
        if self.mode == "fixed":
            return clopper_pearson_lower(wins, draws, alpha)
        sequence = ConfidenceSequence(alpha, horizon=self.n)
        sequence.update(wins, draws)
        return sequence.lower()

    def _upper(self, wins: int, draws: int, alpha: float) -> float:
        if self.mode == "fixed":
            return clopper_pearson_upper(wins, draws, alpha)
        return _sequence_upper(wins, draws, alpha, self.n)


@lru_cache(maxsize=1024)
def _least_reaching(n: int, alpha: float, noise: Noise, radius: Fraction) -> int:
    """The least count of n draws whose Clopper-Pearson bound certifies `radius`; n + 1 where none does."""
    low, high = 0, n + 1
    while high - low > 1:
        middle = (low + high) // 2
        lower = clopper_pearson_lower(middle, n, alpha)
        reached = lower > 0.5 and noise.radius(lower) >= radius
        low, high = (low, middle) if reached else (middle, high)
    return high


def _sequence_upper(wins: int, draws: int, alpha: float, horizon: int | None = None) -> float:
    sequence = ConfidenceSequence(alpha, horizon=horizon)
    sequence.update(draws - wins, draws)
    return min(1.0, math.nextafter(1.0 - sequence.lower(), 2.0))


def noise_named(name: str, parameters: Sequence[tuple[str, float]]) -> Noise:
    """The noise family of a record."""
    for family in FAMILIES:
        if family.name == name:
            return family(**dict(parameters))
    raise OptionError(f"no noise is called '{name}'; there are: {', '.join(f.name for f in FAMILIES)}")


def radius_of(noise: Noise, lower: float, rivals: float, center_error: float) -> float:
    """The radius around the asked center: the draws were made around one that is up to `center_error` away."""
    reach = noise.radius(lower, rivals)
    return max(0.0, math.nextafter(reach - center_error, -1.0)) if center_error else reach


def recompute(counts: SampleCounts) -> tuple[float, float, float]:
    """(lower, rivals, radius) as they follow from the counts, the plan and the noise in the record."""
    plan = Plan(counts.n, counts.alpha, counts.mode, counts.runner_up)
    lower, rivals = plan.bounds(counts.estimation, counts.chosen)
    noise = noise_named(counts.noise, counts.parameters)
    return lower, rivals, radius_of(noise, lower, rivals, counts.center_error)


@dataclass(frozen=True)
class Prediction:
    """label: the smoothed classifier's answer, None where it abstains. p_value: of "the two classes with the highest
    counts are equally likely". counts: per class."""

    label: int | None
    p_value: float
    counts: tuple[int, ...]


def predicted(counts: Sequence[int], alpha: float) -> Prediction:
    """PREDICT: the class with the highest count, if the two-sided binomial test at 1/2 of the two highest rejects at
    alpha; then it is g's answer but for a chance of at most alpha (Cohen et al. 2019, proposition 2; Hung and Fithian
    2019)."""
    from scipy.special import betainc

    order = sorted(range(len(counts)), key=lambda k: -counts[k])
    first, second = [*sorted((int(c) for c in counts), reverse=True), 0][:2]
    tail = float(betainc(first, second + 1, 0.5)) if first else 1.0  # P[Bin(first + second, 1/2) >= first]
    p_value = min(1.0, 2.0 * tail * (1.0 + 1e-12))
    return Prediction(order[0] if p_value <= alpha else None, p_value, tuple(int(c) for c in counts))

"""A confidence sequence for a probability: bounds that hold at every moment of a run, whenever it is stopped.

Method: a mixture of likelihood ratios, which is a martingale at the null hypothesis (Robbins, "Statistical methods
related to the law of the iterated logarithm", Annals of Mathematical Statistics 41, 1970), judged by the inequality of
Ville: it ever reaches 1/alpha with probability at most alpha.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from verifkit.analysis.confidence import clopper_pearson_lower
from verifkit.errors import OptionError

SHAPE = 0.5
"""b of the prior Beta(1, b) over the probabilities above the one tested. 1/2 leans towards 1, where votes of a robust
classifier lie: with all draws in one class it needs 20 % more draws than a plan of fixed length could, uniform 33 %."""

HORIZON_SHARE = 0.25
"""Share of alpha that a planned last look takes, where one is planned."""


def log_wealth(successes: Any, draws: Any, p: Any) -> Any:
    """log M of the test of "the probability is at most p": P[M ever >= 1/alpha] <= alpha where that is true.

    M is the mean, over q ~ Beta(1, b) restricted to q > p, of the likelihood of the draws under q over that under p;
    with S successes and F failures that is b B(S + 1, F + b) I_{1-p}(F + b, S + 1) / (p^S (1 - p)^(F + b)). Every ratio
    with q > p has mean at most 1 for each next draw whose probability is at most p, so M is a supermartingale from 1.
    Lowered by more than the rounding of its terms. Broadcasts; 0 < p < 1.
    """
    from scipy.special import betainc, betaln  # 0.3 s to import: only where a probability is bounded

    wins, losses = np.asarray(successes, dtype=float), np.asarray(draws, dtype=float) - successes + SHAPE
    total = wins + losses + 1.0
    with np.errstate(divide="ignore"):  # betainc underflows far below p: no evidence, and log M = -inf says so
        mass = np.log(betainc(losses, wins + 1.0, 1.0 - np.asarray(p, dtype=float)))
    log_p, log_rest = np.log(p), np.log1p(-np.asarray(p, dtype=float))
    value = math.log(SHAPE) + betaln(wins + 1.0, losses) + mass - wins * log_p - losses * log_rest
    size = total * (1.0 + np.log(total)) - wins * log_p - losses * log_rest  # of the terms, log-gammas included
    return value - 1e-9 - 1e-14 * size


class ConfidenceSequence:
    """Bounds on the probability p of success of independent draws, looked at as often as one likes.

    With probability 1 - alpha no bound ever shown is wrong, at no time and for no value asked about. One test decides
    for all of them: wherever M >= 1/alpha >= e^b, M decreases in the tested probability (its likelihood ratios fall
    faster than the prior's normalisation grows, since then S - n p >= p log(1/alpha)), so a wrong answer for any value
    is also a wrong answer for the true one.

    horizon: a number of draws fixed beforehand at which the run ends if nothing else ended it. A quarter of alpha then
    goes to one Clopper-Pearson bound at exactly that number, which is narrower there than the sequence.
    refuting: the error budget of `below`, which claims nothing: it says when going on is pointless. alpha by default.
    """

    def __init__(self, alpha: float, *, horizon: int | None = None, refuting: float | None = None) -> None:
        for value in (alpha, alpha if refuting is None else refuting):
            if not 0 < value < 1:
                raise OptionError(f"alpha must lie strictly between 0 and 1, not {value}")
        if horizon is not None and horizon < 1:
            raise OptionError(f"a run of draws ends at one draw or more, not {horizon}")
        self.alpha, self.horizon = alpha, horizon
        self._threshold = _log_inverse(alpha if horizon is None else alpha * (1.0 - HORIZON_SHARE))
        self._refuting = _log_inverse(alpha if refuting is None else refuting)
        self._successes = self._draws = 0
        self._shown = 0.0  # the largest bound shown so far: once shown, it stands

    def update(self, successes: int, draws: int) -> None:
        """Adds `draws` draws, made after all that were added before, with `successes` successes among them."""
        if not 0 <= successes <= draws:
            raise OptionError(f"{successes} successes in {draws} draws make no proportion")
        self._successes, self._draws = self._successes + int(successes), self._draws + int(draws)
        if draws and self._draws == self.horizon:
            planned = clopper_pearson_lower(self._successes, self._draws, self.alpha * HORIZON_SHARE)
            self._shown = max(self._shown, planned)

    @property
    def draws(self) -> int:
        return self._draws

    @property
    def successes(self) -> int:
        return self._successes

    def exceeds(self, p: float) -> bool:
        """Whether the probability is shown to be greater than p."""
        if p <= self._shown > 0 or p < 0:
            return True
        if p * self._draws >= self._successes or p >= 1:
            return False
        if p > 0 and log_wealth(self._successes, self._draws, p) < self._threshold:
            return False
        self._shown = max(self._shown, p)
        return True

    def below(self, p: float) -> bool:
        """Whether the probability is shown to be less than p, by the same test of the failures."""
        if p <= 0 or p * self._draws <= self._successes:
            return False
        failures = self._draws - self._successes
        return p > 1 or (p < 1 and bool(log_wealth(failures, self._draws, 1.0 - p) >= self._refuting))

    def lower(self) -> float:
        """The largest lower bound shown, to 1e-9 of the interval it is sought in, and never above it."""
        low, high = self._shown, self._successes / max(1, self._draws)
        if low >= high or not self.exceeds(low):
            return self._shown
        gap = 1e-9 * (high - low)
        while high - low > gap and low < (middle := (low + high) / 2) < high:
            low, high = (middle, high) if self.exceeds(middle) else (low, middle)
        return self._shown


def _log_inverse(alpha: float) -> float:
    """log(1/alpha), at least b: below that the test's monotonicity is not proved."""
    return max(SHAPE, -math.log(alpha))

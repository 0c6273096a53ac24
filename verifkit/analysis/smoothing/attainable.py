"""Which radii a smoothing certificate can have: n draws give n + 1 counts, so at most n + 1 radii.

Cohen, Rosenfeld, Kolter, ICML 2019: R = sigma Phi^-1(p), p the Clopper-Pearson bound of k of n draws at alpha.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from verifkit.errors import OptionError

RELATIVE_ERROR = 1e-13
"""Of a probability bound in other people's logs: more than the rounding error of a good quantile routine, twice that of
ours, and so little that it blurs no radius of up to eight digits."""

MOST_DRAWS = 10**12


@dataclass(frozen=True)
class Claim:
    """What a run claims: noise level (raw input units), draws per input, chance of error per input."""

    sigma: float
    draws: int
    alpha: float

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and np.isfinite(self.sigma)):
            raise OptionError(f"sigma must be a positive number, not {self.sigma}")
        if self.draws < 1:
            raise OptionError(f"n must be at least 1, not {self.draws}")
        if self.draws > MOST_DRAWS:
            raise OptionError(f"n must be at most {MOST_DRAWS}, not {self.draws}")
        if not 0 < self.alpha < 1:
            raise OptionError(f"alpha must lie strictly between 0 and 1, not {self.alpha}")

    def probability(self, count: Any) -> Any:
        """The Clopper-Pearson lower bound from `count` of the draws, 0 for none; broadcasts."""
        from scipy.special import betaincinv  # 0.3 s to import: only where a radius is looked at

        wins = np.asarray(count, dtype=float)
        bound = betaincinv(np.maximum(wins, 1.0), self.draws - np.maximum(wins, 1.0) + 1.0, self.alpha)
        return np.where(wins >= 1.0, bound, 0.0)

    def radius(self, count: Any) -> Any:
        """The radius that `count` of the draws certifies, 0 where that is none, to nearest; broadcasts."""
        from scipy.special import ndtri

        return np.maximum(0.0, self.sigma * ndtri(np.maximum(self.probability(count), 0.5)))

    @property
    def largest(self) -> float:
        """The radius of n agreeing draws: sigma Phi^-1(alpha^(1/n)), or 0."""
        return float(self.radius(self.draws))

    def counts_within(self, low: Any, high: Any) -> tuple[np.ndarray, np.ndarray]:
        """(count, whether there is one): for each interval the least count whose radius lies in [low, high].

        The counts of no certificate (radius 0) stand for one radius, 0. The interval is widened by the error of a
        quantile routine. Where there is none, the count is the largest whose radius lies below `low`, perhaps 0.
        """
        from scipy.special import ndtr

        low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        least = ndtr(np.maximum(low, 0.0) / self.sigma) * (1.0 - RELATIVE_ERROR)
        most = ndtr(np.maximum(high, 0.0) / self.sigma) * (1.0 + 4 * RELATIVE_ERROR)
        count = self._least_count(least)
        within = (count <= self.draws) & (self.probability(np.minimum(count, self.draws)) <= most)
        nothing = low <= 0.0
        found = (within | nothing) & (high >= 0.0)
        return np.where(nothing, 0, np.where(found, count, count - 1)), found

    def _least_count(self, probability: np.ndarray) -> np.ndarray:
        """The least count whose bound is at least `probability`: P[Bin >= count] <= alpha; n + 1 where none is."""
        from scipy.special import betainc

        below = np.zeros(probability.shape, dtype=np.int64)
        above = np.full(probability.shape, self.draws + 1, dtype=np.int64)
        while (above - below > 1).any():
            middle = np.clip((below + above) // 2, 1, self.draws)
            reached = betainc(middle, self.draws - middle + 1.0, probability) <= self.alpha
            open_ = above - below > 1
            below, above = np.where(open_ & ~reached, middle, below), np.where(open_ & reached, middle, above)
        return above

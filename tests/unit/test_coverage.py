"""How often certificates are wrong, by simulating counts: honest procedures keep alpha, broken ones are caught.

A cell is a base classifier of two classes, the first with probability p, so that the true radius is sigma |Phi^-1(p)|.
A certificate is wrong where it names the second class, or a radius beyond the true one. Of 20000 certificates at alpha
no more may be wrong than the 1 - 1e-6 quantile of Binomial(20000, alpha).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom, norm

from verifkit.analysis.confidence import clopper_pearson_lower
from verifkit.analysis.smoothing.anytime import ConfidenceSequence
from verifkit.analysis.smoothing.ledger import errors_allowed
from verifkit.analysis.smoothing.log import Row
from verifkit.analysis.smoothing.noise import Gaussian

RUNS = 20_000
N0, N, BLOCK, SIGMA = 100, 2048, 256, 1.0

Certificates = tuple[np.ndarray, np.ndarray]
"""Of each run: whether the first class was chosen, and the certified radius (0: abstained)."""

Procedure = Callable[[float, float, np.random.Generator], Certificates]
"""p, alpha, rng -> the certificates of RUNS runs."""


@cache
def fixed_radius(count: int, draws: int, alpha: float) -> float:
    return Gaussian(SIGMA).radius(clopper_pearson_lower(count, draws, alpha))


@cache
def anytime_radius(count: int, draws: int, alpha: float) -> float:
    sequence = ConfidenceSequence(alpha, horizon=N)
    sequence.update(count, draws)
    return Gaussian(SIGMA).radius(sequence.lower())


def chosen_and_counted(p: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Whether fresh selection draws choose the first class, and the chosen class's counts at every look."""
    first = 2 * rng.binomial(N0, p, RUNS) >= N0
    return first, wins_at_looks(p, rng, first)


def wins_at_looks(p: float, rng: np.random.Generator, first: np.ndarray) -> np.ndarray:
    wins = np.cumsum(rng.binomial(BLOCK, p, size=(RUNS, N // BLOCK)), axis=1)
    draws = BLOCK * np.arange(1, N // BLOCK + 1)
    return np.where(first[:, None], wins, draws - wins)


def fixed(p: float, alpha: float, rng: np.random.Generator) -> Certificates:
    first, wins = chosen_and_counted(p, rng)
    return first, np.array([fixed_radius(int(k), N, alpha) for k in wins[:, -1]])


def best_look(wins: np.ndarray, alpha: float, radius: Callable[[int, int, float], float]) -> np.ndarray:
    """Whatever stopping rule one has in mind, none can do better than the look with the largest radius."""
    looks = [[radius(int(k), BLOCK * (t + 1), alpha) for t, k in enumerate(row)] for row in wins]
    return np.max(looks, axis=1)


def anytime(p: float, alpha: float, rng: np.random.Generator) -> Certificates:
    first, wins = chosen_and_counted(p, rng)
    return first, best_look(wins, alpha, anytime_radius)


def written(p: float, alpha: float, rng: np.random.Generator) -> Certificates:
    """The fixed plan, as its log has it."""
    first, radii = fixed(p, alpha, rng)
    shown = {r: float(Row.certified(0, 0, 0, r, 0.0).radius) for r in set(radii.tolist())}
    return first, np.array([shown[r] for r in radii.tolist()])


def selection_reused(p: float, alpha: float, rng: np.random.Generator) -> Certificates:
    """BROKEN: the class is chosen by the draws that bound its probability."""
    wins = rng.binomial(N, p, RUNS)
    first = 2 * wins >= N
    return first, np.array([fixed_radius(int(k), N, alpha) for k in np.where(first, wins, N - wins)])


def rounded_up(p: float, alpha: float, rng: np.random.Generator) -> Certificates:
    """BROKEN: two decimals, rounded up."""
    first, radii = fixed(p, alpha, rng)
    up = {r: float(Decimal(r).quantize(Decimal("0.01"), rounding=ROUND_CEILING)) for r in set(radii.tolist())}
    return first, np.array([up[r] for r in radii.tolist()])


def stopped_when_good(p: float, alpha: float, rng: np.random.Generator) -> Certificates:
    """BROKEN: the bound of a fixed number of draws, looked at after every block."""
    first, wins = chosen_and_counted(p, rng)
    return first, best_look(wins, alpha, fixed_radius)


def retried(p: float, alpha: float, rng: np.random.Generator) -> Certificates:
    """BROKEN: an abstention is certified again."""
    first, radii = fixed(p, alpha, rng)
    first_again, again = fixed(p, alpha, rng)
    return np.where(radii > 0, first, first_again), np.where(radii > 0, radii, again)


def wrong(procedure: Procedure, p: float, alpha: float, seed: int = 0) -> int:
    """How many of RUNS certificates are wrong."""
    first, radii = procedure(p, alpha, np.random.default_rng(seed))
    truth = SIGMA * float(norm.ppf(max(p, 1.0 - p)))
    right_class = first if p > 0.5 else ~first if p < 0.5 else np.zeros(RUNS, dtype=bool)
    return int(np.count_nonzero((radii > 0) & ~(right_class & (radii <= truth))))


def just_above_attainable(alpha: float) -> float:
    """p of a true radius just above an attainable one, and just below a number of two decimals."""
    radii = [fixed_radius(k, N, alpha) for k in range(int(0.8 * N), int(0.9 * N))]
    return float(norm.cdf(min(radii, key=lambda r: math.ceil(100 * r) - 100 * r) / SIGMA)) + 1e-9


HONEST = (fixed, anytime, written)
BROKEN = {selection_reused: 0.5, rounded_up: None, stopped_when_good: 0.5, retried: 0.5}


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("p", [0.3, 0.5, 0.51, 0.6, 0.8413, 0.977, 0.9987, None])
@pytest.mark.parametrize("procedure", HONEST, ids=lambda f: f.__name__)
def test_honest_certificates_keep_alpha(procedure: Procedure, p: float | None, alpha: float) -> None:
    cell = just_above_attainable(alpha) if p is None else p
    assert wrong(procedure, cell, alpha) <= binom.ppf(1 - 1e-6, RUNS, alpha)


@pytest.mark.parametrize("procedure", BROKEN, ids=lambda f: f.__name__)
def test_broken_certificates_are_caught(procedure: Procedure) -> None:
    cell = BROKEN[procedure]
    p = just_above_attainable(0.05) if cell is None else cell
    assert wrong(procedure, p, 0.05) > binom.ppf(1 - 1e-6, RUNS, 0.05)


def test_the_data_set_keeps_rho() -> None:
    """Of runs over 500 inputs at alpha, more have too many wrong certificates than rho allows only by chance."""
    alpha, rho, inputs = 0.05, 0.01, 500
    errors = np.random.default_rng(1).binomial(inputs, alpha, RUNS)  # every certificate as often wrong as it may be
    over = np.count_nonzero(errors > errors_allowed(inputs, alpha, rho))
    assert 0 < over <= binom.ppf(1 - 1e-6, RUNS, rho)

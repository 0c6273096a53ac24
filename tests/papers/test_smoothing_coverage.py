"""How often certificates are wrong, over simulated counts of classifiers whose class probabilities are known, and how
near the certified radius comes to the exact one. Cohen et al. 2019, with and without separate runner-up bounds."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, norm

from verifkit.analysis.smoothing.certificate import Plan, predicted, radius_of
from verifkit.analysis.smoothing.noise import Gaussian, Laplace, Noise, Uniform
from verifkit.model import Model
from verifkit.registry import create

RUNS = 20_000
N0, N, ALPHA = 100, 1000, 0.01
CELLS = ((0.5, 0.5), (0.6, 0.4), (0.9, 0.1), (0.999, 0.001), (0.34, 0.33, 0.33), (0.7, 0.2, 0.05, 0.05), (0.1,) * 10)
FAMILIES: tuple[Noise, ...] = (Gaussian(0.5), Laplace(0.3), Uniform(1.5))


def allowed(runs: int, alpha: float) -> int:
    return int(binom.ppf(1 - 1e-6, runs, alpha))


@pytest.mark.parametrize("cell", CELLS, ids=str)
@pytest.mark.parametrize("runner_up", [False, True])
@pytest.mark.parametrize("alpha", [0.05, ALPHA])
def test_radii_are_wrong_as_seldom_as_stated(cell: tuple[float, ...], runner_up: bool, alpha: float) -> None:
    """A certificate is wrong where its radius is beyond what the true probabilities certify, in whatever family: where
    the chosen class is not the likeliest, any radius is."""
    rng = np.random.default_rng(round(1e6 * cell[0]) + runner_up)
    plan = Plan(N, alpha, runner_up=runner_up)

    @cache
    def stated(chosen: int, counts: tuple[int, ...]) -> tuple[float, ...]:
        lower, rivals = plan.bounds(counts, chosen)
        return tuple(radius_of(noise, lower, rivals, 0.0) for noise in FAMILIES)

    true = [[noise.radius(p, max(*cell[:c], 0.0, *cell[c + 1 :])) for noise in FAMILIES] for c, p in enumerate(cell)]
    chosen = rng.multinomial(N0, cell, RUNS).argmax(axis=1)
    counts = rng.multinomial(N, cell, RUNS)
    radii = np.array([stated(int(c), tuple(row)) for c, row in zip(chosen, counts.tolist(), strict=True)])
    wrong = (radii > np.array(true)[chosen]).any(axis=1)
    assert wrong.sum() <= allowed(RUNS, alpha)


@pytest.mark.parametrize("cell", CELLS[:1] + CELLS[4:], ids=str)
def test_predictions_are_wrong_as_seldom_as_stated(cell: tuple[float, ...]) -> None:
    rng = np.random.default_rng(5)
    counts = rng.multinomial(N, cell, RUNS)
    labels = [predicted(row, 0.05).label for row in counts.tolist()]
    best = max(cell)
    wrong = sum(label is not None and (cell[label] < best or cell.count(best) > 1) for label in labels)
    assert wrong <= allowed(RUNS, 0.05)


@cache
def simulated(ratio: float, seeds: int, n: int, alpha: float) -> np.ndarray:
    """Radii over d of linear classifiers at distance d = ratio sigma, from simulated counts."""
    plan, noise, rng = Plan(n, alpha), Gaussian(1.0), np.random.default_rng(round(100 * ratio))
    found: dict[int, float] = {}
    wins = rng.binomial(n, norm.cdf(ratio), seeds)
    for k in set(wins.tolist()):
        lower, rivals = plan.bounds((n - k, k), 1)
        found[k] = noise.radius(lower, rivals) / ratio
    return np.array([found[k] for k in wins.tolist()])


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
def test_linear_classifiers_are_certified_just_below_their_distance(ratio: float) -> None:
    radii = simulated(ratio, 10_000, 100_000, 0.001)
    assert (radii > 1).sum() <= allowed(10_000, 0.001)
    assert np.median(radii) >= 0.97


def linear(distance: float) -> Model:
    def call(x: np.ndarray) -> np.ndarray:
        margin = x.reshape(len(x), -1).sum(axis=1) + np.float32(distance)
        return np.stack([-margin, margin], axis=1)

    return Model("linear", (1,), (2,), call, "0" * 64)


def test_ten_thousand_seeds_of_the_verifier_itself() -> None:
    """The draws themselves, at an alpha at which failures are seen: about as many as stated, not more."""
    exact, alpha = 0.25, 0.05
    smoothing, model = create("smoothing", {"sigma": 0.25, "n": 256, "alpha": alpha}), linear(exact)
    certify = smoothing.certify  # type: ignore[attr-defined]
    radii = np.array([certify(model, [0.0], seed=seed).radius for seed in range(10_000)])
    assert 0.5 * alpha < (radii > exact).mean()
    assert (radii > exact).sum() <= allowed(10_000, alpha)


@pytest.mark.parametrize("ratio", [0.5, 1.75, 3.0])
def test_the_verifier_itself_comes_near_the_exact_radius(ratio: float) -> None:
    smoothing, model = create("smoothing", {"sigma": 0.25}), linear(0.25 * ratio)
    radii = [smoothing.certify(model, [0.0], seed=seed).radius for seed in range(15)]  # type: ignore[attr-defined]
    assert 0.97 * 0.25 * ratio <= np.median(radii) <= 0.25 * ratio


def test_bounds_of_all_counts_cover_exactly() -> None:
    """Not simulated: the chance of a wrong bound, summed over every count, for every p of a grid."""
    n, alpha = 60, 0.05
    plan = Plan(n, alpha)
    lower = np.array([plan.bounds((n - k, k), 1)[0] for k in range(n + 1)])
    for p in np.linspace(0.5, 1, 101):
        assert binom.pmf(np.arange(n + 1), n, p)[lower > p].sum() <= alpha
    both = Plan(n, alpha, runner_up=True)
    for p, q in product((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)):
        total = Fraction(0)
        rest = 1 - p - q
        for i in range(n + 1):
            for j in range(n + 1 - i):
                low, rivals = both.bounds((i, j, n - i - j), 0)
                if low > p or rivals < max(q, rest):
                    chance = binom.pmf(i, n, p) * binom.pmf(j, n - i, min(1.0, q / (1 - p)))
                    total += Fraction(float(chance))
        assert total <= alpha

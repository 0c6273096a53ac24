"""Mode "anytime" stops where it may: at the radii asked for, or where they are out of reach."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom

from verifiers.probabilistic.smoothing import Smoothing
from verifkit.analysis.confidence import clopper_pearson_upper
from verifkit.analysis.smoothing.certificate import GIVE_UP, Plan, _least_reaching
from verifkit.analysis.smoothing.noise import Gaussian
from verifkit.analysis.smoothing.sampling import BLOCK
from verifkit.model import Model

N = 100_000
ANYTIME = Smoothing(sigma=1.0, mode="anytime", n=N)


def at_distance(distance: float) -> Model:
    """Two classes: at 0 the smoothed classifier answers 1, with exact radius `distance`."""

    def call(x: np.ndarray) -> np.ndarray:
        return np.stack([np.zeros(len(x)), x.reshape(len(x), -1)[:, 0] + distance], axis=1)

    return Model(f"at {distance}", (2,), (2,), call, "0" * 64, dtype=np.float64)


def draws(distance: float, *radii: float, plan: Smoothing = ANYTIME) -> tuple[int, float]:
    counts = plan.certify(at_distance(distance), np.zeros(2), radii=radii)
    assert counts.chosen == 1
    return sum(counts.estimation), counts.radius


def test_one_clear_radius_takes_few_draws() -> None:
    for distance in (1.8, 2.5, 4.0):
        made, radius = draws(distance, 1.0)
        assert made <= 2 * BLOCK
        assert 1.0 <= radius < distance


def test_several_radii_take_one_run() -> None:
    made, radius = draws(1.5, 1.0, 0.2, 2.0)
    alone = [draws(1.5, r)[0] for r in (1.0, 0.2, 2.0)]
    assert 1.0 <= radius < 1.5
    assert BLOCK <= made <= sum(alone)


def test_a_radius_out_of_reach_ends_it_early() -> None:
    made, radius = draws(1.0, 1.5)
    assert made < 0.05 * N
    assert radius < 1.0
    never, _ = draws(4.0, 6.0)  # more than all n draws can certify
    assert never == BLOCK
    tied = ANYTIME.certify(at_distance(0.0), np.zeros(2), radii=(0.5,))
    assert sum(tied.estimation) < 0.05 * N
    assert tied.radius == 0


def test_without_radii_all_draws_are_made() -> None:
    plan = Smoothing(sigma=1.0, mode="anytime", n=4000)
    made, radius = draws(1.0, plan=plan)
    assert made == 4000
    assert 0.7 < radius < 1.0


@pytest.mark.parametrize("radius", [Fraction(1, 4), Fraction(1), Fraction(2)])
def test_what_is_needed_is_the_least_count_that_certifies(radius: Fraction) -> None:
    plan, noise = Plan(N, 0.001, "anytime"), Gaussian(1.0)
    needed = _least_reaching(N, 0.00025, noise, radius)
    for count, reached in ((needed, True), (needed - 1, False)):
        lower, _ = plan.bounds([N - count, count], 1)
        assert (noise.radius(lower) >= radius) is reached


def test_giving_up_loses_few_certificates() -> None:
    """Where the plan certifies, giving up at any of its looks takes that away in less than one of a hundred runs."""
    radius, runs = Fraction(1), 4000
    needed = _least_reaching(N, 0.00025, Gaussian(1.0), radius) / N
    looks = [BLOCK]
    while looks[-1] < N:
        looks.append(min(N, looks[-1] + max(BLOCK, looks[-1] // 32 // BLOCK * BLOCK)))
    steps = np.diff(looks, prepend=0)
    p = needed + 2 * np.sqrt(needed * (1 - needed) / N)  # certified in 98 of 100 runs
    wins = np.cumsum(np.random.default_rng(0).binomial(steps, p, size=(runs, len(looks))), axis=1)
    # clopper_pearson_upper(wins, draws, GIVE_UP) < needed  <=>  P[Bin(draws, needed) <= wins] < GIVE_UP
    gone = (binom.cdf(wins, np.array(looks), needed) < GIVE_UP).any(axis=1)
    assert gone.mean() < 0.01
    for k in (0, 20, len(looks) - 2):
        upper = clopper_pearson_upper(int(wins[0, k]), looks[k], GIVE_UP)
        assert (upper < needed) == (binom.cdf(wins[0, k], looks[k], needed) < GIVE_UP)


def test_an_anytime_answer_agrees_with_the_exact_radius() -> None:
    """Of 300 runs whose asked radius lies just beyond the exact one, none says that it holds but by chance."""
    beyond = 0
    model = at_distance(1.0)
    plan = Smoothing(sigma=1.0, mode="anytime", n=1024, n0=10, alpha=0.05)
    for seed in range(300):
        beyond += plan.certify(model, np.zeros(2), radii=(1.001,), seed=seed).radius > 1.0
    assert beyond <= binom.ppf(1 - 1e-6, 300, 0.05)

"""Noise families: what they draw has the distribution they name, and radii are the exact ones of classifiers that
attain them, never more."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from verifkit.analysis.smoothing.noise import Ablation, Gaussian, Laplace, Noise, RoundedGaussian, Uniform
from verifkit.errors import OptionError

MARGINS = (1e-6, 0.01, 0.1, 0.3, 0.45)
FAMILIES: tuple[Noise, ...] = (Gaussian(0.5), Laplace(0.3), Uniform(1.5), Ablation(3, 20), RoundedGaussian(0.25))
every = pytest.mark.parametrize("noise", FAMILIES, ids=lambda noise: noise.name)


def drawn(noise: Noise, count: int = 20_000, size: int = 3, value: float = 0.0) -> np.ndarray:
    return noise.apply(np.full(size, value), np.random.default_rng(1), count)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("noise", [Gaussian(0.5), Laplace(0.3), Uniform(1.5)], ids=lambda noise: noise.name)
def test_a_half_space_across_an_axis_attains_the_radius(noise: Noise, margin: float) -> None:
    """f is 1 where the first entry is >= -margin: g's exact radius is the margin."""
    p = {
        "gaussian": stats.norm.cdf(margin / 0.5),
        "laplace": stats.laplace.cdf(margin / 0.3),
        "uniform": 0.5 + margin / 1.5,
    }[noise.name]
    assert noise.radius(p) == pytest.approx(margin, rel=1e-9)
    assert noise.radius(np.nextafter(p, 0) * (1 - 1e-15)) < margin * (1 + 1e-9)


@pytest.mark.parametrize("p", [0.500001, 0.6, 0.9, 0.999, 1 - 1e-9])
def test_radii_are_below_their_formulas_in_high_precision(p: float) -> None:
    mp = pytest.importorskip("mpmath").mp
    with mp.workdps(50):
        exact = mp.mpf(p)
        quantile = mp.sqrt(2) * mp.erfinv(2 * exact - 1)
        for noise, value in (
            (Gaussian(0.5), quantile / 2),
            (RoundedGaussian(0.5), quantile / 2),
            (Laplace(0.3), -mp.mpf(0.3) * mp.log(2 * (1 - exact))),
            (Uniform(1.5), mp.mpf(1.5) * (exact - mp.mpf("0.5"))),
        ):
            assert value * (1 - mp.mpf("1e-8")) < noise.radius(p) < value


@pytest.mark.parametrize(("p", "q"), [(0.4, 0.1), (0.5, 0.3), (0.9, 0.01), (0.999, 1e-6), (0.35, 0.34)])
def test_separate_bounds_stay_below_what_half_spaces_lose(p: float, q: float) -> None:
    """Classes A and B, each a half-space on its side of an axis, have equal probability at the exact radius."""
    from scipy.optimize import brentq

    for noise, law in (
        (Gaussian(0.5), stats.norm(scale=0.5)),
        (Laplace(0.3), stats.laplace(scale=0.3)),
        (Uniform(1.5), stats.uniform(-0.75, 1.5)),
    ):
        where_a, where_b = law.ppf(p), law.ppf(q)
        exact = brentq(lambda r: law.cdf(where_a - r) - law.cdf(where_b + r), 0, 5)  # noqa: B023 (called at once)
        stated = noise.radius(p, q)
        assert 0 < stated <= exact * (1 + 1e-9)
        if not isinstance(noise, Laplace):
            assert stated == pytest.approx(exact, rel=1e-9)
        if p > 0.5:
            assert stated >= noise.radius(p)


@pytest.mark.parametrize("shift", [(0.2, 0.0, 0.0), (0.1, 0.05, 0.05), (0.15, -0.3, 0.1)])
def test_uniform_noise_covers_shifts_along_several_axes(shift: tuple[float, ...]) -> None:
    """The worst classifier for a shift answers A on the center's cube and B elsewhere."""
    common = math.prod(1 - abs(s) / 1.5 for s in shift)  # P(A) at the shifted center
    distance = sum(map(abs, shift))
    needed = Uniform(1.5).needed(distance)
    assert needed - (1 - common) >= 0.5 - 1e-12  # a classifier right with that probability, wrong on what was lost


def test_ablation_is_exact_by_enumeration() -> None:
    """Every choice of kept entries, and the worst classifier: wrong wherever a changed entry is kept."""
    size, keep = 9, 3
    choices = list(itertools.combinations(range(size), keep))
    for correct in range(len(choices) // 2, len(choices) + 1, 7):
        p = Fraction(correct / len(choices))
        held = [
            changed
            for changed in range(size + 1)
            if p - Fraction(sum(any(i < changed for i in c) for c in choices), len(choices)) > Fraction(1, 2)
        ]
        assert Ablation(keep, size).radius(float(p)) == max(held, default=0)
    assert Ablation(3, 9).radius(0.5) == 0
    assert Ablation(1, 9).radius(1.0) == 4
    assert Ablation(45, 784).radius(1.0) == max(r for r in range(50) if 2 * math.comb(784 - r, 45) > math.comb(784, 45))


@every
def test_the_needed_probability_is_the_least_that_has_the_radius(noise: Noise) -> None:
    for radius in (Fraction(1, 10), 0.25, 1, 2):
        p = noise.needed(radius)
        if p == math.inf:
            assert noise.radius(math.nextafter(1.0, 0.0)) < radius
            continue
        assert noise.radius(p) >= radius > noise.radius(math.nextafter(p, 0.0))


@every
def test_no_radius_without_a_majority(noise: Noise) -> None:
    assert noise.radius(0.5) == noise.radius(0.3) == noise.radius(0.0) == 0
    assert noise.radius(0.4, 0.4) == noise.radius(0.2, 0.4) == 0


@every
def test_radii_grow_with_the_bounds(noise: Noise) -> None:
    grid = np.linspace(0.5, 1 - 1e-6, 40)
    radii = [noise.radius(float(p)) for p in grid]
    assert radii == sorted(radii)
    apart = [noise.radius(0.6, float(q)) for q in np.linspace(1e-6, 0.4, 40)]
    assert apart == sorted(apart, reverse=True)


@pytest.mark.parametrize(
    ("noise", "law"),
    [
        (Gaussian(0.5), stats.norm(scale=0.5)),
        (Laplace(0.3), stats.laplace(scale=0.3)),
        (Uniform(1.5), stats.uniform(-0.75, 1.5)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_has_its_law_on_every_entry(noise: Noise, law: stats.rv_continuous, dtype: type) -> None:
    center = np.array([0.0, 0.25, -1.0], dtype=dtype)
    noisy = noise.apply(center, np.random.default_rng(1), 20_000)
    assert noisy.dtype == dtype
    for column in (noisy - center).T:
        assert stats.kstest(column, law.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef((noisy - center).T) - np.eye(3)).max() < 0.03


def test_ablation_keeps_every_set_equally_often() -> None:
    noisy = drawn(Ablation(2, 4, fill=-1.0), 60_000, size=4, value=7.0)
    assert set(np.unique(noisy)) == {-1.0, 7.0}
    sets, counts = np.unique(noisy == 7.0, axis=0, return_counts=True)
    assert len(sets) == 6
    assert (sets.sum(axis=1) == 2).all()
    assert stats.chisquare(counts).pvalue > 1e-3


def test_the_grid_is_never_left() -> None:
    center = (np.arange(256) / 255).astype(np.float32)
    noisy = RoundedGaussian(0.25).apply(center, np.random.default_rng(0), 500)
    steps = np.rint(noisy.astype(np.float64) * 255)
    assert (noisy == (steps / 255).astype(np.float32)).all()
    assert steps.min() < 0
    assert steps.max() > 255


@every
def test_given_space_is_used(noise: Noise) -> None:
    center = np.full(20, 0.2, dtype=np.float32)
    space = np.empty((5, 20), dtype=np.float32)
    found = noise.apply(center, np.random.default_rng(3), 5, space)
    assert found is space
    assert (found == noise.apply(center, np.random.default_rng(3), 5)).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gaussian(0.0),
        lambda: Gaussian(math.nan),
        lambda: Laplace(-1.0),
        lambda: Uniform(math.inf),
        lambda: RoundedGaussian(0.0),
        lambda: Ablation(0, 5),
        lambda: Ablation(6, 5),
        lambda: Ablation(1, 5, math.nan),
    ],
)
def test_bad_parameters_are_refused(make: object) -> None:
    with pytest.raises(OptionError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("value", [0.1, 0.12, 0.25, 0.7, 1.1])
@pytest.mark.parametrize("family", [Gaussian, Laplace, Uniform])
def test_no_less_noise_is_drawn_than_stated(family: type[Gaussian | Laplace | Uniform], value: float) -> None:
    """float32(.7) is below .7: noise scaled by it would certify less than its radius says."""
    zero = np.zeros(4, dtype=np.float32)
    scaled, unit = (
        family(scale).apply(zero, np.random.default_rng(3), 4000).astype(np.float64) for scale in (value, 1.0)
    )
    assert np.median(np.abs(scaled) / np.abs(unit)) >= value

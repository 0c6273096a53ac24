"""Rounded Gaussian integers: thresholds exact to the last bit, draws of their law."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from verifkit.analysis.smoothing.rounded import phi_bits, rounded_gaussian_table

SCALES = (Fraction(1, 3), Fraction(255, 8), 255 * Fraction(0.25))


def test_thresholds_are_exact() -> None:
    mp = pytest.importorskip("mpmath").mp
    rng = np.random.default_rng(0)
    with mp.workprec(900):
        for _ in range(300):
            x = Fraction(2 * int(rng.integers(0, 4000)) + 1, 2) / Fraction(int(rng.integers(1, 9000)), 17)
            x = min(x, Fraction(25)) * int(rng.choice([-1, 1]))
            size = int(rng.choice([64, 128, 192]))
            exact = mp.floor(mp.ncdf(mp.mpf(x.numerator) / x.denominator) * mp.mpf(2) ** size)
            assert phi_bits(x, size) == int(exact)


@pytest.mark.parametrize("s", [Fraction(1, 10**9), Fraction(1, 10**40)])
def test_noise_far_below_a_step_rounds_to_nothing(s: Fraction) -> None:
    """Thresholds that far out have no series that ends in time: all of their bits are known without it."""
    table = rounded_gaussian_table(s)
    assert table.thresholds[[0, -1]].tolist() == [0, 2**64 - 1]
    assert not table.draw(np.random.default_rng(0), (1000,)).any()
    assert int(table._longer(np.random.default_rng(1), np.array([0], dtype=np.uint64))[0]) == 0


@pytest.mark.parametrize("s", SCALES)
def test_draws_have_the_rounded_law(s: Fraction) -> None:
    drawn = rounded_gaussian_table(s).draw(np.random.default_rng(1), (400, 500)).ravel()
    low, high = -round(3 * float(s)) - 1, round(3 * float(s)) + 1
    edges = (np.arange(low, high) + 0.5) / float(s)
    expected = np.diff(np.concatenate([[0.0], stats.norm.cdf(edges), [1.0]])) * drawn.size
    counted = np.bincount(drawn.clip(low, high) - low, minlength=high - low + 1)
    kept = expected > 5
    assert stats.chisquare(counted[kept], expected[kept] * counted[kept].sum() / expected[kept].sum()).pvalue > 1e-3


@pytest.mark.parametrize("s", SCALES[:2])
def test_bits_that_settle_nothing_are_followed_by_more(s: Fraction) -> None:
    """U whose first 64 bits are a threshold's own lies on one side of it or the other."""
    table, rng = rounded_gaussian_table(s), np.random.default_rng(2)
    count = len(table.thresholds) // 2
    sides = set()
    for j in (-2, -1, 0, 1):
        bits = table.thresholds[j + count : j + count + 1]
        if j >= -count and len(bits):
            found = {int(table._longer(rng, bits)[0]) for _ in range(40)}
            assert found <= {j, j + 1}
            sides |= {k - j for k in found}
    assert sides == {0, 1}
    lowest = int(table._longer(rng, np.array([0], dtype=np.uint64))[0])
    highest = int(table._longer(rng, np.array([2**64 - 1], dtype=np.uint64))[0])
    assert stats.norm.cdf((lowest - 0.5) / float(s)) < 2**-63
    assert stats.norm.sf((highest + 0.5) / float(s)) < 2**-63


def test_the_first_bits_settle_what_all_bits_say() -> None:
    table = rounded_gaussian_table(SCALES[1])
    rng = np.random.default_rng(3)
    head = np.flatnonzero(~table.open)
    rest = rng.integers(0, 2**48, size=head.size, dtype=np.uint64)
    assert (table.settled[head] == table._longer(rng, (head.astype(np.uint64) << np.uint64(48)) | rest)).all()

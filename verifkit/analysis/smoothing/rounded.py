"""Rounded Gaussian integers, drawn exactly: P(k) = Phi((k + 1/2) / s) - Phi((k - 1/2) / s) for a rational s.

A uniform real number U in [0, 1) is drawn bit by bit, and k is the integer with Phi((k - 1/2) / s) <= U <
Phi((k + 1/2) / s). 16 bits settle nearly every draw and 64 all but one in 10^16 or so; where they do not, more are
drawn. The values of Phi are computed to whatever precision that takes, in integers with a proved error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

WORD, FIRST = 64, 16
REACH = Fraction(93, 10)
"""Phi(-REACH) < 2^-WORD: thresholds farther out are the same 64 bits."""


@dataclass(frozen=True, eq=False)
class RoundedGaussianTable:
    """s: the standard deviation before rounding. thresholds (2 J,): the first 64 bits of Phi((j + 1/2) / s) for j = -J
    .. J - 1. settled (2^16,): k, where the first 16 bits of U settle it. open (2^16,): where they do not."""

    s: Fraction
    thresholds: np.ndarray
    settled: np.ndarray
    open: np.ndarray

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Independent draws, int32."""
        first = rng.integers(0, 1 << FIRST, size=shape, dtype=np.uint16)
        drawn: np.ndarray = self.settled[first]
        places = np.nonzero(self.open[first])
        count = len(places[0])
        if count:
            rest = rng.integers(0, 1 << (WORD - FIRST), size=count, dtype=np.uint64)
            drawn[places] = self._longer(rng, (first[places].astype(np.uint64) << np.uint64(WORD - FIRST)) | rest)
        return drawn

    def _longer(self, rng: np.random.Generator, bits: np.ndarray) -> np.ndarray:
        """k for U whose first 64 bits are given."""
        index = np.searchsorted(self.thresholds, bits, side="left")
        found = index - len(self.thresholds) // 2
        for i in np.flatnonzero(self.thresholds[index] == bits):  # the last threshold is all ones: index stays inside
            found[i] = _longest(self.s, int(bits[i]), rng)
        return found


@lru_cache(maxsize=8)
def rounded_gaussian_table(s: Fraction) -> RoundedGaussianTable:
    """The table for `s` > 0; a second for s = 1000."""
    count = max(1, math.ceil(REACH * s + 1))
    lower = [phi_bits(Fraction(2 * j + 1, 2) / s, WORD) for j in range(-count, 0)]
    full = (1 << WORD) - 1
    thresholds = np.array(lower + [full - bits for bits in reversed(lower)], dtype=np.uint64)  # Phi(-x) = 1 - Phi(x)
    firsts = (thresholds >> np.uint64(WORD - FIRST)).astype(np.int64)
    heads = np.arange(1 << FIRST)
    settled = (np.searchsorted(firsts, heads, side="left") - count).astype(np.int32)
    opened = np.bincount(firsts, minlength=1 << FIRST) > 0
    return RoundedGaussianTable(s, thresholds, settled, opened)


def _longest(s: Fraction, bits: int, rng: np.random.Generator) -> int:
    """k for U whose first 64 bits, `bits`, are also those of a threshold: draws more until they settle it."""
    size = WORD
    while True:
        bits, size = (bits << WORD) | int(rng.integers(0, 1 << WORD, dtype=np.uint64)), size + WORD
        reach = math.isqrt(2 * size) + 1  # Phi(-reach) < 2^-size
        low, high = (sign * math.ceil(reach * s + 1) for sign in (-1, 1))  # the answer lies in (low, high]
        while high - low > 1:
            middle = (low + high) // 2
            threshold = phi_bits(Fraction(2 * middle + 1, 2) / s, size)
            if threshold == bits:
                break
            low, high = (low, middle) if bits < threshold else (middle, high)
        else:
            return high


def phi_bits(x: Fraction, size: int) -> int:
    """floor(2^size Phi(x)), exactly, for a rational x other than 0.

    Phi(x) = 1/2 + sign(x) sqrt(q / pi) sum_n (-q)^n / (n! (2 n + 1)) with q = x^2 / 2.
    """
    reach = math.isqrt(2 * size) + 1  # Phi(-reach) < 2^-size; farther out the series takes as long as x is large
    if abs(x) >= reach:
        return (1 << size) - 1 if x > 0 else 0
    precision = size + 64
    while True:
        middle, error = _phi(x, precision)
        low, high = ((middle + e) >> (precision - size) for e in (-error, error))
        if low == high:
            return low
        precision *= 2


def _phi(x: Fraction, precision: int) -> tuple[int, int]:
    """(2^precision Phi(x), its error), integers.

    A term's error is at most 1 + q / n times that of the term before, so the terms' errors stay below n e^q, and those
    of the sum below (n + 1)^2 e^q; guard bits pay for e^q. The alternating tail is below the first term left out.
    """
    q = x * x / 2
    growth = math.ceil(float(q) * 1.4427) + 1  # e^q < 2^growth
    work = precision + 2 * growth + 32
    term, total, n = 1 << work, 0, 0
    while term:
        total += -(term // (2 * n + 1)) if n % 2 else term // (2 * n + 1)
        n += 1
        term = term * q.numerator // (q.denominator * n)
    root = math.isqrt((q.numerator << (3 * work)) // (q.denominator * _pi(work)))  # 2^work sqrt(q / pi)
    half = (root * total) >> work
    # |total| <= 2^work; the root is off by at most 4 units in its last place for every unit of its value
    error = ((n + 2) ** 2 << growth) * ((root >> work) + 1) + 8 * ((root >> work) + 2)
    value = (1 << (work - 1)) + (half if x > 0 else -half)
    return value >> (work - precision), (error >> (work - precision)) + 2


@lru_cache(maxsize=64)
def _pi(precision: int) -> int:
    """2^precision pi, off by less than one (Machin's formula with guard bits)."""
    guard = precision + 32

    def arctan(inverse: int) -> int:
        term, total, n = (1 << guard) // inverse, 0, 0
        while term:
            total += -(term // (2 * n + 1)) if n % 2 else term // (2 * n + 1)
            n, term = n + 1, term // inverse**2
        return total

    return (16 * arctan(5) - 4 * arctan(239)) >> 32

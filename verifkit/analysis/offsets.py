"""What lines above smooth and above piecewise linear functions have in common: offsets, and the choice among lines."""

from __future__ import annotations

from verifkit.analysis.rounding import tiny
from verifkit.arrays import Array, epsilon, namespace

Line = tuple[Array, Array]
"""(slope, offset)."""


def above(value: Array, slope: Array, x: Array) -> Array:
    """value - slope x, rounded up."""
    xp = namespace(value)
    product = slope * x
    return value - product + 4.0 * epsilon(value) * (xp.abs(value) + xp.abs(product)) + 2.0 * tiny(value)


def chord(x0: Array, y0: Array, x1: Array, y1: Array) -> Array:
    """The slope from one point to another, x0 <= x1; 0 where they are one."""
    xp = namespace(x0)
    width = x1 - x0
    return (y1 - y0) / xp.where(width > 0, width, xp.ones_like(width))


def constants(lower: Array, upper: Array, low: Array, high: Array) -> Line:
    """The bounds (low, high) of a function over [lower, upper], infinite where any of the four is not finite."""
    xp = namespace(low)
    known = xp.isfinite(lower) & xp.isfinite(upper) & xp.isfinite(low) & xp.isfinite(high)
    infinity = xp.full_like(low, xp.inf)
    return xp.where(known, low, -infinity), xp.where(known, high, infinity)


def best_line(lines: list[Line], flat: Array, middle: Array, usable: Array) -> Line:
    """Of lines above a function the one that is lowest at `middle`, or the constant `flat` where none is lower.

    Only where `usable`; a line that overflowed is none.
    """
    xp = namespace(flat)
    slope, offset, height = xp.zeros_like(flat), flat, flat
    for s, o in lines:
        there = s * middle + o
        better = usable & (there < height) & xp.isfinite(o) & xp.isfinite(s)
        slope, offset = xp.where(better, s, slope), xp.where(better, o, offset)
        height = xp.where(better, there, height)
    return slope, offset

"""Lines below and above a piecewise linear function: the edges of its convex hull.

What such a function minus a line is at most, it is at a vertex: an end of the range or a breakpoint. So the offsets
are those of the vertices, whatever the slope. A range inside one segment gets the segment itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from verifkit.analysis.accuracy import value_error
from verifkit.analysis.offsets import Line, above, best_line, chord, constants
from verifkit.analysis.ranges import function_bounds
from verifkit.arrays import Array, namespace
from verifkit.evidence import Lines
from verifkit.functions import Abs, Clip, LeakyRelu, ScalarFunction, Sign

Segment = tuple[Array, Array | float]
"""Where the range lies inside a segment through the origin, and that segment's slope."""


def polyline_lines(function: ScalarFunction, lower: Array, upper: Array) -> Lines:
    """Lines for `Abs`, `LeakyRelu`, `Clip` or `Sign` on [lower, upper], each `(B, *shape)`.

    Of the edges of the hull the one over the middle of the range is taken: for a convex kink, below, the segment on
    which the larger part of the range lies. Offsets are infinite where nothing is known. Raises TypeError for another
    function.
    """
    with np.errstate(all="ignore"):
        xp = namespace(lower)
        low, high = constants(lower, upper, *function_bounds(function, lower, upper))
        corners, segments = _corners(function, lower, upper)
        middle = lower / 2 + upper / 2
        upper_slope, upper_offset = _edge([(x, top) for x, _, top in corners], high, middle)
        lower_slope, lower_offset = _edge([(x, -bottom) for x, bottom, _ in corners], -low, middle)
        lower_slope, lower_offset, zero = -lower_slope, -lower_offset, xp.zeros_like(lower)
        for inside, slope in segments:
            inside = inside & xp.isfinite(high)
            lower_slope, upper_slope = (xp.where(inside, slope + zero, s) for s in (lower_slope, upper_slope))
            lower_offset, upper_offset = (xp.where(inside, zero, o) for o in (lower_offset, upper_offset))
        return Lines(lower_slope, lower_offset, upper_slope, upper_offset)


def polyline_offsets(function: ScalarFunction, lower: Array, upper: Array, slope: Array) -> tuple[Array, Array]:
    """Offsets (below, above) with which lines of the given slope bound such a function on [lower, upper].

    All `(B, *shape)`; infinite where nothing is known. Raises TypeError for another function.
    """
    with np.errstate(all="ignore"):
        xp = namespace(lower)
        low, high = constants(lower, upper, *function_bounds(function, lower, upper))
        corners, segments = _corners(function, lower, upper)
        least, most = (xp.full_like(low, end) for end in (xp.inf, -xp.inf))
        for x, bottom, top in corners:
            least, most = xp.minimum(least, -above(-bottom, -slope, x)), xp.maximum(most, above(top, slope, x))
        for inside, own in segments:
            exact = inside & (slope == own)
            least, most = (xp.where(exact, xp.zeros_like(least), end) for end in (least, most))
        known = xp.isfinite(high - low)
        infinity = xp.full_like(low, xp.inf)
        return xp.where(known, least, -infinity), xp.where(known, most, infinity)


def polyline_slope(function: ScalarFunction, lower: Array, upper: Array) -> Array:
    """The slope of the segment that the range lies in, where it goes through the origin; else that of the chord."""
    with np.errstate(all="ignore"):
        xp = namespace(lower)
        slope = chord(lower, function(lower), upper, function(upper))
        for inside, own in _corners(function, lower, upper)[1]:
            slope = xp.where(inside, own + xp.zeros_like(slope), slope)
        return slope


def _edge(corners: Sequence[tuple[Array, Array]], flat: Array, middle: Array) -> Line:
    """The best line above all corners (x, y), x ascending."""
    xp = namespace(flat)
    lines = []
    for (x0, y0), (x1, y1) in combinations(corners, 2):
        slope = chord(x0, y0, x1, y1)
        offset = above(corners[0][1], slope, corners[0][0])
        for x, y in corners[1:]:
            offset = xp.maximum(offset, above(y, slope, x))
        lines.append((slope, offset))
    return best_line(lines, flat, middle, xp.isfinite(flat))


def _corners(
    function: ScalarFunction, lower: Array, upper: Array
) -> tuple[list[tuple[Array, Array, Array]], list[Segment]]:
    """Vertices (x, least value, largest value) over the range, and the segments that go through the origin."""
    xp = namespace(lower)
    zero = xp.zeros_like(lower)
    if isinstance(function, Clip):
        low, high = function.low + zero, function.high + zero
        at = [lower, xp.minimum(xp.maximum(low, lower), upper), xp.minimum(xp.maximum(high, lower), upper), upper]
        return [(x, function(x), function(x)) for x in at], [((lower >= low) & (upper <= high), 1.0)]
    at = [lower, xp.minimum(xp.maximum(zero, lower), upper), upper]
    positive, negative = lower >= 0, upper <= 0
    if isinstance(function, Sign):
        first, last = function(lower), function(upper)
        # Next to 0 it takes the values of both ends.
        return [(lower, first, first), (at[1], first, last), (upper, last, last)], []
    if isinstance(function, Abs):
        return [(x, function(x), function(x)) for x in at], [(positive, 1.0), (negative, -1.0)]
    if isinstance(function, LeakyRelu):
        values = [function(x) for x in at]
        errors = [xp.where(x >= 0, zero, value_error(function, y)) for x, y in zip(at, values, strict=True)]
        corners = [(x, y - e, y + e) for x, y, e in zip(at, values, errors, strict=True)]
        return corners, [(negative, function.slope), (positive, 1.0)]
    raise TypeError(f"{function.name} is not piecewise linear")

"""Lines below and above a smooth function: the lines that support its convex hull over the middle of the range.

The offset of a line of slope s above f on [l, u] has to reach sup f(x) - s x. Where f is convex or straight, that is
attained at the ends. Where f is concave, any point t of it gives the bound

    f(x) - s x  <=  f(t) - s t + (f'(t) - s)(x - t),

whose right side is linear in x, hence largest at an end. So the slopes are heuristics, and so is t: a bad choice
costs tightness and never soundness. What the computed f and f' may be off is added. Lines below f are mirror images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from verifkit.analysis.accuracy import slope_error, value_error
from verifkit.analysis.bends import BENDS, Bends, slope_left_of_kink
from verifkit.analysis.offsets import Line, above, best_line, chord, constants
from verifkit.analysis.ranges import function_bounds
from verifkit.arrays import Array, epsilon, namespace
from verifkit.evidence import Lines
from verifkit.functions import ScalarFunction

STEPS = 30
"""Of the bisection for the point where a line through an end touches the curve."""


def curve_lines(function: ScalarFunction, lower: Array, upper: Array) -> Lines:
    """Lines for a function of `BENDS` on [lower, upper], each `(B, *shape)`; infinite offsets where nothing is known.

    Of the chord, the tangent in the middle, the line through an end that touches the curve, and the constant, the one
    nearest to the function at the middle (which has the least area) is taken, entry by entry. Raises KeyError for a
    function that is not in the table.
    """
    with np.errstate(all="ignore"):
        low, high = constants(lower, upper, *function_bounds(function, lower, upper))
        bends = BENDS[type(function)](function, lower, upper)
        upper_slope, upper_offset = _Side(function, 1, lower, upper, bends).line(high)
        lower_slope, lower_offset = _Side(function, -1, lower, upper, bends).line(-low)
        return Lines(-lower_slope, -lower_offset, upper_slope, upper_offset)


def curve_offsets(function: ScalarFunction, lower: Array, upper: Array, slope: Array) -> tuple[Array, Array]:
    """Offsets (below, above) with which lines of the given slope bound a function of `BENDS` on [lower, upper].

    All `(B, *shape)`. Infinite or NaN where nothing is known, and where the range has several turns. Raises KeyError
    for a function that is not in the table.
    """
    with np.errstate(all="ignore"):
        xp = namespace(lower)
        low, high = constants(lower, upper, *function_bounds(function, lower, upper))
        bends = BENDS[type(function)](function, lower, upper)
        offsets = []
        for sign in (-1, 1):
            side = _Side(function, sign, lower, upper, bends)
            offsets.append(sign * side.offset(sign * slope, side.contact(sign * slope)))
        known = xp.isfinite(high - low) if bends.single is None else xp.isfinite(high - low) & bends.single
        infinity = xp.full_like(low, xp.inf)
        return xp.where(known, offsets[0], -infinity), xp.where(known, offsets[1], infinity)


@dataclass(frozen=True, eq=False)
class _Side:
    """Lines above sign * f. A piece of the range, cut at the turn, bulges where sign * f is concave on it.

    Of the two pieces at most one bulges.
    """

    function: ScalarFunction
    sign: int
    lower: Array
    upper: Array
    bends: Bends

    def value(self, x: Array) -> Array:
        return self.sign * self.function(x)

    def slope(self, x: Array) -> Array:
        return self.sign * slope_left_of_kink(self.function, x)

    def raised(self, x: Array) -> Array:
        """At least sign * f(x)."""
        value = self.value(x)
        return value + value_error(self.function, value)

    @cached_property
    def right(self) -> Array:
        """Where the piece right of the turn bulges."""
        return self.sign * self.bends.right < 0

    @cached_property
    def bulges(self) -> Array:
        """Where any piece does: from `turn` to `far`."""
        return (self.sign * self.bends.left < 0) | self.right

    @cached_property
    def far(self) -> Array:
        return namespace(self.lower).where(self.right, self.upper, self.lower)

    @cached_property
    def corners(self) -> list[tuple[Array, Array]]:
        """(x, at least sign * f(x)) at the ends and the turn."""
        return [(x, self.raised(x)) for x in (self.lower, self.bends.turn, self.upper)]

    def line(self, flat: Array) -> Line:
        """The best line; flat: a constant above the function, infinite where nothing is known."""
        xp, bends, turn = namespace(flat), self.bends, self.bends.turn
        anchor = xp.where(self.right, self.lower, self.upper)
        middle = self.lower / 2 + self.upper / 2
        foot = self._foot(turn, self.far, anchor, self.bulges)
        foot = xp.where(self.right, xp.maximum(foot, middle), xp.minimum(foot, middle))
        foot = xp.minimum(xp.maximum(foot, xp.minimum(turn, self.far)), xp.maximum(turn, self.far))
        pairs = [(0, 2), (0, 1), (1, 2)] if bends.kinked else [(0, 2)]
        tries = [(chord(*self.corners[i], *self.corners[j]), turn if 1 in (i, j) else self.far) for i, j in pairs]
        tries.append((self.slope(foot), foot))
        lines = [(slope, self.offset(slope, contact)) for slope, contact in tries]
        usable = xp.isfinite(flat) if bends.single is None else xp.isfinite(flat) & bends.single
        return best_line(lines, flat, middle, usable)

    def offset(self, slope: Array, contact: Array) -> Array:
        """The offset of a line of that slope above sign * f; contact: a point of the piece that bulges."""
        xp, (first, *others) = namespace(slope), self.corners
        offset = above(first[1], slope, first[0])
        for x, value in others:
            offset = xp.maximum(offset, above(value, slope, x))
        offset = xp.where(self.bulges, xp.maximum(offset, self._bulge(slope, contact)), offset)
        if self.bends.doubt is not None:  # |f|, |f'|, |f''| <= 1 there
            offset = offset + self.bends.doubt * (12.0 + 2.0 * xp.abs(slope))
        return offset

    def contact(self, slope: Array) -> Array:
        """Where a line of that slope touches the piece that bulges: by bisection, as the slope falls along it."""
        xp = namespace(slope)
        start, stop = xp.minimum(self.bends.turn, self.far), xp.maximum(self.bends.turn, self.far)
        if not bool(xp.any(self.bulges & (start < stop))):
            return start
        for _ in range(STEPS):
            middle = start / 2 + stop / 2
            steep = self.slope(middle) > slope
            start, stop = xp.where(steep, middle, start), xp.where(steep, stop, middle)
        # An end that never moved is one where the slope is beyond that of the whole piece.
        return xp.where(start == xp.minimum(self.bends.turn, self.far), start, stop)

    def _bulge(self, slope: Array, t: Array) -> Array:
        """At least sign * f(x) - slope x on the piece that bulges and holds t."""
        xp, turn = namespace(slope), self.bends.turn
        start, stop = xp.minimum(turn, self.far), xp.maximum(turn, self.far)
        tangent = self.slope(t)
        excess = tangent - slope
        rise = xp.maximum(excess * (stop - t), excess * (start - t))
        rise = rise + slope_error(self.function, tangent) * xp.maximum(stop - t, t - start)
        touch = above(self.raised(t), slope, t)
        return touch + rise + 8.0 * epsilon(slope) * (xp.abs(touch) + xp.abs(rise))

    def _foot(self, turn: Array, far: Array, anchor: Array, bulges: Array) -> Array:
        """Where a line through the anchor touches the bulging piece from `turn` to `far`: by bisection."""
        xp = namespace(turn)
        if not bool(xp.any(bulges & (turn != anchor) & (turn != far))):
            return turn
        near, at_anchor = turn, self.function(anchor)
        for _ in range(STEPS):
            foot = near / 2 + far / 2
            gap = self.function(foot) + slope_left_of_kink(self.function, foot) * (anchor - foot) - at_anchor
            over = gap >= 0 if self.sign > 0 else gap <= 0
            near, far = xp.where(over, near, foot), xp.where(over, foot, far)
        return far

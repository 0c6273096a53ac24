"""Parallel lines: one slope below and above a function, as a zonotope needs them. Likewise planes for products.

With one slope s for both, the value is s x plus a number in [lower offset, upper offset] that does not depend on x in
any known way: an affine form with one new symbol. The offsets are made safe for whatever slope is taken, so that a
slope is a heuristic and never a soundness question. Of several slopes the one whose lines are nearest together is
taken, entry by entry.

Sources: Singh, Gehr, Mirman, Pueschel, Vechev, "Fast and effective robustness certification" (DeepZ), NeurIPS 2018,
theorem 3.1 for ReLU, section 4 for sigmoid and tanh; Weng et al. (Fast-Lin), ICML 2018, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verifkit.analysis.bends import BENDS, slope_left_of_kink
from verifkit.analysis.curves import curve_offsets
from verifkit.analysis.offsets import chord, constants
from verifkit.analysis.polylines import polyline_offsets, polyline_slope
from verifkit.analysis.ranges import Bounds, function_bounds
from verifkit.analysis.relaxation import Relaxation, relu_lines
from verifkit.analysis.rounding import tiny
from verifkit.arrays import Array, epsilon, namespace
from verifkit.evidence import Lines, Planes
from verifkit.functions import Abs, Clip, LeakyRelu, Power, Relu, ScalarFunction, Sign


def parallel_lines(function: ScalarFunction, lower: Array, upper: Array) -> Lines:
    """Lines for a function of `PARALLEL_RELAXATIONS` on [lower, upper], each `(B, *shape)`; lower_slope is upper_slope.

    Infinite offsets where nothing is known. Raises KeyError for a function that is not in the table.
    """
    return PARALLEL_RELAXATIONS[type(function)](function, lower, upper)


def parallel_relu(function: ScalarFunction, lower: Array, upper: Array) -> Lines:
    """The chord's slope u / (u - l) below as well as above; 1 or 0 where the unit is stable."""
    lines = relu_lines(lower, upper, namespace(lower).zeros_like(lower))
    return Lines(lines.upper_slope, lines.lower_offset, lines.upper_slope, lines.upper_offset)


def parallel_polyline(function: ScalarFunction, lower: Array, upper: Array) -> Lines:
    """Of `Abs`, `LeakyRelu`, `Clip` or `Sign`: the segment itself, the chord's slope, or constants."""
    slope = polyline_slope(function, lower, upper)
    return _nearest(function, lower, upper, [(slope, *polyline_offsets(function, lower, upper, slope))])


@np.errstate(all="ignore")
def parallel_curve(function: ScalarFunction, lower: Array, upper: Array) -> Lines:
    """Of a smooth function: the chord's slope, that of the flatter end (DeepZ's choice), or constants.

    Where f is convex or concave, the chord's slope is the best there is. Where f is S-shaped and s is the smaller of
    f'(l) and f'(u), f(x) - s x does not decrease, so that both offsets are attained at the ends.
    """
    xp = namespace(lower)
    ends = slope_left_of_kink(function, lower), slope_left_of_kink(function, upper)
    flatter = xp.where(xp.abs(ends[0]) <= xp.abs(ends[1]), *ends)
    slopes = [chord(lower, function(lower), upper, function(upper)), flatter]
    return _nearest(function, lower, upper, [(s, *curve_offsets(function, lower, upper, s)) for s in slopes])


@np.errstate(all="ignore")
def _nearest(
    function: ScalarFunction, lower: Array, upper: Array, tries: Sequence[tuple[Array, Array, Array]]
) -> Lines:
    """Of pairs of lines (slope, offset below, offset above), and the constants, those that are nearest together."""
    xp = namespace(lower)
    low, high = constants(lower, upper, *function_bounds(function, lower, upper))
    slope = xp.zeros_like(low)
    for s, below, above in tries:
        better = (above - below < high - low) & xp.isfinite(s)
        slope, low, high = xp.where(better, s, slope), xp.where(better, below, low), xp.where(better, above, high)
    return Lines(slope, low, slope, high)


def parallel_planes(left: Bounds, right: Bounds, *, same: bool = False) -> Planes:
    """Planes with the same coefficients below and above x y, for x in `left` and y in `right`, each `(B, *shape)`.

    With the middles of the ranges as coefficients, x y - (my x + mx y) = (x - mx)(y - my) - mx my, whose range is the
    smallest there is. It is linear in each of x and y, so that its extremes are at corners whatever the coefficients.
    Infinite offsets where nothing is known. same: x and y are one value, and the product is a square.
    """
    with np.errstate(all="ignore"):
        xp = namespace(left[0])
        if same:
            lines, zero = parallel_curve(Power(2), *left), xp.zeros_like(left[0])
            slope = lines.lower_slope
            return Planes(slope, zero, lines.lower_offset, slope, zero, lines.upper_offset)
        p, q = right[0] / 2 + right[1] / 2, left[0] / 2 + left[1] / 2
        low, high = xp.full_like(p, xp.inf), xp.full_like(p, -xp.inf)
        for x in left:
            for y in right:
                product, by_x, by_y = x * y, p * x, q * y
                size = xp.abs(product) + xp.abs(by_x) + xp.abs(by_y)
                gap, lost = product - by_x - by_y, 8.0 * epsilon(size) * size + 4.0 * tiny(size)
                low, high = xp.minimum(low, gap - lost), xp.maximum(high, gap + lost)
        known = xp.isfinite(high - low)
        for end in (*left, *right):
            known = known & xp.isfinite(end)
        zero, infinity = xp.zeros_like(p), xp.full_like(p, xp.inf)
        p, q = xp.where(known, p, zero), xp.where(known, q, zero)
        return Planes(p, q, xp.where(known, low, -infinity), p, q, xp.where(known, high, infinity))


PARALLEL_RELAXATIONS: dict[type[ScalarFunction], Relaxation] = {
    Relu: parallel_relu,
    **dict.fromkeys((LeakyRelu, Abs, Clip, Sign), parallel_polyline),
    **dict.fromkeys(BENDS, parallel_curve),
}
"""Activation to relaxation with one slope: what zonotopes know."""

FASTLIN_RELAXATIONS: dict[type[ScalarFunction], Relaxation] = {
    kind: PARALLEL_RELAXATIONS[kind] for kind in (Relu, LeakyRelu)
}
"""Fast-Lin's table."""

OUTER_POLYTOPE: dict[type[ScalarFunction], Relaxation] = {Relu: PARALLEL_RELAXATIONS[Relu]}
"""The table of the dual network of the convex outer polytope."""

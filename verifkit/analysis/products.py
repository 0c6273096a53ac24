"""Planes below and above a product of two nodes.

x y minus a plane is linear in each of x and y, so that over a box it is least and largest at corners: the offset of a
plane with any coefficients is found there. The coefficients are those of a mixture of McCormick's planes.

Source: McCormick, "Computability of global solutions to factorable nonconvex programs: part I", Mathematical
Programming 10, 1976.
"""

from __future__ import annotations

import numpy as np

from verifkit.analysis.curves import curve_lines
from verifkit.analysis.ranges import Bounds
from verifkit.analysis.rounding import tiny
from verifkit.arrays import Array, epsilon, namespace
from verifkit.evidence import Planes
from verifkit.functions import Power

Plane = tuple[Array, Array, Array]
"""(coefficient of x, coefficient of y, offset)."""


def product_planes(left: Bounds, right: Bounds, *, same: bool = False) -> Planes:
    """Planes for x y with x in `left` and y in `right`, each `(B, *shape)`; infinite offsets where nothing is known.

    same: x and y are one value, so that the product is a square, and its lines are those of a curve.
    """
    with np.errstate(all="ignore"):
        if same:
            lines = curve_lines(Power(2), *left)
            zero = namespace(left[0]).zeros_like(left[0])
            return Planes(lines.lower_slope, zero, lines.lower_offset, lines.upper_slope, zero, lines.upper_offset)
        below = _plane_below(left, right)
        mirrored = _plane_below((-left[1], -left[0]), right)  # x y = -((-x) y)
        return Planes(*below, mirrored[0], -mirrored[1], -mirrored[2])


def _plane_below(left: Bounds, right: Bounds) -> Plane:
    xp = namespace(left[0])
    share = _mixture(left, right)
    p, q = right[0] + share * (right[1] - right[0]), left[0] + share * (left[1] - left[0])
    offset: Array | None = None
    for x in left:
        for y in right:
            product, by_x, by_y = x * y, p * x, q * y
            size = xp.abs(product) + xp.abs(by_x) + xp.abs(by_y)
            gap = product - by_x - by_y - 8.0 * epsilon(size) * size - 4.0 * tiny(size)
            offset = gap if offset is None else xp.minimum(offset, gap)
    known = xp.isfinite(offset)
    for end in (*left, *right):
        known = known & xp.isfinite(end)
    zero = xp.zeros_like(p)
    return xp.where(known, p, zero), xp.where(known, q, zero), xp.where(known, offset, xp.full_like(p, -xp.inf))


def _mixture(left: Bounds, right: Bounds) -> Array:
    """The share of the second of McCormick's planes below x y on [a, b] x [c, d],

        c x + a y - a c   and   d x + b y - b d.

    They have the same height over the middle of the box, and so has every mixture; the one that is least deep at its
    deepest corner is taken, which is no deeper than x y itself. At (a, d) and (b, c) all of them touch; at (a, c) the
    mixture's height is a c - share * area, at (b, d) it is b d - (1 - share) * area.
    """
    xp = namespace(left[0])
    (a, b), (c, d) = left, right
    area = (b - a) * (d - c)
    return xp.clip(0.5 + (a * c - b * d) / (2.0 * xp.where(area > 0, area, xp.ones_like(area))), 0.0, 1.0)

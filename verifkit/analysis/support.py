"""The least value of a linear function over a region: what ends every backward pass.

Over a box it is attained at a corner, over a ball it is the dual norm's c . x0 - radius |c|_q. Over a ball that a box
clips, c is split: c = p + s gives  min c . x  >=  (p . x0 - radius |p|_q) + min over the box of s . x  for *any* p.
The optimal p belongs to a one-dimensional family. In l2, with  x(t) = clip(x0 - t c),  it is  p = (x0 - x(t)) / t  for
the t at which |x(t) - x0| = radius, also where x0 lies outside the box; in l1, with entries filled up in the order of
|c|, it is c cut off at the size of the entry with which the radius is spent, where x0 lies inside (`region` sees to
that). So a search for t costs tightness where it stops early, never soundness.

Sources: Zhang et al. 2018 (CROWN), corollary 3.3, for the dual norm; the split is Lagrangian duality (Boyd and
Vandenberghe, "Convex Optimization", 2004, section 5.2).
"""

from __future__ import annotations

import math

from verifkit.analysis.region import Region
from verifkit.analysis.rounding import gamma, inflate, tiny
from verifkit.arrays import Array, namespace

STEPS = 60
"""Of the bisection for the multiplier between an l2 ball and its box: down to the spacing of floats."""


def least_over(coefficients: Array, region: Region) -> tuple[Array, Array]:
    """Least value of coefficients . x over the region, and what rounding may have cost: value - slack is a bound.

    coefficients: (B, R, *input_shape). Both `(B, R)`.
    """
    value, slack = dot_box(coefficients, region.lower, region.upper)
    if region.center is None or region.radius is None:
        return value, slack
    xp = namespace(coefficients)
    for part in _ball_parts(coefficients, region):
        ball, ball_slack = _split(coefficients, part, region)
        better = ball - ball_slack > value - slack
        value, slack = xp.where(better, ball, value), xp.where(better, ball_slack, slack)
    return value, slack


def minimiser(coefficients: Array, region: Region) -> Array:
    """A point of the region (rounding apart) at which coefficients . x is nearly least: (B, R, *input_shape)."""
    xp = namespace(coefficients)
    low, high = region.lower[:, None, ...], region.upper[:, None, ...]
    if region.center is None or region.radius is None:
        return xp.where(coefficients > 0, low, high)
    shape = coefficients.shape
    flat = xp.reshape(coefficients, (*shape[:2], -1))
    downhill, least, most = _ways(flat, region)
    if region.norm == "1":
        steps, _ = _filled(flat, xp.clip(most, 0.0, None), region.radius)
    else:
        steps = _steps(flat, _step_length(flat, least, most, region.radius), least, most)
    moved = xp.reshape(downhill * steps, shape)
    return xp.minimum(xp.maximum(region.center[:, None, ...] + moved, low), high)


def dot_box(coefficients: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Least value of coefficients . x over the box, and what rounding may have cost: both `(B, R)`.

    coefficients: (B, R, *shape); lower, upper: (B, *shape).
    """
    xp = namespace(coefficients)
    batch, count = coefficients.shape[:2]
    flat = xp.reshape(coefficients, (batch, count, -1))
    low, high = (xp.reshape(end, (batch, -1, 1)) for end in (lower, upper))
    entries = flat.shape[2]
    middle = low / 2 + high / 2
    half = inflate(xp.maximum(high - middle, middle - low))
    if bool(xp.all(xp.isfinite(half))):
        sizes = xp.abs(flat) @ xp.concat([half, xp.abs(middle) + half], axis=-1)
        value, size = (flat @ middle)[..., 0] - sizes[..., 0], sizes[..., 1]
    else:
        # 0 * inf is NaN: an entry without weight costs nothing even where its bound is infinite.
        positive = xp.clip(flat, 0.0, None)
        negative = flat - positive  # exact
        below = xp.where(positive > 0, positive * xp.matrix_transpose(low), 0.0 * positive)
        above = xp.where(negative < 0, negative * xp.matrix_transpose(high), 0.0 * negative)
        value = xp.sum(below + above, axis=-1)
        size = xp.sum(xp.abs(below) + xp.abs(above), axis=-1)
    return value, gamma(2 * entries + 4, size) * size + 4 * entries * tiny(size)


def _split(coefficients: Array, part: Array, region: Region) -> tuple[Array, Array]:
    """The bound with `part` over the ball and the rest over the box; parts of rows `(B, R, n)`."""
    xp = namespace(coefficients)
    assert region.center is not None
    assert region.radius is not None
    batch, count, entries = part.shape
    flat = xp.reshape(coefficients, (batch, count, -1))
    center = xp.reshape(region.center, (batch, -1, 1))
    radius = region.radius[:, None]
    dual = largest = xp.max(xp.abs(part), axis=-1)
    if region.norm == "2":  # scaled by the largest entry: squares of small ones would underflow, of large ones overflow
        unit = xp.where(largest > 0, largest, xp.ones_like(largest))
        dual = largest * xp.linalg.vector_norm(part / unit[..., None], axis=-1) + tiny(largest)
    value = (part @ center)[..., 0] - radius * dual
    size = (xp.abs(part) @ xp.abs(center))[..., 0] + radius * dual
    slack = gamma(2 * entries + 8, size) * size + 2 * (entries + 1) * tiny(size) * (1.0 + radius)
    rest = flat - part
    if not bool(xp.any(rest != 0)):
        return value, slack
    boxed, box_slack = dot_box(xp.reshape(rest, coefficients.shape), region.lower, region.upper)
    # flat - part was rounded, by at most u |rest| in each entry.
    reach = xp.maximum(xp.abs(region.lower), xp.abs(region.upper))
    lost = gamma(entries + 3, size) * (xp.abs(rest) @ xp.reshape(reach, (batch, -1, 1)))[..., 0]
    total = value + boxed
    return total, slack + box_slack + lost + gamma(2, size) * (xp.abs(value) + xp.abs(boxed))


def _ball_parts(coefficients: Array, region: Region) -> list[Array]:
    """What of the rows to bound over the ball: all of it, and where the box clips the ball the optimal part."""
    xp = namespace(coefficients)
    assert region.radius is not None
    flat = xp.reshape(coefficients, (*coefficients.shape[:2], -1))
    downhill, least, most = _ways(flat, region)
    radius = region.radius[:, None, None]
    if not bool(xp.any(most < radius)):
        return [flat]
    if region.norm == "1":
        _, level = _filled(flat, xp.clip(most, 0.0, None), region.radius)
        part = xp.sign(flat) * xp.minimum(xp.abs(flat), level)
    else:
        t = _step_length(flat, least, most, region.radius)
        usable = xp.isfinite(t) & (t > 0)
        # Not steps / t, which would round where the box is out of reach: there it is the coefficient itself.
        t = xp.where(usable, t, xp.ones_like(t))
        part = -downhill * xp.minimum(xp.maximum(xp.abs(flat), least / t), most / t)
        part = xp.where(usable, part, xp.zeros_like(part))
    return [flat, xp.where(xp.isfinite(part), part, xp.zeros_like(part))]


def _ways(flat: Array, region: Region) -> tuple[Array, Array, Array]:
    """Which way is downhill for each entry of the rows (B, R, n), 1 or -1, and how far that way from the center the box
    begins and ends, all (B, R, n). Beginning is at most 0 and ending at least 0 for a center inside the box.
    """
    xp = namespace(flat)
    assert region.center is not None
    low, high, middle = (xp.reshape(a, (flat.shape[0], 1, -1)) for a in (region.lower, region.upper, region.center))
    falls = flat > 0
    downhill = xp.where(falls, -xp.ones_like(flat), xp.ones_like(flat))
    return downhill, xp.where(falls, middle - high, low - middle), xp.where(falls, middle - low, high - middle)


def _filled(flat: Array, gaps: Array, radius: Array) -> tuple[Array, Array]:
    """In l1: how far each entry moves if the steepest move first, and the slope (B, R, 1) at which the radius ends."""
    xp = namespace(flat)
    size = xp.abs(flat)
    order = xp.argsort(-size, axis=-1)
    ordered = xp.take_along_axis(gaps, order, axis=-1)
    spent = xp.cumulative_sum(ordered, axis=-1)
    left = radius[:, None, None] - (spent - ordered)
    steps = xp.minimum(xp.maximum(left, xp.zeros_like(left)), ordered)
    level = xp.max(xp.where(spent >= radius[:, None, None], xp.take_along_axis(size, order, axis=-1), 0.0 * size),
                   axis=-1, keepdims=True)  # fmt: skip
    back = xp.argsort(order, axis=-1)
    return xp.take_along_axis(steps, back, axis=-1), level


def _steps(flat: Array, t: Array, least: Array, most: Array) -> Array:
    """How far each entry is downhill from the center in x(t), (B, R, n); t: (B, R, 1)."""
    xp = namespace(flat)
    # An infinite step goes all the way to the box, but for entries without a slope: 0 * inf is NaN.
    step = xp.where(flat == 0, xp.zeros_like(flat), t * xp.abs(flat))
    return xp.minimum(xp.maximum(step, least), most)


def _step_length(flat: Array, least: Array, most: Array, radius: Array) -> Array:
    """In l2: t (B, R, 1) with |x(t) - x0| = radius; infinite where the box lies inside the ball."""
    xp = namespace(flat)
    size = xp.abs(flat)
    target = radius[:, None, None]
    largest = xp.max(size, axis=-1, keepdims=True)
    usable = largest > 0
    size = size / xp.where(usable, largest, xp.ones_like(largest))

    def short(t: Array) -> Array:
        return xp.linalg.vector_norm(_steps(size, t, least, most), axis=-1, keepdims=True) < target

    length = xp.linalg.vector_norm(size, axis=-1, keepdims=True)
    high = target / xp.where(usable, length, xp.ones_like(length))
    # Without the box, or with one around the center, that is the least it can be.
    outside = xp.any((least > 0) | (most < 0), axis=-1, keepdims=True)
    low = xp.where(outside, xp.zeros_like(high), high)
    for _ in range(STEPS):
        shorter = short(high)
        if not bool(xp.any(shorter)):
            break
        low, high = xp.where(shorter, high, low), xp.where(shorter, 2.0 * high, high)
    inside = short(high)
    for _ in range(STEPS):
        middle = low / 2 + high / 2
        shorter = short(middle)
        low, high = xp.where(shorter, middle, low), xp.where(shorter, high, middle)
    t = high / xp.where(usable, largest, xp.ones_like(largest))
    return xp.where(inside | ~usable, xp.full_like(t, math.inf), t)

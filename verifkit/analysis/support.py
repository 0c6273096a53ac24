"""The least value of a linear function over a region: what ends every backward pass.

Over a box it is attained at a corner, over a ball it is the dual norm's c . x0 - radius |c|_q. Over a ball that a box
clips, c is split: c = p + s gives  min c . x  >=  (p . x0 - radius |p|_q) + min over the box of s . x  for *any* p.
The optimal p belongs to a one-dimensional family. In l2, with  x(t) = clip(x0 - t c),  it is  p = (x0 - x(t)) / t  for
the t at which |x(t) - x0| = radius; in l1, with entries filled up in the order of |c|, it is c cut off at the size of
the entry with which the radius is spent. So a search for t costs tightness where it stops early, never soundness.

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
    center, gaps = _gaps(coefficients, region)
    shape = coefficients.shape
    flat = xp.reshape(coefficients, (*shape[:2], -1))
    if region.norm == "1":
        steps, _ = _filled(flat, gaps, region.radius)
        moved = -xp.sign(flat) * steps
    else:
        t = _step_length(flat, gaps, region.radius)
        # An infinite step goes all the way to the box, but for entries without a slope: 0 * inf is NaN.
        step = xp.where(flat == 0, xp.zeros_like(flat), t * xp.abs(flat))
        moved = -xp.sign(flat) * xp.minimum(step, gaps)
    return xp.minimum(xp.maximum(center + xp.reshape(moved, shape), low), high)


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
    _, gaps = _gaps(coefficients, region)
    radius = region.radius[:, None, None]
    if not bool(xp.any(gaps < radius)):
        return [flat]
    size = xp.abs(flat)
    if region.norm == "1":
        _, level = _filled(flat, gaps, region.radius)
        part = xp.sign(flat) * xp.minimum(size, level)
    else:
        t = _step_length(flat, gaps, region.radius)
        usable = xp.isfinite(t) & (t > 0)
        part = xp.sign(flat) * xp.minimum(size, gaps / xp.where(usable, t, xp.ones_like(t)))
        part = xp.where(usable, part, xp.zeros_like(part))
    return [flat, xp.where(xp.isfinite(part), part, xp.zeros_like(part))]


def _gaps(coefficients: Array, region: Region) -> tuple[Array, Array]:
    """The center, and how far each entry can move from it, downhill, before it meets the box: (B, R, n), not < 0."""
    xp = namespace(coefficients)
    assert region.center is not None
    batch = coefficients.shape[0]
    center = region.center[:, None, ...]
    flat = xp.reshape(coefficients, (*coefficients.shape[:2], -1))
    low, high, middle = (xp.reshape(a, (batch, 1, -1)) for a in (region.lower, region.upper, region.center))
    gaps = xp.where(flat > 0, middle - low, high - middle)
    return center, xp.maximum(gaps, xp.zeros_like(gaps))


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


def _step_length(flat: Array, gaps: Array, radius: Array) -> Array:
    """In l2: t (B, R, 1) with |min(t |c|, gaps)| = radius; infinite where the box lies inside the ball."""
    xp = namespace(flat)
    size = xp.abs(flat)
    target = radius[:, None, None]
    largest = xp.max(size, axis=-1, keepdims=True)
    usable = largest > 0
    size = size / xp.where(usable, largest, xp.ones_like(largest))
    length = xp.linalg.vector_norm(size, axis=-1, keepdims=True)
    low = target / xp.where(usable, length, xp.ones_like(length))  # without the box: the least it can be
    high = low
    for _ in range(STEPS):
        short = xp.linalg.vector_norm(xp.minimum(high * size, gaps), axis=-1, keepdims=True) < target
        if not bool(xp.any(short)):
            break
        low, high = xp.where(short, high, low), xp.where(short, 2.0 * high, high)
    inside = xp.linalg.vector_norm(xp.minimum(high * size, gaps), axis=-1, keepdims=True) < target
    for _ in range(STEPS):
        middle = low / 2 + high / 2
        short = xp.linalg.vector_norm(xp.minimum(middle * size, gaps), axis=-1, keepdims=True) < target
        low, high = xp.where(short, middle, low), xp.where(short, high, middle)
    t = high / xp.where(usable, largest, xp.ones_like(largest))
    return xp.where(inside | ~usable, xp.full_like(t, math.inf), t)

"""The nearest point of an l1 or l2 ball cut by a box: exact, apart from rounding.

Both are a clipped copy of the point under one multiplier, on which the norm depends monotonically. Sources: Duchi et
al., "Efficient projections onto the l1-ball for learning in high dimensions", ICML 2008; with a box, Croce and Hein,
"Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML 2021.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 50
"""At most, of the search for a multiplier in l2."""

TINY = float(np.finfo(np.float64).tiny)


def onto_l2(gap: np.ndarray, radius: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The nearest points of {|g|_2 <= radius, low <= g <= high}; gap (B, n), radius (B, 1), low and high (1, n).

    They are clip(t * gap, low, high) for the largest t in [0, 1] that the radius allows.
    """
    t = np.minimum(1.0, radius / np.maximum(np.linalg.norm(gap, axis=1, keepdims=True), TINY))
    if ((low > 0) | (high < 0)).any():  # the center lies outside the box
        t = _bisected(gap, radius, low, high)
        return np.asarray(np.clip(t * gap, low, high))
    # Entries that the box holds stay held as t grows: so t rises to its value by solving for the others alone.
    for _ in range(ROUNDS):
        held = (t * gap < low) | (t * gap > high)
        if not held.any():
            break
        spent = np.where(held, np.clip(t * gap, low, high), 0.0)
        left = np.sqrt(np.maximum(radius**2 - (spent**2).sum(axis=1, keepdims=True), 0.0))
        others = np.linalg.norm(np.where(held, 0.0, gap), axis=1, keepdims=True)
        larger = np.clip(left / np.maximum(others, TINY), t, 1.0)
        if not (larger > t * (1.0 + 1e-9)).any():
            break
        t = larger
    return np.asarray(np.clip(t * gap, low, high))


def _bisected(gap: np.ndarray, radius: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The largest t in [0, 1], (B, 1), with |clip(t * gap, low, high)|_2 <= radius; 0 where there is none."""
    least, most = np.zeros_like(radius), np.ones_like(radius)
    for _ in range(ROUNDS):
        inside = np.linalg.norm(np.clip(most * gap, low, high), axis=1, keepdims=True) <= radius
        middle = (least + most) / 2
        fits = np.linalg.norm(np.clip(middle * gap, low, high), axis=1, keepdims=True) <= radius
        least = np.where(inside, most, np.where(fits, middle, least))
        most = np.where(inside | fits, most, middle)
    return least


def onto_l1(gap: np.ndarray, radius: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The nearest points of {|g|_1 <= radius, low <= g <= high}; shapes as `onto_l2`.

    They are g with |g| lowered by one level for all entries, and clipped. The norm falls with the level in straight
    pieces; the level at which it is the radius is found among their sorted ends.
    """
    moved = np.clip(gap, low, high)
    outside = np.flatnonzero(np.abs(moved).sum(axis=1) > radius[:, 0])
    if not outside.size:
        return np.asarray(moved)
    part, limit = gap[outside], radius[outside, 0]
    size, flipped = np.abs(part), part < 0
    near, far = np.where(flipped, -high, low), np.where(flipped, -low, high)
    least = np.maximum(np.maximum(near, -far), 0.0)  # an entry's size ends between these two, whatever the level
    most = np.maximum(far, least)
    ends = np.maximum(np.concatenate([size - most, size - least], axis=1), 0.0)
    order = np.argsort(ends, axis=1)
    ends = np.take_along_axis(ends, order, axis=1)
    falling = np.cumsum(np.where(order < size.shape[1], 1.0, -1.0), axis=1)  # entries that fall, after each end
    norms = np.clip(size, least, most).sum(axis=1, keepdims=True)
    norms = norms - np.cumsum(np.diff(ends, axis=1) * falling[:, :-1], axis=1)  # at each end but the first
    piece = np.minimum((norms > limit[:, None]).sum(axis=1), norms.shape[1] - 1)
    rows = np.arange(outside.size)
    short = np.maximum(limit - norms[rows, piece], 0.0)
    level = ends[rows, piece + 1] - short / np.maximum(falling[rows, piece], 1.0)
    moved[outside] = np.clip(np.sign(part) * np.maximum(size - level[:, None], 0.0), low, high)
    return np.asarray(moved)

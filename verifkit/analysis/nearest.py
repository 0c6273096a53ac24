"""From points that an attack found to the upper end of a radius: the nearest of them that a replay confirms."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from verifkit.analysis.attack import clip_ends, losses_of, surroundings
from verifkit.analysis.rows import Rows
from verifkit.confirm import confirm
from verifkit.input_sets import float_above, rational
from verifkit.query import QueryFamily

PUSHES = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""How far, relative, a point on the boundary is moved outward so that it is unsafe in the model's own floats, too."""

RESOLUTION = 1e-7
"""Relative, of the place at which a ray turns unsafe."""

MOST_REPLAYS = 16
"""Points that are put to the exact replay before the search gives up."""


def nearest_unsafe(family: QueryFamily, rows: Rows, found: np.ndarray) -> tuple[float, np.ndarray] | None:
    """The smallest radius at which one of the points is a confirmed witness, and the input to feed there (flat).

    found: (B, n_inputs), unsafe or nearly so; each is moved along its ray from the center to where the model's outputs
    turn unsafe. The radius is the exact distance, rounded up. None where no point is confirmed.
    """
    if not len(found):
        return None
    center, dtype = np.array([float(c) for c in family.center]), family.model.dtype
    low, high = clip_ends(family)

    def fed(scale: np.ndarray) -> np.ndarray:
        points = (center + (found - center) * scale[:, None]).astype(dtype).astype(np.float64)
        return np.asarray(np.clip(points, low, high))

    def unsafe(scale: np.ndarray) -> np.ndarray:
        x = fed(scale)
        return np.asarray(losses_of(rows, family.model(x), x)[0].min(axis=1) <= 0)

    outer = np.full(found.shape[0], np.inf)
    for push in PUSHES[::-1]:
        scale = np.full(found.shape[0], 1.0 + push)
        outer = np.where(unsafe(scale), scale, outer)
    inner = np.zeros_like(outer)
    found, outer, inner = (a[np.isfinite(outer)] for a in (found, outer, inner))
    if not len(found):
        return None
    while (outer - inner > RESOLUTION * outer).any():
        middle = (inner + outer) / 2
        hit = unsafe(middle)
        inner, outer = np.where(hit, inner, middle), np.where(hit, middle, outer)
    points = np.concatenate([fed(outer * (1.0 + push)) for push in PUSHES[:4]])
    order = np.argsort(surroundings(family).distance(points.reshape(-1, *family.model.input_shape)))
    for x in points[order[:MOST_REPLAYS]]:
        radius = _exact_distance(family, x)
        if confirm(family.at(rational(radius)), x) is not None:
            return radius, x
    return None


def _exact_distance(family: QueryFamily, x: np.ndarray) -> float:
    """The least float that is no smaller than the exact distance of `x` (flat) from the center."""
    gaps = [abs(Fraction(v) - c) for v, c in zip(x.tolist(), family.center, strict=True)]
    if family.norm == "inf":
        return float(float_above([max(gaps)])[0])
    if family.norm == "1":
        return float(float_above([sum(gaps, Fraction(0))])[0])
    square = sum((g * g for g in gaps), Fraction(0))
    root = math.sqrt(square)
    while Fraction(root) ** 2 < square:
        root = math.nextafter(root, math.inf)
    return root

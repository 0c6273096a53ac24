"""The numeric view of an input set: floats that contain it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from verifkit.analysis.rounding import above_in, below_in
from verifkit.arrays import Array, namespace
from verifkit.errors import PropertyError
from verifkit.input_sets import Box, InputSet, LpBall, float_above, float_below, root_above
from verifkit.maps import Shape
from verifkit.query import Query


@dataclass(frozen=True, eq=False)
class Region:
    """A batch of input sets of one shape, each contained in what is stored.

    lower, upper: (B, *input_shape), the effective box, or the ball's bounding box. center (B, *input_shape), radius
    (B,) and norm ("1" or "2") describe the ball where there is one; the set is then the intersection of both. The
    center of an l2 ball may lie outside the box; that of an l1 ball does so at most by rounding.
    """

    lower: Array
    upper: Array
    center: Array | None = None
    radius: Array | None = None
    norm: str = "inf"

    @property
    def batch(self) -> int:
        return int(self.lower.shape[0])

    def single(self) -> list[Region]:
        """The regions one by one, each a batch of one."""
        return [
            Region(
                self.lower[b : b + 1],
                self.upper[b : b + 1],
                None if self.center is None else self.center[b : b + 1],
                None if self.radius is None else self.radius[b : b + 1],
                self.norm,
            )
            for b in range(self.batch)
        ]


def stacked(regions: Sequence[Region]) -> list[tuple[list[int], Region]]:
    """Batches of the regions that are of one kind, each with the places of its entries."""
    groups: dict[object, list[int]] = {}
    for place, region in enumerate(regions):
        groups.setdefault((region.norm, region.center is None, region.lower.shape), []).append(place)
    return [(places, _stack([regions[place] for place in places])) for places in groups.values()]


def _stack(regions: Sequence[Region]) -> Region:
    first = regions[0]
    if len(regions) == 1:
        return first
    lower, upper = (np.concatenate([getattr(r, end) for r in regions]) for end in ("lower", "upper"))
    if first.center is None:
        return Region(lower, upper)
    center, radius = (np.concatenate([getattr(r, part) for r in regions]) for part in ("center", "radius"))
    return Region(lower, upper, center, radius, first.norm)


def region_of(query: Query, dtype: type[np.floating[Any]] = np.float64) -> Region:
    """The region of one query, a batch of one, in floats of `dtype`."""
    return _region(query.prop.input_set, query.model.input_shape, query.model.dtype, dtype)


def _region(inputs: InputSet, shape: Shape, kind: type[np.floating[Any]], dtype: type[np.floating[Any]]) -> Region:
    """kind: the model's floats, to which a box is widened."""
    box = inputs if isinstance(inputs, Box) else inputs.bounding_box()
    ends = box.floats(kind) if isinstance(inputs, Box) else (float_below(box.lower), float_above(box.upper))
    lower, upper = below_in(ends[0], dtype).reshape(1, *shape), above_in(ends[1], dtype).reshape(1, *shape)
    # Of an l0 ball, where at most k entries differ, only the bounding box is used.
    if isinstance(inputs, Box) or inputs.norm in ("0", "inf"):
        return Region(lower, upper)
    ball = _rounded(inputs, dtype)
    if ball is None:
        return Region(lower, upper)
    return Region(lower, upper, ball[0].reshape(1, *shape), ball[1], inputs.norm)


def _rounded(ball: LpBall, dtype: type[np.floating[Any]]) -> tuple[np.ndarray, np.ndarray] | None:
    """A center (n,) and a radius (1,) in floats: with the bounding box, all of the ball that lies in its clip box.

    None where they are beyond all floats: the bounding box is all there is then. In l1 every point of the clip box is
    as far from a center outside as from the point of the box that is nearest to it, and from there to the center: the
    ball around that point, smaller by that, is the same set. In l2 it would be a larger one.
    """
    center, radius = ball.center, ball.radius
    if ball.norm == "1":
        center = ball.nearest
        radius = radius - sum((abs(p - c) for p, c in zip(center, ball.center, strict=True)), Fraction(0))
    try:
        with np.errstate(over="ignore", under="ignore"):
            near = np.array([float(c) for c in center]).astype(dtype)
        # The stored center is off by the rounding of each entry.
        gaps = [abs(Fraction(f) - c) for f, c in zip(near.tolist(), center, strict=True)]
        shift = sum(gaps, Fraction(0)) if ball.norm == "1" else root_above(sum((g * g for g in gaps), Fraction(0)))
        return near, float_above([radius + shift], dtype)
    except (OverflowError, PropertyError):
        return None


def member(query: Query) -> np.ndarray:
    """An input of the query's (effective) set, (n_inputs,): exact, as fractions, for a ball."""
    inputs = query.prop.input_set
    if isinstance(inputs, Box):
        lower, upper = inputs.floats(query.model.dtype)
        return np.asarray(lower / 2 + upper / 2)
    found = list(inputs.center)
    if inputs.clip is not None:
        ends = zip(found, inputs.clip.lower, inputs.clip.upper, strict=True)
        found = [min(max(value, low), high) for value, low, high in ends]
    return np.array(found, dtype=object)


def magnitude(lower: Array, upper: Array) -> Array:
    """max(|lower|, |upper|), entry by entry: exact."""
    xp = namespace(lower)
    return xp.maximum(xp.abs(lower), xp.abs(upper))

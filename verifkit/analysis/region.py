"""The numeric view of an input set: floats that contain it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from verifkit.arrays import Array, namespace
from verifkit.errors import PropertyError
from verifkit.input_sets import Box, InputSet, float_above, float_below
from verifkit.maps import Shape
from verifkit.query import Query


@dataclass(frozen=True, eq=False)
class Region:
    """A batch of input sets of one shape, each contained in what is stored.

    lower, upper: (B, *input_shape), the effective box, or the ball's bounding box. center (B, *input_shape), radius
    (B,) and norm ("1" or "2") describe the ball where there is one; the set is then the intersection of both.
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


def region_of(query: Query) -> Region:
    """The region of one query, a batch of one, in float64."""
    return _region(query.prop.input_set, query.model.input_shape, query.model.dtype)


def _region(inputs: InputSet, shape: Shape, dtype: type[np.floating[Any]]) -> Region:
    if isinstance(inputs, Box):
        lower, upper = inputs.floats(dtype)
        return Region(lower.reshape(1, *shape), upper.reshape(1, *shape))
    box = inputs.bounding_box()
    lower, upper = float_below(box.lower), float_above(box.upper)
    if inputs.norm in ("0", "inf"):  # of an l0 ball, where at most k entries differ, only the bounding box is used
        return Region(lower.reshape(1, *shape), upper.reshape(1, *shape))
    center = np.array([float(c) for c in inputs.center])
    # The stored center is off by the rounding of each entry; in the l1 norm that bounds the shift in l2 as well.
    shift = sum((abs(Fraction(f) - c) for f, c in zip(center.tolist(), inputs.center, strict=True)), Fraction(0))
    try:
        radius = float_above([inputs.radius + shift])
    except PropertyError:  # a radius beyond all floats: the clip box is all there is
        return Region(lower.reshape(1, *shape), upper.reshape(1, *shape))
    return Region(lower.reshape(1, *shape), upper.reshape(1, *shape), center.reshape(1, *shape), radius, inputs.norm)


def magnitude(lower: Array, upper: Array) -> Array:
    """max(|lower|, |upper|), entry by entry: exact."""
    xp = namespace(lower)
    return xp.maximum(xp.abs(lower), xp.abs(upper))

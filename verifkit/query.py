"""A question: a model and a property; and a family of questions with the radius left open."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from verifkit.errors import PropertyError, UnsupportedOperator
from verifkit.input_sets import (
    Box,
    InputSet,
    LpBall,
    Norm,
    Number,
    ball,
    center_in,
    clip_box,
    float_above,
    root_above,
)
from verifkit.model import Model
from verifkit.network import Network
from verifkit.properties import Polyhedron, Property, misclassified


@dataclass(frozen=True, eq=False)
class Query:
    """Does `model` keep the property `prop`? Raises `PropertyError` on construction if their sizes differ."""

    model: Model
    prop: Property

    def __post_init__(self) -> None:
        self.model.check_fits(self.prop)

    @cached_property
    def digest(self) -> str:
        """sha256 over the model's content and the canonical property."""
        return hashlib.sha256(f"{self.model.digest} {self.prop.digest}".encode()).hexdigest()

    @property
    def norm(self) -> Norm:
        """The norm of the input set; a box counts as "inf"."""
        return input_norm(self.prop.input_set)

    @property
    def network(self) -> Network:
        """The white box; raises `UnsupportedOperator` for a model that has none (capabilities rule this out)."""
        if self.model.network is None:
            raise self.model.unsupported or UnsupportedOperator(self.model.name, "callable", 0, "it is a black box")
        return self.model.network

    def cases(self) -> tuple[Query, ...]:
        """One query for each distinct input region of the property; the query holds iff all of them do."""
        return tuple(Query(self.model, case) for case in self.prop.cases())


def input_norm(region: InputSet) -> Norm:
    return region.norm if isinstance(region, LpBall) else "inf"


@dataclass(frozen=True, eq=False)
class QueryFamily:
    """The queries about balls around `center`, one for each radius.

    Raises `PropertyError` for a center outside the clip box: nothing would be left of the smallest balls.

    center: flat, exact. norm: "0", "1", "2" or "inf". unsafe: as in `Property`. clip: the inputs that exist at all.
    """

    model: Model
    center: tuple[Fraction, ...]
    norm: Norm
    unsafe: tuple[Polyhedron, ...]
    clip: Box | None = None

    def __post_init__(self) -> None:
        if self.clip is None or self.clip.size != len(self.center):
            return  # sizes are compared where a ball is made
        for i, (low, c, high) in enumerate(zip(self.clip.lower, self.center, self.clip.upper, strict=True)):
            if not low <= c <= high:
                value, *ends = map(_shown, (c, low, high))
                raise PropertyError(
                    f"the input lies outside its clip box: entry {i} is {value}, which is not in [{', '.join(ends)}]"
                )

    def at(self, radius: Number) -> Query:
        """The query with this radius."""
        region = ball(self.center, radius, self.norm, self.clip)
        return Query(self.model, Property(region, self.unsafe, self.model.n_outputs))

    @property
    def reach(self) -> Fraction | None:
        """The distance from the center to the clip box's farthest point, in this norm: no larger ball says more.

        In l2 the least float that is no smaller.
        """
        if self.clip is None:
            return None
        ends = zip(self.center, self.clip.lower, self.clip.upper, strict=True)
        gaps = [max(c - low, high - c) for c, low, high in ends]
        if self.norm == "inf":
            return max(gaps)
        if self.norm == "1":
            return sum(gaps, Fraction(0))
        if self.norm == "0":
            return Fraction(sum(gap != 0 for gap in gaps))
        square = sum((gap * gap for gap in gaps), Fraction(0))
        return Fraction(float(float_above([root_above(square)])[0]))


def _shown(value: Fraction) -> str:
    try:
        return f"{float(value):g}"
    except OverflowError:
        return "beyond all floats"


def robustness_family(
    model: Model, x: Any, label: int, norm: Norm = "inf", clip: Box | tuple[Number, Number] | None = None
) -> QueryFamily:
    """The family "every input within the radius of `x` is classified `label`".

    x: array of any shape or sequence of numbers, flattened in C order. clip: a box, or one (low, high) pair for every
    input. Otherwise as `robustness`.
    """
    box = clip_box(clip, np.asarray(x).size)
    family = QueryFamily(model, center_in(x, box), norm, misclassified(label, model.n_outputs), box)
    family.at(0)  # raises what every radius would
    return family

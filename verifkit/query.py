"""A question: a model and a property; and a family of questions with the radius left open."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from verifkit.errors import UnsupportedOperator
from verifkit.input_sets import Box, InputSet, LpBall, Norm, Number, ball, clip_box
from verifkit.model import Model
from verifkit.network import Network
from verifkit.properties import Polyhedron, Property, robustness


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

    center: flat, exact. norm: "0", "1", "2" or "inf". unsafe: as in `Property`. clip: the inputs that exist at all.
    """

    model: Model
    center: tuple[Fraction, ...]
    norm: Norm
    unsafe: tuple[Polyhedron, ...]
    clip: Box | None = None

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
        root = math.sqrt(square)
        return Fraction(root if Fraction(root) ** 2 >= square else math.nextafter(root, math.inf))


def robustness_family(
    model: Model, x: Any, label: int, norm: Norm = "inf", clip: Box | tuple[Number, Number] | None = None
) -> QueryFamily:
    """The family "every input within the radius of `x` is classified `label`".

    x: array of any shape or sequence of numbers, flattened in C order. clip: a box, or one (low, high) pair for every
    input. Otherwise as `robustness`.
    """
    at_zero = robustness(x, label, 0, norm, n_outputs=model.n_outputs, clip=clip)
    center = at_zero.input_set.lower if isinstance(at_zero.input_set, Box) else at_zero.input_set.center
    box = clip_box(clip, len(center))
    return QueryFamily(model, center, norm, at_zero.unsafe, box)

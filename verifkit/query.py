"""A question: a model and a property; and a family of questions with the radius left open."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from verifkit.errors import UnsupportedOperator
from verifkit.model import Model
from verifkit.network import Network
from verifkit.properties import Box, InputSet, LpBall, Norm, Number, Polyhedron, Property, ball, misclassified


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
        """The l-inf distance from the center to the clip box's farthest face: no larger l-inf ball says more."""
        if self.clip is None:
            return None
        ends = zip(self.center, self.clip.lower, self.clip.upper, strict=True)
        return max(max(c - low, high - c) for c, low, high in ends)


def robustness_family(
    model: Model, center: tuple[Fraction, ...], label: int, norm: Norm, clip: Box | None = None
) -> QueryFamily:
    """The family "every input within the radius of `center` is classified `label`"."""
    return QueryFamily(model, center, norm, misclassified(label, model.n_outputs), clip)

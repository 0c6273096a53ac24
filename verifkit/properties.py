"""What is asked: an input set and an unsafe set in disjunctive normal form.

Numbers are kept as written, as exact rationals. A property *holds* when no input of the set reaches the unsafe set.
Inputs and outputs are flat vectors in C order, in the model's raw input space. The input sets themselves are in
`verifkit.input_sets`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from verifkit.errors import PropertyError
from verifkit.input_sets import Box, InputSet, LpBall, Norm, Number, ball, center_in, clip_box, rational


@dataclass(frozen=True)
class Constraint:
    """sum outputs[j] * y_j + sum inputs[i] * x_i <= bound, or < bound where `strict`.

    Coefficients are (index, rational) pairs, sorted by index, without zeros. A row with input coefficients couples
    input and output; one without output coefficients restricts inputs alone.
    """

    outputs: tuple[tuple[int, Fraction], ...]
    bound: Fraction
    strict: bool = False
    inputs: tuple[tuple[int, Fraction], ...] = ()

    def __post_init__(self) -> None:
        for name in ("outputs", "inputs"):
            terms: dict[int, Fraction] = {}
            for index, value in getattr(self, name):
                terms[int(index)] = terms.get(int(index), Fraction(0)) + rational(value)
            object.__setattr__(self, name, tuple(sorted((i, v) for i, v in terms.items() if v)))
        object.__setattr__(self, "bound", rational(self.bound))

    @cached_property
    def _hash(self) -> int:
        return hash((self.outputs, self.bound, self.strict, self.inputs))

    def __hash__(self) -> int:  # hashing rationals is slow, and large unsafe sets share their rows
        return self._hash

    def value(self, x: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction:
        """The left side, exactly."""
        return sum((v * y[j] for j, v in self.outputs), Fraction(0)) + sum(
            (v * x[i] for i, v in self.inputs), Fraction(0)
        )

    def satisfied(self, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
        value = self.value(x, y)
        return value < self.bound if self.strict else value <= self.bound

    def canonical(self) -> str:
        left = [f"{v}*y{j}" for j, v in self.outputs] + [f"{v}*x{i}" for i, v in self.inputs]
        return " + ".join(left or ["0"]) + (" < " if self.strict else " <= ") + str(self.bound)


@dataclass(frozen=True)
class Polyhedron:
    """One disjunct of the unsafe set: every constraint, and (if given) x inside `box`, holds at once."""

    constraints: tuple[Constraint, ...]
    box: Box | None = None

    def canonical(self) -> str:
        rows = sorted(c.canonical() for c in self.constraints)
        return " and ".join(rows) + ("" if self.box is None else " within " + self.box.canonical())


@dataclass(frozen=True)
class Property:
    """An input set and an unsafe set, the disjunction of `unsafe`.

    `n_outputs` is the length of the flat output vector that the constraints index. An empty disjunction is an unsafe
    set that nothing reaches.
    """

    input_set: InputSet
    unsafe: tuple[Polyhedron, ...]
    n_outputs: int
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.input_set, LpBall) and self.input_set.norm == "inf":  # a box, and every method knows those
            object.__setattr__(self, "input_set", self.input_set.bounding_box())
        if self.n_outputs < 1:
            raise PropertyError(f"a property over {self.n_outputs} outputs")
        for disjunct in self.unsafe:
            if disjunct.box is not None and disjunct.box.size != self.n_inputs:
                raise PropertyError(f"a disjunct's box has {disjunct.box.size} entries, the input set {self.n_inputs}")
            for row in disjunct.constraints:
                if any(not 0 <= j < self.n_outputs for j, _ in row.outputs):
                    raise PropertyError(
                        f"a constraint names an output outside 0..{self.n_outputs - 1}: {row.canonical()}"
                    )
                if any(not 0 <= i < self.n_inputs for i, _ in row.inputs):
                    raise PropertyError(
                        f"a constraint names an input outside 0..{self.n_inputs - 1}: {row.canonical()}"
                    )

    @property
    def n_inputs(self) -> int:
        return self.input_set.size

    @property
    def coupled(self) -> bool:
        """Whether any constraint mentions inputs."""
        return any(row.inputs for disjunct in self.unsafe for row in disjunct.constraints)

    def normal_form(self) -> Property:
        """The same question in the one form that `digest` stands for.

        A row over a single input becomes a bound of its disjunct's box; where strict, the closed bound joins the box
        and the row stays, scaled to a coefficient of 1 or -1, unless the box ends short of it. A box is cut to the
        input set (a ball: to its bounding box) and left out where nothing is lost. Rows of constants, disjuncts that no
        input reaches, repeated rows and repeated disjuncts are dropped. Order is kept.
        """
        region = self.input_set if isinstance(self.input_set, Box) else self.input_set.bounding_box()
        kept: dict[tuple[frozenset[Constraint], Box | None], Polyhedron] = {}
        for disjunct in self.unsafe:
            settled = _settled(disjunct, region)
            if settled is not None:
                kept.setdefault((frozenset(settled.constraints), settled.box), settled)
        return Property(self.input_set, tuple(kept.values()), self.n_outputs, self.name)

    @cached_property
    def digest(self) -> str:
        """sha256 of the normal form's canonical text: the same for any two ways of writing the same normal form."""
        unsafe = sorted(d.canonical() for d in self.normal_form().unsafe)
        parts = [self.input_set.canonical(), str(self.n_outputs), *unsafe]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def cases(self) -> tuple[Property, ...]:
        """The property as a conjunction of properties whose disjuncts carry no box of their own.

        Disjuncts with the same box share a case; one whose box misses the input set, both as written, drops out, and so
        do rows and disjuncts that constants alone settle. Every case holds if and only if the property does.
        """
        unsafe = [settled for settled in map(_without_constants, self.unsafe) if settled is not None]
        if unsafe and all(disjunct.box is None for disjunct in unsafe):
            # Hashing a large input set costs more than all the rest: nothing to group.
            return (self if tuple(unsafe) == self.unsafe else replace(self, unsafe=tuple(unsafe)),)
        groups: dict[InputSet, list[Polyhedron]] = {}
        for disjunct in unsafe:
            region: InputSet | None = self.input_set
            if disjunct.box is not None:
                region = _restrict(self.input_set, disjunct.box)
            if region is not None:
                groups.setdefault(region, []).append(Polyhedron(disjunct.constraints))
        return tuple(Property(region, tuple(rows), self.n_outputs, self.name) for region, rows in groups.items())


def _without_constants(disjunct: Polyhedron) -> Polyhedron | None:
    """The disjunct without rows that always hold; None if a row never does."""
    constant = [row for row in disjunct.constraints if not row.outputs and not row.inputs]
    if not constant:
        return disjunct
    if not all(row.satisfied((), ()) for row in constant):
        return None
    return Polyhedron(tuple(row for row in disjunct.constraints if row.outputs or row.inputs), disjunct.box)


def _restrict(region: InputSet, box: Box) -> InputSet | None:
    if isinstance(region, Box):
        return region.intersection(box)
    clip = box if region.clip is None else region.clip.intersection(box)
    if clip is None:
        return None
    try:
        return LpBall(region.center, region.radius, region.norm, clip)
    except PropertyError:  # the ball does not meet the smaller clip box
        return None


def _settled(disjunct: Polyhedron, region: Box) -> Polyhedron | None:
    """A disjunct in normal form within `region`, or None where no input of the region reaches it."""
    rows: dict[Constraint, None] = {}
    bounds: list[Constraint] = []
    for row in disjunct.constraints:
        if row.outputs or len(row.inputs) > 1:
            rows[row] = None
        elif row.inputs:
            bounds.append(row)
        elif not row.satisfied((), ()):
            return None
    box = region if disjunct.box is None else region.intersection(disjunct.box)
    if box is not None and bounds:
        box = _tightened(box, bounds, rows)
    if box is None:
        return None
    shown = None if box is region or box == region else box
    if not bounds and shown is disjunct.box and len(rows) == len(disjunct.constraints):
        return disjunct
    return Polyhedron(tuple(rows), shown)


def _tightened(box: Box, bounds: Sequence[Constraint], rows: dict[Constraint, None]) -> Box | None:
    """The box cut by rows over one input each, or None where it is empty; strict rows that touch it go to `rows`."""
    lower, upper = list(box.lower), list(box.upper)
    strict: list[tuple[int, bool, Fraction]] = []
    for row in bounds:
        ((i, scale),) = row.inputs
        end = row.bound / scale
        if scale > 0:
            upper[i] = min(upper[i], end)
        else:
            lower[i] = max(lower[i], end)
        if row.strict:
            strict.append((i, scale > 0, end))
    if any(lower[i] > upper[i] for i in {row.inputs[0][0] for row in bounds}):
        return None
    for i, above, end in strict:
        if end == (upper[i] if above else lower[i]):
            if lower[i] == upper[i]:
                return None
            sign = Fraction(1 if above else -1)
            rows[Constraint(outputs=(), bound=sign * end, strict=True, inputs=((i, sign),))] = None
    return Box(tuple(lower), tuple(upper))


def misclassified(label: int, n_outputs: int) -> tuple[Polyhedron, ...]:
    """The unsafe set of a classifier that should answer `label`: some other class scores at least as high."""
    if not 0 <= label < n_outputs:
        raise PropertyError(f"label {label} is outside 0..{n_outputs - 1}")
    one = Fraction(1)
    return tuple(
        Polyhedron((Constraint(outputs=((label, one), (j, -one)), bound=Fraction(0)),))
        for j in range(n_outputs)
        if j != label
    )


def robustness(
    x: Any,
    label: int,
    radius: Number,
    norm: Norm | str | float = "inf",
    *,
    n_outputs: int,
    clip: Box | tuple[Number, Number] | None = None,
    name: str = "",
) -> Property:
    """Local robustness: every input within `radius` of `x` (in `norm`, raw input units) is classified `label`.

    x: array of any shape, flattened in C order. clip: a box, or one (low, high) pair for every input; an entry that is
    the box's end as x's floats have it counts as that end. A tie with another class is not robust.
    """
    box = clip_box(clip, np.asarray(x).size)
    return Property(ball(center_in(x, box), radius, norm, box), misclassified(label, n_outputs), n_outputs, name)

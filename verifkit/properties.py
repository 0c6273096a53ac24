"""What is asked: an input set and an unsafe set in disjunctive normal form.

Numbers are kept as written, as exact rationals. A property *holds* when no input of the set reaches the unsafe set.
Inputs and outputs are flat vectors in C order, in the model's raw input space.

Two boxes go with every property: the box as written, and the *effective* box, widened to the nearest float32 (or
float64, for a double-precision model) values on each side, because a deployed network can only be fed floats. HOLDS
covers both; a witness lies in the effective one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import numpy as np

from verifkit.errors import PropertyError

Norm = Literal["0", "1", "2", "inf"]
Number = int | float | Fraction | str


def rational(value: Any) -> Fraction:
    """The exact value of an int, float, NumPy scalar, Fraction or decimal string; raises `PropertyError`."""
    try:
        if isinstance(value, np.generic):
            value = value.item()
        return Fraction(value)
    except (ValueError, OverflowError, TypeError, ZeroDivisionError):
        raise PropertyError(f"{value!r} is not a finite number") from None


def _rationals(values: Any, what: str) -> tuple[Fraction, ...]:
    flat = values.reshape(-1).tolist() if isinstance(values, np.ndarray) else list(values)
    if not flat:
        raise PropertyError(f"{what} is empty")
    return tuple(v if type(v) is Fraction else rational(v) for v in flat)


def float_below(values: Iterable[Fraction], dtype: type[np.floating[Any]] = np.float64) -> np.ndarray:
    """The largest floats of `dtype` that are <= the values, as an array of `dtype`.

    Raises `PropertyError` for a value below the smallest finite float.
    """
    return _directed(values, dtype, up=False)


def float_above(values: Iterable[Fraction], dtype: type[np.floating[Any]] = np.float64) -> np.ndarray:
    """The smallest floats of `dtype` that are >= the values, as an array of `dtype`.

    Raises `PropertyError` for a value above the largest finite float.
    """
    return _directed(values, dtype, up=True)


def _directed(values: Iterable[Fraction], dtype: type[np.floating[Any]], *, up: bool) -> np.ndarray:
    """Round to nearest in bulk, then step the entries that went the wrong way.

    The nearest float is one of the two neighbours of the value, also after rounding twice (to float64, then `dtype`),
    because the neighbours themselves are fixed points of both roundings.
    """
    ratios = [v.as_integer_ratio() for v in values]
    target = math.inf if up else -math.inf
    with np.errstate(over="ignore", under="ignore"):
        near = np.array([_quotient(p, q) for p, q in ratios], dtype=np.float64).astype(dtype)
        near = np.clip(near, np.finfo(dtype).min, np.finfo(dtype).max)
        wrong = np.zeros(near.shape, dtype=bool)
        for i, ((p, q), value) in enumerate(zip(ratios, near.tolist(), strict=True)):
            n, d = value.as_integer_ratio()
            wrong[i] = n * q < p * d if up else n * q > p * d
        near[wrong] = np.nextafter(near[wrong], dtype(target), dtype=dtype)
    if not np.isfinite(near).all():
        raise PropertyError(f"an input bound is beyond the range of {dtype.__name__}")
    return near


def _quotient(p: int, q: int) -> float:
    """p / q to the nearest float64, infinite where it overflows; q is positive."""
    try:
        return p / q
    except OverflowError:
        return math.inf if p > 0 else -math.inf


@dataclass(frozen=True)
class Box:
    """lower <= x <= upper, entry by entry; both ends as exact rationals.

    Raises `PropertyError` if the lengths differ or an entry's lower end lies above its upper end.
    """

    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "lower", _rationals(self.lower, "the box's lower end"))
        object.__setattr__(self, "upper", _rationals(self.upper, "the box's upper end"))
        if len(self.lower) != len(self.upper):
            raise PropertyError(f"a box with {len(self.lower)} lower and {len(self.upper)} upper ends")
        for i, (low, high) in enumerate(zip(self.lower, self.upper, strict=True)):
            if low > high:
                raise PropertyError(f"the box is empty: input {i} has lower end {low} above its upper end {high}")

    @property
    def size(self) -> int:
        return len(self.lower)

    def floats(self, dtype: type[np.floating[Any]] = np.float32) -> tuple[np.ndarray, np.ndarray]:
        """The effective box: ends widened to the nearest floats of `dtype`, returned as float64 arrays (size,)."""
        return (
            float_below(self.lower, dtype).astype(np.float64),
            float_above(self.upper, dtype).astype(np.float64),
        )

    def contains(self, x: Sequence[Fraction]) -> bool:
        """Exact membership in the box as written."""
        return all(low <= v <= high for low, v, high in zip(self.lower, x, self.upper, strict=True))

    def intersection(self, other: Box) -> Box | None:
        """The common box, or None where it is empty."""
        lower = tuple(map(max, self.lower, other.lower))
        upper = tuple(map(min, self.upper, other.upper))
        return None if any(low > high for low, high in zip(lower, upper, strict=True)) else Box(lower, upper)

    def canonical(self) -> str:
        return "box " + " ".join(f"{low}:{high}" for low, high in zip(self.lower, self.upper, strict=True))


@dataclass(frozen=True)
class LpBall:
    """|x - center|_norm <= radius, optionally cut by a clip box. Norm "0" counts the entries that differ.

    `clip` is required for norm "0", whose ball is unbounded without it. Raises `PropertyError` for a negative radius,
    an unknown norm, or a clip box that the ball does not meet.
    """

    center: tuple[Fraction, ...]
    radius: Fraction
    norm: Norm
    clip: Box | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", _rationals(self.center, "the ball's center"))
        object.__setattr__(self, "radius", rational(self.radius))
        object.__setattr__(self, "norm", str(self.norm))
        if self.norm not in ("0", "1", "2", "inf"):
            raise PropertyError(f"norm '{self.norm}' is none of 0, 1, 2, inf")
        if self.radius < 0:
            raise PropertyError(f"the radius {self.radius} is negative")
        if self.clip is not None and self.clip.size != self.size:
            raise PropertyError(f"the clip box has {self.clip.size} entries, the center {self.size}")
        if self.norm == "0" and self.clip is None:
            raise PropertyError("an l0 ball needs a clip box: the changed entries are unbounded without it")
        if self.clip is not None and not self._meets_clip():
            raise PropertyError("the ball lies outside its clip box: no input is left")

    @property
    def size(self) -> int:
        return len(self.center)

    def contains(self, x: Sequence[Fraction]) -> bool:
        """Exact membership."""
        if self.clip is not None and not self.clip.contains(x):
            return False
        return self._within(x)

    def _within(self, x: Sequence[Fraction]) -> bool:
        gaps = [abs(v - c) for v, c in zip(x, self.center, strict=True)]
        if self.norm == "inf":
            return max(gaps) <= self.radius
        if self.norm == "0":
            return sum(g != 0 for g in gaps) <= self.radius
        if self.norm == "1":
            return sum(gaps) <= self.radius
        return sum(g * g for g in gaps) <= self.radius**2

    def _meets_clip(self) -> bool:
        assert self.clip is not None
        nearest = [min(max(c, lo), hi) for c, lo, hi in zip(self.center, self.clip.lower, self.clip.upper, strict=True)]
        return self._within(nearest)

    def bounding_box(self) -> Box:
        """The smallest box around the ball (after clipping)."""
        if self.norm == "0":
            assert self.clip is not None
            if self.radius >= 1:
                return self.clip
            return Box(self.center, self.center)
        box = Box(tuple(c - self.radius for c in self.center), tuple(c + self.radius for c in self.center))
        if self.clip is None:
            return box
        common = box.intersection(self.clip)
        assert common is not None  # checked on construction
        return common

    def canonical(self) -> str:
        clip = "" if self.clip is None else " clip " + self.clip.canonical()
        return f"ball {self.norm} {self.radius} " + " ".join(map(str, self.center)) + clip


InputSet = Box | LpBall


def ball(center: Any, radius: Number, norm: Norm | str | float, clip: Box | None = None) -> InputSet:
    """The ball as an `InputSet`: an l-inf ball is a `Box`, the others an `LpBall`."""
    name = "inf" if norm in ("inf", math.inf) else str(int(norm)) if isinstance(norm, int | float) else str(norm)
    shape = LpBall(tuple(_rationals(center, "the center")), rational(radius), name, clip)  # type: ignore[arg-type]
    return shape.bounding_box() if name == "inf" else shape


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

        Disjuncts with the same box share a case; one whose box misses the input set drops out. Every case holds if and
        only if the property does.
        """
        if self.unsafe and all(disjunct.box is None for disjunct in self.unsafe):
            return (self,)  # hashing a large input set costs more than all the rest
        groups: dict[InputSet, list[Polyhedron]] = {}
        for disjunct in self.unsafe:
            region: InputSet | None = self.input_set
            if disjunct.box is not None:
                region = _restrict(self.input_set, disjunct.box)
            if region is not None:
                groups.setdefault(region, []).append(Polyhedron(disjunct.constraints))
        return tuple(Property(region, tuple(rows), self.n_outputs, self.name) for region, rows in groups.items())


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

    x: array of any shape, flattened in C order. clip: a box, or one (low, high) pair for every input. A tie with
    another class is not robust.
    """
    flat = np.asarray(x).reshape(-1)
    if clip is not None and not isinstance(clip, Box):
        low, high = (rational(v) for v in clip)
        clip = Box((low,) * flat.size, (high,) * flat.size)
    return Property(ball(flat, radius, norm, clip), misclassified(label, n_outputs), n_outputs, name)

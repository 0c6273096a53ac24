"""What makes a verdict checkable by something other than its author.

A witness input; linear bounds (the lines of every activation and the intermediate bounds they came from); sample
counts; an external solver's word; a tree of boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from verifkit.arrays import Array


@dataclass(frozen=True)
class Replay:
    """One evaluation of the model at a witness.

    arithmetic: "onnxruntime" (the original bytes in the model's own precision), "float64" or "rational". output: flat.
    unsafe: whether (input, output) lies in the unsafe set, tested exactly on these numbers.
    """

    arithmetic: str
    output: tuple[float, ...]
    unsafe: bool


@dataclass(frozen=True)
class Witness:
    """An input of the effective input set whose output is unsafe.

    x: flat, exact. confirmed_by: the arithmetic of the replay that confirms it ("onnxruntime" or "rational").
    in_written_set: whether x also lies in the set as written. within_tolerance: whether it lies within 1e-4 of it, as
    the verification competition accepts.
    """

    x: tuple[Fraction, ...]
    replays: tuple[Replay, ...]
    confirmed_by: str
    in_written_set: bool
    within_tolerance: bool

    @property
    def output(self) -> tuple[float, ...]:
        """The output under the confirming replay."""
        return next(r.output for r in self.replays if r.arithmetic == self.confirmed_by)


@dataclass(frozen=True, eq=False)
class Lines:
    """One lower and one upper line per entry of an activation: slope * z + offset below and above it on its range.

    Arrays of shape (batch, *node shape), or (batch, rows, *node shape) where every row has lines of its own.
    """

    lower_slope: Array
    lower_offset: Array
    upper_slope: Array
    upper_offset: Array


@dataclass(frozen=True, eq=False)
class Planes:
    """One plane below and one above per entry of a product x y, on the ranges of x (`left`) and y (`right`):
    left x + right y + offset.

    Arrays of shape (batch, *node shape).
    """

    lower_left: Array
    lower_right: Array
    lower_offset: Array
    upper_left: Array
    upper_right: Array
    upper_offset: Array


Held = Mapping[int, tuple[Array, Array]]
"""Node index -> multipliers, not negative, (batch, rows, *node shape), on "value >= lower bound" and "value <= upper
bound" of the node: they add valid constraints to a row's bound."""


@dataclass(frozen=True, eq=False)
class Leaf:
    """Linear bounds that refute every disjunct.

    intermediate: node index -> (lower, upper) bounds used of what activations and products read, (batch, *shape).
    lines: activation node index -> its lines (empty for interval propagation). refuting_row: for each disjunct the
    index of the row whose lower bound exceeds its threshold, and that bound. planes: product node index -> its planes.
    An activation or product without an entry was bounded by its range. held: multipliers on the bounds of nodes.
    """

    intermediate: Mapping[int, tuple[Array, Array]]
    lines: Mapping[int, Lines]
    refuting_row: tuple[tuple[int, float], ...]
    planes: Mapping[int, Planes] = field(default_factory=dict)
    held: Held = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class BoxTree:
    """Boxes of inputs bisected until CROWN's bounds refute each, as arrays with an entry for every bisected box.

    parent (N,): the box's number; 0 is the whole region. lower, upper (N, n): what is left of it, over the inputs that
    vary, after cutting off where the rows' linear bounds over the box exclude every disjunct. dim, at (N,): where that
    was bisected; first (N,): the lower half's number, which the upper half's follows. A number without an entry is a
    box that the bounds refute. boxes: how many there are.
    """

    parent: Array
    lower: Array
    upper: Array
    dim: Array
    at: Array
    first: Array
    boxes: int


@dataclass(frozen=True)
class SampleCounts:
    """What a probabilistic certificate rests on: enough to recompute its interval and radius.

    selection, estimation: counts per class of the draws that chose the class and of the fresh ones that bounded it.
    """

    selection: tuple[int, ...]
    estimation: tuple[int, ...]
    chosen: int
    sigma: float
    alpha: float
    lower: float
    radius: float
    model_digest: str


@dataclass(frozen=True)
class SolverBound:
    """An external solver's word: for each disjunct the lower bound it proved on the disjunct's violation."""

    solver: str
    bounds: tuple[float, ...]
    tolerance: float


@dataclass(frozen=True)
class SolverDistance:
    """An external solver's word: for each disjunct the distance from the center below which nothing unsafe lies."""

    solver: str
    distances: tuple[float, ...]
    tolerance: float


@dataclass(frozen=True)
class Cases:
    """The evidence of a property split into input regions: one piece for each."""

    parts: tuple[Evidence | None, ...]


Evidence = Witness | Leaf | BoxTree | SampleCounts | SolverBound | SolverDistance | Cases

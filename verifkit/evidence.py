"""What makes a verdict checkable by something other than its author.

A witness input; linear bounds (the lines of every activation and the intermediate bounds they came from); sample
counts; an external solver's word; a tree of boxes; a tree of ReLU phases with Farkas multipliers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

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


@dataclass(frozen=True, eq=False)
class PhaseTree:
    """Parts of a question split by the phases of ReLUs, and what refutes each part that is not split further.

    disjuncts (D,): parts 0 to D - 1 are the whole question, one for each of these disjuncts. units (U, 2): the units
    that may be on or off, each a node, whose value is the pre-activation, and a flat index there. parent, unit, first
    (N,): part `parent` is split by that unit; in part `first` its value is >= 0, in the next one <= 0. leaf (L,): the
    parts that are refuted, with, for every unit, the lower slope if it is open and else the multiplier of its phase,
    weight (L, U), and the weights of the disjunct's rows, mix (L, K). parts: how many there are. low, high (U,): the
    units' bounds, CROWN's over the whole region where they do not follow from `unit_bounds`.
    """

    disjuncts: Array
    units: Array
    parent: Array
    unit: Array
    first: Array
    leaf: Array
    weight: Array
    mix: Array
    parts: int
    low: Array
    high: Array
    unit_bounds: tuple[UnitBound, ...] = ()


@dataclass(frozen=True, eq=False)
class UnitBound:
    """A lower bound on a unit's pre-activation, or on its negative: the value of `node` at flat index `unit`.

    tree: of the one question whether the value, or its negative, can be <= a number; its leaves prove the bound, none
    being open. Its units' bounds may follow from other `UnitBound`s beside this one, of nodes further down. None where
    it was too large to keep, or not finished.
    """

    node: int
    unit: int
    negated: bool
    bound: float
    tree: PhaseTree | None


@dataclass(frozen=True, eq=False)
class LayerBoxes:
    """Bounds of a layer's units, and a tree over the box of their values that refutes every disjunct there.

    units (U, 2): node and flat index of each unit. lower, upper (U,): its value after the ReLU, where it has one; what
    `unit_bounds` do not prove are CROWN's bounds. tree: over these units, in their order, and the network above them;
    None where it was too large to keep.
    """

    units: Array
    lower: Array
    upper: Array
    unit_bounds: tuple[UnitBound, ...]
    tree: BoxTree | None


@dataclass(frozen=True)
class Variable:
    """A variable of a linear system about a ReLU network (`FarkasTrees`).

    kind "one": the constant 1. "x": entry `index` of the flat input. "b", "f", "slack", "chord": of ReLU unit `index`
    (flat) of activation node `node`: its input b, its output f, f - b, and f - slope b. "row": row `index` of the
    disjunct. "p", "q", "distance" (l1 balls): the parts of x = center + p - q, and the sum of all p and q.
    """

    kind: str
    node: int = 0
    index: int = 0


@dataclass(frozen=True, eq=False)
class Farkas:
    """Multipliers of definitions that, added up, contradict the bounds of the variables in this branch of the tree.

    Each multiplier belongs to a defined variable v, which equals a linear form D(v) over undefined ones. So the sum of
    multiplier * (v - D(v)) is zero at every execution; as a form over variables it is at least what the variables'
    bounds allow, term by term. That least value is positive, or zero with a term of a strict row in it.
    """

    multipliers: Mapping[Variable, Fraction]


@dataclass(frozen=True, eq=False)
class PhaseSplit:
    """Two branches of one ReLU. negative: b <= 0 and f <= 0. nonnegative: b >= 0 and slack <= 0 (that is, f <= b)."""

    node: int
    unit: int
    negative: FarkasTree
    nonnegative: FarkasTree


FarkasTree = PhaseSplit | Farkas


@dataclass(frozen=True, eq=False)
class FarkasTrees:
    """For each disjunct a tree of phases with Farkas multipliers as leaves, or (row, bound) where a linear bound on
    that row (numbered through all disjuncts) refutes it.

    The network is the one without `Max`. intermediate: activation node -> bounds (l, u) of its input, flat. A unit with
    l >= 0 is the identity, one with u <= 0 is zero, any other has the variables b, f, slack and chord; stable units
    apart, b and the outputs are linear forms over one, the inputs and the f of earlier units. chord: activation node ->
    (slope, offset), flat, of a line above every unit that has variables: f <= slope b + offset on [l, u].

    Bounds at the root: one = 1; x in the effective box, or the ball's bounding box; b in [l, u]; f in [0, u]; slack in
    [0, -l]; chord <= offset; a row at most its bound (less than, where strict); p, q in [0, radius]; distance at most
    the radius. Defined are b, slack, chord and row; for l1 balls x and distance as well (over one, p and q).
    """

    intermediate: Mapping[int, tuple[tuple[Fraction, ...], tuple[Fraction, ...]]]
    chord: Mapping[int, tuple[tuple[Fraction, ...], tuple[Fraction, ...]]]
    trees: tuple[FarkasTree | tuple[int, float], ...]


@dataclass(frozen=True)
class SampleCounts:
    """What a probabilistic certificate rests on: enough to recompute its bounds and radius.

    selection, estimation: counts per class of the draws that chose the class and of the fresh ones that bounded it.
    sigma: the noise's standard deviation (of ablation: 0). lower, rivals: bounds on the probability of the chosen class
    and of every other one. radius: in `norm`, around the center as asked. n: draws planned for the estimation, at most.
    noise, parameters: the family and its parameters. center_error: how far the center that the noise was added to, a
    float, lies from the one asked about. key: of the draws (`verifkit.analysis.smoothing.sampling`), selection in
    stream 0, estimation in stream 1. backend: what ran the model.
    """

    selection: tuple[int, ...]
    estimation: tuple[int, ...]
    chosen: int
    sigma: float
    alpha: float
    lower: float
    rivals: float
    radius: float
    model_digest: str
    n: int
    norm: str = "2"
    noise: str = "gaussian"
    parameters: tuple[tuple[str, float], ...] = ()
    mode: Literal["fixed", "anytime"] = "fixed"
    runner_up: bool = False
    center_error: float = 0.0
    key: tuple[int, ...] = ()
    backend: str = ""


@dataclass(frozen=True)
class PrivacyCounts:
    """What a certificate by differential privacy rests on: enough to recompute its bounds and radius.

    selection, estimation: per class, of the draws that chose the class and of the fresh ones that bounded the scores:
    votes, or sums of scores. squares: sums of squares of the latter; empty for votes. draws: how many of them. norm: of
    the radius. after: the tensor that noise of scale `scale` times `sensitivity` was added to, "" for the input. lower,
    upper: bounds on the expected score of the chosen class and of every other. eps, delta: of the noise at the
    certified radius. center_error: how far the center that the model is fed, a float, lies from the one asked about.
    key: of the draws, as in `SampleCounts`. backend: what ran the model. released: by the released code's rules, which
    do not keep the stated eta.
    """

    selection: tuple[float, ...]
    estimation: tuple[float, ...]
    squares: tuple[float, ...]
    draws: int
    chosen: int
    norm: str
    mechanism: str
    scale: float
    sensitivity: float
    after: str
    eta: float
    lower: float
    upper: float
    eps: float
    delta: float
    radius: float
    model_digest: str
    center_error: float = 0.0
    key: tuple[int, ...] = ()
    backend: str = ""
    released: bool = False


Counts = SampleCounts | PrivacyCounts
"""What probabilistic methods leave."""


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


Evidence = (
    Witness
    | Leaf
    | BoxTree
    | PhaseTree
    | LayerBoxes
    | FarkasTrees
    | SampleCounts
    | PrivacyCounts
    | SolverBound
    | SolverDistance
    | Cases
)

"""The triangle relaxation of ReLU units, and from any multipliers of its constraints to a safe bound.

A ReLU or leaky ReLU of slope a is  h = a z + (1 - a) r  with  r = relu(z). Over bounds l < 0 < u on z the triangle is

    r >= 0,    r >= z,    r <= u (z - l) / (u - l),

the convex hull of r's graph; a unit with l >= 0 or u <= 0 is linear. A linear program over it has a multiplier for
each of these rows and for the bounds of every z. Put into a backward pass they give its optimum back: pulled back
through a unit, r's coefficient is the multipliers of the two lower rows less the chord's, so that the lower line takes
the share of r >= z among the lower rows as its slope, and the multipliers of z's bounds are held against z on the way.
Where both a lower row and the chord have multipliers, the common part t of the two says

    t (chord - 0) = t u / (u - l) (z - l) >= 0    or    t (chord - z) = t (-l) / (u - l) (u - z) >= 0,

which is the same as a multiplier of a bound of z. Any slopes in [0, 1] and any multipliers >= 0 give a sound bound, so
an inexact, truncated or wrong answer of a solver costs tightness and nothing else.

Sources: Ehlers, "Formal verification of piece-wise linear feed-forward neural networks" (Planet), ATVA 2017, section 3;
the dual's form: Salman et al., "A convex relaxation barrier to tight robustness verification of neural networks",
NeurIPS 2019, theorem 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from verifkit.analysis.backward import lower_bounds
from verifkit.analysis.interval import Bounds
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.rows import Rows
from verifkit.arrays import Array
from verifkit.evidence import Held, Lines, Planes
from verifkit.functions import LeakyRelu, Relu, ScalarFunction
from verifkit.maps import Shape
from verifkit.ops import Activation

TRIANGULAR: frozenset[type[ScalarFunction]] = frozenset({Relu, LeakyRelu})
"""The activations that have the relaxation."""


@dataclass(frozen=True, eq=False)
class Triangle:
    """One activation node: h = slope z + (1 - slope) r, one entry for each unit (flat, C order).

    lower, upper: the bounds of z. on: z >= 0 throughout, r = z. unstable: neither on nor off. rise: u / (u - l), the
    chord's slope, 0 where the unit is not unstable.
    """

    slope: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @property
    def on(self) -> np.ndarray:
        return self.lower >= 0

    @property
    def unstable(self) -> np.ndarray:
        return (self.lower < 0) & (self.upper > 0)

    @property
    def rise(self) -> np.ndarray:
        width = np.where(self.unstable, self.upper - self.lower, 1.0)
        return np.where(self.unstable, np.clip(self.upper / width, 0.0, 1.0), 0.0)


def triangles(analysis: LinearAnalysis) -> dict[int, Triangle]:
    """The triangle of every activation node that has lines, by node index; of a batch of one.

    A node without lines (its bounds are not finite) is known by its interval only.
    """
    found = {}
    for index in analysis.lines:
        node = analysis.network.nodes[index]
        if isinstance(node, Activation) and type(node.function) in TRIANGULAR:
            found[index] = triangle(node, analysis.bounds[node.parents[0]])
    return found


def triangle(node: Activation, bounds: Bounds) -> Triangle:
    """Of one node, from bounds `(1, *shape)` on what it reads."""
    lower, upper = (np.asarray(end, dtype=np.float64).reshape(-1) for end in bounds)
    slope = np.asarray(node.function.slope) if isinstance(node.function, LeakyRelu) else np.zeros(())
    return Triangle(np.broadcast_to(slope, node.shape).reshape(-1).astype(np.float64), lower, upper)


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Dual values of R objectives; entries that are negative or not finite count as 0.

    rows: activation node -> those of r >= 0, of r >= z and of the chord, each (R, units). bounds: node -> those of its
    lower and of its upper bound, each (R, size). An objective that was not solved has zeros throughout.
    """

    rows: Mapping[int, tuple[np.ndarray, np.ndarray, np.ndarray]]
    bounds: Mapping[int, tuple[np.ndarray, np.ndarray]]

    def only(self, kept: np.ndarray) -> Multipliers:
        """Without those of the objectives that are not `kept` (R,)."""
        by, none = kept[:, None], 0.0
        rows = {
            k: (np.where(by, a, none), np.where(by, b, none), np.where(by, c, none))
            for k, (a, b, c) in self.rows.items()
        }
        return Multipliers(
            rows, {k: (np.where(by, a, none), np.where(by, b, none)) for k, (a, b) in self.bounds.items()}
        )


@dataclass(frozen=True, eq=False)
class RowLines:
    """For R rows: every activation's lines and the multipliers held on bounds of nodes, for each row its own."""

    lines: Mapping[int, Lines]
    held: Held

    def backward(self, analysis: LinearAnalysis, rows: Mapping[int, Array]) -> Array:
        """Rigorous lower bounds `(1, R)` on the rows' value by these, in place of the analysis's own lines."""
        count = next(iter(rows.values())).shape[1]
        nodes, start = analysis.network.nodes, dict(rows)
        for index in self.held:  # also where no row comes by: a node beside the way may confine the input
            start.setdefault(index, np.zeros((1, count, *nodes[index].shape)))
        relaxed: dict[int, Lines | Planes] = {**self.lines, **analysis.planes}
        with np.errstate(all="ignore"):  # what overflows is infinite or NaN, and proves nothing
            return lower_bounds(analysis.network, start, analysis.bounds, relaxed, analysis.region, self.held)


def row_lines(analysis: LinearAnalysis, multipliers: Multipliers) -> RowLines:
    """What R rows' dual values say of an analysis (a batch of one).

    A unit whose lower rows have no multiplier keeps the slope that the analysis has.
    """
    nodes = analysis.network.nodes
    held = {index: [_usable(side) for side in sides] for index, sides in multipliers.bounds.items()}
    lines = dict(analysis.lines)
    for index, shape in triangles(analysis).items():
        if index not in multipliers.rows:
            continue
        zero, own, chord = (_usable(side) for side in multipliers.rows[index])
        below = zero + own
        share = np.where(below > 0, own / np.where(below > 0, below, 1.0), 0.0)
        common = np.minimum(below, chord)
        sides = held.setdefault(nodes[index].parents[0], [np.zeros(()), np.zeros(())])
        sides[0] = sides[0] + common * (1.0 - share) * shape.rise
        sides[1] = sides[1] + common * share * np.where(shape.unstable, 1.0 - shape.rise, 0.0)
        lines[index] = _cornered(analysis.lines[index], shape, share, below > 0)
    held.pop(0, None)  # a backward pass ends with the least value over the whole region, whose box has these bounds
    shaped = {k: (_shaped(below, nodes[k].shape), _shaped(above, nodes[k].shape)) for k, (below, above) in held.items()}
    return RowLines(lines, shaped)


def safe_bounds(analysis: LinearAnalysis, rows: Rows, multipliers: Multipliers) -> tuple[np.ndarray, RowLines]:
    """Rigorous lower bounds `(R,)` on the left side of every row of an unsafe set from dual values of the relaxation,
    and what they follow from; never below those of the analysis (a batch of one).
    """
    found = row_lines(analysis, multipliers)
    own = np.asarray(analysis.property_rows(rows))[0]
    if not own.size:
        return own, found
    lower = analysis.certain([rows], found.backward(analysis, analysis.starts([rows])))[0]
    if (own > lower).any():
        found = row_lines(analysis, multipliers.only(own <= lower))
    return np.maximum(lower, own), found


def _shaped(multipliers: np.ndarray, shape: Shape) -> np.ndarray:
    """(R, size) as (1, R, *shape)."""
    return multipliers.reshape(1, multipliers.shape[0], *shape)


def _usable(values: np.ndarray) -> np.ndarray:
    usable: np.ndarray = np.clip(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), 0.0, None)
    return usable


def _cornered(lines: Lines, shape: Triangle, alpha: np.ndarray, known: np.ndarray) -> Lines:
    """The lines with r >= alpha z (alpha (R, units)) on the side of the corner, where `known` and unstable.

    h = slope z + (1 - slope) r lies above the line with slope + (1 - slope) alpha where slope <= 1, else below it. Both
    lines of the corner pass through the origin, and so does every line between them.
    """
    between = shape.slope + (1.0 - shape.slope) * np.clip(alpha, 0.0, 1.0)
    between = np.clip(between, np.minimum(shape.slope, 1.0), np.maximum(shape.slope, 1.0))
    node_shape = lines.lower_slope.shape[1:]
    chosen, between = _shaped(known & shape.unstable, node_shape), _shaped(between, node_shape)
    below = (shape.slope <= 1.0).reshape(node_shape)

    def replaced(side: np.ndarray, old: Array, new: np.ndarray | float) -> np.ndarray:
        return np.where(chosen & side, new, np.asarray(old)[:, None])

    return Lines(
        replaced(below, lines.lower_slope, between),
        replaced(below, lines.lower_offset, 0.0),
        replaced(~below, lines.upper_slope, between),
        replaced(~below, lines.upper_offset, 0.0),
    )

"""A query of our own lowered network in Marabou: columns, equations, ReLUs, scaled so that its tolerances are small.

Marabou's tolerances are absolute and fixed when it is built. The coarsest on the way to "unsat" takes a variable whose
bounds are less than 1e-5 apart as constant. So every column here is scaled, by a power of two, to a range of about
`RANGE`: 1e-5 is then 1e-10 of the range. A maximum is a + relu(b - a).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifkit.analysis.encoding import Expression, Sparse, slopes_left_of_zero
from verifkit.analysis.interval import Bounds
from verifkit.analysis.rows import Rows
from verifkit.budget import Clock
from verifkit.functions import LeakyRelu, Relu
from verifkit.network import Network
from verifkit.ops import Activation, Affine
from verifkit.solvers.isolated import isolated
from verifkit.solvers.mixed_program import SolverLost, Unfit

TOLERANCE = 1e-5
"""What Marabou may be off by in one of its variables."""

RANGE = 2.0**17
"""How far the bounds of every column lie apart, up to a factor of two."""

SMALL = 1e-9
"""Coefficients up to this size are left out, and what that changes is added to the tolerance: it takes some for 0."""


NEGLIGIBLE = 1e-12
"""A value whose bounds lie closer together than this share of the widest is a constant, and what that changes is added
to the tolerance: bounds that only rounding keeps apart would be stretched to `RANGE` otherwise."""


@dataclass(frozen=True, eq=False)
class Block:
    """Equations: sign * column = matrix @ columns + constant, for some columns, in scaled units."""

    columns: np.ndarray
    matrix: Sparse
    constant: np.ndarray


class MarabouQuery:
    """A network (its activations ReLU and leaky ReLU) with rigorous `bounds` on every node, a batch of one.

    Column k stands for the value shift[k] + scale[k] * column, the first ones for the inputs that are not constant.
    Calls `clock.check` at every node. Raises `Unfit` where values are beyond what can be scaled.
    """

    def __init__(self, network: Network, bounds: list[Bounds], clock: Clock) -> None:
        from scipy import sparse

        self.lower, self.upper, self.scale, self.shift = (np.zeros(0) for _ in range(4))
        self.blocks: list[Block] = []
        self.relus: list[tuple[int, int, float]] = []
        self.dropped = 0.0
        flat = [(low.reshape(-1), high.reshape(-1)) for low, high in bounds]
        if not all(np.isfinite(end).all() for pair in flat for end in pair):
            raise Unfit("a value inside the network has no bound")
        self.least = NEGLIGIBLE * max(float((high - low).max(initial=0.0)) for low, high in flat)
        self.ends = low, high = flat[0]
        self.input_values = low / 2 + high / 2
        self.free = np.flatnonzero(self._vary(low, high))
        columns = self._add(low[self.free], high[self.free], self.input_values[self.free])
        places = (self.scale[columns], (self.free, columns))
        values = [Expression(sparse.csr_array(places, shape=(low.size, self.size)), self.input_values)]
        for node in network.nodes[1:]:
            clock.check()
            parents = [values[p] for p in node.parents]
            if isinstance(node, Affine):
                values.append(self._affine(node, parents))
            elif isinstance(node, Activation) and isinstance(node.function, Relu | LeakyRelu):
                values.append(self._rectifier(node, parents[0], *flat[node.parents[0]]))
            else:
                raise TypeError(f"node '{node.name}' has no encoding for Marabou")
        self.inputs, self.output = values[0], values[-1]

    @property
    def size(self) -> int:
        return self.lower.size

    @property
    def tolerance(self) -> float:
        """What the value of a node may be off by, in the network's own units."""
        return (TOLERANCE + self.dropped) * float(self.scale.max(initial=0.0)) + self.least

    def _vary(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Which of the values are no constants."""
        return np.asarray(high - low > self.least)

    def _add(self, low: np.ndarray, high: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Columns for values between low < high, and their indices."""
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            scale = 2.0 ** np.round(np.log2((high - low) / RANGE))
            ends = [(low - shift) / scale, (high - shift) / scale]
            whole = np.isfinite(ends).all() and np.isfinite(scale).all() and np.isfinite(1.0 / scale).all()
        if not whole:
            raise Unfit("values are too small or too large for the solver")
        first = self.size
        self.lower, self.upper = np.append(self.lower, ends[0]), np.append(self.upper, ends[1])
        self.scale, self.shift = np.append(self.scale, scale), np.append(self.shift, shift)
        return np.arange(first, self.size)

    def _wide(self, matrix: Sparse) -> Sparse:
        if matrix.shape[1] == self.size:
            return matrix
        copy = matrix.copy()
        copy.resize((matrix.shape[0], self.size))
        return copy

    def _affine(self, node: Affine, parents: list[Expression]) -> Expression:
        from scipy import sparse

        size = math.prod(node.shape)
        constant = np.zeros(size) if node.bias is None else np.asarray(node.bias, dtype=np.float64).reshape(-1).copy()
        matrix = sparse.csr_array((size, self.size))
        for linear, parent in zip(node.maps, parents, strict=True):
            entries = linear.entries()
            weights = sparse.csr_array(
                (entries.values, (entries.rows, entries.cols)), shape=(size, parent.constant.size)
            )
            matrix = matrix + weights @ self._wide(parent.matrix)
            constant = constant + weights @ parent.constant
        return Expression(sparse.csr_array(matrix), constant)

    def _rectifier(self, node: Activation, parent: Expression, low: np.ndarray, high: np.ndarray) -> Expression:
        """A column z for each unit that is not always 0 (nor constant), unshifted where it is unstable; then one for
        its value r. A slope s left of 0 that Marabou does not take is s z + (1 - s) relu(z).
        """
        from scipy import sparse

        slope, varies = slopes_left_of_zero(node).reshape(-1), self._vary(low, high)
        crosses = (high > 0) & (low < 0)
        unstable = np.flatnonzero(crosses & varies)
        stable = np.flatnonzero(~crosses & varies & ((high > 0) | (slope != 0)))
        steep = np.where(low >= 0, 1.0, slope)
        middle = low / 2 + high / 2
        z = self._add(low[unstable], high[unstable], np.zeros(unstable.size))
        kept = self._add(low[stable], high[stable], middle[stable])
        for units, columns in ((unstable, z), (stable, kept)):
            self._define(columns, parent.matrix[units], parent.constant[units])
        r = self._add(np.zeros(unstable.size), high[unstable], np.zeros(unstable.size))
        # Marabou's ReLU knows no factors: both sides have the scale of z.
        own = np.where((slope > 0) & (slope < 1), slope, 0.0)[unstable]
        self.scale[r] = self.scale[z]
        self.lower[r], self.upper[r] = own * low[unstable] / self.scale[z], high[unstable] / self.scale[z]
        self.relus += zip(z.tolist(), r.tolist(), own.tolist(), strict=True)
        units = np.concatenate([unstable, unstable, stable])
        columns = np.concatenate([z, r, kept])
        beside = slope[unstable] - own
        weights = np.concatenate([beside, 1.0 - beside, steep[stable]]) * self.scale[columns]
        used = weights != 0
        entries = (weights[used], (units[used], columns[used]))
        constant = np.where(varies, 0.0, np.where(middle >= 0, middle, slope * middle))
        constant[stable] = (steep * middle)[stable]
        return Expression(sparse.csr_array(entries, shape=(low.size, self.size)), constant)

    def _define(self, columns: np.ndarray, matrix: Sparse, constant: np.ndarray) -> None:
        """scale * column + shift = matrix @ columns + constant, divided by the scale."""
        from scipy import sparse

        by = 1.0 / self.scale[columns]
        scaled = sparse.csr_array(sparse.diags_array(by) @ self._wide(matrix)) if columns.size else self._wide(matrix)
        kept, lost = self._without_small(scaled)
        self.dropped = max(self.dropped, float(lost.max(initial=0.0)))
        block = Block(columns, kept, (constant - self.shift[columns]) * by)
        if not (np.isfinite(kept.data).all() and np.isfinite(block.constant).all()):
            raise Unfit("values are too small or too large for the solver")
        self.blocks.append(block)

    def _without_small(self, matrix: Sparse) -> tuple[Sparse, np.ndarray]:
        """The matrix without its small entries, and what these can come to in each row."""
        small = matrix.copy()
        small.data = np.where(np.abs(small.data) <= SMALL, np.abs(small.data), 0.0)
        reach = np.maximum(np.abs(self.lower), np.abs(self.upper))
        kept = matrix.copy()
        kept.data = np.where(np.abs(kept.data) <= SMALL, 0.0, kept.data)
        kept.eliminate_zeros()
        return kept, np.asarray(small @ reach)

    def rows(self, rows: Rows, mine: np.ndarray, slack: np.ndarray) -> tuple[Sparse, np.ndarray] | None:
        """matrix @ columns <= bound for some rows of the unsafe set, relaxed by `slack` (negative: tightened), each
        scaled to a range like the columns'; None where the columns' bounds rule one out. What they imply is left out.
        Raises `Unfit`.
        """
        from scipy import sparse

        coefficients = sparse.csr_array(rows.outputs[mine])
        matrix = coefficients @ self._wide(self.output.matrix)
        constant = coefficients @ self.output.constant
        if rows.inputs is not None:
            more = sparse.csr_array(rows.inputs[mine])
            matrix = matrix + more @ self._wide(self.inputs.matrix)
            constant = constant + more @ self.inputs.constant
        bound = rows.bound[mine] - constant + slack
        if not np.isfinite(bound).all():
            raise Unfit("a threshold of the property is beyond the range of floats")
        matrix = sparse.csr_array(matrix)
        reach = np.abs(matrix) @ np.maximum(np.abs(self.lower), np.abs(self.upper))
        if (bound < -reach).any():
            return None
        kept = np.flatnonzero(bound < reach)
        by = 2.0 ** np.round(np.log2(RANGE / reach[kept]))
        if not np.isfinite(by).all():
            raise Unfit("a row of the property hardly depends on the inputs")
        scaled = sparse.diags_array(by) @ matrix[kept] if kept.size else matrix[kept]
        left, lost = self._without_small(sparse.csr_array(scaled))
        return left, bound[kept] * by + np.sign(slack[kept]) * lost

    def point(self, columns: np.ndarray) -> np.ndarray:
        """The flat input at values of all columns, cut to its bounds: the solver may be off by its tolerance."""
        x = np.array(self.input_values)
        places = np.arange(self.free.size)
        x[self.free] = self.shift[places] + self.scale[places] * columns[places]
        return np.asarray(np.clip(x, *self.ends))


@dataclass(frozen=True)
class Said:
    """word: Marabou's own, such as "sat", "unsat", "TIMEOUT". columns: where sat. splits: how often it branched."""

    word: str
    columns: np.ndarray | None = None
    splits: int = 0


def ask(query: MarabouQuery, rows: tuple[Sparse, np.ndarray] | None, clock: Clock) -> Said | None:
    """Whether the query has an execution that satisfies the `rows`, by Marabou in a process of its own, which is killed
    when the time is up: None then. Raises `SolverLost` where that process ended before its time.
    """
    clock.check()
    if rows is None:
        return Said("unsat")
    matrix, bound = rows
    if not bound.size:  # any input does
        return Said("sat", np.zeros(query.size))
    here = os.getpid()

    def work(tell: Callable[[Any], None]) -> Said:
        if os.getpid() != here:  # what it prints is nobody's answer
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
        return _solve(query, matrix, bound, clock)

    said = isolated(work, lambda news: None, clock, always=True)
    if said is None and clock.remaining > 0:
        raise SolverLost("Marabou's process ended without an answer")
    assert said is None or isinstance(said, Said)
    return said


def _solve(query: MarabouQuery, matrix: Sparse, bound: np.ndarray, clock: Clock) -> Said:
    from maraboupy import MarabouCore

    given = MarabouCore.InputQuery()
    given.setNumberOfVariables(query.size)
    for k in range(query.size):
        given.setLowerBound(k, float(query.lower[k]))
        given.setUpperBound(k, float(query.upper[k]))
    for k in range(query.free.size):
        given.markInputVariable(k, k)
    kinds = MarabouCore.Equation.EquationType
    for block in query.blocks:
        for row, column in enumerate(block.columns.tolist()):
            equation = MarabouCore.Equation(kinds.EQ)
            equation.addAddend(-1.0, column)
            _add_terms(equation, block.matrix, row)
            equation.setScalar(-float(block.constant[row]))
            given.addEquation(equation)
    for row in range(bound.size):
        equation = MarabouCore.Equation(kinds.LE)
        _add_terms(equation, matrix, row)
        equation.setScalar(float(bound[row]))
        given.addEquation(equation)
    for z, r, slope in query.relus:
        if slope:
            MarabouCore.addLeakyReluConstraint(given, z, r, slope)
        else:
            MarabouCore.addReluConstraint(given, z, r)
    options = MarabouCore.Options()
    options._verbosity = 0
    options._timeoutInSeconds = 0 if math.isinf(clock.remaining) else math.ceil(clock.remaining)
    word, values, statistics = MarabouCore.solve(given, options, os.devnull)
    splits = int(statistics.getUnsignedAttribute(MarabouCore.StatisticsUnsignedAttribute.NUM_SPLITS))
    if word != "sat":
        return Said(word, None, splits)
    return Said(word, np.array([values[k] for k in range(query.size)]), splits)


def _add_terms(equation: Any, matrix: Sparse, row: int) -> None:
    first, last = matrix.indptr[row], matrix.indptr[row + 1]
    for column, value in zip(matrix.indices[first:last].tolist(), matrix.data[first:last].tolist(), strict=True):
        equation.addAddend(value, column)

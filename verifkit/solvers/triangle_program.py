"""The triangle relaxation of a network as one linear program, and the bounds that it gives, made safe.

Columns: the input; every z that a unit reads, with its bounds; r = relu(z) of every unstable unit (see
`verifkit.analysis.triangle`). An l1 ball is x = center + p - q with sum(p + q) <= radius. The values of affine nodes
that no unit reads are expressions in these columns. The program is built node by node, so that the bounds of a layer
can be found, and made use of, before the next one is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from verifkit.analysis.encoding import Expression, Sparse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.triangle import Multipliers, Triangle, triangle, triangles
from verifkit.budget import Clock
from verifkit.ops import Activation, Affine
from verifkit.solvers.linear_program import Duals, LinearProgram


@dataclass(frozen=True, eq=False)
class _Unstable:
    """Of one activation node: which units are unstable, their columns r, and the rows r >= z and r <= chord."""

    units: np.ndarray
    r: np.ndarray
    own: np.ndarray
    chord: np.ndarray


class TriangleProgram:
    """The program of an analysis (a batch of one; box or l1 ball), as far as `extend` has taken it.

    Bounds and lines of a node are read when it is added: until then they may be improved. Raises ValueError for an l2
    ball, and ImportError without highspy.
    """

    def __init__(self, analysis: LinearAnalysis) -> None:
        self._analysis = analysis
        self._program = LinearProgram()
        self._read = {analysis.network.nodes[k].parents[0] for k in triangles(analysis)}
        self._values: list[Expression] = []
        self._bounded: dict[int, np.ndarray] = {}
        self._unstable: dict[int, _Unstable] = {}
        self._add_input()

    def extend(self, index: int) -> None:
        """Adds all nodes before `index`, and the value of node `index` as an expression that may be minimised."""
        for k in range(len(self._values), index + 1):
            if k - 1 in self._read and k - 1 not in self._bounded:
                self._bounded[k - 1] = self._bind(k - 1)
            node = self._analysis.network.nodes[k]
            self._values.append(self._affine(node) if isinstance(node, Affine) else self._activation(k))

    def minimise(self, rows: Mapping[int, np.ndarray], clock: Clock) -> Multipliers:
        """Minimises each row over the program; node index -> coefficients `(1, R, *node shape)`.

        A row that the solver has no answer to gets no multipliers. Calls `clock.check` before each.
        """
        count = next(iter(rows.values())).shape[1]
        costs = np.zeros((count, self._program.n_columns))
        for index, coefficients in rows.items():
            matrix = self._values[index].matrix
            costs[:, : matrix.shape[1]] += coefficients.reshape(count, matrix.shape[0]) @ matrix
        found = []
        for cost in costs:
            clock.check()
            found.append(self._program.minimise(cost, clock))
        return self._multipliers(found)

    def _multipliers(self, found: list[Duals | None]) -> Multipliers:
        nodes = self._analysis.network.nodes
        none = {k: np.zeros((len(found), int(np.prod(nodes[k].shape)))) for k in (*self._unstable, *self._bounded)}
        rows = {k: (none[k].copy(), none[k].copy(), none[k].copy()) for k in self._unstable}
        bounds = {k: (none[k].copy(), none[k].copy()) for k in self._bounded}
        for number, duals in enumerate(found):
            if duals is None:
                continue
            for k, (zero, own, chord) in rows.items():
                at = self._unstable[k]
                zero[number, at.units] = duals.columns[at.r]
                own[number, at.units] = duals.rows[at.own]
                chord[number, at.units] = -duals.rows[at.chord]
            for k, (below, above) in bounds.items():
                below[number] = duals.columns[self._bounded[k]]
                above[number] = -below[number]
        return Multipliers(rows, bounds)

    def _ends(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of a node's value, flat."""
        lower, upper = self._analysis.bounds[index]
        return np.asarray(lower, dtype=np.float64).reshape(-1), np.asarray(upper, dtype=np.float64).reshape(-1)

    def _add_input(self) -> None:
        region, program = self._analysis.region, self._program
        x = program.add_columns(*self._ends(0))
        self._values.append(self._columns(x))
        self._bounded[0] = x
        if region.center is None or region.radius is None:
            return
        if region.norm != "1":
            raise ValueError(f"an l{region.norm} ball is not linear")
        zero, far = np.zeros(x.size), np.full(x.size, np.inf)
        p, q = program.add_columns(zero, far), program.add_columns(zero, far)
        center = np.asarray(region.center, dtype=np.float64).reshape(-1)
        program.add_rows(self._pick(x) - self._pick(p) + self._pick(q), center, center)
        total = self._weighted(np.ones(2 * x.size), np.zeros(2 * x.size, dtype=int), np.concatenate([p, q]), 1)
        program.add_rows(total, np.full(1, -np.inf), np.asarray(region.radius, dtype=np.float64).reshape(1))

    def _affine(self, node: Affine) -> Expression:
        from scipy import sparse

        size = int(np.prod(node.shape))
        constant = np.zeros(size) if node.bias is None else np.asarray(node.bias, dtype=np.float64).reshape(-1)
        matrix = sparse.csr_array((size, self._program.n_columns))
        for linear, parent in zip(node.maps, node.parents, strict=True):
            entries, value = linear.entries(), self._values[parent]
            places = entries.rows, entries.cols
            weights = sparse.csr_array((entries.values, places), shape=(size, value.constant.size))
            matrix = matrix + self._wide(weights @ value.matrix)
            constant = constant + weights @ value.constant
        return Expression(sparse.csr_array(matrix), constant)

    def _bind(self, index: int) -> np.ndarray:
        """Gives a value columns of its own, with its bounds."""
        value = self._values[index]
        z = self._program.add_columns(*self._ends(index))
        self._program.add_rows(self._pick(z) - self._wide(value.matrix), value.constant, value.constant)
        self._values[index] = self._columns(z)
        return z

    def _activation(self, index: int) -> Expression:
        node = self._analysis.network.nodes[index]
        if index not in self._analysis.lines or not isinstance(node, Activation):  # known by its interval only
            return self._columns(self._program.add_columns(*self._ends(index)))
        z, shape = self._bounded[node.parents[0]], triangle(node, self._analysis.bounds[node.parents[0]])
        at = self._add_triangle(z, shape)
        self._unstable[index] = at
        steep = np.where(shape.on, 1.0, shape.slope)
        places = np.arange(z.size)
        matrix = self._weighted(steep, places, z, z.size)
        matrix = matrix + self._weighted((1.0 - shape.slope)[at.units], places[at.units], at.r, z.size)
        matrix.eliminate_zeros()
        return Expression(matrix, np.zeros(z.size))

    def _add_triangle(self, z: np.ndarray, shape: Triangle) -> _Unstable:
        units = np.flatnonzero(shape.unstable)
        zero, far = np.zeros(units.size), np.full(units.size, np.inf)
        r = self._program.add_columns(zero, far)
        places, rise = np.arange(units.size), shape.rise[units]
        own = self._program.add_rows(self._pick(r) - self._pick(z[units]), zero, far)
        chord = self._pick(r) - self._weighted(rise, places, z[units], units.size)
        return _Unstable(units, r, own, self._program.add_rows(chord, -far, -rise * shape.lower[units]))

    def _columns(self, columns: np.ndarray) -> Expression:
        return Expression(self._pick(columns), np.zeros(columns.size))

    def _pick(self, columns: np.ndarray) -> Sparse:
        return self._weighted(np.ones(columns.size), np.arange(columns.size), columns, columns.size)

    def _weighted(self, weights: np.ndarray, rows: np.ndarray, columns: np.ndarray, count: int) -> Sparse:
        from scipy import sparse

        return sparse.csr_array((weights, (rows, columns)), shape=(count, self._program.n_columns))

    def _wide(self, matrix: Sparse) -> Sparse:
        """The matrix with zero columns added up to the present width."""
        wide = matrix.copy()
        wide.resize((matrix.shape[0], self._program.n_columns))
        return wide

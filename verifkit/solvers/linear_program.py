"""HiGHS on a linear program that grows and whose objective changes: every solve starts from the last basis.

After a change of the costs alone the last basis is still primal feasible, and the primal simplex goes on from it. The
first solve, and the first after new rows or columns, is dual simplex. A basis turns HiGHS's presolve off. Measured on
the digits networks (`lp.md`) this was faster than dual simplex throughout, interior point, and solving anew.

Nothing that comes back is trusted: callers turn the dual values into a bound of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifkit.analysis.encoding import Sparse
from verifkit.budget import Clock
from verifkit.solvers.highs import quiet_solver
from verifkit.solvers.mixed_program import DROPPED

TOLERANCE = 1e-9
"""Primal and dual feasibility: how near the bound from the dual values comes to the optimum."""

DUAL, PRIMAL = 1, 4
"""HiGHS's numbers for the two simplex methods."""


@dataclass(frozen=True, eq=False)
class Duals:
    """rows, columns: each row's dual value and each column's reduced cost, >= 0 at a lower end and <= 0 at an upper.

    values: the columns, as the solver leaves them.
    """

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray


class LinearProgram:
    """Minimises costs over column bounds and rows that are added as they come. Raises ImportError without highspy."""

    def __init__(self) -> None:
        import highspy

        self._highspy = highspy
        self._solver = quiet_solver(highspy)
        self._usable, self._grown = True, True
        self.n_columns, self.n_rows = 0, 0
        for option, value in {
            "threads": 1,
            "solver": "simplex",
            "primal_feasibility_tolerance": TOLERANCE,
            "dual_feasibility_tolerance": TOLERANCE,
            "small_matrix_value": DROPPED,
        }.items():
            self._solver.setOptionValue(option, value)

    def add_columns(self, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """Appends columns without cost; returns their indices."""
        size, none = lower.size, np.zeros(0, dtype=np.int32)
        if size:
            starts = np.zeros(size, dtype=np.int32)
            self._keep(self._solver.addCols(size, np.zeros(size), lower, upper, 0, starts, none, np.zeros(0)))
        first, self.n_columns = self.n_columns, self.n_columns + size
        return np.arange(first, self.n_columns)

    def add_rows(self, matrix: Sparse, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Appends rows low <= matrix @ columns <= high; returns their indices."""
        size = matrix.shape[0]
        if size:
            starts, places = matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32)
            self._keep(self._solver.addRows(size, low, high, matrix.nnz, starts, places, matrix.data))
        self._grown = True
        first, self.n_rows = self.n_rows, self.n_rows + size
        return np.arange(first, self.n_rows)

    def minimise(self, cost: np.ndarray, clock: Clock) -> Duals | None:
        """The dual values at the optimum, or where the time ran out; None where the solver has none.

        cost: (n_columns,).
        """
        self._keep(self._solver.changeColsCost(cost.size, np.arange(cost.size, dtype=np.int32), cost))
        if not self._usable:
            return None
        if math.isfinite(clock.remaining):
            # HiGHS adds up its run times: its limit counts from the first call.
            self._solver.setOptionValue("time_limit", self._solver.getRunTime() + clock.remaining)
        self._solver.setOptionValue("simplex_strategy", DUAL if self._grown else PRIMAL)
        self._solver.run()
        self._grown = False
        if self._solver.getModelStatus() == self._highspy.HighsModelStatus.kUnknown:
            # The primal simplex ends so now and then, short of the optimum: without its basis there is one.
            self._solver.clearSolver()
            self._solver.setOptionValue("simplex_strategy", DUAL)
            self._solver.run()
        solution = self._solver.getSolution()
        if not solution.dual_valid:
            return None
        return Duals(np.array(solution.row_dual), np.array(solution.col_dual), np.array(solution.col_value))

    def _keep(self, status: Any) -> None:
        """A program that the solver did not take as it is must not be solved: its indices are no longer ours."""
        self._usable = self._usable and status != self._highspy.HighsStatus.kError

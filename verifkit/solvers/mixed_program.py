"""What every mixed-integer solver is asked behind one face: a column to minimise, rows that change, and a dual bound.

The encoding stays in the solver; only the rows of the question at hand are replaced. What a solver would drop or cannot
take raises `Unfit` instead of being lost. A subclass talks to one solver.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from verifkit.analysis.encoding import Encoding, Sparse
from verifkit.analysis.rows import Rows
from verifkit.budget import Clock

DROPPED = 1e-12
"""Matrix entries up to this size are ignored: the least that HiGHS's `small_matrix_value` can be; Gurobi's is 1e-13."""

Decided = Callable[[float, float], bool]
"""(bound, incumbent) -> whether both are good enough to stop."""


class Unfit(Exception):
    """The program cannot be given to the solver without changing it."""


class TooLarge(Exception):
    """The program is larger than the solver's licence admits."""


class SolverLost(Exception):
    """The solver's process ended before its time: killed, as by a system that is out of memory, or crashed."""


@dataclass(frozen=True)
class Solved:
    """bound: a lower bound on the objective, infinite where the solver proved that nothing lies below the cutoff.

    incumbent, x: the best point found, its flat input part; infinite and None where there is none.
    """

    bound: float
    incumbent: float = float("inf")
    x: np.ndarray | None = None


class MixedProgram(ABC):
    """An encoded network in a solver, with the column `objective` to be minimised.

    tolerance: feasibility and integrality. seed: the solver's own. Raises `Unfit`, `TooLarge`, and ImportError without
    the solver's package. Starts are inputs for which `start` has values of all columns.
    """

    least_tolerance: ClassVar[float]
    """The finest tolerance that the solver can be run with."""

    name: str

    def __init__(self, encoding: Encoding, objective: int, tolerance: float, seed: int) -> None:
        if not any(i.any() for i in encoding.integer):  # HiGHS states a dual bound for mixed-integer programs only
            encoding.add_columns(np.zeros(1), np.ones(1), integer=True)
        self.encoding, self.objective = encoding, objective
        self.tolerance, self.seed = tolerance, seed
        self.input_bounds = encoding.lower[0], encoding.upper[0]
        self.nodes, self.calls = 0, 0
        self._load()

    @abstractmethod
    def _load(self) -> None:
        """Gives the encoding to the solver."""

    @abstractmethod
    def _replace_rows(self, matrix: Sparse, high: np.ndarray) -> None:
        """Puts the rows matrix @ columns <= high in place of those of the last call."""

    @abstractmethod
    def minimise(
        self, least: float, cutoff: float, decided: Decided, clock: Clock, start: np.ndarray | None = None
    ) -> Solved:
        """Minimises the objective between `least`, a known lower bound, and `cutoff`.

        The cutoff lets the solver drop every node that proves enough. decided(bound, incumbent) says, while the search
        runs, whether both are good enough to stop. start: values of all columns to begin with; what is wrong with them
        costs nothing but time. Ends within a second of the clock, and once all calls together have searched its nodes.
        """

    def statistics(self) -> dict[str, float | int]:
        """Nodes searched, programs solved, binaries in each."""
        binaries = int(np.concatenate(self.encoding.integer).sum())
        return {"nodes": self.nodes, "programs": self.calls, "binaries": binaries}

    def set_rows(self, rows: Rows, mine: np.ndarray, slack: float = 0.0, *, against_objective: bool = False) -> None:
        """Replaces the rows of the last question by row @ (y, x) <= bound + slack for the rows `mine`.

        against_objective: row @ (y, x) - objective <= bound + slack, so that the objective is their largest violation.
        """
        from scipy import sparse

        output = self.encoding.output
        assert output is not None
        coefficients = sparse.csr_array(rows.outputs[mine])
        matrix = self.encoding.widen(coefficients @ output.matrix).tolil()
        if against_objective:
            matrix[:, self.objective] = -1.0
        if rows.inputs is not None:
            matrix[:, : self.input_bounds[0].size] += rows.inputs[mine]
        matrix = sparse.csr_array(matrix)
        self._check_dropped(matrix)
        high = rows.bound[mine] - coefficients @ output.constant + slack
        if not np.isfinite(high).all():
            raise Unfit("a threshold of the property is beyond the range of floats")
        self._replace_rows(matrix, high)

    def _rows(self) -> tuple[Sparse, np.ndarray, np.ndarray]:
        """The encoding's rows, none of which loses anything in the solver."""
        matrix, low, high = self.encoding.matrix()
        self._check_dropped(matrix)
        return matrix, low, high

    def _check_dropped(self, matrix: Any) -> None:
        """Raises `Unfit` where entries too small for the solver could matter in some row."""
        reach = np.maximum(np.abs(np.concatenate(self.encoding.lower)), np.abs(np.concatenate(self.encoding.upper)))
        small = matrix.copy()
        small.data = np.where(np.abs(small.data) <= DROPPED, np.abs(small.data), 0.0)
        small.eliminate_zeros()
        if small.nnz and not (small @ np.where(np.isfinite(reach), reach, 0.0)).max() <= self.tolerance:
            raise Unfit("the network has coefficients that are too small for the solver and matter")

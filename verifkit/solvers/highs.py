"""HiGHS on an encoded network: one column to minimise, a few rows that change, and a dual bound that decides.

The encoding stays in the solver; only the rows of the question at hand are replaced. What the solver would drop or
cannot take raises `Unfit` instead of being lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifkit.analysis.encoding import Encoding
from verifkit.analysis.rows import Rows
from verifkit.budget import Clock

DROPPED = 1e-12
"""HiGHS ignores matrix entries up to this size (its own least value of `small_matrix_value`)."""


class Unfit(Exception):
    """The program cannot be given to the solver without changing it."""


@dataclass(frozen=True)
class Solved:
    """bound: a lower bound on the objective, infinite where the solver proved that nothing lies below the cutoff.

    incumbent, x: the best point found, its flat input part; infinite and None where there is none.
    """

    bound: float
    incumbent: float = math.inf
    x: np.ndarray | None = None


class Program:
    """An encoded network in HiGHS with the column `objective` to be minimised.

    tolerance: feasibility and integrality; seed: HiGHS's own. Raises `Unfit`, and ImportError without highspy.
    """

    def __init__(self, encoding: Encoding, objective: int, tolerance: float, seed: int) -> None:
        import highspy

        self._highspy = highspy
        if not any(i.any() for i in encoding.integer):  # HiGHS states a dual bound for mixed-integer programs only
            encoding.add_columns(np.zeros(1), np.ones(1), integer=True)
        self._encoding = encoding
        self._objective = objective
        self._solver = quiet_solver(highspy)
        self.name = f"HiGHS {self._solver.version()}"
        self.tolerance = tolerance
        self.input_bounds = encoding.lower[0], encoding.upper[0]
        self._nodes, self._calls = 0, 0
        for option, value in {
            "threads": 1,
            "random_seed": seed,
            "mip_rel_gap": 0.0,
            "mip_abs_gap": 0.0,
            "primal_feasibility_tolerance": tolerance,
            "dual_feasibility_tolerance": tolerance,
            "mip_feasibility_tolerance": tolerance,
            "small_matrix_value": DROPPED,
        }.items():
            self._solver.setOptionValue(option, value)
        self._accept(self._solver.passModel(self._model()))
        self._base_rows = self._solver.getNumRow()

    def statistics(self) -> dict[str, float | int]:
        """Nodes searched, programs solved, binaries in each."""
        binaries = int(np.concatenate(self._encoding.integer).sum())
        return {"nodes": self._nodes, "programs": self._calls, "binaries": binaries}

    def set_rows(self, rows: Rows, mine: np.ndarray, slack: float = 0.0, *, against_objective: bool = False) -> None:
        """Replaces the rows of the last question by row @ (y, x) <= bound + slack for the rows `mine`.

        against_objective: row @ (y, x) - objective <= bound + slack, so that the objective is their largest violation.
        """
        from scipy import sparse

        solver, output = self._solver, self._encoding.output
        assert output is not None
        extra = solver.getNumRow() - self._base_rows
        if extra:
            solver.deleteRows(extra, np.arange(self._base_rows, self._base_rows + extra, dtype=np.int32))
        coefficients = sparse.csr_array(rows.outputs[mine])
        matrix = self._encoding.widen(coefficients @ output.matrix).tolil()
        if against_objective:
            matrix[:, self._objective] = -1.0
        if rows.inputs is not None:
            matrix[:, : self.input_bounds[0].size] += rows.inputs[mine]
        matrix = sparse.csr_array(matrix)
        self._check_dropped(matrix)
        high = rows.bound[mine] - coefficients @ output.constant + slack
        if not np.isfinite(high).all():
            raise Unfit("a threshold of the property is beyond the range of floats")
        status = solver.addRows(
            mine.size, np.full(mine.size, -np.inf), high, matrix.nnz,
            matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), matrix.data,
        )  # fmt: skip
        self._accept(status)

    def minimise(self, least: float, cutoff: float, decided: Callable[[float, float], bool], clock: Clock) -> Solved:
        """Minimises the objective between `least`, a known lower bound, and `cutoff`.

        The cutoff lets the solver drop every node that proves enough (measured on ACAS Xu 2_1, property 4: 20 times
        faster). decided(bound, incumbent) says, while the search runs, whether both are good enough to stop.
        """
        self._solver.changeColBounds(self._objective, least, cutoff)
        if math.isfinite(clock.remaining):
            # HiGHS adds up its run times: its limit counts from the first call.
            self._solver.setOptionValue("time_limit", self._solver.getRunTime() + clock.remaining)
        proved = -math.inf

        def interrupt(event: Any) -> None:
            nonlocal proved
            # An exhausted tree is shown as an infinite bound, also beside an incumbent: that is for the end to say.
            shown = float(event.data_out.mip_dual_bound)
            proved = max(proved, shown) if math.isfinite(shown) else proved
            enough = decided(proved, float(event.data_out.mip_primal_bound))
            event.data_in.user_interrupt = enough or clock.remaining <= 0  # also clears the last run's interrupt

        self._solver.cbMipInterrupt.subscribe(interrupt)
        self._solver.run()
        self._solver.cbMipInterrupt.unsubscribe(interrupt)
        self._calls += 1
        info, status = self._solver.getInfo(), self._solver.getModelStatus()
        self._nodes += max(0, int(info.mip_node_count))
        if status == self._highspy.HighsModelStatus.kOptimal and math.isfinite(info.mip_dual_bound):
            proved = max(proved, float(info.mip_dual_bound))
        solution = self._solver.getSolution()
        if solution.value_valid:  # whatever the bound says, here is a point below the cutoff
            incumbent = float(info.objective_function_value)
            return Solved(min(proved, incumbent), incumbent, np.array(solution.col_value)[: self.input_bounds[0].size])
        if status == self._highspy.HighsModelStatus.kInfeasible:
            return Solved(math.inf)
        return Solved(proved)

    def _model(self) -> Any:
        highspy, encoding = self._highspy, self._encoding
        matrix, low, high = encoding.matrix()
        self._check_dropped(matrix)
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = encoding.n_columns, matrix.shape[0]
        cost = np.zeros(encoding.n_columns)
        cost[self._objective] = 1.0
        lp.col_cost_ = cost
        lp.col_lower_, lp.col_upper_ = np.concatenate(encoding.lower), np.concatenate(encoding.upper)
        lp.row_lower_, lp.row_upper_ = low, high
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(i)] for i in np.concatenate(encoding.integer)]
        return lp

    def _accept(self, status: Any) -> None:
        if status == self._highspy.HighsStatus.kError:
            raise Unfit("the solver does not take the network's coefficients")

    def _check_dropped(self, matrix: Any) -> None:
        """Raises `Unfit` where entries too small for the solver could matter in some row."""
        reach = np.maximum(np.abs(np.concatenate(self._encoding.lower)), np.abs(np.concatenate(self._encoding.upper)))
        small = matrix.copy()
        small.data = np.where(np.abs(small.data) <= DROPPED, np.abs(small.data), 0.0)
        small.eliminate_zeros()
        if small.nnz and not (small @ np.where(np.isfinite(reach), reach, 0.0)).max() <= self.tolerance:
            raise Unfit("the network has coefficients that are too small for the solver and matter")


def quiet_solver(highspy: Any) -> Any:
    """A HiGHS that prints nothing: its constructor's last call, `enableCallbacks`, would print a banner otherwise."""

    class Quiet(highspy.Highs):  # type: ignore[misc]
        def enableCallbacks(self) -> None:  # noqa: N802 (HiGHS's name)
            self.setOptionValue("output_flag", False)
            super().enableCallbacks()

    return Quiet()

"""HiGHS as a `MixedProgram`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from verifkit.analysis.encoding import Sparse
from verifkit.budget import Clock
from verifkit.solvers.isolated import isolated
from verifkit.solvers.mixed_program import DROPPED, Decided, MixedProgram, Solved, SolverLost, Unfit

SMALL = 20_000
"""Entries of a program up to which HiGHS is called here: it then comes by the clock often enough. Others run in a
process of their own (the presolve of a program of 313254 entries has been seen to take 37 s with a limit of 5)."""


class HighsProgram(MixedProgram):
    """One thread; the same answer every time, given enough time. HiGHS knows no priorities of branching."""

    least_tolerance: ClassVar[float] = 1e-10

    def _load(self) -> None:
        import highspy

        self._highspy = highspy
        self._solver = quiet_solver(highspy)
        self.name = f"HiGHS {self._solver.version()}"
        for option, value in {
            "threads": 1,
            "random_seed": self.seed,
            "mip_rel_gap": 0.0,
            "mip_abs_gap": 0.0,
            "primal_feasibility_tolerance": self.tolerance,
            "dual_feasibility_tolerance": self.tolerance,
            "mip_feasibility_tolerance": self.tolerance,
            "small_matrix_value": DROPPED,
        }.items():
            self._solver.setOptionValue(option, value)
        self._accept(self._solver.passModel(self._model()))
        self._base_rows = self._solver.getNumRow()

    def _replace_rows(self, matrix: Sparse, high: np.ndarray) -> None:
        solver = self._solver
        extra = solver.getNumRow() - self._base_rows
        if extra:
            solver.deleteRows(extra, np.arange(self._base_rows, self._base_rows + extra, dtype=np.int32))
        status = solver.addRows(
            high.size, np.full(high.size, -np.inf), high, matrix.nnz,
            matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), matrix.data,
        )  # fmt: skip
        self._accept(status)

    def minimise(
        self, least: float, cutoff: float, decided: Decided, clock: Clock, start: np.ndarray | None = None
    ) -> Solved:
        solver = self._solver
        solver.changeColBounds(self.objective, least, cutoff)
        if start is not None:
            solver.setSolution(start.size, np.arange(start.size, dtype=np.int32), start)
        if math.isfinite(clock.remaining):
            # HiGHS adds up its run times: its limit counts from the first call.
            solver.setOptionValue("time_limit", solver.getRunTime() + clock.remaining)
        if clock.budget.nodes is not None:
            solver.setOptionValue("mip_max_nodes", max(0, clock.budget.nodes - self.nodes))
        self.calls += 1
        if self._entries <= SMALL:
            solved, nodes = self._run(decided, clock, lambda bound: None)
        else:
            solved, nodes = self._run_isolated(decided, clock)
        self.nodes += nodes
        return solved

    def _run_isolated(self, decided: Decided, clock: Clock) -> tuple[Solved, int]:
        proved = [-math.inf]
        found = isolated(lambda tell: self._run(decided, clock, tell), proved.append, clock)
        if found is None and clock.remaining > 0:
            raise SolverLost(f"the solver's process ended before its time, at the bound {max(proved):.6g}")
        return (Solved(max(proved)), 0) if found is None else found

    def _run(self, decided: Decided, clock: Clock, tell: Callable[[float], None]) -> tuple[Solved, int]:
        """The answer and the number of nodes; tells every better bound on its way."""
        proved = -math.inf

        def interrupt(event: Any) -> None:
            nonlocal proved
            # An exhausted tree is shown as an infinite bound, also beside an incumbent: that is for the end to say.
            shown = float(event.data_out.mip_dual_bound)
            if math.isfinite(shown) and shown > proved:
                proved = shown
                tell(proved)
            enough = decided(proved, float(event.data_out.mip_primal_bound))
            event.data_in.user_interrupt = enough or clock.remaining <= 0  # also clears the last run's interrupt

        self._solver.cbMipInterrupt.subscribe(interrupt)
        self._solver.run()
        self._solver.cbMipInterrupt.unsubscribe(interrupt)
        return self._answer(proved), max(0, int(self._solver.getInfo().mip_node_count))

    def _answer(self, proved: float) -> Solved:
        """Of the run that has just ended; proved: the best bound that it showed on its way."""
        statuses = self._highspy.HighsModelStatus
        info, status = self._solver.getInfo(), self._solver.getModelStatus()
        if status == statuses.kOptimal and math.isfinite(info.mip_dual_bound):
            proved = max(proved, float(info.mip_dual_bound))
        solution = self._solver.getSolution()
        if solution.value_valid:  # whatever the bound says, here is a point below the cutoff
            incumbent = float(info.objective_function_value)
            return Solved(min(proved, incumbent), incumbent, np.array(solution.col_value)[: self.input_bounds[0].size])
        return Solved(math.inf if status == statuses.kInfeasible else proved)

    def _model(self) -> Any:
        highspy, encoding = self._highspy, self.encoding
        matrix, low, high = self._rows()
        self._entries = matrix.nnz
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = encoding.n_columns, matrix.shape[0]
        cost = np.zeros(encoding.n_columns)
        cost[self.objective] = 1.0
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


def quiet_solver(highspy: Any) -> Any:
    """A HiGHS that prints nothing: its constructor's last call, `enableCallbacks`, would print a banner otherwise."""

    class Quiet(highspy.Highs):  # type: ignore[misc]
        def enableCallbacks(self) -> None:  # noqa: N802 (HiGHS's name)
            self.setOptionValue("output_flag", False)
            super().enableCallbacks()

    return Quiet()

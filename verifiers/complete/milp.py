"""Mixed-integer programming through HiGHS: complete for ReLU networks over boxes and l1 balls.

Paper: Tjeng, Xiao, Tedrake, "Evaluating robustness of neural networks with mixed integer programming", ICLR 2019.
CROWN bounds first decide which units need a binary and refute what they can; then one program per remaining disjunct:
minimise t with t >= a_i y + c_i x - b_i for its rows. A best bound above zero refutes the disjunct, an incumbent below
zero is a candidate witness, and the solver is stopped as soon as either is known.
The solver's *dual bound* decides (or its proof that no solution lies below the cutoff), never its word "optimal". What
its feasibility tolerance may hide is carried through the network and must be cleared by the bound; else the answer is
UNKNOWN(unconfirmed).
Guarantee: HOLDS about the network, real semantics, solver arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from verifkit.analysis.encoding import Encoding, add_l1_ball, encode
from verifkit.analysis.linear import analyse
from verifkit.analysis.region import magnitude, region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.analysis.tolerance import hidden_by_tolerance
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.confirm import confirm
from verifkit.errors import OptionError
from verifkit.evidence import SolverBound
from verifkit.functions import Relu
from verifkit.input_sets import LpBall
from verifkit.ops import Max
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason
from verifkit.verifier import Verifier

COARSEST = 1e-6
"""The largest feasibility tolerance that HiGHS is run with; values that would need more are refused."""

RESOLUTION = 1e-15
"""A tolerance below this share of the largest value is finer than floats are there: HiGHS, unable to meet it, has been
seen to call feasible programs infeasible. So the tolerance grows with the values."""

DROPPED = 1e-12
"""HiGHS ignores matrix entries up to this size (its own least value of `small_matrix_value`)."""


class _Unfit(Exception):
    """The program cannot be given to the solver without changing it."""


@dataclass(frozen=True, kw_only=True)
class Milp(Verifier):
    """tolerance: HiGHS's feasibility and integrality tolerance, between 1e-10 and 1e-6."""

    tolerance: float = 1e-9

    name: ClassVar[str] = "milp"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.COMPLETE, "1": Kind.COMPLETE},
        operators=frozenset({Max}),
        activations=frozenset({Relu}),
        coupling=True,
        modules={"highspy": "all"},
        paper=Paper(
            "tjeng2019milp",
            "Tjeng, Vincent and Xiao, Kai Y. and Tedrake, Russ",
            "Evaluating robustness of neural networks with mixed integer programming",
            "ICLR",
            2019,
        ),
    )

    def __post_init__(self) -> None:
        if not 1e-10 <= self.tolerance <= 1e-6:
            raise OptionError(f"milp's tolerance must lie between 1e-10 and 1e-6, not {self.tolerance}")

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        network, region, rows = query.network.without_max(), region_of(query), rows_of(query.prop)
        analysis = analyse(network, region, CROWN_RELAXATIONS, clock)
        lower = analysis.property_rows(rows)[0]
        found = rows.refuting(lower)
        still_open = sorted((n for n, f in enumerate(found) if f is None), key=lambda n: rows.gap(lower, n))
        if not still_open:
            proof = Guarantee(arithmetic=Arithmetic.ROUNDED)
            gaps = tuple(rows.gap(lower, n) for n in range(rows.n_disjuncts))
            return Outcome.holds(proof, SolverBound("none needed", gaps, 0.0))
        largest = max(float(magnitude(*b).max()) for b in analysis.bounds)
        tolerance = max(self.tolerance, RESOLUTION * largest)
        if not tolerance <= COARSEST:
            return Outcome.unknown(Reason.UNCONFIRMED, f"values up to {largest:.2g} are too large for the solver")
        encoding = encode(analysis.network, analysis.bounds)
        if isinstance(query.prop.input_set, LpBall):
            add_l1_ball(encoding, query.prop.input_set)
        hidden = hidden_by_tolerance(analysis.network, analysis.bounds, rows, tolerance)
        try:
            program = _Program(encoding, tolerance, int(rng.integers(2**31)))
            return self._search(query, rows, lower, still_open, hidden, program, clock)
        except _Unfit as unfit:
            return Outcome.unknown(Reason.UNCONFIRMED, str(unfit))

    def _search(
        self,
        query: Query,
        rows: Rows,
        lower: np.ndarray,
        still_open: list[int],
        hidden: np.ndarray,
        program: _Program,
        clock: Clock,
    ) -> Outcome:
        """One program for each disjunct that the bounds left open."""
        proved = np.array([rows.gap(lower, n) for n in range(rows.n_disjuncts)])
        unconfirmed: str | None = None
        for number in still_open:
            clock.check()
            mine = np.flatnonzero(rows.disjunct == number)
            if mine.size == 0:  # no row at all: every input is unsafe
                low, high = program.input_bounds
                return Outcome.violated((low + high) / 2)
            # Twice: what the network's constraints may hide, and as much again for the cutoff on t itself.
            cleared = 2.0 * float(hidden[mine].max())
            bound, incumbent, x = program.minimise_worst(rows, mine, rows.gap(lower, number), cleared, clock)
            proved[number] = bound
            if x is not None:
                if confirm(query, x) is not None:
                    return Outcome.violated(x, statistics=program.statistics())
                unconfirmed = f"the least violation is {incumbent:.3g}, within the solver's tolerance of zero"
            elif not bound >= cleared:
                if clock.remaining > 0:
                    unconfirmed = f"the solver ended without an answer at the bound {bound:.6g}"
                    continue
                return Outcome.unknown(Reason.TIMEOUT, f"best bound {bound:.6g}", statistics=program.statistics())
        if unconfirmed is not None:
            return Outcome.unknown(Reason.UNCONFIRMED, unconfirmed, statistics=program.statistics())
        evidence = SolverBound(program.solver, tuple(proved.tolist()), program.tolerance)
        guarantee = Guarantee(
            arithmetic=Arithmetic.SOLVER,
            assumptions=(f"{program.solver} within its tolerance {program.tolerance:.2g}",),
        )
        return Outcome.holds(guarantee, evidence, statistics=program.statistics())


def _quiet_solver(highspy: Any) -> Any:
    """A HiGHS that prints nothing: its constructor's last call, `enableCallbacks`, would print a banner otherwise."""

    class Quiet(highspy.Highs):  # type: ignore[misc]
        def enableCallbacks(self) -> None:  # noqa: N802 (HiGHS's name)
            self.setOptionValue("output_flag", False)
            super().enableCallbacks()

    return Quiet()


class _Program:
    """The network in HiGHS, with one more column t that each disjunct's rows bound from below."""

    def __init__(self, encoding: Encoding, tolerance: float, seed: int) -> None:
        import highspy

        self._highspy = highspy
        self._encoding = encoding
        self._worst = int(encoding.add_columns(np.array([-np.inf]), np.array([np.inf]))[0])
        self._solver = _quiet_solver(highspy)
        self.solver = f"HiGHS {self._solver.version()}"
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

    def _model(self) -> Any:
        highspy, encoding = self._highspy, self._encoding
        matrix, low, high = encoding.matrix()
        self._check_dropped(matrix)
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = encoding.n_columns, matrix.shape[0]
        cost = np.zeros(encoding.n_columns)
        cost[self._worst] = 1.0
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
            raise _Unfit("the solver does not take the network's coefficients")

    def _check_dropped(self, matrix: Any) -> None:
        """Raises `_Unfit` where entries too small for the solver could matter in some row."""
        reach = np.maximum(np.abs(np.concatenate(self._encoding.lower)), np.abs(np.concatenate(self._encoding.upper)))
        small = matrix.copy()
        small.data = np.where(np.abs(small.data) <= DROPPED, np.abs(small.data), 0.0)
        small.eliminate_zeros()
        if small.nnz and not (small @ np.where(np.isfinite(reach), reach, 0.0)).max() <= self.tolerance:
            raise _Unfit("the network has coefficients that are too small for the solver and matter")

    def statistics(self) -> dict[str, float | int]:
        binaries = int(np.concatenate(self._encoding.integer).sum())
        return {"nodes": self._nodes, "programs": self._calls, "binaries": binaries}

    def minimise_worst(
        self, rows: Rows, mine: np.ndarray, least: float, cleared: float, clock: Clock
    ) -> tuple[float, float, np.ndarray | None]:
        """(dual bound, incumbent value, incumbent input) for the least t = max over `mine` of row - bound.

        Stops early once the bound reaches `cleared` or the incumbent falls below -`cleared`. A cutoff t <= `cleared`
        lets the solver drop every node that proves enough (measured on ACAS Xu 2_1, property 4: 20 times faster).
        `least` is a known lower bound on t.
        """
        self._set_rows(rows, mine)
        self._solver.changeColBounds(self._worst, least - 1.0, cleared)
        if math.isfinite(clock.remaining):
            # HiGHS adds up its run times: its limit counts from the first call.
            self._solver.setOptionValue("time_limit", self._solver.getRunTime() + clock.remaining)

        proved = -math.inf

        def interrupt(event: Any) -> None:
            nonlocal proved
            # An exhausted tree is shown as an infinite bound, also beside an incumbent: that is for the end to say.
            shown = float(event.data_out.mip_dual_bound)
            proved = max(proved, shown) if math.isfinite(shown) else proved
            decided = proved >= cleared or event.data_out.mip_primal_bound < -cleared
            event.data_in.user_interrupt = decided or clock.remaining <= 0  # also clears the last run's interrupt

        self._solver.cbMipInterrupt.subscribe(interrupt)
        self._solver.run()
        self._solver.cbMipInterrupt.unsubscribe(interrupt)
        self._calls += 1
        info = self._solver.getInfo()
        self._nodes += max(0, int(info.mip_node_count))
        solution = self._solver.getSolution()
        if solution.value_valid:  # whatever the bound says, here is a point below the cutoff
            x = np.array(solution.col_value)[: self._n_inputs]
            incumbent = float(info.objective_function_value)
            return min(proved, incumbent), incumbent, x
        if self._solver.getModelStatus() == self._highspy.HighsModelStatus.kInfeasible:
            return cleared, math.inf, None  # nothing has t <= cleared
        return proved, math.inf, None

    @property
    def _n_inputs(self) -> int:
        return int(self._encoding.lower[0].size)

    def _set_rows(self, rows: Rows, mine: np.ndarray) -> None:
        """Replaces the last disjunct's rows: row @ (y, x) - t <= bound."""
        from scipy import sparse

        solver, output = self._solver, self._encoding.output
        assert output is not None
        extra = solver.getNumRow() - self._base_rows
        if extra:
            solver.deleteRows(extra, np.arange(self._base_rows, self._base_rows + extra, dtype=np.int32))
        coefficients = sparse.csr_array(rows.outputs[mine])
        matrix = self._encoding.widen(coefficients @ output.matrix).tolil()
        matrix[:, self._worst] = -1.0
        if rows.inputs is not None:
            matrix[:, : self._n_inputs] += rows.inputs[mine]
        matrix = sparse.csr_array(matrix)
        self._check_dropped(matrix)
        high = rows.bound[mine] - coefficients @ output.constant
        if not np.isfinite(high).all():
            raise _Unfit("a threshold of the property is beyond the range of floats")
        status = solver.addRows(
            mine.size, np.full(mine.size, -np.inf), high, matrix.nnz,
            matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), matrix.data,
        )  # fmt: skip
        self._accept(status)

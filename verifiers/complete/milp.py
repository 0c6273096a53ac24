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
from verifkit.analysis.interval import Bounds
from verifkit.analysis.linear import analyse
from verifkit.analysis.region import magnitude, region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import OptionError
from verifkit.evidence import SolverBound
from verifkit.functions import Relu
from verifkit.input_sets import LpBall
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Max
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason
from verifkit.verifier import Verifier

LARGEST = 1e12
"""Bounds beyond this are refused: HiGHS rejects coefficients from 1e15 on and takes bounds from 1e20 on as absent."""

DROPPED = 1e-9
"""HiGHS ignores matrix entries up to this size."""

RELATIVE = 1e-13
"""What floating point may lose of the largest terms of one constraint, inside the solver and in composing it."""


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
        if still_open and max(float(magnitude(*b).max()) for b in analysis.bounds) > LARGEST:
            return Outcome.unknown(Reason.UNCONFIRMED, "values are too large for the solver's arithmetic to be trusted")
        encoding = encode(analysis.network, analysis.bounds)
        if isinstance(query.prop.input_set, LpBall):
            add_l1_ball(encoding, query.prop.input_set)
        hidden = _hidden_by_tolerance(analysis.network, analysis.bounds, rows, self.tolerance)
        program = _Program(encoding, self.tolerance, int(rng.integers(2**31)))
        proved = np.array([-math.inf if f is None else rows.gap(lower, n) for n, f in enumerate(found)])
        unconfirmed: str | None = None
        for number in still_open:
            clock.check()
            mine = np.flatnonzero(rows.disjunct == number)
            if mine.size == 0:  # no row at all: every input is unsafe
                return Outcome.violated(((region.lower + region.upper) / 2).reshape(-1))
            cleared = float(hidden[mine].max())
            bound, incumbent, x = program.minimise_worst(rows, mine, rows.gap(lower, number), cleared, clock)
            proved[number] = bound
            if bound >= cleared:
                continue
            if x is not None and incumbent <= cleared:
                outcome = self._confirmed(query, Outcome.violated(x, statistics=program.statistics()))
                if outcome.reason is None:
                    return Outcome.violated(x, statistics=program.statistics())
                unconfirmed = f"the least violation is {incumbent:.3g}, within the solver's tolerance of zero"
                continue
            return Outcome.unknown(Reason.TIMEOUT, f"best bound {bound:.6g}", statistics=program.statistics())
        if unconfirmed is not None:
            return Outcome.unknown(Reason.UNCONFIRMED, unconfirmed, statistics=program.statistics())
        evidence = SolverBound(program.solver, tuple(proved.tolist()), self.tolerance)
        guarantee = Guarantee(
            arithmetic=Arithmetic.SOLVER if still_open else Arithmetic.ROUNDED,
            assumptions=(f"{program.solver} within its tolerance {self.tolerance:g}",) if still_open else (),
        )
        return Outcome.holds(guarantee, evidence, statistics=program.statistics())


def _hidden_by_tolerance(network: Network, bounds: list[Bounds], rows: Rows, tolerance: float) -> np.ndarray:
    """How far each row's value may be from that of a true execution when every constraint is off by what the solver
    lets pass: `tolerance`, the matrix entries it drops, and rounding relative to the constraint's largest terms.

    An error in one value reaches a row at most multiplied by the row's largest slope in that value over the bounds:
    the slopes are pulled back as intervals (center and radius), a stable unit's slope being 0 or 1 and an unstable
    one's anything between. Shape (R,).
    """
    count, shape = rows.outputs.shape[0], network.output_shape
    slopes = {len(network.nodes) - 1: (rows.outputs.reshape(count, *shape), np.zeros((count, *shape)))}
    hidden = tolerance + RELATIVE * (np.abs(rows.outputs) @ magnitude(*bounds[-1]).reshape(-1) + np.abs(rows.bound))
    if rows.inputs is not None:
        hidden = hidden + RELATIVE * (np.abs(rows.inputs) @ magnitude(*bounds[0]).reshape(-1))
        slopes[0] = (rows.inputs.reshape(count, *network.input_shape), np.zeros((count, *network.input_shape)))
    for index in range(len(network.nodes) - 1, -1, -1):
        if index not in slopes:
            continue
        node, (center, radius) = network.nodes[index], slopes.pop(index)
        largest = (np.abs(center) + radius).reshape(count, math.prod(node.shape))
        error = np.full(node.shape, tolerance)
        if isinstance(node, Affine):
            pulled = [(m.adjoint(center), m.absolute.adjoint(radius)) for m in node.maps]
            error = error + _lost(node, bounds)
        elif isinstance(node, Activation):
            low, high = (end[0] for end in bounds[node.parents[0]])
            unstable = (low < 0) & (high > 0)
            error = np.where(unstable, tolerance * (2.0 + high - low), 0.0)
            # [0, 1] times [c - r, c + r], where the unit is unstable
            least, most = np.minimum(center - radius, 0.0), np.maximum(center + radius, 0.0)
            on = (low >= 0).astype(np.float64)
            middle, half = (least + most) / 2, (most - least) / 2
            pulled = [(np.where(unstable, middle, on * center), np.where(unstable, half, on * radius))]
        else:
            pulled = []
        hidden = hidden + largest @ error.reshape(-1)
        for parent, (c, r) in zip(node.parents, pulled, strict=True):
            before = slopes.get(parent, (np.zeros_like(c), np.zeros_like(r)))
            slopes[parent] = (before[0] + c, before[1] + r)
    return np.asarray(hidden)


def _lost(node: Affine, bounds: list[Bounds]) -> np.ndarray:
    """What dropped entries and rounding may change in each value of an affine node, in the node's shape."""
    lost = np.zeros(math.prod(node.shape))
    if node.bias is not None:
        lost += RELATIVE * np.abs(node.bias).reshape(-1)
    for linear, parent in zip(node.maps, node.parents, strict=True):
        reach = magnitude(*bounds[parent]).reshape(-1)
        entries = linear.entries()
        terms = np.abs(entries.values) * reach[entries.cols]
        share = np.where(np.abs(entries.values) <= DROPPED, 1.0, RELATIVE)
        lost += np.bincount(entries.rows, share * terms, minlength=lost.size)
    return np.asarray(lost.reshape(node.shape))


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
        self._nodes, self._calls = 0, 0
        for option, value in {
            "threads": 1,
            "random_seed": seed,
            "mip_rel_gap": 0.0,
            "mip_abs_gap": 0.0,
            "primal_feasibility_tolerance": tolerance,
            "dual_feasibility_tolerance": tolerance,
            "mip_feasibility_tolerance": tolerance,
        }.items():
            self._solver.setOptionValue(option, value)
        self._solver.passModel(self._model())
        self._base_rows = self._solver.getNumRow()

    def _model(self) -> Any:
        highspy, encoding = self._highspy, self._encoding
        matrix, low, high = encoding.matrix()
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
            # The record after an interrupted run may lag behind what this call was shown.
            proved = max(proved, float(event.data_out.mip_dual_bound))
            decided = proved >= cleared or event.data_out.mip_primal_bound < -cleared
            event.data_in.user_interrupt = decided or clock.remaining <= 0  # also clears the last run's interrupt

        self._solver.cbMipInterrupt.subscribe(interrupt)
        self._solver.run()
        self._solver.cbMipInterrupt.unsubscribe(interrupt)
        self._calls += 1
        info = self._solver.getInfo()
        self._nodes += max(0, int(info.mip_node_count))
        status = self._solver.getModelStatus()
        solution = self._solver.getSolution()
        if status == self._highspy.HighsModelStatus.kInfeasible:
            return cleared, math.inf, None  # nothing has t <= cleared
        bound = max(proved, float(info.mip_dual_bound))
        if not solution.value_valid:
            return bound, math.inf, None
        x = np.array(solution.col_value)[: self._n_inputs]
        return bound, float(info.objective_function_value), x

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
        high = rows.bound[mine] - coefficients @ output.constant
        solver.addRows(
            mine.size, np.full(mine.size, -np.inf), high, matrix.nnz,
            matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), matrix.data,
        )  # fmt: skip

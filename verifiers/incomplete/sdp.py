"""The semidefinite relaxation of a ReLU network, its dual solved by a conic solver and made safe afterwards.

Paper: Raghunathan, Steinhardt, Liang, "Semidefinite relaxations for certifying robustness to adversarial examples",
NeurIPS 2018. Variables and constraints are in `verifkit.analysis.semidefinite`, the safe bound in
`verifkit.analysis.eigenvalue_shift`. Guarantee: HOLDS about the network, real semantics, rounded arithmetic: nothing
rests on the solver.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from verifkit.analysis.eigenvalue_shift import safe_bound
from verifkit.analysis.layers import layer_bounds
from verifkit.analysis.linear import analyse
from verifkit.analysis.refute import conclude
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.analysis.semidefinite import Multipliers, Relaxed, order_of, relaxed
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import OptionError
from verifkit.functions import Relu
from verifkit.ops import Max
from verifkit.query import Query
from verifkit.result import Outcome, Reason, Statistics, Verdict
from verifkit.solvers.isolated import isolated
from verifkit.verifier import Verifier

SOLVERS = ("auto", "SCS", "CLARABEL")

SMALL = 32
"""Rows of a matrix up to which the interior point method takes less than a second."""

FEW = 8
"""The first attempt at a row has this part of the iterations."""


@dataclass(frozen=True, kw_only=True)
class Sdp(Verifier):
    """CROWN's bounds on every layer, then one semidefinite program for each row that CROWN leaves open.

    solver: "SCS", first order; "CLARABEL", interior point, with more digits, and far slower on all but small problems;
    "auto" takes Clarabel for small ones and SCS for others. accuracy: at which SCS may stop; an early stop costs
    tightness, never soundness. iterations: after which SCS stops anyway. max_size: rows of the largest matrix that is
    tried (inputs that vary, unstable units, and 1). every_row: bound every row of the unsafe set this way, although
    CROWN or another row suffices: for comparing bounds.
    """

    solver: str = "auto"
    accuracy: float = 1e-4
    iterations: int = 5000
    max_size: int = 300
    every_row: bool = False

    name: ClassVar[str] = "sdp"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE},
        operators=frozenset({Max}),
        activations=frozenset({Relu}),
        coupling=True,
        modules={"cvxpy": "conic"},
        paper=Paper(
            "raghunathan2018sdp",
            "Raghunathan, Aditi and Steinhardt, Jacob and Liang, Percy",
            "Semidefinite relaxations for certifying robustness to adversarial examples",
            "NeurIPS",
            2018,
        ),
    )

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise OptionError(f"sdp: the solver is one of {', '.join(SOLVERS)}, not '{self.solver}'")
        if not 0 < self.accuracy < 1:
            raise OptionError(f"sdp: the accuracy must lie strictly between 0 and 1, not {self.accuracy}")
        if self.iterations < 1 or self.max_size < 1:
            raise OptionError("sdp: iterations and max_size must be at least 1")

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        rows = rows_of(query.prop)
        analysis = analyse(query.network.without_max(), region_of(query), CROWN_RELAXATIONS, clock)
        lower = np.array(analysis.property_rows(rows)[0])
        if next(self._open(rows, lower), None) is None:
            return conclude(query, rows, lower, analysis)
        size = order_of(analysis) + 1
        if size == 1:  # a single point and no unstable unit: nothing is relaxed
            return conclude(query, rows, lower, analysis)
        if size > self.max_size:
            detail = f"the matrix would have {size} rows, more than max_size={self.max_size}"
            statistics = {"margin": rows.margin(lower), "size": size}
            bounds = layer_bounds(query.network, analysis)
            return Outcome.unknown(Reason.INCOMPLETE, detail, statistics=statistics, bounds=bounds)
        solved: list[int] = []
        ended = True
        problem = relaxed(analysis, rows)
        if problem is not None:  # else nothing finite is known of some unit
            import cvxpy as cp  # noqa: F401 (before the fork: a child would import it each time)

            def told(news: tuple[int, float]) -> None:
                solved.append(news[0])
                lower[news[0]] = max(lower[news[0]], news[1])

            # A solver looks at the clock only between its steps, and Clarabel not at all while it sets up.
            ended = bool(isolated(lambda tell: self._bound(problem, rows, lower.copy(), tell, clock), told, clock))
        outcome = conclude(query, rows, lower, analysis)
        # Lines and layer bounds alone do not show what the programs proved.
        evidence = None if solved else outcome.evidence
        found: Statistics = {**outcome.statistics, "size": size, "programs": len(solved)}
        outcome = replace(outcome, evidence=evidence, statistics=found)
        if ended or outcome.verdict is not Verdict.UNKNOWN:
            return outcome
        if clock.remaining <= 0:
            return replace(outcome, reason=Reason.TIMEOUT)
        return replace(outcome, detail=f"{outcome.detail}; the solver's process ended before its time")

    def _bound(
        self,
        problem: Relaxed,
        rows: Rows,
        lower: np.ndarray,
        tell: Callable[[tuple[int, float]], None],
        clock: Clock,
    ) -> bool:
        """Tells of every row that is solved for, and the bound that it then has; True once there is none left."""
        program = _Program(problem)
        for row in self._open(rows, lower):
            for settings in self._attempts(problem.order + 1):
                clock.check()
                multipliers = program.solve(row, settings, clock)
                if multipliers is not None:
                    lower[row] = max(lower[row], safe_bound(problem, row, multipliers))
                refuted = bool(rows.refuted_rows(lower)[row]) and not self.every_row
                if refuted or (multipliers is not None and settings["solver"] == "CLARABEL"):
                    break
            tell((row, float(lower[row])))
        return True

    def _attempts(self, size: int) -> Iterator[dict[str, Any]]:
        """The solver's settings. A few iterations of SCS often refute a row; they are lost where they do not."""
        if self.solver == "CLARABEL" or (self.solver == "auto" and size <= SMALL):
            yield {"solver": "CLARABEL"}  # where it fails, "auto" goes on
            if self.solver == "CLARABEL":
                return
        few = 0 if self.every_row else self.iterations // FEW
        for iterations in (few, self.iterations) if few else (self.iterations,):
            yield {"solver": "SCS", "eps_abs": self.accuracy, "eps_rel": self.accuracy, "max_iters": iterations}

    def _open(self, rows: Rows, lower: np.ndarray) -> Iterator[int]:
        """The rows still to be bounded; `lower` may grow meanwhile. Ends where a disjunct cannot be refuted."""
        for number in range(rows.n_disjuncts):
            members = np.flatnonzero(rows.disjunct == number)
            for row in members[np.argsort((rows.bound - lower)[members], kind="stable")]:
                if not self.every_row and rows.refuted_rows(lower)[members].any():
                    break
                yield int(row)
            if not self.every_row and not rows.refuted_rows(lower)[members].any():
                return


class _Program:
    """max t such that P - t E_00 is positive semidefinite: the dual of the relaxation, for any of its rows."""

    def __init__(self, problem: Relaxed) -> None:
        import cvxpy as cp

        self.relaxed = problem
        units, count = problem.places.size, problem.order
        own = np.zeros((units, count))
        own[np.arange(units), problem.places] = 1.0
        b, B, offset, width = problem.shift, problem.slopes, problem.offset, problem.width
        self.negative, self.chord = cp.Variable(units, nonneg=True), cp.Variable(units, nonneg=True)
        self.disjoint, self.box = cp.Variable(units), cp.Variable(count, nonneg=True)
        self.ball = cp.Variable(nonneg=True) if problem.is_ball else cp.Constant(0.0)
        self.value, self.row = cp.Variable(), cp.Parameter(count)
        # As `Relaxed.matrix`, which is what counts: what is stated here only has to be near it.
        cap = 0.5 * problem.cap
        constant = b @ (self.chord - self.negative + 0.5 * self.disjoint) - cp.sum(self.box)
        linear = (
            self.row
            + B.T @ (self.chord - self.negative + 0.5 * self.disjoint)
            + own.T @ (cp.multiply(cap, self.chord) + cp.multiply(0.5 * b, self.disjoint))
            + self.ball * (2.0 * offset * width)
        )
        cross = own.T @ cp.diag(self.disjoint) @ (0.25 * B)
        quadratic = cross + cross.T + cp.diag(self.box + self.ball * width**2)
        corner = constant - cap @ self.chord + self.ball * float(offset @ offset - 1.0) - self.value
        half = cp.reshape(0.5 * linear, (count, 1), order="C")
        matrix = cp.bmat([[cp.reshape(corner, (1, 1), order="C"), half.T], [half, quadratic]])
        self.problem = cp.Problem(cp.Maximize(self.value), [matrix >> 0])

    def solve(self, row: int, settings: Mapping[str, Any], clock: Clock) -> Multipliers | None:
        """The multipliers at which the solver stopped, for whatever reason; None where it has none to show."""
        import cvxpy as cp

        slopes = self.relaxed.rows.slopes[:, row]
        size = float(np.abs(slopes).max(initial=0.0))
        if size == 0.0 or not math.isfinite(size):
            return None
        self.row.value = slopes / size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a solution may be inaccurate is what the safe bound is for
            try:
                self.problem.solve(warm_start=False, **settings, **_limit(settings, clock))
            except cp.error.SolverError:
                return None
        values = [v.value for v in (self.negative, self.chord, self.disjoint, self.box, self.ball)]
        if any(v is None for v in values):
            return None
        negative, chord, disjoint, box, ball = (np.asarray(v, dtype=np.float64) for v in values)
        return Multipliers(negative, chord, disjoint, box, float(ball)).times(size)


def _limit(settings: Mapping[str, Any], clock: Clock) -> dict[str, float]:
    """The time that is left, under the solver's own name for it."""
    name = "time_limit" if settings["solver"] == "CLARABEL" else "time_limit_secs"
    return {name: max(clock.remaining, 1e-3)} if math.isfinite(clock.remaining) else {}

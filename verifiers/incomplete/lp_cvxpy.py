"""The triangle relaxation as it is written on paper, in cvxpy: the same bounds as `lp`, and l2 balls besides.

Paper: Ehlers, "Formal verification of piece-wise linear feed-forward neural networks" (Planet), ATVA 2017, section 3.
A box or l1 ball makes a linear program of it, an l2 ball a second-order cone program. `_Program` is the whole
relaxation. As in `lp`, the dual values become lines and multipliers of a backward pass with outward rounding
(`verifkit.analysis.triangle`): a solver's inaccuracy or failure costs tightness, never soundness.
Guarantee: HOLDS about the network, real semantics, rounded arithmetic.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.refute import conclude
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.analysis.triangle import TRIANGULAR, Multipliers, RowLines, safe_bounds, triangle
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import OptionError
from verifkit.ops import Activation, Affine, Max
from verifkit.query import Query
from verifkit.result import Outcome
from verifkit.solvers.isolated import isolated
from verifkit.verifier import Verifier

Solver = Literal["CLARABEL", "SCS"]

TIME_LIMITS = {"CLARABEL": "time_limit", "SCS": "time_limit_secs"}
"""What each solver calls its time limit, in seconds."""


@dataclass(frozen=True, eq=False)
class _Dual:
    """A constraint on some entries of a node. triangle: side 0 is r >= 0, 1 is r >= z, 2 the chord; else side 0 is the
    lower bound and 1 the upper.
    """

    triangle: bool
    node: int
    side: int
    entries: np.ndarray
    constraint: Any


@dataclass(frozen=True, kw_only=True)
class LpCvxpy(Verifier):
    """solver: what cvxpy hands the program to. CLARABEL is accurate to about 1e-8; SCS is a first-order method, whose
    bounds are looser.
    """

    solver: Solver = "CLARABEL"

    name: ClassVar[str] = "lp_cvxpy"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE, "1": Kind.INCOMPLETE},
        operators=frozenset({Max}),
        activations=TRIANGULAR,
        coupling=True,
        modules={"cvxpy": "conic"},
        paper=Paper(
            "ehlers2017planet",
            'Ehlers, R{\\"u}diger',
            "Formal verification of piece-wise linear feed-forward neural networks",
            "ATVA",
            2017,
        ),
    )

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver):
            raise OptionError(f"lp_cvxpy's solver must be one of {', '.join(get_args(Solver))}, not '{self.solver}'")

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        network, rows = query.network.without_max(), rows_of(query.prop)
        analysis = analyse(network, region_of(query), CROWN_RELAXATIONS, clock)
        lower, own, failures = safe_minima(analysis, rows, self.solver, clock)
        outcome = conclude(query, rows, lower, analysis, lines=own.lines, held=own.held)
        if not failures:
            return outcome
        failed = f"the solver failed on {failures} of {rows.bound.size} rows, where CROWN's bound stands"
        return replace(outcome, detail="; ".join(filter(None, (outcome.detail, failed))))


def safe_minima(analysis: LinearAnalysis, rows: Rows, solver: Solver, clock: Clock) -> tuple[np.ndarray, RowLines, int]:
    """Rigorous lower bounds `(R,)` on every row for the bounds that the analysis (a batch of one) has, what they follow
    from, and how many rows the solver failed on.
    """
    import cvxpy as cp  # noqa: F401 (before the fork: a child would import it each time)

    def solve(tell: Callable[[Any], None]) -> tuple[Multipliers, int]:
        return _Program(analysis, coupled=rows.inputs is not None).minimise(rows, solver, clock)

    # A solver looks at the clock only between its steps, and Clarabel not at all while it sets up.
    found: tuple[Multipliers, int] | None = isolated(solve, lambda news: None, clock)
    if found is None:
        clock.check()
        found = Multipliers({}, {}), rows.bound.size  # the process ended before its time
    return *safe_bounds(analysis, rows, found[0]), found[1]


class _Program:
    """The relaxation over one analysis, node by node; `values[k]` is node k's value, flat."""

    def __init__(self, analysis: LinearAnalysis, *, coupled: bool) -> None:
        import cvxpy as cp

        nodes = analysis.network.nodes
        self._analysis = analysis
        self._constraints: list[Any] = []
        self._duals: list[_Dual] = []
        x = cp.Variable(math.prod(nodes[0].shape))
        self._within(x, *self._ends(0))
        region = analysis.region
        if region.center is not None and region.radius is not None:
            self._constraints.append(cp.norm(x - region.center.reshape(-1), int(region.norm)) <= region.radius[0])
        values: list[Any] = [x]
        for index, node in enumerate(nodes[1:], 1):
            if isinstance(node, Affine):
                values.append(_affine(node, [values[p] for p in node.parents]))
            else:
                assert isinstance(node, Activation)
                values.append(self._activation(index, node, values[node.parents[0]]))
        self._outputs, self._inputs = cp.Parameter(math.prod(nodes[-1].shape)), cp.Parameter(x.size)
        objective = self._outputs @ values[-1] + (self._inputs @ x if coupled else 0.0)
        self._problem = cp.Problem(cp.Minimize(objective), self._constraints)

    def minimise(self, rows: Rows, solver: Solver, clock: Clock) -> tuple[Multipliers, int]:
        """The dual values of one solve for each row, and how many of these failed."""
        count, nodes, failures = rows.bound.size, self._analysis.network.nodes, 0
        found: dict[bool, dict[int, list[np.ndarray]]] = {True: {}, False: {}}
        for dual in self._duals:
            shape = count, math.prod(nodes[dual.node].shape)
            sides = 3 if dual.triangle else 2
            found[dual.triangle].setdefault(dual.node, [np.zeros(shape) for _ in range(sides)])
        for row in range(count):
            clock.check()
            self._outputs.value = rows.outputs[row]
            self._inputs.value = None if rows.inputs is None else rows.inputs[row]
            if not self._solved(solver, clock):
                failures += 1
                continue
            for dual in self._duals:
                found[dual.triangle][dual.node][dual.side][row, dual.entries] += dual.constraint.dual_value
        triangles = {k: (a, b, c) for k, (a, b, c) in found[True].items()}
        return Multipliers(triangles, {k: (a, b) for k, (a, b) in found[False].items()}), failures

    def _solved(self, solver: Solver, clock: Clock) -> bool:
        import cvxpy as cp

        limit = {TIME_LIMITS[solver]: clock.remaining} if math.isfinite(clock.remaining) else {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "the solution may be inaccurate": then so are its dual values
                self._problem.solve(solver=solver, **limit)
        except cp.error.SolverError:
            return False
        known = all(dual.constraint.dual_value is not None for dual in self._duals)
        return known and self._problem.status in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE)

    def _activation(self, index: int, node: Activation, parent: Any) -> Any:
        """h = slope z + (1 - slope) r: for an unstable unit r >= 0, r >= z, r <= rise (z - lower)."""
        import cvxpy as cp
        from scipy import sparse

        if index not in self._analysis.lines:  # its bounds are not finite: known by its interval only
            h = cp.Variable(parent.size)
            self._within(h, *self._ends(index))
            return h
        below = node.parents[0]
        shape = triangle(node, self._analysis.bounds[below])
        z = cp.Variable(parent.size)
        self._constraints.append(z == parent)
        self._within(z, shape.lower, shape.upper, below)
        h = cp.multiply(np.where(shape.on, 1.0, shape.slope), z)
        units = np.flatnonzero(shape.unstable)
        if not units.size:
            return h
        r, rise = cp.Variable(units.size), shape.rise[units]
        chord = r <= cp.multiply(rise, z[units] - shape.lower[units])
        for side, constraint in enumerate((r >= 0, r >= z[units], chord)):
            self._add(_Dual(True, index, side, units, constraint))
        places = units, np.arange(units.size)
        return h + sparse.csr_array(((1.0 - shape.slope)[units], places), shape=(z.size, units.size)) @ r

    def _within(self, value: Any, lower: np.ndarray, upper: np.ndarray, node: int | None = None) -> None:
        """lower <= value <= upper where these are finite; node: whose bounds they are, if their multipliers matter."""
        for side, end in enumerate((lower, upper)):
            entries = np.flatnonzero(np.isfinite(end))
            if entries.size:
                constraint = value[entries] >= end[entries] if side == 0 else value[entries] <= end[entries]
                if node is None:
                    self._constraints.append(constraint)
                else:
                    self._add(_Dual(False, node, side, entries, constraint))

    def _add(self, dual: _Dual) -> None:
        self._constraints.append(dual.constraint)
        self._duals.append(dual)

    def _ends(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = self._analysis.bounds[index]
        return lower.reshape(-1), upper.reshape(-1)


def _affine(node: Affine, parents: list[Any]) -> Any:
    from scipy import sparse

    total: Any = np.zeros(math.prod(node.shape)) if node.bias is None else node.bias.reshape(-1)
    for linear, parent in zip(node.maps, parents, strict=True):
        entries = linear.entries()
        places, shape = (entries.rows, entries.cols), (math.prod(node.shape), parent.size)
        total = total + sparse.csr_array((entries.values, places), shape=shape) @ parent
    return total

"""Gurobi as a `MixedProgram`: optional, commercial, and with pip's free licence limited in size."""

from __future__ import annotations

import importlib.util
import math
from typing import Any, ClassVar

import numpy as np

from verifkit.analysis.encoding import Sparse
from verifkit.budget import Clock
from verifkit.errors import MissingPackage, OptionError
from verifkit.solvers.mixed_program import Decided, MixedProgram, Solved, TooLarge, Unfit

FREE = 2000
"""Variables, and linear constraints, that the licence which comes with the package admits."""

TOO_LARGE = 10010
"""Gurobi's number of the error that says so."""

INFINITE = 1e20
"""From here on Gurobi takes a bound for infinite."""


class GurobiProgram(MixedProgram):
    """One thread and a seed. No priorities of branching: those by layers were measured, and are worse (`milp.md`).

    Raises `MissingPackage` without gurobipy, `OptionError` without a licence that works.
    """

    least_tolerance: ClassVar[float] = 1e-9

    def _load(self) -> None:
        if importlib.util.find_spec("gurobipy") is None:
            raise MissingPackage("solver 'gurobi' needs the package 'gurobipy': run `pip install 'verifkit[gurobi]'`")
        import gurobipy

        self._gurobi = gurobipy
        self.name = f"Gurobi {'.'.join(map(str, gurobipy.gurobi.version()))}"
        try:
            self._environment = self._started()
            self._check_size()
            self._model = gurobipy.Model(env=self._environment)
            self._fill()
        except gurobipy.GurobiError as error:
            raise OptionError(f"Gurobi cannot be used: {error}") from None
        self._question: Any = None

    def _started(self) -> Any:
        environment = self._gurobi.Env(empty=True)
        for option, value in {
            "OutputFlag": 0,
            "Threads": 1,
            "Seed": self.seed % 2_000_000_000,
            "MIPGap": 0.0,
            "MIPGapAbs": 0.0,
            "FeasibilityTol": self.tolerance,
            "OptimalityTol": self.tolerance,
            "IntFeasTol": self.tolerance,
            "NumericFocus": 1,
        }.items():
            environment.setParam(option, value)
        environment.start()
        return environment

    def _check_size(self) -> None:
        """Raises `TooLarge` before any work where the licence is the free one and the program is too large for it."""
        columns, rows = self.encoding.n_columns, sum(block.shape[0] for block, _, _ in self.encoding.blocks)
        if max(columns, rows + 1) <= FREE:
            return
        trial = self._gurobi.Model(env=self._environment)
        trial.addMVar(FREE + 1)
        try:
            trial.optimize()
        except self._gurobi.GurobiError as error:
            if error.errno != TOO_LARGE:
                raise
            raise TooLarge(
                f"Gurobi's free licence stops at {FREE} variables and {FREE} constraints, and this program has "
                f"{columns} and {rows}: use solver=highs, or a full licence"
            ) from None

    def _fill(self) -> None:
        encoding, model = self.encoding, self._model
        matrix, low, high = self._rows()
        kinds = np.where(np.concatenate(encoding.integer), "B", "C")
        cost = np.zeros(encoding.n_columns)
        cost[self.objective] = 1.0
        lower, upper = np.concatenate(encoding.lower), np.concatenate(encoding.upper)
        self._columns = model.addMVar(encoding.n_columns, lb=lower, ub=upper, obj=cost, vtype=kinds)
        model.update()
        same = low == high
        blocks = (
            ("=", same, high),
            ("<", ~same & (high < np.inf), high),
            (">", ~same & (low > -np.inf), low),
        )
        for sense, chosen, ends in blocks:
            if chosen.any():
                model.addMConstr(matrix[np.flatnonzero(chosen)], self._columns, sense, ends[chosen])

    def _replace_rows(self, matrix: Sparse, high: np.ndarray) -> None:
        if self._question is not None:
            self._model.remove(self._question)
        if not (np.abs(matrix.data) < INFINITE).all() or not (np.abs(high) < INFINITE).all():
            raise Unfit("the solver does not take the property's numbers")
        self._question = self._model.addMConstr(matrix, self._columns, "<", high)

    def minimise(
        self, least: float, cutoff: float, decided: Decided, clock: Clock, start: np.ndarray | None = None
    ) -> Solved:
        model, codes = self._model, self._gurobi.GRB.Callback
        self._columns[self.objective].LB, self._columns[self.objective].UB = least, cutoff
        if start is not None:
            self._columns.setAttr("Start", start)
        if math.isfinite(clock.remaining):
            model.Params.TimeLimit = clock.remaining
        if clock.budget.nodes is not None:
            model.Params.NodeLimit = max(0, clock.budget.nodes - self.nodes)
        proved = -math.inf

        def interrupt(model: Any, where: int) -> None:
            nonlocal proved
            if where == codes.MIP:
                shown = float(model.cbGet(codes.MIP_OBJBND))
                proved = max(proved, shown) if abs(shown) < INFINITE else proved
                if decided(proved, float(model.cbGet(codes.MIP_OBJBST))):
                    model.terminate()
            if clock.remaining <= 0:
                model.terminate()

        self.calls += 1
        try:
            model.optimize(interrupt)
        except self._gurobi.GurobiError as error:
            raise Unfit(f"Gurobi fails: {error}") from None
        return self._read(proved, least)

    def _read(self, proved: float, least: float) -> Solved:
        """The answer of the run that has just ended; proved: the best bound that it showed on its way."""
        model, codes = self._model, self._gurobi.GRB
        self.nodes += int(model.NodeCount)
        ended = (codes.OPTIMAL, codes.INTERRUPTED, codes.TIME_LIMIT, codes.NODE_LIMIT)
        bound = float(model.ObjBound) if model.Status in ended else -math.inf
        proved = max(proved, bound) if abs(bound) < INFINITE else proved
        if model.SolCount:  # whatever the bound says, here is a point below the cutoff
            incumbent = float(model.ObjVal)
            x = np.asarray(self._columns.X)[: self.input_bounds[0].size]
            return Solved(min(proved, incumbent), incumbent, x)
        # Where the objective is bounded, "infeasible or unbounded" is infeasible.
        bounded = model.Status == codes.INF_OR_UNBD and abs(least) < INFINITE
        return Solved(math.inf if model.Status == codes.INFEASIBLE or bounded else proved)

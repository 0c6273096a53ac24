"""A query as a mixed-integer program: bounds first, then the encoding that they allow, and what it may hide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from verifkit.analysis.encoding import Encoding, add_l1_distance, encode
from verifkit.analysis.layers import places
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.region import Region, magnitude, region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.analysis.tolerance import hidden_by_tolerance
from verifkit.budget import BudgetExhausted, Clock
from verifkit.network import Network
from verifkit.query import Query
from verifkit.solvers.gurobi import GurobiProgram
from verifkit.solvers.highs import HighsProgram
from verifkit.solvers.mixed_program import MixedProgram, Unfit
from verifkit.solvers.triangle_bounds import property_bounds, tightened

Solver = Literal["highs", "gurobi"]

Tighten = Literal["crown", "lp"]

PROGRAMS: dict[str, type[MixedProgram]] = {"highs": HighsProgram, "gurobi": GurobiProgram}

COARSEST = 1e-6
"""The largest feasibility tolerance that a solver is run with; values that would need more are refused."""

RESOLUTION = 1e-15
"""A tolerance below this share of the largest value is finer than floats are there: HiGHS, unable to meet it, has been
seen to call feasible programs infeasible. So the tolerance grows with the values."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """solver, tolerance: which program solves, and how finely. tighten: where the bounds of the units come from."""

    solver: Solver
    tolerance: float
    tighten: Tighten

    def mistake(self) -> str | None:
        """What is wrong with them, or None."""
        for name, value, known in (("solver", self.solver, Solver), ("tighten", self.tighten, Tighten)):
            if value not in get_args(known):
                return f"milp's {name} must be one of {', '.join(get_args(known))}, not '{value}'"
        least = PROGRAMS[self.solver].least_tolerance
        if not least <= self.tolerance <= COARSEST:
            return f"milp's tolerance must lie between {least:g} and {COARSEST:g}, not {self.tolerance}"
        return None


@dataclass(frozen=True, eq=False)
class EncodedQuery:
    """A query with its bounds and encoding.

    lower: rigorous lower bounds of the rows. still_open: disjuncts
    that these do not refute, the likeliest violation first. tolerance: what the program is to be run with; hidden: how
    far that may shift each row.
    """

    network: Network
    region: Region
    rows: Rows
    lower: np.ndarray
    still_open: list[int]
    encoding: Encoding
    tolerance: float
    hidden: np.ndarray

    def rows_of(self, disjunct: int) -> np.ndarray:
        return np.flatnonzero(self.rows.disjunct == disjunct)

    def program(self, settings: Settings, objective: int, seed: int) -> MixedProgram:
        """The encoding in the solver. Raises as `MixedProgram` does."""
        return PROGRAMS[settings.solver](self.encoding, objective, self.tolerance, seed)

    def columns_at(self, x: np.ndarray) -> np.ndarray:
        """All columns at the input `x`, as the network is evaluated in floats."""
        values = self.network.values(x.reshape(1, *self.network.input_shape))
        return self.encoding.point([np.asarray(v).reshape(-1) for v in values])


def encoded(query: Query, settings: Settings, clock: Clock, *, ball: bool = True) -> EncodedQuery:
    """CROWN's bounds, those by linear programs where wanted, and the encoding that they allow.

    ball: whether the program confines the inputs to the query's l1 ball; else only to the box around it. Raises
    `Unfit` where values are too large for the solver.
    """
    region, rows = region_of(query), rows_of(query.prop)
    analysis = analyse(query.network.without_max(), region, CROWN_RELAXATIONS, clock)
    lower = np.asarray(analysis.property_rows(rows)[0])
    if settings.tighten == "lp" and _open(rows, lower):
        with rows.reported(lower):
            analysis, lower = _by_programs(analysis, rows, lower, clock)
    still_open = _open(rows, lower)
    if not still_open:
        return EncodedQuery(query.network, region, rows, lower, [], Encoding(), 0.0, np.zeros(0))
    largest = max(float(magnitude(*b).max()) for b in analysis.bounds)
    tolerance = max(settings.tolerance, RESOLUTION * largest)
    if not tolerance <= COARSEST:
        raise Unfit(f"values up to {largest:.2g} are too large for the solver")
    network = query.network.cast(region.lower)
    bounds = [analysis.bounds[k] for k in places(network, analysis.network)]
    with rows.reported(lower):
        encoding = encode(network, bounds, clock)
    if ball and region.center is not None and region.radius is not None:
        add_l1_distance(encoding, region.center.reshape(-1), float(region.radius[0]))
    hidden = hidden_by_tolerance(network, bounds, rows, tolerance)
    return EncodedQuery(network, region, rows, lower, still_open, encoding, tolerance, hidden)


def _open(rows: Rows, lower: np.ndarray) -> list[int]:
    found = rows.refuting(lower)
    return sorted((n for n, f in enumerate(found) if f is None), key=lambda n: rows.gap(lower, n))


def _by_programs(
    analysis: LinearAnalysis, rows: Rows, lower: np.ndarray, clock: Clock
) -> tuple[LinearAnalysis, np.ndarray]:
    """Bounds of the unstable units, then of the rows, by linear programs, as far as half of the time left suffices."""
    half = Clock(clock.share(0.5))
    tighter = tightened(analysis, CROWN_RELAXATIONS, half, partly=True)
    lower = np.maximum(lower, np.asarray(tighter.property_rows(rows)[0]))
    try:
        lower = np.maximum(lower, property_bounds(tighter, rows, half)[0])
    except BudgetExhausted:
        clock.check()
    return tighter, lower

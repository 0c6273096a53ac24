"""Mixed-integer programming through HiGHS, or Gurobi: complete for networks of ReLU, leaky ReLU and max pooling, over
boxes and l1 balls.

Paper: Tjeng, Xiao, Tedrake, "Evaluating robustness of neural networks with mixed integer programming", ICLR 2019.
CROWN bounds, by linear programs where wanted, first decide which units need a binary and refute what they can; then one
program per remaining disjunct: minimise t with t >= a_i y + c_i x - b_i for its rows. A best bound above zero refutes
the disjunct, an incumbent below zero is a candidate witness, and the solver is stopped as soon as either is known.
The solver's *dual bound* decides (or its proof that no solution lies below the cutoff), never its word "optimal". What
its feasibility tolerance may hide is carried through the network and must be cleared by the bound; else the answer is
UNKNOWN(unconfirmed). The exact radius is one program too (section 3 there): minimise the distance from the center, in
l-inf or l1, to an unsafe output, where its dual bound is certified and the incumbent, once replayed, is falsified.
Guarantee: HOLDS about the network, real semantics, solver arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from verifkit.analysis.descent import descend
from verifkit.analysis.refute import refute
from verifkit.analysis.region import member
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.triangle import TRIANGULAR
from verifkit.budget import BudgetExhausted, Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.confirm import confirm
from verifkit.errors import OptionError
from verifkit.evidence import SolverBound, SolverDistance
from verifkit.input_sets import float_above, rational
from verifkit.ops import Max
from verifkit.query import Query
from verifkit.radius import LARGEST, Radius, RadiusEnd, RadiusSearch, bisect
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Result, Verdict
from verifkit.solvers.encoded_query import EncodedQuery, Settings, Solver, Tighten, encoded
from verifkit.solvers.exact_radius import Nearest, nearest_unsafe, witnesses_near
from verifkit.solvers.mixed_program import MixedProgram, SolverLost, TooLarge, Unfit
from verifkit.verifier import Verifier

STARTS, STEPS, STEP_SIZE = 16, 20, 0.5
"""Of the descent before the solver: a sixteenth of what `pgd` spends."""

Undecided = tuple[tuple[float, Reason], ...]


@dataclass(frozen=True, kw_only=True)
class Milp(Verifier):
    """tolerance: the solver's feasibility and integrality tolerance, up to 1e-6 from 1e-10 (gurobi: 1e-9) on.

    tighten: where the bounds of the units come from: "crown", or "lp" for two linear programs besides for each unit
    that CROWN leaves unstable. start: first look for a violation by gradients, and start the search for the
    radius from the nearest one known. solver: "highs", or "gurobi" where gurobipy is installed; its licence must admit
    the size.
    """

    tolerance: float = 1e-9
    tighten: Tighten = "crown"
    start: bool = True
    solver: Solver = "highs"

    name: ClassVar[str] = "milp"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.COMPLETE, "1": Kind.COMPLETE},
        operators=frozenset({Max}),
        activations=TRIANGULAR,
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
        mistake = self._settings.mistake()
        if mistake is not None:
            raise OptionError(mistake)

    @property
    def _settings(self) -> Settings:
        return Settings(solver=self.solver, tolerance=self.tolerance, tighten=self.tighten)

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        try:
            task = encoded(query, self._settings, clock)
            if not task.still_open:
                proof = Guarantee(arithmetic=Arithmetic.ROUNDED)
                gaps = tuple(task.rows.gap(task.lower, n) for n in range(task.rows.n_disjuncts))
                return Outcome.holds(proof, SolverBound("none needed", gaps, 0.0))
            plain = all(task.rows_of(number).size for number in task.still_open)  # no row, no gradient
            with task.rows.reported(task.lower):
                near = descend(query, STARTS, STEPS, STEP_SIZE, clock, rng) if self.start and plain else None
                if near is not None and near.confirmed:
                    return Outcome.violated(near.x.reshape(-1), statistics={"nodes": 0, "programs": 0})
                worst = int(task.encoding.add_columns(np.array([-np.inf]), np.array([np.inf]))[0])
                program = task.program(self._settings, worst, int(rng.integers(2**31)))
                return self._search(query, task, program, clock)
        except Unfit as unfit:
            return Outcome.unknown(Reason.UNCONFIRMED, str(unfit))
        except TooLarge as too_large:
            return Outcome.unknown(Reason.UNSUPPORTED, str(too_large))
        except SolverLost as lost:
            return Outcome.unknown(Reason.ERROR, str(lost))

    def _search(self, query: Query, task: EncodedQuery, program: MixedProgram, clock: Clock) -> Outcome:
        """One program for each disjunct that the bounds left open."""
        rows, lower = task.rows, task.lower
        proved = np.array([rows.gap(lower, n) for n in range(rows.n_disjuncts)])
        unconfirmed: str | None = None
        for number in task.still_open:
            mine = task.rows_of(number)
            if mine.size == 0:  # no row at all: every input is unsafe
                return Outcome.violated(member(query))
            # Twice: what the network's constraints may hide, and as much again for the cutoff on t itself.
            cleared = 2.0 * float(task.hidden[mine].max())
            program.set_rows(rows, mine, against_objective=True)
            solved = program.minimise(rows.gap(lower, number) - 1.0, cleared, _sign_known(cleared), clock)
            proved[number] = max(proved[number], min(solved.bound, cleared))
            if solved.x is not None:
                if confirm(query, solved.x) is not None:
                    return Outcome.violated(solved.x, statistics=program.statistics())
                close = abs(solved.incumbent) <= 2.0 * cleared + 1e-9
                why = "within the solver's tolerance of zero" if close else "and the solver's point did not replay"
                unconfirmed = f"the least violation found is {solved.incumbent:.3g}, {why}"
            elif not solved.bound >= cleared:
                if clock.budget.nodes is not None and clock.remaining > 0:
                    few = f"best bound {proved.min():.6g} after {program.nodes} nodes"
                    return Outcome.unknown(Reason.INCOMPLETE, few, statistics=program.statistics())
                if clock.remaining > 0:
                    unconfirmed = f"the solver ended without an answer at the bound {solved.bound:.6g}"
                    continue
                late = f"best bound {proved.min():.6g}"
                return Outcome.unknown(Reason.TIMEOUT, late, statistics=program.statistics())
        if unconfirmed is not None:
            return Outcome.unknown(Reason.UNCONFIRMED, unconfirmed, statistics=program.statistics())
        evidence = SolverBound(program.name, tuple(proved.tolist()), program.tolerance)
        return Outcome.holds(_solvers_word(program), evidence, statistics=program.statistics())

    def _radius(self, search: RadiusSearch) -> Radius:
        """The exact radius: a program inside the smallest ball known to be unsafe, else inside growing balls.

        CROWN's radius comes first, as a lower bound on the distance.
        """
        family, clock = search.family, search.clock
        at_center = self.verify(family.at(0), budget=clock.share(), seed=search.seed)
        if at_center.verdict is Verdict.VIOLATED:
            return Radius(family.norm, None, RadiusEnd(0.0, at_center))
        if at_center.verdict is Verdict.UNKNOWN:
            why = ((0.0, at_center.reason or Reason.ERROR),)
            return Radius(family.norm, None, search.falsified, why, detail=at_center.detail)
        bounds = bisect(replace(search, tolerance=2.0**-5), lambda r: self._by_bounds(search, r))
        certified, known = bounds.certified or RadiusEnd(0.0, at_center), search.falsified
        falsified, detail = known, ""
        undecided: Undecided = ()
        reach = math.inf if family.reach is None else float(float_above([family.reach])[0])
        try:
            while falsified is None and certified.value < min(reach, LARGEST) and not undecided:
                upper = min(reach, max(2.0 * certified.value, 1 / 64))
                certified, falsified, undecided = self._nearest(search, upper, certified, None)
            if known is not None:
                certified, falsified, undecided = self._nearest(search, known.value, certified, known)
        except TooLarge as too_large:
            undecided, detail = ((certified.value, Reason.UNSUPPORTED),), str(too_large)
        return Radius(family.norm, certified, falsified, undecided, certified.value >= reach, detail)

    def _by_bounds(self, search: RadiusSearch, radius: float) -> Result | None:
        """What CROWN's bounds say at a radius; None once the time is up."""
        query = search.family.at(rational(radius))
        try:
            return self._result(query, refute(query, CROWN_RELAXATIONS, search.clock), search.clock, search.seed)
        except BudgetExhausted:
            return None

    def _nearest(
        self, search: RadiusSearch, upper: float, certified: RadiusEnd, falsified: RadiusEnd | None
    ) -> tuple[RadiusEnd, RadiusEnd | None, Undecided]:
        """Both ends after searching the ball of radius `upper` for the nearest unsafe input, and what stayed open."""
        family, clock = search.family, search.clock
        witness = None if falsified is None or not self.start else falsified.result.witness
        start = None if witness is None else np.array([float(v) for v in witness.x])
        try:
            near = nearest_unsafe(family, upper, certified.value, self._settings, clock, search.seed, start)
            if near.program is None:
                proof = self.verify(family.at(rational(upper)), budget=clock.share(), seed=search.seed)
                if proof.verdict is not Verdict.HOLDS:
                    return certified, falsified, ((upper, proof.reason or Reason.UNCONFIRMED),)
                return RadiusEnd(upper, proof), falsified, ()
        except Unfit:
            return certified, falsified, ((upper, Reason.UNCONFIRMED),)
        except SolverLost:
            return certified, falsified, ((upper, Reason.ERROR),)
        except BudgetExhausted:
            return certified, falsified, ((upper, Reason.TIMEOUT),)
        value = near.certified
        found = self._found(search, near, falsified)
        if found is not None and value >= found.value:  # the solver's word against a replayed witness
            return certified, found, ((value, Reason.UNCONFIRMED),)
        if value > certified.value:
            word = Outcome.holds(
                _solvers_word(near.program),
                SolverDistance(near.program.name, near.distances, near.program.tolerance),
                statistics=near.program.statistics(),
            )
            certified = RadiusEnd(value, self._result(family.at(rational(value)), word, clock, search.seed))
        if Radius(family.norm, certified, found).closed(search.tolerance) or value == upper:
            return certified, found, ()
        return certified, found, ((upper, Reason.TIMEOUT if clock.remaining <= 0 else Reason.UNCONFIRMED),)

    def _found(self, search: RadiusSearch, near: Nearest, falsified: RadiusEnd | None) -> RadiusEnd | None:
        """The upper end after a search: a witness next to its point or deeper inside, else the end known before."""
        if near.x is None:
            return falsified
        found = self._witness(search, near.x, falsified)
        close = found is not None and found.value - near.certified <= search.tolerance * found.value
        if found is not falsified or close:
            return found
        try:
            deeper = near.deeper(search.clock)
        except (Unfit, SolverLost):
            return falsified
        return falsified if deeper is None else self._witness(search, deeper, falsified)

    def _witness(self, search: RadiusSearch, x: np.ndarray, falsified: RadiusEnd | None) -> RadiusEnd | None:
        """The nearest replayed witness next to the solver's point; else the end known before."""
        for value, point in witnesses_near(search.family, x):
            if falsified is not None and value >= falsified.value:
                break
            query = search.family.at(rational(value))
            outcome = self._confirmed(query, Outcome.violated(np.array([float(v) for v in point])))
            if outcome.verdict is Verdict.VIOLATED:
                return RadiusEnd(value, self._result(query, outcome, search.clock, search.seed))
        return falsified


def _sign_known(cleared: float) -> Callable[[float, float], bool]:
    """Whether the sign of the least violation is known: a bound that proves, or an incumbent that refutes."""
    return lambda bound, incumbent: bound >= cleared or incumbent < -cleared


def _solvers_word(program: MixedProgram) -> Guarantee:
    return Guarantee(
        arithmetic=Arithmetic.SOLVER, assumptions=(f"{program.name} within its tolerance {program.tolerance:.2g}",)
    )

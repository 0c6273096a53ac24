"""Mixed-integer programming through HiGHS: complete for ReLU networks over boxes and l1 balls.

Paper: Tjeng, Xiao, Tedrake, "Evaluating robustness of neural networks with mixed integer programming", ICLR 2019.
CROWN bounds first decide which units need a binary and refute what they can; then one program per remaining disjunct:
minimise t with t >= a_i y + c_i x - b_i for its rows. A best bound above zero refutes the disjunct, an incumbent below
zero is a candidate witness, and the solver is stopped as soon as either is known.
The solver's *dual bound* decides (or its proof that no solution lies below the cutoff), never its word "optimal". What
its feasibility tolerance may hide is carried through the network and must be cleared by the bound; else the answer is
UNKNOWN(unconfirmed). The exact l-inf radius is one program too (section 3 there): minimise e with |x_i - center_i| <= e
and an unsafe output, where e's dual bound is certified and the incumbent, once replayed, is falsified.
Guarantee: HOLDS about the network, real semantics, solver arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np

from verifkit.analysis.encoding import Encoding, add_l1_ball, add_linf_distance, encode
from verifkit.analysis.linear import analyse
from verifkit.analysis.refute import refute
from verifkit.analysis.region import magnitude, region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.analysis.tolerance import hidden_by_tolerance
from verifkit.budget import BudgetExhausted, Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.confirm import confirm
from verifkit.errors import OptionError
from verifkit.evidence import SolverBound, SolverDistance
from verifkit.functions import Relu
from verifkit.input_sets import LpBall, float_above, float_below, rational
from verifkit.ops import Max
from verifkit.query import Query
from verifkit.radius import LARGEST, Radius, RadiusEnd, RadiusSearch, bisect
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Result, Verdict
from verifkit.solvers.highs import Program, Solved, Unfit
from verifkit.verifier import Verifier

COARSEST = 1e-6
"""The largest feasibility tolerance that HiGHS is run with; values that would need more are refused."""

RESOLUTION = 1e-15
"""A tolerance below this share of the largest value is finer than floats are there: HiGHS, unable to meet it, has been
seen to call feasible programs infeasible. So the tolerance grows with the values."""

GAP = 1e-7
"""How far apart, relative, the two ends of the exact radius may stay."""

PUSHES = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""How far, relative, the solver's point is pushed outward to become a witness: within tolerance it lies on the
boundary."""


@dataclass(frozen=True, eq=False)
class _Task:
    """A query with its bounds and encoding. hidden: how far the tolerance may shift each row; open: disjuncts that the
    bounds do not refute, the likeliest violation first."""

    rows: Rows
    lower: np.ndarray
    still_open: list[int]
    encoding: Encoding
    tolerance: float
    hidden: np.ndarray

    def rows_of(self, disjunct: int) -> np.ndarray:
        return np.flatnonzero(self.rows.disjunct == disjunct)


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
        try:
            task = self._prepare(query, clock)
            if not task.still_open:
                proof = Guarantee(arithmetic=Arithmetic.ROUNDED)
                gaps = tuple(task.rows.gap(task.lower, n) for n in range(task.rows.n_disjuncts))
                return Outcome.holds(proof, SolverBound("none needed", gaps, 0.0))
            worst = int(task.encoding.add_columns(np.array([-np.inf]), np.array([np.inf]))[0])
            program = Program(task.encoding, worst, task.tolerance, int(rng.integers(2**31)))
            return self._search(query, task, program, clock)
        except Unfit as unfit:
            return Outcome.unknown(Reason.UNCONFIRMED, str(unfit))

    def _prepare(self, query: Query, clock: Clock) -> _Task:
        """CROWN bounds, and the encoding that they allow. Raises `Unfit` where values are too large for the solver."""
        network, region, rows = query.network.without_max(), region_of(query), rows_of(query.prop)
        analysis = analyse(network, region, CROWN_RELAXATIONS, clock)
        lower = analysis.property_rows(rows)[0]
        found = rows.refuting(lower)
        still_open = sorted((n for n, f in enumerate(found) if f is None), key=lambda n: rows.gap(lower, n))
        if not still_open:
            return _Task(rows, lower, [], Encoding(), 0.0, np.zeros(0))
        largest = max(float(magnitude(*b).max()) for b in analysis.bounds)
        tolerance = max(self.tolerance, RESOLUTION * largest)
        if not tolerance <= COARSEST:
            raise Unfit(f"values up to {largest:.2g} are too large for the solver")
        encoding = encode(analysis.network, analysis.bounds)
        if isinstance(query.prop.input_set, LpBall):
            add_l1_ball(encoding, query.prop.input_set)
        hidden = hidden_by_tolerance(analysis.network, analysis.bounds, rows, tolerance)
        return _Task(rows, lower, still_open, encoding, tolerance, hidden)

    def _search(self, query: Query, task: _Task, program: Program, clock: Clock) -> Outcome:
        """One program for each disjunct that the bounds left open."""
        rows, lower = task.rows, task.lower
        proved = np.array([rows.gap(lower, n) for n in range(rows.n_disjuncts)])
        unconfirmed: str | None = None
        for number in task.still_open:
            clock.check()
            mine = task.rows_of(number)
            if mine.size == 0:  # no row at all: every input is unsafe
                low, high = program.input_bounds
                return Outcome.violated((low + high) / 2)
            # Twice: what the network's constraints may hide, and as much again for the cutoff on t itself.
            cleared = 2.0 * float(task.hidden[mine].max())
            program.set_rows(rows, mine, against_objective=True)
            solved = program.minimise(rows.gap(lower, number) - 1.0, cleared, _sign_known(cleared), clock)
            proved[number] = min(solved.bound, cleared)
            if solved.x is not None:
                if confirm(query, solved.x) is not None:
                    return Outcome.violated(solved.x, statistics=program.statistics())
                unconfirmed = f"the least violation is {solved.incumbent:.3g}, within the solver's tolerance of zero"
            elif not solved.bound >= cleared:
                if clock.remaining > 0:
                    unconfirmed = f"the solver ended without an answer at the bound {solved.bound:.6g}"
                    continue
                return Outcome.unknown(
                    Reason.TIMEOUT, f"best bound {solved.bound:.6g}", statistics=program.statistics()
                )
        if unconfirmed is not None:
            return Outcome.unknown(Reason.UNCONFIRMED, unconfirmed, statistics=program.statistics())
        evidence = SolverBound(program.name, tuple(proved.tolist()), program.tolerance)
        return Outcome.holds(_solvers_word(program), evidence, statistics=program.statistics())

    def _radius(self, search: RadiusSearch) -> Radius:
        """The exact l-inf radius: a program inside the smallest ball known to be unsafe, else inside growing balls.

        CROWN's radius comes first, as a lower bound on the distance. Other norms: bisection.
        """
        family, clock = search.family, search.clock
        if family.norm != "inf":
            return super()._radius(search)
        at_center = self.verify(family.at(0), budget=clock.share(), seed=search.seed)
        if at_center.verdict is Verdict.VIOLATED:
            return Radius(family.norm, None, RadiusEnd(0.0, at_center))
        if at_center.verdict is Verdict.UNKNOWN:
            return Radius(family.norm, None, search.falsified, ((0.0, at_center.reason or Reason.ERROR),))
        bounds = bisect(replace(search, tolerance=2.0**-5), lambda r: self._by_bounds(search, r))
        certified, known = bounds.certified or RadiusEnd(0.0, at_center), search.falsified
        falsified = known
        reach = math.inf if family.reach is None else float(float_above([family.reach])[0])
        undecided: tuple[tuple[float, Reason], ...] = ()
        while falsified is None and certified.value < min(reach, LARGEST) and not undecided:
            upper = min(reach, max(2.0 * certified.value, 1 / 64))
            certified, falsified, undecided = self._nearest(search, upper, certified, None)
        if known is not None:
            certified, falsified, undecided = self._nearest(search, known.value, certified, known)
        return Radius(family.norm, certified, falsified, undecided, certified.value >= reach)

    def _by_bounds(self, search: RadiusSearch, radius: float) -> Result | None:
        """What CROWN's bounds say at a radius; None once the time is up."""
        query = search.family.at(rational(radius))
        try:
            return self._result(query, refute(query, CROWN_RELAXATIONS, search.clock), search.clock, search.seed)
        except BudgetExhausted:
            return None

    def _nearest(
        self, search: RadiusSearch, upper: float, certified: RadiusEnd, falsified: RadiusEnd | None
    ) -> tuple[RadiusEnd, RadiusEnd | None, tuple[tuple[float, Reason], ...]]:
        """Both ends after searching the ball of radius `upper` for the nearest unsafe input, and what stayed open."""
        family = search.family
        try:
            task = self._prepare(family.at(rational(upper)), search.clock)
            center = np.array([float(c) for c in family.center])
            # The effective box at a radius reaches up to a float further than the ball: so must the search.
            furthest = np.asarray(np.abs(center).max() + upper, dtype=family.model.dtype)
            further = 2.0 * float(np.spacing(furthest))
            distance = add_linf_distance(task.encoding, center, upper + further) if task.still_open else 0
            program = Program(task.encoding, distance, task.tolerance, search.seed) if task.still_open else None
        except Unfit:
            return certified, falsified, ((upper, Reason.UNCONFIRMED),)
        except BudgetExhausted:
            return certified, falsified, ((upper, Reason.TIMEOUT),)
        if program is None:
            proof = self._by_bounds(search, upper)
            return (certified if proof is None else RadiusEnd(upper, proof)), falsified, ()
        distances, x = _distances(task, program, certified.value, upper + further, search.clock)
        found = falsified if x is None else self._witness(search, x, falsified)
        least = min(distances) - further - 4.0 * task.tolerance  # the solver lets |x - center| <= e slip
        value = upper if math.isinf(least) else min(upper, float(np.nextafter(least, 0.0)))
        if found is not None and value >= found.value:  # the solver's word against a replayed witness
            return certified, found, ((value, Reason.UNCONFIRMED),)
        if value > certified.value:
            word = Outcome.holds(
                _solvers_word(program),
                SolverDistance(program.name, tuple(distances), program.tolerance),
                statistics=program.statistics(),
            )
            certified = RadiusEnd(value, self._result(family.at(rational(value)), word, search.clock, search.seed))
        if Radius(family.norm, certified, found).closed(search.tolerance) or value == upper:
            return certified, found, ()
        return certified, found, ((upper, Reason.TIMEOUT if search.clock.remaining <= 0 else Reason.UNCONFIRMED),)

    def _witness(self, search: RadiusSearch, x: np.ndarray, falsified: RadiusEnd | None) -> RadiusEnd | None:
        """The solver's point as a replayed witness, pushed outward until it is one; else the end known before."""
        family, dtype = search.family, search.family.model.dtype
        center = np.array([float(c) for c in family.center])
        for push in PUSHES:
            fed = (center + (x - center) * (1.0 + push)).astype(dtype)
            if family.clip is not None:
                fed = np.clip(fed, float_above(family.clip.lower, dtype), float_below(family.clip.upper, dtype))
            point = tuple(Fraction(v) for v in fed.astype(np.float64).tolist())
            gap = max(abs(p - c) for p, c in zip(point, family.center, strict=True))
            value = float(float_above([gap])[0])
            if falsified is not None and value >= falsified.value:
                break
            query = family.at(rational(value))
            outcome = self._confirmed(query, Outcome.violated(np.array(point, dtype=object)))
            if outcome.verdict is Verdict.VIOLATED:
                return RadiusEnd(value, self._result(query, outcome, search.clock, search.seed))
        return falsified


def _distances(
    task: _Task, program: Program, least: float, upper: float, clock: Clock
) -> tuple[list[float], np.ndarray | None]:
    """For each disjunct a lower bound on its l-inf distance from the center, and the nearest point found.

    A disjunct refuted in the whole ball of radius `upper`, or nowhere nearer than another's point, is infinitely far.
    """
    distances, nearest = [math.inf] * task.rows.n_disjuncts, None
    for number in task.still_open:
        mine = task.rows_of(number)
        # Twice what a verdict has to clear, so that one asked at the certified radius is no closer call than this.
        program.set_rows(task.rows, mine, 4.0 * float(task.hidden[mine].max()))
        solved = program.minimise(least, upper, _gap_closed, clock) if clock.remaining > 0 else Solved(least)
        distances[number] = max(solved.bound, least)
        if solved.x is not None and solved.incumbent <= upper:
            upper, nearest = solved.incumbent, solved.x
    return distances, nearest


def _gap_closed(bound: float, incumbent: float) -> bool:
    return math.isfinite(incumbent) and bound >= incumbent * (1.0 - GAP)


def _sign_known(cleared: float) -> Callable[[float, float], bool]:
    """Whether the sign of the least violation is known: a bound that proves, or an incumbent that refutes."""
    return lambda bound, incumbent: bound >= cleared or incumbent < -cleared


def _solvers_word(program: Program) -> Guarantee:
    return Guarantee(
        arithmetic=Arithmetic.SOLVER, assumptions=(f"{program.name} within its tolerance {program.tolerance:.2g}",)
    )

"""The distance to the nearest unsafe input as an objective (Tjeng et al., section 3): one program for each disjunct.

In l-inf  e >= |x_i - center_i|  is minimised, in l1  e >= sum |x_i - center_i|  by split differences, over the unsafe
inputs of a ball. The dual bound is what is certified, less all that separates the program from the question.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verifkit.analysis.attack import clip_ends, loss_gradient, losses_of, row_weights, surroundings
from verifkit.analysis.encoding import add_l1_distance, add_linf_distance
from verifkit.analysis.projection import TINY
from verifkit.analysis.rows import rows_of
from verifkit.budget import Clock
from verifkit.input_sets import float_above, rational
from verifkit.query import QueryFamily
from verifkit.solvers.encoded_query import EncodedQuery, Settings, encoded
from verifkit.solvers.mixed_program import Decided, MixedProgram

GAP = 1e-7
"""How far apart, relative, the two ends of the exact radius may stay."""

COARSE_GAP = 1e-5
"""The same of a point that is sought only to be a witness."""

PUSHES = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""How far, relative, the solver's point is moved to become a witness."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """What a search of a ball found.

    program: None where the bounds alone refute every disjunct in the whole ball. certified: a radius below which
    nothing unsafe lies, at most the ball's. distances: for each disjunct its own, before it was made safe; infinite
    where it does not reach the ball, or lies nowhere nearer than another's point. x: the nearest unsafe point found,
    within tolerance, and `deeper` looks for one that is unsafe by as much as x may be safe.
    """

    program: MixedProgram | None
    certified: float
    distances: tuple[float, ...] = ()
    x: np.ndarray | None = None
    deeper: Callable[[Clock], np.ndarray | None] = lambda clock: None


def nearest_unsafe(
    family: QueryFamily,
    upper: float,
    least: float,
    settings: Settings,
    clock: Clock,
    seed: int,
    start: np.ndarray | None = None,
) -> Nearest:
    """Searches the ball of radius `upper` (l-inf or l1) for the unsafe input nearest to the center.

    least: a radius that is known to hold. start: an unsafe input to begin with, flat. Raises `BudgetExhausted`, and
    what `encoded` and `MixedProgram` raise.
    """
    task = encoded(family.at(rational(upper)), settings, clock, ball=False)
    if not task.still_open:
        return Nearest(None, upper)
    center = np.array([float(c) for c in family.center])
    further, slips = _beyond(family, center, upper)
    add = add_linf_distance if family.norm == "inf" else add_l1_distance
    program = task.program(settings, add(task.encoding, center, upper + further), seed)
    point = None if start is None else task.columns_at(start)
    search = _Search(task, program, [math.inf] * task.rows.n_disjuncts, upper + further)
    search.run(least, clock, point)
    distances = search.distances
    nearest = min(distances) - further - slips * task.tolerance
    safe = upper if math.isinf(nearest) else min(upper, float(np.nextafter(nearest, 0.0)))
    return Nearest(program, safe, tuple(distances), search.x, lambda clock: search.deeper(least, upper, clock))


def _beyond(family: QueryFamily, center: np.ndarray, upper: float) -> tuple[float, float]:
    """How much further than the ball the program must search, and how many tolerances its distance may be off.

    The effective box at an l-inf radius reaches up to a float further than the ball. An l1 ball is what is written, but
    the program's center and sum are rounded. The solver lets |x_i - center_i| <= e slip, in l1 every x_i = center_i +
    p_i - q_i, p_i, q_i >= 0 and the sum.
    """
    furthest = float(np.abs(center).max()) + upper
    if family.norm == "inf":
        return 2.0 * float(np.spacing(np.asarray(furthest, dtype=family.model.dtype))), 4.0
    return 4.0 * center.size * float(np.spacing(furthest)), 4.0 * (center.size + 1)


@dataclass(eq=False)
class _Search:
    """For each disjunct a lower bound on its distance from the center, and the nearest point found.

    A disjunct refuted in the whole ball of radius `upper`, or nowhere nearer than another's point, is infinitely far.
    """

    task: EncodedQuery
    program: MixedProgram
    distances: list[float]
    upper: float
    x: np.ndarray | None = None
    disjunct: int = 0

    def run(self, least: float, clock: Clock, start: np.ndarray | None) -> None:
        for number in self.task.still_open:
            if clock.remaining <= 0:
                self.distances[number] = least
                continue
            self._ask(number, 1.0)
            solved = self.program.minimise(least, self.upper, _gap_closed(GAP), clock, start)
            self.distances[number] = max(solved.bound, least)
            if solved.x is not None and solved.incumbent <= self.upper:
                self.upper, self.x, self.disjunct = solved.incumbent, solved.x, number

    def deeper(self, least: float, upper: float, clock: Clock) -> np.ndarray | None:
        """A point of the nearest disjunct that fulfils its rows by as much as the nearest point may miss them."""
        if clock.remaining <= 0:
            return None
        self._ask(self.disjunct, -1.0)
        return self.program.minimise(least, upper, _gap_closed(COARSE_GAP), clock).x

    def _ask(self, number: int, slack: float) -> None:
        # Twice what a verdict has to clear, so that one asked at the certified radius is no closer call than this.
        mine = self.task.rows_of(number)
        self.program.set_rows(self.task.rows, mine, slack * 4.0 * float(self.task.hidden[mine].max()))


def _gap_closed(gap: float) -> Decided:
    return lambda bound, incumbent: math.isfinite(incumbent) and bound >= incumbent * (1.0 - gap)


def witnesses_near(family: QueryFamily, x: np.ndarray) -> list[tuple[float, tuple[Fraction, ...]]]:
    """Inputs that the model can be fed next to the solver's point `x`, each with its distance, the nearest first.

    Within tolerance `x` lies on the boundary of the unsafe set, so it is moved further and further: away from the
    center, and down the gradient of the violation.
    """
    dtype, center = family.model.dtype, np.array([float(c) for c in family.center])
    network = family.at(0).network
    rows, around = rows_of(family.at(0).prop), surroundings(family)
    here = x.reshape(1, *network.input_shape)
    values = network.values(here)
    losses, gaps = losses_of(rows, values[-1], here)
    gradient = loss_gradient(network, values, rows, row_weights(rows, gaps, losses.argmin(axis=1)))
    gradient = around.free(here, gradient)
    slope = max(float(around.slope(gradient)[0]), TINY)
    down = around.downhill(gradient, np.zeros(1, dtype=int))
    size = 1.0 + float(np.abs(values[-1]).max())
    moved = [center + (x - center) * (1.0 + push) for push in PUSHES]
    moved += [(here + (max(losses.min(), 0.0) + push * size) / slope * down).reshape(-1) for push in PUSHES]
    low, high = clip_ends(family)
    found = []
    for point in moved:
        fed = np.clip(point.astype(dtype).astype(np.float64), low, high)
        if np.isfinite(fed).all():
            exact = tuple(Fraction(v) for v in fed.tolist())
            gaps_to = [abs(p - c) for p, c in zip(exact, family.center, strict=True)]
            distance = max(gaps_to) if family.norm == "inf" else sum(gaps_to, Fraction(0))
            found.append((float(float_above([distance])[0]), exact))
    return sorted(found)

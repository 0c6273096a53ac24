"""The simplex part of Reluplex: an assignment, its bounds, and pivots until every basic variable is within its own.

Nonbasic variables are always within their bounds; basic ones follow from them by the tableau. Source: Katz et al.,
section 3 (rules Pivot, Update, Failure) and 4 (bounds derived from rows); the method is Dutertre and de Moura's.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

from verifkit.analysis.reluplex.bounds import LOWER, UPPER, BoundStack, Derived
from verifkit.analysis.reluplex.delta import Delta, Number, real
from verifkit.analysis.reluplex.system import System
from verifkit.analysis.reluplex.tableau import FloatTableau, RationalTableau, Stalled, Tableau
from verifkit.analysis.reluplex.trace import Trace, show
from verifkit.budget import Clock

PATIENCE = 1
"""Times the number of variables: pivots of one call after which Bland's rule, the first variable in order, takes over.
It is slow, but it cannot cycle."""

LIMIT = 20
"""Times the number of variables: pivots of one call in floats, where rounding may make even Bland's rule cycle."""

AFRESH = 8
"""Pivots in floats after which the basic variables' values are computed from the nonbasic ones'."""

GAIN = Fraction(1, 64)
"""A derived bound counts if it gains this share of its variable's width: so there are only finitely many."""

TOLERANCE = 1e-9
"""What floats may be off by, relative to the size of a variable's bounds."""

ROOM = 1e-6
"""In floats an unsafe row's bound is lowered by this, relative to its size, so that a solution replays as one: rounding
would push one on the bound itself to either side. A branch that is refuted only by this is searched in rationals."""

SHORT = 2.0**-40
"""A derived bound in rationals is rounded outward to a multiple of this times its size: short numbers multiply fast."""

Conflict = tuple[int, Derived | None, Derived | None]
"""A variable whose lower bound lies above its upper one, and where the two came from."""


class Simplex:
    """alpha[v]: the assignment. `exact`: rationals, else floats."""

    def __init__(self, system: System, *, exact: bool, clock: Clock, trace: Trace, counts: Counter[str]) -> None:
        self.system, self.exact, self.clock, self.trace, self.counts = system, exact, clock, trace, counts
        self.tableau: Tableau = RationalTableau(system, clock) if exact else FloatTableau(system, clock)
        self.bounds = BoundStack(*((system.lower, system.upper) if exact else _float_bounds(system)))
        ends = zip(*self.bounds.ends, strict=True)
        self.tolerance = [0 if exact else TOLERANCE * _size(low, high) for low, high in ends]
        self.gain = [_gain(low, high) for low, high in zip(*self.bounds.ends, strict=True)]
        self.alpha: list[Number] = [Fraction(0) if exact else 0.0] * len(system.variables)
        for v in self.tableau.nonbasic:
            self.alpha[v] = self._nearest(v)
        self.compute_basic()

    def compute_basic(self) -> None:
        """The basic variables' values from the nonbasic ones'."""
        for basic in self.tableau.basic:
            self.alpha[basic] = sum(c * self.alpha[v] for v, c in self.tableau.row(basic))
            if not self.exact and not math.isfinite(self.alpha[basic]):
                raise Stalled("values beyond the range of floats")

    def _nearest(self, v: int) -> Number:
        """The value within the bounds of v that is nearest to the present one."""
        low, high = self.bounds.ends[LOWER][v], self.bounds.ends[UPPER][v]
        return min(max(self.alpha[v], low), high)

    def update(self, nonbasic: int, value: Number) -> None:
        """Rule Update: a nonbasic variable moves, and the basic ones with it."""
        step = value - self.alpha[nonbasic]
        self.alpha[nonbasic] = value
        for basic, c in self.tableau.column(nonbasic):
            self.alpha[basic] = self.alpha[basic] + c * step

    def pivot(self, leaving: int, entering: int) -> None:
        """Rule Pivot. No value changes, but that floats are reckoned afresh every few times."""
        self.counts["pivots"] += 1
        self.tableau.pivot(leaving, entering)
        if not self.exact and self.counts["pivots"] % AFRESH == 0:
            self.compute_basic()

    def give(self, side: int, variable: int, end: Number) -> None:
        """Sets a given bound (of a phase), if it is tighter than the present one."""
        if self.bounds.tighter(side, variable, end):
            self.bounds.set(side, variable, end)
            self._follow(variable)

    def _follow(self, variable: int) -> None:
        """A nonbasic variable stays within its bounds (crossed bounds are found by `crossed`)."""
        if not self.tableau.is_basic(variable):
            value = self._nearest(variable)
            if value != self.alpha[variable]:
                self.update(variable, value)

    def crossed(self, variable: int) -> Conflict | None:
        low, high = self.bounds.ends[LOWER][variable], self.bounds.ends[UPPER][variable]
        if low - high <= self.tolerance[variable]:
            return None
        return variable, self.bounds.why[LOWER][variable], self.bounds.why[UPPER][variable]

    def tighten(self, basic: int) -> Conflict | None:
        """Derives bounds of a basic variable from its row (section 4)."""
        row = self.tableau.row(basic)
        for side in (LOWER, UPPER):
            end = self.bounds.implied(side, row)
            if isinstance(end, float) and not math.isfinite(end):
                continue
            if self.exact:
                end = _outward(end, side)
            now = self.bounds.ends[side][basic]
            gain = (end - now) if side == LOWER else (now - end)
            if gain > self.gain[basic]:
                self.bounds.set(side, basic, end, self.bounds.derive(side, basic, row))
                self.counts["tightened bounds"] += 1
                if self.trace.on:
                    self._say_tightened(side, basic, end, [v for v, _ in row])
        return self.crossed(basic)

    def _say_tightened(self, side: int, basic: int, end: Number, others: list[int]) -> None:
        names, sign = self.system.names, ">=" if side == LOWER else "<="
        used = ", ".join(names[v] for v in others)
        self.trace.step(f"tighten: {names[basic]} {sign} {show(end)}, by its row and the bounds of {used}")

    def tighten_all(self) -> Conflict | None:
        for basic in list(self.tableau.basic):
            self.clock.check()
            conflict = self.tighten(basic)
            if conflict is not None:
                return conflict
        return None

    def check(self) -> Conflict | None:
        """Pivots until every variable is within its bounds; a conflict where that cannot be (rule Failure)."""
        size, count = len(self.alpha), 0
        while True:
            self.clock.check()
            if count >= LIMIT * size and not self.exact:
                raise Stalled("too many pivots")
            bland = count >= PATIENCE * size
            found = self._violated(bland=bland)
            if found is None:
                return None
            leaving, side = found
            row = self.tableau.row(leaving)
            gap = self.bounds.ends[side][leaving] - self.alpha[leaving]
            entering = self._entering(row, gap, bland=bland)
            if entering is None:
                derived = self.bounds.derive(1 - side, leaving, row)
                mine = self.bounds.why[side][leaving]
                return (leaving, mine, derived) if side == LOWER else (leaving, derived, mine)
            self._exchange(leaving, side, *entering)
            conflict = self.tighten(entering[0])
            if conflict is not None:
                return conflict
            count += 1

    def _exchange(self, leaving: int, side: int, entering: int, c: Number) -> None:
        """Moves `entering`, whose coefficient in the row is c, until `leaving` is at its bound, and pivots."""
        end, value = self.bounds.ends[side][leaving], self.alpha[leaving]
        if self.trace.on:
            names, sign = self.system.names, "below" if side == LOWER else "above"
            out = f"{names[leaving]} = {show(value)} is {sign} its bound {show(end)}"
            self.trace.step(f"pivot: {out}; {names[entering]} enters, {names[leaving]} leaves")
        self.update(entering, self.alpha[entering] + (end - value) / c)
        self.pivot(leaving, entering)
        self.alpha[leaving] = end

    def _violated(self, *, bland: bool) -> tuple[int, int] | None:
        """A basic variable out of its bounds, and the side: the furthest out, or by Bland's rule the first."""
        best, worst = None, None
        low, high = self.bounds.ends
        for v in self.tableau.basic:
            value = self.alpha[v]
            for side, gap in ((LOWER, low[v] - value), (UPPER, value - high[v])):
                if gap > self.tolerance[v]:
                    measure = -v if bland else gap
                    if worst is None or measure > worst:
                        best, worst = (v, side), measure
        return best

    def _entering(self, row: list[tuple[int, Number]], gap: Number, *, bland: bool) -> tuple[int, Number] | None:
        """A nonbasic variable with slack: one that may move so that the basic one closes its gap to the bound.

        The one that passes its own bounds the least by that, and of those the one that moves least; by Bland's rule
        the first."""
        low, high = self.bounds.ends
        best, least = None, None
        for v, c in row:
            step = gap / c
            if not ((self.alpha[v] < high[v]) if step > 0 else (self.alpha[v] > low[v])):
                continue
            if bland:
                measure: Number = v
            else:
                value = self.alpha[v] + step
                measure = max(value - high[v], low[v] - value, 0), abs(step)
            if least is None or measure < least:
                best, least = (v, c), measure
        return best


def _float_bounds(system: System) -> tuple[list[Number], list[Number]]:
    lower, upper = ([_to_float(v) for v in ends] for ends in (system.lower, system.upper))
    for v, variable in enumerate(system.variables):
        if variable.kind == "row":
            upper[v] -= ROOM * (1.0 + abs(upper[v]))
    return lower, upper


def _to_float(value: Number) -> float:
    try:
        return float(value)
    except OverflowError:
        raise Stalled("values beyond the range of floats") from None


def _size(low: float, high: float) -> float:
    return max([1.0, *(abs(end) for end in (low, high) if math.isfinite(end))])


def _gain(low: Number, high: Number) -> Number:
    first, last = real(low), real(high)
    if any(isinstance(end, float) and math.isinf(end) for end in (first, last)):
        return 1e-3  # not their difference: a rational beyond all floats is no summand of an infinite one
    width = last - first
    return width * GAIN if isinstance(width, Fraction) else width / 64 if math.isfinite(width) else 1e-3


def _outward(end: Number, side: int) -> Number:
    """A little further out, and short. What a strict row adds (delta) is dropped where it would tighten."""
    value = real(end)
    scale = Fraction(SHORT) * Fraction(2) ** (value.numerator.bit_length() - value.denominator.bit_length())
    whole = value / scale
    rounded = (math.floor(whole) if side == LOWER else math.ceil(whole)) * scale
    if isinstance(end, Delta) and rounded == value and ((end.delta < 0) == (side == LOWER)) and end.delta:
        rounded += -scale if side == LOWER else scale
    return rounded

"""A formula of linear real arithmetic about maxima of two lines, as it grows, and in SMT-LIB 2 text.

Every number is an exact rational; only integers are written, as each constraint is multiplied by its denominators.
Phases and triangles come from CROWN's bounds, computed in rationals here, so that nothing in the formula rests on
rounding. The text is what any solver of the logic QF_LRA reads.

Sources: Katz et al., "Reluplex", CAV 2017, section 3, for the question as a formula; Ehlers, "Formal verification of
piece-wise linear feed-forward neural networks", ATVA 2017, for the triangle; Zhang et al., "Efficient neural network
robustness certification with general activation functions", NeurIPS 2018, for the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from verifkit.budget import Clock
from verifkit.properties import Constraint, Polyhedron

ZERO, ONE = Fraction(0), Fraction(1)

TRIANGLE = 4
"""Significant bits of a triangle's ends, rounded outward: simplex works faster with short numbers (`smt.md`)."""

LINES = 16
"""The same for the lines that bounds are computed with."""

DIGITS = 4000
LONG = 10**DIGITS


@dataclass(frozen=True)
class Linear:
    """A sum of coefficient times variable, and a constant."""

    terms: dict[int, Fraction]
    constant: Fraction = ZERO

    def plus(self, other: Linear, factor: Fraction = ONE) -> Linear:
        """self + factor * other."""
        terms = dict(self.terms)
        for variable, value in other.terms.items():
            terms[variable] = terms.get(variable, ZERO) + factor * value
        return Linear({v: c for v, c in terms.items() if c}, self.constant + factor * other.constant)

    def line(self, slope: Fraction, offset: Fraction) -> Linear:
        """slope * self + offset."""
        terms = {v: slope * c for v, c in self.terms.items()} if slope else {}
        return Linear(terms, slope * self.constant + offset)


Line = tuple[Fraction, Fraction]
"""Slope and offset."""


@dataclass(frozen=True)
class Unit:
    """A variable that is the maximum of two lines of z: one line of z below it and one above, over z's range."""

    z: Linear
    below: Line
    above: Line


@dataclass(eq=False)
class Formula:
    """Variables v0, v1, ... and what must hold of them; `inputs` and `outputs` are the network's, flat, in them.

    ends: of every variable, exact. units: the undecided ones, by variable. ball: center and radius of an l1 ball.
    """

    clock: Clock
    triangles: bool = True
    lines: list[str] = field(default_factory=list)
    inputs: list[Linear] = field(default_factory=list)
    outputs: list[Linear] = field(default_factory=list)
    ends: list[tuple[Fraction, Fraction]] = field(default_factory=list)
    units: dict[int, Unit] = field(default_factory=dict)
    ball: tuple[dict[int, Fraction], Fraction] | None = None

    def text(self) -> str:
        """All that holds whatever is asked: declarations, the input set, the network."""
        declared = [f"(declare-const {name(k)} Real)" for k in range(len(self.ends))]
        return "\n".join(["(set-logic QF_LRA)", *declared, *self.lines])

    def rows(self, disjunct: Polyhedron) -> str:
        """What is asked: is there an output that the disjunct (without a box) calls unsafe?"""
        return "\n".join(
            f"(assert {_at_most_zero(self._left(row), strict=row.strict)})" for row in disjunct.constraints
        )

    def refutes(self, disjunct: Polyhedron) -> bool:
        """Whether the bounds alone show that no output is."""
        least = [(self.least(self._left(row)), row.strict) for row in disjunct.constraints]
        return any(value > 0 or (strict and value == 0) for value, strict in least)

    def _left(self, row: Constraint) -> Linear:
        """What is at most 0 (below it) where the row is satisfied."""
        left = Linear({}, -row.bound)
        for coefficients, values in ((row.outputs, self.outputs), (row.inputs, self.inputs)):
            for index, coefficient in coefficients:
                left = left.plus(values[index], coefficient)
        return left

    def free_inputs(self) -> list[int]:
        """The variables of the inputs that are not fixed, in order."""
        return [variable for x in self.inputs for variable in x.terms]

    def point(self, values: Sequence[Fraction]) -> list[Fraction]:
        """The flat input, from values of `free_inputs`."""
        known = dict(zip(self.free_inputs(), values, strict=True))
        return [sum((c * known[v] for v, c in x.terms.items()), x.constant) for x in self.inputs]

    def variable(self, low: Fraction, high: Fraction) -> Linear:
        self.ends.append((low, high))
        return Linear({len(self.ends) - 1: ONE})

    def at_most(self, left: Linear, right: Linear) -> None:
        self.lines.append(f"(assert {_at_most_zero(left.plus(right, -ONE))})")

    def least(self, value: Linear) -> Fraction:
        """A lower bound: by the variables' ends, or by the units' lines, put in last first; the better one."""
        by_ends = self._by_ends(value.terms, value.constant)
        terms, constant = dict(value.terms), value.constant
        for variable in reversed(self.units):  # a unit's z is made of earlier variables
            self.clock.check()
            factor = terms.pop(variable, ZERO)
            if factor:
                unit = self.units[variable]
                slope, offset = unit.below if factor > 0 else unit.above
                constant += factor * (offset + slope * unit.z.constant)
                for other, c in unit.z.terms.items():
                    terms[other] = terms.get(other, ZERO) + factor * slope * c
        return max(by_ends, self._by_ends(terms, constant), self._by_ball(terms, constant))

    def _by_ends(self, terms: Mapping[int, Fraction], constant: Fraction) -> Fraction:
        return sum((c * self.ends[v][0 if c > 0 else 1] for v, c in terms.items()), constant)

    def _by_ball(self, terms: Mapping[int, Fraction], constant: Fraction) -> Fraction:
        """Of inputs alone, over the l1 ball; by the ends where there is none."""
        if self.ball is None:
            return self._by_ends(terms, constant)
        center, radius = self.ball
        at_center = sum((c * center[v] for v, c in terms.items()), constant)
        return at_center - radius * max((abs(c) for c in terms.values()), default=ZERO)

    def maximum(self, z: Linear, one: Line, other: Line) -> Linear:
        """max of two lines of z: one of them where the bounds of z decide, else a new variable."""
        low, high = self.least(z), -self.least(z.line(-ONE, ZERO))
        gaps = [_at(one, end) - _at(other, end) for end in (low, high)]
        if min(gaps) >= 0 or max(gaps) <= 0:
            return z.line(*(one if min(gaps) >= 0 else other))
        low, high = _short(low, LINES, up=False), _short(high, LINES, up=True)
        tops = [max(_at(one, end), _at(other, end)) for end in (low, high)]
        f = self.variable(min(*tops, _crossing(one, other)), max(tops))
        middle = (low + high) / 2
        below = one if _at(one, middle) >= _at(other, middle) else other
        slope = _short((tops[1] - tops[0]) / (high - low), LINES, up=True)
        above = slope, max(tops[0] - slope * low, tops[1] - slope * high)  # a convex function: its ends decide
        (variable,) = f.terms
        self.units[variable] = Unit(z, below, above)
        self._state(f, z, (one, other), low, high)
        return f

    def _state(self, f: Linear, z: Linear, sides: tuple[Line, Line], low: Fraction, high: Fraction) -> None:
        """f is the maximum of both sides, and lies below the chord over [low, high]."""
        values = [z.line(*side) for side in sides]
        for value in values:
            self.at_most(value, f)
        either = " ".join(_at_most_zero(f.plus(value, -ONE)) for value in values)
        self.lines.append(f"(assert (or {either}))")
        if self.triangles:
            low, high = _short(low, TRIANGLE, up=False), _short(high, TRIANGLE, up=True)
            tops = [max(_at(side, end) for side in sides) for end in (low, high)]
            slope = (tops[1] - tops[0]) / (high - low)
            self.at_most(f, z.line(slope, tops[0] - slope * low))


def _short(value: Fraction, bits: int, *, up: bool) -> Fraction:
    """The value with few significant bits, rounded in one direction."""
    step = Fraction(2) ** (value.numerator.bit_length() - value.denominator.bit_length() - bits)
    return (math.ceil(value / step) if up else math.floor(value / step)) * step


def _crossing(one: Line, other: Line) -> Fraction:
    """The value where two lines of different slopes meet."""
    return _at(one, (other[1] - one[1]) / (one[0] - other[0]))


def _at(line: Line, z: Fraction) -> Fraction:
    return line[0] * z + line[1]


def name(variable: int) -> str:
    return f"v{variable}"


def _at_most_zero(left: Linear, *, strict: bool = False) -> str:
    """left <= 0 (< 0), in integers."""
    numbers = [*left.terms.values(), left.constant]
    common = math.lcm(*(v.denominator for v in numbers))
    whole = [v.numerator * (common // v.denominator) for v in numbers]
    divisor = math.gcd(*whole) or 1
    parts = [f"(* {_integer(w // divisor)} {name(v)})" for v, w in zip(left.terms, whole, strict=False)]
    total = f"(+ {' '.join(parts)})" if len(parts) > 1 else "".join(parts) or "0.0"
    return f"({'<' if strict else '<='} {total} {_integer(-whole[-1] // divisor)})"


def _integer(value: int) -> str:
    return f"{_digits(value)}.0" if value >= 0 else f"(- {_digits(-value)}.0)"


def _digits(value: int) -> str:
    """Decimal digits; Python converts no more than some thousand at once."""
    if value < LONG:
        return str(value)
    high, low = divmod(value, LONG)
    return _digits(high) + str(low).zfill(DIGITS)

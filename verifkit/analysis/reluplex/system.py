"""A question as Reluplex sees it: definitions, bounds, and pairs (b, f) that f = max(0, b) binds.

Section 3 of Katz et al. writes a network as equations over the input and the two variables of every ReLU. Here every
equation defines one variable (a *basic* one at the start) by a linear form over the others: b, the slack f - b, the
chord f - slope b, an unsafe row. All numbers are exact rationals. The variables are described in `verifkit.evidence`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from verifkit.analysis.interval import Bounds
from verifkit.analysis.reluplex.delta import Delta, Number
from verifkit.analysis.reluplex.forms import Forms, affine_forms, unit_forms
from verifkit.budget import Clock
from verifkit.evidence import Variable
from verifkit.functions import Relu
from verifkit.input_sets import InputSet, LpBall
from verifkit.network import Network
from verifkit.ops import Activation, Affine
from verifkit.properties import Constraint

ONE = 0
"""The variable that is 1: constants are its coefficients."""

SLOPE_BITS = 20
"""The chord's slope is rounded to this many bits, so that numbers stay short; its offset is made to fit."""


@dataclass(frozen=True)
class Pair:
    """An unstable ReLU: the numbers of its variables, and where it is in the network."""

    b: int
    f: int
    slack: int
    node: int
    unit: int


@dataclass(eq=False)
class System:
    """variables[v], with bounds lower[v] <= v <= upper[v] (exact, possibly infinite).

    definitions: variable -> its linear form, (variable, coefficient) terms over undefined variables. inputs: the
    variables of the network's flat input. pairs: in the network's order. names: of the variables, for people.
    """

    variables: list[Variable] = field(default_factory=list)
    lower: list[Number] = field(default_factory=list)
    upper: list[Number] = field(default_factory=list)
    definitions: dict[int, tuple[tuple[int, Fraction], ...]] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(
        self,
        variable: Variable,
        name: str,
        lower: Number,
        upper: Number,
        definition: Iterable[tuple[int, Fraction]] | None = None,
    ) -> int:
        """Appends a variable and returns its number."""
        number = len(self.variables)
        self.variables.append(variable)
        self.names.append(name)
        self.lower.append(lower)
        self.upper.append(upper)
        if definition is not None:
            self.definitions[number] = tuple((v, c) for v, c in definition if c)
        return number

    def copy(self) -> System:
        return System(
            list(self.variables), list(self.lower), list(self.upper), dict(self.definitions), list(self.inputs),
            list(self.pairs), list(self.names),
        )  # fmt: skip


@dataclass(frozen=True)
class _Unit:
    """What bounds on later values need of an unstable ReLU: its input's form, bounds, and its chord."""

    form: np.ndarray
    lower: Fraction
    upper: Fraction
    slope: Fraction
    offset: Fraction


class Encoding:
    """A network over an input set, as a system without unsafe rows; `with_rows` adds those of one disjunct.

    bounds: of every node (a batch of one), rigorous; None to have them computed here, by CROWN's lines in rationals.
    Columns of forms are the undefined variables in their order: one, the inputs (or p and q of an l1 ball), every f.
    """

    def __init__(self, network: Network, inputs: InputSet, bounds: list[Bounds] | None, dtype: type, clock: Clock):
        self.network, self.clock = network, clock
        self.system = System()
        self.intermediate: dict[int, tuple[tuple[Fraction, ...], tuple[Fraction, ...]]] = {}
        self.chord: dict[int, tuple[tuple[Fraction, ...], tuple[Fraction, ...]]] = {}
        self.columns: list[int] = []
        self.units: list[_Unit] = []
        self._undefined(Variable("one"), "1", Fraction(1), Fraction(1))
        forms = [self._inputs(inputs, dtype)]
        self.n_free = len(self.columns)
        layer = 0
        for index, node in enumerate(network.nodes[1:], start=1):
            clock.check()
            parents = [forms[p] for p in node.parents]
            if isinstance(node, Affine):
                forms.append(affine_forms(node, parents, len(self.columns), clock))
            elif isinstance(node, Activation) and isinstance(node.function, Relu):
                layer += 1
                forms.append(self._relu(index, layer, parents[0], None if bounds is None else bounds[node.parents[0]]))
            else:
                raise TypeError(f"node '{node.name}' has no linear encoding")
        self.input_forms, self.output_forms = (f.widened(len(self.columns)) for f in (forms[0], forms[-1]))

    def with_rows(self, constraints: Sequence[Constraint]) -> System:
        """The system of one disjunct: all of its rows hold at once. A strict bound is lowered by delta."""
        system = self.system.copy()
        for number, row in enumerate(constraints):
            form = np.zeros(len(self.columns), dtype=object)
            for j, value in row.outputs:
                form = form + value * self.output_forms.row(j)
            for i, value in row.inputs:
                form = form + value * self.input_forms.row(i)
            top = Delta(row.bound, Fraction(-1)) if row.strict else row.bound
            system.add(Variable("row", 0, number), f"r{number}", -math.inf, top, self._terms(form))
        return system

    def _undefined(self, variable: Variable, name: str, lower: Number, upper: Number) -> int:
        number = self.system.add(variable, name, lower, upper)
        self.columns.append(number)
        return number

    def _terms(self, form: np.ndarray) -> list[tuple[int, Fraction]]:
        return [(v, Fraction(c)) for v, c in zip(self.columns, form, strict=False) if c]

    def _inputs(self, inputs: InputSet, dtype: type) -> Forms:
        """Columns for the inputs, and their forms. Free is x itself, or x - center of an l1 ball (p - q)."""
        system = self.system
        if not isinstance(inputs, LpBall):
            self.free = [
                tuple(map(Fraction, ends)) for ends in zip(*(e.tolist() for e in inputs.floats(dtype)), strict=True)
            ]
            self.radius: Fraction | None = None
            system.inputs = [
                self._undefined(Variable("x", 0, i), f"x{i}", low, high) for i, (low, high) in enumerate(self.free)
            ]
            return unit_forms(system.inputs, len(self.columns))
        box, self.radius = inputs.bounding_box(), inputs.radius
        self.free = [(a - c, b - c) for a, c, b in zip(box.lower, inputs.center, box.upper, strict=True)]
        zero = Fraction(0)
        for i in range(inputs.size):
            for kind in ("p", "q"):
                self._undefined(Variable(kind, 0, i), f"{kind}{i}", zero, inputs.radius)
        rows = np.zeros((inputs.size, len(self.columns)), dtype=object)
        den = math.lcm(*(c.denominator for c in inputs.center))
        for i, c in enumerate(inputs.center):
            rows[i, [0, 2 * i + 1, 2 * i + 2]] = int(c * den), den, -den
        forms = Forms(rows, den)
        for i, ends in enumerate(zip(box.lower, box.upper, strict=True)):
            system.inputs.append(system.add(Variable("x", 0, i), f"x{i}", *ends, self._terms(forms.row(i))))
        total = [(v, Fraction(1)) for v in self.columns[1:]]
        system.add(Variable("distance"), "distance", -math.inf, inputs.radius, total)
        return forms

    def _relu(self, node: int, layer: int, parent: Forms, bounds: Bounds | None) -> Forms:
        """The forms of the units' outputs: 0, their input's form, or a new column."""
        parent = parent.widened(len(self.columns))
        ends = [self._range(parent.row(k), k, bounds) for k in range(parent.size)]
        unstable = [k for k, (low, high) in enumerate(ends) if low < 0 < high]
        lines: list[tuple[Fraction, Fraction]] = [(Fraction(0), Fraction(0))] * parent.size
        place = {}
        for k in unstable:
            low, high = ends[k]
            slope = Fraction(round(high / (high - low) * 2**SLOPE_BITS), 2**SLOPE_BITS)
            lines[k] = slope, max(-slope * low, high - slope * high)
            place[k] = len(self.columns)
            self._pair(node, layer, k, parent.row(k), *ends[k], *lines[k])
        self.intermediate[node] = tuple(low for low, _ in ends), tuple(high for _, high in ends)
        self.chord[node] = tuple(slope for slope, _ in lines), tuple(offset for _, offset in lines)
        out = parent.widened(len(self.columns)).integers.copy()
        for k, (_, high) in enumerate(ends):
            if high <= 0 or k in place:
                out[k] = 0
            if k in place:
                out[k, place[k]] = parent.den
        return Forms(out, parent.den)

    def _pair(
        self, node: int, layer: int, unit: int, form: np.ndarray, low: Fraction, high: Fraction, slope: Fraction,
        offset: Fraction,
    ) -> None:  # fmt: skip
        add, name, zero = self.system.add, f"{layer}.{unit}", Fraction(0)
        terms = self._terms(form)
        f = self._undefined(Variable("f", node, unit), f"f{name}", zero, high)
        b = add(Variable("b", node, unit), f"b{name}", low, high, terms)
        slack = add(
            Variable("slack", node, unit), f"s{name}", zero, -low, [*((v, -c) for v, c in terms), (f, Fraction(1))]
        )
        chord = [*((v, -slope * c) for v, c in terms), (f, Fraction(1))]
        add(Variable("chord", node, unit), f"t{name}", -math.inf, offset, chord)
        self.system.pairs.append(Pair(b, f, slack, node, unit))
        self.units.append(_Unit(form, low, high, slope, offset))

    def _range(self, form: np.ndarray, unit: int, bounds: Bounds | None) -> tuple[Fraction, Fraction]:
        """Bounds of a form: those given, or by lines in rationals."""
        if bounds is not None:
            low, high = (Fraction(float(end.reshape(-1)[unit])) for end in bounds)
            return low, high
        self.clock.check()
        return _short(self.least(form), up=False), _short(-self.least(-form), up=True)

    def least(self, form: np.ndarray) -> Fraction:
        """A lower bound of a form over the input set: the better one of the interval and of CROWN's backward pass.

        form: Fractions over the first columns. Backward, an f with a positive coefficient is replaced by 0 or b (the
        nearer one), one with a negative coefficient by its chord, from the last one to the first.
        """
        count = len(form) - self.n_free
        interval = self._least_input(form[: self.n_free])
        for c, unit in zip(form[self.n_free :], self.units, strict=False):
            interval += min(c, 0) * unit.upper
        form = np.array(form)
        for k in reversed(range(count)):
            unit, c = self.units[k], form[self.n_free + k]
            width = len(unit.form)
            if c < 0:
                form[:width] += c * unit.slope * unit.form
                form[ONE] += c * unit.offset
            elif c > 0 and unit.upper > -unit.lower:
                form[:width] += c * unit.form
        return max(interval, self._least_input(form[: self.n_free]))

    def _least_input(self, form: np.ndarray) -> Fraction:
        """The least value of constant + input terms over the box, or a lower bound over box and l1 ball."""
        step = 1 if self.radius is None else 2
        slopes = [Fraction(c) for c in form[1::step]]
        box = sum((min(c * low, c * high) for c, (low, high) in zip(slopes, self.free, strict=True)), Fraction(0))
        if self.radius is not None:
            box = max(box, -self.radius * max((abs(c) for c in slopes), default=Fraction(0)))
        return Fraction(form[ONE]) + box


def _short(value: Fraction, *, up: bool, bits: int = 30) -> Fraction:
    """The value rounded outward to a dyadic number of about `bits` bits: short numbers multiply faster."""
    if not value:
        return value
    unit = Fraction(2) ** (value.numerator.bit_length() - value.denominator.bit_length() - bits)
    return (math.ceil(value / unit) if up else math.floor(value / unit)) * unit

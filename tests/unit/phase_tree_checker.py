"""A checker of phase trees for toy networks, written from the text of `verifkit.evidence` alone, in plain rationals."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

import numpy as np

from verifkit.evidence import Farkas, FarkasTree, FarkasTrees, PhaseSplit, Variable
from verifkit.input_sets import Box
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.testing.oracle import ToyNet
from verifkit.testing.samples import row_minimum

Form = dict[Variable, Fraction]
Ends = tuple[Fraction | None, Fraction | None]
ONE, ZERO = Variable("one"), Fraction(0)


def total(*terms: tuple[Fraction, Form]) -> Form:
    form: Form = defaultdict(Fraction)
    for factor, part in terms:
        for variable, value in part.items():
            form[variable] += factor * value
    return form


class Checker:
    """`problem` says what is wrong with evidence about a toy network's property (without boxes in its disjuncts)."""

    def __init__(self, toy: ToyNet, prop: Property, evidence: FarkasTrees) -> None:
        self.toy, self.prop, self.evidence = toy, prop, evidence
        self.defined: dict[Variable, Form] = {}
        self.bounds: dict[Variable, Ends] = {ONE: (Fraction(1), Fraction(1))}
        self.inputs = self._inputs()
        self.outputs = self._network()

    def _inputs(self) -> list[Form]:
        region = self.prop.input_set
        if isinstance(region, Box):
            low, high = (list(map(Fraction, end.tolist())) for end in region.floats(np.float32))
            for i, ends in enumerate(zip(low, high, strict=True)):
                self.bounds[Variable("x", 0, i)] = ends
            return [{Variable("x", 0, i): Fraction(1)} for i in range(region.size)]
        forms, box = [], region.bounding_box()
        for i, center in enumerate(region.center):
            p, q, x = (Variable(kind, 0, i) for kind in "pqx")
            self.bounds[p] = self.bounds[q] = (ZERO, region.radius)
            self.bounds[x] = (box.lower[i], box.upper[i])
            self.defined[x] = {ONE: center, p: Fraction(1), q: Fraction(-1)}
            forms.append(self.defined[x])
        parts = [Variable(kind, 0, i) for i in range(region.size) for kind in "pq"]
        self.defined[Variable("distance")] = dict.fromkeys(parts, Fraction(1))
        self.bounds[Variable("distance")] = (None, region.radius)
        return forms

    def _network(self) -> list[Form]:
        values = [self.inputs]
        for k, (weight, bias) in enumerate(zip(self.toy.weights, self.toy.biases, strict=True), 1):
            z = [
                total((b, {ONE: Fraction(1)}), *zip(row, values[-1], strict=True))
                for row, b in zip(weight, bias, strict=True)
            ]
            for s, target in self.toy.skips:
                if target == k:
                    z = [total((Fraction(1), a), (Fraction(1), h)) for a, h in zip(z, values[s], strict=True)]
            values.append(z if k == len(self.toy.weights) else self._units(2 * k, z))
        return values[-1]

    def _units(self, node: int, inputs: list[Form]) -> list[Form]:
        outputs: list[Form] = []
        for k, z in enumerate(inputs):
            low, high = (end[k] for end in self.evidence.intermediate[node])
            if low >= 0 or high <= 0:
                outputs.append(z if low >= 0 else {})
                continue
            b, f, slack, chord = (Variable(kind, node, k) for kind in ("b", "f", "slack", "chord"))
            slope, offset = (part[k] for part in self.evidence.chord[node])
            assert slope * low + offset >= 0, "the chord lies below the ReLU at its left end"
            assert slope * high + offset >= high, "the chord lies below the ReLU at its right end"
            self.defined[b] = z
            self.defined[slack] = total((Fraction(1), {f: Fraction(1)}), (Fraction(-1), z))
            self.defined[chord] = total((Fraction(1), {f: Fraction(1)}), (-slope, z))
            self.bounds.update({b: (low, high), f: (ZERO, high), slack: (ZERO, -low), chord: (None, offset)})
            outputs.append({f: Fraction(1)})
        return outputs

    def intermediate_problem(self) -> str | None:
        """The bounds of every ReLU's input against the exact range, by the oracle."""
        for node, (lower, upper) in self.evidence.intermediate.items():
            layer = node // 2
            skips = tuple((s, k) for s, k in self.toy.skips if k <= layer)
            cut = ToyNet(self.toy.weights[:layer], self.toy.biases[:layer], skips)
            for unit in range(cut.n_outputs):
                for sign, end in ((1, lower[unit]), (-1, -upper[unit])):
                    row = Constraint(outputs=((unit, Fraction(sign)),), bound=ZERO)
                    prop = Property(self.prop.input_set, (Polyhedron((row,)),), cut.n_outputs)
                    if row_minimum(cut, prop, 0, 0) < end:
                        return f"unit {unit} of layer {layer} passes its bound"
        return None

    def problem(self) -> str | None:
        if len(self.evidence.trees) != len(self.prop.unsafe):
            return "not one tree for each disjunct"
        for disjunct, tree in zip(self.prop.unsafe, self.evidence.trees, strict=True):
            if isinstance(tree, tuple):
                continue  # a linear bound: not this checker's matter
            found = self._tree_problem(disjunct, tree, {})
            if found is not None:
                return found
        return None

    def _tree_problem(self, disjunct: Polyhedron, tree: FarkasTree, phases: dict[Variable, Ends]) -> str | None:
        if isinstance(tree, Farkas):
            return self._leaf_problem(disjunct, tree, phases)
        assert isinstance(tree, PhaseSplit)
        b, f, slack = (Variable(kind, tree.node, tree.unit) for kind in ("b", "f", "slack"))
        negative = {**phases, b: (None, ZERO), f: (None, ZERO)}
        nonnegative = {**phases, b: (ZERO, None), slack: (None, ZERO)}
        return self._tree_problem(disjunct, tree.negative, negative) or self._tree_problem(
            disjunct, tree.nonnegative, nonnegative
        )

    def _leaf_problem(self, disjunct: Polyhedron, leaf: Farkas, phases: dict[Variable, Ends]) -> str | None:
        form: Form = {}
        for variable, m in leaf.multipliers.items():
            if variable.kind == "row":
                row = disjunct.constraints[variable.index]
                definition = total(
                    *((c, self.outputs[j]) for j, c in row.outputs), *((c, self.inputs[i]) for i, c in row.inputs)
                )
            else:
                definition = self.defined[variable]
            form = total((Fraction(1), form), (m, {variable: Fraction(1)}), (-m, definition))
        least, strict = ZERO, False
        for variable, c in form.items():
            if not c:
                continue
            if variable.kind == "row":
                row = disjunct.constraints[variable.index]
                ends: list[Ends] = [(None, row.bound)]
                strict = strict or row.strict
            else:
                ends = [self.bounds[variable], phases.get(variable, (None, None))]
            lows, highs = ([e for e in side if e is not None] for side in zip(*ends, strict=True))
            if not (lows if c > 0 else highs):
                return f"{variable} has no bound on the side that its multiplier needs"
            least += c * (max(lows) if c > 0 else min(highs))
        proved = least > 0 or (least == 0 and strict)
        return None if proved else f"a leaf proves only {float(least)}"

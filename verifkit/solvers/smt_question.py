"""The question to an SMT solver: a piecewise linear network over an input set as a formula in exact rationals.

Source: Katz et al., "Reluplex", CAV 2017, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from verifkit.budget import Clock
from verifkit.exact import rational_entries
from verifkit.functions import Abs, Clip, LeakyRelu, Relu
from verifkit.input_sets import Box, InputSet, LpBall
from verifkit.network import Network
from verifkit.ops import Activation, Affine
from verifkit.solvers.smt_formula import ONE, ZERO, Formula, Linear

CHECKED = 1 << 12
"""Products between two looks at the clock."""


def encode(
    network: Network, region: InputSet, dtype: type[np.floating[Any]], clock: Clock, *, triangles: bool = True
) -> Formula:
    """The network (no `Max`) over the effective input set of a model of `dtype`.

    triangles: whether to add the chord above each undecided unit, which is implied by the rest.
    """
    formula = Formula(clock, triangles)
    _add_inputs(formula, region, dtype)
    values = [formula.inputs]
    for node in network.nodes[1:]:
        clock.check()
        parents = [values[p] for p in node.parents]
        if isinstance(node, Affine):
            values.append(_affine(node, parents, clock))
        elif isinstance(node, Activation):
            values.append(_activation(formula, node, parents[0]))
        else:
            raise TypeError(f"node '{node.name}' is not piecewise linear")
    formula.outputs = values[-1]
    return formula


def _add_inputs(formula: Formula, region: InputSet, dtype: type[np.floating[Any]]) -> None:
    """The effective box, or the ball as written: what a witness must lie in, and what HOLDS covers."""
    if isinstance(region, Box):
        ends = [[Fraction(v) for v in end.tolist()] for end in region.floats(dtype)]
    else:
        box = region.bounding_box()
        ends = [list(box.lower), list(box.upper)]
    for low, high in zip(*ends, strict=True):
        x = formula.variable(low, high) if low < high else Linear({}, low)
        formula.inputs.append(x)
        if low < high:
            formula.at_most(Linear({}, low), x)
            formula.at_most(x, Linear({}, high))
    if isinstance(region, LpBall):
        _add_l1_ball(formula, region)


def _add_l1_ball(formula: Formula, ball: LpBall) -> None:
    """A variable for each |x - center|, whose sum is at most the radius."""
    if ball.norm != "1":
        raise TypeError(f"an l{ball.norm} ball is not polyhedral")
    total = Linear({}, -ball.radius)
    centers: dict[int, Fraction] = {}
    for x, center in zip(formula.inputs, ball.center, strict=True):
        if not x.terms:
            total = total.plus(Linear({}, abs(x.constant - center)))
            continue
        gap, middle = formula.variable(ZERO, ball.radius), Linear({}, center)
        formula.at_most(x.plus(middle, -ONE), gap)
        formula.at_most(middle.plus(x, -ONE), gap)
        total = total.plus(gap)
        centers |= dict.fromkeys(x.terms, center)
    formula.at_most(total, Linear({}))
    formula.ball = centers, -total.constant


def _affine(node: Affine, parents: Sequence[Sequence[Linear]], clock: Clock) -> list[Linear]:
    size = math.prod(node.shape)
    terms: list[dict[int, Fraction]] = [{} for _ in range(size)]
    constants = (
        [ZERO] * size if node.bias is None else [Fraction(v) for v in np.asarray(node.bias).reshape(-1).tolist()]
    )
    for linear, parent in zip(node.maps, parents, strict=True):
        products = 0
        for row, column, weight in rational_entries(linear):
            source, target = parent[column], terms[row]
            products += 1 + len(source.terms)
            if products > CHECKED:
                clock.check()
                products = 0
            for variable, value in source.terms.items():
                target[variable] = target.get(variable, ZERO) + weight * value
            constants[row] += weight * source.constant
    return [Linear({v: c for v, c in t.items() if c}, k) for t, k in zip(terms, constants, strict=True)]


def _activation(formula: Formula, node: Activation, parent: Sequence[Linear]) -> list[Linear]:
    function, result = node.function, []
    for place, z in enumerate(parent):
        if isinstance(function, Relu):
            result.append(formula.maximum(z, (ONE, ZERO), (ZERO, ZERO)))
        elif isinstance(function, Abs):
            result.append(formula.maximum(z, (ONE, ZERO), (-ONE, ZERO)))
        elif isinstance(function, LeakyRelu):
            slope = _parameter(function.slope, node, place)
            sign = ONE if slope <= 1 else -ONE  # a steeper one is concave: min(z, slope z)
            result.append(formula.maximum(z, (sign, ZERO), (sign * slope, ZERO)).line(sign, ZERO))
        elif isinstance(function, Clip):
            result.append(_clip(formula, z, *(_end(end, node, place) for end in (function.low, function.high))))
        else:
            raise TypeError(f"node '{node.name}' is not piecewise linear")
    return result


def _clip(formula: Formula, z: Linear, low: float, high: float) -> Linear:
    """min(max(z, low), high); an end may be infinite."""
    if math.isfinite(low):
        z = formula.maximum(z, (ONE, ZERO), (ZERO, Fraction(low)))
    if math.isfinite(high):
        z = formula.maximum(z, (-ONE, ZERO), (ZERO, -Fraction(high))).line(-ONE, ZERO)
    return z


def _end(values: Any, node: Activation, place: int) -> float:
    """A parameter of the node's function for one entry."""
    return float(np.broadcast_to(np.asarray(values, dtype=np.float64), node.shape).reshape(-1)[place])


def _parameter(values: Any, node: Activation, place: int) -> Fraction:
    return Fraction(_end(values, node, place))

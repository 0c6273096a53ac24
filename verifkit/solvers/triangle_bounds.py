"""Bounds over the triangle relaxation by linear programs: of a property's rows, and of every layer.

What the solver says is turned into multipliers, and the bounds are those of a backward pass with them, outward rounding
included: see `verifkit.analysis.triangle`. Where the solver has no answer, the analysis's own bound stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from verifkit.analysis.interval import Bounds, needs_signs, node_bounds
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.ranges import all_finite
from verifkit.analysis.relaxation import Relaxation
from verifkit.analysis.rows import Rows
from verifkit.analysis.triangle import RowLines, row_lines, safe_bounds, triangles
from verifkit.budget import BudgetExhausted, Clock
from verifkit.functions import ScalarFunction
from verifkit.ops import Activation
from verifkit.solvers.triangle_program import TriangleProgram

CHUNK = 2**22
"""Entries of one coefficient array: rows are taken in chunks so that memory stays bounded."""


def property_bounds(analysis: LinearAnalysis, rows: Rows, clock: Clock) -> tuple[np.ndarray, RowLines]:
    """Rigorous lower bounds `(R,)` on the left side of every row, the triangle relaxation's for the bounds given, and
    what they follow from; never below those of the analysis.

    analysis: of a batch of one, over a box or an l1 ball, in NumPy's float64, of a network whose activations are ReLU
    and leaky ReLU, without `Max`. Calls `clock.check` between the programs. Raises ImportError without highspy.
    """
    if not rows.outputs.shape[0]:
        return np.zeros(0), RowLines(analysis.lines, {})
    program = TriangleProgram(analysis)
    program.extend(len(analysis.network.nodes) - 1)
    return safe_bounds(analysis, rows, program.minimise(analysis.starts([rows]), clock))


def tightened(
    analysis: LinearAnalysis,
    relaxations: Mapping[type[ScalarFunction], Relaxation],
    clock: Clock,
    *,
    partly: bool = False,
) -> LinearAnalysis:
    """The analysis with the bounds of every unstable unit by two linear programs, layer by layer.

    One program grows with the layers, each with the bounds that were found before; only its objective changes from unit
    to unit. A backward pass comes first, and a unit that is stable then, or after one program, needs no more.
    relaxations: where the lines come from. partly: where the time is up, what was found until then is returned, and
    the other nodes keep their bounds. Otherwise as `property_bounds`.
    """
    current = replace(analysis, bounds=list(analysis.bounds), lines=dict(analysis.lines), compact=None)
    try:
        _tighten_all(current, relaxations, clock)
    except BudgetExhausted:
        if not partly:
            raise
    return current


def _tighten_all(current: LinearAnalysis, relaxations: Mapping[type[ScalarFunction], Relaxation], clock: Clock) -> None:
    """Improves the bounds of every node in place: at any moment they are sound."""
    network, signs = current.network, needs_signs(current.network)
    read = {network.nodes[k].parents[0] for k in triangles(current)}
    program = TriangleProgram(current)
    with np.errstate(all="ignore"):
        for index, node in enumerate(network.nodes[1:], 1):
            parents = [current.bounds[p] for p in node.parents]
            current.bounds[index] = _common(current.bounds[index], node_bounds(node, parents, signs=signs))
            if index in read:
                program.extend(index)
                _tighten(current, program, index, clock)
            elif index in current.lines and isinstance(node, Activation):
                lines = relaxations[type(node.function)](node.function, *parents[0])
                if all_finite(lines.lower_offset, lines.upper_offset):
                    current.lines[index] = lines


def _tighten(analysis: LinearAnalysis, program: TriangleProgram, index: int, clock: Clock) -> None:
    """Improves the bounds of one node in place: by the lines alone, then by programs for lower and for upper ends."""
    for sign, solve in ((1.0, False), (-1.0, False), (1.0, True), (-1.0, True)):
        lower, upper = (end.reshape(-1) for end in analysis.bounds[index])
        units = np.flatnonzero((lower < 0) & (upper > 0))
        shape = analysis.network.nodes[index].shape
        step = max(1, CHUNK // max(math.prod(n.shape) for n in analysis.network.nodes[: index + 1]))
        ends = np.full(lower.size, -np.inf)
        for start in range(0, units.size, step):
            clock.check()
            chosen = units[start : start + step]
            unit = np.zeros((1, chosen.size, lower.size))
            unit[0, np.arange(chosen.size), chosen] = sign
            rows = {index: unit.reshape(1, -1, *shape)}
            if solve:
                found = row_lines(analysis, program.minimise(rows, clock)).backward(analysis, rows)
            else:
                found = analysis.backward(rows)
            ends[chosen] = found[0]
        ends = ends.reshape(analysis.bounds[index][0].shape)
        free = np.full_like(ends, np.inf)
        better = (ends, free) if sign > 0 else (-free, -ends)
        analysis.bounds[index] = _common(analysis.bounds[index], better)


def _common(one: Bounds, other: Bounds) -> Bounds:
    """The intersection; a NaN says nothing."""
    (a, b), (c, d) = one, other
    return np.where(c > a, c, a), np.where(d < b, d, b)

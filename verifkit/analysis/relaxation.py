"""Linear relaxations of activations: for each entry one line below and one line above the function on its range.

A relaxation picks *slopes*; the offsets are then computed so that the lines are valid on [lower, upper] for whatever
slopes were picked, rounding included. So a slope is a heuristic and never a soundness question.

Here are ReLU's lines and the table; piecewise linear functions are in `polylines`, smooth ones in `curves`.

Sources: Zhang et al., "Efficient neural network robustness certification with general activation functions" (CROWN),
NeurIPS 2018, for the adaptive ReLU slope and the S-shaped cases.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from verifkit.analysis.bends import BENDS
from verifkit.analysis.curves import curve_lines
from verifkit.analysis.polylines import polyline_lines
from verifkit.analysis.rounding import tiny
from verifkit.arrays import Array, epsilon, namespace
from verifkit.evidence import Lines
from verifkit.functions import Abs, Clip, LeakyRelu, Relu, ScalarFunction, Sign


class Relaxation(Protocol):
    """Lines for a function on [lower, upper], each `(B, *shape)`.

    The function's parameters are in the arrays' arithmetic (see `ScalarFunction.cast`).
    """

    def __call__(self, function: ScalarFunction, lower: Array, upper: Array) -> Lines: ...


@np.errstate(all="ignore")
def relu_lines(lower: Array, upper: Array, lower_slope: Array) -> Lines:
    """ReLU lines with the chord above and the given slope (in [0, 1], (B, *shape)) below where a unit is unstable.

    The chord's slope is u / (u - l); its offset is the smallest that keeps the line above both end points.
    """
    xp = namespace(lower)
    zero, one = xp.zeros_like(lower), xp.ones_like(lower)
    active, inactive = lower >= 0, upper <= 0
    width = xp.where(active | inactive, one, upper - lower)
    chord = xp.clip(upper / width, 0.0, 1.0)
    offset = xp.maximum(-chord * lower, upper * (1.0 - chord))
    offset = offset + 8.0 * epsilon(lower) * (xp.abs(lower) + xp.abs(upper)) + tiny(lower)
    fixed = xp.where(active, one, zero)
    stable = active | inactive
    return Lines(
        lower_slope=xp.where(stable, fixed, lower_slope),
        lower_offset=zero,
        upper_slope=xp.where(stable, fixed, chord),
        upper_offset=xp.where(stable, zero, offset),
    )


def crown_relu(function: ScalarFunction, lower: Array, upper: Array) -> Lines:
    """CROWN's adaptive choice: lower slope 1 where the positive side is larger, else 0 (least area)."""
    xp = namespace(lower)
    return relu_lines(lower, upper, xp.astype(upper > -lower, lower.dtype))


def adapted(lines: Lines, bounds: tuple[Array, Array], own: tuple[Array, Array]) -> Lines:
    """The same ReLU lines with the adaptive choice made on CROWN's own bounds (lower, upper) of the pre-activation.

    bounds: those that the lines are for, which other methods may have tightened. That changes which side is the larger
    one, and the choice by the method's own bounds is the better one more often than not.
    """
    xp, (lower, upper) = namespace(lines.lower_slope), bounds
    slope = xp.astype(own[1] > -own[0], lines.lower_slope.dtype)
    return replace(lines, lower_slope=xp.where((lower < 0) & (upper > 0), slope, lines.lower_slope))


CROWN_RELAXATIONS: dict[type[ScalarFunction], Relaxation] = {
    Relu: crown_relu,
    **dict.fromkeys((LeakyRelu, Abs, Clip, Sign), polyline_lines),
    **dict.fromkeys(BENDS, curve_lines),
}
"""CROWN's table: activation to relaxation."""

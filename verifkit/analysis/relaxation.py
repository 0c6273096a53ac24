"""Linear relaxations of activations: for each entry one line below and one line above the function on its range.

A relaxation picks *slopes*; the offsets are then computed so that the lines are valid on [lower, upper] for whatever
slopes were picked, rounding included. So a slope is a heuristic and never a soundness question.

Sources: Zhang et al., "Efficient neural network robustness certification with general activation functions" (CROWN),
NeurIPS 2018, for the adaptive ReLU slope and the S-shaped cases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from verifkit.analysis.rounding import tiny
from verifkit.arrays import Array, epsilon, namespace
from verifkit.evidence import Lines
from verifkit.functions import Relu, ScalarFunction, Sigmoid, Tanh


class Relaxation(Protocol):
    """Lines for a function on [lower, upper], each `(B, *shape)`."""

    def __call__(self, lower: Array, upper: Array) -> Lines: ...


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


def crown_relu(lower: Array, upper: Array) -> Lines:
    """CROWN's adaptive choice: lower slope 1 where the positive side is larger, else 0 (least area)."""
    xp = namespace(lower)
    return relu_lines(lower, upper, xp.astype(upper > -lower, lower.dtype))


def _tanh_steep(slope: Array) -> Array:
    """The non-negative x where tanh'(x) = slope."""
    xp = namespace(slope)
    y = xp.sqrt(xp.clip(1.0 - slope, 0.0, 1.0))
    return xp.atanh(xp.clip(y, 0.0, 1.0 - epsilon(slope)))


def _sigmoid_steep(slope: Array) -> Array:
    """The non-negative x where sigmoid'(x) = slope: sigmoid(x) = (1 + tanh(x / 2)) / 2."""
    return 2.0 * _tanh_steep(4.0 * slope)


def _upper_line(f: ScalarFunction, steep: Callable[[Array], Array], lower: Array, upper: Array) -> tuple[Array, Array]:
    """Slope and offset of a line above an S-shaped function (convex left of 0, concave right) on [lower, upper]."""
    xp = namespace(lower)
    width = upper - lower
    wide = width > 1e-9 * (1.0 + xp.abs(lower) + xp.abs(upper))
    safe_width = xp.where(wide, width, xp.ones_like(width))
    chord = xp.where(wide, (f(upper) - f(lower)) / safe_width, f.derivative(lower / 2 + upper / 2))
    # Where the chord would cut the concave part: the tangent from (lower, f(lower)), found by bisection on its foot.
    near, far = xp.maximum(lower, xp.zeros_like(lower)), upper
    for _ in range(30):
        foot = near / 2 + far / 2
        above = f(foot) + f.derivative(foot) * (lower - foot) >= f(lower)
        near, far = xp.where(above, near, foot), xp.where(above, foot, far)
    tangent = f.derivative(far)
    middle = f.derivative(lower / 2 + upper / 2)
    by_chord = (upper <= 0) | (f.derivative(upper) >= chord)
    slope = xp.where(lower >= 0, middle, xp.where(by_chord, chord, tangent))
    slope = xp.maximum(slope, xp.zeros_like(slope))
    # f(x) - slope x is largest at an end or, on the concave side, where f' = slope.
    peak = xp.clip(steep(slope), lower, upper)
    offset = f(lower) - slope * lower
    for x in (upper, peak):
        offset = xp.maximum(offset, f(x) - slope * x)
    slack = 32.0 * epsilon(lower) * (2.0 + slope * (xp.abs(lower) + xp.abs(upper)))
    return slope, offset + slack


def _s_shaped(f: ScalarFunction, steep: Callable[[Array], Array], total: float, lower: Array, upper: Array) -> Lines:
    """Lines for f with f(-x) = total - f(x): the lower line is the mirror image of an upper one."""
    upper_slope, upper_offset = _upper_line(f, steep, lower, upper)
    lower_slope, mirrored = _upper_line(f, steep, -upper, -lower)
    return Lines(lower_slope, total - mirrored - 4.0 * epsilon(lower) * (1.0 + abs(total)), upper_slope, upper_offset)


def sigmoid_lines(lower: Array, upper: Array) -> Lines:
    return _s_shaped(Sigmoid(), _sigmoid_steep, 1.0, lower, upper)


def tanh_lines(lower: Array, upper: Array) -> Lines:
    return _s_shaped(Tanh(), _tanh_steep, 0.0, lower, upper)


CROWN_RELAXATIONS: dict[type[ScalarFunction], Relaxation] = {
    Relu: crown_relu,
    Sigmoid: sigmoid_lines,
    Tanh: tanh_lines,
}
"""CROWN's table: activation to relaxation."""

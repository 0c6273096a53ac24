"""How far a network's value can move, in l1 or l2, for each unit that its input moves: upper bounds, rounded up.

A linear map takes l1 to l1 by at most the largest l1 norm of a column, l1 to l2 by the largest l2 norm of one, and l2
to l2 by its spectral norm. Along a network the bounds multiply, and those of a sum add up; an activation has the
largest slope that its function has anywhere.

The spectral norm is never taken from an eigenvalue routine: that t is an upper bound on the largest eigenvalue of G is
seen from a factor L of t - G, as t + |t - G - L L'|, whatever L is. A convolution too large for its matrix is a part of
the circular one on an image that holds its padding. That one is, for each frequency, a small matrix (of output channels
by input channels and places within a stride), and its norm is the largest of theirs.

Sources: Lecuyer et al., "Certified robustness to adversarial examples with differential privacy", IEEE S&P 2019,
section III.B (the norms); Rump, "Verification of positive definiteness", BIT 46, 2006 (the idea of the check); Sedghi,
Gupta & Long, "The singular values of convolutional layers", ICLR 2019 (the circular convolution).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from verifkit.analysis.rounding import gamma, tiny
from verifkit.errors import ModelError
from verifkit.functions import (
    Abs,
    Clip,
    Cos,
    Elu,
    Erf,
    LeakyRelu,
    Relu,
    ScalarFunction,
    Sigmoid,
    Sin,
    Softplus,
    Tanh,
)
from verifkit.maps import Adjoint, LinearMap
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input, Max, Node
from verifkit.weighted_maps import Conv, Dense

MATRIX = 1024
"""Up to this many inputs, or outputs, a map's spectral norm comes from its matrix."""
ENTRIES = 2**24
"""Of such a matrix, and of the frequencies of a convolution that are looked at together."""

_ONE = np.ones(1)

SLOPES: Mapping[type[ScalarFunction], Callable[[Any], float]] = {
    Relu: lambda function: 1.0,
    LeakyRelu: lambda function: max(1.0, float(np.abs(function.slope).max())),
    Abs: lambda function: 1.0,
    Clip: lambda function: 1.0,
    Elu: lambda function: max(1.0, abs(float(function.alpha))),
    Sigmoid: lambda function: 0.25,
    Tanh: lambda function: 1.0,
    Erf: lambda function: 1.12837916709552,  # above 2 / sqrt(pi)
    Softplus: lambda function: 1.0,
    Sin: lambda function: 1.0,
    Cos: lambda function: 1.0,
}
"""The largest slope anywhere of every function that has one."""


class Unbounded(ModelError):
    """A network whose value can move without limit, or by more than is known here."""


def sensitivity(network: Network, change: Literal["1", "2"], measure: Literal["1", "2"]) -> float:
    """A bound on |f(x) - f(x')| in the norm `measure` over |x - x'| in the norm `change`, for the network's output f.

    Of l2 changes only the l2 measure is bounded. Raises `Unbounded`, naming the node that stops it.
    """
    if (change, measure) == ("2", "1"):
        raise Unbounded("how far a value moves in l1 is not bounded here for changes measured in l2")
    moves: list[tuple[float, float]] = []
    for node in network.nodes:
        if isinstance(node, Input):
            moves.append((1.0 if change == "1" else math.inf, 1.0))
        else:
            moves.append(_step(node, [moves[p] for p in node.parents]))
    found = moves[-1][int(measure) - 1]
    if not math.isfinite(found):
        raise Unbounded("the values before the noise move by more than floating point can say")
    return found


def _step(node: Node, parents: list[tuple[float, float]]) -> tuple[float, float]:
    """Bounds on how far a node moves in l1 and in l2, from those of its parents."""
    if isinstance(node, Affine):
        total = [_through(linear, *move) for linear, move in zip(node.maps, parents, strict=True)]
        l1, l2 = (_up(math.fsum(moves)) for moves in zip(*total, strict=True))
        return l1, min(l1, l2)
    l1, l2 = parents[0]
    if isinstance(node, Activation) and type(node.function) in SLOPES:
        slope = SLOPES[type(node.function)](node.function)
        return _up(slope * l1), _up(slope * l2)
    if isinstance(node, Max):  # each entry moves by no more than some entry of its group
        used = node.groups[node.groups >= 0]
        often = float(np.bincount(used.reshape(-1)).max())
        return _up(often * l1), _up(math.sqrt(often) * l2)
    what = node.function.name if isinstance(node, Activation) else type(node).__name__
    raise Unbounded(f"how fast {what} (node '{', '.join(node.origin) or node.name}') can grow is not bounded")


def _through(linear: LinearMap, l1: float, l2: float) -> tuple[float, float]:
    """How far the map's value moves where its input moves by l1 and by l2 (infinite where not known)."""
    moved = [math.inf, math.inf]
    if math.isfinite(l1):
        moved = [column_norm(linear, "1") * l1, column_norm(linear, "2") * l1]
    if l2 < l1:  # else the column's norm is never above the spectral one
        moved[1] = min(moved[1], spectral_norm(linear) * l2)
    return _up(moved[0]), _up(moved[1])


# --- the norms of one linear map -----------------------------------------------------------------------------------


def column_norm(linear: LinearMap, measure: Literal["1", "2"]) -> float:
    """The largest l1 or l2 norm of a column: the map's norm from l1 to that."""
    powers = linear.absolute if measure == "1" else linear.cast(np.square)
    sums = powers.adjoint(np.ones(linear.out_shape))
    largest = _summed(float(np.max(sums, initial=0.0)), linear.adjoint_terms)
    return largest if measure == "1" else _up(math.sqrt(largest))


def row_norm(linear: LinearMap) -> float:
    """The largest l1 norm of a row: the map's norm from l-inf to l-inf."""
    return _summed(float(np.max(linear.absolute.apply(np.ones(linear.in_shape)), initial=0.0)), linear.terms)


@np.errstate(all="ignore")
def spectral_norm(linear: LinearMap) -> float:
    """An upper bound on the map's norm from l2 to l2.

    Never above the geometric mean of its largest absolute column and row sums, which is the norm itself for maps that
    move, add up or scale numbers. With weights: from the matrix up to `MATRIX` inputs or outputs, within 1e-9 or so of
    the norm; for a larger convolution from the circular one, a few percent above it on small images. Kept on the map,
    which is immutable.
    """
    while isinstance(linear, Adjoint):
        linear = linear.of
    known: dict[str, float] = linear.__dict__
    if "_spectral_norm" not in known:
        known["_spectral_norm"] = _spectral_norm(linear)
    return known["_spectral_norm"]


def _spectral_norm(linear: LinearMap) -> float:
    bounds = [_up(math.sqrt(column_norm(linear, "1")) * math.sqrt(row_norm(linear)))]
    if isinstance(linear, Dense) and min(linear.weight.shape) <= MATRIX:
        bounds.append(_matrix_norm(np.asarray(linear.weight, dtype=np.float64)[None], 0.0))
    elif isinstance(linear, Conv) or (linear.terms > 1 and linear.adjoint_terms > 1):
        sizes = math.prod(linear.in_shape), math.prod(linear.out_shape)
        if min(sizes) <= MATRIX and sizes[0] * sizes[1] <= ENTRIES:
            entries, matrix = linear.entries(), np.zeros(sizes[::-1])
            np.add.at(matrix, (entries.rows, entries.cols), entries.values)
            bounds.append(_matrix_norm(matrix[None], 4.0 * np.finfo(np.float64).eps * float(np.abs(matrix).sum())))
        elif isinstance(linear, Conv):
            bounds.append(_circular_norm(linear))
    return min((b for b in bounds if not math.isnan(b)), default=math.inf)


def _matrix_norm(matrices: np.ndarray, error: float) -> float:
    """A bound on every spectral norm of (B, m, n) real or complex matrices, each known up to `error` in that norm."""
    tall = matrices.shape[1] >= matrices.shape[2]
    adjoint = matrices.conj().swapaxes(1, 2)
    gram = adjoint @ matrices if tall else matrices @ adjoint
    gram = (gram + gram.conj().swapaxes(1, 2)) / 2.0
    sizes = np.abs(matrices)
    products = sizes.sum(axis=1).max(initial=0.0) * sizes.sum(axis=2).max(initial=0.0)
    terms = matrices.shape[1] if tall else matrices.shape[2]
    lost = gamma(4 * terms + 16, _ONE) * float(products) + terms * terms * tiny(_ONE)
    largest = _largest_eigenvalue(gram) + lost
    return _up(_up(math.sqrt(_up(largest))) + error)


def _largest_eigenvalue(gram: np.ndarray) -> float:
    """An upper bound on every eigenvalue of (B, k, k) Hermitian matrices, not below 0; infinite where none is found."""
    size = gram.shape[-1]
    if not np.isfinite(gram).all():
        return math.inf
    try:
        scale = float(np.linalg.eigvalsh(gram).max())
    except np.linalg.LinAlgError:
        return math.inf
    scale = max(scale, tiny(_ONE))
    for step in (1e-14, 1e-12, 1e-10, 1e-8, 1e-6):
        t = scale * (1.0 + size * step)
        shifted = t * np.eye(size) - gram
        try:
            factor = np.linalg.cholesky(shifted)
        except np.linalg.LinAlgError:
            continue
        g = gamma(4 * size + 16, _ONE)
        sizes = np.abs(factor)
        product = sizes @ sizes.swapaxes(1, 2)
        residual = np.abs(shifted - factor @ factor.conj().swapaxes(1, 2)) + g * (product + np.abs(shifted) + t)
        left = float(residual.sum(axis=2).max()) * (1.0 + 2.0 * g) + size * size * tiny(_ONE)
        return _up(t + left)
    return math.inf


# --- convolution as an operator on images of any size --------------------------------------------------------------


def _circular_norm(conv: Conv) -> float:
    """The norm of the circular convolution on an image that holds the padded one: a bound on the padded one's norm.

    On the places that the padded image covers the two read the same numbers, so that the one is the other with inputs
    and outputs left out. Strides take each place within a stride as a channel of its own.
    """
    taps, periods = _phases(conv)
    weight = np.asarray(conv.weight, dtype=np.float64)
    outputs, inputs = weight.shape[0] // conv.groups, weight.shape[1]
    kernel = weight.reshape(conv.groups, outputs, inputs, -1)
    within = math.prod(conv.strides)
    largest = 0.0
    for group in kernel:
        # A tap's factor is off by less than 256 units of rounding, and there are as many terms as taps.
        error = gamma(4 * len(taps) + 256, _ONE) * float(np.abs(group).sum())
        for frequencies in _frequencies(periods, outputs * inputs * within):
            symbol = np.zeros((len(frequencies), outputs, inputs, within), dtype=np.complex128)
            for k, (phase, offset) in enumerate(taps):
                symbol[..., phase] += _turn(frequencies, offset, periods)[:, None, None] * group[None, :, :, k]
            largest = max(largest, _matrix_norm(symbol.reshape(len(frequencies), outputs, -1), error))
    return largest


def _phases(conv: Conv) -> tuple[list[tuple[int, tuple[int, ...]]], tuple[int, ...]]:
    """For each tap of the kernel its place within a stride, numbered, and its offset in strides; and along each axis
    how many strides the circular image has."""
    kernel = conv.weight.shape[2:]
    axes = list(zip(conv.in_shape[2:], conv.pads, conv.strides, conv.dilations, kernel, strict=True))
    periods = tuple(-(-(size + sum(pad)) // s) for size, pad, s, _, _ in axes)
    taps = []
    for tap in itertools.product(*map(range, kernel)):
        places = [divmod(d * t - pad[0], s) for (_, pad, s, d, _), t in zip(axes, tap, strict=True)]
        phase = 0
        for (_, inside), s in zip(places, conv.strides, strict=True):
            phase = phase * s + inside
        taps.append((phase, tuple(offset for offset, _ in places)))
    return taps, periods


def _frequencies(periods: tuple[int, ...], entries: int) -> Iterator[np.ndarray]:
    """All frequencies, (count, axes), some at a time; of the last axis half, as the others give conjugate matrices."""
    shape = (*periods[:-1], periods[-1] // 2 + 1)
    numbers = np.stack(np.unravel_index(np.arange(math.prod(shape)), shape), axis=1)
    count = max(1, ENTRIES // entries)
    for start in range(0, len(numbers), count):
        yield numbers[start : start + count]


def _turn(frequencies: np.ndarray, offset: tuple[int, ...], periods: tuple[int, ...]) -> np.ndarray:
    """exp(2 pi i sum over axes of frequency * offset / period), (count,)."""
    angle = np.zeros(len(frequencies))
    for axis, period in enumerate(periods):
        angle += (frequencies[:, axis] * offset[axis] % period) / period
    return np.asarray(np.exp(2j * np.pi * angle))


# --- rounding ------------------------------------------------------------------------------------------------------


def _up(x: float) -> float:
    """`x` >= 0 rounded up by more than a few operations lose."""
    return x * (1.0 + 2.0**-50) + tiny(_ONE)


def _summed(x: float, terms: int) -> float:
    """Above the sum of that many products, all >= 0, that was computed as `x`."""
    return _up(x * (1.0 + 2.0 * gamma(terms + 2, _ONE)) + terms * tiny(_ONE))

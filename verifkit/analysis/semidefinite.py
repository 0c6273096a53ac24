"""The semidefinite relaxation of a ReLU network: its variables, its constraints, and the quadratic that they make.

Variables are w in [-1, 1]^N: one for each input that varies, x = m + r w, and one for each unstable ReLU,
h = u (1 + w) / 2. Every other value of the network is affine in w: a stable unit is the identity or 0. An unstable unit
with bounds l < 0 < u on z has, in units of its own, a positive part  p = h / u = (1 + w) / 2  and a negative part
n = (h - z) / max(u, -l), and satisfies, with  c = -l / max(u, -l),

    n >= 0,    n <= c (1 - p),    p n = 0,    w^2 <= 1.

The last one is p^2 <= p and gives 0 <= p <= 1, so that every side of the unit's triangle is there. A ball adds
|x - center|^2 <= radius^2. A row less these constraints, each times its multiplier, those of inequalities >= 0, is a
quadratic function of w, (1, w)' P (1, w), and a lower bound on the row. What P is good for is in `eigenvalue_shift`.

Sources: Raghunathan, Steinhardt, Liang, "Semidefinite relaxations for certifying robustness to adversarial examples",
NeurIPS 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.rounding import down, gamma, inflate, tiny, up
from verifkit.analysis.rows import Rows
from verifkit.functions import Relu
from verifkit.ops import Activation, Affine


@dataclass(frozen=True, eq=False)
class Form:
    """A node's value, constant + sum over k of slopes[k] w_k, off by at most `error`, entry by entry.

    constant, error: of the node's shape; slopes: (N, *node shape).
    """

    constant: np.ndarray
    slopes: np.ndarray
    error: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """At least |value| for every w in [-1, 1]^N, rounding apart."""
        total: np.ndarray = np.abs(self.constant) + np.abs(self.slopes).sum(axis=0) + self.error
        return total


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Of one row: of n >= 0, n <= c (1 - p) and p n = 0, each (units,); of w^2 <= 1 (N,); of the ball.

    All but those of `disjoint` (p n = 0) are >= 0.
    """

    negative: np.ndarray
    chord: np.ndarray
    disjoint: np.ndarray
    box: np.ndarray
    ball: float = 0.0

    def safe(self) -> Multipliers:
        """Those of inequalities clipped to be >= 0; what is not finite counts as 0."""
        given = (self.negative, self.chord, self.disjoint, self.box)
        negative, chord, disjoint, box = (np.where(np.isfinite(v), v, 0.0) for v in given)
        ball = max(self.ball, 0.0) if math.isfinite(self.ball) else 0.0
        return Multipliers(negative.clip(0), chord.clip(0), disjoint, box.clip(0), ball)

    def times(self, factor: float) -> Multipliers:
        """Those of the same row times a positive factor."""
        negative, chord, disjoint, box = (factor * v for v in (self.negative, self.chord, self.disjoint, self.box))
        return Multipliers(negative, chord, disjoint, box, factor * self.ball)


@dataclass(frozen=True, eq=False)
class Relaxed:
    """The relaxation of a network over one region, and the rows to bound over it.

    places: (units,) the variable of each unstable unit. shift (units,), slopes (units, N): n = shift + slopes . w, off
    by at most `error` (units,). cap: c (units,). offset, width (N,): (x - center) / radius = offset + width w, both 0
    for variables that are no inputs and without a ball. rows: constants, slopes (N, R) and errors of the rows.
    """

    places: np.ndarray
    shift: np.ndarray
    slopes: np.ndarray
    error: np.ndarray
    cap: np.ndarray
    offset: np.ndarray
    width: np.ndarray
    is_ball: bool
    rows: Form

    @property
    def order(self) -> int:
        """N, the number of variables; matrices have one row more."""
        return int(self.slopes.shape[1])

    def matrix(self, row: int, multipliers: Multipliers) -> tuple[np.ndarray, float]:
        """P (N + 1, N + 1), and how far (1, w)' P (1, w) may lie above the row's value at any feasible w."""
        constant, slopes = float(self.rows.constant[row]), self.rows.slopes[:, row]
        found = self._assembled(constant, slopes, multipliers, self.shift, self.slopes, signs=True)
        size = self._assembled(
            abs(constant), np.abs(slopes), multipliers, np.abs(self.shift), np.abs(self.slopes), signs=False
        )
        terms = 4 * self.places.size + 2 * self.order + 16
        entries = float(size.sum())
        m = multipliers
        off = m.negative + m.chord + np.abs(m.disjoint)  # by how much a constraint changes with n, at most
        lost = gamma(terms, size) * entries + float(off @ self.error) + float(self.rows.error[row])
        return found, lost * (1.0 + 4.0 * gamma(terms, size)) + 8 * (self.order + 1) ** 2 * tiny(size)

    def _assembled(
        self, constant: float, slopes: np.ndarray, m: Multipliers, b: np.ndarray, B: np.ndarray, *, signs: bool
    ) -> np.ndarray:
        """P itself, or with signs=False (and absolute values given) the sum of the sizes of all its terms."""
        minus = -1.0 if signs else 1.0
        free = m.disjoint if signs else np.abs(m.disjoint)
        offset = self.offset if signs else np.abs(self.offset)
        constant += float(
            minus * (m.negative @ b)
            + m.chord @ (b + minus * 0.5 * self.cap)
            + 0.5 * (free @ b)
            + minus * m.box.sum()
            + m.ball * (offset @ offset + minus * self.is_ball)
        )
        linear = slopes + (minus * m.negative + m.chord + 0.5 * free) @ B
        linear = linear + 2.0 * m.ball * offset * self.width
        linear[self.places] += 0.5 * self.cap * m.chord + 0.5 * free * b
        cross = np.zeros((self.order, self.order))
        cross[self.places] = 0.25 * free[:, None] * B
        quadratic = cross + cross.T
        np.fill_diagonal(quadratic, np.diagonal(quadratic) + m.box + m.ball * self.width * self.width)
        half = 0.5 * linear[:, None]
        return np.block([[np.full((1, 1), constant), half.T], [half, quadratic]])


# --- from the network to its relaxation ---------------------------------------------------------------------------


def order_of(analysis: LinearAnalysis) -> int:
    """The number N of variables: inputs that vary and unstable units."""
    low, high = analysis.region.lower, analysis.region.upper
    return int((low < high).sum()) + sum(int(_unstable(analysis, n).sum()) for _, n in analysis.network.activations())


def _unstable(analysis: LinearAnalysis, node: Activation) -> np.ndarray:
    """The units (*shape) of a ReLU node that may be on either side."""
    low, high = (np.asarray(end[0]) for end in analysis.bounds[node.parents[0]])
    return ~((low >= 0) | (high <= 0))


@np.errstate(all="ignore")
def relaxed(analysis: LinearAnalysis, rows: Rows) -> Relaxed | None:
    """The relaxation with the analysis's bounds (a batch of one; ReLU networks without `Max`); None where an unstable
    unit, or an input, has no finite bounds."""
    count = order_of(analysis)
    forms = [_inputs(analysis, count)]
    used = int((analysis.region.lower < analysis.region.upper).sum())
    units: list[tuple[Form, np.ndarray, np.ndarray, np.ndarray]] = []
    for node in analysis.network.nodes[1:]:
        if isinstance(node, Affine):
            forms.append(_affine(node, [forms[p] for p in node.parents]))
            continue
        if not isinstance(node, Activation) or type(node.function) is not Relu:
            raise TypeError(f"no semidefinite relaxation of {type(node).__name__} '{node.name}'")
        low, high = (np.asarray(end[0]) for end in analysis.bounds[node.parents[0]])
        open_ones = _unstable(analysis, node)
        places = used + np.arange(int(open_ones.sum()))
        used += places.size
        before = forms[node.parents[0]]
        units.append((_picked(before, open_ones), low[open_ones], high[open_ones], places))
        forms.append(_relu(before, low >= 0, open_ones, high, places))
    offset, width = _ball(analysis, count)
    shift, slopes, error, cap, places = _negative_parts(units, count)
    found = Relaxed(
        places, shift, slopes, error, cap, offset, width, analysis.region.center is not None, _row_forms(forms, rows)
    )
    parts = (shift, slopes, error, offset, width, found.rows.constant, found.rows.slopes, found.rows.error)
    return found if all(bool(np.isfinite(part).all()) for part in parts) else None


def _inputs(analysis: LinearAnalysis, count: int) -> Form:
    low, high = (np.asarray(end[0]) for end in (analysis.region.lower, analysis.region.upper))
    middle, radius = _middle(low, high)
    slopes = np.zeros((count, *low.shape))
    varying = np.flatnonzero(low < high)
    slopes.reshape(count, low.size)[np.arange(varying.size), varying] = radius.reshape(-1)[varying]
    return Form(np.where(low < high, middle, low), slopes, np.zeros_like(low))


def _middle(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    middle = low / 2 + high / 2
    return middle, inflate(np.maximum(high - middle, middle - low))


def _affine(node: Affine, parents: Sequence[Form]) -> Form:
    constant, slopes, error = (
        sum((m.apply(getattr(f, name)) for m, f in zip(node.maps[1:], parents[1:], strict=True)),
            start=node.maps[0].apply(getattr(parents[0], name)))
        for name in ("constant", "slopes", "error")
    )  # fmt: skip
    error = sum(
        (m.absolute.apply(f.error) for m, f in zip(node.maps, parents, strict=True)), start=np.zeros(node.shape)
    )
    size = sum((m.absolute.apply(f.size) for m, f in zip(node.maps, parents, strict=True)), start=np.zeros(node.shape))
    if node.bias is not None:
        constant, size = constant + node.bias, size + np.abs(node.bias)
    count = slopes.shape[0]
    g = gamma(node.terms + count + 8, size)
    return Form(constant, slopes, (error + g * size) * (1.0 + 2.0 * g) + (count + 2) * (node.terms + 1) * tiny(size))


def _picked(form: Form, chosen: np.ndarray) -> Form:
    """The chosen entries, flat."""
    return Form(form.constant[chosen], form.slopes[:, chosen], form.error[chosen])


def _relu(before: Form, active: np.ndarray, unstable: np.ndarray, high: np.ndarray, places: np.ndarray) -> Form:
    """The identity, 0, or a variable of its own, h = u / 2 + u / 2 w."""
    half = high / 2  # exact, but for subnormal numbers
    half = np.where(2.0 * half == high, half, up(half))
    constant = np.where(unstable, half, np.where(active, before.constant, 0.0))
    slopes = np.where(active, before.slopes, 0.0)
    flat = slopes.reshape(len(slopes), high.size)
    flat[places, np.flatnonzero(unstable)] = half[unstable]
    return Form(constant, slopes, np.where(active, before.error, 0.0))


def _negative_parts(
    units: Sequence[tuple[Form, np.ndarray, np.ndarray, np.ndarray]], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """shift, slopes, error, cap and places of n = q (h - z) with q <= 1 / max(u, -l), over the units of all layers."""
    if not units:
        return np.zeros(0), np.zeros((0, count)), np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64)
    shifts, slopes, errors, caps = [], [], [], []
    for form, low, high, places in units:
        scale = down(1.0 / np.maximum(-low, high))
        scale = np.where(np.isfinite(scale) & (scale > 0), scale, 0.0)  # n = 0 says nothing, and nothing wrong
        half = np.where(2.0 * (high / 2) == high, high / 2, up(high / 2))
        own = np.zeros_like(form.slopes)
        own[places, np.arange(places.size)] = half
        # A constraint with a cap that is too large is still true; with scale = 0 it says 0 <= 1 - p.
        caps.append(np.where(scale > 0, np.minimum(up(scale * -low), 1.0), 1.0))
        shifts.append(scale * (half - form.constant))
        slopes.append((scale * (own - form.slopes)).T)
        size = scale * (form.size + 2.0 * half)
        g = gamma(count + 8, size)
        errors.append((scale * form.error + g * size) * (1.0 + 2.0 * g) + 4 * (count + 1) * tiny(size))
    return (
        np.concatenate(shifts),
        np.concatenate(slopes),
        np.concatenate(errors),
        np.concatenate(caps),
        np.concatenate([places for *_, places in units]),
    )


def _ball(analysis: LinearAnalysis, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(x - center) / radius = offset + width w, over the inputs that vary: leaving out squares keeps it valid."""
    offset, width = np.zeros(count), np.zeros(count)
    region = analysis.region
    if region.center is not None and region.radius is not None and float(region.radius[0]) > 0:
        low, high = np.asarray(region.lower[0]), np.asarray(region.upper[0])
        middle, radius = _middle(low, high)
        varying = low < high
        n = int(varying.sum())
        offset[:n] = ((middle - np.asarray(region.center[0])) / float(region.radius[0]))[varying]
        width[:n] = (radius / float(region.radius[0]))[varying]
    return offset, width


def _row_forms(forms: Sequence[Form], rows: Rows) -> Form:
    """The left sides of the rows: constant (R,), slopes (N, R), error (R,)."""
    parts = [(rows.outputs, rows.output_error, forms[-1])]
    if rows.inputs is not None:
        parts.append((rows.inputs, rows.input_error, forms[0]))
    count, number = len(forms[0].slopes), len(rows.outputs)
    constant, slopes, error, size = np.zeros(number), np.zeros((count, number)), np.zeros(number), np.zeros(number)
    entries = 0
    for matrix, off, form in parts:
        flat = form.size.reshape(-1)
        constant = constant + matrix @ form.constant.reshape(-1)
        slopes = slopes + form.slopes.reshape(count, matrix.shape[1]) @ matrix.T
        error = error + np.abs(matrix) @ form.error.reshape(-1) + (0.0 if off is None else off @ flat)
        size = size + np.abs(matrix) @ flat
        entries += matrix.shape[1]
    g = gamma(entries + count + 8, size)
    lost = (error + g * size) * (1.0 + 2.0 * g) + (count + 2) * (entries + 1) * tiny(size)
    return Form(constant, slopes, lost)

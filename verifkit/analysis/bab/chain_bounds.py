"""Linear lower bounds of the unsafe rows over many boxes at once, for a reduced chain.

A forward pass carries one linear function and an error interval for every unit (a zonotope whose new noise symbols are
joined in one interval); what it leaves undecided is bounded by backward rows with CROWN's lines, flat: one row for each
pair of a box and an unstable unit. Rigorous: every bound on rounding is by the sum of a row's sizes times the largest
value that a unit can have anywhere in the whole box, which costs one sum a layer.

Sources: Zhang et al. 2018 (CROWN), section 3; Singh et al. 2018 (DeepZ) for the forward lines.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifkit.analysis.bab.chain import Chain, Layer
from verifkit.analysis.rounding import gamma, tiny

CHUNK = 2**16
"""Entries of one array of backward rows: what a core's cache holds."""

SPARSE, LARGE = 0.1, 2**14
"""A matrix of at least so many entries of which no larger share is not 0 is multiplied as a sparse one."""

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Forms:
    """Below each row over its box: coefficients . t + constant, x = middle + half * t, t in [-1, 1].

    middle, half (B, n): middle +- half contains the box. coefficients (B, R, n), constant (B, R), rounding included.
    blame (B, R, n): how much of the relaxation's error in a row is due to each input's width.
    """

    middle: np.ndarray
    half: np.ndarray
    coefficients: np.ndarray
    constant: np.ndarray
    blame: np.ndarray

    @property
    def lower(self) -> np.ndarray:
        """Rigorous lower bounds (B, R) of the rows."""
        size = np.abs(self.coefficients).sum(axis=-1)
        count = self.coefficients.shape[-1]
        lost = gamma(count + 4, size) * (size + np.abs(self.constant))
        return np.asarray(self.constant - size - lost)


@dataclass(eq=False)
class Slopes:
    """Lines of one ReLU layer's units on each box, (B, m): z * low below; z * (low + more) + offset above."""

    low: np.ndarray
    more: np.ndarray
    offset: np.ndarray


class Matrix:
    """A layer's weight (m, n) and its sizes, dense or sparse, to multiply with."""

    def __init__(self, weight: np.ndarray) -> None:
        self.weight: Any = weight
        self._transposed: Any = None
        if weight.size >= LARGE and np.count_nonzero(weight) <= SPARSE * weight.size:
            from scipy import sparse  # 0.2 s to import

            self.weight, self._transposed = sparse.csr_array(weight), sparse.csr_array(weight.T)
        self.absolute: Any = abs(self.weight)
        self.entries = int(weight.size if self._transposed is None else self.weight.nnz)

    def times(self, rows: np.ndarray) -> np.ndarray:
        """rows (P, m) @ weight."""
        if self._transposed is None:
            return np.asarray(rows @ self.weight)
        return np.ascontiguousarray((self._transposed @ np.ascontiguousarray(rows.T)).T)

    def forward(self, points: np.ndarray) -> np.ndarray:
        """points (P, n) @ weight.T."""
        if self._transposed is None:
            return np.asarray(points @ self.weight.T)
        return np.ascontiguousarray((self.weight @ np.ascontiguousarray(points.T)).T)

    def single(self) -> Matrix:
        """The same in float32."""
        found = copy(self)
        found.weight = self.weight.astype(np.float32)
        found._transposed = None if self._transposed is None else self._transposed.astype(np.float32)
        return found


class ChainBounds:
    """Bounds a chain's rows over boxes inside its own."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        size = np.maximum(np.abs(chain.lower), np.abs(chain.upper))
        self.reach = float(size.max(initial=0.0))
        self.matrices = [Matrix(layer.weight) for layer in chain.layers]
        self.largest: list[float] = []
        self.lost: list[float] = []
        before = self.reach
        for layer, matrix in zip(chain.layers, self.matrices, strict=True):
            terms = matrix.absolute @ size + np.abs(layer.bias) + layer.error
            if chain.coupling is not None and layer is chain.layers[-1]:
                terms = terms + np.abs(chain.coupling) @ np.maximum(np.abs(chain.lower), np.abs(chain.upper))
            z = np.minimum(terms, np.maximum(np.abs(layer.low), np.abs(layer.high)))
            self.largest.append(float(terms.max()) * (1 + 1e-9))
            # A product that underflows is off by less than `tiny`, and then counts as often as the value it weighs.
            pairs = (layer.weight.shape[0] + 2) * (layer.weight.shape[1] + 2)
            self.lost.append(4 * pairs * tiny(size) * (1.0 + self.largest[-1] + before))
            before = self.largest[-1]
            size = np.maximum(z, 0.0)
        self.work = self._work()
        # Bounds of single units may lie further out than what the weights allow.
        ends = [np.maximum(np.abs(la.low), np.abs(la.high)).max(initial=0.0) for la in chain.layers]
        self.reached = [max(a, float(b)) for a, b in zip(self.largest, ends, strict=True)]
        self.errors = [float(layer.error.max(initial=0.0)) for layer in chain.layers]
        # Sums go over a layer's inputs on the way up and over its units on the way down, constants over all layers.
        spare = 4 * len(chain.layers) + 40
        self.gammas = [gamma(2 * max(layer.weight.shape) + spare, layer.weight) for layer in chain.layers]

    def _work(self) -> float:
        """About how many products one box takes: half of the unstable units' rows through all layers below."""
        products, below = 0.0, 0.0
        for layer, matrix in zip(self.chain.layers, self.matrices, strict=True):
            open_units = np.count_nonzero((layer.low < 0) & (layer.high > 0) & layer.relu)
            products += (open_units / 2 if layer is not self.chain.layers[-1] else self.chain.n_rows) * below
            below += matrix.entries + 10.0 * layer.weight.shape[1]
            products += matrix.entries * (self.chain.inputs.size + 2)
        return products

    def forms(self, lower: np.ndarray, upper: np.ndarray) -> Forms:
        """Linear lower bounds of every row over boxes (B, n) inside the chain's."""
        middle = lower / 2 + upper / 2
        half = np.maximum(upper - middle, middle - lower) * (1 + 4 * EPS)
        half = np.where(half == 0, 0.0, half + tiny(half))
        layers = self.chain.layers
        forward = _Forward(self, middle, half)
        slopes: list[Slopes | None] = []
        shares: list[np.ndarray | None] = []
        for number, layer in enumerate(layers[:-1]):
            forward.affine(number)
            if not layer.relu.any():
                slopes.append(None)
                shares.append(None)
                continue
            low, high = forward.bounds()
            np.fmax(low, layer.low[:, None], out=low)
            np.fmin(high, layer.high[:, None], out=high)
            low, high = np.ascontiguousarray(low.T), np.ascontiguousarray(high.T)
            if any(s is not None for s in slopes):
                self._tighten(number, slopes, middle, half, low, high)
            found = relu_lines(low, high, layer.relu)
            slopes.append(found)
            shares.append(forward.shares())
            forward.relu(low.T, high.T, layer.relu)
        return self._rows(slopes, middle, half, shares)

    def _tighten(
        self,
        number: int,
        slopes: list[Slopes | None],
        middle: np.ndarray,
        half: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
    ) -> None:
        """Backward bounds of the units that are undecided, (B, m), in place: upper ends first."""
        for sign, end in ((-1.0, high), (1.0, low)):
            boxes, units = np.nonzero((low < 0) & (high > 0) & self.chain.layers[number].relu)
            if not boxes.size:
                return
            found = np.empty(boxes.size)
            step = max(64, CHUNK // max(layer.weight.shape[1] for layer in self.chain.layers[: number + 1]))
            for start in range(0, boxes.size, step):
                some = slice(start, start + step)
                found[some] = self._backward(number, units[some], sign, boxes[some], slopes, middle, half)[0]
            if sign < 0:
                end[boxes, units] = np.fmin(end[boxes, units], -found)
            else:
                end[boxes, units] = np.fmax(end[boxes, units], found)

    def _rows(
        self,
        slopes: list[Slopes | None],
        middle: np.ndarray,
        half: np.ndarray,
        shares: list[np.ndarray | None],
    ) -> Forms:
        batch, rows = middle.shape[0], self.chain.n_rows
        last = len(self.chain.layers) - 1
        boxes = np.repeat(np.arange(batch), rows)
        units = np.tile(np.arange(rows), batch)
        coefficients, constant = np.empty((batch * rows, middle.shape[1])), np.empty(batch * rows)
        step = max(64, CHUNK // max(layer.weight.shape[1] for layer in self.chain.layers))
        errors: list[list[np.ndarray]] = [[] for _ in range(last)]
        for start in range(0, boxes.size, step):
            some = slice(start, start + step)
            _, coefficients[some], constant[some] = self._backward(
                last, units[some], 1.0, boxes[some], slopes, middle, half, errors
            )
        blame = np.zeros((batch, rows, middle.shape[1]))
        for each, share in zip(errors, shares, strict=True):
            if each and share is not None:
                error = np.concatenate(each).reshape(batch, rows, -1)
                blame += np.einsum("brm,mnb->brn", error, share, optimize=True)
        shaped = coefficients.reshape(batch, rows, -1), constant.reshape(batch, rows)
        return Forms(middle, half, *shaped, blame)

    def _backward(
        self,
        number: int,
        units: np.ndarray,
        sign: float,
        boxes: np.ndarray,
        slopes: list[Slopes | None],
        middle: np.ndarray,
        half: np.ndarray,
        errors: list[list[np.ndarray]] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower bounds (P,) of sign * unit, and the linear functions of t (P, n), (P,) below them."""
        layers = self.chain.layers
        top = layers[number]
        a = top.weight[units]
        if sign < 0:
            np.negative(a, out=a)
        constant = sign * top.bias[units]
        slack = top.error[units] + self.gammas[number] * self.largest[number]
        for below in range(number - 1, -1, -1):
            layer, lines = layers[below], slopes[below]
            total = np.abs(a) @ np.ones(a.shape[1])
            slack += total * (4.0 * self.gammas[below] * self.reached[below] + self.errors[below]) + self.lost[below]
            if lines is not None:
                negative = np.minimum(a, 0.0)
                gathered = lines.offset[boxes]
                constant += np.einsum("pm,pm->p", negative, gathered)
                if errors is not None:
                    errors[below].append(np.abs(a) * gathered)
                a *= lines.low[boxes]
                np.take(lines.more, boxes, axis=0, out=gathered)
                negative *= gathered
                a += negative
            constant += a @ layer.bias
            a = self.matrices[below].times(a)
        if number == len(layers) - 1 and self.chain.coupling is not None:
            a = a + self.chain.coupling[units]
        total = np.abs(a) @ np.ones(a.shape[1])
        slack += total * (4.0 * gamma(4 * len(layers) + a.shape[1] + 40, a) * self.reach)
        constant += np.einsum("pn,pn->p", a, middle[boxes])
        a *= half[boxes]
        constant -= slack * (1 + 1e-9) + 1e3 * tiny(slack)
        constant[~np.isfinite(constant)] = -np.inf  # an overflow proves nothing
        size = np.abs(a) @ np.ones(a.shape[1])
        return constant - size * (1.0 + (a.shape[1] + 8) * EPS) - EPS * np.abs(constant), a, constant


def relu_lines(low: np.ndarray, high: np.ndarray, relu: np.ndarray) -> Slopes:
    """The lines of units (B, m): a ReLU's chord above, slope 0 or 1 below (CROWN's adaptive choice); else z itself."""
    active, off = (low >= 0) | ~relu, (high <= 0) & relu
    fixed = active.astype(np.float64)
    width = np.where(active | off, 1.0, high - low)
    chord = np.clip(high / width, 0.0, 1.0)
    offset = np.maximum(-chord * low, high * (1.0 - chord))
    offset += 16.0 * EPS * (np.abs(low) + np.abs(high)) + tiny(low)
    stable = active | off
    below = np.where(stable, fixed, (high > -low).astype(np.float64))
    return Slopes(below, np.where(stable, 0.0, chord - below), np.where(stable, 0.0, offset))


class _Forward:
    """One linear function of t and an interval around it for every unit of a layer, units first: (m, n, B), (m, B)."""

    def __init__(self, bounds: ChainBounds, middle: np.ndarray, half: np.ndarray) -> None:
        self.owner, self.half = bounds, half.T
        self.linear = np.zeros((0, *self.half.shape))  # of the inputs: their own half width each, and 0 of the others'
        self.center = np.ascontiguousarray(middle.T)
        self.spread = 4 * EPS * np.abs(self.center)

    def affine(self, number: int) -> None:
        layer: Layer = self.owner.chain.layers[number]
        m, n, batch = self.linear.shape
        size = (np.abs(self.linear).sum(axis=1) if number else self.half) + np.abs(self.center)
        g = self.owner.gammas[number]
        spread = self.owner.matrices[number].absolute @ (self.spread * (1 + 2 * g) + 2 * g * size)
        weight = self.owner.matrices[number].weight
        if number:
            self.linear = (weight @ self.linear.reshape(m, n * batch)).reshape(-1, n, batch)
        else:
            self.linear = layer.weight[:, :, None] * self.half[None]
        self.center = weight @ self.center + layer.bias[:, None]
        spread += (layer.error * (1 + 1e-9) + 4 * EPS * np.abs(layer.bias) + tiny(spread) * 1e3)[:, None]
        self.spread = spread

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Rigorous (m, B) bounds of the layer's values."""
        size = np.abs(self.linear).sum(axis=1)
        reach = (size + self.spread) * (1.0 + (self.linear.shape[1] + 8) * EPS) + 4 * EPS * np.abs(self.center)
        return self.center - reach, self.center + reach

    def shares(self) -> np.ndarray:
        """Of each unit's width the part that is due to each input, (m, n, B)."""
        size = np.abs(self.linear)
        return np.asarray(size / (size.sum(axis=1) + self.spread + 1e-300)[:, None, :])

    def relu(self, low: np.ndarray, high: np.ndarray, relu: np.ndarray) -> None:
        """The ReLU, where there is one (m,), of the values between low and high (m, B): the chord and half its offset
        either way."""
        active, off = (low >= 0) | ~relu[:, None], (high <= 0) & relu[:, None]
        width = np.where(active | off, 1.0, high - low)
        slope = np.where(active, 1.0, np.where(off, 0.0, np.clip(high / width, 0.0, 1.0)))
        offset = np.where(active | off, 0.0, np.maximum(-slope * low, high * (1.0 - slope)))
        size = np.abs(self.linear).sum(axis=1) + np.abs(self.center)
        self.linear = self.linear * slope[:, None, :]
        self.center = self.center * slope + offset / 2
        self.spread = slope * self.spread + offset / 2
        lost = 8 * EPS * (size + self.spread + np.abs(low) + np.abs(high)) + (size.shape[0] + 2) * tiny(size)
        self.spread += np.where(off, 0.0, lost)

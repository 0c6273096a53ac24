"""Linear bounds of many parts of a question at once, where a part fixes the phases of some ReLUs.

Every part has lower slopes of its own for the units that are open (alpha), a multiplier of its own for each phase that
it fixes (beta), and weights of its own for the rows of its disjunct. All of them are raised together by gradient steps
in float32, from those of the part that it was split from. The bound that counts is a pass in float64 with every
rounding error paid for, as in `verifkit.analysis.bab.chain_bounds`; it holds for any slopes in [0, 1] and any
multipliers and weights >= 0. The bounds of the units are those of the whole question: bounding them anew in every part
was measured to take three times as long and to leave as many parts (docs/adr/0018).

Source: Wang et al. 2021 (beta-CROWN), sections 3.1 and 3.2; the gradient by a forward pass of the minimiser is that of
`verifkit.analysis.slopes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from verifkit.analysis.bab.box_examination import Disjuncts
from verifkit.analysis.bab.chain import Chain, Layer
from verifkit.analysis.bab.chain_bounds import EPS, ChainBounds, relu_lines
from verifkit.analysis.rounding import gamma, tiny
from verifkit.budget import Clock

FIRST, SECOND = 0.9, 0.999
"""Adam's decay rates."""

SINGLE = np.float32

SEEN = 16
"""Disjuncts by which the size of a layer's coefficients is told."""


@dataclass(frozen=True, eq=False)
class Parts:
    """P parts, over the U units that may be on or off. disjunct (P,): the one to refute. phase (P, U): 1 where z >= 0
    is asked of a unit, -1 where z <= 0, 0 where it is open. weight (P, U): an open unit's lower slope, else the
    multiplier of its phase. mix (P, K): the weights of the disjunct's rows."""

    disjunct: np.ndarray
    phase: np.ndarray
    weight: np.ndarray
    mix: np.ndarray

    def __len__(self) -> int:
        return int(self.disjunct.size)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.disjunct, self.phase, self.weight, self.mix

    def of(self, places: Any) -> Parts:
        return Parts(*(array[places] for array in self.arrays))

    @staticmethod
    def joined(each: Sequence[Parts]) -> Parts:
        return Parts(*(np.concatenate(arrays) for arrays in zip(*(p.arrays for p in each), strict=True)))


@dataclass(frozen=True, eq=False)
class _Pass:
    """One backward pass: value (P,), coefficients at the input (P, n) and, layer by layer, of what the units that may
    be on or off give (P, U_k)."""

    value: np.ndarray
    at_input: np.ndarray
    at_units: list[np.ndarray]


@dataclass(frozen=True, eq=False)
class Examined:
    """What the bounds say of parts: rigorous lower bounds (P,) on their margins, where the minimum is taken (P, n), and
    how much each open unit's relaxation costs there (P, U), -1 for the others."""

    margin: np.ndarray
    point: np.ndarray
    cost: np.ndarray


@dataclass(frozen=True)
class Steps:
    """Gradient steps: how many, how large for slopes, for multipliers (in units of a layer's mean coefficient) and for
    the rows' weights, and by what factor they shrink."""

    count: int
    slope: float = 0.1
    multiplier: float = 0.2
    row: float = 0.3
    decay: float = 0.95


class PhaseBounds:
    """Bounds the parts of one question about a chain."""

    def __init__(self, chain: Chain, disjuncts: Disjuncts) -> None:
        self.chain, self.disjuncts = _unstable_first(chain), disjuncts
        self.base = ChainBounds(self.chain)
        layers = self.chain.layers[:-1]
        self.counts = [int(_unstable(layer).sum()) for layer in layers]
        self.spans = [slice(a, b) for a, b in pairwise(np.cumsum([0, *self.counts]).tolist())]
        lines = [relu_lines(la.low[None, :u], la.high[None, :u], la.relu[:u])
                 for la, u in zip(layers, self.counts, strict=True)]  # fmt: skip
        self._first = _joined([line.low[0] for line in lines])
        self._chord = [(line.low + line.more)[0] for line in lines]
        self._offset = [line.offset[0] for line in lines]
        self._fixed = [(~_unstable(la) & la.relu & (la.high <= 0)) for la in layers]
        self.places = np.stack([self._of_units("node"), self._of_units("kept")], axis=1).astype(np.int64)
        self.ends = self._of_units("low"), self._of_units("high")
        self._single = [m.single() for m in self.base.matrices]
        self._biases = [la.bias.astype(SINGLE) for la in layers]
        start = self._down(self.whole(np.arange(min(disjuncts.rows.shape[0], SEEN))), np.float64)
        sizes = [np.full(u, np.abs(a).mean() if u else 1.0) for a, u in zip(start.at_units, self.counts, strict=True)]
        self._scale = _joined(sizes).astype(SINGLE)

    def _of_units(self, name: str) -> np.ndarray:
        """A field of the layers, of the units that may be on or off (U,)."""
        return _joined([getattr(la, name)[:u] for la, u in zip(self.chain.layers, self.counts, strict=False)])

    @property
    def units(self) -> int:
        return int(self._first.size)

    @property
    def entries(self) -> int:
        """How many products one pass takes for one part."""
        return sum(matrix.entries for matrix in self.base.matrices) + 1

    def whole(self, disjuncts: np.ndarray) -> Parts:
        """The whole question, for each of some disjuncts, with CROWN's slopes."""
        count, width = disjuncts.size, self.disjuncts.rows.shape[1]
        phase = np.zeros((count, self.units), dtype=np.int8)
        weight = np.tile(self._first.astype(SINGLE), (count, 1))
        return Parts(disjuncts, phase, weight, np.full((count, width), 1.0 / width))

    def around(self, x: np.ndarray, disjunct: int) -> Parts:
        """The part of a disjunct in which every unit has the phase that it has at a point x (n,)."""
        h, whole, signs = x[None], self.whole(np.array([disjunct])), [np.zeros((1, 0))]
        for layer, matrix, count in zip(self.chain.layers, self.base.matrices, self.counts, strict=False):
            z = matrix.forward(h) + layer.bias
            signs.append(np.where(z[:, :count] > 0, 1, -1))
            h = layer.after(z)
        return replace(whole, phase=np.concatenate(signs, axis=1).astype(np.int8), weight=np.zeros_like(whole.weight))

    def split(self, parts: Parts, units: np.ndarray) -> Parts:
        """Both phases of one unit of each part: first all that ask for z >= 0, then all that ask for z <= 0."""
        each, found = np.arange(len(parts)), []
        for sign in (1, -1):
            phase, weight = parts.phase.copy(), parts.weight.copy()
            phase[each, units], weight[each, units] = sign, 0.0
            found.append(replace(parts, phase=phase, weight=weight))
        return Parts.joined(found)

    def raised(self, parts: Parts, steps: Steps, clock: Clock) -> Parts:
        """The parts with the best slopes, multipliers and rows' weights found, in time."""
        best = np.full(len(parts), -np.inf)
        weight, mix = parts.weight.copy(), parts.mix.copy()
        active, now = np.arange(len(parts)), parts
        moments = [np.zeros_like(parts.weight), np.zeros_like(parts.weight)]
        for step in range(steps.count + 1):
            found = self._down(now, SINGLE)
            better = found.value > best[active]
            places = active[better]
            best[places], weight[places], mix[places] = found.value[better], now.weight[better], now.mix[better]
            going = best[active] <= 0
            if step == steps.count or not going.any() or clock.remaining <= 0:
                break
            gradient, rise = self._gradient(now, found)
            if not going.all():
                active, now, gradient, rise = active[going], now.of(going), gradient[going], rise[going]
                moments = [m[going] for m in moments]
            now = self._moved(now, gradient, rise, moments, steps, step)
        return replace(parts, weight=weight, mix=mix)

    def examined(self, parts: Parts) -> Examined:
        """The rigorous bounds of parts as they are."""
        found = self._down(parts, np.float64)
        x = self._minimiser(found)
        cost = np.full(parts.phase.shape, -1.0)
        for k, z, given in self._up(parts, found, x):
            if k < len(self.spans):
                missed = np.abs(found.at_units[k]) * np.abs(np.maximum(z, 0.0) - given)
                cost[:, self.spans[k]] = np.where(parts.phase[:, self.spans[k]] == 0, missed, -1.0)
        return Examined(found.value, x, cost)

    def values(self, parts: Parts) -> np.ndarray:
        """The bounds of parts in float32: to compare, not to rely on."""
        return self._down(parts, SINGLE).value

    def refuted(self, parts: Parts, margin: np.ndarray) -> np.ndarray:
        """Which parts (P,) these bounds refute. Where all rows weigh 0, the phases exclude each other."""
        strict = self.disjuncts.strict[self.disjuncts.rows[parts.disjunct]].all(axis=1) & (parts.mix.sum(axis=1) > 0.5)
        return np.where(strict, margin >= 0, margin > 0)

    def _minimiser(self, found: _Pass) -> np.ndarray:
        return np.where(found.at_input > 0, self.chain.lower, self.chain.upper)

    def _down(self, parts: Parts, dtype: Any) -> _Pass:
        """The rows of every part pulled back to the input; rigorous in float64."""
        base, layers, rigorous = self.base, self.chain.layers, dtype is np.float64
        rows, top = self.disjuncts.rows[parts.disjunct], layers[-1]
        mix = np.maximum(parts.mix, 0.0)
        a = np.einsum("pk,pkm->pm", mix, top.weight[rows]).astype(dtype, copy=False)
        constant = np.einsum("pk,pk->p", mix, top.bias[rows])
        total = mix.sum(axis=1) * (1 + 1e-9)
        slack = total * (base.gammas[-1] * base.largest[-1] + base.errors[-1])
        slack += (4 * rows.shape[1] + 8) * EPS * total * base.largest[-1] + rows.shape[1] * base.lost[-1]
        at_units: list[np.ndarray] = []
        for k in range(len(layers) - 2, -1, -1):
            span, count = self.spans[k], self.counts[k]
            phase, weight = parts.phase[:, span], parts.weight[:, span].astype(dtype, copy=False)
            own = a[:, :count].copy()
            at_units.append(own)
            is_open = phase == 0
            if rigorous:
                weight = np.maximum(weight, 0)
                total = np.abs(a).sum(axis=1) + np.where(is_open, 0, weight).sum(axis=1)
                slack += total * (4.0 * base.gammas[k] * base.reached[k] + base.errors[k]) + base.lost[k]
            negative = np.minimum(own, 0)
            constant += np.where(is_open, negative, 0) @ self._offset[k]
            lined = (own - negative) * np.minimum(weight, 1) + negative * self._chord[k].astype(dtype, copy=False)
            a[:, :count] = np.where(is_open, lined, np.where(phase > 0, own - weight, weight))
            if self._fixed[k].any():
                a[:, self._fixed[k]] = 0
            bias = layers[k].bias if rigorous else self._biases[k]
            constant += a @ bias
            a = (base.matrices if rigorous else self._single)[k].times(a)
        if self.chain.coupling is not None:
            a = a + np.einsum("pk,pkn->pn", mix, self.chain.coupling[rows]).astype(dtype, copy=False)
        value = constant + (np.where(a > 0, self.chain.lower, self.chain.upper) * a).sum(axis=1)
        if rigorous:
            width = 4 * len(layers) + 2 * a.shape[1] + 40
            slack += np.abs(a).sum(axis=1) * (4.0 * gamma(width, a) * base.reach)
            slack += gamma(8 * len(layers) + 40, a) * np.abs(constant)
            value = value - slack * (1 + 1e-9) - 1e3 * tiny(slack)
            value = value - 8 * EPS * np.abs(value)
        return _Pass(np.where(np.isfinite(value), value, -np.inf), a, at_units[::-1])

    def _up(self, parts: Parts, found: _Pass, x: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Layer by layer the units' values (P, U_k) and what the bound took them to give (P, U_k); at last the rows'
        values (P, R), twice. The point x (P, n) is the bound's minimiser."""
        single = found.at_input.dtype == SINGLE
        matrices, h = (self._single if single else self.base.matrices), x.astype(found.at_input.dtype, copy=False)
        for k, (span, count) in enumerate(zip(self.spans, self.counts, strict=True)):
            z = matrices[k].forward(h) + (self._biases[k] if single else self.chain.layers[k].bias)
            own, phase = z[:, :count].copy(), parts.phase[:, span]
            above = self._chord[k].astype(h.dtype, copy=False) * own + self._offset[k].astype(h.dtype, copy=False)
            lined = np.where(found.at_units[k] > 0, np.minimum(parts.weight[:, span], 1) * own, above)
            given = np.where(phase == 0, lined, np.where(phase > 0, own, 0))
            yield k, own, given
            z[:, :count] = given
            z[:, self._fixed[k]] = 0
            h = z
        rows = matrices[-1].forward(h) + self.chain.layers[-1].bias
        if self.chain.coupling is not None:
            rows = rows + x @ self.chain.coupling.T
        yield len(self.spans), rows, rows

    def _gradient(self, parts: Parts, found: _Pass) -> tuple[np.ndarray, np.ndarray]:
        """The derivative of every bound in the parts' weights (P, U) and in the rows' weights (P, K)."""
        gradient, rise = np.zeros(parts.weight.shape, dtype=SINGLE), np.zeros(parts.mix.shape)
        for k, z, _ in self._up(parts, found, self._minimiser(found)):
            if k < len(self.spans):
                phase = parts.phase[:, self.spans[k]]
                slopes = np.maximum(found.at_units[k], 0) * z
                gradient[:, self.spans[k]] = np.where(phase == 0, slopes, -phase * z)
            else:
                rise = np.take_along_axis(z, self.disjuncts.rows[parts.disjunct], axis=1)
        return gradient, rise

    def _moved(
        self, parts: Parts, gradient: np.ndarray, rise: np.ndarray, moments: list[np.ndarray], steps: Steps, step: int
    ) -> Parts:
        """One step of Adam upwards, and back into the ranges; the rows' weights by exponentiated gradients."""
        gradient = np.where(np.isfinite(gradient), gradient, SINGLE(0))
        moments[0] = SINGLE(FIRST) * moments[0] + SINGLE(1 - FIRST) * gradient
        moments[1] = SINGLE(SECOND) * moments[1] + SINGLE(1 - SECOND) * gradient * gradient
        spread = np.sqrt(moments[1] / SINGLE(1 - SECOND ** (step + 1)))
        move = moments[0] / np.where(spread > 0, spread, SINGLE(1))
        size = SINGLE(steps.decay**step / (1 - FIRST ** (step + 1)))
        is_open = parts.phase == 0
        move *= np.where(is_open, SINGLE(steps.slope), SINGLE(steps.multiplier) * self._scale) * size
        moved = np.maximum(parts.weight + move, SINGLE(0))
        weight = np.where(is_open, np.minimum(moved, SINGLE(1)), moved)
        mix = parts.mix
        if mix.shape[1] > 1:
            spread = np.abs(rise - rise.mean(axis=1, keepdims=True)).max(axis=1, keepdims=True)
            pull = steps.row * steps.decay**step * (rise - rise.max(axis=1, keepdims=True)) / np.maximum(spread, 1e-300)
            mix = mix * np.exp(np.where(np.isfinite(pull), pull, 0.0))
            mix = np.maximum(mix / mix.sum(axis=1, keepdims=True), 1e-12)
        return replace(parts, weight=weight, mix=mix)


def _joined(each: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([*each, np.zeros(0)])


def _unstable(layer: Layer) -> np.ndarray:
    return np.asarray((layer.low < 0) & (layer.high > 0) & layer.relu)


def _unstable_first(chain: Chain) -> Chain:
    """The same chain with the units that may be on or off in front of every layer."""
    layers: list[Layer] = []
    before = np.arange(chain.inputs.size)
    for layer in chain.layers[:-1]:
        order = np.argsort(~_unstable(layer), kind="stable")
        parts = {f.name: getattr(layer, f.name)[order] for f in fields(Layer)}
        parts["weight"] = np.ascontiguousarray(parts["weight"][:, before])
        layers.append(Layer(**parts))
        before = order
    last = chain.layers[-1]
    layers.append(replace(last, weight=np.ascontiguousarray(last.weight[:, before])))
    return replace(chain, layers=tuple(layers))

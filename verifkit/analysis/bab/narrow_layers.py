"""Bounds of narrow layers by searches of their own, between the attempts of a search by phases.

Where a layer is narrow, everything above it is a function of few numbers. So each of its units is made the row of a
question about the layers below, searched by phases for a number of splits, and what is proved by then is a bound of the
unit; and the box of these bounds is bisected as if it were one of inputs (docs/adr/0018).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from verifkit.analysis.bab.box_examination import Disjuncts
from verifkit.analysis.bab.chain import Chain, Layer
from verifkit.analysis.bab.chain_bounds import EPS, ChainBounds
from verifkit.analysis.bab.input_search import InputSearch
from verifkit.analysis.bab.phase_bounds import PhaseBounds
from verifkit.analysis.bab.phase_search import Leaf, PhaseSearch
from verifkit.budget import Clock
from verifkit.evidence import BoxTree, LayerBoxes, UnitBound
from verifkit.result import Outcome, Verdict

NARROW = 10
"""Units that a narrow layer has at most, not counting those that are off."""

HALVINGS = 5
"""How finely the share of the way is found that the bounds have to go."""

SPARE = 0.1
"""The share of what would be left that the bounds go further, since no bound is found at once."""

POINTS, MOVES = 8, 30
"""Points moved downhill to see what a unit reaches, and how often."""

SHAVED = 1e-9
"""By what share a bound is lowered that is not a goal, so that whoever proves it again is not off by rounding."""

BOXES = 1000
"""Boxes of the layer's values that are examined to see whether bounds are enough."""


@dataclass(eq=False)
class NarrowLayers:
    """The narrow layers of a chain, which gets better bounds with every `round`.

    disjuncts: of the chain's rows. proved: what the bounds follow from. batch, processes, leaf: as of the searches.
    promising: whether, at the last round, there were bounds that would be enough.
    """

    chain: Chain
    disjuncts: Disjuncts
    clock: Clock
    batch: int
    processes: int
    leaf: Leaf | None = None
    proved: dict[tuple[int, int, bool], UnitBound] = field(default_factory=dict)
    promising: bool = False

    @property
    def numbers(self) -> list[int]:
        """The layers: not the first, whose bounds are exact, and none where rows weigh inputs too."""
        if self.chain.coupling is not None:
            return []
        hidden = enumerate(self.chain.layers[1:-1], 1)
        return [k for k, layer in hidden if _crossing(layer).size > 0 and _on(layer).size <= NARROW]

    def round(self, splits: int) -> LayerBoxes | None:
        """Bounds the units of the narrow layers by searches of that many splits, until one layer's box is refuted."""
        self.promising = False
        for k in self.numbers:
            goals = self._goals(k)
            self.promising = self.promising or bool(goals)
            # All of them are searched for, for the sake of what is proved.
            reached = [self.clock.remaining > 0 and self._search(k, end, splits) for end in goals]
            if reached and all(reached):
                lower, upper = self._box(k, goals)
                outcome = self._over_box(k, lower, upper)
                if outcome.verdict is Verdict.HOLDS:
                    tree = outcome.evidence if isinstance(outcome.evidence, BoxTree) else None
                    layer = self.chain.layers[k]
                    units = np.stack([layer.node, layer.kept], axis=1)
                    return LayerBoxes(units, lower, upper, tuple(self.proved.values()), tree)
        return None

    def _goals(self, k: int) -> list[_End]:
        """Bounds of ends that are worth proving: with them the box of layer k's values would be refuted.

        None where even what the units are seen to reach leaves too large a box. Else all ends move together, as far as
        it takes, and those that need not move at all are left out.
        """
        layer, part = self.chain.layers[k], _below(self.chain, k)
        on, ends = _on(layer), []
        reached = _reached(part, np.concatenate([on, on + layer.bias.size]), self.clock).reshape(2, -1)
        for place, unit in enumerate(on.tolist()):
            for upper in (False, True):
                known, seen = float(-layer.high[unit] if upper else layer.low[unit]), float(reached[int(upper), place])
                if upper or seen > 0 or not layer.relu[unit]:  # what a ReLU cuts off is of no interest
                    ends.append(_End(unit, upper, known, known, seen))
        if not self._enough(k, [end.moved(1.0) for end in ends]):
            return []
        least, most = 0.0, 1.0
        for _ in range(HALVINGS):
            share = least / 2 + most / 2
            least, most = (least, share) if self._enough(k, [e.moved(share) for e in ends]) else (share, most)
        goals = [end.moved(most + SPARE * (1 - most)) for end in ends]
        for place, end in enumerate(ends):
            without = [*goals[:place], end, *goals[place + 1 :]]
            if self._enough(k, without):
                goals = without
        return [goal for goal in goals if goal.goal > goal.known]

    def _box(self, k: int, ends: list[_End]) -> tuple[np.ndarray, np.ndarray]:
        """What layer k gives if the goals hold."""
        layer = self.chain.layers[k]
        low, high = layer.low.copy(), layer.high.copy()
        for end in ends:
            if end.upper:
                high[end.unit] = min(high[end.unit], -end.goal)
            else:
                low[end.unit] = max(low[end.unit], end.goal)
        return layer.after(low), layer.after(np.maximum(low, high))

    def _enough(self, k: int, ends: list[_End]) -> bool:
        return self._over_box(k, *self._box(k, ends)).verdict is Verdict.HOLDS

    def _over_box(self, k: int, lower: np.ndarray, upper: np.ndarray) -> Outcome:
        """What a search over a box of layer k's values says."""
        above = Chain(self.chain.layers[k + 1 :], np.arange(lower.size), lower, upper, None)
        search = InputSearch(None, above, self.disjuncts, self.clock, batch=self.batch, processes=1)
        return search.run(BOXES)

    def _search(self, k: int, end: _End, splits: int) -> bool:
        """Whether a search reaches the goal; what it proves is the chain's in any case."""
        layer, part = self.chain.layers[k], _below(self.chain, k)
        one = np.zeros((1, 1), dtype=np.int64)
        row = end.unit + end.upper * layer.bias.size
        bounds = PhaseBounds(_lowered(part, row, end.goal), Disjuncts(one, np.zeros(1, dtype=bool)))
        search = PhaseSearch(bounds, self.clock, self.batch, self.processes, leaf=self.leaf)
        found = search.run(bounds.whole(one[0]), splits)
        margin = found.margin if found.tree is None else found.proved
        bound = end.goal if found.reason is None else end.goal + margin - SHAVED * (abs(end.goal) - margin)
        if bound > end.known:
            self._keep(UnitBound(int(layer.node[end.unit]), int(layer.kept[end.unit]), end.upper, bound, found.tree))
        return bound >= end.goal

    def _keep(self, found: UnitBound) -> None:
        """Takes a bound over, in every layer that the unit's value is in, unless a better one is known there."""
        key = found.node, found.unit, found.negated
        if key not in self.proved or self.proved[key].bound < found.bound:
            self.proved[key] = found
        layers = list(self.chain.layers)
        for k, layer in enumerate(layers):
            here = (layer.node == found.node) & (layer.kept == found.unit)
            if here.any():
                low = layer.low if found.negated else np.where(here, np.maximum(layer.low, found.bound), layer.low)
                high = np.where(here, np.minimum(layer.high, -found.bound), layer.high) if found.negated else layer.high
                layers[k] = replace(layer, low=low, high=np.maximum(high, low))
        self.chain = replace(self.chain, layers=tuple(layers))


@dataclass(frozen=True)
class _End:
    """A lower bound of a unit, or of its negative where `upper`: what is known, what is to be proved, and a value that
    some point has."""

    unit: int
    upper: bool
    known: float
    goal: float
    reached: float

    def moved(self, share: float) -> _End:
        """With a goal that lies that share of the way to what is reached."""
        return replace(self, goal=max(self.known, self.known + share * (self.reached - self.known)))


def _on(layer: Layer) -> np.ndarray:
    """The units that may be on."""
    return np.flatnonzero((layer.high > 0) | ~layer.relu)


def _crossing(layer: Layer) -> np.ndarray:
    return np.flatnonzero((layer.low < 0) & (layer.high > 0) & layer.relu)


def _below(chain: Chain, k: int) -> Chain:
    """The layers before layer k, with rows for the units of layer k and then for their negatives."""
    layer, infinite = chain.layers[k], np.full(2 * chain.layers[k].bias.size, np.inf)
    rows = Layer(
        np.concatenate([layer.weight, -layer.weight]),
        np.concatenate([layer.bias, -layer.bias]),
        np.tile(layer.error, 2),
        np.zeros(infinite.size, dtype=bool),
        np.full(infinite.size, -1),
        np.arange(infinite.size),
        -infinite,
        infinite,
    )
    return Chain((*chain.layers[:k], rows), chain.inputs, chain.lower, chain.upper, None)


def _lowered(part: Chain, row: int, by: float) -> Chain:
    """One row less a number."""
    last = part.layers[-1]
    bias = last.bias[row : row + 1] - by
    error = last.error[row : row + 1] + 2 * EPS * (np.abs(bias) + abs(by))
    parts = {name: getattr(last, name)[row : row + 1] for name in ("weight", "relu", "node", "kept", "low", "high")}
    return replace(part, layers=(*part.layers[:-1], Layer(**parts, bias=bias, error=error)))


def _reached(part: Chain, rows: np.ndarray, clock: Clock) -> np.ndarray:
    """The least values of rows (R,) at points that are moved downhill, in time: no lower bound can be larger."""
    matrices, last = ChainBounds(part).matrices, part.layers[-1]
    x = np.random.default_rng(0).uniform(part.lower, part.upper, size=(rows.size * POINTS, part.lower.size))
    weight, bias = np.repeat(last.weight[rows], POINTS, axis=0), np.repeat(last.bias[rows], POINTS)
    least = np.full(rows.size, np.inf)
    for move in range(MOVES):
        if clock.remaining <= 0:
            break
        h, signs = x, []
        for layer, matrix in zip(part.layers[:-1], matrices, strict=False):
            z = matrix.forward(h) + layer.bias
            signs.append(layer.relu & (z <= 0))
            h = layer.after(z)
        least = np.minimum(least, ((h * weight).sum(axis=1) + bias).reshape(-1, POINTS).min(axis=1))
        gradient = weight
        for k in range(len(signs) - 1, -1, -1):
            gradient = matrices[k].times(np.where(signs[k], 0.0, gradient))
        x = np.clip(x - 0.2 * 0.9**move * (part.upper - part.lower) * np.sign(gradient), part.lower, part.upper)
    return least

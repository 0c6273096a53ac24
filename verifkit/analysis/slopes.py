"""Optimised lower slopes: every row of a backward pass gets the lines that are best for it.

The line below an unstable ReLU may have any slope in [0, 1]. For fixed slopes a row's bound is the least value of a
linear function, so that its derivative in the slope of one unit is the unit's coefficient, where that is positive,
times the unit's pre-activation at the minimiser, with every activation replaced by its line. One forward pass gives the
whole gradient: no automatic differentiation, no tape. Ascent by Adam; every iterate's bound is rigorous, and the best
is kept.

Sources: Xu et al., "Fast and complete" (alpha-CROWN), ICLR 2021, section 3; Kingma and Ba, "Adam", ICLR 2015.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from verifkit.analysis.backward import lower_bounds
from verifkit.analysis.compact import Compact
from verifkit.analysis.rounding import down
from verifkit.analysis.support import minimiser
from verifkit.arrays import Array, namespace
from verifkit.budget import BudgetExhausted, Clock
from verifkit.evidence import Lines, Planes
from verifkit.functions import LeakyRelu, Relu
from verifkit.ops import Activation, Affine, Product

MEMORY = 2**22
"""Slopes that are optimised at a time: rows are taken in chunks of as many."""

FIRST, SECOND = 0.9, 0.999
"""Adam's decay rates of its two moments."""


@dataclass(frozen=True)
class Ascent:
    """iterations: gradient steps. rate: the first step's size, in units of the range of a slope. decay: its factor."""

    iterations: int = 20
    rate: float = 0.4
    decay: float = 0.85


@dataclass(frozen=True, eq=False)
class Raised:
    """lower: rigorous bounds `(B, R)`. slopes: activation -> the lower slopes, `(B, R, *shape)`, that give them."""

    lower: Array
    slopes: dict[int, Array]


@dataclass(frozen=True, eq=False)
class _Free:
    """The units of an activation whose lower slope may be chosen, `(B, *shape)`: mask and range."""

    mask: Array
    low: Array


def free_units(compact: Compact) -> dict[int, _Free]:
    """Activation node -> its unstable ReLUs (slopes in [0, 1]) or leaky ReLUs (slopes in [their own, 1])."""
    found = {}
    for index, lines in compact.relaxed.items():
        node = compact.nodes[index]
        if not isinstance(node, Activation) or type(node.function) not in (Relu, LeakyRelu):
            continue
        lower, upper = compact.bounds[node.parents[0]]
        xp = namespace(lower)
        low = xp.zeros_like(lower)
        if isinstance(node.function, LeakyRelu):
            low = low + node.function.slope
        mask = (lower < 0) & (upper > 0) & (low < 1) & (lines.lower_offset <= 0)
        if bool(xp.any(mask)):
            found[index] = _Free(mask, low)
    return found


def raise_rows(
    compact: Compact, rows: Mapping[int, Array], constant: Array | None, goal: Array, ascent: Ascent, clock: Clock
) -> Raised:
    """The best bounds found on rows + constant.

    rows: node index -> `(B, R, *shape)`. constant, goal: `(B, R)` or broadcast to it; a row that gets beyond its goal
    in the whole batch is not raised further. When the time is up, what was found so far is returned.
    """
    first = next(iter(rows.values()))
    xp, count = namespace(first), first.shape[1]
    free = free_units(compact)
    size = sum(math.prod(f.mask.shape) for f in free.values()) + sum(math.prod(r.shape[2:]) for r in rows.values())
    step = max(1, MEMORY // max(1, 8 * size))
    goal = xp.broadcast_to(goal, first.shape[:2])
    parts = []
    for start in range(0, count, step):
        some = slice(start, start + step)
        mine = {k: v[:, some] for k, v in rows.items()}
        offset = None if constant is None else xp.broadcast_to(constant, first.shape[:2])[:, some]
        parts.append(_Rows(compact, mine, offset, goal[:, some], free).climb(ascent, clock))
    lower = xp.concat([p.lower for p in parts], axis=1)
    return Raised(lower, {k: xp.concat([p.slopes[k] for p in parts], axis=1) for k in free})


class _Rows:
    """A few rows with slopes of their own."""

    def __init__(
        self,
        compact: Compact,
        rows: dict[int, Array],
        constant: Array | None,
        goal: Array,
        free: dict[int, _Free],
    ) -> None:
        self.compact, self.rows, self.constant, self.goal, self.free = compact, rows, constant, goal, free
        self.xp = namespace(goal)

    def climb(self, ascent: Ascent, clock: Clock) -> Raised:
        xp, batch, count = self.xp, self.goal.shape[0], self.goal.shape[1]
        slopes = {}
        for k in self.free:
            lines = self.compact.relaxed[k]
            assert isinstance(lines, Lines)
            slopes[k] = xp.broadcast_to(lines.lower_slope[:, None], (batch, count, *self.compact.nodes[k].shape))
        trace: dict[int, Array] = {}
        best, kept = self._bound(slopes, trace), slopes
        moments = {k: (xp.zeros_like(s), xp.zeros_like(s)) for k, s in slopes.items()}
        active = np.arange(count)
        current = slopes
        for step in range(1, ascent.iterations + 1):
            open_rows = np.flatnonzero(np.asarray(xp.any(~(best[:, active] > self.goal[:, active]), axis=0)))
            if not open_rows.size or not self.free:
                break
            if open_rows.size < active.size:
                active = active[open_rows]
                current = {k: s[:, open_rows] for k, s in current.items()}
                moments = {k: (m[:, open_rows], v[:, open_rows]) for k, (m, v) in moments.items()}
                trace = {k: c[:, open_rows] for k, c in trace.items()}
            try:
                clock.check()
            except BudgetExhausted:
                break
            gradients = self._gradients(current, trace)
            rate = ascent.rate * ascent.decay ** (step - 1)
            current, moments = self._stepped(current, gradients, moments, rate, step)
            trace = {}
            found = self._bound(current, trace, active)
            best, kept = self._better(best, kept, found, current, active)
        return Raised(best, kept)

    def _lines(self, slopes: Mapping[int, Array]) -> dict[int, Lines | Planes]:
        relaxed = dict(self.compact.relaxed)
        for k, slope in slopes.items():
            lines = relaxed[k]
            assert isinstance(lines, Lines)
            relaxed[k] = replace(lines, lower_slope=slope)
        return relaxed

    def _bound(self, slopes: Mapping[int, Array], trace: dict[int, Array], chosen: np.ndarray | None = None) -> Array:
        """Rigorous bounds of the (chosen) rows; -inf where nothing is known."""
        xp, compact = self.xp, self.compact
        rows = self.rows if chosen is None else {k: v[:, chosen] for k, v in self.rows.items()}
        found = lower_bounds(
            compact, rows, compact.bounds, self._lines(slopes), compact.region, reach=compact.reach, trace=trace
        )
        if self.constant is not None:
            found = down(found + (self.constant if chosen is None else self.constant[:, chosen]))
        return xp.where(xp.isnan(found), xp.full_like(found, -xp.inf), found)

    def _better(
        self, best: Array, kept: dict[int, Array], found: Array, slopes: dict[int, Array], active: np.ndarray
    ) -> tuple[Array, dict[int, Array]]:
        """The better of two iterates, row by row; `found` and `slopes` are those of the rows `active`."""
        xp = self.xp
        place = np.full(best.shape[1], -1)
        place[active] = np.arange(active.size)
        where = np.where(place < 0, 0, place)
        spread = found[:, where]
        improved = (spread > best) & xp.asarray(place >= 0, device=best.device)[None]
        if not bool(xp.any(improved)):
            return best, kept
        for k, slope in slopes.items():
            mask = xp.reshape(improved, (*improved.shape, *(1,) * (slope.ndim - 2)))
            kept = {**kept, k: xp.where(mask, slope[:, where], kept[k])}
        return xp.where(improved, spread, best), kept

    def _gradients(self, slopes: Mapping[int, Array], trace: Mapping[int, Array]) -> dict[int, Array]:
        """The derivative of every row's bound in its slopes: one forward pass from the rows' minimisers."""
        xp, compact = self.xp, self.compact
        relaxed = self._lines(slopes)
        values: dict[int, Array] = {}
        gradients = {}
        last = max(self.free)
        if 0 in trace:
            values[0] = minimiser(trace[0], compact.region)
        for index in range(1, last + 1):
            node = compact.nodes[index]
            if not all(p in values for p in node.parents):
                continue
            parents = [values[p] for p in node.parents]
            if isinstance(node, Affine):
                values[index] = node.evaluate(parents)
            elif index in trace:
                positive = trace[index] > 0
                if index in self.free:
                    pull = xp.where(positive, trace[index], xp.zeros_like(trace[index]))
                    gradients[index] = xp.where(self.free[index].mask[:, None], pull * parents[0], 0.0 * pull)
                values[index] = _on_its_line(index, positive, parents, relaxed, compact)
        return gradients

    def _stepped(
        self,
        slopes: dict[int, Array],
        gradients: Mapping[int, Array],
        moments: Mapping[int, tuple[Array, Array]],
        rate: float,
        step: int,
    ) -> tuple[dict[int, Array], dict[int, tuple[Array, Array]]]:
        """One step of Adam, upwards, back into the slopes' ranges."""
        xp, new, state = self.xp, dict(slopes), dict(moments)
        for k, gradient in gradients.items():
            mean, square = moments[k]
            mean = FIRST * mean + (1.0 - FIRST) * gradient
            square = SECOND * square + (1.0 - SECOND) * gradient * gradient
            state[k] = mean, square
            scale = xp.sqrt(square / (1.0 - SECOND**step))
            move = (rate / (1.0 - FIRST**step)) * mean / xp.where(scale > 0, scale, xp.ones_like(scale))
            moved = xp.clip(slopes[k] + xp.where(xp.isfinite(move), move, xp.zeros_like(move)), None, 1.0)
            free = self.free[k]
            new[k] = xp.where(free.mask[:, None], xp.maximum(moved, free.low[:, None]), slopes[k])
        return new, state


def _on_its_line(
    index: int, positive: Array, parents: list[Array], relaxed: Mapping[int, Lines | Planes], compact: Compact
) -> Array:
    """The value that the bound gives a node: on the line below it where its coefficient is positive, else above."""
    xp = namespace(positive)
    if index not in relaxed:
        lower, upper = compact.bounds[index]
        return xp.where(positive, lower[:, None], upper[:, None])
    lines = relaxed[index]
    if isinstance(compact.nodes[index], Product):
        assert isinstance(lines, Planes)
        left, right = parents
        below = lines.lower_left[:, None] * left + lines.lower_right[:, None] * right + lines.lower_offset[:, None]
        above = lines.upper_left[:, None] * left + lines.upper_right[:, None] * right + lines.upper_offset[:, None]
        return xp.where(positive, below, above)
    assert isinstance(lines, Lines)
    rank = parents[0].ndim
    low, low_offset, high, high_offset = (
        part if part.ndim == rank else part[:, None]
        for part in (lines.lower_slope, lines.lower_offset, lines.upper_slope, lines.upper_offset)
    )
    return xp.where(positive, low * parents[0] + low_offset, high * parents[0] + high_offset)

"""One look at a batch of boxes of inputs: which are refuted, what is left of the others, and where to bisect them.

Where the rows' linear lower bounds leave only a part of a box in which the unsafe set can be reached at all, the box is
cut down to it (a box may so be empty). It is bisected along the input whose width is to blame for most of the
relaxation's error in the rows that are open: a row's own slope counts little, since halving an input along which a row
is linear leaves the lower half as undecided as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from verifkit.analysis.bab.chain_bounds import EPS, ChainBounds
from verifkit.analysis.rows import Rows

SLOPE = 0.2
"""What a row's own slope counts for against the relaxation's error, where the input to bisect is chosen."""

ROUNDS, HALVINGS = 3, 10
"""How often a combination of rows is improved, and how finely."""

SWEEPS = 2
"""How often the rows of a disjunct cut a box in turn."""


@dataclass(frozen=True, eq=False)
class Disjuncts:
    """rows (D, K): the rows of each disjunct, the last repeated; strict (R,)."""

    rows: np.ndarray
    strict: np.ndarray

    @classmethod
    def of(cls, rows: Rows) -> Disjuncts:
        each = [np.flatnonzero(rows.disjunct == d) for d in range(rows.n_disjuncts)]
        longest = max(len(e) for e in each)
        return cls(np.array([np.concatenate([e, np.repeat(e[-1:], longest - len(e))]) for e in each]), rows.strict)


@dataclass(eq=False)
class Bounded:
    """What is left of a batch of boxes: `place` (M,) those of the batch that are open, their cut boxes (M, n), lower
    bounds on the margin (M,), the dimension to bisect (M,), points to try (M, 2, n)."""

    place: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    margin: np.ndarray
    dim: np.ndarray
    tries: np.ndarray

    @staticmethod
    def joined(parts: Sequence[Bounded], starts: Sequence[int]) -> Bounded:
        """The findings about consecutive shares of a batch, which begin at `starts`."""
        if len(parts) == 1:
            return parts[0]
        names = [f.name for f in fields(Bounded)]
        found = Bounded(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
        found.place = np.concatenate([p.place + start for p, start in zip(parts, starts, strict=True)])
        return found


def examine(bounds: ChainBounds, disjuncts: Disjuncts, lower: np.ndarray, upper: np.ndarray) -> Bounded:
    """Bounds boxes (B, n), drops those that are refuted, cuts the others and says where to bisect them."""
    forms = bounds.forms(lower, upper)
    found = forms.lower
    strict = disjuncts.strict
    refuted = np.where(strict, found >= 0, found > 0)  # NaN refutes nothing
    of_disjunct = found[:, disjuncts.rows]  # (B, D, K)
    margin = np.where(np.isnan(of_disjunct), -np.inf, of_disjunct).max(axis=2).min(axis=1)
    open_ones: np.ndarray = ~np.any(refuted[:, disjuncts.rows], axis=2)  # (B, D)
    place = np.flatnonzero(open_ones.any(axis=1))
    a, b = forms.coefficients[place][:, disjuncts.rows], forms.constant[place][:, disjuncts.rows]  # (M, D, K, n)
    tests = strict[disjuncts.rows]
    whole = np.full((*a.shape[:2], a.shape[3]), 1.0)
    low, high, alive = _cut(a, b, tests, -whole, whole, open_ones[place])
    if tests.shape[1] > 1:
        mixed = _mixed(a, b, low, high)
        never = np.zeros((tests.shape[0], 1), dtype=bool)
        low, high, alive = _cut(*mixed, never, low, high, alive)
    left = alive.any(axis=1)
    place, low, high, alive, a, b = (v[left] for v in (place, low, high, alive, a, b))
    hull_low = np.where(alive[..., None], low, np.inf).min(axis=1)
    hull_high = np.where(alive[..., None], high, -np.inf).max(axis=1)
    blame = forms.blame[place][:, disjuncts.rows]
    part = SLOPE * np.abs(a) + blame
    score = (part * (hull_high - hull_low)[:, None, None, :] * alive[:, :, None, None]).sum(axis=(1, 2))
    middle, half = forms.middle[place], forms.half[place]
    slip = 4 * EPS * (np.abs(middle) + half)
    new_low = np.where(hull_low > -1.0, np.maximum(lower[place], middle + half * hull_low - slip), lower[place])
    new_high = np.where(hull_high < 1.0, np.minimum(upper[place], middle + half * hull_high + slip), upper[place])
    new_high = np.maximum(new_high, new_low)
    score = np.where(new_high > new_low, score, -1.0)
    dim = np.argmax(np.where(np.isnan(score), np.where(new_high > new_low, 0.0, -1.0), score), axis=1)
    tries = _tries(a, b, low, high, alive, middle, half)
    return Bounded(place, new_low, new_high, margin[place], dim, tries)


def _mixed(a: np.ndarray, b: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each disjunct one convex combination of its rows (M, D, 1, n), (M, D, 1) whose least value on [low, high] is
    large: ascent on the combination's weights, towards one row at a time."""
    middle, half = low / 2 + high / 2, high / 2 - low / 2
    inner = a * half[:, :, None]
    constant = b + (a * middle[:, :, None]).sum(axis=-1)
    value = constant - np.abs(inner).sum(axis=-1)
    weight = (np.arange(a.shape[2]) == value.argmax(axis=2)[..., None]).astype(np.float64)
    for _ in range(ROUNDS):
        row = (weight[..., None] * inner).sum(axis=2)[:, :, None]
        gap = inner - row
        rise = constant - (weight * constant).sum(axis=2)[..., None]
        least, most = np.zeros_like(rise), np.ones_like(rise)
        for _ in range(HALVINGS):
            share = least / 2 + most / 2
            slope = rise - (np.sign(row + share[..., None] * gap) * gap).sum(axis=-1)
            least, most = np.where(slope > 0, share, least), np.where(slope > 0, most, share)
        found = (weight * constant).sum(axis=2)[..., None] + least * rise
        found = found - np.abs(row + least[..., None] * gap).sum(axis=-1)
        best = found.argmax(axis=2)[..., None]
        share = np.take_along_axis(least, best, axis=2)
        weight = weight * (1.0 - share)
        np.put_along_axis(weight, best, np.take_along_axis(weight, best, axis=2) + share, axis=2)
    weight = np.where(np.isfinite(weight), np.maximum(weight, 0.0), 0.0)
    total, size = (weight * b).sum(axis=2), (weight * (np.abs(b) + np.abs(a).sum(axis=-1))).sum(axis=2)
    return (weight[..., None] * a).sum(axis=2)[:, :, None], (total - (4 * b.shape[2] + 8) * EPS * size)[:, :, None]


def _cut(
    a: np.ndarray, b: np.ndarray, strict: np.ndarray, low: np.ndarray, high: np.ndarray, alive: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parts of [low, high] (M, D, n) where all rows of a disjunct can be <= 0; which are not empty."""
    count, n = a.shape[2], a.shape[3]
    alive = alive.copy()
    for k in np.tile(np.arange(count), SWEEPS if count > 1 else 1):
        row, constant = a[:, :, k], b[:, :, k]
        positive, negative = row > 0, row < 0
        least = np.where(positive, row * low, row * high)
        size = np.abs(row).sum(axis=-1) + np.abs(constant)
        total = constant + least.sum(axis=-1) - (n + 8) * EPS * size
        alive &= ~np.where(strict[:, k], total >= 0, total > 0)
        with np.errstate(all="ignore"):
            end = (least - total[..., None]) / row  # the others at their least: what this one may still be
            slip = 8 * EPS * (1 + np.abs(end))
            end_up, end_down = end + slip, end - slip
        high = np.where(positive & (end_up < high), end_up, high)
        low = np.where(negative & (end_down > low), end_down, low)
        alive &= (low <= high).all(axis=-1)
        high = np.maximum(high, low)
    return low, high, alive


def _tries(
    a: np.ndarray,
    b: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    alive: np.ndarray,
    middle: np.ndarray,
    half: np.ndarray,
) -> np.ndarray:
    """Two points of every box: its middle, and where the rows of its first open disjunct together are least."""
    chosen = np.argmax(alive, axis=1)
    each = np.arange(chosen.size)
    row = a[each, chosen].sum(axis=1)
    corner = np.where(row > 0, low[each, chosen], high[each, chosen])
    center = low[each, chosen] / 2 + high[each, chosen] / 2
    return np.stack([middle + half * center, middle + half * corner], axis=1)

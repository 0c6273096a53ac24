"""Zonotopes cut by halfspaces: what a case split knows, and bounds that make use of it.

The meet of a zonotope with halfspaces g(x) >= 0 keeps the affine forms and remembers the g, which are affine forms in
the same symbols. A value v over the meet is at least v - m g over the zonotope for any multiplier m >= 0, and the best
m for one halfspace is found exactly: as a function of m the bound is concave and piecewise linear. Several halfspaces
are taken one after another. So multipliers cost tightness where they are not the best ones, never soundness.

Sources: Ghorbal, Goubault, Putot, "A logical product approach to zonotope intersection", CAV 2010, for keeping the
constraints beside the forms; Scott et al., "Constrained zonotopes", Automatica 69, 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifkit.analysis.affine_forms import Forms, InputSymbols
from verifkit.analysis.ranges import Bounds
from verifkit.analysis.rounding import gamma, inflate, tiny
from verifkit.budget import Clock

SWEEPS = 2
"""Rounds over the halfspaces of a case, each of which gets its best multiplier given the others'."""

CHUNK = 2**21
"""Entries of the coefficients of the rows that are bounded at a time."""


@dataclass(frozen=True, eq=False)
class Halfspaces:
    """For each of D cases up to J affine forms that are not negative: center + coefficients . symbols + rest >= 0.

    center, rest: (D, J), rest as far as rounding may have moved the form; coefficients: (D, J, K), of the symbols 0 to
    K - 1. A case with fewer halfspaces has forms that are 0.
    """

    center: np.ndarray
    coefficients: np.ndarray
    rest: np.ndarray

    @classmethod
    def none(cls) -> Halfspaces:
        """One case without any."""
        return cls(np.zeros((1, 0)), np.zeros((1, 0, 0)), np.zeros((1, 0)))

    @property
    def count(self) -> int:
        return int(self.center.shape[1])

    def taken(self, cases: np.ndarray) -> Halfspaces:
        """The cases `cases`, which may repeat."""
        return Halfspaces(self.center[cases], self.coefficients[cases], self.rest[cases])

    def padded(self, symbols: int) -> np.ndarray:
        """The coefficients with zeros for the symbols up to `symbols`."""
        return np.pad(self.coefficients, ((0, 0), (0, 0), (0, symbols - self.coefficients.shape[2])))

    def met(self, forms: Forms, entry: int, signs: np.ndarray, symbols: int) -> Halfspaces:
        """With signs[d] * (flat entry `entry` of the forms) >= 0 in case d; a sign of 0 adds nothing to that case."""
        flat, cases = forms.flat, len(signs)
        used = signs != 0
        row = np.zeros((cases, 1, symbols))
        row[:, 0, forms.symbols] = signs[:, None] * flat.coefficients[..., entry]
        center = signs * np.broadcast_to(flat.center[:, entry], (cases,))
        rest = np.where(used, np.broadcast_to(flat.rest[:, entry], (cases,)), 0.0)
        return Halfspaces(
            np.concatenate([self.center, center[:, None]], axis=1),
            np.concatenate([self.padded(symbols), row], axis=1),
            np.concatenate([self.rest, rest[:, None]], axis=1),
        )


def case_bounds(symbols: InputSymbols, forms: Forms, cases: int) -> Bounds:
    """Rigorous bounds (D, *shape) on forms of D cases, by the zonotopes alone; NaN where nothing is known.

    The region is a single one: cases become entries.
    """
    shape, flat = forms.center.shape[1:], forms.flat
    count, entries = flat.coefficients.shape[1:]
    center, rest = (np.broadcast_to(a, (cases, entries)).reshape(1, -1) for a in (flat.center, flat.rest))
    coefficients = np.broadcast_to(flat.coefficients, (cases, count, entries)).transpose(1, 0, 2)
    coefficients = coefficients.reshape(1, count, cases * entries)
    lower, upper = symbols.bounds(Forms(center, coefficients, rest, forms.symbols))
    return lower.reshape(cases, *shape), upper.reshape(cases, *shape)


def met_bounds(
    symbols: InputSymbols,
    reach: np.ndarray,
    forms: Forms,
    entries: np.ndarray,
    halfspaces: Halfspaces,
    clock: Clock,
) -> Bounds:
    """Rigorous bounds (D, n) on the flat entries `entries` of the forms over each case's meet; NaN: nothing is known.

    reach: (1, K), of all symbols there are. Calls `clock.check` between chunks.
    """
    flat, cases, total = forms.flat, halfspaces.center.shape[0], reach.shape[1]
    lows, highs = [], []
    step = max(1, CHUNK // (2 * cases * max(1, total)))
    for start in range(0, entries.size, step):
        clock.check()
        chosen = entries[start : start + step]
        rows = np.zeros((cases, chosen.size, total))
        rows[:, :, forms.symbols] = flat.coefficients[:, :, chosen].transpose(0, 2, 1)
        center, rest = (np.broadcast_to(a[:, chosen], (cases, chosen.size)) for a in (flat.center, flat.rest))
        center, rows = np.concatenate([center, -center], axis=1), np.concatenate([rows, -rows], axis=1)
        least = _least(symbols, reach, center, rows, np.concatenate([rest, rest], axis=1), halfspaces)
        lows.append(least[:, : chosen.size])
        highs.append(-least[:, chosen.size :])
    if not lows:
        return np.zeros((cases, 0)), np.zeros((cases, 0))
    return np.concatenate(lows, axis=1), np.concatenate(highs, axis=1)


def _least(
    symbols: InputSymbols,
    reach: np.ndarray,
    center: np.ndarray,
    rows: np.ndarray,
    rest: np.ndarray,
    halfspaces: Halfspaces,
) -> np.ndarray:
    """Lower bounds (D, R) on center + rows . symbols, give or take rest: (D, R), (D, R, K), (D, R)."""
    cases, count, total = rows.shape
    planes = halfspaces.padded(total)
    multipliers = _multipliers(reach[0], rows, planes, halfspaces.center + halfspaces.rest)
    shifted = rows - multipliers @ planes
    offset = halfspaces.center + halfspaces.rest
    middle = center - (multipliers @ offset[..., None])[..., 0]
    # What the sums of halfspaces.count + 1 products lost, of the center and of every coefficient.
    planes_size = np.abs(halfspaces.center) + halfspaces.rest + np.abs(planes) @ reach[0]
    size = np.abs(center) + np.abs(rows) @ reach[0] + (multipliers @ planes_size[..., None])[..., 0]
    n = halfspaces.count + total + 6
    lost = gamma(n, size) * size * (1.0 + gamma(n, size)) + n * tiny(size) * (1.0 + reach.sum())
    forms = Forms(
        middle.reshape(1, -1),
        shifted.reshape(1, cases * count, total).transpose(0, 2, 1),
        inflate(rest + lost).reshape(1, -1),
        np.arange(total),
    )
    lower: np.ndarray = symbols.least(forms)
    return lower.reshape(cases, count)


def _multipliers(reach: np.ndarray, rows: np.ndarray, planes: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Good multipliers (D, R, J), not negative, for rows (D, R, K) and halfspaces offset + planes . symbols >= 0.

    They are the best ones in turn for symbols that vary independently within their reach. Nothing rests on that.
    """
    found = np.zeros((*rows.shape[:2], planes.shape[1]))
    for _ in range(SWEEPS if planes.shape[1] > 1 else 1):
        for j in range(planes.shape[1]):
            plane = planes[:, j][:, None]
            without = rows + found[..., j, None] * plane
            found[..., j] = _best(reach, without, plane, offset[:, j])
            rows = without - found[..., j, None] * plane
    return found


def _best(reach: np.ndarray, rows: np.ndarray, plane: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The m >= 0, (D, R), that makes -m offset - sum_k reach_k |rows_k - m plane_k| largest; rows (D, R, K).

    The slope in m starts at sum_k reach_k |plane_k| - offset and falls by 2 reach_k |plane_k| at rows_k / plane_k.
    Where it is 0 between two bends, the middle: at an end the search over several halfspaces would be stuck.
    """
    if not rows.shape[2]:
        return np.zeros(rows.shape[:2])
    weight = reach * np.abs(plane)
    bends = np.where(weight > 0, rows / np.where(weight > 0, plane, 1.0), np.inf)
    order = np.argsort(bends, axis=-1)
    passed = np.cumsum(np.take_along_axis(np.broadcast_to(weight, rows.shape), order, axis=-1), axis=-1)
    total = weight.sum(axis=-1)
    slopes = (total - offset[:, None])[..., None] - 2.0 * passed
    flat = 1e-9 * total[..., None]
    ends = []
    for rising in (slopes > flat, slopes >= -flat):
        after = np.minimum(rising.sum(axis=-1, keepdims=True), rows.shape[2] - 1)
        place = np.take_along_axis(order, after, axis=-1)
        ends.append(np.maximum(np.take_along_axis(bends, place, axis=-1)[..., 0], 0.0))
    best = ends[0] / 2 + ends[1] / 2
    return np.where(np.isfinite(best) & (total > offset[:, None]), best, 0.0)

"""Affine forms: values as center + coefficients . symbols + rest, with every rounding error in the rest.

A symbol is an unknown number of known reach: |symbol| <= reach. The first ones are the input entries, measured from a
point of the region, so that the region's shape (a ball, say) is not lost; each relaxed activation adds one of reach 1
for each of its entries. Two values that share a symbol are correlated: that is what intervals do not know.

Arrays carry a batch axis; one of length 1 stands for every entry of the batch.

Sources: Gehr et al., "AI2: safety and robustness certification of neural networks with abstract interpretation", IEEE
S&P 2018, section IV; Singh et al. (DeepZ), NeurIPS 2018, section 3; Bonaert et al., "Fast and precise certification of
transformers", PLDI 2021, section 4 (the input in any norm). The rest is the error term of affine arithmetic
(Stolfi and de Figueiredo, "Self-validated numerical methods and applications", 1997).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifkit.analysis.ranges import Bounds
from verifkit.analysis.region import Region, magnitude
from verifkit.analysis.rounding import down, gamma, inflate, tiny, up
from verifkit.analysis.support import least_over
from verifkit.arrays import Array, like, namespace
from verifkit.budget import Clock
from verifkit.maps import LinearMap, Shape

CHUNK = 2**20
"""Entries of the coefficients that a linear map is applied to at a time."""

CEILING = 2**26
"""Entries of the coefficients of one node: symbols beyond that go to the rest, so that memory stays bounded."""

NEGLIGIBLE = 1e-9
"""A rest of at most this share of a value's size gets no symbol of its own."""


@dataclass(frozen=True, eq=False)
class Forms:
    """The affine forms of one node's entries.

    center, rest: (B, *shape); coefficients: (B, K, *shape), of the symbols numbered `symbols` (K,), ascending. The
    value is center + sum over k of coefficients[:, k] * symbol k, give or take rest. Of an infinite rest nothing is
    known; NaN counts as infinite.
    """

    center: Array
    coefficients: Array
    rest: Array
    symbols: np.ndarray

    @property
    def flat(self) -> Forms:
        """The entries as one axis, in C order."""
        xp = namespace(self.center)
        center, rest = (xp.reshape(a, (a.shape[0], -1)) for a in (self.center, self.rest))
        lead = self.coefficients.shape[:2]
        return Forms(center, xp.reshape(self.coefficients, (*lead, center.shape[1])), rest, self.symbols)

    def taken(self, cases: np.ndarray) -> Forms:
        """The entries `cases` of the batch; arrays that stand for all of them stay."""
        center, coefficients, rest = (
            a if a.shape[0] == 1 else a[cases] for a in (self.center, self.coefficients, self.rest)
        )
        return Forms(center, coefficients, rest, self.symbols)


def sizes(forms: Forms, reach: Array) -> Array:
    """At least |center| + sum of |coefficient| * reach, entry by entry: what rounding errors are relative to.

    reach: (B, total), of every symbol. Returns (B, *shape).
    """
    xp = namespace(forms.center)
    coefficients = xp.abs(forms.coefficients)
    batch, count = coefficients.shape[:2]
    shape = forms.center.shape[1:]
    total = reach[:, None, forms.symbols] @ xp.reshape(coefficients, (batch, count, math.prod(shape)))
    total = xp.reshape(total, (total.shape[0], *shape))
    return (xp.abs(forms.center) + total) * (1.0 + gamma(count + 2, total)) + tiny(total)


def capacity(batch: int, *shapes: Shape) -> int:
    """How many symbols nodes of these shapes can have."""
    return max(1, CEILING // (batch * max(1, *(math.prod(shape) for shape in shapes))))


def combined(
    maps: Sequence[LinearMap],
    parents: Sequence[Forms],
    bias: Array | None,
    shape: Shape,
    reach: Array,
    clock: Clock | None = None,
) -> Forms:
    """The forms of sum_k maps[k](parent k) + bias, `shape`: exact on forms but for rounding, which goes to the rest.

    clock: looked at between chunks of symbols.
    """
    symbols = parents[0].symbols
    for parent in parents[1:]:
        symbols = np.union1d(symbols, parent.symbols)
    center: Array | None = None
    coefficients: Array | None = None
    rest: Array | None = None
    terms = sum(m.terms for m in maps) + (bias is not None)
    for linear, parent in zip(maps, parents, strict=True):
        g = gamma(terms + 1, parent.center)
        c = linear.apply(parent.center)
        k = _spread(_applied(linear, parent.coefficients, clock), parent.symbols, symbols)
        r = linear.absolute.apply(inflate(parent.rest) + g * sizes(parent, reach))
        center = c if center is None else center + c
        coefficients = k if coefficients is None else coefficients + k
        rest = r if rest is None else rest + r
    assert center is not None
    assert coefficients is not None
    assert rest is not None
    xp = namespace(center)
    g = gamma(terms + 1, center)
    if bias is not None:
        center = center + bias
        rest = rest + g * xp.abs(bias)
    underflow = terms * tiny(center) * (1.0 + xp.sum(reach[:, symbols], axis=1))
    rest = rest * (1.0 + 2.0 * g) + xp.reshape(underflow, (-1, *(1,) * len(shape)))
    return Forms(center, coefficients, rest, symbols)


def _applied(linear: LinearMap, coefficients: Array, clock: Clock | None) -> Array:
    """The map applied to every symbol's coefficients, some at a time."""
    batch, count = coefficients.shape[:2]
    if not count:
        xp = namespace(coefficients)
        return xp.zeros((batch, 0, *linear.out_shape), dtype=coefficients.dtype, device=coefficients.device)
    widest = max(math.prod(linear.in_shape), math.prod(linear.out_shape))
    step = max(1, CHUNK // (batch * widest))
    if step >= count:
        return linear.apply(coefficients)
    parts = []
    for k in range(0, count, step):
        if clock is not None:
            clock.check()
        parts.append(linear.apply(coefficients[:, k : k + step]))
    return namespace(coefficients).concat(parts, axis=1)


def _spread(coefficients: Array, own: np.ndarray, symbols: np.ndarray) -> Array:
    """The coefficients of the symbols `own` among those of `symbols`, which holds them all; 0 for the others."""
    if own.size == symbols.size:
        return coefficients
    xp = namespace(coefficients)
    batch, count, *shape = coefficients.shape
    zero = xp.zeros((batch, 1, *shape), dtype=coefficients.dtype, device=coefficients.device)
    place = np.full(symbols.size, count)
    place[np.searchsorted(symbols, own)] = np.arange(count)
    return xp.concat([coefficients, zero], axis=1)[:, place]


def relaxed(
    parents: Sequence[Forms],
    slopes: Sequence[Array],
    low: Array,
    high: Array,
    reach: Array,
    first: int,
    most: int | None = None,
) -> Forms:
    """The forms of sum_k slopes[k] * parent k + something in [low, high], entry by entry.

    slopes, low, high: (B, *shape), finite. Each entry whose something, or whose parents' rest, matters gets a symbol
    of reach 1, at most the `most` largest of them; they are numbered from `first` on.
    """
    middle = low / 2 + high / 2
    xp = namespace(middle)
    spread = inflate(xp.maximum(high - middle, middle - low))
    symbols = parents[0].symbols
    for parent in parents[1:]:
        symbols = np.union1d(symbols, parent.symbols)
    center, size = middle, xp.abs(middle)
    coefficients: Array | None = None
    carried = xp.zeros_like(middle)
    for slope, parent in zip(slopes, parents, strict=True):
        steep = xp.abs(slope)
        center = center + slope * parent.center
        k = slope[:, None] * _spread(parent.coefficients, parent.symbols, symbols)
        coefficients = k if coefficients is None else coefficients + k
        carried = carried + xp.where(steep > 0, steep * parent.rest, 0.0 * steep)
        size = size + steep * sizes(parent, reach)
    assert coefficients is not None
    underflow = 4.0 * tiny(size) * (1.0 + xp.sum(reach[:, symbols], axis=1))
    lost = inflate(gamma(6, size) * size) + xp.reshape(underflow, (-1, *(1,) * (middle.ndim - 1)))
    rest = inflate(carried + lost, ulps=8)
    return with_symbols(Forms(center, coefficients, rest, symbols), spread, size, first, most)


def with_symbols(forms: Forms, spread: Array, size: Array, first: int, most: int | None = None) -> Forms:
    """The forms with something of size `spread` (B, *shape) added to each entry as a symbol of its own.

    It takes the rest with it. An entry for which both are negligible, next to `size`, gets no symbol, and no more than
    the `most` largest get one.
    """
    xp, shape = namespace(forms.center), forms.center.shape[1:]
    total = inflate(spread + forms.rest)
    batch, entries = total.shape[0], math.prod(shape)
    chosen = xp.reshape(xp.any((total > NEGLIGIBLE * size) & xp.isfinite(total), axis=0), (-1,))
    places = np.flatnonzero(np.asarray(chosen))
    if most is not None and places.size > most:
        weight = np.asarray(xp.reshape(xp.sum(xp.where(xp.isfinite(total), total, 0.0 * size), axis=0), (-1,)))
        places = np.sort(places[np.argsort(-weight[places], kind="stable")[:most]])
        mask = np.zeros(entries, dtype=bool)
        mask[places] = True
        chosen = xp.asarray(mask, device=total.device)
    fresh = np.zeros((places.size, entries))
    fresh[np.arange(places.size), places] = 1.0
    kept = xp.reshape(chosen, shape)[None] & xp.isfinite(total)
    coefficient = xp.reshape(xp.where(kept, total, xp.zeros_like(total)), (batch, 1, entries))
    added = xp.reshape(coefficient * like(fresh, coefficient)[None], (batch, places.size, *shape))
    old = xp.broadcast_to(forms.coefficients, (batch, *forms.coefficients.shape[1:]))
    return Forms(
        forms.center,
        xp.concat([old, added], axis=1),
        xp.where(kept, xp.zeros_like(total), total),
        np.concatenate([forms.symbols, first + np.arange(places.size)]),
    )


def boxed(lower: Array, upper: Array, first: int, most: int | None = None) -> Forms:
    """Forms of values of which only an interval is known, (B, *shape) each; infinite where the interval is.

    most: as in `relaxed`.
    """
    xp = namespace(lower)
    middle = lower / 2 + upper / 2
    known = xp.isfinite(middle)
    middle = xp.where(known, middle, xp.zeros_like(middle))
    spread = xp.where(known, inflate(xp.maximum(upper - middle, middle - lower)), xp.full_like(middle, xp.inf))
    none = xp.zeros((lower.shape[0], 0, *lower.shape[1:]), dtype=lower.dtype, device=lower.device)
    forms = Forms(middle, none, xp.zeros_like(middle), np.zeros(0, dtype=np.int64))
    return with_symbols(forms, spread, xp.abs(middle), first, most)


def reduced(forms: Forms, reach: Array, limit: int, fixed: int = 0) -> Forms:
    """At most `limit` symbols: those that move the entries most, summed over entries and batch. The others go to rest.

    Symbols numbered below `fixed` are kept and not counted. Source: Girard, "Reachability of uncertain linear systems
    using zonotopes", HSCC 2005, section 3.4.
    """
    free = int(np.searchsorted(forms.symbols, fixed))
    if forms.symbols.size - free <= limit:
        return forms
    xp = namespace(forms.center)
    batch, shape = forms.coefficients.shape[0], forms.center.shape[1:]
    coefficients = xp.reshape(forms.coefficients, (batch, forms.symbols.size, math.prod(shape)))
    moved = xp.abs(coefficients) * reach[:, forms.symbols, None]
    order = free + np.argsort(-np.asarray(xp.sum(moved[:, free:], axis=(0, 2))), kind="stable")
    kept, dropped = np.concatenate([np.arange(free), np.sort(order[:limit])]), np.sort(order[limit:])
    box = xp.reshape(xp.sum(moved[:, dropped], axis=1), (-1, *shape))
    rest = inflate(forms.rest + box * (1.0 + gamma(dropped.size + 2, box)) + dropped.size * tiny(box))
    return Forms(forms.center, forms.coefficients[:, kept], rest, forms.symbols[kept])


class InputSymbols:
    """The symbols of the input: its entries that can vary, measured from a point of the region (a ball's center)."""

    def __init__(self, region: Region) -> None:
        xp = namespace(region.lower)
        self._shape = region.lower.shape[1:]
        lower, upper = (xp.reshape(end, (region.batch, -1)) for end in (region.lower, region.upper))
        middle = lower / 2 + upper / 2 if region.center is None else xp.reshape(region.center, (region.batch, -1))
        self._origin = xp.where(lower == upper, lower, middle)
        self._varying = np.flatnonzero(np.asarray(xp.any(lower < upper, axis=0)))
        moved = (down(lower - self._origin), up(upper - self._origin))
        self._low, self._high = (end[:, self._varying] for end in moved)
        self._region = region
        self.count = int(self._varying.size)
        self.reach = magnitude(self._low, self._high)

    def forms(self) -> Forms:
        """Of the input itself."""
        xp, origin = namespace(self._origin), self._origin
        unit = np.zeros((1, self.count, origin.shape[1]))
        unit[0, np.arange(self.count), self._varying] = 1.0
        center = xp.reshape(origin, (-1, *self._shape))
        coefficients = like(unit.reshape(1, self.count, *self._shape), origin)
        return Forms(center, coefficients, xp.zeros_like(center), np.arange(self.count))

    def bounds(self, forms: Forms) -> Bounds:
        """Rigorous bounds on every entry, (B, *shape). A NaN means that nothing is known."""
        mirrored = Forms(-forms.center, -forms.coefficients, forms.rest, forms.symbols)
        return self.least(forms), -self.least(mirrored)

    def least(self, forms: Forms) -> Array:
        """Lower bounds only: the input part over the region, all other symbols over [-1, 1]."""
        shape, flat = forms.center.shape[1:], forms.flat
        xp = namespace(flat.center)
        inputs = int(np.searchsorted(forms.symbols, self.count))
        others = flat.coefficients[:, inputs:]
        noise = xp.sum(xp.abs(others), axis=1) * (1.0 + gamma(others.shape[1] + 2, flat.center))
        below = self._input_part(flat.coefficients[:, :inputs], forms.symbols[:inputs])
        lower = down(down(flat.center + below) - inflate(noise + flat.rest))
        return xp.reshape(lower, (-1, *shape))

    def _input_part(self, coefficients: Array, symbols: np.ndarray) -> Array:
        """Lower bounds on the sum over the input symbols, (B, entries)."""
        xp, region = namespace(coefficients), self._region
        low, high = self._low[:, symbols], self._high[:, symbols]
        if not symbols.size:
            return xp.zeros((region.batch, coefficients.shape[2]), dtype=low.dtype, device=low.device)
        center = None if region.center is None else xp.zeros_like(low)
        shifted = Region(low, high, center, region.radius, region.norm)
        rows = xp.matrix_transpose(xp.broadcast_to(coefficients, (region.batch, *coefficients.shape[1:])))
        below, slack = least_over(rows, shifted)
        return down(below - slack)

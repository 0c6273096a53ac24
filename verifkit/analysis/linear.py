"""Linear bounds on every node of a network: intervals first, then lines and planes, and backward passes to tighten.

Sources: Zhang et al. 2018 (CROWN), section 3. The backward pass itself is in `backward`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from verifkit.analysis.backward import lower_bounds
from verifkit.analysis.interval import Bounds, needs_signs, node_bounds
from verifkit.analysis.products import product_planes
from verifkit.analysis.ranges import all_finite
from verifkit.analysis.region import Region, magnitude
from verifkit.analysis.relaxation import Relaxation
from verifkit.analysis.rounding import down, gamma, tiny
from verifkit.analysis.rows import Rows
from verifkit.arrays import Array, like, namespace
from verifkit.budget import Clock
from verifkit.evidence import Lines, Planes
from verifkit.functions import Abs, Clip, LeakyRelu, Relu, ScalarFunction, Sign
from verifkit.maps import Rearrangement
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Node, Product

CHUNK = 2**23
"""Entries of one coefficient array: rows are taken in chunks so that memory stays bounded."""


@dataclass(frozen=True, eq=False)
class LinearAnalysis:
    """bounds: of every node's value. lines, planes: of every activation, or product, that has them, by node index."""

    network: Network
    region: Region
    bounds: list[Bounds]
    lines: dict[int, Lines] = field(default_factory=dict)
    planes: dict[int, Planes] = field(default_factory=dict)

    def backward(self, rows: Mapping[int, Array]) -> Array:
        """Rigorous lower bounds `(B, R)` on the rows' value: node index -> coefficients `(B, R, *node shape)`."""
        relaxed: dict[int, Lines | Planes] = {**self.lines, **self.planes}
        with np.errstate(all="ignore"):  # what overflows is infinite or NaN, and proves nothing
            return lower_bounds(self.network, rows, self.bounds, relaxed, self.region)

    @np.errstate(all="ignore")
    def property_rows(self, rows: Rows) -> Array:
        """Rigorous lower bounds `(B, R)` on the left side of every row of an unsafe set."""
        sample, batch = self.region.lower, self.region.batch
        last, count = len(self.network.nodes) - 1, rows.outputs.shape[0]
        xp = namespace(sample)
        if not count:  # a disjunct without rows: every input of the set is unsafe
            return xp.zeros((batch, 0), dtype=sample.dtype)
        shape = self.network.output_shape
        start = {last: _expand(rows.outputs.reshape(count, *shape), sample, batch)}
        if rows.inputs is not None:
            start[0] = _expand(rows.inputs.reshape(count, *self.network.input_shape), sample, batch)
        lower = self.backward(start)
        for error, node in ((rows.output_error, last), (rows.input_error, 0)):
            if error is not None:
                shaped = like(error.reshape(count, *self.network.nodes[node].shape), sample)
                reach = magnitude(*self.bounds[node])[:, None, ...]
                cost = xp.sum(xp.reshape(shaped[None] * reach, (batch, count, -1)), axis=-1)
                terms = math.prod(shaped.shape[1:])
                lower = down(lower - cost * (1.0 + 2.0 * gamma(terms, cost)) - terms * tiny(cost))
        return xp.where(xp.isnan(lower), -xp.inf * xp.ones_like(lower), lower)


def _expand(rows: np.ndarray, sample: Array, batch: int) -> Array:
    array = like(rows, sample)
    return namespace(sample).broadcast_to(array[None], (batch, *rows.shape))


def analyse(
    network: Network,
    region: Region,
    relaxations: Mapping[type[ScalarFunction], Relaxation],
    clock: Clock,
    *,
    tighten: bool = True,
) -> LinearAnalysis:
    """Bounds and lines for every node, in topological order.

    Interval bounds come first; where `tighten`, what activations and products read is then bounded by a backward pass
    of its own - only the entries whose interval leaves the activation undecided need one. With an empty table this is
    interval propagation; with any other one products get planes. An activation or product whose lines or planes
    would be infinite has none, and is bounded by its interval. Calls `clock.check` between chunks.
    """
    network, signs = network.cast(region.lower), needs_signs(network)
    result = LinearAnalysis(network, region, [(region.lower, region.upper)])
    readers = _readers(network, relaxations) if tighten else {}
    with np.errstate(all="ignore"):
        for index, node in enumerate(network.nodes):
            clock.check()
            parents = [result.bounds[p] for p in node.parents]
            if index:
                result.bounds.append(node_bounds(node, parents, signs=signs))
            if index in readers:
                result.bounds[index] = _tightened(result, index, readers[index], clock)
            if isinstance(node, Activation) and type(node.function) in relaxations:
                lines = relaxations[type(node.function)](node.function, *parents[0])
                if all_finite(lines.lower_offset, lines.upper_offset):
                    result.lines[index] = lines
            elif isinstance(node, Product) and relaxations:
                planes = product_planes(*parents, same=node.parents[0] == node.parents[1])
                if all_finite(planes.lower_offset, planes.upper_offset):
                    result.planes[index] = planes
    return result


def _relaxes(node: Node, relaxations: Mapping[type[ScalarFunction], Relaxation]) -> bool:
    """Whether the table has a rule for the node."""
    if isinstance(node, Activation):
        return type(node.function) in relaxations
    return isinstance(node, Product) and bool(relaxations)


Kinks = list[Array | float] | None
"""Breakpoints of the functions that read a node, where a value on one side of all of them is all they need to know;
None where they need the value's range itself."""


def _readers(network: Network, relaxations: Mapping[type[ScalarFunction], Relaxation]) -> dict[int, Kinks]:
    """The nodes that a backward pass of their own may tighten for what reads them, and what that needs to know."""
    found: dict[int, Kinks] = {}
    for node in network.nodes:
        for parent in node.parents if _relaxes(node, relaxations) else ():
            kinks = _kinks(node.function) if isinstance(node, Activation) else None
            index = parent
            while _moves(network, index):  # the node behind it has the same numbers, in other places
                index = network.nodes[index].parents[0]
            if index != parent and kinks is not None and any(np.ndim(k) for k in kinks):
                kinks = None
            if _mixes(network, index):
                before = found.get(index, [])
                found[index] = None if kinks is None or before is None else before + kinks
    return found


def _kinks(function: ScalarFunction) -> Kinks:
    if isinstance(function, Relu | LeakyRelu | Abs | Sign):
        return [0.0]
    return [function.low, function.high] if isinstance(function, Clip) else None


def _moves(network: Network, index: int) -> bool:
    """Whether the node only rearranges its parent, which is no larger."""
    node = network.nodes[index]
    if not isinstance(node, Affine) or len(node.maps) > 1 or node.bias is not None:
        return False
    smaller = math.prod(node.maps[0].in_shape) <= math.prod(node.shape)
    return smaller and isinstance(node.maps[0], Rearrangement)


def _mixes(network: Network, index: int) -> bool:
    """Whether the node's value is made of several numbers that depend on each other: else its interval is as tight."""
    node = network.nodes[index]
    while isinstance(node, Affine) and len(node.maps) == 1 and node.maps[0].terms == 1:
        node = network.nodes[node.parents[0]]
    return isinstance(node, Affine) or (isinstance(node, Product) and len(set(node.parents)) > 1)


def _tightened(analysis: LinearAnalysis, index: int, kinks: Kinks, clock: Clock) -> Bounds:
    """The node's bounds intersected with backward bounds of the entries that some reader leaves undecided."""
    lower, upper = analysis.bounds[index]
    if not analysis.lines and not analysis.planes and analysis.region.center is None:
        return lower, upper  # affine in the input over a box: the interval is as tight already
    xp = namespace(lower)
    node = analysis.network.nodes[index]
    size, batch = math.prod(node.shape), analysis.region.batch
    kept = _undecided(lower, upper, kinks)
    flat_lower, flat_upper = xp.reshape(lower, (batch, -1)), xp.reshape(upper, (batch, -1))
    widest = max(math.prod(n.shape) for n in analysis.network.nodes[: index + 1])
    step = max(1, CHUNK // (2 * batch * widest))
    lows, highs = [], []
    for start in range(0, kept.size, step):
        clock.check()
        chosen = kept[start : start + step]
        unit = np.zeros((2 * chosen.size, size))
        unit[np.arange(chosen.size), chosen] = 1.0
        unit[chosen.size + np.arange(chosen.size), chosen] = -1.0
        rows = _expand(unit.reshape(-1, *node.shape), lower, batch)
        found = analysis.backward({index: rows})
        lows.append(found[:, : chosen.size])
        highs.append(-found[:, chosen.size :])
    if not lows:
        return lower, upper
    place = np.full(size, -1)
    place[kept] = np.arange(kept.size)
    shape = (batch, *node.shape)
    return (
        xp.reshape(_merge(flat_lower, xp.concat(lows, axis=1), place, xp.maximum), shape),
        xp.reshape(_merge(flat_upper, xp.concat(highs, axis=1), place, xp.minimum), shape),
    )


def _undecided(lower: Array, upper: Array, kinks: Kinks) -> np.ndarray:
    """Flat indices of the entries whose range holds a kink in some batch entry, or has any width (kinks None)."""
    xp = namespace(lower)
    found = lower < upper if kinks is None else xp.zeros_like(lower, dtype=xp.bool)
    for kink in kinks or ():
        found = found | ((lower < kink) & (upper > kink))
    return np.flatnonzero(np.asarray(xp.any(found, axis=0)))


def _merge(old: Array, new: Array, place: np.ndarray, better: Callable[[Array, Array], Array]) -> Array:
    """`old` with the columns in `place` improved by `new`; a NaN improves nothing."""
    xp = namespace(old)
    spread = new[:, np.where(place < 0, 0, place)]
    usable = xp.asarray(place >= 0)[None] & ~xp.isnan(spread)
    return xp.where(usable, better(old, xp.where(usable, spread, old)), old)

"""From an analysis to the bounds of every layer of the network as it was asked about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from verifkit.analysis.interval import Bounds, needs_signs, node_bounds
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.arrays import Array, like, namespace
from verifkit.layer_bounds import LayerBounds
from verifkit.network import Network
from verifkit.ops import Affine, Max, Node, Product

ENTRIES = 2**19
"""Entries of the coefficients of one backward pass: rows are taken in chunks so that memory stays bounded."""


def layer_bounds(network: Network, analysis: LinearAnalysis, entry: int = 0) -> LayerBounds:
    """The layers of `network` for one entry of the batch of an analysis of it or of its `without_max`.

    An analysis bounds an entry no more tightly than its own relaxations need. On the first look every sum gets a
    backward pass of its own, with the lines that are there, and every node the range of its parents' new bounds. With
    no lines at all these are the interval bounds, and only the output has a pass.
    """
    return LayerBounds(network, partial(_refined, network, analysis, entry))


def filled(network: Network, known: Mapping[int, Bounds]) -> dict[int, Bounds]:
    """Bounds on every node, where `known` has those of the input and of some others, node index -> (B, *node shape).

    The other nodes get the interval of their parents' bounds, and the known ones are cut to theirs. Rigorous if
    `known` is.
    """
    network, signs = network.cast(known[0][0]), needs_signs(network)
    found: dict[int, Bounds] = {0: known[0]}
    for index, node in enumerate(network.nodes[1:], 1):
        interval = node_bounds(node, [found[p] for p in node.parents], signs=signs)
        found[index] = _common(interval, known[index]) if index in known else interval
    return found


def _refined(network: Network, analysis: LinearAnalysis, entry: int) -> dict[int, Bounds]:
    analysis = analysis.one(entry)
    original, signs = network.cast(analysis.region.lower), needs_signs(network)
    at, last = places(network, analysis.network), len(network.nodes) - 1
    relaxed = bool(analysis.lines or analysis.planes)
    found: dict[int, Bounds] = {0: analysis.bounds[0]}
    with np.errstate(all="ignore"):
        for index, node in enumerate(original.nodes[1:], 1):
            interval = node_bounds(node, [found[p] for p in node.parents], signs=signs)
            found[index] = _common(interval, analysis.bounds[at[index]])
            if (relaxed and _mixes(node)) or index == last:
                found[index] = _common(found[index], _backward(analysis, at[index]))
    return found


def places(network: Network, plain: Network) -> list[int]:
    """For each node of `network` the index of the same value in `plain`, which is it or its `without_max`."""
    found, at = [], -1
    for node in network.nodes:
        at += 1
        if isinstance(node, Max):  # its rounds come first; the value itself has its name
            while plain is not network and not isinstance(plain.nodes[at], Max) and plain.nodes[at].name != node.name:
                at += 1
        found.append(at)
    return found


def _mixes(node: Node) -> bool:
    """Whether a row over the node can be tighter than the interval of its parents."""
    if isinstance(node, Affine):
        return len(node.maps) > 1 or node.maps[0].terms > 1
    return isinstance(node, Product) and len(set(node.parents)) > 1


def _backward(analysis: LinearAnalysis, index: int) -> Bounds:
    """Every entry of a node by a backward pass."""
    nodes, sample = analysis.network.nodes, analysis.region.lower
    xp, shape, batch = namespace(sample), nodes[index].shape, analysis.region.batch
    size = math.prod(shape)
    step = max(1, ENTRIES // (2 * batch * max(math.prod(node.shape) for node in nodes[: index + 1])))
    lows: list[Array] = []
    highs: list[Array] = []
    for start in range(0, size, step):
        count = min(step, size - start)
        unit = np.zeros((2 * count, size))
        unit[np.arange(count), start + np.arange(count)] = 1.0
        unit[count + np.arange(count), start + np.arange(count)] = -1.0
        rows = like(unit.reshape(1, 2 * count, *shape), sample)
        found = analysis.backward({index: xp.broadcast_to(rows, (batch, *rows.shape[1:]))})
        lows.append(found[:, :count])
        highs.append(-found[:, count:])
    lower, upper = (xp.reshape(xp.concat(ends, axis=1), (batch, *shape)) for ends in (lows, highs))
    return lower, upper


def _common(one: Bounds, other: Bounds) -> Bounds:
    """The intersection; a NaN says nothing."""
    (a, b), (c, d) = one, other
    xp = namespace(a)
    return xp.where(c > a, c, a), xp.where(d < b, d, b)

"""A network that is a chain of affine layers and ReLUs, reduced to what can change over a box of inputs.

Inputs that the box fixes, units that depend on none of the others, and units that are surely 0 are folded away; what is
left are a few dense matrices, with the unsafe rows as the last one. Every folding is exact or its error is carried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifkit.analysis.interval import Bounds
from verifkit.analysis.region import magnitude
from verifkit.analysis.rounding import gamma, tiny
from verifkit.analysis.rows import Rows
from verifkit.functions import Relu
from verifkit.maps import Identity, LinearMap
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input
from verifkit.sparse_maps import Sparse, columns, exact, rows, vector_map
from verifkit.weighted_maps import Dense

ENTRIES = 2**25
"""A network whose reduced matrices have more entries than this is none for dense products."""


@dataclass(frozen=True, eq=False)
class Layer:
    """z = weight @ h + bias, where h is the layer before or the input; a ReLU follows where `relu`.

    weight (m, n), bias (m,). error (m,): how far the exact bias may be from `bias`. node, kept: the network's node with
    these values and their flat indices there. low, high (m,): bounds of z over the whole box.
    """

    weight: np.ndarray
    bias: np.ndarray
    error: np.ndarray
    relu: bool
    node: int
    kept: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Chain:
    """layers: the last one's values are the unsafe rows less their bounds, without a ReLU.

    inputs: flat indices of the inputs that vary. lower, upper: their box. coupling (R, inputs) or None: what the rows
    weigh inputs with.
    """

    layers: tuple[Layer, ...]
    inputs: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    coupling: np.ndarray | None

    @property
    def n_rows(self) -> int:
        return self.layers[-1].bias.size


def is_chain(network: Network) -> bool:
    """Whether every node is affine, of exact maps, or a ReLU, and reads the one before it and nothing else."""
    for index, node in enumerate(network.nodes):
        if isinstance(node, Input):
            continue
        if node.parents != (index - 1,):
            return False
        if isinstance(node, Affine):
            if not all(map(exact, node.maps)):
                return False
        else:
            relu = isinstance(node, Activation) and type(node.function) is Relu
            if not relu or not isinstance(network.nodes[index - 1], Affine):
                return False
    return len(network.nodes) > 1 and isinstance(network.nodes[-1], Affine)


def chain_of(network: Network, bounds: Sequence[Bounds], rows_: Rows) -> Chain | None:
    """The reduced chain of a network for which `is_chain`, None if its matrices would be too large.

    bounds: rigorous, of every node over the box, each (1, *shape).
    """
    low, high = (end.reshape(-1) for end in bounds[0])
    varying = np.flatnonzero(high > low)
    varying = varying if varying.size else np.zeros(1, dtype=np.int64)
    kept, layers, entries = varying, [], 0
    for index, node in enumerate(network.nodes):
        if not isinstance(node, Affine):
            continue
        relu = index + 1 < len(network.nodes) and isinstance(network.nodes[index + 1], Activation)
        last = index + 1 == len(network.nodes)
        linear = vector_map(node.maps[0], np.dtype(np.float64))
        if isinstance(linear, Identity) and node.bias is None and not relu and not last:
            bounds = [*bounds[:index], bounds[index - 1], *bounds[index + 1 :]]
            continue
        layer = _layer(node, linear, kept, bounds, index, relu=relu, keep_all=last, room=ENTRIES - entries)
        if layer is None:
            return None
        entries += layer.weight.size
        layers.append(layer)
        kept = layer.kept
    layers.append(_row_layer(rows_, layers[-1], bounds, len(network.nodes) - 1, varying))
    coupling = None if rows_.inputs is None else rows_.inputs[:, varying]
    return Chain(tuple(layers), varying, low[varying], high[varying], coupling)


def _layer(
    node: Affine,
    linear: LinearMap,
    kept: np.ndarray,
    bounds: Sequence[Bounds],
    index: int,
    *,
    relu: bool,
    keep_all: bool,
    room: int,
) -> Layer | None:
    """The layer of one affine node over the units `kept` of what it reads; the others there are constants.

    None where its matrix would have more than `room` entries.
    """
    dtype = np.dtype(np.float64)
    before = [end.reshape(-1) for end in bounds[node.parents[0]]]
    low, high = (end.reshape(-1) for end in bounds[index])
    if isinstance(linear, Identity):
        linear = _identity(low.size)
    constant = np.ones(before[0].size, dtype=bool)
    constant[kept] = False
    part = columns(linear, kept, dtype)
    depends = _nonzero_rows(part)
    alive = np.flatnonzero(depends & ~(relu & (high <= 0))) if not keep_all else np.arange(low.size)
    alive = alive if alive.size else np.zeros(1, dtype=np.int64)
    if alive.size * kept.size > room:
        return None
    weight = _dense(rows(part, alive, dtype))
    bias = np.zeros(alive.size) if node.bias is None else np.asarray(node.bias, dtype=np.float64).reshape(-1)[alive]
    error = np.zeros(alive.size)
    fixed = np.flatnonzero(constant)
    if fixed.size:
        rest = rows(columns(linear, fixed, dtype), alive, dtype)
        ends = before[0][fixed], before[1][fixed]
        middle = ends[0] / 2 + ends[1] / 2
        half = np.maximum(ends[1] - middle, middle - ends[0])
        size = np.abs(middle) + half
        moved = rest.apply(middle)
        reach = rest.absolute.apply(size) + np.abs(bias)
        error = rest.absolute.apply(half) * (1 + 1e-9) + gamma(2 * fixed.size + 8, reach) * reach
        error = error + fixed.size * tiny(reach)
        bias = bias + moved
    return Layer(weight, bias, error, relu, index, alive, low[alive], high[alive])


def _row_layer(rows_: Rows, last: Layer, bounds: Sequence[Bounds], output: int, varying: np.ndarray) -> Layer:
    """The unsafe rows less their bounds, as one more layer."""
    count = rows_.bound.size
    error = np.zeros(count)
    bias = -rows_.bound
    largest = magnitude(*bounds[output]).reshape(-1)
    if rows_.output_error is not None:
        error = error + (rows_.output_error @ largest) * (1 + 1e-9)
    if rows_.inputs is not None:
        low, high = (end.reshape(-1) for end in bounds[0])
        size = np.maximum(np.abs(low), np.abs(high))
        if rows_.input_error is not None:
            error = error + (rows_.input_error @ size) * (1 + 1e-9)
        fixed = np.ones(low.size, dtype=bool)
        fixed[varying] = False
        terms = np.abs(rows_.inputs[:, fixed]) @ size[fixed] + np.abs(bias)
        bias = bias + rows_.inputs[:, fixed] @ low[fixed]
        error = error + gamma(low.size + 4, terms) * terms
    infinite = np.full(count, np.inf)
    return Layer(rows_.outputs[:, last.kept], bias, error, False, output, np.arange(count), -infinite, infinite)


def _identity(size: int) -> Sparse:
    from scipy import sparse

    return Sparse(sparse.csr_array(sparse.identity(size)))


def _nonzero_rows(linear: LinearMap) -> np.ndarray:
    if isinstance(linear, Dense):
        return np.asarray((linear.weight != 0).any(axis=1))
    assert isinstance(linear, Sparse)
    return np.asarray(abs(linear.matrix).sum(axis=1) > 0).reshape(-1)


def _dense(linear: LinearMap) -> np.ndarray:
    if isinstance(linear, Dense):
        return np.ascontiguousarray(linear.weight, dtype=np.float64)
    assert isinstance(linear, Sparse)
    return np.asarray(linear.matrix.toarray(), dtype=np.float64)

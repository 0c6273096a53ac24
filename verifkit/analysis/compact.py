"""The network of one analysis without the units that are surely 0.

A ReLU whose pre-activation is nowhere positive has the value 0 on the whole region, so that its row and its column
of the matrices around it can go. Of a trained network's units many are such on a small region: the backward passes then
run through matrices of a fraction of the size. In exact arithmetic the smaller network equals the given one on the
region, so every bound for one is a bound for the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields, replace

import numpy as np

from verifkit.analysis.backward import Reach
from verifkit.analysis.interval import Bounds
from verifkit.analysis.region import Region
from verifkit.arrays import Array
from verifkit.evidence import Lines, Planes
from verifkit.functions import Relu
from verifkit.maps import Identity, Reshape
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input, Node, Product
from verifkit.sparse_maps import columns, exact, rows, vector_map

ENTRIES = 2**24
"""A map with more entries than this is not made a matrix."""


class Compact:
    """Nodes, bounds and relaxations as far as the analysis has come; same indices as in the network.

    flat: whether the nodes are vectors, from which units can be taken out: for a single region, in NumPy, of a network
    whose maps are matrices of floats. Otherwise they are the network's own nodes. kept: node index -> flat indices of
    the entries that are left of it, for the nodes that lost some. relaxing: whether there will be backward passes;
    removing: so many that taking units out pays.
    """

    def __init__(self, network: Network, region: Region, *, relaxing: bool, removing: bool) -> None:
        self._removable, self._moved = frozenset[int](), frozenset[int]()
        self._shapes = [node.shape for node in network.nodes]
        self.flat = relaxing and region.batch == 1 and isinstance(region.lower, np.ndarray) and flattens(network)
        if self.flat:
            if removing:
                self._removable, self._moved = removable(network), moved(network)
            center = None if region.center is None else region.center.reshape(1, -1)
            lower, upper = region.lower.reshape(1, -1), region.upper.reshape(1, -1)
            region = Region(lower, upper, center, region.radius, region.norm)
        self.region = region
        self.nodes: list[Node] = [Input(shape=region.lower.shape[1:], name=network.nodes[0].name)]
        self.bounds: list[Bounds] = [(region.lower, region.upper)]
        self.relaxed: dict[int, Lines | Planes] = {}
        self.kept: dict[int, np.ndarray] = {}
        self.reach = Reach(self, self.bounds)

    def append(self, node: Node, bounds: Bounds) -> None:
        """The network's next node, with the bounds known so far."""
        self.nodes.append(self._flattened(node) if self.flat else node)
        self.bounds.append(bounds)
        self.tighten(bounds)

    def tighten(self, bounds: Bounds) -> None:
        """Better bounds of the last node."""
        index = len(self.nodes) - 1
        self.bounds[index] = self._part(index, bounds[0]), self._part(index, bounds[1])
        self.reach.forget(index)

    def relax(self, relaxed: Lines | Planes) -> None:
        """What replaces the last node, an activation or product, in backward passes."""
        index = len(self.nodes) - 1
        if index in self._removable:
            self._remove_zeros(index)
        kind = type(relaxed)
        self.relaxed[index] = kind(*(self._part(index, getattr(relaxed, f.name)) for f in fields(relaxed)))

    def rows_of(self, index: int, rows: Array) -> Array:
        """Rows `(B, R, *shape)` over a node of the network as rows over what is left of it."""
        return self._part(index, rows)

    def spread(self, index: int, values: Array) -> Array:
        """`(*lead, *shape here)` as `(*lead, *shape in the network)`: zeros for the entries that are gone."""
        if not self.flat:
            return values
        lead = values.shape[:-1]
        if index in self.kept:
            full = np.zeros((*lead, math.prod(self._shapes[index])), dtype=values.dtype)
            full[..., self.kept[index]] = values
            values = full
        return values.reshape(*lead, *self._shapes[index])

    def loses(self, indices: Iterable[int]) -> bool:
        """Whether rows over these nodes may weigh entries that are gone and are not 0 in the network."""
        return any(k in self.kept and isinstance(self.nodes[k], Affine) for k in indices)

    def _part(self, index: int, values: Array) -> Array:
        """`(*lead, *shape in the network)` as `(*lead, *shape here)`; what has the shape here already stays."""
        if not self.flat:
            return values
        shape = self._shapes[index]
        flat = values.reshape(*values.shape[: values.ndim - len(shape)], -1)
        return flat[..., self.kept[index]] if index in self.kept else flat

    def _flattened(self, node: Node) -> Node:
        """The node as a vector that reads what is left of its parents."""
        size = math.prod(node.shape)
        if not isinstance(node, Affine):
            return replace(node, shape=(size,))
        bias = None if node.bias is None else node.bias.reshape(-1)
        index, (first, *_) = len(self.nodes), node.parents
        if first in self.kept and index in self._moved:
            self.kept[index] = self.kept[first]
            size = self.kept[first].size
            return replace(node, shape=(size,), maps=(Identity((size,)),))
        dtype = self.region.lower.dtype
        maps = [vector_map(m, dtype) for m in node.maps]
        for k, parent in enumerate(node.parents):
            if parent in self.kept:
                maps[k] = columns(maps[k], self.kept[parent], dtype)
        return replace(node, shape=(size,), maps=tuple(maps), bias=bias)

    def _remove_zeros(self, index: int) -> None:
        """Takes the units of an activation that are surely 0 out of it and of the affine node it reads."""
        parent = self.nodes[index].parents[0]
        _, upper = self.bounds[parent]
        alive = np.flatnonzero(~(upper[0] <= 0))
        if alive.size == upper.size:
            return
        alive = alive if alive.size else np.zeros(1, dtype=np.int64)  # no array of size 0 below
        affine = self.nodes[parent]
        assert isinstance(affine, Affine)
        bias = None if affine.bias is None else affine.bias[alive]
        maps = tuple(rows(m, alive, self.region.lower.dtype) for m in affine.maps)
        self.nodes[parent] = replace(affine, shape=(alive.size,), maps=maps, bias=bias)
        self.nodes[index] = replace(self.nodes[index], shape=(alive.size,))
        for k in (parent, index):
            low, high = self.bounds[k]
            self.bounds[k] = low[:, alive], high[:, alive]
            self.kept[k] = alive
            self.reach.forget(k)


def flattens(network: Network) -> bool:
    """Whether every node can be a vector, and every map a matrix of the same floats."""
    return all(_flattens(node) for node in network.nodes)


def _flattens(node: Node) -> bool:
    if isinstance(node, Affine):
        return all(exact(m) and math.prod(m.out_shape) * m.terms <= ENTRIES for m in node.maps)
    if isinstance(node, Activation):
        return all(np.ndim(value) == 0 for value in vars(node.function).values())
    return isinstance(node, Input | Product)


def removable(network: Network) -> frozenset[int]:
    """The ReLU nodes of which units can be taken out: sums before and after, and nobody else looks."""
    readers = _readers(network)
    return frozenset(
        index
        for index, node in network.activations()
        if type(node.function) is Relu
        and readers[node.parents[0]] == [index]
        and isinstance(network.nodes[node.parents[0]], Affine)
        and _only_summed(network, readers[index])
    )


def moved(network: Network) -> frozenset[int]:
    """The nodes that are their parent in another shape, and only summed from there on."""
    readers = _readers(network)
    return frozenset(
        index
        for index, node in enumerate(network.nodes)
        if isinstance(node, Affine)
        and len(node.maps) == 1
        and isinstance(node.maps[0], Reshape | Identity)
        and node.bias is None
        and _only_summed(network, readers[index])
    )


def _readers(network: Network) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in network.nodes]
    for index, node in enumerate(network.nodes):
        for parent in node.parents:
            found[parent].append(index)
    return found


def _only_summed(network: Network, readers: list[int]) -> bool:
    return bool(readers) and all(isinstance(network.nodes[k], Affine) for k in readers)

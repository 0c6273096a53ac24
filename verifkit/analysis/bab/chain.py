"""A network of affine nodes and ReLUs as a chain of layers, reduced to what can change over a box of inputs.

A layer's units are the values that the layers above it read: pre-activations, and values carried along to a later
layer as they stand (residual connections, the two sides of a maximum). Inputs that the box fixes, units that depend on
none of the others, and units that are surely 0 are folded away; what is left are a few dense matrices, with the unsafe
rows as the last one. Every folding is exact or its error is carried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from verifkit.analysis.interval import Bounds
from verifkit.analysis.region import magnitude
from verifkit.analysis.rounding import gamma, tiny
from verifkit.analysis.rows import Rows
from verifkit.arrays import epsilon
from verifkit.functions import Relu
from verifkit.maps import Identity, LinearMap
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input
from verifkit.sparse_maps import Sparse, columns, exact, rows, vector_map
from verifkit.weighted_maps import Dense

ENTRIES = 2**25
"""A network whose reduced matrices have more entries than this is none for dense products."""

SMALL = 64
"""Up to this size an identity is a dense matrix: importing scipy's sparse ones takes longer than all else together."""

FLOAT = np.dtype(np.float64)


@dataclass(frozen=True, eq=False)
class Layer:
    """z = weight @ h + bias, where h is the layer before or the input; a ReLU follows where `relu`.

    weight (m, n), bias (m,). error (m,): how far the exact bias may be from `bias`. relu (m,). node, kept (m,): the
    network's node with this value, before the ReLU, and its flat index there. low, high (m,): bounds of z over the
    whole box.
    """

    weight: np.ndarray
    bias: np.ndarray
    error: np.ndarray
    relu: np.ndarray
    node: np.ndarray
    kept: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def after(self, z: np.ndarray) -> np.ndarray:
        """What the next layer reads: (..., m) -> (..., m)."""
        return np.where(self.relu, np.maximum(z, 0.0), z)


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

    @property
    def undecided(self) -> int:
        """How many ReLUs may go either way over the box."""
        return sum(int(np.count_nonzero((u.low < 0) & (u.high > 0) & u.relu)) for u in self.layers)


def piecewise_linear(network: Network) -> bool:
    """Whether every node is affine or a ReLU."""
    return all(
        isinstance(node, Input | Affine) or (isinstance(node, Activation) and type(node.function) is Relu)
        for node in network.nodes
    )


def chain_of(network: Network, bounds: Sequence[Bounds], rows_: Rows) -> Chain | None:
    """The reduced chain of a network that is `piecewise_linear`, None if its matrices would be too large.

    bounds: rigorous, of every node over the box, each (1, *shape).
    """
    return _Reduction(network, bounds).chain(rows_)


@dataclass(frozen=True, eq=False)
class _Group:
    """Units of a state: entries `kept` of the value of node `value`, the first of them at `start`."""

    value: int
    kept: np.ndarray
    start: int


class _Reduction:
    """The levels of a network: a value's level is the number of affine nodes on the longest way to it."""

    def __init__(self, network: Network, bounds: Sequence[Bounds]) -> None:
        self.nodes = network.nodes
        self.ends = [(low.reshape(-1), high.reshape(-1)) for low, high in bounds]
        self.same = self._aliases()
        self.level = self._levels()
        self.output = self.same[len(self.nodes) - 1]
        self.top = self.level[self.output]
        self.last_use = self._uses()
        self.room = ENTRIES

    def _aliases(self) -> list[int]:
        """For each node the one whose value, flat, it repeats."""
        same: list[int] = []
        for index, node in enumerate(self.nodes):
            copied = (
                isinstance(node, Affine)
                and len(node.parents) == 1
                and node.bias is None
                and isinstance(vector_map(node.maps[0], FLOAT), Identity)
            )
            same.append(same[node.parents[0]] if copied else index)
        return same

    def _levels(self) -> list[int]:
        level: list[int] = []
        for index, node in enumerate(self.nodes):
            below = max((level[p] for p in node.parents), default=0)
            plain = not node.parents or self.same[index] != index
            # A ReLU shares the layer of the affine node that it reads; of any other value it takes one of its own.
            ends = isinstance(node, Activation) and isinstance(self.nodes[self.same[node.parents[0]]], Affine)
            level.append(below if plain or ends else below + 1)
        return level

    def _uses(self) -> list[int]:
        """The last layer in whose state each value must be; -1 where the output does not depend on it there."""
        uses = [-1] * len(self.nodes)
        uses[self.output] = self.top
        needed = [index == self.output for index in range(len(self.nodes))]
        for index, node in reversed(list(enumerate(self.nodes))):
            if not needed[index]:
                continue
            for parent in map(self.same.__getitem__, node.parents):
                needed[parent] = True
                if isinstance(node, Affine) or not isinstance(self.nodes[parent], Affine):
                    uses[parent] = max(uses[parent], self.level[index] - 1)
        return uses

    def chain(self, rows_: Rows) -> Chain | None:
        low, high = self.ends[0]
        varying = np.flatnonzero(high > low)
        varying = varying if varying.size else np.zeros(1, dtype=np.int64)
        state, layers = [_Group(0, varying, 0)], []
        for level in range(1, self.top + 1):
            found = self._layer(level, state)
            if found is None:
                return None
            layer, state = found
            layers.append(layer)
        layers.append(self._row_layer(rows_, state, varying))
        coupling = None if rows_.inputs is None else rows_.inputs[:, varying]
        return Chain(tuple(layers), varying, low[varying], high[varying], coupling)

    def _layer(self, level: int, state: list[_Group]) -> tuple[Layer, list[_Group]] | None:
        """The layer of a level, over the state below it, and the state that it leaves."""
        parts: list[Layer] = []
        groups: list[_Group] = []
        for index, node in enumerate(self.nodes):
            if self.same[index] != index or self.last_use[index] < level or self.level[index] > level:
                continue
            relu = isinstance(node, Activation) and self.level[index] == level
            source = self.same[node.parents[0]] if relu else index
            if self.level[source] == level and isinstance(self.nodes[source], Affine):
                maps, bias = self._terms(source)
            else:  # carried along, or a ReLU of something carried
                maps, bias = {source: [Identity((self.ends[source][0].size,))]}, None
            part = self._part(source, maps, bias, state, relu=relu)
            if part is None:
                return None
            groups.append(_Group(index, part.kept, sum(p.bias.size for p in parts)))
            parts.append(part)
        if len(parts) == 1:
            return parts[0], groups
        names = [f.name for f in fields(Layer)]
        return Layer(*(np.concatenate([getattr(p, name) for p in parts]) for name in names)), groups

    def _terms(self, index: int) -> tuple[dict[int, list[LinearMap]], np.ndarray | None]:
        """The maps of an affine node by the value that they are of."""
        node = self.nodes[index]
        assert isinstance(node, Affine)
        maps: dict[int, list[LinearMap]] = {}
        for linear, parent in zip(node.maps, node.parents, strict=True):
            maps.setdefault(self.same[parent], []).append(linear)
        return maps, None if node.bias is None else np.asarray(node.bias, dtype=np.float64).reshape(-1)

    def _part(
        self,
        source: int,
        maps: dict[int, list[LinearMap]],
        bias: np.ndarray | None,
        state: list[_Group],
        *,
        relu: bool,
    ) -> Layer | None:
        """The units of one value: `maps` of the values in the state, plus what is constant. None for want of room."""
        low, high = self.ends[source]
        held = {group.value: group for group in state}
        flat = {value: _flat(each) for value, each in maps.items()}
        alive = np.zeros(low.size, dtype=bool)
        for value, linear in flat.items():
            alive |= _nonzero_rows(columns(linear, held[value].kept, FLOAT))
        units = np.flatnonzero(alive & ~(relu & (high <= 0)))
        units = units if units.size else np.zeros(1, dtype=np.int64)
        width = sum(group.kept.size for group in state)
        self.room -= units.size * width
        if self.room < 0:
            return None
        weight = np.zeros((units.size, width))
        constant = np.zeros(units.size) if bias is None else bias[units]
        error = np.zeros(units.size)
        for value, linear in flat.items():
            group = held[value]
            weight[:, group.start : group.start + group.kept.size] = _dense(
                rows(columns(linear, group.kept, FLOAT), units, FLOAT)
            )
            moved, lost = self._folded(linear, units, group)
            if len(maps[value]) > 1 or not all(map(exact, maps[value])):  # every entry is off by a few roundings
                reach = sum(_flat([m]).absolute.apply(magnitude(*self.ends[value]))[units] for m in maps[value])
                lost = lost + 8 * len(maps[value]) * epsilon(lost) * reach + reach.size * tiny(reach)
            error += lost + 2 * epsilon(lost) * (np.abs(constant) + np.abs(moved))
            constant = constant + moved
        node = np.full(units.size, source)
        return Layer(weight, constant, error, np.full(units.size, relu), node, units, low[units], high[units])

    def _folded(self, linear: LinearMap, units: np.ndarray, group: _Group) -> tuple[np.ndarray, np.ndarray]:
        """What the constant entries of a value add to the units, and how far that may be off."""
        low, high = self.ends[group.value]
        constant = np.ones(low.size, dtype=bool)
        constant[group.kept] = False
        fixed = np.flatnonzero(constant)
        if not fixed.size:
            return np.zeros(units.size), np.zeros(units.size)
        rest = rows(columns(linear, fixed, FLOAT), units, FLOAT)
        middle = low[fixed] / 2 + high[fixed] / 2
        half = np.maximum(high[fixed] - middle, middle - low[fixed])
        reach = rest.absolute.apply(np.abs(middle) + half)
        lost = rest.absolute.apply(half) * (1 + 1e-9) + gamma(2 * fixed.size + 8, reach) * reach
        return rest.apply(middle), lost + fixed.size * tiny(reach)

    def _row_layer(self, rows_: Rows, state: list[_Group], varying: np.ndarray) -> Layer:
        """The unsafe rows less their bounds, as one more layer."""
        count = rows_.bound.size
        (group,) = state
        moved, error = self._folded(Dense(rows_.outputs), np.arange(count), group)
        bias = moved - rows_.bound
        error = error + 2 * epsilon(error) * (np.abs(moved) + np.abs(rows_.bound))
        if rows_.output_error is not None:
            error = error + (rows_.output_error @ magnitude(*self.ends[group.value])) * (1 + 1e-9)
        if rows_.inputs is not None:
            low, high = self.ends[0]
            size = magnitude(low, high)
            if rows_.input_error is not None:
                error = error + (rows_.input_error @ size) * (1 + 1e-9)
            fixed = np.ones(low.size, dtype=bool)
            fixed[varying] = False
            terms = np.abs(rows_.inputs[:, fixed]) @ size[fixed] + np.abs(bias)
            bias = bias + rows_.inputs[:, fixed] @ low[fixed]
            error = error + gamma(low.size + 4, terms) * terms
        infinite, none = np.full(count, np.inf), np.zeros(count, dtype=bool)
        return Layer(
            rows_.outputs[:, group.kept], bias, error, none, np.full(count, -1), np.arange(count), -infinite, infinite
        )


def _flat(maps: Sequence[LinearMap]) -> LinearMap:
    """The sum of maps over flat arrays, as one that can be taken apart."""
    each = [vector_map(linear, FLOAT) for linear in maps]
    if len(each) == 1:
        return _identity(each[0].in_shape[0]) if isinstance(each[0], Identity) else each[0]
    from scipy import sparse

    total = None
    for linear in each:
        e = linear.entries()
        shape = (linear.out_shape[0], linear.in_shape[0])
        matrix = sparse.csr_array((np.asarray(e.values, dtype=FLOAT), (e.rows, e.cols)), shape=shape)
        total = matrix if total is None else total + matrix
    return Sparse(sparse.csr_array(total))


def _identity(size: int) -> LinearMap:
    if size <= SMALL:
        return Dense(np.eye(size))
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

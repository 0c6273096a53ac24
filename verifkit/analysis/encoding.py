"""A network of ReLU, leaky ReLU and maxima as linear constraints with binaries (Tjeng et al., ICLR 2019, section 4.1).

Solver-neutral arrays: a verifier passes them to its solver. Pre-activation bounds decide which units need a binary at
all and how large the constants of the others are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verifkit.analysis.interval import Bounds
from verifkit.analysis.max_groups import max_groups
from verifkit.budget import Clock
from verifkit.functions import LeakyRelu, Relu
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Max

Sparse = Any
"""A scipy.sparse CSR array; scipy.sparse is imported on first use."""

At = Callable[[Sequence[np.ndarray]], np.ndarray]
"""From the flat values of all nodes at one input to those of some columns."""


@dataclass(frozen=True, eq=False)
class Expression:
    """matrix @ columns + constant: one entry of a node per row. The matrix may be narrower than the model by now."""

    matrix: Sparse
    constant: np.ndarray


@dataclass(eq=False)
class Encoding:
    """Columns with bounds, some of them integer, and rows `low <= matrix @ columns <= high`, as they are added.

    Columns 0 to n_inputs - 1 are the flat input. `output` is the network's flat output.
    """

    lower: list[np.ndarray] = field(default_factory=list)
    upper: list[np.ndarray] = field(default_factory=list)
    integer: list[np.ndarray] = field(default_factory=list)
    at: list[At | None] = field(default_factory=list)
    blocks: list[tuple[Sparse, np.ndarray, np.ndarray]] = field(default_factory=list)
    n_columns: int = 0
    output: Expression | None = None

    def add_columns(
        self, lower: np.ndarray, upper: np.ndarray, at: At | None = None, *, integer: bool = False
    ) -> np.ndarray:
        """Appends columns and returns their indices. at: their values at an input; 0 without it."""
        first, self.n_columns = self.n_columns, self.n_columns + lower.size
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(np.full(lower.size, integer))
        self.at.append(at)
        return np.arange(first, self.n_columns)

    def point(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """All columns at an input of which `values` has the flat values of every node."""
        parts = [
            np.zeros(low.size) if at is None else at(values).astype(np.float64)
            for low, at in zip(self.lower, self.at, strict=True)
        ]
        return np.concatenate(parts)

    def add_rows(self, matrix: Sparse, low: np.ndarray, high: np.ndarray) -> None:
        self.blocks.append((matrix, low, high))

    def matrix(self) -> tuple[Sparse, np.ndarray, np.ndarray]:
        """All rows as one CSR array with their lower and upper ends."""
        from scipy import sparse

        wide = [self.widen(block) for block, _, _ in self.blocks]
        rows = sparse.vstack(wide, format="csr") if wide else sparse.csr_array((0, self.n_columns))
        lows = [low for _, low, _ in self.blocks] or [np.zeros(0)]
        highs = [high for _, _, high in self.blocks] or [np.zeros(0)]
        return rows, np.concatenate(lows), np.concatenate(highs)

    def widen(self, matrix: Sparse) -> Sparse:
        """The matrix with zero columns added up to the present width."""
        if matrix.shape[1] == self.n_columns:
            return matrix
        copy = matrix.copy()
        copy.resize((matrix.shape[0], self.n_columns))
        return copy


def encode(network: Network, bounds: list[Bounds], clock: Clock) -> Encoding:
    """The network (its activations ReLU and leaky ReLU) with `bounds` on every node, a batch of one.

    Calls `clock.check` at every node.
    """
    from scipy import sparse

    encoding = Encoding()
    flat = [(low.reshape(-1), high.reshape(-1)) for low, high in bounds]
    inputs = encoding.add_columns(*flat[0], lambda values: values[0])
    values = [Expression(sparse.identity(inputs.size, format="csr"), np.zeros(inputs.size))]
    for node in network.nodes[1:]:
        clock.check()
        if isinstance(node, Affine):
            values.append(_affine(encoding, node, [values[p] for p in node.parents]))
        elif isinstance(node, Activation) and isinstance(node.function, Relu | LeakyRelu):
            values.append(_rectifier(encoding, node, values[node.parents[0]], *flat[node.parents[0]]))
        elif isinstance(node, Max):
            values.append(_maximum(encoding, node, values[node.parents[0]], *flat[node.parents[0]]))
        else:
            raise TypeError(f"node '{node.name}' has no linear encoding")
    encoding.output = values[-1]
    return encoding


def slopes_left_of_zero(node: Activation) -> np.ndarray:
    """What a ReLU or leaky ReLU multiplies negative values by, one for each entry, in the node's shape."""
    slope = node.function.slope if isinstance(node.function, LeakyRelu) else 0.0
    return np.broadcast_to(np.asarray(slope, dtype=np.float64), node.shape)


def _affine(encoding: Encoding, node: Affine, parents: Sequence[Expression]) -> Expression:
    from scipy import sparse

    size = int(np.prod(node.shape))
    constant = np.zeros(size) if node.bias is None else np.asarray(node.bias, dtype=np.float64).reshape(-1).copy()
    matrix = sparse.csr_array((size, encoding.n_columns))
    for linear, parent in zip(node.maps, parents, strict=True):
        entries = linear.entries()
        weights = sparse.csr_array((entries.values, (entries.rows, entries.cols)), shape=(size, parent.constant.size))
        matrix = matrix + encoding.widen(weights @ parent.matrix)
        constant = constant + weights @ parent.constant
    return Expression(sparse.csr_array(matrix), constant)


def _rectifier(
    encoding: Encoding, node: Activation, parent: Expression, low: np.ndarray, high: np.ndarray
) -> Expression:
    """h = s z + (1 - s) r, r = relu(z), where s is the slope left of 0: a column z for every unit that is not always 0;
    for an unstable one also r and its phase d:  r >= z, r <= z - low (1 - d), r <= high d.
    """
    from scipy import sparse

    slope, read = slopes_left_of_zero(node).reshape(-1), node.parents[0]
    living = np.flatnonzero((high > 0) | (slope != 0))
    unstable = np.flatnonzero((high > 0) & (low < 0))
    z = encoding.add_columns(low[living], high[living], lambda values: values[read][living])
    place = np.full(low.size, -1)
    place[living] = z
    matrix = encoding.widen(parent.matrix[living])
    constant = parent.constant[living]
    encoding.add_rows(sparse.csr_array(_unit(z, encoding.n_columns) - matrix), constant, constant)
    steep = np.where(low >= 0, 1.0, slope)
    units, columns, weights = living, z, steep[living]
    if unstable.size:
        zero, none = np.zeros(unstable.size), np.full(unstable.size, np.inf)
        r = encoding.add_columns(zero, high[unstable], lambda values: np.maximum(values[read][unstable], 0.0))
        d = encoding.add_columns(zero, zero + 1.0, lambda values: values[read][unstable] > 0, integer=True)
        pick_r, pick_d, pick_z = (_unit(c, encoding.n_columns) for c in (r, d, place[unstable]))
        encoding.add_rows(sparse.csr_array(pick_r - pick_z), zero, none)
        with_low = pick_r - pick_z - sparse.diags_array(low[unstable]) @ pick_d
        encoding.add_rows(sparse.csr_array(with_low), -none, -low[unstable])
        with_high = pick_r - sparse.diags_array(high[unstable]) @ pick_d
        encoding.add_rows(sparse.csr_array(with_high), -none, zero)
        units, columns = np.concatenate([units, unstable]), np.concatenate([columns, r])
        weights = np.concatenate([weights, 1.0 - slope[unstable]])
    kept = weights != 0
    entries = (weights[kept], (units[kept], columns[kept]))
    return Expression(sparse.csr_array(entries, shape=(low.size, encoding.n_columns)), np.zeros(low.size))


def _maximum(encoding: Encoding, node: Max, parent: Expression, low: np.ndarray, high: np.ndarray) -> Expression:
    """y = max of x_i over the candidates: a column x for each, and where there are several also y and a choice c_i for
    each:  y >= x_i,  y <= x_i + beyond_i (1 - c_i),  sum c_i = 1.
    """
    from scipy import sparse

    groups, read = max_groups(node, low, high), node.parents[0]
    used = np.unique(groups.entries[groups.candidates])
    x = encoding.add_columns(low[used], high[used], lambda values: values[read][used])
    column = np.full(low.size, -1)
    column[used] = x
    matrix, constant = encoding.widen(parent.matrix[used]), parent.constant[used]
    encoding.add_rows(sparse.csr_array(_unit(x, encoding.n_columns) - matrix), constant, constant)
    first = groups.candidates.argmax(axis=1)
    value = column[np.take_along_axis(groups.entries, first[:, None], axis=1)[:, 0]]
    several = np.flatnonzero(~groups.decided)
    if several.size:
        entries, candidates = groups.entries[several], groups.candidates[several]
        row, place = np.nonzero(candidates)

        def mine(flat: np.ndarray) -> np.ndarray:
            return np.where(candidates, flat[entries], -np.inf)

        y = encoding.add_columns(
            mine(low).max(axis=1), mine(high).max(axis=1), lambda values: mine(values[read]).max(axis=1)
        )
        c = encoding.add_columns(
            np.zeros(row.size),
            np.ones(row.size),
            lambda values: place == mine(values[read]).argmax(axis=1)[row],
            integer=True,
        )
        pick_y, pick_x, pick_c = (_unit(k, encoding.n_columns) for k in (y[row], column[entries[row, place]], c))
        none, beyond = np.full(row.size, np.inf), groups.beyond[several[row], place]
        encoding.add_rows(sparse.csr_array(pick_y - pick_x), np.zeros(row.size), none)
        above = pick_y - pick_x + sparse.diags_array(beyond) @ pick_c
        encoding.add_rows(sparse.csr_array(above), -none, beyond)
        one, shape = np.ones(several.size), (several.size, encoding.n_columns)
        encoding.add_rows(sparse.csr_array((np.ones(row.size), (row, c)), shape=shape), one, one)
        value[several] = y
    return Expression(_unit(value, encoding.n_columns), np.zeros(value.size))


def _unit(columns: np.ndarray, width: int) -> Sparse:
    from scipy import sparse

    return sparse.csr_array((np.ones(columns.size), (np.arange(columns.size), columns)), shape=(columns.size, width))


def add_linf_distance(encoding: Encoding, center: np.ndarray, reach: float) -> int:
    """A column e >= |x_i - center_i| for every input i, at most `reach`: to be minimised. Returns its index."""
    from scipy import sparse

    e = encoding.add_columns(
        np.zeros(1), np.array([reach]), lambda values: np.abs(values[0] - center).max(keepdims=True)
    )
    size = center.size
    pick_x = _unit(np.arange(size), encoding.n_columns)
    pick_e = _unit(np.repeat(e, size), encoding.n_columns)
    none = np.full(size, np.inf)
    encoding.add_rows(sparse.csr_array(pick_x - pick_e), -none, center)
    encoding.add_rows(sparse.csr_array(pick_x + pick_e), center, none)
    return int(e[0])


def add_l1_distance(encoding: Encoding, center: np.ndarray, reach: float) -> int:
    """A column e >= |x - center|_1, at most `reach`, by split differences: x = center + p - q, e >= sum(p + q)."""
    from scipy import sparse

    size = center.size
    none, far = np.zeros(size), np.full(size, np.inf if math.isinf(reach) else 2.0 * reach)
    p = encoding.add_columns(none, far, lambda values: np.maximum(values[0] - center, 0.0))
    q = encoding.add_columns(none, far, lambda values: np.maximum(center - values[0], 0.0))
    e = encoding.add_columns(
        np.zeros(1), np.array([reach]), lambda values: np.abs(values[0] - center).sum(keepdims=True)
    )
    x = _unit(np.arange(size), encoding.n_columns)
    split = x - _unit(p, encoding.n_columns) + _unit(q, encoding.n_columns)
    encoding.add_rows(sparse.csr_array(split), center, center)
    columns = np.concatenate([p, q, e])
    weights = np.concatenate([np.ones(2 * size), [-1.0]])
    total = sparse.csr_array((weights, (np.zeros(columns.size, dtype=int), columns)), shape=(1, encoding.n_columns))
    encoding.add_rows(total, np.array([-np.inf]), np.zeros(1))
    return int(e[0])

"""A ReLU network as linear constraints with binaries: the mixed-integer encoding (Tjeng et al., ICLR 2019).

Solver-neutral arrays: a verifier passes them to its solver. Pre-activation bounds decide which units need a binary at
all and how large the constants of the others are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from verifkit.analysis.interval import Bounds
from verifkit.functions import Relu
from verifkit.input_sets import LpBall
from verifkit.network import Network
from verifkit.ops import Activation, Affine

Sparse = Any
"""A scipy.sparse CSR array; scipy.sparse is imported on first use."""


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
    blocks: list[tuple[Sparse, np.ndarray, np.ndarray]] = field(default_factory=list)
    n_columns: int = 0
    output: Expression | None = None

    def add_columns(self, lower: np.ndarray, upper: np.ndarray, *, integer: bool = False) -> np.ndarray:
        """Appends columns and returns their indices."""
        first, self.n_columns = self.n_columns, self.n_columns + lower.size
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(np.full(lower.size, integer))
        return np.arange(first, self.n_columns)

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


def encode(network: Network, bounds: list[Bounds]) -> Encoding:
    """The network (ReLU only, no `Max`) with `bounds` on every node, a batch of one."""
    from scipy import sparse

    encoding = Encoding()
    flat = [(low.reshape(-1), high.reshape(-1)) for low, high in bounds]
    inputs = encoding.add_columns(*flat[0])
    values = [Expression(sparse.identity(inputs.size, format="csr"), np.zeros(inputs.size))]
    for node in network.nodes[1:]:
        if isinstance(node, Affine):
            values.append(_affine(encoding, node, [values[p] for p in node.parents]))
        elif isinstance(node, Activation) and isinstance(node.function, Relu):
            values.append(_relu(encoding, values[node.parents[0]], *flat[node.parents[0]]))
        else:
            raise TypeError(f"node '{node.name}' has no linear encoding")
    encoding.output = values[-1]
    return encoding


def _affine(encoding: Encoding, node: Affine, parents: Iterable[Expression]) -> Expression:
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


def _relu(encoding: Encoding, parent: Expression, low: np.ndarray, high: np.ndarray) -> Expression:
    """A column z for every unit that is not always off; for an unstable one also a = relu(z) and its phase d.

    a >= z, a <= z - low (1 - d), a <= high d.
    """
    from scipy import sparse

    on = np.flatnonzero(high > 0)
    unstable = np.flatnonzero((high > 0) & (low < 0))
    z = encoding.add_columns(low[on], high[on])
    place = np.full(low.size, -1)
    place[on] = z
    matrix = encoding.widen(parent.matrix[on])
    encoding.add_rows(sparse.csr_array(_unit(z, encoding.n_columns) - matrix), parent.constant[on], parent.constant[on])
    if unstable.size:
        a = encoding.add_columns(np.zeros(unstable.size), high[unstable])
        d = encoding.add_columns(np.zeros(unstable.size), np.ones(unstable.size), integer=True)
        pick_a, pick_d, pick_z = (_unit(c, encoding.n_columns) for c in (a, d, place[unstable]))
        none = np.full(unstable.size, np.inf)
        encoding.add_rows(sparse.csr_array(pick_a - pick_z), np.zeros(unstable.size), none)
        with_low = pick_a - pick_z - sparse.diags_array(low[unstable]) @ pick_d
        encoding.add_rows(sparse.csr_array(with_low), -none, -low[unstable])
        with_high = pick_a - sparse.diags_array(high[unstable]) @ pick_d
        encoding.add_rows(sparse.csr_array(with_high), -none, np.zeros(unstable.size))
        place[unstable] = a
    kept = np.flatnonzero(place >= 0)
    shape = (low.size, encoding.n_columns)
    return Expression(sparse.csr_array((np.ones(kept.size), (kept, place[kept])), shape=shape), np.zeros(low.size))


def _unit(columns: np.ndarray, width: int) -> Sparse:
    from scipy import sparse

    return sparse.csr_array((np.ones(columns.size), (np.arange(columns.size), columns)), shape=(columns.size, width))


def add_linf_distance(encoding: Encoding, center: np.ndarray, reach: float) -> int:
    """A column e >= |x_i - center_i| for every input i, at most `reach`: to be minimised. Returns its index."""
    from scipy import sparse

    e = encoding.add_columns(np.zeros(1), np.array([reach]))
    size = center.size
    pick_x = _unit(np.arange(size), encoding.n_columns)
    pick_e = _unit(np.repeat(e, size), encoding.n_columns)
    none = np.full(size, np.inf)
    encoding.add_rows(sparse.csr_array(pick_x - pick_e), -none, center)
    encoding.add_rows(sparse.csr_array(pick_x + pick_e), center, none)
    return int(e[0])


def add_l1_ball(encoding: Encoding, ball: LpBall) -> None:
    """|x - center|_1 <= radius by split differences: x = center + p - q, sum(p + q) <= radius."""
    from scipy import sparse

    size = ball.size
    center = np.array([float(c) for c in ball.center])
    reach = np.full(size, float(ball.radius + Fraction(1, 10**9)))
    p = encoding.add_columns(np.zeros(size), reach)
    q = encoding.add_columns(np.zeros(size), reach)
    x = _unit(np.arange(size), encoding.n_columns)
    split = x - _unit(p, encoding.n_columns) + _unit(q, encoding.n_columns)
    encoding.add_rows(sparse.csr_array(split), center, center)
    total = sparse.csr_array(
        (np.ones(2 * size), (np.zeros(2 * size, dtype=int), np.concatenate([p, q]))), shape=(1, encoding.n_columns)
    )
    encoding.add_rows(total, np.array([-np.inf]), np.array([np.nextafter(float(ball.radius), np.inf)]))

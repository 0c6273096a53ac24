"""A linear map as a sparse matrix: what is left of a convolution when units around it are taken out.

NumPy arrays only. A convolution through a network of which half the units are gone is four times fewer products this
way, and the entries are the same numbers, so that nothing is rounded on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from verifkit.arrays import Array
from verifkit.maps import Entries, Identity, LinearMap, Place, Reshape, Select, Shape, Sum
from verifkit.weighted_maps import Conv, Dense, Scale

EXACT = (Dense, Conv, Scale, Identity, Reshape, Select, Place, Sum)
"""Maps whose entries are floats as they stand; a `Scale` that divides is none."""


@dataclass(frozen=True, eq=False)
class Sparse(LinearMap):
    """out = matrix @ in, over flat arrays; `matrix` is a scipy CSR array of floats."""

    matrix: Any

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return (int(self.matrix.shape[1]),)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (int(self.matrix.shape[0]),)

    @cached_property
    def terms(self) -> int:
        return max(1, int(np.diff(self.matrix.indptr).max(initial=0)))

    @cached_property
    def adjoint_terms(self) -> int:
        return max(1, int(np.diff(self._transposed.indptr).max(initial=0)))

    @cached_property
    def _transposed(self) -> Any:
        return self.matrix.T.tocsr()

    def apply(self, x: Array) -> Array:
        return _times(self.matrix, x)

    def adjoint(self, y: Array) -> Array:
        return _times(self._transposed, y)

    @cached_property
    def absolute(self) -> LinearMap:
        return Sparse(abs(self.matrix))

    def entries(self) -> Entries:
        found = self.matrix.tocoo()
        return Entries(found.row, found.col, found.data)

    def cast(self, convert: Callable[[np.ndarray], Array]) -> LinearMap:
        raise TypeError("a sparse map is in NumPy's arithmetic for good")


def _times(matrix: Any, x: np.ndarray) -> np.ndarray:
    """`(*lead, n)` -> `(*lead, m)`. The result's memory has the lead axes last, which is how the product wants it."""
    product = matrix @ x.reshape(-1, x.shape[-1]).T
    return np.asarray(product.T.reshape(*x.shape[:-1], matrix.shape[0]))


def exact(linear: LinearMap) -> bool:
    """Whether the map can be taken apart entry by entry without rounding."""
    return isinstance(linear, EXACT) and not (isinstance(linear, Scale) and linear.divide)


def vector_map(linear: LinearMap, dtype: np.dtype[Any]) -> LinearMap:
    """An exact map over flat arrays: a `Dense`, an `Identity` or a `Sparse`. Kept on the map, which is immutable."""
    if isinstance(linear, Sparse):
        return linear
    known: dict[np.dtype[Any], LinearMap] = linear.__dict__.setdefault("_vector_maps", {})
    if dtype not in known:
        known[dtype] = _vector_map(linear, dtype)
    return known[dtype]


def _vector_map(linear: LinearMap, dtype: np.dtype[Any]) -> LinearMap:
    if isinstance(linear, Dense) and math.prod(linear.outer) == 1:
        return Dense(linear.weight)
    if isinstance(linear, Identity | Reshape):
        return Identity((math.prod(linear.in_shape),))
    return Sparse(_matrix(linear, dtype))


def _matrix(linear: LinearMap, dtype: np.dtype[Any]) -> Any:
    from scipy import sparse  # 0.2 s to import: only where a network has something other than dense matrices

    e = linear.entries()
    shape = (math.prod(linear.out_shape), math.prod(linear.in_shape))
    return sparse.csr_array((np.asarray(e.values, dtype=dtype), (e.rows, e.cols)), shape=shape)


def columns(linear: LinearMap, kept: np.ndarray, dtype: np.dtype[Any]) -> LinearMap:
    """A map over flat arrays with the columns that are kept."""
    if isinstance(linear, Dense):
        return Dense(linear.weight[:, kept])
    matrix = linear.matrix if isinstance(linear, Sparse) else _matrix(linear, dtype)
    return Sparse(matrix[:, kept])


def rows(linear: LinearMap, kept: np.ndarray, dtype: np.dtype[Any]) -> LinearMap:
    """A map over flat arrays with the rows that are kept."""
    if isinstance(linear, Dense):
        return Dense(linear.weight[kept])
    matrix = linear.matrix if isinstance(linear, Sparse) else _matrix(linear, dtype)
    return Sparse(matrix[kept])

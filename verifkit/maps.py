"""Linear maps: the building blocks of an `Affine` node.

A map knows its shapes, how to apply itself and its transpose to arrays with any number of leading axes, the same map
with absolute weights (interval radii, rounding errors), and its entries as a sparse matrix on demand. It holds weights
and shapes only; no bound is computed here.

Here are the maps without weights, which only move numbers; those with weights are in `verifkit.weighted_maps`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from verifkit.arrays import Array, namespace, scatter_flat, take_flat

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entries:
    """A sparse matrix in coordinates: out[rows] += values * in[cols], over flattened (C order) shapes."""

    rows: np.ndarray
    cols: np.ndarray
    values: np.ndarray


class LinearMap(ABC):
    """A linear map from arrays of `in_shape` to arrays of `out_shape`.

    `terms` is the largest number of products summed into one output entry: what a rounding error bound needs.
    """

    in_shape: Shape
    out_shape: Shape

    @property
    @abstractmethod
    def terms(self) -> int: ...

    @property
    def adjoint_terms(self) -> int:
        """Like `terms`, for the transpose; a safe upper bound where the exact number is not kept."""
        return max(1, math.prod(self.out_shape))

    @abstractmethod
    def apply(self, x: Array) -> Array:
        """(*lead, *in_shape) -> (*lead, *out_shape)."""

    @abstractmethod
    def adjoint(self, y: Array) -> Array:
        """The transpose: (*lead, *out_shape) -> (*lead, *in_shape)."""

    @property
    @abstractmethod
    def absolute(self) -> LinearMap:
        """The same map with the absolute values of its weights."""

    @abstractmethod
    def entries(self) -> Entries:
        """The map as a sparse matrix (a division appears as the rounded reciprocal: see `Scale`)."""

    @abstractmethod
    def cast(self, convert: Callable[[np.ndarray], Array]) -> LinearMap:
        """The same map with `convert` applied to its weights (another dtype, another array library)."""


def lead_shape(x: Array, shape: Shape) -> Shape:
    """The leading axes of `x`, in front of `shape`."""
    return tuple(x.shape[: x.ndim - len(shape)])


class Rearrangement(LinearMap):
    """A map without weights: every entry of the output is one entry of the input, or zero."""

    @property
    def terms(self) -> int:
        return 1

    @property
    def adjoint_terms(self) -> int:
        return 1

    @property
    def absolute(self) -> LinearMap:
        return self

    def cast(self, convert: Callable[[np.ndarray], Array]) -> LinearMap:
        return self


@dataclass(frozen=True, eq=False)
class Identity(Rearrangement):
    """x -> x."""

    in_shape: Shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    def apply(self, x: Array) -> Array:
        return x

    def adjoint(self, y: Array) -> Array:
        return y

    def entries(self) -> Entries:
        index = np.arange(math.prod(self.in_shape))
        return Entries(index, index, np.ones(index.size))


@dataclass(frozen=True, eq=False)
class Reshape(Rearrangement):
    """The same numbers, in C order, in another shape."""

    in_shape: Shape
    out_shape: Shape

    def apply(self, x: Array) -> Array:
        return namespace(x).reshape(x, (*lead_shape(x, self.in_shape), *self.out_shape))

    def adjoint(self, y: Array) -> Array:
        return namespace(y).reshape(y, (*lead_shape(y, self.out_shape), *self.in_shape))

    def entries(self) -> Entries:
        return Identity(self.in_shape).entries()


@dataclass(frozen=True, eq=False)
class Select(Rearrangement):
    """out[k] = in.flat[index[k]], and 0 where the index is -1.

    One class for transpose, slice, gather, expand, zero padding and (by its transpose) concatenation.
    """

    in_shape: Shape
    index: np.ndarray

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.index.shape)

    @cached_property
    def adjoint_terms(self) -> int:
        used = self.index[self.index >= 0]
        return int(np.bincount(used).max()) if used.size else 1

    def apply(self, x: Array) -> Array:
        return take_flat(x, self.index, len(self.in_shape))

    def adjoint(self, y: Array) -> Array:
        flat = scatter_flat(y, self.index, math.prod(self.in_shape))
        return namespace(y).reshape(flat, (*lead_shape(y, self.out_shape), *self.in_shape))

    def entries(self) -> Entries:
        flat = self.index.reshape(-1)
        rows = np.flatnonzero(flat >= 0)
        return Entries(rows, flat[rows], np.ones(rows.size))


@dataclass(frozen=True, eq=False)
class Place(Rearrangement):
    """The transpose of `Select` without repeats: out.flat[index[k]] = in[k], 0 elsewhere (concatenation)."""

    index: np.ndarray
    out_shape: Shape

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.index.shape)

    def apply(self, x: Array) -> Array:
        flat = scatter_flat(x, self.index, math.prod(self.out_shape))
        return namespace(x).reshape(flat, (*lead_shape(x, self.in_shape), *self.out_shape))

    def adjoint(self, y: Array) -> Array:
        return take_flat(y, self.index, len(self.out_shape))

    def entries(self) -> Entries:
        flat = self.index.reshape(-1)
        return Entries(flat, np.arange(flat.size), np.ones(flat.size))

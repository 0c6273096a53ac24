"""Linear maps: the building blocks of an `Affine` node.

A map knows its shapes, how to apply itself and its transpose to arrays with any number of leading axes, the same map
with absolute weights (interval radii, rounding errors), and its entries as a sparse matrix on demand. It holds weights
and shapes only; no bound is computed here.

Here are the maps without weights, which move and add numbers, and the transpose of another map; those with weights
are in `verifkit.weighted_maps`.
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


def _spread(y: Array, index: np.ndarray, size: int) -> Array:
    """`scatter_flat` where no place occurs twice: NumPy need not sort them."""
    if not isinstance(y, np.ndarray):
        return scatter_flat(y, index, size)
    chosen = index.reshape(-1)
    flat = y.reshape(*lead_shape(y, index.shape), -1)
    result = np.zeros((*flat.shape[:-1], size), dtype=y.dtype)
    if (chosen < 0).any():
        kept = np.flatnonzero(chosen >= 0)
        chosen, flat = chosen[kept], flat[..., kept]
    result[..., chosen] = flat
    return result


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
        spread = _spread if self.adjoint_terms == 1 else scatter_flat
        flat = spread(y, self.index, math.prod(self.in_shape))
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
        flat = _spread(x, self.index, math.prod(self.out_shape))
        return namespace(x).reshape(flat, (*lead_shape(x, self.in_shape), *self.out_shape))

    def adjoint(self, y: Array) -> Array:
        return take_flat(y, self.index, len(self.out_shape))

    def entries(self) -> Entries:
        flat = self.index.reshape(-1)
        return Entries(flat, np.arange(flat.size), np.ones(flat.size))


@dataclass(frozen=True, eq=False)
class Sum(LinearMap):
    """The sum over `axes` (counted from the front, ascending), which stay with length 1 if `keepdims`."""

    in_shape: Shape
    axes: tuple[int, ...]
    keepdims: bool = True

    @cached_property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self._kept if self.keepdims else tuple(n for i, n in enumerate(self.in_shape) if i not in self.axes)

    @property
    def _kept(self) -> Shape:
        return tuple(1 if i in self.axes else n for i, n in enumerate(self.in_shape))

    @property
    def terms(self) -> int:
        return max(1, math.prod(self.in_shape[axis] for axis in self.axes))

    @property
    def adjoint_terms(self) -> int:
        return 1

    def apply(self, x: Array) -> Array:
        from_the_end = tuple(axis - len(self.in_shape) for axis in self.axes)
        return namespace(x).sum(x, axis=from_the_end, keepdims=self.keepdims)

    def adjoint(self, y: Array) -> Array:
        xp, lead = namespace(y), lead_shape(y, self.out_shape)
        return xp.broadcast_to(xp.reshape(y, (*lead, *self._kept)), (*lead, *self.in_shape))

    @property
    def absolute(self) -> LinearMap:
        return self

    def entries(self) -> Entries:
        rows = np.broadcast_to(np.arange(math.prod(self.out_shape)).reshape(self._kept), self.in_shape).reshape(-1)
        return Entries(rows, np.arange(rows.size), np.ones(rows.size))

    def cast(self, convert: Callable[[np.ndarray], Array]) -> LinearMap:
        return self


@dataclass(frozen=True, eq=False)
class Adjoint(LinearMap):
    """The transpose of the map `of`: that of a `Conv` is ONNX's ConvTranspose, without bias."""

    of: LinearMap

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return self.of.out_shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.of.in_shape

    @property
    def terms(self) -> int:
        return self.of.adjoint_terms

    @property
    def adjoint_terms(self) -> int:
        return self.of.terms

    def apply(self, x: Array) -> Array:
        return self.of.adjoint(x)

    def adjoint(self, y: Array) -> Array:
        return self.of.apply(y)

    @cached_property
    def absolute(self) -> LinearMap:
        return Adjoint(self.of.absolute)

    def entries(self) -> Entries:
        forward = self.of.entries()
        return Entries(forward.cols, forward.rows, forward.values)

    def cast(self, convert: Callable[[np.ndarray], Array]) -> LinearMap:
        return Adjoint(self.of.cast(convert))

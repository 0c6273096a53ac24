"""Linear maps: the building blocks of an `Affine` node.

A map knows its shapes, how to apply itself and its transpose to arrays with any number of leading axes, the same map
with absolute weights (interval radii, rounding errors), and its entries as a sparse matrix on demand. It holds weights
and shapes only; no bound is computed here.

Weights are kept as float64, which holds every float32 and float16 weight exactly. `Scale(divide=True)` exists so that
a division (average pooling, ONNX `Div`) stays the exact quotient instead of a rounded reciprocal.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from verifkit.arrays import Array, convolve, convolve_transpose, namespace, scatter_flat, take_flat

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


def _lead(x: Array, shape: Shape) -> Shape:
    return tuple(x.shape[: x.ndim - len(shape)])


@dataclass(frozen=True, eq=False)
class Identity(LinearMap):
    """x -> x."""

    in_shape: Shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    @property
    def terms(self) -> int:
        return 1

    @property
    def adjoint_terms(self) -> int:
        return 1

    def apply(self, x: Array) -> Array:
        return x

    def adjoint(self, y: Array) -> Array:
        return y

    @property
    def absolute(self) -> LinearMap:
        return self

    def entries(self) -> Entries:
        index = np.arange(math.prod(self.in_shape))
        return Entries(index, index, np.ones(index.size))

    def cast(self, convert: Callable[[np.ndarray], Array]) -> LinearMap:
        return self


@dataclass(frozen=True, eq=False)
class Reshape(LinearMap):
    """The same numbers, in C order, in another shape."""

    in_shape: Shape
    out_shape: Shape

    @property
    def terms(self) -> int:
        return 1

    @property
    def adjoint_terms(self) -> int:
        return 1

    def apply(self, x: Array) -> Array:
        return namespace(x).reshape(x, (*_lead(x, self.in_shape), *self.out_shape))

    def adjoint(self, y: Array) -> Array:
        return namespace(y).reshape(y, (*_lead(y, self.out_shape), *self.in_shape))

    @property
    def absolute(self) -> LinearMap:
        return self

    def entries(self) -> Entries:
        return Identity(self.in_shape).entries()

    def cast(self, convert: Callable[[np.ndarray], Array]) -> LinearMap:
        return self


@dataclass(frozen=True, eq=False)
class Select(LinearMap):
    """out[k] = in.flat[index[k]], and 0 where the index is -1.

    One class for transpose, slice, gather, expand, zero padding and (by its transpose) concatenation.
    """

    in_shape: Shape
    index: np.ndarray

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.index.shape)

    @property
    def terms(self) -> int:
        return 1

    @cached_property
    def adjoint_terms(self) -> int:
        used = self.index[self.index >= 0]
        return int(np.bincount(used).max()) if used.size else 1

    def apply(self, x: Array) -> Array:
        return take_flat(x, self.index, len(self.in_shape))

    def adjoint(self, y: Array) -> Array:
        flat = scatter_flat(y, self.index, math.prod(self.in_shape))
        return namespace(y).reshape(flat, (*_lead(y, self.out_shape), *self.in_shape))

    @property
    def absolute(self) -> LinearMap:
        return self

    def entries(self) -> Entries:
        flat = self.index.reshape(-1)
        rows = np.flatnonzero(flat >= 0)
        return Entries(rows, flat[rows], np.ones(rows.size))

    def cast(self, convert: Callable[[np.ndarray], Array]) -> LinearMap:
        return self


@dataclass(frozen=True, eq=False)
class Place(LinearMap):
    """The transpose of `Select` without repeats: out.flat[index[k]] = in[k], 0 elsewhere (concatenation)."""

    index: np.ndarray
    out_shape: Shape

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.index.shape)

    @property
    def terms(self) -> int:
        return 1

    @property
    def adjoint_terms(self) -> int:
        return 1

    def apply(self, x: Array) -> Array:
        flat = scatter_flat(x, self.index, math.prod(self.out_shape))
        return namespace(x).reshape(flat, (*_lead(x, self.in_shape), *self.out_shape))

    def adjoint(self, y: Array) -> Array:
        return take_flat(y, self.index, len(self.out_shape))

    @property
    def absolute(self) -> LinearMap:
        return self

    def entries(self) -> Entries:
        flat = self.index.reshape(-1)
        return Entries(flat, np.arange(flat.size), np.ones(flat.size))

    def cast(self, convert: Callable[[np.ndarray], Array]) -> LinearMap:
        return self


@dataclass(frozen=True, eq=False)
class Scale(LinearMap):
    """x -> x * factor, or x / factor with `divide`; `factor` has the full shape."""

    factor: Array
    divide: bool = False

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.factor.shape)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.factor.shape)

    @property
    def terms(self) -> int:
        return 1

    @property
    def adjoint_terms(self) -> int:
        return 1

    def apply(self, x: Array) -> Array:
        return x / self.factor if self.divide else x * self.factor

    def adjoint(self, y: Array) -> Array:
        return self.apply(y)

    @cached_property
    def absolute(self) -> LinearMap:
        return replace(self, factor=namespace(self.factor).abs(self.factor))

    def entries(self) -> Entries:
        factor = np.asarray(self.factor).reshape(-1)
        index = np.arange(factor.size)
        return Entries(index, index, 1.0 / factor if self.divide else factor)

    def cast(self, convert: Callable[[np.ndarray], Array]) -> LinearMap:
        return replace(self, factor=convert(self.factor))


@dataclass(frozen=True, eq=False)
class Dense(LinearMap):
    """A matrix on the last axis: out[..., i] = sum_j weight[i, j] in[..., j]. `outer` are the axes before it."""

    weight: Array
    outer: Shape = ()

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return (*self.outer, int(self.weight.shape[1]))

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (*self.outer, int(self.weight.shape[0]))

    @property
    def terms(self) -> int:
        return int(self.weight.shape[1])

    @property
    def adjoint_terms(self) -> int:
        return int(self.weight.shape[0])

    def apply(self, x: Array) -> Array:
        return x @ self.weight.T

    def adjoint(self, y: Array) -> Array:
        return y @ self.weight

    @cached_property
    def absolute(self) -> LinearMap:
        return replace(self, weight=namespace(self.weight).abs(self.weight))

    def entries(self) -> Entries:
        weight = np.asarray(self.weight)
        rows, cols = np.nonzero(weight)
        values = weight[rows, cols]
        copies = math.prod(self.outer)
        offset = np.arange(copies)[:, None]
        return Entries(
            (rows[None] + offset * weight.shape[0]).reshape(-1),
            (cols[None] + offset * weight.shape[1]).reshape(-1),
            np.tile(values, copies),
        )

    def cast(self, convert: Callable[[np.ndarray], Array]) -> LinearMap:
        return replace(self, weight=convert(self.weight))


@dataclass(frozen=True, eq=False)
class Conv(LinearMap):
    """Convolution (ONNX `Conv`, without bias): in (batch, channels, *spatial), 1 to 3 spatial axes."""

    weight: Array
    in_shape: Shape
    strides: Shape
    pads: tuple[tuple[int, int], ...]
    dilations: Shape
    groups: int = 1

    @cached_property
    def out_shape(self) -> Shape:  # type: ignore[override]
        kernel = self.weight.shape[2:]
        spatial = tuple(
            (size + a + b - d * (k - 1) - 1) // s + 1
            for size, (a, b), k, d, s in zip(
                self.in_shape[2:], self.pads, kernel, self.dilations, self.strides, strict=True
            )
        )
        return (self.in_shape[0], int(self.weight.shape[0]), *spatial)

    @property
    def terms(self) -> int:
        return int(math.prod(self.weight.shape[1:]))

    @property
    def adjoint_terms(self) -> int:
        return int(self.weight.shape[0]) // self.groups * int(math.prod(self.weight.shape[2:]))

    def apply(self, x: Array) -> Array:
        xp, lead = namespace(x), _lead(x, self.in_shape)
        batch = xp.reshape(x, (-1, *self.in_shape[1:]))
        y = convolve(
            batch, self.weight, strides=self.strides, pads=self.pads, dilations=self.dilations, groups=self.groups
        )
        return xp.reshape(y, (*lead, *self.out_shape))

    def adjoint(self, y: Array) -> Array:
        xp, lead = namespace(y), _lead(y, self.out_shape)
        x = convolve_transpose(
            xp.reshape(y, (-1, *self.out_shape[1:])),
            self.weight,
            spatial=self.in_shape[2:],
            strides=self.strides,
            pads=self.pads,
            dilations=self.dilations,
            groups=self.groups,
        )
        return xp.reshape(x, (*lead, *self.in_shape))

    @cached_property
    def absolute(self) -> LinearMap:
        return replace(self, weight=namespace(self.weight).abs(self.weight))

    def entries(self) -> Entries:
        # Each output entry reads one window of input places: let the convolution itself list them, by number.
        weight = np.asarray(self.weight, dtype=np.float64)
        out_channels, per_group = weight.shape[:2]
        kernel, n = weight.shape[2:], len(self.strides)
        numbers = np.arange(1, math.prod(self.in_shape) + 1).reshape(self.in_shape)  # 0 stands for padding
        padded = np.pad(numbers, [(0, 0), (0, 0), *self.pads])
        reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, self.dilations, strict=True))
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + n)))
        step = tuple(slice(None, None, s) for s in self.strides)
        hole = tuple(slice(None, None, d) for d in self.dilations)
        windows = windows[(slice(None), slice(None), *step, *hole)]
        batch, out = self.in_shape[0], self.out_shape[2:]
        grouped = windows.reshape(batch, self.groups, 1, per_group, *out, *kernel)
        grouped = np.broadcast_to(grouped, (batch, self.groups, out_channels // self.groups, per_group, *out, *kernel))
        values = weight.reshape(1, self.groups, -1, per_group, *(1,) * n, *kernel)
        rows = np.arange(math.prod(self.out_shape)).reshape(batch, self.groups, -1, 1, *out, *(1,) * n)
        rows, values = np.broadcast_to(rows, grouped.shape), np.broadcast_to(values, grouped.shape)
        kept = (grouped > 0) & (values != 0)
        return Entries(rows[kept], grouped[kept] - 1, values[kept])

    def cast(self, convert: Callable[[np.ndarray], Array]) -> LinearMap:
        return replace(self, weight=convert(self.weight))

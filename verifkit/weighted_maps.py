"""The linear maps that carry weights: scaling, dense matrices, convolution.

Weights are kept as float64, which holds every float32 and float16 weight exactly. `Scale(divide=True)` exists so that a
division (average pooling, ONNX `Div`) stays the exact quotient instead of a rounded reciprocal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from verifkit.arrays import Array, convolve, convolve_transpose, namespace
from verifkit.maps import Entries, LinearMap, Shape, lead_shape


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
        return _rowwise(x, self.weight.T)

    def adjoint(self, y: Array) -> Array:
        return _rowwise(y, self.weight)

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


def _rowwise(x: Array, matrix: Array) -> Array:
    """x @ matrix with all leading axes as one: a product of matrices, not one for each of them."""
    if x.ndim <= 2:
        return x @ matrix
    xp = namespace(x)
    return xp.reshape(xp.reshape(x, (-1, x.shape[-1])) @ matrix, (*x.shape[:-1], matrix.shape[1]))


@dataclass(frozen=True, eq=False)
class BatchedDense(LinearMap):
    """One matrix for each of several batches: out[..., r, i] = sum_j weight[..., i, j] in[..., r, j].

    weight: (*batch, n_out, n_in); in: (*batch, rows, n_in).
    """

    weight: Array
    rows: int

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return (*self.weight.shape[:-2], self.rows, int(self.weight.shape[-1]))

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (*self.weight.shape[:-2], self.rows, int(self.weight.shape[-2]))

    @property
    def terms(self) -> int:
        return int(self.weight.shape[-1])

    @property
    def adjoint_terms(self) -> int:
        return int(self.weight.shape[-2])

    def apply(self, x: Array) -> Array:
        return x @ self.weight.mT

    def adjoint(self, y: Array) -> Array:
        return y @ self.weight

    @cached_property
    def absolute(self) -> LinearMap:
        return replace(self, weight=namespace(self.weight).abs(self.weight))

    def entries(self) -> Entries:
        weight = np.asarray(self.weight)
        full = np.broadcast_to(weight[..., None, :, :], (*weight.shape[:-2], self.rows, *weight.shape[-2:]))
        rows = np.arange(math.prod(self.out_shape)).reshape(*self.out_shape, 1)
        cols = np.arange(math.prod(self.in_shape)).reshape(*self.in_shape[:-1], 1, self.in_shape[-1])
        kept = full != 0
        return Entries(np.broadcast_to(rows, full.shape)[kept], np.broadcast_to(cols, full.shape)[kept], full[kept])

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
        xp, lead = namespace(x), lead_shape(x, self.in_shape)
        batch = xp.reshape(x, (-1, *self.in_shape[1:]))
        y = convolve(
            batch, self.weight, strides=self.strides, pads=self.pads, dilations=self.dilations, groups=self.groups
        )
        return xp.reshape(y, (*lead, *self.out_shape))

    def adjoint(self, y: Array) -> Array:
        xp, lead = namespace(y), lead_shape(y, self.out_shape)
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

"""How each linear map is written as ONNX: a rule from (steps, map, input tensor, name) to the output tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from verifkit.io.writing.steps import Steps
from verifkit.maps import Adjoint, Identity, LinearMap, Place, Reshape, Select, Shape, Sum
from verifkit.weighted_maps import BatchedDense, Conv, Dense, Scale


def write_map(steps: Steps, linear: LinearMap, x: str, name: str) -> str:
    """The tensor that is `linear` of tensor `x`; a map of another class is written as its matrix."""
    for kind, rule in _MAPS.items():
        if isinstance(linear, kind):
            return rule(steps, linear, x, name)
    return _matrix(steps, linear, x, name)


def _dense(steps: Steps, linear: Dense, x: str, name: str) -> str:
    weight = steps.constant(np.asarray(linear.weight).T, f"{name}/weight")
    return steps.step("MatMul", [x, weight], name)


def _batched_dense(steps: Steps, linear: BatchedDense, x: str, name: str) -> str:
    weight = steps.constant(np.asarray(linear.weight).mT, f"{name}/weight")
    return steps.step("MatMul", [x, weight], name)


def _scale(steps: Steps, linear: Scale, x: str, name: str) -> str:
    factor = steps.constant(np.asarray(linear.factor), f"{name}/factor")
    return steps.step("Div" if linear.divide else "Mul", [x, factor], name)


def _place(steps: Steps, linear: Place, x: str, name: str) -> str:
    inverse = np.full(math.prod(linear.out_shape), -1)
    inverse[linear.index.reshape(-1)] = np.arange(linear.index.size)
    return steps.gather(x, linear.in_shape, inverse.reshape(linear.out_shape), name)


def _sum(steps: Steps, linear: Sum, x: str, name: str) -> str:
    # An axis of length 1 may be the batch, which must not be summed.
    axes = [axis for axis in linear.axes if linear.in_shape[axis] != 1]
    if axes:
        x = steps.step("ReduceSum", [x, steps.integers(axes, f"{name}/axes")], f"{name}/sum", keepdims=1)
    return steps.reshape(x, linear.out_shape, name)


def _conv(steps: Steps, linear: Conv, x: str, name: str) -> str:
    weight = np.asarray(linear.weight)
    if steps.double:
        numbers = np.arange(1, math.prod(linear.in_shape) + 1).reshape(linear.in_shape)  # 0 stands for padding
        padded = np.pad(numbers, [(0, 0), (0, 0), *linear.pads])
        return _windows(steps, linear, linear, padded, weight, linear.strides, x, name)
    return steps.step(
        "Conv",
        [x, steps.constant(weight, f"{name}/weight")],
        name,
        group=linear.groups,
        pads=_ends(linear),
        strides=list(linear.strides),
        dilations=list(linear.dilations),
        kernel_shape=list(weight.shape[2:]),
    )


def _ends(conv: Conv) -> list[int]:
    return [a for a, _ in conv.pads] + [z for _, z in conv.pads]


def _adjoint(steps: Steps, linear: Adjoint, x: str, name: str) -> str:
    conv = linear.of
    if not isinstance(conv, Conv):
        return _matrix(steps, linear, x, name)
    weight = np.asarray(conv.weight)
    kernel, out = weight.shape[2:], conv.in_shape[2:]
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, conv.dilations, strict=True)]
    left = [
        (size + a + z - r) % s for size, (a, z), r, s in zip(out, conv.pads, reach, conv.strides, strict=True)
    ]  # places that no window of the convolution reaches
    if steps.double:
        return _double_transpose(steps, linear, conv, (reach, left), x, name)
    return steps.step(
        "ConvTranspose",
        [x, steps.constant(weight, f"{name}/weight")],
        name,
        group=conv.groups,
        pads=_ends(conv),
        strides=list(conv.strides),
        dilations=list(conv.dilations),
        kernel_shape=list(kernel),
        output_padding=left,
    )


def _double_transpose(
    steps: Steps, linear: Adjoint, conv: Conv, ends: tuple[list[int], list[int]], x: str, name: str
) -> str:
    """A transposed convolution is one with the kernel turned round, over an input with zeros between its entries."""
    n = len(conv.strides)
    numbers = np.arange(1, math.prod(linear.in_shape) + 1).reshape(linear.in_shape)
    apart = np.zeros(
        (*numbers.shape[:2], *((size - 1) * s + 1 for size, s in zip(numbers.shape[2:], conv.strides, strict=True))),
        dtype=numbers.dtype,
    )
    apart[(slice(None), slice(None), *(slice(None, None, s) for s in conv.strides))] = numbers
    widths = [(r - 1, r - 1 + more) for r, more in zip(*ends, strict=True)]
    padded = np.pad(apart, [(0, 0), (0, 0), *widths])
    inner = tuple(slice(a, size - z) for (a, z), size in zip(conv.pads, padded.shape[2:], strict=True))
    weight = np.asarray(conv.weight)
    per_group = weight.shape[0] // conv.groups
    turned = weight.reshape(conv.groups, per_group, *weight.shape[1:]).swapaxes(1, 2)
    turned = np.flip(turned.reshape(-1, per_group, *weight.shape[2:]), axis=tuple(range(2, 2 + n)))
    return _windows(steps, linear, conv, padded[(slice(None), slice(None), *inner)], turned, (1,) * n, x, name)


def _windows(
    steps: Steps,
    linear: LinearMap,
    conv: Conv,
    padded: np.ndarray,
    weight: np.ndarray,
    strides: Shape,
    x: str,
    name: str,
) -> str:
    """onnxruntime convolves no doubles on a CPU: gather the windows, and multiply by a matrix per group.

    linear is `conv` or its transpose. padded: the places of x, counted from 1, where the windows of `weight` read
    them; 0 for padding.
    """
    groups, channels, n = conv.groups, padded.shape[1], len(strides)
    reach = tuple(d * (k - 1) + 1 for k, d in zip(weight.shape[2:], conv.dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + n)))
    step = tuple(slice(None, None, s) for s in strides)
    hole = tuple(slice(None, None, d) for d in conv.dilations)
    windows = windows[(slice(None), slice(None), *step, *hole)] - 1  # (batch, channels, *out, *kernel), -1: padding
    batch, positions = padded.shape[0], math.prod(linear.out_shape[2:])
    columns = windows.reshape(batch, groups, channels // groups, positions, -1).swapaxes(2, 3)
    columns = columns.reshape(batch, groups, positions, -1)
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1).swapaxes(1, 2)
    gathered = steps.gather(x, linear.in_shape, columns, f"{name}/windows")
    product = steps.step("MatMul", [gathered, steps.constant(matrix, f"{name}/weight")], f"{name}/product")
    turned = steps.step("Transpose", [product], f"{name}/transposed", perm=[0, 1, 3, 2])
    return steps.reshape(turned, linear.out_shape, name)


def _matrix(steps: Steps, linear: LinearMap, x: str, name: str) -> str:
    """A map of another class, as the matrix of its entries."""
    entries = linear.entries()
    matrix = np.zeros((math.prod(linear.in_shape), math.prod(linear.out_shape)))
    np.add.at(matrix, (entries.cols, entries.rows), entries.values)
    flat = steps.flat(x, linear.in_shape, name)
    product = steps.step("MatMul", [flat, steps.constant(matrix, f"{name}/weight")], f"{name}/product")
    return steps.reshape(product, linear.out_shape, name)


_MAPS: dict[type[LinearMap], Callable[[Steps, Any, str, str], str]] = {
    Identity: lambda steps, linear, x, name: x,
    Reshape: lambda steps, linear, x, name: steps.reshape(x, linear.out_shape, name),
    Select: lambda steps, linear, x, name: steps.gather(x, linear.in_shape, linear.index, name),
    Place: _place,
    Sum: _sum,
    Scale: _scale,
    Dense: _dense,
    BatchedDense: _batched_dense,
    Conv: _conv,
    Adjoint: _adjoint,
}

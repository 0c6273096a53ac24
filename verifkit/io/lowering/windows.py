"""Lowering rules for the operators that slide a window over spatial axes: convolution, its transpose, and pooling.

Pool sizes follow onnxruntime: with `ceil_mode`, a last window that would start beyond the input and its left padding
is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifkit.errors import UnsupportedOperator
from verifkit.io.lowering.arguments import Args, constant, reference
from verifkit.io.lowering.builder import Builder, Ref, Value
from verifkit.io.lowering.graph import OnnxNode
from verifkit.maps import Adjoint, LinearMap, Select, Shape
from verifkit.weighted_maps import Conv

_AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Windows:
    """The windows of a convolution or pool over `spatial` axes.

    pads: as the model states them, the right ones without what `ceil_mode` adds; `reach` is the length that a window
    covers, holes of the dilation included; `out` the number of windows per axis.
    """

    spatial: Shape
    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: tuple[tuple[int, int], ...]
    out: Shape

    @property
    def reach(self) -> Shape:
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def needed_pads(self) -> tuple[tuple[int, int], ...]:
        """The pads with which a plain convolution yields exactly `out` windows."""
        pads = []
        for n, (a, z), reach, step, out in zip(
            self.spatial, self.pads, self.reach, self.strides, self.out, strict=True
        ):
            exact = (out - 1) * step + reach - n - a
            pads.append((a, z if (n + a + z - reach) // step + 1 == out else max(exact, 0)))
        return tuple(pads)

    def positions(self, axis: int) -> np.ndarray:
        """(out, kernel): the places of every window along the axis; negative or >= spatial in the padding."""
        starts = np.arange(self.out[axis]) * self.strides[axis] - self.pads[axis][0]
        return starts[:, None] + np.arange(self.kernel[axis]) * self.dilations[axis]


def read_windows(node: OnnxNode, spatial: Shape, kernel: Sequence[int], *, pool: bool = True) -> Windows:
    """The windows that the node's attributes describe, auto_pad worked out.

    Refuses what onnxruntime does not run, or runs otherwise than ONNX says: SAME_* with dilations; in a pool pads as
    wide as the kernel, and SAME_* where the last window would not reach the end.
    """
    attributes, n = node.attributes, len(spatial)
    if not 1 <= n <= 3:
        raise node.refuse(f"it has {n} spatial axes: 1 to 3 are lowered")
    strides = tuple(attributes.get("strides", (1,) * n))
    dilations = tuple(attributes.get("dilations", (1,) * n))
    explicit = tuple(attributes.get("pads", (0,) * (2 * n)))
    auto = attributes.get("auto_pad", "NOTSET")
    if auto not in _AUTO_PADS:
        raise node.refuse(f"auto_pad '{auto}' is none of {', '.join(_AUTO_PADS)}")
    if any(len(v) != n for v in (strides, dilations, kernel)) or len(explicit) != 2 * n:
        raise node.refuse(f"its kernel, strides, dilations or pads do not fit {n} spatial axes")
    if min(*strides, *dilations, *kernel) < 1 or min(explicit) < 0:
        raise node.refuse("its kernel, strides and dilations must be positive and its pads not negative")
    ceil = node.flag("ceil_mode")
    if ceil and auto != "NOTSET":
        raise node.refuse(f"ceil_mode together with auto_pad '{auto}' is not lowered")
    same = auto.startswith("SAME")
    if same and max(dilations) > 1:
        raise node.refuse(f"auto_pad '{auto}' together with dilations is not lowered")
    pads, out = [], []
    for axis, (size, k, s, d) in enumerate(zip(spatial, kernel, strides, dilations, strict=True)):
        reach = d * (k - 1) + 1
        a, z = (explicit[axis], explicit[axis + n]) if auto == "NOTSET" else (0, 0)
        if same:
            total = (-(-size // s) - 1) * s + reach - size
            if pool and total < 0:
                raise node.refuse(f"auto_pad '{auto}' would crop axis {axis}, whose stride is wider than its kernel")
            total = max(total, 0)
            a, z = (total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2)
        if pool and max(a, z) >= k:
            raise node.refuse(f"axis {axis} is padded by {max(a, z)} places, as many as its kernel has ({k}) or more")
        room = size + a + z - reach
        if room < 0:
            raise node.refuse(f"its window covers {reach} places, but axis {axis} has {size + a + z} with padding")
        count = room // s + 1
        if ceil and room % s and count * s < size + a:
            count += 1
        pads.append((a, z))
        out.append(count)
    return Windows(spatial, tuple(kernel), strides, dilations, tuple(pads), tuple(out))


def conv(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    weight, groups, kernel = _weight(b, node, args, x)
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise _misfit(node, weight, groups, x)
    w = read_windows(node, x.shape[2:], kernel, pool=False)
    return _with_bias(b, x, Conv(weight, x.shape, w.strides, w.pads, w.dilations, groups), args)


def conv_transpose(b: Builder, node: OnnxNode, args: Args) -> Value:
    """The transpose of the convolution that maps the output's shape to the input's."""
    x = reference(node, args[0])
    weight, groups, kernel = _weight(b, node, args, x)
    if x.shape[1] != weight.shape[0] or weight.shape[0] % groups:
        raise _misfit(node, weight, groups, x)
    n = len(kernel)
    strides, dilations = (tuple(node.attributes.get(k, (1,) * n)) for k in ("strides", "dilations"))
    extra = tuple(node.attributes.get("output_padding", (0,) * n))
    if any(len(v) != n for v in (strides, dilations, extra)) or min(*strides, *dilations) < 1 or min(extra) < 0:
        raise node.refuse(f"its strides, dilations or output_padding do not fit {n} spatial axes")
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True))
    full = tuple((size - 1) * s + r for size, s, r in zip(x.shape[2:], strides, reach, strict=True))
    spatial, pads = [], []
    for axis, (a, out) in enumerate(_transposed_places(node, x.shape[2:], full, strides, extra)):
        z = full[axis] - a - out
        if a < 0 or -z >= strides[axis] or out < 1:
            raise node.refuse(
                f"axis {axis} of its output, of length {out} with {a} places cut in front, reaches beyond what its "
                f"windows write: only pads from 0 up and an output_padding below the stride are lowered"
            )
        spatial.append(out)
        pads.append((a, max(z, 0)))
    shape = (x.shape[0], weight.shape[1] * groups, *spatial)
    return _with_bias(b, x, Adjoint(Conv(weight, shape, strides, tuple(pads), dilations, groups)), args)


def _transposed_places(
    node: OnnxNode, sizes: Shape, full: Shape, strides: Shape, extra: Shape
) -> list[tuple[int, int]]:
    """For each axis how many places of `full` are cut in front, and how many there are in the output."""
    n, attributes = len(full), node.attributes
    auto = attributes.get("auto_pad", "NOTSET")
    explicit = tuple(attributes.get("pads", (0,) * (2 * n)))
    if auto not in _AUTO_PADS:
        raise node.refuse(f"auto_pad '{auto}' is none of {', '.join(_AUTO_PADS)}")
    if len(explicit) != 2 * n or min(explicit) < 0:
        raise node.refuse(f"its pads do not fit {n} spatial axes, or are negative")
    wanted = tuple(attributes.get("output_shape", ()))
    if len(wanted) not in (0, n):
        raise node.refuse(f"its output_shape {list(wanted)} does not have {n} axes")
    places = []
    for axis, (size, more) in enumerate(zip(full, extra, strict=True)):
        if wanted or auto.startswith("SAME"):
            # SAME_*: inputs times the stride, or fewer. Only SAME_UPPER cuts the odd place at the end.
            target = wanted[axis] if wanted else sizes[axis] * strides[axis]
            total = max(0, size + more - target)
            out = target if wanted else size + more - total
            places.append((total // 2 if auto == "SAME_UPPER" else total - total // 2, out))
        else:
            a, z = (0, 0) if auto == "VALID" else (explicit[axis], explicit[axis + n])
            places.append((a, size + more - a - z))
    return places


def _weight(b: Builder, node: OnnxNode, args: Args, x: Ref) -> tuple[np.ndarray, int, Shape]:
    """The weights, the number of groups and the kernel's shape of a convolution or its transpose."""
    weight, groups = b.weights(constant(node, args[1], "weights")), int(node.attributes.get("group", 1))
    kernel = tuple(node.attributes.get("kernel_shape", weight.shape[2:]))
    if not 3 <= len(x.shape) <= 5:
        raise node.refuse(f"it has {len(x.shape) - 2} spatial axes: 1 to 3 are lowered")
    if weight.ndim != len(x.shape) or groups < 1 or kernel != weight.shape[2:]:
        raise _misfit(node, weight, groups, x)
    return weight, groups, kernel


def _misfit(node: OnnxNode, weight: np.ndarray, groups: int, x: Ref) -> UnsupportedOperator:
    return node.refuse(
        f"weights of shape {list(weight.shape)} in {groups} groups do not fit an input of shape {list(x.shape)}"
    )


def _with_bias(b: Builder, x: Ref, linear: LinearMap, args: Args) -> Value:
    bias = args[2] if len(args) > 2 else None
    channels, column = linear.out_shape[1], (-1, *(1,) * (len(linear.out_shape) - 2))
    if bias is not None and bias.shape != (channels,):
        raise b.node.refuse(f"its bias of shape {list(bias.shape)} does not fit {channels} channels")
    if isinstance(bias, Ref):
        index = np.arange(channels).reshape(column)
        spread = Select(bias.shape, np.array(np.broadcast_to(index, linear.out_shape)))
        return b.affine([(x, linear), (bias, spread)])
    return b.affine([(x, linear)], None if bias is None else b.weights(bias).reshape(column))


def average_pool(b: Builder, node: OnnxNode, args: Args) -> Value:
    """The sum of each window, by a convolution with ones, divided by how many places the window counts."""
    x = reference(node, args[0])
    w = read_windows(node, x.shape[2:], node.attributes["kernel_shape"])
    include_pad = node.flag("count_include_pad")
    counts = np.ones(())
    for axis, (size, (a, z)) in enumerate(zip(w.spatial, w.pads, strict=True)):
        low, high = (-a, size + z) if include_pad else (0, size)
        places = w.positions(axis)
        counts = np.multiply.outer(counts, ((places >= low) & (places < high)).sum(axis=1).astype(np.float64))
    if not counts.all():
        raise node.refuse("one of its windows lies wholly in the padding")
    channels = x.shape[1]
    ones = np.ones((channels, 1, *w.kernel))
    total = Conv(ones, x.shape, w.strides, w.needed_pads(), w.dilations, channels)
    return b.scale(b.affine([(x, total)], step="sum"), counts, divide=True)


def max_pool(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    if node.attributes.get("storage_order", 0):
        raise node.refuse("storage_order 1 is not lowered")
    w = read_windows(node, x.shape[2:], node.attributes["kernel_shape"])
    numbers = np.arange(math.prod(x.shape)).reshape(x.shape)
    columns = []
    for offset in itertools.product(*(range(k) for k in w.kernel)):
        picked, inside = numbers, np.ones((), dtype=bool)
        for axis, k in enumerate(offset):
            place = w.positions(axis)[:, k]
            picked = picked.take(np.clip(place, 0, w.spatial[axis] - 1), axis=2 + axis)
            inside = np.logical_and.outer(inside, (place >= 0) & (place < w.spatial[axis]))
        columns.append(np.where(inside, picked, -1))
    groups = np.stack(columns, axis=-1)
    if (groups < 0).any():
        # Places in the padding take no part: behind the others, each window's first entry is then one of the input.
        groups = np.take_along_axis(groups, np.argsort(groups < 0, axis=-1, kind="stable"), axis=-1)
        if (groups[..., 0] < 0).any():
            raise node.refuse("one of its windows lies wholly in the padding")
    return b.maximum(x, groups)

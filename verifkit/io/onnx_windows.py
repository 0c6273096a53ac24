"""Lowering rules for the operators that slide a window over spatial axes: convolution and pooling.

Pool sizes follow onnxruntime: with `ceil_mode`, a last window that would start beyond the input and its left padding
is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifkit.io.onnx_builder import Builder, Ref, Value
from verifkit.io.onnx_graph import OnnxNode
from verifkit.io.onnx_shapes import Args, reference
from verifkit.maps import Select, Shape
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
    ceil = bool(attributes.get("ceil_mode", 0))
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
    if not isinstance(args[1], np.ndarray):
        raise node.refuse("its weights depend on the network's input")
    weight = b.weights(args[1])
    groups = int(node.attributes.get("group", 1))
    if len(x.shape) < 3 or weight.ndim != len(x.shape) or groups < 1:
        raise node.refuse(f"weights of shape {list(weight.shape)} do not fit an input of shape {list(x.shape)}")
    kernel = tuple(node.attributes.get("kernel_shape", weight.shape[2:]))
    if kernel != weight.shape[2:] or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise node.refuse(
            f"weights of shape {list(weight.shape)} in {groups} groups do not fit an input of shape {list(x.shape)}"
        )
    w = read_windows(node, x.shape[2:], kernel, pool=False)
    linear = Conv(weight, x.shape, w.strides, w.pads, w.dilations, groups)
    bias = args[2] if len(args) > 2 else None
    column = (-1, *(1,) * len(kernel))
    if isinstance(bias, Ref):
        index = np.arange(weight.shape[0]).reshape(column)
        spread = Select(bias.shape, np.array(np.broadcast_to(index, linear.out_shape)))
        return b.affine([(x, linear), (bias, spread)])
    return b.affine([(x, linear)], None if bias is None else b.weights(bias).reshape(column))


def average_pool(b: Builder, node: OnnxNode, args: Args) -> Value:
    """The sum of each window, by a convolution with ones, divided by how many places the window counts."""
    x = reference(node, args[0])
    w = read_windows(node, x.shape[2:], node.attributes["kernel_shape"])
    include_pad = bool(node.attributes.get("count_include_pad", 0))
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

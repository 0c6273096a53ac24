"""Convolution, pooling and resizing restated for onnx2torch: every pad written out, none of torch's own rounding.

`auto_pad`, `ceil_mode`, `output_shape` and asymmetric pads become a `Pad` node or a cut around a plain operator; the
known output shape says how much. Rules as in `moves`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from verifkit.io.torch_import.rewriter import NotRestated, Rewriter, Rule, attributes, operand, pad_constant

Pads = list[tuple[int, int]]


def _geometry(w: Rewriter, node: onnx.NodeProto, kernel: Sequence[int]) -> tuple[list[int], list[int], Pads]:
    """(strides, reach of the dilated kernel, pads as the node's `auto_pad` or `pads` say), for each spatial axis."""
    values, n = attributes(node), len(kernel)
    size = w.shapes[node.input[0]][2:]
    strides, dilations = list(values.get("strides", [1] * n)), list(values.get("dilations", [1] * n))
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    mode = values.get("auto_pad", "NOTSET")
    given = list(values.get("pads", [0] * 2 * n))
    pads = list(zip(given[:n], given[n:], strict=True))
    if mode == "VALID":
        pads = [(0, 0)] * n
    elif mode.startswith("SAME"):
        missing = [max((math.ceil(s / t) - 1) * t + r - s, 0) for s, t, r in zip(size, strides, reach, strict=True)]
        pads = [(m // 2, m - m // 2) if mode == "SAME_UPPER" else (m - m // 2, m // 2) for m in missing]
    return strides, reach, pads


def _conv(w: Rewriter, node: onnx.NodeProto) -> None:
    """With its pads written out, asymmetric ones in front: the converter knows no `auto_pad` but NOTSET and VALID."""
    weight = _weight(w, node)
    strides, _, pads = _geometry(w, node, weight.shape[2:])
    x = node.input[0]
    symmetric = all(begin == end for begin, end in pads)
    if not symmetric:
        x = pad_constant(w, x, [(0, 0), (0, 0), *pads], 0.0, w.dtypes[x])
        pads = [(0, 0)] * len(pads)
    values = attributes(node)
    w.emit("Conv", [x, *node.input[1:]], node.output[0], kernel_shape=weight.shape[2:], strides=strides,
           pads=[*(begin for begin, _ in pads), *(end for _, end in pads)], group=values.get("group", 1),
           dilations=values.get("dilations", [1] * len(pads)))  # fmt: skip


def _conv_transpose(w: Rewriter, node: onnx.NodeProto) -> None:
    """Without pads, then cut: torch has no asymmetric pads and no `output_shape`. The bias comes last."""
    weight, values, kind = _weight(w, node), attributes(node), w.dtypes[node.input[0]]
    n = weight.ndim - 2
    strides, dilations = (list(values.get(key, [1] * n)) for key in ("strides", "dilations"))
    extra, given = values.get("output_padding", [0] * n), values.get("pads", [0] * n)
    size, wanted = w.shapes[node.input[0]][2:], w.shapes[node.output[0]][2:]
    mode = values.get("auto_pad", "NOTSET")
    cuts: Pads = [(0, 0), (0, 0)]
    for k in range(n):
        full = strides[k] * (size[k] - 1) + dilations[k] * (weight.shape[2 + k] - 1) + 1
        total = max(full + extra[k] - wanted[k], 0)
        begin = given[k] if mode == "NOTSET" else 0
        if "output_shape" in values or mode.startswith("SAME"):
            begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
        cuts.append((-begin, wanted[k] - full + begin))  # what `output_padding` adds at the end is zero
    whole = w.emit("ConvTranspose", node.input[:2], kernel_shape=weight.shape[2:], strides=strides,
                   dilations=dilations, group=values.get("group", 1))  # fmt: skip
    cut = pad_constant(w, whole, cuts, 0.0, kind)
    bias = w.constants[node.input[2]] if operand(node, 2) else np.zeros(1, dtype=kind)
    w.emit("Add", [cut, w.constant(bias.reshape(-1, *(1,) * n))], node.output[0])


def _weight(w: Rewriter, node: onnx.NodeProto) -> np.ndarray:
    if any(name and name not in w.constants for name in node.input[1:]):
        raise NotRestated("its weights are computed from the input")
    return w.constants[node.input[1]]


def _max_pool(w: Rewriter, node: onnx.NodeProto) -> None:
    """Padded with -inf; what `ceil_mode` adds at the end is padding, too."""
    values = attributes(node)
    w.only_first(node, "what it says about places")
    kernel = values["kernel_shape"]
    strides, reach, pads = _geometry(w, node, kernel)
    x = _padded(w, node, strides, reach, pads, -math.inf)
    w.emit("MaxPool", [x], node.output[0], kernel_shape=kernel, strides=strides,
           dilations=values.get("dilations", [1] * len(kernel)))  # fmt: skip


def _padded(
    w: Rewriter, node: onnx.NodeProto, strides: Sequence[int], reach: Sequence[int], pads: Pads, value: float
) -> str:
    """The input with pads such that windows from the very start fill the known output."""
    size, out = w.shapes[node.input[0]][2:], w.shapes[node.output[0]][2:]
    full: Pads = [(0, 0), (0, 0)]
    for k, (begin, _) in enumerate(pads):
        full.append((begin, (out[k] - 1) * strides[k] + reach[k] - size[k] - begin))
    x = node.input[0]
    return pad_constant(w, x, full, value, w.dtypes[x]) if any(map(any, full)) else x


def _average_pool(w: Rewriter, node: onnx.NodeProto) -> None:
    """Padded with zeros, averaged over whole windows, then corrected for the entries that count in each window.

    With dilations, which torch's pooling lacks, the average is a convolution of each channel.
    """
    values, x = attributes(node), node.input[0]
    kernel, n = values["kernel_shape"], len(values["kernel_shape"])
    dilations = list(values.get("dilations", [1] * n))
    strides, reach, pads = _geometry(w, node, kernel)
    size, out, kind = w.shapes[x][2:], w.shapes[node.output[0]][2:], w.dtypes[x]
    correction = np.ones(())
    for k, (begin, end) in enumerate(pads):
        low, high = (-begin, size[k] + end) if values.get("count_include_pad", 0) else (0, size[k])
        taps = np.arange(out[k])[:, None] * strides[k] - begin + np.arange(kernel[k]) * dilations[k]
        counted = ((taps >= low) & (taps < high)).sum(axis=1)
        if not counted.all():
            raise NotRestated("a window lies in the padding")
        correction = correction[..., None] * (kernel[k] / counted)
    padded = _padded(w, node, strides, reach, pads, 0.0)
    if all(d == 1 for d in dilations):
        mean = w.emit("AveragePool", [padded], kernel_shape=kernel, strides=strides)
    else:
        channels = w.shapes[x][1]
        weight = w.constant(np.full((channels, 1, *kernel), 1 / math.prod(kernel)), kind)
        mean = w.emit("Conv", [padded, weight], kernel_shape=kernel, strides=strides, dilations=dilations,
                      group=channels)  # fmt: skip
    whole = bool((correction == 1).all())
    w.emit("Identity", [mean], node.output[0]) if whole else w.emit(
        "Mul", [mean, w.constant(correction, kind)], node.output[0]
    )


def _global_max(w: Rewriter, node: onnx.NodeProto) -> None:
    """No converter."""
    axes = list(range(2, len(w.shapes[node.input[0]])))
    w.emit("ReduceMax", [node.input[0]], node.output[0], axes=axes, keepdims=1)


def _batch_norm(w: Rewriter, node: onnx.NodeProto) -> None:
    """At inference. In training mode it computes from the batch."""
    values = attributes(node)
    w.only_first(node, "what it learns in training")
    if values.get("training_mode", 0):
        raise NotRestated("it is in training mode")
    w.emit("BatchNormalization", node.input, node.output[0], epsilon=values.get("epsilon", 1e-5))


WINDOWS: Mapping[str, Rule] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "MaxPool": _max_pool, "AveragePool": _average_pool,
    "GlobalMaxPool": _global_max, "BatchNormalization": _batch_norm,
}  # fmt: skip

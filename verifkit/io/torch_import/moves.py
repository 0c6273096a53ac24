"""Operators that only move entries, restated for onnx2torch: reshapes, picks, splits, pads, scatters.

A rule reads one ONNX node and emits nodes that compute the same. Shapes are fixed and operands that set shapes are
constants (`prepare` sees to both). What cannot be restated raises `NotRestated` with the reason; the caller
names the node. Definitions: the ONNX operator specification, opsets 13 to 28.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx

from verifkit.io.torch_import.rewriter import NotRestated, Rewriter, Rule, attributes, operand, pad_constant


def _reshape(w: Rewriter, node: onnx.NodeProto) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same data in a known shape. onnx2torch sorts negative axes wrongly."""
    shape = w.shapes[node.output[0]]
    if 0 in shape:
        raise NotRestated("it computes an empty tensor")
    w.emit("Reshape", [node.input[0], w.constant(shape, np.int64)], node.output[0])


def _split(w: Rewriter, node: onnx.NodeProto) -> None:
    """Part by part: onnx2torch divides evenly where no sizes are given."""
    axis, start = attributes(node).get("axis", 0), 0
    for output in node.output:
        size = w.shapes[output][axis]
        _take(w, node.input[0], axis, np.arange(start, start + size), output)
        start += size


def _take(w: Rewriter, x: str, axis: int, index: np.ndarray, output: str = "") -> str:
    """x[..., index, ...] along one axis. Never a Slice: its converter indexes in a way that torch has deprecated."""
    return w.emit("Gather", [x, w.constant(index, np.int64)], output, axis=axis)


def _slice(w: Rewriter, node: onnx.NodeProto) -> None:
    """Axis by axis, as positions counted from the front: onnx2torch mishandles negative steps at the ends."""
    x = node.input[0]
    shape = w.shapes[x]
    starts, ends = (w.constants[node.input[k]].tolist() for k in (1, 2))
    axes = w.constants[operand(node, 3)].tolist() if operand(node, 3) else range(len(starts))
    steps = w.constants[operand(node, 4)].tolist() if operand(node, 4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _take(w, x, axis, _positions(start, end, step, shape[axis]))
    w.emit("Identity", [x], node.output[0])


def _positions(start: int, end: int, step: int, size: int) -> np.ndarray:
    """What ONNX's start, end and step pick from an axis: negative ends count from behind, then all are clamped."""
    start, end = (v + size if v < 0 else v for v in (start, end))
    low, high = (0, size) if step > 0 else (-1, size - 1)
    return np.arange(np.clip(start, 0, high), np.clip(end, low, high), step)


def _pad(w: Rewriter, node: onnx.NodeProto) -> None:
    """Constant padding on all axes as `Pad` of opset 13; the other modes pick entries, which torch can on few axes."""
    x, shape = node.input[0], w.shapes[node.input[0]]
    given = [int(p) for p in w.constants[node.input[1]]]
    axes = [int(a) % len(shape) for a in w.constants[operand(node, 3)]] if operand(node, 3) else range(len(shape))
    pads = {axis: (given[k], given[k + len(given) // 2]) for k, axis in enumerate(axes)}
    mode = attributes(node).get("mode", "constant")
    if mode == "constant":
        value = w.constants.get(operand(node, 2)) if operand(node, 2) else np.zeros(())
        if value is None:
            raise NotRestated("its value is no constant")
        full = [pads.get(axis, (0, 0)) for axis in range(len(shape))]
        pad_constant(w, x, full, float(value.reshape(())), w.dtypes[x], node.output[0])
        return
    numpy_mode = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}.get(mode)
    if numpy_mode is None or any(p < 0 for ends in pads.values() for p in ends):
        raise NotRestated(f"padding mode '{mode}' with these pads is not restated")
    for axis, ends in pads.items():
        if any(ends):
            x = _take(w, x, axis, np.pad(np.arange(shape[axis]), ends, mode=numpy_mode))  # type: ignore[call-overload]
    w.emit("Identity", [x], node.output[0])


def _gather_flat(w: Rewriter, node: onnx.NodeProto) -> None:
    """GatherElements, GatherND: torch has no negative indices in the one and no batch axes in the other."""
    x, values = node.input[0], attributes(node)
    shape = w.shapes[x]
    if node.input[1] not in w.constants:
        raise NotRestated("its indices are computed from the input")
    index, place = w.constants[node.input[1]], np.arange(math.prod(shape)).reshape(shape)
    if node.op_type == "GatherElements":
        axis = values.get("axis", 0) % len(shape)
        grid = list(np.indices(index.shape))
        grid[axis] = index % shape[axis]
        picked = place[tuple(grid)]
    else:
        batch = values.get("batch_dims", 0)
        grid = list(np.indices(index.shape[:-1])[:batch])
        picked = place[(*grid, *np.moveaxis(index, -1, 0))]
    flat = w.emit("Reshape", [x, w.constant([-1], np.int64)])
    w.emit("Gather", [flat, w.constant(picked, np.int64)], node.output[0], axis=0)


def _scatter(w: Rewriter, node: onnx.NodeProto) -> None:
    """ScatterND, ScatterElements: data and updates laid end to end, of which each output entry picks one."""
    if attributes(node).get("reduction", "none") != "none" or node.input[1] not in w.constants:
        raise NotRestated("it reduces, or its indices are computed from the input")
    data, updates = node.input[0], node.input[2]
    shape, index = w.shapes[data], w.constants[node.input[1]]
    source = np.arange(math.prod(shape)).reshape(shape)
    new = math.prod(shape) + np.arange(math.prod(w.shapes[updates])).reshape(w.shapes[updates])
    if node.op_type == "ScatterND":
        source[tuple(np.moveaxis(index, -1, 0))] = new
    else:
        axis = attributes(node).get("axis", 0) % len(shape)
        place = list(np.indices(index.shape))
        place[axis] = index % shape[axis]
        source[tuple(place)] = new
    flat = [w.emit("Reshape", [name, w.constant([-1], np.int64)]) for name in (data, updates)]
    both = w.emit("Concat", flat, axis=0)
    w.emit("Gather", [both, w.constant(source, np.int64)], node.output[0], axis=0)


def _space(w: Rewriter, node: onnx.NodeProto) -> None:
    """SpaceToDepth, DepthToSpace: by reshaping and transposing; there are converters for one mode of one of them."""
    values, x = attributes(node), node.input[0]
    batch, channels, height, width = w.shapes[x]
    b, depth_first = values["blocksize"], values.get("mode", "DCR") == "DCR"
    if node.op_type == "SpaceToDepth":
        split = (batch, channels, height // b, b, width // b, b)
        order = [0, 3, 5, 1, 2, 4] if depth_first else [0, 1, 3, 5, 2, 4]
    elif depth_first:
        split, order = (batch, b, b, channels // b**2, height, width), [0, 3, 4, 1, 5, 2]
    else:
        split, order = (batch, channels // b**2, b, b, height, width), [0, 1, 4, 2, 5, 3]
    parts = w.emit("Transpose", [w.emit("Reshape", [x, w.constant(split, np.int64)])], perm=order)
    w.emit("Reshape", [parts, w.constant(w.shapes[node.output[0]], np.int64)], node.output[0])


def _trilu(w: Rewriter, node: onnx.NodeProto) -> None:
    """No converter."""
    x = node.input[0]
    k = int(w.constants[operand(node, 1)].reshape(())) if operand(node, 1) else 0
    ones = np.ones(w.shapes[x][-2:], dtype=bool)
    kept = np.triu(ones, k) if attributes(node).get("upper", 1) else np.tril(ones, k)
    w.emit("Where", [w.constant(kept), x, w.constant(0, w.dtypes[x])], node.output[0])


MOVES: Mapping[str, Rule] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("GatherND", "GatherElements"), _gather_flat),
    **dict.fromkeys(("ScatterND", "ScatterElements"), _scatter),
    **dict.fromkeys(("SpaceToDepth", "DepthToSpace"), _space),
    "Pad": _pad, "Slice": _slice, "Split": _split, "Trilu": _trilu,
}  # fmt: skip

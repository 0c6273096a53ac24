"""Resizing restated for onnx2torch as a matrix along each axis: torch rounds and aligns in one way only.

Nearest and linear; coordinates by the formulas of ONNX's `Resize`. Rules as in `moves`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from verifkit.io.torch_import.rewriter import NotRestated, Rewriter, Rule, along_axis, attributes, operand
from verifkit.maps import Shape


def _resize(w: Rewriter, node: onnx.NodeProto) -> None:
    values, x = attributes(node), node.input[0]
    if values.get("antialias", 0):
        raise NotRestated("antialiasing is not restated")
    if w.written < 11:  # before there were attributes for it: rounded towards the old grid's coarser side
        values["nearest_mode"] = "simple"
    before, after = w.shapes[x], w.shapes[node.output[0]]
    for axis, scale in enumerate(_scales(w, node, before, after)):
        if before[axis] != after[axis] or scale != 1:
            matrix = _axis_matrix(before[axis], after[axis], scale, values)
            x = along_axis(w, x, len(before), axis, matrix.astype(w.dtypes[node.input[0]]))
    w.emit("Identity", [x], node.output[0])


def _scales(w: Rewriter, node: onnx.NodeProto, before: Shape, after: Shape) -> list[float]:
    """New size over old, axis by axis, as stated or else as the sizes say."""
    scales = [new / old for old, new in zip(before, after, strict=True)]
    stated = w.constants[operand(node, 2)] if operand(node, 2) else np.zeros(0)
    axes = attributes(node).get("axes", range(len(before)))
    if stated.size:
        for axis, scale in zip(axes, stated.tolist(), strict=True):
            scales[axis] = scale
    elif attributes(node).get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotRestated("a kept aspect ratio is not restated")
    return scales


def _axis_matrix(old: int, new: int, scale: float, values: Mapping[str, Any]) -> np.ndarray:
    """(old, new): how much each old entry weighs in each new one."""
    mode = values.get("mode", "nearest")
    place = _place(old, new, scale, values.get("coordinate_transformation_mode", "half_pixel"))
    if mode == "nearest":
        rounded = _rounded(place, values.get("nearest_mode", "round_prefer_floor"), scale)
        left, share = np.clip(rounded, 0, old - 1).astype(int), np.zeros(new)
    elif mode == "linear":
        place = np.clip(place, 0, old - 1)
        left = np.minimum(np.floor(place).astype(int), max(old - 2, 0))
        share = place - left
    else:
        raise NotRestated(f"resizing by mode '{mode}' is not restated")
    matrix = np.zeros((old, new))
    matrix[left, np.arange(new)] += 1 - share
    matrix[np.minimum(left + 1, old - 1), np.arange(new)] += share
    return matrix


def _rounded(place: np.ndarray, mode: str, scale: float) -> np.ndarray:
    if mode == "simple":
        mode = "ceil" if scale < 1 else "floor"
    up: np.ndarray = np.ceil(place - 0.5 if mode == "round_prefer_floor" else place)
    down: np.ndarray = np.floor(place + 0.5 if mode == "round_prefer_ceil" else place)
    return up if mode in ("round_prefer_floor", "ceil") else down


def _place(old: int, new: int, scale: float, mode: str) -> np.ndarray:
    """The coordinate in the old axis of every entry of the new one."""
    at: np.ndarray = np.arange(new, dtype=np.float64)
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        return at * (old - 1) / (new - 1) if new > 1 else np.zeros(new)
    if mode == "tf_half_pixel_for_nn":
        return (at + 0.5) / scale
    if mode == "pytorch_half_pixel" and new == 1:
        return np.zeros(new)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (at + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        exact = old * scale
        return old / 2 * (1 - new / exact) + (at + 0.5) / scale - 0.5
    raise NotRestated(f"coordinates by mode '{mode}' are not restated")


RESIZE: Mapping[str, Rule] = {"Resize": _resize}

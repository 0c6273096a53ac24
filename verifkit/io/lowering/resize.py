"""Lowering rules for `Resize` and `Upsample`: nearest moves numbers, linear is a small matrix along each axis.

Coordinates are computed in float32, as onnxruntime does: in nearest mode a rounding decides which entry is read, and in
linear mode the weights are then the very ones that it uses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from verifkit.io.lowering.arguments import Args, axes_in, constant, integers, optional, reference
from verifkit.io.lowering.builder import Builder, Ref, Value
from verifkit.io.lowering.graph import OnnxNode
from verifkit.io.lowering.moves import numbered, picked
from verifkit.weighted_maps import Dense

F32 = np.float32
_HALF, _ONE = F32(0.5), F32(1.0)

_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric",
                "tf_half_pixel_for_nn")  # fmt: skip
_ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class _Axis:
    """One axis to resize: from `length` to `out` places by `scale`."""

    length: int
    out: int
    scale: np.float32


def upsample(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    if node.opset < 9:
        scales = np.array(node.attributes["scales"], dtype=F32)
    else:
        scales = constant(node, optional(args, 1), "scales").astype(F32)
    return _apply(b, node, x, _scaled_axes(node, x, scales, tuple(range(len(x.shape)))), "asymmetric", "simple")


def resize(b: Builder, node: OnnxNode, args: Args) -> Value:
    x, rank = reference(node, args[0]), len(args[0].shape) if args[0] is not None else 0
    if node.opset < 11:
        scales = constant(node, optional(args, 1), "scales").astype(F32)
        return _apply(b, node, x, _scaled_axes(node, x, scales, tuple(range(rank))), "asymmetric", "simple")
    coordinates = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    rounding = node.attributes.get("nearest_mode", "round_prefer_floor")
    if coordinates not in _COORDINATES:
        raise node.refuse(f"coordinate_transformation_mode '{coordinates}' is not lowered")
    if rounding not in _ROUNDINGS:
        raise node.refuse(f"nearest_mode '{rounding}' is none of {', '.join(_ROUNDINGS)}")
    if node.flag("antialias") or node.flag("exclude_outside"):
        raise node.refuse("antialias and exclude_outside are not lowered: export the model without them")
    given = node.attributes.get("axes")
    if given and min(given) < 0 and "keep_aspect_ratio_policy" in node.attributes:
        raise node.refuse("it counts axes from the end and keeps the aspect ratio, which onnxruntime mistakes: count "
                          "them from the front")  # fmt: skip
    axes = tuple(range(rank)) if given is None else axes_in(node, given, rank)
    held, sizes = optional(args, 2), integers(node, optional(args, 3), "sizes")
    if held is not None and constant(node, held, "scales").size:
        if sizes:
            raise node.refuse("it has both scales and sizes")
        resized = _scaled_axes(node, x, constant(node, held, "scales").astype(F32), axes)
    elif sizes:
        resized = _sized_axes(node, x, sizes, axes)
    else:
        raise node.refuse("it has neither scales nor sizes")
    return _apply(b, node, x, resized, coordinates, rounding)


def _scaled_axes(node: OnnxNode, x: Ref, scales: np.ndarray, axes: tuple[int, ...]) -> list[_Axis]:
    if scales.shape != (len(axes),) or not (scales > 0).all():
        raise node.refuse(f"scales {scales.tolist()} do not fit {len(axes)} axes")
    result = [_Axis(n, n, _ONE) for n in x.shape]
    for axis, scale in zip(axes, scales, strict=True):
        result[axis] = _Axis(x.shape[axis], math.floor(F32(x.shape[axis]) * scale), scale)
    return result


def _sized_axes(node: OnnxNode, x: Ref, sizes: tuple[int, ...], axes: tuple[int, ...]) -> list[_Axis]:
    policy = node.attributes.get("keep_aspect_ratio_policy", "stretch")
    if len(sizes) != len(axes) or min(sizes) < 1:
        raise node.refuse(f"sizes {list(sizes)} do not fit {len(axes)} axes")
    scales = [F32(size) / F32(x.shape[axis]) for axis, size in zip(axes, sizes, strict=True)]
    result = [_Axis(n, n, _ONE) for n in x.shape]
    if policy in ("not_larger", "not_smaller"):
        scale = min(scales) if policy == "not_larger" else max(scales)
        for axis in axes:
            out = math.floor(scale * F32(x.shape[axis]) + _HALF)
            result[axis] = _Axis(x.shape[axis], out, scale)
    elif policy == "stretch":
        for axis, size, scale in zip(axes, sizes, scales, strict=True):
            result[axis] = _Axis(x.shape[axis], size, scale)
    else:
        raise node.refuse(f"keep_aspect_ratio_policy '{policy}' is none of stretch, not_larger, not_smaller")
    return result


def _apply(b: Builder, node: OnnxNode, x: Ref, axes: list[_Axis], coordinates: str, rounding: str) -> Value:
    mode = node.attributes.get("mode", "nearest")
    if any(axis.out < 1 for axis in axes):
        raise node.refuse(f"its scales leave nothing of an input of shape {list(x.shape)}")
    if mode == "nearest":
        index = numbered(x)[np.ix_(*(_nearest(axis, coordinates, rounding) for axis in axes))]
        return picked(b, node, x, index)
    if mode != "linear":
        raise node.refuse(f"mode '{mode}' is not lowered, only 'nearest' and 'linear'")
    for place, axis in enumerate(axes):
        if axis.scale != _ONE or axis.out != axis.length:
            order = [*(a for a in range(len(axes)) if a != place), place]
            last = b.transpose(x, order, f"axis{place}_last")
            mixed = b.affine([(last, Dense(_weights(axis, coordinates), last.shape[:-1]))], step=f"axis{place}")
            x = b.transpose(mixed, np.argsort(order).tolist(), f"axis{place}_back")
    return x


def _originals(axis: _Axis, coordinates: str) -> np.ndarray:
    """(out,) where each place of the output lies on the input's axis, in float32."""
    place, length, out, scale = np.arange(axis.out, dtype=F32), F32(axis.length), F32(axis.out), axis.scale
    if scale == _ONE and axis.out == axis.length:
        return place
    if coordinates == "asymmetric":
        return place / scale
    if coordinates == "tf_half_pixel_for_nn":
        return (place + _HALF) / scale
    if coordinates == "align_corners":
        return place * (length - _ONE) / (out - _ONE) if axis.out > 1 else np.zeros(1, dtype=F32)
    half = (place + _HALF) / scale - _HALF
    if coordinates == "pytorch_half_pixel":
        return half if axis.out > 1 else np.zeros(1, dtype=F32)
    if coordinates == "half_pixel_symmetric":
        return length / F32(2) * (_ONE - out / (scale * length)) + half
    return half


def _nearest(axis: _Axis, coordinates: str, rounding: str) -> np.ndarray:
    """(out,) the place of the input's axis that each place of the output copies."""
    at = _originals(axis, coordinates)
    whole = np.trunc(at)
    if rounding == "simple":
        near = np.ceil(at) if axis.scale < _ONE else whole
    elif rounding in ("floor", "ceil"):
        near = np.floor(at) if rounding == "floor" else np.ceil(at)
    else:
        away = np.copysign(np.floor(np.abs(at) + _HALF), at)
        near = np.where(at == whole + _HALF, whole, away) if rounding == "round_prefer_floor" else away
    index: np.ndarray = np.clip(near.astype(np.int64), 0, axis.length - 1)
    return index


def _weights(axis: _Axis, coordinates: str) -> np.ndarray:
    """(out, length) what each place of the output takes of its two neighbours."""
    at = np.clip(_originals(axis, coordinates), F32(0), F32(axis.length - 1))
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, axis.length - 1)
    matrix, rows = np.zeros((axis.out, axis.length)), np.arange(axis.out)
    share = np.where(low == high, F32(0), at - low.astype(F32))
    np.add.at(matrix, (rows, low), (_ONE - share).astype(np.float64))
    np.add.at(matrix, (rows, high), share.astype(np.float64))
    return matrix

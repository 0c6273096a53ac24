"""Arithmetic operators restated for onnx2torch, each with its reason. Rules as in `moves`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from verifkit.io.torch_import.rewriter import NotRestated, Rewriter, Rule, along_axis, attributes, operand


def _dropout(w: Rewriter, node: onnx.NodeProto) -> None:
    """At inference nothing is dropped; older definitions have no converter."""
    training = operand(node, 2)
    if training and (training not in w.constants or w.constants[training].any()):
        raise NotRestated("it is in training mode")
    for mask in node.output[1:]:
        w.constants[mask] = np.ones(w.shapes[node.output[0]], dtype=w.dtypes[mask])
    w.emit("Identity", [node.input[0]], node.output[0])


def _clip(w: Rewriter, node: onnx.NodeProto) -> None:
    """An end that is left out is infinite; one that is computed makes it the smaller of the larger."""
    x, low, high = node.input[0], operand(node, 1), operand(node, 2)
    if all(not end or end in w.constants for end in (low, high)) and w.dtypes[x].kind == "f":
        ends = [end or w.constant(value, w.dtypes[x]) for end, value in ((low, -math.inf), (high, math.inf))]
        w.emit("Clip", [x, *ends], node.output[0])
        return
    larger = w.emit("Max", [x, low]) if low else x
    w.emit("Min", [larger, high], node.output[0]) if high else w.emit("Identity", [larger], node.output[0])


def _reduce(w: Rewriter, node: onnx.NodeProto) -> None:
    """Axes counted from the front and kept, the shape set after: onnx2torch miscounts axes that it drops."""
    values, rank = attributes(node), len(w.shapes[node.input[0]])
    axes = w.constants[operand(node, 1)].tolist() if operand(node, 1) else list(values.get("axes", []))
    if not axes and values.get("noop_with_empty_axes", 0):
        if node.op_type not in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"):
            raise NotRestated("it has no axes, and is no reduction then")
        w.emit("Identity", [node.input[0]], node.output[0])
        return
    axes = sorted({int(a) % rank for a in axes}) if axes else list(range(rank))
    x = node.input[0]
    if not rank:
        x, axes = w.emit("Reshape", [x, w.constant([1], np.int64)]), [0]
    if node.op_type == "ReduceSum":
        reduced = w.emit("ReduceSum", [x, w.constant(axes, np.int64)], keepdims=1)
    else:
        reduced = w.emit(node.op_type, [x], axes=axes, keepdims=1)
    w.emit("Reshape", [reduced, w.constant(w.shapes[node.output[0]], np.int64)], node.output[0])


def _prelu(w: Rewriter, node: onnx.NodeProto) -> None:
    """By its definition: onnx2torch takes a slope for each entry of the last axis for one for each channel."""
    x, slope = node.input
    zero = w.constant(0, w.dtypes[x])
    w.emit("Where", [w.emit("Less", [x, zero]), w.emit("Mul", [slope, x]), x], node.output[0])


def _thresholded_relu(w: Rewriter, node: onnx.NodeProto) -> None:
    """No converter."""
    x, kind = node.input[0], w.dtypes[node.input[0]]
    above = w.emit("Greater", [x, w.constant(attributes(node).get("alpha", 1.0), kind)])
    w.emit("Where", [above, x, w.constant(0, kind)], node.output[0])


def _selu(w: Rewriter, node: onnx.NodeProto) -> None:
    """The converter refuses parameters other than the default ones."""
    values, x, kind = attributes(node), node.input[0], w.dtypes[node.input[0]]
    alpha = values.get("alpha", 1.67326319217681884765625)
    elu = w.emit("Elu", [x], alpha=alpha)
    w.emit("Mul", [elu, w.constant(values.get("gamma", 1.05070102214813232421875), kind)], node.output[0])


def _hard_swish(w: Rewriter, node: onnx.NodeProto) -> None:
    """By its definition, whose 1/6 is a float32 also where the model is in float64."""
    gate = w.emit("HardSigmoid", [node.input[0]], alpha=1 / 6, beta=0.5)
    w.emit("Mul", [node.input[0], gate], node.output[0])


def _swish(w: Rewriter, node: onnx.NodeProto) -> None:
    """By its definition; onnx's own graph for it is in float32 only."""
    alpha = w.constant(np.float32(attributes(node).get("alpha", 1.0)), w.dtypes[node.input[0]])
    gate = w.emit("Sigmoid", [w.emit("Mul", [node.input[0], alpha])])
    w.emit("Mul", [node.input[0], gate], node.output[0])


def _layer_norm(w: Rewriter, node: onnx.NodeProto) -> None:
    """By its definition: the converter takes a scale of the full shape only, and a bias in float32 only."""
    w.only_first(node, "its mean or deviation")
    values, x, kind = attributes(node), node.input[0], w.dtypes[node.input[0]]
    rank = len(w.shapes[x])
    axes = list(range(values.get("axis", -1) % rank, rank))
    epsilon = np.float32(values.get("epsilon", 1e-5))
    centred = w.emit("Sub", [x, w.emit("ReduceMean", [x], axes=axes, keepdims=1)])
    variance = w.emit("ReduceMean", [w.emit("Mul", [centred, centred])], axes=axes, keepdims=1)
    deviation = w.emit("Sqrt", [w.emit("Add", [variance, w.constant(epsilon, kind)])])
    scaled = w.emit("Mul", [w.emit("Div", [centred, deviation]), node.input[1]])
    w.emit("Add", [scaled, operand(node, 2)], node.output[0]) if operand(node, 2) else w.emit(
        "Identity", [scaled], node.output[0]
    )


def _or_equal(w: Rewriter, node: onnx.NodeProto) -> None:
    """LessOrEqual, GreaterOrEqual: no converter from opset 16 on."""
    strict = w.emit(node.op_type.removesuffix("OrEqual"), node.input)
    w.emit("Or", [strict, w.emit("Equal", node.input)], node.output[0])


def _sum(w: Rewriter, node: onnx.NodeProto) -> None:
    """Sum, Mean: as additions. The converter adds in place, which cannot be batched."""
    total = node.input[0]
    for term in node.input[1:]:
        total = w.emit("Add", [total, term])
    if node.op_type == "Mean":
        total = w.emit("Div", [total, w.constant(len(node.input), w.dtypes[node.output[0]])])
    w.emit("Identity", [total], node.output[0])


def _cumsum(w: Rewriter, node: onnx.NodeProto) -> None:
    """The converter sums backwards unless told not to; a product with a triangle says it whole."""
    x, values = node.input[0], attributes(node)
    shape = w.shapes[x]
    axis = int(w.constants[node.input[1]].reshape(())) % len(shape)
    triangle = np.triu(np.ones((shape[axis], shape[axis])), k=1 if values.get("exclusive", 0) else 0)
    matrix = triangle.T if values.get("reverse", 0) else triangle
    w.emit("Identity", [along_axis(w, x, len(shape), axis, matrix.astype(w.dtypes[x]))], node.output[0])


def _cast(w: Rewriter, node: onnx.NodeProto) -> None:
    """Cast, CastLike: to a type by number; how float8 saturates is of no concern."""
    kind = w.dtypes[node.output[0]]
    w.emit("Cast", [node.input[0]], node.output[0], to=helper.np_dtype_to_tensor_dtype(kind))


REWRITES: Mapping[str, Rule] = {
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
                     "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"), _reduce),
    **dict.fromkeys(("LessOrEqual", "GreaterOrEqual"), _or_equal),
    **dict.fromkeys(("Sum", "Mean"), _sum),
    **dict.fromkeys(("Cast", "CastLike"), _cast),
    "Clip": _clip, "CumSum": _cumsum, "Dropout": _dropout, "HardSwish": _hard_swish, "LayerNormalization": _layer_norm,
    "PRelu": _prelu, "Selu": _selu, "Swish": _swish, "ThresholdedRelu": _thresholded_relu,
}  # fmt: skip

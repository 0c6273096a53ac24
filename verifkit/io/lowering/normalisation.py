"""Lowering rules for normalisation: by stored statistics (batch), or by those of the value itself (layer, instance).

(x - mean) / sqrt(var + eps) * scale + bias. With stored statistics the root is a constant; it is rounded to the nearest
float64 and is the only number that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from verifkit.functions import Power, Reciprocal, Sqrt
from verifkit.io.lowering.arguments import Args, axis_in, channel_column, constant, optional, reference
from verifkit.io.lowering.builder import Builder, Ref, Value
from verifkit.io.lowering.functions import plus
from verifkit.io.lowering.graph import OnnxNode
from verifkit.maps import Identity
from verifkit.weighted_maps import Scale


def batch_normalisation(b: Builder, node: OnnxNode, args: Args) -> Value:
    """scale (x - mean), then divided by the root and shifted: products of two float32 are exact in float64."""
    x = reference(node, args[0])
    if node.flag("training_mode"):
        raise node.refuse("it is in training mode, where it reads the whole batch: export it in evaluation mode")
    if not node.flag("spatial", 1):
        raise node.refuse("spatial is 0: only one statistic per channel is lowered")
    columns = [
        channel_column(b, node, optional(args, i), x.shape, what)
        for i, what in enumerate(("scale", "bias", "mean", "variance"), 1)
    ]
    scale, bias, mean, variance = (np.broadcast_to(c, x.shape) for c in columns)
    root = _root(node, variance)
    if all(a is not None and a.dtype == np.float32 for a in args[1:4]):
        scaled = b.affine([(x, Scale(np.array(scale)))], -scale * mean, "scaled")
    else:
        shifted = b.affine([(x, Identity(x.shape))], -mean, "shifted")
        scaled = b.scale(shifted, scale, step="scaled")
    return b.affine([(scaled, Scale(root, divide=True))], bias)


def _root(node: OnnxNode, variance: np.ndarray) -> np.ndarray:
    """sqrt(variance + epsilon), computed in extended precision where there is one, rounded to float64."""
    total = variance.astype(np.longdouble) + np.longdouble(node.number("epsilon", 1e-5))
    if not (total > 0).all():
        raise node.refuse("a variance plus epsilon is not positive")
    root: np.ndarray = np.sqrt(total).astype(np.float64)
    return root


def _by_itself(b: Builder, node: OnnxNode, x: Ref, axes: Sequence[int], *, centre: bool = True) -> Ref:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) over axes; without a mean if not `centre`."""
    moved = x
    if centre:
        mean = b.expand(b.mean(x, axes, step="mean"), x.shape, "means")
        minus = (mean, Scale(np.full(x.shape, -1.0)))
        moved = b.affine([(x, Identity(x.shape)), minus], step="centred")
    variance = b.mean(b.activation(moved, Power(2), "squares"), axes, step="variance")
    shifted = plus(b, variance, node.number("epsilon", 1e-5), "variance_plus_epsilon")
    inverse = b.activation(b.activation(shifted, Sqrt(), "deviation"), Reciprocal(), "inverse")
    return b.product(moved, b.expand(inverse, x.shape, "inverses"), "normalised")


def _scaled(b: Builder, x: Ref, scale: np.ndarray, bias: np.ndarray | None) -> Ref:
    return b.affine([(x, Scale(np.array(np.broadcast_to(scale, x.shape))))], bias)


def layer_normalisation(b: Builder, node: OnnxNode, args: Args) -> Value:
    return _over_last_axes(b, node, args, centre=True)


def rms_normalisation(b: Builder, node: OnnxNode, args: Args) -> Value:
    return _over_last_axes(b, node, args, centre=False)


def _over_last_axes(b: Builder, node: OnnxNode, args: Args, *, centre: bool) -> Value:
    x, rank = reference(node, args[0]), len(args[0].shape) if args[0] is not None else 0
    if node.attributes.get("stash_type", 1) != 1 and x.dtype != np.float64:
        raise node.refuse("stash_type is not 1: it computes in another precision")
    axis = axis_in(node, int(node.attributes.get("axis", -1)), rank)
    normalised = _by_itself(b, node, x, range(axis, rank), centre=centre)
    scale = b.weights(constant(node, args[1], "scale"))
    held = optional(args, 2)
    bias = None if held is None else b.weights(constant(node, held, "bias"))
    for array in (scale, *(() if bias is None else (bias,))):
        try:
            fits = np.broadcast_shapes(x.shape, array.shape) == x.shape
        except ValueError:
            fits = False
        if not fits:
            raise node.refuse(f"a scale or bias of shape {list(array.shape)} does not broadcast to {list(x.shape)}")
    return _scaled(b, normalised, scale, bias)


def instance_normalisation(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    scale, bias = (channel_column(b, node, args[i], x.shape, what) for i, what in ((1, "scale"), (2, "bias")))
    if len(x.shape) < 3:
        raise node.refuse(f"an input of shape {list(x.shape)} has no spatial axes")
    return _scaled(b, _by_itself(b, node, x, range(2, len(x.shape))), scale, bias)


def group_normalisation(b: Builder, node: OnnxNode, args: Args) -> Value:
    """Like instance normalisation, over groups of channels (opset 21 on; the older form was withdrawn)."""
    x, groups = reference(node, args[0]), int(node.attributes["num_groups"])
    if len(x.shape) < 3 or groups < 1 or x.shape[1] % groups:
        raise node.refuse(f"{groups} groups do not fit an input of shape {list(x.shape)}")
    apart = b.reshape(x, (x.shape[0], groups, math.prod(x.shape[1:]) // groups), "groups")
    normalised = b.reshape(_by_itself(b, node, apart, (2,)), x.shape, "normalised_again")
    columns = (channel_column(b, node, args[i], x.shape, what) for i, what in ((1, "scale"), (2, "bias")))
    return _scaled(b, normalised, *columns)

"""Lowering rules for reductions over axes, global pools and softmax.

Softmax is 1 / (1 + sum over j != i of exp(x_j - x_i)): no overflow, no product, and tight intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from verifkit.functions import Abs, Exp, Log, Power, Reciprocal, ScalarFunction, Sqrt
from verifkit.io.lowering.arguments import Args, axes_in, axis_in, listed, reference
from verifkit.io.lowering.builder import Builder, Ref, Value
from verifkit.io.lowering.functions import plus
from verifkit.io.lowering.graph import OnnxNode
from verifkit.io.lowering.moves import numbered
from verifkit.maps import Select

Axes = tuple[int, ...]
Lowering = Callable[[Builder, OnnxNode, Args], Value]


def _reduced_axes(node: OnnxNode, args: Args, rank: int) -> Axes | None:
    """The axes to reduce: an attribute, later an input; none given means all, or no-op with noop_with_empty_axes."""
    given = listed(node, args, "axes", 1)
    if not given:
        return None if node.flag("noop_with_empty_axes") else tuple(range(rank))
    return axes_in(node, given, rank)


def reduce_sum(
    before: ScalarFunction | None = None, after: ScalarFunction | None = None, *, mean: bool = False
) -> Lowering:
    """The rule of a reduction that is after(sum(before(x))), or the mean in place of the sum."""

    def rule(b: Builder, node: OnnxNode, args: Args) -> Value:
        x, keepdims = reference(node, args[0]), node.flag("keepdims", 1)
        axes = _reduced_axes(node, args, len(x.shape))
        if axes is None and (before is not None or after is not None):
            raise node.refuse("it reduces no axis: runtimes disagree on what that computes, name the axes")
        if axes is None:
            return x
        inner = x if before is None else b.activation(x, before, "before")
        step = "" if after is None else "sum"
        add = b.mean if mean else b.sum
        total = add(inner, axes, keepdims=keepdims, step=step)
        return total if after is None else b.activation(total, after)

    return rule


def reduce_max(b: Builder, node: OnnxNode, args: Args) -> Value:
    x, keepdims = reference(node, args[0]), node.flag("keepdims", 1)
    axes = _reduced_axes(node, args, len(x.shape))
    return x if axes is None else _extreme(b, x, axes, keepdims=keepdims)


def reduce_min(b: Builder, node: OnnxNode, args: Args) -> Value:
    """min x = -max -x."""
    x, keepdims = reference(node, args[0]), node.flag("keepdims", 1)
    axes = _reduced_axes(node, args, len(x.shape))
    if axes is None:
        return x
    minus = np.array(-1.0)
    turned = b.scale(x, minus, step="negative")
    return b.scale(_extreme(b, turned, axes, keepdims=keepdims, step="max"), minus)


def _extreme(b: Builder, x: Ref, axes: Axes, *, keepdims: bool, step: str = "") -> Ref:
    """The maximum over axes."""
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    shape = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    out = shape if keepdims else tuple(x.shape[axis] for axis in kept)
    groups = numbered(x).transpose(*kept, *axes).reshape(*out, math.prod(x.shape[axis] for axis in axes))
    return b.maximum(x, np.ascontiguousarray(groups), step)


def _spatial(node: OnnxNode, x: Ref) -> Axes:
    if len(x.shape) < 3:
        raise node.refuse(f"an input of shape {list(x.shape)} has no spatial axes")
    return tuple(range(2, len(x.shape)))


def global_average_pool(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    return b.mean(x, _spatial(node, x))


def global_max_pool(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    return _extreme(b, x, _spatial(node, x), keepdims=True)


def _odds(b: Builder, node: OnnxNode, x: Ref) -> Ref | None:
    """1 + sum over j != i of exp(x_j - x_i), with the softmax axis last, as (rows, n); None where n is 1.

    Before opset 13 the axes are cut in two at `axis` (default 1) and flattened; from 13 on it is one axis.
    """
    rank = len(x.shape)
    if node.opset < 13:
        axis = int(node.attributes.get("axis", 1))
        axis = rank if axis == rank else axis_in(node, axis, rank)
        rows = b.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])), "rows")
    else:
        axis = axis_in(node, int(node.attributes.get("axis", -1)), rank)
        order = [*(a for a in range(rank) if a != axis), axis]
        last = b.transpose(x, order, "axis_last")
        rows = b.reshape(last, (math.prod(last.shape[:-1]), last.shape[-1]), "rows")
    count, n = rows.shape
    if n == 1:
        return None
    places = numbered(rows)
    others = np.array([[j for j in range(n) if j != i] for i in range(n)])  # (n, n - 1)
    own = np.array(np.broadcast_to(places[:, :, None], (count, n, n - 1)))
    minus = b.scale(rows, np.array(-1.0), step="minus")
    theirs = Select(rows.shape, np.ascontiguousarray(places[:, others]))
    differences = b.affine([(rows, theirs), (minus, Select(rows.shape, own))], step="differences")
    odds = b.sum(b.activation(differences, Exp(), "odds"), (2,), keepdims=False, step="sum")
    return plus(b, odds, 1.0, "total")


def _back(b: Builder, node: OnnxNode, rows: Ref, x: Ref) -> Ref:
    """(rows, n) in the shape of x again."""
    rank = len(x.shape)
    if node.opset < 13:
        return b.reshape(rows, x.shape)
    axis = axis_in(node, int(node.attributes.get("axis", -1)), rank)
    order = [*(a for a in range(rank) if a != axis), axis]
    moved = b.reshape(rows, tuple(x.shape[a] for a in order), "axis_last_again")
    return b.transpose(moved, np.argsort(order).tolist())


def softmax(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    total = _odds(b, node, x)
    if total is None:
        return np.ones(x.shape, dtype=x.dtype)
    return _back(b, node, b.activation(total, Reciprocal(), "probabilities"), x)


def log_softmax(b: Builder, node: OnnxNode, args: Args) -> Value:
    """-log(1 + sum over j != i of exp(x_j - x_i))."""
    x = reference(node, args[0])
    total = _odds(b, node, x)
    if total is None:
        return np.zeros(x.shape, dtype=x.dtype)
    logs = b.activation(total, Log(), "logs")
    return _back(b, node, b.scale(logs, np.array(-1.0), step="log_probabilities"), x)


SUM_SQUARE = reduce_sum(Power(2))
L1 = reduce_sum(Abs())
L2 = reduce_sum(Power(2), Sqrt())
LOG_SUM = reduce_sum(None, Log())
LOG_SUM_EXP = reduce_sum(Exp(), Log())

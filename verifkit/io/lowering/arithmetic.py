"""Lowering rules for arithmetic on several inputs: sums, products, quotients, maxima and minima, running sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verifkit.functions import Clip, Relu, ScalarFunction
from verifkit.io.lowering.arguments import Args, axis_in, common_shape, constant, integers, optional, reference
from verifkit.io.lowering.builder import Builder, Ref, Value, expansion
from verifkit.io.lowering.functions import reciprocal
from verifkit.io.lowering.graph import OnnxNode
from verifkit.maps import LinearMap, Shape
from verifkit.weighted_maps import Dense, Scale


def add(b: Builder, node: OnnxNode, args: Args) -> Value:
    out, (x, y) = common_shape(node, args), args
    if isinstance(x, Ref) and isinstance(y, Ref):
        return b.affine([(x, expansion(x.shape, out)), (y, expansion(y.shape, out))])
    if isinstance(y, Ref):
        return _plus_constant(b, y, node.inputs[1], b.weights(constant(node, x, "first input")), out)
    return _plus_constant(b, reference(node, x), node.inputs[0], b.weights(constant(node, y, "second input")), out)


def sub(b: Builder, node: OnnxNode, args: Args) -> Value:
    out, (x, y) = common_shape(node, args), args
    if not isinstance(y, Ref):
        minus_y = -b.weights(constant(node, y, "second input"))
        return _plus_constant(b, reference(node, x), node.inputs[0], minus_y, out)
    wide = b.expand(y, out, "expand")
    minus = (wide, Scale(np.full(out, -1.0)))
    if isinstance(x, Ref):
        return b.affine([(x, expansion(x.shape, out)), minus])
    return b.affine([minus], b.weights(constant(node, x, "first input")))


def _plus_constant(b: Builder, x: Ref, source: str, bias: np.ndarray, out: Shape) -> Value:
    if x.shape == out:
        return b.add_bias(x, bias, source)
    return b.affine([(x, expansion(x.shape, out))], bias)


def mul(b: Builder, node: OnnxNode, args: Args) -> Value:
    out, (x, y) = common_shape(node, args), args
    if isinstance(x, Ref) and isinstance(y, Ref):
        return b.product(b.expand(x, out, "expand0"), b.expand(y, out, "expand1"))
    ref, factor = (x, y) if isinstance(x, Ref) else (y, x)
    return b.scale(b.expand(reference(node, ref), out, "expand"), b.weights(constant(node, factor, "factor")))


def div(b: Builder, node: OnnxNode, args: Args) -> Value:
    """x / c is an exact quotient; x / y with y a value of the network is x times the reciprocal of y."""
    out, (x, y) = common_shape(node, args), args
    if isinstance(y, Ref):
        inverse = reciprocal(b, y, "reciprocal")
        if isinstance(x, Ref):
            return b.product(b.expand(x, out, "expand0"), b.expand(inverse, out, "expand1"))
        return b.scale(b.expand(inverse, out, "expand"), b.weights(constant(node, x, "first input")))
    divisor = b.weights(constant(node, y, "second input"))
    if not divisor.all():
        raise node.refuse("it divides by a constant that is zero")
    return b.scale(b.expand(reference(node, x), out, "expand"), divisor, divide=True)


def total(b: Builder, node: OnnxNode, args: Args, step: str = "") -> Ref:
    """`Sum`: all inputs added; several constants one by one, each exactly."""
    values = [v for v in args if v is not None]
    out = common_shape(node, values)
    terms: list[tuple[Ref, LinearMap]] = [(v, expansion(v.shape, out)) for v in values if isinstance(v, Ref)]
    held = [b.weights(v) for v in values if not isinstance(v, Ref)]
    if len(terms) == 1 and not held:
        return terms[0][0]
    last = len(held) <= 1
    result = b.affine(terms, held[0] if held else None, step if last else "sum1")
    for i, bias in enumerate(held[1:], 2):
        result = b.affine([(result, expansion(out, out))], bias, step if i == len(held) else f"sum{i}")
    return result


def sum_of(b: Builder, node: OnnxNode, args: Args) -> Value:
    return total(b, node, args)


def mean_of(b: Builder, node: OnnxNode, args: Args) -> Value:
    if len(args) == 1:
        return reference(node, args[0])
    return b.scale(total(b, node, args, "sum"), np.array(float(len(args))), divide=True)


def max_of(b: Builder, node: OnnxNode, args: Args) -> Value:
    out = common_shape(node, args)
    refs, bound = _refs_and_bound(b, node, args, np.maximum)
    top = maximum(b, [b.expand(r, out, f"expand{i}") for i, r in enumerate(refs)], "" if bound is None else "max")
    return top if bound is None else b.activation(top, _at_least(bound))


def min_of(b: Builder, node: OnnxNode, args: Args) -> Value:
    """min(x, y) = -max(-x, -y)."""
    out = common_shape(node, args)
    refs, bound = _refs_and_bound(b, node, args, np.minimum)
    wide = [b.expand(r, out, f"expand{i}") for i, r in enumerate(refs)]
    least = minimum(b, wide, "" if bound is None else "min")
    return least if bound is None else b.activation(least, Clip(np.array(-np.inf), bound))


def _refs_and_bound(b: Builder, node: OnnxNode, args: Args, join: np.ufunc) -> tuple[list[Ref], np.ndarray | None]:
    """The inputs that depend on the network's input, and all constants joined into one."""
    bound: np.ndarray | None = None
    for value in args:
        if isinstance(value, np.ndarray):
            bound = b.weights(value) if bound is None else join(bound, b.weights(value))
    return [v for v in args if isinstance(v, Ref)], bound


def _at_least(bound: np.ndarray) -> ScalarFunction:
    return Relu() if not bound.any() else Clip(bound, np.array(np.inf))


def maximum(b: Builder, refs: Sequence[Ref], step: str = "") -> Ref:
    """The elementwise maximum of values of one shape."""
    if len(refs) == 1:
        return refs[0]
    shape = refs[0].shape
    size = int(np.prod(shape))
    stacked = b.concat([b.reshape(r, (1, size), f"flat{i}") for i, r in enumerate(refs)], 0, f"{step}stacked")
    groups = np.arange(len(refs) * size).reshape(len(refs), size).T.reshape(*shape, len(refs))
    return b.maximum(stacked, np.ascontiguousarray(groups), step)


def minimum(b: Builder, refs: Sequence[Ref], step: str = "") -> Ref:
    """The elementwise minimum of values of one shape."""
    if len(refs) == 1:
        return refs[0]
    minus = np.array(-1.0)
    turned = [b.scale(r, minus, step=f"{step}negative{i}") for i, r in enumerate(refs)]
    return b.scale(maximum(b, turned, f"{step}max"), minus, step=step)


def clip(b: Builder, node: OnnxNode, args: Args) -> Value:
    """min(max(x, low), high): bounds are attributes, later inputs, which may depend on the network's input."""
    x = reference(node, args[0])
    low, high = _bound(node, args, "min", 1, -np.inf), _bound(node, args, "max", 2, np.inf)
    if not isinstance(low, Ref) and not isinstance(high, Ref):
        return _constant_clip(b, node, x, low, high)
    above = x
    if isinstance(low, Ref):
        above = maximum(b, [x, b.expand(low, x.shape, "min")], "max" if isinstance(high, Ref) or high < np.inf else "")
    elif low > -np.inf:
        above = b.activation(x, _at_least(low), "max")
    if isinstance(high, Ref):
        return minimum(b, [above, b.expand(high, x.shape, "min")])
    return above if high == np.inf else b.activation(above, Clip(np.array(-np.inf), high))


def _bound(node: OnnxNode, args: Args, name: str, place: int, default: float) -> Value:
    """A bound of `Clip`, exact; infinite where it is left out or at the end of the floats, as exporters write it."""
    value = optional(args, place)
    if isinstance(value, Ref):
        if value.shape != ():
            raise node.refuse(f"its bound '{name}' of shape {list(value.shape)} is no scalar")
        return value
    if value is None:
        value = np.array(node.attributes.get(name, default), dtype=np.float32)
    if value.dtype not in (np.float32, np.float64) or value.size != 1 or np.isnan(value).any():
        raise node.refuse(f"its bound '{name}' is no number of its input's type")
    if abs(float(value.reshape(()))) >= np.finfo(value.dtype).max:
        return np.array(np.copysign(np.inf, float(value.reshape(()))))
    return value.astype(np.float64).reshape(())


def _constant_clip(b: Builder, node: OnnxNode, x: Ref, low: np.ndarray, high: np.ndarray) -> Value:
    if low > high or low == np.inf or high == -np.inf:
        raise node.refuse(f"its bounds {float(low):g} and {float(high):g} leave no interval")
    if low == 0.0 and high == np.inf:
        return b.activation(x, Relu())
    return x if low == -np.inf and high == np.inf else b.activation(x, Clip(low, high))


def cum_sum(b: Builder, node: OnnxNode, args: Args) -> Value:
    """The sums of all entries up to each along an axis: a triangle of ones."""
    x, given = reference(node, args[0]), integers(node, args[1], "axis")
    if given is None or len(given) != 1:
        raise node.refuse("its axis is not one number")
    axis = axis_in(node, given[0], len(x.shape))
    ones = np.tri(x.shape[axis], k=-1 if node.flag("exclusive") else 0)
    weight = ones.T if node.flag("reverse") else ones
    order = [*(a for a in range(len(x.shape)) if a != axis), axis]
    last = b.transpose(x, order, "axis_last")
    summed = b.affine([(last, Dense(np.ascontiguousarray(weight), last.shape[:-1]))], step="sums")
    return b.transpose(summed, np.argsort(order).tolist())

"""The lowering: a table from ONNX operator to the rule that turns one of its nodes into nodes of the network.

Nothing is rounded that need not be: a bias joins a node that has none, factors and divisors stay maps of their own,
and a constant becomes float64, which holds every float32 exactly. An operator outside the table, an attribute outside
its rule, and an input that a rule cannot take raise `UnsupportedOperator`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from verifkit.errors import ModelError
from verifkit.functions import Relu, ScalarFunction, Sigmoid, Tanh
from verifkit.io import onnx_shapes as shapes
from verifkit.io import onnx_windows as windows
from verifkit.io.onnx_builder import Builder, Ref, Value, expansion
from verifkit.io.onnx_graph import OnnxGraph, OnnxNode
from verifkit.io.onnx_shapes import FOLDABLE, Args, fold, reference
from verifkit.maps import Identity, LinearMap, Shape
from verifkit.network import Network
from verifkit.weighted_maps import Dense, Scale


@dataclass(frozen=True)
class Rule:
    """How one operator is lowered, and the attributes that it understands."""

    lower: Callable[[Builder, OnnxNode, Args], Value]
    attributes: tuple[str, ...] = ()
    inputs: tuple[int, int] = (1, 1)


def lower(graph: OnnxGraph, name: str) -> Network:
    """The graph as a network. Raises `UnsupportedOperator`, or `ModelError` if its output is a constant."""
    b = Builder(graph)
    for node in graph.nodes:
        b.node = node
        args = [b.value(tensor) for tensor in node.inputs]
        for tensor, value in zip(node.outputs, _lower_node(b, node, args), strict=False):
            if tensor:
                b.values[tensor] = value
    output = b.value(graph.output_name)
    if not isinstance(output, Ref):
        raise ModelError(f"the output '{graph.output_name}' of model '{name}' does not depend on its input")
    return b.network(graph.output_name)


def _lower_node(b: Builder, node: OnnxNode, args: Args) -> list[Value]:
    constant = bool(args) and not any(isinstance(a, Ref) for a in args)
    attributes = node.attributes  # refuses subgraphs
    if constant and node.operator in FOLDABLE:
        return list(fold(node, args))
    rule = RULES.get(node.operator)
    if rule is None:
        if node.proto.domain not in ("", "ai.onnx"):
            raise node.refuse("neither operators of other domains nor the model's own functions are lowered")
        raise node.refuse("there is no rule for this operator")
    unknown = [a for a in attributes if a not in rule.attributes]
    if unknown:
        raise node.refuse(f"its attribute '{unknown[0]}' is not known")
    least, most = rule.inputs
    if not least <= len(args) <= most or any(a is None for a in args[:least]):
        raise node.refuse(f"it has {len(args)} inputs, not {least}" + (f" to {most}" if most > least else ""))
    for extra in node.outputs[1:]:
        if extra and b.graph.consumers.get(extra, 0):
            raise node.refuse(f"its output '{extra}' is used, and only the first is lowered")
    return [rule.lower(b, node, args)]


def _common_shape(node: OnnxNode, args: Args) -> Shape:
    given = [a.shape for a in args if a is not None]
    try:
        return np.broadcast_shapes(*given)
    except ValueError:
        listed = " and ".join(str(list(s)) for s in given)
        raise node.refuse(f"its inputs of shapes {listed} do not broadcast together") from None


def _add(b: Builder, node: OnnxNode, args: Args) -> Value:
    out, (x, y) = _common_shape(node, args), args
    if isinstance(x, Ref) and isinstance(y, Ref):
        return b.affine([(x, expansion(x.shape, out)), (y, expansion(y.shape, out))])
    if isinstance(y, Ref):
        return _plus_constant(b, y, node.inputs[1], b.weights(_array(x)), out)
    return _plus_constant(b, reference(node, x), node.inputs[0], b.weights(_array(y)), out)


def _sub(b: Builder, node: OnnxNode, args: Args) -> Value:
    out, (x, y) = _common_shape(node, args), args
    if not isinstance(y, Ref):
        return _plus_constant(b, reference(node, x), node.inputs[0], -b.weights(_array(y)), out)
    wide = b.expand(y, out, "expand")
    minus = (wide, Scale(np.full(out, -1.0)))
    if isinstance(x, Ref):
        return b.affine([(x, expansion(x.shape, out)), minus])
    return b.affine([minus], b.weights(_array(x)))


def _plus_constant(b: Builder, x: Ref, source: str, bias: np.ndarray, out: Shape) -> Value:
    if x.shape == out:
        return b.add_bias(x, bias, source)
    return b.affine([(x, expansion(x.shape, out))], bias)


def _mul(b: Builder, node: OnnxNode, args: Args) -> Value:
    out, (x, y) = _common_shape(node, args), args
    if isinstance(x, Ref) and isinstance(y, Ref):
        return b.product(b.expand(x, out, "expand0"), b.expand(y, out, "expand1"))
    ref, factor = (x, y) if isinstance(x, Ref) else (y, x)
    return b.scale(b.expand(reference(node, ref), out, "expand"), b.weights(_array(factor)))


def _div(b: Builder, node: OnnxNode, args: Args) -> Value:
    out, (x, y) = _common_shape(node, args), args
    if isinstance(y, Ref):
        raise node.refuse("it divides by a value that depends on the network's input")
    divisor = b.weights(_array(y))
    if not divisor.all():
        raise node.refuse("it divides by a constant that is zero")
    return b.scale(b.expand(reference(node, x), out, "expand"), divisor, divide=True)


def _array(value: Value | None) -> np.ndarray:
    assert isinstance(value, np.ndarray)
    return value


def _matmul(b: Builder, node: OnnxNode, args: Args) -> Value:
    x, y = args
    if isinstance(x, Ref) and isinstance(y, Ref):
        raise node.refuse("both factors depend on the network's input")
    if isinstance(x, Ref):
        matrix = _factor(b, node, y, x.shape[-1:], 0)
        weight = np.ascontiguousarray(matrix.reshape(matrix.shape[0], -1).T)
        vector = matrix.ndim == 1
        result = b.affine([(x, Dense(weight, x.shape[:-1]))], step="column" if vector else "")
        return b.reshape(result, x.shape[:-1]) if vector else result
    right = reference(node, y)
    matrix = _factor(b, node, x, right.shape[-2:-1] or right.shape, -1)
    weight, vector = matrix.reshape(-1, matrix.shape[-1]), matrix.ndim == 1
    column = right if len(right.shape) == 1 else b.transpose(right, _swap(right.shape), "transposed")
    many = len(right.shape) > 1
    result = b.affine([(column, Dense(weight, column.shape[:-1]))], step="product" if many or vector else "")
    if vector:
        return b.reshape(result, result.shape[:-1])
    return b.transpose(result, _swap(result.shape)) if many else result


def _factor(b: Builder, node: OnnxNode, value: Value | None, inner: Shape, axis: int) -> np.ndarray:
    """A constant factor of a `MatMul` as float64: a vector or matrix whose `axis` is as long as `inner`."""
    matrix = b.weights(_array(value))
    if matrix.ndim not in (1, 2):
        raise node.refuse(f"its constant factor has shape {list(matrix.shape)}: only vectors and matrices are lowered")
    if not inner or matrix.shape[axis] != inner[0]:
        raise node.refuse(f"a constant factor of shape {list(matrix.shape)} does not fit its other input")
    return matrix


def _swap(shape: Shape) -> list[int]:
    """The axes with the last two exchanged."""
    order = list(range(len(shape)))
    order[-2:] = order[-1], order[-2]
    return order


def _gemm(b: Builder, node: OnnxNode, args: Args) -> Value:
    """alpha A' B' + beta C, where A' and B' are A and B, transposed if transA and transB say so."""
    attributes, (left, right) = node.attributes, args[:2]
    alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
    trans_a, trans_b = bool(attributes.get("transA", 0)), bool(attributes.get("transB", 0))
    c = args[2] if len(args) > 2 and beta != 0.0 else None
    if any(len(f.shape) != 2 for f in (left, right) if f is not None):
        raise node.refuse("its first two inputs must be matrices")
    product = _gemm_product(b, node, left, right, (trans_a, trans_b), plain=alpha == 1.0)
    x, linear = product
    out = linear.out_shape
    if alpha != 1.0:
        x = b.affine([product], step="product")
        linear = Scale(np.full(out, alpha))
    if c is None:
        return b.affine([(x, linear)])
    if _common_shape(node, (Ref(0, out), c)) != out:
        raise node.refuse(f"C of shape {list(c.shape)} does not broadcast to {list(out)}")
    if isinstance(c, np.ndarray):
        bias = b.weights(c)
        if c.dtype == np.float64 and math.frexp(beta)[0] not in (0.5, -0.5):
            raise node.refuse("beta times C cannot be represented exactly")
        return b.affine([(x, linear)], bias * beta)  # float32 times float32: exact in float64
    if beta == 1.0:
        return b.affine([(x, linear), (c, expansion(c.shape, out))])
    return b.affine([(x, linear), (b.expand(c, out, "expand"), Scale(np.full(out, beta)))])


def _gemm_product(
    b: Builder, node: OnnxNode, left: Value | None, right: Value | None, transposed: tuple[bool, bool], *, plain: bool
) -> tuple[Ref, LinearMap]:
    """A' B' as one linear map of one node, so that alpha, beta and C can still join it."""
    trans_a, trans_b = transposed
    if isinstance(left, Ref) and isinstance(right, Ref):
        raise node.refuse("both factors depend on the network's input")
    if isinstance(left, Ref):
        rows = b.transpose(left, (1, 0), "transposed") if trans_a else left
        matrix = b.weights(_array(right))
        weight = matrix if trans_b else np.ascontiguousarray(matrix.T)
        _check_inner(node, weight.shape[1], rows.shape[1])
        return rows, Dense(weight, rows.shape[:1])
    # A constant on the left: (A' B')^T = B'^T A'^T puts the input on the left, and the result is transposed back.
    given = reference(node, right, "first two inputs")
    rows = given if trans_b else b.transpose(given, (1, 0), "transposed")
    matrix = b.weights(_array(left))
    weight = np.ascontiguousarray(matrix.T) if trans_a else matrix
    _check_inner(node, weight.shape[1], rows.shape[1])
    product = b.affine([(rows, Dense(weight, rows.shape[:1]))], step="product_transposed")
    back = b.transpose(product, (1, 0), "product_transposed_back")
    return back, Identity(back.shape)


def _check_inner(node: OnnxNode, left: int, right: int) -> None:
    if left != right:
        raise node.refuse(f"its factors do not fit: {left} against {right} entries are summed")


def _activation(function: ScalarFunction) -> Callable[[Builder, OnnxNode, Args], Value]:
    def rule(b: Builder, node: OnnxNode, args: Args) -> Value:
        return b.activation(reference(node, args[0]), function)

    return rule


_WINDOW = ("kernel_shape", "strides", "pads", "auto_pad", "dilations")

RULES: dict[str, Rule] = {
    "Add": Rule(_add, inputs=(2, 2)),
    "AveragePool": Rule(windows.average_pool, (*_WINDOW, "ceil_mode", "count_include_pad")),
    "Constant": Rule(
        shapes.constant,
        ("value", "value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings",
         "sparse_value"),
        inputs=(0, 0),
    ),
    "Conv": Rule(windows.conv, (*_WINDOW, "group"), inputs=(2, 3)),
    "Div": Rule(_div, inputs=(2, 2)),
    "Dropout": Rule(shapes.dropout, ("ratio", "seed"), inputs=(1, 3)),
    "Flatten": Rule(shapes.flatten, ("axis",)),
    "Gemm": Rule(_gemm, ("alpha", "beta", "transA", "transB"), inputs=(2, 3)),
    "Identity": Rule(shapes.identity),
    "MatMul": Rule(_matmul, inputs=(2, 2)),
    "MaxPool": Rule(windows.max_pool, (*_WINDOW, "ceil_mode", "storage_order")),
    "Mul": Rule(_mul, inputs=(2, 2)),
    "Pad": Rule(shapes.pad, ("mode", "pads", "value"), inputs=(1, 4)),
    "Relu": Rule(_activation(Relu())),
    "Reshape": Rule(shapes.reshape, ("allowzero",), inputs=(2, 2)),
    "Shape": Rule(shapes.shape_of, ("start", "end")),
    "Sigmoid": Rule(_activation(Sigmoid())),
    "Size": Rule(shapes.size_of),
    "Sub": Rule(_sub, inputs=(2, 2)),
    "Tanh": Rule(_activation(Tanh())),
    "Transpose": Rule(shapes.transpose, ("perm",)),
}  # fmt: skip
"""Every operator that is lowered; what its rule accepts is stated there."""

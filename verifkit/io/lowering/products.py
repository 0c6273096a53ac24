"""Lowering rules for matrix products: `MatMul` and `Gemm`, with one constant factor or with none."""

from __future__ import annotations

import math

import numpy as np

from verifkit.io.lowering.arguments import Args, common_shape, constant, reference
from verifkit.io.lowering.builder import Builder, Ref, Value, expansion
from verifkit.io.lowering.graph import OnnxNode
from verifkit.maps import Identity, LinearMap, Shape
from verifkit.weighted_maps import BatchedDense, Dense, Scale


def matmul(b: Builder, node: OnnxNode, args: Args) -> Value:
    """NumPy's product: a vector on the left is a row, on the right a column; leading axes broadcast."""
    x, y = args
    if isinstance(x, Ref) and isinstance(y, Ref):
        return _both(b, node, x, y)
    if isinstance(x, Ref):
        matrix = _factor(b, node, y, x.shape[-1:], 0)
        if matrix.ndim > 2:
            return _batched(b, node, x, matrix, left=False)
        weight = np.ascontiguousarray(matrix.reshape(matrix.shape[0], -1).T)
        vector = matrix.ndim == 1
        result = b.affine([(x, Dense(weight, x.shape[:-1]))], step="column" if vector else "")
        return b.reshape(result, x.shape[:-1]) if vector else result
    right = reference(node, y)
    matrix = _factor(b, node, x, right.shape[-2:-1] or right.shape, -1)
    if matrix.ndim > 2:
        return _batched(b, node, right, matrix, left=True)
    weight, vector = matrix.reshape(-1, matrix.shape[-1]), matrix.ndim == 1
    column = right if len(right.shape) == 1 else b.transpose(right, _swap(right.shape), "transposed")
    many = len(right.shape) > 1
    result = b.affine([(column, Dense(weight, column.shape[:-1]))], step="product" if many or vector else "")
    if vector:
        return b.reshape(result, result.shape[:-1])
    return b.transpose(result, _swap(result.shape)) if many else result


def _factor(b: Builder, node: OnnxNode, value: Value | None, inner: Shape, axis: int) -> np.ndarray:
    """A constant factor of a `MatMul` as float64, whose `axis` (counted among the last two) is as long as `inner`."""
    matrix = b.weights(constant(node, value, "factor"))
    place = axis if axis or matrix.ndim == 1 else -2
    if matrix.ndim < 1 or not inner or matrix.shape[place] != inner[0]:
        raise node.refuse(f"a constant factor of shape {list(matrix.shape)} does not fit its other input")
    return matrix


def _swap(shape: Shape) -> list[int]:
    """The axes with the last two exchanged."""
    order = list(range(len(shape)))
    order[-2:] = order[-1], order[-2]
    return order


def _matrices(x: Shape, y: Shape) -> tuple[Shape, Shape]:
    """Both shapes with at least two axes: vectors become a row and a column."""
    return (x if len(x) > 1 else (1, *x)), (y if len(y) > 1 else (*y, 1))


def _lead(node: OnnxNode, x: Shape, y: Shape) -> Shape:
    try:
        return np.broadcast_shapes(x[:-2], y[:-2])
    except ValueError:
        raise node.refuse(f"its inputs of shapes {list(x)} and {list(y)} do not broadcast together") from None


def _drop(b: Builder, result: Ref, x: Shape, y: Shape) -> Ref:
    """The product without the axes that vectors were given."""
    shape = result.shape
    rows = shape[-2:-1] if len(x) > 1 else ()
    return b.reshape(result, (*shape[:-2], *rows, *(shape[-1:] if len(y) > 1 else ())))


def _batched(b: Builder, node: OnnxNode, x: Ref, weight: np.ndarray, *, left: bool) -> Ref:
    """A constant with more than two axes on the left or right of x: one matrix for each place of the leading axes."""
    first, second = (weight.shape, x.shape) if left else (x.shape, weight.shape)
    row, column = _matrices(first, second)
    lead = _lead(node, row, column)
    own = column if left else row
    wide = b.expand(b.reshape(x, own, "matrix"), (*lead, *own[-2:]), "expand")
    # in (.., rows, n_in): for a constant on the left that is x transposed, as (A x)^T = x^T A^T.
    inner = b.transpose(wide, _swap(wide.shape), "transposed") if left else wide
    full = np.broadcast_to(weight, (*lead, *weight.shape[-2:]))
    matrices = np.ascontiguousarray(full if left else full.swapaxes(-1, -2))
    result = b.affine([(inner, BatchedDense(matrices, inner.shape[-2]))], step="product")
    back = b.transpose(result, _swap(result.shape), "transposed_back") if left else result
    return _drop(b, back, first, second)


def _both(b: Builder, node: OnnxNode, x: Ref, y: Ref) -> Ref:
    """Two values of the network: every pair of entries that meet, multiplied, and summed over the inner axis."""
    if not x.shape or not y.shape:
        raise node.refuse("one of its factors is a scalar")
    row, column = _matrices(x.shape, y.shape)
    if row[-1] != column[-2]:
        raise node.refuse(f"its factors of shapes {list(x.shape)} and {list(y.shape)} do not fit")
    lead = _lead(node, row, column)
    out = (*lead, row[-2], column[-1], row[-1])
    turned = b.transpose(b.reshape(y, column, "columns"), _swap(column), "transposed")
    left = b.reshape(x, (*row[:-1], 1, row[-1]), "rows")
    right = b.reshape(turned, (*turned.shape[:-2], 1, *turned.shape[-2:]), "columns_apart")
    pairs = b.product(b.expand(left, out, "left"), b.expand(right, out, "right"), "products")
    vectors = len(x.shape) == 1 or len(y.shape) == 1
    result = b.sum(pairs, (len(out) - 1,), keepdims=False, step="sum" if vectors else "")
    return _drop(b, result, x.shape, y.shape)


def gemm(b: Builder, node: OnnxNode, args: Args) -> Value:
    """alpha A' B' + beta C, where A' and B' are A and B, transposed if transA and transB say so."""
    left, right = args[:2]
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    transposed = node.flag("transA"), node.flag("transB")
    c = args[2] if len(args) > 2 and beta != 0.0 else None
    if any(len(f.shape) != 2 for f in (left, right) if f is not None):
        raise node.refuse("its first two inputs must be matrices")
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        raise node.refuse("its first two inputs are constants: fold their product into one constant")
    product = _gemm_product(b, node, left, right, transposed)
    x, linear = product
    out = linear.out_shape
    if alpha != 1.0:
        x = b.affine([product], step="product")
        linear = Scale(np.full(out, alpha))
    if c is None:
        return b.affine([(x, linear)])
    if common_shape(node, (Ref(0, out, x.dtype), c)) != out:
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
    b: Builder, node: OnnxNode, left: Value | None, right: Value | None, transposed: tuple[bool, bool]
) -> tuple[Ref, LinearMap]:
    """A' B' as one linear map of one node, so that alpha, beta and C can still join it."""
    trans_a, trans_b = transposed
    if isinstance(left, Ref) and isinstance(right, Ref):
        rows = b.transpose(left, (1, 0), "transposed_a") if trans_a else left
        columns = b.transpose(right, (1, 0), "transposed_b") if trans_b else right
        both = _both(b, node, rows, columns)
        return both, Identity(both.shape)
    if isinstance(left, Ref):
        rows = b.transpose(left, (1, 0), "transposed") if trans_a else left
        matrix = b.weights(constant(node, right, "second input"))
        weight = matrix if trans_b else np.ascontiguousarray(matrix.T)
        _check_inner(node, weight.shape[1], rows.shape[1])
        return rows, Dense(weight, rows.shape[:1])
    # A constant on the left: (A' B')^T = B'^T A'^T puts the input on the left, and the result is transposed back.
    given = reference(node, right, "first two inputs")
    rows = given if trans_b else b.transpose(given, (1, 0), "transposed")
    matrix = b.weights(constant(node, left, "first input"))
    weight = np.ascontiguousarray(matrix.T) if trans_a else matrix
    _check_inner(node, weight.shape[1], rows.shape[1])
    product = b.affine([(rows, Dense(weight, rows.shape[:1]))], step="product_transposed")
    back = b.transpose(product, (1, 0), "product_transposed_back")
    return back, Identity(back.shape)


def _check_inner(node: OnnxNode, left: int, right: int) -> None:
    if left != right:
        raise node.refuse(f"its factors do not fit: {left} against {right} entries are summed")

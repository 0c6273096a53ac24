"""Exact evaluation of a network at a rational point: the reference under `real` semantics.

A vector is held as integers times one common rational scale, so that a layer costs integer products only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verifkit.arrays import Array
from verifkit.functions import Abs, Clip, LeakyRelu, Power, Relu, ScalarFunction, Sign
from verifkit.maps import Adjoint, LinearMap
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input, Max, Node, Product
from verifkit.weighted_maps import Scale

RATIONAL_LIMIT = 3_000_000
"""Weights (counted with repeats of a convolution) beyond which exact evaluation is not worth its seconds."""

BITS_LIMIT = 20_000
"""Length of a value's numerator beyond which it is not either: products add up the lengths of their factors."""

RATIONAL: frozenset[type[ScalarFunction]] = frozenset({Relu, LeakyRelu, Clip, Abs, Sign, Power})
"""The functions that map rationals to rationals. (A reciprocal does too, where it has a value; but it would bring every
unit a denominator of its own, and a point without a value would have no answer.)"""


@dataclass(frozen=True)
class _Scaled:
    """integers * scale, flat; `integers` is an object array of Python ints."""

    integers: np.ndarray
    scale: Fraction


def rational_entries(linear: LinearMap) -> Iterator[tuple[int, int, Fraction]]:
    """The map as a sparse matrix of exact numbers: (row, column, value) over flattened (C order) shapes.

    Those of `LinearMap.entries`, but that a division is no rounded reciprocal.
    """
    if isinstance(linear, Adjoint):
        yield from ((row, column, value) for column, row, value in rational_entries(linear.of))
        return
    entries, divide = linear.entries(), isinstance(linear, Scale) and linear.divide
    values = np.asarray(linear.factor).reshape(-1) if isinstance(linear, Scale) else entries.values
    for row, column, value in zip(entries.rows.tolist(), entries.cols.tolist(), values.tolist(), strict=True):
        yield row, column, 1 / Fraction(value) if divide else Fraction(value)


def exact_cost(network: Network) -> int:
    """How many products an exact evaluation takes."""
    cost = 0
    for node in network.nodes:
        if isinstance(node, Affine):
            cost += sum(m.terms * math.prod(m.out_shape) for m in node.maps)
    return cost


def can_evaluate_exactly(network: Network) -> bool:
    """Whether every node maps rationals to rationals, at an affordable cost."""
    rational = all(type(node.function) in RATIONAL for _, node in network.activations())
    return rational and exact_cost(network) <= RATIONAL_LIMIT and _numerator_bits(network) <= BITS_LIMIT


def _numerator_bits(network: Network) -> int:
    """About how long the longest numerator gets, from single precision inputs and weights."""
    bits: list[int] = []
    for node in network.nodes:
        longest = max((bits[p] for p in node.parents), default=32)
        if isinstance(node, Affine):
            longest += 32 + node.terms.bit_length()
        elif isinstance(node, Product):
            longest = sum(bits[p] for p in node.parents)
        elif isinstance(node, Activation):
            longest = longest * node.function.exponent if isinstance(node.function, Power) else longest + 32
        bits.append(longest)
    return max(bits)


def evaluate_exactly(network: Network, x: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """The network's output at `x` (flat) in exact rational arithmetic, flat in C order.

    Raises TypeError for an activation that leaves the rationals (see `can_evaluate_exactly`).
    """
    denominator = math.lcm(*(v.denominator for v in x))
    start = np.array([v.numerator * (denominator // v.denominator) for v in x], dtype=object)
    values: list[_Scaled] = []
    for node in network.nodes:
        parents = [values[p] for p in node.parents]
        values.append(_Scaled(start, Fraction(1, denominator)) if isinstance(node, Input) else _node(node, parents))
    last = values[-1]
    return tuple(int(v) * last.scale for v in last.integers)


def _node(node: Node, parents: list[_Scaled]) -> _Scaled:
    if isinstance(node, Affine):
        terms = [_linear(m, p) for m, p in zip(node.maps, parents, strict=True)]
        if node.bias is not None:
            terms.append(_from_floats(np.asarray(node.bias)))
        return _sum(terms)
    if isinstance(node, Activation):
        return _activation(node, parents[0])
    if isinstance(node, Max):
        return _Scaled(parents[0].integers[node.filled_groups].max(axis=-1).reshape(-1), parents[0].scale)
    if isinstance(node, Product):
        left, right = parents
        return _Scaled(left.integers * right.integers, left.scale * right.scale)
    raise TypeError(f"node '{node.name}' has no exact value")


def _activation(node: Activation, x: _Scaled) -> _Scaled:
    function = node.function
    if isinstance(function, Relu):
        return _Scaled(np.maximum(x.integers, 0), x.scale)
    if isinstance(function, Abs):
        return _Scaled(abs(x.integers), x.scale)
    if isinstance(function, Sign):
        return _Scaled(np.sign(x.integers), Fraction(1))
    if isinstance(function, Power):
        return _Scaled(x.integers**function.exponent, x.scale**function.exponent)
    if isinstance(function, LeakyRelu):
        slope, negative = _parameter(function.slope, node), np.minimum(x.integers, 0)
        bent = _Scaled(negative * slope.integers, x.scale * slope.scale)
        return _sum([_Scaled(np.maximum(x.integers, 0), x.scale), bent])
    if isinstance(function, Clip):
        for end, beyond, better in ((function.low, -np.inf, np.maximum), (function.high, np.inf, np.minimum)):
            ends = np.broadcast_to(np.asarray(end, dtype=np.float64), node.shape).reshape(-1)
            free = ends == beyond
            limit, x = _to_one_scale([_from_floats(np.where(free, 0.0, ends)), x])
            x = _Scaled(np.where(free, x.integers, better(limit.integers, x.integers)), x.scale)
        return x
    raise TypeError(f"node '{node.name}' has no exact value")


def _parameter(values: Array, node: Activation) -> _Scaled:
    """A parameter of the node's function, one for each entry."""
    return _from_floats(np.broadcast_to(np.asarray(values, dtype=np.float64), node.shape))


def _sum(terms: list[_Scaled]) -> _Scaled:
    aligned = _to_one_scale(terms)
    return _Scaled(np.asarray(sum(t.integers for t in aligned), dtype=object), aligned[0].scale)


def _to_one_scale(terms: list[_Scaled]) -> list[_Scaled]:
    common = Fraction(math.gcd(*(t.scale.numerator for t in terms)), math.lcm(*(t.scale.denominator for t in terms)))
    return [_Scaled(t.integers * int(t.scale / common), common) for t in terms]


def _from_floats(values: np.ndarray) -> _Scaled:
    """Floats as integers times a power of two."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    mantissa, exponent = np.frexp(flat)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    shift = exponent.astype(np.int64) - 53
    zeros = whole == 0
    if zeros.all():
        return _Scaled(np.zeros(flat.size, dtype=object), Fraction(1))
    # Strip the zero bits that float32 weights carry: shorter integers multiply faster.
    low = np.where(zeros, 1, whole & -whole)
    trailing = np.where(zeros, 0, np.log2(low.astype(np.float64))).astype(np.int64)
    whole, shift = whole >> trailing, shift + trailing
    least = int(shift[~zeros].min())
    raised = whole.astype(object) << np.where(zeros, 0, shift - least).astype(object)
    return _Scaled(raised, Fraction(2) ** least)


def _linear(linear: LinearMap, x: _Scaled) -> _Scaled:
    if isinstance(linear, Scale) and linear.divide:
        ratios = [Fraction(float(f)) for f in np.asarray(linear.factor).reshape(-1)]
        common = math.lcm(*(r.numerator for r in ratios))
        times = np.array([int(common / r) for r in ratios], dtype=object)
        return _Scaled(x.integers * times, x.scale / common)
    entries = linear.entries()
    size = math.prod(linear.out_shape)
    result = np.zeros(size, dtype=object)
    if entries.rows.size == 0:
        return _Scaled(result, x.scale)
    order = np.argsort(entries.rows, kind="stable")
    rows, cols = entries.rows[order], entries.cols[order]
    weights = _from_floats(entries.values[order])
    products = weights.integers * x.integers[cols]
    places, starts = np.unique(rows, return_index=True)
    result[places] = np.add.reduceat(products, starts)
    return _Scaled(result, x.scale * weights.scale)

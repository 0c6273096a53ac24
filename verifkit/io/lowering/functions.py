"""Lowering rules for functions of one input, and for those that are composed of a few.

Constants that are no float (1 / sqrt 2 in GELU) are rounded to the nearest float64; see docs/adr on what is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from verifkit.functions import (
    Clip,
    Elu,
    Erf,
    LeakyRelu,
    Power,
    Reciprocal,
    Relu,
    ScalarFunction,
    Sigmoid,
    Softplus,
    Sqrt,
    Tanh,
)
from verifkit.io.lowering.arguments import Args, constant, reference
from verifkit.io.lowering.builder import Builder, Ref, Value
from verifkit.io.lowering.graph import OnnxNode
from verifkit.maps import Identity
from verifkit.weighted_maps import Scale

Lowering = Callable[[Builder, OnnxNode, Args], Value]

MAX_EXPONENT = 64
"""The largest whole exponent: x^64 leaves float32 for |x| > 4."""


def activation(function: ScalarFunction) -> Lowering:
    """The rule of an operator that is one scalar function without attributes."""

    def rule(b: Builder, node: OnnxNode, args: Args) -> Value:
        return b.activation(reference(node, args[0]), function)

    return rule


def reciprocal(b: Builder, x: Ref, step: str = "") -> Ref:
    return b.activation(x, Reciprocal(), step)


def neg(b: Builder, node: OnnxNode, args: Args) -> Value:
    return b.scale(reference(node, args[0]), np.array(-1.0))


def power(b: Builder, node: OnnxNode, args: Args) -> Value:
    """x to a constant whole exponent, or to one half or minus one half."""
    x = reference(node, args[0], "base")
    exponents = constant(node, args[1], "exponent")
    if exponents.dtype.kind in "iu":
        exponents = exponents.astype(np.float64)
    exact = b.weights(exponents)
    if not exact.size or (exact != exact.flat[0]).any():
        raise node.refuse("its exponents differ from each other: only one exponent for all entries is lowered")
    exponent = float(exact.flat[0])
    try:
        x = b.expand(x, np.broadcast_shapes(x.shape, exact.shape), "expand")
    except ValueError:
        raise node.refuse(f"exponents of shape {list(exact.shape)} do not fit {list(x.shape)}") from None
    if exponent == 0.0:
        return np.ones(x.shape, dtype=x.dtype)
    if exponent == 1.0:
        return x
    if exponent == 0.5:
        return b.activation(x, Sqrt())
    if exponent == -0.5:
        return reciprocal(b, b.activation(x, Sqrt(), "sqrt"))
    if exponent != int(exponent) or abs(exponent) > MAX_EXPONENT:
        raise node.refuse(
            f"its exponent is {exponent:g}: whole ones from -{MAX_EXPONENT} to {MAX_EXPONENT}, 0.5 and -0.5 are lowered"
        )
    if exponent > 0:
        return b.activation(x, Power(int(exponent)))
    return reciprocal(b, x if exponent == -1.0 else b.activation(x, Power(int(-exponent)), "power"))


def leaky_relu(b: Builder, node: OnnxNode, args: Args) -> Value:
    return b.activation(reference(node, args[0]), _leaky(np.array(node.number("alpha", 0.01))))


def prelu(b: Builder, node: OnnxNode, args: Args) -> Value:
    x, slope = reference(node, args[0]), b.weights(constant(node, args[1], "slope"))
    try:
        fits = np.broadcast_shapes(x.shape, slope.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise node.refuse(f"slopes of shape {list(slope.shape)} do not broadcast to {list(x.shape)}")
    return b.activation(x, _leaky(slope))


def _leaky(slope: np.ndarray) -> ScalarFunction:
    return LeakyRelu(slope) if slope.any() else Relu()


def elu(b: Builder, node: OnnxNode, args: Args) -> Value:
    return b.activation(reference(node, args[0]), Elu(node.number("alpha", 1.0)))


def selu(b: Builder, node: OnnxNode, args: Args) -> Value:
    alpha, gamma = node.number("alpha", 1.67326319217681884765625), node.number("gamma", 1.05070102214813232421875)
    curve = b.activation(reference(node, args[0]), Elu(alpha), "elu")
    return b.scale(curve, np.array(gamma))


def celu(b: Builder, node: OnnxNode, args: Args) -> Value:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1)) = alpha elu(x / alpha), for alpha > 0."""
    x, alpha = reference(node, args[0]), node.number("alpha", 1.0)
    if not (alpha > 0 and math.isfinite(alpha)):
        raise node.refuse(f"alpha {alpha:g} is not positive")
    if alpha == 1.0:
        return b.activation(x, Elu())
    curve = b.activation(b.scale(x, np.array(alpha), divide=True, step="scaled"), Elu(), "elu")
    return b.scale(curve, np.array(alpha))


def thresholded_relu(b: Builder, node: OnnxNode, args: Args) -> Value:
    alpha = node.number("alpha", 1.0)
    if alpha != 0.0:
        raise node.refuse(f"alpha is {alpha:g}, where it jumps: only alpha 0, which is Relu, is lowered")
    return b.activation(reference(node, args[0]), Relu())


def hard_sigmoid(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    slope = Scale(np.full(x.shape, node.number("alpha", 0.2)))
    line = b.affine([(x, slope)], np.array(node.number("beta", 0.5)), "line")
    return b.activation(line, Clip(np.array(0.0), np.array(1.0)))


def hard_swish(b: Builder, node: OnnxNode, args: Args) -> Value:
    """x max(0, min(1, x / 6 + 1 / 2)) = x clip(x + 3, 0, 6) / 6."""
    x = reference(node, args[0])
    gate = b.activation(plus(b, x, 3.0, "shifted"), Clip(np.array(0.0), np.array(6.0)), "gate")
    return b.scale(b.product(x, gate, "product"), np.array(6.0), divide=True)


def softsign(b: Builder, node: OnnxNode, args: Args) -> Value:
    """x / (1 + |x|) = 1 / (1 + relu(-x)) - 1 / (1 + relu(x)): without a product, and both terms rise with x."""
    x = reference(node, args[0])
    negative = b.scale(x, np.array(-1.0), step="negative")
    parts = []
    for side, value in (("left", negative), ("right", x)):
        positive = b.activation(value, Relu(), f"{side}/relu")
        parts.append(reciprocal(b, plus(b, positive, 1.0, f"{side}/plus"), f"{side}/reciprocal"))
    left, right = parts
    return b.affine([(left, Identity(x.shape)), (right, Scale(np.full(x.shape, -1.0)))])


def gelu(b: Builder, node: OnnxNode, args: Args) -> Value:
    """x (1 + erf(x / sqrt 2)) / 2, or x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    x, kind = reference(node, args[0]), node.attributes.get("approximate", "none")
    if kind not in ("none", "tanh"):
        raise node.refuse(f"approximate '{kind}' is neither none nor tanh")
    if kind == "none":
        inner, curve = b.scale(x, np.array(math.sqrt(0.5)), step="scaled"), Erf()
        bent: Ref = b.activation(inner, curve, "erf")
    else:
        factor = math.sqrt(2.0 / math.pi)
        cube = b.activation(x, Power(3), "cube")
        line = Scale(np.full(x.shape, factor)), Scale(np.full(x.shape, factor * 0.044715))
        bent = b.activation(b.affine([(x, line[0]), (cube, line[1])], step="inner"), Tanh(), "tanh")
    gate = plus(b, bent, 1.0, "gate")
    return b.scale(b.product(x, gate, "product"), np.array(0.5))


def mish(b: Builder, node: OnnxNode, args: Args) -> Value:
    """x tanh(softplus(x))."""
    x = reference(node, args[0])
    return b.product(x, b.activation(b.activation(x, Softplus(), "softplus"), Tanh(), "tanh"))


def swish(b: Builder, node: OnnxNode, args: Args) -> Value:
    """x sigmoid(alpha x)."""
    x, alpha = reference(node, args[0]), node.number("alpha", 1.0)
    inner = x if alpha == 1.0 else b.scale(x, np.array(alpha), step="scaled")
    return b.product(x, b.activation(inner, Sigmoid(), "sigmoid"))


def plus(b: Builder, x: Ref, number: float, step: str) -> Ref:
    """x + number."""
    return b.affine([(x, Identity(x.shape))], np.array(number), step)

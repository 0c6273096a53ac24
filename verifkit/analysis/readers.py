"""Which nodes a backward pass of their own may tighten, and what those that read them need to know."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from verifkit.analysis.relaxation import Relaxation
from verifkit.arrays import Array, namespace
from verifkit.functions import Abs, Clip, LeakyRelu, Relu, ScalarFunction, Sign
from verifkit.maps import Rearrangement
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Node, Product

Kinks = list[Array | float] | None
"""Breakpoints of the functions that read a node, where a value on one side of all of them is all they need to know;
None where they need the value's range itself."""


def readers(network: Network, relaxations: Mapping[type[ScalarFunction], Relaxation]) -> dict[int, Kinks]:
    """The nodes that a backward pass of their own may tighten for what reads them, and what that needs to know."""
    found: dict[int, Kinks] = {}
    for node in network.nodes:
        for parent in node.parents if _relaxes(node, relaxations) else ():
            kinks = _kinks(node.function) if isinstance(node, Activation) else None
            index = parent
            while _moves(network, index):  # the node behind it has the same numbers, in other places
                index = network.nodes[index].parents[0]
            if index != parent and kinks is not None and any(np.ndim(k) for k in kinks):
                kinks = None
            if _mixes(network, index):
                before = found.get(index, [])
                found[index] = None if kinks is None or before is None else before + kinks
    return found


def holding(lower: Array, upper: Array, kinks: Kinks) -> Array:
    """Which entries' ranges hold a kink, or have any width (kinks None), `(B, *shape)`."""
    found = lower < upper if kinks is None else namespace(lower).zeros_like(lower, dtype=namespace(lower).bool)
    for kink in kinks or ():
        found = found | ((lower < kink) & (upper > kink))
    return found


def undecided(lower: Array, upper: Array, kinks: Kinks) -> np.ndarray:
    """Flat indices of the entries that are `holding` in some batch entry."""
    return np.flatnonzero(np.asarray(namespace(lower).any(holding(lower, upper, kinks), axis=0)))


def _relaxes(node: Node, relaxations: Mapping[type[ScalarFunction], Relaxation]) -> bool:
    """Whether the table has a rule for the node."""
    if isinstance(node, Activation):
        return type(node.function) in relaxations
    return isinstance(node, Product) and bool(relaxations)


def _kinks(function: ScalarFunction) -> Kinks:
    if isinstance(function, Relu | LeakyRelu | Abs | Sign):
        return [0.0]
    return [function.low, function.high] if isinstance(function, Clip) else None


def _moves(network: Network, index: int) -> bool:
    """Whether the node only rearranges its parent, which is no larger."""
    node = network.nodes[index]
    if not isinstance(node, Affine) or len(node.maps) > 1 or node.bias is not None:
        return False
    smaller = math.prod(node.maps[0].in_shape) <= math.prod(node.shape)
    return smaller and isinstance(node.maps[0], Rearrangement)


def _mixes(network: Network, index: int) -> bool:
    """Whether the node's value is made of several numbers that depend on each other: else its interval is as tight."""
    node = network.nodes[index]
    while isinstance(node, Affine) and len(node.maps) == 1 and node.maps[0].terms == 1:
        node = network.nodes[node.parents[0]]
    return isinstance(node, Affine) or (isinstance(node, Product) and len(set(node.parents)) > 1)

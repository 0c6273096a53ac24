"""Bounds on every value inside a network over a question's inputs, layer by layer, before and after each activation.

A layer is one node of the query's network under its ONNX tensor's name. What a verifier did not need for its verdict is
computed when somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from verifkit.arrays import Array
from verifkit.functions import Abs, LeakyRelu, Relu, Sign
from verifkit.network import Network
from verifkit.ops import Activation, Node

Compute = Callable[[], Mapping[int, tuple[Array, Array]]]
"""Node index -> (lower, upper), each of the node's shape, with or without a batch axis of length 1 in front."""

KINKED_AT_ZERO = (Relu, LeakyRelu, Abs, Sign)
"""Functions that are one line on each side of 0: a unit whose range lies on one side needs no relaxation."""


class Phases(NamedTuple):
    """Units by where their pre-activation may lie: lower >= 0, upper <= 0, or on both sides of 0."""

    active: int
    inactive: int
    unstable: int


@dataclass(frozen=True, eq=False)
class Layer:
    """lower <= value <= upper for one node, entry by entry, over every input of the question.

    index, name: of the node, which is the ONNX tensor. origin: the ONNX nodes it came from. kind: "input", "affine",
    "max", "product", or the activation's name. lower, upper: float64 arrays of the node's shape; an end is infinite
    where nothing is known. kinked: whether a function with its kink at 0 (ReLU, leaky ReLU, absolute value, sign)
    reads it.
    """

    index: int
    name: str
    origin: tuple[str, ...]
    kind: str
    lower: np.ndarray
    upper: np.ndarray
    kinked: bool = False

    @property
    def phases(self) -> Phases | None:
        """Of a pre-activation, where `kinked`; None for any other layer."""
        if not self.kinked:
            return None
        active = self.lower >= 0
        inactive = (self.upper <= 0) & ~active
        counts = int(active.sum()), int(inactive.sum())
        return Phases(*counts, self.lower.size - sum(counts))


class LayerBounds:
    """The bounds that one answer rests on, and those of every other node.

    They hold under the same guarantee as the verifier's own bounds, for every input that the property is about: of a
    property split into cases (disjuncts with boxes of their own) a layer is the hull of its bounds over the cases.
    """

    def __init__(self, network: Network, compute: Compute) -> None:
        """compute: called once, on the first look at `layers`; a node without an entry is no layer."""
        self.network = network
        self._compute: Compute | None = compute
        self._layers: Mapping[str, Layer] = MappingProxyType({})

    @property
    def layers(self) -> Mapping[str, Layer]:
        """The layers by name, in the graph's order. The first look may take a few backward passes.

        A name that an earlier node has taken is followed by "#" and the node's index. Two ONNX tensors of one value
        (a reshape that changes nothing, an identity) are one layer under one of their names, and an ONNX node that is
        lowered in several steps has a layer for each, "tensor/step".
        """
        if self._compute is not None:
            with np.errstate(all="ignore"):  # what overflows is infinite, and NaN says nothing
                self._layers = MappingProxyType(_named(self.network, self._compute()))
            self._compute = None
        return self._layers

    def __getstate__(self) -> dict[str, Any]:
        """A pickle holds the layers in place of the analysis behind them."""
        return {"network": self.network, "layers": dict(self.layers)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.network, self._compute = state["network"], None
        self._layers = MappingProxyType(state["layers"])


def hull(parts: Sequence[LayerBounds | None]) -> LayerBounds | None:
    """Bounds over the union of the inputs of several answers about one network; None where one of them has none."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not known:
        return None
    return known[0] if len(known) == 1 else LayerBounds(known[0].network, partial(_united, known))


def _united(parts: Sequence[LayerBounds]) -> dict[int, tuple[Array, Array]]:
    found = [{layer.index: layer for layer in part.layers.values()} for part in parts]
    common = set(found[0]).intersection(*found[1:])
    return {
        index: (
            np.minimum.reduce([layers[index].lower for layers in found]),
            np.maximum.reduce([layers[index].upper for layers in found]),
        )
        for index in common
    }


def _named(network: Network, bounds: Mapping[int, tuple[Array, Array]]) -> dict[str, Layer]:
    kinked = {n.parents[0] for _, n in network.activations() if isinstance(n.function, KINKED_AT_ZERO)}
    layers: dict[str, Layer] = {}
    for index, node in enumerate(network.nodes):
        if index not in bounds:
            continue
        name = node.name if node.name not in layers else f"{node.name}#{index}"
        lower, upper = (np.array(end, dtype=np.float64).reshape(node.shape) for end in bounds[index])
        lower[np.isnan(lower)], upper[np.isnan(upper)] = -np.inf, np.inf
        layers[name] = Layer(index, name, node.origin, _kind(node), lower, upper, index in kinked)
    return layers


def _kind(node: Node) -> str:
    return node.function.name if isinstance(node, Activation) else type(node).__name__.lower()

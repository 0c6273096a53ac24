"""Small networks of every node kind, and black boxes: what declared capabilities are held against.

Each entry names the kinds it needs a rule for. The weights are seeded float32 values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import numpy as np

from verifkit.arrays import Array
from verifkit.errors import ModelError
from verifkit.functions import ScalarFunction
from verifkit.io.onnx import model_from_network
from verifkit.model import Model, digest_of
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input, Node
from verifkit.testing.graphs import BUILDERS, Needed, twice


@dataclass(frozen=True)
class Cubed(ScalarFunction):
    """x^3: a function that no verifier can have declared, for refusals."""

    name: ClassVar[str] = "cubed"

    def __call__(self, x: Array) -> Array:
        return x * x * x

    def derivative(self, x: Array) -> Array:
        return 3.0 * x * x


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A network and the node kinds and functions that it needs rules for."""

    name: str
    model: Model
    needs: Needed

    @property
    def network(self) -> Network:
        assert self.model.network is not None
        return self.model.network

    def stops(self, nodes: frozenset[type[Node]], functions: frozenset[type[ScalarFunction]]) -> list[str]:
        """The names of the nodes for which a verifier with these rules has none."""
        names = []
        for node in self.network.nodes:
            if isinstance(node, Activation):
                known: bool = type(node.function) in functions
            else:
                known = isinstance(node, Input | Affine) or type(node) in nodes
            if not known:
                names.append(node.name)
        return names


@cache
def exhibits() -> tuple[Exhibit, ...]:
    """One network for each node kind, function and shape of graph."""
    return tuple(Exhibit(name, _model(build(), name), needs) for name, (build, needs) in BUILDERS.items())


def _model(network: Network, name: str) -> Model:
    """By way of ONNX; a network that has no ONNX form is called as it is."""
    try:
        return model_from_network(network, name)
    except ModelError:
        digest = digest_of(f"gallery {name}".encode())
        return Model(name, network.input_shape, network.output_shape, network.evaluate, digest,
                     dtype=np.float64, network=network)  # fmt: skip


@cache
def unknown_function() -> Exhibit:
    """A network with an activation that is none of the framework's; it has no ONNX form."""
    return Exhibit("cubed", _model(twice(Cubed())(), "cubed"), frozenset({Cubed}))


@cache
def black_box() -> Model:
    """A model that can only be called."""
    model = exhibits()[1].model
    return replace(model, network=None, onnx_bytes=None, name="black box", digest=digest_of(b"black box"))

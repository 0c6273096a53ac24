"""Small networks of every node kind, and black boxes: what declared capabilities are held against.

Each entry names the kinds it needs a rule for. The weights are seeded float32 values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import numpy as np

from verifkit.arrays import Array
from verifkit.functions import Relu, ScalarFunction, Sigmoid, Tanh
from verifkit.io.onnx import model_from_network
from verifkit.maps import Identity, LinearMap, Place, Reshape
from verifkit.model import Model, digest_of
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input, Max, Node, Product
from verifkit.weighted_maps import Conv, Dense, Scale


@dataclass(frozen=True)
class Cubed(ScalarFunction):
    """x^3: a function that no verifier can have declared, for refusals."""

    name: ClassVar[str] = "cubed"

    def __call__(self, x: Array) -> Array:
        return x * x * x

    def derivative(self, x: Array) -> Array:
        return 3.0 * x * x


class _Graph:
    """Builds a network node by node; every method returns the new node's index."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng([2026, seed])
        self.nodes: list[Node] = [Input(shape=shape, name="input")]

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def weights(self, *shape: int, fan_in: int) -> np.ndarray:
        values = self.rng.normal(size=shape) * np.sqrt(2.0 / fan_in)
        return np.asarray(values.astype(np.float32), dtype=np.float64)

    def affine(self, parents: tuple[int, ...], *maps: LinearMap, bias: bool = True) -> int:
        shape = maps[0].out_shape
        offset = self.weights(*shape, fan_in=20) if bias else None
        name = f"affine{len(self.nodes)}"
        return self._add(Affine(shape=shape, parents=parents, name=name, origin=(name,), maps=maps, bias=offset))

    def dense(self, at: int, width: int) -> int:
        n_in = self.nodes[at].shape[-1]
        return self.affine((at,), Dense(self.weights(width, n_in, fan_in=n_in), outer=(1,)))

    def activate(self, at: int, function: ScalarFunction) -> int:
        name = f"{function.name}{len(self.nodes)}"
        return self._add(
            Activation(shape=self.nodes[at].shape, parents=(at,), name=name, origin=(name,), function=function)
        )

    def maximum(self, at: int, groups: np.ndarray) -> int:
        name = f"max{len(self.nodes)}"
        parent = self.nodes[at].shape
        return self._add(
            Max(shape=groups.shape[:-1], parents=(at,), name=name, origin=(name,), groups=groups, parent_shape=parent)
        )

    def times(self, left: int, right: int) -> int:
        name = f"product{len(self.nodes)}"
        return self._add(Product(shape=self.nodes[left].shape, parents=(left, right), name=name, origin=(name,)))

    def network(self) -> Network:
        return Network(tuple(self.nodes))


def _smooth(function: ScalarFunction) -> Callable[[], Network]:
    def build() -> Network:
        graph = _Graph(1, 3)
        at = graph.activate(graph.dense(0, 5), function)
        at = graph.activate(graph.dense(at, 4), function)
        graph.dense(at, 2)
        return graph.network()

    return build


def _linear() -> Network:
    graph = _Graph(1, 3)
    graph.dense(0, 2)
    return graph.network()


def _max() -> Network:
    graph = _Graph(1, 3, seed=1)
    at = graph.maximum(graph.dense(0, 6), np.array([[[0, 1, -1], [2, 3, 4], [5, -1, -1]]]))
    graph.dense(at, 2)
    return graph.network()


def _max_pool() -> Network:
    graph = _Graph(1, 1, 3, 3, seed=2)
    kernel = graph.weights(2, 1, 2, 2, fan_in=4)
    conv = Conv(kernel, (1, 1, 3, 3), strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1))
    at = graph.activate(graph.affine((0,), conv), Relu())
    at = graph.maximum(at, np.arange(8).reshape(1, 2, 1, 1, 4))
    graph.dense(graph.affine((at,), Reshape((1, 2, 1, 1), (1, 2)), bias=False), 2)
    return graph.network()


def _conv() -> Network:
    graph = _Graph(1, 2, 3, 3, seed=3)
    kernel = graph.weights(2, 1, 2, 2, fan_in=4)
    conv = Conv(kernel, (1, 2, 3, 3), strides=(2, 1), pads=((1, 0), (0, 1)), dilations=(1, 1), groups=2)
    at = graph.activate(graph.affine((0,), conv), Relu())
    shape = graph.nodes[at].shape
    at = graph.affine((at,), Scale(np.full(shape, 3.0), divide=True))
    flat = (1, int(np.prod(shape)))
    graph.dense(graph.activate(graph.affine((at,), Reshape(shape, flat)), Relu()), 2)
    return graph.network()


def _residual() -> Network:
    graph = _Graph(1, 3, seed=4)
    at = 0
    for _ in range(2):
        hidden = graph.activate(graph.dense(at, 3), Relu())
        second = Dense(graph.weights(3, 3, fan_in=3), outer=(1,))
        at = graph.activate(graph.affine((hidden, at), second, Identity((1, 3))), Relu())
    graph.dense(at, 2)
    return graph.network()


def _branches() -> Network:
    graph = _Graph(1, 3, seed=5)
    left = graph.activate(graph.dense(0, 3), Relu())
    right = graph.activate(graph.dense(graph.activate(graph.dense(0, 2), Relu()), 2), Relu())
    joined = graph.affine(
        (left, right),
        Place(np.array([[0, 1, 2]]), (1, 5)),
        Place(np.array([[3, 4]]), (1, 5)),
        bias=False,
    )
    graph.dense(graph.activate(graph.dense(joined, 4), Relu()), 2)
    return graph.network()


def _product() -> Network:
    graph = _Graph(1, 3, seed=6)
    at = graph.times(graph.dense(0, 4), graph.dense(0, 4))
    graph.dense(at, 2)
    return graph.network()


Needed = frozenset[type[Node] | type[ScalarFunction]]

_BUILDERS: dict[str, tuple[Callable[[], Network], Needed]] = {
    "linear": (_linear, frozenset()),
    "relu": (_smooth(Relu()), frozenset({Relu})),
    "sigmoid": (_smooth(Sigmoid()), frozenset({Sigmoid})),
    "tanh": (_smooth(Tanh()), frozenset({Tanh})),
    "max": (_max, frozenset({Max})),
    "max_pool": (_max_pool, frozenset({Max, Relu})),
    "conv": (_conv, frozenset({Relu})),
    "residual": (_residual, frozenset({Relu})),
    "branches": (_branches, frozenset({Relu})),
    "product": (_product, frozenset({Product})),
}


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
    return tuple(Exhibit(name, model_from_network(build(), name), needs) for name, (build, needs) in _BUILDERS.items())


@cache
def unknown_function() -> Exhibit:
    """A network with an activation that is none of the framework's; it has no ONNX form."""
    network = _smooth(Cubed())()
    model = Model("cubed", network.input_shape, network.output_shape, network.evaluate, digest_of(b"cubed"),
                  dtype=np.float64, network=network)  # fmt: skip
    return Exhibit("cubed", model, frozenset({Cubed}))


@cache
def black_box() -> Model:
    """A model that can only be called."""
    model = exhibits()[1].model
    return replace(model, network=None, onnx_bytes=None, name="black box", digest=digest_of(b"black box"))

"""Small networks of every node kind and every function, by name: what the gallery shows.

The weights are seeded float32 values.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from verifkit.functions import (
    Abs,
    Clip,
    Cos,
    Elu,
    Erf,
    Exp,
    LeakyRelu,
    Log,
    Power,
    Reciprocal,
    Relu,
    ScalarFunction,
    Sigmoid,
    Sign,
    Sin,
    Softplus,
    Sqrt,
    Tanh,
)
from verifkit.maps import Identity, LinearMap, Place, Reshape, Select, Sum
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input, Max, Node, Product
from verifkit.weighted_maps import Conv, Dense, Scale


class Graph:
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

    def affine(self, parents: tuple[int, ...], *maps: LinearMap, bias: bool | np.ndarray = True) -> int:
        """bias: drawn (True), none (False), or given."""
        shape = maps[0].out_shape
        if isinstance(bias, np.ndarray):
            offset: np.ndarray | None = bias
        else:
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


def chain(*steps: int | ScalarFunction, spread: float = 0.0) -> Callable[[], Network]:
    """Dense layers (their widths) and functions in turn. spread: the first layer's biases reach from -spread to it."""

    def build() -> Network:
        graph, at = Graph(1, 3), 0
        for step in steps:
            if not isinstance(step, int):
                at = graph.activate(at, step)
            elif spread and not at:
                weight = Dense(graph.weights(step, 3, fan_in=3), outer=(1,))
                biases = np.linspace(-spread, spread, step).astype(np.float32).astype(np.float64)
                at = graph.affine((0,), weight, bias=biases[None])
            else:
                at = graph.dense(at, step)
        return graph.network()

    return build


def twice(function: ScalarFunction) -> Callable[[], Network]:
    """Two hidden layers."""
    return chain(5, function, 4, function, 2)


def over_itself(function: ScalarFunction) -> Callable[[], Network]:
    """f(f(x)), at many places of its domain, so that what is said of f(x) is read."""
    return chain(7, function, function, 2, spread=3.0)


def _of_positive(function: ScalarFunction) -> Callable[[], Network]:
    """For functions with a domain: of a square plus a positive number; that of a sum of squares with signs."""

    def build() -> Network:
        graph = Graph(1, 3)
        at = graph.activate(graph.dense(graph.activate(graph.dense(0, 4), Power(2)), 5), Power(2))
        shape = graph.nodes[at].shape
        scale, floor = np.abs(graph.weights(*shape, fan_in=2)), np.full(shape, 0.375)
        graph.dense(graph.activate(graph.affine((at,), Scale(scale), bias=floor), function), 2)
        return graph.network()

    return build


def _max() -> Network:
    graph = Graph(1, 3, seed=1)
    at = graph.maximum(graph.dense(0, 6), np.array([[[0, 1, -1], [2, 3, 4], [5, -1, -1]]]))
    graph.dense(at, 2)
    return graph.network()


def _max_pool() -> Network:
    graph = Graph(1, 1, 3, 3, seed=2)
    kernel = graph.weights(2, 1, 2, 2, fan_in=4)
    conv = Conv(kernel, (1, 1, 3, 3), strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1))
    at = graph.activate(graph.affine((0,), conv), Relu())
    at = graph.maximum(at, np.arange(8).reshape(1, 2, 1, 1, 4))
    graph.dense(graph.affine((at,), Reshape((1, 2, 1, 1), (1, 2)), bias=False), 2)
    return graph.network()


def _conv() -> Network:
    graph = Graph(1, 2, 3, 3, seed=3)
    kernel = graph.weights(2, 1, 2, 2, fan_in=4)
    conv = Conv(kernel, (1, 2, 3, 3), strides=(2, 1), pads=((1, 0), (0, 1)), dilations=(1, 1), groups=2)
    at = graph.activate(graph.affine((0,), conv), Relu())
    shape = graph.nodes[at].shape
    at = graph.affine((at,), Scale(np.full(shape, 3.0), divide=True))
    flat = (1, int(np.prod(shape)))
    graph.dense(graph.activate(graph.affine((at,), Reshape(shape, flat)), Relu()), 2)
    return graph.network()


def _residual() -> Network:
    graph = Graph(1, 3, seed=4)
    at = 0
    for _ in range(2):
        hidden = graph.activate(graph.dense(at, 3), Relu())
        second = Dense(graph.weights(3, 3, fan_in=3), outer=(1,))
        at = graph.activate(graph.affine((hidden, at), second, Identity((1, 3))), Relu())
    graph.dense(at, 2)
    return graph.network()


def _branches() -> Network:
    graph = Graph(1, 3, seed=5)
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
    graph = Graph(1, 3, seed=6)
    at = graph.times(graph.dense(0, 4), graph.dense(0, 4))
    graph.dense(at, 2)
    return graph.network()


def _square() -> Network:
    graph = Graph(1, 3, seed=7)
    at = graph.dense(0, 4)
    graph.dense(graph.times(at, at), 2)
    return graph.network()


def _gate() -> Network:
    """x sigmoid(x), twice."""
    graph = Graph(1, 3, seed=8)
    at = 0
    for _ in range(2):
        hidden = graph.dense(at, 4)
        at = graph.times(hidden, graph.activate(hidden, Sigmoid()))
    graph.dense(at, 2)
    return graph.network()


def _softmax_of(graph: Graph, scores: int) -> int:
    """1 / (1 + sum_j exp(x_j - x_i)) over the last axis."""
    shape = graph.nodes[scores].shape
    n, places = shape[-1], np.arange(int(np.prod(shape))).reshape(shape)
    others = np.array([[j for j in range(n) if j != i] for i in range(n)])
    picked = Select(shape, places[..., others])  # shape + (n - 1,)
    own = graph.affine((scores,), Select(shape, np.broadcast_to(places[..., None], picked.out_shape)), bias=False)
    gaps = graph.affine((scores, own), picked, Scale(np.full(picked.out_shape, -1.0)), bias=False)
    total = Sum(picked.out_shape, (len(shape),), keepdims=False)
    return graph.activate(graph.affine((graph.activate(gaps, Exp()),), total, bias=np.ones(shape)), Reciprocal())


def _softmax() -> Network:
    graph = Graph(1, 3, seed=9)
    graph.dense(_softmax_of(graph, graph.dense(0, 4)), 2)
    return graph.network()


def _attention() -> Network:
    """Two tokens of two numbers: softmax(x A x^T) x B."""
    graph = Graph(1, 4, seed=10)
    query, key, value = (graph.dense(0, 4) for _ in range(3))

    def pick(at: int, *index: tuple[int, int]) -> int:
        return graph.affine((at,), Select((1, 4), np.array([index])), bias=False)

    def sums(at: int) -> int:
        return graph.affine((at,), Sum((1, 4, 2), (2,), keepdims=False), bias=False)

    scores = sums(graph.times(pick(query, (0, 1), (0, 1), (2, 3), (2, 3)), pick(key, (0, 1), (2, 3), (0, 1), (2, 3))))
    share = _softmax_of(graph, graph.affine((scores,), Reshape((1, 4), (1, 2, 2)), bias=False))
    share = graph.affine((share,), Reshape((1, 2, 2), (1, 4)), bias=False)
    mixed = sums(graph.times(pick(share, (0, 1), (0, 1), (2, 3), (2, 3)), pick(value, (0, 2), (1, 3), (0, 2), (1, 3))))
    graph.dense(mixed, 2)
    return graph.network()


def _normalised() -> Network:
    """(x - mean) / sqrt(variance + 1/2)."""
    graph = Graph(1, 3, seed=11)
    n = 4
    mean = np.full((n, n), 1.0 / n)
    centred = graph.affine((graph.dense(0, n),), Dense(np.eye(n) - mean, outer=(1,)), bias=False)
    squares = graph.times(centred, centred)
    variance = graph.affine((squares,), Dense(mean, outer=(1,)), bias=np.full((1, n), 0.5))
    at = graph.times(centred, graph.activate(graph.activate(variance, Sqrt()), Reciprocal()))
    graph.dense(at, 2)
    return graph.network()


SLOPES = np.array([[0.125, -0.5, 2.0, 0.0, 1.0]])
"""Of leaky units: every kind of slope."""

Needed = frozenset[type[Node] | type[ScalarFunction]]

BUILDERS: dict[str, tuple[Callable[[], Network], Needed]] = {
    "linear": (chain(2), frozenset()),
    "relu": (twice(Relu()), frozenset({Relu})),
    "sigmoid": (twice(Sigmoid()), frozenset({Sigmoid})),
    "tanh": (twice(Tanh()), frozenset({Tanh})),
    "max": (_max, frozenset({Max})),
    "max_pool": (_max_pool, frozenset({Max, Relu})),
    "conv": (_conv, frozenset({Relu})),
    "residual": (_residual, frozenset({Relu})),
    "branches": (_branches, frozenset({Relu})),
    "product": (_product, frozenset({Product})),
    "leaky": (over_itself(LeakyRelu(np.array(0.125))), frozenset({LeakyRelu})),
    "prelu": (chain(5, LeakyRelu(SLOPES), 2, spread=1.0), frozenset({LeakyRelu})),
    "clip": (over_itself(Clip(np.array(-0.5), np.array(1.0))), frozenset({Clip})),
    "abs": (over_itself(Abs()), frozenset({Abs})),
    "sign": (over_itself(Sign()), frozenset({Sign})),
    "power": (chain(5, Power(2), 2), frozenset({Power})),
    "cube": (chain(5, Power(3), 2), frozenset({Power})),
    "exp": (chain(5, Exp(), 2), frozenset({Exp})),
    "sin": (over_itself(Sin()), frozenset({Sin})),
    "cos": (over_itself(Cos()), frozenset({Cos})),
    "erf": (over_itself(Erf()), frozenset({Erf})),
    "softplus": (over_itself(Softplus()), frozenset({Softplus})),
    "elu": (over_itself(Elu(1.0)), frozenset({Elu})),
    "kinked_elu": (over_itself(Elu(-1.5)), frozenset({Elu})),
    "steep_elu": (over_itself(Elu(3.0)), frozenset({Elu})),
    "sqrt": (_of_positive(Sqrt()), frozenset({Power, Sqrt})),
    "log": (_of_positive(Log()), frozenset({Power, Log})),
    "reciprocal": (_of_positive(Reciprocal()), frozenset({Power, Reciprocal})),
    "square": (_square, frozenset({Product})),
    "gate": (_gate, frozenset({Product, Sigmoid})),
    "softmax": (_softmax, frozenset({Exp, Reciprocal})),
    "attention": (_attention, frozenset({Exp, Reciprocal, Product})),
    "normalised": (_normalised, frozenset({Product, Sqrt, Reciprocal})),
}

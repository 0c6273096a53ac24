"""The white box: an immutable, topologically ordered graph of the node kinds in `verifkit.ops`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from verifkit.arrays import Array, like
from verifkit.functions import Relu, ScalarFunction
from verifkit.maps import Identity, Select, Shape
from verifkit.ops import Activation, Affine, Input, Max, Node
from verifkit.weighted_maps import Dense, Scale


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes in topological order: `nodes[0]` is the only `Input`, `nodes[-1]` the output.

    Weights are float64 NumPy arrays; `cast` gives the same network in another dtype or array library. Knows nothing
    of properties. Inputs and outputs of a query are flat vectors in C order; `evaluate` takes and returns the shaped
    arrays with any leading axes.
    """

    nodes: tuple[Node, ...]
    _casts: dict[object, Network] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.nodes or not isinstance(self.nodes[0], Input):
            raise ValueError("a network starts with its Input node")
        for index, node in enumerate(self.nodes):
            if any(p >= index or p < 0 for p in node.parents) or (index and isinstance(node, Input)):
                raise ValueError(f"node {index} ('{node.name}') does not follow its parents")

    @property
    def input_shape(self) -> Shape:
        return self.nodes[0].shape

    @property
    def output_shape(self) -> Shape:
        return self.nodes[-1].shape

    @property
    def n_inputs(self) -> int:
        """Length of the flat input vector."""
        return math.prod(self.input_shape)

    @property
    def n_outputs(self) -> int:
        """Length of the flat output vector."""
        return math.prod(self.output_shape)

    def activations(self) -> Iterator[tuple[int, Activation]]:
        """The activation nodes with their indices, in order."""
        for index, node in enumerate(self.nodes):
            if isinstance(node, Activation):
                yield index, node

    def n_nonlinear(self) -> int:
        """How many scalar nonlinear units the network has."""
        return sum(math.prod(n.shape) for n in self.nodes if not isinstance(n, Input | Affine))

    def cast(self, sample: Array) -> Network:
        """The network with its weights in the namespace, dtype and device of `sample` (kept for the next call)."""
        if isinstance(sample, np.ndarray) and sample.dtype == np.float64:
            return self
        key = (type(sample), str(sample.dtype), str(getattr(sample, "device", "cpu")))
        if key not in self._casts:
            nodes = tuple(node.cast(lambda weights: like(weights, sample)) for node in self.nodes)
            self._casts[key] = replace(self, nodes=nodes)
        return self._casts[key]

    @cached_property
    def beyond_float32(self) -> Node | None:
        """The first node with a weight, or a parameter of its function, that no float32 equals: `cast` would round it.

        None where there is none. For a network of float64 NumPy arrays.
        """
        return next((node for node in self.nodes if not _fits_float32(node)), None)

    def values(self, x: Array) -> list[Array]:
        """The value of every node for input `lead + input_shape`, in the arithmetic of `x`."""
        network = self.cast(x)
        values: list[Array] = [x]
        with np.errstate(all="ignore"):  # outside a function's domain a value is NaN or infinite, and no surprise
            for node in network.nodes[1:]:
                values.append(node.evaluate([values[p] for p in node.parents]))
        return values

    def evaluate(self, x: Array) -> Array:
        """`lead + input_shape` -> `lead + output_shape`, in the arithmetic of `x`."""
        return self.values(x)[-1]

    def without_max(self) -> Network:
        """An equal network (in real arithmetic) in which every `Max` is max(a, b) = a + relu(b - a), pair by pair.

        For methods that have no rule for `Max`. Groups are halved round by round, so a group of g entries takes
        ceil(log2 g) rounds. Nodes keep their names; those of the rounds get a suffix.
        """
        if not any(isinstance(node, Max) for node in self.nodes):
            return self
        nodes: list[Node] = []
        place: dict[int, int] = {}
        for index, node in enumerate(self.nodes):
            parents = tuple(place[p] for p in node.parents)
            if isinstance(node, Max):
                _append_pairwise_max(nodes, node, parents[0])
            else:
                nodes.append(replace(node, parents=parents))
            place[index] = len(nodes) - 1
        return Network(tuple(nodes))


def _fits_float32(node: Node) -> bool:
    fits = True

    def look(values: Array) -> Array:
        nonlocal fits
        with np.errstate(over="ignore", under="ignore"):
            fits = fits and bool((np.asarray(values, dtype=np.float32) == np.asarray(values, dtype=np.float64)).all())
        return values

    node.cast(look)
    for parameter in vars(node.function).values() if isinstance(node, Activation) else ():
        look(parameter)
    return fits


def _append_pairwise_max(nodes: list[Node], node: Max, parent: int) -> None:
    groups = node.filled_groups
    shape_in, at = node.parent_shape, parent
    rounds = 0
    while True:
        width = groups.shape[-1]
        half = (width + 1) // 2
        left, right = groups[..., :half], groups[..., width - half :]
        if width == 1:
            nodes.append(
                Affine(shape=node.shape, parents=(at,), name=node.name, origin=node.origin,
                       maps=(Select(shape_in, groups[..., 0]),))
            )  # fmt: skip
            return
        suffix = f"{node.name}/max{rounds}"
        # a, then b - a, its positive part, and a + relu(b - a).
        nodes.append(Affine(shape=left.shape, parents=(at,), name=f"{suffix}/left", origin=node.origin,
                            maps=(Select(shape_in, left),)))  # fmt: skip
        first = len(nodes) - 1
        nodes.append(Affine(shape=left.shape, parents=(at, first), name=f"{suffix}/difference", origin=node.origin,
                            maps=(Select(shape_in, right), Scale(np.full(left.shape, -1.0)))))  # fmt: skip
        nodes.append(Activation(shape=left.shape, parents=(len(nodes) - 1,), name=f"{suffix}/relu",
                                origin=node.origin, function=Relu()))  # fmt: skip
        nodes.append(Affine(shape=left.shape, parents=(first, len(nodes) - 1), name=suffix, origin=node.origin,
                            maps=(Identity(left.shape), Identity(left.shape))))  # fmt: skip
        at, shape_in = len(nodes) - 1, left.shape
        groups = np.arange(math.prod(left.shape)).reshape(left.shape)
        rounds += 1


def dense_network(
    weights: Sequence[np.ndarray],
    biases: Sequence[np.ndarray],
    function: ScalarFunction | None = None,
) -> Network:
    """A plain multilayer perceptron: affine layers with `function` (default ReLU) between them, none after the last.

    weights[k]: (n_out, n_in); biases[k]: (n_out,). Values are taken as float64. For toy networks and tests.
    """
    function = function or Relu()
    nodes: list[Node] = [Input(shape=(int(np.shape(weights[0])[1]),), name="input")]
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        matrix, vector = np.asarray(weight, dtype=np.float64), np.asarray(bias, dtype=np.float64)
        if layer:
            nodes.append(Activation(shape=nodes[-1].shape, parents=(len(nodes) - 1,), name=f"act{layer}",
                                    function=function))  # fmt: skip
        nodes.append(Affine(shape=(matrix.shape[0],), parents=(len(nodes) - 1,), name=f"affine{layer + 1}",
                            maps=(Dense(matrix),), bias=vector))  # fmt: skip
    return Network(tuple(nodes))

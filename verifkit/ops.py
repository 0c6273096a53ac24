"""The closed union of node kinds that every network is lowered to: `Input`, `Affine`, `Activation`, `Max`, `Product`.

Nodes hold weights and shapes and know how to evaluate themselves; no bound code lives here. A bound method is a
traversal of the graph with one rule per kind.

Shapes are those of the ONNX graph, its own batch axis (of size 1) included; arrays carry any number of *leading* axes
in front of them, so one network serves a single point, a batch, and rows of a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from verifkit.arrays import Array, namespace, take_flat
from verifkit.functions import ScalarFunction
from verifkit.maps import LinearMap, Shape


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """One value of the network.

    `parents` are indices of earlier nodes; `name` is the ONNX tensor this value is; `origin` the ONNX nodes it came
    from (a fused node lists several).
    """

    shape: Shape
    parents: tuple[int, ...]
    name: str
    origin: tuple[str, ...] = ()

    def evaluate(self, values: Sequence[Array]) -> Array:
        """The node's value, `lead + shape`, from the values of its parents in order."""
        raise TypeError(f"{type(self).__name__} has no value of its own")

    def cast(self, convert: Callable[[np.ndarray], Array]) -> Node:
        """The same node with its weights converted."""
        return self


@dataclass(frozen=True, eq=False, kw_only=True)
class Input(Node):
    """The network's input; always node 0."""

    parents: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(Node):
    """sum_k maps[k](parent k) + bias. `bias` has the full shape, or is None."""

    maps: tuple[LinearMap, ...]
    bias: Array | None = None

    def __post_init__(self) -> None:
        if len(self.maps) != len(self.parents) or any(m.out_shape != self.shape for m in self.maps):
            raise ValueError(f"affine node '{self.name}': maps do not fit its parents and shape {self.shape}")
        if self.bias is not None and tuple(self.bias.shape) != self.shape:
            raise ValueError(f"affine node '{self.name}': bias {tuple(self.bias.shape)} is not of shape {self.shape}")

    @property
    def terms(self) -> int:
        """The largest number of terms summed into one entry, bias included: n in the error bound gamma_n."""
        return sum(m.terms for m in self.maps) + (self.bias is not None)

    def evaluate(self, values: Sequence[Array]) -> Array:
        total = self.maps[0].apply(values[0])
        for linear, value in zip(self.maps[1:], values[1:], strict=True):
            total = total + linear.apply(value)
        return total if self.bias is None else total + self.bias

    def cast(self, convert: Callable[[np.ndarray], Array]) -> Node:
        bias = None if self.bias is None else convert(self.bias)
        return replace(self, maps=tuple(m.cast(convert) for m in self.maps), bias=bias)


@dataclass(frozen=True, eq=False, kw_only=True)
class Activation(Node):
    """function(parent), elementwise."""

    function: ScalarFunction

    def evaluate(self, values: Sequence[Array]) -> Array:
        return self.function(values[0])

    def cast(self, convert: Callable[[np.ndarray], Array]) -> Node:
        return replace(self, function=self.function.cast(convert))


@dataclass(frozen=True, eq=False, kw_only=True)
class Max(Node):
    """out[k] = max over j of parent.flat[groups[k, j]]; entries of -1 pad shorter groups and take no part.

    `groups` has shape `shape + (widest group,)`; its first column is never -1.
    """

    groups: np.ndarray
    parent_shape: Shape

    @cached_property
    def filled_groups(self) -> np.ndarray:
        """`groups` with the padding replaced by each group's first entry, which changes no maximum."""
        return np.where(self.groups < 0, self.groups[..., :1], self.groups)

    def evaluate(self, values: Sequence[Array]) -> Array:
        return namespace(values[0]).max(take_flat(values[0], self.filled_groups, len(self.parent_shape)), axis=-1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Product(Node):
    """parent 0 times parent 1, elementwise."""

    def evaluate(self, values: Sequence[Array]) -> Array:
        return values[0] * values[1]

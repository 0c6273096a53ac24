"""What the lowering rules build with: the growing list of network nodes, and the value of every ONNX tensor.

An ONNX tensor is either a constant (a NumPy array of the type that ONNX gives it) or a `Ref` to a node of the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from verifkit.errors import ModelError
from verifkit.functions import ScalarFunction
from verifkit.io.lowering.graph import OnnxGraph, OnnxNode, to_array
from verifkit.maps import Identity, LinearMap, Place, Reshape, Select, Shape, Sum
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input, Max, Node, Product
from verifkit.weighted_maps import Scale


@dataclass(frozen=True)
class Ref:
    """A value that depends on the network's input: node `index`, of shape `shape`; `dtype` is ONNX's, a float."""

    index: int
    shape: Shape
    dtype: np.dtype[Any]


Value = Ref | np.ndarray


class Builder:
    """Collects network nodes while the ONNX nodes are visited in order.

    `node` is the ONNX node being lowered: new network nodes take its first output's name, with a suffix (`step`) for
    the intermediate steps of a rule that needs several.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        kind = np.dtype(graph.dtype)
        self.nodes: list[Node] = [Input(shape=graph.input_shape, name="+".join(port.name for port in graph.inputs))]
        whole = Ref(0, graph.input_shape, kind)
        self.values: dict[str, Value] = {graph.inputs[0].name: whole}
        # Until the first node is visited: the graph as a whole, whose output may be its input.
        self.node = OnnxNode("graph", graph.opset, onnx.NodeProto(op_type="Identity", output=graph.outputs[:1]))
        if len(graph.inputs) > 1:
            start = 0
            for port in graph.inputs:
                stop = start + math.prod(port.shape)
                index = np.arange(start, stop).reshape(port.shape)
                part = Affine(shape=port.shape, parents=(0,), maps=(Select(whole.shape, index),), name=port.name)
                self.values[port.name], start = self._append(part, kind), stop

    def value(self, tensor: str) -> Value | None:
        """The value of an ONNX tensor; None for an optional input left out (named '')."""
        if not tensor:
            return None
        if tensor not in self.values:
            if tensor in self.graph.sparse:
                raise self.node.refuse(f"its input '{tensor}' is a sparse initialiser: save it as a dense tensor")
            self.values[tensor] = to_array(self.graph.tensors[tensor])
        return self.values[tensor]

    def weights(self, array: np.ndarray) -> np.ndarray:
        """The constant as exact float64. Raises `ModelError` if an entry is not finite."""
        if array.dtype not in (np.float16, np.float32, np.float64):
            kind = "text" if array.dtype == object else array.dtype
            raise self.node.refuse(f"it computes with constants of type {kind}: save them in single precision")
        exact = array.astype(np.float64)
        if not np.isfinite(exact).all():
            raise ModelError(
                f"a constant of node '{self.node.name}' ({self.node.operator}) holds infinite or NaN entries: "
                f"the model is broken, train or export it again"
            )
        return exact

    def used_once(self, tensor: str) -> bool:
        """Whether nothing but one node reads the tensor."""
        return self.graph.consumers.get(tensor, 0) == 1

    def affine(self, terms: Sequence[tuple[Ref, LinearMap]], bias: np.ndarray | None = None, step: str = "") -> Ref:
        """A new `Affine`: the sum of map(ref) over `terms`, plus `bias` (broadcast to the full shape)."""
        shape = terms[0][1].out_shape
        full = None if bias is None else np.array(np.broadcast_to(bias, shape))
        return self._append(
            Affine(shape=shape, parents=tuple(r.index for r, _ in terms), maps=tuple(m for _, m in terms), bias=full,
                   name=self._name(step), origin=(self.node.name,)), terms[0][0].dtype
        )  # fmt: skip

    def add_bias(self, x: Ref, bias: np.ndarray, source: str, step: str = "") -> Ref:
        """x + bias, bias broadcast to x's shape; put into x's own node where that holds none yet.

        `source` is the ONNX tensor that x is: one that others read too keeps a node of its own.
        """
        before = self.nodes[x.index]
        if isinstance(before, Affine) and before.bias is None and self.used_once(source):
            full = np.array(np.broadcast_to(bias, x.shape))
            origin = (*before.origin, self.node.name)
            return self._append(replace(before, bias=full, name=self._name(step), origin=origin), x.dtype)
        return self.affine([(x, Identity(x.shape))], bias, step)

    def activation(self, x: Ref, function: ScalarFunction, step: str = "") -> Ref:
        """function(x), elementwise."""
        return self._append(
            Activation(shape=x.shape, parents=(x.index,), function=function, name=self._name(step),
                       origin=(self.node.name,)), x.dtype
        )  # fmt: skip

    def maximum(self, x: Ref, groups: np.ndarray, step: str = "") -> Ref:
        """out[k] = max of x.flat[groups[k]]."""
        return self._append(
            Max(shape=groups.shape[:-1], parents=(x.index,), groups=groups, parent_shape=x.shape,
                name=self._name(step), origin=(self.node.name,)), x.dtype
        )  # fmt: skip

    def product(self, x: Ref, y: Ref, step: str = "") -> Ref:
        """x * y, elementwise, shapes equal."""
        return self._append(
            Product(shape=x.shape, parents=(x.index, y.index), name=self._name(step), origin=(self.node.name,)),
            x.dtype,
        )

    def concat(self, parts: Sequence[Ref | np.ndarray], axis: int, step: str = "") -> Ref:
        """The parts joined along an axis counted from the front; constants are exact float64; at least one `Ref`."""
        length = sum(part.shape[axis] for part in parts)
        out = (*parts[0].shape[:axis], length, *parts[0].shape[axis + 1 :])
        numbers = np.arange(math.prod(out)).reshape(out)
        terms: list[tuple[Ref, LinearMap]] = []
        bias, start = np.zeros(out), 0
        for part in parts:
            place = (*(slice(None),) * axis, slice(start, start + part.shape[axis]))
            start += part.shape[axis]
            if isinstance(part, np.ndarray):
                bias[place] = part
            elif 0 not in part.shape:
                terms.append((part, Place(np.ascontiguousarray(numbers[place]), out)))
        return self.affine(terms, bias if bias.any() else None, step)

    def sum(self, x: Ref, axes: Sequence[int], *, keepdims: bool = True, step: str = "") -> Ref:
        """The sum over axes counted from the front."""
        return self.affine([(x, Sum(x.shape, tuple(sorted(axes)), keepdims))], step=step)

    def mean(self, x: Ref, axes: Sequence[int], *, keepdims: bool = True, step: str = "") -> Ref:
        """The exact mean over axes counted from the front: the sum, divided."""
        total = self.sum(x, axes, keepdims=keepdims, step=f"{step}/sum" if step else "sum")
        return self.scale(total, np.array(float(math.prod(x.shape[a] for a in axes))), divide=True, step=step)

    def reshape(self, x: Ref, shape: Shape, step: str = "") -> Ref:
        """x in another shape; x itself where nothing changes."""
        return x if x.shape == shape else self.affine([(x, Reshape(x.shape, shape))], step=step)

    def transpose(self, x: Ref, order: Sequence[int], step: str = "") -> Ref:
        """x with its axes permuted; a reshape where only axes of length 1 move."""
        index = np.arange(math.prod(x.shape)).reshape(x.shape).transpose(order)
        if [axis for axis in order if x.shape[axis] != 1] == [axis for axis, n in enumerate(x.shape) if n != 1]:
            return self.reshape(x, index.shape, step)
        return self.affine([(x, Select(x.shape, np.ascontiguousarray(index)))], step=step)

    def expand(self, x: Ref, shape: Shape, step: str) -> Ref:
        """x broadcast to `shape` by NumPy's rules."""
        return x if x.shape == shape else self.affine([(x, expansion(x.shape, shape))], step=step)

    def scale(self, x: Ref, factor: np.ndarray, *, divide: bool = False, step: str = "") -> Ref:
        """x * factor or x / factor, factor broadcast to x's shape."""
        full = np.array(np.broadcast_to(factor, x.shape))
        return self.affine([(x, Scale(full, divide=divide))], step=step)

    def call_it(self, value: Value, tensor: str, before: int) -> None:
        """Gives the ONNX tensor's name to its node, where that is one of those made since there were `before`."""
        if isinstance(value, Ref) and value.index >= before:
            self.nodes[value.index] = replace(self.nodes[value.index], name=tensor)

    def network(self, outputs: Sequence[str]) -> Network:
        """The network that ends in the ONNX tensor `outputs`, without nodes that nothing needs.

        Several outputs are one flat vector, each in C order, in the file's order.
        """
        name = "+".join(outputs)
        parts = [self._flat(self.values[output]) for output in outputs] if len(outputs) > 1 else []
        last = self.concat(parts, 0) if parts else self.values[outputs[0]]
        assert isinstance(last, Ref)
        if last.index == 0:
            last = self.affine([(last, Identity(last.shape))])
        needed = {0, last.index}
        for index in range(last.index, 0, -1):
            if index in needed:
                needed.update(self.nodes[index].parents)
        kept = sorted(needed)
        place = {old: new for new, old in enumerate(kept)}
        nodes = [replace(self.nodes[i], parents=tuple(place[p] for p in self.nodes[i].parents)) for i in kept]
        nodes[-1] = replace(nodes[-1], name=name)  # the last node may have been passed through by an Identity
        return Network(tuple(nodes))

    def _flat(self, value: Value) -> Ref | np.ndarray:
        if isinstance(value, np.ndarray):
            return self.weights(value).reshape(-1)
        return self.reshape(value, (math.prod(value.shape),), "flat")

    def _name(self, step: str) -> str:
        return self.node.outputs[0] + (f"/{step}" if step else "")

    def _append(self, node: Node, dtype: np.dtype[Any]) -> Ref:
        if 0 in node.shape:
            raise self.node.refuse(f"its output of shape {list(node.shape)} holds nothing")
        self.nodes.append(node)
        return Ref(len(self.nodes) - 1, node.shape, dtype)


def expansion(shape: Shape, to: Shape) -> LinearMap:
    """The linear map that broadcasts `shape` to `to`."""
    if shape == to:
        return Identity(shape)
    if math.prod(shape) == math.prod(to):
        return Reshape(shape, to)
    return Select(shape, np.array(np.broadcast_to(np.arange(math.prod(shape)).reshape(shape), to)))

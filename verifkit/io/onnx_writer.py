"""Any network of our node kinds as ONNX bytes, so that one made in memory has a deployed form to replay witnesses on.

The file is float32 where every weight is exactly a float32, else double. A network whose every value keeps a first
axis of 1 gets a dynamic batch there; any other is written with its shapes as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from verifkit.errors import ModelError
from verifkit.functions import Relu, ScalarFunction, Sigmoid, Tanh
from verifkit.maps import Identity, LinearMap, Place, Reshape, Select, Shape
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Max, Node, Product
from verifkit.weighted_maps import Conv, Dense, Scale

OPSET = 13
IR_VERSION = 8

_OPERATORS: dict[type[ScalarFunction], str] = {Relu: "Relu", Sigmoid: "Sigmoid", Tanh: "Tanh"}


def write_onnx(network: Network) -> bytes:
    """The network as ONNX (opset 13), with its nodes' names; the same network gives the same bytes.

    Raises `ModelError` for a weight that is not finite, and for an activation or node kind that has no ONNX operator.
    """
    weights: list[np.ndarray] = []
    for node in network.nodes:
        node.cast(lambda w: weights.append(np.asarray(w)) or w)  # type: ignore[func-returns-value]
    if not all(np.isfinite(w).all() for w in weights):
        raise ModelError("the network holds infinite or NaN weights: it cannot be written as ONNX")
    with np.errstate(over="ignore", under="ignore"):  # what does not fit is not equal, and makes the model double
        single = all(np.array_equal(w.astype(np.float32).astype(np.float64), w) for w in weights)
    return _Writer(network, np.float32 if single else np.float64).write()


class _Writer:
    """Writes one network: `steps` and `tensors` grow node by node; a step is one ONNX node."""

    def __init__(self, network: Network, dtype: type[np.floating[Any]]) -> None:
        self.network, self.dtype = network, dtype
        self.dynamic = all(len(n.shape) >= 2 and n.shape[0] == 1 for n in network.nodes)
        self.steps: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.taken: set[str] = set()

    def write(self) -> bytes:
        nodes = self.network.nodes
        names = [self._unique(node.name or f"node{i}") for i, node in enumerate(nodes)]
        for index, node in enumerate(nodes[1:], 1):
            self._node(node, [names[p] for p in node.parents], names[index])
        if len(nodes) == 1:
            names.append(self._unique("output"))
            self._step("Identity", [names[0]], names[-1])
        kind = TensorProto.FLOAT if self.dtype is np.float32 else TensorProto.DOUBLE
        ends = [
            helper.make_tensor_value_info(name, kind, ["N", *shape[1:]] if self.dynamic else list(shape))
            for name, shape in ((names[0], self.network.input_shape), (names[-1], self.network.output_shape))
        ]
        graph = helper.make_graph(self.steps, "network", ends[:1], ends[1:], self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name = "verifkit"
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def _node(self, node: Node, parents: Sequence[str], name: str) -> None:
        if isinstance(node, Affine):
            parts = [self._map(m, p, f"{name}/map{i}") for i, (m, p) in enumerate(zip(node.maps, parents, strict=True))]
            if node.bias is not None:
                parts.append(self._constant(np.asarray(node.bias), f"{name}/bias"))
            total = parts[0]
            for i, part in enumerate(parts[1:], 2):
                total = self._step("Add", [total, part], name if i == len(parts) else f"{name}/sum{i}")
            if len(parts) == 1:
                self._step("Identity", [total], name)
        elif isinstance(node, Activation):
            operator = _OPERATORS.get(type(node.function))
            if operator is None:
                raise ModelError(f"activation '{node.function.name}' of node '{node.name}' cannot be written as ONNX")
            self._step(operator, parents, name)
        elif isinstance(node, Max):
            # Entries that pad a group take no part: its first entry stands for them.
            groups = np.where(node.groups < 0, node.groups[..., :1], node.groups)
            picked = self._gather(parents[0], node.parent_shape, groups, f"{name}/groups")
            self._step("ReduceMax", [picked], name, axes=[len(node.shape)], keepdims=0)
        elif isinstance(node, Product):
            self._step("Mul", parents, name)
        else:
            raise ModelError(f"node '{node.name}' ({type(node).__name__}) cannot be written as ONNX")

    def _map(self, linear: LinearMap, x: str, name: str) -> str:
        """The tensor that is `linear` of tensor `x`."""
        for kind, rule in _MAPS.items():
            if isinstance(linear, kind):
                return rule(self, linear, x, name)
        return self._matrix(linear, x, name)

    def _dense(self, linear: Dense, x: str, name: str) -> str:
        weight = self._constant(np.asarray(linear.weight).T, f"{name}/weight")
        return self._step("MatMul", [x, weight], name)

    def _scale(self, linear: Scale, x: str, name: str) -> str:
        factor = self._constant(np.asarray(linear.factor), f"{name}/factor")
        return self._step("Div" if linear.divide else "Mul", [x, factor], name)

    def _place(self, linear: Place, x: str, name: str) -> str:
        inverse = np.full(math.prod(linear.out_shape), -1)
        inverse[linear.index.reshape(-1)] = np.arange(linear.index.size)
        return self._gather(x, linear.in_shape, inverse.reshape(linear.out_shape), name)

    def _conv(self, linear: Conv, x: str, name: str) -> str:
        weight = np.asarray(linear.weight)
        if self.dtype is np.float64:
            return self._double_conv(linear, weight, x, name)
        pads = [a for a, _ in linear.pads] + [z for _, z in linear.pads]
        return self._step(
            "Conv", [x, self._constant(weight, f"{name}/weight")], name, group=linear.groups, pads=pads,
            strides=list(linear.strides), dilations=list(linear.dilations), kernel_shape=list(weight.shape[2:]),
        )  # fmt: skip

    def _double_conv(self, linear: Conv, weight: np.ndarray, x: str, name: str) -> str:
        """onnxruntime convolves no doubles on a CPU: gather the windows, and multiply by a matrix per group."""
        channels, spatial, groups = linear.in_shape[1], linear.in_shape[2:], linear.groups
        n = len(spatial)
        numbers = np.pad(
            np.arange(1, math.prod(linear.in_shape) + 1).reshape(linear.in_shape), [(0, 0), (0, 0), *linear.pads]
        )
        reach = tuple(d * (k - 1) + 1 for k, d in zip(weight.shape[2:], linear.dilations, strict=True))
        windows = np.lib.stride_tricks.sliding_window_view(numbers, reach, axis=tuple(range(2, 2 + n)))
        step = tuple(slice(None, None, s) for s in linear.strides)
        hole = tuple(slice(None, None, d) for d in linear.dilations)
        windows = windows[(slice(None), slice(None), *step, *hole)] - 1  # (batch, channels, *out, *kernel), -1: padding
        batch, positions = linear.in_shape[0], math.prod(linear.out_shape[2:])
        columns = windows.reshape(batch, groups, channels // groups, positions, -1).swapaxes(2, 3)
        columns = columns.reshape(batch, groups, positions, -1)
        matrix = weight.reshape(groups, weight.shape[0] // groups, -1).swapaxes(1, 2)
        gathered = self._gather(x, linear.in_shape, columns, f"{name}/windows")
        product = self._step("MatMul", [gathered, self._constant(matrix, f"{name}/weight")], f"{name}/product")
        turned = self._step("Transpose", [product], f"{name}/transposed", perm=[0, 1, 3, 2])
        return self._reshape(turned, linear.out_shape, name)

    def _matrix(self, linear: LinearMap, x: str, name: str) -> str:
        """A map of another class, as the matrix of its entries."""
        entries = linear.entries()
        matrix = np.zeros((math.prod(linear.in_shape), math.prod(linear.out_shape)))
        np.add.at(matrix, (entries.cols, entries.rows), entries.values)
        flat = self._flat(x, linear.in_shape, name)
        product = self._step("MatMul", [flat, self._constant(matrix, f"{name}/weight")], f"{name}/product")
        return self._reshape(product, linear.out_shape, name)

    def _gather(self, x: str, shape: Shape, index: np.ndarray, name: str) -> str:
        """out[k] = x.flat[index[k]], 0 where the index is -1; (index of shape `out`)."""
        flat, size = self._flat(x, shape, name), math.prod(shape)
        if (index < 0).any():
            pads = self._integers([0, 0, 0, 1], f"{name}/pads")
            flat = self._step("Pad", [flat, pads], f"{name}/padded")
            index = np.where(index < 0, size, index)
        places = self._integers(index.reshape(-1), f"{name}/index")
        picked = self._step("Gather", [flat, places], f"{name}/picked", axis=1)
        return self._reshape(picked, index.shape, name)

    def _flat(self, x: str, shape: Shape, name: str) -> str:
        return self._step("Reshape", [x, self._integers([-1, math.prod(shape)], f"{name}/size")], f"{name}/flat")

    def _reshape(self, x: str, shape: Shape, name: str) -> str:
        target = [-1, *shape[1:]] if self.dynamic else list(shape)
        return self._step("Reshape", [x, self._integers(target, f"{name}/shape")], name)

    def _constant(self, array: np.ndarray, name: str) -> str:
        tensor = self._unique(name)
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype=self.dtype), tensor))
        return tensor

    def _integers(self, values: Sequence[int] | np.ndarray, name: str) -> str:
        tensor = self._unique(name)
        self.tensors.append(numpy_helper.from_array(np.asarray(values, dtype=np.int64), tensor))
        return tensor

    def _step(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.steps.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def _unique(self, name: str) -> str:
        tensor, copies = name, 0
        while tensor in self.taken:
            copies += 1
            tensor = f"{name}#{copies}"
        self.taken.add(tensor)
        return tensor


_MAPS: dict[type[LinearMap], Callable[[_Writer, Any, str, str], str]] = {
    Identity: lambda writer, linear, x, name: x,
    Reshape: lambda writer, linear, x, name: writer._reshape(x, linear.out_shape, name),
    Select: lambda writer, linear, x, name: writer._gather(x, linear.in_shape, linear.index, name),
    Place: _Writer._place,
    Scale: _Writer._scale,
    Dense: _Writer._dense,
    Conv: _Writer._conv,
}

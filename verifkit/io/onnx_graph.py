"""The ONNX protobuf as a plain graph: one input, one output, and the nodes between them in topological order.

Nothing is lowered here. What is refused here is refused for every use of the model: several inputs or outputs, an
element type other than float or double, a dynamic axis other than the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from verifkit.errors import ModelError, UnsupportedOperator
from verifkit.maps import Shape

MIN_OPSET = 7
MAX_OPSET = 28
"""The newest opset whose definitions of the operators in `onnx_ops` have been read and tested."""

_DTYPES: dict[int, type[np.floating[Any]]] = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.DOUBLE: np.float64}
_SUBGRAPH = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One ONNX node with its defaults still unfilled. `name` is never empty: unnamed nodes are called '#position'."""

    name: str
    opset: int
    proto: onnx.NodeProto

    @property
    def operator(self) -> str:
        domain = self.proto.domain
        return self.proto.op_type if domain in ("", "ai.onnx") else f"{domain}.{self.proto.op_type}"

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.proto.input)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.proto.output)

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Attribute values as Python and NumPy objects, text decoded. Raises `UnsupportedOperator` for a subgraph."""
        values: dict[str, Any] = {}
        for attribute in self.proto.attribute:
            if attribute.type in _SUBGRAPH:
                raise self.refuse(f"its attribute '{attribute.name}' is a subgraph")
            value = onnx.helper.get_attribute_value(attribute)
            if isinstance(value, bytes):
                value = value.decode("utf-8", "replace")
            elif attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
                value = tuple(value)
            values[attribute.name] = value
        return values

    def refuse(self, why: str) -> UnsupportedOperator:
        """The error that says why this node cannot be lowered."""
        return UnsupportedOperator(self.name, self.operator, self.opset, why)


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """The part of an ONNX model that its output depends on.

    input_shape: ONNX's shape, a dynamic batch pinned to 1 (then `dynamic_batch`). tensors: the initialisers by name,
    still encoded. consumers: how many nodes (and graph outputs) use each tensor.
    """

    opset: int
    input_name: str
    input_shape: Shape
    dtype: type[np.floating[Any]]
    dynamic_batch: bool
    output_name: str
    nodes: tuple[OnnxNode, ...]
    tensors: Mapping[str, onnx.TensorProto]
    sparse: frozenset[str]
    consumers: Mapping[str, int]


def read_graph(model: onnx.ModelProto, name: str) -> OnnxGraph:
    """The graph of a parsed model; `name` is what messages call it. Raises `ModelError`."""
    graph = model.graph
    opset = _opset(model, name)
    tensors = {t.name: t for t in graph.initializer}
    sparse = frozenset(t.values.name for t in graph.sparse_initializer)
    inputs = [v for v in graph.input if v.name not in tensors and v.name not in sparse]
    for what, values in (("inputs", inputs), ("outputs", list(graph.output))):
        if len(values) != 1:
            listed = ", ".join(f"'{v.name}'" for v in values) or "none"
            raise ModelError(
                f"model '{name}' has {len(values)} {what} ({listed}), but verifkit reads models with exactly one: "
                f"export it again with one"
            )
    shape, dynamic = _input_shape(inputs[0], name)
    elem_type = inputs[0].type.tensor_type.elem_type
    if elem_type not in _DTYPES:
        kind = onnx.TensorProto.DataType.Name(elem_type).lower() if elem_type else "unknown"
        raise ModelError(
            f"input '{inputs[0].name}' of model '{name}' is of type {kind}; verifkit reads float and double models"
        )
    output = graph.output[0].name
    named = [OnnxNode(n.name or f"#{i}", opset, n) for i, n in enumerate(graph.node)]
    nodes = _ancestors(named, output, {inputs[0].name, *tensors, *sparse}, name)
    consumers: dict[str, int] = {output: 1}
    for node in nodes:
        for tensor in node.inputs:
            consumers[tensor] = consumers.get(tensor, 0) + 1
    return OnnxGraph(
        opset=opset,
        input_name=inputs[0].name,
        input_shape=shape,
        dtype=_DTYPES[elem_type],
        dynamic_batch=dynamic,
        output_name=output,
        nodes=nodes,
        tensors=tensors,
        sparse=sparse,
        consumers=consumers,
    )


def to_array(tensor: onnx.TensorProto) -> np.ndarray:
    """The tensor's values. Raises `ModelError` if it is malformed."""
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"tensor '{tensor.name}' of the model is malformed: {first}") from None


def _opset(model: onnx.ModelProto, name: str) -> int:
    versions = [int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not versions:
        raise ModelError(f"model '{name}' names no opset: the file is cut short or is not an ONNX model")
    opset = max(versions)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        way = "upgrade it" if opset < MIN_OPSET else "export it for an older one"
        raise ModelError(
            f"model '{name}' uses opset {opset}, but verifkit reads opsets {MIN_OPSET} to {MAX_OPSET}: {way} "
            f"(onnx.version_converter.convert_version)"
        )
    return opset


def _input_shape(value: onnx.ValueInfoProto, name: str) -> tuple[Shape, bool]:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        raise ModelError(f"input '{value.name}' of model '{name}' has no shape: export it again with a fixed one")
    dims = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else 0 for d in tensor.shape.dim]
    for axis, dim in enumerate(dims):
        if dim == 0 and axis > 0:
            raise ModelError(
                f"axis {axis} of input '{value.name}' of model '{name}' is dynamic, but only the first (the batch) "
                f"may be: export it again with a fixed shape"
            )
    dynamic = bool(dims) and dims[0] == 0
    return tuple(max(d, 1) for d in dims), dynamic


def _ancestors(nodes: Iterable[OnnxNode], output: str, known: set[str], name: str) -> tuple[OnnxNode, ...]:
    """The nodes that `output` depends on, each after those it reads, else in the file's order."""
    producer: dict[str, OnnxNode] = {}
    for node in nodes:
        for tensor in filter(None, node.outputs):
            if tensor in producer or tensor in known:
                raise ModelError(f"model '{name}' is malformed: tensor '{tensor}' is computed twice")
            producer[tensor] = node
    order: list[OnnxNode] = []
    state: dict[int, bool] = {}  # id of a node -> whether it is finished
    stack: list[tuple[str, bool]] = [(output, False)]
    while stack:
        tensor, leaving = stack.pop()
        if tensor in known or not tensor:
            continue
        found = producer.get(tensor)
        if found is None:
            raise ModelError(f"model '{name}' is malformed: nothing computes tensor '{tensor}'")
        if leaving:
            state[id(found)] = True
            order.append(found)
        elif id(found) not in state:
            state[id(found)] = False
            stack.append((tensor, True))
            stack.extend((t, False) for t in reversed(found.inputs))
        elif not state[id(found)]:
            raise ModelError(f"model '{name}' is malformed: tensor '{tensor}' depends on itself")
    return tuple(order)

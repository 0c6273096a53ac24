"""The ONNX protobuf as a plain graph: its inputs and outputs, and the nodes between them in topological order.

Nothing is lowered here. What is refused here or in `dialects` is refused for every use of the model: an element
type other than float or double, a dynamic axis other than the first, two networks in one file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from verifkit.errors import ModelError, UnsupportedOperator
from verifkit.io.lowering.dialects import check_model, check_text, check_value, element_type
from verifkit.maps import Shape

MIN_OPSET = 7
MAX_OPSET = 28
"""The newest opset whose definitions of the operators in `table` have been read and tested."""

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
                raise self.refuse(
                    f"its attribute '{attribute.name}' is a subgraph, and control flow is not lowered: export the "
                    f"model with its branches fixed and its loops unrolled"
                )
            value = onnx.helper.get_attribute_value(attribute)
            if isinstance(value, bytes):
                value = value.decode("utf-8", "replace")
            elif attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
                value = tuple(value)
            values[attribute.name] = value
        return values

    def number(self, name: str, default: float) -> float:
        """A float attribute, exactly; its default as the float32 that ONNX means. Refuses infinities and NaN."""
        value = float(self.attributes.get(name, np.float32(default)))
        if not math.isfinite(value):
            raise self.refuse(f"its attribute '{name}' is {value}: export the model again")
        return value

    def flag(self, name: str, default: int = 0) -> bool:
        """An integer attribute that says yes or no. Refuses any other number, which runtimes read differently."""
        value = int(self.attributes.get(name, default))
        if value not in (0, 1):
            raise self.refuse(f"its attribute '{name}' is {value}, neither 0 nor 1")
        return bool(value)

    def refuse(self, why: str) -> UnsupportedOperator:
        """The error that says why this node cannot be lowered."""
        return UnsupportedOperator(self.name, self.operator, self.opset, why)


@dataclass(frozen=True)
class Port:
    """One input of the graph: ONNX's shape, a dynamic batch pinned to 1 (then `dynamic`)."""

    name: str
    shape: Shape
    dynamic: bool


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """The part of an ONNX model that its outputs depend on.

    tensors: the initialisers by name, still encoded. consumers: how many nodes (and graph outputs) use each tensor.
    """

    opset: int
    inputs: tuple[Port, ...]
    dtype: type[np.floating[Any]]
    outputs: tuple[str, ...]
    nodes: tuple[OnnxNode, ...]
    tensors: Mapping[str, onnx.TensorProto]
    sparse: frozenset[str]
    consumers: Mapping[str, int]

    @property
    def input_shape(self) -> Shape:
        """The only input's shape; several inputs are one flat vector, each in C order, in the file's order."""
        if len(self.inputs) == 1:
            return self.inputs[0].shape
        return (sum(math.prod(port.shape) for port in self.inputs),)

    @property
    def dynamic_batch(self) -> bool:
        """Whether the first axis of every input is dynamic."""
        return all(port.dynamic for port in self.inputs)


def read_graph(model: onnx.ModelProto, name: str) -> OnnxGraph:
    """The graph of a parsed model; `name` is what messages call it. Raises `ModelError`."""
    graph = model.graph
    check_text(model, name)
    check_model(model, name)
    opset = _opset(model, name)
    tensors = {t.name: t for t in graph.initializer}
    sparse = frozenset(t.values.name for t in graph.sparse_initializer)
    given = [v for v in graph.input if v.name not in tensors and v.name not in sparse]
    if not given:
        raise ModelError(f"model '{name}' has no inputs: export it again with the input that its output depends on")
    inputs = tuple(Port(v.name, *_input_shape(v, name)) for v in given)
    outputs = tuple(v.name for v in graph.output)
    named = [OnnxNode(n.name or f"#{i}", opset, n) for i, n in enumerate(graph.node)]
    names = [port.name for port in inputs]
    nodes = _ancestors(named, outputs, {*names, *tensors, *sparse}, name)
    _check_connected(names, outputs, nodes, {*tensors, *sparse}, name)
    consumers: dict[str, int] = {}
    for tensor in (*outputs, *(t for node in nodes for t in node.inputs)):
        consumers[tensor] = consumers.get(tensor, 0) + 1
    return OnnxGraph(
        opset=opset,
        inputs=inputs,
        dtype=element_type(given, name),
        outputs=outputs,
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
    check_value(value, name)
    dims = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else 0 for d in value.type.tensor_type.shape.dim]
    for axis, dim in enumerate(dims):
        if dim == 0 and axis > 0:
            raise ModelError(
                f"axis {axis} of input '{value.name}' of model '{name}' is dynamic, but only the first (the batch) "
                f"may be: export it again with a fixed shape"
            )
    dynamic = bool(dims) and dims[0] == 0
    return tuple(max(d, 1) for d in dims), dynamic


def _ancestors(nodes: Iterable[OnnxNode], outputs: Sequence[str], known: set[str], name: str) -> tuple[OnnxNode, ...]:
    """The nodes that the outputs depend on, each after those it reads, else in the file's order."""
    producer: dict[str, OnnxNode] = {}
    for node in nodes:
        for tensor in filter(None, node.outputs):
            if tensor in producer or tensor in known:
                raise ModelError(f"model '{name}' is malformed: tensor '{tensor}' is computed twice")
            producer[tensor] = node
    order: list[OnnxNode] = []
    state: dict[int, bool] = {}  # id of a node -> whether it is finished
    stack: list[tuple[str, bool]] = [(output, False) for output in reversed(outputs)]
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


def _check_connected(
    inputs: Sequence[str], outputs: Sequence[str], nodes: Sequence[OnnxNode], constants: set[str], name: str
) -> None:
    """Refuses a file whose outputs share no input, directly or through others: it holds several networks."""
    if len(inputs) == 1 or len(outputs) == 1:
        return
    reached: dict[str, set[str]] = {tensor: {tensor} for tensor in inputs}
    for node in nodes:
        known = set().union(*(reached.get(t, set()) for t in node.inputs if t not in constants))
        reached.update((t, known) for t in node.outputs)
    groups: list[tuple[set[str], list[str]]] = []  # inputs that some output joins, and those outputs
    for output in outputs:
        read, members = set(reached.get(output, ())), [output]
        if not read:
            continue
        for other in [g for g in groups if g[0] & read]:
            groups.remove(other)
            read, members = read | other[0], [*other[1], *members]
        groups.append((read, members))
    if len(groups) > 1:
        listed = " and ".join("'" + "', '".join(members) + "'" for _, members in groups)
        raise ModelError(
            f"model '{name}' holds {len(groups)} networks that share no input (outputs {listed}): save each of them "
            f"in a file of its own"
        )

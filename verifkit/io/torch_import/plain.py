"""The model with what is optional about the file format settled: one spelling of weights, inputs and order."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import inliner, numpy_helper

from verifkit.io.torch_import.rewriter import replace_all


def plain(original: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the model's own functions inlined, sparse weights dense, weights no longer listed as inputs, every
    open dimension of an input 1, and no nodes but those that an output depends on, in order and all named."""
    proto = onnx.ModelProto()
    proto.CopyFrom(inliner.inline_local_functions(original) if original.functions else original)
    graph = proto.graph
    graph.initializer.extend(_dense(t) for t in graph.sparse_initializer)
    graph.ClearField("sparse_initializer")
    weights = {t.name for t in graph.initializer}
    replace_all(graph.input, [v for v in graph.input if v.name not in weights])
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value <= 0:
                dim.dim_value = 1
    for value in graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")  # stated for another batch, perhaps
    for position, node in enumerate(graph.node):
        node.name = node.name or f"#{position}"  # as the reader calls it
    replace_all(graph.node, _needed(graph))
    graph.ClearField("value_info")
    proto.ir_version = max(proto.ir_version, 8)  # from 4 on weights need not be inputs
    return proto


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    values, index = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), dtype=values.dtype)
    if index.ndim == 1:
        dense.reshape(-1)[index] = values
    else:
        dense[tuple(index.T)] = values
    return numpy_helper.from_array(dense, sparse.values.name)


def _needed(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that some output depends on, each after those it reads."""
    producer = {o: node for node in graph.node for o in node.output if o}
    order: list[onnx.NodeProto] = []
    seen: set[int] = set()
    stack = [(v.name, False) for v in reversed(graph.output)]
    while stack:
        tensor, leaving = stack.pop()
        node = producer.get(tensor)
        if node is None or (id(node) in seen and not leaving):
            continue
        if leaving:
            order.append(node)
            continue
        seen.add(id(node))
        stack.append((tensor, True))
        stack.extend((i, False) for i in reversed(node.input))
    return order

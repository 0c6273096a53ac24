"""Any network of our node kinds as ONNX bytes, so that one made in memory has a deployed form to replay witnesses on.

The file is float32 where every weight is exactly a float32, else double. A network whose every value keeps a first
axis of 1 gets a dynamic batch there; any other is written with its shapes as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper

from verifkit.errors import ModelError
from verifkit.io.writing.functions import parameters, write_function
from verifkit.io.writing.maps import write_map
from verifkit.io.writing.steps import Steps
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Max, Node, Product

OPSET = 13
IR_VERSION = 8


def write_onnx(network: Network) -> bytes:
    """The network as ONNX (opset 13), with its nodes' names; the same network gives the same bytes.

    Raises `ModelError` for a weight that is not finite, and for an activation or node kind that has no ONNX operator.
    """
    weights: list[np.ndarray] = []
    for node in network.nodes:
        if isinstance(node, Activation):
            weights.extend(parameters(node.function))
        else:
            node.cast(lambda w: weights.append(np.asarray(w)) or w)  # type: ignore[func-returns-value]
    if not all(np.isfinite(w).all() for w in weights):
        raise ModelError("the network holds infinite or NaN weights: it cannot be written as ONNX")
    with np.errstate(over="ignore", under="ignore"):  # what does not fit is not equal, and makes the model double
        single = all(np.array_equal(w.astype(np.float32).astype(np.float64), w) for w in weights)
    dynamic = all(len(n.shape) >= 2 and n.shape[0] == 1 for n in network.nodes)
    return _write(network, Steps(np.float32 if single else np.float64, dynamic=dynamic))


def _write(network: Network, steps: Steps) -> bytes:
    nodes = network.nodes
    names = [steps.unique(node.name or f"node{i}") for i, node in enumerate(nodes)]
    for index, node in enumerate(nodes[1:], 1):
        _write_node(steps, node, [names[p] for p in node.parents], names[index])
    if len(nodes) == 1:
        names.append(steps.unique("output"))
        steps.step("Identity", [names[0]], names[-1])
    kind = TensorProto.DOUBLE if steps.double else TensorProto.FLOAT
    ends = [
        helper.make_tensor_value_info(name, kind, ["N", *shape[1:]] if steps.dynamic else list(shape))
        for name, shape in ((names[0], network.input_shape), (names[-1], network.output_shape))
    ]
    graph = helper.make_graph(steps.steps, "network", ends[:1], ends[1:], steps.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "verifkit"
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _write_node(steps: Steps, node: Node, parents: Sequence[str], name: str) -> None:
    if isinstance(node, Affine):
        pairs = enumerate(zip(node.maps, parents, strict=True))
        parts = [write_map(steps, linear, parent, f"{name}/map{i}") for i, (linear, parent) in pairs]
        if node.bias is not None:
            parts.append(steps.constant(np.asarray(node.bias), f"{name}/bias"))
        total = parts[0]
        for i, part in enumerate(parts[1:], 2):
            total = steps.step("Add", [total, part], name if i == len(parts) else f"{name}/sum{i}")
        if len(parts) == 1:
            steps.step("Identity", [total], name)
    elif isinstance(node, Activation):
        write_function(steps, node.function, parents[0], name, node.name)
    elif isinstance(node, Max):
        picked = steps.gather(parents[0], node.parent_shape, node.filled_groups, f"{name}/groups")
        steps.step("ReduceMax", [picked], name, axes=[len(node.shape)], keepdims=0)
    elif isinstance(node, Product):
        steps.step("Mul", parents, name)
    else:
        raise ModelError(f"node '{node.name}' ({type(node).__name__}) cannot be written as ONNX")

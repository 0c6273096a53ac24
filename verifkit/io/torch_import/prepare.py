"""An ONNX model restated so that onnx2torch converts it, and converts it rightly.

onnx2torch knows one definition of each operator, reads some attributes wrongly and has no rule for others. Everything
here keeps what the model computes and makes it plainer. With the batch pinned to 1 every shape is fixed, so that what
depends on shapes alone is a constant; operators with several spellings are put into the one that is converted rightly
(`moves`, `rewrites`, `windows`). Whatever goes wrong all the same is caught by the comparison with onnxruntime in
`verifkit.io.blackbox`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from verifkit.errors import ModelError
from verifkit.io.runtime import reason, runtime_errors, session
from verifkit.io.torch_import.moves import MOVES
from verifkit.io.torch_import.origins import NotImported, Origin, message, producers, traced
from verifkit.io.torch_import.plain import plain
from verifkit.io.torch_import.resize import RESIZE
from verifkit.io.torch_import.rewriter import NotRestated, Rewriter, Rule, replace_all
from verifkit.io.torch_import.rewrites import REWRITES
from verifkit.io.torch_import.versions import NEWEST, STANDARD, Converts, check_definitions, inlined, opset_of, upgraded
from verifkit.io.torch_import.windows import WINDOWS
from verifkit.maps import Shape

RULES: Mapping[str, Rule] = {**MOVES, **REWRITES, **WINDOWS, **RESIZE}

_RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
_VARIABLE = frozenset({
    "Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Optional", "Scan", "SequenceAt", "SequenceConstruct",
    "SplitToSequence", "Unique",
})  # fmt: skip
_SHAPE_OPERANDS: Mapping[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,), "Expand": (1,), "OneHot": (1,), "Pad": (1, 3), "Range": (0, 1, 2), "Reshape": (1,),
    "Resize": (1, 2, 3), "Slice": (1, 2, 3, 4), "Split": (1,), "Squeeze": (1,), "Tile": (1,), "TopK": (1,),
    "Unsqueeze": (1,), "CumSum": (1,), "Trilu": (1,), **{op: (1,) for op in REWRITES if op.startswith("Reduce")},
}  # fmt: skip
"""The operands that set an operator's shape (or axis): they must be constants."""
_SHAPE_ONLY = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Port:
    """One input or output of the graph. shape: the batch axis pinned to 1."""

    name: str
    shape: Shape
    dtype: np.dtype[np.generic]


@dataclass(frozen=True, eq=False)
class Prepared:
    """proto: nodes called n0, n1, ... in order, every shape fixed. origins: of each node. tensors: for each node, the
    model's own name of each of its outputs, empty where the model has no such tensor."""

    proto: onnx.ModelProto
    origins: tuple[Origin, ...]
    tensors: tuple[tuple[str, ...], ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def prepare(original: onnx.ModelProto, name: str, converts: Converts) -> Prepared:
    """The model restated; `name` is what messages call it. Raises `NotImported`, or `ModelError`."""
    source = plain(original)
    opset = opset_of(source)
    known_nodes = producers(source, opset)
    proto = inlined(upgraded(source, name, opset), converts, RULES)
    graph = proto.graph
    values = runtime_values(proto, _zeros(graph), name)
    origins = traced(graph.node, known_nodes)
    constants = _constants(graph, values, origins, name)
    shapes: dict[str, Shape] = {k: tuple(v.shape) for k, v in values.items()}
    dtypes = {k: v.dtype for k, v in values.items()}
    used = frozenset(i for node in graph.node for i in node.input if i) | {v.name for v in graph.output}
    rewriter = Rewriter(shapes, constants, dtypes, used, opset_of(proto), opset)
    for node, origin in zip(graph.node, origins, strict=True):
        if not all(o in constants for o in node.output if o):
            rule = RULES.get(node.op_type, Rewriter.keep) if node.domain in STANDARD else Rewriter.keep
            try:
                rule(rewriter, _trimmed(node))
            except NotRestated as error:
                raise NotImported(name, origin, str(error)) from None
            except (LookupError, TypeError, ValueError, ArithmeticError) as error:  # attributes that no rule foresaw
                raise NotImported(name, origin, f"it cannot be restated ({message(error)})") from None
    inputs = tuple(Port(v.name, shapes[v.name], values[v.name].dtype) for v in graph.input)
    outputs = tuple(Port(v.name, shapes[v.name], values[v.name].dtype) for v in graph.output)
    return _finished(rewriter, inputs, outputs, known_nodes, name)


def runtime_values(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Every tensor of the graph by name, as onnxruntime computes it. Raises `ModelError`."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    stated = {v.name for v in exposed.graph.output}
    for node in exposed.graph.node:
        exposed.graph.output.extend(onnx.ValueInfoProto(name=o) for o in node.output if o and o not in stated)
    names = [v.name for v in exposed.graph.output]
    try:
        values = session(exposed.SerializeToString()).run(names, dict(feeds))
    except runtime_errors() as error:
        raise ModelError(f"onnxruntime cannot run model '{name}' as prepared for torch: {reason(error)}") from None
    known = {**{t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}, **feeds}
    for key, value in zip(names, values, strict=True):
        if not isinstance(value, np.ndarray):
            raise ModelError(f"tensor '{key}' of model '{name}' is a sequence: onnx2torch imports plain tensors only")
        known[key] = value
    return known


def _zeros(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    feeds = {}
    for value in graph.input:
        tensor = value.type.tensor_type
        shape = [d.dim_value for d in tensor.shape.dim]
        feeds[value.name] = np.zeros(shape, dtype=helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return feeds


def _constants(
    graph: onnx.GraphProto, known: Mapping[str, np.ndarray], origins: Sequence[Origin], name: str
) -> dict[str, np.ndarray]:
    """The tensors that do not depend on the input's values. Raises `NotImported` where a shape does."""
    constants = {t.name: known[t.name] for t in graph.initializer}
    for node, origin in zip(graph.node, origins, strict=True):
        if node.op_type in _RANDOM:
            raise NotImported(name, origin, "what it computes is random")
        if node.op_type in _VARIABLE:
            raise NotImported(name, origin, "the shape of what it computes depends on values, or it holds a subgraph")
        operands = [node.input[k] for k in _SHAPE_OPERANDS.get(node.op_type, ()) if k < len(node.input)]
        if any(o and o not in constants for o in operands):
            raise NotImported(name, origin, "an operand that sets its shape or axis is no constant")
        read = () if node.op_type in _SHAPE_ONLY else node.input[:1] if node.op_type == "CastLike" else node.input
        if all(i in constants for i in read if i):
            constants.update({o: known[o] for o in node.output if o})
    return constants


def _trimmed(node: onnx.NodeProto) -> onnx.NodeProto:
    """Without empty names at the end of its inputs, which onnx2torch takes for tensors."""
    inputs = list(node.input)
    while inputs and not inputs[-1]:
        inputs.pop()
    replace_all(node.input, inputs)
    return node


def _finished(
    rewriter: Rewriter,
    inputs: tuple[Port, ...],
    outputs: tuple[Port, ...],
    known: Mapping[str, Origin],
    name: str,
) -> Prepared:
    """The graph of the rewritten nodes, under an opset that onnx2torch knows."""
    # onnx2torch finds an output by its node and mixes up several outputs of one node: each gets a node of its own.
    ends = {f"{p.name}/out{k}": p for k, p in enumerate(outputs)}
    nodes = [*rewriter.nodes, *(helper.make_node("Identity", [p.name], [end]) for end, p in ends.items())]
    at_ends = {end: known.get(p.name, Origin(p.name, "output", rewriter.opset)) for end, p in ends.items()}
    origins = traced(nodes, {**known, **at_ends})
    check_definitions(nodes, origins, rewriter.opset, name)
    rename, weights = _renamed([p.name for p in inputs], nodes, rewriter.constants)
    graph = helper.make_graph(
        [_with_names(node, f"n{index}", rename) for index, node in enumerate(nodes)],
        "prepared",
        [_info(rename[p.name], p) for p in inputs],
        [_info(rename[end], p) for end, p in ends.items()],
        weights,
    )
    opset = helper.make_opsetid("", min(rewriter.opset, NEWEST))
    tensors = tuple(tuple(t if t in known else "" for t in node.output) for node in nodes)
    return Prepared(helper.make_model(graph, opset_imports=[opset], ir_version=8), origins, tensors, inputs, outputs)


def _renamed(
    inputs: Sequence[str], nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray]
) -> tuple[dict[str, str], list[onnx.TensorProto]]:
    """New names t1, t2, ... for all tensors, and the constants that are read under theirs.

    onnx2torch keeps nodes, inputs and constants in one table, and makes up names for nodes that are called alike.
    """
    rename = {"": ""}
    for tensor in inputs:
        rename[tensor] = f"t{len(rename)}"
    weights = []
    for node in nodes:
        for tensor in node.input:
            if tensor not in rename:  # a constant: everything else has been named by the node that computes it
                rename[tensor] = f"t{len(rename)}"
                weights.append(numpy_helper.from_array(constants[tensor], rename[tensor]))
        for tensor in node.output:
            rename.setdefault(tensor, f"t{len(rename)}")
    return rename, weights


def _with_names(node: onnx.NodeProto, name: str, rename: Mapping[str, str]) -> onnx.NodeProto:
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    renamed.name, renamed.domain = name, "" if node.domain in STANDARD else node.domain
    replace_all(renamed.input, [rename[t] for t in node.input])
    replace_all(renamed.output, [rename[t] for t in node.output])
    return renamed


def _info(name: str, port: Port) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(port.dtype), port.shape)

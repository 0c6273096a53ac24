"""Operator definitions: which of them onnx2torch knows, and how a model comes to use only those."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import onnx
from onnx import defs, helper, inliner, shape_inference, version_converter

from verifkit.errors import ModelError
from verifkit.io.torch_import.origins import NotImported, Origin

OLDEST = 13
"""Models of older opsets are brought here by onnx's version converter: onnx2torch lacks many older definitions."""
NEWEST = 17
"""The last opset whose definitions onnx2torch knows throughout; newer ones are restated in it."""

Converts = Callable[[str, int], bool]
"""Whether onnx2torch has a converter for an operator as an opset defines it."""
STANDARD = ("", "ai.onnx")


def opset_of(proto: onnx.ModelProto) -> int:
    return max(int(o.version) for o in proto.opset_import if o.domain in STANDARD)


def upgraded(proto: onnx.ModelProto, name: str, opset: int) -> onnx.ModelProto:
    """The model in opset 13 at least. Raises `ModelError` where onnx cannot convert it."""
    if opset >= OLDEST:
        return proto
    try:
        converted: onnx.ModelProto = version_converter.convert_version(proto, OLDEST)
    except (RuntimeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(
            f"model '{name}' cannot be brought from opset {opset} to {OLDEST} for onnx2torch: {first}"
        ) from None
    for node in converted.graph.node:  # up to opset 10 there was one way to place and round; the converter forgets it
        if node.op_type == "Resize" and not any(a.name == "coordinate_transformation_mode" for a in node.attribute):
            ways = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if opset < 11 else {}
            node.attribute.extend(helper.make_attribute(key, value) for key, value in ways.items())
    return converted


def inlined(proto: onnx.ModelProto, converts: Converts, restated: Collection[str]) -> onnx.ModelProto:
    """Operators that onnx2torch has no converter for, but ONNX defines by a graph of others, replaced by that graph.

    restated: those that have a rule of their own.
    """
    opset = opset_of(proto)
    spelled = set()
    for operator in {n.op_type for n in proto.graph.node if n.domain in STANDARD} - set(restated):
        if not converts(operator, min(opset, NEWEST)):
            spelled.add(("", operator))  # one that is not defined by a graph is left as it is
    if not spelled:
        return proto
    typed = shape_inference.infer_shapes(proto)  # the inliner asks for the type of every operand
    typed.graph.value_info.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in proto.graph.initializer
    )
    try:
        result: onnx.ModelProto = inliner.inline_selected_functions(
            typed, sorted(spelled), inline_schema_functions=True
        )
    except (RuntimeError, TypeError):  # no type could be found, or a release of onnx that cannot do it: left as it is
        return proto
    return result


def _schema(operator: str, opset: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(operator, opset, "")
    except defs.SchemaError:
        return None


def check_definitions(nodes: Sequence[onnx.NodeProto], origins: Sequence[Origin], opset: int, name: str) -> None:
    """Raises `NotImported` for a node that opset 17 could not state: another signature than the newer definition's."""
    for node, origin in zip(nodes, origins, strict=True):
        if opset <= NEWEST or node.domain not in STANDARD:
            continue
        new, old = _schema(node.op_type, opset), _schema(node.op_type, NEWEST)
        if new is None or old is None or new.since_version == old.since_version:
            continue
        strange = [a.name for a in node.attribute if a.name not in old.attributes]
        if strange or len(node.input) > old.max_input or len(node.output) > old.max_output:
            what = f"attribute '{strange[0]}'" if strange else "more inputs or outputs"
            raise NotImported(
                name, origin, f"it uses {what}, and onnx2torch knows its definition up to opset {NEWEST} only"
            )

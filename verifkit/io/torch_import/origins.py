"""Where a prepared node comes from, so that every refusal names a node of the model as it was written."""

from __future__ import annotations

from collections.abc import Mapping, Reversible
from dataclasses import dataclass

import onnx

from verifkit.errors import ModelError


@dataclass(frozen=True)
class Origin:
    """The node of the model, as written, that a prepared node comes from."""

    node: str
    operator: str
    opset: int


class NotImported(ModelError):
    """A node that onnx2torch cannot take: the model has no second import, and no gradients through it."""

    def __init__(self, model: str, origin: Origin, why: str) -> None:
        self.model, self.origin, self.why = model, origin, why
        super().__init__(
            f"onnx2torch cannot import model '{model}': node '{origin.node}' ({origin.operator}, opset "
            f"{origin.opset}): {why}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.model, self.origin, self.why)


def producers(proto: onnx.ModelProto, opset: int) -> dict[str, Origin]:
    """By tensor: the node that computes it. All nodes have names."""
    found: dict[str, Origin] = {}
    for node in proto.graph.node:
        operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        origin = Origin(node.name, operator, opset)
        found.update((tensor, origin) for tensor in node.output if tensor)
    return found


def traced(nodes: Reversible[onnx.NodeProto], known: Mapping[str, Origin]) -> tuple[Origin, ...]:
    """The origin of each node: of the model's own tensor that it computes, or else that it leads to."""
    towards = dict(known)
    found: list[Origin] = []
    for node in reversed(nodes):
        origin = next((towards[o] for o in node.output if o in towards), Origin(node.name, node.op_type, 0))
        found.append(origin)
        for tensor in node.input:
            towards.setdefault(tensor, origin)
    return tuple(reversed(found))


def message(error: Exception) -> str:
    """The first line of an exception's text, or its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]

"""How a rule emits nodes, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from verifkit.maps import Shape


class NotRestated(Exception):
    """Why a node cannot be restated for onnx2torch; the caller turns it into an error that names the node."""


@dataclass(eq=False)
class Rewriter:
    """The nodes emitted so far.

    shapes, constants, dtypes: by tensor name, of the graph that is read. used: the tensors that some node or output
    reads. opset: of the graph. written: the opset that the model was written in.
    """

    shapes: Mapping[str, Shape]
    constants: dict[str, np.ndarray]
    dtypes: Mapping[str, np.dtype[Any]]
    used: frozenset[str]
    opset: int
    written: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def keep(self, node: onnx.NodeProto) -> None:
        self.nodes.append(node)

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of a new constant."""
        name = self._fresh()
        self.constants[name] = np.asarray(value, dtype=dtype)
        return name

    def emit(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Appends a node with one output, which is returned: `output`, or a new name."""
        output = output or self._fresh()
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def _fresh(self) -> str:
        name = f"~{len(self.nodes)}.{len(self.constants)}"
        while name in self.constants or name in self.shapes:
            name += "~"
        return name

    def only_first(self, node: onnx.NodeProto, what: str) -> None:
        """Raises `NotRestated` where an output other than the node's first is read; `what` says what it is."""
        if self.used.intersection(node.output[1:]):
            raise NotRestated(f"{what} is read")


Rule = Callable[[Rewriter, onnx.NodeProto], None]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attribute values as Python objects, text decoded."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def operand(node: onnx.NodeProto, index: int) -> str:
    """The name of an optional input, empty where it is left out."""
    return node.input[index] if index < len(node.input) else ""


def pad_constant(
    w: Rewriter, x: str, pads: Sequence[tuple[int, int]], value: float, dtype: np.dtype[Any], output: str = ""
) -> str:
    """`x` with (before, after) entries of `value` on every axis; negative numbers cut entries off."""
    flat = [begin for begin, _ in pads] + [end for _, end in pads]
    return w.emit("Pad", [x, w.constant(flat, np.int64), w.constant(value, dtype)], output, mode="constant")


def along_axis(w: Rewriter, x: str, rank: int, axis: int, matrix: np.ndarray) -> str:
    """y[..., j, ...] = sum_i x[..., i, ...] matrix[i, j] along one axis of a tensor with `rank` axes."""
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    product = w.emit("MatMul", [w.emit("Transpose", [x], perm=order), w.constant(matrix)])
    return w.emit("Transpose", [product], perm=order)


def replace_all(field: Any, values: Iterable[Any]) -> None:
    """A repeated protobuf field set to `values`."""
    kept = list(values)  # before the field lets go of them
    del field[:]
    field.extend(kept)

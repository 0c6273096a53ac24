"""One ONNX node under test, and the models it is put into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F32 = np.float32
RNG = np.random.default_rng(20240611)


def f32(*shape: int) -> np.ndarray:
    """Normally distributed float32 numbers."""
    return RNG.standard_normal(shape).astype(F32)


def above(*shape: int) -> np.ndarray:
    """Float32 numbers in [0.5, 1.5)."""
    return (0.5 + RNG.random(shape)).astype(F32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


@dataclass(frozen=True)
class Case:
    """One ONNX node under test: it reads 'h' (of `shape`) and the initialisers, and computes 'y'.

    `before` makes further inputs from 'h', `after` makes 'y' from further outputs.
    """

    op: str
    shape: tuple[int, ...]
    inputs: tuple[str, ...] = ("h",)
    attributes: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    opset: int = 13
    before: tuple[onnx.NodeProto, ...] = ()
    outputs: tuple[str, ...] = ("y",)
    kind: int = TensorProto.FLOAT
    after: tuple[onnx.NodeProto, ...] = ()

    def node(self) -> onnx.NodeProto:
        return helper.make_node(self.op, self.inputs, self.outputs, name="tested", **self.attributes)

    def build(self, *, residual: bool) -> bytes:
        """The node alone, or between two residual blocks: h = x + relu(x), z = y + tanh(y)."""
        if residual:
            first = [helper.make_node("Relu", ["x"], ["/r"]), helper.make_node("Add", ["x", "/r"], ["h"])]
            last = [helper.make_node("Tanh", ["y"], ["/t"]), helper.make_node("Add", ["/t", "y"], ["z"])]
        else:
            first, last = [helper.make_node("Identity", ["x"], ["h"])], [helper.make_node("Identity", ["y"], ["z"])]
        graph = helper.make_graph(
            [*first, *self.before, self.node(), *self.after, *last],
            "case",
            [helper.make_tensor_value_info("x", self.kind, self.shape)],
            [helper.make_empty_tensor_value_info("z")],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in self.tensors.items()],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}-{list(self.shape)}-{self.attributes}"


def opsets(op: str, newest: int = 28) -> list[int]:
    """The opsets from 7 on in which the operator's definition changed, and the newest."""
    versions = {
        max(7, s.since_version)
        for s in onnx.defs.get_all_schemas_with_history()
        if s.name == op and s.domain == "" and not s.deprecated
    }
    return sorted({v for v in versions if v <= newest} | {newest})

"""An ONNX file that grows layer by layer: the operators, weights and names of a trained network.

`verifkit.io.write_onnx` writes any `Network`, in the general form of its node kinds: pooling as a gather and a maximum,
a bias as one number for every output. Trained networks are written here in the operators that they were described in
(`Conv` with its bias, `MaxPool`, `Flatten`), which is what other tools read best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from verifkit.io.noise_layer import NOISE_AFTER
from verifkit.maps import Shape

OPSET = 13
IR_VERSION = 8


class OnnxFile:
    """Collects the steps and float32 weights of a graph with one input and one output, the batch axis dynamic."""

    def __init__(self) -> None:
        self._steps: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []
        self._counts: Counter[str] = Counter()
        self._metadata: dict[str, str] = {}

    def name(self, kind: str) -> str:
        """A fresh name for a value: its kind and a number from 1."""
        self._counts[kind] += 1
        return f"{kind}{self._counts[kind]}"

    def constant(self, array: np.ndarray, name: str) -> str:
        """Weights under `name`, as float32."""
        self._tensors.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype=np.float32), name))
        return name

    def integers(self, values: Sequence[int], name: str) -> str:
        """A vector of int64 under `name`: a shape."""
        self._tensors.append(numpy_helper.from_array(np.asarray(values, dtype=np.int64), name))
        return name

    def step(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        """One ONNX node, named like its output."""
        self._steps.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))

    def noise_after(self, tensor: str) -> None:
        """Note in the file's metadata that noise is added to this tensor; the graph itself stays without it."""
        self._metadata[NOISE_AFTER] = tensor

    def content(self, inputs: tuple[str, Shape], outputs: tuple[str, Shape]) -> bytes:
        """The file's bytes; (name, shape without batch axis) of its input and output. Same steps, same bytes."""
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in (inputs, outputs)
        ]
        graph = helper.make_graph(self._steps, "network", ends[:1], ends[1:], self._tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name = "verifkit"
        helper.set_model_props(model, self._metadata)
        data: bytes = model.SerializeToString(deterministic=True)
        return data

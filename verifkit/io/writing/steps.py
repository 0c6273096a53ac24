"""The ONNX nodes and tensors of a file that is being written: what the writer's rules build with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from verifkit.maps import Shape


class Steps:
    """`steps` and `tensors` grow rule by rule; a step is one ONNX node, named after its output.

    dtype: of all constants. dynamic: whether the first axis, of length 1 in every shape, is written as a batch.
    """

    def __init__(self, dtype: type[np.floating[Any]], *, dynamic: bool) -> None:
        self.dtype, self.dynamic = dtype, dynamic
        self.steps: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.taken: set[str] = set()

    @property
    def double(self) -> bool:
        return self.dtype is np.float64

    def step(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A new node with one output, whose name it returns."""
        self.steps.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, array: np.ndarray, name: str) -> str:
        """A new tensor of floats."""
        tensor = self.unique(name)
        # Not ascontiguousarray: that makes a vector of a scalar.
        self.tensors.append(numpy_helper.from_array(np.asarray(array, dtype=self.dtype, order="C"), tensor))
        return tensor

    def integers(self, values: Sequence[int] | np.ndarray, name: str) -> str:
        """A new tensor of 64-bit integers."""
        tensor = self.unique(name)
        self.tensors.append(numpy_helper.from_array(np.asarray(values, dtype=np.int64), tensor))
        return tensor

    def gather(self, x: str, shape: Shape, index: np.ndarray, name: str) -> str:
        """out[k] = x.flat[index[k]], 0 where the index is -1; (index of shape `out`)."""
        flat, size = self.flat(x, shape, name), math.prod(shape)
        if (index < 0).any():
            pads = self.integers([0, 0, 0, 1], f"{name}/pads")
            flat = self.step("Pad", [flat, pads], f"{name}/padded")
            index = np.where(index < 0, size, index)
        places = self.integers(index.reshape(-1), f"{name}/index")
        picked = self.step("Gather", [flat, places], f"{name}/picked", axis=1)
        return self.reshape(picked, index.shape, name)

    def flat(self, x: str, shape: Shape, name: str) -> str:
        """x as (batch, all its entries)."""
        return self.step("Reshape", [x, self.integers([-1, math.prod(shape)], f"{name}/size")], f"{name}/flat")

    def reshape(self, x: str, shape: Shape, name: str) -> str:
        target = [-1, *shape[1:]] if self.dynamic else list(shape)
        return self.step("Reshape", [x, self.integers(target, f"{name}/shape")], name)

    def unique(self, name: str) -> str:
        """The name, with a number behind it if it is taken."""
        tensor, copies = name, 0
        while tensor in self.taken:
            copies += 1
            tensor = f"{name}#{copies}"
        self.taken.add(tensor)
        return tensor

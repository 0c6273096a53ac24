"""Anything that can be asked a question: a callable on batches, with shapes and a content hash.

A `Model` may also carry the original ONNX bytes (what witnesses are replayed on) and a `Network` (what white-box
methods look into). An ONNX file with an operator that cannot be lowered, or a scikit-learn classifier, is a `Model`
without a `Network`: methods that only call it still work.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifkit.errors import PropertyError, UnsupportedOperator
from verifkit.maps import Shape
from verifkit.network import Network
from verifkit.properties import Property

Call = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Model:
    """A neural network as a black box, optionally with its white box beside it.

    name: what reports call it (a file's name). call: maps a batch `(B, *input_shape)` of `dtype` to outputs
    `(B, *output_shape)`, row by row independent; for an ONNX model this is onnxruntime on the original bytes.
    digest: sha256 hex of the content. unsupported: why there is no network, if there is none.
    """

    name: str
    input_shape: Shape
    output_shape: Shape
    call: Call
    digest: str
    dtype: type[np.floating[Any]] = np.float32
    onnx_bytes: bytes | None = None
    network: Network | None = None
    unsupported: UnsupportedOperator | None = None

    @property
    def n_inputs(self) -> int:
        return math.prod(self.input_shape)

    @property
    def n_outputs(self) -> int:
        return math.prod(self.output_shape)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Outputs `(B, n_outputs)` for flat inputs `(B, n_inputs)`, in the model's own arithmetic."""
        batch = np.ascontiguousarray(x, dtype=self.dtype).reshape(-1, *self.input_shape)
        return np.asarray(self.call(batch)).reshape(batch.shape[0], self.n_outputs)

    def check_fits(self, prop: Property) -> None:
        """Raises `PropertyError` where the property's numbers of inputs or outputs are not the model's."""
        if prop.n_inputs != self.n_inputs:
            raise PropertyError(
                f"the property is about {prop.n_inputs} inputs, but model '{self.name}' has {self.n_inputs} "
                f"(shape {list(self.input_shape)}): this property belongs to another model"
            )
        if prop.n_outputs != self.n_outputs:
            raise PropertyError(
                f"the property is about {prop.n_outputs} outputs, but model '{self.name}' has {self.n_outputs} "
                f"(shape {list(self.output_shape)}): this property belongs to another model"
            )


def digest_of(data: bytes) -> str:
    """sha256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()

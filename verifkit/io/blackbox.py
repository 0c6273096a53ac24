"""A second, independent import of an ONNX model: onnx2torch's, with gradients.

`Model.call` (onnxruntime) is the black box for values. This module gives gradients to methods that only call the
model, also where the lowering knows no rule for some operator, and a cross-check on every import. torch and onnx2torch
(the extra `torch`) are imported inside functions, never with this module; torch's threads, default dtype and random
state are left as they are.

The graph is first restated (`torch_import`). Shapes and constants that do not depend on the input come from
onnxruntime; everything that does is computed by torch. No converter is registered with onnx2torch: its table is one
for the whole process, and another user's registration of the same operator would then fail.
"""

from __future__ import annotations

import numpy as np
import onnx

from verifkit.errors import ModelError
from verifkit.input_sets import Box
from verifkit.io.torch_import.agree import compared
from verifkit.io.torch_import.convert import convert, has_converter
from verifkit.io.torch_import.imported import TorchModel, tried
from verifkit.io.torch_import.origins import NotImported
from verifkit.io.torch_import.prepare import prepare
from verifkit.model import Model

__all__ = ["NotImported", "TorchModel", "compare_imports", "gradient", "torch_module"]


def torch_module(model: Model, *, device: str = "cpu") -> TorchModel:
    """The model imported by onnx2torch, run once on a few inputs but not yet compared (see `compare_imports`).

    Raises `MissingPackage` without onnx2torch, `NotImported` for a node that it cannot take, and `ModelError`
    otherwise.
    """
    if model.onnx_bytes is None:
        raise ModelError(f"model '{model.name}' has no ONNX bytes: there is nothing that onnx2torch could import")
    prepared = prepare(onnx.load_from_string(model.onnx_bytes), model.name, has_converter)
    module = convert(prepared, model.name).to(device)
    imported = TorchModel(model.name, model.input_shape, model.output_shape, module, prepared, device, model.dtype)
    return tried(imported)


def compare_imports(model: Model, imported: TorchModel | None = None, *, box: Box | None = None) -> float:
    """How far the torch import is from onnxruntime, as a share of what is allowed: at most 1.

    Both run on the inputs of `compare.probes` (and, where too few of their outputs are finite, of `further_probes`).
    Entry j of an output y may differ by 1e-4 (float64: 1e-10) of max(|y_j|, 0.01 max_k |y_k|), or, where rounding is
    amplified more than that, by 256 times the noise: the difference between the torch module in its own and in double
    precision, what rounding the inputs changes, and the rounding of the largest value on the way. What is infinite or
    NaN must be so in both. Raises `ModelError`, naming the first node that goes wrong where one can be found, and as
    `torch_module`.
    """
    return compared(model, imported or torch_module(model), box)


def gradient(model: Model | TorchModel, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The gradient of sum(rows * output) in the input, for a falsifier on a model without a white box.

    x: (B, n_inputs) or (B, *input_shape). rows: (B, n_outputs) or (B, *output_shape). Returns an array like `x` in the
    model's own float type. At a kink torch's choice of a derivative is taken; where nothing depends on the input in a
    differentiable way (argmax, comparisons) it is zero. A `Model` is imported anew in each call: in a loop, import it
    once with `torch_module` and pass that. Raises as `torch_module`.
    """
    imported = model if isinstance(model, TorchModel) else torch_module(model)
    found: np.ndarray = imported.gradient(x, rows)
    return found

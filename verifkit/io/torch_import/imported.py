"""A model as a torch callable, what its nodes compute, and whether its rows can be computed together."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from verifkit.errors import ModelError
from verifkit.io.torch_import.origins import NotImported, message
from verifkit.io.torch_import.prepare import Prepared
from verifkit.maps import Shape

Tensor = Any
"""A torch tensor; torch has no types that can be named without importing it."""


@dataclass(frozen=True, eq=False)
class TorchModel:
    """A model as a torch callable, row by row independent: `(B, *input_shape)` to `(B, *output_shape)`.

    Differentiable in its input; its weights need no gradient. prepared: what was converted. batched: whether rows are
    computed together (`torch.func.vmap`), else one by one. dtype: of the module's input, as stored in the file.
    """

    name: str
    input_shape: Shape
    output_shape: Shape
    module: Any
    prepared: Prepared
    device: str
    dtype: type[np.floating[Any]]
    batched: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs for a batch: any shape `(B, ...)` with the model's number of inputs in each row."""
        import torch

        flat = x.reshape(len(x), math.prod(self.input_shape))
        if not len(flat):
            return flat.new_zeros((0, *self.output_shape))
        y = torch.func.vmap(self.row)(flat) if self.batched else torch.stack([self.row(row) for row in flat])
        return y.reshape(len(flat), *self.output_shape)

    def row(self, x: Tensor) -> Tensor:
        """One flat input `(n_inputs,)` to one flat output `(n_outputs,)`."""
        import torch

        sizes = [math.prod(p.shape) for p in self.prepared.inputs]
        parts = [part.reshape(p.shape) for part, p in zip(torch.split(x, sizes), self.prepared.inputs, strict=True)]
        outputs = self.module(*parts)
        several = outputs if isinstance(outputs, tuple | list) else [outputs]
        return torch.cat([y.reshape(-1).to(x.dtype) for y in several])

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """(B, n_outputs) in float64, computed in the arithmetic of `x`."""
        import torch

        with torch.no_grad():
            y = self(torch.from_numpy(x).to(self.device))
        return np.asarray(y.cpu().numpy(), dtype=np.float64).reshape(len(x), -1)

    def gradient(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The gradient of sum(rows * output) in the input, row by row; see `verifkit.io.blackbox.gradient`."""
        import torch

        given = torch.tensor(np.asarray(x), dtype=getattr(torch, np.dtype(self.dtype).name), device=self.device)
        leaf = given.requires_grad_(True)
        with torch.enable_grad():
            y = self(leaf).reshape(len(leaf), -1)
        if not y.requires_grad:  # no output depends on the input in a differentiable way
            return np.zeros(x.shape, dtype=self.dtype)
        weights = torch.tensor(np.asarray(rows), dtype=y.dtype, device=self.device).reshape(y.shape)
        (pulled,) = torch.autograd.grad(y, leaf, weights)
        return np.asarray(pulled.cpu().numpy())


def tried(imported: TorchModel) -> TorchModel:
    """The import after a first run, which settles whether whole batches can go through it.

    Raises `NotImported` for the node at which torch fails.
    """
    import torch

    n = math.prod(imported.input_shape)
    dtype = getattr(torch, np.dtype(imported.dtype).name)
    with torch.no_grad():
        x = torch.linspace(-1, 1, 3 * n, dtype=dtype, device=imported.device).reshape(3, n)
        node_values(imported, x[0])
        found, expected = imported.row(x[0]).numel(), math.prod(imported.output_shape)
        if found != expected:
            raise ModelError(
                f"onnx2torch's import of model '{imported.name}' gives {found} outputs, but the model has {expected}"
            )
        alone = imported(x)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # vmap warns where it would loop over rows after all
                together = replace(imported, batched=True)(x)
        except Exception:  # noqa: BLE001  a rule that vmap lacks: of whatever type, rows are then computed one by one
            return imported
    largest = float(torch.nan_to_num(alone, 0.0, 0.0, 0.0).abs().max())
    agree = torch.allclose(alone, together, rtol=1e-5, atol=1e-5 * largest, equal_nan=True)
    return replace(imported, batched=True) if agree else imported


def node_values(imported: TorchModel, x: Tensor) -> list[tuple[Tensor, ...]]:
    """What each node of the prepared graph computes for one flat input: its outputs, in order.

    Raises `NotImported` for the node at which torch fails.
    """
    values: list[tuple[Tensor, ...]] = []

    def record(module: Any, args: Any, result: Any) -> None:
        values.append(tuple(result) if isinstance(result, tuple | list) else (result,))

    origins = imported.prepared.origins
    hooks = [imported.module.get_submodule(f"n{k}").register_forward_hook(record) for k in range(len(origins))]
    try:
        imported.row(x)
    except Exception as error:  # noqa: BLE001  torch raises whatever it does
        origin = origins[min(len(values), len(origins) - 1)]
        raise NotImported(imported.name, origin, f"torch cannot run it: {message(error)}") from None
    finally:
        for hook in hooks:
            hook.remove()
    return values

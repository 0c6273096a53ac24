"""The torch import against onnxruntime: how far apart, how far rounding explains it, and which node is to blame."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import onnx

from verifkit.errors import ModelError
from verifkit.input_sets import Box
from verifkit.io.compare import AMPLIFIED, LEAST_FINITE, RELATIVE, further_probes, probes
from verifkit.io.torch_import.imported import TorchModel, node_values
from verifkit.io.torch_import.prepare import runtime_values
from verifkit.model import Model

NEAR_ZERO = 0.01
"""Output entries below this share of the largest entry are compared relative to that share of it."""


def compared(model: Model, imported: TorchModel, box: Box | None) -> float:
    """See `verifkit.io.blackbox.compare_imports`."""
    x, expected = _defined_probes(model, box)
    found = imported.outputs(x)
    finite = np.isfinite(expected)
    with np.errstate(invalid="ignore"):
        gap = np.where(finite, np.abs(found - expected), 0.0)
    sizes = np.where(finite, np.abs(expected), 0.0)
    largest = sizes.max(axis=1, keepdims=True)
    limit = RELATIVE[np.dtype(model.dtype)] * np.maximum(sizes, NEAR_ZERO * largest)
    if not (gap <= limit).all():
        limit = np.maximum(limit, AMPLIFIED * _noise(imported, x, found))
    share = np.where(gap > 0, gap / np.maximum(limit, np.finfo(np.float64).tiny), 0.0)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    share = np.where(finite & np.isfinite(found) | same, share, np.inf)
    worst = np.unravel_index(int(np.argmax(share)), share.shape)
    if share[worst] > 1:
        raise ModelError(
            f"onnx2torch's import does not compute what onnxruntime does for model '{model.name}': output entry "
            f"{worst[1]} differs by {gap[worst]:.3g} (onnxruntime {expected[worst]:.6g}, torch {found[worst]:.6g})"
            f"{_culprit(model, imported, x[worst[0]])}"
        )
    return float(share[worst])


def _defined_probes(model: Model, box: Box | None) -> tuple[np.ndarray, np.ndarray]:
    """Inputs `(B, *input_shape)` and what onnxruntime gives for them, `(B, n_outputs)` in float64."""
    x = probes(model.input_shape, model.dtype, box, model.name)
    y = np.asarray(model.call(x), dtype=np.float64).reshape(len(x), -1)
    if np.isfinite(y).all(axis=1).sum() < LEAST_FINITE:
        more = further_probes(model.input_shape, model.dtype, box)
        x = np.concatenate([x, more])
        y = np.concatenate([y, np.asarray(model.call(more), dtype=np.float64).reshape(len(more), -1)])
    return x, y


def _noise(imported: TorchModel, x: np.ndarray, found: np.ndarray) -> np.ndarray:
    """(B, n_outputs): how far rounding alone moves each output entry.

    As measured in double precision (torch may be lucky, so the inputs' own rounding counts, too), on top of the
    rounding of the largest value on the way. Zero for a model that is in double precision already, or that casts to
    single precision inside.
    """
    import torch

    if imported.dtype is np.float64:
        return np.zeros_like(found)
    exact = replace(imported, module=copy.deepcopy(imported.module).double(), dtype=np.float64)
    wide, unit = x.astype(np.float64).reshape(len(x), -1), np.finfo(imported.dtype).eps / 2
    moved = wide * (1.0 + unit * np.random.default_rng(0).choice([-1.0, 1.0], wide.shape))
    try:
        values, elsewhere = exact.outputs(wide), exact.outputs(moved)
        with torch.no_grad():
            rows = [node_values(exact, row) for row in torch.from_numpy(wide).to(imported.device)]
    except (ModelError, RuntimeError):
        return np.zeros_like(found)
    steep = _behind_steep(imported.prepared.proto.graph)
    largest = np.abs(wide).max(axis=1)
    for k, row in enumerate(rows):
        counted = [o for node, skipped in zip(row, steep, strict=True) for o in node if not skipped and o.numel()]
        largest[k] = max([float(largest[k]), *(float(o.abs().max()) for o in counted)])
    with np.errstate(invalid="ignore"):
        noise = np.abs(values - found) + np.abs(elsewhere - values) + unit * largest[:, None]
    return np.where(np.isfinite(noise), noise, 0.0)


def _behind_steep(graph: onnx.GraphProto) -> list[bool]:
    """For each node whether it is, or depends on, an operator that makes small values large: as in `io.compare`."""
    constants = {t.name for t in graph.initializer}
    steep: dict[str, bool] = {}
    found = []
    for node in graph.node:
        varying = [i for i in node.input if i and i not in constants]
        own = node.op_type in ("Exp", "Pow", "Reciprocal") or (
            node.op_type in ("Div", "Einsum", "MatMul", "Mul") and len(varying) > 1
        )
        found.append(own or any(steep.get(i, False) for i in varying))
        steep.update((o, found[-1]) for o in node.output)
    return found


def _culprit(model: Model, imported: TorchModel, x: np.ndarray) -> str:
    """The first node whose value differs for one input, as the end of a sentence; empty where none stands out."""
    import torch

    assert model.onnx_bytes is not None
    flat = x.reshape(-1)
    feeds, start = {}, 0
    for port in imported.prepared.inputs:
        size = math.prod(port.shape)
        feeds[port.name] = flat[start : start + size].reshape(port.shape)
        start += size
    try:
        expected = runtime_values(onnx.load_from_string(model.onnx_bytes), feeds, model.name)
    except ModelError:
        return ""
    with torch.no_grad():
        values = node_values(imported, torch.from_numpy(flat).to(imported.device))
    same = RELATIVE[np.dtype(model.dtype)]
    for tensors, found, origin in zip(imported.prepared.tensors, values, imported.prepared.origins, strict=True):
        for tensor, value in zip(tensors, found, strict=False):
            right = expected.get(tensor)
            if right is None or right.dtype.kind not in "fiub":
                continue
            left, right = value.cpu().numpy().astype(np.float64), right.astype(np.float64)
            scale = float(np.abs(right[np.isfinite(right)]).max(initial=0.0))
            if left.shape != right.shape or not np.allclose(left, right, same, same * scale, equal_nan=True):
                return f"; the first difference is at node '{origin.node}' ({origin.operator}, opset {origin.opset})"
    return ""

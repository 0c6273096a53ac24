"""What runs a model when it is called many thousands of times: whole batches at once, and no other arithmetic.

onnxruntime runs batches several times as fast as the lowered graph or an eager torch module does on one CPU thread, so
an ONNX model stays with it; files whose batch axis is fixed at 1, as most public ones are, get a free one in a copy
that is compared with the original. The lowered graph serves where that fails. Where there is a CUDA device, torch's
import of the model runs there, if it is faster. Nothing is lowered to less than float32: that would be another model.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from verifkit.errors import VerifkitError
from verifkit.io.blackbox import torch_module
from verifkit.io.runtime import OnnxRunner
from verifkit.model import Model
from verifkit.ops import Affine
from verifkit.weighted_maps import Conv

ROWS = 256
"""Rows of a batch that is timed."""

AGREE = 1e-4
"""How far another back end's scores may be from the model's own, as a share of a row's largest."""


@dataclass(frozen=True, eq=False)
class Backend:
    """name: for records. call: flat inputs (B, n_inputs) of the model's float type to scores (B, n_outputs)."""

    name: str
    call: Callable[[np.ndarray], np.ndarray]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.call(x)


@lru_cache(maxsize=4)
def fastest(model: Model) -> Backend:
    """The fastest back end for batches of `model`.

    On a CPU by rule, and so always the same. Against a CUDA device both are timed: there the choice may fall
    differently from run to run where they are equally fast, and with it the rounding of scores.
    """
    best = _on_cpu(model)
    gpu = _on_gpu(model) if model.onnx_bytes is not None and _has_cuda() else None
    return best if gpu is None or _seconds(best, model) <= _seconds(gpu, model) else gpu


def _on_cpu(model: Model) -> Backend:
    runner = model.call
    if not isinstance(runner, OnnxRunner):
        return Backend("callable", model)
    if runner.batched:
        return Backend("onnxruntime", model)
    free = _with_free_batch(model, runner)
    if free is not None:
        return Backend("onnxruntime, batch axis freed", free)
    network = model.network
    if network is not None and not any(
        isinstance(m, Conv) for node in network.nodes if isinstance(node, Affine) for m in node.maps
    ):
        lowered = Backend(
            "lowered graph", lambda x: network.evaluate(x.reshape(-1, *model.input_shape)).reshape(len(x), -1)
        )
        if _agrees(lowered, model):
            return lowered
    return Backend("onnxruntime, row by row", model)


def _with_free_batch(model: Model, runner: OnnxRunner) -> Callable[[np.ndarray], np.ndarray] | None:
    """The model with the first axis of its input and outputs dynamic, if it then treats every row as before."""
    if len(runner.inputs) != 1 or runner.inputs[0][1][:1] != (1,):
        return None
    proto = onnx.load_from_string(runner.data)
    initial = {t.name: t for t in proto.graph.initializer}
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name not in initial and len(dims):
            dims[0].dim_param = "N"
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        if node.op_type == "Reshape" and node.input[1] in initial:
            shape = numpy_helper.to_array(initial[node.input[1]])
            if shape.size and shape[0] == 1:  # 0: as many as come in
                free = numpy_helper.from_array(np.concatenate([[0], shape[1:]]).astype(np.int64), node.input[1])
                initial[node.input[1]].CopyFrom(free)
    batched = OnnxRunner(proto.SerializeToString(), runner.inputs, runner.outputs, runner.dtype, batched=True)
    x = _probes(model).reshape(-1, *model.input_shape)
    rows = runner(x)
    scale = np.abs(rows).reshape(len(rows), -1).max(axis=1).reshape(len(rows), *(1,) * (rows.ndim - 1))
    if not np.isfinite(rows).all() or not batched.accepts_batches(x, rows, 1e-5 * scale):
        return None

    def call(x: np.ndarray) -> np.ndarray:
        return batched(x.reshape(-1, *model.input_shape)).reshape(len(x), -1)

    return call


def _has_cuda() -> bool:
    """Whether torch sees a CUDA device; torch is not imported where there is no sign of one."""
    if "torch" not in sys.modules and shutil.which("nvidia-smi") is None:
        return False
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def _on_gpu(model: Model, device: str = "cuda") -> Backend | None:
    """torch's import of the model on a device, in full precision and by deterministic kernels, if it agrees."""
    import torch

    try:
        imported = torch_module(model, device=device)
    except VerifkitError:
        return None

    def call(x: np.ndarray) -> np.ndarray:
        products: Any = torch.backends.cuda.matmul
        before, products.allow_tf32 = products.allow_tf32, False
        try:
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                return imported.outputs(x)
        finally:
            products.allow_tf32 = before

    backend = Backend(f"torch on {device}", call)
    return backend if imported.batched and _agrees(backend, model) else None


def _probes(model: Model) -> np.ndarray:
    """A few inputs, flat, around 0 and in [0, 1]."""
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((4, model.n_inputs)), rng.random((4, model.n_inputs))]
    return np.concatenate(parts).astype(model.dtype)


def _agrees(backend: Backend, model: Model) -> bool:
    x = _probes(model)
    theirs, ours = model(x), backend(x)
    scale = np.abs(theirs).max(axis=1, keepdims=True)
    return ours.shape == theirs.shape and bool((np.abs(ours - theirs) <= AGREE * scale).all())


def _seconds(backend: Backend, model: Model) -> float:
    """The least time of a batch."""
    x = np.random.default_rng(0).random((ROWS, model.n_inputs)).astype(model.dtype)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        backend(x)
        times.append(time.perf_counter() - start)
    return min(times)

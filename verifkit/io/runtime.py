"""onnxruntime as a plain function on batches: what a model's `call` is, and what the importer is checked against.

onnxruntime is imported when a session is first needed, not with this module.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from verifkit.errors import ModelError
from verifkit.maps import Shape

_FATAL = 4
_TAGS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


def session(data: bytes) -> Any:
    """An `onnxruntime.InferenceSession` on ONNX bytes: CPU, one thread, quiet: what goes wrong is raised."""
    # Some builds start a thread that sends usage data when they are imported: nothing here may leave the machine.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    return onnxruntime.InferenceSession(data, sess_options=options, providers=["CPUExecutionProvider"])


def quiet() -> Any:
    """Options of a run that prints nothing: what goes wrong is raised, and need not be printed as well."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL
    return options


def runtime_errors() -> tuple[type[Exception], ...]:
    """The exceptions that onnxruntime raises; they share no base class of its own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception))


def reason(error: Exception) -> str:
    """What an onnxruntime exception says, in one line without the tags and source places around it."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    said = _TAGS.sub("", line).rsplit("Status Message: ", 1)[-1]
    return (said.rsplit(") ", 1)[-1] if said.startswith("/") else said)[:300].strip()


class OnnxRunner:
    """A model's outputs by onnxruntime: `(B, *input_shape)` to `(B, *output_shape)`.

    inputs: names and shapes as the ONNX graph states them, a dynamic batch pinned to 1; several are fed the parts of
    one flat vector, and several outputs come back as one. With `batched`, the first axis of every input takes all B
    rows in one run, else rows are run one by one. The session is created on first use, in the process that uses it:
    it is left out when the runner is pickled and made anew after a fork.
    """

    def __init__(
        self,
        data: bytes,
        inputs: Sequence[tuple[str, Shape]],
        outputs: Sequence[str],
        dtype: type[np.floating[Any]] = np.float32,
        *,
        batched: bool = False,
    ) -> None:
        self.data, self.inputs, self.outputs = data, tuple(inputs), tuple(outputs)
        self.dtype, self.batched = dtype, batched
        sizes = [math.prod(shape) for _, shape in self.inputs]
        self.ends = np.cumsum(sizes).tolist()
        self.input_shape: Shape = self.inputs[0][1] if len(sizes) == 1 else (self.ends[-1],)
        self._session: Any = None
        self._process = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Outputs of a batch. Raises `ModelError` where onnxruntime cannot run the model."""
        batch = np.ascontiguousarray(x, dtype=self.dtype)
        if batch.shape[1:] != self.input_shape:
            raise ModelError(f"a batch of shape {list(batch.shape)} was given, not [B, *{list(self.input_shape)}]")
        if self.batched and len(batch):
            return self._joined(self._run_batch(batch), len(batch))
        if not len(batch):
            one = self._row(np.zeros(self.input_shape, dtype=self.dtype))
            return np.zeros((0, *one.shape), dtype=one.dtype)
        return np.stack([self._row(np.asarray(row)) for row in batch])

    def accepts_batches(self, x: np.ndarray, rows: np.ndarray, tolerance: np.ndarray) -> bool:
        """Whether running the batch `x` in one go gives `rows` (the results row by row) within `tolerance`.

        A graph may name its first axis dynamic and yet mix the rows, or hold a reshape for one row only. What is
        NaN or infinite in `rows` must be so here.
        """
        try:
            parts = self._run_batch(np.ascontiguousarray(x, dtype=self.dtype))
        except ModelError:
            return False
        if any(not part.shape or part.shape[0] != len(x) for part in parts):
            return False
        if len(parts) == 1 and (rows.shape[1:2] != (1,) or parts[0].shape[1:] != rows.shape[2:]):
            return False
        y = self._joined(parts, len(x))
        if y.shape != rows.shape:
            return False
        same = (y == rows) | (np.isnan(y) & np.isnan(rows))
        with np.errstate(invalid="ignore"):
            return bool((same | (np.abs(y - rows) <= tolerance)).all())

    def _run_batch(self, batch: np.ndarray) -> list[np.ndarray]:
        """The outputs of all rows in one run, each input's own first axis in place of the batch's."""
        return self._run([part.reshape(-1, *shape[1:]) for part, shape in self._parts(batch)])

    def _joined(self, parts: list[np.ndarray], count: int) -> np.ndarray:
        if len(parts) == 1:
            return parts[0].reshape(count, 1, *parts[0].shape[1:])
        return np.concatenate([part.reshape(count, -1) for part in parts], axis=1)

    def _row(self, row: np.ndarray) -> np.ndarray:
        parts = self._run([part.reshape(shape) for part, shape in self._parts(row[None])])
        return parts[0] if len(parts) == 1 else np.concatenate([part.reshape(-1) for part in parts])

    def _parts(self, batch: np.ndarray) -> list[tuple[np.ndarray, Shape]]:
        """Each input's share of (B, *input_shape), with the shape that one row of it has."""
        if len(self.inputs) == 1:
            return [(batch, self.inputs[0][1])]
        starts = (0, *self.ends[:-1])
        return [
            (np.ascontiguousarray(batch[:, a:z]), shape)
            for (_, shape), a, z in zip(self.inputs, starts, self.ends, strict=True)
        ]

    def _run(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        fed = {name: value for (name, _), value in zip(self.inputs, values, strict=True)}
        try:
            if self._session is None or self._process != os.getpid():
                self._session, self._process = session(self.data), os.getpid()
            results: list[np.ndarray] = self._session.run(list(self.outputs), fed, quiet())
        except runtime_errors() as error:
            raise ModelError(f"onnxruntime cannot run the model: {reason(error)}") from None
        if not all(isinstance(y, np.ndarray) for y in results):
            raise ModelError("an output of the model is no tensor: export it with plain tensors as its outputs")
        for name, y in zip(self.outputs, results, strict=True):
            if not np.issubdtype(y.dtype, np.floating):  # a class label, say, must not be taken for a score
                kind = "string" if y.dtype.kind in "OSU" else y.dtype.name
                raise ModelError(
                    f"output '{name}' of the model is of type {kind}, and so no scores: keep only the scores as "
                    f"outputs of the file (onnx.utils.extract_model does that)"
                )
        return results

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None, "_process": 0}

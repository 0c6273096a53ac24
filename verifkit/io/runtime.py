"""onnxruntime as a plain function on batches: what a model's `call` is, and what the importer is checked against.

onnxruntime is imported when a session is first needed, not with this module.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from verifkit.errors import ModelError
from verifkit.maps import Shape

_ERROR = 3
_FATAL = 4


def session(data: bytes) -> Any:
    """An `onnxruntime.InferenceSession` on ONNX bytes: CPU, one thread, quiet below errors."""
    # Some builds start a thread that sends usage data when they are imported: nothing here may leave the machine.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERROR
    return onnxruntime.InferenceSession(data, sess_options=options, providers=["CPUExecutionProvider"])


def runtime_errors() -> tuple[type[Exception], ...]:
    """The exceptions that onnxruntime raises; they share no base class of its own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception))


def reason(error: Exception) -> str:
    """What an onnxruntime exception says, in one line without the tags and source places around it."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line.rsplit("Status Message: ", 1)[-1].rsplit(") ", 1)[-1][:300]


class OnnxRunner:
    """A model's outputs by onnxruntime: `(B, *input_shape)` to `(B, *output_shape)`.

    `input_shape` is the shape that the ONNX graph states, a dynamic batch pinned to 1. With `batched`, that first axis
    takes all B rows in one run, else rows are run one by one. The session is created on first use, in the process that
    uses it: it is left out when the runner is pickled and made anew after a fork.
    """

    def __init__(
        self,
        data: bytes,
        input_name: str,
        output_name: str,
        input_shape: Shape,
        dtype: type[np.floating[Any]] = np.float32,
        *,
        batched: bool = False,
    ) -> None:
        self.data, self.input_name, self.output_name = data, input_name, output_name
        self.input_shape, self.dtype, self.batched = input_shape, dtype, batched
        self._session: Any = None
        self._process = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Outputs of a batch. Raises `ModelError` where onnxruntime cannot run the model."""
        batch = np.ascontiguousarray(x, dtype=self.dtype)
        if batch.shape[1:] != self.input_shape:
            raise ModelError(f"a batch of shape {list(batch.shape)} was given, not [B, *{list(self.input_shape)}]")
        if self.batched and len(batch):
            y = self._run(batch.reshape(-1, *self.input_shape[1:]))
            return y.reshape(len(batch), 1, *y.shape[1:])
        if not len(batch):
            one = self._run(np.zeros(self.input_shape, dtype=self.dtype))
            return np.zeros((0, *one.shape), dtype=one.dtype)
        return np.stack([self._run(np.asarray(row)) for row in batch])

    def accepts_batches(self, x: np.ndarray, rows: np.ndarray, tolerance: np.ndarray) -> bool:
        """Whether running the batch `x` in one go gives `rows` (the results row by row) within `tolerance`.

        A graph may name its first axis dynamic and yet mix the rows, or hold a reshape for one row only.
        """
        try:
            y = self._run(np.ascontiguousarray(x, dtype=self.dtype).reshape(-1, *self.input_shape[1:]))
        except ModelError:
            return False
        if rows.shape[1:2] != (1,) or y.shape != (len(x), *rows.shape[2:]):
            return False
        return bool((np.abs(y.reshape(rows.shape) - rows) <= tolerance).all())

    def _run(self, x: np.ndarray) -> np.ndarray:
        import onnxruntime

        quiet = onnxruntime.RunOptions()
        quiet.log_severity_level = _FATAL  # what goes wrong is raised below: not printed as well
        try:
            if self._session is None or self._process != os.getpid():
                self._session, self._process = session(self.data), os.getpid()
            (y,) = self._session.run([self.output_name], {self.input_name: x}, quiet)
        except runtime_errors() as error:
            raise ModelError(f"onnxruntime cannot run the model: {reason(error)}") from None
        return np.asarray(y)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None, "_process": 0}

"""Models that are no ONNX file: a plain function, a torch module, a fitted scikit-learn classifier.

Methods that only call a model take them as they are. torch is imported inside functions, never with this module.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import numpy as np

from verifkit.errors import ModelError
from verifkit.io.onnx import model_from_bytes
from verifkit.maps import Shape
from verifkit.model import Model, digest_of

AGREE = 1e-4
"""An ONNX export of a torch module is used where its outputs differ by at most this share of the largest."""
AHEAD = 1e-6
"""By what share of a row's largest score its best must be ahead, for scikit-learn's `predict` to have to agree."""


def model_from_callable(
    call: Callable[[np.ndarray], Any],
    input_shape: Shape | int,
    name: str = "callable",
    *,
    dtype: type[np.floating[Any]] = np.float32,
    digest: str | None = None,
) -> Model:
    """A function from a batch `(B, *input_shape)` of `dtype` to class scores `(B, K)`, row by row independent.

    digest: sha256 hex of whatever determines the function. Without it that of its code, which leaves out what it closes
    over and calls, or, for another object, that of its pickle. Raises `ModelError` where it gives no such scores.
    """
    shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
    try:
        scores = np.asarray(call(np.zeros((2, *shape), dtype=dtype)))
    except Exception as error:
        raise ModelError(f"model '{name}' cannot be called with inputs of shape {list(shape)}: {error}") from error
    if scores.ndim < 2 or scores.shape[0] != 2 or not np.issubdtype(scores.dtype, np.number):
        raise ModelError(
            f"model '{name}' gives an array of shape {list(scores.shape)} for a batch of 2 inputs: scores of shape "
            "[2, classes] are needed"
        )
    return Model(name, shape, tuple(scores.shape[1:]), call, digest or _digest(call), dtype=dtype)


def model_from_sklearn(estimator: Any, name: str | None = None) -> Model:
    """A fitted scikit-learn classifier as a model: its `predict_proba`, or else its decision function, on float64.

    Output k is about class `estimator.classes_[k]`. Of a classifier with two classes and a decision function the
    scores are (-d, d). Raises `ModelError` for one that is not fitted, that gives no score per class, or whose
    `predict` says another class than the best score on some input that was tried.
    """
    called = type(estimator).__name__ if name is None else name
    size, classes = getattr(estimator, "n_features_in_", None), getattr(estimator, "classes_", None)
    if size is None or classes is None:
        raise ModelError(f"model '{called}' is no fitted scikit-learn classifier: fit it first")
    if isinstance(classes, list) or np.ndim(classes) != 1:
        raise ModelError(f"model '{called}' predicts several labels at once: fit one classifier for each label")
    scores = _Scores(estimator)
    model = model_from_callable(scores, int(size), called, dtype=np.float64)
    if model.output_shape != (len(classes),) or (len(classes) > 2 and scores.pairwise):
        raise ModelError(
            f"model '{called}' gives scores of shape {list(model.output_shape)} that are not one for each of its "
            f"{len(classes)} classes: of an SVC set decision_function_shape='ovr'"
        )
    _check_predict(estimator, scores, int(size), called)
    return model


def model_from_torch(module: Any, input_shape: Shape, name: str | None = None) -> Model:
    """A torch module that maps `(B, *input_shape)` to scores `(B, K)`, as a model in the module's own float type.

    One of less than float32 is another classifier than the same weights in float32: the model's name says so.

    Where torch can export it to ONNX without a warning and onnxruntime then computes the same, the model is that ONNX
    file: it runs faster, and white-box methods can take it too. Otherwise (it branches on values, say) the module is
    called as it is, on its own device. Raises `ModelError` for a module in training mode, whose dropout or batch norm
    would answer one input in two ways.
    """
    called = type(module).__name__ if name is None else name
    if any(m.training for m in module.modules()):
        raise ModelError(f"model '{called}' is in training mode: call its eval() first")
    eager = _Eager(module)
    if eager.half:
        called = f"{called} ({eager.half})"
    plain = model_from_callable(eager, input_shape, called, dtype=eager.dtype, digest=_torch_digest(module))
    exported = _exported(module, plain, eager)
    return plain if exported is None else exported


class _Scores:
    """predict_proba, or what stands for it."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if hasattr(self.estimator, "predict_proba"):
            return np.asarray(self.estimator.predict_proba(x))
        found = np.asarray(self.estimator.decision_function(x))
        return np.stack([-found, found], axis=1) if found.ndim == 1 else found

    @property
    def pairwise(self) -> bool:
        """Whether the scores are about pairs of classes; of three classes there are as many pairs."""
        last = self.estimator
        while hasattr(last, "best_estimator_") or hasattr(last, "steps"):
            last = last.best_estimator_ if hasattr(last, "best_estimator_") else last.steps[-1][1]
        ovo = getattr(last, "decision_function_shape", None) == "ovo"
        return ovo and not hasattr(self.estimator, "predict_proba")


def _points(size: int, dtype: type[np.floating[Any]]) -> list[np.ndarray]:
    """Arrays (8, size) of inputs, one per scale: about 0.01, 1, 1000, and uniform in [0, 1] and [0, 255]."""
    rng = np.random.default_rng(0)
    normal = [scale * rng.standard_normal((8, size)) for scale in (0.01, 1.0, 1000.0)]
    return [x.astype(dtype) for x in (*normal, rng.random((8, size)), 255 * rng.random((8, size)))]


def _check_predict(estimator: Any, scores: _Scores, size: int, name: str) -> None:
    """Raises `ModelError` if, where one score is clearly ahead of the others, `predict` says another class."""
    tried = 0
    for x in _points(size, np.float64):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found, said = scores(x), np.asarray(estimator.predict(x))
        except Exception:  # noqa: BLE001  some classifiers take no inputs of some kind: negative ones, say
            continue
        tried += 1
        if not np.issubdtype(found.dtype, np.floating) or found.ndim != 2 or said.shape != (len(x),):
            raise ModelError(f"model '{name}' is no classifier with one float score per class and one label per input")
        order = np.sort(np.where(np.isfinite(found).all(axis=1, keepdims=True), found, 0.0), axis=1)
        clear = order[:, -1] - order[:, -2:].min(axis=1) > AHEAD * np.abs(order).max(axis=1)
        if (clear & (np.asarray(estimator.classes_)[found.argmax(axis=1)] != said)).any():
            raise ModelError(
                f"model '{name}' predicts another class than that of its best score on some inputs: of an SVC set "
                f"break_ties=True and probability=False, or give the scores meant as a function to model_from_callable"
            )
    if not tried:
        raise ModelError(f"model '{name}' can predict none of the inputs that it was tried on: fit it again")


class _Eager:
    """A module on arrays, without gradients; convolutions and products in full float32 on a GPU too."""

    def __init__(self, module: Any) -> None:
        import torch

        floats = (t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point())
        first = next(floats, torch.zeros(1))
        self.module, self.device = module, first.device
        self.torch_dtype = first.dtype
        self.half = "" if first.dtype in (torch.float32, torch.float64) else str(first.dtype).removeprefix("torch.")
        self.dtype: type[np.floating[Any]] = np.float64 if first.dtype == torch.float64 else np.float32

    def __call__(self, x: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
            y = self.module(torch.from_numpy(x).to(device=self.device, dtype=self.torch_dtype))
        return np.asarray(y.float().cpu().numpy() if self.dtype is np.float32 else y.cpu().numpy())


def _exported(module: Any, plain: Model, eager: _Eager) -> Model | None:
    """The module by way of ONNX, if it can be exported and agrees with itself there."""
    import torch

    if eager.device.type != "cpu" or eager.half:
        return None
    file = io.BytesIO()
    example = torch.zeros((1, *plain.input_shape), dtype=eager.torch_dtype)
    axes = {"x": {0: "N"}, "y": {0: "N"}}
    try:
        with warnings.catch_warnings(record=True) as raised, _silent_branches() as branches:
            warnings.simplefilter("always")
            torch.onnx.export(
                module, (example,), file, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=axes
            )
        # A branch on a value is exported as the example input took it, and other inputs would go the wrong way.
        if branches or any(not issubclass(w.category, DeprecationWarning | FutureWarning) for w in raised):
            return None
        model = model_from_bytes(file.getvalue(), plain.name, require_network=False)
        return model if _agrees(model, plain) else None
    except Exception:  # noqa: BLE001  torch's exporter raises whatever it does; the module itself still works
        return None


@contextmanager
def _silent_branches() -> Iterator[list[str]]:
    """Notes calls that turn tensors into a Python bool: those of which torch's tracer does not warn."""
    from torch.overrides import TorchFunctionMode

    seen: list[str] = []

    class Noting(TorchFunctionMode):  # type: ignore[misc]  # torch's types are not read here
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            if name in ("equal", "allclose", "is_nonzero"):
                seen.append(name)
            return func(*args, **(kwargs or {}))

    with Noting():
        yield seen


def _agrees(model: Model, plain: Model) -> bool:
    """Whether both give the same on inputs of several scales, in batches and one by one."""
    if model.n_outputs != plain.n_outputs or model.dtype != plain.dtype:
        return False
    for batch in _points(plain.n_inputs, plain.dtype):
        for x in (batch, batch[:1], batch[-1:]):
            ours, theirs = model(x), plain(x)
            finite = np.isfinite(theirs)
            if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
                return False
            size = np.abs(theirs[finite]).max(initial=1e-300)
            if not (np.abs(ours[finite] - theirs[finite]) <= AGREE * size).all():
                return False
    return True


def _torch_digest(module: Any) -> str:
    """Over the module's text and every tensor in it."""
    content = hashlib.sha256(repr(module).encode())
    for key, value in sorted(module.state_dict().items()):
        content.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        content.update(value.detach().cpu().double().numpy().tobytes())
    return content.hexdigest()


def _digest(call: Any) -> str:
    code = getattr(call, "__code__", None)
    if code is not None:  # a function is pickled by its name alone
        return digest_of(repr((call.__module__, call.__qualname__, _said(code))).encode())
    try:
        return digest_of(pickle.dumps(call))
    except Exception:  # noqa: BLE001  pickle raises whatever an object does
        return digest_of(type(call).__qualname__.encode())


def _said(code: CodeType) -> tuple[object, ...]:
    """What a function does, as text that has no addresses in it."""
    constants = [_said(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return code.co_code, code.co_names, constants

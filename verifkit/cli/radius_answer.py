"""What `verifkit radius` asks and says, without the command line."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifkit.bench.suites.instance import read_samples
from verifkit.budget import Budget, Clock
from verifkit.errors import PropertyError
from verifkit.input_sets import Norm
from verifkit.io.onnx import load_model
from verifkit.query import robustness_family
from verifkit.radius import Radius, RadiusEnd, shorten
from verifkit.registry import create

DIGITS = 6
"""Significant digits of a printed radius: rounded down where certified, up where falsified."""


@dataclass(frozen=True)
class Asked:
    """The question as the command line puts it. inputs: a file; clip: two decimals as text."""

    model: str
    inputs: str
    index: int | None
    label: int | None
    norm: Norm
    clip: tuple[str, str] | None


@dataclass(frozen=True)
class RadiusAnswer:
    """A bracket with what it is about. predicted: the class that the model gives the input itself."""

    radius: Radius
    label: int
    predicted: int
    wall_seconds: float
    cpu_seconds: float

    @property
    def contradicts(self) -> bool:
        """Whether something certified reaches something falsified of the same subject: one of them is wrong."""
        low, high = self.radius.certified, self.radius.falsified
        return low is not None and high is not None and low.value >= high.value

    @property
    def definite(self) -> bool:
        """Whether anything was shown: a positive radius, or that there is none."""
        low = self.radius.certified
        return self.radius.misclassified or (low is not None and low.value > 0)

    def to_text(self) -> str:
        found, label = self.radius, self.label
        norm = "l-inf" if found.norm == "inf" else f"l{found.norm}"
        low, high = found.certified, found.falsified
        lines = [f"radius: [{_number(low)}, {_number(high, up=True)}] {norm}, class {label}"]
        if found.misclassified:
            other = f"gives the input itself class {self.predicted}"
            tied = f"another class scores as high as class {label} at the input itself"
            lines.append(f"misclassified: {f'the model {other}' if self.predicted != label else tied}")
        if low is not None and low.result.guarantee is not None:
            whole = " (all that the clip box admits)" if found.complete else ""
            lines.append(f"certified: {_number(low)}{whole} by {low.result.verifier}")
            lines.append(f"guarantee: {low.result.guarantee.describe()}")
        elif not found.misclassified:
            lines.append("certified: nothing")
        if high is None:
            lines.append("falsified: nothing found")
        elif high.result.witness is not None:
            by = high.result.witness.confirmed_by
            lines.append(f"falsified: {_number(high, up=True)} by {high.result.verifier}, replayed by {by}")
        if self.contradicts:
            lines.append("soundness violation: what is certified reaches what is falsified; please report it")
        lines += _undecided(found)
        lines.append(f"time: {self.wall_seconds:.3f} s wall, {self.cpu_seconds:.3f} s CPU")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        return {
            **self.radius.to_json(),
            "label": self.label,
            "predicted": self.predicted,
            "wall_seconds": round(self.wall_seconds, 6),
            "cpu_seconds": round(self.cpu_seconds, 6),
        }


def ask_radius(
    asked: Asked, verifier: str, options: Mapping[str, str], limits: Budget, seed: int, tolerance: float
) -> RadiusAnswer:
    """Loads the files and puts the question; raises `VerifkitError` for a user's mistake."""
    chosen = create(verifier, options)
    x, given = _read_input(asked)
    model = load_model(asked.model, require_network=chosen.capabilities.needs_network)
    if x.size != model.n_inputs:
        raise PropertyError(
            f"the input in '{asked.inputs}' has shape {list(x.shape)}, that is {x.size} entries, but model "
            f"'{model.name}' has {model.n_inputs} inputs; one of several is chosen by --index"
        )
    with np.errstate(over="ignore"):
        fed = x.astype(model.dtype)
    if not np.isfinite(fed).all():
        at = int(np.flatnonzero(~np.isfinite(fed.reshape(-1)))[0])
        raise PropertyError(
            f"entry {at} of the input in '{asked.inputs}' is {x.reshape(-1)[at]}: that is no finite "
            f"{np.dtype(model.dtype).name}, which the model takes"
        )
    predicted = int(np.argmax(model(x.reshape(1, -1))[0]))
    label = asked.label if asked.label is not None else given if given is not None else predicted
    family = robustness_family(model, x, label, asked.norm, clip=_clip(asked))
    clock = Clock(limits)
    found = chosen.radius(family, budget=limits, seed=seed, tolerance=tolerance)
    return RadiusAnswer(found, label, predicted, clock.elapsed, clock.cpu)


def _clip(asked: Asked) -> tuple[str, str] | None:
    if asked.norm == "0" and asked.clip is None:
        raise PropertyError("an l0 radius needs --clip LOW HIGH: the changed inputs are unbounded without it")
    return asked.clip


def _read_input(asked: Asked) -> tuple[np.ndarray, int | None]:
    """The input, in the shape that the file gives it, and its label where the file holds one."""
    if asked.inputs.endswith(".npz"):
        x, y = read_samples(asked.inputs)
        index = 0 if asked.index is None and len(x) == 1 else asked.index
        if index is None:
            raise PropertyError(f"'{asked.inputs}' holds {len(x)} inputs: choose one with --index")
        return _row(x, index, asked.inputs), int(y[index])
    try:
        x = np.load(asked.inputs, allow_pickle=False)
    except OSError as error:
        raise PropertyError(f"'{asked.inputs}' cannot be read: {error.strerror}") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise PropertyError(
            f"'{asked.inputs}' cannot be read as an .npy array: save the input with numpy.save"
        ) from None
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiu" or not x.size:
        raise PropertyError(f"'{asked.inputs}' holds no array of numbers: save the input with numpy.save")
    return (x if asked.index is None else _row(x, asked.index, asked.inputs)), None


def _row(x: np.ndarray, index: int, path: str) -> np.ndarray:
    if x.ndim < 2:
        raise PropertyError(f"'{path}' holds one input of shape {list(x.shape)}: leave --index out")
    if not 0 <= index < len(x):
        raise PropertyError(f"--index {index} is outside '{path}', which holds {len(x)} inputs")
    return np.asarray(x[index])


def _undecided(found: Radius) -> list[str]:
    """A line for each reason, with how many radii stayed undecided and where."""
    if found.detail:
        return [f"undecided: {found.undecided[0][1]} - {found.detail}"]
    lines = []
    for reason in dict.fromkeys(why for _, why in found.undecided):
        radii = sorted({r for r, why in found.undecided if why is reason})
        what = "1 radius, " if len(radii) == 1 else f"{len(radii)} radii from {shorten(min(radii), DIGITS)} to "
        lines.append(f"undecided: {what}{shorten(max(radii), DIGITS)} - {reason}: {reason.advice}")
    return lines


def _number(end: RadiusEnd | None, *, up: bool = False) -> str:
    return "?" if end is None else shorten(end.value, DIGITS, up=up)

"""The center that noise is added to: a float vector, and how far it may be from the one asked about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from verifkit.analysis.smoothing.noise import GRID, Noise, RoundedGaussian
from verifkit.errors import PropertyError
from verifkit.input_sets import float_above
from verifkit.model import Model


class OffGrid(PropertyError):
    """A center that is no multiple of 1/255 in some entry."""


class LostNoise(PropertyError):
    """Noise that is no wider than a few thousand steps between floats near the center."""


FINE = 4096
"""Steps between floats that a standard deviation of the noise must hold: rounded to fewer, it is no such noise."""


def check_spacing(center: np.ndarray, deviation: float) -> None:
    """Raises `LostNoise` where floats near the center are too far apart for noise of that standard deviation."""
    largest = float(np.abs(center).max(initial=0.0))
    step = float(np.spacing(center.dtype.type(largest)))
    if not deviation >= FINE * step:
        raise LostNoise(
            f"noise of standard deviation {deviation:g} is lost between {center.dtype.name}s {step:.3g} apart "
            f"(inputs up to {largest:g}): scale the inputs, or take more noise"
        )


def require_classes(model: Model) -> None:
    """Raises `PropertyError` for a model without two scores to compare."""
    if model.n_outputs < 2:
        raise PropertyError(
            f"model '{model.name}' has one output: a smoothed classifier needs a score for each of two classes or more"
        )


def center_floats(center: Sequence[Fraction], noise: Noise, dtype: type[np.floating[Any]]) -> tuple[np.ndarray, float]:
    """(the center in floats of `dtype` (d,), its distance from the asked one in the noise's norm, rounded up).

    For l0 the distance is 0: reading inputs as floats moves no entry that did not differ. For noise on the grid every
    entry must be the nearest float32 or float64 to a multiple of 1/255, or that multiple; raises `OffGrid`.
    """
    if isinstance(noise, RoundedGaussian):
        exact = [_on_grid(value, i) for i, value in enumerate(center)]
        floats = (np.array([k.numerator * (GRID // k.denominator) for k in exact], dtype=np.float64) / GRID).astype(
            dtype
        )
        gaps = [abs(value - k) for value, k in zip(center, exact, strict=True) if value != k]
    else:
        with np.errstate(over="ignore"):
            floats = np.array([float(value) for value in center], dtype=dtype)
        if not np.isfinite(floats).all():
            place = int(np.argmin(np.isfinite(floats)))
            raise PropertyError(
                f"entry {place} of the input, {float(center[place]):g}, is no finite {floats.dtype.name}"
            )
        pairs = zip(center, floats.tolist(), strict=True)
        gaps = [abs(value - Fraction(near)) for value, near in pairs if value != near]
    if not gaps or noise.norm == "0":
        return floats, 0.0
    above = float_above(gaps)
    error = math.fsum(above) if noise.norm == "1" else math.sqrt(math.fsum(above * above))
    return floats, error * (1.0 + 1e-14) + 1e-300


def _on_grid(value: Fraction, place: int) -> Fraction:
    steps = Fraction(round(value * GRID), GRID)
    if value not in (steps, Fraction(float(steps)), Fraction(float(np.float32(float(steps))))):
        raise OffGrid(f"entry {place} of the center, {float(value):g}, is no multiple of 1/{GRID}")
    return steps

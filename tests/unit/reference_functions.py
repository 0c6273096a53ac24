"""Every scalar function once more, in high precision, with the points where it bends, jumps or stands still."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import mpmath
import numpy as np

from verifkit.arrays import like
from verifkit.functions import (
    Abs,
    Clip,
    Cos,
    Elu,
    Erf,
    Exp,
    LeakyRelu,
    Log,
    Power,
    Reciprocal,
    Relu,
    ScalarFunction,
    Sigmoid,
    Sign,
    Sin,
    Softplus,
    Sqrt,
    Tanh,
)

DIGITS = 60
"""Decimal digits of the reference values."""

Real = Callable[[mpmath.mpf], mpmath.mpf]


@dataclass(frozen=True)
class Case:
    """name: of the function with its parameters. exact: its value, of an mpf of `DIGITS` digits. special: breakpoints,
    turning points and extremes; positive: whether its domain is x > 0 (or x >= 0); pole: whether 0 is none of it."""

    name: str
    function: ScalarFunction
    exact: Real
    special: tuple[float, ...] = (0.0,)
    positive: bool = False
    pole: bool = False
    scales: tuple[float, ...] = field(default=(1e-30, 1e-6, 0.1, 1.0, 10.0, 100.0))

    def cast(self, sample: np.ndarray) -> ScalarFunction:
        """The function with its parameters in the arithmetic of `sample`."""
        return self.function.cast(lambda values: like(values, sample))


def _leaky(slope: float) -> Case:
    return Case(f"leakyrelu {slope}", LeakyRelu(np.array(slope)), lambda x: x if x >= 0 else slope * x)


def _clip(low: float, high: float) -> Case:
    special = tuple(v for v in (low, high) if math.isfinite(v))
    return Case(f"clip {low} {high}", Clip(np.array(low), np.array(high)), lambda x: min(max(x, low), high), special)


def _elu(alpha: float) -> Case:
    return Case(f"elu {alpha}", Elu(alpha), lambda x: x if x >= 0 else mpmath.mpf(alpha) * mpmath.expm1(x))


def _softplus(x: mpmath.mpf) -> mpmath.mpf:
    return max(x, mpmath.mpf(0)) + mpmath.log1p(mpmath.exp(-abs(x)))


def _sigmoid(x: mpmath.mpf) -> mpmath.mpf:
    tail = mpmath.exp(-abs(x))
    return 1 / (1 + tail) if x >= 0 else tail / (1 + tail)


HALF_TURNS = tuple(k * math.pi / 2 for k in range(-40, 41))

CASES = (
    Case("relu", Relu(), lambda x: max(x, mpmath.mpf(0))),
    *(_leaky(s) for s in (0.0, 0.125, 0.5, 1.0, 2.5, -0.5, -3.0)),  # exact in float32
    *(_clip(a, b) for a, b in ((-1.0, 1.0), (0.0, 6.0), (-math.inf, 2.0), (0.5, math.inf), (1.0, 1.0))),
    Case("abs", Abs(), abs),
    Case("sign", Sign(), mpmath.sign),
    *(Case(f"pow {n}", Power(n), lambda x, n=n: x**n) for n in (2, 3, 4, 5, 8)),
    Case("sqrt", Sqrt(), mpmath.sqrt, positive=True),
    Case("reciprocal", Reciprocal(), lambda x: 1 / x, pole=True),
    Case("exp", Exp(), mpmath.exp),
    Case("log", Log(), mpmath.log, special=(1.0,), positive=True, pole=True),
    Case("sin", Sin(), mpmath.sin, special=HALF_TURNS, scales=(1e-30, 1e-6, 0.1, 1.0, 10.0, 1e4, 1e6)),
    Case("cos", Cos(), mpmath.cos, special=HALF_TURNS, scales=(1e-30, 1e-6, 0.1, 1.0, 10.0, 1e4, 1e6)),
    Case("sigmoid", Sigmoid(), _sigmoid),
    Case("tanh", Tanh(), mpmath.tanh),
    Case("erf", Erf(), mpmath.erf),
    Case("softplus", Softplus(), _softplus),
    *(_elu(a) for a in (1.0, 0.5, 3.0, -0.75, -2.0, 0.1, 0.0)),
)


def in_domain(case: Case, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Which intervals lie inside the function's domain."""
    inside = np.ones(lower.shape, dtype=bool)
    if case.positive:
        inside = lower > 0 if case.pole else lower >= 0
    elif case.pole:
        inside = (lower > 0) | (upper < 0)
    return inside


def intervals(
    case: Case, dtype: type, count: int, seed: int, scales: tuple[float, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finite intervals, (count,): tiny and wide ones anywhere, some that hold a special point or end at one, and
    single points. scales: their sizes, and how far out they lie (default: the case's)."""
    rng = np.random.default_rng([seed, len(case.name)])
    scales = scales or case.scales
    size = rng.choice(scales, count)
    center = rng.normal(size=count) * rng.choice(scales, count)
    center = np.where(rng.random(count) < 0.4, rng.choice(case.special, count), center)
    width = np.abs(rng.normal(size=count)) * size
    share = rng.choice([0.0, 1.0, 0.5, 0.1, 0.9], count)
    lower, upper = center - share * width, center + (1.0 - share) * width
    upper = np.where(rng.random(count) < 0.1, lower, upper)
    largest = float(np.finfo(dtype).max)
    lower, upper = (np.clip(end, -largest, largest).astype(dtype) for end in (lower, upper))
    if case.positive:
        lower, upper = np.abs(lower), np.abs(upper)
    return np.minimum(lower, upper), np.maximum(lower, upper)


def points_of(case: Case, lower: float, upper: float, dtype: type, count: int = 9) -> list[float]:
    """Floats of the interval: ends, special points (and their neighbours), and some in between."""
    inner = [lower + (upper - lower) * k / (count - 1) for k in range(count)]
    ends = [lower, upper]
    with np.errstate(over="ignore"):
        for x in (lower, upper, *case.special):
            at = dtype(x)
            ends += [float(at), float(np.nextafter(at, dtype(-np.inf))), float(np.nextafter(at, dtype(np.inf)))]
    return sorted({float(dtype(x)) for x in (*inner, *ends) if lower <= float(dtype(x)) <= upper})

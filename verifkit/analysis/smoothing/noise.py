"""Noise families: how a noisy input is drawn, and the radius that bounds on class probabilities certify.

Each family's `radius(p_lower, p_rivals)` is rounded down, 0 where nothing is certified. p_lower: a lower bound on the
probability of the answered class at the center; p_rivals: an upper bound on that of every other class alone, 1 -
p_lower unless given. Within the radius the answered class stays strictly more probable than every other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from verifkit.analysis.smoothing.rounded import rounded_gaussian_table
from verifkit.errors import OptionError
from verifkit.input_sets import Norm

SAFE = 1e-13
"""Relative slack of a rounded radius: far above the error of the functions it comes from (a few 1e-16)."""

GRID = 255
"""Steps of an 8-bit channel between 0 and 1."""


@dataclass(frozen=True)
class Noise(ABC):
    """One family with its parameters. norm: what radii are measured in. name: what records call the family."""

    norm: ClassVar[Norm]
    name: ClassVar[str]

    @abstractmethod
    def apply(
        self, center: np.ndarray, rng: np.random.Generator, count: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """`count` noisy copies of the center (d,), of its float type, float32 or float64: (count, d), in `out` if it is
        given."""

    @abstractmethod
    def _radius(self, p_lower: float, p_rivals: float) -> float:
        """The radius for p_lower > p_rivals, rounded down; may be negative, where 0 is meant."""

    def radius(self, p_lower: float, p_rivals: float | None = None) -> float:
        """The certified radius, rounded down; 0 where the bounds certify none."""
        rivals = 1.0 - p_lower if p_rivals is None else p_rivals
        return max(0.0, self._radius(p_lower, rivals)) if p_lower > rivals else 0.0

    def needed(self, radius: float | Fraction) -> float:
        """The least float p with `radius(p) >= radius`; infinite where no p < 1 has it."""
        low, high = 0.5, math.nextafter(1.0, 0.0)
        if self.radius(high) < radius:
            return math.inf
        while True:
            middle = (low + high) / 2
            if not low < middle < high:
                return high
            low, high = (low, middle) if self.radius(middle) >= radius else (middle, high)

    @abstractmethod
    def parameters(self) -> dict[str, float]:
        """The family's parameters by name, for records."""


def _positive(value: float, what: str) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise OptionError(f"{what} must be a positive finite number, not {value}")


@dataclass(frozen=True)
class Gaussian(Noise):
    """N(0, sigma^2) on every entry; l2 (Cohen et al. 2019, theorem 1: sigma / 2 (Phi^-1(p_A) - Phi^-1(p_B)))."""

    sigma: float

    norm: ClassVar[Norm] = "2"
    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        _positive(self.sigma, "the noise's sigma")

    def apply(
        self, center: np.ndarray, rng: np.random.Generator, count: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        noise = _place(center, count, out)
        rng.standard_normal(out=noise, dtype=noise.dtype.type)
        noise *= _at_least(self.sigma, noise.dtype.type)
        noise += center
        return noise

    def _radius(self, p_lower: float, p_rivals: float) -> float:
        return gaussian_quantile_radius(self.sigma, p_lower, p_rivals)

    def parameters(self) -> dict[str, float]:
        return {"sigma": self.sigma}


@dataclass(frozen=True)
class Laplace(Noise):
    """Density exp(-|z| / scale) / (2 scale) on every entry; l1.

    Moving the center by r in l1 changes every probability by a factor of at most e^(r / scale), and so those of the
    complements. With P(A) >= e^-t p_A, P(B) <= e^t p_B, and with 1 - P(A) <= e^t (1 - p_A), P(B) <= e^t p_B:
    scale max(log(p_A / p_B) / 2, -log(1 - p_A + p_B)) (Lecuyer et al. 2019; Teng et al. 2020). With p_B = 1 - p_A the
    second is the larger, and exact: a half-space along an axis attains it.
    """

    scale: float

    norm: ClassVar[Norm] = "1"
    name: ClassVar[str] = "laplace"

    def __post_init__(self) -> None:
        _positive(self.scale, "the noise's scale")

    def apply(
        self, center: np.ndarray, rng: np.random.Generator, count: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        noise = _place(center, count, out)
        rng.standard_exponential(out=noise, dtype=noise.dtype.type)
        bits = np.unpackbits(np.frombuffer(rng.bytes(-(-noise.size // 8)), dtype=np.uint8), count=noise.size)
        noise *= 1 - 2 * bits.view(np.int8).reshape(noise.shape)  # a fair sign
        noise *= _at_least(self.scale, noise.dtype.type)
        noise += center
        return noise

    def _radius(self, p_lower: float, p_rivals: float) -> float:
        ratio = math.log(p_lower / p_rivals) / 2 if p_rivals > 0 else math.inf
        other = (1.0 - p_lower) + p_rivals
        shift = -math.log(other) if other > 0 else math.inf
        slack = 4 * np.finfo(float).eps  # of the quotient and of the sum, before the logarithm
        return float(self.scale * (max(ratio, shift) - slack) * (1.0 - SAFE))

    def parameters(self) -> dict[str, float]:
        return {"scale": self.scale}


@dataclass(frozen=True)
class Uniform(Noise):
    """Uniform on [-width / 2, width / 2] on every entry; l1 (Yang et al. 2020).

    Cubes whose centers are r apart in l1 share all but at most r / width of their volume, so every probability changes
    by at most that much: width (p_A - p_B) / 2. Exact for a shift along an axis.
    """

    width: float

    norm: ClassVar[Norm] = "1"
    name: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        _positive(self.width, "the noise's width")

    def apply(
        self, center: np.ndarray, rng: np.random.Generator, count: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        noise = _place(center, count, out)
        rng.random(out=noise, dtype=noise.dtype.type)
        noise -= noise.dtype.type(0.5)
        noise *= _at_least(self.width, noise.dtype.type)
        noise += center
        return noise

    def _radius(self, p_lower: float, p_rivals: float) -> float:
        return self.width * (p_lower - p_rivals) / 2 * (1.0 - SAFE)

    def parameters(self) -> dict[str, float]:
        return {"width": self.width}


@dataclass(frozen=True)
class Ablation(Noise):
    """All but `keep` entries, chosen uniformly, are replaced by `fill`; l0 (Levine & Feizi 2020, theorem 1).

    Changing r of d entries matters only where one of them is kept, which has the probability
    1 - C(d - r, keep) / C(d, keep); the radius is the largest r at which this is < (p_A - p_B) / 2, in exact
    arithmetic. size: d.
    """

    keep: int
    size: int
    fill: float = 0.0

    norm: ClassVar[Norm] = "0"
    name: ClassVar[str] = "ablation"

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= self.size:
            raise OptionError(f"ablation keeps between 1 and all {self.size} entries, not {self.keep}")
        if not math.isfinite(self.fill):
            raise OptionError(f"ablation fills with a finite number, not {self.fill}")

    def apply(
        self, center: np.ndarray, rng: np.random.Generator, count: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        kept = np.zeros((count, center.size), dtype=bool)
        kept[:, : self.keep] = True
        kept = rng.permuted(kept, axis=1, out=kept)
        noisy = _place(center, count, out)
        noisy[...] = center.dtype.type(self.fill)
        np.copyto(noisy, center, where=kept)
        return noisy

    def _radius(self, p_lower: float, p_rivals: float) -> float:
        gap = (Fraction(p_lower) - Fraction(p_rivals)) / 2
        total = math.comb(self.size, self.keep)
        low, high = 0, self.size + 1
        while high - low > 1:
            middle = (low + high) // 2
            seen = 1 - Fraction(math.comb(self.size - middle, self.keep), total)
            low, high = (middle, high) if seen < gap else (low, middle)
        return float(low)

    def parameters(self) -> dict[str, float]:
        return {"keep": self.keep, "size": self.size, "fill": self.fill}


@dataclass(frozen=True)
class RoundedGaussian(Noise):
    """Gaussian noise on the grid of multiples of 1/255: P(k) = Phi((k + 1/2) / s) - Phi((k - 1/2) / s), s = 255 sigma.

    It is Cohen's smoothing of "round to the grid, then classify", so theorem 1 applies as it stands, and the classifier
    is only ever called on grid points, as the float nearest to k / 255; k may leave 0 .. 255, as the noise is not
    clipped. The center must lie on the grid. Drawn exactly: see `rounded`.
    """

    sigma: float

    norm: ClassVar[Norm] = "2"
    name: ClassVar[str] = "rounded gaussian"

    def __post_init__(self) -> None:
        _positive(self.sigma, "the noise's sigma")

    def apply(
        self, center: np.ndarray, rng: np.random.Generator, count: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        steps = np.rint(center.astype(np.float64) * GRID).astype(np.int32)
        table = rounded_gaussian_table(GRID * Fraction(self.sigma))
        drawn = table.draw(rng, (count, center.size))
        drawn += steps
        noisy = _place(center, count, out)
        noisy[...] = drawn  # exact: far below 2^24 steps
        noisy /= center.dtype.type(GRID)
        return noisy

    def _radius(self, p_lower: float, p_rivals: float) -> float:
        return gaussian_quantile_radius(self.sigma, p_lower, p_rivals)

    def parameters(self) -> dict[str, float]:
        return {"sigma": self.sigma}


def gaussian_quantile_radius(sigma: float, p_lower: float, p_rivals: float) -> float:
    """sigma / 2 (Phi^-1(p_A) - Phi^-1(p_B)), rounded down."""
    from scipy.special import ndtri

    first, second = float(ndtri(p_lower)), float(ndtri(p_rivals))
    if second == -math.inf:
        return math.inf if first > -math.inf else 0.0
    slack = SAFE * (abs(first) + abs(second))
    return (sigma / 2) * (first - second - slack) * (1.0 - 4 * float(np.finfo(float).eps))


def _at_least(value: float, kind: type[np.floating[Any]]) -> np.floating[Any]:
    """The least float of a kind that is not below `value`: more noise than stated certifies no less than stated."""
    near = kind(value)
    return near if float(near) >= value else np.nextafter(near, kind(np.inf))


def _place(center: np.ndarray, count: int, out: np.ndarray | None) -> np.ndarray:
    return np.empty((count, center.size), dtype=center.dtype) if out is None else out

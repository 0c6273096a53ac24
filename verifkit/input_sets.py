"""Input sets: boxes and balls, their ends kept as written, as exact rationals.

A box is two boxes: the one as written, and the *effective* one, widened to the nearest float32 (or float64, for a
double-precision model) values on each side, because a deployed network can only be fed floats. HOLDS covers both; a
witness lies in the effective one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import numpy as np

from verifkit.errors import PropertyError

Norm = Literal["0", "1", "2", "inf"]


Number = int | float | Fraction | str


def rational(value: Any) -> Fraction:
    """The exact value of an int, float, NumPy scalar, Fraction or decimal string; raises `PropertyError`."""
    try:
        if isinstance(value, np.generic):
            value = value.item()
        return Fraction(value)
    except (ValueError, OverflowError, TypeError, ZeroDivisionError):
        raise PropertyError(f"{value!r} is not a finite number") from None


def _rationals(values: Any, what: str) -> tuple[Fraction, ...]:
    flat = values.reshape(-1).tolist() if isinstance(values, np.ndarray) else list(values)
    if not flat:
        raise PropertyError(f"{what} is empty")
    return tuple(v if type(v) is Fraction else rational(v) for v in flat)


def float_below(values: Iterable[Fraction], dtype: type[np.floating[Any]] = np.float64) -> np.ndarray:
    """The largest floats of `dtype` that are <= the values, as an array of `dtype`.

    Raises `PropertyError` for a value below the smallest finite float.
    """
    return _directed(values, dtype, up=False)


def float_above(values: Iterable[Fraction], dtype: type[np.floating[Any]] = np.float64) -> np.ndarray:
    """The smallest floats of `dtype` that are >= the values, as an array of `dtype`.

    Raises `PropertyError` for a value above the largest finite float.
    """
    return _directed(values, dtype, up=True)


def _directed(values: Iterable[Fraction], dtype: type[np.floating[Any]], *, up: bool) -> np.ndarray:
    """Round to nearest in bulk, then step the entries that went the wrong way.

    The nearest float is one of the two neighbours of the value, also after rounding twice (to float64, then `dtype`),
    because the neighbours themselves are fixed points of both roundings.
    """
    ratios = [v.as_integer_ratio() for v in values]
    target = math.inf if up else -math.inf
    with np.errstate(over="ignore", under="ignore"):
        near = np.array([_quotient(p, q) for p, q in ratios], dtype=np.float64).astype(dtype)
        near = np.clip(near, np.finfo(dtype).min, np.finfo(dtype).max)
        wrong = np.zeros(near.shape, dtype=bool)
        for i, ((p, q), value) in enumerate(zip(ratios, near.tolist(), strict=True)):
            n, d = value.as_integer_ratio()
            wrong[i] = n * q < p * d if up else n * q > p * d
        near[wrong] = np.nextafter(near[wrong], dtype(target), dtype=dtype)
    if not np.isfinite(near).all():
        raise PropertyError(f"an input bound is beyond the range of {dtype.__name__}")
    return near


def _quotient(p: int, q: int) -> float:
    """p / q to the nearest float64, infinite where it overflows; q is positive."""
    try:
        return p / q
    except OverflowError:
        return math.inf if p > 0 else -math.inf


def root_above(square: Fraction) -> Fraction:
    """A number that is >= the square root, by less than 2^-63 of it; the root itself where that is rational."""
    numerator, denominator = square.as_integer_ratio()
    exact = Fraction(math.isqrt(numerator), math.isqrt(denominator))
    if exact * exact == square:
        return exact
    shift = max(0, (130 - numerator.bit_length() + denominator.bit_length()) // 2)
    scaled = numerator << 2 * shift
    return Fraction(math.isqrt(scaled // denominator) + 1, 2**shift)


@dataclass(frozen=True)
class Box:
    """lower <= x <= upper, entry by entry; both ends as exact rationals.

    Raises `PropertyError` if the lengths differ or an entry's lower end lies above its upper end.
    """

    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "lower", _rationals(self.lower, "the box's lower end"))
        object.__setattr__(self, "upper", _rationals(self.upper, "the box's upper end"))
        if len(self.lower) != len(self.upper):
            raise PropertyError(f"a box with {len(self.lower)} lower and {len(self.upper)} upper ends")
        for i, (low, high) in enumerate(zip(self.lower, self.upper, strict=True)):
            if low > high:
                raise PropertyError(f"the box is empty: input {i} has lower end {low} above its upper end {high}")

    @property
    def size(self) -> int:
        return len(self.lower)

    def floats(self, dtype: type[np.floating[Any]] = np.float32) -> tuple[np.ndarray, np.ndarray]:
        """The effective box: ends widened to the nearest floats of `dtype`, returned as float64 arrays (size,)."""
        return (
            float_below(self.lower, dtype).astype(np.float64),
            float_above(self.upper, dtype).astype(np.float64),
        )

    def contains(self, x: Sequence[Fraction]) -> bool:
        """Exact membership in the box as written."""
        return all(low <= v <= high for low, v, high in zip(self.lower, x, self.upper, strict=True))

    def intersection(self, other: Box) -> Box | None:
        """The common box, or None where it is empty."""
        lower = tuple(map(max, self.lower, other.lower))
        upper = tuple(map(min, self.upper, other.upper))
        return None if any(low > high for low, high in zip(lower, upper, strict=True)) else Box(lower, upper)

    def canonical(self) -> str:
        return "box " + " ".join(f"{low}:{high}" for low, high in zip(self.lower, self.upper, strict=True))


@dataclass(frozen=True)
class LpBall:
    """|x - center|_norm <= radius, optionally cut by a clip box. Norm "0" counts the entries that differ.

    `clip` is required for norm "0", whose ball is unbounded without it. Raises `PropertyError` for a negative radius,
    an unknown norm, or a clip box that the ball does not meet.
    """

    center: tuple[Fraction, ...]
    radius: Fraction
    norm: Norm
    clip: Box | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", _rationals(self.center, "the ball's center"))
        object.__setattr__(self, "radius", rational(self.radius))
        object.__setattr__(self, "norm", str(self.norm))
        if self.norm not in ("0", "1", "2", "inf"):
            raise PropertyError(f"norm '{self.norm}' is none of 0, 1, 2, inf")
        if self.radius < 0:
            raise PropertyError(f"the radius {self.radius} is negative")
        if self.clip is not None and self.clip.size != self.size:
            raise PropertyError(f"the clip box has {self.clip.size} entries, the center {self.size}")
        if self.norm == "0" and self.clip is None:
            raise PropertyError("an l0 ball needs a clip box: the changed entries are unbounded without it")
        if self.clip is not None and not self._meets_clip():
            raise PropertyError("the ball lies outside its clip box: no input is left")

    @property
    def size(self) -> int:
        return len(self.center)

    def contains(self, x: Sequence[Fraction]) -> bool:
        """Exact membership."""
        if self.clip is not None and not self.clip.contains(x):
            return False
        return self._within(x)

    def _within(self, x: Sequence[Fraction]) -> bool:
        gaps = [abs(v - c) for v, c in zip(x, self.center, strict=True)]
        if self.norm == "inf":
            return max(gaps) <= self.radius
        if self.norm == "0":
            return sum(g != 0 for g in gaps) <= self.radius
        if self.norm == "1":
            return sum(gaps) <= self.radius
        return sum(g * g for g in gaps) <= self.radius**2

    @cached_property
    def nearest(self) -> tuple[Fraction, ...]:
        """The clip box's point that is nearest to the center, in every norm: the center itself if that lies inside."""
        if self.clip is None:
            return self.center
        ends = zip(self.center, self.clip.lower, self.clip.upper, strict=True)
        return tuple(min(max(c, low), high) for c, low, high in ends)

    def _meets_clip(self) -> bool:
        return self._within(self.nearest)

    def bounding_box(self) -> Box:
        """The smallest box around what is left of the ball in its clip box (of an l2 ball whose center lies outside the
        clip box: but for the rounding of a root, outwards). Of an l0 ball the clip box, whatever the center.
        """
        if self.norm == "0":
            assert self.clip is not None
            if self.radius >= 1:
                return self.clip
            return Box(self.center, self.center)
        ends = zip(self.center, self._reaches(), strict=True)
        lower, upper = zip(*((c - reach, c + reach) for c, reach in ends), strict=True)
        box = Box(lower, upper)
        if self.clip is None:
            return box
        common = box.intersection(self.clip)
        assert common is not None  # checked on construction
        return common

    def _reaches(self) -> Iterable[Fraction]:
        """How far from the center each entry can be while the others are as near to it as the clip box allows."""
        gaps = [abs(p - c) for p, c in zip(self.nearest, self.center, strict=True)]
        if self.norm == "inf" or not any(gaps):
            return (self.radius,) * self.size
        if self.norm == "1":
            left = self.radius - sum(gaps)
            return (left + gap for gap in gaps)
        left = self.radius**2 - sum(gap * gap for gap in gaps)
        roots = {gap: root_above(left + gap * gap) for gap in set(gaps)}
        return (roots[gap] for gap in gaps)

    def canonical(self) -> str:
        clip = "" if self.clip is None else " clip " + self.clip.canonical()
        return f"ball {self.norm} {self.radius} " + " ".join(map(str, self.center)) + clip


InputSet = Box | LpBall


def ball(center: Any, radius: Number, norm: Norm | str | float, clip: Box | None = None) -> InputSet:
    """The ball as an `InputSet`: an l-inf ball is a `Box`, the others an `LpBall`."""
    name = "inf" if norm in ("inf", math.inf) else str(int(norm)) if isinstance(norm, int | float) else str(norm)
    shape = LpBall(tuple(_rationals(center, "the center")), rational(radius), name, clip)  # type: ignore[arg-type]
    return shape.bounding_box() if name == "inf" else shape


def clip_box(clip: Box | tuple[Number, Number] | None, size: int) -> Box | None:
    """`clip` as a box over `size` inputs: a (low, high) pair stands for every input."""
    if clip is None or isinstance(clip, Box):
        return clip
    low, high = (rational(v) for v in clip)
    return Box((low,) * size, (high,) * size)


def center_in(x: Any, clip: Box | None) -> tuple[Fraction, ...]:
    """`x` (array of any shape, or numbers) as exact rationals, flat in C order.

    An entry that lies outside the clip box only because the box's end is no float of x's type (0.3 in float32 is a
    little more than 3/10) is taken to be that end. Raises `PropertyError` where sizes differ or a number is not finite.
    """
    flat = np.asarray(x).reshape(-1)
    center = list(_rationals(flat, "the center"))
    if clip is None:
        return tuple(center)
    if clip.size != len(center):
        raise PropertyError(f"the clip box has {clip.size} entries, the center {len(center)}")
    kind = flat.dtype.type if flat.dtype.kind == "f" else np.float64
    for i, (value, low, high) in enumerate(zip(center, clip.lower, clip.upper, strict=True)):
        end = low if value < low else high
        if not low <= value <= high and kind(float(end)) == flat[i]:
            center[i] = end
    return tuple(center)

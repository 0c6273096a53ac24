"""Outward rounding by a-priori error bounds: valid for any order of summation, in any library, on any device."""

from __future__ import annotations

from typing import Any

import numpy as np

from verifkit.arrays import Array, epsilon, namespace, smallest_normal


def gamma(n: int, x: Array) -> float:
    """gamma_n = n u / (1 - n u) for the dtype of `x`: the relative error of a sum of n rounded products.

    Infinite where n u >= 1, so that nothing is ever claimed there.
    """
    nu = (n + 2) * epsilon(x)  # two spare terms pay for computing the error term itself
    return nu / (1.0 - nu) if nu < 0.5 else float("inf")


def tiny(x: Array) -> float:
    """A bound on everything lost to underflow in one node: the smallest normal number of the dtype."""
    return smallest_normal(x)


def inflate(x: Array, ulps: int = 4) -> Array:
    """`x` >= 0 rounded up: at least the exact value it was computed for, if that took at most `ulps` roundings."""
    return x * (1.0 + 2.0 * ulps * epsilon(x)) + tiny(x)


def down(x: Array, ulps: int = 2) -> Array:
    """`x` moved down by a few units in the last place."""
    return x - (namespace(x).abs(x) * (2.0 * ulps * epsilon(x)) + tiny(x))


def up(x: Array, ulps: int = 2) -> Array:
    """`x` moved up by a few units in the last place."""
    return x + (namespace(x).abs(x) * (2.0 * ulps * epsilon(x)) + tiny(x))


def below_in(x: np.ndarray, dtype: np.dtype[Any] | type[np.floating[Any]]) -> np.ndarray:
    """The largest floats of `dtype` that are <= x, minus infinity where there are only larger ones."""
    return _directed(x, np.dtype(dtype), -np.inf)


def above_in(x: np.ndarray, dtype: np.dtype[Any] | type[np.floating[Any]]) -> np.ndarray:
    """The smallest floats of `dtype` that are >= x, infinity where there are only smaller ones."""
    return _directed(x, np.dtype(dtype), np.inf)


def _directed(x: np.ndarray, dtype: np.dtype[Any], direction: float) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        near = np.asarray(x, dtype=dtype)
        wrong = near > x if direction < 0 else near < x
        return np.asarray(np.where(wrong, np.nextafter(near, dtype.type(direction), dtype=dtype), near))

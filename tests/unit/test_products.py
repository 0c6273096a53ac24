"""Planes below and above a product: valid exactly at the corners, no deeper than the product, alike in torch."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from verifkit.analysis.products import product_planes
from verifkit.evidence import Planes

DTYPES = [np.float64, np.float32]
INFINITE = [(-math.inf, math.inf), (-math.inf, 1.0), (1.0, math.inf), (math.nan, 1.0), (-1.0, math.nan)]


def boxes(dtype: type, count: int, seed: int) -> tuple[np.ndarray, ...]:
    """Ends a <= b and c <= d of two factors, (count,), of many sizes and signs."""
    rng = np.random.default_rng(seed)
    scales = (1e-310, 1e-160, 1e-3, 1.0, 1e3, 1e150) if dtype is np.float64 else (1e-44, 1e-20, 1e-3, 1.0, 1e3, 1e18)
    found = []
    for _ in range(2):
        size = rng.choice(scales, count)
        ends = np.sort(rng.normal(size=(2, count)) * size + rng.choice([0, 0, 3, -3], count) * size, axis=0)
        found += list(np.where(rng.random(count) < 0.1, ends[0], ends).astype(dtype))
    return tuple(found)


def heights(planes: Planes, k: int, x: float, y: float) -> tuple[Fraction, Fraction]:
    columns = (planes.lower_left, planes.lower_right, planes.lower_offset)
    columns += (planes.upper_left, planes.upper_right, planes.upper_offset)
    p, q, r, s, t, u = (Fraction(float(c[k])) for c in columns)
    return p * Fraction(x) + q * Fraction(y) + r, s * Fraction(x) + t * Fraction(y) + u


@pytest.mark.parametrize("dtype", DTYPES)
def test_planes_hold_exactly_at_the_corners(dtype: type) -> None:
    a, b, c, d = boxes(dtype, 400, seed=1)
    planes = product_planes((a, b), (c, d))
    known = np.isfinite(planes.lower_offset) & np.isfinite(planes.upper_offset)
    assert known.mean() > 0.9
    for k in np.flatnonzero(known):
        for x in (float(a[k]), float(b[k])):
            for y in (float(c[k]), float(d[k])):
                below, above = heights(planes, k, x, y)
                assert below <= Fraction(x) * Fraction(y) <= above


@pytest.mark.parametrize("dtype", DTYPES)
def test_planes_of_a_square_hold_on_the_diagonal(dtype: type) -> None:
    a, b, _, _ = boxes(dtype, 300, seed=2)
    planes = product_planes((a, b), (a, b), same=True)
    known = np.isfinite(planes.lower_offset) & np.isfinite(planes.upper_offset)
    for k in np.flatnonzero(known):
        inner = [float(v) for v in np.linspace(a[k], b[k], 7)]
        for x in (v for v in (*inner, 0.0, float(a[k]), float(b[k])) if a[k] <= v <= b[k]):
            below, above = heights(planes, k, x, x)
            assert below <= Fraction(x) ** 2 <= above


def test_planes_are_no_deeper_than_the_product() -> None:
    rng = np.random.default_rng(3)
    ends = np.sort(rng.normal(size=(2, 2, 500)), axis=1)
    (a, b), (c, d) = ends
    planes = product_planes((a, b), (c, d))
    corners = [(x, y) for x in (a, b) for y in (c, d)]
    products = np.array([x * y for x, y in corners])
    below = np.array([planes.lower_left * x + planes.lower_right * y + planes.lower_offset for x, y in corners])
    above = np.array([planes.upper_left * x + planes.upper_right * y + planes.upper_offset for x, y in corners])
    np.testing.assert_allclose(below.min(axis=0), products.min(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(above.max(axis=0), products.max(axis=0), rtol=1e-12, atol=1e-12)
    middle = (a + b) / 2, (c + d) / 2
    area = (b - a) * (d - c)
    gap = (
        (planes.upper_left - planes.lower_left) * middle[0]
        + (planes.upper_right - planes.lower_right) * middle[1]
        + planes.upper_offset
        - planes.lower_offset
    )
    np.testing.assert_allclose(gap, area / 2, rtol=1e-9, atol=1e-12)  # McCormick's


@pytest.mark.parametrize("ends", INFINITE)
def test_planes_without_ends_claim_nothing(ends: tuple[float, float]) -> None:
    one, range_ = (np.zeros(1), np.ones(1)), (np.array([ends[0]]), np.array([ends[1]]))
    for left, right in ((one, range_), (range_, one)):
        planes = product_planes(left, right)
        assert planes.lower_offset[0] == -np.inf
        assert planes.upper_offset[0] == np.inf
    planes = product_planes(range_, range_, same=True)
    assert planes.lower_offset[0] == -np.inf


def test_torch_gives_the_same_planes() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    (a, b), (c, d) = np.sort(rng.normal(size=(2, 2, 50)), axis=1)
    for same in (False, True):
        ours = product_planes((a, b), (a, b) if same else (c, d), same=same)
        tensors = [torch.tensor(v) for v in ((a, b, a, b) if same else (a, b, c, d))]
        theirs = product_planes((tensors[0], tensors[1]), (tensors[2], tensors[3]), same=same)
        for name in ("lower_left", "lower_right", "lower_offset", "upper_left", "upper_right", "upper_offset"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name).numpy(), rtol=1e-9, atol=1e-12)

"""The least value of a linear function over a region: never above the exact one, and the exact one but for rounding."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import linprog

from verifkit.analysis.region import Region
from verifkit.analysis.support import dot_box, least_over, minimiser

F = Fraction
KINDS = ("box", "l1", "l2", "l1 cut", "l2 cut", "l1 outside", "l2 outside", "l1 inside", "l2 inside")
"""cut: the clip box takes a part of the ball, but not its center; outside: the center too; inside: the box lies inside
the ball, which then does not matter."""


def region_of_kind(rng: np.random.Generator, kind: str, batch: int, n: int) -> Region:
    """Dyadic numbers; every fourth entry or so has no width."""
    center = rng.integers(-16, 17, (batch, n)) / 8.0
    reach = rng.integers(0, 5, (batch, n)) / 4.0
    below, above = reach * rng.integers(0, 5, (batch, n)) / 4.0, reach * rng.integers(0, 5, (batch, n)) / 4.0
    if kind == "box":
        return Region(center - below, center + above)
    norm, _, where = kind.partition(" ")
    radius = rng.integers(1, 9, batch) / 2.0
    if where == "inside":
        radius = np.ceil((below + above).sum(axis=1)) + 1.0
    low, high = center - radius[:, None], center + radius[:, None]
    if where:
        low, high = np.maximum(low, center - below), np.minimum(high, center + above)
    if where == "outside":  # one entry begins short of the ball's end
        low[:, 0] = center[:, 0] + radius / 4.0
        high[:, 0] = low[:, 0] + radius / 8.0
    return Region(low, high, center, radius, norm[1])


def coefficients_for(rng: np.random.Generator, batch: int, count: int, n: int) -> np.ndarray:
    """Of either sign, some of one size, some 0; the last row is 0."""
    c = np.where(rng.random((batch, count, n)) < 0.5, rng.normal(size=(batch, count, n)), 0.0)
    c += rng.integers(-2, 3, c.shape) * (rng.random(c.shape) < 0.5)
    c[:, -1] = 0.0
    return np.asarray(c)


def exact(c: np.ndarray, region: Region, b: int) -> Fraction:
    """The least value over a box, or over an l1 ball cut by a box that holds its center: the steepest entries first."""
    row = [F(v) for v in c.tolist()]
    low, high = ([F(v) for v in end[b].reshape(-1).tolist()] for end in (region.lower, region.upper))
    if region.center is None:
        return sum((v * (a if v > 0 else z) for v, a, z in zip(row, low, high, strict=True)), F(0))
    assert region.norm == "1"
    assert region.radius is not None
    center, left = [F(v) for v in region.center[b].reshape(-1).tolist()], F(float(region.radius[b]))
    start = [min(max(m, a), z) for m, a, z in zip(center, low, high, strict=True)]
    left -= sum((abs(s - m) for s, m in zip(start, center, strict=True)), F(0))
    assert left >= 0
    value = sum((v * s for v, s in zip(row, start, strict=True)), F(0))
    for k in sorted(range(len(row)), key=lambda k: -abs(row[k])):
        # From an entry that lies outside, moving away costs and moving back does not: none of them does both here.
        step = min(left, start[k] - low[k] if row[k] > 0 else high[k] - start[k])
        value, left = value - abs(row[k]) * step, left - step
    return value


def program(c: np.ndarray, region: Region, b: int) -> float:
    """The same over an l1 ball by a linear program in x and |x - center|."""
    assert region.center is not None
    assert region.radius is not None
    n = c.size
    low, high, center = (end[b].reshape(-1) for end in (region.lower, region.upper, region.center))
    eye = np.eye(n)
    sides = np.block([[eye, -eye], [-eye, -eye], [np.zeros((1, n)), np.ones((1, n))]])
    limits = np.concatenate([center, -center, [region.radius[b]]])
    ends = [*zip(low, high, strict=True), *((0.0, None),) * n]
    found = linprog(np.concatenate([c, np.zeros(n)]), A_ub=sides, b_ub=limits, bounds=ends)
    assert found.status == 0
    return float(found.fun)


def round_ball(c: np.ndarray, region: Region, b: int) -> float:
    """Over an l2 ball and a box: x(t) = clip(center - t c), with t by bisection until it is on the sphere."""
    assert region.center is not None
    assert region.radius is not None
    low, high, center = (end[b].reshape(-1) for end in (region.lower, region.upper, region.center))
    radius = float(region.radius[b])

    def at(t: float) -> np.ndarray:
        return np.asarray(np.clip(center - t * c, low, high))

    near, far = 0.0, 1e9
    if np.linalg.norm(at(far) - center) > radius:
        for _ in range(200):
            middle = (near + far) / 2
            near, far = (middle, far) if np.linalg.norm(at(middle) - center) < radius else (near, middle)
    return float(c @ at(far))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", KINDS)
def test_least_value(kind: str, seed: int) -> None:
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    batch, count, n = 3, 6, int(rng.integers(1, 9))
    region, c = region_of_kind(rng, kind, batch, n), coefficients_for(rng, batch, count, n)
    value, slack = least_over(c, region)
    assert value.shape == slack.shape == (batch, count)
    assert (slack >= 0).all()
    assert (slack <= 1e-12 * (1.0 + np.abs(c).sum(axis=2) * 100)).all()
    for b in range(batch):
        for r in range(count):
            if region.norm == "2":
                found = round_ball(c[b, r], region, b)
            elif region.norm == "1":
                found = program(c[b, r], region, b)
            else:
                found = float(exact(c[b, r], region, b))
            if kind != "l1 outside":  # never made: see `region_of`
                assert value[b, r] == pytest.approx(found, rel=1e-9, abs=1e-9), (b, r)
            assert value[b, r] - slack[b, r] <= found + (1e-9 if region.norm == "1" else 1e-12) * (1 + abs(found))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("kind", ["box", "l1", "l1 cut", "l1 inside"])
@pytest.mark.parametrize("scale", [1.0, 2.0**-1000, 2.0**900, 2.0**-1060])
def test_never_above_the_exact_minimum(kind: str, scale: float, seed: int) -> None:
    rng = np.random.default_rng([seed, KINDS.index(kind), 1])
    batch, count, n = 2, 4, int(rng.integers(1, 7))
    region, c = region_of_kind(rng, kind, batch, n), coefficients_for(rng, batch, count, n) * scale
    value, slack = least_over(c, region)
    for b in range(batch):
        for r in range(count):
            least = exact(c[b, r], region, b)
            assert F(float(value[b, r] - slack[b, r])) <= least
            assert float(value[b, r]) == pytest.approx(float(least), rel=1e-9, abs=1e-9 * scale + 1e-300)


@pytest.mark.parametrize("power", [-1050, -1000, -600, -100, 100, 600, 900])
@pytest.mark.parametrize("kind", ["l2", "l2 cut"])
def test_a_round_ball_at_any_scale(kind: str, power: int) -> None:
    """Squares of such coefficients would overflow or underflow; 3-4-5 triangles make the norm rational."""
    scale = 2.0**power
    c = np.array([[[3.0, -4.0], [0.0, 5.0]]]) * scale
    center, radius = np.array([[1.0, 0.5]]), np.array([2.0])
    low, high = center - 2.0, center + 2.0
    if kind == "l2 cut":
        low = np.array([[0.0, -1.5]])  # the optimum of the first row, center - 2 (0.6, -0.8), is cut off
    with np.errstate(all="ignore"):
        value, slack = least_over(c, Region(low, high, center, radius, "2"))
    if kind == "l2 cut":  # x = 0 exactly, and y as far as the sphere lets it: sqrt(3) up
        wanted = -4.0 * (0.5 + np.sqrt(3.0)) * scale
        assert value[0, 0] - slack[0, 0] <= wanted * (1.0 - 1e-12)
        if power > -900:  # the step along subnormal coefficients is beyond all floats: the box's bound is left
            assert value[0, 0] == pytest.approx(wanted, rel=1e-9, abs=0)
    unit = [F(3) * F(1) - 4 * F(1, 2) - 10, F(5, 2) - 10]
    for r in (1,) if kind == "l2 cut" else (0, 1):
        least = unit[r] * F(scale)
        assert F(float(value[0, r] - slack[0, r])) <= least
        assert value[0, r] == pytest.approx(float(least), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("center_scale", [1e-300, 1e-150, 1e150])
@pytest.mark.parametrize("norm", ["1", "2"])
def test_input_sets_at_any_scale(norm: str, center_scale: float) -> None:
    rng = np.random.default_rng(3)
    center, radius = rng.normal(size=(1, 4)) * center_scale, np.array([0.5 * center_scale])
    c = rng.normal(size=(1, 5, 4))
    value, slack = least_over(c, Region(center - radius, center + radius, center, radius, norm))
    dual = np.abs(c).max(axis=2) if norm == "1" else np.linalg.norm(c, axis=2)
    wanted = (c @ center[0]) - radius[0] * dual
    np.testing.assert_allclose(value, wanted, rtol=1e-9, atol=0 if center_scale > 1e-200 else 1e-305)
    assert (value - slack <= wanted + 1e-12 * np.abs(wanted)).all()


@pytest.mark.parametrize("norm", ["1", "2"])
def test_zero_radius_and_zero_rows(norm: str) -> None:
    center = np.array([[1.0, -2.0, 0.25]])
    c = np.array([[[1.0, 2.0, 4.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    for clip in (0.0, 1.0):  # the bounding box is the point itself, or is wider
        region = Region(center - clip, center + clip, center, np.zeros(1), norm)
        value, slack = least_over(c, region)
        np.testing.assert_allclose(value, [[-2.0, 0.0, -2.0]], rtol=1e-12, atol=1e-300)
        assert (slack < 1e-13).all()


def test_infinite_ends_count_only_where_they_have_weight() -> None:
    inf = np.inf
    lower, upper = np.array([[-inf, 0.0, -1.0]]), np.array([[inf, inf, 1.0]])
    c = np.array([[[0.0, 1.0, 2.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 3.0], [-1.0, 1.0, 0.0]]])
    with np.errstate(all="ignore"):
        value, slack = dot_box(c, lower, upper)
    np.testing.assert_array_equal(np.isfinite(value), [[True, False, False, True, False]])
    np.testing.assert_allclose(value[0, [0, 3]], [-2.0, -3.0])
    with np.errstate(all="ignore"):
        certain = value - slack
    assert (np.isnan(certain) | (certain <= np.array([-2.0, -inf, -inf, -3.0, -inf]))).all()


@pytest.mark.parametrize("norm", ["1", "2"])
def test_the_split_is_the_true_minimum_in_many_dimensions(norm: str) -> None:
    """Where the dual norm alone and the box alone are both far below it."""
    rng = np.random.default_rng(0)
    n = 50
    c, center = rng.normal(size=(1, 4, n)), rng.uniform(0.0, 1.0, size=(1, n))
    radius = np.array([1.5 if norm == "2" else 6.0])
    lower, upper = np.maximum(center - radius, 0.0), np.minimum(center + radius, 1.0)
    region = Region(lower, upper, center, radius, norm)
    value, slack = least_over(c, region)
    boxed = dot_box(c, lower, upper)[0]
    size = np.linalg.norm(c, axis=2) if norm == "2" else np.abs(c).max(axis=2)
    ball = (c @ center[0]) - radius * size
    for r in range(4):
        found = round_ball(c[0, r], region, 0) if norm == "2" else program(c[0, r], region, 0)
        assert value[0, r] == pytest.approx(found, rel=1e-9)
        assert value[0, r] - slack[0, r] == pytest.approx(found, rel=1e-9)
        assert value[0, r] > max(boxed[0, r], ball[0, r]) + 0.1


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", [k for k in KINDS if "outside" not in k])
def test_minimiser(kind: str, seed: int) -> None:
    """A point of the region at which the value is the least one."""
    rng = np.random.default_rng([seed, KINDS.index(kind), 2])
    batch, count, n = 2, 5, int(rng.integers(1, 9))
    region, c = region_of_kind(rng, kind, batch, n), coefficients_for(rng, batch, count, n)
    c = np.where(c == 0, 1e-3, c)
    x = minimiser(c, region)
    assert x.shape == c.shape
    assert (x >= region.lower[:, None]).all()
    assert (x <= region.upper[:, None]).all()
    if region.center is not None and region.radius is not None:
        gap = np.linalg.norm(x - region.center[:, None], ord=int(region.norm), axis=2)
        assert (gap <= region.radius[:, None] * (1 + 1e-9)).all()
    np.testing.assert_allclose((c * x).sum(axis=2), least_over(c, region)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [k for k in KINDS if "outside" not in k])
def test_minimiser_of_rows_with_zeros_is_a_point(kind: str) -> None:
    rng = np.random.default_rng(11)
    region, c = region_of_kind(rng, kind, 2, 5), coefficients_for(rng, 2, 6, 5)
    with np.errstate(all="ignore"):
        x = minimiser(c, region)
    assert np.isfinite(x).all()
    np.testing.assert_allclose((c * x).sum(axis=2), least_over(c, region)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_batches_are_their_flat_entries(kind: str) -> None:
    rng = np.random.default_rng(5)
    region, c = region_of_kind(rng, kind, 3, 8), coefficients_for(rng, 3, 4, 8)
    shaped = Region(
        region.lower.reshape(3, 2, 2, 2),
        region.upper.reshape(3, 2, 2, 2),
        None if region.center is None else region.center.reshape(3, 2, 2, 2),
        region.radius,
        region.norm,
    )
    with np.errstate(all="ignore"):
        for wanted, found in zip(least_over(c, region), least_over(c.reshape(3, 4, 2, 2, 2), shaped), strict=True):
            np.testing.assert_array_equal(found, wanted)
        for b, alone in enumerate(region.single()):
            value, slack = least_over(c[b : b + 1], alone)
            whole, whole_slack = least_over(c, region)
            np.testing.assert_allclose(value[0], whole[b], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(slack[0], whole_slack[b], rtol=1e-6, atol=1e-14)
        assert minimiser(c.reshape(3, 4, 2, 2, 2), shaped).shape == (3, 4, 2, 2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_arrays_give_the_same(kind: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    region, c = region_of_kind(rng, kind, 2, 6), coefficients_for(rng, 2, 4, 6)
    parts = [region.lower, region.upper, region.center, region.radius]
    theirs = Region(*(None if p is None else torch.tensor(p) for p in parts), region.norm)  # type: ignore[arg-type]
    with np.errstate(all="ignore"):
        for ours, other in zip(least_over(c, region), least_over(torch.tensor(c), theirs), strict=True):
            np.testing.assert_allclose(other.numpy(), ours, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(minimiser(torch.tensor(c), theirs).numpy(), minimiser(c, region), rtol=1e-9)

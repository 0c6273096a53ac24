"""Regions in floats: they contain the input set in either precision, and are no larger than the set asks for."""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog

from verifkit.analysis.region import Region, region_of
from verifkit.analysis.rounding import above_in, below_in
from verifkit.input_sets import Box, LpBall, Norm, root_above
from verifkit.io.onnx import model_from_network
from verifkit.network import dense_network
from verifkit.properties import Constraint, Polyhedron, Property, misclassified
from verifkit.query import Query
from verifkit.registry import create, names, verifier_class
from verifkit.testing.toys import random_toy, to_model

F = Fraction
FLOATS = [np.float64, np.float32]
DIFFERENCE = dense_network([np.eye(2), np.array([[1.0, -1.0]])], [np.zeros(2), np.zeros(1)])
MODEL = model_from_network(DIFFERENCE, "difference")

conic = pytest.mark.skipif(importlib.util.find_spec("cvxpy") is None, reason="cvxpy is not installed")


def outside(rng: np.random.Generator, n: int, norm: Norm) -> LpBall:
    """A ball whose center lies outside its clip box in some entries, and that reaches a part of it; no dyadic ends."""
    low = [F(int(v), 7) for v in rng.integers(-7, 8, n)]
    clip = Box(tuple(low), tuple(v + F(int(w), 7) for v, w in zip(low, rng.integers(0, 8, n), strict=True)))
    middle = [(a + b) / 2 for a, b in zip(clip.lower, clip.upper, strict=True)]
    away = rng.random(n) < 0.5
    away[rng.integers(n)] = True
    center = tuple(
        (b + F(1, 3) if rng.random() < 0.5 else a - F(1, 3)) if out else m
        for a, b, m, out in zip(clip.lower, clip.upper, middle, away, strict=True)
    )
    gaps = [F(1, 3) for _ in range(int(away.sum()))]
    nearest = sum(gaps) if norm == "1" else root_above(sum(g * g for g in gaps))
    return LpBall(center, nearest + F(int(rng.integers(0, 9)), 5), norm, clip)


def model_of(n: int) -> Any:
    return to_model(random_toy(np.random.default_rng(0), n_inputs=n, n_outputs=2, hidden=[3]))


def question(region: Box | LpBall) -> Query:
    return Query(model_of(region.size), Property(region, misclassified(0, 2), 2))


def exact_members(rng: np.random.Generator, ball: LpBall, count: int) -> list[tuple[Fraction, ...]]:
    """Rational points of the set, many of them at its edge."""
    found = []
    clip = ball.clip
    assert clip is not None
    for _ in range(count):
        goal = [rng.choice([a, b, (a + b) / 2]) for a, b in zip(clip.lower, clip.upper, strict=True)]
        low, high = F(0), F(1)
        for _ in range(30):
            middle = (low + high) / 2
            x = tuple(p + middle * (g - p) for p, g in zip(ball.nearest, goal, strict=True))
            low, high = (middle, high) if ball.contains(x) else (low, middle)
        x = tuple(p + low * (g - p) for p, g in zip(ball.nearest, goal, strict=True))
        if ball.contains(x):
            found.append(x)
    return found


def exactly_inside(region: Region, x: tuple[Fraction, ...]) -> bool:
    low, high = ([F(float(v)) for v in end.reshape(-1)] for end in (region.lower, region.upper))
    if not all(a <= v <= b for a, v, b in zip(low, x, high, strict=True)):
        return False
    if region.center is None or region.radius is None:
        return True
    gaps = [abs(v - F(float(c))) for v, c in zip(x, region.center.reshape(-1), strict=True)]
    radius = F(float(region.radius[0]))
    return sum(gaps) <= radius if region.norm == "1" else sum(g * g for g in gaps) <= radius**2


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("norm", ["1", "2"])
@pytest.mark.parametrize("seed", range(25))
def test_the_region_holds_the_set(norm: Norm, dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ball = outside(rng, int(rng.integers(1, 6)), norm)
    region = region_of(question(ball), dtype)
    assert region.radius is not None
    assert {a.dtype for a in (region.lower, region.upper, region.center, region.radius)} == {np.dtype(dtype)}  # type: ignore[union-attr]
    members = exact_members(rng, ball, 30)
    assert members
    assert all(exactly_inside(region, x) for x in members)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_float64_model_s_box_is_widened_to_float32(dtype: type) -> None:
    box = Box((F(1, 3), F(-1, 3)), (F(2, 3), F(10) ** 30))
    region = region_of(question(box), dtype)
    assert exactly_inside(region, box.lower)
    assert exactly_inside(region, box.upper)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rounding_into_floats_is_outward(dtype: type) -> None:
    x = np.concatenate([np.random.default_rng(0).normal(size=200) * 10.0 ** np.arange(-100, 100), [0.0, 1e-46, -1e-46]])
    low, high = below_in(x, dtype), above_in(x, dtype)
    assert low.dtype == high.dtype == dtype
    assert (low <= x).all()
    assert (high >= x).all()
    near = x[(np.abs(x) > 1e-30) & (np.abs(x) < 1e30)]
    step = 2.0 * np.finfo(dtype).eps * np.abs(near)
    assert (above_in(near, dtype).astype(float) - below_in(near, dtype).astype(float) <= step).all()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("norm", ["1", "2"])
def test_the_bounding_box_is_the_smallest(norm: Norm, seed: int) -> None:
    """In l1 by linear programs; in l2 every end is attained with the other entries at the clip box's nearest point."""
    rng = np.random.default_rng(seed)
    ball = outside(rng, int(rng.integers(1, 5)), norm)
    box, n = ball.bounding_box(), ball.size
    low, high, center = (np.array([float(v) for v in e]) for e in (ball.clip.lower, ball.clip.upper, ball.center))  # type: ignore[union-attr]
    for i in range(n):
        for end, sign in ((box.lower[i], 1.0), (box.upper[i], -1.0)):
            if norm == "2":
                point = (*ball.nearest[:i], end, *ball.nearest[i + 1 :])
                gap = sum((v - c) ** 2 for v, c in zip(point, ball.center, strict=True))
                assert gap <= ball.radius**2 * (1 + F(1, 2**60))
                assert ball.clip is not None
                assert end in (ball.clip.lower[i], ball.clip.upper[i]) or gap >= ball.radius**2
                continue
            eye, cost = np.eye(n), np.zeros(2 * n)
            cost[i] = sign
            sides = np.block([[eye, -eye], [-eye, -eye], [np.zeros((1, n)), np.ones((1, n))]])
            limits = [*center, *-center, float(ball.radius) + 1e-12]
            ends = [*zip(low, high, strict=True), *((0.0, None),) * n]
            found = linprog(cost, A_ub=sides, b_ub=limits, bounds=ends)
            assert found.status == 0
            assert float(end) == pytest.approx(sign * found.fun, abs=1e-9)


@pytest.mark.parametrize("square", [F(0), F(1, 4), F(2), F(10) ** 400, F(1, 10**400), F(1, 3), F(49, 9)])
def test_root_above(square: Fraction) -> None:
    root = root_above(square)
    assert root**2 >= square
    assert root**2 <= square * (1 + F(1, 2**60))
    assert square not in (F(1, 4), F(49, 9)) or root**2 == square


def difference(ball: LpBall) -> Query:
    """Unsafe: x0 - x1 at most -1, or at least 1: the margin is 1 less the largest |x0 - x1|."""
    rows = [Polyhedron((Constraint(outputs=((0, F(s)),), bound=F(-1)),)) for s in (1, -1)]
    return Query(MODEL, Property(ball, tuple(rows), 1))


def taking(norm: Norm) -> list[str]:
    """Verifiers that bound rows over balls of the norm by more than the bounding box, and need no package."""
    found = []
    for name in names():
        capabilities = verifier_class(name).capabilities
        kind = capabilities.kinds.get(norm)
        if kind == "incomplete" and set(capabilities.kinds.values()) == {kind} and not capabilities.missing_modules():
            found.append(name)
    return found


@pytest.mark.parametrize("name", taking("1"))
def test_a_ball_that_touches_its_clip_box_is_a_point(name: str) -> None:
    ball = LpBall((F(0), F(0)), F(1), "1", Box((F(1, 2),) * 2, (F(1),) * 2))
    assert ball.bounding_box() == Box((F(1, 2),) * 2, (F(1, 2),) * 2)
    margin = create(name).verify(difference(ball)).statistics["margin"]
    assert margin == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", taking("2"))
def test_a_round_ball_that_touches_its_clip_box_is_a_point(name: str) -> None:
    """3-4-5: the corner (3/5, 4/5) is at distance 1 from the center."""
    ball = LpBall((F(0), F(0)), F(1), "2", Box((F(3, 5), F(4, 5)), (F(2), F(2))))
    assert ball.bounding_box() == Box(ball.nearest, ball.nearest)
    margin = create(name).verify(difference(ball)).statistics["margin"]
    assert margin == pytest.approx(0.8, abs=1e-6)  # its float32 model has no input at 3/5 itself


@conic
def test_a_round_cap_is_bounded_as_the_cone_program_does() -> None:
    """The largest x0 - x1 of a cap whose ball has its center outside: nothing is relaxed but rounding."""
    rng = np.random.default_rng(4)
    for _ in range(6):
        query = difference(outside(rng, 2, "2"))
        wanted = create("lp_cvxpy").verify(query).statistics["margin"]
        assert create("crown").verify(query).statistics["margin"] == pytest.approx(wanted, abs=1e-6)

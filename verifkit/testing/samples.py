"""Questions with known answers, drawn by number: what the conformance suite asks every verifier.

Boxes, l0 and l1 balls are judged by the exact oracle, l2 balls by dense sampling (which only ever finds violations).
A question is a pure function of its arguments, so that a failure is reproduced by its number; models are kept between
calls, since making one takes longer than most questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import combinations, product
from typing import Any

import numpy as np

from verifkit.capabilities import Capabilities
from verifkit.input_sets import Box, InputSet, LpBall, Norm
from verifkit.io.vnnlib_write import write_property
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.testing import oracle, toys
from verifkit.testing.oracle import ToyNet

Point = tuple[Fraction, ...]

FLAVOURS: tuple[dict[str, Any], ...] = (
    {},
    {"boxes": True},
    {"classifier": True},
    {"strict": True, "classifier": False},
    {"coupled": True, "classifier": False},
    {"disjuncts": 3, "classifier": False},
    {"disjuncts": 1, "rows": 3, "classifier": False},
    {"dyadic": True},
)
"""The options of `toys.random_question` that questions take in turn."""


@dataclass(frozen=True)
class Truth:
    """What is known about a question.

    violated: None where neither is known (an l2 ball without a sampled violation). margin: the oracle's, where it was
    asked. in_band: whether methods in floating point may leave it undecided. witness: an unsafe input, where known.
    """

    violated: bool | None
    margin: Fraction | float | None = None
    in_band: bool = True
    witness: Point | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """A toy network, a property of it and the truth about the two. name: how to draw it again."""

    name: str
    toy: ToyNet
    prop: Property
    truth: Truth
    query: Query

    def reproducer(self) -> str:
        """The network as Python and the property as VNN-LIB text, to paste into a test."""
        return f"{describe_toy(self.toy)}\n{describe_property(self.prop)}"


def sample_of(name: str, toy: ToyNet, prop: Property) -> Sample:
    """A sample of the given network and property, judged here."""
    return Sample(name, toy, prop, judge(toy, prop), Query(toys.to_model(toy), prop))


@lru_cache(maxsize=8192)
def _sample(norm: Norm, number: int, seed: int, coupling: bool, robustness_only: bool) -> Sample:
    rng = np.random.default_rng([seed, number, int("012".find(norm)) + 1])
    knobs = dict(FLAVOURS[number % len(FLAVOURS)])
    if not coupling:
        knobs["coupled"] = False
    if robustness_only:
        knobs = {"classifier": True}
    toy = toys.random_toy(rng, n_outputs=int(rng.integers(2, 4)) if knobs.get("classifier") else None)
    kind: toys.InputKind = "l1" if norm == "1" else "l2" if norm == "2" else "box"
    toy, prop = toys.random_question(rng, toy, kinds=(kind,), **knobs)
    if norm == "0":
        prop = replace(prop, input_set=_l0_ball(rng, prop.input_set))
    return sample_of(f"norm {norm}, number {number}, seed {seed}", toy, prop)


def random_sample(norm: Norm, number: int, seed: int, capabilities: Capabilities) -> Sample:
    """The question with this number among those that a verifier with these capabilities can be asked."""
    return _sample(norm, number, seed, capabilities.coupling, capabilities.robustness_only)


def _l0_ball(rng: np.random.Generator, box: InputSet) -> LpBall:
    assert isinstance(box, Box)
    shares = rng.integers(0, 5, box.size)
    center = tuple(a + (b - a) * Fraction(int(s), 4) for a, b, s in zip(box.lower, box.upper, shares, strict=True))
    return LpBall(center, Fraction(int(rng.integers(1, box.size + 1))), "0", box)


def judge(toy: ToyNet, prop: Property) -> Truth:
    """The truth about a property of a toy network over its set *as written*."""
    region = prop.input_set
    if isinstance(region, LpBall) and region.norm == "2":
        witness = sampled_violation(toy, prop)
        return Truth(None if witness is None else True, witness=witness)
    answers = [toys.ask_oracle(toy, replace(prop, input_set=part)) for part in _oracle_sets(region)]
    witness = next((a.witness for a in answers if a.violated), None)
    least = min(answers, key=lambda a: a.margin)
    band = max(a.band for a in answers)
    return Truth(witness is not None, least.margin, -band <= least.margin <= band, witness)


def _oracle_sets(region: InputSet) -> list[InputSet]:
    """Sets that the oracle takes and that cover `region`: an l0 ball is one box for each choice of its free inputs."""
    if not (isinstance(region, LpBall) and region.norm == "0"):
        return [region]
    assert region.clip is not None
    sets: list[InputSet] = []
    count = min(region.size, math.floor(region.radius))
    for free in combinations(range(region.size), count):
        ends = [
            (low, high) if i in free else (c, c)
            for i, (low, c, high) in enumerate(zip(region.clip.lower, region.center, region.clip.upper, strict=True))
        ]
        sets.append(Box(tuple(low for low, _ in ends), tuple(high for _, high in ends)))
    return sets


def row_minimum(toy: ToyNet, prop: Property, disjunct: int, row: int) -> Fraction:
    """The exact least value of one constraint's left side over the whole input set (not the disjunct's own box)."""
    constraint = prop.unsafe[disjunct].constraints[row]
    alone = replace(prop, unsafe=(Polyhedron((constraint,)),))
    margin = toys.ask_oracle(toy, alone).margin
    assert isinstance(margin, Fraction)
    return margin + constraint.bound


# --- points -----------------------------------------------------------------------------------------------------


def is_unsafe(toy: ToyNet, prop: Property, x: Sequence[Fraction], dtype: type[np.floating[Any]] = np.float32) -> bool:
    """Whether input `x` is a violation, by exact evaluation; x must lie in the effective set.

    The set and the disjuncts' boxes count as widened to floats of `dtype`; a ball counts as written.
    """
    y = oracle.evaluate(toy, x)
    for case in prop.cases():
        if in_effective_set(case.input_set, x, dtype) and any(
            all(_satisfied(row, x, y) for row in disjunct.constraints) for disjunct in case.unsafe
        ):
            return True
    return False


def _satisfied(row: Constraint, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
    """The row's own test, written again: what is judged here must not lean on what it judges."""
    left = sum((v * y[j] for j, v in row.outputs), Fraction(0)) + sum((v * x[i] for i, v in row.inputs), Fraction(0))
    return left < row.bound or (left == row.bound and not row.strict)


def in_effective_set(region: InputSet, x: Sequence[Fraction], dtype: type[np.floating[Any]] = np.float32) -> bool:
    """Exact membership in the set that a deployed network can be fed from."""
    if isinstance(region, LpBall):
        return region.contains(x)
    lower, upper = (map(Fraction, end.tolist()) for end in region.floats(dtype))
    return all(low <= v <= high for low, v, high in zip(lower, x, upper, strict=True))


def float_points(rng: np.random.Generator, region: InputSet, count: int) -> np.ndarray:
    """About `count` points (N, n) of the set in float64: corners, faces, the boundary of a ball, and the inside."""
    box = region if isinstance(region, Box) else region.bounding_box()
    lower, upper = (np.array([float(v) for v in end]) for end in (box.lower, box.upper))
    share = rng.uniform(size=(count, box.size))
    share[::3] = np.round(share[::3])
    share[1::3] = np.clip(share[1::3] * 3 - 1, 0.0, 1.0)
    if box.size <= 8:
        share = np.concatenate([share, np.array(list(product((0.0, 1.0), repeat=box.size)))])
    x = lower + share * (upper - lower)
    if isinstance(region, LpBall) and region.norm in ("1", "2"):
        x = _into_ball(rng, x, region, lower, upper)
    return np.asarray(np.clip(x, lower, upper))


def _into_ball(
    rng: np.random.Generator, x: np.ndarray, region: LpBall, lower: np.ndarray, upper: np.ndarray
) -> np.ndarray:
    center, order = np.array([float(c) for c in region.center]), int(region.norm)
    gap = np.concatenate([x - center, rng.normal(size=x.shape), np.eye(center.size), -np.eye(center.size)])
    size = np.linalg.norm(gap, ord=order, axis=1, keepdims=True)
    radius = float(region.radius)
    boundary = np.arange(len(gap))[:, None] % 2 == 0
    scale = np.where(boundary | (size > radius), radius / np.maximum(size, 1e-300), 1.0)
    moved = center + gap * scale
    # Clipping moves a point nearer to a center inside the clip box only: leave out what it moves out of the ball.
    moved = np.clip(moved, lower, upper)
    inside = np.linalg.norm(moved - center, ord=order, axis=1) <= radius * (1 + 1e-12)
    return np.asarray(moved[inside])


def exact_points(region: InputSet, points: np.ndarray) -> list[Point]:
    """The points as rationals, moved towards the center by 1e-12 where rounding left them outside; others dropped."""
    kept = []
    center = region.center if isinstance(region, LpBall) else None
    for row in points:
        x = tuple(Fraction(v) for v in row.tolist())
        if center is not None and not region.contains(x):
            x = tuple(c + (v - c) * (1 - Fraction(1, 10**12)) for v, c in zip(x, center, strict=True))
        if region.contains(x):
            kept.append(x)
    return kept


def sampled_violation(toy: ToyNet, prop: Property, count: int = 600) -> Point | None:
    """An exactly confirmed violation found by dense sampling, narrowing in on the worst points; None proves nothing."""
    rng = np.random.default_rng(0)
    network = toys.to_network(toy)
    for case in prop.cases():
        points = float_points(rng, case.input_set, count)
        for scale in (0.1, 0.01, 1e-3):
            if not len(points):
                break
            order = np.argsort(_worst(case, points, network.evaluate(points)))[:8]
            for x in exact_points(case.input_set, points[order[:2]]):
                if is_unsafe(toy, case, x):
                    return x
            near = points[order].repeat(25, axis=0)
            points = np.concatenate([points[order], _near(rng, case.input_set, near, scale)])
    return None


def _near(rng: np.random.Generator, region: InputSet, points: np.ndarray, scale: float) -> np.ndarray:
    box = region if isinstance(region, Box) else region.bounding_box()
    lower, upper = (np.array([float(v) for v in end]) for end in (box.lower, box.upper))
    moved = np.clip(points + scale * (upper - lower) * rng.normal(size=points.shape), lower, upper)
    if isinstance(region, LpBall):
        center = np.array([float(c) for c in region.center])
        size = np.linalg.norm(moved - center, ord=int(region.norm), axis=1, keepdims=True)
        moved = center + (moved - center) * np.minimum(1.0, float(region.radius) / np.maximum(size, 1e-300))
        moved = moved[((lower <= moved) & (moved <= upper)).all(axis=1)]
    return np.asarray(moved)


def _worst(case: Property, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For each point the least margin among the disjuncts, in floating point."""
    best = np.full(len(x), np.inf)
    for disjunct in case.unsafe:
        margin = np.full(len(x), -np.inf)
        for row in disjunct.constraints:
            value = sum((float(v) * y[:, j] for j, v in row.outputs), np.full(len(x), -float(row.bound)))
            value = sum((float(v) * x[:, i] for i, v in row.inputs), value)
            margin = np.maximum(margin, value)
        best = np.minimum(best, margin)
    return best


# --- text -------------------------------------------------------------------------------------------------------


def describe_toy(toy: ToyNet) -> str:
    """Python that makes the network again, exactly (its weights are floats)."""
    weights = [[[float(v) for v in row] for row in weight] for weight in toy.weights]
    biases = [[float(v) for v in bias] for bias in toy.biases]
    return f"ToyNet({weights}, {biases}, {list(toy.skips)})"


def describe_property(prop: Property) -> str:
    """VNN-LIB text; a ball, which VNN-LIB cannot describe, is named in a comment above its bounding box."""
    region = prop.input_set
    if isinstance(region, Box):
        return write_property(prop)
    note = f"; the input set is not this box but the {region.canonical()}\n"
    return note + write_property(replace(prop, input_set=region.bounding_box()))

"""Questions made by hand: exact ties and dual norms, boxes whose ends are no floats, easy ones, gallery networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import numpy as np

from verifkit.capabilities import Capabilities
from verifkit.input_sets import Box, InputSet, LpBall, Norm, ball
from verifkit.properties import Constraint, Polyhedron, Property, misclassified
from verifkit.query import Query
from verifkit.testing import toys
from verifkit.testing.gallery import Exhibit, exhibits
from verifkit.testing.oracle import ToyNet, evaluate
from verifkit.testing.samples import Sample, Truth, float_points, row_minimum, sample_of

F = Fraction

# Vectors with rational norms in l1, l2 and l-inf: what an l-p ball's linear minimum is, exactly.
_WEIGHTS = ((3, 4), (2, -3, 6), (-1, 4, 8), (4, -4, 7), (12, -5))


def _dual(weights: tuple[int, ...], norm: Norm) -> Fraction:
    """The norm dual to `norm`, exactly."""
    if norm == "1":
        return F(max(map(abs, weights)))
    if norm == "2":
        return F(round(sum(w * w for w in weights) ** 0.5))
    return F(sum(map(abs, weights)))


@lru_cache(maxsize=256)
def linear_sample(norm: Norm, number: int, offset: Fraction, strict: bool, hidden: bool) -> Sample:
    """Robustness of label 0 of y = (w . x + b, 0) in a ball where min y_0 = -offset, exactly.

    offset > 0: violated; 0: a tie; < 0: holds. hidden: the sum passes through ReLUs that are always active.
    """
    weights = _WEIGHTS[number % len(_WEIGHTS)]
    center = tuple(F((3 * i + number) % 5 - 2, 4) for i in range(len(weights)))
    radius = F(1, 2 ** (number % 3))
    least = sum((w * c for w, c in zip(weights, center, strict=True)), F(0)) - radius * _dual(weights, norm)
    row = tuple(F(w) for w in weights)
    if hidden:
        # h_i = relu(x_i + 8) = x_i + 8 on every ball used here.
        unit = tuple(tuple(F(i == k) for k in range(len(row))) for i in range(len(row)))
        layers = (unit, (row, (F(0),) * len(row)))
        biases = ((F(8),) * len(row), (-least - offset - 8 * sum(row), F(0)))
        toy = ToyNet(layers, biases)
    else:
        toy = ToyNet(((row, (F(0),) * len(row)),), ((-least - offset, F(0)),))
    unsafe = misclassified(0, 2)
    if strict:
        unsafe = (Polyhedron((replace(unsafe[0].constraints[0], strict=True),)),)
    prop = Property(ball(center, radius, norm), unsafe, 2)
    violated = offset > 0 or (offset == 0 and not strict)
    truth = Truth(violated, -offset, in_band=offset == 0)
    name = f"linear, norm {norm}, number {number}, offset {offset}{', strict' if strict else ''}"
    return Sample(name, toy, prop, truth, Query(toys.to_model(toy), prop))


def linear_samples(norm: Norm, capabilities: Capabilities) -> Iterator[Sample]:
    """Linear questions on both sides of the boundary and on it."""
    for number in range(6):
        for offset in (F(1, 64), F(0), F(-1, 64)):
            for strict in (False,) if capabilities.robustness_only else (False, True):
                yield linear_sample(norm, number, offset, strict, number % 2 == 1)


@lru_cache(maxsize=1)
def effective_samples() -> tuple[tuple[Query, bool], ...]:
    """(question, whether it is violated) for boxes with ends that no float32 equals: they count as widened.

    y_0 = 2^24 (x - c) with c the float32 nearest to 1/10: over the widened box it spans 1/8, and nothing as written.
    """
    tenth = F(1, 10)
    nearest = F(float(np.float32(0.1)))
    toy = ToyNet((((F(2**24),), (F(0),)),), ((-(2**24) * nearest, F(0)),))
    low = F(float(np.nextafter(np.float32(0.1), np.float32(0))))
    assert low < tenth < nearest
    model = toys.to_model(toy)
    found = []
    for sign, bound, violated in ((1, F(-1, 16), True), (1, F(-1, 4), False), (-1, F(0), True), (-1, F(-1, 16), False)):
        # sign = 1: y_0 <= bound; at `low` y_0 is -1/8. sign = -1: -y_0 <= bound; at `nearest` y_0 is 0.
        row = Constraint(outputs=((0, F(sign)),), bound=bound)
        for box, own in ((Box((tenth,), (tenth,)), None), (Box((F(-1),), (F(1),)), Box((tenth,), (tenth,)))):
            prop = Property(box, (Polyhedron((row,), own),), 2)
            found.append((Query(model, prop), violated))
    return tuple(found)


@lru_cache(maxsize=512)
def easy_sample(norm: Norm, number: int, seed: int, holds: bool, coupled: bool) -> Sample:
    """A tiny set and a clear margin: every method should prove it (`holds`) or find a violation (not `holds`).

    The unsafe set is that of robustness, moved by the label's bias; or, where `coupled`, one row with inputs.
    """
    rng = np.random.default_rng([seed, number, 7])
    toy = toys.random_toy(rng, n_outputs=2, max_relus=8)
    center = tuple(F(int(v), 8) for v in rng.integers(-8, 9, toy.n_inputs))
    region = _set_around(center, F(1, 2**16), norm)
    scores = evaluate(toy, center)
    wanted = 2 if holds else -2
    # Rounded to a float32, so that the model stays one.
    bias = F(float(np.float32(float(toy.biases[-1][0] + wanted - (scores[0] - scores[1])))))
    toy = replace(toy, biases=(*toy.biases[:-1], (bias, toy.biases[-1][1])))
    unsafe = misclassified(0, 2)
    if coupled:
        row = unsafe[0].constraints[0]
        shift = center[0]
        unsafe = (Polyhedron((replace(row, inputs=((0, F(1)),), bound=shift),)),)
    return sample_of(f"easy, norm {norm}, number {number}, seed {seed}", toy, Property(region, unsafe, 2))


def _set_around(center: tuple[Fraction, ...], radius: Fraction, norm: Norm) -> InputSet:
    if norm != "0":
        return ball(center, radius, norm)
    clip = Box(tuple(c - radius for c in center), tuple(c + radius for c in center))
    return LpBall(center, F(1), "0", clip)


@lru_cache(maxsize=256)
def one_bad_disjunct(norm: Norm, number: int, seed: int) -> Sample:
    """Three disjuncts, one of them reached by 1/64; the others, 64 times as steep, are missed by a little.

    A relaxation's gap is widest where nothing is wrong, so that looking at the first or the worst disjunct misleads.
    """
    rng = np.random.default_rng([seed, number, 13])
    toy = toys.random_toy(rng, n_outputs=3, max_relus=8)
    region = toys.random_region(rng, toy.n_inputs, kinds=("l1" if norm == "1" else "box",), degenerate=False)
    unsafe = []
    for j in range(3):
        scale = F(1) if j == number % 3 else F(64)
        row = Constraint(outputs=((j, scale),), bound=F(0))
        least = row_minimum(toy, Property(region, (Polyhedron((row,)),), 3), 0, 0)
        unsafe.append(Polyhedron((replace(row, bound=least + (F(1, 64) if scale == 1 else F(-1, 4))),)))
    return sample_of(f"one bad disjunct, norm {norm}, number {number}", toy, Property(region, tuple(unsafe), 3))


@dataclass(frozen=True, eq=False)
class Showing:
    """A question about a gallery network. sampled: least value of y_0 - y_1 (or of its negative) over points of the
    set; violated: the bound lies above that; else it lies far below."""

    exhibit: Exhibit
    query: Query
    sampled: float
    violated: bool


def supported(capabilities: Capabilities) -> list[Exhibit]:
    """The gallery networks that a verifier with these capabilities has every rule for."""
    if capabilities.operators is None:
        return list(exhibits())
    known = capabilities.operators | capabilities.activations
    return [e for e in exhibits() if e.needs <= known]


@lru_cache(maxsize=512)
def showing(name: str, norm: Norm, sign: int, radius: Fraction, violated: bool, seed: int) -> Showing:
    """unsafe: sign (y_0 - y_1) <= bound, the bound just above what sampling finds, or well below it."""
    exhibit = next(e for e in exhibits() if e.name == name)
    rng = np.random.default_rng([seed, len(name), exhibit.network.n_inputs])
    center = tuple(F(int(v), 8) for v in rng.integers(-6, 7, exhibit.network.n_inputs))
    region = _set_around(center, radius, norm)
    points = float_points(rng, region, 2000)
    if norm == "0":  # a ball of radius 1 lets one input differ
        middle = np.array([float(c) for c in center])
        chosen = rng.integers(0, len(center), len(points))[:, None] == np.arange(len(center))
        points = np.where(chosen, points, middle)
    y = exhibit.network.evaluate(points.reshape(-1, *exhibit.network.input_shape)).reshape(len(points), -1)
    values = sign * (y[:, 0] - y[:, 1])
    spread = float(np.ptp(values))
    bound = float(values.min()) + (1e-3 * spread + 1e-5 if violated else -1.0 - 10.0 * spread)
    row = Constraint(outputs=((0, F(sign)), (1, F(-sign))), bound=F(bound))
    prop = Property(region, (Polyhedron((row,)),), 2)
    return Showing(exhibit, Query(exhibit.model, prop), float(values.min()), violated)

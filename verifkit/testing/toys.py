"""Seeded toy networks and questions, and their translation into models and into the exact oracle's plain data.

Everything is drawn from a `numpy.random.Generator` that the caller hands in, so a failing case is one seed. The
questions are placed around the exact margin: about half hold, half are violated, and some are exact ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import numpy as np

from verifkit.functions import Relu
from verifkit.input_sets import Box, InputSet, LpBall, rational
from verifkit.maps import Identity, LinearMap
from verifkit.model import Model
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input, Node
from verifkit.properties import Constraint, Polyhedron, Property, misclassified
from verifkit.testing import oracle
from verifkit.testing.oracle import OracleAnswer, ToyNet
from verifkit.weighted_maps import Dense

Weights = Literal["dyadic", "gaussian"]
InputKind = Literal["box", "l1", "l2"]
Point = tuple[Fraction, ...]


def random_toy(
    rng: np.random.Generator,
    *,
    n_inputs: int | None = None,
    n_outputs: int | None = None,
    hidden: Sequence[int] | None = None,
    max_relus: int = 10,
    weights: Weights | None = None,
    residual: bool | None = None,
    quirks: bool = True,
    magnitudes: bool = False,
) -> ToyNet:
    """A random ReLU network; what is left open (None) is drawn: 1-4 inputs, 1-3 outputs, 1-3 hidden layers.

    hidden: widths of the hidden layers; drawn with at most `max_relus` units in all. weights: "dyadic" are multiples
    of 1/4 or 1/8 up to 2 in size (ties are likely), "gaussian" float32 values of variance 2 / fan-in. residual: with
    skips between layers of equal width. quirks: sometimes a zero row, a duplicated or a dead neuron. magnitudes:
    sometimes a layer scaled by a power of two up to 2^12, the next one scaled back. All values are exact in float32.
    """
    if hidden is None:
        hidden = _widths(rng, max_relus)
    if residual is None:
        residual = bool(rng.random() < 0.2)
    if residual and len(hidden) > 1:
        hidden = [min(hidden)] * len(hidden)
    kind = weights or rng.choice(["dyadic", "gaussian"])
    sizes = [n_inputs or int(rng.integers(1, 5)), *hidden, n_outputs or int(rng.integers(1, 4))]
    layers = [_layer(rng, a, b, kind) for a, b in pairwise(sizes)]
    for k in range(len(hidden)):
        if quirks and rng.random() < 0.25:
            layers[k] = _quirk(rng, *layers[k])
        if magnitudes and rng.random() < 0.5:
            scale = 2.0 ** int(rng.integers(-12, 13))
            layers[k] = layers[k][0] * scale, layers[k][1] * scale
            layers[k + 1] = layers[k + 1][0] / scale, layers[k + 1][1]
    skips = [(s, s + d) for s in range(len(sizes)) for d in (1, 2) if residual and s + d < len(sizes)]
    kept = [(s, k) for s, k in skips if sizes[s] == sizes[k] and rng.random() < 0.7]
    return ToyNet([w for w, _ in layers], [b for _, b in layers], kept)  # type: ignore[arg-type]


def _widths(rng: np.random.Generator, max_relus: int) -> list[int]:
    depth = int(rng.integers(1, 4))
    return [int(rng.integers(1, max(1, min(6, max_relus // depth)) + 1)) for _ in range(depth)]


def _layer(rng: np.random.Generator, n_in: int, n_out: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    if kind == "dyadic":
        unit = float(rng.choice([4.0, 8.0]))
        limit = int(2 * unit)
        weight = rng.integers(-limit, limit + 1, (n_out, n_in)) / unit
        return weight, rng.integers(-limit, limit + 1, n_out) / unit
    weight = rng.normal(size=(n_out, n_in)) * np.sqrt(2 / n_in)
    bias = rng.normal(size=n_out) * 0.3
    return weight.astype(np.float32).astype(np.float64), bias.astype(np.float32).astype(np.float64)


def _quirk(rng: np.random.Generator, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = weight.copy(), bias.copy()
    k, other = (int(v) for v in rng.integers(0, len(bias), 2))
    which = rng.integers(0, 4)
    if which == 0:
        weight[k] = 0.0
        bias[k] = rng.choice([0.0, bias[k]])
    elif which == 1:
        weight[k], bias[k] = weight[other], bias[other]
    elif which == 2:
        bias[k] = -64.0  # dead on every input set drawn here, for the first layers at least
    else:
        weight[k], bias[k] = -weight[other], -bias[other]  # exactly one of the two is active
    return weight, bias


def random_region(
    rng: np.random.Generator, n_inputs: int, *, kinds: Sequence[InputKind] = ("box", "l1"), degenerate: bool = True
) -> InputSet:
    """A dyadic input set around a point of [-1, 1]^n: a box, or an l1 or l2 ball with or without a clip box.

    degenerate: sometimes a box with fixed inputs, or a single point.
    """
    center = tuple(Fraction(int(v), 8) for v in rng.integers(-8, 9, n_inputs))
    radius = Fraction(int(rng.integers(1, 17)), int(rng.choice([8, 16, 64])))
    kind = rng.choice(list(kinds))
    if kind != "box":
        low = tuple(c - Fraction(int(v), 8) * radius for c, v in zip(center, rng.integers(0, 9, n_inputs), strict=True))
        high = tuple(
            c + Fraction(int(v), 8) * radius for c, v in zip(center, rng.integers(0, 9, n_inputs), strict=True)
        )
        clip = Box(low, high) if rng.random() < 0.5 else None
        return LpBall(center, radius, "1" if kind == "l1" else "2", clip)
    spans = [radius * Fraction(int(v), 4) for v in rng.integers(1, 5, n_inputs)]
    if degenerate and rng.random() < 0.15:
        fixed = rng.random(n_inputs) < 0.6
        spans = [Fraction(0) if f else s for f, s in zip(fixed, spans, strict=True)]
    return Box(
        tuple(c - s for c, s in zip(center, spans, strict=True)),
        tuple(c + s for c, s in zip(center, spans, strict=True)),
    )


def sample_points(rng: np.random.Generator, region: InputSet, count: int) -> list[Point]:
    """At most `count` exact points of the set (it is sampled by rejection), corners and boundary points among them."""
    box = region if isinstance(region, Box) else region.bounding_box()
    points: list[Point] = []
    for _ in range(8 * count):
        steps = rng.integers(0, 65, box.size) if rng.random() < 0.75 else rng.choice([0, 32, 64], box.size)
        x = tuple(a + (b - a) * Fraction(int(s), 64) for a, b, s in zip(box.lower, box.upper, steps, strict=True))
        if region.contains(x):
            points.append(x)
        if len(points) == count:
            break
    return points


def random_question(
    rng: np.random.Generator,
    toy: ToyNet | None = None,
    *,
    region: InputSet | None = None,
    kinds: Sequence[InputKind] = ("box", "l1"),
    disjuncts: int | None = None,
    rows: int | None = None,
    strict: bool | None = None,
    coupled: bool | None = None,
    boxes: bool | None = None,
    classifier: bool | None = None,
    dyadic: bool = False,
) -> tuple[ToyNet, Property]:
    """A network and a property of it: about half hold, half are violated, about a tenth are exact ties.

    disjuncts, rows: how many (default 1-3 each). strict, coupled, boxes: whether rows are strict, mention inputs,
    and disjuncts carry boxes (default: a few of them). classifier: robustness of a label, placed by shifting the
    label's last bias instead of the bounds. dyadic: every number is exact in float64. An l2 ball is placed by
    sampling, so its margin is not known.
    """
    toy = toy or random_toy(rng)
    region = region or random_region(rng, toy.n_inputs, kinds=kinds)
    if classifier is None:
        classifier = bool(toy.n_outputs > 1 and rng.random() < 0.3)
    if classifier:
        return _robustness_question(rng, toy, region)
    points = sample_points(rng, region, 8) or [_center(region)]
    knobs = (_some(rng, strict, 0.3), _some(rng, coupled, 0.2))
    unsafe = tuple(
        Polyhedron(
            tuple(_row(rng, toy, points, *knobs) for _ in range(rows or int(rng.integers(1, 4)))),
            _disjunct_box(rng, region) if _some(rng, boxes, 0.2) else None,
        )
        for _ in range(disjuncts or int(rng.integers(1, 4)))
    )
    prop = Property(region, unsafe, toy.n_outputs)
    shift = _shift(rng, _margin(rng, toy, prop), dyadic=dyadic)
    moved = tuple(
        replace(d, constraints=tuple(replace(row, bound=row.bound + shift) for row in d.constraints)) for d in unsafe
    )
    return toy, replace(prop, unsafe=moved)


def _some(rng: np.random.Generator, knob: bool | None, chance: float) -> bool:
    return bool(rng.random() < chance) if knob is None else knob


def _center(region: InputSet) -> Point:
    box = region if isinstance(region, Box) else region.bounding_box()
    return tuple((a + b) / 2 for a, b in zip(box.lower, box.upper, strict=True))


def _row(rng: np.random.Generator, toy: ToyNet, points: Sequence[Point], strict: bool, coupled: bool) -> Constraint:
    outputs = [(j, Fraction(int(v), 2)) for j, v in enumerate(rng.integers(-2, 3, toy.n_outputs))]
    if not any(v for _, v in outputs):
        outputs[0] = (0, Fraction(1))
    inputs = [(i, Fraction(int(v), 4)) for i, v in enumerate(rng.integers(-2, 3, toy.n_inputs))] if coupled else []
    row = Constraint(outputs=tuple(outputs), bound=Fraction(0), strict=strict, inputs=tuple(inputs))
    x = points[int(rng.integers(len(points)))]
    # A bound near a value that is attained; rounded, so that it stays a short dyadic number.
    near = row.value(x, oracle.evaluate(toy, x))
    return replace(row, bound=Fraction(round(near * 16), 16) + Fraction(int(rng.integers(-4, 5)), 16))


def _disjunct_box(rng: np.random.Generator, region: InputSet) -> Box:
    """A box that cuts the region, reaches over its edge, or (rarely) misses it."""
    box = region if isinstance(region, Box) else region.bounding_box()
    lower, upper = [], []
    for a, b in zip(box.lower, box.upper, strict=True):
        ends = sorted(int(v) for v in rng.integers(-2, 11, 2))
        lower.append(a + (b - a) * Fraction(ends[0], 8))
        upper.append(a + (b - a) * Fraction(ends[1], 8))
    return Box(tuple(lower), tuple(upper))


def _margin(rng: np.random.Generator, toy: ToyNet, prop: Property) -> Fraction:
    """The exact margin; for a set that the oracle does not take, the best over samples; 0 where nothing is reached."""
    if not (isinstance(prop.input_set, LpBall) and prop.input_set.norm == "2"):
        margin = ask_oracle(toy, prop).margin
        return margin if isinstance(margin, Fraction) else Fraction(0)
    points = sample_points(rng, prop.input_set, 64) or [_center(prop.input_set)]
    values = [(x, oracle.evaluate(toy, x)) for x in points]
    return min(
        max(row.value(x, y) - row.bound for row in d.constraints)
        for x, y in values
        for d in prop.unsafe
        if d.constraints
    )


def _shift(rng: np.random.Generator, margin: Fraction, *, dyadic: bool) -> Fraction:
    """What to add to every bound, so that the margin becomes 0, a little, or clearly positive or negative."""
    sign = int(rng.choice([-1, 1]))
    chance = rng.random()
    if chance < 0.17 and (not dyadic or _is_float32(margin)):
        # Ties, and a few questions inside the tolerance band of methods in floating point.
        return margin if chance < 0.12 else margin + sign * Fraction(1, 2**24)
    small = Fraction(1, 2**12) if chance < 0.25 else Fraction(int(rng.integers(1, 33)), 32)
    shift = margin + sign * small
    return Fraction(round(shift * 2**14), 2**14) if dyadic or rng.random() < 0.5 else shift


def _is_float32(value: Fraction) -> bool:
    return Fraction(float(np.float32(float(value)))) == value


def _robustness_question(rng: np.random.Generator, toy: ToyNet, region: InputSet) -> tuple[ToyNet, Property]:
    center = region.center if isinstance(region, LpBall) else _center(region)
    scores = oracle.evaluate(toy, center)
    label = max(range(toy.n_outputs), key=lambda j: scores[j])
    prop = Property(region, misclassified(label, toy.n_outputs), toy.n_outputs)
    # Lowering the label's bias by d lowers every margin y_label - y_j by d.
    bias = list(toy.biases[-1])
    moved = bias[label] - _shift(rng, _margin(rng, toy, prop), dyadic=True)
    bias[label] = rational(np.float32(float(moved)))
    return replace(toy, biases=(*toy.biases[:-1], tuple(bias))), prop


def to_network(toy: ToyNet, *, outer: tuple[int, ...] = ()) -> Network:
    """The toy as a `Network` of input shape `outer + (n_inputs,)`; `outer=(1,)` gives it a batch axis.

    Raises `ValueError` where a weight is not exact in float64.
    """
    nodes: list[Node] = [Input(shape=(*outer, toy.n_inputs), name="input")]
    posts = [0]
    for k, (weight, bias) in enumerate(zip(toy.weights, toy.biases, strict=True), 1):
        shape = (*outer, len(weight))
        matrix = np.array([[_float(v) for v in row] for row in weight])
        skips = [s for s, target in toy.skips if target == k]
        maps: list[LinearMap] = [Dense(matrix, outer), *(Identity(shape) for _ in skips)]
        parents = (posts[-1], *(posts[s] for s in skips))
        vector = np.broadcast_to(np.array([_float(v) for v in bias]), shape).copy()
        nodes.append(Affine(shape=shape, parents=parents, name=f"affine{k}", maps=tuple(maps), bias=vector))
        if k < len(toy.weights):
            nodes.append(Activation(shape=shape, parents=(len(nodes) - 1,), name=f"relu{k}", function=Relu()))
        posts.append(len(nodes) - 1)
    return Network(tuple(nodes))


def _float(value: Fraction) -> float:
    if Fraction(float(value)) != value:
        raise ValueError(f"the weight {value} is not exact in float64")
    return float(value)


def to_model(toy: ToyNet, name: str = "toy") -> Model:
    """The toy as a model with ONNX bytes and a network, of input shape (1, n_inputs)."""
    from verifkit.io.onnx import model_from_network  # pulls in onnxruntime: only where a model is wanted

    return model_from_network(to_network(toy, outer=(1,)), name)


def ask_oracle(toy: ToyNet, prop: Property) -> OracleAnswer:
    """The exact answer to a property over a box or an l1 (or l-inf) ball; raises `ValueError` for other norms."""
    return oracle.decide(toy, _region(prop.input_set), [_disjunct(d, prop) for d in prop.unsafe])


def _region(region: InputSet) -> oracle.Region:
    if isinstance(region, Box):
        return oracle.Region(region.lower, region.upper)
    if region.norm not in ("1", "inf"):
        raise ValueError(f"the oracle decides boxes and l1 balls, not an l{region.norm} ball")
    box = region.bounding_box()
    if region.norm == "inf":
        return oracle.Region(box.lower, box.upper)
    return oracle.Region(box.lower, box.upper, region.center, region.radius)


def _disjunct(disjunct: Polyhedron, prop: Property) -> oracle.Disjunct:
    rows = []
    for row in disjunct.constraints:
        outputs, inputs = dict(row.outputs), dict(row.inputs)
        rows.append(
            oracle.Row(
                tuple(outputs.get(j, Fraction(0)) for j in range(prop.n_outputs)),
                row.bound,
                row.strict,
                tuple(inputs.get(i, Fraction(0)) for i in range(prop.n_inputs)),
            )
        )
    box = disjunct.box
    return oracle.Disjunct(tuple(rows), None if box is None else (box.lower, box.upper))

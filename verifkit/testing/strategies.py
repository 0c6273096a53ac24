"""Hypothesis strategies for networks and questions; they shrink to few units, small numbers and short properties.

Needs the `hypothesis` package. `verifkit.testing.toys` has the same things drawn from a seed, without it.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from verifkit.input_sets import Box, InputSet, LpBall
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.testing.oracle import ToyNet, evaluate
from verifkit.testing.toys import InputKind, random_question


def dyadics(limit: int = 2, denominator: int = 8) -> st.SearchStrategy[Fraction]:
    """Multiples of 1/denominator of size at most `limit`; shrinks to 0."""
    return st.integers(-limit * denominator, limit * denominator).map(lambda k: Fraction(k, denominator))


@st.composite
def toy_networks(
    draw: st.DrawFn,
    *,
    max_inputs: int = 3,
    max_outputs: int = 3,
    max_relus: int = 8,
    max_layers: int = 3,
    residual: bool = True,
) -> ToyNet:
    """Dyadic ReLU networks with at most `max_layers` hidden layers and `max_relus` units in all."""
    left, hidden = max_relus, []
    for _ in range(draw(st.integers(0, max_layers))):
        if left:
            hidden.append(draw(st.integers(1, min(4, left))))
            left -= hidden[-1]
    widths = [draw(st.integers(1, max_inputs)), *hidden, draw(st.integers(1, max_outputs))]
    weights, biases = [], []
    for n_in, n_out in pairwise(widths):
        row = st.tuples(*[dyadics()] * n_in)
        weights.append(draw(st.tuples(*[row] * n_out)))
        biases.append(draw(st.tuples(*[dyadics()] * n_out)))
    pairs = [(s, k) for k in range(1, len(widths)) for s in range(k) if widths[s] == widths[k]]
    skips = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=2)) if residual and pairs else []
    return ToyNet(tuple(weights), tuple(biases), tuple(skips))


@st.composite
def input_sets(draw: st.DrawFn, n_inputs: int, *, kinds: tuple[InputKind, ...] = ("box", "l1")) -> InputSet:
    """Dyadic boxes (some inputs may be fixed) and balls, with or without a clip box, inside [-4, 4]^n."""
    center = draw(st.tuples(*[dyadics(1)] * n_inputs))
    below, above = (draw(st.tuples(*[st.integers(0, 8)] * n_inputs)) for _ in range(2))
    box = Box(
        tuple(c - Fraction(v, 8) for c, v in zip(center, below, strict=True)),
        tuple(c + Fraction(v, 8) for c, v in zip(center, above, strict=True)),
    )
    kind = draw(st.sampled_from(kinds))
    if kind == "box":
        return box
    radius = Fraction(draw(st.integers(0, 16)), 8)
    return LpBall(center, radius, "1" if kind == "l1" else "2", box if draw(st.booleans()) else None)


@st.composite
def _rows(draw: st.DrawFn, toy: ToyNet, box: Box, strict: bool, coupled: bool) -> Constraint:
    outputs = draw(st.tuples(*[st.integers(-2, 2)] * toy.n_outputs))
    inputs = draw(st.tuples(*[st.integers(-2, 2)] * toy.n_inputs)) if coupled and draw(st.booleans()) else ()
    row = Constraint(
        outputs=tuple((j, Fraction(v)) for j, v in enumerate(outputs)),
        bound=Fraction(0),
        strict=strict and draw(st.booleans()),
        inputs=tuple((i, Fraction(v)) for i, v in enumerate(inputs)),
    )
    # The bound is a value that the network takes, or next to one: ties and both verdicts turn up.
    steps = draw(st.tuples(*[st.integers(0, 4)] * toy.n_inputs))
    x = tuple(a + (b - a) * Fraction(s, 4) for a, b, s in zip(box.lower, box.upper, steps, strict=True))
    offset = draw(st.sampled_from([Fraction(0), Fraction(1, 8), Fraction(-1, 8), Fraction(1), Fraction(-1)]))
    return Constraint(row.outputs, row.value(x, evaluate(toy, x)) + offset, row.strict, row.inputs)


@st.composite
def questions(
    draw: st.DrawFn,
    toys: st.SearchStrategy[ToyNet] | None = None,
    *,
    kinds: tuple[InputKind, ...] = ("box", "l1"),
    max_disjuncts: int = 3,
    max_rows: int = 3,
    strict: bool = True,
    coupled: bool = True,
    boxes: bool = True,
) -> tuple[ToyNet, Property]:
    """A toy network and a property with bounds at or near values that the network takes.

    strict, coupled, boxes: whether rows may be strict or mention inputs, and disjuncts may carry boxes.
    """
    toy = draw(toys or toy_networks())
    region = draw(input_sets(toy.n_inputs, kinds=kinds))
    box = region if isinstance(region, Box) else region.bounding_box()
    unsafe = []
    for _ in range(draw(st.integers(1, max_disjuncts))):
        rows = draw(st.lists(_rows(toy, box, strict, coupled), min_size=1, max_size=max_rows))
        own = None
        if boxes and draw(st.booleans()):
            other = draw(input_sets(toy.n_inputs, kinds=("box",)))
            own = other if isinstance(other, Box) else None
        unsafe.append(Polyhedron(tuple(rows), own))
    return toy, Property(region, tuple(unsafe), toy.n_outputs)


def seeded_questions(*, kinds: tuple[InputKind, ...] = ("box", "l1")) -> st.SearchStrategy[tuple[ToyNet, Property]]:
    """`toys.random_question` under a drawn seed: wider (gaussian weights, quirks), but shrinks to no simpler case."""
    return st.integers(0, 2**32 - 1).map(lambda seed: random_question(np.random.default_rng(seed), kinds=kinds))

"""Questions about networks as chains, and exact values of both, for the tests of branch and bound."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from verifkit.analysis.bab.chain import Chain, chain_of, piecewise_linear
from verifkit.analysis.linear import analyse
from verifkit.analysis.region import Region
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.budget import Budget, Clock
from verifkit.exact import evaluate_exactly
from verifkit.input_sets import Box
from verifkit.network import Network
from verifkit.properties import Constraint, Polyhedron, Property


def fractions(values: np.ndarray) -> list[Fraction]:
    return [Fraction(v) for v in np.asarray(values, dtype=np.float64).reshape(-1).tolist()]


def box_of(lower: np.ndarray, upper: np.ndarray) -> Box:
    return Box(tuple(fractions(lower)), tuple(fractions(upper)))


def random_box(rng: np.random.Generator, size: int, *, fixed: int = 0) -> Box:
    """Around a random point; the last `fixed` inputs do not vary."""
    center, half = rng.normal(size=size), rng.uniform(0.2, 1.0, size=size)
    half[size - fixed :] = 0.0
    lower, upper = (np.float32(v).astype(float) for v in (center - half, center + half))
    upper[half == 0] = lower[half == 0]
    return box_of(lower, upper)


def random_rows(
    rng: np.random.Generator, box: Box, outputs: int, *, coupled: bool = False, strict: bool = False
) -> Property:
    """Two disjuncts, of two rows and of one."""
    rows = []
    for _ in range(3):
        terms = tuple(enumerate(fractions(rng.normal(size=outputs))))
        inputs = tuple((k, Fraction(k + 1, 3)) for k in range(box.size)) if coupled else ()
        rows.append(Constraint(terms, Fraction(1, 7), strict, inputs))
    return Property(box, (Polyhedron(tuple(rows[:2])), Polyhedron(tuple(rows[2:]))), outputs)


def chain_for(network: Network, prop: Property, *, looser: float = 0.0) -> tuple[Chain, Rows] | None:
    """The reduced chain of a question over a box; None where there is none. looser: moves the ends of all bounds."""
    assert isinstance(prop.input_set, Box)
    assert piecewise_linear(network)
    lower, upper = prop.input_set.floats(np.float64)
    region, rows = Region(lower.reshape(1, *network.input_shape), upper.reshape(1, *network.input_shape)), rows_of(prop)
    analysis = analyse(network, region, CROWN_RELAXATIONS, Clock(Budget()))
    bounds = [analysis.bounds[0], *((low - looser, high + 3 * looser) for low, high in analysis.bounds[1:])]
    chain = chain_of(network, bounds, rows)
    return None if chain is None else (chain, rows)


def points(rng: np.random.Generator, box: Box, count: int) -> list[list[Fraction]]:
    """Corners, and points with some coordinates at an end and some between, all of them exact."""
    found = []
    for number in range(count):
        steps = rng.integers(0, 2, box.size) * 64 if number % 2 else rng.choice([0, 64, rng.integers(65)], box.size)
        found.append(
            [a + (b - a) * Fraction(int(s), 64) for a, b, s in zip(box.lower, box.upper, steps.tolist(), strict=True)]
        )
    return found


def exact_rows(network: Network, prop: Property, x: list[Fraction]) -> list[Fraction]:
    """Every row less its bound at x."""
    y = evaluate_exactly(network, x)
    return [row.value(x, y) - row.bound for disjunct in prop.unsafe for row in disjunct.constraints]


def product(weight: np.ndarray, values: list[Fraction]) -> list[Fraction]:
    """weight (m, n) times exact values."""
    return [
        sum((Fraction(w) * v for w, v in zip(row, values, strict=True) if w and v), Fraction(0))
        for row in weight.tolist()
    ]


def exact_layers(chain: Chain, x: list[Fraction]) -> list[list[Fraction]]:
    """The layers' values z, the rows among them, at the chain's inputs x, taking each bias for what is stored."""
    found, h = [], x
    for layer in chain.layers:
        z = [a + b for a, b in zip(product(layer.weight, h), fractions(layer.bias), strict=True)]
        found.append(z)
        h = [max(v, Fraction(0)) if on else v for v, on in zip(z, layer.relu.tolist(), strict=True)]
    if chain.coupling is not None:
        found[-1] = [a + b for a, b in zip(found[-1], product(chain.coupling, x), strict=True)]
    return found


def carried_errors(chain: Chain) -> list[list[Fraction]]:
    """How far the layers' exact values may be from what is stored."""
    found, error = [], [Fraction(0)] * chain.inputs.size
    for layer in chain.layers:
        error = [a + b for a, b in zip(product(np.abs(layer.weight), error), fractions(layer.error), strict=True)]
        found.append(error)
    return found

"""A reduced chain has the network's values, and its linear bounds lie below them, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifkit.analysis.box_examination import Disjuncts, examine
from verifkit.analysis.chain import Chain, chain_of, is_chain
from verifkit.analysis.chain_bounds import ChainBounds
from verifkit.analysis.linear import analyse
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.budget import Budget, Clock
from verifkit.exact import evaluate_exactly
from verifkit.input_sets import Box
from verifkit.network import Network
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.testing.oracle import ToyNet
from verifkit.testing.toys import random_question, random_toy, to_model


def _toy(rng: np.random.Generator, widths: tuple[int, ...], scale: float = 1.0) -> ToyNet:
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [np.float32(rng.normal(size=s) * scale / np.sqrt(s[1])).astype(float).tolist() for s in shapes]
    biases = [np.float32(rng.normal(size=s[0]) * 0.3).astype(float).tolist() for s in shapes]
    return ToyNet(tuple(tuple(map(tuple, w)) for w in weights), tuple(map(tuple, biases)))


def _property(
    rng: np.random.Generator, lower: np.ndarray, upper: np.ndarray, outputs: int, *, coupled: bool
) -> Property:
    box = Box(tuple(map(Fraction, lower.tolist())), tuple(map(Fraction, upper.tolist())))
    rows = []
    for _ in range(3):
        terms = tuple((k, Fraction(float(v))) for k, v in enumerate(rng.normal(size=outputs)))
        inputs = tuple((k, Fraction(1, 3)) for k in range(len(lower))) if coupled else ()
        rows.append(Constraint(terms, Fraction(1, 7), False, inputs))
    return Property(box, (Polyhedron(tuple(rows[:2])), Polyhedron(tuple(rows[2:]))), outputs)


def _chain(toy: ToyNet, prop: Property) -> tuple[Chain, Rows, Network]:
    query = Query(to_model(toy), prop)
    network, rows = query.network.without_max(), rows_of(prop)
    analysis = analyse(network, region_of(query), CROWN_RELAXATIONS, Clock(Budget()))
    assert is_chain(network)
    chain = chain_of(network, analysis.bounds, rows)
    assert chain is not None
    return chain, rows, network


def _exact_rows(network: Network, prop: Property, x: np.ndarray) -> list[Fraction]:
    point = tuple(map(Fraction, x.tolist()))
    y = evaluate_exactly(network, point)
    constraints = [row for disjunct in prop.unsafe for row in disjunct.constraints]
    return [
        sum((v * y[k] for k, v in row.outputs), Fraction(0))
        + sum((v * point[k] for k, v in row.inputs), Fraction(0))
        - row.bound
        for row in constraints
    ]


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_linear_bounds_lie_below_the_rows_exactly(seed: int, coupled: bool) -> None:
    rng = np.random.default_rng([5, seed])
    toy = _toy(rng, (4, 12, 12, 12, 3), scale=3.0 if seed % 2 else 1e3)
    center, half = rng.normal(size=4), np.array([1.0, 0.5, 0.0, 2.0]) * rng.uniform(0.05, 1.0)
    lower, upper = (np.float32(v).astype(float) for v in (center - half, center + half))
    upper[2] = lower[2]  # an input that is fixed
    prop = _property(rng, lower, upper, 3, coupled=coupled)
    chain, _, network = _chain(toy, prop)
    assert chain.inputs.tolist() == [0, 1, 3]
    share = rng.uniform(size=(6, 2, 3))
    boxes = np.sort(chain.lower + share * (chain.upper - chain.lower), axis=1)
    forms = ChainBounds(chain).forms(boxes[:, 0], boxes[:, 1])
    assert np.isfinite(forms.constant).all()
    for b in range(6):
        for corner in (0, 1, 2):
            t = rng.choice([-1.0, 1.0], size=3) if corner else np.zeros(3)
            x = lower.copy()
            x[chain.inputs] = np.clip(forms.middle[b] + forms.half[b] * t, boxes[b, 0], boxes[b, 1])
            exact = _exact_rows(network, prop, x)
            ends = zip(x[chain.inputs].tolist(), forms.middle[b].tolist(), forms.half[b].tolist(), strict=True)
            inside = [(Fraction(v) - Fraction(m)) / Fraction(h) if h else Fraction(0) for v, m, h in ends]
            for r, value in enumerate(exact):
                line = Fraction(float(forms.constant[b, r])) + sum(
                    (Fraction(float(c)) * t_k for c, t_k in zip(forms.coefficients[b, r], inside, strict=True)),
                    Fraction(0),
                )
                assert line <= value
                assert Fraction(float(forms.lower[b, r])) <= value


def test_a_single_point_is_bounded_to_rounding() -> None:
    rng = np.random.default_rng(3)
    toy = _toy(rng, (3, 8, 8, 2))
    x = np.float32(rng.normal(size=3)).astype(float)
    prop = _property(rng, x, x, 2, coupled=False)
    chain, _, network = _chain(toy, prop)
    forms = ChainBounds(chain).forms(chain.lower[None], chain.upper[None])
    exact = np.array([float(v) for v in _exact_rows(network, prop, x)])
    assert np.allclose(forms.lower[0], exact, rtol=0, atol=1e-11)


@pytest.mark.parametrize("seed", range(40))
def test_what_is_cut_off_is_safe(seed: int) -> None:
    rng = np.random.default_rng([9, seed])
    toy, prop = random_question(rng, random_toy(rng))
    query = Query(to_model(toy), prop)
    if (
        not isinstance(prop.input_set, Box)
        or not is_chain(query.network.without_max())
        or any(d.box for d in prop.unsafe)
    ):
        return
    chain, rows, network = _chain(toy, prop)
    if not all((rows.disjunct == d).any() for d in range(rows.n_disjuncts)):
        return
    found = examine(ChainBounds(chain), Disjuncts.of(rows), chain.lower[None], chain.upper[None])
    low, high = prop.input_set.floats(np.float32)
    for _ in range(60):
        x = low + rng.uniform(size=low.size).round(rng.integers(0, 3)) * (high - low)
        part = x[chain.inputs]
        kept = found.place.size and (found.lower[0] <= part).all() and (part <= found.upper[0]).all()
        if not kept:
            values = _exact_rows(network, prop, x)
            assert not any(
                all(v < 0 if rows.strict[r] else v <= 0 for r, v in enumerate(values) if rows.disjunct[r] == d)
                for d in range(rows.n_disjuncts)
            )

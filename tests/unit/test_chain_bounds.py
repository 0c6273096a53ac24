"""A reduced chain has the network's values, and its linear bounds lie below them, in exact arithmetic."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from verifkit.analysis.bab.box_examination import Disjuncts, examine
from verifkit.analysis.bab.chain import Chain, Layer, chain_of, piecewise_linear
from verifkit.analysis.bab.chain_bounds import ChainBounds
from verifkit.analysis.linear import analyse
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rounding import gamma
from verifkit.analysis.rows import Rows, rows_of
from verifkit.budget import Budget, Clock
from verifkit.exact import evaluate_exactly
from verifkit.input_sets import Box
from verifkit.network import Network
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.testing.oracle import ToyNet
from verifkit.testing.toys import random_question, random_toy, to_model, to_network


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
    assert piecewise_linear(network)
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


def _applicable(count: int) -> list[tuple[ToyNet, Property]]:
    """The first random questions over boxes about chains, with rows in every disjunct."""
    found: list[tuple[ToyNet, Property]] = []
    for seed in itertools.count():
        rng = np.random.default_rng([9, seed])
        toy, prop = random_question(rng, random_toy(rng))
        plain = (
            isinstance(prop.input_set, Box) and bool(prop.unsafe) and piecewise_linear(to_network(toy).without_max())
        )
        if plain and all(d.box is None and d.constraints for d in prop.unsafe):
            found.append((toy, prop))
        if len(found) == count:
            break
    return found


def test_what_is_cut_off_is_safe() -> None:
    rng, cut = np.random.default_rng(4), 0
    for toy, prop in _applicable(40):
        chain, rows, network = _chain(toy, prop)
        found = examine(ChainBounds(chain), Disjuncts.of(rows), chain.lower[None], chain.upper[None])
        assert isinstance(prop.input_set, Box)
        low, high = prop.input_set.floats(np.float32)
        for _ in range(60):
            x = low + rng.uniform(size=low.size).round(rng.integers(0, 3)) * (high - low)
            part = x[chain.inputs]
            if found.place.size and (found.lower[0] <= part).all() and (part <= found.upper[0]).all():
                continue
            cut += 1
            values = _exact_rows(network, prop, x)
            assert not any(
                all(v < 0 if rows.strict[r] else v <= 0 for r, v in enumerate(values) if rows.disjunct[r] == d)
                for d in range(rows.n_disjuncts)
            )
    assert cut > 500


def test_rounding_is_paid_for_every_term_of_a_sum() -> None:
    """A wide layer read backward is a sum over its many units, of terms that may be larger than the units' values."""
    units = 3000
    signs = np.where(np.arange(units) % 3 == 0, -1.0, 1.0)
    hidden = tuple((float(s), -float(s)) for s in signs)
    toy = ToyNet((hidden, (tuple(signs.tolist()),)), ((0.0,) * units, (0.0,)))
    low, high = np.full(2, 1.0), np.full(2, 1.0 + 2.0**-10)
    row = Constraint(((0, Fraction(1)),), Fraction(0), False, ())
    box = Box(tuple(map(Fraction, low.tolist())), tuple(map(Fraction, high.tolist())))
    chain, _, network = _chain(toy, Property(box, (Polyhedron((row,)),), 1))
    point = np.array([[1.0 + 2.0**-10, 1.0]])
    found = ChainBounds(chain).forms(point, point).lower[0, 0]
    (exact,) = _exact_rows(network, Property(box, (Polyhedron((row,)),), 1), point[0])
    terms = 2.0 * int((signs > 0).sum())  # the size of what reaches the inputs from the units that are on
    assert float(exact - Fraction(float(found))) >= 0.99 * gamma(units, point) * terms


def test_coefficients_that_underflow_are_paid_for() -> None:
    rng = np.random.default_rng(17)
    weight = rng.normal(size=(40, 2)) * 1e-30
    hidden = Layer(
        weight,
        np.full(40, 1e-30),
        np.zeros(40),
        np.ones(40, dtype=bool),
        np.ones(40),
        np.arange(40),
        np.full(40, -1.0),
        np.ones(40),
    )
    row = rng.normal(size=(1, 40)) * 1e-290  # times a weight it is no float
    last = Layer(
        row,
        np.zeros(1),
        np.zeros(1),
        np.zeros(1, dtype=bool),
        np.ones(1),
        np.arange(1),
        np.full(1, -np.inf),
        np.full(1, np.inf),
    )
    lower, upper = np.full(2, -1.0), np.ones(2)
    chain = Chain((hidden, last), np.arange(2), lower, upper, None)
    found = Fraction(float(ChainBounds(chain).forms(lower[None], upper[None]).lower[0, 0]))
    exact_row = [Fraction(v) for v in row[0].tolist()]
    for x in rng.uniform(-1, 1, size=(20, 2)):
        z = [sum(Fraction(w) * Fraction(v) for w, v in zip(each, x.tolist(), strict=True)) for each in weight.tolist()]
        on = [max(v + Fraction(1e-30), Fraction(0)) for v in z]
        assert found <= sum((w * h for w, h in zip(exact_row, on, strict=True)), Fraction(0))

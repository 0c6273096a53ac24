"""Bounds of parts whose ReLUs' phases are fixed: below the exact values, for any slopes, multipliers and weights."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tests.unit.chains import chain_for, exact_rows, fractions, points, random_box, random_rows
from verifkit.analysis.bab.box_examination import Disjuncts
from verifkit.analysis.bab.chain import Chain, Layer
from verifkit.analysis.bab.phase_bounds import Parts, PhaseBounds, Steps
from verifkit.budget import Budget, Clock
from verifkit.exact import evaluate_exactly
from verifkit.input_sets import Box
from verifkit.network import Network
from verifkit.properties import Property
from verifkit.solvers.leaf_program import solve_leaf
from verifkit.testing.graphs import BUILDERS
from verifkit.testing.toys import ask_oracle, random_question, random_toy, to_network

NETWORKS = ("relu", "max", "conv", "residual", "branches")


def _asked(
    name: str, seed: int, *, coupled: bool = False, strict: bool = False, fixed: int = 0
) -> tuple[Network, Property, PhaseBounds]:
    rng = np.random.default_rng([11, seed])
    network = BUILDERS[name][0]().without_max()
    box = random_box(rng, network.n_inputs, fixed=fixed)
    prop = random_rows(rng, box, network.n_outputs, coupled=coupled, strict=strict)
    found = chain_for(network, prop)
    assert found is not None
    return network, prop, PhaseBounds(found[0], Disjuncts.of(found[1]))


def _unit_values(network: Network, bounds: PhaseBounds, x: list[Fraction]) -> list[Fraction]:
    """Exact pre-activations of the units that may be on or off."""
    values = {
        node: evaluate_exactly(Network(network.nodes[: node + 1]), x) for node in set(bounds.places[:, 0].tolist())
    }
    return [values[node][place] for node, place in bounds.places.tolist()]


def _parts(rng: np.random.Generator, bounds: PhaseBounds, signs: np.ndarray) -> Parts:
    """Parts that contain at least a point with these signs (P, U), with weights of every size."""
    shape, width = signs.shape, bounds.disjuncts.rows.shape[1]
    phase = np.where(rng.random(shape) < rng.random((shape[0], 1)), np.where(signs == 0, 1, signs), 0).astype(np.int8)
    slopes = rng.uniform(-0.5, 1.5, size=shape)
    multipliers = rng.choice([0.0, 1e-9, 1.0, 1e8], size=shape, p=[0.4, 0.1, 0.4, 0.1]) * rng.exponential(size=shape)
    mix = rng.exponential(size=(shape[0], width)) * rng.integers(-1, 2, (shape[0], width))
    mix *= rng.choice([1.0, 1e-12, 1e12], size=(shape[0], 1))
    disjunct = rng.integers(0, bounds.disjuncts.rows.shape[0], shape[0])
    return Parts(disjunct, phase, np.where(phase == 0, slopes, multipliers).astype(np.float32), mix)


@pytest.mark.parametrize(("coupled", "fixed"), [(False, 0), (True, 1)])
@pytest.mark.parametrize("name", NETWORKS)
def test_margins_lie_below_the_rows_where_the_phases_are_kept(name: str, coupled: bool, fixed: int) -> None:
    network, prop, bounds = _asked(name, 1, coupled=coupled, fixed=fixed)
    assert isinstance(prop.input_set, Box)
    assert bounds.units > 2
    rng, kept = np.random.default_rng(1), 0
    xs = points(rng, prop.input_set, 10)
    units = [_unit_values(network, bounds, x) for x in xs]
    rows = [exact_rows(network, prop, x) for x in xs]
    signs = np.array([[(z > 0) - (z < 0) for z in each] for each in units])
    parts = _parts(rng, bounds, np.tile(signs, (4, 1)))
    margins = bounds.examined(parts).margin
    assert np.isfinite(margins).all()
    for place in range(len(parts)):
        mix, mine = fractions(np.maximum(parts.mix[place], 0)), bounds.disjuncts.rows[parts.disjunct[place]].tolist()
        for number in np.flatnonzero((signs * parts.phase[place] >= 0).all(axis=1)).tolist():
            kept += 1
            value = sum((m * rows[number][row] for m, row in zip(mix, mine, strict=True)), Fraction(0))
            assert Fraction(float(margins[place])) <= value
    assert kept >= len(parts)


def _by_hand(weight: np.ndarray, bias: np.ndarray, row: np.ndarray, x: np.ndarray, error: float = 0.0) -> PhaseBounds:
    """One layer of units that all count as undecided, and one row of them, at the one point x."""
    size = bias.size
    ones, one, end = np.ones(size), np.zeros(1), np.full(1, np.inf)
    places = np.arange(size)
    hidden = Layer(weight, bias, error * ones, ones > 0, places, places, -9 * ones, 9 * ones)
    last = Layer(row[None], one, one, one > 0, places[:1], places[:1], -end, end)
    chain = Chain((hidden, last), np.arange(x.size), x, x, None)
    return PhaseBounds(chain, Disjuncts(np.zeros((1, 1), dtype=np.int64), np.zeros(1, dtype=bool)))


def test_rounding_of_multipliers_is_paid_for() -> None:
    """At the one point of the box all units are exactly 0, so that the phases never exclude each other. The multipliers
    of pairs of units cancel all but their rounding."""
    rng = np.random.default_rng(2)
    for _ in range(40):
        slope = np.float32(rng.normal(size=40) * 10.0 ** rng.uniform(-4, 4, size=40)).astype(float)
        weight = np.stack([slope, -3.0 * slope], axis=1)
        bounds = _by_hand(weight, np.zeros(40), rng.normal(size=40), np.array([3.0, 1.0]))
        first = 10.0 ** rng.uniform(-3, 9, size=20)
        second = np.abs(first * slope[::2] / slope[1::2])
        sign = np.sign(slope[::2] * slope[1::2])
        phase = np.stack([np.ones(20), -sign], axis=1).reshape(1, -1).astype(np.int8)
        multipliers = np.stack([first, second], axis=1).reshape(1, -1)
        for mix in (0.0, 1.0, -1.0):
            part = Parts(np.zeros(1, dtype=np.int64), phase, multipliers, np.full((1, 1), mix))
            margin = bounds.examined(part).margin
            assert -np.inf < margin[0] <= 0
            assert not bounds.refuted(part, margin)[0]


def test_errors_of_biases_are_paid_for() -> None:
    for phase, weight in ((1, 0.0), (1, 0.5), (-1, 0.5), (0, 0.5)):
        part = Parts(
            np.zeros(1, dtype=np.int64), np.array([[phase]], dtype=np.int8), np.array([[weight]]), np.ones((1, 1))
        )
        plain, off = (
            _by_hand(np.ones((1, 1)), np.zeros(1), np.full(1, 2.0), np.ones(1), error).examined(part).margin[0]
            for error in (0.0, 0.25)
        )
        # What the unit is weighed with: 2, less or without a multiplier, or by the slope.
        scale = {1: 2.0 - weight, -1: weight, 0: 2.0 * weight}[phase]
        assert plain == pytest.approx(scale)
        assert off <= scale * 0.75


@pytest.mark.parametrize("magnitude", [1.0, 1e4, 1e8])
def test_rounding_of_huge_values_is_paid_for(magnitude: float) -> None:
    """Over a single point the bound is the value, less what is set aside for rounding."""
    rng, above = np.random.default_rng(3), 0
    for seed in range(20):
        toy = random_toy(
            rng, n_inputs=3, n_outputs=2, hidden=[6, 6, 6], weights="gaussian", residual=False, quirks=False
        )
        network = Network(tuple(node.cast(lambda array: array * magnitude) for node in to_network(toy).nodes))
        prop = random_rows(np.random.default_rng(seed), random_box(rng, 3, fixed=3), 2)
        found = chain_for(network, prop)
        assert found is not None
        bounds = PhaseBounds(found[0], Disjuncts(np.arange(3)[:, None], np.zeros(3, dtype=bool)))
        assert isinstance(prop.input_set, Box)
        exact = exact_rows(network, prop, list(prop.input_set.lower))
        for low, value in zip(bounds.examined(bounds.whole(np.arange(3))).margin.tolist(), exact, strict=True):
            assert Fraction(low) <= value
            above += float(value - Fraction(low)) < 1e-9 * magnitude**4
    assert above == 60


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_never_lower_a_bound(name: str) -> None:
    _, prop, bounds = _asked(name, 4)
    assert isinstance(prop.input_set, Box)
    rng, clock = np.random.default_rng(5), Clock(Budget())
    signs = rng.choice([-1, 1], size=(40, bounds.units))
    parts = _parts(rng, bounds, signs)
    parts = replace(parts, weight=np.clip(parts.weight, 0, 1).astype(np.float32), mix=np.full(parts.mix.shape, 0.5))
    before, raised = bounds.values(parts), bounds.raised(parts, Steps(10), clock)
    after = bounds.values(raised)
    assert (after >= before - 1e-5 * (1 + np.abs(before))).all()
    assert (after > before).mean() > 0.5
    assert (raised.phase == parts.phase).all()
    assert ((raised.weight >= 0) & ((raised.phase != 0) | (raised.weight <= 1))).all()
    rigorous = bounds.examined(raised).margin
    assert np.allclose(rigorous, after, rtol=1e-4, atol=1e-4)
    late = Clock(Budget(seconds=1e-9))
    assert np.array_equal(bounds.raised(parts, Steps(10), late).weight, parts.weight)


def test_a_split_covers() -> None:
    _, _, bounds = _asked("relu", 6)
    parts = bounds.whole(np.arange(2))
    units = np.array([1, 3])
    both = bounds.split(parts, units)
    assert len(both) == 4
    for place in range(4):
        unit, sign = units[place % 2], 1 if place < 2 else -1
        assert both.phase[place, unit] == sign
        assert both.disjunct[place] == place % 2
        assert both.weight[place, unit] == 0
        others = np.arange(bounds.units) != unit
        assert (both.phase[place, others] == 0).all()
        assert np.array_equal(both.weight[place, others], parts.weight[place % 2, others])


def test_the_part_around_a_point_holds_it() -> None:
    network, prop, bounds = _asked("residual", 9)
    assert isinstance(prop.input_set, Box)
    for x in points(np.random.default_rng(9), prop.input_set, 10):
        part = bounds.around(np.array([float(v) for v in x]), 1)
        units = _unit_values(network, bounds, x)
        assert all((z > 0) == (sign == 1) for z, sign in zip(units, part.phase[0].tolist(), strict=True))
        assert part.disjunct.tolist() == [1]


def test_strict_rows_are_refuted_by_touching() -> None:
    for strict in (False, True):
        _, _, bounds = _asked("relu", 7, strict=strict)
        parts = bounds.whole(np.zeros(1, dtype=np.int64))
        for margin, plain in ((1e-300, True), (0.0, strict), (-1e-300, False), (np.nan, False)):
            assert bounds.refuted(parts, np.array([margin]))[0] == plain
        none = replace(parts, mix=np.zeros_like(parts.mix))
        assert not bounds.refuted(none, np.zeros(1))[0]
        assert bounds.refuted(none, np.array([1e-300]))[0]


def _least(bounds: PhaseBounds, part: Parts) -> float | None:
    """The exact optimum of a part without open units, by another program; None where the phases exclude each other."""
    from scipy.optimize import linprog

    chain, n = bounds.chain, bounds.chain.inputs.size
    matrix, constant, above, below = np.eye(n), np.zeros(n), [np.zeros((0, n + 1))], [np.zeros(0)]
    for layer, span, count in zip(chain.layers[:-1], bounds.spans, bounds.counts, strict=True):
        matrix, constant = layer.weight @ matrix, layer.weight @ constant + layer.bias
        sign = part.phase[0, span].astype(float)
        above.append(np.pad(-sign[:, None] * matrix[:count], ((0, 0), (0, 1))))
        below.append(sign * constant[:count])
        off = layer.relu & (layer.high <= 0)
        off[:count] = sign < 0
        matrix, constant = np.where(off[:, None], 0, matrix), np.where(off, 0, constant)
    rows, last = bounds.disjuncts.rows[part.disjunct[0]], chain.layers[-1]
    matrix, constant = (last.weight @ matrix)[rows], (last.weight @ constant + last.bias)[rows]
    if chain.coupling is not None:
        matrix = matrix + chain.coupling[rows]
    above.append(np.pad(matrix, ((0, 0), (0, 1)), constant_values=-1.0))
    below.append(-constant)
    box = [*zip(chain.lower.tolist(), chain.upper.tolist(), strict=True), (None, None)]
    found = linprog([0.0] * n + [1.0], np.concatenate(above), np.concatenate(below), bounds=box)
    return float(found.fun) if found.success else None


@pytest.mark.parametrize("seed", range(12))
def test_all_leaves_together_are_exact(seed: int) -> None:
    rng, clock = np.random.default_rng([13, seed]), Clock(Budget())
    # Some have a unit and its negative: of the four phases two leave a slice, on which both are 0.
    toy, prop = random_question(rng, random_toy(rng, max_relus=8), kinds=("box",), boxes=False, rows=2)
    network, truth = to_network(toy), ask_oracle(toy, prop)
    found = chain_for(network, prop)
    assert found is not None
    bounds = PhaseBounds(found[0], Disjuncts.of(found[1]))
    assert bounds.units <= 8
    least = np.inf
    for disjunct, *signs in itertools.product(range(found[1].n_disjuncts), *([(-1, 1)] * bounds.units)):
        whole = bounds.whole(np.array([disjunct]))
        part = replace(whole, phase=np.array([signs], dtype=np.int8), weight=np.zeros_like(whole.weight))
        solved, exact = solve_leaf(bounds, part, clock), _least(bounds, part)
        assert solved is not None
        margin = float(bounds.examined(solved[0]).margin[0])
        if exact is None:
            assert solved[0].mix.sum() == 0
            assert margin > 0
        elif solved[0].mix.sum() > 0:
            assert solved[0].mix.sum() == pytest.approx(1)
            assert margin == pytest.approx(exact, rel=1e-6, abs=1e-6)
            assert (solved[1] >= bounds.chain.lower).all()
            assert (solved[1] <= bounds.chain.upper).all()
            least = min(least, margin)
    assert least == pytest.approx(float(truth.margin), rel=1e-6, abs=1e-6)


def test_a_leaf_on_a_slice_is_solved() -> None:
    """z >= 0 and -z >= 0 leave the points where z is 0, which the solver may find to exclude each other by rounding."""
    rng, sliced = np.random.default_rng(8), 0
    for _ in range(40):
        normal = rng.normal(size=(1, 3))
        weight = np.concatenate([normal, -normal])
        offset = np.append(rng.normal() * 0.1, 0.0)
        offset[1] = -offset[0]
        ones, end = np.ones(2), np.full(2, np.inf)
        hidden = Layer(weight, offset, 0 * ones, ones > 0, ones, np.arange(2), -9 * ones, 9 * ones)
        last = Layer(ones[None], ones[:1], 0 * ones[:1], ones[:1] < 0, ones[:1], ones[:1], -end[:1], end[:1])
        chain = Chain((hidden, last), np.arange(3), np.full(3, -1.0), np.full(3, 1.0), None)
        bounds = PhaseBounds(chain, Disjuncts(np.zeros((1, 1), dtype=np.int64), np.zeros(1, dtype=bool)))
        whole = bounds.whole(np.zeros(1, dtype=np.int64))
        part = replace(whole, phase=np.ones((1, 2), dtype=np.int8), weight=np.zeros((1, 2), dtype=np.float32))
        solved = solve_leaf(bounds, part, Clock(Budget()))
        assert solved is not None
        sliced += bool(solved[0].mix.sum() > 0)
        assert float(bounds.examined(solved[0]).margin[0]) == pytest.approx(1.0, abs=1e-6)
    assert sliced == 40

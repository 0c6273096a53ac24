"""The shared bounds: rigorous against exact evaluation, tight where theory says so, the same in torch."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tests.unit.test_exact_and_confirm import conv_network
from verifkit.analysis.interval import propagate
from verifkit.analysis.linear import analyse
from verifkit.analysis.region import Region, region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import rows_of
from verifkit.budget import Budget, Clock
from verifkit.functions import Relu
from verifkit.input_sets import Box, LpBall
from verifkit.io.onnx import model_from_network
from verifkit.network import Network, dense_network
from verifkit.ops import Input
from verifkit.properties import Constraint, Polyhedron, Property, robustness
from verifkit.query import Query
from verifkit.testing.oracle import evaluate
from verifkit.testing.toys import random_region, random_toy, sample_points, to_model, to_network


def clock() -> Clock:
    return Clock(Budget())


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("table", [{}, CROWN_RELAXATIONS], ids=["interval", "crown"])
def test_bounds_contain_exact_outputs(seed: int, table: dict) -> None:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    toy = random_toy(rng, magnitudes=seed % 3 == 0)
    inputs = random_region(rng, toy.n_inputs, kinds=("box", "l1", "l2"))
    unsafe = tuple(
        Polyhedron((Constraint(outputs=((j, Fraction(sign)),), bound=Fraction(0)),))
        for j in range(toy.n_outputs)
        for sign in (1, -1)
    )
    query = Query(to_model(toy), Property(inputs, unsafe, toy.n_outputs))
    analysis = analyse(query.network, region_of(query), table, clock())
    lower = analysis.property_rows(rows_of(query.prop))[0]
    for x in sample_points(rng, inputs, 30):
        y = evaluate(toy, x)
        for j, value in enumerate(y):
            assert Fraction(lower[2 * j]) <= value <= -Fraction(lower[2 * j + 1])


def test_a_linear_network_is_bounded_exactly_by_the_dual_norms() -> None:
    weight = np.array([[3.0, -4.0]])
    model = model_from_network(dense_network([weight], [np.array([1.0])]), "linear")
    rows = (Polyhedron((Constraint(outputs=((0, Fraction(1)),), bound=Fraction(0)),)),)
    center = (Fraction(1), Fraction(1))
    for norm, dual in (("1", 4.0), ("2", 5.0)):
        query = Query(model, Property(LpBall(center, Fraction(2), norm), rows, 1))  # type: ignore[arg-type]
        analysis = analyse(query.network, region_of(query), CROWN_RELAXATIONS, clock())
        assert analysis.property_rows(rows_of(query.prop))[0, 0] == pytest.approx(0.0 - 2 * dual, rel=1e-12)
    box = Query(model, Property(Box((Fraction(-1), Fraction(-1)), (Fraction(3), Fraction(3))), rows, 1))
    analysis = analyse(box.network, region_of(box), CROWN_RELAXATIONS, clock())
    assert analysis.property_rows(rows_of(box.prop))[0, 0] == pytest.approx(-14.0, rel=1e-12)


def test_radius_zero_is_the_forward_pass() -> None:
    toy = random_toy(np.random.default_rng(5), weights="gaussian")
    x = np.full(toy.n_inputs, 0.25)
    query = Query(to_model(toy), robustness(x, 0, 0, n_outputs=toy.n_outputs)) if toy.n_outputs > 1 else None
    network = to_network(toy, outer=(1,))
    bounds = propagate(network, x.reshape(1, *network.input_shape), x.reshape(1, *network.input_shape))
    y = network.evaluate(x.reshape(network.input_shape))
    np.testing.assert_allclose(bounds[-1][0][0], y, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(bounds[-1][1][0], y, rtol=1e-11, atol=1e-12)
    assert query is None or query.norm == "inf"


def test_elision_makes_interval_bounds_of_a_margin_better_than_the_difference_of_outputs() -> None:
    # y0 = y1 = relu(x): their difference is 0, which the outputs' own intervals cannot see.
    network = dense_network([np.array([[1.0]]), np.array([[1.0], [1.0]])], [np.zeros(1), np.zeros(2)])
    query = Query(model_from_network(network, "twins"), robustness([0.5], 0, 0.4, n_outputs=2))
    analysis = analyse(query.network, region_of(query), {}, clock())
    assert abs(analysis.property_rows(rows_of(query.prop))[0, 0]) < 1e-12


def test_max_pooling_keeps_intervals_exact() -> None:
    network = conv_network()
    low, high = np.zeros((1, *network.input_shape)), np.ones((1, *network.input_shape))
    bounds = propagate(network, low, high)
    x = np.random.default_rng(1).uniform(size=(200, *network.input_shape))
    for (lower, upper), value in zip(bounds, network.values(x), strict=True):
        assert (lower <= value).all()
        assert (value <= upper).all()


def test_a_network_rewritten_without_max_computes_the_same() -> None:
    network = conv_network()
    x = np.random.default_rng(2).normal(size=(50, *network.input_shape))
    np.testing.assert_allclose(network.without_max().evaluate(x), network.evaluate(x), rtol=1e-12)


def test_torch_arrays_give_the_same_bounds() -> None:
    torch = pytest.importorskip("torch")
    network = conv_network().without_max()
    low, high = np.zeros((1, *network.input_shape)), np.full((1, *network.input_shape), 0.5)
    ours = analyse(network, Region(low, high), CROWN_RELAXATIONS, clock())
    theirs = analyse(network, Region(torch.tensor(low), torch.tensor(high)), CROWN_RELAXATIONS, clock())
    assert len(ours.planes) == len(theirs.planes) == 1
    for (a, b), (c, d) in zip(ours.bounds, theirs.bounds, strict=True):
        np.testing.assert_allclose(a, c.numpy(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(b, d.numpy(), rtol=1e-9, atol=1e-12)


def test_batched_boxes_get_the_bounds_of_single_ones() -> None:
    toy = random_toy(np.random.default_rng(11), n_inputs=3, n_outputs=2, hidden=[5, 5])
    network = to_network(toy)
    rng = np.random.default_rng(0)
    center = rng.normal(size=(4, *network.input_shape))
    low, high = center - 0.2, center + 0.2
    together = analyse(network, Region(low, high), CROWN_RELAXATIONS, clock())
    for k in range(4):
        alone = analyse(network, Region(low[k : k + 1], high[k : k + 1]), CROWN_RELAXATIONS, clock())
        for (a, b), (c, d) in zip(alone.bounds, together.bounds, strict=True):
            assert (a[0] <= c[k] + 1e-9).all()  # a batch tightens at least the rows a single box does
            assert (b[0] >= d[k] - 1e-9).all()


def test_a_function_without_a_rule_is_a_programming_error() -> None:
    class Odd(Relu):
        pass

    with pytest.raises(KeyError):
        propagate(
            dense_network([np.eye(1), np.eye(1)], [np.zeros(1), np.zeros(1)], Odd()), np.zeros((1, 1)), np.ones((1, 1))
        )


def test_rows_that_mix_the_output_with_an_input_that_is_the_output() -> None:
    model = model_from_network(Network((Input(shape=(1, 1), parents=(), name="x"),)), "itself")
    row = Constraint(outputs=((0, Fraction(-1)),), bound=Fraction(0), inputs=((0, Fraction(1)),))  # x - y <= 0
    query = Query(model, Property(Box((Fraction(-1),), (Fraction(1),)), (Polyhedron((row,)),), 1))
    for table in ({}, CROWN_RELAXATIONS):
        analysis = analyse(query.network, region_of(query), table, clock())
        assert abs(analysis.property_rows(rows_of(query.prop))[0, 0]) < 1e-300

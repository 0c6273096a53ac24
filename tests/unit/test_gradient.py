"""Gradients of every network of the gallery, and attacks on networks that have no value or no slope at some points."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifkit.analysis.gradient import pull_back
from verifkit.functions import Log, Reciprocal, ScalarFunction, Sqrt
from verifkit.input_sets import Box
from verifkit.model import Model
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.registry import create
from verifkit.result import Reason, Verdict
from verifkit.testing.gallery import Exhibit, exhibits
from verifkit.weighted_maps import Dense


@pytest.mark.parametrize("exhibit", exhibits(), ids=lambda e: e.name)
def test_gradients_are_difference_quotients(exhibit: Exhibit) -> None:
    network = exhibit.network
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, *network.input_shape))
    rows = rng.normal(size=(6, *network.output_shape))
    gradient = pull_back(network, network.values(x), rows).reshape(6, -1)
    step = 1e-6
    agree = 0
    for k in range(6):
        for i in range(network.n_inputs):
            shift = np.zeros((6, network.n_inputs))
            shift[k, i] = step
            shift = shift.reshape(x.shape)
            difference = (rows * (network.evaluate(x + shift) - network.evaluate(x - shift))).sum() / (2 * step)
            agree += abs(difference - gradient[k, i]) <= 1e-4 * (1.0 + abs(difference))
    assert agree >= gradient.size - 1  # a kink may lie in between


def of_square_sum(function: ScalarFunction) -> Network:
    """The function of x_0 + x_1, and a linear way past it: y = f(x_0 + x_1) + x_0."""
    add = Affine(shape=(1,), parents=(0,), name="sum", maps=(Dense(np.array([[1.0, 1.0]])),))
    bend = Activation(shape=(1,), parents=(1,), name="f", function=function)
    out = Affine(shape=(1,), parents=(2, 0), name="y", maps=(Dense(np.eye(1)), Dense(np.array([[1.0, 0.0]]))))
    return Network((Input(shape=(2,), name="x"), add, bend, out))


@pytest.mark.parametrize("function", [Sqrt(), Log(), Reciprocal()], ids=lambda f: f.name)
def test_gradients_are_finite_where_the_function_has_none(function: ScalarFunction) -> None:
    network = of_square_sum(function)
    x = np.array([[0.0, 0.0], [-1.0, 0.5], [1.0, 1.0], [1e-320, 0.0]])
    with np.errstate(all="ignore"):
        values = network.values(x)
    gradient = pull_back(network, values, np.ones((4, 1)))
    assert np.isfinite(gradient).all()
    assert gradient[2, 0] == pytest.approx(float(function.derivative(np.array(2.0))) + 1.0)


def ask_pgd(network: Network, lower: float, upper: float, bound: Fraction) -> tuple[Verdict, Reason | None]:
    model = Model("f", (2,), (1,), network.evaluate, str(bound), dtype=np.float64, network=network)
    unsafe = (Polyhedron((Constraint(outputs=((0, Fraction(1)),), bound=bound),)),)
    box = Box((Fraction(lower),) * 2, (Fraction(upper),) * 2)
    result = create("pgd").verify(Query(model, Property(box, unsafe, 1)))
    return result.verdict, result.reason


@pytest.mark.parametrize("function", [Sqrt(), Log(), Reciprocal()], ids=lambda f: f.name)
def test_an_attack_survives_points_without_a_value(function: ScalarFunction) -> None:
    network = of_square_sum(function)
    # Half of the box, its center and two of its corners included, has no value (or 1/0).
    verdict, reason = ask_pgd(network, -1.0, 1.0, Fraction(-50))
    assert verdict in (Verdict.UNKNOWN, Verdict.VIOLATED)
    assert reason in (None, Reason.INCOMPLETE, Reason.UNCONFIRMED)
    # All of it: nothing is found, and nothing breaks.
    if not isinstance(function, Reciprocal):
        assert ask_pgd(network, -3.0, -1.0, Fraction(100)) == (Verdict.UNKNOWN, Reason.INCOMPLETE)


@pytest.mark.parametrize("function", [Sqrt(), Log()], ids=lambda f: f.name)
def test_an_attack_finds_a_violation_beside_them(function: ScalarFunction) -> None:
    assert ask_pgd(of_square_sum(function), -1.0, 1.0, Fraction(0))[0] is Verdict.VIOLATED

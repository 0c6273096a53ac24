"""Fast-Lip on networks small enough to work out by hand (Weng et al., ICML 2018, section 3)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifiers.incomplete.fastlip import FastLip
from verifkit.analysis.lipschitz import gradient_bounds
from verifkit.input_sets import ball
from verifkit.io.onnx import model_from_network
from verifkit.network import Network, dense_network
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query, QueryFamily

UNSAFE = (Polyhedron((Constraint(outputs=((0, Fraction(1)),), bound=Fraction(0)),)),)
"""y_0 <= 0."""


def worked_example() -> Network:
    """y = relu(x_0 + 2) - relu(x_1) + 2 relu(x_0 + x_1 - 4).

    Around (1, 0), |x - x0| <= 1: the first unit is active, in [2, 4]; the second unstable, in [-1, 1]; the third
    inactive, at most -1. So C = (1, 0), L = (0, -1), U = (0, 0), and no entry of the gradient is larger than (1, 1).
    """
    weights = [np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([[1.0, -1.0, 2.0]])]
    return dense_network(weights, [np.array([2.0, 0.0, -4.0]), np.zeros(1)])


def test_the_gradient_is_the_constant_plus_signed_sums() -> None:
    network = worked_example()
    low, high = np.array([[2.0, -1.0, -5.0]]), np.array([[4.0, 1.0, -1.0]])
    bounds = [(np.array([[0.0, -1.0]]), np.array([[2.0, 1.0]])), (low, high), (low.clip(0), high.clip(0))]
    start = np.ones((1, 1, 1))
    lower, upper = gradient_bounds(network, bounds, {len(network.nodes) - 1: (start, start)})
    np.testing.assert_allclose(lower, [[[1.0, -1.0]]], atol=1e-12)
    np.testing.assert_allclose(upper, [[[1.0, 0.0]]], atol=1e-12)


@pytest.mark.parametrize(("norm", "dual"), [("inf", 2.0), ("2", np.sqrt(2.0)), ("1", 1.0)])
def test_the_margin_falls_by_the_radius_times_the_dual_norm(norm: str, dual: float) -> None:
    model = model_from_network(worked_example(), "worked example")
    query = Query(model, Property(ball((Fraction(1), Fraction(0)), 1, norm), UNSAFE, 1))
    assert FastLip().verify(query).statistics["margin"] == pytest.approx(3.0 - dual, rel=1e-12)


def test_the_radius_is_where_the_fall_uses_up_the_margin() -> None:
    # The margin at the center is 3 and L = 2 in l-inf, so that margin / L = 3/2: there the third unit, at most
    # 3/2 + 5/2 - 4 = 0, is still inactive and the first one, at least 3/2, active.
    model = model_from_network(worked_example(), "worked example")
    family = QueryFamily(model, (Fraction(1), Fraction(0)), "inf", UNSAFE)
    certified = FastLip().radius(family, attack=False, tolerance=1e-6).certified
    assert certified is not None
    assert certified.value == pytest.approx(1.5, rel=1e-5)


def test_two_shells_see_where_the_unit_wakes() -> None:
    # y = 2 - relu(x - 4/5) around 0, radius 1. Plain: 2 - 1. In the inner half, or three quarters, the unit sleeps.
    network = dense_network([np.array([[1.0]]), np.array([[-1.0]])], [np.array([-0.8]), np.array([2.0])])
    query = Query(model_from_network(network, "waking"), Property(ball((Fraction(0),), 1, "inf"), UNSAFE, 1))
    for shells, margin in ((1, 1.0), (2, 1.5), (4, 1.75)):
        assert FastLip(shells=shells).verify(query).statistics["margin"] == pytest.approx(margin, rel=1e-12)

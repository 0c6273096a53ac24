"""Ehlers, ATVA 2017 (Planet), section 3: a ReLU between bounds l < 0 < u of its input is replaced by the triangle with
the corners (l, 0), (0, 0) and (u, u), so that a linear function of both is least at one of these."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifkit.capabilities import Kind
from verifkit.input_sets import Box
from verifkit.io.onnx import model_from_network
from verifkit.network import dense_network
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.registry import create


def least(low: float, high: float, of_input: float, of_unit: float, verifier: str) -> float:
    """The verifier's lower bound on of_input x + of_unit relu(x) for x in [low, high]."""
    network = dense_network([np.eye(1), np.eye(1)], [np.zeros(1), np.zeros(1)])
    row = Constraint(outputs=((0, Fraction(of_unit)),), inputs=((0, Fraction(of_input)),), bound=Fraction(-(2**10)))
    box = Box((Fraction(low),), (Fraction(high),))
    query = Query(model_from_network(network, "unit"), Property(box, (Polyhedron((row,)),), 1))
    result = create(verifier).verify(query)
    return float(result.statistics["margin"]) - 2**10


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-3.0, 1.0), (-0.25, 4.0), (-2.0, 0.5)])
@pytest.mark.parametrize("verifier", ["lp", "lp_cvxpy"])
def test_the_bound_is_attained_at_a_corner_of_the_triangle(low: float, high: float, verifier: str) -> None:
    if create(verifier).capabilities.missing_modules():
        pytest.skip("cvxpy is not installed")
    for angle in np.linspace(0.0, 2.0 * np.pi, 9)[:-1]:
        a, b = float(np.round(np.cos(angle), 3)), float(np.round(np.sin(angle), 3))
        corners = [(low, 0.0), (0.0, 0.0), (high, high)]
        expected = min(a * z + b * h for z, h in corners)
        assert least(low, high, a, b, verifier) == pytest.approx(expected, abs=1e-7)


def test_a_unit_of_one_phase_is_linear() -> None:
    assert least(0.5, 2.0, 0.0, -1.0, "lp") == pytest.approx(-2.0, abs=1e-9)
    assert least(-2.0, -0.5, 0.0, 1.0, "lp") == pytest.approx(0.0, abs=1e-9)


def test_two_units_of_one_input() -> None:
    """relu(x) + relu(-x) >= |x| >= 0: the triangle knows no more than 0 <= h and x <= h, and gives 0; its upper bound
    is that of the two chords, 1, where intervals give 2."""
    network = dense_network([np.array([[1.0], [-1.0]]), np.array([[1.0, 1.0]])], [np.zeros(2), np.zeros(1)])
    box = Box((Fraction(-1),), (Fraction(1),))
    margins = {}
    for verifier in ("interval", "lp"):
        for sign in (1, -1):
            row = Constraint(outputs=((0, Fraction(sign)),), bound=Fraction(-8))
            query = Query(model_from_network(network, "absolute"), Property(box, (Polyhedron((row,)),), 1))
            margins[verifier, sign] = float(create(verifier).verify(query).statistics["margin"]) - 8
    assert margins["lp", 1] == pytest.approx(0.0, abs=1e-9)
    assert margins["lp", -1] == pytest.approx(-1.0, abs=1e-9)
    assert margins["interval", -1] == pytest.approx(-2.0, abs=1e-9)


def test_kinds() -> None:
    assert dict(create("lp").capabilities.kinds) == {"inf": Kind.INCOMPLETE, "1": Kind.INCOMPLETE}

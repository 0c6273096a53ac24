"""The semidefinite relaxation where its value can be worked out by hand (Raghunathan et al., NeurIPS 2018).

y = relu(x_0 + x_1) + relu(x_0 - x_1) over [-1, 1]^2. The largest value is 2. Each unit has bounds -2 and 2, and the
triangles allow  (x_0 + x_1 + 2) / 2 + (x_0 - x_1 + 2) / 2 = x_0 + 2 <= 3.

In the relaxation numbers become vectors and 1 a unit vector e. With p = z_0 + z_1 and q = z_0 - z_1 the sum of
|z|^2 = <z, a> over both units reads  |p - x_0|^2 + |q - x_1|^2 = |x_0|^2 + |x_1|^2 <= 2, so that
<e, p> <= 1 + sqrt(2); it is attained for x_0 = e, p = (1 + sqrt(2)) e and q = x_1 at right angles to e, where every
other constraint holds too.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("cvxpy")

from verifiers.incomplete.crown import Crown
from verifiers.incomplete.sdp import Sdp
from verifkit.input_sets import Box
from verifkit.io.onnx import model_from_network
from verifkit.network import dense_network
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.result import Verdict


def query(bound: Fraction) -> Query:
    """Unsafe: y >= bound."""
    network = dense_network([np.array([[1.0, 1.0], [1.0, -1.0]]), np.ones((1, 2))], [np.zeros(2), np.zeros(1)])
    row = Constraint(outputs=((0, Fraction(-1)),), bound=-bound)
    region = Box((Fraction(-1),) * 2, (Fraction(1),) * 2)
    return Query(model_from_network(network, "two units"), Property(region, (Polyhedron((row,)),), 1))


def test_the_bound_is_one_plus_the_root_of_two() -> None:
    asked = query(Fraction(0))
    assert Crown().verify(asked).statistics["margin"] == pytest.approx(-3.0, abs=1e-9)
    for verifier, tolerance in ((Sdp(solver="CLARABEL"), 1e-6), (Sdp(), 1e-2)):
        margin = float(verifier.verify(asked).statistics["margin"])
        assert -1.0 - np.sqrt(2.0) - tolerance < margin < -1.0 - np.sqrt(2.0)


def test_it_decides_what_the_triangles_cannot() -> None:
    asked = query(Fraction(5, 2))
    assert Crown().verify(asked).verdict is Verdict.UNKNOWN
    result = Sdp().verify(asked)
    assert result.verdict is Verdict.HOLDS
    assert result.guarantee is not None
    assert result.guarantee.arithmetic == "rounded"

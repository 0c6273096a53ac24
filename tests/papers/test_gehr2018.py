"""Gehr et al., IEEE S&P 2018: meet, join and the bounded powerset, on an example worked out by hand.

a, b in [-1, 1];  h1 = relu(a + b), h2 = relu(a - b);  y = h1 + h2, whose range is [0, 2].

Both pre-activations range over [-2, 2]: slope 1/2, offset 1/2, a new symbol of size 1/2. So DeepZ has
y = a + 1 +- 1, in [-1, 3], and the join coefficient by coefficient, [0, 2] for each unit, has y in [0, 4].
With the cases  (+, +): y = 2 a = (a + b) + (a - b) >= 0;  (+, -): y = a + b >= 0;  (-, +): y = a - b >= 0;
(-, -): y = 0,  the union is [0, 2]. With three of them - the first unit split, then the second where the first is
active - the case a + b <= 0 has y = (a - b) / 2 + 1/2 +- 1/2, whose least value over it is -1 and largest 2.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifiers.incomplete.ai2 import Ai2
from verifiers.incomplete.zonotope import Zonotope
from verifkit.analysis.powerset import Powerset
from verifkit.analysis.region import Region
from verifkit.analysis.rows import rows_of
from verifkit.analysis.zonotope import zonotopes
from verifkit.budget import Budget, Clock
from verifkit.input_sets import Box
from verifkit.io.onnx import model_from_network
from verifkit.network import Network, dense_network
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.result import Verdict
from verifkit.verifier import Verifier

SQUARE = Box((Fraction(-1),) * 2, (Fraction(1),) * 2)


def example() -> Network:
    return dense_network([np.array([[1.0, 1.0], [1.0, -1.0]]), np.ones((1, 2))], [np.zeros(2), np.zeros(1)])


def outputs() -> Property:
    """Rows on y and on -y."""
    rows = (Constraint(outputs=((0, Fraction(sign)),), bound=Fraction(-9)) for sign in (1, -1))
    return Property(SQUARE, tuple(Polyhedron((row,)) for row in rows), 1)


def region() -> Region:
    return Region(np.full((1, 2), -1.0), np.ones((1, 2)))


@pytest.mark.parametrize(
    ("disjuncts", "chord", "low", "high", "cases"),
    [(1, True, -1, 3, 1), (1, False, 0, 4, 1), (2, True, -1, 3, 2), (3, True, -1, 2, 3), (4, True, 0, 2, 4),
     (4, False, 0, 2, 4), (100, True, 0, 2, 4)],
)  # fmt: skip
def test_the_example_by_hand(disjuncts: int, chord: bool, low: float, high: float, cases: int) -> None:
    powerset = Powerset(example(), region(), disjuncts, chord=chord, clock=Clock(Budget()))
    lower = powerset.property_rows(rows_of(outputs()))
    assert powerset.cases == cases
    assert lower.shape == (cases, 2)
    assert (lower.min(axis=0) <= [low, -high]).all()
    np.testing.assert_allclose(lower.min(axis=0), [low, -high], atol=1e-12)


def test_one_case_is_deepz() -> None:
    analysis = zonotopes(example(), region(), Clock(Budget()))
    np.testing.assert_allclose(analysis.property_rows(rows_of(outputs())), [[-1.0, -3.0]], atol=1e-12)
    # center, and coefficients of a, b and the two new symbols
    np.testing.assert_allclose(analysis.outputs.center, [[1.0]], atol=1e-12)
    np.testing.assert_allclose(analysis.outputs.coefficients[0, :, 0], [1.0, 0.0, 0.5, 0.5], atol=1e-12)


@pytest.mark.parametrize(
    ("verifier", "bound", "verdict"),
    [
        (Zonotope(), "-1.01", Verdict.HOLDS),
        (Zonotope(), "-0.1", Verdict.UNKNOWN),
        (Ai2(disjuncts=1), "-1.01", Verdict.HOLDS),
        (Ai2(disjuncts=2), "-0.1", Verdict.UNKNOWN),
        (Ai2(disjuncts=1, join="common"), "-0.1", Verdict.HOLDS),
        (Ai2(disjuncts=4), "-0.1", Verdict.HOLDS),
        (Ai2(disjuncts=4), "0.1", Verdict.UNKNOWN),
    ],
    ids=lambda v: v.describe() if isinstance(v, Verifier) else str(v),
)
def test_y_is_above(verifier: Verifier, bound: str, verdict: Verdict) -> None:
    row = Constraint(outputs=((0, Fraction(1)),), bound=Fraction(bound))
    query = Query(model_from_network(example(), "gehr2018"), Property(SQUARE, (Polyhedron((row,)),), 1))
    assert verifier.verify(query).verdict is verdict

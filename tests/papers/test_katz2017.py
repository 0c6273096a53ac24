"""Katz et al., CAV 2017, the worked example of section 3: x31 = relu(x11) + relu(-x11), which is |x11|, for x11 in
[0, 1]; can x31 lie in [0.5, 1]? It can: where x11 does."""

from __future__ import annotations

import io
import math
from fractions import Fraction

import numpy as np
import pytest

from verifkit.analysis.reluplex.search import Found, Search, Settings
from verifkit.analysis.reluplex.system import Pair, System
from verifkit.analysis.reluplex.trace import Trace
from verifkit.budget import Budget, Clock
from verifkit.evidence import Farkas, FarkasTree, PhaseSplit, Variable
from verifkit.input_sets import Box
from verifkit.io.onnx import model_from_network
from verifkit.network import dense_network
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.registry import create
from verifkit.result import Arithmetic, Verdict

ONE, ZERO, INF = Fraction(1), Fraction(0), math.inf


def example(low: Fraction, high: Fraction, *, inputs: tuple[Fraction, Fraction] = (ZERO, ONE)) -> System:
    """The paper's tableau: a1, a2, a3 are basic and 0, nothing is known of the ReLUs' inputs. Our two slacks f - b are
    added, as the implementation behind the paper does for a pair whose phase is known."""
    system = System()

    def free(name: str, lower: object, upper: object) -> int:
        return system.add(Variable(name), name, lower, upper)

    x11 = free("x11", *inputs)
    b1, f1 = free("x21b", -INF, INF), free("x21f", ZERO, INF)
    b2, f2 = free("x22b", -INF, INF), free("x22f", ZERO, INF)
    x31 = free("x31", low, high)

    def defined(name: str, upper: object, *terms: tuple[int, int]) -> int:
        return system.add(Variable(name), name, ZERO, upper, [(v, Fraction(c)) for v, c in terms])

    defined("a1", ZERO, (x11, -1), (b1, 1))
    defined("a2", ZERO, (x11, 1), (b2, 1))
    defined("a3", ZERO, (f1, -1), (f2, -1), (x31, 1))
    s1, s2 = defined("s1", INF, (f1, 1), (b1, -1)), defined("s2", INF, (f2, 1), (b2, -1))
    system.inputs = [x11]
    system.pairs = [Pair(b1, f1, s1, 1, 0), Pair(b2, f2, s2, 1, 1)]
    return system


def run(system: System, *, exact: bool, splits_after: int = 5) -> tuple[Found | FarkasTree, Settings, str]:
    stream = io.StringIO()
    settings = Settings(splits_after, Clock(Budget(seconds=60)), Trace(stream), lambda x: True)
    return Search(system, settings, exact=exact).run(), settings, stream.getvalue()


@pytest.mark.parametrize("exact", [True, False])
def test_the_example_is_satisfiable_without_a_split(exact: bool) -> None:
    result, settings, trace = run(example(Fraction(1, 2), ONE), exact=exact)
    assert isinstance(result, Found)
    assert 0.5 - 1e-9 <= result.x[0] <= 1 + 1e-9
    assert settings.counts["splits"] == 0
    assert "pairs (b, f) with f = max(0, b): (x21b, x21f), (x22b, x22f)" in trace
    assert "a3 = - x21f - x22f + x31" in trace
    assert "solution: x11 = " in trace


def test_in_rationals_the_solution_is_the_papers() -> None:
    """Every value moves only as far as it must: x31 starts at its bound 1/2, and x11 ends there."""
    result, _, _ = run(example(Fraction(1, 2), ONE), exact=True)
    assert result == Found((Fraction(1, 2),))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("splits_after", [5, 0])
def test_no_input_gives_more_than_one(exact: bool, splits_after: int) -> None:
    """On [-1, 1] as well, where both ReLUs are unstable: |x11| stays below 5/4, whatever the phases."""
    for inputs in ((ZERO, ONE), (-ONE, ONE)):
        result, settings, trace = run(
            example(Fraction(5, 4), Fraction(2), inputs=inputs), exact=exact, splits_after=splits_after
        )
        assert isinstance(result, Farkas | PhaseSplit)
        assert settings.closed == 1.0
        assert "conflict: no value is left for" in trace


def both(arithmetic: str, low: Fraction, high: Fraction, *, strict: bool = False) -> tuple[Verdict, object, object]:
    network = dense_network([np.array([[1.0], [-1.0]]), np.array([[1.0, 1.0]])], [np.zeros(2), np.zeros(1)])
    rows = (
        Constraint(outputs=((0, -ONE),), bound=-low, strict=strict),
        Constraint(outputs=((0, ONE),), bound=high, strict=strict),
    )
    query = Query(model_from_network(network, "example"), Property(Box((ZERO,), (ONE,)), (Polyhedron(rows),), 1))
    result = create("reluplex", {"arithmetic": arithmetic}).verify(query)
    x = None if result.witness is None else result.witness.x[0]
    return result.verdict, x, None if result.guarantee is None else result.guarantee.arithmetic


@pytest.mark.parametrize("arithmetic", ["rational", "float"])
def test_the_example_as_a_question(arithmetic: str) -> None:
    verdict, x, _ = both(arithmetic, Fraction(1, 2), ONE)
    assert verdict is Verdict.VIOLATED
    assert isinstance(x, Fraction)
    assert Fraction(1, 2) <= x <= 1


def test_the_outermost_value_is_reached_and_not_passed() -> None:
    assert both("rational", ONE, Fraction(2))[:2] == (Verdict.VIOLATED, ONE)
    assert both("rational", ONE, Fraction(2), strict=True) == (Verdict.HOLDS, None, Arithmetic.EXACT)
    assert both("rational", ONE + Fraction(1, 2**80), Fraction(2)) == (Verdict.HOLDS, None, Arithmetic.EXACT)
    third = Fraction(1, 3)
    assert both("rational", third, third)[:2] == (Verdict.VIOLATED, third)
    assert both("rational", third, third, strict=True)[0] is Verdict.HOLDS

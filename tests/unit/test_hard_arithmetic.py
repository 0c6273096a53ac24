"""Questions on which floating point or a solver's tolerances once led, or could lead, to a wrong HOLDS."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifkit.budget import Budget
from verifkit.functions import Relu
from verifkit.input_sets import Box, InputSet, LpBall
from verifkit.io.onnx import model_from_network
from verifkit.network import Network, dense_network
from verifkit.ops import Activation, Affine, Input, Node
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.registry import create
from verifkit.result import Reason, Result, Verdict
from verifkit.weighted_maps import Dense

WHITE_BOX = ("interval", "crown", "milp", "pgd", "auto")


def chain(*layers: tuple[list[list[float]], list[float]] | str) -> Network:
    """Affine layers (weights, bias) and "relu", in any order."""
    nodes: list[Node] = [Input(shape=(len(layers[0][0][0]),), name="x")]
    for number, layer in enumerate(layers):
        parents = (number,)
        if isinstance(layer, str):
            nodes.append(Activation(shape=nodes[-1].shape, parents=parents, name=f"n{number}", function=Relu()))
        else:
            weight, bias = np.array(layer[0], float), np.array(layer[1], float)
            nodes.append(Affine(shape=bias.shape, parents=parents, name=f"n{number}", maps=(Dense(weight),), bias=bias))
    return Network(tuple(nodes))


def ask(verifier: str, network: Network, inputs: InputSet, *rows: Constraint, **options: float) -> Result:
    prop = Property(inputs, (Polyhedron(rows),), network.n_outputs)
    query = Query(model_from_network(network, "hard"), prop)
    return create(verifier, options).verify(query, budget=Budget(seconds=20))


def at_most(bound: Fraction | int, *, coefficient: Fraction | int = 1) -> Constraint:
    return Constraint(outputs=((0, Fraction(coefficient)),), bound=Fraction(bound))


@pytest.mark.parametrize("exponent", [5, 7, 8, 9])
@pytest.mark.parametrize("share", [1, 4, 10, 39])
def test_values_beyond_the_solvers_resolution_are_no_proof(exponent: int, share: int) -> None:
    # The least output is -(B / 2 - 6.75); with a tolerance of 1e-9 HiGHS calls the program infeasible from 3e7 on.
    network = dense_network(
        [np.array([[1.0], [1.0], [-3.0]]), np.array([[-1.5, 2.0, 0.0]]), np.array([[-1.0]])],
        [np.array([0.0, -3.0, 1.0]), np.array([-0.75]), np.zeros(1)],
    )
    reach = 10**exponent
    result = ask("milp", network, Box((-reach,), (reach,)), at_most(-Fraction(reach * share, 80)))  # type: ignore[arg-type]
    assert result.verdict is not Verdict.HOLDS


def test_coefficients_that_only_arise_by_composition_are_not_dropped() -> None:
    halves = ([[1e-6, 0], [0, 1.0], [0, -1.0]], [0.0, 0, 0])
    again = ([[1e-6, 0, 0], [0, 1, 0], [0, 0, 1]], [0.0, 0, 0])
    network = chain(halves, again, "relu", ([[-1, 1, 1.0]], [0.05]))
    assert ask("milp", network, Box((0, -1), (10**11, 2)), at_most(0)).verdict is not Verdict.HOLDS  # type: ignore[arg-type]


def test_small_coefficients_of_a_property_are_not_dropped() -> None:
    network = chain(([[0.1, 0], [0, 1.0], [0, -1.0]], [0.0, 0, 0]), "relu", ([[1.0, 0, 0], [0, 1, 1]], [0.0, 0]))
    row = Constraint(outputs=((0, -Fraction(1, 10**11)), (1, Fraction(1))), bound=Fraction(-5, 100))
    assert ask("milp", network, Box((0, -1), (10**11, 2)), row).verdict is not Verdict.HOLDS  # type: ignore[arg-type]
    folded = chain(([[0, 1.0], [0, -1.0]], [0.0, 0]), "relu", ([[1.0, 1]], [0.0]))
    coupled = Constraint(outputs=((0, Fraction(1)),), bound=Fraction(-5, 100), inputs=((0, -Fraction(1, 10**11)),))
    assert ask("milp", folded, Box((0, -1), (10**11, 2)), coupled).verdict is not Verdict.HOLDS  # type: ignore[arg-type]


def test_coefficients_that_the_solver_refuses_are_unconfirmed_and_no_time_out() -> None:
    network = chain(([[1e16, 0], [0, 1.0], [0, -1.0]], [0.0, 0, 0]), "relu", ([[-1e-6, 1, 1.0]], [0.05]))
    result = ask("milp", network, Box((0, -1), (Fraction(1, 10**10), 2)), at_most(0), start=False)  # type: ignore[arg-type]
    assert result.reason is Reason.UNCONFIRMED


@pytest.mark.parametrize("verifier", WHITE_BOX)
@pytest.mark.parametrize(("strict", "reached"), [(False, True), (True, False)])
def test_rows_without_variables_are_settled_exactly(verifier: str, strict: bool, reached: bool) -> None:
    network = dense_network([np.array([[0.5], [-1.0]]), np.array([[1.0, 2.0]])], [np.zeros(2), np.zeros(1)])
    row = Constraint(outputs=(), bound=Fraction(0), strict=strict)  # 0 <= 0, or 0 < 0
    verdict = ask(verifier, network, Box((-1,), (1,)), row).verdict  # type: ignore[arg-type]
    assert verdict is not (Verdict.HOLDS if reached else Verdict.VIOLATED)


@pytest.mark.parametrize("verifier", ["interval", "crown", "auto"])
def test_squares_that_underflow_do_not_shrink_an_l2_ball(verifier: str) -> None:
    network = dense_network([np.array([[1.0, 1.0]])], [np.zeros(1)])
    ball = LpBall((Fraction(0), Fraction(0)), Fraction(1), "2")
    row = at_most(Fraction(-1, 10**175), coefficient=Fraction(1, 10**170))  # y <= -1e-5, which the ball reaches
    assert ask(verifier, network, ball, row).verdict is not Verdict.HOLDS


@pytest.mark.parametrize("verifier", WHITE_BOX)
def test_a_coefficient_that_underflows_still_counts_where_its_value_is_large(verifier: str) -> None:
    network = dense_network([np.array([[1e-30]])], [np.zeros(1)])
    reach = 10**38
    row = at_most(Fraction(-1, 10**295), coefficient=Fraction(1, 10**300))  # y <= -1e5; the least y is -1e8
    assert ask(verifier, network, Box((-reach,), (reach,)), row).verdict is not Verdict.HOLDS  # type: ignore[arg-type]


@pytest.mark.parametrize("verifier", WHITE_BOX)
@pytest.mark.parametrize(
    ("row", "violated"),
    [
        (Constraint(outputs=((0, Fraction(10**400)),), bound=Fraction(0)), True),
        (at_most(Fraction(10**400)), True),
        (at_most(Fraction(-(10**400))), False),
    ],
)
def test_numbers_beyond_all_floats_in_a_property(verifier: str, row: Constraint, violated: bool) -> None:
    network = dense_network([np.array([[1.0]]), np.array([[1.0]])], [np.zeros(1), np.zeros(1)])
    verdict = ask(verifier, network, Box((-1,), (1,)), row).verdict  # type: ignore[arg-type]
    assert verdict is not (Verdict.HOLDS if violated else Verdict.VIOLATED)


def test_cancellation_that_float64_cannot_see_is_no_proof() -> None:
    # Exactly y = 1 + x; in float64 it is x. The unsafe set is y <= 1/2 (x <= -1/2), which the box reaches.
    big = 2.0**60
    network = dense_network(
        [np.array([[big], [big], [1.0], [-1.0]]), np.array([[1.0, -1.0, 1.0, -1.0]])],
        [np.array([big + 256, big, 0.0, 0.0]), np.array([-255.0])],
    )
    for verifier in WHITE_BOX:
        result = ask(verifier, network, Box((Fraction(-3, 4),), (Fraction(-5, 8),)), at_most(Fraction(1, 2)))  # type: ignore[arg-type]
        assert result.verdict is not Verdict.HOLDS, verifier

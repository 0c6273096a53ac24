"""Exact evaluation, and the replay that every counterexample has to pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest

from verifkit.confirm import confirm, in_effective_set
from verifkit.exact import can_evaluate_exactly, evaluate_exactly
from verifkit.functions import Abs, Clip, LeakyRelu, Power, Reciprocal, Relu, ScalarFunction, Sigmoid, Sign
from verifkit.input_sets import Box, LpBall
from verifkit.io.onnx import model_from_network
from verifkit.maps import Reshape, Select
from verifkit.model import Model
from verifkit.network import Network, dense_network
from verifkit.ops import Activation, Affine, Input, Max, Node, Product
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.registry import create
from verifkit.result import Reason, Verdict
from verifkit.testing.oracle import ToyNet, evaluate
from verifkit.testing.toys import random_toy, to_model, to_network
from verifkit.weighted_maps import Conv, Scale


@pytest.mark.parametrize("seed", range(20))
def test_exact_values_are_those_of_the_independent_evaluator(seed: int) -> None:
    rng = np.random.default_rng(seed)
    toy = random_toy(rng, magnitudes=seed % 2 == 1)
    x = [Fraction(int(v), 48) for v in rng.integers(-96, 96, toy.n_inputs)]
    assert evaluate_exactly(to_network(toy), x) == evaluate(toy, x)


def conv_network() -> Network:
    """Convolution, ReLU, max pooling, a product of two branches and a division by three."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-3, 4, (2, 1, 3, 3)).astype(float)
    conv = Conv(weight, (1, 1, 4, 4), (1, 1), ((1, 1), (1, 1)), (1, 1))
    index = np.arange(32).reshape(2, 4, 4)
    groups = np.stack([index[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=-1)[None]
    return Network(
        (
            Input(shape=(1, 1, 4, 4), name="x"),
            Affine(shape=conv.out_shape, parents=(0,), maps=(conv,), bias=np.full((1, 2, 4, 4), 0.5), name="conv"),
            Max(shape=(1, 2, 2, 2), parents=(1,), groups=groups, parent_shape=(1, 2, 4, 4), name="pool"),
            Affine(shape=(8,), parents=(2,), maps=(Reshape((1, 2, 2, 2), (8,)),), name="flat"),
            Product(shape=(8,), parents=(3, 3), name="square"),
            Affine(shape=(8,), parents=(4,), maps=(Scale(np.full(8, 3.0), divide=True),), name="third"),
            Affine(shape=(2,), parents=(5,), maps=(Select((8,), np.array([7, 0])),), name="y"),
        )
    )


def test_every_node_kind_is_evaluated_exactly() -> None:
    network = conv_network()
    x = [Fraction(k, 8) for k in range(-8, 8)]
    exact = evaluate_exactly(network, x)
    assert all(v.denominator % 3 == 0 or v.denominator == 64 for v in exact)
    values = network.evaluate(np.array([float(v) for v in x]).reshape(network.input_shape))
    np.testing.assert_allclose([float(v) for v in exact], values, rtol=1e-14)


def test_a_network_with_a_transcendental_activation_has_no_exact_value() -> None:
    network = dense_network([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)], Sigmoid())
    assert not can_evaluate_exactly(network)
    with pytest.raises(TypeError):
        evaluate_exactly(network, [Fraction(0), Fraction(0)])


def exact_value(function: ScalarFunction, values: Sequence[Fraction]) -> tuple[Fraction, ...]:
    size = len(values)
    nodes = (
        Input(shape=(size,), name="x"),
        Activation(shape=(size,), parents=(0,), name="f", function=function),
    )
    return evaluate_exactly(Network(nodes), values)


POINTS = tuple(Fraction(n, d) for n in (-7, -2, -1, 0, 1, 3) for d in (1, 3, 10))


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (Relu(), lambda x: max(x, Fraction(0))),
        (Abs(), abs),
        (Sign(), lambda x: Fraction((x > 0) - (x < 0))),
        (Power(2), lambda x: x**2),
        (Power(5), lambda x: x**5),
        (LeakyRelu(np.array(0.1)), lambda x: x if x >= 0 else Fraction(0.1) * x),
        (LeakyRelu(np.array(-3.0)), lambda x: x if x >= 0 else -3 * x),
        (Clip(np.array(-0.3), np.array(0.25)), lambda x: min(max(x, Fraction(-0.3)), Fraction(0.25))),
        (Clip(np.array(-np.inf), np.array(0.7)), lambda x: min(x, Fraction(0.7))),
        (Clip(np.array(0.0), np.array(np.inf)), lambda x: max(x, Fraction(0))),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_rational_functions_are_exact(function: ScalarFunction, exact: Callable[[Fraction], Fraction]) -> None:
    assert exact_value(function, POINTS) == tuple(exact(x) for x in POINTS)


def test_parameters_of_rational_functions_belong_to_their_entries() -> None:
    slopes = LeakyRelu(np.array([0.5, -1.0, 0.1]))
    assert exact_value(slopes, (Fraction(-1, 3),) * 3) == (Fraction(-1, 6), Fraction(1, 3), -Fraction(0.1) / 3)
    clip = Clip(np.array([-1.0, -np.inf, 0.1]), np.array([1.0, 0.5, np.inf]))
    assert exact_value(clip, (Fraction(-2),) * 3) == (-1, -2, Fraction(0.1))


def test_products_and_powers_are_evaluated_exactly_only_while_numbers_stay_short() -> None:
    def tower(*exponents: int) -> Network:
        nodes: list[Node] = [Input(shape=(1,), name="x")]
        for k, exponent in enumerate(exponents):
            nodes.append(Activation(shape=(1,), parents=(k,), name=f"p{k}", function=Power(exponent)))
        return Network(tuple(nodes))

    assert can_evaluate_exactly(tower(2, 3))
    assert not can_evaluate_exactly(tower(9, 9, 9, 9))
    squares: list[Node] = [Input(shape=(1,), name="x")]
    squares += [Product(shape=(1,), parents=(k, k), name=f"s{k}") for k in range(20)]
    assert not can_evaluate_exactly(Network(tuple(squares)))
    assert can_evaluate_exactly(Network(tuple(squares[:6])))


def test_a_reciprocal_is_left_to_floating_point() -> None:
    network = dense_network([np.eye(1), np.eye(1)], [np.zeros(1), np.zeros(1)], Reciprocal())
    assert not can_evaluate_exactly(network)  # at 0 it has no value to give
    unsafe = unsafe_when_at_most(Fraction(1))
    for center, found in ((0.0, False), (4.0, True)):
        box = Box((Fraction(-8),), (Fraction(8),))
        model = Model("1/x", (1,), (1,), network.evaluate, "0", dtype=np.float64, network=network)
        with np.errstate(divide="ignore"):
            witness = confirm(Query(model, Property(box, unsafe, 1)), np.array([center]))
        assert (witness is not None) == found


def unsafe_when_at_most(bound: Fraction, *, strict: bool = False) -> tuple[Polyhedron, ...]:
    return (Polyhedron((Constraint(outputs=((0, Fraction(1)),), bound=bound, strict=strict),)),)


def identity_query(region: Box | LpBall, unsafe: tuple[Polyhedron, ...]) -> Query:
    model = model_from_network(dense_network([np.eye(region.size)], [np.zeros(region.size)]), "identity")
    return Query(model, Property(region, unsafe, region.size))


def test_touching_is_a_violation_unless_the_row_is_strict() -> None:
    box = Box((Fraction(1),), (Fraction(2),))
    witness = confirm(identity_query(box, unsafe_when_at_most(Fraction(1))), np.array([1.0]))
    assert witness is not None
    assert witness.confirmed_by == "onnxruntime"
    assert witness.in_written_set
    assert confirm(identity_query(box, unsafe_when_at_most(Fraction(1), strict=True)), np.array([1.0])) is None


def test_a_witness_lies_in_the_effective_box_and_says_whether_in_the_written_one() -> None:
    tenth = Fraction(1, 10)  # no float equals it
    query = identity_query(Box((tenth,), (tenth,)), unsafe_when_at_most(Fraction(1)))
    witness = confirm(query, np.array([0.1]))
    assert witness is not None
    assert not witness.in_written_set
    assert witness.within_tolerance
    assert in_effective_set(query.prop.input_set, witness.x, np.float32)


def test_a_candidate_outside_is_moved_inside_or_refused() -> None:
    query = identity_query(Box((Fraction(1),), (Fraction(2),)), unsafe_when_at_most(Fraction(0)))
    assert confirm(query, np.array([-5.0])) is None
    assert confirm(query, np.array([np.nan])) is None
    assert confirm(query, np.array([1.0, 1.0])) is None


def test_a_witness_of_a_ball_lies_exactly_in_the_ball() -> None:
    ball = LpBall((Fraction(0), Fraction(0)), Fraction(1), "2")
    query = identity_query(ball, unsafe_when_at_most(Fraction(-1, 2)))
    witness = confirm(query, np.array([-0.8000001, -0.6000001]))
    assert witness is not None
    assert ball.contains(witness.x)


def test_floats_that_call_a_safe_point_unsafe_do_not_make_a_witness() -> None:
    # In float32 and float64 (2^60 + 1) - 2^60 is 0; exactly it is 1, and the unsafe set is y <= 1/2.
    big = 2.0**60
    network = dense_network(
        [np.array([[big], [big]]), np.array([[1.0, -1.0]])], [np.array([1.0, 0.0]), np.array([0.0])]
    )
    query = Query(
        model_from_network(network, "cancel"),
        Property(Box((Fraction(1),), (Fraction(1),)), unsafe_when_at_most(Fraction(1, 2)), 1),
    )
    assert evaluate_exactly(network, [Fraction(1)]) == (Fraction(1),)
    assert query.model(np.array([[1.0]]))[0, 0] == 0
    assert confirm(query, np.array([1.0])) is None


@pytest.mark.parametrize("name", ["pgd", "bab", "milp", "auto"])
@pytest.mark.parametrize("center", [Fraction(-1, 10), Fraction(-1, 5)])
def test_a_witness_on_the_end_of_a_clip_box_that_is_no_float(name: str, center: Fraction) -> None:
    """relu(-x_0) >= 9/100 is reached where x_0 lies at the clip box's end -1/10 alone; in floats only just inside."""
    toy = ToyNet((((-1.0, 0.0), (0.0, 1.0)), ((1.0, 0.0), (0.0, 1.0))), ((0.0, 0.0), (0.0, 0.0)))
    clip = Box((Fraction(-1, 10), Fraction(0)), (Fraction(1), Fraction(2)))
    rows = (
        Constraint(outputs=((0, Fraction(-1)),), bound=Fraction(-9, 100)),
        Constraint(outputs=((1, Fraction(-1)),), bound=Fraction(-1, 2)),
    )
    prop = Property(LpBall((center, Fraction(0)), Fraction(1), "1", clip), (Polyhedron(rows),), 2)
    result = create(name).verify(Query(to_model(toy), prop))
    assert result.verdict is Verdict.VIOLATED, result


@pytest.mark.parametrize("name", ["bab", "milp", "smt", "reluplex", "auto"])
def test_a_disjunct_without_rows_over_a_point_that_is_no_float(name: str) -> None:
    toy = ToyNet((((1.0,),),), ((0.0,),))
    prop = Property(LpBall((Fraction(1, 3),), Fraction(0), "1"), (Polyhedron(()),), 1)
    assert create(name).verify(Query(to_model(toy), prop)).verdict is Verdict.VIOLATED


def test_reluplex_says_so_beyond_all_floats() -> None:
    toy = ToyNet((((1.0,),), ((1.0,),)), ((0.0,), (0.0,)))
    row = Constraint(outputs=((0, Fraction(-(10**400))),), bound=Fraction(-(10**401)))
    prop = Property(Box((Fraction(-1),), (Fraction(1),)), (Polyhedron((row,)),), 1)
    result = create("reluplex", {"arithmetic": "rational"}).verify(Query(to_model(toy), prop))
    assert result.verdict is Verdict.HOLDS or result.reason is Reason.UNCONFIRMED


def test_a_witness_is_in_the_box_as_written_where_one_will_do() -> None:
    end = Fraction(1, 10)  # no float: those of the effective box reach a little below
    beyond = Fraction(float(np.nextafter(np.float32(0.1), np.float32(0))))
    assert beyond < end
    box = Box((end,), (Fraction(1),))
    witness = confirm(identity_query(box, unsafe_when_at_most(Fraction(11, 100))), np.array([0.0]))
    assert witness is not None
    assert witness.in_written_set
    only_beyond = confirm(identity_query(box, unsafe_when_at_most(beyond)), np.array([0.0]))
    assert only_beyond is not None
    assert (only_beyond.in_written_set, only_beyond.x[0]) == (False, beyond)

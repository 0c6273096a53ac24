"""The order among the methods that theory proves, on random networks, input sets and rows.

What is no law is not tested: intervals against CROWN or Fast-Lin, and CROWN's bounds as the input set shrinks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from verifkit.analysis.backward import lower_bounds
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.parallel import parallel_relu
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.analysis.slopes import Ascent, raise_rows
from verifkit.budget import Budget, Clock
from verifkit.capabilities import Kind
from verifkit.functions import Relu
from verifkit.input_sets import Box, InputSet, LpBall, Norm
from verifkit.io.onnx import model_from_network
from verifkit.maps import Reshape
from verifkit.network import Network
from verifkit.ops import Activation
from verifkit.properties import Polyhedron, Property, misclassified
from verifkit.query import Query
from verifkit.registry import create, names, verifier_class
from verifkit.solvers.triangle_bounds import property_bounds
from verifkit.testing.checks_evidence import outputs_far
from verifkit.testing.graphs import Graph
from verifkit.testing.oracle import ToyNet, evaluate
from verifkit.testing.samples import float_points, row_minimum
from verifkit.testing.strategies import input_sets, toy_networks
from verifkit.testing.toys import random_toy, to_model, to_network
from verifkit.weighted_maps import Conv

EQUAL = 1e-9
"""Between two bounds that are one number in exact arithmetic, relative to the terms that they are sums of."""

SOLVED = 1e-7
"""What a linear program's tolerances may cost."""

conic = pytest.mark.skipif(importlib.util.find_spec("cvxpy") is None, reason="cvxpy is not installed")


def often(count: int) -> settings:
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# --- networks and questions -----------------------------------------------------------------------------------------


def conv_network(seed: int) -> Network:
    """Two convolutions and a dense layer; strides, padding and kernels of all shapes."""
    graph = Graph(1, 2, 4, 5, seed=seed)
    at = 0
    for channels in (3, 2):
        _, into, height, width = graph.nodes[at].shape
        kernel = tuple(int(k) for k in graph.rng.integers(1, 4, 2))
        pads = tuple((int(a), int(b)) for a, b in graph.rng.integers(0, 2, (2, 2)))
        kernel = tuple(min(k, size + sum(p)) for k, size, p in zip(kernel, (height, width), pads, strict=True))
        weight = graph.weights(channels, into, *kernel, fan_in=into * kernel[0] * kernel[1])
        strides = tuple(int(s) for s in graph.rng.integers(1, 3, 2))
        conv = Conv(weight, (1, into, height, width), strides=strides, pads=pads, dilations=(1, 1))
        at = graph.activate(graph.affine((at,), conv), Relu())
    shape = graph.nodes[at].shape
    graph.dense(graph.affine((at,), Reshape(shape, (1, int(np.prod(shape)))), bias=False), 2)
    return graph.network()


def networks(*, residual: bool = True, conv: bool = True) -> st.SearchStrategy[ToyNet | Network]:
    """Dyadic and gaussian toys, and convolutions."""
    gaussian = st.integers(0, 2**32 - 1).map(
        lambda seed: random_toy(
            np.random.default_rng(seed), weights="gaussian", max_relus=14, residual=None if residual else False
        )
    )
    found: st.SearchStrategy[ToyNet | Network] = toy_networks(residual=residual) | gaussian
    return found | st.integers(0, 2**31 - 1).map(conv_network) if conv else found


@st.composite
def rows_of_everything(
    draw: st.DrawFn, nets: st.SearchStrategy[ToyNet | Network], kinds: tuple[str, ...] = ("box", "l1", "l2")
) -> tuple[Query, ToyNet | None]:
    """`every_row` of a network over an input set; the toy, where the network is one."""
    net = draw(nets)
    if isinstance(net, ToyNet):
        region = draw(input_sets(net.n_inputs, kinds=kinds))  # type: ignore[arg-type]
        return Query(to_model(net), every_row(region, net.n_outputs)), net
    region = around(draw(st.integers(0, 2**32 - 1)), net.n_inputs, draw(st.sampled_from(kinds)))
    return Query(model_from_network(net, "conv"), every_row(region, net.n_outputs)), None


def around(seed: int, n: int, kind: str) -> InputSet:
    rng = np.random.default_rng(seed)
    center = tuple(Fraction(int(v), 8) for v in rng.integers(-8, 9, n))
    radius = Fraction(int(rng.integers(0, 9)), 16) * (1 if kind == "box" else 3)
    reach = Fraction(int(rng.integers(1, 5)), 4) * radius
    box = Box(tuple(c - reach for c in center), tuple(c + reach / 2 for c in center))
    norm: Norm = "1" if kind == "l1" else "2"
    return box if kind == "box" else LpBall(center, radius, norm, box if rng.random() < 0.5 else None)


def every_row(region: InputSet, n_outputs: int) -> Property:
    """A row for every output, its negative, its sum with all inputs, and a sum of two, each a disjunct; bounds are 0.

    A margin is then the row's bound itself, and no rounding lies between.
    """
    far = outputs_far(Property(region, (), n_outputs), True)
    return replace(far, unsafe=tuple(Polyhedron((replace(d.constraints[0], bound=Fraction(0)),)) for d in far.unsafe))


def clock() -> Clock:
    return Clock(Budget())


def crown(query: Query) -> tuple[LinearAnalysis, Rows]:
    """CROWN's bounds of the layers, over which methods are then compared."""
    return analyse(query.network.without_max(), region_of(query), CROWN_RELAXATIONS, clock()), rows_of(query.prop)


def size_of(analysis: LinearAnalysis, rows: Rows) -> np.ndarray:
    """1 + about the size of the terms in each row's bound."""
    total = 1.0 + sum(float(np.abs(end).max()) for bounds in analysis.bounds for end in bounds)
    return np.asarray(total * (1.0 + np.abs(rows.outputs).sum(axis=1)))


def below(lower: np.ndarray, upper: np.ndarray, size: np.ndarray | float, tolerance: float) -> bool:
    return bool((lower <= upper + tolerance * size).all())


def fastlin_rows(analysis: LinearAnalysis, rows: Rows) -> np.ndarray:
    """Fast-Lin's bounds with the same bounds of the layers."""
    network = analysis.network
    lines = {
        k: parallel_relu(network.nodes[k].function, *analysis.bounds[network.nodes[k].parents[0]])  # type: ignore[attr-defined]
        for k in analysis.lines
    }
    start = analysis.starts([rows])
    found = lower_bounds(network, start, analysis.bounds, lines, analysis.region)
    return np.asarray(analysis.certain([rows], found))[0]


def raised(analysis: LinearAnalysis, rows: Rows, iterations: int) -> np.ndarray:
    """alpha-CROWN's, with the slopes of the rows alone."""
    compact = analysis.compact
    assert compact is not None
    start = {k: compact.rows_of(k, v) for k, v in analysis.starts([rows]).items()}
    with np.errstate(all="ignore"):  # as every verifier has it
        found = raise_rows(compact, start, None, np.array([[np.inf]]), Ascent(iterations), clock())
    return np.asarray(analysis.certain([rows], found.lower))[0]


def margin(name: str, query: Query, **options: object) -> float:
    result = create(name, options).verify(query)
    assert "margin" in result.statistics, f"{name}: {result.reason} {result.detail}"
    return float(result.statistics["margin"])


def one_row(query: Query, number: int) -> Query:
    return Query(query.model, replace(query.prop, unsafe=query.prop.unsafe[number : number + 1]))


# --- equalities -----------------------------------------------------------------------------------------------------


def same_relaxation(question: tuple[Query, ToyNet | None], others: tuple[str, ...]) -> None:
    query, _ = question
    analysis, rows = crown(query)
    size = float(size_of(analysis, rows).max())
    for number in range(0, len(query.prop.unsafe), 3):
        row = one_row(query, number)
        wanted = margin("fastlin", row)
        for other in others:
            assert margin(other, row) == pytest.approx(wanted, rel=EQUAL, abs=EQUAL * size), other


@often(40)
@given(question=rows_of_everything(networks()))
def test_dual_is_fastlin(question: tuple[Query, ToyNet | None]) -> None:
    same_relaxation(question, ("dual",))


@often(40)
@given(question=rows_of_everything(networks(residual=False, conv=False), kinds=("box",)))
def test_zonotope_is_fastlin_on_a_box(question: tuple[Query, ToyNet | None]) -> None:
    same_relaxation(question, ("dual", "zonotope"))


@conic
@often(6)
@given(question=rows_of_everything(networks(conv=False), kinds=("box", "l1")))
def test_two_statements_of_one_linear_program_agree(question: tuple[Query, ToyNet | None]) -> None:
    query, _ = question
    wanted = margin("lp", query)
    assert margin("lp_cvxpy", query) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@st.composite
def balls_around_outside(draw: st.DrawFn) -> Query:
    """An l1 ball whose center lies outside its clip box, in one entry or all."""
    net = draw(networks(conv=False))
    assert isinstance(net, ToyNet)
    n = net.n_inputs
    center = draw(st.tuples(*[st.integers(-8, 8)] * n))
    beyond = draw(st.tuples(st.integers(1, 4), *[st.integers(-4, 4)] * (n - 1)))
    width = draw(st.tuples(*[st.integers(0, 8)] * n))
    clip = Box(
        tuple(Fraction(c + b, 8) for c, b in zip(center, beyond, strict=True)),
        tuple(Fraction(c + b + w, 8) for c, b, w in zip(center, beyond, width, strict=True)),
    )
    gaps = sum(max(b, -b - w, 0) for b, w in zip(beyond, width, strict=True))
    radius = Fraction(gaps + draw(st.integers(0, 12)), 8)
    return Query(
        to_model(net), every_row(LpBall(tuple(Fraction(c, 8) for c in center), radius, "1", clip), net.n_outputs)
    )


@conic
@often(8)
@given(query=balls_around_outside())
def test_the_linear_programs_agree_where_the_center_lies_outside(query: Query) -> None:
    wanted = margin("lp", query)
    assert margin("lp_cvxpy", query) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@often(60)
@given(query=balls_around_outside())
def test_order_where_the_center_lies_outside(query: Query) -> None:
    ordered((query, None))


# --- one order, over one set of bounds of the layers ----------------------------------------------------------------


def ordered(question: tuple[Query, ToyNet | None]) -> None:
    """Fast-Lin, CROWN <= triangles; CROWN <= alpha-CROWN <= triangles <= exact <= any input's value."""
    query, toy = question
    analysis, rows = crown(query)
    size = size_of(analysis, rows)
    start, few, many = analysis.property_rows(rows)[0], raised(analysis, rows, 3), raised(analysis, rows, 12)
    assert (start <= few).all()
    assert (few <= many).all()
    points = float_points(np.random.default_rng(0), query.prop.input_set, 200)
    shaped = points.reshape(-1, *query.network.input_shape)
    values = query.network.evaluate(shaped).reshape(len(points), -1) @ rows.outputs.T
    if rows.inputs is not None:
        values = values + points @ rows.inputs.T
    attacked = values.min(axis=0, initial=np.inf)
    best = np.maximum(many, fastlin_rows(analysis, rows))
    assert below(best, attacked, size, EQUAL)
    ball = query.prop.input_set
    if isinstance(ball, LpBall) and ball.norm == "2":
        return  # neither the linear program nor the oracle takes it
    triangles = property_bounds(analysis, rows, clock())[0]
    assert below(best, triangles, size, SOLVED)
    intervals = analyse(query.network, region_of(query), {}, clock()).property_rows(rows)[0]
    assert below(intervals, triangles, size, SOLVED)
    assert below(triangles, attacked, size, EQUAL)
    if toy is not None and toy.n_relus <= 10:
        for number in range(0, len(triangles), 4):
            exact = row_minimum(toy, query.prop, number, 0)
            assert Fraction(float(triangles[number])) <= exact
            assert float(exact) <= attacked[number] + EQUAL * size[number]


@often(80)
@given(question=rows_of_everything(networks()))
def test_order(question: tuple[Query, ToyNet | None]) -> None:
    ordered(question)


def test_order_where_the_primal_simplex_ends_short_of_the_optimum() -> None:
    """HiGHS 1.16 says "Unknown" of the sixth of these rows when it goes on from the fifth one's basis."""
    net = conv_network(48600)
    query = Query(model_from_network(net, "conv"), every_row(around(48600, net.n_inputs, "box"), net.output_shape[1]))
    ordered((query, None))
    analysis, rows = crown(query)
    together = property_bounds(analysis, rows, clock())[0]
    alone = [property_bounds(analysis, rows_of(one_row(query, k).prop), clock())[0][0] for k in range(len(together))]
    assert together == pytest.approx(alone, abs=1e-6)


@pytest.mark.slow
@often(1000)
@given(question=rows_of_everything(networks()))
def test_order_on_many(question: tuple[Query, ToyNet | None]) -> None:
    ordered(question)


@pytest.mark.parametrize("seed", range(8))
def test_at_its_optimum_alpha_crown_is_above_fastlin(seed: int) -> None:
    """And near the triangles', whose dual it then solves."""
    rng = np.random.default_rng(seed)
    toy = random_toy(rng, n_inputs=4, n_outputs=2, hidden=[6, 6], weights="gaussian", residual=False)
    region = Box((Fraction(-1, 2),) * 4, (Fraction(1, 2),) * 4)
    analysis, rows = crown(Query(to_model(toy), every_row(region, 2)))
    compact = analysis.compact
    assert compact is not None
    start = {k: compact.rows_of(k, v) for k, v in analysis.starts([rows]).items()}
    best = raise_rows(compact, start, None, np.array([[np.inf]]), Ascent(400, 0.2, 0.985), clock()).lower[0]
    assert below(fastlin_rows(analysis, rows), best, 1.0, 1e-3)
    assert below(property_bounds(analysis, rows, clock())[0], best, 1.0, 1e-2)


@often(10)
@given(question=rows_of_everything(networks(conv=False), kinds=("box", "l1")))
def test_no_verifier_is_above_the_exact_minimum_nor_an_attack_below_it(question: tuple[Query, ToyNet | None]) -> None:
    query, toy = question
    assert toy is not None
    assume(toy.n_relus <= 10)
    for number in (0, 2):
        row = one_row(query, number)
        exact = row_minimum(toy, row.prop, 0, 0)
        for name in bounding():
            if not is_conic(name) and row.norm in verifier_class(name).capabilities.kinds:
                assert Fraction(margin(name, row)) <= exact, name
        loss = float(create("pgd").verify(row).statistics["loss"])
        assert loss >= float(exact) - 1e-9 * (1 + abs(loss))


@conic
@often(12)
@given(question=rows_of_everything(networks(conv=False), kinds=("box",)))
def test_the_semidefinite_relaxation_lies_between_crown_and_the_exact_minimum(
    question: tuple[Query, ToyNet | None],
) -> None:
    query, toy = question
    assert toy is not None
    assume(toy.n_relus <= 8)
    row = one_row(query, 0)
    found = margin("sdp", row, every_row=True)
    assert found >= margin("crown", row)
    assert Fraction(found) <= row_minimum(toy, row.prop, 0, 0)


# --- smaller input sets ---------------------------------------------------------------------------------------------


def triangles_on_intervals(query: Query) -> np.ndarray:
    """The triangle relaxation over interval bounds of the layers: both only shrink with the input set."""
    network, rows = query.network.without_max(), rows_of(query.prop)
    analysis = analyse(network, region_of(query), CROWN_RELAXATIONS, clock(), tighten=False)
    return property_bounds(analysis, rows, clock())[0]


def with_set(query: Query, region: InputSet) -> Query:
    return Query(query.model, replace(query.prop, input_set=region))


@often(40)
@given(question=rows_of_everything(networks()), share=st.integers(0, 7))
def test_a_smaller_radius_is_no_worse(question: tuple[Query, ToyNet | None], share: int) -> None:
    query, toy = question
    region = query.prop.input_set
    assume(not isinstance(region, Box) or region.lower != region.upper)
    smaller = shrunk(region, Fraction(share, 8))
    small, large = with_set(query, smaller), query
    analysis, rows = crown(large)
    size = size_of(analysis, rows)
    intervals = [analyse(q.network, region_of(q), {}, clock()).property_rows(rows)[0] for q in (large, small)]
    assert below(*intervals, size, EQUAL)
    if query.norm == "2":
        return
    assert below(triangles_on_intervals(large), triangles_on_intervals(small), size, SOLVED)
    if toy is not None and toy.n_relus <= 10:
        assert row_minimum(toy, large.prop, 0, 0) <= row_minimum(toy, small.prop, 0, 0)


def shrunk(region: InputSet, share: Fraction) -> InputSet:
    if isinstance(region, LpBall):
        return replace(region, radius=region.radius * share)
    middle = [(a + b) / 2 for a, b in zip(region.lower, region.upper, strict=True)]
    return Box(
        tuple(m + share * (a - m) for m, a in zip(middle, region.lower, strict=True)),
        tuple(m + share * (b - m) for m, b in zip(middle, region.upper, strict=True)),
    )


@often(20)
@given(question=rows_of_everything(networks(), kinds=("box",)), place=st.integers(0, 100), cut=st.integers(1, 7))
def test_the_worse_part_of_a_split_is_no_worse(question: tuple[Query, ToyNet | None], place: int, cut: int) -> None:
    query, toy = question
    box = query.prop.input_set
    assert isinstance(box, Box)
    k = place % box.size
    at = box.lower[k] + (box.upper[k] - box.lower[k]) * Fraction(cut, 8)
    halves = [Box((*box.lower[:k], a, *box.lower[k + 1 :]), (*box.upper[:k], b, *box.upper[k + 1 :]))
              for a, b in ((box.lower[k], at), (at, box.upper[k]))]  # fmt: skip
    parts = [with_set(query, half) for half in halves]
    analysis, rows = crown(query)
    size = size_of(analysis, rows)
    whole, *each = (analyse(q.network, region_of(q), {}, clock()).property_rows(rows)[0] for q in (query, *parts))
    assert below(whole, np.minimum(*each), size, EQUAL)
    whole, *each = (triangles_on_intervals(q) for q in (query, *parts))
    assert below(whole, np.minimum(*each), size, SOLVED)
    if toy is not None and toy.n_relus <= 8:
        exact, *both = (row_minimum(toy, q.prop, 0, 0) for q in (query, *parts))
        assert exact == min(both)


# --- a single point -------------------------------------------------------------------------------------------------


def bounding() -> list[str]:
    """The installed verifiers that bound rows."""
    capabilities = {name: verifier_class(name).capabilities for name in names()}
    return [
        n for n, c in capabilities.items() if set(c.kinds.values()) == {Kind.INCOMPLETE} and not c.missing_modules()
    ]


def is_conic(name: str) -> bool:
    return "cvxpy" in verifier_class(name).capabilities.modules


def exact_options(name: str) -> Mapping[str, object]:
    return {"every_row": True} if name == "sdp" else {"early_stop": False} if name == "alpha_crown" else {}


def check_point(name: str, net: ToyNet | Network, x: tuple[Fraction, ...]) -> None:
    model = to_model(net) if isinstance(net, ToyNet) else model_from_network(net, "conv")
    network = to_network(net) if isinstance(net, ToyNet) else net
    values = network.values(np.array([float(v) for v in x]).reshape(1, *network.input_shape))
    scale = 1.0 + sum(float(np.abs(v).max()) for v in values)
    exact = isinstance(net, ToyNet)
    y = np.array([float(v) for v in evaluate(net, x)]) if exact else values[-1].reshape(-1)
    unsafe = misclassified(0, model.n_outputs) if model.n_outputs > 1 else None
    wanted = float((y[0] - y[1:]).min()) if unsafe is not None else float(-y[0])
    if unsafe is None:
        unsafe = every_row(Box(x, x), 1).unsafe[2:3]
    for norm in verifier_class(name).capabilities.kinds:
        clip = Box(tuple(v - 1 for v in x), tuple(v + 1 for v in x)) if norm == "0" else None
        region = Box(x, x) if norm == "inf" else LpBall(x, Fraction(0), norm, clip)
        query = Query(model, Property(region, unsafe, model.n_outputs))
        tolerance = (1e-5 if is_conic(name) else EQUAL) * scale
        assert margin(name, query, **exact_options(name)) == pytest.approx(wanted, abs=tolerance, rel=0), norm


@pytest.mark.parametrize("name", [n for n in bounding() if not is_conic(n)])
@often(12)
@given(data=st.data())
def test_radius_zero_is_the_forward_pass(name: str, data: st.DataObject) -> None:
    net = data.draw(networks())
    n = net.n_inputs
    check_point(name, net, tuple(Fraction(v, 8) for v in data.draw(st.tuples(*[st.integers(-8, 8)] * n))))


@conic
@pytest.mark.parametrize("name", [n for n in bounding() if is_conic(n)])
@often(4)
@given(data=st.data())
def test_radius_zero_is_the_forward_pass_of_conic_methods(name: str, data: st.DataObject) -> None:
    net = data.draw(networks(conv=False))
    n = net.n_inputs
    check_point(name, net, tuple(Fraction(v, 8) for v in data.draw(st.tuples(*[st.integers(-8, 8)] * n))))


def test_units_are_really_unstable() -> None:
    """The random questions are no trivial ones: units of both kinds, and relaxations that differ."""
    gains, unstable = [], 0
    for seed in range(10):
        net = conv_network(seed)
        query = Query(model_from_network(net, "conv"), every_row(around(seed, net.n_inputs, "box"), 2))
        analysis, rows = crown(query)
        for node in net.nodes:
            if isinstance(node, Activation):
                lower, upper = analysis.bounds[node.parents[0]]
                unstable += int(((lower < 0) & (upper > 0)).sum())
        gains.append(float((property_bounds(analysis, rows, clock())[0] - analysis.property_rows(rows)[0]).max()))
    assert unstable > 50
    assert max(gains) > 0.1

"""Zonotopes and their powersets: rigorous against exact evaluation, equal to a backward pass where theory says so."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linprog

from verifiers.incomplete.ai2 import Ai2
from verifiers.incomplete.zonotope import Zonotope
from verifkit.analysis.affine_forms import Forms, InputSymbols, reduced
from verifkit.analysis.linear import analyse
from verifkit.analysis.parallel import PARALLEL_RELAXATIONS
from verifkit.analysis.powerset import Powerset
from verifkit.analysis.region import Region, region_of
from verifkit.analysis.rows import rows_of
from verifkit.analysis.zonotope import zonotopes
from verifkit.analysis.zonotope_meet import Halfspaces, met_bounds
from verifkit.budget import Budget, BudgetExhausted, Clock
from verifkit.errors import OptionError
from verifkit.evidence import Leaf
from verifkit.functions import Relu, Sigmoid
from verifkit.input_sets import Box
from verifkit.io.onnx import load_model, model_from_network
from verifkit.maps import Identity
from verifkit.model import Model
from verifkit.network import Network, dense_network
from verifkit.ops import Activation, Affine, Input, Product
from verifkit.properties import Constraint, Polyhedron, Property, robustness
from verifkit.query import Query, robustness_family
from verifkit.result import Reason, Verdict
from verifkit.testing.gallery import exhibits
from verifkit.testing.oracle import evaluate
from verifkit.testing.toys import random_region, random_toy, sample_points, to_model
from verifkit.weighted_maps import Dense, Scale

ZOO = Path(__file__).resolve().parents[2] / "benchmarks" / "zoo"
RELU_NETWORKS = sorted(p.stem for p in ZOO.glob("*.onnx") if not {"sigmoid", "tanh", "forest"} & set(p.stem.split("-")))


def clock() -> Clock:
    return Clock(Budget())


def of_zoo(name: str, norm: str, radius: float, index: int = 1) -> Query:
    model = load_model(ZOO / f"{name}.onnx")
    x, label = sample(model, index)
    return Query(model, robustness(x, label, radius, n_outputs=model.n_outputs, norm=norm, clip=(0, 1)))


def sample(model: Model, index: int) -> tuple[np.ndarray, int]:
    folder = ZOO if model.n_inputs == 2 else ZOO.parent / "suites"
    x = np.load(folder / ("toy-samples.npz" if model.n_inputs == 2 else "digits-samples.npz"))["x"][index].reshape(-1)
    return x, int(model(x[None]).argmax())


def every_output(inputs: Box, count: int) -> Property:
    """Rows on every output and its negative."""
    unsafe = tuple(
        Polyhedron((Constraint(outputs=((j, Fraction(sign)),), bound=Fraction(0)),))
        for j in range(count)
        for sign in (1, -1)
    )
    return Property(inputs, unsafe, count)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("method", ["zonotope", "reduced", "cases", "common"])
def test_bounds_contain_exact_outputs(seed: int, method: str) -> None:
    rng = np.random.default_rng(seed)
    toy = random_toy(rng, magnitudes=seed % 3 == 0)
    inputs = random_region(rng, toy.n_inputs, kinds=("box", "l1", "l2"))
    query = Query(to_model(toy), every_output(inputs, toy.n_outputs))  # type: ignore[arg-type]
    region, rows = region_of(query), rows_of(query.prop)
    if method in ("zonotope", "reduced"):
        analysis = zonotopes(query.network, region, clock(), generators=2 if method == "reduced" else None)
        lower = analysis.property_rows(rows)[0]
    else:
        powerset = Powerset(query.network, region, 6, chord=method == "cases", clock=clock())
        assert powerset.cases <= 6
        lower = powerset.property_rows(rows).min(axis=0)
    for x in sample_points(rng, inputs, 30):
        for j, value in enumerate(evaluate(toy, x)):
            assert Fraction(lower[2 * j]) <= value <= -Fraction(lower[2 * j + 1])


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
@pytest.mark.parametrize("name", RELU_NETWORKS)
def test_relu_networks_get_the_bounds_of_fastlin(name: str, norm: str) -> None:
    query = of_zoo(name, norm, {"inf": 0.03, "2": 0.2, "1": 0.5}[norm])
    network, region, rows = query.network.without_max(), region_of(query), rows_of(query.prop)
    forward = zonotopes(network, region, clock())
    backward = analyse(network, region, PARALLEL_RELAXATIONS, clock())
    for (a, b), (c, d) in zip(forward.linear.bounds, backward.bounds, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(b, d, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(forward.property_rows(rows), backward.property_rows(rows), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("exhibit", exhibits(), ids=lambda e: e.name)
def test_a_backward_pass_with_the_same_lines_gives_the_same_rows(exhibit) -> None:  # type: ignore[no-untyped-def]
    network = exhibit.network.without_max()
    if any(isinstance(n, Activation) and type(n.function) not in PARALLEL_RELAXATIONS for n in network.nodes):
        pytest.skip("a function without lines")
    box = Box((Fraction(-1, 8),) * network.n_inputs, (Fraction(1, 8),) * network.n_inputs)
    query = Query(exhibit.model, every_output(box, network.n_outputs))
    analysis = zonotopes(network, region_of(query), clock())
    rows = rows_of(query.prop)
    ours, theirs = analysis.property_rows(rows), analysis.linear.property_rows(rows)
    if len(analysis.linear.lines) + len(analysis.linear.planes) == sum(
        isinstance(n, Activation | Product) for n in network.nodes
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8)
    x = np.random.default_rng(0).uniform(-0.125, 0.125, (500, *network.input_shape))
    y = network.evaluate(x).reshape(500, -1)
    assert (ours[0, 0::2] <= y.min(axis=0) + 1e-9).all()
    assert (-ours[0, 1::2] >= y.max(axis=0) - 1e-9).all()


def test_branches_that_meet_again_cancel() -> None:
    # relu(x) - relu(x), and x - x: nothing is left, as both sides have the same symbols.
    shape = (3,)
    minus = Scale(np.full(shape, -1.0))
    network = Network((
        Input(shape=shape, name="x"),
        Activation(shape=shape, parents=(0,), name="relu", function=Relu()),
        Affine(shape=shape, parents=(1, 1, 0, 0), name="zero",
               maps=(Identity(shape), minus, Identity(shape), minus)),
    ))  # fmt: skip
    analysis = zonotopes(network, Region(np.full((1, 3), -1.0), np.ones((1, 3))), clock())
    lower, upper = analysis.symbols.bounds(analysis.outputs)
    assert (np.abs(lower) < 1e-12).all()
    assert (np.abs(upper) < 1e-12).all()


def test_rows_that_mention_inputs_know_the_correlation() -> None:
    network = dense_network([np.eye(2), np.eye(2)], [np.full(2, 3.0), np.full(2, -3.0)])  # x, all units active
    rows = tuple(
        Polyhedron((Constraint(outputs=((0, Fraction(s)),), inputs=((0, Fraction(-s)),), bound=Fraction(-1)),))
        for s in (1, -1)
    )
    box = Box((Fraction(-1),) * 2, (Fraction(1),) * 2)
    query = Query(model_from_network(network, "identity"), Property(box, rows, 2))
    for lower in (
        zonotopes(query.network, region_of(query), clock()).property_rows(rows_of(query.prop)),
        Powerset(query.network, region_of(query), 4, chord=True, clock=clock()).property_rows(rows_of(query.prop)),
    ):
        assert (np.abs(lower) < 1e-12).all()


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
def test_radius_zero_is_the_forward_pass(norm: str) -> None:
    query = of_zoo("digits-conv-residual", norm, 0.0)
    analysis = zonotopes(query.network, region_of(query), clock())
    x = np.array([float(v) for v in region_of(query).lower.reshape(-1)]).reshape(1, *query.network.input_shape)
    lower, upper = analysis.symbols.bounds(analysis.outputs)
    np.testing.assert_allclose(lower, query.network.evaluate(x), atol=1e-9)
    np.testing.assert_allclose(upper, query.network.evaluate(x), atol=1e-9)


def test_reduction_keeps_what_moves_most_and_contains_the_rest() -> None:
    rng = np.random.default_rng(3)
    forms = Forms(rng.normal(size=(2, 4)), rng.normal(size=(2, 9, 4)), np.full((2, 4), 0.1), np.arange(9))
    forms.coefficients[:, 5] *= 100.0
    reach = np.ones((2, 9))
    few = reduced(forms, reach, 3, fixed=2)
    assert few.symbols.size == 5
    assert {0, 1, 5} <= set(few.symbols.tolist())
    total = np.abs(forms.coefficients).sum(axis=1) + forms.rest
    assert (np.abs(few.coefficients).sum(axis=1) + few.rest >= total).all()
    np.testing.assert_allclose(np.abs(few.coefficients).sum(axis=1) + few.rest, total, rtol=1e-12)
    assert reduced(forms, reach, 9) is forms


def test_reduction_bounds_the_symbols_of_every_node() -> None:
    query = of_zoo("digits-3x100", "inf", 0.05)
    full = zonotopes(query.network, region_of(query), clock())
    few = zonotopes(query.network, region_of(query), clock(), generators=40)
    assert few.outputs.symbols.size <= 40 < full.outputs.symbols.size
    rows = rows_of(query.prop)
    assert (few.property_rows(rows) <= few.linear.property_rows(rows) + 1e-9).all()


def test_memory_is_bounded_by_dropping_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    query = of_zoo("digits-conv-maxpool", "inf", 0.03)
    network, region, rows = query.network.without_max(), region_of(query), rows_of(query.prop)
    full = zonotopes(network, region, clock()).property_rows(rows)
    monkeypatch.setattr("verifkit.analysis.affine_forms.CEILING", 2**14)
    few = zonotopes(network, region, clock())
    assert few.outputs.coefficients.size <= 2**14
    assert (few.property_rows(rows) <= full + 1e-9).all()
    cases = Powerset(network, region, 3, chord=True, clock=clock()).property_rows(rows)
    x = np.random.default_rng(0).uniform(region.lower, region.upper, (500, *network.input_shape))
    y = network.evaluate(x)
    least = (y.reshape(500, -1) @ rows.outputs.T).min(axis=0)
    assert (few.property_rows(rows)[0] <= least).all()
    assert (cases.min(axis=0) <= least).all()


def test_batched_boxes_get_the_bounds_of_single_ones() -> None:
    network = load_model(ZOO / "digits-2x50-tanh.onnx").network
    assert network is not None
    center = np.random.default_rng(0).random((3, *network.input_shape))
    low, high = center - 0.02, center + 0.02
    low[1], high[1] = center[1], center[1]  # one of zero width
    together = zonotopes(network, Region(low, high), clock())
    for k in range(3):
        alone = zonotopes(network, Region(low[k : k + 1], high[k : k + 1]), clock())
        for (a, b), (c, d) in zip(alone.linear.bounds, together.linear.bounds, strict=True):
            np.testing.assert_allclose(a[0], c[k], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(b[0], d[k], rtol=1e-9, atol=1e-9)


def test_torch_arrays_give_the_same_bounds() -> None:
    torch = pytest.importorskip("torch")
    network = load_model(ZOO / "digits-conv-residual.onnx").network
    assert network is not None
    low = np.random.default_rng(1).random((2, *network.input_shape))
    center, radius = low + 0.05, np.array([0.2, 0.3])
    for extra in ((), (center, radius)):
        parts = (low, low + 0.1, *extra)
        kind = {"norm": "2"} if extra else {}
        ours = zonotopes(network, Region(*parts, **kind), clock(), generators=100)
        theirs = zonotopes(network, Region(*map(torch.tensor, parts), **kind), clock(), generators=100)
        for (a, b), (c, d) in zip(ours.linear.bounds, theirs.linear.bounds, strict=True):
            np.testing.assert_allclose(a, c.numpy(), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(b, d.numpy(), rtol=1e-9, atol=1e-9)


def test_overflow_proves_nothing() -> None:
    network = dense_network([np.full((2, 2), 1e200), np.full((1, 2), 1e200)], [np.zeros(2), np.zeros(1)])
    query = Query(model_from_network(network, "huge"), every_output(Box((-1, -1), (1, 1)), 1))  # type: ignore[arg-type]
    for lower in (
        zonotopes(query.network, region_of(query), clock()).property_rows(rows_of(query.prop)),
        Powerset(query.network, region_of(query), 4, chord=True, clock=clock()).property_rows(rows_of(query.prop)),
    ):
        assert (lower.min(axis=0) == -np.inf).all()
    assert Zonotope().verify(query).reason is Reason.INCOMPLETE
    assert Ai2().verify(query).reason is Reason.INCOMPLETE


def test_evidence_of_a_zonotope_is_a_leaf() -> None:
    result = Zonotope().verify(of_zoo("digits-2x50-sigmoid", "inf", 0.01))
    assert result.verdict is Verdict.HOLDS
    assert isinstance(result.evidence, Leaf)
    for lines in result.evidence.lines.values():
        assert np.array_equal(lines.lower_slope, lines.upper_slope)


# --- meet, cases, join --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5])
def test_bounds_over_a_meet_are_those_of_the_linear_program_or_lower(count: int) -> None:
    rng = np.random.default_rng(count)
    size, entries = 6, 4
    symbols = InputSymbols(Region(np.full((1, size), -1.0), np.ones((1, size))))
    forms = Forms(rng.normal(size=(1, entries)), rng.normal(size=(1, size, entries)), np.zeros((1, entries)),
                  np.arange(size))  # fmt: skip
    halfspaces = Halfspaces(rng.normal(size=(3, count)) * 0.3, rng.normal(size=(3, count, size)), np.zeros((3, count)))
    lower, upper = met_bounds(symbols, symbols.reach, forms, np.arange(entries), halfspaces, clock())
    plain, _ = symbols.bounds(forms)
    gained = 0
    for case in range(3):
        for j in range(entries):
            for sign, found in ((1.0, lower), (-1.0, -upper)):
                program = linprog(
                    sign * forms.coefficients[0, :, j],
                    A_ub=-halfspaces.coefficients[case],
                    b_ub=halfspaces.center[case],
                    bounds=[(-1, 1)] * size,
                )
                if not program.success:
                    continue
                least = program.fun + sign * forms.center[0, j]
                assert found[case, j] <= least + 1e-9
                if count == 1:
                    assert found[case, j] == pytest.approx(least, abs=1e-9)
            gained += lower[case, j] > plain[0, j] + 1e-6
    assert gained


def test_one_case_is_the_zonotope() -> None:
    for name in ("digits-2x50", "digits-3x100-pgd-0.1", "toy-spirals"):
        query = of_zoo(name, "inf", 0.03)
        rows, region = rows_of(query.prop), region_of(query)
        ours = Powerset(query.network, region, 1, chord=True, clock=clock()).property_rows(rows)
        np.testing.assert_allclose(ours, zonotopes(query.network, region, clock()).property_rows(rows), rtol=1e-9)


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
@pytest.mark.parametrize("name", ["digits-2x50", "digits-3x100-pgd-0.1", "digits-conv-small", "toy-spirals"])
def test_cases_are_strictly_tighter_than_the_zonotope(name: str, norm: str) -> None:
    small = name == "toy-spirals"
    query = of_zoo(name, norm, {"inf": 0.05, "2": 0.06 if small else 0.3, "1": 0.06 if small else 0.8}[norm], 4)
    rows, region = rows_of(query.prop), region_of(query)
    plain = rows.margin(zonotopes(query.network, region, clock()).property_rows(rows)[0])
    powerset = Powerset(query.network, region, 8, chord=True, clock=clock())
    margin = min(rows.margin(lower) for lower in powerset.property_rows(rows))
    assert margin > plain + 1e-3 * (1.0 + abs(plain))


def test_ai2_proves_what_zonotope_cannot() -> None:
    query = of_zoo("toy-spirals", "inf", 0.0575, 4)
    assert Zonotope().verify(query).reason is Reason.INCOMPLETE
    assert Ai2(disjuncts=1).verify(query).reason is Reason.INCOMPLETE
    proved = Ai2(disjuncts=16).verify(query)
    assert proved.verdict is Verdict.HOLDS
    assert proved.evidence is None
    assert 1 < int(proved.statistics["cases"]) <= 16
    assert proved.bounds is not None
    layer = list(proved.bounds.layers.values())[-1]
    model = query.model
    x, label = sample(model, 4)
    assert (layer.lower <= model(x[None]).reshape(layer.lower.shape)).all()
    assert layer.upper.reshape(-1)[label] > layer.lower.reshape(-1)[label]


def test_radii_of_ai2_are_larger() -> None:
    model = load_model(ZOO / "digits-2x50.onnx")
    x, label = sample(model, 1)
    family = robustness_family(model, x, label, "inf", (0, 1))
    ends = [v.radius(family, attack=False).certified for v in (Zonotope(), Ai2(disjuncts=8), Ai2(join="common"))]
    zonotope, cases, common = (end.value for end in ends if end is not None)
    assert common < zonotope < cases


def test_time_is_watched() -> None:
    query = of_zoo("digits-3x100", "inf", 0.3)
    tired = Clock(Budget(seconds=1e-9))
    with pytest.raises(BudgetExhausted):
        Powerset(query.network, region_of(query), 64, chord=True, clock=tired)
    with pytest.raises(BudgetExhausted):
        zonotopes(query.network, region_of(query), tired)


def test_options_are_checked() -> None:
    for wrong in ({"disjuncts": 0}, {"join": "hull"}):
        with pytest.raises(OptionError):
            Ai2(**wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError):
        Zonotope(generators=-1)


def test_ai2_refuses_other_activations() -> None:
    network = dense_network([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)], Sigmoid())
    model = model_from_network(network, "sigmoid")
    assert Ai2().verify(Query(model, robustness([0.5, 0.2], 0, 0.1, n_outputs=2))).reason is Reason.UNSUPPORTED


def test_an_affine_network_is_bounded_exactly_in_every_norm() -> None:
    network = Network((Input(shape=(2,), name="x"),
                       Affine(shape=(1,), parents=(0,), name="y", maps=(Dense(np.array([[3.0, -4.0]])),),
                              bias=np.array([1.0]))))  # fmt: skip
    low, high = np.full((1, 2), -1.0), np.full((1, 2), 3.0)
    for norm, dual in (("inf", 7.0), ("2", 5.0), ("1", 4.0)):
        ball = Region(low, high, np.ones((1, 2)), np.array([2.0]), norm)
        analysis = zonotopes(network, Region(low, high) if norm == "inf" else ball, clock())
        lower, upper = analysis.symbols.bounds(analysis.outputs)
        assert lower[0, 0] == pytest.approx(-2 * dual, rel=1e-12)
        assert upper[0, 0] == pytest.approx(2 * dual, rel=1e-12)


def test_the_answer_says_whether_symbols_were_dropped() -> None:
    toy = random_toy(np.random.default_rng(3), n_inputs=3, n_outputs=2, hidden=[6, 6], weights="gaussian")
    query = Query(to_model(toy), robustness((0.5, 0.5, 0.5), 0, "0.4", "inf", n_outputs=2))
    assert Zonotope().verify(query).statistics["reduced"] == 0
    assert Zonotope(generators=2).verify(query).statistics["reduced"] == 1

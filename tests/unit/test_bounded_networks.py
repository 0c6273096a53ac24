"""Small networks of every function and shape: interval and CROWN bounds contain samples, and close in on them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import product as pairs

import numpy as np
import pytest

from verifkit.analysis.interval import Bounds, propagate
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.region import Region
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.budget import Budget, Clock
from verifkit.evidence import Leaf
from verifkit.exact import evaluate_exactly
from verifkit.functions import (
    Abs,
    Clip,
    Cos,
    Elu,
    Erf,
    Exp,
    LeakyRelu,
    Log,
    Power,
    Reciprocal,
    Relu,
    ScalarFunction,
    Sigmoid,
    Sign,
    Sin,
    Softplus,
    Sqrt,
    Tanh,
)
from verifkit.input_sets import Box
from verifkit.maps import Identity
from verifkit.network import Network
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.registry import create
from verifkit.result import Arithmetic, Verdict
from verifkit.testing.gallery import exhibits
from verifkit.testing.graphs import Graph
from verifkit.weighted_maps import Dense

SAMPLES = 1500
FUNCTIONS: tuple[ScalarFunction, ...] = (
    Relu(), LeakyRelu(np.array(0.25)), LeakyRelu(np.array([[-0.5, 2.0, 0.0, 0.125]])), Abs(), Sign(), Power(2),
    Power(3), Sqrt(), Reciprocal(), Exp(), Log(), Sin(), Cos(), Sigmoid(), Tanh(), Erf(), Softplus(), Elu(1.0),
    Elu(-0.5), Elu(2.0), Clip(np.array([[-1.0, -np.inf, 0.0, 0.25]]), np.array([[1.0, 0.5, np.inf, 0.25]])),
)  # fmt: skip
WITH_DOMAIN = (Sqrt, Reciprocal, Log)


def safe(graph: Graph, at: int, function: ScalarFunction) -> int:
    """The function of the node, or of its square plus 1/2 where it has a domain."""
    if isinstance(function, WITH_DOMAIN):
        at = graph.activate(at, Power(2))
        at = graph.affine((at,), Identity(graph.nodes[at].shape), bias=np.full(graph.nodes[at].shape, 0.5))
    return graph.activate(at, function)


def plain(function: ScalarFunction, seed: int) -> Network:
    graph = Graph(1, 3, seed=100 + seed)
    at = safe(graph, graph.dense(0, 4), function)
    graph.dense(safe(graph, graph.dense(at, 4), function), 2)
    return graph.network()


def residual(function: ScalarFunction, seed: int) -> Network:
    """x + W f(x), twice."""
    graph = Graph(1, 3, seed=200 + seed)
    at = graph.dense(0, 4)
    for _ in range(2):
        hidden = safe(graph, at, function)
        at = graph.affine((hidden, at), Dense(graph.weights(4, 4, fan_in=8), outer=(1,)), Identity((1, 4)))
    graph.dense(at, 2)
    return graph.network()


def gated(function: ScalarFunction, seed: int) -> Network:
    """x f(x), then a square of a sum of both."""
    graph = Graph(1, 3, seed=300 + seed)
    at = graph.dense(0, 4)
    gate = graph.times(at, safe(graph, at, function))
    mixed = graph.affine((gate, at), Dense(graph.weights(4, 4, fan_in=16), outer=(1,)), Identity((1, 4)))
    graph.dense(graph.times(mixed, mixed), 2)
    return graph.network()


SHAPES: tuple[Callable[[ScalarFunction, int], Network], ...] = (plain, residual, gated)


def ball_points(rng: np.random.Generator, region: Region, count: int) -> np.ndarray:
    """Points of the region, among them many of its boundary: (count, *input_shape)."""
    lower, upper = region.lower[0], region.upper[0]
    share = rng.random((count, *lower.shape))
    share[::2] = np.round(share[::2])
    x = lower + share * (upper - lower)
    if region.center is None or region.radius is None:
        return x
    gap = (x - region.center[0]).reshape(count, -1)
    size = np.linalg.norm(gap, ord=int(region.norm), axis=1, keepdims=True)
    gap = gap * np.minimum(1.0, float(region.radius[0]) * (1 - 1e-12) / np.maximum(size, 1e-300))
    spikes = rng.integers(0, gap.shape[1], count // 4)  # the l1 ball's corners
    gap[: count // 4] = 0.0
    gap[np.arange(count // 4), spikes] = float(region.radius[0]) * rng.choice([-1.0, 1.0], count // 4)
    return region.center[0] + gap.reshape(x.shape)


def around(center: np.ndarray, radius: float, norm: str) -> Region:
    if norm == "inf":
        return Region(center - radius, center + radius)
    return Region(center - radius, center + radius, center, np.array([radius]), norm)


def crown(network: Network, region: Region) -> LinearAnalysis:
    return analyse(network, region, CROWN_RELAXATIONS, Clock(Budget()))


def output_bounds(analysis: LinearAnalysis) -> Bounds:
    """CROWN's bounds on the outputs by a backward pass, flat."""
    network = analysis.network
    n = network.n_outputs
    rows = np.concatenate([np.eye(n), -np.eye(n)]).reshape(1, 2 * n, *network.output_shape)
    found = analysis.backward({len(network.nodes) - 1: rows.astype(analysis.region.lower.dtype)})[0]
    return found[:n], -found[n:]


def check_contains(bounds: Bounds, values: np.ndarray, what: str) -> None:
    lower, upper = bounds
    slack = 1e-9 * (1.0 + np.abs(values).max())
    assert (values >= lower - slack).all(), what
    assert (values <= upper + slack).all(), what


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.__name__)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_bounds_contain_sampled_values(function: ScalarFunction, shape: Callable[..., Network]) -> None:
    for seed, (norm, radius) in enumerate(pairs(("inf", "1", "2"), (0.02, 0.25, 1.0))):
        rng = np.random.default_rng(seed)
        network = shape(function, seed)
        region = around(rng.normal(size=(1, *network.input_shape)), radius, norm)
        analysis = crown(network, region)
        values = network.values(ball_points(rng, region, SAMPLES))
        for node, value, linear, interval in zip(
            network.nodes, values, analysis.bounds, propagate(network, region.lower, region.upper), strict=True
        ):
            check_contains(interval, value, f"interval, {node.name}")
            check_contains(linear, value, f"crown, {node.name}")
        check_contains(output_bounds(analysis), values[-1].reshape(SAMPLES, -1), "crown, backward")


@pytest.mark.parametrize("exhibit", exhibits(), ids=lambda e: e.name)
def test_bounds_of_the_gallery_contain_sampled_values_in_single_precision_too(exhibit) -> None:  # type: ignore[no-untyped-def]
    network = exhibit.network.without_max()
    for seed, dtype in enumerate((np.float64, np.float32)):
        rng = np.random.default_rng(seed)
        center = rng.normal(size=(1, *network.input_shape)).astype(dtype)
        region = Region(center - dtype(0.125), center + dtype(0.125))
        x = ball_points(rng, Region(*(e.astype(np.float64) for e in (region.lower, region.upper))), SAMPLES)
        values = network.values(x)  # the weights are float32 values: the same network in both precisions
        analysis = crown(network, region)
        assert analysis.bounds[-1][0].dtype == dtype
        for node, value, bounds in zip(network.nodes, values, analysis.bounds, strict=True):
            check_contains(bounds, value, node.name)
        check_contains(output_bounds(analysis), values[-1].reshape(SAMPLES, -1), "backward")


RATIONAL = [f for f in FUNCTIONS if isinstance(f, Relu | LeakyRelu | Abs | Sign | Clip | Power)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.__name__)
@pytest.mark.parametrize("function", RATIONAL, ids=lambda f: f.name)
def test_bounds_contain_exact_values_however_small_the_set(
    function: ScalarFunction, shape: Callable[..., Network]
) -> None:
    # Where the box is a few units in the last place wide, its image is as wide as what rounding may do.
    for seed, radius in enumerate((0.0, 1e-16, 1e-15, 1e-9, 0.125)):
        rng = np.random.default_rng(seed)
        network = shape(function, seed)
        region = around(rng.normal(size=(1, *network.input_shape)), radius, "inf")
        analysis = crown(network, region)
        interval = propagate(network, region.lower, region.upper)[-1]
        for low, high in (output_bounds(analysis), interval):
            ends = [np.reshape(end, -1).tolist() for end in (low, high)]
            for x in ball_points(rng, region, 8):
                x = np.clip(x, region.lower[0], region.upper[0])
                exact = evaluate_exactly(network, [Fraction(v) for v in x.reshape(-1).tolist()])
                for least, value, most in zip(ends[0], exact, ends[1], strict=True):
                    assert Fraction(least) <= value <= Fraction(most)


SMOOTH = [f for f in FUNCTIONS if not isinstance(f, Relu | LeakyRelu | Abs | Sign | Clip) and f.name != "elu"]


def width_ratio(network: Network, center: np.ndarray, radius: float) -> float:
    """CROWN's widest output over what the corners of the box reach."""
    low, high = output_bounds(crown(network, around(center, radius, "inf")))
    corners = np.array(list(pairs((-1.0, 1.0), repeat=network.n_inputs))).reshape(-1, *network.input_shape)
    y = network.evaluate(center[0] + radius * corners).reshape(len(corners), -1)
    return float(((high - low) / np.ptp(y, axis=0)).max())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.__name__)
@pytest.mark.parametrize("function", [*SMOOTH, Elu(1.0)], ids=lambda f: f.name)
def test_crown_closes_in_on_the_range_as_the_box_shrinks(
    function: ScalarFunction, shape: Callable[..., Network]
) -> None:
    network = shape(function, 5)
    center = np.array([[[0.3, -0.2, 0.45]]])
    ratios = [width_ratio(network, center, radius) for radius in (1e-2, 1e-3, 1e-4)]
    assert ratios[0] < 3.0
    assert ratios[2] < 1.01
    assert ratios[2] - 1.0 < 0.2 * (ratios[0] - 1.0) + 1e-6  # the excess is of second order


@pytest.mark.parametrize("name", ["gate", "softmax", "attention", "normalised", "product", "square"])
def test_crown_closes_in_on_products_and_softmax(name: str) -> None:
    network = next(e for e in exhibits() if e.name == name).network
    center = np.random.default_rng(1).normal(size=(1, *network.input_shape))
    ratios = [width_ratio(network, center, radius) for radius in (1e-2, 1e-4)]
    assert ratios[0] < 1.6
    assert ratios[1] < 1.01


def test_what_a_product_reads_is_tightened() -> None:
    graph = Graph(1, 2, seed=12)
    hidden = graph.activate(graph.dense(0, 6), Tanh())
    left, right = graph.dense(hidden, 3), graph.dense(hidden, 3)
    last = graph.dense(graph.times(left, right), 2)
    network = graph.network()
    region = around(np.zeros((1, 1, 2)), 0.5, "inf")
    tightened, loose = crown(network, region), propagate(network, region.lower, region.upper)
    for index in (left, right):
        assert (tightened.bounds[index][0] > loose[index][0]).any()
    assert (tightened.bounds[last][1] - tightened.bounds[last][0] < loose[last][1] - loose[last][0]).all()


def test_a_product_of_products_gets_bounds_from_both() -> None:
    graph = Graph(1, 2, seed=13)
    at = graph.dense(0, 4)
    inner = graph.times(at, graph.dense(0, 4))
    graph.dense(graph.times(inner, graph.activate(inner, Sigmoid())), 2)
    network = graph.network()
    region = around(np.full((1, 1, 2), 0.5), 0.3, "inf")
    analysis = crown(network, region)
    assert set(analysis.planes) == {3, 5}
    values = network.values(ball_points(np.random.default_rng(0), region, SAMPLES))
    for bounds, value in zip(analysis.bounds, values, strict=True):
        check_contains(bounds, value, "node")


def test_nothing_is_claimed_beyond_a_domain() -> None:
    graph = Graph(1, 2, seed=14)
    root = graph.activate(graph.dense(0, 3), Sqrt())
    graph.dense(graph.activate(root, Sigmoid()), 2)  # bounded, but of a value that may not exist
    analysis = crown(graph.network(), around(np.zeros((1, 1, 2)), 2.0, "inf"))
    low, high = output_bounds(analysis)
    assert not (low > -np.inf).any()  # -inf or NaN, which proves nothing either
    assert not (high < np.inf).any()
    assert root not in analysis.lines


def test_an_overflow_costs_the_lines_and_not_the_range() -> None:
    graph = Graph(1, 2, seed=15)
    exponential = graph.activate(graph.dense(0, 3), Exp())
    total = graph.affine((exponential,), Identity((1, 3)), bias=np.ones((1, 3)))
    share = graph.activate(total, Reciprocal())
    graph.dense(share, 2)
    analysis = crown(graph.network(), around(np.zeros((1, 1, 2)), 1e4, "inf"))
    low, high = output_bounds(analysis)
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()
    assert exponential not in analysis.lines
    assert (analysis.bounds[share][0] >= 0).all()


def rows_at_least(bound: Fraction) -> tuple[Polyhedron, ...]:
    return tuple(Polyhedron((Constraint(outputs=((j, Fraction(1)),), bound=bound),)) for j in range(2))


def test_the_evidence_of_a_product_holds_its_planes() -> None:
    exhibit = next(e for e in exhibits() if e.name == "attention")
    box = Box((Fraction(-1, 8),) * 4, (Fraction(1, 8),) * 4)
    result = create("crown").verify(Query(exhibit.model, Property(box, rows_at_least(Fraction(-100)), 2)))
    assert result.verdict is Verdict.HOLDS
    assert result.guarantee is not None
    assert result.guarantee.arithmetic is Arithmetic.ROUNDED
    assert isinstance(result.evidence, Leaf)
    products = {k for k, n in enumerate(exhibit.network.nodes) if type(n).__name__ == "Product"}
    assert set(result.evidence.planes) == products
    read = {p for k in products for p in exhibit.network.nodes[k].parents}
    assert read <= set(result.evidence.intermediate)


@pytest.mark.parametrize("name", ["attention", "normalised", "kinked_elu", "sin", "prelu", "clip", "log"])
def test_torch_gives_the_same_bounds(name: str) -> None:
    torch = pytest.importorskip("torch")
    network = next(e for e in exhibits() if e.name == name).network
    low, high = np.full((1, *network.input_shape), -0.125), np.full((1, *network.input_shape), 0.25)
    ours, theirs = crown(network, Region(low, high)), crown(network, Region(torch.tensor(low), torch.tensor(high)))
    for (a, b), (c, d) in zip(ours.bounds, theirs.bounds, strict=True):
        np.testing.assert_allclose(a, c.numpy(), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(b, d.numpy(), rtol=1e-7, atol=1e-9)

"""Optimised slopes: the gradient, the ascent and what it keeps, goals, budgets, and the way back to the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from verifkit.analysis import slopes
from verifkit.analysis.backward import lower_bounds
from verifkit.analysis.compact import Compact
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.region import Region
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.slopes import Ascent, Raised, free_units, raise_rows
from verifkit.budget import Budget, BudgetExhausted, Clock
from verifkit.evidence import Lines, Planes
from verifkit.functions import LeakyRelu, Relu, Sigmoid
from verifkit.maps import Identity
from verifkit.network import Network
from verifkit.ops import Activation
from verifkit.testing.graphs import BUILDERS, Graph
from verifkit.weighted_maps import Dense

ENDLESS = np.array([[np.inf]])
"""A goal that no row reaches."""


# --- networks, regions and rows -------------------------------------------------------------------------------------


def deep(*functions: Relu | LeakyRelu | Sigmoid, width: int = 7, dead: float = 0.0) -> Network:
    """Dense layers over 4 inputs with these functions between them. dead: the biases of every third unit sink by it."""
    graph, at = Graph(1, 4, seed=len(functions)), 0
    for function in functions:
        n = graph.nodes[at].shape[-1]
        bias = 0.3 * graph.rng.normal(size=(1, width)) - dead * (np.arange(width) % 3 == 0)
        weight = Dense(graph.weights(width, n, fan_in=n), outer=(1,))
        at = graph.activate(graph.affine((at,), weight, bias=bias), function)
    graph.dense(at, 3)
    return graph.network()


def residual() -> Network:
    """Two blocks, each added to what it reads."""
    graph, at = Graph(1, 4, seed=3), 0
    for _ in range(2):
        hidden = graph.activate(graph.dense(at, 6), Relu())
        back = Dense(graph.weights(4, 6, fan_in=6), outer=(1,))
        at = graph.activate(graph.affine((hidden, at), back, Identity((1, 4))), Relu())
    graph.dense(at, 3)
    return graph.network()


NETWORKS: dict[str, Callable[[], Network]] = {
    "one layer": lambda: deep(Relu()),
    "three layers": lambda: deep(Relu(), Relu(), Relu()),
    "dead units": lambda: deep(Relu(), Relu(), dead=20.0),
    "leaky": lambda: deep(LeakyRelu(np.array(0.25)), LeakyRelu(np.array(-0.5)), LeakyRelu(np.array(3.0)), Relu()),
    "mixed": lambda: deep(Relu(), Sigmoid(), Relu()),
    "residual": residual,
    **{name: BUILDERS[name][0] for name in ("conv", "branches", "prelu", "gate", "max")},
}

REGIONS = ("box", "l1", "l2")


def region_of(network: Network, kind: str, seed: int = 0, batch: int = 1) -> Region:
    rng = np.random.default_rng(seed)
    center = rng.uniform(-0.5, 0.5, (batch, *network.input_shape))
    width = rng.uniform(0.2, 0.6, center.shape)
    if kind == "box":
        return Region(center - width, center + width)
    radius = rng.uniform(0.4, 0.8, batch)
    reach = radius.reshape(batch, *(1 for _ in network.input_shape))
    return Region(center - reach, center + reach, center, radius, kind[1])


def clock() -> Clock:
    return Clock(Budget())


def analysed(network: Network, region: Region) -> LinearAnalysis:
    return analyse(network.without_max(), region, CROWN_RELAXATIONS, clock())


@dataclass(frozen=True, eq=False)
class Task:
    """Four rows over the output of a network, one of them over the input as well."""

    analysis: LinearAnalysis
    compact: Compact
    full: dict[int, np.ndarray]
    rows: dict[int, np.ndarray]

    def raised(self, ascent: Ascent, goal: np.ndarray = ENDLESS, budget: Clock | None = None) -> Raised:
        with np.errstate(all="ignore"):  # as every verifier has it
            return raise_rows(self.compact, self.rows, None, goal, ascent, budget or clock())

    def start(self) -> np.ndarray:
        return np.asarray(self.analysis.backward(self.full))

    def bound(self, found: Mapping[int, np.ndarray]) -> np.ndarray:
        """The bounds with these slopes, by a backward pass through the compact network."""
        return np.asarray(
            lower_bounds(self.compact, self.rows, self.compact.bounds, with_slopes(self.compact.relaxed, found),
                         self.compact.region)
        )  # fmt: skip

    def values(self, count: int = 400) -> np.ndarray:
        """The rows' values (R, N) at inputs of the region."""
        region, network = self.analysis.region, self.analysis.network
        rng = np.random.default_rng(1)
        share = rng.random((count, *network.input_shape))
        share[::2] = np.round(share[::2])
        x = region.lower + share * (region.upper - region.lower)
        if region.center is not None:
            assert region.radius is not None
            gap = x - region.center
            size = np.linalg.norm(gap.reshape(count, -1), ord=int(region.norm), axis=1)
            factor = np.minimum(1.0, float(region.radius[0]) * (1 - 1e-12) / size)
            x = region.center + gap * factor.reshape(count, *(1 for _ in network.input_shape))
        values = network.values(x)
        return sum(
            np.einsum("rk,nk->rn", row[0].reshape(row.shape[1], -1), values[k].reshape(count, -1))
            for k, row in self.full.items()
        )  # type: ignore[return-value]


def with_slopes(relaxed: Mapping[int, Lines | Planes], found: Mapping[int, np.ndarray]) -> dict[int, Lines | Planes]:
    lines = dict(relaxed)
    for k, slope in found.items():
        old = lines[k]
        assert isinstance(old, Lines)
        lines[k] = replace(old, lower_slope=slope)
    return lines


def task(name: str, kind: str = "box", seed: int = 0) -> Task:
    network = NETWORKS[name]()
    analysis = analysed(network, region_of(network, kind, seed))
    compact, network = analysis.compact, analysis.network
    assert compact is not None
    rng, last = np.random.default_rng([seed, 5]), len(network.nodes) - 1
    full = {last: rng.normal(size=(1, 4, *network.output_shape)), 0: np.zeros((1, 4, *network.input_shape))}
    full[0][:, 2] = rng.normal(size=network.input_shape)
    return Task(analysis, compact, full, {k: compact.rows_of(k, v) for k, v in full.items()})


# --- the gradient ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "gate"])
def test_gradient_is_the_difference_quotient(name: str, kind: str) -> None:
    """At slopes inside their ranges, where the bound is smooth with probability 1."""
    asked = task(name, kind)
    free = free_units(asked.compact)
    if not free:
        pytest.skip("nothing unstable")
    rows = slopes._Rows(asked.compact, asked.rows, None, ENDLESS, free)
    rng = np.random.default_rng(2)
    at: dict[int, np.ndarray] = {}
    for k, units in free.items():
        lines = asked.compact.relaxed[k]
        assert isinstance(lines, Lines)
        inner = units.low + (1.0 - units.low) * rng.uniform(0.1, 0.9, (1, 4, *units.mask.shape[1:]))
        at[k] = np.where(units.mask[:, None], inner, lines.lower_slope[:, None])
    trace: dict[int, np.ndarray] = {}
    rows._bound(at, trace)
    gradients = rows._gradients(at, trace)
    assert set(gradients) == set(free)
    step = 1e-5
    for k, units in free.items():
        assert (gradients[k][:, :, ~units.mask[0]] == 0).all()
        for unit in np.argwhere(units.mask[0])[:4]:
            moved = np.zeros_like(at[k])
            moved[(slice(None), slice(None), *unit)] = step
            ends = [rows._bound({**at, k: at[k] + sign * moved}, {}) for sign in (1, -1)]
            quotient = (ends[0] - ends[1]) / (2 * step)
            found = gradients[k][(slice(None), slice(None), *unit)]
            np.testing.assert_allclose(found, quotient, rtol=1e-4, atol=1e-5)


# --- the ascent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_only_rise_and_stay_below_the_values(name: str, kind: str) -> None:
    asked = task(name, kind)
    start, least = asked.start(), asked.values().min(axis=1)
    before = start
    for iterations in (0, 1, 4, 12):
        found = asked.raised(Ascent(iterations)).lower
        assert (found >= before).all()
        assert (found <= least + 1e-9 * (1.0 + np.abs(least))).all()
        before = found
    np.testing.assert_array_equal(asked.raised(Ascent(0)).lower, start)


@pytest.mark.parametrize("name", ["three layers", "leaky", "residual", "conv"])
def test_some_bounds_rise(name: str) -> None:
    asked = task(name)
    assert (asked.raised(Ascent(20)).lower > asked.start() + 1e-4).any()


@pytest.mark.parametrize("ascent", [Ascent(12), Ascent(12, rate=50.0, decay=1.0), Ascent(12, rate=1e-3)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_slopes_returned_give_the_bounds_returned(name: str, ascent: Ascent) -> None:
    """The best iterate is kept, row by row, whatever the steps do; its slopes lie in their ranges."""
    asked = task(name)
    found = asked.raised(ascent)
    assert (found.lower >= asked.start()).all()
    scale = 1.0 + np.abs(found.lower)
    np.testing.assert_allclose(asked.bound(found.slopes) / scale, found.lower / scale, rtol=0, atol=1e-12)
    for k, units in free_units(asked.compact).items():
        slope, lines = found.slopes[k], asked.compact.relaxed[k]
        assert isinstance(lines, Lines)
        inside = (slope >= units.low[:, None]) & (slope <= 1.0)
        assert np.where(units.mask[:, None], inside, slope == lines.lower_slope[:, None]).all()


@pytest.mark.parametrize("name", ["three layers", "dead units", "residual", "leaky", "prelu"])
def test_free_units_are_the_unstable_convex_kinks(name: str) -> None:
    compact = task(name).compact
    found = free_units(compact)
    for index in compact.relaxed:
        node = compact.nodes[index]
        assert isinstance(node, Activation)
        lower, upper = compact.bounds[node.parents[0]]
        slope = np.zeros_like(lower) if isinstance(node.function, Relu) else node.function.slope + np.zeros_like(lower)  # type: ignore[attr-defined]
        unstable = (lower < 0) & (upper > 0) & (slope < 1)
        assert (index in found) == unstable.any()
        if index in found:
            np.testing.assert_array_equal(found[index].mask, unstable)
            np.testing.assert_array_equal(found[index].low, slope)
    assert found


def test_slopes_of_leaky_relus_are_raised() -> None:
    asked = task("leaky")
    first = next(k for k, n in enumerate(asked.compact.nodes) if isinstance(n, Activation))
    assert first in free_units(asked.compact)
    low = asked.raised(Ascent(20)).slopes[first]
    assert ((low >= 0.25) & (low <= 1.0)).all()
    assert ((low > 0.25) & (low < 1.0)).any()


def test_functions_of_other_kinds_are_left() -> None:
    assert not free_units(task("gate").compact)


def test_of_stable_units_nothing_is_raised() -> None:
    network = deep(Relu(), Relu())
    x = np.full((1, *network.input_shape), 0.3)
    compact = analysed(network, Region(x, x)).compact
    assert compact is not None
    assert not free_units(compact)
    rows = {len(network.nodes) - 1: np.ones((1, 2, *compact.nodes[-1].shape))}
    found = raise_rows(compact, rows, None, ENDLESS, Ascent(5), clock())
    assert not found.slopes
    np.testing.assert_allclose(found.lower, network.evaluate(x).sum(), rtol=1e-9)


# --- goals, time and chunks -----------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows every backward pass of the ascent bounds."""
    calls: list[int] = []

    def counting(network: Compact, rows: Mapping[int, np.ndarray], *args: object, **kwargs: object) -> np.ndarray:
        calls.append(next(iter(rows.values())).shape[1])
        return np.asarray(lower_bounds(network, rows, *args, **kwargs))  # type: ignore[arg-type]

    monkeypatch.setattr(slopes, "lower_bounds", counting)
    return calls


def test_rows_beyond_their_goals_are_left(counted: list[int]) -> None:
    asked = task("three layers")
    start = asked.start()
    goal = np.where(np.arange(4) % 2 == 0, start - 1e-9, np.inf)
    found = asked.raised(Ascent(6), goal)
    assert counted == [4, 2, 2, 2, 2, 2, 2]
    np.testing.assert_array_equal(found.lower[:, ::2], start[:, ::2])
    np.testing.assert_allclose(found.lower[:, 1::2], asked.raised(Ascent(6)).lower[:, 1::2], rtol=1e-12)
    scale = 1.0 + np.abs(found.lower)
    np.testing.assert_allclose(asked.bound(found.slopes) / scale, found.lower / scale, rtol=0, atol=1e-12)


def test_a_goal_is_to_be_exceeded_not_met(counted: list[int]) -> None:
    asked = task("three layers")
    start = asked.start()
    assert np.array_equal(asked.raised(Ascent(6), start - 1e-9).lower, start)
    assert counted == [4]
    counted.clear()
    asked.raised(Ascent(1), start)
    assert counted == [4, 4]


def test_rows_stop_on_the_way(counted: list[int]) -> None:
    asked = task("three layers")
    best = asked.raised(Ascent(12)).lower
    counted.clear()
    goal = asked.start() + 0.5 * (best - asked.start())
    found = asked.raised(Ascent(12), goal)
    assert (found.lower > goal).sum() == (best > goal).sum()
    assert counted == sorted(counted, reverse=True)
    assert sum(counted) < 13 * 4
    counted.clear()
    goal[:, 1::2] = np.inf
    found = asked.raised(Ascent(12), goal)
    assert counted[1] == 4 > counted[-1]
    np.testing.assert_allclose(found.lower[:, 1::2], best[:, 1::2], rtol=1e-9)


class Runs(Clock):
    """Is up at the check with this number."""

    def __init__(self, checks: int) -> None:
        super().__init__(Budget())
        self.checks = checks

    def check(self) -> None:
        self.checks -= 1
        if self.checks < 0:
            raise BudgetExhausted


@pytest.mark.parametrize("checks", [0, 1, 3])
def test_when_the_time_is_up_what_was_found_is_returned(checks: int) -> None:
    asked = task("three layers")
    found, wanted = asked.raised(Ascent(12), budget=Runs(checks)), asked.raised(Ascent(checks))
    np.testing.assert_array_equal(found.lower, wanted.lower)
    for k, slope in wanted.slopes.items():
        np.testing.assert_array_equal(found.slopes[k], slope)


@pytest.mark.parametrize("name", ["three layers", "conv", "leaky"])
def test_rows_in_chunks(name: str, monkeypatch: pytest.MonkeyPatch, counted: list[int]) -> None:
    asked = task(name)
    goal = np.array([[np.inf, np.inf, -np.inf, np.inf]])
    whole = asked.raised(Ascent(4), goal)
    monkeypatch.setattr(slopes, "MEMORY", 1)
    counted.clear()
    found = asked.raised(Ascent(4), goal)
    assert set(counted) == {1}
    np.testing.assert_allclose(found.lower, whole.lower, rtol=1e-9, atol=1e-12)
    for k, slope in whole.slopes.items():
        np.testing.assert_allclose(found.slopes[k], slope, rtol=1e-6, atol=1e-9)


def test_constants_are_added_and_nan_is_nothing() -> None:
    asked = task("three layers")
    constant = np.array([[0.0, 3.0, -np.inf, np.nan]])
    found = raise_rows(asked.compact, asked.rows, constant, ENDLESS, Ascent(3), clock()).lower
    plain = asked.raised(Ascent(3)).lower
    np.testing.assert_allclose(found[0, :2], plain[0, :2] + constant[0, :2], rtol=1e-12)
    assert found[0, 1] <= plain[0, 1] + 3.0
    assert (found[0, 2:] == -np.inf).all()
    half = raise_rows(asked.compact, asked.rows, np.array([[0.5]]), ENDLESS, Ascent(3), clock()).lower
    np.testing.assert_allclose(half, plain + 0.5, rtol=1e-12)


# --- back to the network; batches; other arrays -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_spread_over_the_network_the_slopes_give_the_same_bounds(name: str) -> None:
    asked = task(name)
    found, analysis = asked.raised(Ascent(8)), asked.analysis
    spread = {k: asked.compact.spread(k, v) for k, v in found.slopes.items()}
    for k, slope in spread.items():
        assert slope.shape == (1, 4, *analysis.network.nodes[k].shape)
    relaxed = with_slopes({**analysis.lines, **analysis.planes}, spread)
    lower = lower_bounds(analysis.network, asked.full, analysis.bounds, relaxed, analysis.region)
    scale = 1.0 + np.abs(found.lower)
    np.testing.assert_allclose(lower / scale, found.lower / scale, rtol=0, atol=1e-9)
    if name == "dead units":
        assert asked.compact.kept


@pytest.mark.parametrize("kind", REGIONS)
def test_a_batch_is_its_regions_one_by_one(kind: str) -> None:
    network = NETWORKS["three layers"]()
    region = region_of(network, kind, seed=4, batch=3)
    compact = analysed(network, region).compact
    assert compact is not None
    last = len(network.nodes) - 1
    row = np.random.default_rng(6).normal(size=(3, 2, *network.output_shape))
    together = raise_rows(compact, {last: row}, None, ENDLESS, Ascent(6), clock()).lower
    for entry, alone in enumerate(region.single()):
        small = analysed(network, alone).compact
        assert small is not None
        rows = {last: small.rows_of(last, row[entry : entry + 1])}
        found = raise_rows(small, rows, None, ENDLESS, Ascent(6), clock()).lower
        np.testing.assert_allclose(together[entry], found[0], rtol=1e-6)


def test_torch_gives_the_same() -> None:
    torch = pytest.importorskip("torch")
    network = NETWORKS["mixed"]()
    region = region_of(network, "box", seed=1)
    row = np.random.default_rng(7).normal(size=(1, 3, *network.output_shape))
    last, found = len(network.nodes) - 1, []
    for convert in (np.asarray, torch.asarray):
        compact = analysed(network, Region(convert(region.lower), convert(region.upper))).compact
        assert compact is not None
        rows = {last: compact.rows_of(last, convert(row))}
        raised = raise_rows(compact, rows, None, convert(ENDLESS), Ascent(6), clock())
        found.append(np.asarray(raised.lower))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["three layers", "leaky", "mixed", "residual", "conv", "max"])
def test_layers_bounded_with_raised_rows_contain_the_values(name: str) -> None:
    network = NETWORKS[name]().without_max()
    region = region_of(network, "box", seed=8)
    analysis = analyse(network, region, CROWN_RELAXATIONS, clock(), ascent=Ascent(6))
    share = np.random.default_rng(9).random((300, *network.input_shape))
    share[::2] = np.round(share[::2])
    values = network.values(region.lower + share * (region.upper - region.lower))
    for (lower, upper), value in zip(analysis.bounds, values, strict=True):
        room = 1e-12 * (1.0 + np.abs(value))  # of the samples' own rounding
        assert ((value >= lower - room) & (value <= upper + room)).all()

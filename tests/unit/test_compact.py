"""The network without the units that are surely 0 against the whole one: the same bounds, of less work."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import pytest

from verifkit.analysis import compact as compact_module
from verifkit.analysis.compact import Compact, flattens, moved, removable
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.parallel import PARALLEL_RELAXATIONS
from verifkit.analysis.region import Region
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.slopes import Ascent, raise_rows
from verifkit.budget import Budget, Clock
from verifkit.functions import LeakyRelu, Relu, ScalarFunction, Sigmoid
from verifkit.maps import Identity, Place, Reshape
from verifkit.network import Network
from verifkit.testing.graphs import BUILDERS, SLOPES, Graph
from verifkit.weighted_maps import Conv, Dense, Scale

SUNK = 40.0
"""What a unit's bias is lowered by, so that the unit is dead on the regions below."""


class Sinking(Graph):
    """Layers of which chosen units are dead."""

    def layer(self, at: int, width: int, dead: Collection[int] = (), function: ScalarFunction | None = Relu()) -> int:  # noqa: B008 (frozen)
        """Dense and activation."""
        n = self.nodes[at].shape[-1]
        bias = 0.3 * self.rng.normal(size=width) - SUNK * np.isin(np.arange(width), list(dead))
        node = self.affine((at,), Dense(self.weights(width, n, fan_in=n), outer=(1,)), bias=bias[None])
        return node if function is None else self.activate(node, function)

    def conv(self, at: int, channels: int, dead: Collection[int], size: int = 2, stride: int = 1) -> int:
        """Convolution and ReLU: single entries are dead, and so are whole channels."""
        shape = self.nodes[at].shape
        weight = self.weights(channels, shape[1], size, size, fan_in=shape[1] * size * size)
        linear = Conv(weight, shape, (stride, stride), ((0, 0), (0, 0)), (1, 1))
        bias = 0.2 * self.rng.normal(size=linear.out_shape)
        bias[:, list(dead)] -= SUNK
        bias -= SUNK * (self.rng.random(bias.shape) < 0.3)
        return self.activate(self.affine((at,), linear, bias=bias), Relu())

    def reshape(self, at: int, *shape: int) -> int:
        return self.affine((at,), Reshape(self.nodes[at].shape, shape), bias=False)


def dense() -> Network:
    graph = Sinking(1, 4, seed=1)
    at = graph.layer(graph.layer(graph.layer(0, 8, (0, 3, 7)), 7, (1, 2)), 6, (5,))
    graph.layer(at, 3, function=None)
    return graph.network()


def dead_layer() -> Network:
    """The second layer is dead as a whole, so that the output is a constant."""
    graph = Sinking(1, 4, seed=2)
    at = graph.layer(graph.layer(graph.layer(0, 6, (1,)), 5, range(5)), 6, (2, 3))
    graph.layer(at, 3, function=None)
    return graph.network()


def all_dead() -> Network:
    graph = Sinking(1, 4, seed=3)
    graph.layer(graph.layer(graph.layer(0, 5, range(5)), 5, range(5)), 2, function=None)
    return graph.network()


def residual() -> Network:
    """Sums of what a ReLU gives and what it, or an affine node before it, gave."""
    graph = Sinking(1, 5, seed=4)
    at = graph.layer(0, 5, (1, 4))
    for dead in ((0,), (2, 3)):
        hidden = graph.layer(at, 6, dead)
        second = Dense(graph.weights(5, 6, fan_in=6), outer=(1,))
        bias = -SUNK * (np.arange(5) == 1)[None]
        at = graph.activate(graph.affine((hidden, at), second, Identity((1, 5)), bias=bias), Relu())
    before = graph.layer(at, 5, (0, 2), None)
    gated = graph.activate(before, Relu())
    graph.layer(graph.affine((gated, before), Identity((1, 5)), Scale(np.full((1, 5), 0.5))), 3, function=None)
    return graph.network()


def convolutions() -> Network:
    """And a reshape between the image and the dense layers, of a ReLU that has lost entries."""
    graph = Sinking(1, 2, 5, 4, seed=5)
    at = graph.conv(graph.conv(0, 3, (1,)), 4, (0, 3))
    flat = graph.reshape(at, 1, int(np.prod(graph.nodes[at].shape)))
    graph.layer(graph.layer(flat, 6, (2,)), 3, function=None)
    return graph.network()


def reshaped() -> Network:
    """Dense, then an image, twice in another shape, then dense; and a reshape that a ReLU reads."""
    graph = Sinking(1, 4, seed=6)
    at = graph.reshape(graph.reshape(graph.layer(0, 12, (0, 5, 6, 11)), 1, 2, 6), 1, 3, 2, 2)
    at = graph.conv(at, 3, (2,))
    at = graph.layer(graph.reshape(at, 1, int(np.prod(graph.nodes[at].shape))), 6, (0, 1))
    at = graph.activate(graph.reshape(at, 1, 3, 2), Relu())
    graph.layer(graph.reshape(at, 1, 6), 2, function=None)
    return graph.network()


def branches() -> Network:
    """A ReLU that three nodes read, and outputs along several paths, put side by side."""
    graph = Sinking(1, 4, seed=7)
    at = graph.layer(0, 7, (0, 2, 6))
    left, right = graph.layer(at, 3, (1,)), graph.layer(graph.layer(at, 5, (0, 4)), 2)
    places = Place(np.array([[0, 2, 4]]), (1, 5)), Place(np.array([[1, 3]]), (1, 5))
    joined = graph.affine((left, right), *places, bias=False)
    other = Dense(graph.weights(5, 7, fan_in=7), outer=(1,))
    graph.affine((joined, at), Identity((1, 5)), other)
    return graph.network()


def mixed() -> Network:
    """Functions that lose nothing, and ReLUs that a function or a product reads, which cannot."""
    graph = Sinking(1, 4, seed=8)
    at = graph.layer(graph.layer(0, 6, (1, 2)), 6, (0,), LeakyRelu(np.array(0.25)))
    at = graph.activate(graph.layer(at, 5, (3,)), Sigmoid())
    at = graph.layer(at, 6, (0, 5))
    product = graph.times(graph.layer(at, 4, (2,)), graph.layer(at, 4, (), None))
    graph.layer(graph.layer(product, 5, (1,)), 3, function=None)
    return graph.network()


LOSING: dict[str, Callable[[], Network]] = {
    f.__name__: f for f in (dense, dead_layer, all_dead, residual, convolutions, reshaped, branches, mixed)
}
NETWORKS = {**LOSING, **{name: BUILDERS[name][0] for name in ("conv", "branches", "residual", "gate", "attention")}}


def region_of(network: Network, kind: str, width: float = 0.4) -> Region:
    rng = np.random.default_rng(11)
    center = rng.uniform(-0.5, 0.5, (1, *network.input_shape))
    low, high = center - width, center + width
    if kind == "box":
        return Region(np.where(rng.random(center.shape) < 0.2, center, low), high)
    return Region(low, high, center, np.array([1.5 * width]), kind[1])


def clock() -> Clock:
    return Clock(Budget())


def whole(run: Callable[[], LinearAnalysis], monkeypatch: pytest.MonkeyPatch) -> LinearAnalysis:
    """The same analysis through the network's own nodes."""
    with monkeypatch.context() as patch:
        patch.setattr(compact_module, "flattens", lambda _: False)
        analysis = run()
    assert analysis.compact is not None
    assert not analysis.compact.flat
    assert not analysis.compact.kept
    return analysis


def rows_over(network: Network, *, inputs: bool = True) -> dict[int, np.ndarray]:
    rng, last = np.random.default_rng(12), len(network.nodes) - 1
    rows = {last: rng.normal(size=(1, 4, *network.output_shape))}
    return {**rows, 0: rng.normal(size=(1, 4, *network.input_shape))} if inputs else rows


def same(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-9) -> None:
    scale = tolerance * (1.0 + float(np.abs(wanted).max(initial=0.0)))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=scale)


@pytest.mark.parametrize("kind", ["box", "l1", "l2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_bounds_of_nodes_and_of_rows(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETWORKS[name]()
    for table in (CROWN_RELAXATIONS, PARALLEL_RELAXATIONS):
        for tighten in (True, False):

            def run(table: object = table, tighten: bool = tighten) -> LinearAnalysis:
                return analyse(network, region_of(network, kind), table, clock(), tighten=tighten)  # type: ignore[arg-type]

            found, wanted = run(), whole(run, monkeypatch)
            assert found.compact is not None
            assert found.compact.flat == flattens(network)
            for ends, ends_too, node in zip(found.bounds, wanted.bounds, network.nodes, strict=True):
                for end, end_too in zip(ends, ends_too, strict=True):
                    assert end.shape == (1, *node.shape)
                    same(end, end_too)
            for rows in (rows_over(network), rows_over(network, inputs=False)):
                same(found.backward(rows), wanted.backward(rows))


@pytest.mark.parametrize("name", LOSING)
def test_what_is_dead_is_gone(name: str) -> None:
    """The kept entries are those that some input may make positive; nothing else is lost."""
    network = LOSING[name]()
    analysis = analyse(network, region_of(network, "box"), CROWN_RELAXATIONS, clock())
    compact = analysis.compact
    assert compact is not None
    for index, node in network.activations():
        alive = np.flatnonzero(analysis.bounds[node.parents[0]][1] > 0)
        if index in removable(network) and alive.size < np.prod(node.shape):
            np.testing.assert_array_equal(compact.kept[index], alive if alive.size else [0])
            np.testing.assert_array_equal(compact.kept[node.parents[0]], compact.kept[index])
            assert compact.nodes[index].shape == compact.kept[index].shape
            assert compact.bounds[index][0].shape == (1, *compact.nodes[index].shape)
        elif index not in removable(network):
            assert index not in compact.kept
    for index in moved(network):
        if network.nodes[index].parents[0] in compact.kept:
            np.testing.assert_array_equal(compact.kept[index], compact.kept[network.nodes[index].parents[0]])
    assert compact.kept
    assert name not in ("convolutions", "reshaped") or moved(network) & set(compact.kept)
    assert 0 not in compact.kept
    assert len(network.nodes) - 1 not in compact.kept


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["box", "l2"])
def test_values_lie_within(name: str, kind: str) -> None:
    network = NETWORKS[name]()
    region = region_of(network, kind)
    analysis = analyse(network, region, CROWN_RELAXATIONS, clock())
    rng = np.random.default_rng(13)
    share = rng.random((300, *network.input_shape))
    share[::2] = np.round(share[::2])
    x = region.lower + share * (region.upper - region.lower)
    if region.center is not None:
        assert region.radius is not None
        gap = (x - region.center).reshape(len(x), -1)
        size = np.linalg.norm(gap, axis=1, keepdims=True)
        x = region.center + (gap * np.minimum(1.0, region.radius * (1 - 1e-12) / size)).reshape(x.shape)
    values = network.values(x)
    for (lower, upper), value in zip(analysis.bounds, values, strict=True):
        room = 1e-12 * (1.0 + np.abs(value))  # of the samples' own rounding
        assert ((value >= lower - room) & (value <= upper + room)).all()
    rows = rows_over(network)
    taken = sum(np.einsum("rk,nk->rn", row[0].reshape(4, -1), values[k].reshape(len(x), -1)) for k, row in rows.items())
    least = np.asarray(taken).min(axis=1)
    assert (analysis.backward(rows)[0] <= least + 1e-9 * (1.0 + np.abs(least))).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_with_raised_slopes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the rows; and, to what the steps make of a rounding error, of the layers."""
    network, ascent = NETWORKS[name](), Ascent(5)

    def run() -> LinearAnalysis:
        return analyse(network, region_of(network, "box"), CROWN_RELAXATIONS, clock())

    lower = []
    for analysis in (run(), whole(run, monkeypatch)):
        compact = analysis.compact
        assert compact is not None
        rows = {k: compact.rows_of(k, v) for k, v in rows_over(network).items()}
        lower.append(raise_rows(compact, rows, None, np.array([[np.inf]]), ascent, clock()).lower)
    same(*lower, tolerance=1e-6)

    def layers() -> LinearAnalysis:
        return analyse(network, region_of(network, "box"), CROWN_RELAXATIONS, clock(), ascent=ascent)

    found, wanted = layers(), whole(layers, monkeypatch)
    for ends, ends_too in zip(found.bounds, wanted.bounds, strict=True):
        for end, end_too in zip(ends, ends_too, strict=True):
            same(end, end_too, tolerance=1e-5)


@pytest.mark.parametrize("name", LOSING)
def test_there_and_back(name: str) -> None:
    """`spread` undoes what takes entries out, with zeros for those that are gone."""
    network = LOSING[name]()
    compact = analyse(network, region_of(network, "box"), CROWN_RELAXATIONS, clock()).compact
    assert compact is not None
    rng = np.random.default_rng(14)
    for index, node in enumerate(network.nodes):
        rows = rng.normal(size=(1, 3, *node.shape))
        here = compact.rows_of(index, rows)
        assert here.shape == (1, 3, *compact.nodes[index].shape)
        back = compact.spread(index, here)
        assert back.shape == rows.shape
        kept = np.zeros(int(np.prod(node.shape)), dtype=bool)
        kept[compact.kept.get(index, slice(None))] = True
        np.testing.assert_array_equal(back, np.where(kept.reshape(node.shape), rows, 0.0))


def test_rows_over_entries_that_are_gone_take_the_whole_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead unit's value before the ReLU is not 0; after it, it is."""
    network = dense()

    def run() -> LinearAnalysis:
        return analyse(network, region_of(network, "box"), CROWN_RELAXATIONS, clock())

    found, wanted = run(), whole(run, monkeypatch)
    assert found.compact is not None
    for index, node in enumerate(network.nodes):
        rows = {index: np.eye(int(np.prod(node.shape))).reshape(1, -1, *node.shape)}
        assert found.compact.loses(rows) == (index in found.compact.kept and index % 2 == 1)
        same(found.backward(rows), wanted.backward(rows))
        assert (found.backward(rows)[0] <= found.bounds[index][1].reshape(-1)).all()


def test_nothing_but_sums_may_lose_entries() -> None:
    graph = Sinking(1, 4, seed=9)
    first = graph.layer(0, 6, (0,))
    looked_at = graph.affine((graph.nodes[first].parents[0],), Identity((1, 6)))  # the affine node has two readers
    second = graph.layer(first, 6, (1,))
    third = graph.activate(second, Sigmoid())  # a function reads the ReLU
    other = graph.layer(first, 6, (2,))
    product = graph.times(other, third)  # a product does
    fourth = graph.layer(first, 6, (3,))
    graph.affine((looked_at, product, fourth), *(Identity((1, 6)) for _ in range(3)))
    network = graph.network()
    assert removable(network) == {fourth}
    assert not moved(network) & {looked_at}
    last = Sinking(1, 4, seed=10)
    last.layer(last.layer(0, 5), 3)  # the output is a ReLU
    assert removable(last.network()) == {2}


def test_networks_that_stay_as_they_are() -> None:
    """Parameters of the units' own, maps that divide, torch arrays, batches, no backward passes: nothing is lost."""
    own = Sinking(1, 4, seed=1)
    own.layer(own.layer(own.layer(0, 5, (0,)), 5, (), LeakyRelu(SLOPES)), 2, function=None)
    divided = Sinking(1, 4, seed=2)
    at = divided.layer(0, 5, (0,))
    divided.layer(divided.affine((at,), Scale(np.full((1, 5), 3.0), divide=True)), 2, function=None)
    for graph in (own, divided):
        assert not flattens(graph.network())
    network = dense()
    region = region_of(network, "box")
    plain = Compact(network, region, relaxing=False, removing=False)
    two = Region(*(np.concatenate([end, end]) for end in (region.lower, region.upper)))
    for compact in (plain, Compact(network, two, relaxing=True, removing=True)):
        assert not compact.flat
        assert compact.spread(1, rows := np.ones((1, 2, 1, 8))) is rows
        assert compact.rows_of(1, rows) is rows
    torch = pytest.importorskip("torch")
    in_torch = Region(torch.asarray(region.lower), torch.asarray(region.upper))
    assert not Compact(network.cast(in_torch.lower), in_torch, relaxing=True, removing=True).flat


def test_unbounded_regions_lose_nothing_that_may_live(monkeypatch: pytest.MonkeyPatch) -> None:
    network = dense()
    region = Region(np.full((1, *network.input_shape), -np.inf), np.full((1, *network.input_shape), np.inf))

    def run() -> LinearAnalysis:
        return analyse(network, region, CROWN_RELAXATIONS, clock())

    for analysis in (run(), whole(run, monkeypatch)):
        assert analysis.compact is not None
        assert not analysis.compact.kept
        lower = analysis.backward(rows_over(network, inputs=False))
        assert not (lower > -np.inf).any()

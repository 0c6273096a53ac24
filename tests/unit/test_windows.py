"""Backward bounds by windows against the same by whole rows, on chains of convolutions of every shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from verifkit.analysis import linear
from verifkit.analysis.interval import Bounds
from verifkit.analysis.linear import LinearAnalysis, analyse
from verifkit.analysis.region import Region
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.windows import WindowPass, window_chain
from verifkit.budget import Budget, Clock
from verifkit.functions import LeakyRelu, Relu, ScalarFunction, Sigmoid, Tanh
from verifkit.network import Network
from verifkit.testing.graphs import Graph
from verifkit.weighted_maps import Conv, Scale

Pads = tuple[tuple[int, int], tuple[int, int]]
Image = tuple[int, int, int]


class Chain(Graph):
    """Convolutions and activations in turn over an image."""

    def __init__(self, image: Image, seed: int) -> None:
        super().__init__(1, *image, seed=seed)
        self.at = 0

    def conv(
        self,
        channels: int,
        kernel: tuple[int, int],
        strides: tuple[int, int] = (1, 1),
        pads: Pads = ((0, 0), (0, 0)),
        *,
        dilations: tuple[int, int] = (1, 1),
        groups: int = 1,
        bias: bool = True,
    ) -> Chain:
        shape = self.nodes[self.at].shape
        into = shape[1] // groups
        weight = self.weights(channels, into, *kernel, fan_in=into * kernel[0] * kernel[1])
        self.at = self.affine((self.at,), Conv(weight, shape, strides, pads, dilations, groups), bias=bias)
        return self

    def function(self, function: ScalarFunction) -> Chain:
        self.at = self.activate(self.at, function)
        return self

    def scale(self) -> Chain:
        """What is left of batch normalisation where it was not folded into a convolution."""
        shape = self.nodes[self.at].shape
        factor = np.broadcast_to(self.weights(shape[1], 1, 1, fan_in=2), shape).copy()
        self.at = self.affine((self.at,), Scale(factor))
        return self


def bounded(network: Network, seed: int, width: float = 0.15) -> LinearAnalysis:
    rng = np.random.default_rng(seed)
    center = rng.uniform(size=(1, *network.input_shape))
    low = np.where(rng.random(center.shape) < 0.1, center, center - width)  # a few entries have no lower half
    return analyse(network, Region(low, center + width), CROWN_RELAXATIONS, Clock(Budget()))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries every pass by windows is asked for."""
    calls: list[int] = []
    lower = WindowPass.lower

    def counting(self: WindowPass, chosen: np.ndarray, sign: float) -> np.ndarray:
        calls.append(int(chosen.size))
        return np.asarray(lower(self, chosen, sign))

    monkeypatch.setattr(WindowPass, "lower", counting)
    return calls


def whole(network: Network, seed: int, monkeypatch: pytest.MonkeyPatch) -> list[Bounds]:
    """The bounds of every node by rows over whole images."""
    with monkeypatch.context() as patch:
        patch.setattr(linear, "window_chain", lambda *_: None)
        return bounded(network, seed).bounds


def agree(network: Network, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways give the same bounds, and what the network computes lies within."""
    analysis = bounded(network, seed)
    wanted = whole(network, seed, monkeypatch)
    for (low, high), (low_too, high_too) in zip(analysis.bounds, wanted, strict=True):
        scale = 1e-9 * (1.0 + max(float(np.abs(low_too).max()), float(np.abs(high_too).max())))
        np.testing.assert_allclose(low, low_too, rtol=0, atol=scale)
        np.testing.assert_allclose(high, high_too, rtol=0, atol=scale)
    rng = np.random.default_rng(seed)
    region = analysis.region
    share = rng.random((200, *network.input_shape))
    share[::2] = np.round(share[::2])
    x = region.lower + share * (region.upper - region.lower)
    for (low, high), value in zip(analysis.bounds, network.values(x), strict=True):
        room = 1e-12 * (1.0 + np.abs(value))  # of the samples' own rounding
        assert (value >= low - room).all()
        assert (value <= high + room).all()


def random_chain(seed: int) -> Network:
    """Two to four convolutions: kernels 1 to 5, strides 1 to 3, every padding that a kernel can have."""
    rng = np.random.default_rng([seed, 7])
    chain = Chain((int(rng.integers(1, 4)), int(rng.integers(6, 11)), int(rng.integers(6, 11))), seed)
    for _ in range(int(rng.integers(2, 5))):
        _, _, *image = chain.nodes[chain.at].shape
        kernel, pads, strides = [], [], []
        for size in image:
            k = int(rng.integers(1, 6))
            pad = tuple(int(p) for p in rng.integers(0, k, 2)) if k > 1 and rng.random() < 0.7 else (0, 0)
            kernel.append(min(k, size + sum(pad)))
            pads.append(pad)
            strides.append(int(rng.integers(1, 4)) if size > 4 else 1)
        chain.conv(int(rng.integers(1, 5)), tuple(kernel), tuple(strides), tuple(pads), bias=bool(rng.random() < 0.7))  # type: ignore[arg-type]
        if rng.random() < 0.85:  # else the next convolution reads this one
            chain.function([Relu(), Relu(), LeakyRelu(np.array(0.25)), Sigmoid()][int(rng.integers(0, 4))])
    if rng.random() < 0.5:
        chain.function(Relu())
    return chain.network()


@pytest.mark.parametrize("seed", range(60))
def test_random_chains(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    agree(random_chain(seed), seed, monkeypatch)


def test_the_random_chains_take_this_way(counted: list[int]) -> None:
    for seed in range(60):
        bounded(random_chain(seed), seed)
    assert len(counted) > 60
    assert sum(counted) > 2000


PADDED: dict[str, Callable[[], Chain]] = {
    "same": lambda: Chain((2, 6, 5), 1).conv(3, (3, 3), (1, 1), ((1, 1), (1, 1))).function(Relu())
    .conv(3, (3, 3), (1, 1), ((1, 1), (1, 1))).function(Relu()).conv(2, (3, 3), (2, 2), ((1, 1), (1, 1))),
    "one sided": lambda: Chain((1, 7, 6), 2).conv(3, (2, 4), (2, 1), ((1, 0), (0, 3))).function(Relu())
    .conv(3, (4, 2), (1, 2), ((0, 3), (1, 0))).function(Relu()).conv(2, (2, 2), (1, 1), ((1, 1), (0, 1))),
    "conv on conv": lambda: Chain((2, 6, 6), 3).conv(3, (3, 2), (1, 1), ((2, 1), (1, 1)))
    .conv(2, (2, 3), (2, 1), ((1, 1), (2, 2))).function(Relu()).conv(3, (3, 3), (1, 1), ((1, 1), (1, 1)))
    .conv(2, (2, 2), (1, 1), ((1, 0), (0, 1))).function(Relu()).conv(1, (2, 2)),
    "padded points": lambda: Chain((2, 5, 5), 4).conv(3, (1, 1), (1, 1), ((1, 1), (1, 1))).function(Relu())
    .conv(3, (1, 1)).function(Relu()).conv(2, (2, 2)),
    "kernel as large as the image": lambda: Chain((2, 5, 6), 5).conv(3, (5, 6), (1, 1), ((2, 2), (3, 3)))
    .function(Relu()).conv(3, (5, 7)).function(Relu()).conv(4, (1, 1)),
    "no bias": lambda: Chain((1, 6, 6), 6).conv(4, (3, 3), (2, 2), ((1, 1), (1, 1)), bias=False).function(Relu())
    .conv(4, (3, 3), (1, 1), ((1, 1), (1, 1)), bias=False).function(Relu()).conv(2, (2, 2), bias=False),
    "leaky": lambda: Chain((1, 6, 6), 7).conv(3, (3, 3)).function(LeakyRelu(np.array(0.125)))
    .conv(3, (3, 3), (1, 1), ((1, 1), (1, 1))).function(LeakyRelu(np.array(0.125))).conv(2, (2, 2)).function(Relu()),
    "curves": lambda: Chain((1, 6, 6), 8).conv(3, (3, 3), (1, 1), ((1, 1), (1, 1))).function(Sigmoid())
    .conv(3, (3, 3), (1, 1), ((1, 1), (1, 1))).function(Tanh()).conv(2, (2, 2)).function(Relu()),
    "function of a function": lambda: Chain((1, 6, 6), 9).conv(3, (3, 3), (1, 1), ((1, 1), (1, 1))).function(Relu())
    .function(Sigmoid()).conv(3, (3, 3), (1, 1), ((1, 1), (1, 1))).function(Relu()).conv(2, (2, 2)).function(Relu()),
}  # fmt: skip


@pytest.mark.parametrize("name", PADDED)
def test_chains_of_every_shape(name: str, monkeypatch: pytest.MonkeyPatch, counted: list[int]) -> None:
    network = PADDED[name]().function(Relu()).network()
    agree(network, 1, monkeypatch)
    assert counted


BEYOND: dict[str, Callable[[], Chain]] = {
    "points, twice": lambda: Chain((2, 4, 5), 1).conv(3, (1, 1), (1, 1), ((1, 1), (1, 1))).function(Relu())
    .conv(3, (1, 1), (1, 1), ((1, 1), (1, 1))).function(Relu()).conv(3, (1, 1), (1, 1), ((1, 1), (1, 1))),
    "wide frame": lambda: Chain((2, 4, 5), 2).conv(3, (2, 2), (1, 1), ((4, 4), (4, 4))).function(Relu())
    .conv(3, (2, 2), (1, 1), ((4, 4), (4, 4))).function(Relu()).conv(2, (2, 2)),
    "upper left": lambda: Chain((2, 4, 5), 3).conv(3, (1, 1), (1, 1), ((4, 0), (4, 0))).function(Relu())
    .conv(3, (1, 1), (1, 1), ((3, 0), (3, 0))).function(Relu()).conv(2, (1, 1)),
    "lower right": lambda: Chain((2, 4, 5), 4).conv(3, (1, 1), (1, 1), ((0, 4), (0, 4))).function(Relu())
    .conv(3, (1, 1), (1, 1), ((0, 3), (0, 3))).function(Relu()).conv(2, (1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", BEYOND)
def test_windows_that_lie_wholly_in_the_padding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A padding may be wider than the kernel: some entries then see nothing of the image."""
    agree(BEYOND[name]().function(Relu()).network(), 1, monkeypatch)


@pytest.mark.parametrize("pads", [((4, 0), (4, 0)), ((0, 4), (0, 4)), ((0, 0), (4, 0)), ((1, 1), (1, 1))])
def test_entries_without_bias_that_see_only_padding(pads: Pads, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are 0, and an interval that is rounded outwards leaves that undecided: they get a backward pass as well."""
    chain = Chain((2, 4, 5), 3)
    for _ in range(2):
        chain.conv(3, (1, 1), (1, 1), pads, bias=False).function(Relu())
    agree(chain.conv(2, (1, 1)).function(Relu()).network(), 1, monkeypatch)


OTHERS: dict[str, Callable[[], Chain]] = {
    "groups": lambda: Chain((2, 6, 6), 1).conv(4, (3, 3)).function(Relu()).conv(4, (2, 2), groups=2),
    "dilations": lambda: Chain((1, 7, 7), 2).conv(3, (2, 2)).function(Relu()).conv(2, (2, 2), dilations=(2, 1)),
    "scale": lambda: Chain((1, 6, 6), 3).conv(3, (2, 2)).scale().function(Relu()).conv(3, (2, 2)),
    "scale of the input": lambda: Chain((1, 6, 6), 4).scale().conv(3, (2, 2)).function(Relu()).conv(3, (2, 2)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_chains_go_the_long_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = OTHERS[name]().function(Relu()).network()
    analysis = bounded(network, 1)
    last = len(network.nodes) - 2
    assert window_chain(network, last, analysis.lines) is None
    agree(network, 1, monkeypatch)


def test_chains_end_at_nodes_of_their_own_kind() -> None:
    network = Chain((1, 6, 6), 1).conv(3, (2, 2)).function(Relu()).conv(2, (2, 2)).function(Relu()).network()
    lines = bounded(network, 1).lines
    assert window_chain(network, 3, lines) == [3, 2, 1, 0]
    assert window_chain(network, 1, lines) == [1, 0]
    assert window_chain(network, 4, lines) is None  # an activation is bounded through its input
    assert window_chain(network, 3, {}) is None  # an activation without lines


def test_few_entries_are_some_of_all() -> None:
    network = PADDED["same"]().network()
    analysis = bounded(network, 3)
    last = len(network.nodes) - 1
    chain = window_chain(network, last, analysis.lines)
    assert chain is not None
    passed = WindowPass(network, chain, analysis.bounds, analysis.lines, analysis.region)
    every = np.arange(int(np.prod(network.output_shape)))
    low = passed.lower(every, 1.0)
    np.testing.assert_array_equal(passed.lower(every[3:11:2], 1.0), low[:, 3:11:2])
    assert (low <= -passed.lower(every, -1.0)).all()

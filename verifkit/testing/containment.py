"""Do a verifier's layers and its margin hold what the network computes at thousands of inputs of the set?

The inputs are spread over the set, at its extreme points, and on the way up and down some entry of some node by
projected gradient steps: where a bound that is too tight is most likely to be crossed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from verifkit.analysis.gradient import pull_back
from verifkit.analysis.rows import rows_of
from verifkit.input_sets import Box, InputSet
from verifkit.network import Network
from verifkit.query import Query
from verifkit.result import Result
from verifkit.testing.sampled_bounds import ROUNDING, Seen

STEPS = 20
"""Gradient steps of one ascent; every point on its way is a sample."""

INWARD = 1.0 - 2.0**-40
"""Samples of a ball stay this far inside it, relative to its radius: their own rounding takes none of them out."""

CORNERS = 8
"""Up to this many inputs every corner of the bounding box is a sample."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """The range of every node's values over the samples, and the least violation of the unsafe set among them."""

    seen: Seen
    least: float
    slack: float

    def check(self, result: Result) -> None:
        """Raises `AssertionError` where a layer of `result`, or its statistic "margin", claims more than was seen."""
        assert result.bounds is not None, f"{result.verifier} gives no bounds of layers"
        bounds = [(np.full((1, *n.shape), -np.inf), np.full((1, *n.shape), np.inf)) for n in self.seen.network.nodes]
        for layer in result.bounds.layers.values():
            bounds[layer.index] = layer.lower[None], layer.upper[None]
        self.seen.check(f"{result.verifier}'s", bounds)
        margin = result.statistics.get("margin")
        if isinstance(margin, float):
            assert margin <= self.least + self.slack, (
                f"{result.verifier}'s margin {margin!r} lies above the violation {self.least!r} of a sample"
            )


def sampled(query: Query, *, samples: int = 10000, seed: int = 0) -> Sampled:
    """About `samples` inputs of the input set of one case (its disjuncts carry no boxes), evaluated in float64."""
    rng = np.random.default_rng(seed)
    network, inputs = query.network, _Inputs(query)
    seen, rows = Seen(network), rows_of(query.prop)
    least = np.inf
    for x in _points(inputs, network, samples, rng):
        values = network.values(x)
        seen.add(values)
        left = values[-1].reshape(len(x), -1) @ rows.outputs.T
        if rows.inputs is not None:
            left = left + x.reshape(len(x), -1) @ rows.inputs.T
        for number in range(rows.n_disjuncts):
            mine = rows.disjunct == number
            least = min(least, float((left - rows.bound)[:, mine].max(axis=1, initial=-np.inf).min(initial=np.inf)))
    size = np.abs(rows.outputs).sum(axis=1, initial=0.0) * seen.largest[-1] + np.abs(rows.bound)
    if rows.inputs is not None:
        size = size + np.abs(rows.inputs).sum(axis=1) * seen.largest[0]
    return Sampled(seen, least, ROUNDING[np.dtype(np.float64)] * float(size.max(initial=0.0)))


class _Inputs:
    """The input set in float64: its bounding box and, of a ball, what brings a point of the box into it."""

    def __init__(self, query: Query) -> None:
        region: InputSet = query.prop.input_set
        self.shape = query.model.input_shape
        if isinstance(region, Box):
            self.lower, self.upper = region.floats(query.model.dtype)
            self.norm = "inf"
            self.center = self.lower / 2 + self.upper / 2
            self.radius = np.inf
            return
        box = region.bounding_box()
        self.lower, self.upper = (np.array([float(v) for v in end]) for end in (box.lower, box.upper))
        self.norm, self.radius = str(region.norm), float(region.radius)
        self.center = np.array([float(c) for c in region.center])

    def into(self, x: np.ndarray) -> np.ndarray:
        """Points (N, n) of any place as points of the set: clipped to the box, then drawn to the ball's nearest point
        of the box as far as the ball demands."""
        x = np.clip(x, self.lower, self.upper)
        if self.norm == "inf":
            return np.asarray(x)
        anchor = np.clip(self.center, self.lower, self.upper)
        if self.norm == "0":  # the entries that moved most stay moved
            kept = np.argsort(-np.abs(x - anchor), axis=1)[:, : int(self.radius)]
            moved = np.broadcast_to(anchor, x.shape).copy()
            np.put_along_axis(moved, kept, np.take_along_axis(x, kept, axis=1), axis=1)
            return moved
        low, high = np.zeros((len(x), 1)), np.ones((len(x), 1))
        low = np.where(self._inside(x), high, low)
        for _ in range(45):
            middle = (low + high) / 2
            fits = self._inside(anchor + middle * (x - anchor))
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        return np.asarray(np.clip(anchor + low * (x - anchor), self.lower, self.upper))

    def _inside(self, x: np.ndarray) -> np.ndarray:
        """(N, 1)."""
        size = np.linalg.norm(x - self.center, ord=int(self.norm), axis=1, keepdims=True)
        return np.asarray(size <= self.radius * INWARD)

    def spread(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Points all over the set."""
        x = self.lower + rng.random((count, self.lower.size)) * (self.upper - self.lower)
        return self.into(self.center + (x - self.center) * rng.random((count, 1)) ** (1.0 / x.shape[1]))

    def extreme(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Corners of the box; of a ball points on its sphere, its axes' ends among them, and on few axes."""
        n = self.lower.size
        share = np.round(rng.random((count, n)))
        if n <= CORNERS:
            share = np.concatenate([np.array(list(product((0.0, 1.0), repeat=n))), share])
        corners = self.lower + share * (self.upper - self.lower)
        if self.norm == "0":  # any entries may be those that move
            corners = np.where(rng.random(corners.shape) < 0.5, corners, self.center)
        if self.norm in ("inf", "0"):
            return self.into(corners)
        few = rng.normal(size=(count, n)) * (rng.random((count, n)) < 2.0 / n)
        ways = np.concatenate([np.eye(n), -np.eye(n), rng.normal(size=(count, n)), few])
        size = np.maximum(np.linalg.norm(ways, ord=int(self.norm), axis=1, keepdims=True), 1e-300)
        return self.into(np.concatenate([corners[:count], self.center + self.radius * ways / size]))


def _points(inputs: _Inputs, network: Network, samples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches `(B, *input_shape)`: two parts spread, three extreme (sphere points count double), three by ascents."""
    yield inputs.spread(samples // 4, rng).reshape(-1, *inputs.shape)
    yield inputs.extreme(samples // 8, rng).reshape(-1, *inputs.shape)
    last = len(network.nodes) - 1
    starts = max(1, 3 * samples // (8 * STEPS))
    yield from _ascents(inputs, network, last, starts, rng)
    for _ in range(4):
        yield from _ascents(inputs, network, int(rng.integers(0, last + 1)), max(1, starts // 4), rng)


def _ascents(
    inputs: _Inputs, network: Network, index: int, starts: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Up or down one entry of a node for each start, by steps that get smaller."""
    part = Network(network.nodes[: index + 1])
    shape, width = network.nodes[index].shape, np.max(inputs.upper - inputs.lower, initial=0.0)
    rows = np.zeros((starts, int(np.prod(shape))))
    rows[np.arange(starts), rng.integers(0, rows.shape[1], starts)] = rng.choice([-1.0, 1.0], starts)
    x = inputs.spread(starts, rng)
    for step in range(STEPS):
        shaped = x.reshape(-1, *inputs.shape)
        yield shaped
        slope = pull_back(part, part.values(shaped), rows.reshape(-1, *shape)).reshape(starts, -1)
        if step % 2 and inputs.norm != "inf":
            way = slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-300)
        else:
            way = np.sign(slope)
        x = inputs.into(x + way * width * 0.5 ** (step / 3.0))

"""Do the bounds of every node contain what the network computes at sampled inputs?

For interval propagation and for CROWN, on a box around a point: each node's value in float64, each activation between
its lines, and the model's own outputs in onnxruntime. A bound that is off by more than rounding explains fails, with
the node's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifkit.analysis.interval import Bounds, propagate
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.region import Region
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows
from verifkit.budget import Budget, Clock
from verifkit.input_sets import Box, rational
from verifkit.model import Model
from verifkit.network import Network

ROUNDING = {np.dtype(np.float64): 2.0**-36, np.dtype(np.float32): 2.0**-15}
"""What rounding may move a value by, relative to the largest value on the way to it: a few hundred units in the last
place for single precision, and more for double, where that is still far below any width."""
CHUNK = 2**22
"""Values of one node held at a time."""


@dataclass(frozen=True)
class OutputWidths:
    """The widest output entry's range: over the samples, by CROWN's backward pass, by interval propagation."""

    sampled: float
    crown: float
    interval: float


def check_bounds_contain_samples(
    model: Model, center: Any, radius: Any, *, samples: int = 1000, seed: int = 0
) -> OutputWidths:
    """Checks interval and CROWN bounds on the box `center` +- `radius` against `samples` inputs from it.

    center: the input, flat or shaped. radius: a number, or one for each entry. Half of the samples are corners of the
    box, the others uniform. Raises `AssertionError` naming the bound and the node (its tensor and ONNX nodes) that does
    not contain a sampled value. Returns the widths of the output's bounds. Needs a model with a network.
    """
    network = model.network
    assert network is not None, f"model '{model.name}' has no network to bound"
    lower, upper = _box(model, center, radius)
    region = Region(lower[None], upper[None])
    interval = propagate(network, region.lower, region.upper)
    plain = network.without_max()
    crown = analyse(plain, region, CROWN_RELAXATIONS, Clock(Budget()))
    outputs = _output_bounds(crown)
    seen, plain_seen = Seen(network), Seen(plain)
    step = max(1, CHUNK // max(math.prod(node.shape) for node in plain.nodes))
    for x in _samples(model, lower, upper, samples, step, seed):
        values = network.values(x)
        seen.add(values)
        plain_values = values if plain is network else plain.values(x)
        plain_seen.add(plain_values)
        _check_lines(crown, plain_values, plain_seen)
        y = np.asarray(model.call(x.astype(model.dtype)), dtype=np.float64).reshape(len(x), -1)
        slack = ROUNDING[np.dtype(model.dtype)] * seen.largest[-1]
        _check_output("interval's", interval[-1], y, slack, network)
        _check_output("CROWN's", outputs, y, slack, network)
    seen.check("interval's", interval)
    plain_seen.check("CROWN's intermediate", crown.bounds)
    low, high = seen.low[-1].reshape(-1), seen.high[-1].reshape(-1)
    _check_output("CROWN's", outputs, np.stack([low, high]), ROUNDING[np.dtype(np.float64)] * seen.largest[-1], network)
    return OutputWidths(float(np.max(high - low)), _width(outputs), _width(interval[-1]))


class Seen:
    """The range of every node's values so far. largest: for each node, the largest value of it or any before it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.low = [np.full(node.shape, np.inf) for node in network.nodes]
        self.high = [np.full(node.shape, -np.inf) for node in network.nodes]
        self.largest = np.zeros(len(network.nodes))

    def add(self, values: Sequence[np.ndarray]) -> None:
        for k, value in enumerate(values):
            assert not np.isnan(value).any(), f"{_named(self.network, k)} has no value at a sample"
            np.minimum(self.low[k], value.min(axis=0), out=self.low[k])
            np.maximum(self.high[k], value.max(axis=0), out=self.high[k])
            self.largest[k] = max(self.largest[k], float(np.abs(value).max(initial=0.0)))
        self.largest = np.maximum.accumulate(self.largest)

    def check(self, whose: str, bounds: Sequence[Bounds]) -> None:
        for k, (lower, upper) in enumerate(bounds):
            slack = ROUNDING[np.dtype(np.float64)] * self.largest[k]
            excess = np.maximum(lower[0] - self.low[k], self.high[k] - upper[0]) - slack
            _fail_where(~(excess <= 0), f"{whose} bounds of {_named(self.network, k)}", lower[0], upper[0],
                        self.low[k], self.high[k])  # fmt: skip


def _check_lines(analysis: LinearAnalysis, values: Sequence[np.ndarray], seen: Seen) -> None:
    """Every activation's value lies between its lines, and every product's between its planes, at every sample."""
    for k, lines in analysis.lines.items():
        x, y = values[analysis.network.nodes[k].parents[0]], values[k]
        below, above = lines.lower_slope * x + lines.lower_offset, lines.upper_slope * x + lines.upper_offset
        steepness = np.maximum(np.abs(lines.lower_slope), np.abs(lines.upper_slope))
        slack = ROUNDING[np.dtype(np.float64)] * (1.0 + steepness) * seen.largest[k]
        wrong = ~((below <= y + slack) & (above >= y - slack))
        _fail_where(wrong, f"CROWN's lines of {_named(analysis.network, k)}", below, above, y, y)
    for k, planes in analysis.planes.items():
        left, right = (values[p] for p in analysis.network.nodes[k].parents)
        y = values[k]
        below = planes.lower_left * left + planes.lower_right * right + planes.lower_offset
        above = planes.upper_left * left + planes.upper_right * right + planes.upper_offset
        size = np.abs(planes.lower_left) + np.abs(planes.lower_right)
        steepness = np.maximum(size, np.abs(planes.upper_left) + np.abs(planes.upper_right))
        slack = ROUNDING[np.dtype(np.float64)] * (1.0 + steepness) * seen.largest[k]
        wrong = ~((below <= y + slack) & (above >= y - slack))
        _fail_where(wrong, f"CROWN's planes of {_named(analysis.network, k)}", below, above, y, y)


def _check_output(whose: str, bounds: Bounds, y: np.ndarray, slack: float, network: Network) -> None:
    """y: (B, n_outputs)."""
    lower, upper = (np.broadcast_to(end.reshape(1, -1), y.shape) for end in bounds)
    wrong = ~((y >= lower - slack) & (y <= upper + slack))
    _fail_where(wrong, f"{whose} bounds of the output, {_named(network, len(network.nodes) - 1)}", lower, upper, y, y)


def _fail_where(
    wrong: np.ndarray, what: str, lower: np.ndarray, upper: np.ndarray, low: np.ndarray, high: np.ndarray
) -> None:
    if wrong.any():
        at = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        raise AssertionError(
            f"{what} do not contain a sampled value at entry {[int(i) for i in at]}: values from {low[at]!r} to "
            f"{high[at]!r}, bounds from {lower[at]!r} to {upper[at]!r}"
        )


def _named(network: Network, index: int) -> str:
    node = network.nodes[index]
    origin = f" from {', '.join(node.origin)}" if node.origin else ""
    return f"node {index} '{node.name}' ({type(node).__name__}{origin})"


def _box(model: Model, center: Any, radius: Any) -> tuple[np.ndarray, np.ndarray]:
    """The box's ends, shaped, widened to floats of the model's type as every question's box is."""
    middle = np.asarray(center, dtype=np.float64).reshape(-1)
    reach = np.broadcast_to(np.asarray(radius, dtype=np.float64), middle.shape)
    pairs = [(rational(c), rational(r)) for c, r in zip(middle.tolist(), reach.tolist(), strict=True)]
    lower, upper = Box(tuple(c - r for c, r in pairs), tuple(c + r for c, r in pairs)).floats(model.dtype)
    return lower.reshape(model.input_shape), upper.reshape(model.input_shape)


def _samples(
    model: Model, lower: np.ndarray, upper: np.ndarray, count: int, step: int, seed: int
) -> Iterator[np.ndarray]:
    """Batches of up to `step` inputs that the model can be fed, as float64: corners and uniform points in turn."""
    rng = np.random.default_rng(seed)
    for start in range(0, count, step):
        share = rng.random((min(step, count - start), *lower.shape))
        share[::2] = np.round(share[::2])
        x = (lower + share * (upper - lower)).astype(model.dtype).astype(np.float64)
        yield np.clip(x, lower, upper)


def _output_bounds(analysis: LinearAnalysis) -> Bounds:
    """The output's bounds by a backward pass, intersected with the forward ones: each `(1, n_outputs)`."""
    n = analysis.network.n_outputs
    unit = np.concatenate([np.eye(n), -np.eye(n)])
    rows = Rows(
        unit, None, None, None, np.zeros(2 * n), np.zeros(2 * n, dtype=bool), np.zeros(2 * n, dtype=np.int64), 1
    )
    found = analysis.property_rows(rows)
    lower, upper = (end.reshape(1, n) for end in analysis.bounds[-1])
    return np.maximum(found[:, :n], lower), np.minimum(-found[:, n:], upper)


def _width(bounds: Bounds) -> float:
    return float(np.max(bounds[1] - bounds[0]))

"""Projected gradient descent with restarts: looks for an input of the set whose output is unsafe.

Paper: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018. The loss of a disjunct
is the largest violation among its rows, `max_i (a_i y + c_i x - b_i)`: at or below zero the input is unsafe. Gradients
come from the network's own adjoint in NumPy. Guarantee: VIOLATED with a replayed witness; never HOLDS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from verifkit.analysis.gradient import pull_back
from verifkit.analysis.interval import INTERVAL_RULES
from verifkit.analysis.region import Region, region_of
from verifkit.analysis.rows import Rows, rows_of
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.confirm import confirm
from verifkit.errors import OptionError
from verifkit.network import Network
from verifkit.ops import Max, Product
from verifkit.query import Query
from verifkit.result import Outcome, Reason
from verifkit.verifier import Verifier

SHARPNESS = 10.0
"""Of the softmax over a disjunct's rows, in units of the spread of their violations."""

UNREACHABLE = 1e300
"""The violation of a row at a point where the network has no finite value."""


@dataclass(frozen=True, kw_only=True)
class Pgd(Verifier):
    """steps: gradient steps from each start. starts: how many, the center among them, all in one batch.

    step_size: the first step in units of the set's half width (box) or radius (ball); it shrinks linearly to a tenth.
    Starts are dealt out to the disjuncts in turn, those nearest to violation at the center first.
    """

    steps: int = 40
    starts: int = 64
    step_size: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 0 or self.starts < 1 or not self.step_size > 0:
            raise OptionError(f"pgd needs steps >= 0, starts >= 1 and step_size > 0, not {self.options()}")

    name: ClassVar[str] = "pgd"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.FALSIFIER, "2": Kind.FALSIFIER, "1": Kind.FALSIFIER},
        operators=frozenset({Max, Product}),
        activations=frozenset(INTERVAL_RULES),
        coupling=True,
        paper=Paper(
            "madry2018pgd",
            "Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian",
            "Towards deep learning models resistant to adversarial attacks",
            "ICLR",
            2018,
        ),
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        region, rows, network = region_of(query), rows_of(query.prop), query.network
        if not rows.n_disjuncts:
            return Outcome.unknown(Reason.INCOMPLETE, "the unsafe set is empty: nothing to find")
        center = region.lower / 2 + region.upper / 2 if region.center is None else region.center
        losses, _ = _losses(rows, network.values(center)[-1], center)
        targets = np.argsort(losses[0], kind="stable")[np.arange(self.starts) % rows.n_disjuncts]
        x = _random_points(region, center, self.starts, rng)
        best = np.inf
        for step in range(self.steps + 1):
            clock.check()
            values = network.values(x)
            losses, gaps = _losses(rows, values[-1], x)
            best = min(best, float(losses.min()))
            for index in np.argsort(losses.min(axis=1))[:3]:
                if losses[index].min() <= 0 and confirm(query, x[index]) is not None:
                    statistics = {"loss": float(losses[index].min()), "steps": step}
                    return Outcome.violated(x[index], statistics=statistics)
            if step < self.steps:
                length = self.step_size * (1.0 - 0.9 * step / self.steps)
                weights = _row_weights(rows, gaps, targets)
                x = _descend(x, _gradient(network, values, rows, weights), region, length)
        detail = f"no violation found from {self.starts} starts; least loss {best:.6g}"
        return Outcome.unknown(Reason.INCOMPLETE, detail, statistics={"loss": best})


def _losses(rows: Rows, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each point the largest violation among each disjunct's rows, (B, n_disjuncts), and of every row, (B, R).

    Where the network has no value (NaN), or overflowed, every row counts as missed by far.
    """
    batch = y.shape[0]
    left = y.reshape(batch, -1) @ rows.outputs.T
    if rows.inputs is not None:
        left = left + x.reshape(batch, -1) @ rows.inputs.T
    gaps = np.where(np.isfinite(left), left - rows.bound, UNREACHABLE)
    losses = np.full((rows.n_disjuncts, batch), -np.inf)
    np.maximum.at(losses, rows.disjunct, gaps.T)
    return losses.T, gaps


def _row_weights(rows: Rows, gaps: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How much each row of each point's disjunct is to be lowered, (B, R): a softmax, so that a kink between two
    rows that are violated alike is not a trap."""
    mine = rows.disjunct[None] == targets[:, None]
    masked = np.where(mine, gaps, -np.inf)
    top = masked.max(axis=1, keepdims=True)
    spread = np.maximum(top - np.where(mine, gaps, np.inf).min(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    weights = np.where(mine, np.exp(SHARPNESS * (masked - top) / spread), 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _gradient(network: Network, values: list[np.ndarray], rows: Rows, weights: np.ndarray) -> np.ndarray:
    """The gradient of each point's weighted rows, (B, *input_shape)."""
    gradient: np.ndarray = pull_back(network, values, (weights @ rows.outputs).reshape(values[-1].shape))
    if rows.inputs is not None:
        gradient = gradient + (weights @ rows.inputs).reshape(gradient.shape)
    return gradient


def _random_points(region: Region, center: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The center, then random corners and random points in turn, all inside the region."""
    share = rng.uniform(size=(count, *center.shape[1:]))
    share[1::2] = np.round(share[1::2])
    x = region.lower + share * (region.upper - region.lower)
    x[0] = center[0]
    return _project(x, region)


def _descend(x: np.ndarray, gradient: np.ndarray, region: Region, length: float) -> np.ndarray:
    """One steepest-descent step in the geometry of the region's norm, projected back."""
    if region.center is None or region.radius is None:
        half = (region.upper - region.lower) / 2
        # Sign steps suit many inputs; in few dimensions steps along the slope reach what corners do not.
        scaled = gradient * half
        largest = np.abs(scaled.reshape(x.shape[0], -1)).max(axis=1).reshape(-1, *(1,) * (x.ndim - 1))
        slope = scaled / np.maximum(largest, np.finfo(np.float64).tiny)
        direction = np.sign(gradient)
        direction[1::2] = slope[1::2]
        return _project(x - length * half * direction, region)
    flat = gradient.reshape(gradient.shape[0], -1)
    if region.norm == "1":  # steepest in l1: the single entry with the largest slope
        direction = np.zeros_like(flat)
        top = np.argmax(np.abs(flat), axis=1)
        direction[np.arange(flat.shape[0]), top] = np.sign(flat[np.arange(flat.shape[0]), top])
    else:
        direction = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return _project(x - length * region.radius[0] * direction.reshape(x.shape), region)


def _project(x: np.ndarray, region: Region) -> np.ndarray:
    """Into the ball, then into the box: clipping only moves a point nearer to a center inside the box."""
    if region.center is not None and region.radius is not None:
        gap = (x - region.center).reshape(x.shape[0], -1)
        radius = float(region.radius[0])
        gap = _project_l1(gap, radius) if region.norm == "1" else _project_l2(gap, radius)
        x = region.center + gap.reshape(x.shape)
    return np.asarray(np.clip(x, region.lower, region.upper))


def _project_l2(gap: np.ndarray, radius: float) -> np.ndarray:
    norm = np.linalg.norm(gap, axis=1, keepdims=True)
    scale = np.minimum(1.0, radius / np.maximum(norm, np.finfo(np.float64).tiny))
    return np.asarray(gap * scale)


def _project_l1(gap: np.ndarray, radius: float) -> np.ndarray:
    """Duchi et al., "Efficient projections onto the l1-ball", ICML 2008: soft thresholding at the right level."""
    size = np.abs(gap)
    ordered = -np.sort(-size, axis=1)
    excess = np.cumsum(ordered, axis=1) - radius
    count = np.arange(1, gap.shape[1] + 1)
    last = np.maximum((ordered - excess / count > 0).sum(axis=1), 1)
    level = np.maximum(excess[np.arange(gap.shape[0]), last - 1] / last, 0.0)[:, None]
    inside = size.sum(axis=1, keepdims=True) <= radius
    shrunk: np.ndarray = np.sign(gap) * np.maximum(size - level, 0.0)
    return np.asarray(np.where(inside, gap, shrunk))

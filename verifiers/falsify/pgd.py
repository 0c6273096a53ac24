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
from verifkit.analysis.interval import MONOTONE
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


@dataclass(frozen=True, kw_only=True)
class Pgd(Verifier):
    """steps: gradient steps from each start. starts: how many, the center among them, all in one batch.

    step_size: the first step in units of the set's half width (box) or radius (ball); it shrinks linearly to a tenth.
    Starts are dealt out to the disjuncts in turn, those nearest to violation at the center first.
    """

    steps: int = 40
    starts: int = 32
    step_size: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 0 or self.starts < 1 or not self.step_size > 0:
            raise OptionError(
                f"pgd needs steps >= 0, starts >= 1, step_size > 0; not {self.steps}, {self.starts}, {self.step_size}"
            )

    name: ClassVar[str] = "pgd"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.FALSIFIER, "2": Kind.FALSIFIER, "1": Kind.FALSIFIER},
        operators=frozenset({Max, Product}),
        activations=frozenset(MONOTONE),
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
        x = _starts(region, center, self.starts, rng)
        best = np.inf
        for step in range(self.steps + 1):
            clock.check()
            values = network.values(x)
            losses, worst = _losses(rows, values[-1], x)
            best = min(best, float(losses.min()))
            for index in np.argsort(losses.min(axis=1))[:3]:
                if losses[index].min() <= 0 and confirm(query, x[index]) is not None:
                    statistics = {"loss": float(losses[index].min()), "steps": step}
                    return Outcome.violated(x[index], statistics=statistics)
            if step < self.steps:
                chosen = worst[np.arange(self.starts), targets]
                length = self.step_size * (1.0 - 0.9 * step / self.steps)
                x = _descend(x, _gradient(network, values, rows, chosen), region, length)
        detail = f"no violation found from {self.starts} starts; least loss {best:.6g}"
        return Outcome.unknown(Reason.INCOMPLETE, detail, statistics={"loss": best})


def _losses(rows: Rows, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each point and disjunct the largest violation among its rows, and which row: both (B, n_disjuncts)."""
    batch = y.shape[0]
    left = y.reshape(batch, -1) @ rows.outputs.T
    if rows.inputs is not None:
        left = left + x.reshape(batch, -1) @ rows.inputs.T
    gaps = left - rows.bound
    losses = np.full((batch, rows.n_disjuncts), -np.inf)
    worst = np.zeros((batch, rows.n_disjuncts), dtype=np.int64)
    for number in range(gaps.shape[1]):
        at = rows.disjunct[number]
        larger = gaps[:, number] > losses[:, at]
        losses[:, at] = np.where(larger, gaps[:, number], losses[:, at])
        worst[:, at] = np.where(larger, number, worst[:, at])
    return losses, worst


def _gradient(network: Network, values: list[np.ndarray], rows: Rows, chosen: np.ndarray) -> np.ndarray:
    """The gradient of each point's chosen row, (B, *input_shape)."""
    y = values[-1]
    gradient: np.ndarray = pull_back(network, values, rows.outputs[chosen].reshape(y.shape))
    if rows.inputs is not None:
        gradient = gradient + rows.inputs[chosen].reshape(gradient.shape)
    return gradient


def _starts(region: Region, center: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The center, then random corners and random points in turn, all inside the region."""
    shape = (count, *center.shape[1:])
    share = rng.uniform(size=shape)
    share[1::2] = np.round(share[1::2])
    share[0] = 0.5
    x = region.lower + share * (region.upper - region.lower)
    x[0] = center[0]
    return _project(x, region)


def _descend(x: np.ndarray, gradient: np.ndarray, region: Region, length: float) -> np.ndarray:
    """One steepest-descent step in the geometry of the region's norm, projected back."""
    if region.center is None or region.radius is None:
        return _project(x - length * (region.upper - region.lower) / 2 * np.sign(gradient), region)
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
    return np.clip(x, region.lower, region.upper)


def _project_l2(gap: np.ndarray, radius: float) -> np.ndarray:
    norm = np.linalg.norm(gap, axis=1, keepdims=True)
    scale: np.ndarray = np.minimum(1.0, radius / np.maximum(norm, np.finfo(np.float64).tiny))
    return gap * scale


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
    return np.where(inside, gap, shrunk)

"""Projected gradient descent on the loss of a property from several starts at once, until a violation is confirmed.

Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018. Loss, steps and
projections are in `verifkit.analysis.attack`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifkit.analysis.attack import dealt, loss_gradient, losses_of, neighbourhood_of, random_points, row_weights
from verifkit.analysis.region import region_of
from verifkit.analysis.rows import rows_of
from verifkit.budget import Clock
from verifkit.confirm import confirm
from verifkit.query import Query


@dataclass(frozen=True, eq=False)
class Descent:
    """loss: the least violation seen; x: where, (*input_shape); steps: how many were made; confirmed: whether x is a
    replayed violation."""

    loss: float
    x: np.ndarray
    steps: int
    confirmed: bool


def descend(query: Query, starts: int, steps: int, step_size: float, clock: Clock, rng: np.random.Generator) -> Descent:
    """Goes down from `starts` points, the center of the input set among them, for `steps` steps.

    step_size: the first step in units of the set's half width (box) or radius (ball); it shrinks linearly to a tenth.
    Starts are dealt out to the disjuncts in turn, those nearest to violation at the center first; the unsafe set must
    have one. Calls `clock.check` before each step.
    """
    region, rows, network = region_of(query), rows_of(query.prop), query.network
    near, radius = neighbourhood_of(region)
    radii = np.full(starts, radius)
    losses, _ = losses_of(rows, network.values(near.center)[-1], near.center)
    targets, kinds = dealt(rows, losses[0], starts)
    x = random_points(region.lower, region.upper, starts, rng)
    x[0] = near.center[0]
    x = near.project(x, radii)
    best, where = np.inf, x[0]
    steps = steps if (region.upper > region.lower).any() else 0
    for step in range(steps + 1):
        clock.check()
        values = network.values(x)
        losses, gaps = losses_of(rows, values[-1], x)
        least = losses.min(axis=1)
        if least.min() < best:
            best, where = float(least.min()), x[least.argmin()]
        for index in np.argsort(least)[:3]:
            if least[index] <= 0 and confirm(query, x[index]) is not None:
                return Descent(float(least[index]), x[index], step, confirmed=True)
        if step < steps:
            length = radius * step_size * (1.0 - 0.9 * step / steps)
            gradient = loss_gradient(network, values, rows, row_weights(rows, gaps, targets))
            x = near.project(x + length * near.downhill(near.free(x, gradient), kinds), radii)
    return Descent(best, where, steps, confirmed=False)

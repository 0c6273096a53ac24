"""CERTIFY and PREDICT (Cohen et al. 2019) on a sampler: which draws are made, and when they stop."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verifkit.analysis.smoothing.certificate import Plan, radius_of
from verifkit.analysis.smoothing.sampling import BLOCK, Sampler
from verifkit.budget import BudgetExhausted, Clock

SELECTION, ESTIMATION, PREDICTION = 0, 1, 2
"""The streams of draws: none that chose the class is used again to bound its probability."""


@dataclass(frozen=True)
class Target:
    """Where mode "anytime" may stop: once each of `radii` around the asked center, `center_error` away, is certified or
    out of reach."""

    radii: tuple[Fraction, ...]
    center_error: float


def certify(
    sampler: Sampler, plan: Plan, n0: int, target: Target | None, batch: int, clock: Clock
) -> tuple[np.ndarray, np.ndarray]:
    """(counts per class of the `n0` draws that choose the class, of the fresh ones that bound its probability).

    The chosen class is the first count's largest. Without a target all of the plan's n draws are made; in mode
    "anytime" fewer if time runs out.
    """
    selection = tally(sampler, SELECTION, 0, n0, batch, clock)
    if plan.mode == "fixed":
        return selection, tally(sampler, ESTIMATION, 0, plan.n, batch, clock)
    return selection, _until(sampler, plan, int(np.argmax(selection)), target, batch, clock)


def _until(sampler: Sampler, plan: Plan, chosen: int, target: Target | None, batch: int, clock: Clock) -> np.ndarray:
    """Draws until the target is reached or out of reach, all are made or time is up; any of these may end them."""
    counts, drawn = np.zeros(0, dtype=np.int64), 0
    while drawn < plan.n:
        end = min(plan.n, drawn + max(BLOCK, drawn // 32 // BLOCK * BLOCK))  # looking costs a little
        try:
            found = tally(sampler, ESTIMATION, drawn, end, batch, clock)
        except BudgetExhausted:
            if drawn == 0:
                raise
            break
        counts, drawn = (found + counts if drawn else found), end
        if target is not None and _settled(counts.tolist(), chosen, plan, sampler, target):
            break
    return counts


def _settled(counts: list[int], chosen: int, plan: Plan, sampler: Sampler, target: Target) -> bool:
    lower, rivals = plan.bounds(counts, chosen)
    reach = radius_of(sampler.noise, lower, rivals, target.center_error)
    beyond = [radius for radius in target.radii if lower <= rivals or radius > reach]
    return not beyond or plan.hopeless(counts, chosen, sampler.noise, min(beyond))


def tally(sampler: Sampler, stream: int, start: int, end: int, batch: int, clock: Clock) -> np.ndarray:
    """How often each class wins in draws start .. end - 1 (K,), asked for `batch` at a time."""
    counts = sampler.tally(stream, start, min(batch, end - start), clock)
    for at in range(start + batch, end, batch):
        counts = counts + sampler.tally(stream, at, min(batch, end - at), clock)
    return counts

"""The check on every import: the lowered network against onnxruntime, on inputs of many kinds and scales."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from verifkit.errors import ModelError
from verifkit.input_sets import Box
from verifkit.io.runtime import OnnxRunner
from verifkit.maps import Shape
from verifkit.network import Network

RELATIVE = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-10}
"""The part of an output entry by which two correct executions may differ whatever the rounding before it."""
AMPLIFIED = 256.0
"""How many times the rounding noise, as measured, two correct executions may differ."""


def probes(shape: Shape, dtype: type[np.floating[Any]], box: Box | None, name: str) -> np.ndarray:
    """(12 or more, *shape) inputs: zero, constant, random at four scales, and corners.

    Corners are those of `box`, lower, upper and random ones with points between; without a box those of [0, 1] and
    [-1, 1]. Raises `ModelError` if the box has another number of inputs.
    """
    n = math.prod(shape)
    if box is not None and box.size != n:
        raise ModelError(f"the input set is about {box.size} inputs, but model '{name}' has {n} (shape {list(shape)})")
    rows = [np.zeros(n), np.ones(n), np.full(n, 0.5)]
    for seed, scale in enumerate((0.01, 1.0, 1.0, 10.0)):
        rng = np.random.default_rng(seed)
        rows.append(scale * rng.standard_normal(n))
    rng = np.random.default_rng(len(rows))
    rows.append(rng.random(n))
    ends = [box.floats(dtype)] if box is not None else [(np.zeros(n), np.ones(n)), (np.full(n, -1.0), np.ones(n))]
    for low, high in ends:
        rows += [low, high, np.where(rng.random(n) < 0.5, low, high)]
    if box is not None:
        low, high = ends[0]
        rows.append(np.where(rng.random(n) < 0.5, low, high))
        rows.append(np.clip(low + (high - low) * rng.random(n), low, high))
    return np.stack(rows).astype(dtype).reshape(-1, *shape)


def compare(network: Network | None, x: np.ndarray, y: np.ndarray, name: str, output: str) -> None:
    """Raises `ModelError` if `y`, what onnxruntime gives for `x`, is not finite or not what the network computes.

    Entry j of an output may differ by 1e-4 |y_j|, or, where rounding is amplified more than that, by 256 times the
    noise: the difference between the network in float32 and in float64, plus the rounding of its largest value.
    """
    if not np.isfinite(y).all():
        raise ModelError(
            f"output '{output}' of model '{name}' is infinite or NaN for some small inputs: the model is broken"
        )
    if network is None:
        return
    if y.shape[1:] != network.output_shape:
        raise ModelError(
            f"output '{output}' of model '{name}' has shape {list(y.shape[1:])} in onnxruntime, but "
            f"{list(network.output_shape)} in the lowered network: the import is wrong, please report it"
        )
    with np.errstate(all="ignore"):  # what overflows is not finite, and fails below
        ours = network.evaluate(x)
    gap = np.abs(ours.astype(np.float64) - y)
    limit = RELATIVE[y.dtype] * np.abs(y.astype(np.float64))
    if (gap <= limit).all():
        return
    limit = np.maximum(limit, AMPLIFIED * _noise(network, x, ours))
    excess = np.where(np.isfinite(gap), gap - limit, np.inf)
    if (excess > 0).any():
        worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
        raise ModelError(
            f"the lowered network does not compute what onnxruntime does for model '{name}': output '{output}' "
            f"differs by up to {gap[worst]:.3g} at entry {[int(i) for i in worst[1:]]} (onnxruntime {y[worst]:.6g}, "
            f"network {ours[worst]:.6g}): the model is refused, please report it"
        )


def _noise(network: Network, x: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """(probes, *output_shape): how far rounding alone moves each output entry, as measured and as a floor."""
    exact = network.values(x.astype(np.float64))
    rows = len(x)
    largest = np.max([np.abs(v).reshape(rows, -1).max(axis=1) for v in exact], axis=0)
    floor = np.finfo(ours.dtype).eps / 2 * largest
    measured = np.abs(exact[-1] - ours)
    result: np.ndarray = measured + floor.reshape(rows, *(1,) * (ours.ndim - 1))
    return result


def settle_batching(runner: OnnxRunner, x: np.ndarray, y: np.ndarray) -> bool:
    """Whether the runner may take whole batches: the probes at once give what they give row by row."""
    scale = np.abs(y).reshape(len(y), -1).max(axis=1).reshape(len(y), *(1,) * (y.ndim - 1))
    return runner.accepts_batches(x, y, 1e-5 * scale)

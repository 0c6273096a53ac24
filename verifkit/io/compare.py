"""The check on every import: the lowered network against onnxruntime, on inputs of many kinds and scales.

Where a function of the network has no value (the root or logarithm of a negative number, 1 / 0), both sides must say
so.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from verifkit.errors import ModelError
from verifkit.functions import Elu, Exp, Power, Reciprocal
from verifkit.input_sets import Box
from verifkit.io.runtime import OnnxRunner
from verifkit.maps import Shape
from verifkit.network import Network
from verifkit.ops import Activation, Product

RELATIVE = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-10}
"""The part of an output entry by which two correct executions may differ whatever the rounding before it."""
AMPLIFIED = 256.0
"""How many times the rounding noise, as measured, two correct executions may differ."""
LEAST_FINITE = 8
"""How many probes must have finite outputs."""


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


def further_probes(shape: Shape, dtype: type[np.floating[Any]], box: Box | None) -> np.ndarray:
    """(12, *shape) more inputs, for a model that has no value at some of `probes`.

    Points of the box; without one, points of mixed scales that are positive in all entries, and a few negative ones.
    """
    n, rng = math.prod(shape), np.random.default_rng(12)
    if box is not None:
        low, high = box.floats(dtype)
        rows = [np.clip(low + (high - low) * rng.random(n), low, high) for _ in range(12)]
    else:
        rows = [rng.uniform(a, z, n) for a, z in ((0.1, 1), (0.5, 2), (1, 4), (1, 10)) for _ in range(2)]
        rows += [-rng.uniform(a, z, n) for a, z in ((0.1, 1), (0.5, 2), (1, 4), (1, 10))]
    return np.stack(rows).astype(dtype).reshape(-1, *shape)


def check_defined(x: np.ndarray, y: np.ndarray, box: Box | None, name: str, output: str) -> None:
    """Raises `ModelError` if too few of the outputs `y` for inputs `x` are finite, or one inside the box is not."""
    finite = np.isfinite(y.reshape(len(y), -1)).all(axis=1)
    if box is not None and not finite.all():
        low, high = box.floats(x.dtype.type)
        flat = x.reshape(len(x), -1)
        inside = ((flat >= low) & (flat <= high)).all(axis=1)
        if (inside & ~finite).any():
            raise ModelError(
                f"output '{output}' of model '{name}' is infinite or NaN for inputs of the property's input set: make "
                f"that set smaller, so that the model has a value everywhere in it"
            )
    if finite.sum() < LEAST_FINITE:
        raise ModelError(
            f"output '{output}' of model '{name}' is infinite or NaN for all but {int(finite.sum())} of {len(y)} "
            f"inputs that it was tried on: the model is broken, or a property must say where its inputs lie"
        )


def compare(network: Network | None, x: np.ndarray, y: np.ndarray, name: str, output: str) -> None:
    """Raises `ModelError` if `y`, what onnxruntime gives for `x`, is not what the network computes.

    Entry j of an output may differ by 1e-4 |y_j|, or, where rounding is amplified more than that, by 256 times the
    noise: the difference between the network in float32 and in float64, plus the rounding of its largest value. An
    entry that is infinite or NaN must be the very same in the network in float64.
    """
    finite = np.isfinite(y)
    if network is None:
        if not finite.all():
            raise _broken(name, output)
        return
    if y.shape[1:] != network.output_shape:
        raise ModelError(
            f"output '{output}' of model '{name}' has shape {list(y.shape[1:])} in onnxruntime, but "
            f"{list(network.output_shape)} in the lowered network: the import is wrong, please report it"
        )
    with np.errstate(all="ignore"):  # what overflows is not finite, and is looked at below
        ours = network.evaluate(x)
        wide = y.astype(np.float64)
        if not finite.all():
            _compare_undefined(network.evaluate(x.astype(np.float64)), wide, name, output)
        gap = np.where(finite, np.abs(ours.astype(np.float64) - wide), 0.0)
        limit = np.where(finite, max(RELATIVE[y.dtype], RELATIVE[x.dtype]) * np.abs(wide), 0.0)
        if (gap <= limit).all():
            return
        gap, noise = _gap_and_noise(network, x, ours, wide)
    limit = np.maximum(limit, AMPLIFIED * noise)
    excess = np.where(finite, np.where(np.isfinite(gap), gap - limit, np.inf), -np.inf)
    if (excess > 0).any():
        worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
        raise ModelError(
            f"the lowered network does not compute what onnxruntime does for model '{name}': output '{output}' "
            f"differs by up to {gap[worst]:.3g} at entry {[int(i) for i in worst[1:]]} (onnxruntime {y[worst]:.6g}, "
            f"network {ours[worst]:.6g}): the model is refused, please report it"
        )


def _broken(name: str, output: str) -> ModelError:
    return ModelError(
        f"output '{output}' of model '{name}' is infinite or NaN for some small inputs: the model is broken"
    )


def _compare_undefined(exact: np.ndarray, y: np.ndarray, name: str, output: str) -> None:
    """Entries of `y` that are not finite must be the same in `exact`, the network in float64.

    A network that is finite there only overflows in the model's own arithmetic.
    """
    undefined = ~np.isfinite(y)
    if (undefined & np.isfinite(exact)).any():
        raise _broken(name, output)
    same = (np.isnan(y) & np.isnan(exact)) | (y == exact)
    if (undefined & ~same).any():
        raise ModelError(
            f"output '{output}' of model '{name}' is NaN in onnxruntime where the lowered network is infinite, or the "
            f"other way round: the model is refused, keep its inputs away from where its functions have no value"
        )


def _gap_and_noise(network: Network, x: np.ndarray, ours: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both (probes, *output_shape): how far the network is from `y`, and how far rounding alone moves each entry.

    The noise is measured, on top of a floor: the rounding of the largest value. Values behind a steep function (an
    exponential of 50 is 5e21) say nothing about that, so they do not count; the noise of all entries then does. Where
    the network overflows in the arithmetic of `x`, it is the network in float64 that is compared.
    """
    values, steep = network.values(x.astype(np.float64)), _behind_steep(network)
    exact, rows, column = values[-1], len(x), (-1, *(1,) * (y.ndim - 1))
    counted = [*(v for v, skipped in zip(values, steep, strict=True) if not skipped), y]
    sizes = [np.abs(np.where(np.isfinite(v), v, 0.0)).reshape(rows, -1).max(axis=1) for v in counted]
    # onnxruntime takes Elu's exp(x) - 1 at its word: next to 0 what is left has the rounding of 1.
    sizes += [np.full(rows, abs(n.function.alpha)) for _, n in network.activations() if isinstance(n.function, Elu)]
    floor = np.finfo(x.dtype).eps / 2 * np.max(sizes, axis=0).reshape(column)
    held = np.isfinite(ours)  # else the network overflows in the arithmetic of x, or is undefined
    gap = np.where(np.isfinite(exact), np.abs(np.where(held, ours, exact) - y), np.inf)
    measured = np.where(held & np.isfinite(exact) & np.isfinite(y), np.abs(exact - ours), 0.0)
    if any(steep):
        measured = np.broadcast_to(measured.reshape(rows, -1).max(axis=1).reshape(column), y.shape)
    return gap, measured + floor


def _behind_steep(network: Network) -> list[bool]:
    """For each node whether it is, or depends on, a function that makes small values large."""
    steep: list[bool] = []
    for node in network.nodes:
        own = isinstance(node, Product) or (
            isinstance(node, Activation) and isinstance(node.function, Exp | Power | Reciprocal)
        )
        steep.append(own or any(steep[p] for p in node.parents))
    return steep


def settle_batching(runner: OnnxRunner, x: np.ndarray, y: np.ndarray) -> bool:
    """Whether the runner may take whole batches: the probes at once give what they give row by row."""
    defined = np.where(np.isfinite(y), np.abs(y), 0.0)
    scale = defined.reshape(len(y), -1).max(axis=1).reshape(len(y), *(1,) * (y.ndim - 1))
    return runner.accepts_batches(x, y, 1e-5 * scale)

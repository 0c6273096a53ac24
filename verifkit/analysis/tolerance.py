"""What a solver's feasibility tolerance may hide: a tolerance on every constraint, carried through the network."""

from __future__ import annotations

import math

import numpy as np

from verifkit.analysis.interval import Bounds
from verifkit.analysis.region import magnitude
from verifkit.analysis.rows import Rows
from verifkit.network import Network
from verifkit.ops import Activation, Affine

RELATIVE = 1e-13
"""What floating point may lose of the largest terms of one constraint, inside a solver and in composing it."""


def hidden_by_tolerance(network: Network, bounds: list[Bounds], rows: Rows, tolerance: float) -> np.ndarray:
    """How far each row's value may be from that of a true execution when every constraint is off by what the solver
    lets pass: `tolerance` (twice: the entries it drops are held below that too), and rounding relative to the terms.

    An error in one value reaches a row at most multiplied by the row's largest slope in that value over the bounds:
    the slopes are pulled back as intervals (center and radius), a stable unit's slope being 0 or 1 and an unstable
    one's anything between. Shape (R,).
    """
    count, shape = rows.outputs.shape[0], network.output_shape
    slopes = {len(network.nodes) - 1: (rows.outputs.reshape(count, *shape), np.zeros((count, *shape)))}
    tolerance = 2.0 * tolerance
    hidden = tolerance + RELATIVE * (np.abs(rows.outputs) @ magnitude(*bounds[-1]).reshape(-1) + np.abs(rows.bound))
    if rows.inputs is not None:
        hidden = hidden + RELATIVE * (np.abs(rows.inputs) @ magnitude(*bounds[0]).reshape(-1))
        slopes[0] = (rows.inputs.reshape(count, *network.input_shape), np.zeros((count, *network.input_shape)))
    for index in range(len(network.nodes) - 1, -1, -1):
        if index not in slopes:
            continue
        node, (center, radius) = network.nodes[index], slopes.pop(index)
        largest = (np.abs(center) + radius).reshape(count, math.prod(node.shape))
        error = np.full(node.shape, tolerance)
        if isinstance(node, Affine):
            pulled = [(m.adjoint(center), m.absolute.adjoint(radius)) for m in node.maps]
            error = error + _lost(node, bounds)
        elif isinstance(node, Activation):
            low, high = (end[0] for end in bounds[node.parents[0]])
            unstable = (low < 0) & (high > 0)
            error = np.where(unstable, tolerance * (2.0 + high - low), 0.0)
            # [0, 1] times [c - r, c + r], where the unit is unstable
            least, most = np.minimum(center - radius, 0.0), np.maximum(center + radius, 0.0)
            on = (low >= 0).astype(np.float64)
            middle, half = (least + most) / 2, (most - least) / 2
            pulled = [(np.where(unstable, middle, on * center), np.where(unstable, half, on * radius))]
        else:
            pulled = []
        hidden = hidden + largest @ error.reshape(-1)
        for parent, (c, r) in zip(node.parents, pulled, strict=True):
            before = slopes.get(parent, (np.zeros_like(c), np.zeros_like(r)))
            slopes[parent] = (before[0] + c, before[1] + r)
    return np.asarray(hidden)


def _lost(node: Affine, bounds: list[Bounds]) -> np.ndarray:
    """What rounding may change in each value of an affine node, in the node's shape."""
    terms = np.zeros(node.shape) if node.bias is None else np.abs(node.bias)
    for linear, parent in zip(node.maps, node.parents, strict=True):
        terms = terms + linear.absolute.apply(magnitude(*bounds[parent])[0])
    return np.asarray(RELATIVE * terms)

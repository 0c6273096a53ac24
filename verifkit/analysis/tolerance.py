"""What a solver's feasibility tolerance may hide: a tolerance on every constraint, carried through the network."""

from __future__ import annotations

import math

import numpy as np

from verifkit.analysis.encoding import slopes_left_of_zero
from verifkit.analysis.interval import Bounds
from verifkit.analysis.max_groups import MaxGroups, max_groups
from verifkit.analysis.region import magnitude
from verifkit.analysis.rows import Rows
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Max

RELATIVE = 1e-13
"""What floating point may lose of the largest terms of one constraint, inside a solver and in composing it."""


def hidden_by_tolerance(network: Network, bounds: list[Bounds], rows: Rows, tolerance: float) -> np.ndarray:
    """How far each row's value may be from that of a true execution when every constraint is off by what the solver
    lets pass: `tolerance` (twice: the entries it drops are held below that too), and rounding relative to the terms.

    An error in one value reaches a row at most multiplied by the row's largest slope in that value over the bounds:
    the slopes are pulled back as intervals (center and radius), a unit's slope being the one left of 0, 1, or, where it
    is unstable, anything between. Shape (R,).
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
            before = bounds[node.parents[0]]
            error = _rectifier_error(node, before, tolerance)
            pulled = [_through_rectifier(node, before, center, radius)]
        elif isinstance(node, Max):
            groups = _groups(node, bounds)
            error = tolerance * np.where(groups.decided, 1.0, 2.0 + groups.beyond.max(axis=1)).reshape(node.shape)
            pulled = [_through_max(node, groups, center, radius)]
        else:
            pulled = []
        hidden = hidden + largest @ error.reshape(-1)
        for parent, (c, r) in zip(node.parents, pulled, strict=True):
            others = slopes.get(parent, (np.zeros_like(c), np.zeros_like(r)))
            slopes[parent] = (others[0] + c, others[1] + r)
    return np.asarray(hidden)


def _rectifier_error(node: Activation, before: Bounds, tolerance: float) -> np.ndarray:
    """How far s z + (1 - s) r may be from the unit's value at z, in the node's shape.

    r is off by the tolerances of its rows and of the phase times low or high; the two terms round where both are there.
    """
    (low, high), slope = (end[0] for end in before), slopes_left_of_zero(node)
    off = np.where((low < 0) & (high > 0), np.abs(1.0 - slope) * tolerance * (2.0 + high - low), 0.0)
    terms = (np.abs(slope) + np.abs(1.0 - slope)) * magnitude(low, high)
    return off + np.where(slope != 0, RELATIVE * terms, 0.0)


def _through_rectifier(
    node: Activation, before: Bounds, center: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Center and radius of the products of [center - radius, center + radius] with the slopes that each unit may have:
    1 where it is on, s where it is off, all between where it is unstable."""
    (low, high), slope = (end[0] for end in before), slopes_left_of_zero(node)
    flat = np.where(low >= 0, 1.0, np.minimum(slope, np.where(high > 0, 1.0, slope)))
    steep = np.where(low >= 0, 1.0, np.maximum(slope, np.where(high > 0, 1.0, slope)))
    products = [s * end for s in (flat, steep) for end in (center - radius, center + radius)]
    least, most = np.minimum.reduce(products), np.maximum.reduce(products)
    return (least + most) / 2, (most - least) / 2


def _groups(node: Max, bounds: list[Bounds]) -> MaxGroups:
    low, high = (np.asarray(end).reshape(-1) for end in bounds[node.parents[0]])
    return max_groups(node, low, high)


def _through_max(node: Max, groups: MaxGroups, center: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for a maximum, whose slope in a candidate is 1 where it is the only one, else anything in [0, 1]."""
    count, size = center.shape[0], math.prod(node.parent_shape)
    center, radius = center.reshape(count, -1, 1), radius.reshape(count, -1, 1)
    least, most = np.minimum(center - radius, 0.0), np.maximum(center + radius, 0.0)
    alone = groups.decided[:, None]
    middle = np.where(groups.candidates, np.where(alone, center, (least + most) / 2), 0.0)
    half = np.where(groups.candidates, np.where(alone, radius, (most - least) / 2), 0.0)
    sums = []
    for part in (middle, half):
        total = np.zeros((count, size))
        np.add.at(total, (np.arange(count)[:, None, None], groups.entries[None]), part)
        sums.append(total.reshape(count, *node.parent_shape))
    return sums[0], sums[1]


def _lost(node: Affine, bounds: list[Bounds]) -> np.ndarray:
    """What rounding may change in each value of an affine node, in the node's shape."""
    terms = np.zeros(node.shape) if node.bias is None else np.abs(node.bias)
    for linear, parent in zip(node.maps, node.parents, strict=True):
        terms = terms + linear.absolute.apply(magnitude(*bounds[parent])[0])
    return np.asarray(RELATIVE * terms)

"""Values and gradients by the network's own adjoint: no automatic differentiation, no torch."""

from __future__ import annotations

import numpy as np

from verifkit.arrays import Array, namespace, scatter_flat, take_flat
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Max, Product


@np.errstate(all="ignore")
def pull_back(network: Network, values: list[Array], rows: Array) -> Array:
    """The gradient of sum(rows * output) in the input, from the node values of one forward pass.

    values: as from `Network.values` for `(B, *input_shape)`; rows: (B, *output_shape). Returns `(B, *input_shape)`.
    At a kink one of the one-sided derivatives is taken. An infinite slope (of a root at 0) becomes a large one, and
    one that has no value (outside a function's domain) becomes 0, so that a search goes on with the others.
    """
    network = network.cast(rows)
    pending: dict[int, Array] = {len(network.nodes) - 1: rows}
    for index in range(len(network.nodes) - 1, 0, -1):
        gradient = pending.pop(index, None)
        if gradient is None:
            continue
        node = network.nodes[index]
        if isinstance(node, Affine):
            pulled = [linear.adjoint(gradient) for linear in node.maps]
        elif isinstance(node, Activation):
            pulled = [_finite(gradient * node.function.derivative(values[node.parents[0]]))]
        elif isinstance(node, Max):
            pulled = [_through_max(node, values[node.parents[0]], gradient)]
        elif isinstance(node, Product):
            left, right = node.parents
            pulled = [_finite(gradient * values[right]), _finite(gradient * values[left])]
        else:
            raise TypeError(f"no gradient rule for {type(node).__name__}")
        for parent, part in zip(node.parents, pulled, strict=True):
            pending[parent] = pending[parent] + part if parent in pending else part
    return _finite(pending.get(0, namespace(rows).zeros_like(values[0])))


def _finite(gradient: Array) -> Array:
    xp = namespace(gradient)
    if bool(xp.all(xp.isfinite(gradient))):
        return gradient
    largest = float(xp.finfo(gradient.dtype).max) ** 0.25  # room for products with weights and other slopes
    return xp.clip(xp.where(xp.isnan(gradient), xp.zeros_like(gradient), gradient), -largest, largest)


def _through_max(node: Max, value: Array, gradient: Array) -> Array:
    """All of the gradient goes to the group's first largest entry."""
    xp = namespace(value)
    members = take_flat(value, node.filled_groups, len(node.parent_shape))
    first = xp.argmax(members, axis=-1)[..., None] == xp.arange(members.shape[-1])
    spread = xp.where(first, gradient[..., None], xp.zeros_like(members))
    size = 1
    for n in node.parent_shape:
        size *= n
    flat = scatter_flat(spread, node.filled_groups, size)
    return xp.reshape(flat, value.shape)

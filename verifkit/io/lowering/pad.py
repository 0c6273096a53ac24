"""The lowering rule for `Pad`: every mode moves numbers, the constant one adds a bias at the padded places."""

from __future__ import annotations

import numpy as np

from verifkit.io.lowering.arguments import Args, axes_in, listed, optional, reference
from verifkit.io.lowering.builder import Builder, Ref, Value
from verifkit.io.lowering.graph import OnnxNode
from verifkit.io.lowering.moves import numbered
from verifkit.maps import Select

_MODES = ("constant", "reflect", "edge", "wrap")


def pad(b: Builder, node: OnnxNode, args: Args) -> Value:
    """Zero padding is a `Select`, a constant other than zero a bias at the padded places; negative pads crop."""
    x, rank = reference(node, args[0]), len(args[0].shape) if args[0] is not None else 0
    mode = node.attributes.get("mode", "constant")
    if mode not in _MODES:
        raise node.refuse(f"mode '{mode}' is none of {', '.join(_MODES)}")
    pads = listed(node, args, "pads", 1)
    given = listed(node, args, "axes", 3)
    axes = tuple(range(rank)) if given is None else axes_in(node, given, rank)
    if pads is None or len(pads) != 2 * len(axes):
        raise node.refuse(f"{len(pads or ())} pads do not fit {len(axes)} axes")
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    crop = tuple(slice(max(-p, 0), n - max(-q, 0)) for p, q, n in zip(before, after, x.shape, strict=True))
    index = numbered(x)[crop]
    if not index.size:
        raise node.refuse(f"negative pads {list(pads)} leave nothing of an input of shape {list(x.shape)}")
    widths = [(max(p, 0), max(q, 0)) for p, q in zip(before, after, strict=True)]
    if mode == "constant":
        index = np.pad(index, widths, constant_values=-1)
        value = _fill(b, node, args)
    else:
        value = 0.0
        room = 1 if mode == "reflect" else 0
        for axis, (width, n) in enumerate(zip(widths, index.shape, strict=True)):
            if mode in ("reflect", "wrap") and max(width) > n - room:
                raise node.refuse(f"mode '{mode}' cannot pad axis {axis} of {n} places by {max(width)}")
        index = np.pad(index, widths, mode=mode)
    if index.shape == x.shape and not any(map(any, widths)):
        return x
    bias = np.where(index < 0, value, 0.0) if value else None
    return b.affine([(x, Select(x.shape, index))], bias)


def _fill(b: Builder, node: OnnxNode, args: Args) -> float:
    """What the constant mode pads with: an attribute, later an input, 0 where it is left out."""
    fill = optional(args, 2)
    if isinstance(fill, Ref):
        raise node.refuse("the value that it pads with depends on the network's input")
    if "value" in node.attributes:
        return node.number("value", 0.0)
    return 0.0 if fill is None or not fill.size else float(b.weights(fill).reshape(-1)[0])

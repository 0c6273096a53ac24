"""Lowering rules for the operators that only move numbers about: reshapes, permutations, and joining and cutting."""

from __future__ import annotations

import math

import numpy as np

from verifkit.io.lowering.arguments import (
    Args,
    axes_in,
    axis_in,
    common_shape,
    constant,
    integers,
    listed,
    optional,
    reference,
)
from verifkit.io.lowering.builder import Builder, Ref, Value
from verifkit.io.lowering.graph import OnnxNode
from verifkit.maps import LinearMap, Select, Shape


def numbered(x: Ref) -> np.ndarray:
    """The places of x's entries, in x's shape: what is done to them says where each entry goes."""
    return np.arange(math.prod(x.shape)).reshape(x.shape)


def picked(b: Builder, node: OnnxNode, x: Ref, index: np.ndarray) -> Value:
    """out[k] = x.flat[index[k]]; x itself where that changes nothing."""
    if not index.size:
        raise node.refuse(f"it leaves nothing of an input of shape {list(x.shape)}")
    if index.shape == x.shape and np.array_equal(index, numbered(x)):
        return x
    return b.affine([(x, Select(x.shape, np.asarray(index, order="C")))])


def flatten(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    axis, rank = int(node.attributes.get("axis", 1)), len(x.shape)
    if not -rank <= axis <= rank:
        raise node.refuse(f"axis {axis} is outside its input's {rank} axes")
    axis = axis + rank if axis < 0 else axis
    return b.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def reshape(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    target = integers(node, args[1], "new shape")
    assert target is not None
    keep_zero = node.flag("allowzero")
    if any(t < -1 for t in target) or target.count(-1) > 1 or (keep_zero and 0 in target):
        raise node.refuse(f"the new shape {list(target)} makes no sense for an input of shape {list(x.shape)}")
    if any(t == 0 and i >= len(x.shape) for i, t in enumerate(target)):
        raise node.refuse(f"the new shape {list(target)} copies an axis that its input {list(x.shape)} does not have")
    dims = [x.shape[i] if t == 0 else t for i, t in enumerate(target)]
    size, known = math.prod(x.shape), math.prod(d for d in dims if d != -1)
    if (size % known if -1 in dims else size - known) != 0:
        raise node.refuse(f"an input of shape {list(x.shape)} does not fit the new shape {list(target)}")
    return b.reshape(x, tuple(size // known if d == -1 else d for d in dims))


def transpose(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    rank = len(x.shape)
    order = tuple(node.attributes.get("perm", range(rank - 1, -1, -1)))
    if sorted(order) != list(range(rank)):
        raise node.refuse(f"perm {list(order)} is no permutation of its input's {rank} axes")
    return b.transpose(x, order)


def squeeze(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    given = listed(node, args, "axes", 1)
    ones = tuple(axis for axis, n in enumerate(x.shape) if n == 1)
    axes = ones if given is None else axes_in(node, given, len(x.shape))
    if not set(axes) <= set(ones):
        raise node.refuse(f"its axes {list(axes)} are not all of length 1 in an input of shape {list(x.shape)}")
    return b.reshape(x, tuple(n for axis, n in enumerate(x.shape) if axis not in axes))


def unsqueeze(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    given = listed(node, args, "axes", 1)
    if given is None:
        raise node.refuse("its axes are missing")
    rank = len(x.shape) + len(given)
    axes, rest = axes_in(node, given, rank), iter(x.shape)
    return b.reshape(x, tuple(1 if axis in axes else next(rest) for axis in range(rank)))


def concat(b: Builder, node: OnnxNode, args: Args) -> Value:
    values = [v for v in args if v is not None]
    rank = len(values[0].shape)
    axis = axis_in(node, int(node.attributes["axis"]), rank)
    others = {(*v.shape[:axis], *v.shape[axis + 1 :]) for v in values if len(v.shape) == rank}
    if len(others) != 1 or any(len(v.shape) != rank for v in values):
        shapes = ", ".join(str(list(v.shape)) for v in values)
        raise node.refuse(f"its inputs of shapes {shapes} do not fit together along axis {axis}")
    if len(values) == 1:
        return values[0]
    return b.concat([v if isinstance(v, Ref) else b.weights(v) for v in values], axis)


def split(b: Builder, node: OnnxNode, args: Args) -> list[Value]:
    """Equal parts, but for a shorter last one (num_outputs), or the lengths that the attribute or input states."""
    x = reference(node, args[0])
    axis = axis_in(node, int(node.attributes.get("axis", 0)), len(x.shape))
    length, count = x.shape[axis], len(node.outputs)
    sizes = listed(node, args, "split", 1)
    stated = int(node.attributes.get("num_outputs", count))
    if stated != count:
        raise node.refuse(f"num_outputs is {stated}, but it has {count} outputs")
    if sizes is None:
        step = -(-length // count)
        if length % count and "num_outputs" not in node.attributes:
            raise node.refuse(f"axis {axis} of length {length} cannot be cut into {count} equal parts")
        sizes = tuple(max(0, min(step, length - i * step)) for i in range(count))
    if len(sizes) != count or sum(sizes) != length or min(sizes) < 0:
        raise node.refuse(f"parts of {list(sizes)} do not fit axis {axis} of length {length} and {count} outputs")
    index, parts, start = numbered(x), list[Value](), 0
    for tensor, size in zip(node.outputs, sizes, strict=True):
        used = bool(tensor) and b.graph.consumers.get(tensor, 0)
        place = (*(slice(None),) * axis, slice(start, start + size))
        parts.append(picked(b, node, x, index[place]) if used else np.zeros(0))
        start += size
    return parts


def slice_(b: Builder, node: OnnxNode, args: Args) -> Value:
    """Starts and ends beyond an axis are cut to it; a negative step runs backwards."""
    x, rank = reference(node, args[0]), len(args[0].shape) if args[0] is not None else 0
    starts, ends = listed(node, args, "starts", 1), listed(node, args, "ends", 2)
    axes, steps = listed(node, args, "axes", 3), integers(node, optional(args, 4), "steps")
    if starts is None or ends is None:
        raise node.refuse("its starts or ends are missing")
    chosen = axes_in(node, tuple(range(len(starts))) if axes is None else axes, rank)
    by = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(chosen) == len(by) or 0 in by:
        raise node.refuse(
            f"starts {list(starts)}, ends {list(ends)}, axes {list(chosen)} and steps {list(by)} do not fit together"
        )
    cut = [slice(None)] * rank
    for axis, start, end, step in zip(chosen, starts, ends, by, strict=True):
        length = x.shape[axis]
        first, last = (start + length if start < 0 else start), (end + length if end < 0 else end)
        if step > 0:
            cut[axis] = slice(max(first, 0), max(last, 0), step)
        else:
            cut[axis] = slice(min(max(first, 0), length - 1), None if last < 0 else last, step)
    return picked(b, node, x, numbered(x)[tuple(cut)])


def _positions(node: OnnxNode, value: Value | None, length: int) -> np.ndarray:
    """Constant indices into an axis, negative ones counted from its end."""
    index = constant(node, value, "index").astype(np.int64)
    if index.size and not (-length <= index.min() and index.max() < length):
        raise node.refuse(f"an index of {int(index.min())} to {int(index.max())} is outside an axis of {length}")
    return np.where(index < 0, index + length, index)


def gather(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    axis = axis_in(node, int(node.attributes.get("axis", 0)), len(x.shape))
    return picked(b, node, x, numbered(x).take(_positions(node, args[1], x.shape[axis]), axis=axis))


def gather_elements(b: Builder, node: OnnxNode, args: Args) -> Value:
    x = reference(node, args[0])
    axis = axis_in(node, int(node.attributes.get("axis", 0)), len(x.shape))
    index = _positions(node, args[1], x.shape[axis])
    fits = index.ndim == len(x.shape)
    if not fits or any(i > n for a, (i, n) in enumerate(zip(index.shape, x.shape, strict=True)) if a != axis):
        raise node.refuse(f"an index of shape {list(index.shape)} does not fit an input of shape {list(x.shape)}")
    inner = numbered(x)[tuple(slice(None) if a == axis else slice(i) for a, i in enumerate(index.shape))]
    return picked(b, node, x, np.take_along_axis(inner, index, axis=axis))


def gather_nd(b: Builder, node: OnnxNode, args: Args) -> Value:
    x, index = reference(node, args[0]), constant(node, args[1], "index").astype(np.int64)
    batch, rank = int(node.attributes.get("batch_dims", 0)), len(x.shape)
    depth = index.shape[-1] if index.ndim else 0
    if not 0 <= batch < min(rank, index.ndim) or not 1 <= depth <= rank - batch:
        raise node.refuse(f"an index of shape {list(index.shape)} does not fit an input of shape {list(x.shape)}")
    if index.shape[:batch] != x.shape[:batch]:
        raise node.refuse(f"its batch axes differ: {list(index.shape[:batch])} and {list(x.shape[:batch])}")
    lengths = np.array(x.shape[batch : batch + depth])
    if ((index < -lengths) | (index >= lengths)).any():
        raise node.refuse(f"an index lies outside axes of lengths {lengths.tolist()}")
    index = np.where(index < 0, index + lengths, index)
    leading = tuple(np.arange(n).reshape(-1, *(1,) * (index.ndim - 2 - axis)) for axis, n in enumerate(x.shape[:batch]))
    return picked(b, node, x, numbered(x)[(*leading, *np.moveaxis(index, -1, 0))])


def expand(b: Builder, node: OnnxNode, args: Args) -> Value:
    """Two-way broadcasting: an axis of 1 in the new shape keeps the input's length."""
    x, target = reference(node, args[0]), integers(node, args[1], "new shape")
    assert target is not None
    try:
        out: Shape = np.broadcast_shapes(x.shape, target)
    except ValueError:
        raise node.refuse(f"an input of shape {list(x.shape)} does not broadcast with {list(target)}") from None
    return b.expand(x, out, "")


def tile(b: Builder, node: OnnxNode, args: Args) -> Value:
    x, repeats = reference(node, args[0]), integers(node, args[1], "repeats")
    assert repeats is not None
    if len(repeats) != len(x.shape) or min(repeats, default=1) < 1:
        raise node.refuse(f"repeats {list(repeats)} do not fit an input of shape {list(x.shape)}")
    return picked(b, node, x, np.tile(numbered(x), repeats))


def where(b: Builder, node: OnnxNode, args: Args) -> Value:
    """A constant mask picks each entry from one branch: a `Select` of each, constants as a bias."""
    mask = constant(node, args[0], "condition").astype(bool)
    out = common_shape(node, args)
    terms: list[tuple[Ref, LinearMap]] = []
    bias = np.zeros(out)
    for value, kept in zip(args[1:], (mask, ~mask), strict=True):
        taken = np.broadcast_to(kept, out)
        if isinstance(value, Ref):
            index = np.where(taken, np.broadcast_to(numbered(value), out), -1)
            if taken.any():
                terms.append((value, Select(value.shape, index)))
        else:
            # What the mask leaves out may be infinite, as in attention.
            array = constant(node, value, "branch")
            bias += b.weights(np.where(taken, array, array.dtype.type(0)))
    if not terms:
        return bias.astype(next(a.dtype for a in args[1:] if a is not None))
    return b.affine(terms, bias if bias.any() else None)


def _depth_first(node: OnnxNode) -> bool:
    """Whether the channels are counted (row, column, depth) within a block, mode DCR, or else (depth, row, column)."""
    mode = node.attributes.get("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise node.refuse(f"mode '{mode}' is neither DCR nor CRD")
    return bool(mode == "DCR")


def depth_to_space(b: Builder, node: OnnxNode, args: Args) -> Value:
    x, size = reference(node, args[0]), int(node.attributes["blocksize"])
    if len(x.shape) != 4 or size < 1 or x.shape[1] % (size * size):
        raise node.refuse(f"blocks of {size} by {size} do not fit an input of shape {list(x.shape)}")
    n, c, h, w = x.shape
    deep = c // (size * size)
    if _depth_first(node):
        blocks = numbered(x).reshape(n, size, size, deep, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = numbered(x).reshape(n, deep, size, size, h, w).transpose(0, 1, 4, 2, 5, 3)
    return picked(b, node, x, blocks.reshape(n, deep, h * size, w * size))


def space_to_depth(b: Builder, node: OnnxNode, args: Args) -> Value:
    x, size = reference(node, args[0]), int(node.attributes["blocksize"])
    if len(x.shape) != 4 or size < 1 or x.shape[2] % size or x.shape[3] % size:
        raise node.refuse(f"blocks of {size} by {size} do not fit an input of shape {list(x.shape)}")
    n, c, h, w = x.shape
    order = (0, 3, 5, 1, 2, 4) if _depth_first(node) else (0, 1, 3, 5, 2, 4)
    blocks = numbered(x).reshape(n, c, h // size, size, w // size, size).transpose(order)
    return picked(b, node, x, blocks.reshape(n, c * size * size, h // size, w // size))


def trilu(b: Builder, node: OnnxNode, args: Args) -> Value:
    """The upper or lower triangle of the last two axes; 0 elsewhere."""
    x, k = reference(node, args[0]), integers(node, optional(args, 1), "diagonal")
    if len(x.shape) < 2:
        raise node.refuse(f"an input of shape {list(x.shape)} is no matrix")
    part = np.triu if node.flag("upper", 1) else np.tril
    inside = part(np.ones(x.shape[-2:], dtype=bool), k[0] if k else 0)
    index = np.where(inside, numbered(x), -1)
    return b.affine([(x, Select(x.shape, index))])

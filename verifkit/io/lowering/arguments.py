"""What the lowering rules ask of a node's inputs: constants, references, axes; each refusal names the node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verifkit.io.lowering.builder import Builder, Ref, Value
from verifkit.io.lowering.graph import OnnxNode
from verifkit.maps import Shape

Args = Sequence[Value | None]
"""A node's inputs in order; None where an optional one is left out by an empty name."""


def optional(args: Args, place: int) -> Value | None:
    """The input at `place`; None where it is left out."""
    return args[place] if place < len(args) else None


def reference(node: OnnxNode, value: Value | None, what: str = "first input") -> Ref:
    """The value as one that depends on the network's input; refuses a constant."""
    if not isinstance(value, Ref):
        raise node.refuse(f"its {what} is {'missing' if value is None else 'a constant'}")
    return value


def constant(node: OnnxNode, value: Value | None, what: str) -> np.ndarray:
    """The value as a constant; refuses one that is computed from the input."""
    if value is None:
        raise node.refuse(f"its {what} is missing")
    if isinstance(value, Ref):
        raise node.refuse(f"its {what} depends on the network's input")
    return value


def integers(node: OnnxNode, value: Value | None, what: str) -> tuple[int, ...] | None:
    """A constant integer vector input; None where it is left out. Refuses one that is computed from the input."""
    if value is None:
        return None
    if isinstance(value, Ref):
        raise node.refuse(f"its {what} depend on the network's input")
    return tuple(int(v) for v in value.reshape(-1))


def axis_in(node: OnnxNode, axis: int, rank: int) -> int:
    """A possibly negative axis, counted from the front."""
    if not -rank <= axis < rank:
        raise node.refuse(f"axis {axis} is outside its input's {rank} axes")
    return axis % rank


def axes_in(node: OnnxNode, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front, none of them twice."""
    chosen = tuple(axis_in(node, axis, rank) for axis in axes)
    if len(set(chosen)) != len(chosen):
        raise node.refuse(f"its axes {list(axes)} name one twice")
    return chosen


def listed(node: OnnxNode, args: Args, name: str, place: int) -> tuple[int, ...] | None:
    """Integers that older opsets keep in the attribute `name` and newer ones in the input at `place`."""
    if name in node.attributes:
        return tuple(int(v) for v in node.attributes[name])
    return integers(node, optional(args, place), name)


def common_shape(node: OnnxNode, args: Args) -> Shape:
    """The shape that the inputs broadcast to."""
    given = [a.shape for a in args if a is not None]
    try:
        return np.broadcast_shapes(*given)
    except ValueError:
        shapes = " and ".join(str(list(s)) for s in given)
        raise node.refuse(f"its inputs of shapes {shapes} do not broadcast together") from None


def channel_column(b: Builder, node: OnnxNode, value: Value | None, shape: Shape, what: str) -> np.ndarray:
    """A constant of one number per channel, exact, shaped so that it broadcasts over (batch, channels, *spatial)."""
    if len(shape) < 2:
        raise node.refuse(f"an input of shape {list(shape)} has no channels")
    array = b.weights(constant(node, value, what))
    if array.shape != (shape[1],):
        raise node.refuse(f"its {what} of shape {list(array.shape)} does not fit {shape[1]} channels")
    return array.reshape(-1, *(1,) * (len(shape) - 2))

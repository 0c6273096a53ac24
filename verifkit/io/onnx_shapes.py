"""Lowering rules for the operators that only move numbers about, constants, and nodes that see constants only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from verifkit.io.onnx_builder import Builder, Ref, Value
from verifkit.io.onnx_graph import OnnxNode, to_array
from verifkit.io.runtime import reason, runtime_errors, session
from verifkit.maps import Select

Args = Sequence[Value | None]

_FOLDABLE = (
    "Abs Add And Cast Ceil Concat ConstantOfShape Div Equal Exp Expand Flatten Floor Gather Gemm Greater GreaterOrEqual"
    " Less LessOrEqual Log MatMul Max Min Mod Mul Neg Not Or Pad Pow Range ReduceMax ReduceMean ReduceMin ReduceProd"
    " ReduceSum Relu Reshape Round Sigmoid Slice Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Where"
)
FOLDABLE = frozenset(_FOLDABLE.split())
"""Operators that are computed on load where all inputs are constants. None of them is random or keeps a state."""


def fold(node: OnnxNode, args: Args) -> list[np.ndarray]:
    """The outputs of a node whose inputs are all constants, computed by onnxruntime."""
    named = [(name, a) for name, a in zip(node.inputs, args, strict=True) if isinstance(a, np.ndarray)]
    inputs = {
        name: onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in named
    }
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.outputs if name]
    graph = onnx.helper.make_graph([node.proto], "folded", list(inputs.values()), outputs)
    opsets = [onnx.helper.make_opsetid("", node.opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    try:
        results = session(model.SerializeToString()).run(None, dict(named))
    except runtime_errors() as error:
        raise node.refuse(f"it could not be computed from its constant inputs ({reason(error)})") from None
    found = iter(results)
    return [np.asarray(next(found)) if name else np.zeros(0) for name in node.outputs]


def reference(node: OnnxNode, value: Value | None, what: str = "first input") -> Ref:
    """The value as one that depends on the network's input; refuses a constant."""
    if not isinstance(value, Ref):
        raise node.refuse(f"its {what} is {'missing' if value is None else 'a constant'}")
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
    keep_zero = bool(node.attributes.get("allowzero", 0))
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


def identity(b: Builder, node: OnnxNode, args: Args) -> Value:
    value = args[0]
    assert value is not None
    return value


def dropout(b: Builder, node: OnnxNode, args: Args) -> Value:
    training = args[2] if len(args) > 2 else None
    if isinstance(training, Ref) or (training is not None and bool(training.any())):
        raise node.refuse("it is in training mode, where it is random: export the model in evaluation mode")
    return identity(b, node, args)


def shape_of(b: Builder, node: OnnxNode, args: Args) -> Value:
    """`Shape` of a tensor whose shape is fixed is a constant; axes as in Python's slices."""
    shape = args[0].shape if args[0] is not None else ()
    start, end = node.attributes.get("start", 0), node.attributes.get("end", len(shape))
    return np.array(shape[start:end] if start >= -len(shape) else shape[:end], dtype=np.int64)


def size_of(b: Builder, node: OnnxNode, args: Args) -> Value:
    return np.array(math.prod(args[0].shape if args[0] is not None else ()), dtype=np.int64)


def constant(b: Builder, node: OnnxNode, args: Args) -> Value:
    readers: dict[str, Callable[[object], np.ndarray]] = {
        "value": lambda v: to_array(v),  # type: ignore[arg-type]
        "value_float": lambda v: np.array(v, dtype=np.float32),
        "value_floats": lambda v: np.array(v, dtype=np.float32),
        "value_int": lambda v: np.array(v, dtype=np.int64),
        "value_ints": lambda v: np.array(v, dtype=np.int64),
    }
    if len(node.attributes) != 1 or next(iter(node.attributes)) not in readers:
        raise node.refuse(
            f"it holds {', '.join(node.attributes) or 'nothing'}: only one number or dense tensor is read"
        )
    ((name, value),) = node.attributes.items()
    return readers[name](value)


def pad(b: Builder, node: OnnxNode, args: Args) -> Value:
    """Zero padding is a `Select`, a constant other than zero a bias at the padded places; negative pads crop."""
    x, attributes = reference(node, args[0]), node.attributes
    if attributes.get("mode", "constant") != "constant":
        raise node.refuse(f"mode '{attributes['mode']}' is not lowered, only 'constant'")
    rank = len(x.shape)
    if node.opset < 11:
        pads, axes, value = tuple(attributes["pads"]), tuple(range(rank)), float(attributes.get("value", 0.0))
    else:
        given = integers(node, args[1], "pads")
        chosen = integers(node, args[3] if len(args) > 3 else None, "axes")
        assert given is not None
        pads = given
        axes = tuple(range(rank)) if chosen is None else tuple(axis_in(node, a, rank) for a in chosen)
        fill = args[2] if len(args) > 2 else None
        if isinstance(fill, Ref):
            raise node.refuse("the value that it pads with depends on the network's input")
        value = 0.0 if fill is None or not fill.size else float(b.weights(fill).reshape(-1)[0])
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise node.refuse(f"{len(pads)} pads do not fit {len(axes)} axes")
    index = np.arange(math.prod(x.shape)).reshape(x.shape)
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    crop = tuple(slice(max(-p, 0), n - max(-q, 0)) for p, q, n in zip(before, after, x.shape, strict=True))
    index = index[crop]
    if not index.size:
        raise node.refuse(f"negative pads {list(pads)} leave nothing of an input of shape {list(x.shape)}")
    widths = [(max(p, 0), max(q, 0)) for p, q in zip(before, after, strict=True)]
    index = np.pad(index, widths, constant_values=-1)
    if index.shape == x.shape and not any(map(any, widths)):
        return x
    bias = np.where(index < 0, value, 0.0) if value else None
    return b.affine([(x, Select(x.shape, index))], bias)

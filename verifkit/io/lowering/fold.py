"""Constants: `Constant`, shapes of tensors whose shape is fixed, and nodes all of whose inputs are constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from verifkit.io.lowering.arguments import Args
from verifkit.io.lowering.builder import Builder, Ref, Value
from verifkit.io.lowering.graph import OnnxNode, to_array
from verifkit.io.runtime import quiet, reason, runtime_errors, session

_FOLDABLE = (
    "Abs Add And ArgMax ArgMin AveragePool BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast"
    " CastLike Ceil Celu Clip Compress Concat ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace"
    " DequantizeLinear Div Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu"
    " Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish InstanceNormalization IsInf"
    " IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mish Mod Mul Neg"
    " NonZero Not OneHot Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax"
    " ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND"
    " Selu Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh"
    " ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor"
)
FOLDABLE = frozenset(_FOLDABLE.split())
"""Operators that are computed on load where all inputs are constants. None of them is random or keeps a state."""


_FLOATS: dict[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype(np.float32),
    onnx.TensorProto.DOUBLE: np.dtype(np.float64),
}


def fold(node: OnnxNode, args: Args) -> list[np.ndarray]:
    """The outputs of a node whose inputs are all constants, computed by onnxruntime."""
    named = {name: a for name, a in zip(node.inputs, args, strict=True) if isinstance(a, np.ndarray)}
    foreign = [a for a in named.values() if a.dtype.isbuiltin != 1]
    if foreign:
        return [_widened(node, foreign[0])]
    graph = onnx.helper.make_graph(
        [node.proto],
        "folded",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in named.items()
        ],
        [onnx.helper.make_empty_tensor_value_info(name) for name in node.outputs if name],
    )
    opsets = [onnx.helper.make_opsetid("", node.opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    try:
        results = session(model.SerializeToString()).run(None, named, quiet())
    except runtime_errors() as error:
        raise node.refuse(f"it could not be computed from its constant inputs ({reason(error)})") from None
    found = iter(results)
    return [np.asarray(next(found)) if name else np.zeros(0) for name in node.outputs]


def _widened(node: OnnxNode, array: np.ndarray) -> np.ndarray:
    """A constant of a type that NumPy has not (bfloat16, a small float or integer), cast to a float that holds it."""
    to = _FLOATS.get(int(node.attributes.get("to", 0))) if node.operator == "Cast" else None
    if to is None:
        raise node.refuse(f"it computes with constants of type {array.dtype}: save them in single precision")
    return array.astype(to)


def shape_of(b: Builder, node: OnnxNode, args: Args) -> Value:
    """`Shape` of a tensor whose shape is fixed is a constant; axes as in Python's slices."""
    shape = args[0].shape if args[0] is not None else ()
    start, end = node.attributes.get("start", 0), node.attributes.get("end", len(shape))
    return np.array(shape[start:end] if start >= -len(shape) else shape[:end], dtype=np.int64)


def size_of(b: Builder, node: OnnxNode, args: Args) -> Value:
    return np.array(math.prod(args[0].shape if args[0] is not None else ()), dtype=np.int64)


def constant_node(b: Builder, node: OnnxNode, args: Args) -> Value:
    readers: dict[str, Callable[[object], np.ndarray]] = {
        "value": lambda v: to_array(v),  # type: ignore[arg-type]
        "value_float": lambda v: np.array(v, dtype=np.float32),
        "value_floats": lambda v: np.array(v, dtype=np.float32),
        "value_int": lambda v: np.array(v, dtype=np.int64),
        "value_ints": lambda v: np.array(v, dtype=np.int64),
    }
    if len(node.attributes) != 1 or next(iter(node.attributes)) not in readers:
        raise node.refuse(
            f"it holds {', '.join(node.attributes) or 'nothing'}: only one number or dense tensor is read, save it so"
        )
    ((name, value),) = node.attributes.items()
    return readers[name](value)


def identity(b: Builder, node: OnnxNode, args: Args) -> Value:
    value = args[0]
    assert value is not None
    return value


def dropout(b: Builder, node: OnnxNode, args: Args) -> Value:
    training = args[2] if len(args) > 2 else None
    if isinstance(training, Ref) or (training is not None and bool(training.any())):
        raise node.refuse("it is in training mode, where it is random: export the model in evaluation mode")
    return identity(b, node, args)


def cast(b: Builder, node: OnnxNode, args: Args) -> Value:
    """A cast that keeps every value: to the same type, or from float to double."""
    x = args[0]
    if not isinstance(x, Ref):
        raise node.refuse("its first input is a constant")
    return _cast_to(node, x, int(node.attributes["to"]))


def cast_like(b: Builder, node: OnnxNode, args: Args) -> Value:
    x, like = args
    if not isinstance(x, Ref):
        raise node.refuse("its first input is a constant")
    assert like is not None
    return _cast_to(node, x, onnx.helper.np_dtype_to_tensor_dtype(like.dtype))


def _cast_to(node: OnnxNode, x: Ref, to: int) -> Value:
    dtype = _FLOATS.get(to)
    if dtype is None:
        known = to in onnx.TensorProto.DataType.values()
        kind = onnx.TensorProto.DataType.Name(to).lower() if known else str(to)
        raise node.refuse(f"it casts a value that depends on the network's input to {kind}, a step function: export "
                          f"the model in single precision, without this cast")  # fmt: skip
    if dtype.itemsize < x.dtype.itemsize:
        raise node.refuse("it casts a double that depends on the network's input to a float, which rounds it: export "
                          "the whole model in one precision")  # fmt: skip
    return Ref(x.index, x.shape, dtype)

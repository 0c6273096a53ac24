"""The lowering: a table from ONNX operator to the rule that turns one of its nodes into nodes of the network.

Nothing is rounded that need not be: a bias joins a node that has none, factors and divisors stay maps of their own,
and a constant becomes float64, which holds every float32 exactly. An operator outside the table, an attribute outside
its rule, and an input that a rule cannot take raise `UnsupportedOperator`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx

from verifkit.errors import ModelError
from verifkit.functions import Abs, Cos, Erf, Exp, Log, Reciprocal, Relu, Sigmoid, Sign, Sin, Softplus, Sqrt, Tanh
from verifkit.io.lowering import arithmetic, functions, moves, normalisation, products, reductions, resize, windows
from verifkit.io.lowering import fold as constants
from verifkit.io.lowering.arguments import Args
from verifkit.io.lowering.builder import Builder, Ref, Value
from verifkit.io.lowering.fold import FOLDABLE, fold
from verifkit.io.lowering.functions import activation
from verifkit.io.lowering.graph import OnnxGraph, OnnxNode
from verifkit.io.lowering.pad import pad
from verifkit.io.lowering.refused import reason_against
from verifkit.network import Network

MANY = 1_000_000
"""For operators with any number of inputs."""


@dataclass(frozen=True)
class Rule:
    """How one operator is lowered, the attributes that it understands, and the least and most inputs it takes.

    `lower` gives the value of the first output, or a list with one value for each.
    """

    lower: Callable[[Builder, OnnxNode, Args], Value | list[Value]]
    attributes: tuple[str, ...] = ()
    inputs: tuple[int, int] = (1, 1)
    many_outputs: bool = False


def lower(graph: OnnxGraph, name: str) -> Network:
    """The graph as a network. Raises `UnsupportedOperator`, or `ModelError` if its outputs are constants."""
    b = Builder(graph)
    for node in graph.nodes:
        b.node = node
        args = [b.value(tensor) for tensor in node.inputs]
        before = len(b.nodes)
        for tensor, value in zip(node.outputs, _lower_node(b, node, args), strict=False):
            if tensor:
                b.values[tensor] = value
                b.call_it(value, tensor, before)
    outputs = [b.value(tensor) for tensor in graph.outputs]
    if not any(isinstance(value, Ref) for value in outputs):
        names = "', '".join(graph.outputs)
        raise ModelError(f"the output '{names}' of model '{name}' does not depend on its input: export it again")
    return b.network(graph.outputs)


def _lower_node(b: Builder, node: OnnxNode, args: Args) -> list[Value]:
    given = node.attributes  # refuses subgraphs
    standard = node.proto.domain in ("", "ai.onnx")
    if standard and args and not any(isinstance(a, Ref) for a in args) and node.operator in FOLDABLE:
        return list(fold(node, args))
    rule = RULES.get(node.operator)
    if rule is None:
        raise node.refuse(reason_against(node))
    unknown = [a for a in given if a not in rule.attributes]
    if unknown:
        raise node.refuse(f"its attribute '{unknown[0]}' is not known")
    _check_attributes(node)
    least, most = rule.inputs
    if not least <= len(args) <= most or any(a is None for a in args[:least]):
        counts = f"{least} or more" if most == MANY else f"{least}" + (f" to {most}" if most > least else "")
        raise node.refuse(f"it has {len(args)} inputs, not {counts}")
    if not rule.many_outputs:
        for extra in node.outputs[1:]:
            if extra and b.graph.consumers.get(extra, 0):
                raise node.refuse(f"its output '{extra}' is used, and only the first is lowered")
    result = rule.lower(b, node, args)
    return result if isinstance(result, list) else [result]


@cache
def _schema(operator: str, opset: int) -> Mapping[str, tuple[Any, bool]] | None:
    """The attributes of an operator, their types and whether they must be there; None if the opset has none such."""
    try:
        schema = onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return None
    if schema.deprecated:
        return None
    known: Mapping[str, Any] = schema.attributes
    return {name: (int(a.type.value), bool(a.required)) for name, a in known.items()}


def _check_attributes(node: OnnxNode) -> None:
    """Refuses attributes that the opset does not define, of another type, or missing ones."""
    schema = _schema(node.proto.op_type, node.opset)
    if schema is None:
        raise node.refuse("its opset has no such operator: export the model for a newer opset, or an older one")
    for attribute in node.proto.attribute:
        if attribute.name not in schema:
            raise node.refuse(f"its attribute '{attribute.name}' is not known in this opset")
        if attribute.type != schema[attribute.name][0]:
            raise node.refuse(f"its attribute '{attribute.name}' is of the wrong type")
    given = {a.name for a in node.proto.attribute}
    for name, (_, required) in schema.items():
        if required and name not in given:
            raise node.refuse(f"its attribute '{name}' is missing")


_WINDOW = ("kernel_shape", "strides", "pads", "auto_pad", "dilations")
_REDUCTION = ("axes", "keepdims", "noop_with_empty_axes")
_RESIZE = (
    "mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside",
    "extrapolation_value", "antialias", "axes", "keep_aspect_ratio_policy",
)  # fmt: skip
_CONSTANT = ("value", "value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings",
             "sparse_value")  # fmt: skip
_LAYER = ("axis", "epsilon", "stash_type")


def _reduction(lower: Callable[[Builder, OnnxNode, Args], Value]) -> Rule:
    return Rule(lower, _REDUCTION, (1, 2))


RULES: dict[str, Rule] = {
    "Abs": Rule(activation(Abs())),
    "Add": Rule(arithmetic.add, inputs=(2, 2)),
    "AveragePool": Rule(windows.average_pool, (*_WINDOW, "ceil_mode", "count_include_pad")),
    "BatchNormalization": Rule(normalisation.batch_normalisation,
                               ("epsilon", "momentum", "spatial", "training_mode"), (5, 5)),
    "Cast": Rule(constants.cast, ("to", "saturate", "round_mode")),
    "CastLike": Rule(constants.cast_like, ("saturate", "round_mode"), (2, 2)),
    "Celu": Rule(functions.celu, ("alpha",)),
    "Clip": Rule(arithmetic.clip, ("min", "max"), (1, 3)),
    "Concat": Rule(moves.concat, ("axis",), (1, MANY)),
    "Constant": Rule(constants.constant_node, _CONSTANT, (0, 0)),
    "Conv": Rule(windows.conv, (*_WINDOW, "group"), (2, 3)),
    "ConvTranspose": Rule(windows.conv_transpose, (*_WINDOW, "group", "output_padding", "output_shape"), (2, 3)),
    "Cos": Rule(activation(Cos())),
    "CumSum": Rule(arithmetic.cum_sum, ("exclusive", "reverse"), (2, 2)),
    "DepthToSpace": Rule(moves.depth_to_space, ("blocksize", "mode")),
    "Div": Rule(arithmetic.div, inputs=(2, 2)),
    "Dropout": Rule(constants.dropout, ("ratio", "seed"), (1, 3)),
    "Elu": Rule(functions.elu, ("alpha",)),
    "Erf": Rule(activation(Erf())),
    "Exp": Rule(activation(Exp())),
    "Expand": Rule(moves.expand, inputs=(2, 2)),
    "Flatten": Rule(moves.flatten, ("axis",)),
    "Gather": Rule(moves.gather, ("axis",), (2, 2)),
    "GatherElements": Rule(moves.gather_elements, ("axis",), (2, 2)),
    "GatherND": Rule(moves.gather_nd, ("batch_dims",), (2, 2)),
    "Gelu": Rule(functions.gelu, ("approximate",)),
    "Gemm": Rule(products.gemm, ("alpha", "beta", "transA", "transB"), (2, 3)),
    "GlobalAveragePool": Rule(reductions.global_average_pool),
    "GlobalMaxPool": Rule(reductions.global_max_pool),
    "GroupNormalization": Rule(normalisation.group_normalisation, ("epsilon", "num_groups", "stash_type"), (3, 3)),
    "HardSigmoid": Rule(functions.hard_sigmoid, ("alpha", "beta")),
    "HardSwish": Rule(functions.hard_swish),
    "Identity": Rule(constants.identity),
    "InstanceNormalization": Rule(normalisation.instance_normalisation, ("epsilon",), (3, 3)),
    "LayerNormalization": Rule(normalisation.layer_normalisation, _LAYER, (2, 3)),
    "LeakyRelu": Rule(functions.leaky_relu, ("alpha",)),
    "Log": Rule(activation(Log())),
    "LogSoftmax": Rule(reductions.log_softmax, ("axis",)),
    "MatMul": Rule(products.matmul, inputs=(2, 2)),
    "Max": Rule(arithmetic.max_of, inputs=(1, MANY)),
    "MaxPool": Rule(windows.max_pool, (*_WINDOW, "ceil_mode", "storage_order")),
    "Mean": Rule(arithmetic.mean_of, inputs=(1, MANY)),
    "Min": Rule(arithmetic.min_of, inputs=(1, MANY)),
    "Mish": Rule(functions.mish),
    "Mul": Rule(arithmetic.mul, inputs=(2, 2)),
    "Neg": Rule(functions.neg),
    "PRelu": Rule(functions.prelu, inputs=(2, 2)),
    "Pad": Rule(pad, ("mode", "pads", "value"), (1, 4)),
    "Pow": Rule(functions.power, inputs=(2, 2)),
    "RMSNormalization": Rule(normalisation.rms_normalisation, _LAYER, (2, 2)),
    "Reciprocal": Rule(activation(Reciprocal())),
    "ReduceL1": _reduction(reductions.L1),
    "ReduceL2": _reduction(reductions.L2),
    "ReduceLogSum": _reduction(reductions.LOG_SUM),
    "ReduceLogSumExp": _reduction(reductions.LOG_SUM_EXP),
    "ReduceMax": _reduction(reductions.reduce_max),
    "ReduceMean": _reduction(reductions.reduce_sum(mean=True)),
    "ReduceMin": _reduction(reductions.reduce_min),
    "ReduceSum": _reduction(reductions.reduce_sum()),
    "ReduceSumSquare": _reduction(reductions.SUM_SQUARE),
    "Relu": Rule(activation(Relu())),
    "Reshape": Rule(moves.reshape, ("allowzero",), (2, 2)),
    "Resize": Rule(resize.resize, _RESIZE, (1, 4)),
    "Selu": Rule(functions.selu, ("alpha", "gamma")),
    "Shape": Rule(constants.shape_of, ("start", "end")),
    "Sigmoid": Rule(activation(Sigmoid())),
    "Sign": Rule(activation(Sign())),
    "Sin": Rule(activation(Sin())),
    "Size": Rule(constants.size_of),
    "Slice": Rule(moves.slice_, ("starts", "ends", "axes"), (1, 5)),
    "Softmax": Rule(reductions.softmax, ("axis",)),
    "Softplus": Rule(activation(Softplus())),
    "Softsign": Rule(functions.softsign),
    "SpaceToDepth": Rule(moves.space_to_depth, ("blocksize", "mode")),
    "Split": Rule(moves.split, ("axis", "split", "num_outputs"), (1, 2), many_outputs=True),
    "Sqrt": Rule(activation(Sqrt())),
    "Squeeze": Rule(moves.squeeze, ("axes",), (1, 2)),
    "Sub": Rule(arithmetic.sub, inputs=(2, 2)),
    "Sum": Rule(arithmetic.sum_of, inputs=(1, MANY)),
    "Swish": Rule(functions.swish, ("alpha",)),
    "Tanh": Rule(activation(Tanh())),
    "ThresholdedRelu": Rule(functions.thresholded_relu, ("alpha",)),
    "Tile": Rule(moves.tile, inputs=(2, 2)),
    "Transpose": Rule(moves.transpose, ("perm",)),
    "Trilu": Rule(moves.trilu, ("upper",), (1, 2)),
    "Unsqueeze": Rule(moves.unsqueeze, ("axes",), (1, 2)),
    "Upsample": Rule(resize.upsample, ("mode", "scales"), (1, 2)),
    "Where": Rule(moves.where, inputs=(3, 3)),
}  # fmt: skip
"""Every operator that is lowered; what its rule accepts is stated there."""

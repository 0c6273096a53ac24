"""What no lowering rule takes is refused by name: the node, its operator, the opset, the reason and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.unit.onnx_cases import CASES
from tests.unit.onnx_cases.case import F32, Case, f32, ints, node
from verifkit.errors import ModelError, UnsupportedOperator
from verifkit.io.lowering.refused import REASONS
from verifkit.io.lowering.table import RULES
from verifkit.io.onnx import model_from_bytes

IMAGE = (1, 2, 5, 5)
W = {"w": f32(2, 2, 2, 2)}
DOUBLED = {"s": np.array([1, 1, 2, 2], dtype=F32)}
V = (node("Add", ["h", "h"], ["v"]),)


def _pads(*values: int) -> dict[str, np.ndarray]:
    return {"p": np.array(values)}


WINDOWS: list[tuple[Case, str]] = [
    (Case("Conv", IMAGE, ("h", "w"), {"auto_pad": "SAME_UPPER", "dilations": [2, 2]}, W), "dilations"),
    (Case("Conv", IMAGE, ("h", "w"), {"auto_pad": "SAME_LOWER", "dilations": [2, 1]}, W), "dilations"),
    (Case("Conv", IMAGE, ("h", "w"), {"pads": [-1, 0, 0, 0]}, W), "not negative"),
    (Case("Conv", IMAGE, ("h", "w"), {"kernel_shape": [3, 3]}, W), "do not fit"),
    (Case("Conv", IMAGE, ("h", "w"), {"group": 2}, W), "2 groups"),
    (Case("Conv", IMAGE, ("h", "w"), {"strides": [1]}, W), "do not fit"),
    (Case("Conv", IMAGE, ("h", "w"), {"dilations": [9, 9]}, W), "window covers"),
    (Case("Conv", (1, 1, 3, 3), ("c", "h"), {}, {"c": f32(1, 1, 5, 5)}), "first input is a constant"),
    (Case("Conv", (1, 1, 3, 3), ("h", "h")), "weights depends"),
    (Case("Conv", (1, 1, 2, 2, 2, 2), ("h", "w"), {}, {"w": f32(1, 1, 1, 1, 1, 1)}), "4 spatial axes"),
    (Case("Conv", IMAGE, ("h", "w", "c"), {}, {**W, "c": f32(1)}), "bias of shape [1] does not fit 2 channels"),
    (Case("ConvTranspose", IMAGE, ("h", "w"), {"group": 3}, W), "3 groups"),
    (Case("ConvTranspose", IMAGE, ("h", "w"), {"output_padding": [2, 2], "strides": [2, 2]}, W), "below the stride"),
    (Case("ConvTranspose", IMAGE, ("h", "w"), {"output_padding": [1, 1], "dilations": [2, 2]}, W), "below the stride"),
    (Case("ConvTranspose", IMAGE, ("h", "w"), {"output_shape": [9, 9]}, W), "below the stride"),
    (Case("ConvTranspose", IMAGE, ("h", "w"), {"output_shape": [9]}, W), "does not have 2 axes"),
    (Case("ConvTranspose", IMAGE, ("h", "w"), {"strides": [0, 1]}, W), "do not fit"),
    (Case("ConvTranspose", IMAGE, ("h", "w"), {"pads": [-1, 0, 0, 0]}, W), "negative"),
    (Case("ConvTranspose", IMAGE, ("h", "w"), {"pads": [3, 3, 3, 3]}, W), "reaches beyond"),
    (Case("ConvTranspose", IMAGE, ("h", "w"), {"auto_pad": "odd"}, W), "auto_pad 'odd'"),
    (Case("MaxPool", IMAGE, ("h",), {"kernel_shape": [2, 2], "storage_order": 1}), "storage_order"),
    (Case("MaxPool", IMAGE, ("h",), {"kernel_shape": [2, 2], "auto_pad": "VALID", "ceil_mode": 1}), "ceil_mode"),
    (Case("MaxPool", IMAGE, ("h",), {"kernel_shape": [2, 2], "pads": [2, 0, 0, 0]}), "padded by 2"),
    (Case("MaxPool", IMAGE, ("h",), {"kernel_shape": [1, 1], "strides": [2, 3], "auto_pad": "SAME_UPPER"}), "crop"),
    (Case("MaxPool", IMAGE, ("h",), {"kernel_shape": [2, 2], "dilations": [2, 2], "auto_pad": "SAME_LOWER"}),
     "dilations"),
    (Case("MaxPool", (1, 1, 3), ("h",), {"kernel_shape": [2], "pads": [1, 1], "dilations": [4]}),
     "wholly in the padding"),
    (Case("MaxPool", IMAGE), "attribute 'kernel_shape' is missing"),
    (Case("AveragePool", IMAGE, ("h",), {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "ceil_mode": 1}),
     "ceil_mode"),
    (Case("AveragePool", IMAGE, ("h",), {"kernel_shape": [2, 2], "pads": [0, 0, 2, 2]}), "padded by 2"),
    (Case("AveragePool", IMAGE, ("h",), {"kernel_shape": [2, 2], "auto_pad": "odd"}), "auto_pad 'odd'"),
    (Case("AveragePool", IMAGE, ("h",), {"kernel_shape": [2, 2], "dilations": [2, 2]}), "not known in this opset"),
    (Case("AveragePool", (1, 1, 4), ("h",), {"kernel_shape": [2], "pads": [1, 1], "dilations": [5]}, opset=19),
     "wholly in the padding"),
    (Case("GlobalMaxPool", (2, 3)), "no spatial axes"),
]  # fmt: skip

MOVES: list[tuple[Case, str]] = [
    (Case("Pad", IMAGE, ("h",), {"pads": [0, 0, 5, 0, 0, 0, 0, 0], "mode": "reflect"}, opset=10), "mode 'reflect'"),
    (Case("Pad", IMAGE, ("h", "p"), {"mode": "odd"}, _pads(*[0] * 8)), "mode 'odd'"),
    (Case("Pad", IMAGE, ("h", "p"), {"mode": "wrap"}, _pads(0, 0, 6, 0, 0, 0, 0, 0), opset=19), "mode 'wrap'"),
    (Case("Pad", (2,), ("h", "p", "v"), {}, _pads(0, 1), before=(node("ReduceMax", ["h"], ["v"], keepdims=0),)),
     "pads with depends"),
    (Case("Pad", (2,), ("h", "p"), {}, _pads(-1, -1)), "leave nothing"),
    (Case("Pad", (2,), ("h", "p"), {}, _pads(1)), "do not fit"),
    (Case("Reshape", (2, 3), ("h", "s"), {}, {"s": np.array([4, -1])}), "does not fit"),
    (Case("Reshape", (2, 3), ("h", "s"), {}, {"s": np.array([-1, -1])}), "makes no sense"),
    (Case("Reshape", (2, 3), ("h", "s"), {"allowzero": 1}, {"s": np.array([0, 3])}, opset=14), "makes no sense"),
    (Case("Reshape", (2,), ("h", "s"), {}, {"s": np.array([2, 0])}), "copies an axis"),
    (Case("Flatten", (2,), attributes={"axis": 3}), "axis 3"),
    (Case("Transpose", (2, 3), attributes={"perm": [0, 0]}), "no permutation"),
    (Case("Squeeze", (2, 3), ("h", "a"), {}, {"a": ints(0)}), "not all of length 1"),
    (Case("Squeeze", (1, 3), ("h", "a"), {}, {"a": ints(0, 0)}), "name one twice"),
    (Case("Squeeze", (1, 3), attributes={"axes": [0]}), "not known in this opset"),
    (Case("Unsqueeze", (3,), ("h", "a"), {}, {"a": ints(3)}), "axis 3"),
    (Case("Concat", (2, 3), ("h", "c"), {"axis": 0}, {"c": f32(2, 2)}), "do not fit together"),
    (Case("Concat", (2, 3), ("h", "c"), {"axis": 0}, {"c": f32(3)}), "do not fit together"),
    (Case("Concat", (2, 3), ("h", "c"), {"axis": 2}, {"c": f32(2, 3)}), "axis 2"),
    (Case("Split", (5,), outputs=("y", "u")), "equal parts"),
    (Case("Split", (5,), ("h", "s"), {}, {"s": ints(2, 2)}, outputs=("y", "u")), "do not fit"),
    (Case("Split", (6,), attributes={"num_outputs": 3}, opset=18, outputs=("y", "u")), "num_outputs is 3"),
    (Case("Slice", (4,), ("h", "s", "e"), {}, {"s": ints(2), "e": ints(2)}), "leaves nothing"),
    (Case("Slice", (4,), ("h", "s", "e", "", "t"), {}, {"s": ints(0), "e": ints(2), "t": ints(0)}), "fit together"),
    (Case("Gather", (4,), ("h", "i"), {}, {"i": ints(4)}), "outside an axis"),
    (Case("Gather", (4,), ("c", "v"), {}, {"c": f32(4)}, before=V), "first input is a constant"),
    (Case("GatherElements", (4,), ("h", "i"), {}, {"i": ints(0).reshape(1, 1)}), "does not fit"),
    (Case("GatherND", (2, 2), ("h", "i"), {}, {"i": ints(0, 1, 0)}), "does not fit"),
    (Case("GatherND", (2, 2), ("h", "i"), {}, {"i": ints(0, 2)}), "outside axes"),
    (Case("Expand", (2, 3), ("h", "s"), {}, {"s": ints(2, 2)}), "does not broadcast"),
    (Case("Tile", (2, 3), ("h", "r"), {}, {"r": ints(2)}), "do not fit"),
    (Case("Where", (2,), ("m", "h", "c"), {}, {"m": np.ones(2, dtype=bool), "c": f32(3)}), "do not broadcast"),
    (Case("DepthToSpace", (1, 3, 2, 2), attributes={"blocksize": 2}), "do not fit"),
    (Case("SpaceToDepth", (1, 3, 3, 2), attributes={"blocksize": 2}), "do not fit"),
    (Case("SpaceToDepth", (1, 3, 2, 2), attributes={"blocksize": 2, "mode": "DCR"}), "not known in this opset"),
    (Case("DepthToSpace", (1, 4, 2, 2), attributes={"blocksize": 2, "mode": "odd"}), "neither DCR nor CRD"),
    (Case("Resize", IMAGE, ("h", "", "s"), {"mode": "cubic"}, DOUBLED), "mode 'cubic'"),
    (Case("Resize", IMAGE, ("h", "", "s"), {"antialias": 1}, DOUBLED, 18),
     "antialias"),
    (Case("Resize", IMAGE, ("h", "", "s"), {"exclude_outside": 1}, DOUBLED),
     "exclude_outside"),
    (Case("Resize", IMAGE, ("h", "r", "s"), {"coordinate_transformation_mode": "tf_crop_and_resize"},
          {"r": np.zeros(8, dtype=F32), **DOUBLED}), "tf_crop_and_resize"),
    (Case("Resize", IMAGE, ("h", "", "s"), {"nearest_mode": "odd"}, DOUBLED), "'odd'"),
    (Case("Resize", IMAGE, ("h", "", "", "t"), {"axes": [-1], "keep_aspect_ratio_policy": "not_larger"},
          {"t": ints(4)}, 18), "from the end"),
    (Case("Resize", IMAGE, ("h",)), "neither scales nor sizes"),
    (Case("Resize", IMAGE, ("h", "", "s"), {}, {"s": np.array([1, 2], dtype=F32)}), "do not fit"),
    (Case("Upsample", IMAGE, ("h", "s"), {}, DOUBLED, 13), "no such operator"),
    (Case("Dropout", (2,), ("h", "", "t"), {}, {"t": np.array(True)}), "training"),
    (Case("Cast", (2,), attributes={"to": TensorProto.INT64}), "to int64"),
    (Case("Cast", (2,), attributes={"to": TensorProto.FLOAT16}), "to float16"),
    (Case("Cast", (2,), attributes={"to": TensorProto.BOOL}), "to bool"),
    (Case("Cast", (2,), attributes={"to": TensorProto.FLOAT}, kind=TensorProto.DOUBLE), "casts a double"),
    (Case("CastLike", (2,), ("h", "c"), {}, {"c": ints(1)}, 15), "to int64"),
    (Case("Add", (2,), ("h", "k"), before=(node("Constant", [], ["k"], name="tested", value_string="a"),)),
     "value_string"),
]  # fmt: skip

ARITHMETIC: list[tuple[Case, str]] = [
    (Case("MatMul", (2, 2), ("h", "w"), {}, {"w": f32(3, 2)}), "does not fit"),
    (Case("MatMul", (2, 2), ("h", "w"), {}, {"w": f32(3, 3, 2)}), "does not fit"),
    (Case("MatMul", (2, 2, 2), ("h", "w"), {}, {"w": f32(3, 2, 2)}), "do not broadcast"),
    (Case("MatMul", (2, 3), ("h", "h")), "do not fit"),
    (Case("MatMul", (), ("h", "h")), "scalar"),
    (Case("Gemm", (2, 3), ("h", "h")), "do not fit"),
    (Case("Gemm", (2, 2), ("h", "w"), {}, {"w": f32(3, 2)}), "do not fit"),
    (Case("Gemm", (2, 2, 2), ("h", "w"), {}, {"w": f32(2, 2)}), "must be matrices"),
    (Case("Gemm", (2, 2), ("h", "w", "c"), {}, {"w": f32(2, 2), "c": f32(3, 1, 2)}), "does not broadcast"),
    (Case("Gemm", (2, 2), ("h", "w", "c"), {"beta": 0.3}, {"w": np.eye(2), "c": np.ones(2)}, kind=TensorProto.DOUBLE),
     "exactly"),
    (Case("Gemm", (2, 2), ("w", "w", "h"), {}, {"w": f32(2, 2)}), "are constants"),
    (Case("Gemm", (2, 2), ("h", "w"), {"broadcast": 1}, {"w": f32(2, 2)}), "'broadcast'"),
    (Case("Div", (2,), ("h", "c"), {}, {"c": np.array([1, 0], dtype=F32)}), "zero"),
    (Case("Add", (2,), ("h", "c"), {}, {"c": f32(3)}), "do not broadcast"),
    (Case("Add", (2,), ("h",)), "1 inputs, not 2"),
    (Case("Sum", (2,), ("h", "c"), {}, {"c": f32(3)}), "do not broadcast"),
    (Case("CumSum", (2,), ("h", "a"), {}, {"a": np.array(1)}, 14), "axis 1"),
    (Case("Clip", (2,), attributes={"min": 2.0, "max": 1.0}, opset=7), "leave no interval"),
    (Case("Clip", (2,), ("h", "l"), {}, {"l": np.array(np.inf, dtype=F32)}), "leave no interval"),
    (Case("Clip", (2,), ("h", "l"), {}, {"l": np.array(np.nan, dtype=F32)}), "no number"),
    (Case("Clip", (2,), ("h", "v"), before=V), "no scalar"),
    (Case("Pow", (2,), ("h", "e"), {}, {"e": np.array([2, 3], dtype=F32)}), "differ from each other"),
    (Case("Pow", (2,), ("h", "e"), {}, {"e": np.array(1.5, dtype=F32)}), "exponent is 1.5"),
    (Case("Pow", (2,), ("h", "e"), {}, {"e": np.array(65, dtype=F32)}), "exponent is 65"),
    (Case("Pow", (2,), ("c", "h"), {}, {"c": np.array(2, dtype=F32)}), "base is a constant"),
    (Case("Pow", (2,), ("h", "v"), before=V), "exponent depends"),
    (Case("PRelu", (2,), ("h", "v"), before=V), "slope depends"),
    (Case("PRelu", (2,), ("h", "s"), {}, {"s": f32(3)}), "do not broadcast"),
    (Case("Celu", (2,), attributes={"alpha": -1.0}), "not positive"),
    (Case("ThresholdedRelu", (2,)), "it jumps"),
    (Case("Gelu", (2,), attributes={"approximate": "odd"}, opset=20), "approximate 'odd'"),
    (Case("Gelu", (2,)), "no such operator"),
    (Case("Elu", (2,), attributes={"alpha": 1}), "of the wrong type"),
    (Case("Elu", (2,), attributes={"alpha": float("inf")}), "'alpha' is inf"),
    (Case("LeakyRelu", (2,), attributes={"alpha": float("nan")}), "'alpha' is nan"),
    (Case("ReduceSum", (2, 3), attributes={"keepdims": 2}), "neither 0 nor 1"),
    (Case("Add", (1,), ("h", "c"), {}, {"c": np.zeros(0, dtype=F32)}), "holds nothing"),
    (Case("ReduceSumSquare", (2, 3), attributes={"noop_with_empty_axes": 1}, opset=18), "reduces no axis"),
    (Case("ReduceSum", (2, 3), ("h", "a"), {}, {"a": ints(2)}), "axis 2"),
    (Case("ReduceMax", (2, 3), attributes={"axes": [0]}, opset=20), "not known in this opset"),
    (Case("Softmax", (2, 3), attributes={"axis": 2}), "axis 2"),
    (Case("BatchNormalization", (1, 2, 3), ("h", "s", "s", "s", "s"), {"training_mode": 1}, {"s": f32(2)}, 14),
     "training mode"),
    (Case("BatchNormalization", (1, 2, 3), ("h", "s", "s", "s", "s"), {}, {"s": f32(3)}), "does not fit 2 channels"),
    (Case("BatchNormalization", (1, 2, 3), ("h", "s", "s", "s", "n"), {}, {"s": f32(2), "n": -np.ones(2, dtype=F32)}),
     "not positive"),
    (Case("BatchNormalization", (1, 2, 3), ("h", "s", "s", "v", "s"), {}, {"s": f32(2)}, before=V), "mean depends"),
    (Case("LayerNormalization", (2, 3), ("h", "s"), {}, {"s": f32(2)}, 17), "does not broadcast"),
    (Case("LayerNormalization", (2, 3), ("h", "s"), {"stash_type": 10}, {"s": f32(3)}, 17), "stash_type"),
    (Case("InstanceNormalization", (1, 2), ("h", "s", "s"), {}, {"s": f32(2)}), "no spatial axes"),
    (Case("GroupNormalization", (1, 3, 2), ("h", "s", "s"), {"num_groups": 2}, {"s": f32(3)}, 21), "do not fit"),
    (Case("GroupNormalization", (1, 2, 2), ("h", "s", "s"), {"num_groups": 2}, {"s": f32(2)}, 18), "no such operator"),
]  # fmt: skip

OPERATORS: list[tuple[Case, str]] = [
    (Case("ArgMax", (1, 3)), "end the model before it, and ask about the scores"),
    (Case("Floor", (2,)), "it jumps"),
    (Case("Mod", (2,), ("h", "c"), {"fmod": 1}, {"c": np.array(2, dtype=F32)}), "it jumps"),
    (Case("Round", (2,)), "it jumps"),
    (Case("Ceil", (2,)), "it jumps"),
    (Case("Greater", (2,), ("h", "c"), {}, {"c": f32(2)}), "true or false"),
    (Case("ReduceProd", (2, 3)), "products of two"),
    (Case("Einsum", (2, 2), ("h", "w"), {"equation": "ij,jk->ik"}, {"w": f32(2, 2)}), "no rule"),
    (Case("QuantizeLinear", (2,), ("h", "s"), {}, {"s": np.array(0.1, dtype=F32)}), "before quantisation"),
    (Case("ConvInteger", IMAGE), "before quantisation"),
    (Case("QLinearConv", IMAGE), "before quantisation"),
    (Case("LSTM", (1, 1, 2)), "unrolled"),
    (Case("SequenceConstruct", (2,)), "plain tensors"),
    (Case("StringNormalizer", (2,)), "text"),
    (Case("TopK", (4,), ("h", "k"), {}, {"k": ints(1)}), "depends on the network's input"),
    (Case("RandomNormalLike", (2,)), "random"),
    (Case("Multinomial", (2,)), "random"),
    (Case("Det", (2, 2)), "no rule"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "why"), [*WINDOWS, *MOVES, *ARITHMETIC, *OPERATORS], ids=lambda v: str(v)[:60].replace("\n", " ")
)
def test_refused_by_name(case: Case, why: str) -> None:
    with pytest.raises(UnsupportedOperator) as caught:
        model_from_bytes(case.build(residual=False), "m")
    assert why in caught.value.why
    assert caught.value.opset == case.opset
    assert caught.value.node == "tested"
    assert f"node 'tested' ({caught.value.operator}, opset {case.opset})" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("op", sorted(CASES))
def test_an_unknown_attribute_is_refused_by_name(op: str) -> None:
    case = next(c for c in CASES[op] if c.op == op or op in ("Constant", "Shape", "Size"))
    model = onnx.load_from_string(case.build(residual=False))
    tested = next(n for n in model.graph.node if n.op_type == op)
    tested.name = "tested"
    tested.attribute.append(helper.make_attribute("bogus", 1))
    with pytest.raises(UnsupportedOperator) as caught:
        model_from_bytes(model.SerializeToString(), "m")
    assert caught.value.node == "tested"
    if op == "Constant":
        assert "it holds value, bogus" in caught.value.why or "'bogus' is not known" in caught.value.why
    else:
        assert caught.value.why == "its attribute 'bogus' is not known"


def test_no_operator_has_both_a_rule_and_a_reason_against_it() -> None:
    assert not set(RULES) & set(REASONS)
    known = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}
    assert set(REASONS) <= known


def two_outputs(op: str, attributes: dict[str, Any], inputs: tuple[str, ...] = ("x",)) -> bytes:
    """A node whose second output is used."""
    nodes = [helper.make_node(op, inputs, ["h", "i"], name="tested", **attributes),
             helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Add", ["h", "f"], ["z"])]  # fmt: skip
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4])],
                              [helper.make_empty_tensor_value_info("z")],
                              [onnx.numpy_helper.from_array(f32(4), "s")])  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize(
    ("op", "attributes", "inputs"),
    [("MaxPool", {"kernel_shape": [2]}, ("x",)), ("Dropout", {}, ("x",)), ("LayerNormalization", {}, ("x", "s"))],
)
def test_a_second_output_in_use_is_refused(op: str, attributes: dict[str, Any], inputs: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedOperator, match="'i' is used"):
        model_from_bytes(two_outputs(op, attributes, inputs), "m")


def test_what_lacks_a_name_is_refused_before_onnxruntime_sees_it() -> None:
    """onnxruntime ends the process on such a model."""
    for case, what in ((Case("Split", (6,), outputs=("y", "")), "output"), (Case("Sum", (6,), ("h", "")), "input"),
                       (Case("Max", (6,), ("h", "", "h")), "input")):  # fmt: skip
        with pytest.raises(ModelError, match=rf"'tested' \({case.op}\) .* has an {what} without a name"):
            model_from_bytes(case.build(residual=False), "m", require_network=False)


def test_an_output_that_is_a_constant_is_refused() -> None:
    for case in (Case("Softmax", (3, 1)), Case("Pow", (2,), ("h", "e"), tensors={"e": np.array(0, dtype=F32)})):
        with pytest.raises(ModelError, match="does not depend on its input"):
            model_from_bytes(case.build(residual=False), "m")

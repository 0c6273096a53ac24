"""Models with several inputs or outputs: one flat vector each, in the file's order."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verifkit.errors import ModelError
from verifkit.input_sets import Box
from verifkit.io.onnx import model_from_bytes, model_from_network
from verifkit.io.runtime import OnnxRunner
from verifkit.model import Model

F32 = np.float32
W = np.random.default_rng(2).standard_normal((3, 2)).astype(F32)
NODES = (
    helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "u"], ["s"]),
    helper.make_node("Relu", ["s"], ["y"]), helper.make_node("Tanh", ["u"], ["t"]),
)  # fmt: skip


def build(
    shapes: dict[str, Sequence[int | str]],
    outputs: Sequence[str],
    nodes: Sequence[onnx.NodeProto] = NODES,
    kind: int = TensorProto.FLOAT,
    **tensors: np.ndarray,
) -> bytes:
    held = {"w": W, **tensors}
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in held.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


def load(data: bytes) -> Model:
    model = model_from_bytes(data, "m")
    assert model.network is not None
    assert (model.network.input_shape, model.network.output_shape) == (model.input_shape, model.output_shape)
    return model


def agrees(model: Model, x: np.ndarray, expected: np.ndarray) -> None:
    assert model.network is not None
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    y = model.network.evaluate(x).reshape(len(x), -1)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_two_inputs() -> None:
    model = load(build({"x": (1, 3), "u": (1, 2)}, ["y"]))
    assert (model.input_shape, model.output_shape) == ((5,), (1, 2))
    x = np.random.default_rng(0).standard_normal((4, 5))
    agrees(model, x, np.maximum(x[:, :3] @ W + x[:, 3:], 0))
    # The order is that of the file, not that of use.
    turned = load(build({"u": (1, 2), "x": (1, 3)}, ["y"]))
    agrees(turned, np.concatenate([x[:, 3:], x[:, :3]], axis=1), np.maximum(x[:, :3] @ W + x[:, 3:], 0))


def test_two_outputs() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["x"], ["r"]),
             helper.make_node("Reshape", ["r", "s"], ["v"])]  # fmt: skip
    model = load(build({"x": (1, 3)}, ["v", "y", "x"], nodes, s=np.array([3, 1])))
    assert (model.input_shape, model.output_shape) == ((1, 3), (8,))
    x = np.random.default_rng(1).standard_normal((4, 3))
    assert model.network is not None
    expected = np.concatenate([np.maximum(x, 0), x @ W, x], axis=1)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.network.evaluate(x[:, None]), expected, rtol=1e-5, atol=1e-6)


def test_several_of_both_with_dynamic_batches() -> None:
    data = build({"x": ("N", 3), "u": ("N", 2)}, ["y", "t"])
    model = load(data)
    assert (model.input_shape, model.output_shape) == ((5,), (4,))
    assert isinstance(model.call, OnnxRunner)
    assert model.call.batched
    x = np.random.default_rng(3).standard_normal((7, 5))
    expected = np.concatenate([np.maximum(x[:, :3] @ W + x[:, 3:], 0), np.tanh(x[:, 3:])], axis=1)
    agrees(model, x, expected)
    assert model.call(np.zeros((0, 5))).shape == (0, 4)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model.call))(x), model.call(x))
    # One batch that is fixed is enough for rows one by one.
    fixed = load(build({"x": ("N", 3), "u": (1, 2)}, ["y", "t"]))
    assert isinstance(fixed.call, OnnxRunner)
    assert not fixed.call.batched
    agrees(fixed, x, expected)


def test_inputs_that_are_scalars_unused_or_initialised() -> None:
    nodes = [helper.make_node("Mul", ["x", "a"], ["y"])]
    model = load(build({"x": (1, 3), "a": (), "unused": (2, 2)}, ["y"], nodes))
    assert model.input_shape == (8,)
    x = np.random.default_rng(4).standard_normal((3, 8))
    agrees_flat = x[:, :3] * x[:, 3:4]
    np.testing.assert_allclose(model(x), agrees_flat, rtol=1e-5)
    listed = load(build({"w": (3, 2), "x": (1, 3), "u": (1, 2)}, ["y"]))
    assert listed.input_shape == (5,)


def test_an_output_that_is_a_constant_or_an_input() -> None:
    nodes = [*NODES, helper.make_node("Neg", ["w"], ["c"]), helper.make_node("Abs", ["w"], ["d"])]
    model = load(build({"x": (1, 3), "u": (1, 2)}, ["y", "c", "u"], nodes))
    x = np.random.default_rng(5).standard_normal((2, 5))
    y, c = np.maximum(x[:, :3] @ W + x[:, 3:], 0), np.tile(-W.reshape(1, -1), (2, 1))
    agrees(model, x, np.concatenate([y, c, x[:, 3:]], axis=1))
    with pytest.raises(ModelError, match=r"the output 'c', 'd' .* does not depend on its input"):
        load(build({"x": (1, 3)}, ["c", "d"], nodes[-2:]))


@pytest.mark.parametrize("outputs", [["label", "y"], ["y", "label"], ["label"], ["y", "positive"]])
def test_an_output_that_is_no_float_is_refused(outputs: list[str]) -> None:
    """A class label is no score: joined with the scores it would be "class 0"."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0),
        helper.make_node("Greater", ["y", "zero"], ["positive"]),
    ]  # fmt: skip
    data = build({"x": ("N", 3)}, outputs, nodes, zero=np.zeros((), F32))
    with pytest.raises(ModelError, match=r"output '(label|positive)' .* type (int64|bool).* keep only the scores"):
        model_from_bytes(data, "m", require_network=False)


def test_doubles_boxes_and_the_writer() -> None:
    data = build({"x": (1, 3), "u": (1, 2)}, ["y", "t"], kind=TensorProto.DOUBLE, w=W.astype(np.float64))
    model = load(data)
    assert model.dtype is np.float64
    again = model_from_network(model.network, "again")  # type: ignore[arg-type]
    x = np.random.default_rng(6).standard_normal((3, 5))
    np.testing.assert_allclose(again(x), model(x), rtol=1e-5)
    box = Box((Fraction(0),) * 5, (Fraction(1),) * 5)
    assert model_from_bytes(data, "m", box=box).n_inputs == 5
    with pytest.raises(ModelError, match="about 4 inputs, but model 'm' has 5"):
        model_from_bytes(data, "m", box=Box((Fraction(0),) * 4, (Fraction(1),) * 4))


def test_a_dynamic_axis_of_the_second_input_is_refused() -> None:
    with pytest.raises(ModelError, match="axis 1 of input 'u'"):
        load(build({"x": (1, 3), "u": (1, "width")}, ["y"]))

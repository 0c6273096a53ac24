"""A model cut in two where noise is added: the parts compose to the whole, and nothing goes around the cut."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.zoo_files import ZOO
from verifkit.analysis.sensitivity import sensitivity
from verifkit.errors import ModelError
from verifkit.io.noise_layer import NOISE_AFTER, noise_place, noise_split
from verifkit.io.onnx import load_model, model_from_bytes
from verifkit.model import Model

PIXELDP = "digits-conv-small-pixeldp-gaussian-0.25.onnx"


def onnx_model(
    nodes: list[Any], *, inputs: tuple[str, ...] = ("x",), noise_after: str = "", **weights: np.ndarray
) -> Model:
    """A graph from `inputs`, (N, 4) each, to y, (N, 4)."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in (*inputs, "y")]
    constants = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:-1], ends[-1:], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if noise_after:
        helper.set_model_props(proto, {NOISE_AFTER: noise_after})
    return model_from_bytes(proto.SerializeToString(), "model", require_network=False)


def chain(*operators: str) -> list[Any]:
    names = ["x", *[f"t{k}" for k in range(1, len(operators))], "y"]
    return [helper.make_node(op, [a], [b]) for op, a, b in zip(operators, names, names[1:], strict=False)]


@pytest.mark.parametrize(
    "tensor", ["reshape1", "conv1", "relu1", "conv2", "flatten1", "dense1/map0", "dense1", "relu3"]
)
def test_the_parts_compose_to_the_whole(tensor: str) -> None:
    model = load_model(ZOO / "digits-conv-small.onnx")
    split = noise_split(model, tensor)
    assert split.head is not None
    assert split.head.network is not None
    x = np.random.default_rng(0).random((50, 64), dtype=np.float32)
    np.testing.assert_allclose(split.tail(split.head(x)), model(x), rtol=1e-5, atol=1e-5)
    assert split.head.n_outputs == split.tail.n_inputs
    assert noise_split(model, tensor) is split


def test_the_file_says_where() -> None:
    model = load_model(ZOO / PIXELDP)
    assert noise_place(model) == "conv1"
    assert noise_split(model).tensor == "conv1"
    assert noise_split(model, "relu1").tensor == "relu1"
    assert noise_split(model, "").head is None
    assert noise_place(load_model(ZOO / "digits-conv-small.onnx")) is None
    split = noise_split(pickle.loads(pickle.dumps(model)))
    assert split.head is not None
    assert split.head.network is not None
    weight = next(w for w in onnx.load(ZOO / PIXELDP).graph.initializer if w.name == "conv1/weight")
    found = sensitivity(split.head.network, "2", "2")
    assert found <= np.linalg.norm(numpy_helper.to_array(weight).astype(np.float64).reshape(16, -1), 2) * 2


def test_without_a_place_noise_is_at_the_input() -> None:
    function = Model("function", (4,), (2,), lambda x: x[:, :2], "0" * 64)
    for split in (noise_split(function), noise_split(function, ""), noise_split(onnx_model(chain("Relu", "Relu")))):
        assert (split.tensor, split.head) == ("", None)
    named = onnx_model(chain("Relu", "Relu"), noise_after="x")
    assert noise_split(named).head is None


@pytest.mark.parametrize(
    ("model", "after", "sentence"),
    [
        (lambda: Model("f", (4,), (4,), lambda x: x, "0" * 64), "t1", "no ONNX graph"),
        (lambda: onnx_model(chain("Relu", "Relu")), "t7", "no tensor 't7'"),
        (lambda: onnx_model(chain("Relu", "Relu")), "y", "no tensor 'y' between"),
        (lambda: onnx_model(chain("Relu", "Relu"), noise_after="gone"), None, "no tensor 'gone'"),
        (lambda: onnx_model([
            helper.make_node("Relu", ["x"], ["t1"]), helper.make_node("Add", ["t1", "x"], ["y"]),
        ]), "t1", "'x' goes around it"),
        (lambda: onnx_model([
            helper.make_node("Relu", ["x"], ["t0"]), helper.make_node("Neg", ["t0"], ["t1"]),
            helper.make_node("Add", ["t1", "t0"], ["y"]),
        ]), "t1", "'x' goes around it"),
        (lambda: onnx_model([
            helper.make_node("Relu", ["a"], ["t1"]), helper.make_node("Add", ["t1", "b"], ["y"]),
        ], inputs=("a", "b")), "t1", "'b' goes around it"),
    ],
)  # fmt: skip
def test_places_that_are_none_are_refused(model: Any, after: str | None, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        noise_split(model(), after)


def test_constants_are_shared_by_the_parts() -> None:
    model = onnx_model(
        [helper.make_node("Mul", ["x", "c"], ["t1"]), helper.make_node("Mul", ["t1", "c"], ["y"])],
        c=np.array([[1.0, 2.0, 3.0, 4.0]]),
    )
    split = noise_split(model, "t1")
    assert split.head is not None
    x = np.ones((3, 4), dtype=np.float32)
    np.testing.assert_array_equal(split.tail(split.head(x)), model(x))


def test_a_head_that_cannot_be_lowered_says_so_and_a_tail_need_not_be() -> None:
    hard = [helper.make_node("Hardmax", ["x"], ["t1"]), helper.make_node("Relu", ["t1"], ["y"])]
    split = noise_split(onnx_model(hard), "t1")
    assert split.head is not None
    assert split.head.network is None
    assert split.head.unsupported is not None
    late = [helper.make_node("Relu", ["x"], ["t1"]), helper.make_node("Hardmax", ["t1"], ["y"])]
    split = noise_split(onnx_model(late), "t1")
    assert split.head is not None
    assert split.head.network is not None
    assert split.tail.network is None

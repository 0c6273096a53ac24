"""Files that are no feed-forward network of floats: each kind is refused in one sentence that says what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verifkit.errors import ModelError, UnsupportedOperator
from verifkit.io.onnx import load_model, model_from_bytes

F32 = np.float32
RELU = helper.make_node("Relu", ["x"], ["y"], "relu")


def value(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int | str] = (1, 3)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def proto(
    nodes: Sequence[onnx.NodeProto] = (RELU,),
    inputs: Sequence[onnx.ValueInfoProto] = (value("x"),),
    outputs: Sequence[str] = ("y",),
    tensors: Sequence[onnx.TensorProto] = (),
    *,
    domains: Sequence[str] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    ends = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", list(inputs), ends, list(tensors))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def refused(model: onnx.ModelProto | bytes, *words: str) -> ModelError:
    """The error, which says all of `words` in one line."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(ModelError) as caught:
        model_from_bytes(data, "m")
    said = str(caught.value)
    assert all(word in said for word in words), said
    assert "\n" not in said
    return caught.value


def branch(tensor: str) -> onnx.GraphProto:
    node = helper.make_node("Relu", ["x"], [tensor])
    return helper.make_graph([node], "branch", [], [value(tensor)])


def test_control_flow() -> None:
    choice = helper.make_node("If", ["c"], ["y"], "choice", then_branch=branch("a"), else_branch=branch("b"))
    error = refused(proto([choice], tensors=[numpy_helper.from_array(np.array(True), "c")]),
                    "node 'choice' (If, opset 17)", "branches fixed")  # fmt: skip
    assert isinstance(error, UnsupportedOperator)
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["go"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64, ()), value("on", TensorProto.BOOL, ()), value("v")],
        [value("go", TensorProto.BOOL, ()), value("w")],
    )
    loop = helper.make_node("Loop", ["n", "", "x"], ["y"], "loop", body=body)
    refused(proto([loop], tensors=[numpy_helper.from_array(np.array(3), "n")]), "node 'loop' (Loop, opset 17)",
            "loops unrolled")  # fmt: skip


def test_text() -> None:
    refused(proto(inputs=[value("x", TensorProto.STRING)]), "input 'x'", "type string", "single precision")
    words = helper.make_tensor("words", TensorProto.STRING, [1], [b"word"])
    add = helper.make_node("Add", ["x", "words"], ["y"], "add")
    refused(proto([add], tensors=[words]), "node 'add' (Add, opset 17)", "of type text")


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16", "INT8", "INT64", "BOOL"])
def test_other_element_types(kind: str) -> None:
    model = proto(inputs=[value("x", TensorProto.DataType.Value(kind))])
    refused(model, "input 'x' of model 'm'", f"type {kind.lower()};", "export it in single precision")


def test_quantised_models() -> None:
    scale, zero = numpy_helper.from_array(F32(0.1), "s"), numpy_helper.from_array(np.uint8(0), "z")
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise"),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "back")]  # fmt: skip
    refused(proto(nodes, tensors=[scale, zero]), "node 'quantise' (QuantizeLinear, opset 17)", "before quantisation")
    # Weights that are stored in eight bits and constant are only another way to write a number.
    nodes = [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"]), helper.make_node("Mul", ["x", "v"], ["y"])]
    weight = numpy_helper.from_array(np.array([3, 5, 7], dtype=np.uint8), "w")
    model = model_from_bytes(proto(nodes, tensors=[scale, zero, weight]).SerializeToString(), "m")
    np.testing.assert_allclose(model(np.ones((1, 3))), [[0.3, 0.5, 0.7]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16", "FLOAT8E4M3FN"])
def test_weights_of_other_types(kind: str) -> None:
    """Cast to float they are numbers like any other; computed with, they are refused."""
    number = TensorProto.DataType.Value(kind)
    weight = helper.make_tensor("w", number, [3], [1.0, 1.5, -0.25])
    nodes = [helper.make_node("Cast", ["w"], ["v"], "cast", to=TensorProto.FLOAT),
             helper.make_node("Mul", ["x", "v"], ["y"], "scale")]  # fmt: skip
    model = proto(nodes, tensors=[weight], opset=21)
    model.ir_version = 10
    data = model.SerializeToString()
    np.testing.assert_array_equal(model_from_bytes(data, "m")(np.ones((1, 3))), [[1.0, 1.5, -0.25]])
    model.graph.node[0].CopyFrom(helper.make_node("Neg", ["w"], ["v"], "negative"))
    said = str(refused(model))
    if kind != "FLOAT16":  # which ONNX lets one negate, but not multiply by a float
        assert "node 'negative' (Neg, opset 21)" in said
        assert f"constants of type {kind.lower()[:6]}" in said


def external(folder: Path, location: str) -> Path:
    """A model in `folder` whose weight is kept at `location`."""
    tensor = numpy_helper.from_array(np.ones(3, dtype=F32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, said in (("location", location), ("offset", "0"), ("length", "12")):
        tensor.external_data.add(key=key, value=said)
    model = proto([helper.make_node("Mul", ["x", "w"], ["y"])], tensors=[tensor])
    file = folder / "net.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def test_weights_outside_the_models_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    data = np.ones(3, dtype=F32).tobytes()
    for place in (inner / "w.bin", tmp_path / "w.bin"):
        place.write_bytes(data)
    assert load_model(external(inner, "w.bin")).n_inputs == 3
    for location in ("../w.bin", "sub/../../w.bin", str(tmp_path / "w.bin"), "..\\w.bin"):
        with pytest.raises(ModelError, match=r"outside its own folder.*beside it"):
            load_model(external(inner, location))
    (inner / "link.bin").symlink_to(os.path.join("..", "w.bin"))
    with pytest.raises(ModelError, match="outside its own folder"):
        load_model(external(inner, "link.bin"))
    with pytest.raises(ModelError, match=r"'gone.bin', which is not beside it: copy"):
        load_model(external(inner, "gone.bin"))
    (inner / "short.bin").write_bytes(data[:5])
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(external(inner, "short.bin"))


def test_several_models_in_one_file() -> None:
    data = proto().SerializeToString()
    refused(data + data, "holds 2 models, one after another", "file of its own")
    other = proto([helper.make_node("Tanh", ["u"], ["v"])], [value("u")], ["v"]).SerializeToString()
    refused(data + other + data, "holds 3 models")


def test_two_networks_that_share_nothing() -> None:
    nodes = [RELU, helper.make_node("Tanh", ["u"], ["v"]), helper.make_node("Neg", ["v"], ["w"])]
    refused(proto(nodes, [value("x"), value("u")], ["y", "v", "w"]), "holds 2 networks that share no input",
            "'y' and 'v', 'w'", "file of its own")  # fmt: skip
    # One output that reads both makes it one network.
    nodes.append(helper.make_node("Add", ["y", "w"], ["s"]))
    joined = proto(nodes, [value("x"), value("u")], ["y", "v", "s"]).SerializeToString()
    assert model_from_bytes(joined, "m").output_shape == (9,)


def test_sequences_optional_values_and_maps() -> None:
    sequence = onnx.ValueInfoProto(name="x")
    sequence.type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    refused(proto(inputs=[sequence]), "input 'x'", "type sequence", "plain tensors")
    optional = onnx.ValueInfoProto(name="x")
    optional.type.optional_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    refused(proto(inputs=[optional]), "input 'x'", "type optional", "plain tensors")
    mapped = onnx.ValueInfoProto(name="x")
    mapped.type.map_type.key_type = TensorProto.INT64
    refused(proto(inputs=[mapped]), "input 'x'", "type map", "plain tensors")
    made = helper.make_node("SequenceConstruct", ["x"], ["s"], "made")
    first = numpy_helper.from_array(np.array(0), "i")
    nodes = [made, helper.make_node("SequenceAt", ["s", "i"], ["y"])]
    refused(proto(nodes, tensors=[first]), "node 'made' (SequenceConstruct, opset 17)", "plain tensors")
    ended = proto([made], outputs=["s"])
    with pytest.raises(ModelError, match="no tensor"):
        model_from_bytes(ended.SerializeToString(), "m", require_network=False)


def test_functions_and_other_domains() -> None:
    foreign = proto([helper.make_node("Gelu", ["x"], ["y"], "g", domain="com.microsoft")], domains=["com.microsoft"])
    refused(foreign, "node 'g' (com.microsoft.Gelu, opset 17)", "ONNX's own operators")
    own = proto([helper.make_node("Twice", ["x"], ["y"], "f", domain="local")], domains=["local"])
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    own.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    refused(own, "node 'f' (local.Twice, opset 17)", "functions inlined")


def test_models_to_be_trained() -> None:
    model = proto()
    model.training_info.add()
    refused(model, "training information", "export it for inference")


def test_sparse_initialisers() -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("at", TensorProto.INT64, [1], [1]), [3])
    model = proto([helper.make_node("Mul", ["x", "w"], ["y"], "scale")])
    model.graph.sparse_initializer.append(sparse)
    refused(model, "node 'scale' (Mul, opset 17)", "sparse", "dense")


@pytest.mark.parametrize("broken", [np.inf, -np.inf, np.nan])
def test_weights_that_are_not_finite(broken: float) -> None:
    weight = numpy_helper.from_array(np.array([1, broken, 1], dtype=F32), "w")
    refused(proto([helper.make_node("Mul", ["x", "w"], ["y"], "scale")], tensors=[weight]), "'scale' (Mul)",
            "infinite or NaN", "train or export it again")  # fmt: skip


def test_dynamic_axes_and_empty_graphs() -> None:
    refused(proto(inputs=[value("x", shape=("N", "width"))]), "axis 1 of input 'x'", "fixed shape")
    refused(proto([], outputs=["x"]), "no nodes", "export it again")
    refused(proto(outputs=[]), "holds no graph")
    refused(proto(inputs=[value("u")]), "nothing computes tensor 'x'")


def test_inputs_of_different_types() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.DOUBLE), helper.make_node("Add", ["h", "u"], ["y"])]
    refused(proto(nodes, [value("x"), value("u", TensorProto.DOUBLE)]), "'x' is float32", "'u' is float64", "to one")


def test_files_of_other_kinds(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    refused(pointer, "pointer of Git LFS", "git lfs pull")
    for content in (b"a,b,c\n1,2,3\n", b"\x89HDF\r\n\x1a\n" + bytes(64), b"PK\x03\x04" + bytes(64), bytes(100)):
        refused(content, "not a complete ONNX model", "export it again")
    data = proto().SerializeToString()
    for length in range(0, len(data), 3):
        refused(data[:length], "'m'")


def test_random_damage_is_a_sentence_not_a_crash() -> None:
    """Bytes changed at random: the model still loads, or one of our own errors says why not."""
    rng = np.random.default_rng(5)
    weight = numpy_helper.from_array(rng.standard_normal((2, 3, 2, 2)).astype(F32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 0, 0, 1], strides=[1, 2]),
             helper.make_node("ReduceMax", ["c"], ["m"], axes=[2], keepdims=0),
             helper.make_node("Softmax", ["m"], ["y"], axis=1)]  # fmt: skip
    data = proto(nodes, [value("x", shape=(1, 3, 4, 4))], tensors=[weight]).SerializeToString()
    loaded = 0
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        said = complaint(bytes(damaged))
        assert "\n" not in said
        loaded += not said
    assert loaded > 20


def complaint(data: bytes) -> str:
    """What our own error says about the bytes; nothing where they load."""
    try:
        model_from_bytes(data, "m")
    except ModelError as error:
        return str(error)
    return ""


def test_an_output_that_is_the_input() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
    other = helper.make_node("Relu", ["x"], ["unused"])
    data = helper.make_model(helper.make_graph([other], "g", [value], [value]), ir_version=8).SerializeToString()
    model = model_from_bytes(data, "same")
    assert model(np.float32([[1, -2, 3]])).tolist() == [[1.0, -2.0, 3.0]]


def test_a_tensor_without_entries_never_reaches_onnxruntime() -> None:
    nodes = [
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[5, 1], ceil_mode=1, name="pool"),
        helper.make_node("InstanceNormalization", ["p", "s", "b"], ["y"], name="norm"),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3, 1]),
        helper.make_empty_tensor_value_info("y"),
    ]
    tensors = [numpy_helper.from_array(np.ones(2, dtype=np.float32), name) for name in "sb"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()
    with pytest.raises(ModelError, match=r"without any entry|do not fit together"):
        model_from_bytes(data, "empty", require_network=False)


def test_a_name_that_is_no_text() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"])], "g", [value], [out])
    data = helper.make_model(graph, ir_version=8).SerializeToString().replace(b"Sigmoid", b"\xcdigmoid")
    with pytest.raises(ModelError, match="no text"):
        model_from_bytes(data, "flipped", require_network=False)


def test_what_onnxruntime_cancels_in_elu_is_no_mismatch() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    nodes = [helper.make_node("Mul", ["x", "c"], ["h"]), helper.make_node("Elu", ["h"], ["y"])]
    scale = numpy_helper.from_array(np.float32([1e-4, -1e-5]), "c")
    graph = helper.make_graph(nodes, "g", [value], [out], [scale])
    assert model_from_bytes(helper.make_model(graph, ir_version=8).SerializeToString(), "elu").network is not None

"""Reading models: what a file must be, what is refused and in which words, and the comparison with onnxruntime."""

from __future__ import annotations

import gzip
import multiprocessing
import pickle
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verifkit.errors import ModelError, UnsupportedOperator
from verifkit.input_sets import Box
from verifkit.io import onnx as reader
from verifkit.io.compare import compare, probes
from verifkit.io.onnx import load_model, model_from_bytes
from verifkit.io.runtime import OnnxRunner
from verifkit.model import digest_of
from verifkit.network import Network
from verifkit.ops import Affine

F32 = np.float32
WEIGHT = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 1.0]], dtype=F32)
BIAS = np.array([0.25, -0.5], dtype=F32)
LAYER = [helper.make_node("MatMul", ["x", "w"], ["h"], "mm"), helper.make_node("Add", ["h", "b"], ["v"], "add"),
         helper.make_node("Relu", ["v"], ["y"], "relu")]  # fmt: skip


def proto(
    nodes: list[onnx.NodeProto] | None = None,
    shape: tuple[int | str | None, ...] = (1, 3),
    *,
    opset: int = 13,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: tuple[str, ...] = ("y",),
    tensors: dict[str, np.ndarray] | None = None,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """relu(x W + b), unless said otherwise."""
    held = {"w": WEIGHT, "b": BIAS} if tensors is None else tensors
    graph = helper.make_graph(
        LAYER if nodes is None else nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)] if inputs is None else inputs,
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def small(**changes: Any) -> bytes:
    return proto(**changes).SerializeToString()


def expected(x: np.ndarray) -> np.ndarray:
    return np.maximum(x @ WEIGHT + BIAS, 0)


def network_of(data: bytes) -> Network:
    network = model_from_bytes(data, "m").network
    assert network is not None
    return network


@pytest.mark.parametrize("packed", [False, True])
def test_load_model_from_plain_and_gzipped_files(tmp_path: Path, packed: bool) -> None:
    data = small()
    file = tmp_path / ("net.onnx.gz" if packed else "net.onnx")
    file.write_bytes(gzip.compress(data) if packed else data)
    for path in (file, str(file), tmp_path / "net.onnx"):
        model = load_model(path)
        assert (model.name, model.input_shape, model.output_shape) == ("net.onnx", (1, 3), (1, 2))
        assert model.digest == digest_of(data)
        assert model.onnx_bytes == data
        assert model.dtype is np.float32
        assert model.network is not None
        assert [n.name for n in model.network.nodes] == ["x", "v", "y"]
        assert model.network.nodes[1].origin == ("mm", "add")
        assert model.unsupported is None
        x = np.array([[1, 2, 3], [0, 0, 0]])
        np.testing.assert_allclose(model(x), expected(x), rtol=1e-6)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    data = small()
    files = {
        "missing.onnx": (None, "does not exist"),
        "empty.onnx": (b"", "is empty"),
        "text.onnx": (b"this is not a network\n", "not a complete ONNX model"),
        "json.onnx": (b'{"a": 1}', "not a complete ONNX model"),
        "half.onnx": (data[: len(data) // 2], "not a complete ONNX model"),
        "tail.onnx": (data[:-3], "cut short"),
        "half.onnx.gz": (gzip.compress(data)[:60], "no complete gzip file"),
        "plain.onnx.gz": (data, "no complete gzip file"),
        "damaged.onnx.gz": (gzip.compress(data)[:30] + b"\xff" * 40 + gzip.compress(data)[70:], "gzip"),
    }
    for name, (content, words) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=words) as caught:
            load_model(tmp_path / name)
        assert name.removesuffix(".gz") in str(caught.value)
        assert "\n" not in str(caught.value)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match="is a directory"):
        load_model(tmp_path / "folder.onnx")


def test_every_cut_of_a_file_is_refused() -> None:
    data = small()
    for length in range(len(data)):
        with pytest.raises(ModelError) as caught:
            model_from_bytes(data[:length], "cut")
        assert "\n" not in str(caught.value)


def test_weights_in_another_file(tmp_path: Path) -> None:
    model = proto()
    onnx.save_model(model, str(tmp_path / "net.onnx"), save_as_external_data=True, location="net.bin", size_threshold=0)
    loaded = load_model(tmp_path / "net.onnx")
    x = np.array([[1.0, 2.0, -3.0]])
    np.testing.assert_allclose(loaded(x), expected(x), rtol=1e-6)
    with pytest.raises(ModelError, match=r"another file \('net.bin'\)"):
        model_from_bytes((tmp_path / "net.onnx").read_bytes(), "net")
    (tmp_path / "net.bin").write_bytes(b"abc")
    with pytest.raises(ModelError):
        load_model(tmp_path / "net.onnx")
    (tmp_path / "net.bin").unlink()
    with pytest.raises(ModelError, match=r"'net.bin', which is not beside it"):
        load_model(tmp_path / "net.onnx")


def test_inputs_and_outputs() -> None:
    def info(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    # Initialisers listed as inputs are constants.
    listed = proto(inputs=[info("w", (3, 2)), info("x", (1, 3)), info("b", (2,))])
    listed.ir_version = 3
    assert model_from_bytes(listed.SerializeToString(), "m").input_shape == (1, 3)
    with pytest.raises(ModelError, match="has no inputs"):
        model_from_bytes(small(inputs=[]), "m")
    with pytest.raises(ModelError, match="of type float16"):
        model_from_bytes(small(kind=TensorProto.FLOAT16), "m")
    with pytest.raises(ModelError, match="has no shape"):
        model_from_bytes(small(inputs=[helper.make_empty_tensor_value_info("x")]), "m")


@pytest.mark.parametrize("batch", ["N", None, 0])
def test_dynamic_batch_is_pinned_to_one(batch: str | int | None) -> None:
    data = proto(shape=(batch, 3))
    if batch == 0:
        data.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    model = model_from_bytes(data.SerializeToString(), "m")
    assert (model.input_shape, model.output_shape) == ((1, 3), (1, 2))
    assert isinstance(model.call, OnnxRunner)
    assert model.call.batched
    x = np.random.default_rng(0).standard_normal((7, 3)).astype(F32)
    np.testing.assert_allclose(model(x), expected(x), rtol=1e-5, atol=1e-6)
    assert model.call(x[:0].reshape(0, 1, 3)).shape == (0, 1, 2)


def test_a_graph_that_mixes_its_rows_is_run_row_by_row() -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["h"], axis=0), helper.make_node("Reshape", ["h", "s"], ["y"])]
    model = model_from_bytes(small(nodes=nodes, shape=("N", 3), tensors={"s": np.array([1, 3])}), "m")
    assert isinstance(model.call, OnnxRunner)
    assert not model.call.batched
    assert model(np.ones((4, 3))).shape == (4, 3)


def test_other_dynamic_axes_are_refused() -> None:
    with pytest.raises(ModelError, match="axis 1 of input 'x' of model 'm' is dynamic"):
        model_from_bytes(small(shape=(1, "width")), "m")


def test_an_input_without_a_batch_axis() -> None:
    model = model_from_bytes(small(shape=(3,)), "m")
    assert (model.input_shape, model.output_shape) == ((3,), (2,))
    x = np.array([[1.0, 0.0, 2.0], [3.0, -1.0, 0.0]])
    np.testing.assert_allclose(model(x), expected(x), rtol=1e-6)


@pytest.mark.parametrize(("opset", "way"), [(6, "upgrade"), (5, "upgrade"), (99, "older")])
def test_unknown_opsets_are_refused(opset: int, way: str) -> None:
    with pytest.raises(ModelError, match=f"opset {opset}.*{way}"):
        model_from_bytes(small(opset=opset), "m")


def test_malformed_graphs() -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    cases = {
        "nothing computes tensor 'gone'": [helper.make_node("Relu", ["gone"], ["y"])],
        "computed twice": [relu, helper.make_node("Tanh", ["x"], ["y"])],
        "depends on itself": [helper.make_node("Add", ["x", "u"], ["v"]), helper.make_node("Relu", ["v"], ["u"]),
                              helper.make_node("Relu", ["u"], ["y"])],
        "does not depend on its input": [helper.make_node("Relu", ["b"], ["y"])],
    }  # fmt: skip
    for words, nodes in cases.items():
        with pytest.raises(ModelError, match=words):
            model_from_bytes(small(nodes=nodes), "m")


def test_node_order_and_unused_nodes() -> None:
    unused = helper.make_node("Floor", ["x"], ["never"])
    network = network_of(small(nodes=[LAYER[2], unused, LAYER[0], LAYER[1]]))
    assert [n.name for n in network.nodes] == ["x", "v", "y"]


def test_a_network_that_only_passes_its_input_on() -> None:
    network = network_of(small(nodes=[helper.make_node("Identity", ["x"], ["y"])]))
    assert [n.name for n in network.nodes] == ["x", "y"]


def test_unsupported_operators_keep_the_black_box() -> None:
    data = small(nodes=[*LAYER[:2], helper.make_node("Floor", ["v"], ["y"])])
    with pytest.raises(UnsupportedOperator) as caught:
        model_from_bytes(data, "m")
    assert (caught.value.node, caught.value.operator, caught.value.opset) == ("#2", "Floor", 13)
    model = model_from_bytes(data, "m", require_network=False)
    assert model.network is None
    assert model.unsupported is not None
    assert model.unsupported.node == "#2"
    assert model.output_shape == (1, 2)
    x = np.array([[1.0, -1.0, 0.5]])
    np.testing.assert_allclose(model(x), np.floor(x @ WEIGHT + BIAS))


def test_other_domains_functions_and_subgraphs_are_refused_by_name() -> None:
    foreign = proto(nodes=[helper.make_node("Gelu", ["x"], ["y"], "g", domain="com.microsoft")])
    foreign.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(UnsupportedOperator, match=r"node 'g' \(com.microsoft.Gelu, opset 13\)"):
        model_from_bytes(foreign.SerializeToString(), "m")
    function = proto(nodes=[helper.make_node("Twice", ["x"], ["y"], "f", domain="local")])
    function.opset_import.append(helper.make_opsetid("local", 1))
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    opsets = [helper.make_opsetid("", 13)]
    function.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, opsets))
    with pytest.raises(UnsupportedOperator, match=r"local.Twice.*function"):
        model_from_bytes(function.SerializeToString(), "m")
    assert model_from_bytes(function.SerializeToString(), "m", require_network=False)(np.ones((1, 3)))[0, 0] == 2
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["o"])], "b", [],
                               [helper.make_tensor_value_info("o", TensorProto.FLOAT, (1, 3))])  # fmt: skip
    choice = helper.make_node("If", ["c"], ["y"], "choice", then_branch=branch, else_branch=branch)
    with pytest.raises(UnsupportedOperator, match=r"node 'choice' \(If, opset 13\).*subgraph"):
        model_from_bytes(small(nodes=[choice], tensors={"c": np.array(True)}), "m")


def test_infinite_weights_and_outputs_are_refused() -> None:
    broken = {"w": np.where(WEIGHT == 3, np.inf, WEIGHT).astype(F32), "b": BIAS}
    with pytest.raises(ModelError, match=r"'mm' \(MatMul\) holds infinite or NaN"):
        model_from_bytes(small(tensors=broken), "m")
    huge = {"w": np.full((3, 2), 3e38, dtype=F32), "b": BIAS}
    with pytest.raises(ModelError, match="output 'y' of model 'm' is infinite or NaN"):
        model_from_bytes(small(tensors=huge), "m")


def test_probes_cover_the_box_and_check_its_size() -> None:
    box = Box((Fraction(-7), Fraction(3, 10), Fraction(5)), (Fraction(-6), Fraction(3, 10), Fraction(9)))
    low, high = box.floats(np.float32)
    rows = probes((1, 3), np.float32, box, "m").reshape(-1, 3)
    assert rows.dtype == np.float32
    assert len(rows) >= 12
    for corner in (low, high, np.zeros(3), np.ones(3)):
        assert (rows == corner.astype(F32)).all(axis=1).any()
    assert ((rows >= low) & (rows <= high)).all(axis=1).sum() >= 5
    np.testing.assert_array_equal(rows, probes((1, 3), np.float32, box, "m").reshape(-1, 3))
    with pytest.raises(ModelError, match=r"about 1 inputs, but model 'm' has 3"):
        model_from_bytes(small(), "m", box=Box((Fraction(0),), (Fraction(1),)))
    assert model_from_bytes(small(), "m", box=box).n_inputs == 3


def test_a_wrong_import_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = network_of(small())
    x = probes((1, 3), np.float32, None, "m")
    y = model_from_bytes(small(), "m").call(x)
    compare(right, x, y, "m", "y")
    affine = right.nodes[1]
    assert isinstance(affine, Affine)
    assert affine.bias is not None
    for wrong in (-affine.bias, affine.bias * (1 + 1e-3), affine.bias + np.array([[0.0, 1e-4]])):
        nodes = (right.nodes[0], Affine(shape=affine.shape, parents=(0,), maps=affine.maps, bias=wrong, name="v"))
        with pytest.raises(ModelError, match=r"output 'y' differs by up to .* at entry \[0, [01]\]"):
            compare(Network((*nodes, right.nodes[2])), x, y, "m", "y")
    other = network_of(small(tensors={"w": WEIGHT[:, ::-1].copy(), "b": BIAS}))
    monkeypatch.setattr(reader, "lower", lambda graph, name: other)
    with pytest.raises(ModelError, match="does not compute what onnxruntime does"):
        model_from_bytes(small(), "m")
    monkeypatch.setattr(reader, "lower", lambda graph, name: Network(right.nodes[:1]))
    with pytest.raises(ModelError, match="has shape"):
        model_from_bytes(small(), "m")


def test_a_small_error_beside_a_large_output_is_caught() -> None:
    tensors = {"w": np.array([[1e6, 1e-3]] * 3, dtype=F32), "b": BIAS}
    nodes = [LAYER[0], helper.make_node("Add", ["h", "b"], ["y"])]
    wrong = network_of(small(nodes=nodes, tensors={**tensors, "b": np.array([0.25, -0.501], dtype=F32)}))
    x = probes((1, 3), np.float32, None, "m")
    with pytest.raises(ModelError, match="differs"):
        compare(wrong, x, model_from_bytes(small(nodes=nodes, tensors=tensors), "m").call(x), "m", "y")


def test_rounding_noise_refuses_no_network() -> None:
    """Cancellation of large sums leaves outputs that are mostly noise: onnxruntime and we round differently."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        w1 = (1e3 * rng.standard_normal((200, 300))).astype(F32)
        w2 = rng.standard_normal((300, 4)).astype(F32)
        w2 -= w2.mean(axis=1, keepdims=True)
        nodes = [helper.make_node("MatMul", ["x", "p"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
                 helper.make_node("MatMul", ["r", "q"], ["s"]),
                 helper.make_node("MatMul", ["s", "ones"], ["y"])]  # fmt: skip
        held = {"p": w1, "q": w2, "ones": np.ones((4, 1), dtype=F32)}
        assert model_from_bytes(small(nodes=nodes, shape=(1, 200), tensors=held), "m").network is not None


def _one_row(runner: OnnxRunner, queue: Any) -> None:
    queue.put(runner(np.ones((1, 1, 3))).tolist())


def test_the_runner_pickles_and_survives_a_fork() -> None:
    runner = model_from_bytes(small(), "m").call
    x = np.random.default_rng(1).standard_normal((2, 1, 3))
    before = runner(x)
    copy = pickle.loads(pickle.dumps(runner))
    np.testing.assert_array_equal(copy(x), before)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_one_row, args=(runner, queue))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    np.testing.assert_allclose(queue.get(), runner(np.ones((1, 1, 3))))
    with pytest.raises(ModelError, match="was given"):
        runner(np.ones((1, 3)))


def test_the_reader_imports_onnxruntime_only_when_it_runs_a_model() -> None:
    code = (
        "import sys, verifkit.io.onnx\n"
        "print([m for m in ('onnxruntime', 'torch', 'pandas', 'scipy', 'onnx.reference') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

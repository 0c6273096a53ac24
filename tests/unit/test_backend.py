"""What runs a model in bulk computes what the model computes."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verifkit.io import backend as backends
from verifkit.io.backend import fastest
from verifkit.io.onnx import model_from_bytes
from verifkit.model import Model

RNG = np.random.default_rng(0)


def onnx_model(nodes: list[onnx.NodeProto], batch: int | str, tensors: dict[str, np.ndarray]) -> Model:
    """One input (batch, 6), one output (batch, 3)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (batch, 3))],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model_from_bytes(proto.SerializeToString(), "m", require_network=False)


def reshaped(batch: int | str, *, wide: bool = False) -> Model:
    """A reshape for one row only, then a product."""
    tensors = {
        "shape": np.array([1, 2, 3] if not wide else [2, 3], dtype=np.int64),
        "flat": np.array([1, 6], dtype=np.int64),
        "w": RNG.standard_normal((6, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "flat"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    return onnx_model(nodes, batch, tensors)


def dense() -> Model:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    return onnx_model([product], "N", {"w": RNG.standard_normal((6, 3)).astype(np.float32)})


def same(model: Model) -> str:
    found = fastest(model)
    x = RNG.standard_normal((256, model.n_inputs)).astype(model.dtype)
    np.testing.assert_allclose(found(x), model(x), rtol=1e-5, atol=1e-6)
    assert fastest(model) is found
    return found.name


def test_a_fixed_batch_axis_is_freed() -> None:
    assert same(reshaped(1)) == "onnxruntime, batch axis freed"


def test_where_it_cannot_be_freed_the_lowered_graph_serves() -> None:
    assert same(reshaped(1, wide=True)) == "lowered graph"


def test_whole_batches_stay_with_onnxruntime() -> None:
    assert same(dense()) == "onnxruntime"


def test_functions_are_called() -> None:
    assert same(Model("f", (2,), (2,), lambda x: x, "0" * 64)) == "callable"


@pytest.mark.skipif(find_spec("onnx2torch") is None, reason="the extra 'torch' is not installed")
def test_a_device_is_taken_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU here: torch on the CPU stands for one."""
    import torch

    monkeypatch.setattr(backends, "_has_cuda", lambda: True)
    on_gpu = backends._on_gpu
    monkeypatch.setattr(backends, "_on_gpu", lambda model: on_gpu(model, "cpu"))
    for faster in (True, False):
        monkeypatch.setattr(backends, "_seconds", lambda b, _, f=faster: float((b.name == "onnxruntime") == f))
        assert same(dense()) == ("torch on cpu" if faster else "onnxruntime")
    assert not torch.backends.cuda.matmul.allow_tf32


def test_no_sign_of_a_device_imports_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, numpy as np; from verifkit.io.backend import fastest; from verifkit.model import Model; "
        "fastest(Model('f', (2,), (2,), lambda x: x, '0')); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

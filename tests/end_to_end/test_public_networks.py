"""Every network of the public competition sets loads, and computes what onnxruntime does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from verifkit.io.onnx import load_model, model_from_network

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("VERIFKIT_VNNCOMP", ROOT.parent / "shared" / "vnncomp"))
FILES = sorted((*FOLDER.rglob("*.onnx"), *FOLDER.rglob("*.onnx.gz")))

pytestmark = pytest.mark.skipif(
    not FILES, reason=f"no public networks in {FOLDER}: set VERIFKIT_VNNCOMP to the folder that holds them"
)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(FOLDER)))
def test_loads_and_agrees(file: Path) -> None:
    model = load_model(file)
    network = model.network
    assert network is not None
    assert (network.input_shape, network.output_shape) == (model.input_shape, model.output_shape)
    x = np.random.default_rng(7).random((4, *model.input_shape)).astype(model.dtype)
    y = model.call(x)
    scale = max(1.0, float(np.abs(y).max()))
    np.testing.assert_allclose(network.evaluate(x), y, rtol=0, atol=1e-5 * scale)
    # In double precision the same weights give the same numbers, but for onnxruntime's rounding.
    np.testing.assert_allclose(network.evaluate(x.astype(np.float64)), y, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize(
    "file",
    [f for f in FILES if f.parent.name != "onnx" or "1_1" in f.name or "base" in f.name],
    ids=lambda f: str(f.relative_to(FOLDER)),
)
def test_written_again_it_is_the_same_network(file: Path) -> None:
    model = load_model(file)
    assert model.network is not None
    again = model_from_network(model.network, model.name)
    assert again.dtype is np.float32
    x = np.random.default_rng(8).random((2, model.n_inputs))
    np.testing.assert_allclose(again(x), model(x), rtol=1e-4, atol=1e-5)

"""Every network of the public competition sets: both imports compute what onnxruntime does, and bounds hold samples."""

from __future__ import annotations

import csv
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from verifkit.input_sets import Box
from verifkit.io.blackbox import compare_imports, torch_module
from verifkit.io.compare import probes
from verifkit.io.onnx import load_model, model_from_network
from verifkit.io.torch_import.agree import NEAR_ZERO
from verifkit.io.vnnlib import load_property
from verifkit.model import Model
from verifkit.testing.sampled_bounds import check_bounds_contain_samples

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("VERIFKIT_VNNCOMP", ROOT.parent / "shared" / "vnncomp"))
FILES = sorted((*FOLDER.rglob("*.onnx"), *FOLDER.rglob("*.onnx.gz")))

pytestmark = pytest.mark.skipif(
    not FILES, reason=f"no public networks in {FOLDER}: set VERIFKIT_VNNCOMP to the folder that holds them"
)


each_file = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(FOLDER)))

SHARE = 1 / 16
"""Of the property's box: wide enough that units are unstable, narrow enough that few rows must go back through them."""
SHARES = {"Convnet_maxpool.onnx": 1 / 160}
"""Where that would take minutes: every maximum over equal neighbours is undecided, however small the box."""


@cache
def properties() -> dict[str, Path]:
    """By the name of a network: the first property that an instances.csv has for it."""
    found: dict[str, Path] = {}
    for table in FOLDER.glob("*/instances.csv"):
        for network, spec, *_ in csv.reader(table.read_text(encoding="utf-8").splitlines()):
            found.setdefault(Path(network).name, table.parent / spec)
    return found


def small_box(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Center and radius of a part of the model's own property's box; around 0 for a model without a property."""
    spec = properties().get(model.name)
    if spec is None:
        return np.zeros(model.n_inputs), np.full(model.n_inputs, 0.01)
    inputs = load_property(spec).input_set
    assert isinstance(inputs, Box)
    lower, upper = inputs.floats(model.dtype)
    return (lower + upper) / 2, (upper - lower) / 2 * SHARES.get(model.name, SHARE)


@each_file
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


@each_file
@pytest.mark.skipif(find_spec("onnx2torch") is None, reason="the extra 'torch' is not installed")
def test_the_two_imports_and_onnxruntime_agree(file: Path) -> None:
    """Within 1e-4 of each output entry (of a hundredth of the largest entry, where that is more), each with each."""
    model = load_model(file)
    network, imported = model.network, torch_module(model)
    assert network is not None
    assert compare_imports(model, imported) <= 1
    x = probes(model.input_shape, model.dtype, None, model.name)
    rows = len(x)
    values = {
        "onnxruntime": model.call(x).reshape(rows, -1).astype(np.float64),
        "torch": imported.outputs(x),
        "network": network.evaluate(x.astype(np.float64)).reshape(rows, -1),
    }
    for first in values:
        size = np.abs(values[first])
        limit = 1e-4 * np.maximum(size, NEAR_ZERO * size.max(axis=1, keepdims=True))
        for second in values:
            excess = np.abs(values[first] - values[second]) - limit
            assert excess.max() <= 0, f"{first} and {second} differ by {excess.max():.3g} more than 1e-4"


@each_file
def test_bounds_contain_samples(file: Path) -> None:
    """Interval and CROWN, of every node, against 1000 inputs of a part of the model's own property."""
    model = load_model(file)
    center, radius = small_box(model)
    widths = check_bounds_contain_samples(model, center, radius)
    assert 0 < widths.sampled <= widths.crown < np.inf
    assert widths.interval < np.inf


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

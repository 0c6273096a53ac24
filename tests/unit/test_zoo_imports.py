"""Every network of the zoo by both imports, and bounded: what is asked of the public networks, asked of ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.unit.zoo_files import ZOO, networks, samples_of
from verifkit.io.blackbox import compare_imports
from verifkit.io.onnx import load_model
from verifkit.testing.sampled_bounds import check_bounds_contain_samples


@networks
def test_both_imports_agree_with_onnxruntime(entry: dict[str, Any]) -> None:
    model = load_model(ZOO / entry["file"])  # compares the lowered network
    assert compare_imports(model) <= 1.0
    x = samples_of(entry)[0].reshape(-1, *model.input_shape).astype(model.dtype)
    assert model.network is not None
    ours, theirs = model.network.evaluate(x), model.call(x)
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


@networks
def test_bounds_contain_sampled_outputs(entry: dict[str, Any]) -> None:
    model = load_model(ZOO / entry["file"])
    widths = check_bounds_contain_samples(model, samples_of(entry)[0][0], 0.01)
    assert widths.sampled <= widths.crown < np.inf
    assert widths.sampled <= widths.interval < np.inf

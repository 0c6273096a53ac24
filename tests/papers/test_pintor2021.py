"""Pintor et al., NeurIPS 2021: the fast minimum-norm attack against exact distances.

The paper's promise is a norm close to the least one after some hundred steps. Its networks are not at hand; the zoo's
small one has exact l-inf distances, from mixed-integer programs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from verifkit.io.onnx import load_model
from verifkit.query import robustness_family
from verifkit.registry import create

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "benchmarks" / "zoo" / "toy-spirals.onnx"
TOY_SAMPLES = ROOT / "benchmarks" / "zoo" / "toy-samples.npz"


@pytest.mark.parametrize("index", range(6))
def test_within_a_percent_of_the_exact_distance(index: int) -> None:
    model, samples = load_model(TOY), np.load(TOY_SAMPLES)
    label = int(model(samples["x"][index : index + 1])[0].argmax())
    family = robustness_family(model, samples["x"][index], label, "inf", clip=(0, 1))
    exact, found = create("milp").radius(family, attack=False), create("fmn").radius(family).falsified
    assert exact.certified is not None
    assert found is not None
    assert exact.certified.value < found.value <= 1.01 * exact.certified.value


def test_a_hundred_steps_are_enough() -> None:
    """One search of 100 steps from each start comes as near as one of 1000."""
    model, samples = load_model(TOY), np.load(TOY_SAMPLES)
    label = int(model(samples["x"][:1])[0].argmax())
    family = robustness_family(model, samples["x"][0], label, "2", clip=(0, 1))
    few, many = (create("fmn", {"steps": n}).radius(family).falsified for n in (100, 1000))
    assert few is not None
    assert many is not None
    assert few.value <= 1.005 * many.value

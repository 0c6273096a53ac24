"""The zoo's random forest: its file is what its record says, says what scikit-learn says, and can be certified."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.unit.zoo_files import FOREST, ROOT, SUITES, ZOO, data_of, samples_of, script
from verifkit.io.onnx import load_model
from verifkit.model import Model
from verifkit.query import robustness_family
from verifkit.registry import create
from verifkit.result import Subject, Verdict

FILE = ZOO / FOREST["file"]


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(FILE, require_network=False)


def test_the_file_is_the_one_of_its_record(model: Model) -> None:
    content = FILE.read_bytes()
    assert (hashlib.sha256(content).hexdigest(), len(content)) == (FOREST["sha256"], FOREST["bytes"])
    assert len(content) < 250_000
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node] == ["TreeEnsembleClassifier"]
    assert [output.name for output in proto.graph.output] == ["scores"]
    (trees,) = (a.ints for a in proto.graph.node[0].attribute if a.name == "nodes_treeids")
    assert len(trees) == FOREST["nodes"]
    assert (model.n_inputs, model.n_outputs) == (64, 10)
    assert model.network is None
    assert model.unsupported is not None
    assert "TreeEnsembleClassifier" in str(model.unsupported)


def test_accuracies_are_those_of_the_record(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    data, measure = data_of(FOREST, monkeypatch), script(monkeypatch, "benchmarks.zoo.measure")
    x, y, told = data.x[data.test], data.y[data.test], FOREST["accuracy"]
    assert measure.accuracy(model, data.x[data.train], data.y[data.train]) == pytest.approx(told["train"], abs=1e-3)
    assert measure.accuracy(model, x, y) == pytest.approx(told["test"], abs=1e-3)
    noise = measure.Noise(**told["noise"])
    assert noise.sigma == FOREST["training"]["sigma"]
    assert measure.noisy_accuracy(model, x, y, noise) == pytest.approx(told["test under noise"], abs=1e-3)
    assert told["test"] > 0.93
    assert told["test under noise"] > 0.85


def test_scores_are_those_of_scikit_learn_at_thresholds_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the data, the digits' sixteenths exactly on thresholds, and at the floats around every threshold."""
    data, forest = data_of(FOREST, monkeypatch), script(monkeypatch, "benchmarks.zoo.forest")
    few = np.arange(0, len(data.train), 4)
    trained = forest.RandomForestClassifier(n_estimators=5, max_leaf_nodes=20, random_state=1)
    trained.fit(data.x[data.train][few], data.y[data.train][few])
    (tmp_path / "small.onnx").write_bytes(forest.to_onnx(trained))
    small = load_model(tmp_path / "small.onnx", require_network=False)
    tree = trained.estimators_[0].tree_
    rows = [data.x[data.test]]
    for feature, threshold in zip(tree.feature, tree.threshold, strict=True):
        near = np.float32(threshold)
        for value in (np.nextafter(near, np.float32(-1)), near, np.nextafter(near, np.float32(2))):
            rows.append(data.x[data.test][:5].copy())
            rows[-1][:, max(feature, 0)] = value
    x = np.concatenate(rows)
    np.testing.assert_allclose(small(x), trained.predict_proba(x), rtol=0, atol=forest.AGREEMENT)


def test_thresholds_are_rounded_to_the_float_below(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    below = script(monkeypatch, "benchmarks.zoo.forest")._below
    thresholds = np.array([0.1, 0.3, 0.5, -0.7, 1e-12])
    rounded = below(thresholds).astype(np.float32)
    assert (rounded <= thresholds).all()
    assert (np.nextafter(rounded, np.float32(np.inf)) > thresholds).all()


def test_retraining_gives_the_record_again(tmp_path: Path) -> None:
    """Byte for byte with the same versions; elsewhere as good a forest."""
    pytest.importorskip("sklearn")
    command = [sys.executable, "-m", "benchmarks.zoo.forest", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)
    again: dict[str, Any] = json.loads((tmp_path / "forest.json").read_text(encoding="utf-8"))
    if again["versions"] == FOREST["versions"]:
        assert again == FOREST
    else:
        assert again["accuracy"]["test"] == pytest.approx(FOREST["accuracy"]["test"], abs=0.03)
    assert hashlib.sha256((tmp_path / FOREST["file"]).read_bytes()).hexdigest() == again["sha256"]


@pytest.mark.parametrize("name", ["smoothing", "pixeldp"])
def test_the_suite_asks_those_who_only_call_it(name: str, model: Model) -> None:
    """With the suite's options, on the first sample: a positive radius, about the smoothed classifier."""
    suite = tomllib.loads((SUITES / "quick.toml").read_text(encoding="utf-8"))
    (group,) = (g for g in suite["curve"] if g["model"] == f"zoo:{Path(FOREST['file']).stem}")
    assert group["verifiers"] == ["smoothing", "pixeldp"]
    (options,) = (v["options"] for v in suite["verifiers"] if v["name"] == name)
    x, y = samples_of(FOREST)
    found = create(name, options).radius(robustness_family(model, x[0], int(y[0]), group["norm"]))
    assert found.certified is not None
    assert found.certified.value > 0.05
    result = found.certified.result
    assert result.verdict is Verdict.HOLDS
    assert result.guarantee is not None
    assert result.guarantee.subject is Subject.SMOOTHED

"""The zoo's recipes: they are what the manifest says, and retraining them gives the files again; the toy data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.zoo_files import MANIFEST, ROOT, ZOO, script
from verifkit.io.onnx import load_model
from verifkit.query import robustness_family
from verifkit.registry import create
from verifkit.result import Verdict


def test_recipes_are_the_networks_of_the_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    recipes = script(monkeypatch, "benchmarks.zoo.recipes").RECIPES
    assert [e["file"] for e in MANIFEST["networks"]] == [f"{r.name}.onnx" for r in recipes]
    for entry, recipe in zip(MANIFEST["networks"], recipes, strict=True):
        assert entry["architecture"] == str(recipe.architecture)
        assert entry["parameters"] == recipe.architecture.n_parameters
        # Through JSON, which makes lists of tuples.
        assert entry["training"] == json.loads(json.dumps(recipe.training()))
        assert (entry["data"], entry["seed"]) == (recipe.data, recipe.seed)
        assert entry["schedule"] == dataclasses.asdict(recipe.schedule)
        assert entry["accuracy"]["attack"] == dataclasses.asdict(recipe.attack)
        assert entry["command"] == f"python -m benchmarks.zoo.train --only {recipe.name}"
        assert ("noise" in entry["accuracy"]) == (recipe.noise is not None)


def retrain(folder: Path, *options: str) -> dict[str, Any]:
    """The manifest that the command writes into the folder."""
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "benchmarks.zoo.train", "--out", str(folder), *options]
    subprocess.run(command, cwd=ROOT, check=True, timeout=1700)
    result: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return result


def agrees(again: dict[str, Any], entry: dict[str, Any], *, exactly: bool) -> None:
    """Byte for byte where the same versions run and torch rounds alike; elsewhere as good a network."""
    if exactly:
        assert again == entry
    else:
        assert {**again, "sha256": "", "accuracy": {}} == {**entry, "sha256": "", "accuracy": {}}
        assert again["accuracy"]["test"] == pytest.approx(entry["accuracy"]["test"], abs=0.02)


@pytest.mark.parametrize("name", ["toy-spirals", "digits-2x50"])
def test_retraining_one_network_gives_it_again(name: str, tmp_path: Path) -> None:
    manifest = retrain(tmp_path, "--only", name)
    (again,) = manifest["networks"]
    (entry,) = (e for e in MANIFEST["networks"] if e["file"] == f"{name}.onnx")
    agrees(again, entry, exactly=manifest["versions"] == MANIFEST["versions"])
    assert hashlib.sha256((tmp_path / f"{name}.onnx").read_bytes()).hexdigest() == again["sha256"]


def test_retraining_one_network_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    train = script(monkeypatch, "benchmarks.zoo.train")
    old, other = MANIFEST["networks"][0], MANIFEST["networks"][1]
    content = {**MANIFEST, "versions": train.versions(), "networks": [other]}
    (tmp_path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    assert train.updated(tmp_path, {**other, "seed": 7})["networks"] == [{**other, "seed": 7}]
    assert train.updated(tmp_path, old)["networks"] == [old, other]
    content["versions"] = {**content["versions"], "torch": "0.1"}
    (tmp_path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SystemExit, match="retrain all"):
        train.updated(tmp_path, old)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_retraining_gives_the_manifest_again(tmp_path: Path) -> None:
    manifest = retrain(tmp_path)
    exactly = manifest["versions"] == MANIFEST["versions"]
    assert {**manifest, "networks": [], "versions": {}} == {**MANIFEST, "networks": [], "versions": {}}
    for again, entry in zip(manifest["networks"], MANIFEST["networks"], strict=True):
        agrees(again, entry, exactly=exactly)


def test_the_toy_data_are_three_arms_in_the_unit_square(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    toy = script(monkeypatch, "benchmarks.zoo.toy")
    data, again = toy.spirals(), toy.spirals()
    assert data.x.dtype == np.float32
    assert data.x.min() >= 0
    assert data.x.max() <= 1
    np.testing.assert_array_equal(data.x, again.x)
    assert Counter(data.y[data.test].tolist()) == {0: 100, 1: 100, 2: 100}
    assert not set(data.train) & set(data.test)
    assert len(data.train) + len(data.test) == len(data.y)
    script(monkeypatch, "benchmarks.zoo.samples").save_arrays(toy.samples(data), tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (ZOO / "toy-samples.npz").read_bytes()
    points = toy.grid(3)
    assert points.shape == (9, 2)
    assert points[:3].tolist() == [[0.0, 0.0], [0.0, 0.5], [0.0, 1.0]]


@pytest.mark.parametrize("eps", [0.01, 0.05])
def test_a_complete_verifier_decides_the_toy_on_a_grid(eps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of certified regions are cheap: every point of a coarse grid is decided, all three arms there."""
    model, toy = load_model(ZOO / "toy-spirals.onnx"), script(monkeypatch, "benchmarks.zoo.toy")
    points = toy.grid(7)
    labels = model(points).argmax(axis=1)
    assert set(labels.tolist()) == {0, 1, 2}
    verdicts = {
        create("milp").verify(robustness_family(model, x, int(y), "inf", (0, 1)).at(str(eps))).verdict
        for x, y in zip(points, labels, strict=True)
    }
    assert verdicts == {Verdict.HOLDS, Verdict.VIOLATED}

"""The zoo and the quick suite: files are what the manifest says, samples are the data's, properties answer as said."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from verifkit.bench.suite import load_suite
from verifkit.budget import Budget
from verifkit.io.onnx import load_model
from verifkit.io.vnnlib import load_property, write_property
from verifkit.query import Query
from verifkit.registry import create
from verifkit.result import Verdict

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT / "benchmarks" / "zoo"
SUITES = ROOT / "benchmarks" / "suites"
MANIFEST = json.loads((ZOO / "manifest.json").read_text(encoding="utf-8"))
NETWORKS = [pytest.param(entry, id=entry["file"]) for entry in MANIFEST["networks"]]


def script(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """A module under benchmarks/, which is no part of the installed package."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module(name)


def test_the_manifest_lists_every_file() -> None:
    assert {entry["file"] for entry in MANIFEST["networks"]} == {file.name for file in ZOO.glob("*.onnx")}
    assert MANIFEST["data"]["licence"] == "CC BY 4.0"
    assert sum(file.stat().st_size for file in ZOO.glob("*.onnx")) < 500_000


@pytest.mark.parametrize("entry", NETWORKS)
def test_networks_are_the_files_of_the_manifest(entry: dict[str, Any]) -> None:
    content = (ZOO / entry["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert len(content) == entry["bytes"]
    proto = onnx.load_from_string(content)
    assert not proto.metadata_props
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param, "the batch axis is dynamic"
    assert sum(int(np.prod(t.dims)) for t in proto.graph.initializer) == entry["parameters"]
    model = load_model(ZOO / entry["file"])
    assert model.network is not None
    assert (model.n_inputs, model.n_outputs) == (64, 10)
    assert "-".join(map(str, [64, *(n.shape[1] for _, n in model.network.activations()), 10])) in entry["architecture"]


@pytest.mark.parametrize("entry", NETWORKS)
def test_accuracies_are_those_of_the_manifest(entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    data = script(monkeypatch, "benchmarks.zoo.samples").digits()
    assert (len(data.train), len(data.test)) == (MANIFEST["split"]["train"], MANIFEST["split"]["test"])
    assert hashlib.sha256(data.test.astype("<i8").tobytes()).hexdigest() == MANIFEST["split"]["test sha256"]
    model = load_model(ZOO / entry["file"])
    for part, chosen in (("train", data.train), ("test", data.test)):
        share = (model(data.x[chosen]).argmax(axis=1) == data.y[chosen]).mean()
        # One image of slack: another processor may add in another order.
        assert share == pytest.approx(entry["accuracy"][part], abs=1.1 / len(chosen))
    assert entry["accuracy"]["test"] >= 0.96


def test_noise_training_pays_under_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    train = script(monkeypatch, "benchmarks.zoo.train")
    data = train.digits()
    trained = next(e for e in MANIFEST["networks"] if e["sigma"])
    plain = next(e for e in MANIFEST["networks"] if not e["sigma"] and e["architecture"] == trained["architecture"])
    share, other = (train.noisy_accuracy(load_model(ZOO / e["file"]), data, 0.25) for e in (trained, plain))
    assert share == pytest.approx(trained["accuracy"]["test under noise"], abs=1e-3)
    assert share > other


def test_recipes_are_the_networks_of_the_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    train = script(monkeypatch, "benchmarks.zoo.train")
    said = [(e["file"], e["seed"], e["sigma"], e["epochs"], e["weight_decay"]) for e in MANIFEST["networks"]]
    schedule = train.SCHEDULE
    assert said == [(f"{r.name}.onnx", r.seed, r.sigma, schedule.epochs, schedule.weight_decay) for r in train.RECIPES]


@pytest.mark.slow
def test_retraining_gives_the_manifest_again(tmp_path: Path) -> None:
    """Byte for byte with the versions that it names; other versions, or another processor, may round otherwise."""
    versions = {name: importlib.import_module(name.replace("scikit-learn", "sklearn")).__version__
                for name in MANIFEST["versions"]}  # fmt: skip
    if versions != MANIFEST["versions"]:
        pytest.skip("other versions than the manifest's are installed")
    command = [sys.executable, "-m", "benchmarks.zoo.train", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8")) == MANIFEST


def test_samples_are_the_first_test_image_of_each_class(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    with np.load(SUITES / "digits-samples.npz") as archive:
        x, y, index = archive["x"], archive["y"], archive["index"]
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x * 16, digits.data[index])
    np.testing.assert_array_equal(y, digits.target[index])
    assert y.tolist() == list(range(10))
    samples = script(monkeypatch, "benchmarks.zoo.samples")
    data = samples.digits()
    assert all(index[k] == min(i for i in data.test if data.y[i] == k) for k in range(10))
    assert not set(data.train) & set(data.test)
    samples.save_arrays(samples.samples(data), tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (SUITES / "digits-samples.npz").read_bytes()


def test_the_quick_suite_is_valid() -> None:
    suite = load_suite(SUITES / "quick.toml")
    assert suite.name == "quick"
    assert [name for name, _ in suite.verifiers] == ["interval", "crown", "milp", "smoothing", "pgd"]
    assert all(instance.timeout is not None and instance.timeout <= 10 for instance in suite.instances)
    assert Counter(instance.expected for instance in suite.instances) == {None: 50, "unsat": 3, "sat": 1}
    for name, options in suite.verifiers:
        create(name, options)


def test_property_files_are_those_of_their_script(monkeypatch: pytest.MonkeyPatch) -> None:
    write = script(monkeypatch, "benchmarks.suites.props.write")
    with np.load(SUITES / "digits-samples.npz") as samples:
        images = samples["x"]
    files = {file.stem: file for file in (SUITES / "props").glob("*.vnnlib")}
    assert set(files) == set(write.PROPERTIES)
    for name, build in write.PROPERTIES.items():
        assert load_property(files[name]).digest == build(images).digest
        assert files[name].read_text(encoding="utf-8").endswith(write_property(build(images)))


PROPERTIES = tomllib.loads((SUITES / "quick.toml").read_text(encoding="utf-8"))["vnnlib"]


@pytest.mark.parametrize("question", PROPERTIES, ids=lambda question: Path(question["property"]).stem)
def test_expected_verdicts(question: dict[str, Any]) -> None:
    """The complete method agrees with what the suite file says; the incomplete and falsifying ones never contradict."""
    query = Query(load_model(SUITES / question["model"]), load_property(SUITES / question["property"]))
    expected = Verdict.HOLDS if question["expected"] == "unsat" else Verdict.VIOLATED
    assert create("milp").verify(query, budget=Budget(seconds=120)).verdict is expected
    for verifier in ("interval", "crown", "pgd"):
        assert create(verifier).verify(query, budget=Budget(seconds=30)).verdict in (expected, Verdict.UNKNOWN)

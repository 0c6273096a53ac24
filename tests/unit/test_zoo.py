"""The zoo and the quick suite: files are what the manifest says, samples are the data's, properties answer as said."""

from __future__ import annotations

import hashlib
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.unit.zoo_files import FOREST, MANIFEST, SUITES, ZOO, data_of, networks, samples_of, script
from verifkit.analysis.linear import analyse
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import rows_of
from verifkit.bench.suites.instance import Instance
from verifkit.bench.suites.suite import load_suite
from verifkit.budget import Budget, Clock
from verifkit.input_sets import Box
from verifkit.io.noise_layer import NOISE_AFTER
from verifkit.io.onnx import load_model, model_from_bytes
from verifkit.io.vnnlib import load_property, write_property
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query, robustness_family
from verifkit.registry import create
from verifkit.result import Verdict

LEAST = {
    "digits-conv-small-noise-0.5": 0.95,
    "digits-conv-small-noise-1": 0.9,
    "digits-conv-small-pixeldp-laplace-0.1": 0.93,
}
"""Test accuracies under strong noise; 0.96 elsewhere."""


def small_box(entry: dict[str, Any]) -> Box:
    """The l-inf ball of radius 0.02 around the first sample, kept in [0, 1]."""
    x = [Fraction(float(v)) for v in samples_of(entry)[0][0]]
    reach = Fraction(2, 100)
    return Box(tuple(max(v - reach, Fraction(0)) for v in x), tuple(min(v + reach, Fraction(1)) for v in x))


def test_the_manifests_list_every_file() -> None:
    assert {entry["file"] for entry in [*MANIFEST["networks"], FOREST]} == {file.name for file in ZOO.glob("*.onnx")}
    assert MANIFEST["data"]["digits"]["licence"] == "CC BY 4.0"
    assert sum(file.stat().st_size for file in ZOO.glob("*.onnx")) < 2_000_000


def test_the_first_three_networks_are_still_the_same_files() -> None:
    """Published figures are about them: retraining must not change a byte."""
    known = {
        "digits-2x50.onnx": "c17edf8081bef6ff862ab6aa08d774cd1c62eda05436fcae90b5e3a349d0d5ef",
        "digits-3x100.onnx": "49321223393a30bd09592de6ef51632d29a6d1df273812ac8bb8f164eececf09",
        "digits-3x100-noise-0.25.onnx": "6a0c8247c73643e2401f71e9608d5af0d70955e0365ad24af174ccfbe9928679",
    }
    assert {name: hashlib.sha256((ZOO / name).read_bytes()).hexdigest() for name in known} == known


@networks
def test_networks_are_the_files_of_the_manifest(entry: dict[str, Any]) -> None:
    content = (ZOO / entry["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert len(content) == entry["bytes"]
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    private = entry["training"]["objective"].endswith("(PixelDP)")
    assert {p.key: p.value for p in proto.metadata_props} == ({NOISE_AFTER: "conv1"} if private else {})
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param, "the batch axis is dynamic"
    weights = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert sum(int(np.prod(t.dims)) for t in weights) == entry["parameters"]
    model = load_model(ZOO / entry["file"])
    assert model.network is not None
    assert (model.n_inputs, model.n_outputs) == {"digits": (64, 10), "spirals": (2, 3)}[entry["data"]]
    assert model.network.n_nonlinear() == entry["nonlinear units"]


@networks
def test_a_network_computes_what_onnxruntime_does(entry: dict[str, Any]) -> None:
    model = load_model(ZOO / entry["file"])
    assert model.network is not None
    x = np.random.default_rng(1).random((200, model.n_inputs), dtype=np.float32)
    ours = model.network.evaluate(x[:, None].astype(np.float64))[:, 0]
    np.testing.assert_allclose(model(x), ours, rtol=1e-4, atol=1e-4)


@networks
def test_accuracies_are_those_of_the_manifest(entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    data, split = data_of(entry, monkeypatch), MANIFEST["data"][entry["data"]]["split"]
    assert (len(data.train), len(data.test)) == (split["train"], split["test"])
    assert hashlib.sha256(data.test.astype("<i8").tobytes()).hexdigest() == split["test sha256"]
    model = load_model(ZOO / entry["file"])
    for part, chosen in (("train", data.train), ("test", data.test)):
        share = (model(data.x[chosen]).argmax(axis=1) == data.y[chosen]).mean()
        # One image of slack: another processor may add in another order.
        assert share == pytest.approx(entry["accuracy"][part], abs=1.1 / len(chosen))
    assert entry["accuracy"]["test"] >= LEAST.get(entry["file"].removesuffix(".onnx"), 0.96)


@networks
def test_accuracies_under_attack_are_those_of_the_manifest(
    entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, measure = data_of(entry, monkeypatch), script(monkeypatch, "benchmarks.zoo.measure")
    model, said = load_model(ZOO / entry["file"]), entry["accuracy"]
    share = measure.attacked_accuracy(model, data.x[data.test], data.y[data.test], measure.Attack(**said["attack"]))
    # Three images of slack: forty steps amplify how a processor rounds.
    assert share == pytest.approx(said["test under attack"], abs=3.1 / len(data.test))
    assert share <= said["test"]


def test_adversarial_training_pays_under_attack() -> None:
    """Clearly, at its own eps, and against noise too; architecture by architecture."""
    attacked = {e["file"].removesuffix(".onnx"): e["accuracy"]["test under attack"] for e in MANIFEST["networks"]}
    assert {e["accuracy"]["attack"]["eps"] for e in MANIFEST["networks"] if e["data"] == "digits"} == {0.1}
    for plain in ("digits-3x100", "digits-conv-small"):
        assert attacked[f"{plain}-pgd-0.1"] > attacked[plain] + 0.25
        assert attacked[f"{plain}-pgd-0.1"] > attacked[f"{plain}-noise-0.25"] > attacked[plain]


@pytest.mark.parametrize("name", ["digits-3x100", "digits-conv-small"])
def test_noise_training_pays_under_noise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = script(monkeypatch, "benchmarks.zoo.measure")
    trained = [e for e in MANIFEST["networks"] if e["file"].startswith(f"{name}-noise")]
    plain = load_model(ZOO / f"{name}.onnx")
    assert trained
    for entry in trained:
        data, noise = data_of(entry, monkeypatch), measure.Noise(**entry["accuracy"]["noise"])
        assert noise.sigma == entry["training"]["sigma"]
        x, y = data.x[data.test], data.y[data.test]
        share = measure.noisy_accuracy(load_model(ZOO / entry["file"]), x, y, noise)
        assert share == pytest.approx(entry["accuracy"]["test under noise"], abs=1e-3)
        assert share > measure.noisy_accuracy(plain, x, y, noise)


@pytest.mark.parametrize("name", ["gaussian-0.25", "laplace-0.1"])
def test_training_with_noise_after_a_layer_pays_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same noise, scaled by each network's own sensitivity, costs a network that was not trained with it more."""
    measure = script(monkeypatch, "benchmarks.zoo.measure")
    (entry,) = (e for e in MANIFEST["networks"] if e["file"] == f"digits-conv-small-pixeldp-{name}.onnx")
    data, noise = data_of(entry, monkeypatch), measure.LayerNoise(**entry["accuracy"]["noise"])
    assert f"{noise.mechanism} noise {noise.scale}" in entry["architecture"]
    x, y = data.x[data.test], data.y[data.test]
    share = measure.noisy_accuracy(load_model(ZOO / entry["file"]), x, y, noise)
    assert share == pytest.approx(entry["accuracy"]["test under noise"], abs=1e-3)
    plain = onnx.load(ZOO / "digits-conv-small.onnx")
    onnx.helper.set_model_props(plain, {NOISE_AFTER: "conv1"})
    other = model_from_bytes(plain.SerializeToString(), "plain")
    assert share > measure.noisy_accuracy(other, x, y, noise) + 0.1


@networks
@pytest.mark.parametrize("table", [{}, CROWN_RELAXATIONS], ids=["interval", "crown"])
def test_bounds_on_a_small_box_contain_a_thousand_outputs(entry: dict[str, Any], table: dict[Any, Any]) -> None:
    model, box = load_model(ZOO / entry["file"]), small_box(entry)
    rows = tuple(
        Polyhedron((Constraint(outputs=((j, Fraction(sign)),), bound=Fraction(0)),))
        for j in range(model.n_outputs)
        for sign in (1, -1)
    )
    query = Query(model, Property(box, rows, model.n_outputs))
    network = query.network.without_max() if table else query.network
    bounds = analyse(network, region_of(query), table, Clock(Budget())).property_rows(rows_of(query.prop))[0]
    lower, upper = bounds[::2], -bounds[1::2]
    low, high = (np.array([float(v) for v in end]) for end in (box.lower, box.upper))
    rng = np.random.default_rng(0)
    x = rng.uniform(low, high, (1000, low.size))
    x[::2] = np.where(x[::2] < (low + high) / 2, low, high)  # half of them corners
    y = query.network.evaluate(x[:, None])[:, 0]
    assert np.isfinite(bounds).all()
    assert (lower <= y.min(axis=0)).all()
    assert (y.max(axis=0) <= upper).all()


@networks
def test_crown_certifies_most_samples_at_a_small_radius(entry: dict[str, Any]) -> None:
    """The networks are worth verifying: guarantees that a bound can give reach beyond nothing."""
    model = load_model(ZOO / entry["file"])
    verdicts = [
        create("crown").verify(robustness_family(model, x, int(y), "inf", (0, 1)).at("0.02")).verdict
        for x, y in zip(*samples_of(entry), strict=True)
    ]
    assert verdicts.count(Verdict.HOLDS) >= 0.7 * len(verdicts)


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
    assert [choice.name for choice in suite.verifiers] == [
        "interval", "fastlip", "crown_ibp", "fastlin", "zonotope", "crown", "alpha_crown", "lp", "reluplex", "milp",
        "bab", "smoothing", "pixeldp", "pgd",
    ]  # fmt: skip
    assert all((instance.limits.seconds or 11) <= 10 for instance in suite.instances)
    assert Counter(instance.expected for instance in suite.instances) == {None: 102, "unsat": 3, "sat": 1}
    for choice in suite.verifiers:
        create(choice.name, choice.options)


def test_property_files_are_those_of_their_script(monkeypatch: pytest.MonkeyPatch) -> None:
    write = script(monkeypatch, "benchmarks.suites.props.write")
    with np.load(SUITES / "digits-samples.npz") as samples:
        images = samples["x"]
    files = {file.stem: file for file in (SUITES / "props").glob("*.vnnlib")}
    assert set(files) == set(write.PROPERTIES)
    for name, build in write.PROPERTIES.items():
        assert load_property(files[name]).digest == build(images).digest
        assert files[name].read_text(encoding="utf-8").endswith(write_property(build(images)))


PROPERTIES = [i for i in load_suite(SUITES / "quick.toml").instances if i.property_path is not None]


@pytest.mark.parametrize("question", PROPERTIES, ids=lambda question: question.property_name)
def test_expected_verdicts(question: Instance) -> None:
    """The complete method agrees with what the suite file says; the incomplete and falsifying ones never contradict."""
    query = Query(load_model(question.model_path), load_property(str(question.property_path)))
    expected = Verdict.HOLDS if question.expected == "unsat" else Verdict.VIOLATED
    assert create("milp").verify(query, budget=Budget(seconds=120)).verdict is expected
    for verifier in ("interval", "crown", "pgd"):
        assert create(verifier).verify(query, budget=Budget(seconds=30)).verdict in (expected, Verdict.UNKNOWN)

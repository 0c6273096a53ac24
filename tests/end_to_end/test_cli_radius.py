"""`verifkit radius` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.test_cli import MODEL, ROOT, mistake, run
from verifkit.io.onnx import model_from_network
from verifkit.network import dense_network

SAMPLES = ROOT / "benchmarks" / "suites" / "digits-samples.npz"


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "eight.npy"
    np.save(path, np.load(SAMPLES)["x"][8])
    return path


def lines_of(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines())  # type: ignore[misc]


def test_the_radius_by_default(eight: Path) -> None:
    done = run("radius", MODEL, "--input", eight, "--label", 8, "--clip", 0, 1, "--timeout", 60)
    assert done.returncode == 0, done
    said = lines_of(done.stdout)
    assert said["radius"].endswith("l-inf, class 8")
    low, high = (float(v) for v in said["radius"].split("]")[0].strip("[").split(", "))
    assert 0.0269 < low < high < 0.02698
    assert high - low < 1.1e-3 * high
    assert said["certified"].endswith("by bab")
    assert "rounded arithmetic" in said["guarantee"]
    assert "replayed by" in said["falsified"]
    assert "undecided" not in said
    assert done.stderr == ""


@pytest.mark.parametrize(("norm", "verifier"), [("inf", "interval"), ("2", "crown"), ("1", "crown"), ("2", "auto")])
def test_an_incomplete_method_brackets_with_an_attack(eight: Path, norm: str, verifier: str) -> None:
    done = run("radius", MODEL, "--input", eight, "--norm", norm, "--verifier", verifier, "--json")
    assert done.returncode == 0, done
    answer = json.loads(done.stdout)
    low, high = answer["certified"], answer["falsified"]
    assert 0 < low["value"] < high["value"]
    assert low["result"]["verdict"] == "HOLDS"
    assert high["result"]["verdict"] == "VIOLATED"
    assert high["result"]["verifier"] == "fmn"
    assert answer["label"] == answer["predicted"] == 8
    assert all(low["value"] < r < high["value"] for r, _ in answer["undecided"])


def test_the_smoothed_classifier_gets_no_attack_on_the_network(eight: Path) -> None:
    done = run("radius", MODEL, "--input", eight, "--norm", 2, "--verifier", "smoothing", "--option", "n=2000")
    assert done.returncode in (0, 1), done
    assert "falsified: nothing found" in done.stdout


def test_a_misclassified_input_is_a_definite_answer() -> None:
    done = run("radius", MODEL, "--input", SAMPLES, "--index", 5)
    assert done.returncode == 0
    said = lines_of(done.stdout)
    assert said["radius"].startswith("[?, 0]")
    assert "the model gives the input itself class 9" in said["misclassified"]


def test_nothing_certified_is_status_1(eight: Path) -> None:
    done = run("radius", MODEL, "--input", eight, "--norm", 0, "--clip", 0, 1, "--verifier", "pgd")
    assert done.returncode == 1
    assert "certified: nothing" in done.stdout


def test_out_of_time_the_bracket_so_far_is_printed() -> None:
    done = run("radius", MODEL, "--input", SAMPLES, "--index", 4, "--clip", 0, 1, "--timeout", 1.5)
    assert done.returncode == 0, done
    assert "timeout: time ran out" in lines_of(done.stdout).get("undecided", "") or "by milp" in done.stdout


def test_mistakes_are_one_sentence(eight: Path, tmp_path: Path) -> None:
    def ask(*arguments: object) -> str:
        return mistake("radius", MODEL, *arguments)

    assert "does not exist" in mistake("radius", tmp_path / "no.onnx", "--input", eight)
    assert "cannot be read" in ask("--input", tmp_path / "no.npy")
    assert "choose one with --index" in ask("--input", SAMPLES)
    assert "outside" in ask("--input", SAMPLES, "--index", 10)
    assert "outside" in ask("--input", SAMPLES, "--index", -1)
    assert "tolerance" in ask("--input", eight, "--tolerance", 2)
    assert "--clip" in ask("--input", eight, "--norm", 0)
    assert "not a finite number" in ask("--input", eight, "--clip", "a", "1")
    np.save(tmp_path / "short.npy", np.zeros(3))
    assert "64 inputs" in ask("--input", tmp_path / "short.npy")
    np.save(tmp_path / "nan.npy", np.full(64, np.nan))
    assert "finite" in ask("--input", tmp_path / "nan.npy")
    np.save(tmp_path / "words.npy", np.array(["a"] * 64))
    assert "no array of numbers" in ask("--input", tmp_path / "words.npy")
    (tmp_path / "torn.npy").write_bytes(eight.read_bytes()[:100])
    assert "cannot be read" in ask("--input", tmp_path / "torn.npy")
    assert "label" in ask("--input", eight, "--label", 10)
    assert "the input lies outside its clip box: entry 0 is 0, which is not in [2, 3]" in ask(
        "--input", eight, "--clip", 2, 3
    )
    assert "--timeout" in ask("--input", eight, "--timeout", 0) or "seconds" in ask("--input", eight, "--timeout", 0)
    np.save(tmp_path / "large.npy", np.full(64, 1e40))
    assert "no finite float32" in ask("--input", tmp_path / "large.npy")
    assert "leave --index out" in ask("--input", eight, "--index", 0)
    (tmp_path / "text.npy").write_text("0.5 0.5")
    assert "save the input with numpy.save" in ask("--input", tmp_path / "text.npy")


def test_a_question_that_cannot_be_taken_names_who_can(eight: Path) -> None:
    done = run("radius", MODEL, "--input", eight, "--norm", 2, "--verifier", "milp")
    assert done.returncode == 1
    able = lines_of(done.stdout)["undecided"].partition("can take it: ")[2].split(", ")
    assert {"crown", "zonotope"} <= set(able)
    assert not {"milp", "pgd", "fmn", "smoothing"} & set(able)  # no attack stands in for a proof


def test_a_tie_is_called_a_tie(tmp_path: Path) -> None:
    model = model_from_network(dense_network([np.zeros((2, 1))], [np.zeros(2)]), "tie")
    assert model.onnx_bytes is not None
    (tmp_path / "tie.onnx").write_bytes(model.onnx_bytes)
    np.save(tmp_path / "x.npy", np.zeros(1))
    done = run("radius", tmp_path / "tie.onnx", "--input", tmp_path / "x.npy")
    assert done.returncode == 0
    assert "another class scores as high as class 0" in lines_of(done.stdout)["misclassified"]

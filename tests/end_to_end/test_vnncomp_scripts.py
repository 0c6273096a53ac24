"""verifkit's own scripts for VNN-COMP, end to end; and verifkit as a tool that verifkit asks."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.end_to_end.hostile import MARK, marked, wait_until_gone, write_model, write_property
from tests.end_to_end.test_cli import HOLDING, MODEL, PUBLIC, ROOT, VIOLATED, ZOO, run
from verifkit import registry
from verifkit.io.onnx import load_model
from verifkit.io.vnncomp_results import read_results
from verifkit.testing.conformance import checks_for

SCRIPTS = ROOT / "vnncomp_scripts"
HERE = {"VERIFKIT": f"env PYTHONPATH={ROOT} {sys.executable} -m verifkit.cli"}
"""The scripts then call the code that is being tested."""


def script(name: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS / name), *map(str, arguments)]
    environ = {**os.environ, **HERE, **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environ)


def asked(model: Path, spec: Path, folder: Path, timeout: object = 60) -> tuple[int, list[str]]:
    """The exit status of run_instance.sh, and the lines of its results file."""
    results = folder / "results.txt"
    done = script("run_instance.sh", "v1", "test", model, spec, results, timeout)
    return done.returncode, results.read_text(encoding="utf-8").splitlines()


def test_the_network_that_holds(tmp_path: Path) -> None:
    assert script("prepare_instance.sh", "v1", "test", MODEL, HOLDING).returncode == 0
    assert asked(MODEL, HOLDING, tmp_path) == (0, ["unsat"])


def test_a_counterexample_is_in_the_competitions_format(tmp_path: Path) -> None:
    status, lines = asked(MODEL, VIOLATED, tmp_path)
    assert (status, lines[0], len(lines)) == (0, "sat", 2)
    names = [entry.split()[0] for entry in lines[1].strip("()").split(") (")]
    assert names == [f"X_{i}" for i in range(64)] + [f"Y_{j}" for j in range(10)]
    answer = read_results("\n".join(lines), 64)
    assert answer.inputs is not None
    model = load_model(MODEL)
    y = model(model.dtype([[float(v) for v in answer.inputs]]))[0]  # type: ignore[call-overload]
    said = [float(entry.split()[1]) for entry in lines[1].strip("()").split(") (")[64:]]
    assert y == pytest.approx(said, abs=1e-6)


def test_gzipped_files_by_either_name(tmp_path: Path) -> None:
    for source, name in ((MODEL, "m.onnx"), (VIOLATED, "p.vnnlib")):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(source.read_bytes()))
    for ending in ("", ".gz"):
        files = tmp_path / f"m.onnx{ending}", tmp_path / f"p.vnnlib{ending}"
        assert script("prepare_instance.sh", "v1", "test", *files).returncode == 0
        assert asked(*files, tmp_path)[1][0] == "sat"


def test_the_timeout(tmp_path: Path) -> None:
    start = time.monotonic()
    assert asked(MODEL, HOLDING, tmp_path, "0.01") == (0, ["timeout"])
    assert time.monotonic() - start < 10


def test_prepare_refuses_what_cannot_be_taken(tmp_path: Path) -> None:
    write_model(tmp_path / "small.onnx")
    write_property(tmp_path / "small.vnnlib")
    assert (
        script("prepare_instance.sh", "v1", "test", tmp_path / "small.onnx", tmp_path / "small.vnnlib").returncode == 0
    )
    other = script("prepare_instance.sh", "v1", "test", MODEL, tmp_path / "small.vnnlib")
    assert (other.returncode, other.stdout) == (2, "")
    assert "belongs to another model" in other.stderr
    (tmp_path / "new.vnnlib").write_text("(vnnlib-version <2.0>)\n")
    assert script("prepare_instance.sh", "v1", "test", MODEL, tmp_path / "new.vnnlib").returncode == 2
    forest = ZOO / "digits-forest-noise-0.25.onnx"  # can only be called: nothing certifies it over a box
    assert script("prepare_instance.sh", "v1", "test", forest, HOLDING).returncode == 1
    assert script("prepare_instance.sh", "v2", "test", MODEL, HOLDING).returncode == 2
    assert "usage" in script("run_instance.sh", "v1", "test").stderr


def test_a_mistake_is_an_error_in_the_results(tmp_path: Path) -> None:
    assert asked(tmp_path / "none.onnx", HOLDING, tmp_path) == (1, ["error"])
    no_command = script("run_instance.sh", "v1", "t", MODEL, HOLDING, tmp_path / "r", 5, VERIFKIT="no-such-command")
    assert no_command.returncode == 1
    assert (tmp_path / "r").read_text() == "error\n"


def test_the_results_file_is_looked_to_before_the_search(tmp_path: Path) -> None:
    """No answer is lost for want of a folder."""
    asks = tmp_path / "asked"
    nowhere = tmp_path / "missing" / "r"
    done = script("run_instance.sh", "v1", "t", MODEL, HOLDING, nowhere, 9, VERIFKIT=f"touch {asks}")
    assert done.returncode == 1
    assert not asks.exists()


def test_a_run_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    environ = {**os.environ, **HERE, MARK: mark, "TMPDIR": str(tmp_path)}
    hard = ZOO / "digits-3x100.onnx"
    command = [SCRIPTS / "run_instance.sh", "v1", "t", hard, HOLDING, tmp_path / "r", "300"]
    slow = f"{HERE['VERIFKIT']} --debug"
    environ["VERIFKIT"] = slow
    (tmp_path / "r").write_text("unsat\n")  # of an earlier run
    running = subprocess.Popen(
        list(map(str, command)), env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while len(marked(mark)) < 3 and running.poll() is None and time.monotonic() < deadline:  # sh, verifkit, its child
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    running.wait(10)
    assert not wait_until_gone(mark, 3.0)
    assert not list(tmp_path.glob("verifkit.*"))
    assert (tmp_path / "r").read_text() == ""


def test_verifkit_asks_verifkit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERIFKIT", HERE["VERIFKIT"])
    holds = run("verify", MODEL, HOLDING, "--tool-dir", SCRIPTS, "--timeout", 60)
    assert holds.stdout.splitlines()[:2] == ["unsat", f"detail: {SCRIPTS.resolve().parent.name} says unsat"], holds
    violated = run("verify", MODEL, VIOLATED, "--tool-dir", SCRIPTS, "--timeout", 60)
    assert violated.stdout.splitlines()[0] == "sat"
    assert "witness: confirmed by onnxruntime" in violated.stdout


@pytest.mark.skipif(not (PUBLIC / "test").is_dir(), reason="the public instances are not here")
def test_the_competitions_test_folder(tmp_path: Path) -> None:
    folder = PUBLIC / "test"
    words = {}
    for line in (folder / "instances.csv").read_text().splitlines():
        model, spec, timeout = line.split(",")
        words[model] = asked(folder / model, folder / spec, tmp_path, timeout)[1][0]
    assert words["test_sat.onnx"] == "sat"
    assert words["test_unsat.onnx"] == "unsat"
    assert set(words.values()) <= {"sat", "unsat"}
    assert len(words) == 5


def test_the_installing_script_takes_one_version(tmp_path: Path) -> None:
    assert script("install_tool.sh", "v2").returncode == 2
    assert shutil.which("sh") is not None
    for name in ("install_tool.sh", "prepare_instance.sh", "run_instance.sh"):
        assert os.access(SCRIPTS / name, os.X_OK)
        assert subprocess.run(["sh", "-n", SCRIPTS / name], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["easy_questions_are_proved", "easy_violations_are_found", "effective_box_counts"])
def test_the_suite_of_conformance_with_verifkit_as_the_tool(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERIFKIT", HERE["VERIFKIT"])
    tool = registry.create("vnncomp_tool", {"tool_dir": str(SCRIPTS)})
    next(check for check in checks_for(tool, queries=4) if check.name == name)()

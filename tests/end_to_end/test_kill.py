"""A runner killed without warning leaves no process, loses no row that stood, and the same command goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.hostile import MARK, install, marked, wait_until_gone, write_folder
from verifkit.bench.rows.store import ROWS, read_rows

SCRIPT = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
from verifkit.bench.running.runner import run
from verifkit.bench.suites.suite import load_suite
from verifkit.budget import Budget
settings = json.loads(sys.argv[1])
suite, three = load_suite(settings["folder"]), Budget(seconds=3)
run(suite, out=settings["out"], verifiers=settings["verifiers"], jobs=2, limits=three)
"""
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


@dataclass
class Command:
    """One bench command, to be started again and again in processes that carry `mark`."""

    settings: dict[str, Any]
    path: list[str]
    mark: str

    @property
    def out(self) -> Path:
        return Path(self.settings["out"])

    def start(self) -> subprocess.Popen[bytes]:
        environ = {**os.environ, MARK: self.mark, "PYTHONPATH": os.pathsep.join(self.path)}
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps(self.settings)], env=environ, stderr=subprocess.PIPE
        )

    def finish(self) -> None:
        process = self.start()
        _, words = process.communicate(timeout=60)
        assert process.returncode == 0, words.decode()

    def whole_lines(self) -> list[str]:
        path = self.out / ROWS
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [line for line in lines if line.endswith("\n")]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    folder = write_folder(tmp_path / "bench", count=8)
    settings = {"folder": str(folder), "out": str(tmp_path / "out"), "verifiers": []}
    return Command(settings, install(tmp_path / "plugin"), uuid.uuid4().hex)


def test_killed_at_random_moments(command: Command) -> None:
    modes = [{"mode": "holds", "seconds": 0.15}, {"mode": "native", "seconds": 1}, {"mode": "quit"}]
    command.settings["verifiers"] = [("hostile", options) for options in modes]
    moments = random.Random(20)
    stood: list[str] = []
    for kill in range(10):
        process = command.start()
        time.sleep(moments.uniform(0.05, 2.5))
        process.kill()
        process.communicate()
        assert not wait_until_gone(command.mark, 2.0), f"kill {kill}"
        lines = command.whole_lines()
        assert lines[: len(stood)] == stood
        stood = lines
        if kill % 3 == 2 and stood:  # as if killed in the middle of a write
            with open(command.out / ROWS, "a", encoding="utf-8") as file:
                file.write(stood[0][: moments.randrange(1, len(stood[0]) - 1)])
    command.finish()
    lines = command.whole_lines()
    assert lines[: len(stood)] == stood
    rows = read_rows(command.out)
    assert len({row.key for row in rows}) == len(rows) == 8 * len(modes)
    assert {(row.instance, row.options["mode"]) for row in rows} == {
        (f"net/p{i}", options["mode"]) for i in range(8) for options in modes
    }
    assert not wait_until_gone(command.mark, 2.0)


@pytest.mark.parametrize("mode", ["native", "family"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_hung_worker_dies_with_the_runner(command: Command, tmp_path: Path, mode: str, number: int) -> None:
    note = tmp_path / "note"
    options = {"mode": mode, "seconds": 600, "note": str(note)}
    command.settings["verifiers"] = [("hostile", options)]
    process = command.start()
    wait_for(note, process)
    assert len(marked(command.mark)) >= 3  # the runner, its server, a worker
    process.send_signal(number)
    process.communicate(timeout=10)
    assert not wait_until_gone(command.mark, 2.0)


def test_workers_die_with_their_server_and_the_run_goes_on(command: Command, tmp_path: Path) -> None:
    note = tmp_path / "note"
    command.settings["verifiers"] = [
        ("hostile", {"mode": "native", "seconds": 600, "note": str(note)}),
        ("hostile", {"seconds": 0.01}),
    ]
    process = command.start()
    wait_for(note, process)
    (server,) = psutil.Process(process.pid).children()
    if sys.platform == "linux":
        assert server.num_threads() == 1  # else forking would not be safe
    workers = server.children()
    assert workers
    server.kill()
    _, left = psutil.wait_procs(workers, 2.0)
    assert not left
    _, words = process.communicate(timeout=120)
    assert process.returncode == 0, words.decode()
    rows = read_rows(command.out)
    assert len({row.key for row in rows}) == len(rows) == 16
    assert {row.reason for row in rows} == {"timeout", None}
    assert not wait_until_gone(command.mark, 2.0)


def wait_for(note: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while not note.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)  # until it is at it


def test_a_second_runner_is_refused(command: Command, tmp_path: Path) -> None:
    note = tmp_path / "note"
    command.settings["verifiers"] = [("hostile", {"mode": "hang", "note": str(note)})]
    process = command.start()
    wait_for(note, process)
    second = command.start()
    _, words = second.communicate(timeout=20)
    assert second.returncode == 1
    assert "another run is writing to" in words.decode()
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert not wait_until_gone(command.mark, 2.0)


def test_an_interrupt_from_the_keyboard(command: Command, tmp_path: Path) -> None:
    """The command says so, with its own status; rows and evidence are whole, and the same command goes on."""
    environ = {**os.environ, MARK: command.mark, "PYTHONPATH": os.pathsep.join(command.path)}
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from verifkit.cli import main; main()"
    )
    folder, out = command.settings["folder"], command.settings["out"]
    arguments = ["bench", folder, "--verifiers", "hostile,crown", "--out", out, "--evidence", "--jobs", "2"]
    start = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(start, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(command.whole_lines()) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=20)
    assert process.returncode == 130, words
    assert words.splitlines()[-1] == "verifkit: interrupted; what was written stands"
    assert not wait_until_gone(command.mark, 2.0)
    stood = command.whole_lines()
    assert 3 <= len(stood) < 16
    assert not list(command.out.rglob("*.new"))
    assert not (command.out / "rows.parquet").exists()
    done = subprocess.run(start, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = command.whole_lines()
    assert lines[: len(stood)] == stood
    rows = read_rows(command.out)
    assert len({row.key for row in rows}) == len(rows) == 16
    assert {row.evidence is not None for row in rows if row.verifier == "crown"} == {True}
    assert (command.out / "rows.parquet").exists()

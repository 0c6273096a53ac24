"""Suites run end to end: what verifiers do wrong becomes a row of its own, and the others are not touched by it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.hostile import wait_until_gone, write_folder, write_model
from verifkit.bench.rows.schema import Row
from verifkit.bench.rows.store import read_rows
from verifkit.bench.running.runner import RunSummary, run
from verifkit.bench.suites.suite import load_suite
from verifkit.budget import Budget
from verifkit.errors import OptionError, SuiteError, UnknownVerifier


def ask(folder: Path, out: Path, mode: str, **options: Any) -> list[Row]:
    """Runs one benchmark folder with the hostile verifier in `mode`; the rows."""
    budget = Budget(seconds=options.pop("timeout", None), memory_bytes=options.pop("memory_bytes", None))
    how = {name: options.pop(name) for name in ("method", "jobs") if name in options}
    run(load_suite(folder), out=out, verifiers=[("hostile", {"mode": mode, **options})], limits=budget, **how)
    return read_rows(out)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "bench", count=1)


def test_an_answer_is_a_full_row(plugin: str, folder: Path, tmp_path: Path) -> None:
    (row,) = ask(folder, tmp_path / "out", "holds")
    assert (row.verdict, row.word, row.reason, row.kind) == ("HOLDS", "unsat", None, "complete")
    assert (row.suite, row.instance, row.model, row.property) == ("bench", "net/p0", "net.onnx", "p0.vnnlib")
    assert (row.version, row.timeout, row.norm) == ("hostile 1.0", 5.0, "inf")
    assert row.statistics["ratio"] is None
    assert row.verifier_seconds is not None
    assert 0.05 <= row.verifier_seconds <= row.wall_seconds < 2
    assert row.cpu_seconds is not None
    assert 0 < row.cpu_seconds < 2
    assert row.peak_memory_bytes is not None
    assert row.peak_memory_bytes > 2**20
    machines = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert "numpy" in machines[row.environment]["packages"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jsonl")) == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("abort", "killed by SIGABRT"),
        ("segfault", "killed by SIGSEGV"),
        ("quit", "ended without an answer (exit code 0)"),
        ("leave", "SystemExit: 3"),
        ("error", "RuntimeError: the solver is out of sorts"),
    ],
)
def test_a_crash_is_an_error_row(plugin: str, folder: Path, tmp_path: Path, mode: str, words: str) -> None:
    (row,) = ask(folder, tmp_path / "out", mode)
    assert (row.verdict, row.reason, row.word) == ("UNKNOWN", "error", "error")
    assert words in row.detail
    if mode in ("segfault", "error"):
        assert row.output is not None
        assert "_decide" in row.output


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("mode", ["hang", "native"])
def test_the_time_limit_holds(plugin: str, folder: Path, tmp_path: Path, mode: str, method: str) -> None:
    limit = 1.0 if method == "fork" else 2.0
    (row,) = ask(folder, tmp_path / "out", mode, timeout=limit, seconds=600.0, method=method)
    assert (row.verdict, row.reason, row.word) == ("UNKNOWN", "timeout", "timeout")
    assert row.wall_seconds < limit + 2
    assert not wait_until_gone_but_me(plugin)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_memory_limit_holds(plugin: str, folder: Path, tmp_path: Path, method: str) -> None:
    limit = 300 * 2**20
    (row,) = ask(folder, tmp_path / "out", "allocate", memory_bytes=limit, timeout=60, method=method)
    assert (row.verdict, row.reason, row.word) == ("UNKNOWN", "memout", "unknown")
    assert row.peak_memory_bytes is not None
    assert limit < row.peak_memory_bytes < 2 * limit
    assert row.memory_limit == limit


def test_what_a_verifier_prints_corrupts_nothing(plugin: str, folder: Path, tmp_path: Path, capfd: Any) -> None:
    (row,) = ask(folder, tmp_path / "out", "garbage")
    assert (row.verdict, row.reason) == ("UNKNOWN", "incomplete")
    assert capfd.readouterr() == ("", "")


def test_a_false_witness_is_unconfirmed(plugin: str, folder: Path, tmp_path: Path) -> None:
    (row,) = ask(folder, tmp_path / "out", "false")
    assert (row.verdict, row.reason) == ("UNKNOWN", "unconfirmed")


@pytest.mark.parametrize("mode", ["family", "litter"])
def test_no_descendant_is_left(plugin: str, folder: Path, tmp_path: Path, mode: str) -> None:
    (row,) = ask(folder, tmp_path / "out", mode, timeout=1.5)
    assert row.reason == ("timeout" if mode == "family" else "incomplete")
    assert row.wall_seconds < 3.5
    assert not wait_until_gone_but_me(plugin)


def wait_until_gone_but_me(mark: str) -> list[Any]:
    """psutil reads the environment a process was started with: the test's own process carries no mark."""
    return wait_until_gone(mark, 2.0)


def test_standing_rows_are_not_run_again(plugin: str, tmp_path: Path) -> None:
    suite = load_suite(write_folder(tmp_path / "bench", count=4))
    out = tmp_path / "out"
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int, row: Row) -> None:
        seen.append((done, total))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(suite, out=out, verifiers=[("hostile", {})], progress=progress)
    assert not wait_until_gone_but_me(plugin)
    first = read_rows(out)
    assert seen == [(1, 4), (2, 4), (3, 4)]
    assert run(suite, out=out, verifiers=[("hostile", {})]) == RunSummary(4, 1, 3, 0)
    rows = read_rows(out)
    assert rows[:3] == first
    assert len({row.key for row in rows}) == 4
    # the default stated is the default; another limit, option or repeat is another row
    assert run(suite, out=out, verifiers=[("hostile", {"seconds": "0.05"})]).written == 0
    assert run(suite, out=out, verifiers=[("hostile", {})], limits=Budget(seconds=9)).written == 4
    assert run(suite, out=out, verifiers=[("hostile", {})], repeats=2).written == 4
    repeated = {(row.instance, row.timeout, row.seed): row.statistics["draw"] for row in read_rows(out)}
    assert len(repeated) == 12


def test_a_broken_instance_is_an_error_row_and_the_rest_go_on(plugin: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bench", count=3)
    (folder / "p1.vnnlib").write_text("(assert (>= X_0")
    (folder / "bad.onnx").write_bytes(b"no model")
    with open(folder / "instances.csv", "a", encoding="utf-8") as table:
        table.write("bad.onnx,p0.vnnlib,5\n")
    summary = run(load_suite(folder), out=tmp_path / "out", verifiers=[("hostile", {})])
    assert summary == RunSummary(rows=4, written=4, standing=0, errors=2)
    rows = {row.instance: row for row in read_rows(tmp_path / "out")}
    assert rows["net/p0"].verdict == rows["net/p2"].verdict == "HOLDS"
    assert "p1.vnnlib" in rows["net/p1"].detail
    assert "bad.onnx" in rows["bad/p0"].detail
    assert run(load_suite(folder), out=tmp_path / "out", verifiers=[("hostile", {})]).written == 0


def test_samples_are_asked_for_verdicts_and_radii(plugin: str, tmp_path: Path) -> None:
    write_model(tmp_path / "net.onnx")
    np.savez(tmp_path / "s.npz", x=np.float32([[0.25, 0.5], [0.5, 0.5], [0.5, 0.5]]), y=np.array([0, 0, 1]))
    (tmp_path / "suite.toml").write_text("""
        name = "mixed"
        timeout = 5
        [[verifiers]]
        name = "hostile"
        options = { seconds = 0.001 }
        [[robustness]]
        model = "net.onnx"
        inputs = "s.npz"
        radii = [0.01, 0.1]
        clip = [0.0, 1.0]
        [[radius]]
        model = "net.onnx"
        inputs = "s.npz"
        clip = [0.0, 1.0]
        indices = [1, 2]
        timeout = 9
    """)
    summary = run(load_suite(tmp_path / "suite.toml"), out=tmp_path / "out")
    assert (summary.rows, summary.errors) == (8, 0)
    rows = {row.instance: row for row in read_rows(tmp_path / "out")}
    verify = rows["net/s[0] linf 0.01"]
    assert (verify.question, verify.radius, verify.index, verify.label) == ("verify", 0.01, 0, 0)
    assert verify.predicted in (0, 1, 2)
    radius = rows["net/s[1] linf radius"]
    assert (radius.question, radius.radius, radius.verdict, radius.timeout) == ("radius", None, "HOLDS", 9.0)
    assert radius.certified == 0.5
    assert radius.complete is True
    assert radius.guarantee is not None
    lie = rows["net/s[2] linf radius"]  # the model reads it as class 0, whatever a method claims: an attack shows it
    assert (lie.verdict, lie.certified, lie.falsified) == ("VIOLATED", None, 0.0)


def test_mistakes_are_told_before_anything_runs(plugin: str, folder: Path, tmp_path: Path) -> None:
    suite, out = load_suite(folder), tmp_path / "out"
    with pytest.raises(UnknownVerifier, match="hostil3"):
        run(suite, out=out, verifiers=[("hostil3", {})])
    with pytest.raises(OptionError, match="no option 'modus'"):
        run(suite, out=out, verifiers=[("hostile", {"modus": 1})])
    with pytest.raises(SuiteError, match="names no verifiers"):
        run(suite, out=out)
    with pytest.raises(OptionError, match="jobs"):
        run(suite, out=out, verifiers=[("hostile", {})], jobs=0)
    assert not out.exists()


def test_the_overhead_of_an_instance_is_small(plugin: str, tmp_path: Path) -> None:
    suite = load_suite(write_folder(tmp_path / "bench", count=20))
    times: list[float] = []
    run(
        suite,
        out=tmp_path / "out",
        verifiers=[("hostile", {"seconds": 0.0})],
        jobs=1,
        progress=lambda *_: times.append(time.perf_counter()),
    )
    rows = read_rows(tmp_path / "out")
    inside = sum(row.verifier_seconds or 0.0 for row in rows[1:])
    overhead = (times[-1] - times[0] - inside) / (len(rows) - 1)
    assert overhead < 0.1, f"{overhead * 1000:.1f} ms"  # 10 to 20 ms alone; the machine may be busy with other tests

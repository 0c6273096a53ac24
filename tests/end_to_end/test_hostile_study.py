"""One study with all that verifiers may do wrong: it ends by itself, with a row for each, the others unharmed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.hostile import wait_until_gone, write_folder
from verifkit.bench.report.page import write_report
from verifkit.bench.rows.schema import Row
from verifkit.bench.rows.store import ROWS, read_rows
from verifkit.bench.running.runner import run
from verifkit.bench.suites.suite import load_suite
from verifkit.budget import Budget

MEMORY = 500 * 2**20
HONEST = ["interval", "crown", "milp", "pgd"]
HOSTILE: list[tuple[str, str, str | None, str]] = [
    # verifier, mode, reason, words of the detail
    ("hostile", "abort", "error", "killed by SIGABRT"),
    ("hostile", "segfault", "error", "killed by SIGSEGV"),
    ("hostile", "quit", "error", "exit code 0"),
    ("hostile", "leave", "error", "SystemExit: 3"),
    ("hostile", "error", "error", "out of sorts"),
    ("hostile", "hang", "timeout", "did not keep its time"),
    ("hostile", "native", "timeout", "did not keep its time"),
    ("hostile", "allocate", "memout", "of resident memory"),
    ("hostile", "garbage", "incomplete", ""),
    ("hostile", "family", "timeout", ""),
    ("hostile", "litter", "incomplete", ""),
    ("hostile", "false", "unconfirmed", "did not replay"),
    ("malicious", "nothing", "error", "no Outcome"),
    ("malicious", "text", "error", "no Outcome"),
    ("malicious", "unproved", "error", "without being able to prove it"),
    ("malicious", "oath", "error", "without being able to prove it"),
    ("malicious", "shape", "unconfirmed", "did not replay"),
    ("malicious", "nan", "unconfirmed", "did not replay"),
    ("malicious", "words", "error", "ValueError"),
    ("malicious", "endless", "incomplete", ""),
    ("malicious", "hoard", "memout", "of resident memory"),
    ("malicious", "circle", "error", "RecursionError"),
    ("malicious", "strange", "incomplete", "\\ud800"),
    ("malicious", "unprintable", "error", "cannot be printed"),
    ("malicious", "interrupt", "error", "KeyboardInterrupt"),
    ("malicious", "closing", "error", "GeneratorExit"),
    ("malicious", "surrogate", "error", "ValueError: \\ud800 and more"),
    ("malicious", "deaf", "timeout", "did not keep its time"),
    ("malicious", "stopped", "timeout", "did not keep its time"),
    ("malicious", "gulp", "memout", "of resident memory"),
    ("malicious", "brood", "memout", "of resident memory"),
    ("malicious", "crowd", "incomplete", ""),
    ("malicious", "parricide", "error", "the process that starts the workers was killed twice"),
    ("malicious", "halts_parent", "incomplete", ""),
    ("malicious", "folder", "error", "without an answer"),
    ("malicious", "small_files", "error", "without an answer"),
    ("malicious", "closes", "incomplete", ""),
    ("malicious", "closes_and_fails", "error", "and nobody hears it"),
    ("malicious", "flood", "incomplete", ""),
    ("malicious", "removes", "error", "ended without an answer"),
    ("malicious", "leaves", "incomplete", ""),
    ("malicious", "scribble", "incomplete", ""),
    ("malicious", "forge", "error", "no answer"),
    ("malicious", "forge_types", "error", "no answer"),
    ("malicious", "forge_infinity", "error", "without an answer"),
    ("malicious", "forge_nothing", "error", "without an answer"),
    ("malicious", "pipe", "error", "without an answer"),
    ("malicious", "link", "error", "killed by SIGSEGV"),
]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="some of it needs Linux")


def told(row: Row) -> dict[str, Any]:
    """What must not depend on who else runs."""
    return {k: getattr(row, k) for k in ("verdict", "reason", "guarantee", "margin", "witness", "statistics")}


def ask(modes: list[tuple[str, str]], folder: Path, out: Path, seconds: float = 3) -> dict[tuple[str, str], Row]:
    """The rows of a study of these and the honest ones, by verifier and mode; one instance."""
    target = str(out / ROWS)
    odd = [(name, {"mode": mode, **({"target": target} if mode == "scribble" else {})}) for name, mode in modes]
    slow = [(name, {**o, "seconds": 600.0} if o["mode"] in ("hang", "native") else o) for name, o in odd]
    verifiers: list[tuple[str, Any]] = [*slow, *((name, {}) for name in HONEST)]
    limits = Budget(seconds=seconds, memory_bytes=MEMORY)
    summary = run(load_suite(folder), out=out, verifiers=verifiers, limits=limits, jobs=2)
    rows = read_rows(out)
    assert summary.rows == len(rows) == len(verifiers)
    assert len({row.key for row in rows}) == len(rows)
    found = {(row.verifier, row.options.get("mode", "")): row for row in rows}
    for name, mode in modes:
        _, _, reason, words = next(h for h in HOSTILE if h[:2] == (name, mode))
        row = found[name, mode]
        assert (row.verdict, row.reason) == ("UNKNOWN", reason), (mode, row.detail)
        assert words in row.detail, mode
        assert row.wall_seconds < seconds + 2.5, mode
    assert write_report(out).stat().st_size < 2 * 2**20
    return found


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the honest ones say by themselves."""
    base = tmp_path_factory.mktemp("honest")
    run(load_suite(write_folder(base / "bench", count=1)), out=base / "out", verifiers=[(n, {}) for n in HONEST])
    return {row.verifier: told(row) for row in read_rows(base / "out")}


@pytest.mark.slow
def test_one_study_of_them_all(plugin: str, tmp_path: Path, honest: dict[str, dict[str, Any]]) -> None:
    found = ask([h[:2] for h in HOSTILE], write_folder(tmp_path / "bench", count=1), tmp_path / "out", seconds=10)
    assert {name: told(found[name, ""]) for name in HONEST} == honest
    assert not wait_until_gone(plugin, 2.0)


SOON = [mode for _, mode, reason, _ in HOSTILE if reason not in ("timeout", "memout") and mode != "flood"]


def test_one_study_of_those_that_end_soon(plugin: str, tmp_path: Path, honest: dict[str, dict[str, Any]]) -> None:
    modes = [h[:2] for h in HOSTILE if h[1] in SOON]
    found = ask(modes, write_folder(tmp_path / "bench", count=1), tmp_path / "out")
    assert {name: told(found[name, ""]) for name in HONEST} == honest
    assert len(found["malicious", "endless"].statistics) == 1000
    assert max(map(len, (tmp_path / "out" / ROWS).read_text().splitlines())) < 200_000
    assert not wait_until_gone(plugin, 2.0)


def test_memory_that_goes_fast_or_to_many_children(plugin: str, tmp_path: Path) -> None:
    found = ask(
        [("malicious", "gulp"), ("malicious", "brood")], write_folder(tmp_path / "bench", count=1), tmp_path / "o"
    )
    for mode in ("gulp", "brood"):
        assert (found["malicious", mode].peak_memory_bytes or 0) > MEMORY
    assert not wait_until_gone(plugin, 2.0)


def test_those_that_do_not_hear(plugin: str, tmp_path: Path) -> None:
    ask([("malicious", "deaf"), ("malicious", "stopped")], write_folder(tmp_path / "bench", count=1), tmp_path / "out")
    assert not wait_until_gone(plugin, 2.0)

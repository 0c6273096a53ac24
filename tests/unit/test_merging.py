"""Result folders made into one: nothing lost, nothing doubled, contradictions kept, the given folders untouched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.unit.rows_builder import radius_row, row, write
from verifkit.bench.audit.contradictions import find, soundness_violations
from verifkit.bench.rows.frame import load_rows
from verifkit.bench.rows.merging import Merged, merge_folders
from verifkit.bench.rows.store import ROWS, RowStore, read_rows
from verifkit.cli import cli
from verifkit.errors import SuiteError


def folder(path: Path, rows: list[dict[str, Any]], machine: str = "abc123") -> Path:
    write(path, [r | {"environment": machine} for r in rows])
    (path / "environment.json").write_text(json.dumps({machine: {"cpu": machine}}))
    return path


def contents(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_rows_and_environments_come_together(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [row(key="1"), row(key="2", wall_seconds=1.0)], "one")
    b = folder(tmp_path / "b", [row(key="2", wall_seconds=9.0), row("milp", key="3")], "two")
    before = contents(a), contents(b)
    out = tmp_path / "c"
    assert merge_folders([a, b], out) == Merged(rows=3, same=1, other=0, contradictions=0, missing=0)
    rows = read_rows(out)
    assert [(r.key, r.environment, r.wall_seconds) for r in rows] == [
        ("1", "one", 2.0),
        ("2", "one", 1.0),
        ("3", "two", 2.0),
    ]
    assert json.loads((out / "environment.json").read_text()) == {"one": {"cpu": "one"}, "two": {"cpu": "two"}}
    assert pq.read_table(out / "rows.parquet")["key"].to_pylist() == ["1", "2", "3"]
    assert (contents(a), contents(b)) == before
    with RowStore(out) as store:  # a folder like any other
        assert store.keys == {"1", "2", "3"}


def test_contradictions_are_kept_for_the_audit(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [row("milp", "HOLDS", key="1"), radius_row("milp", 0.2, 0.3, key="2")])
    b = folder(tmp_path / "b", [row("milp", "VIOLATED", key="1"), radius_row("milp", 0.05, 0.1, key="2")])
    done = merge_folders([a, b], tmp_path / "c", first=True)
    assert (done.rows, done.contradictions, done.other) == (4, 2, 0)
    assert soundness_violations(find(load_rows(tmp_path / "c")))
    again = merge_folders([tmp_path / "c", a, b], tmp_path / "d")
    assert (again.rows, again.same) == (4, 4)


def test_other_differences_are_refused_unless_the_first_is_wanted(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [row(key="1"), radius_row("milp", 0.1, 0.2, key="2")])
    b = folder(
        tmp_path / "b", [row(key="1", verdict="UNKNOWN", reason="timeout"), radius_row("milp", 0.15, 0.2, key="2")]
    )
    with pytest.raises(
        SuiteError, match=r"different answers of crown to prop_1, HOLDS and UNKNOWN \(timeout\): --first"
    ):
        merge_folders([a, b], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    assert merge_folders([a, b], tmp_path / "c", first=True) == Merged(2, 0, 2, 0, 0)
    assert [(r.verdict, r.certified) for r in read_rows(tmp_path / "c")] == [("HOLDS", None), ("HOLDS", 0.1)]
    assert merge_folders([b, a], tmp_path / "d", first=True).rows == 2
    assert [r.verdict for r in read_rows(tmp_path / "d")] == ["UNKNOWN", "HOLDS"]


def test_evidence_is_copied_under_a_name_of_its_own(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [row(key="1", evidence="evidence/1.npz"), row(key="2", evidence="evidence/2.npz")])
    b = folder(tmp_path / "b", [row("crown", "VIOLATED", key="1", evidence="evidence/1.npz")])
    for place, text in ((a, b"proof"), (b, b"witness")):
        (place / "evidence").mkdir()
        (place / "evidence" / "1.npz").write_bytes(text)
    done = merge_folders([a, b], tmp_path / "c")
    assert (done.contradictions, done.missing) == (1, 1)
    names = [r.evidence for r in read_rows(tmp_path / "c")]
    assert names == ["evidence/1.npz", None, "evidence/1-2.npz"]
    assert [(tmp_path / "c" / name).read_bytes() for name in names if name] == [b"proof", b"witness"]


def test_locks_are_respected(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [row(key="1")]), folder(tmp_path / "b", [row(key="2")])
    with RowStore(a), pytest.raises(SuiteError, match="a run is writing to"):
        merge_folders([a, b], tmp_path / "c")
    with RowStore(tmp_path / "c"), pytest.raises(SuiteError, match="another run is writing to"):
        merge_folders([a, b], tmp_path / "c")
    merge_folders([a, b], tmp_path / "c")
    RowStore(a).close()  # given back


def test_mistakes(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [row(key="1")]), folder(tmp_path / "b", [row(key="2")])
    for given, out in (([a, a], tmp_path / "c"), ([a, b], a), ([a, b], tmp_path / "x" / ".." / "b")):
        with pytest.raises(SuiteError, match="must all be different"):
            merge_folders(given, out)
    with pytest.raises(SuiteError, match="cannot be read"):
        merge_folders([a, tmp_path / "none"], tmp_path / "c")
    merge_folders([a, b], tmp_path / "c")
    with pytest.raises(SuiteError, match="has rows already"):
        merge_folders([a, b], tmp_path / "c")
    (b / ROWS).write_text("nonsense\n")
    with pytest.raises(SuiteError, match="line 1 is no row"):
        merge_folders([a, b], tmp_path / "d")


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [row(key="1")]), folder(tmp_path / "b", [row("crown", "VIOLATED", key="1")])
    done = CliRunner().invoke(cli, ["merge", str(a), str(b), "--out", str(tmp_path / "c")])
    assert done.exit_code == 0
    assert "2 rows in" in done.stdout
    assert "1 answers contradict another one" in done.stdout

"""Rows on disk: whole lines, one writer, torn lines dropped, foreign lines refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from verifkit.bench.rows.schema import SCHEMA, Row
from verifkit.bench.rows.store import ROWS, RowStore, read_rows, row_key
from verifkit.budget import Budget
from verifkit.errors import SuiteError

KEY: dict[str, Any] = {
    "model_hash": "m",
    "property_hash": "p",
    "verifier": "v",
    "options": {"a": 1, "b": (1, 2)},
    "limits": Budget(seconds=5.0),
    "seed": 0,
    "repeat": 0,
}


def make(key: str) -> Row:
    numbers = {
        "wall_seconds": 0.1,
        "seed": 0,
        "repeat": 0,
        "schema": SCHEMA,
        "options": {},
        "statistics": {},
        "detail": "é",
    }
    optional = {f.name: None for f in fields(Row)}
    return Row(**{**optional, **numbers, "verdict": "UNKNOWN", "verifier": "v", "key": key})


def test_rows_come_back(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with RowStore(out) as store:
        assert store.keys == set()
        store.append(make("a"))
        store.append(make("b"))
    with RowStore(out) as store:
        assert store.keys == {"a", "b"}
        store.append(make("c"))
    assert read_rows(out) == [make("a"), make("b"), make("c")]
    assert len((out / ROWS).read_bytes().splitlines()) == 3


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_torn_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    with RowStore(tmp_path) as store:
        store.append(make("a"))
        store.append(make("b"))
    path = tmp_path / ROWS
    path.write_bytes(path.read_bytes()[:-cut])
    assert [row.key for row in read_rows(tmp_path)] == ["a"]
    with RowStore(tmp_path) as store:
        assert store.keys == {"a"}
        store.append(make("c"))
    assert [row.key for row in read_rows(tmp_path)] == ["a", "c"]


@pytest.mark.parametrize(
    "line", [b"{", b"", b"[]", b"nonsense", b'{"schema": 2}', b'{"schema": 99}', b"\xff\xfe", b"null"]
)
def test_a_foreign_line_is_refused_by_number(tmp_path: Path, line: bytes) -> None:
    with RowStore(tmp_path) as store:
        store.append(make("a"))
    path = tmp_path / ROWS
    whole = path.read_bytes()
    path.write_bytes(whole + line + b"\n" + whole)
    with pytest.raises(SuiteError, match="line 2 is no row"):
        RowStore(tmp_path)
    with pytest.raises(SuiteError, match="line 2 is no row"):
        read_rows(tmp_path)
    assert path.read_bytes() == whole + line + b"\n" + whole
    path.write_bytes(whole)
    RowStore(tmp_path).close()  # the refusal gave the lock back


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with RowStore(tmp_path), pytest.raises(SuiteError, match="another run is writing"):
        RowStore(tmp_path)
    RowStore(tmp_path).close()


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = "import sys, time; from verifkit.bench.rows.store import RowStore; s = RowStore(sys.argv[1]); "
    code += "sys.stdout.write('locked'); sys.stdout.flush(); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"locked"
        with pytest.raises(SuiteError, match="another run is writing"):
            RowStore(tmp_path)
        process.kill()
    RowStore(tmp_path).close()


def test_unusable_folders_are_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(SuiteError, match="is a file, not a folder"):
        RowStore(file)
    with pytest.raises(SuiteError, match="cannot be written: Not a directory"):
        RowStore(file / "below")
    (tmp_path / ROWS).mkdir()
    with pytest.raises(SuiteError, match="cannot be written: Is a directory"):
        RowStore(tmp_path)
    with pytest.raises(SuiteError, match="cannot be read: No such file"):
        read_rows(tmp_path / "nowhere")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RowStore(tmp_path) as store:
        store.append(make("a"))
        whole = (tmp_path / ROWS).read_bytes()
        real, written = os.write, []

        def write(descriptor: int, data: bytes) -> int:
            if written:
                raise OSError(28, "No space left on device")
            written.append(real(descriptor, data[:10]))
            return written[0]

        monkeypatch.setattr(os, "write", write)
        with pytest.raises(SuiteError, match="No space left on device"):
            store.append(make("b"))
        monkeypatch.undo()
        assert (tmp_path / ROWS).read_bytes() == whole
        store.append(make("c"))
    assert [row.key for row in read_rows(tmp_path)] == ["a", "c"]


def test_keys_tell_apart_what_decides_a_row() -> None:
    base = row_key(**KEY)
    assert len(base) == 64
    assert base == row_key(**{**KEY, "options": {"b": [1, 2], "a": 1}})
    changes: list[dict[str, Any]] = [
        {"model_hash": "x"},
        {"property_hash": "x"},
        {"verifier": "x"},
        {"options": {"a": 2, "b": (1, 2)}},
        {"limits": Budget()},
        {"limits": Budget(seconds=5.0, memory_bytes=5)},
        {"limits": Budget(seconds=5.0, nodes=5)},
        {"limits": Budget(seconds=5.0, samples=5)},
        {"seed": 1},
        {"repeat": 1},
    ]
    assert len({base, *(row_key(**{**KEY, **change}) for change in changes)}) == len(changes) + 1
    assert row_key(**{**KEY, "seed": 1, "repeat": 0}) != row_key(**{**KEY, "seed": 0, "repeat": 1})


def test_rows_are_strict_json(tmp_path: Path) -> None:
    with RowStore(tmp_path) as store:
        store.append(make("a"))
    values = json.loads((tmp_path / ROWS).read_text())
    assert list(values) == [f.name for f in fields(Row)]
    assert Row.from_json({**values, "added_later": 1}) == make("a")


def test_what_others_write_during_a_run_is_cut_off_again(tmp_path: Path) -> None:
    with RowStore(tmp_path) as store:
        store.append(make("a"))
        with open(tmp_path / ROWS, "ab") as file:
            file.write(b'{"schema": 2}\nnot a row\n{"torn')
        store.append(make("b"))
        with open(tmp_path / ROWS, "ab") as file:
            file.write(b"nor this\n")
    assert [row.key for row in read_rows(tmp_path)] == ["a", "b"]

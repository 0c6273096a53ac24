"""The same rows as Parquet and CSV: every column, its type, its nulls; whole files; batches."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.unit.rows_builder import radius_row, row, witness, write
from verifkit.bench.rows import tables
from verifkit.bench.rows.schema import SCHEMA, Row
from verifkit.bench.rows.tables import COLUMNS, CSV, PARQUET, write_tables
from verifkit.errors import SuiteError

ROWS: list[dict[str, Any]] = [
    row("milp", "VIOLATED", options={"tolerance": 1e-9}, detail='a "quoted", \r\n two-line é \ud800'),
    row("pgd", "UNKNOWN", expected="sat", complete=False, output=""),
    radius_row("milp", 0.1, 0.2, undecided=[[0.15, "timeout"], [None, "incomplete"]], grid=[0.1, 0.2], complete=True),
]


def test_parquet_has_the_rows_with_their_types(tmp_path: Path) -> None:
    write_tables(write(tmp_path, ROWS))
    table = pq.read_table(tmp_path / PARQUET)
    assert tuple(table.column_names) == COLUMNS
    assert table.schema.metadata[b"verifkit.schema"] == str(SCHEMA).encode()
    kinds = {name: str(table.schema.field(name).type) for name in COLUMNS}
    assert (kinds["wall_seconds"], kinds["seed"], kinds["complete"]) == ("double", "int64", "bool")
    assert (kinds["grid"], kinds["started"]) == ("list<element: double>", "timestamp[ms, tz=UTC]")
    first, second, third = table.to_pylist()
    assert json.loads(first["witness"]) == witness()
    assert json.loads(first["options"]) == {"tolerance": 1e-9}
    assert first["detail"] == 'a "quoted", \r\n two-line é \\ud800'
    assert first["started"] == datetime(2025, 1, 1, tzinfo=UTC)
    assert (second["witness"], second["output"], second["expected"], second["complete"]) == (None, "", "sat", False)
    assert third["undecided"] == [{"radius": 0.15, "reason": "timeout"}, {"radius": None, "reason": "incomplete"}]
    assert third["grid"] == [0.1, 0.2]
    plain = [name for name in COLUMNS if kinds[name] in ("string", "int64", "double", "bool")]
    records = ("options", "guarantee", "witness", "counts", "statistics", "detail")
    for made, given in zip((first, second, third), ROWS, strict=True):
        assert {n: made[n] for n in plain if n not in records} == {n: given[n] for n in plain if n not in records}


def test_csv_has_the_rows_as_text(tmp_path: Path) -> None:
    write_tables(write(tmp_path, ROWS))
    with open(tmp_path / CSV, newline="", encoding="utf-8") as file:
        first, second, third = csv.DictReader(file)
    assert tuple(first) == COLUMNS
    assert json.loads(first["witness"]) == witness()
    assert first["detail"] == 'a "quoted", \r\n two-line é \\ud800'
    assert (first["wall_seconds"], first["complete"], second["complete"]) == ("2.0", "", "false")
    assert json.loads(third["undecided"]) == [[0.15, "timeout"], [None, "incomplete"]]
    assert list(pd.read_csv(tmp_path / CSV)["verifier"]) == ["milp", "pgd", "milp"]


def test_many_batches_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BATCH", 3)
    write_tables(write(tmp_path, [row(instance=f"p{i}") for i in range(10)], tail='{"torn'))
    assert pq.read_table(tmp_path / PARQUET)["instance"].to_pylist() == [f"p{i}" for i in range(10)]
    assert len((tmp_path / CSV).read_text().splitlines()) == 11


def test_a_failure_leaves_the_old_files(tmp_path: Path) -> None:
    write_tables(write(tmp_path, ROWS))
    old = (tmp_path / PARQUET).read_bytes()
    write(tmp_path, [*ROWS, row(seed="zero")])
    with pytest.raises(SuiteError, match="does not fit its column 'seed'"):
        write_tables(tmp_path)
    assert (tmp_path / PARQUET).read_bytes() == old
    assert not list(tmp_path.glob(".rows*"))


def test_the_page_says_every_column_and_its_type(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "rows.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    told = {cells[0].strip("`"): cells for cells in lines if len(cells) == 5 and cells[0].startswith("`")}
    assert tuple(told) == COLUMNS
    write_tables(write(tmp_path, ROWS))
    schema = pq.read_schema(tmp_path / PARQUET)
    types = {cells[0]: cells[2].strip("`") for cells in lines if len(cells) == 3 and cells[0] not in ("here", "file")}
    names = {"timestamp[ms, tz=UTC]": "timestamp[ms, UTC]", "list<element: double>": "list<double>"}
    records = ("options", "guarantee", "witness", "counts", "statistics")
    for name, (_, kind, _, null, meaning) in told.items():
        made = str(schema.field(name).type).replace("list<element: struct", "list<struct")
        assert types[kind] == names.get(made, made), name
        assert (kind == "JSON") == (name in records), name
        optional = "None" in str(Row.__dataclass_fields__[name].type)
        assert (null == "never") == (not optional), name
        assert meaning
    assert f"version of this page: {SCHEMA} " in text


def test_no_worker_and_no_fork_server_loads_the_tables_packages() -> None:
    code = (
        "import sys; from verifkit.bench.running.forkserver import preload; "
        "preload(['crown', 'milp', 'smt', 'bab', 'smoothing', 'pgd']); import verifkit.bench.running.runner; "
        "sys.exit(str({'pandas', 'pyarrow'} & set(sys.modules)) if {'pandas', 'pyarrow'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr

"""The competition's layout: results.csv and counterexamples that its scripts find and can read."""

from __future__ import annotations

import csv
import gzip
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.unit.rows_builder import radius_row, row, witness, write
from verifkit.bench.rows.vnncomp import export_vnncomp
from verifkit.cli import cli
from verifkit.errors import SuiteError


def instance(net: str, prop: str, verdict: str = "HOLDS", **changes: Any) -> dict[str, Any]:
    return row(
        "milp", verdict, model=f"onnx/{net}.onnx", property=f"vnnlib/{prop}.vnnlib", **{"suite": "acasxu", **changes}
    )


def table(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_every_row_is_a_line(tmp_path: Path) -> None:
    rows = [
        instance("n1", "p1"), instance("n1", "p2", "VIOLATED"), instance("n.2", "p1", "UNKNOWN", reason="timeout"),
        instance("n.2", "p2", "UNKNOWN", reason="memout"), radius_row("milp", 0.1), row("crown"),
    ]  # fmt: skip
    done = export_vnncomp(write(tmp_path, rows), "milp", {})
    assert (done.rows, done.left_out) == (4, 1)
    assert done.table == tmp_path / "vnncomp" / "milp" / "results.csv"
    assert table(done.table) == [
        ["acasxu", "onnx/n1.onnx", "vnnlib/p1.vnnlib", "0.0", "unsat", "2.0"],
        ["acasxu", "onnx/n1.onnx", "vnnlib/p2.vnnlib", "0.0", "sat", "2.0"],
        ["acasxu", "onnx/n.2.onnx", "vnnlib/p1.vnnlib", "0.0", "timeout", "2.0"],
        ["acasxu", "onnx/n.2.onnx", "vnnlib/p2.vnnlib", "0.0", "unknown", "2.0"],
    ]
    (found,) = done.table.parent.rglob("*.gz")
    assert found == done.table.parent / "acasxu" / "n1_p2.counterexample.gz"
    text = gzip.decompress(found.read_bytes()).decode().strip()
    assert text[0] == "("
    assert text[-1] == ")"
    pairs = re.findall(r"\(([XY]_\d+) (\S+)\)", text[1:-1])
    assert [(name, float(value)) for name, value in pairs] == [
        *((f"X_{i}", v) for i, v in enumerate(witness()["x"])),
        *((f"Y_{i}", v) for i, v in enumerate(witness()["y"])),
    ]


def test_names_that_meet_get_their_folder_and_the_year_its_place(tmp_path: Path) -> None:
    rows = [
        row("milp", "VIOLATED", suite="safenlp", model=f"onnx/{part}/n.onnx", property=f"vnnlib/{part}/p.vnnlib")
        for part in ("medical", "ruarobot")
    ]
    done = export_vnncomp(write(tmp_path, rows), "milp", {}, "2026")
    names = sorted(path.relative_to(done.table.parent).as_posix() for path in done.table.parent.rglob("*.gz"))
    assert names == [f"2026_safenlp/{part}_n_p.counterexample.gz" for part in ("medical", "ruarobot")]
    assert {cells[0] for cells in table(done.table)} == {"safenlp"}


def test_namesakes_are_told_apart(tmp_path: Path) -> None:
    rows = [instance("n", "p", options={"gap": gap, "order": ["a", "b"]}, wall_seconds=gap) for gap in (0.5, 0.25)]
    write(tmp_path, rows)
    with pytest.raises(SuiteError, match=r"2 rows of 'milp' about onnx/n\.onnx and vnnlib/p\.vnnlib differ in gap, "):
        export_vnncomp(tmp_path, "milp", {})
    done = CliRunner().invoke(
        cli, ["export", str(tmp_path), "--vnncomp", "milp", "--option", "gap=0.25", "--option", "order=a+b"]
    )
    assert done.exit_code == 0, done.stderr
    assert table(Path(done.stdout.strip()))[0][5] == "0.25"
    with pytest.raises(SuiteError, match="no rows of 'milp' with these options"):
        export_vnncomp(tmp_path, "milp", {"gap": "7"})
    with pytest.raises(SuiteError, match="no rows of 'crown', only of milp"):
        export_vnncomp(tmp_path, "crown", {})
    write(tmp_path, [instance("n", "p", timeout=limit) for limit in (1.0, 2.0)])
    with pytest.raises(SuiteError, match="differ in timeout"):
        export_vnncomp(tmp_path, "milp", {})


def test_the_export_command_makes_the_tables_again(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["export", str(write(tmp_path, [row()]))])
    assert done.exit_code == 0
    assert [Path(line).name for line in done.stdout.split()] == ["rows.parquet", "rows.csv"]
    assert all(Path(line).is_file() for line in done.stdout.split())
    assert CliRunner().invoke(cli, ["export", str(tmp_path), "--year", "2026"]).exit_code == 2

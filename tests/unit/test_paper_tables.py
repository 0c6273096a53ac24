"""Tables for papers: what stands in them, and that nothing written by others breaks them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.unit.rows_builder import radius_row, row, write
from verifkit.bench.report.paper import render
from verifkit.bench.rows.frame import frame
from verifkit.cli import cli

ROWS = [
    *(radius_row("crown", certified=0.1 + i / 100, index=i) for i in range(3)),
    *(radius_row("milp", certified=0.2, falsified=0.2001, index=i) for i in range(3)),
    *(radius_row("pgd", falsified=0.25, index=i) for i in range(2)),
    radius_row("pgd", index=2),
    *(radius_row("smoothing", certified=0.5, index=i, grid=[0.0, 0.25]) for i in range(2)),
    radius_row("smoothing", index=2, reason="incomplete"),
    row("milp", "UNKNOWN", reason="timeout"),
]


def test_latex_by_hand() -> None:
    text = render(frame(ROWS), "latex")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 4
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 4
    accuracy = text[text.index("Certified accuracy of") :]
    assert "the share of all 3 inputs that are classified correctly" in accuracy
    assert r"verifier & kind & 0 & 0.25 \\" in accuracy
    assert r"milp & complete & \textbf{1.00} & 0.00 \\" in accuracy
    assert r"pgd & falsifier & $\leq$ 1.00 & $\leq$ 0.34 \\" in accuracy  # an upper end is rounded up
    assert r"smoothing & probabilistic & 0.66 & 0.66 \\" in accuracy  # a certificate down
    assert text.index(r"\emph{About the network}") < text.index(r"\emph{About the smoothed classifier}")
    for table in re.findall(r"\\begin\{tabular\}\{(l+r+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in table[1].splitlines() if line.endswith(r"\\") and r"\multicolumn" not in line]
        assert {line.count(" & ") + 1 for line in lines} == {len(table[0])}


def test_markdown_by_hand() -> None:
    text = render(frame(ROWS), "markdown")
    assert "| milp | complete | **1.00** | 0.00 |" in text
    assert text.count("**About the smoothed classifier**") == 3
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


@pytest.mark.parametrize("form", ["latex", "markdown"])
def test_what_others_wrote_is_escaped(form: str) -> None:
    evil = "a|b\\c&d%e$f#g_h{i}j~k^l<m>n\n\\input{x}`*["
    df = frame([radius_row(evil, certified=0.1, model=evil), row("pgd", "VIOLATED", instance=evil), row("crown")])
    text = render(df, form)
    if form == "latex":
        assert r"\input" not in text
        assert not re.search(r"(?<!\\)[%#]", text.split("\n\n", 1)[1])
        assert all(line.startswith("%") for line in text.split("\n\n", 1)[0].splitlines())
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    else:
        assert "<m" not in text
        assert "a\\|b" in text


def test_violations_come_first() -> None:
    rows = [row("crown"), row("pgd", "VIOLATED")]
    assert render(frame(rows), "latex").startswith("% 1 SOUNDNESS VIOLATION among 2 rows\n% soundness violation: ")
    assert render(frame(rows), "markdown").startswith("**1 SOUNDNESS VIOLATION among 2 rows**\n\nsoundness violation")


def test_poor_runs_have_what_tables_there_are() -> None:
    rows: list[dict[str, Any]] = [row("x", "UNKNOWN", reason="unsupported", kind=None, norm=None, guarantee=None)]
    assert render(frame(rows), "latex").count(r"\begin{table}") == 1


def test_the_command_prints_tables_and_writes_nothing(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    before = sorted(tmp_path.iterdir())
    for form in ("latex", "markdown"):
        done = CliRunner().invoke(cli, ["report", str(tmp_path), "--format", form])
        assert done.exit_code == 0
        assert done.stdout == render(frame(ROWS), form) + "\n"
    assert sorted(tmp_path.iterdir()) == before
    write(tmp_path, [row("crown"), row("pgd", "VIOLATED")])
    assert CliRunner().invoke(cli, ["report", str(tmp_path), "--format", "latex"]).exit_code == 3
    assert CliRunner().invoke(cli, ["report", str(tmp_path), "--format", "word"]).exit_code == 2

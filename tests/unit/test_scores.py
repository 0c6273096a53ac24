"""Tables from rows, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.unit.rows_builder import radius_row, row, write
from verifkit.bench.report import paper
from verifkit.bench.report.scores import certified_accuracy, radius_table, verdict_table
from verifkit.bench.report.terminal import bracket_text, number, render, seconds, terminal_radii, terminal_table
from verifkit.bench.rows.frame import answers, frame, load_rows, records
from verifkit.bench.rows.schema import Row
from verifkit.errors import SuiteError


def only(table: pd.DataFrame, **where: Any) -> dict[str, Any]:
    """The single line of `table` with these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return {str(k): v for k, v in table.iloc[0].to_dict().items()}


def test_torn_last_line_is_left_out(tmp_path: Path) -> None:
    out = write(tmp_path, [row(), row("pgd", "UNKNOWN")], tail='{"schema": 2, "verd')
    assert len(load_rows(out)) == 2


@pytest.mark.parametrize("content", [None, "", "\n", '{"verdict": "HO', "[1]\n", '{"a": 1}\n', "oops\n{}\n"])
def test_unusable_folders_are_one_clear_sentence(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(SuiteError, match=r"rows\.jsonl"):
        load_rows(tmp_path)


def test_damage_in_the_middle_names_the_line(tmp_path: Path) -> None:
    write(tmp_path, [row()], tail="{torn\n" + '{"verdict": "HOLDS", "verifier": "x"}\n')
    with pytest.raises(SuiteError, match="line 2"):
        load_rows(tmp_path)


def test_missing_folder() -> None:
    with pytest.raises(SuiteError, match="verifkit bench"):
        load_rows(Path("no-such-folder"))


def test_sparse_rows_get_every_column() -> None:
    df = frame([{"verifier": "v", "verdict": "UNKNOWN"}, {"verifier": "v", "verdict": "HOLDS", "certified": "inf"}])
    assert df["reason"].tolist() == ["", ""]
    assert math.isinf(df["certified"][1])
    assert df["line"].tolist() == [1, 2]


def test_synthetic_rows_are_rows_of_the_runner() -> None:
    assert set(row()) == set(radius_row()) == {f.name for f in dataclasses.fields(Row)}


def test_verdicts_under_their_own_names() -> None:
    reasons = ["incomplete", "timeout", "timeout", "memout", "unsupported", "unconfirmed", "error", "novel"]
    rows = [row("milp", "HOLDS"), row("milp", "VIOLATED", verifier_seconds=3.0)]
    rows += [row("milp", "UNKNOWN", reason=r, verifier_seconds=None, wall_seconds=60.0) for r in reasons]
    rows = [one | {"property_hash": f"p{k}"} for k, one in enumerate(rows)]
    line = only(verdict_table(frame(rows)))
    assert (line["rows"], line["HOLDS"], line["VIOLATED"], line["timeout"], line["other"]) == (10, 1, 1, 2, 1)
    assert all(line[r] == 1 for r in ("incomplete", "memout", "unsupported", "unconfirmed", "error"))
    assert line["decided_percent"] == 20.0
    assert line["total_seconds"] == 1 + 3 + 8 * 60
    assert line["median_seconds"] == 60.0


def test_subjects_and_options_make_separate_lines() -> None:
    rows = [row("smoothing", options={"sigma": s, "n": 100}) for s in (0.25, 0.5)]
    rows += [row("smoothing", "UNKNOWN", options={"sigma": 0.25, "n": 100}, kind=None, property_hash="p2")]
    rows += [row("crown")]
    table = verdict_table(frame(rows))
    assert table["subject"].tolist() == ["network", "smoothed classifier", "smoothed classifier"]
    assert table["verifier"].tolist() == ["crown", "smoothing (sigma=0.25)", "smoothing (sigma=0.5)"]
    assert table["rows"].tolist() == [1, 2, 1]


def test_models_of_one_name_are_told_apart() -> None:
    df = frame([row(model_hash="a" * 64), row(model_hash="b" * 64)])
    assert df["model_label"].tolist() == ["net.onnx (aaaaaaaa)", "net.onnx (bbbbbbbb)"]


def test_samples_of_several_files_or_boxes_make_groups_of_their_own() -> None:
    names = ["a.npz[0] linf radius in [0, 1]", "a.npz[1] linf radius", "b.npz[0] linf 0.25 in [0, 1]"]
    rows = [radius_row(property=name, certified=0.1, index=k) for k, name in enumerate(names)]
    rows += [radius_row(property="a.npz[0] l2 radius in [0, 1]", norm="2", property_hash="2"), row()]
    df = frame(rows)
    own = ["net.onnx, a.npz in [0, 1]", "net.onnx, a.npz", "net.onnx, b.npz in [0, 1]"]
    assert df["model_label"].tolist() == [*own, "net.onnx", "net.onnx"]
    assert set(df["model_name"]) == {"net.onnx"}
    assert radius_table(df)["rows"].tolist() == [1, 1, 1, 1]
    assert set(frame(rows[:1] * 2)["model_label"]) == {"net.onnx"}


def test_rows_that_differ_in_their_limits_alone_count_once() -> None:
    limits = [{"timeout": 60.0}, {"timeout": None}, {"timeout": None, "node_limit": 9}, {"timeout": 600.0}]
    rows = [radius_row("milp", certified=0.1 + k / 100, **own) for k, own in enumerate(limits)]
    rows += [radius_row("crown", certified=0.3, memory_limit=2**31 + k) for k in (0, 1, -1)]
    rows += [radius_row("crown", certified=0.2, index=1), radius_row("crown", certified=0.2, repeat=1, seed=1)]
    for order in (rows, rows[::-1]):
        df = frame(order)
        assert (len(df), len(answers(df))) == (9, 4)
        assert only(answers(df), verifier="milp")["certified"] == 0.11  # no limit at all
        assert sorted(radius_table(df)["rows"]) == [1, 3]
        assert "\ntables: 5 rows left out: the same question asked again" in render(df, console_is_terminal=False)
    assert [one["line"] for one in records(answers(frame([row(), row(suite="renamed")])))] == [2]
    assert len(answers(frame([row(property_hash=None), row(property_hash=None)]))) == 2
    assert "left out" not in render(frame([row()]), console_is_terminal=False)


def test_contradictions_see_the_rows_that_tables_leave_out() -> None:
    df = frame([row("pgd", "VIOLATED", timeout=1.0), row("pgd", "UNKNOWN", timeout=9.0), row("crown")])
    assert len(answers(df)) == 2
    assert render(df, console_is_terminal=False).startswith("1 SOUNDNESS VIOLATION among 3 rows\n")


FIVE = [
    radius_row("crown", certified=0.1, falsified=0.3, index=0),
    radius_row("crown", certified=0.2, index=1),
    radius_row("crown", falsified=0.0, index=2),
    radius_row("crown", index=3, reason="timeout"),
    radius_row("crown", index=4, reason="incomplete"),
]


def test_certified_accuracy_keeps_everything_in_the_denominator() -> None:
    table = certified_accuracy(frame(FIVE), [0.0, 0.1, 0.15, 0.3])
    assert table["accuracy"].tolist() == [0.4, 0.4, 0.2, 0.0]
    assert table["upper"].tolist() == [0.8, 0.8, 0.8, 0.6]
    line = only(table, radius=0.15)
    names = ("rows", "certified", "smaller", "misclassified", "timeout", "incomplete", "error", "falsified")
    assert [line[n] for n in names] == [5, 1, 1, 1, 1, 1, 0, 0]
    assert only(table, radius=0.3)["falsified"] == 1


def test_certified_accuracy_from_questions_at_given_radii() -> None:
    ball = {"index": 0, "label": 0, "predicted": 0}
    rows = [row("milp", "HOLDS", radius=0.1, **ball), row("milp", "VIOLATED", radius=0.2, **ball)]
    rows += [row("milp", "UNKNOWN", radius=0.1, **(ball | {"index": 1, "predicted": 3}))]
    rows += [row("pgd", "VIOLATED", radius=0.1, **(ball | {"index": 1}))]
    table = certified_accuracy(frame(rows))
    assert table[table["verifier"] == "milp"]["radius"].tolist() == [0.1, 0.2]
    line = only(table, verifier="milp", radius=0.1)
    assert (line["source"], line["accuracy"], line["misclassified"], line["upper"]) == ("verify", 0.5, 1, 0.5)
    assert only(table, verifier="milp", radius=0.2)["accuracy"] == 0.0
    attack = only(table, verifier="pgd")
    assert math.isnan(attack["accuracy"])
    assert attack["upper"] == 0.0


def test_a_smoothed_classifier_abstains_or_is_wrong() -> None:
    """Two things, each under its own name; what it answers stands in the statistics."""
    rows = [
        radius_row("smoothing", index=0, statistics={"predicted": 0}, certified=0.5),
        radius_row("smoothing", index=1, statistics={"predicted": 3}),
        radius_row("smoothing", index=2, statistics={"predicted": -1}),
        radius_row("smoothing", index=3, statistics={}, reason="timeout"),
    ]
    (line,) = records(certified_accuracy(frame(rows), radii=[0.25]))
    names = ("rows", "certified", "misclassified", "incomplete", "timeout")
    assert [line[name] for name in names] == [4, 1, 1, 1, 1]


def test_prediction_of_the_network_does_not_count_against_the_smoothed_classifier() -> None:
    df = frame([radius_row("smoothing", certified=0.5, predicted=7), radius_row("crown", certified=0.5, predicted=7)])
    table = certified_accuracy(df, [0.25])
    assert only(table, verifier="smoothing")["accuracy"] == 1.0
    assert only(table, verifier="crown")["accuracy"] == 0.0
    assert math.isnan(only(table, verifier="smoothing")["upper"])


def test_default_radii_are_round() -> None:
    radii = certified_accuracy(frame([radius_row(certified=0.078)]))["radius"].tolist()
    assert radii == [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08]


def test_every_radius_asked_about_is_shown_whatever_the_order_of_the_rows() -> None:
    rows = [row("milp", radius=k / 100, property_hash=f"p{k}") for k in range(1, 13)]
    for asked in (rows, rows[::-1]):
        assert certified_accuracy(frame(asked))["radius"].tolist() == [k / 100 for k in range(1, 13)]
    many = [row("milp", radius=k / 1000, property_hash=f"p{k}") for k in range(1, 101)]
    shown = certified_accuracy(frame(many))["radius"].tolist()
    assert (shown[0], shown[1], shown[-1], len(shown)) == (0.001, 0.004, 0.1, 34)
    assert certified_accuracy(frame(many[50:] + many[:50]))["radius"].tolist() == shown


def test_a_norm_that_a_verifier_refuses_gives_it_no_kind() -> None:
    refusal = {"kind": None, "reason": "unsupported", "norm": "2"}
    rows = [radius_row(v, norm="inf", falsified=0.2) for v in ("pgd", "crown")]
    rows += [radius_row(v, index=k, **refusal) for v in ("pgd", "crown") for k in (1, 2)]
    rows += [radius_row("crown", index=3, norm="1", kind=None, reason="error"), radius_row("new", **refusal)]
    table = radius_table(frame(rows))
    assert only(table, norm="2", verifier="pgd")["kind"] == only(table, norm="2", verifier="crown")["kind"] == "–"
    assert only(table, norm="inf", verifier="pgd")["kind"] == "falsifier"
    assert only(table, norm="1")["kind"] == "incomplete"  # a crash borrows it still
    assert math.isnan(only(table, norm="2", verifier="pgd")["median_certified"])
    assert set(certified_accuracy(frame(rows)).query("norm == '2'")["kind"]) == {"–"}
    assert verdict_table(frame(rows))["kind"].tolist() == ["incomplete", "–", "falsifier"]


def test_searches_that_a_limit_cut_short_are_counted() -> None:
    plain = [radius_row("milp", certified=0.1, undecided=[[0.2, "incomplete"]]), radius_row("milp", index=1)]
    cut = [radius_row("milp", certified=0.1, index=2, undecided=[[0.2, "incomplete"], [0.3, "timeout"]])]
    cut += [radius_row("milp", index=3, undecided=[[0.3, "memout"]])]
    cut += [radius_row("milp", index=4, undecided=None, reason="timeout")]
    assert only(radius_table(frame(plain + cut)))["cut_short"] == 3
    assert only(radius_table(frame(plain)))["cut_short"] == 0
    assert terminal_radii(frame(plain + cut))[0][6] == "cut short"
    assert "cut short" not in terminal_radii(frame(plain))[0]
    assert all(len(line) == len(terminal_radii(frame(cut))[0]) for line in terminal_radii(frame(cut))[1])
    for form, shown in (("latex", "wrong & cut short & median"), ("markdown", "| wrong | cut short | median |")):
        assert shown in paper.render(frame(plain + cut), form)
        assert "ut short" not in paper.render(frame(plain), form)


def test_radius_table_by_hand() -> None:
    line = only(radius_table(frame(FIVE)))
    assert line["median_certified"] == 0.0  # 0, 0, 0, 0.1, 0.2: misclassified and undecided count as 0
    assert line["mean_certified"] == pytest.approx(0.06)
    assert math.isnan(line["median_falsified"])  # 0, 0.3 and three times unbounded
    assert (line["rows"], line["with_radius"], line["misclassified"], line["with_falsified"]) == (5, 2, 1, 1)
    assert math.isnan(line["tightness"])


def test_tightness_only_where_a_complete_method_closed_the_bracket() -> None:
    rows = [
        *(radius_row("milp", certified=0.1995, falsified=0.2, index=0), radius_row("crown", certified=0.1, index=0)),
        *(radius_row("milp", certified=0.1, falsified=0.2, index=1), radius_row("crown", certified=0.1, index=1)),
        *(radius_row("milp", certified=0.4, falsified=0.4, index=2), radius_row("crown", index=2)),
        radius_row("pgd", falsified=0.25, index=0),
        radius_row("smoothing", certified=0.1, index=0),
    ]
    table = radius_table(frame(rows))
    crown = only(table, verifier="crown")
    assert (crown["tightness"], crown["with_exact"]) == (pytest.approx((0.5 + 0.0) / 2), 2)
    assert only(table, verifier="milp")["tightness"] == pytest.approx((0.9975 + 1) / 2)
    assert math.isnan(only(table, verifier="smoothing")["tightness"])  # another subject
    pgd = only(table, verifier="pgd")
    assert math.isnan(pgd["median_certified"])
    assert pgd["median_falsified"] == 0.25


def test_medians_bracket_the_true_one() -> None:
    rows = [radius_row("milp", certified=c, falsified=f, index=i) for i, (c, f) in enumerate([(0.1, 0.2), (0.3, 0.4)])]
    rows += [radius_row("milp", falsified=0.0, index=2), radius_row("milp", certified=0.5, index=3)]
    line = only(radius_table(frame(rows)))
    assert line["median_certified"] == pytest.approx(0.2)  # 0, 0.1, 0.3, 0.5
    assert line["median_falsified"] == pytest.approx(0.3)  # 0, 0.2, 0.4, unbounded


@pytest.mark.parametrize(
    "rows",
    [
        [row("x", "UNKNOWN", reason="unsupported", kind=None, norm=None, verifier_seconds=None, wall_seconds=None)],
        [row()],
        [radius_row("pgd", reason="error")],
    ],
)
def test_poor_groups_make_tables_all_the_same(rows: list[dict[str, Any]]) -> None:
    df = frame(rows)
    assert len(verdict_table(df)) == 1
    assert len(radius_table(df)) == (rows[0]["question"] == "radius")
    assert set(certified_accuracy(df).columns) >= {"accuracy", "radius"}


def test_no_rows_at_all() -> None:
    df = frame([])
    assert verdict_table(df).empty
    assert radius_table(df).empty
    assert certified_accuracy(df).empty


def test_plain_summary_truncates_nothing_and_boxed_one_folds() -> None:
    name = "a-verifier-with-quite-a-long-name" * 5
    df = frame([row(name, kind="incomplete"), row("smoothing")])
    plain = render(df, console_is_terminal=False)
    assert name in plain
    assert "\x1b" not in plain
    assert "no contradiction among 2 rows" in plain
    assert "do not rank them together" in plain
    columns, rows = terminal_table(df)
    assert "timeout" not in columns
    assert all(len(r) == len(columns) for r in rows)
    boxed = re.sub("\x1b\\[[0-9;]*m", "", render(df, console_is_terminal=True, width=80))
    assert max(map(len, boxed.splitlines())) <= 80
    assert "…" not in boxed
    assert all(part in boxed for part in ("a-verifier", "incomplete", "probabilistic"))
    assert "Does the property hold? About the smoothed classifier" in boxed


def test_summary_opens_with_violations() -> None:
    df = frame([row("crown"), row("pgd", "VIOLATED")])
    assert render(df, console_is_terminal=False).startswith("1 SOUNDNESS VIOLATION among 2 rows\n")


def test_summary_lists_the_first_findings_only() -> None:
    names = [{"instance": f"i{k}", "property_hash": f"p{k}"} for k in range(23)]
    df = frame([one for name in names for one in (row("crown", **name), row("pgd", "VIOLATED", **name))])
    text = render(df, console_is_terminal=False)
    assert text.startswith("23 SOUNDNESS VIOLATIONS among 46 rows\n")
    assert text.count("\nsoundness violation: ") == 20
    assert "\nand 3 more: see the report\n" in text


def test_numbers_and_seconds() -> None:
    assert [number(v) for v in (math.nan, math.inf, 0.03125, 12345.6)] == ["–", "∞", "0.0312", "12346"]
    assert [seconds(v) for v in (0.0123, 150, 7300)] == ["0.0123 s", "2 min 30 s", "2 h 1 min"]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.08295, 0.08305, "0.0829–31"),
        (0.25, 0.25, "0.25"),
        (0.09965, 0.0999, "0.0996–0.100"),  # of unequal length
        (0.1235, 0.2335, "0.123–0.234"),
        (12.35, 12.85, "12.3–12.9"),  # the point is among the last two
        (0.25, math.nan, "≥ 0.25"),
        (math.nan, 0.5, "< 0.5"),
        (math.nan, math.nan, "–"),
    ],
)
def test_brackets_say_shared_digits_once(low: float, high: float, text: str) -> None:
    assert bracket_text(low, high) == text

"""Figures and tables of the report, against numbers worked out by hand."""

from __future__ import annotations

import csv
import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tests.unit.rows_builder import radius_row, row, witness, write
from tests.unit.test_report import MIXED, page
from verifkit.bench.report import paper
from verifkit.bench.report.charts.cactus import cactus_figure
from verifkit.bench.report.charts.figure import Figure, Scale, file_name, linear, logarithmic
from verifkit.bench.report.charts.spread import quantile
from verifkit.bench.report.converted import converted_sections
from verifkit.bench.report.page import looks_of, write_report
from verifkit.bench.report.pairs import Pair, contests
from verifkit.bench.report.radii import evenly, short_names, side_by_side
from verifkit.bench.report.radius_sections import radius_sections
from verifkit.bench.report.scores import certified_accuracy, radius_table, verdict_table
from verifkit.bench.report.terminal import SMOOTHED_NOTE, render
from verifkit.bench.rows.frame import answers, audits, frame, records

ONE_OF_EACH = [
    *(radius_row("milp", certified=0.2 + i / 10, falsified=0.2001 + i / 10, index=i) for i in range(3)),
    *(radius_row("crown", certified=0.1 + i / 20, index=i) for i in range(3)),
    *(radius_row("pgd", falsified=0.3 + i / 10, index=i) for i in range(2)),
    radius_row("pgd", index=2),
    *(radius_row("smoothing", certified=0.9, index=i) for i in range(3)),
    *(radius_row(v, falsified=0.0, index=3) for v in ("milp", "crown", "pgd")),
    radius_row("smoothing", certified=0.05, index=3, predicted=1),
]


def sections(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    df = frame(rows)
    return radius_sections(records(radius_table(df)), records(df), looks_of(records(df)))


# --- files --------------------------------------------------------------------------------------------------------


def test_every_figure_is_a_file_of_its_own_with_its_data(tmp_path: Path) -> None:
    text, _ = page(tmp_path, [*MIXED, *ONE_OF_EACH])
    drawn = sorted(path.stem for path in (tmp_path / "figures").glob("*.svg"))
    assert drawn == sorted(path.stem for path in (tmp_path / "figures").glob("*.csv"))
    assert {name.split("-")[0] for name in drawn} == {"accuracy", "cactus", "radii", "spread", "tightness", "time"}
    for name in drawn:
        file = (tmp_path / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        ElementTree.fromstring(file)
        assert not re.search(r"@import|url\(|href|https?://(?!www\.w3\.org/2000/svg)", file)
        bare = re.sub(r' xmlns="[^"]*"|<style>.*?</style>', "", file).strip()
        assert bare in text  # the same drawing
        rows = list(csv.reader((tmp_path / "figures" / f"{name}.csv").read_text().splitlines()))
        assert len(rows) > 1
        assert {len(line) for line in rows} == {len(rows[0])}


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        page(tmp_path / name, ONE_OF_EACH)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) > 12
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_file_names_are_plain_short_and_differ() -> None:
    assert file_name("radii", "net.onnx", "2") == "radii-net.onnx-2"
    odd = [file_name("radii", m, "2") for m in ("a b", "a-b", "a/b", "A-b", "../../a-b", "", "x" * 300, "x" * 301)]
    assert len(set(odd)) == len(odd)
    assert all(re.fullmatch(r"[a-z0-9._-]{1,90}", name) and not name.startswith(".") for name in odd)


def test_labels_stay_inside_the_drawings() -> None:
    """By a generous estimate of what a letter takes: nothing is cut at the right edge."""
    long = "a_verifier_with_quite_a_long_name (option=12345)"
    rows = [{**r, "verifier": {"crown": long}.get(r["verifier"], r["verifier"])} for r in ONE_OF_EACH]
    df = records(frame([*rows, *(radius_row("crown", certified=0.1, index=i) for i in range(10, 1_000))]))
    figures = [f for section in sections(rows) for f in section["figures"].values() if f]
    cactus = [cactus_figure(df, looks_of(df), question, "network") for question in ("verify", "radius")]
    for figure in filter(None, (*figures, *cactus)):
        found = re.findall(r'<text(?: class="([a-z]+)")? x="([\d.]+)" y="[\d.]+">([^<]*)<', figure.body)
        for kind, x, words in found:
            assert float(x) + (7.2 if kind == "name" else 6.2) * len(words) <= figure.width + 8, (figure.name, words)


# --- scales -------------------------------------------------------------------------------------------------------


def test_scales_and_their_ticks() -> None:
    scale = linear([0.5, math.inf], 0, 100)
    assert (scale(0), scale(0.54), scale(9)) == (0, 100, 100)
    assert scale.ticks() == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    log = logarithmic([0.02, 3], 0, 100)
    assert (log.low, log.high) == (0.02, 5)
    assert log.ticks() == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]) or len(log.ticks()) < 8
    for low, high in itertools.product((1e-3, 0.7, 5.0), (5.1, 100.0, 1e5)):
        wide = logarithmic([low, high], 0, 1)
        assert 2 <= len(wide.ticks()) <= 12
        assert wide.low <= low <= high <= wide.high * (1 + 1e-9)
    assert Scale(0, 1, 10, 20)(0.5) == 15
    assert Scale(0, 1.04, 10, 20, whole=True).ticks() == [0, 1]


def test_quantiles() -> None:
    assert [quantile([1.0, 2.0, 4.0], q) for q in (0, 0.25, 0.5, 0.75, 1)] == [1, 1.5, 2, 3, 4]
    assert quantile([1.0, math.inf], 0.5) == math.inf
    assert quantile([3.0], 0.75) == 3


# --- radii side by side -------------------------------------------------------------------------------------------


def test_exact_certified_and_attacked_radii_stand_side_by_side(tmp_path: Path) -> None:
    (section,) = sections(ONE_OF_EACH)
    assert [(c.verifier, c.style) for c in section["columns"]] == [
        ("milp", "complete"),
        ("crown", "deterministic"),
        ("pgd", "attack"),
        ("smoothing", "probabilistic"),
    ]
    wrong, first, second, third = section["inputs"]
    assert (wrong["exact"], [c["text"] for c in wrong["cells"]]) == (
        "misclassified",
        ["–", "–", "–", "0.0500"],  # the smoothed classifier is right
    )
    assert (first["exact"], first["closed"]) == ("0.200–01", True)
    assert [c["text"] for c in first["cells"]] == ["0.200–01", "0.100", "0.300", "0.900"]
    assert [c["text"] for c in third["cells"]][2] == "not found"
    assert second["name"] == "sample 1"
    assert section["figures"]["radii"].body.count('ring"') == 4  # one of them about the input that the network misreads
    _, parsed = page(tmp_path, ONE_OF_EACH)
    for words in ("complete: bracket [certified, falsified]", "attacked: falsified at", "certified, another subject"):
        assert words in parsed.text


def test_methods_stand_from_loose_to_tight() -> None:
    medians = {"tight": (0.3, 0.3), "a_middle": (0.2, 0.2), "loose": (0.1, 0.9)}
    rows = [
        radius_row(name, certified=r, index=i, kind="incomplete")
        for name, r2 in medians.items()
        for i, r in enumerate(r2)
    ]
    rows += [radius_row("loose", certified=0.1, index=2, kind="incomplete")]
    rows += [radius_row(name, certified=r, falsified=2 * r, kind="complete") for name, r in (("x", 0.2), ("w", 0.4))]
    rows += [
        radius_row(name, falsified=r, kind="falsifier") for name, r in (("far", 0.9), ("nothing", None), ("near", 0.5))
    ]
    (section,) = sections(rows)
    order = ["w", "x", "loose", "a_middle", "tight", "nothing", "far", "near"]
    assert [c.verifier for c in section["columns"]] == order
    assert [line["verifier"] for line in section["subjects"]["network",]] == order
    assert [line[0] for line in section["figures"]["spread"].rows] == order


def test_a_bracket_joins_what_complete_methods_found() -> None:
    rows = [radius_row("milp", certified=0.1, falsified=0.4), radius_row("milp", certified=0.2, options={"a": 1})]
    rows.append(radius_row("milp", falsified=0.3, options={"a": 2}))
    _, (one,) = side_by_side(records(frame(rows)))
    assert (one.low, one.high, one.exact) == (0.2, 0.3, False)


def test_the_first_repeat_is_shown_and_none_is_picked() -> None:
    rows = [radius_row("smoothing", certified=c, repeat=k) for k, c in ((1, 0.9), (0, 0.5), (2, 0.7))]
    (column,), (one,) = side_by_side(records(frame(rows)))
    assert one.rows[column]["certified"] == 0.5


def test_inputs_are_thinned_evenly_and_their_names_shortened() -> None:
    rows = [radius_row("crown", certified=(i + 1) / 100, instance=f"net/set[{i}] l2 radius") for i in range(50)]
    _, inputs = side_by_side(records(frame(rows)))
    chosen = [one.order for one in evenly(inputs, 5)]
    assert chosen == pytest.approx([0.01, 0.13, 0.25, 0.38, 0.5], abs=0.011)
    assert short_names(inputs)["net/set[7] l2 radius"] == "set[7]"
    assert set(short_names(inputs[:1]).values()) == {"net/set[0] l2 radius"}


def test_tightness_rests_on_exact_radii_alone() -> None:
    (section,) = sections([*ONE_OF_EACH, radius_row("crown", certified=0.1, index=9)])
    figure: Figure = section["figures"]["tightness"]
    lines = [line for line in figure.rows if line[1] == "crown"]
    assert len(lines) == 3
    assert [line[5] for line in lines] == pytest.approx([0.1 / 0.2001, 0.15 / 0.3001, 0.2 / 0.4001])
    assert {line[1] for line in figure.rows} == {"milp", "crown"}  # no attack, no other subject
    (alone,) = sections([radius_row("crown", certified=0.1)])
    assert alone["figures"]["tightness"] is None


# --- cactus ---------------------------------------------------------------------------------------------------------


def test_cactus_counts_decided_questions_in_order_of_time() -> None:
    rows = [row("milp", "HOLDS", instance=f"q{i}", property_hash=f"p{i}", verifier_seconds=3.0 - i) for i in range(3)]
    rows += [row("crown", "HOLDS", instance="q0", property_hash="p0", verifier_seconds=0.5)]
    rows += [row("crown", "UNKNOWN", instance="q1", property_hash="p1", verifier_seconds=0.1)]
    rows += [row("pgd", "UNKNOWN", instance="q1", property_hash="p1", verifier_seconds=0.1)]
    df = records(frame(rows))
    figure = cactus_figure(df, looks_of(df), "verify", "network")
    assert figure
    curve = {v: [line[3:] for line in figure.rows if line[0] == v] for v in ("milp", "crown", "first on each")}
    assert curve["milp"] == [(1.0, 1), (2.0, 2), (3.0, 3)]
    assert curve["crown"] == [(0.5, 1)]
    assert curve["first on each"] == [(0.5, 1), (1.0, 2), (2.0, 3)]
    assert "None decided by: pgd." in figure.body
    assert "HOLDS or VIOLATED (attacks: VIOLATED only), of 3" in figure.body
    assert cactus_figure([r for r in df if r["method"] == "pgd"], looks_of(df), "verify", "network") is None


def test_what_settles_a_question_first_is_not_called_the_virtual_best(tmp_path: Path) -> None:
    rows = [radius_row("milp", certified=0.1, falsified=0.2), radius_row("crown", certified=0.1)]
    rows += [radius_row("milp", falsified=0.0, index=1), radius_row("crown", falsified=0.0, index=1)]
    text, parsed = page(tmp_path, [*rows, radius_row("pgd", falsified=0.3)])
    assert "Dotted, unmarked: first on each, the time of whoever settled it first, without attacks." in text
    assert "has a certified radius for 1 of 2 questions; misclassified inputs are not among them." in parsed.text
    assert "virtual best" not in (tmp_path / "figures" / "cactus-radius-network.csv").read_text()


def test_classifiers_smoothed_in_several_ways_are_not_ranked(tmp_path: Path) -> None:
    rows = [radius_row("smoothing", certified=s, grid=[0.1], options={"sigma": s}) for s in (0.25, 0.5)]
    df = frame(rows)
    (contest,) = contests(records(df))
    assert contest.pairs
    assert not contest.shares
    figure = cactus_figure(records(df), looks_of(records(df)), "radius", "smoothed classifier")
    assert figure
    assert {line[0] for line in figure.rows} == {"smoothing (sigma=0.25)", "smoothing (sigma=0.5)"}
    assert "in its own way:</text>" in figure.body
    assert "these are different functions.</text>" in figure.body
    text, parsed = page(tmp_path / "two", rows)
    assert parsed.text.count(SMOOTHED_NOTE) == 4  # the summary, certified accuracy, time, two by two
    assert "<b>100.0%</b>" not in text
    assert SMOOTHED_NOTE in render(df, console_is_terminal=False)
    assert r"\textbf" not in paper.render(df, "latex")
    one, parsed = page(tmp_path / "one", [rows[0], radius_row("crown", certified=0.1, grid=[0.1])])
    assert SMOOTHED_NOTE not in parsed.text
    assert SMOOTHED_NOTE not in render(frame(rows[:1]), console_is_terminal=False)
    assert one.count("<b>100.0%</b>") == 1


# --- two by two -----------------------------------------------------------------------------------------------------


def test_wins_ties_and_the_virtual_best_by_hand() -> None:
    def ask(verifier: str, verdict: str, i: int, seconds: float) -> dict[str, Any]:
        return row(verifier, verdict, instance=f"q{i}", property_hash=f"p{i}", verifier_seconds=seconds)

    rows = [ask("milp", "HOLDS", 0, 2.0), ask("milp", "VIOLATED", 1, 1.0), ask("milp", "UNKNOWN", 2, 9.0)]
    rows += [ask("crown", "HOLDS", 0, 0.5), ask("crown", "UNKNOWN", 1, 0.1), ask("crown", "UNKNOWN", 2, 0.1)]
    rows += [ask("milp", "HOLDS", 3, 1.0), ask("crown", "HOLDS", 3, 1.05), ask("milp", "HOLDS", 4, 1.0)]
    (contest,) = contests(records(frame(rows)))
    assert contest.pairs["milp", "crown"] == Pair(shared=4, ahead=1, tied=2, faster=0, same_time=1)
    assert contest.pairs["crown", "milp"] == Pair(shared=4, ahead=0, tied=2, faster=1, same_time=1)
    assert (contest.questions, contest.answered) == (5, 4)
    milp = next(s for s in contest.shares if s.verifier == "milp")
    assert (milp.asked, milp.answered, milp.best, milp.alone, milp.fastest) == (5, 4, 4, 2, 3)


def test_radii_are_compared_within_a_subject_and_attacks_apart() -> None:
    rows = [
        radius_row("milp", certified=0.2),
        radius_row("crown", certified=0.2 / 1.001),
        radius_row("ibp", certified=0.1),
    ]
    rows += [radius_row("smoothing", certified=9.0), radius_row("pixeldp", certified=0.5, kind="probabilistic")]
    rows += [radius_row("pgd", falsified=0.4), radius_row("fmn", falsified=0.3, kind="falsifier")]
    rows[4]["guarantee"] = rows[3]["guarantee"]
    found = {(c.subject, c.attacks): c for c in contests(records(frame(rows)))}
    assert found["network", False].verifiers == ("crown", "ibp", "milp")
    assert found["network", False].pairs["milp", "crown"].tied == 1  # what bisection stops at
    assert found["network", False].pairs["milp", "ibp"].ahead == 1
    assert found["network", True].pairs["fmn", "pgd"].ahead == 1
    assert found["smoothed classifier", False].verifiers == ("pixeldp", "smoothing")


# --- audits, grids, norms -------------------------------------------------------------------------------------------


def test_attacks_that_an_audit_added_are_counted_apart(tmp_path: Path) -> None:
    ball = {"index": 0, "label": 0, "predicted": 0, "instance": "sample 0"}
    added = [row("pgd", "VIOLATED", radius=0.21, audit="outside", options={"steps": 99}, **ball, property_hash="x")]
    added += [row("pgd", "UNKNOWN", radius=0.19, audit="inside", **ball, property_hash="y") for _ in range(2)]
    plain, both = frame(ONE_OF_EACH), frame([*ONE_OF_EACH, *added])
    assert len(answers(both)) == len(plain)
    assert len(audits(both)) == 3
    for table in (verdict_table, certified_accuracy, radius_table):
        assert table(both).equals(table(plain))
    text, parsed = page(tmp_path / "both", [*ONE_OF_EACH, *added])
    assert "pgd at 1.05 x an exact radius" in parsed.text
    assert "(16 answers and 3 attacks of the audit)" in parsed.text
    bare, _ = page(tmp_path / "plain", ONE_OF_EACH)
    for part in ('id="verdicts"', 'id="accuracy"', 'id="time"', 'id="pairs"', 'id="instances"'):
        ends = [t[t.index(part) : t.index("<h2", t.index(part))] for t in (text, bare)]
        assert ends[0] == ends[1]
    names = sorted(p.name for p in (tmp_path / "both" / "figures").iterdir())
    assert all(
        (tmp_path / "both" / "figures" / n).read_bytes() == (tmp_path / "plain" / "figures" / n).read_bytes()
        for n in names
    )


def test_an_attack_inside_that_succeeds_opens_the_page(tmp_path: Path) -> None:
    ball = {"index": 0, "label": 0, "predicted": 0, "instance": "sample 0", "property": "test.npz[0] linf 0.15"}
    inside = row("pgd", "VIOLATED", radius=0.15, audit="inside", **ball)
    text, parsed = page(tmp_path, [radius_row("crown", certified=0.2), inside])
    assert "1 soundness violation among 2 rows." in parsed.text
    assert text.index("soundness violation among") < text.index('id="verdicts"')
    assert '<td class="bad">1</td>' in text


def test_a_grid_gives_the_radii_of_its_table() -> None:
    rows = [radius_row("smoothing", certified=0.3, grid=[0.0, 0.25, 0.5]), radius_row("crown", certified=0.1)]
    assert sorted(set(certified_accuracy(frame(rows))["radius"])) == [0.0, 0.25, 0.5]
    plain = [radius_row("crown", certified=0.08, model="other.onnx", model_hash="o")]
    table = certified_accuracy(frame(rows + plain))
    assert 0.01 in set(table[table["model"] == "other.onnx"]["radius"])


def test_converted_radii_are_marked_and_need_the_number_of_inputs(tmp_path: Path) -> None:
    rows = [radius_row("crown", certified=0.4, norm="2"), radius_row("crown", certified=0.1, norm="inf")]
    df = frame(rows)
    (section,) = converted_sections(records(radius_table(df)), records(df))
    (line,) = section["subjects"]["network",]
    assert section["entries"] is None
    assert line["converted_l2"] == 0.1
    assert math.isnan(line["converted_linf"])
    rows.append(radius_row("pgd", falsified=0.5, norm="inf", witness=witness() | {"x": [0.0] * 16}))
    df = frame(rows)
    (section,) = converted_sections(records(radius_table(df)), records(df))
    assert section["subjects"]["network",][0]["converted_linf"] == pytest.approx(0.1)
    assert section["subjects"]["network",][0]["converted_linf"] <= 0.1
    _, parsed = page(tmp_path, rows)
    assert "l-inf, converted from l2" in parsed.text
    df = frame(rows[:1])
    assert converted_sections(records(radius_table(df)), records(df)) == []


# --- the page itself ------------------------------------------------------------------------------------------------


def test_headings_are_in_order_and_folded_parts_are_reachable(tmp_path: Path) -> None:
    text, parsed = page(tmp_path, [*MIXED, *ONE_OF_EACH])
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert len([tag for tag, _ in parsed.tags if tag == "details"]) == text.count("<summary>") > 0
    sortable = [a for tag, a in parsed.tags if tag == "button" and "data-key" in a]
    assert len(sortable) == len([a for _, a in parsed.tags if "aria-sort" in a]) == 9
    assert ":focus-visible" in text
    scripts = [a for tag, a in parsed.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in str(scripts[0]["content"])


def test_names_of_many_verifiers_stand_upright(tmp_path: Path) -> None:
    for verifiers, upright in ((9, 0), (10, 3)):  # radii, two by two, instances
        rows = [radius_row(f"v{v}", certified=0.1, index=i) for v in range(verifiers) for i in range(2)]
        text, _ = page(tmp_path / str(verifiers), rows)
        assert len(re.findall('<table class="[^"]*many">', text)) == upright


def test_the_page_says_when_nothing_could_contradict(tmp_path: Path) -> None:
    _, parsed = page(tmp_path / "alone", [radius_row("crown", certified=0.1)])
    assert "nothing was there to compare" in parsed.text
    _, parsed = page(tmp_path / "both", ONE_OF_EACH)
    assert "nothing was there to compare" not in parsed.text


def test_colours_can_be_read_on_their_grounds(tmp_path: Path) -> None:
    """Contrast of every line's colour at least 3, of text 4.5, on light and dark ground (WCAG 2.1)."""
    css = write_report(write(tmp_path, MIXED)).read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([a-z0-9-]+):(#[0-9a-f]{3,6})", part)) for part in css.split("}", 2)[:2])
    assert set(light) == {*dark, "error"}
    for theme in (light, light | dark):
        for name in (*(f"c{k}" for k in range(6)), "h", "v"):
            assert contrast(theme[name], theme["bg"]) >= 3
        for name in ("ink", "soft", "alarm", "fine"):
            assert contrast(theme[name], theme["bg"]) >= 4.5


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
        red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)

"""The report page: self-contained, escaped, complete, small; and its CSV files."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.unit.rows_builder import radius_row, row, write
from verifkit.bench.report.charts.accuracy import APART, _path, _steps, _steps_at_radii, curves, place_curves
from verifkit.bench.report.charts.figure import HEIGHT, WIDTH
from verifkit.bench.report.charts.look import COLOURS, DASHES, Look, style_of
from verifkit.bench.report.instances import natural_order, row_data
from verifkit.bench.report.page import write_report
from verifkit.bench.report.scores import certified_accuracy
from verifkit.bench.rows.frame import frame, records
from verifkit.errors import SuiteError
from verifkit.registry import names

VOID = {"meta", "br", "input"}
OPTIONAL = {"th", "td", "tr"}


class Page(HTMLParser):
    """Checks nesting (cells may leave out their end tags) and collects text and tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert [t for t in self.open if t not in OPTIONAL] == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] != tag and self.open[-1] in OPTIONAL:
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(tmp_path: Path, rows: list[dict[str, Any]]) -> tuple[str, Page]:
    text = write_report(write(tmp_path, rows)).read_text(encoding="utf-8")
    return text, Page(text)


MIXED = [
    *(radius_row("crown", certified=0.1 + i / 100, index=i) for i in range(5)),
    *(radius_row("milp", certified=0.2, falsified=0.2001, index=i) for i in range(5)),
    *(radius_row("pgd", falsified=0.3, index=i) for i in range(5)),
    radius_row("crown", falsified=0.0, index=5),
    *(radius_row("smoothing", certified=0.5, index=i, norm="2", options={"sigma": 0.25}) for i in range(3)),
    row("milp", "UNKNOWN", reason="error", detail="the worker died", output="Segmentation fault"),
    row("pgd", "VIOLATED"),
]


def test_the_page_says_what_its_tables_leave_out(tmp_path: Path) -> None:
    _, parsed = page(tmp_path / "twice", [*MIXED, radius_row("crown", certified=0.3, timeout=600.0)])
    assert " by some verifier. 1 row left out: the same question asked again, of which the row with" in parsed.text
    assert "left out" not in page(tmp_path / "once", MIXED)[1].text


def test_the_page_counts_what_a_limit_cut_short(tmp_path: Path) -> None:
    text, parsed = page(tmp_path, [radius_row("milp", certified=0.1, undecided=[[0.2, "timeout"]])])
    assert "misclassified cut short median certified" in parsed.text
    assert '<td class="z">0</td><td>1</td><td>0.100</td>' in text


def test_one_static_page(tmp_path: Path) -> None:
    text, parsed = page(tmp_path, MIXED)
    assert not {tag for tag, _ in parsed.tags} & {"link", "img", "iframe", "object", "base"}
    assert not any("src" in a for _, a in parsed.tags)
    assert not re.search(r"https?:|@import|url\(", text)
    assert all(a["href"].startswith("#") for tag, a in parsed.tags if tag == "a" and a.get("href"))
    targets = {a.get("id") for _, a in parsed.tags}
    assert all(a["href"][1:] in targets for tag, a in parsed.tags if tag == "a" and a.get("href"))
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_same_rows_give_the_same_page(tmp_path: Path) -> None:
    assert page(tmp_path / "a", MIXED)[0] == page(tmp_path / "b", MIXED)[0]


def test_tables_are_labelled(tmp_path: Path) -> None:
    _, parsed = page(tmp_path, MIXED)
    tables = [tag for tag, _ in parsed.tags if tag == "table"]
    assert len(tables) == len([tag for tag, _ in parsed.tags if tag == "caption"]) > 4
    assert all("scope" in a for tag, a in parsed.tags if tag == "th")
    assert all("aria-label" in a or a.get("aria-hidden") for tag, a in parsed.tags if tag == "svg")


def test_subjects_stand_under_headings_of_their_own(tmp_path: Path) -> None:
    _, parsed = page(tmp_path, MIXED)
    assert "About the network" in parsed.text
    assert "About the smoothed classifier built from the network, not the network itself" in parsed.text
    assert "not ranked against each other" in parsed.text
    _, alone = page(tmp_path / "alone", MIXED[:5])
    assert "About the smoothed classifier" not in alone.text


def test_it_opens_with_contradictions(tmp_path: Path) -> None:
    _, calm = page(tmp_path / "calm", MIXED)
    assert "No contradiction among 21 rows." in calm.text
    rows = [*MIXED, row("crown", "HOLDS")]
    text, parsed = page(tmp_path / "bad", rows)
    assert "1 soundness violation among 22 rows." in parsed.text
    assert text.index("soundness violation among") < text.index('id="verdicts"')
    assert "crown (row 22) says HOLDS, but pgd (row 21) has a witness" in parsed.text
    reported = row("milp", expected="sat", firmness="reported")
    _, listed = page(tmp_path / "listed", [reported])
    assert "No soundness violation among 1 row , but 1 disagreement" in listed.text


def test_everything_written_by_others_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"&"
    fields = ("suite", "instance", "model", "verifier", "version", "detail", "started")
    rows = [row(**dict.fromkeys(fields, evil), options={evil: evil}), row(**dict.fromkeys(fields, evil), norm=evil)]
    rows.append(row(evil, "UNKNOWN", reason=evil, detail=evil, output=evil, question=evil))
    rows.append(radius_row(evil, certified=0.1, model=evil, kind=evil) | {"norm": evil})
    rows.append(row("crown", **{k: evil for k in fields if k != "verifier"}) | {"property_hash": "q"})
    rows.append(row("pgd", "VIOLATED", instance=evil, model=evil) | {"property_hash": "q"})
    text, parsed = page(tmp_path, rows)
    assert text.count("<script") == text.count("</script") == 2  # the data and ours
    assert evil in parsed.text
    for figure in (tmp_path / "figures").glob("*.svg"):
        assert not [e for e in ElementTree.parse(figure).iter() if e.tag.endswith("script")]


@pytest.mark.parametrize(
    "rows",
    [
        [row()],
        [radius_row(certified=0.1)],
        [radius_row("pgd", falsified=0.1)],
        [radius_row(certified=math.inf, complete=True)],
        [radius_row(falsified=0.0)],
        [radius_row("crown"), radius_row("milp", reason="timeout", wall_seconds=None, verifier_seconds=None)],
        [row("x", "UNKNOWN", reason="unsupported", kind=None, norm=None, guarantee=None, model="")],
        [row("milp", radius=r, index=i, label=0, predicted=0) for r in (0.1, 0.2) for i in range(3)],
        [row("pgd", "VIOLATED", radius=r, index=0, label=0, predicted=0) for r in (0.1, 0.2)],
        [row(reason=None, kind=None, guarantee=None, word="", detail="")],
    ],
)
def test_poor_runs_give_a_page_too(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    text, parsed = page(tmp_path, rows)
    assert f"among {len(rows)} row" in parsed.text
    shown = re.sub("<(style|script)[^>]*>.*?</(style|script)>", "", text, flags=re.DOTALL)
    assert not re.search(r"\bnan\b", shown)


def test_csv_files(tmp_path: Path) -> None:
    page(tmp_path, MIXED)
    verdicts, radii = pd.read_csv(tmp_path / "verdicts.csv"), pd.read_csv(tmp_path / "radii.csv")
    assert verdicts["rows"].sum() == len(MIXED)
    assert set(radii["verifier"]) == {"crown", "milp", "pgd", "smoothing"}
    pairs = pd.read_csv(tmp_path / "pairs.csv").set_index(["question", "verifier", "against"])
    assert pairs.loc[("radius", "milp", "crown"), ["shared", "ahead", "tied"]].tolist() == [5, 5, 0]
    accuracy = pd.read_csv(tmp_path / "certified_accuracy.csv")
    best = accuracy[(accuracy["verifier"] == "milp") & (accuracy["radius"] == 0.2)]
    assert best["accuracy"].tolist() == [1.0]


def test_environment_limits_and_failures_are_shown(tmp_path: Path) -> None:
    _, parsed = page(tmp_path, MIXED)
    for word in (
        "environment.json, abc123.",
        "numpy 2.0.0",
        "3.11.7",
        "2048 MiB",
        "60 s",
        "the worker died",
        "Segmentation fault",
    ):
        assert word in parsed.text
    write(tmp_path, MIXED)
    (tmp_path / "environment.json").write_text("{torn")
    assert "cannot be read" in write_report(tmp_path).read_text()
    (tmp_path / "environment.json").unlink()
    assert "No environment was recorded" in write_report(tmp_path).read_text()


def test_unwritable_folder_is_one_clear_sentence(tmp_path: Path) -> None:
    write(tmp_path, MIXED)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(SuiteError, match="cannot be written"):
        write_report(tmp_path)


@pytest.mark.slow
def test_ten_thousand_different_instances_stay_below_two_megabytes(tmp_path: Path) -> None:
    """All of them, with long names."""
    rows = []
    for i in range(10_000):
        name = f"a/rather/long/folder/name/of/a/benchmark/model_{i % 40}.onnx property_{i}.vnnlib"
        detail = f"node {i} is out of reach: " + "x" * 300
        sample = {"instance": name, "model": f"model_{i % 40}.onnx", "model_hash": str(i % 40), "index": i}
        if i % 3:
            rows.append(radius_row(f"verifier_{i % 2}", certified=(i + 1) / 1e4, **sample))
        else:
            rows.append(radius_row(f"verifier_{i % 2}", reason="error", detail=detail, output=detail, **sample))
    text = write_report(write(tmp_path, rows)).read_text(encoding="utf-8")
    assert len(text.encode()) < 2_000_000
    assert len(data_of(text)["rows"]) == 10_000


def data_of(text: str) -> dict[str, Any]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="row-data">(.*?)</script>', text, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_data_of_more_rows_than_fit_is_cut_and_counted(tmp_path: Path) -> None:
    rows = natural_order(records(frame([row(instance=f"<q{i}> \u00e9") for i in range(20)])))
    whole, left = row_data(rows, 10_000)
    assert left == 0
    assert "<" not in whole
    data = json.loads(whole)
    assert data["instance"][:3] == ["<q0> \u00e9", "<q1> \u00e9", "<q2> \u00e9"]  # by number, not by letter
    for room in range(0, len(whole), 97):
        cut, left = row_data(rows, room)
        assert len(json.loads(cut)["rows"]) + left == 20
        assert len(cut) <= max(room, 200)
    assert "rows would make this page too large and are in rows.jsonl only" not in page(tmp_path, MIXED)[0]


def test_step_curves_by_hand() -> None:
    rows = [radius_row(certified=c, index=i) for i, c in enumerate([0.1, 0.2, 0.2])] + [radius_row(falsified=0.0)]
    assert _steps(records(frame(rows))) == [(0.1, 0.75), (0.2, 0.5), (math.inf, 0.0)]
    attack = [radius_row("pgd", falsified=0.1), radius_row("pgd"), radius_row("pgd", falsified=0.0)]
    assert _steps(records(frame(attack))) == [(0.1, pytest.approx(2 / 3)), (math.inf, pytest.approx(1 / 3))]


def test_step_curves_from_given_radii() -> None:
    lines = [
        {"radius": r, "kind": "complete", "accuracy": a, "upper": u, "misclassified": 1, "rows": 10}
        for r, a, u in [(0.2, 0.5, 0.6), (0.1, 0.8, 0.85)]
    ]
    assert _steps_at_radii(lines) == [(0.1, 0.8), (0.2, 0.5)]
    attack = [line | {"kind": "falsifier", "accuracy": math.nan} for line in lines]
    assert _steps_at_radii(attack) == [(0.1, 0.9), (0.2, 0.85), (math.inf, 0.6)]


def test_paths_are_whole_pixels_and_short() -> None:
    path, mark = _path([(0.1, 0.75), (0.2, 0.5), (math.inf, 0.0)], 0.4, 0.5)
    assert path == f"M0,{HEIGHT // 4}H{WIDTH // 4}V{HEIGHT // 2}H{WIDTH // 2}V{HEIGHT}"
    assert mark == (WIDTH / 4, HEIGHT // 4)
    many, _ = _path([(i / 10_000, 1 - i / 10_000) for i in range(1, 10_000)], 1.0, 0.5)
    assert len(many) < 10 * WIDTH


# --- looks and messages that can be told apart ----------------------------------------------------------------------


def test_every_verifier_looks_different() -> None:
    """Colour, dash and marker: of all that are registered, of two methods to come, and of three times as many."""
    order = sorted({*names(), "pixeldp", "reluplex", *(f"more {k}" for k in range(50))})
    kinds = {"fmn": "falsifier", "foolbox_attack": "falsifier", "pgd": "falsifier", "smoothing": "probabilistic"}
    looks = [Look(name, k, style_of(kinds.get(name, "incomplete")), "network") for k, name in enumerate(order)]
    assert len({(look.style, look.colour, look.dash, look.shape) for look in looks}) == len(order)
    assert all(one.colour != other.colour for one, other in pairwise(looks))


def test_the_style_sheet_has_every_look(tmp_path: Path) -> None:
    text, _ = page(tmp_path, MIXED)
    for k in range(COLOURS):
        assert f".k{k} {{" in text
        assert text.count(f"--c{k}:") == 3  # light, dark, print
    for k in range(1, DASHES):
        assert all(f"{kind}.d{k} {{ stroke-dasharray" in text for kind in ("", ".probabilistic", ".attack"))


def test_no_marker_hides_another(tmp_path: Path) -> None:
    """Also where curves coincide, all the way or nearly."""
    rows = [radius_row(f"v{k:02}", certified=0.1 * (1 + i), index=i) for k in range(14) for i in range(4)]
    rows += [radius_row("w", certified=0.1, index=i) for i in range(4)]
    lines = records(certified_accuracy(frame(rows)))
    drawn = place_curves(list(curves(records(frame(rows)), lines).values()), 0.5)
    marks = [c["mark"] for c in drawn]
    assert len(marks) == 15
    assert min(math.dist(a, b) for a, b in combinations(marks, 2)) >= APART
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in marks)
    wider = [c["wider"] for c in drawn]
    assert wider[:3] == [3, 3, 3]
    assert wider[-2:] == [0, 0]


def test_messages_that_differ_in_numbers_alone_are_one(tmp_path: Path) -> None:
    texts = [f"{k} of 9 unsafe regions not excluded; margin >= {-1.5 * k:.6g}" for k in range(5)]
    texts += ["3 of 9 unsafe regions not excluded; margin >= -1e-07", "node 'conv2' is out of reach"]
    rows = [row("crown", "UNKNOWN", reason="incomplete", detail=text, instance=f"q{k}") for k, text in enumerate(texts)]
    _, parsed = page(
        tmp_path, [*rows, row("crown", "UNKNOWN", reason="incomplete", detail="node 'conv3' is out of reach")]
    )
    assert parsed.text.count("unsafe regions not excluded") == 1
    assert f"crown incomplete 6 {texts[0]} (the others with other numbers) q0" in parsed.text
    assert "1 node 'conv2' is out of reach q6" in parsed.text
    assert "1 node 'conv3' is out of reach" in parsed.text

"""What a report says of soundness: everything that the audit knows, at the head of the page, below it, and as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.rows_builder import radius_row, row, witness
from tests.unit.test_report import Page, page
from verifkit.bench.report.paper import render as render_tables
from verifkit.bench.report.soundness import LISTED
from verifkit.bench.report.terminal import render
from verifkit.bench.rows.frame import frame

BALL = {"index": 0, "label": 0, "predicted": 0, "instance": "sample 0"}
FAR = {**BALL, "property": "test.npz[0] linf 0.21", "property_hash": "far", "radius": 0.21, "audit": "outside"}
NEAR = {**BALL, "property": "test.npz[0] linf 0.2", "property_hash": "near", "radius": 0.2, "audit": "inside"}
AUDITED = [
    radius_row("milp", certified=0.2, falsified=0.2001),
    radius_row("crown", certified=0.1),
    radius_row("smoothing", certified=0.3),
    row("crown", instance="prop_2", property_hash="p2"),
    row("pgd", "UNKNOWN", **NEAR),
    row("pgd", "UNKNOWN", reason="timeout", **NEAR),
    row("pgd", "VIOLATED", **FAR),
]


def bounds(low: float, high: float) -> list[dict[str, Any]]:
    """Margins of two methods whose bounds are one."""
    made = {"kind": "incomplete", "property_hash": "b", "instance": "bound"}
    return [row(name, margin=m, statistics={"margin": m}, **made) for name, m in (("fastlin", low), ("dual", high))]


def section(parsed: Page) -> str:
    """The text below the heading, which the list of contents names first."""
    return parsed.text.split("What this rests on: ")[1]


def test_attacks_and_what_was_not_attacked(tmp_path: Path) -> None:
    _, parsed = page(tmp_path, AUDITED)
    assert "No contradiction among 7 rows (4 answers and 3 attacks of the audit)." in parsed.text
    assert "none of 2 succeeded inside certified radii, 1 did not end; 1 of 1 at 1.05 x exact radii" in parsed.text
    text = section(parsed)
    assert "pgd inside a certified radius: none may succeed 2 0 1 1" in text
    assert "says how strong the attack is, nothing of soundness 1 1 0 0" in text
    assert "about the smoothed classifier: an error of the network does not refute it 1" in text
    assert "about a VNN-LIB property: the audit attacks balls around samples 1" in text
    assert "about an l0 ball" not in text


def test_an_audit_without_attacks_says_so(tmp_path: Path) -> None:
    _, parsed = page(tmp_path, [radius_row("crown", certified=0.1, norm="0")])
    assert "none inside certified radii; 1 answer HOLDS not attacked" in parsed.text
    assert "The audit added none." in section(parsed)
    assert "about an l0 ball: no attack takes it 1" in section(parsed)
    assert "No two rows could be checked by any." in section(parsed)


def test_laws_are_listed_in_words(tmp_path: Path) -> None:
    law = "Fast-Lin and the convex outer polytope's dual are one bound"
    _, kept = page(tmp_path / "kept", bounds(1.0, 1.0))
    assert "none of 1 comparison between methods broken" in kept.text
    assert f"{law} 1 0" in section(kept)
    text, broken = page(tmp_path / "broken", bounds(2.0, 1.0))
    assert "1 soundness violation among 2 rows." in broken.text
    assert text.index("Broken order law.") < text.index("<h2")
    assert "1 of 1 comparison between methods broken" in broken.text
    assert f"{law} 1 1" in section(broken)


def test_counterexamples_that_are_not_strict_are_listed(tmp_path: Path) -> None:
    near = {"witness": witness(written=False), "property_hash": "n", "instance": "near"}
    rows = [row("pgd", "VIOLATED"), row("pgd", "VIOLATED", **near)]
    rows.append(row("tool", "VIOLATED", witness=None, property_hash="i", instance="claimed"))
    _, parsed = page(tmp_path, rows)
    assert "1 replayed in the set as written, 1 only within 1e-4 of it, 1 invalid" in parsed.text
    assert "pgd 1 1 0 tool 0 0 1" in section(parsed)
    assert "pgd within 1e-4 2 near onnxruntime tool invalid 3 claimed –" in section(parsed)
    _, strict = page(tmp_path / "strict", rows[:1])
    assert "all 1 replayed in the set as written" in strict.text
    assert "Those that are not strict" not in strict.text


def test_long_lists_are_cut_and_say_so(tmp_path: Path) -> None:
    rows = [row("tool", "VIOLATED", witness=None, property_hash=str(i), instance=f"q{i}") for i in range(LISTED + 5)]
    _, parsed = page(tmp_path, rows)
    assert f"the first {LISTED} of {LISTED + 5}" in section(parsed)
    assert f"q{LISTED} –" not in section(parsed).split("Those that are not strict")[1].split("Undecided")[0]


@pytest.mark.parametrize("form", ["terminal", "plain", "latex", "markdown"])
def test_every_summary_has_a_line_for_each_check(tmp_path: Path, form: str) -> None:
    df = frame([*AUDITED, *bounds(1.0, 1.0)])
    if form in ("latex", "markdown"):
        text = render_tables(df, form)
    else:
        text = render(df, console_is_terminal=form == "terminal", width=200)
    assert "attacks: none of 2 succeeded inside certified radii, 1 did not end; 1 of 1 at 1.05 x" in text
    assert "order laws: none of " in text
    assert "counterexamples: all 2 replayed in the set as written" in text

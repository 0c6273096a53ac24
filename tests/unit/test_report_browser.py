"""The report page in a real browser: it renders in silence, asks the network for nothing, filters and sorts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.rows_builder import radius_row, row, write
from tests.unit.test_report import data_of
from verifkit.bench.report.page import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: the page was not looked at in a browser")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


def browse(page: Path, home: Path, *options: str, fragment: str = "") -> tuple[str, str]:
    """The page's document as the browser has it after its script ran, and what the browser said meanwhile."""
    assert BROWSER
    command = [BROWSER, *QUIET, f"--user-data-dir={home / 'home'}", "--enable-logging=stderr", *options]
    done = subprocess.run(
        [*command, page.resolve().as_uri() + fragment], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, done.stderr


def shown(dom: str) -> list[list[str]]:
    """The lines of the table that the script filled."""
    section = dom[dom.index('id="explore"') : dom.index('id="more"')]
    body = section[section.index("<tbody>") : section.index("</tbody>")]
    return [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in body.split("<tr>")[1:]]


def run_of(out: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for i in range(12):
        rows.append(row("bab", "HOLDS", instance=f"q{i}", verifier_seconds=0.1 * (12 - i), kind="complete"))
        rows.append(row("pgd", "VIOLATED" if i % 4 == 0 else "UNKNOWN", instance=f"other {i}", property_hash=f"o{i}"))
        rows.append(radius_row("ibp", certified=0.01 * i, index=i))
    rows += [radius_row("crown", certified=c, index=i) for i, c in enumerate((0.25, 0.125, None, 0.5))]
    rows.append(row("crown", "UNKNOWN", reason="timeout", instance="<img src=http://127.0.0.1:9/x onerror=alert(1)>"))
    return write_report(write(out, rows))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("report"))


@in_browser
def test_it_renders_in_silence_and_asks_the_network_for_nothing(report: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    dom, said = browse(report, tmp_path, f"--log-net-log={log}", "--dump-dom")
    assert not requests_in(log)
    assert "CONSOLE" not in said
    assert len(shown(dom)) == 41
    assert "41 of 41 rows" in dom
    assert "<img" not in dom
    other = tmp_path / "other.html"
    other.write_text("<img src=http://127.0.0.1:9/x>")
    browse(other, tmp_path, f"--log-net-log={log}", "--dump-dom")
    assert requests_in(log)  # such a request would have been seen


def requests_in(log: Path) -> list[str]:
    """The addresses that pages asked for, from the browser's log of its network."""
    events = json.loads(log.read_text())["events"]
    asked = [e["params"] for e in events if isinstance(e.get("params"), dict) and "initiator" in e["params"]]
    own = [p.get("url", "") for p in asked if str(p["initiator"]).startswith(("file", "null"))]
    return [url for url in own if url.startswith("http")]


@in_browser
def test_a_view_is_in_the_address(report: Path, tmp_path: Path) -> None:
    dom, said = browse(report, tmp_path, "--dump-dom", fragment="#filter=Q1&verdict=HOLDS&verifier=bab&sort=time")
    lines = shown(dom)
    assert [line[0] for line in lines] == ["q11", "q10", "q1"]  # the fastest first
    assert all(line[3] == "bab" and line[5] == "HOLDS" for line in lines)
    assert "3 of 41 rows" in dom
    assert re.search(r'aria-sort="ascending"[^>]*><button[^>]*data-key="time"', dom)
    assert "CONSOLE" not in said
    downward, _ = browse(report, tmp_path, "--dump-dom", fragment="#verifier=crown&sort=-certified")
    values = [line[6] for line in shown(downward)]
    assert values == ["0.5", "0.25", "0.125", "–", "–"]  # what is absent comes last
    reasons, _ = browse(report, tmp_path, "--dump-dom", fragment="#verdict=UNKNOWN&filter=%3Cimg")
    assert [line[5] for line in shown(reasons)] == ["timeout"]


@in_browser
def test_sections_are_reached_without_touching_the_view(report: Path, tmp_path: Path) -> None:
    dom, said = browse(report, tmp_path, "--dump-dom", fragment="#methods")
    assert len(shown(dom)) == 41
    assert "CONSOLE" not in said


@in_browser
def test_it_prints_on_a_light_ground_with_nothing_folded(report: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "page.pdf"
    browse(report, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={pdf}")
    assert pdf.read_bytes().startswith(b"%PDF")
    css = report.read_text(encoding="utf-8")
    printed = css[css.index("@media print") : css.index("</style>")]
    assert "--bg:#fff" in printed
    assert "details::details-content { content-visibility:visible" in printed


def overflowing(page: Path, home: Path, width: int) -> list[str]:
    """The tables and boxes that scroll sideways in a window so wide, by their captions; by a script of ours."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    script = """<script>const wide = [...document.querySelectorAll(".wide,.tall,body")].filter(
        box => box.scrollWidth > box.clientWidth + 1).map(box => (box.querySelector("caption") || box).textContent);
        document.body.innerHTML = "<pre id=found>" + JSON.stringify(wide).replace(/</g, "&lt;") + "</pre>";</script>"""
    measured = home / "measured.html"
    measured.write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    dom, _ = browse(measured, home, f"--window-size={width},1400", "--dump-dom")
    found = re.search("<pre id=.found.>(.*?)</pre>", dom, re.DOTALL)
    assert found
    names: list[str] = json.loads(found[1])
    return names


@in_browser
def test_the_radii_of_twelve_verifiers_fit_a_window(tmp_path: Path) -> None:
    names = ("alpha_crown", "crown", "crown_ibp", "dual", "fastlin", "interval", "lp", "zonotope")
    rows: list[dict[str, Any]] = []
    for i in range(10):
        sample = {"index": i, "instance": f"digits-2x50/digits-samples[{i}] linf radius", "model": "digits-2x50.onnx"}
        exact = {"certified": 0.0829 + i / 1000, "falsified": 0.0831 + i / 1000, "kind": "complete", **sample}
        rows += [radius_row(name, **exact) for name in ("bab", "milp")]
        rows += [
            radius_row(name, certified=0.00123 * (k + 1), kind="incomplete", **sample) for k, name in enumerate(names)
        ]
        rows += [radius_row("pgd", falsified=0.0912, **sample), radius_row("smoothing", reason="incomplete", **sample)]
    page = write_report(write(tmp_path, rows))
    assert overflowing(page, tmp_path, 1280) == []
    assert any("in the order of their radii" in name for name in overflowing(page, tmp_path, 640))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = []
    for i in range(1000):
        sample = {"instance": f"a/rather/long/folder/name/property_{i}.vnnlib", "model": f"m{i % 40}.onnx"}
        for v in range(10):
            radius = {"certified": (i + 1) / 1e4} if (i + v) % 3 else {"reason": "error", "detail": "x" * 300}
            rows.append(radius_row(f"verifier_{v}", index=i, model_hash=str(i % 40), **sample, **radius))
    return write_report(write(tmp_path_factory.mktemp("large"), rows))


def test_ten_thousand_rows_stay_below_two_megabytes(large: Path) -> None:
    """All of them; what has no room says so."""
    assert large.stat().st_size < 2_000_000
    text = large.read_text(encoding="utf-8")
    assert len(data_of(text)["rows"]) == 10_000
    assert "more pairs of model and norm</b> would make this page too long" in text
    assert "more questions</b> would make this page too large" in text


@in_browser
def test_ten_thousand_rows_load(large: Path, tmp_path: Path) -> None:
    dom, said = browse(large, tmp_path, "--dump-dom", fragment="#filter=verifier_3&sort=-certified")
    assert "1000 of 10000 rows, the first 100 shown" in dom
    assert float(shown(dom)[0][6]) >= 0.0998
    assert "CONSOLE" not in said

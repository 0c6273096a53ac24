"""A study finds an unsound verifier by itself: nobody else is asked, and only the audit's attack stands against it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.end_to_end.hostile import write_folder, write_model
from verifkit.bench.audit.finding import ContradictionKind
from verifkit.bench.audit.review import Review, review
from verifkit.bench.rows.frame import load_rows
from verifkit.bench.rows.store import ROWS, read_rows
from verifkit.bench.running.runner import RunSummary, run
from verifkit.bench.suites.suite import load_suite
from verifkit.cli import cli

GROUPS = {
    "free": "[[radius]]",
    "radius": "[[radius]]\nclip = [0.0, 1.0]",
    "robustness": "[[robustness]]\nclip = [0.0, 1.0]\nradii = [0.3]",
    "l2": '[[radius]]\nnorm = "2"',
}


@pytest.fixture
def suite(plugin: str, tmp_path: Path) -> Any:
    """Makes a suite of one group about two samples, put to one verifier."""

    def make(group: str, verifier: str = "liar", **options: Any) -> Path:
        write_model(tmp_path / "net.onnx", seed=12)
        x = np.float32([[0.25, 0.5], [0.5, 0.5]])
        np.savez(tmp_path / "s.npz", x=x, y=np.array([1, 1]))
        own = ", ".join(f"{name} = {value}" for name, value in options.items())
        text = f'timeout = 20\n[[verifiers]]\nname = "{verifier}"\noptions = {{ {own} }}\n{GROUPS[group]}\n'
        path = tmp_path / "lies.toml"
        path.write_text(f'{text}model = "net.onnx"\ninputs = "s.npz"\n')
        return path

    return make


def study(path: Path, out: Path, **options: Any) -> tuple[RunSummary, Review]:
    summary = run(load_suite(path), out=out, jobs=2, **options)
    return summary, review(load_rows(out))


@pytest.mark.parametrize(
    ("group", "options"),
    [("free", {}), ("free", {"radius_claimed": 0.9}), ("robustness", {}), ("l2", {"radius_claimed": 3.5})],
)
def test_the_attack_finds_the_lie(suite: Any, tmp_path: Path, group: str, options: dict[str, Any]) -> None:
    summary, found = study(suite(group, **options), tmp_path / "out")
    assert summary == RunSummary(rows=2, written=2, standing=0, errors=0, attacks=2)
    assert found.inside.asked == 2
    assert found.inside.succeeded >= 1
    assert {f.kind for f in found.violations} == {ContradictionKind.SOUNDNESS}
    assert len(found.violations) == found.inside.succeeded
    assert found.witness_counts[0].verifier == "pgd"
    assert found.witness_counts[0].tolerated == found.witness_counts[0].invalid == 0


def test_a_margin_that_nothing_keeps_is_a_broken_law(suite: Any, tmp_path: Path) -> None:
    path = suite("robustness", margin=1000.0)
    path.write_text(path.read_text().replace("[0.3]", "[0.001]"))
    _, found = study(path, tmp_path / "out")
    assert [f.kind for f in found.violations] == [ContradictionKind.LAW] * 2
    assert found.inside.succeeded == 0


@pytest.mark.parametrize("group", list(GROUPS))
def test_honest_ones_are_attacked_in_vain(suite: Any, tmp_path: Path, group: str) -> None:
    path = suite(group, "crown")
    if group in ("radius", "robustness"):
        path.write_text(path.read_text().replace("[0.3]", "[0.01]") + '[[verifiers]]\nname = "milp"\n')
    _, found = study(path, tmp_path / "out")
    assert not found.findings
    assert found.inside.asked == found.inside.resisted > 0
    if group == "radius":
        assert found.outside.asked == found.outside.succeeded == 2


def test_without_the_audit_nobody_objects(suite: Any, tmp_path: Path) -> None:
    summary, found = study(suite("free"), tmp_path / "out", audit=False)
    assert summary.attacks == found.inside.asked == 0
    assert not found.violations


def test_what_the_suite_attacks_itself_is_not_attacked_twice(suite: Any, tmp_path: Path) -> None:
    path = suite("robustness")
    path.write_text(path.read_text() + '[[verifiers]]\nname = "pgd"\n')
    summary, found = study(path, tmp_path / "out")
    assert summary == RunSummary(rows=4, written=4, standing=0, errors=0, attacks=0)
    assert found.violations


def test_a_run_that_is_cut_off_among_the_attacks_goes_on(suite: Any, tmp_path: Path) -> None:
    path, out = suite("free", radius_claimed=0.9), tmp_path / "out"

    def stop(done: int, total: int, row: Any) -> None:
        if row.audit:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(path, out, progress=stop)
    first = read_rows(out)
    assert [row.audit for row in first] == [None, None, "inside"]
    summary, _ = study(path, out)
    assert summary == RunSummary(rows=2, written=0, standing=2, errors=0, attacks=2)
    rows = read_rows(out)
    assert rows[:3] == first
    study(path, tmp_path / "whole")
    assert {row.key for row in rows} == {row.key for row in read_rows(tmp_path / "whole")}
    assert len(rows) == 4
    assert study(path, out)[0].attacks == 2
    assert len(read_rows(out)) == 4


def command(*words: Any) -> Any:
    return CliRunner().invoke(cli, list(map(str, words)))


def test_the_command_says_so_and_so_does_its_status(suite: Any, tmp_path: Path) -> None:
    path, out = suite("free", radius_claimed=0.9), tmp_path / "out"
    done = command("bench", path, "--out", out)
    assert done.exit_code == 3
    assert "the audit added 2 attacks" in done.stderr
    assert "SOUNDNESS VIOLATION" in done.stdout.splitlines()[0]
    assert "liar" in done.stdout.splitlines()[1]
    page = (out / "report.html").read_text()
    assert page.index("soundness violation") < page.index("<table")
    assert command("report", out).exit_code == 3
    quiet = command("bench", path, "--out", tmp_path / "quiet", "--no-audit")
    assert quiet.exit_code == 0, quiet.output


def test_a_broken_law_sets_the_status_and_opens_the_report(suite: Any, tmp_path: Path) -> None:
    path, out = suite("robustness", margin=1000.0), tmp_path / "out"
    path.write_text(path.read_text().replace("[0.3]", "[0.001]"))
    done = command("bench", path, "--out", out)
    assert done.exit_code == 3
    assert "2 SOUNDNESS VIOLATIONS" in done.stdout.splitlines()[0]
    assert "broken order law" in done.stdout.splitlines()[1]


@pytest.mark.parametrize(("firmness", "status"), [("firm", 3), ("reported", 0)])
def test_an_expected_verdict_that_is_another(plugin: str, tmp_path: Path, firmness: str, status: int) -> None:
    folder = write_folder(tmp_path / "bench", count=1)
    (folder / "expected.csv").write_text(
        f"benchmark,onnx,vnnlib,timeout,expected,firmness,disputed\nbench,net.onnx,p0.vnnlib,5,sat,{firmness},\n"
    )
    done = command("bench", folder, "--verifiers", "crown", "--out", tmp_path / "out")
    assert done.exit_code == status, done.output
    assert "sat is firmly expected" in done.stdout if status else "sat is reported" in done.stdout
    (row,) = map(json.loads, (tmp_path / "out" / ROWS).read_text().splitlines())
    assert (row["verdict"], row["expected"], row["audit"]) == ("HOLDS", "sat", None)


BOUNDING = ("interval", "crown", "fastlin", "dual", "zonotope", "lp", "alpha_crown")
ZOO = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(("norm", "radii", "laws"), [("inf", "0, 0.02", 10), ("1", "0.2", 7), ("2", "0.1", 4)])
def test_our_own_verifiers_break_no_law(tmp_path: Path, norm: str, radii: str, laws: int) -> None:
    text = "timeout = 60\n"
    for name in BOUNDING:
        options = "options = { layer_iterations = 0 }" if name == "alpha_crown" else ""
        text += f'[[verifiers]]\nname = "{name}"\n{options}\n'
    for group, asked in (("robustness", f"radii = [{radii}]"), ("radius", "")):
        text += f'[[{group}]]\nmodel = "{ZOO}/zoo/digits-2x50.onnx"\ninputs = "{ZOO}/suites/digits-samples.npz"\n'
        text += f'norm = "{norm}"\nclip = [0.0, 1.0]\nindices = [0]\n{asked}\n'
    (tmp_path / "laws.toml").write_text(text)
    _, found = study(tmp_path / "laws.toml", tmp_path / "out")
    assert not found.findings
    assert len(found.laws) == laws
    assert all(law.checked and not law.broken for law in found.laws)

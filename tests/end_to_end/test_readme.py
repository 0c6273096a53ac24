"""What the pages say is true: commands run, snippets run, paths exist, names resolve, tables list what is there."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest

from tests.unit.rows_builder import radius_row, row
from verifkit import registry
from verifkit.bench.report.terminal import terminal_radii, terminal_table
from verifkit.bench.rows.frame import frame
from verifkit.bench.suites.suite import load_suite
from verifkit.cli import cli

ROOT = Path(__file__).resolve().parents[2]
README, CONTRIBUTING, CLI, ONNX, ROWS = (
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/cli.md", "docs/onnx.md", "docs/rows.md")
)
NOTES = sorted((ROOT / "verifiers").glob("*/*.md"))
RECORDS = sorted((ROOT / "docs" / "adr").glob("*.md"))
PAGES = [
    README,
    CONTRIBUTING,
    CLI,
    ONNX,
    ROWS,
    ROOT / "docs" / "cluster.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "RESULTS.md",
    *RECORDS,
    *NOTES,
]
SLOW = ("benchmarks/suites/quick.toml --out",)  # the whole suite: `make study`, minutes of work


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[tuple[str, str | None]]:
    """(command, the first line shown as its output, None where none is shown) of console and sh blocks."""
    found: list[tuple[str, str | None]] = []
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            found.append((command, shown[0] if shown else None))
    for block in blocks(page, "sh"):
        found += [(line.split("  #")[0].strip(), None) for line in block.splitlines() if line.strip()]
    return found


def verifkit_commands() -> list[tuple[str, str | None]]:
    pages = (README, CONTRIBUTING, ROOT / "benchmarks" / "RESULTS.md")
    every = dict(pair for page in pages for pair in commands(page) if pair[0].startswith("verifkit "))
    return [pair for pair in every.items() if "acasxu" not in pair[0]]


def public_instances() -> str | None:
    folder = Path(os.environ.get("VERIFKIT_VNNCOMP", ROOT.parent / "shared" / "vnncomp"))
    return str(folder) if folder.is_dir() else None


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run the examples in: the repository's benchmarks are there, and what is written stays there."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks", target_is_directory=True)
    for name, text in saved_files().items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def saved_files() -> dict[str, str]:
    """The files that the README has its reader save."""
    text = README.read_text(encoding="utf-8")
    return dict(re.findall(r"[Ss]ave this one as `([\w.]+)`[^`]*?^```lisp\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def test_the_readme_has_its_reader_save_a_property() -> None:
    assert list(saved_files()) == ["arm.vnnlib"]


def run(command: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, **environ}
    return subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        pytest.param(command, shown, id=command, marks=[pytest.mark.slow] if any(s in command for s in SLOW) else [])
        for command, shown in verifkit_commands()
    ],
)
def test_a_command_runs_and_answers_what_is_shown(command: str, shown: str | None, checkout: Path) -> None:
    environ = {}
    if "$VERIFKIT_VNNCOMP" in command:
        instances = public_instances()
        if instances is None:
            pytest.skip("not run: no public instances (set VERIFKIT_VNNCOMP)")
        environ["VERIFKIT_VNNCOMP"] = instances
    for earlier in what_it_needs(command):
        assert run(earlier, checkout).returncode == 0
    done = run(command, checkout, **environ)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    if shown is not None:
        assert done.stdout.splitlines()[0] == shown
        if command.startswith("verifkit verify"):
            assert done.returncode == (0 if shown in ("sat", "unsat") else 1)


def what_it_needs(command: str) -> list[str]:
    """The commands that write what `verifkit report DIR` reads: tests run in any order, and in several processes."""
    folder = re.fullmatch(r"verifkit report (\S+)", command)
    found = [c for c, _ in verifkit_commands() if folder is not None and c.endswith(f"--out {folder[1]}")]
    assert found or folder is None, f"nothing writes what '{command}' reads"
    return found


def test_every_kind_of_command_is_among_them() -> None:
    used = {command.split()[1] for command, _ in verifkit_commands()}
    assert used >= {"verify", "radius", "supports", "bench", "report", "list", "cite"}


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {t for page in PAGES for t in re.findall(r"\bmake ([a-z]+)\b(?=[`\s])", _code_of(page))}
    assert named >= {"study", "test"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def _code_of(page: Path) -> str:
    """Everything that is set as code, inline or fenced, so that prose ("make sure") is no target."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return "\n".join([*fenced, *(f"{code}`" for code in inline_code(page))])


def inline_code(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def test_the_readme_snippet_prints_what_is_shown(checkout: Path) -> None:
    snippet = "\n".join(blocks(README, "python"))  # each goes on where the one before it stopped
    shown = re.findall(r"It prints\n\n```text\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(shown) == len(blocks(README, "python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet], cwd=checkout, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert without_version(done.stdout) == without_version("".join(shown))


def without_version(text: str) -> str:
    return re.sub(r"HiGHS [\d.]+", "HiGHS", text)


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    """The verifier of CONTRIBUTING.md, installed as a distribution of its own; the folder to put on the path."""
    example, _ = blocks(CONTRIBUTING, "python")
    (declared,) = blocks(CONTRIBUTING, "toml")
    key, value = re.findall(r"^(\w+) = \"(.*)\"$", declared, re.MULTILINE)[0]
    (tmp_path / "parallel.py").write_text(example)
    info = tmp_path / "parallel-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parallel\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[verifkit.verifiers]\n{key} = {value}\n")
    return str(tmp_path)


def test_the_example_verifier_is_complete_and_short(plugin: str) -> None:
    (example, use), (toml,) = blocks(CONTRIBUTING, "python"), blocks(CONTRIBUTING, "toml")
    assert sum(text.count("\n") for text in (example, use, toml)) <= 60
    assert len(CONTRIBUTING.read_text(encoding="utf-8").splitlines()) < 85


def test_the_example_verifier_works_like_ours(plugin: str, checkout: Path) -> None:
    listed = run("verifkit list", checkout, PYTHONPATH=plugin)
    assert re.search(r"^parallel +incomplete", listed.stdout, re.MULTILINE), listed.stderr
    spec = "benchmarks/zoo/digits-2x50.onnx benchmarks/suites/props/centre-of-0.vnnlib"
    done = run(f"verifkit verify {spec} --verifier parallel", checkout, PYTHONPATH=plugin)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout.splitlines()[0] in ("unsat", "unknown")


def test_the_example_verifier_passes_the_conformance_suite(plugin: str) -> None:
    pytest.importorskip("verifkit.testing.conformance", reason="not run: the conformance suite is missing")
    _, use = blocks(CONTRIBUTING, "python")
    assert use.count("check_verifier(Parallel())") == 1
    few = use.replace("check_verifier(Parallel())", "check_verifier(Parallel(), queries=20)")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", few],
        env={**os.environ, "PYTHONPATH": plugin},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_path_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file) if file else page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place), target
    for code in inline_code(page):
        if re.fullmatch(r"(\.ci|verifkit|verifiers|benchmarks|tests|docs)/[\w./-]*", code):
            assert (ROOT / code).exists(), code


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked to."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_name_of_the_code_exists(page: Path) -> None:
    sources = "\n".join(f.read_text(encoding="utf-8") for top in ("verifkit", "verifiers") for f in python_files(top))
    for code in inline_code(page):
        if re.fullmatch(r"(verifkit|verifiers)(\.\w+)+", code) and code != "verifkit.verifiers":
            assert resolves(code), code
        elif re.fullmatch(r"_\w+|[A-Z]\w+\._?\w+", code):
            assert re.search(rf"\b{re.escape(code.rpartition('.')[2])}\b", sources), code


def python_files(top: str) -> list[Path]:
    return sorted((ROOT / top).rglob("*.py"))


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    module, _, attribute = dotted.rpartition(".")
    try:
        importlib.import_module(dotted)
    except ImportError:
        return bool(module) and hasattr(importlib.import_module(module), attribute)
    return True


@pytest.mark.parametrize("name", registry.names())
def test_a_page_stands_beside_every_verifier(name: str) -> None:
    cls = registry.verifier_class(name)
    if not cls.__module__.startswith("verifiers."):
        pytest.skip("another distribution's")
    page = ROOT / (cls.__module__.replace(".", "/") + ".md")
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    words = " ".join(text.split())
    assert "**Use it**" in words
    assert "**Do not**" in words
    assert len(text.splitlines()) < 60
    assert f"[`{name}`]({name_of(page)})" in README.read_text(encoding="utf-8")


def test_the_page_on_onnx_names_every_operator_and_no_other() -> None:
    from verifkit.io.lowering import graph
    from verifkit.io.lowering.table import RULES

    said = re.search(r"ONNX operators lowered: ([\w,\s]+)\.", ONNX.read_text(encoding="utf-8"))
    assert said is not None
    assert sorted(re.split(r",\s+", said[1])) == sorted(RULES)
    assert f"{len(RULES)} ONNX operators are lowered" in README.read_text(encoding="utf-8")
    assert (graph.MIN_OPSET, graph.MAX_OPSET) == (7, 28)
    assert "Opsets 7 to 28" in ONNX.read_text(encoding="utf-8")


def test_the_kinds_in_the_readme_are_those_declared() -> None:
    norms = {"inf": "l-inf", "2": "l2", "1": "l1", "0": "l0"}
    text = README.read_text(encoding="utf-8")
    for name in ("interval", "crown", "milp", "smoothing", "pgd"):
        row = re.search(rf"^\| \[`{name}`\].*$", text, re.MULTILINE)
        assert row is not None
        cell = row[0].split("|")[2]
        kinds = registry.verifier_class(name).capabilities.kinds
        assert {n for n, word in norms.items() if word in cell} == set(kinds), name
        assert all(str(kind) in cell for kind in kinds.values()), name


def test_the_cli_page_lists_the_commands_and_their_options() -> None:
    text = CLI.read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    told = {part.split()[1]: part for part in parts if part.startswith("verifkit ")}
    assert set(told) == set(cli.commands)
    for name, part in told.items():
        options = {o for p in cli.commands[name].params if isinstance(p, click.Option) for o in p.opts}
        assert set(re.findall(r"`(--[a-z]+)", part)) == options, name


def test_the_cli_page_lists_every_key(checkout: Path) -> None:
    import json

    text = CLI.read_text(encoding="utf-8")
    spec = "benchmarks/zoo/digits-2x50.onnx benchmarks/suites/props/patch-on-8.vnnlib"
    answer = json.loads(run(f"verifkit verify {spec} --json", checkout).stdout)
    told = [part for part in re.split(r"^#+ ", text, flags=re.MULTILINE) if part.startswith("The JSON object")]
    assert keys_told(told[0]) == set(answer)
    for key in (*answer["guarantee"], *answer["witness"], *answer["witness"]["replays"][0]):
        assert f"`{key}`" in told[0], key


def keys_told(part: str) -> set[str]:
    """The names in the first column of a page's table."""
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}


def test_the_suite_of_the_cli_page_can_be_read(tmp_path: Path) -> None:
    (text,) = blocks(CLI, "toml")
    for folder in ("zoo", "suites"):
        (tmp_path / folder).symlink_to(ROOT / "benchmarks" / folder, target_is_directory=True)
    suites = tmp_path / "own"
    suites.mkdir()
    for name in ("props", "digits-samples.npz"):
        (suites / name).symlink_to(ROOT / "benchmarks" / "suites" / name)
    (suites / "own.toml").write_text(textwrap.dedent(text))
    suite = load_suite(suites / "own.toml")
    assert len(suite.instances) == 1 + 2 * 2 + 2
    assert [choice.name for choice in suite.verifiers] == ["milp"]


def test_the_changelog_has_a_heading_for_soundness() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "\n## [Unreleased]\n" in text
    assert "\n### Soundness\n" in text


def test_the_decision_records_are_numbered_and_complete() -> None:
    for number, page in enumerate(RECORDS, start=1):
        text = page.read_text(encoding="utf-8")
        assert page.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        for head in ("**Context.**", "**Decision.**", "**Consequences.**"):
            assert head in text, page.name


def test_the_tables_shown_have_todays_headings() -> None:
    rows = frame([{**radius_row("crown", 0.1), "line": 1}, {**row(), "line": 2}])
    verdicts, radii = terminal_table(rows)[0], terminal_radii(rows)[0]
    for page in ("README.md", "benchmarks/RESULTS.md"):
        lines = [re.split(r"\s{2,}", line.strip()) for line in (ROOT / page).read_text().splitlines()]
        assert any(set(verdicts) - {"incomplete", "timeout"} <= set(line) for line in lines), (page, verdicts)
        shown = set(radii) - {"kind", "tightness (of)"}
        assert any(shown <= set(line) for line in lines), (page, radii)

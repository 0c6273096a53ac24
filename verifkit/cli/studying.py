"""The commands about many answers and about the certifiers: `bench`, `report`, `list`, `cite`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verifkit.cli.output import TOOL, VIOLATION, as_bytes, print_out, say, terminal_width

if TYPE_CHECKING:
    from verifkit.bench.suites.instance import Suite
    from verifkit.budget import Budget

_NO_OPTIONS: dict[str, str] = {}


@click.command()
@click.argument("suite", type=click.Path())
@click.option("--verifiers", metavar="A,B", help="Names in place of the suite's own.")
@click.option("--tool-dir", "tool_dirs", type=click.Path(), multiple=True, metavar="DIR", help="Also ask the tool "
              "whose VNN-COMP scripts are in DIR; repeatable.")  # fmt: skip
@click.option("--timeout", type=float, metavar="S", help="Seconds per instance and verifier, in place of the suite's.")
@click.option("--memory", type=float, metavar="GIB", help="Resident memory of each worker.")
@click.option("--nodes", type=int, metavar="N", help="Subproblems of a search, in place of the suite's.")
@click.option("--samples", type=int, metavar="N", help="Draws of a probabilistic method, in place of the suite's.")
@click.option("--jobs", type=int, metavar="N", help="Workers at a time. [default: the number of CPUs]")
@click.option("--out", type=click.Path(), metavar="DIR", help="Result folder. [default: results/SUITE]")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="In place of the suite's.  [default: 0]")
@click.option("--repeats", type=click.IntRange(min=1), metavar="N", help="In place of the suite's.  [default: 1]")
@click.option("--check", is_flag=True, help="Read everything, say what would be asked, and run nothing.")
@click.option("--evidence", is_flag=True, help="Keep the evidence of definite answers in DIR/evidence; can be large.")
@click.option("--cluster", metavar="WHERE", help="Dask workers answer: a scheduler's address or file, or slurm.")
@click.option("--no-audit", is_flag=True, help="No attacks of the study's own inside what was certified.")
def bench(
    suite: str,
    verifiers: str | None,
    tool_dirs: tuple[str, ...],
    timeout: float | None,
    memory: float | None,
    nodes: int | None,
    samples: int | None,
    jobs: int | None,
    out: str | None,
    seed: int | None,
    repeats: int | None,
    check: bool,
    evidence: bool,
    cluster: str | None,
    no_audit: bool,
) -> None:
    """Put every instance of SUITE (a .toml file or a VNN-COMP folder) to every verifier.

    Rows go to DIR/rows.jsonl as they come; the same command again goes on where it stopped.
    """
    from verifkit.bench.running.runner import run
    from verifkit.bench.suites.overview import plural
    from verifkit.bench.suites.suite import load_suite
    from verifkit.budget import Budget

    loaded = load_suite(suite, own_verifiers=verifiers is None)
    limits = Budget(seconds=timeout, memory_bytes=as_bytes(memory), nodes=nodes, samples=samples)
    chosen = (
        None if verifiers is None else [(name.strip(), _NO_OPTIONS) for name in verifiers.split(",") if name.strip()]
    )
    tools = [(TOOL, {"tool_dir": folder}) for folder in tool_dirs]
    if chosen is None:
        loaded = loaded.joined_by(tools)
    else:
        chosen += tools
    if check:
        _print_overview(loaded if chosen is None else loaded.put_to(chosen), limits, jobs, seed, repeats)
        return
    folder = Path(out) if out else Path("results") / loaded.name
    summary = run(
        loaded,
        out=folder,
        verifiers=chosen,
        limits=limits,
        jobs=jobs,
        seed=seed,
        repeats=repeats,
        progress=_progress(),
        evidence=evidence,
        cluster=cluster,
        audit=not no_audit,
    )
    attacks = f"; the audit added {plural(summary.attacks, 'attack')}" if summary.attacks else ""
    counts = f"{summary.written} run now, {summary.standing} stood already, {plural(summary.errors, 'error')}"
    say(f"{plural(summary.rows, 'row')}: {counts}{attacks}")
    if summary.foreign:
        say(
            f"'{folder}' also holds {plural(summary.foreign, 'row')} of other questions than this run's, or under "
            f"other limits, which the report shows, too: name another folder to keep them apart"
        )
    _summarise(folder)


@click.command()
@click.argument("folder", type=click.Path(), metavar="DIR")
@click.option("--format", "form", type=click.Choice(["html", "latex", "markdown"]), default="html", show_default=True)
def report(folder: str, form: str) -> None:
    """Write DIR/report.html from DIR/rows.jsonl and print the table. Exit status 3 where answers contradict.

    As latex or markdown: print the tables that a paper needs, and write nothing.
    """
    if form == "html":
        _summarise(Path(folder))
        return
    from verifkit.bench.report.paper import render
    from verifkit.bench.rows.frame import load_rows

    rows = load_rows(Path(folder))
    print_out(render(rows, form))
    _exit_on_violation(rows, "the tables say so first")


@click.command("list")
def list_() -> None:
    """Every certifier: kind by norm, operators, needs, paper."""
    from verifkit.cli.answers import listing

    print_out(listing(terminal_width=terminal_width()))


@click.command()
@click.argument("name")
def cite(name: str) -> None:
    """The BibTeX entry of the paper behind a certifier."""
    from verifkit.registry import verifier_class

    print_out(verifier_class(name).capabilities.paper.bibtex())


def _print_overview(suite: Suite, limits: Budget, jobs: int | None, seed: int | None, repeats: int | None) -> None:
    from verifkit.bench.running.environment import usable_cores
    from verifkit.bench.suites.overview import overview

    text = overview(
        suite,
        limits=limits,
        jobs=jobs or usable_cores(),
        seed=suite.seed if seed is None else seed,
        repeats=repeats or suite.repeats,
    )
    print_out(text)


def _summarise(folder: Path) -> None:
    from verifkit.bench.report.page import write_report
    from verifkit.bench.report.terminal import render
    from verifkit.bench.rows.frame import load_rows

    rows = load_rows(folder)
    page = write_report(folder)
    print_out(render(rows, console_is_terminal=sys.stdout.isatty()))
    print_out(f"report: {page}")
    _exit_on_violation(rows, "the report opens with them")


def _exit_on_violation(rows: Any, where: str) -> None:
    from verifkit.bench.audit.review import review

    if review(rows).violations:
        say(f"soundness violation: answers of this run contradict each other; {where}")
        sys.exit(VIOLATION)


def _progress() -> Callable[[int, int, Any], None]:
    """A line that rewrites itself on a terminal; elsewhere a line for every tenth of the run."""

    def on_terminal(done: int, total: int, row: Any) -> None:
        click.echo(f"\r{done}/{total} {row.verifier} {row.word}\x1b[K", err=True, nl=done == total)

    def plain(done: int, total: int, row: Any) -> None:
        if done == total or done % max(1, total // 10) == 0:
            click.echo(f"{done}/{total} rows", err=True)

    return on_terminal if sys.stderr.isatty() else plain

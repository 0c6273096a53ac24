"""The command line: `verifkit verify | bench | report | list | cite`.

The contract (exit status, first line of `verify`, plain output where there is no terminal) is `docs/cli.md`. Nothing
heavy is imported before the command that needs it runs.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from verifkit.errors import OptionError, RunnerError, VerifkitError

if TYPE_CHECKING:
    from verifkit.budget import Budget
    from verifkit.supervise import Answer

DEFINITE, UNDECIDED, MISTAKE, VIOLATION, FAILURE = 0, 1, 2, 3, 4
"""Exit status: a definite verdict or a complete run; unknown or time out; the user's mistake; a soundness violation;
an internal failure."""

_NO_OPTIONS: dict[str, str] = {}
_FAILED = "verifkit: internal failure, please report it: "
_LOG = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="verifkit")
@click.option("--debug", is_flag=True, help="Show progress on stderr, and the traceback of an internal failure.")
def cli(debug: bool) -> None:
    """Does this network keep this property on this set of inputs, and how far does the guarantee reach?"""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO if debug else logging.WARNING, format="%(message)s")


@cli.command()
@click.argument("model", type=click.Path())
@click.argument("spec", type=click.Path())
@click.option("--verifier", default="auto", show_default=True, help="A name from `verifkit list`.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the verifier; repeatable.")
@click.option("--timeout", type=float, metavar="S", help="Wall seconds. [default: no limit]")
@click.option("--memory", type=float, metavar="GIB", help="Resident memory. [default: no limit]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def verify(
    model: str,
    spec: str,
    verifier: str,
    options: tuple[str, ...],
    timeout: float | None,
    memory: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """Verify MODEL (.onnx) against SPEC (.vnnlib); either may be gzipped.

    The first line is unsat (the property holds), sat (a counterexample was found and replayed), unknown, timeout or
    error.
    """
    from verifkit.budget import Budget
    from verifkit.supervise import Stopped, supervised

    limits = Budget(seconds=timeout, memory_bytes=_bytes(memory))
    work = partial(_answer, model, spec, verifier, _parse_options(options), limits, seed, as_json)
    try:
        answer = supervised(work, limits)
    except Stopped as stop:
        answer = _without_answer(stop.reason, as_json)
    if answer.err:
        _say(answer.err)
    _print(answer.out, newline=False)
    sys.exit(answer.status)


def _without_answer(reason: str, as_json: bool) -> Answer:
    """What is said where the process around the verifier had to end it, or found it ended."""
    from verifkit.result import Reason
    from verifkit.supervise import Answer

    failed = reason == "error"
    word = "unknown" if reason == "memout" else reason
    detail = "the verifier's process ended without an answer" if failed else Reason(reason).advice
    verdict = {"verdict": "UNKNOWN", "word": word, "reason": reason, "detail": detail}
    text = json.dumps(verdict) if as_json else f"{word}\nreason: {reason} - {detail}"
    return Answer(FAILURE if failed else UNDECIDED, text + "\n", _FAILED + detail if failed else "")


def _answer(
    model: str, spec: str, verifier: str, options: dict[str, str], limits: Budget, seed: int, as_json: bool
) -> Answer:
    """What `verify` says and ends with; runs in a process of its own."""
    from verifkit.commands import answer_text, ask
    from verifkit.supervise import Answer

    try:
        result = ask(model, spec, verifier, options, limits, seed)
    except VerifkitError as error:
        return Answer(MISTAKE, "", f"verifkit: {error}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 (an internal failure has its own word and status)
        _LOG.info("internal failure", exc_info=True)
        detail = f"{type(error).__name__}: {error}"
        failure = {"verdict": "UNKNOWN", "word": "error", "reason": "error", "detail": detail}
        return Answer(FAILURE, (json.dumps(failure) if as_json else "error") + "\n", _FAILED + detail)
    status = DEFINITE if result.word in ("sat", "unsat") else FAILURE if result.word == "error" else UNDECIDED
    return Answer(status, json.dumps(result.to_json()) + "\n" if as_json else answer_text(result))


@cli.command()
@click.argument("suite", type=click.Path())
@click.option("--verifiers", metavar="A,B", help="Names in place of the suite's own.")
@click.option("--timeout", type=float, metavar="S", help="Seconds per instance and verifier, in place of the suite's.")
@click.option("--memory", type=float, metavar="GIB", help="Resident memory of each worker.")
@click.option("--jobs", type=int, metavar="N", help="Workers at a time. [default: the number of CPUs]")
@click.option("--out", type=click.Path(), metavar="DIR", help="Result folder. [default: results/SUITE]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--repeats", type=int, default=1, show_default=True)
def bench(
    suite: str,
    verifiers: str | None,
    timeout: float | None,
    memory: float | None,
    jobs: int | None,
    out: str | None,
    seed: int,
    repeats: int,
) -> None:
    """Put every instance of SUITE (a .toml file or a VNN-COMP folder) to every verifier.

    Rows go to DIR/rows.jsonl as they come; the same command again goes on where it stopped.
    """
    from verifkit.bench.runner import run
    from verifkit.bench.suite import load_suite

    loaded = load_suite(suite)
    folder = Path(out) if out else Path("results") / loaded.name
    chosen = (
        None if verifiers is None else [(name.strip(), _NO_OPTIONS) for name in verifiers.split(",") if name.strip()]
    )
    summary = run(
        loaded,
        out=folder,
        verifiers=chosen,
        timeout=timeout,
        memory_bytes=_bytes(memory),
        jobs=jobs,
        seed=seed,
        repeats=repeats,
        progress=_progress(),
    )
    _say(f"{summary.rows} rows: {summary.written} run now, {summary.standing} stood already, {summary.errors} errors")
    _summarise(folder)


@cli.command()
@click.argument("folder", type=click.Path(), metavar="DIR")
def report(folder: str) -> None:
    """Write DIR/report.html from DIR/rows.jsonl and print the table. Exit status 3 where answers contradict."""
    _summarise(Path(folder))


@cli.command("list")
def list_() -> None:
    """Every certifier: kind by norm, operators, needs, paper."""
    from verifkit.commands import listing

    _print(listing(terminal_width=_terminal_width()))


@cli.command()
@click.argument("name")
def cite(name: str) -> None:
    """The BibTeX entry of the paper behind a certifier."""
    from verifkit.registry import verifier_class

    _print(verifier_class(name).capabilities.paper.bibtex())


def _summarise(folder: Path) -> None:
    from verifkit.bench.contradictions import find, soundness_violations
    from verifkit.bench.frame import load_rows
    from verifkit.bench.report import write_report
    from verifkit.bench.terminal import render

    rows = load_rows(folder)
    page = write_report(folder)
    _print(render(rows, console_is_terminal=sys.stdout.isatty()))
    _print(f"report: {page}")
    if soundness_violations(find(rows)):
        _say("soundness violation: answers of this run contradict each other; the report opens with them")
        sys.exit(VIOLATION)


def _progress() -> Callable[[int, int, Any], None]:
    """A line that rewrites itself on a terminal; elsewhere a line for every tenth of the run."""

    def on_terminal(done: int, total: int, row: Any) -> None:
        click.echo(f"\r{done}/{total} {row.verifier} {row.word}\x1b[K", err=True, nl=done == total)

    def plain(done: int, total: int, row: Any) -> None:
        if done == total or done % max(1, total // 10) == 0:
            click.echo(f"{done}/{total} rows", err=True)

    return on_terminal if sys.stderr.isatty() else plain


def _terminal_width() -> int | None:
    """Columns, or None where the output is no terminal and nothing may be cut."""
    return os.get_terminal_size().columns if sys.stdout.isatty() else None


def _parse_options(pairs: tuple[str, ...]) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise OptionError(f"--option takes NAME=VALUE, not '{pair}'")
        options[name] = value
    return options


def _bytes(gib: float | None) -> int | None:
    """GiB as bytes; raises `OptionError`."""
    if gib is None:
        return None
    if not 0 < gib < 2.0**20:
        raise OptionError(f"--memory takes a positive number of GiB, not {gib:g}")
    return int(gib * 2**30)


def _print(text: str, *, newline: bool = True) -> None:
    """Writes to stdout. A reader that has gone is no failure: the exit status still says what there was to say."""
    try:
        sys.stdout.write(text + "\n" * newline)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise VerifkitError(f"stdout cannot be written: {error.strerror}") from None


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)


def main() -> NoReturn:
    """The entry point: every failure ends in one sentence and its exit status."""
    for name in ("stdout", "stderr"):  # started with one of them closed
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open as long as we are)
    try:
        cli(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(MISTAKE)
    except click.ClickException as error:
        _say(f"verifkit: {error.format_message().rstrip('.')}; see `verifkit --help`")
        sys.exit(MISTAKE)
    except VerifkitError as error:
        _say(f"verifkit: {error}")
        sys.exit(FAILURE if isinstance(error, RunnerError) else MISTAKE)
    except (KeyboardInterrupt, click.Abort):
        _say("verifkit: interrupted; what was written stands")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 (the last resort: an internal failure has its own status)
        _LOG.info("internal failure", exc_info=True)
        _say(f"{_FAILED}{type(error).__name__}: {error}")
        sys.exit(FAILURE)
    sys.exit(DEFINITE)


if __name__ == "__main__":
    main()

"""The commands that ask one question about one model: `verify`, `bounds`, `radius`, `supports`.

Each runs in a process of its own, which is ended at its limits (docs/adr/0008).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from verifkit.cli.output import (
    DEFINITE,
    FAILED,
    FAILURE,
    MISTAKE,
    TOOL,
    UNDECIDED,
    VIOLATION,
    as_bytes,
    parse_options,
    print_out,
    say,
    terminal_width,
)
from verifkit.errors import OptionError, VerifkitError

if TYPE_CHECKING:
    from verifkit.budget import Budget
    from verifkit.cli.radius_answer import Asked
    from verifkit.input_sets import Norm
    from verifkit.supervise import Answer

_LOG = logging.getLogger(__name__)

LIMITS = (
    click.option("--timeout", type=float, metavar="S", help="Wall seconds. [default: no limit]"),
    click.option("--memory", type=float, metavar="GIB", help="Resident memory. [default: no limit]"),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."),
)


def verifier_options(default: str) -> tuple[Callable[[Any], Any], ...]:
    return (
        click.option("--verifier", default=default, show_default=True, help="A name from `verifkit list`."),
        click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Of the verifier; repeatable."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    )


TOOL_DIR = click.option(
    "--tool-dir",
    type=click.Path(),
    metavar="DIR",
    help="Ask the tool whose VNN-COMP scripts are in DIR (vnncomp_tool).",
)


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, shown in the order given."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command()
@click.argument("model", type=click.Path())
@click.argument("spec", type=click.Path())
@with_options(*verifier_options("auto"))
@TOOL_DIR
@click.option("--trace", type=click.Path(), metavar="FILE", help="Write every step to FILE (reluplex).")
@with_options(*LIMITS)
def verify(
    model: str,
    spec: str,
    verifier: str,
    options: tuple[str, ...],
    seed: int,
    tool_dir: str | None,
    trace: str | None,
    timeout: float | None,
    memory: float | None,
    as_json: bool,
) -> None:
    """Verify MODEL (.onnx) against SPEC (.vnnlib); either may be gzipped.

    The first line is unsat (the property holds), sat (a counterexample was found and replayed), unknown, timeout or
    error.
    """
    limits, (verifier, chosen) = limits_of(timeout, memory), who_is_asked(verifier, options, tool_dir)
    supervise(partial(_verify, model, spec, verifier, chosen, limits, seed, trace), limits, as_json)


@click.command()
@click.argument("model", type=click.Path())
@click.argument("spec", type=click.Path())
@click.option("--layer", metavar="NAME", help="Every entry of this layer, in place of a line for each layer.")
@click.option("--out", type=click.Path(), metavar="FILE", help="Also write NAME.lower and NAME.upper to an .npz file.")
@with_options(*verifier_options("crown"), *LIMITS)
def bounds(
    model: str,
    spec: str,
    layer: str | None,
    out: str | None,
    verifier: str,
    options: tuple[str, ...],
    seed: int,
    timeout: float | None,
    memory: float | None,
    as_json: bool,
) -> None:
    """Bounds on every value inside MODEL (.onnx) over the inputs that SPEC (.vnnlib) is about, layer by layer.

    Lower ends are rounded down, upper ends up.
    """
    limits = limits_of(timeout, memory)
    shown = layer, out, terminal_width()
    supervise(partial(_bounds, model, spec, verifier, parse_options(options), limits, seed, shown), limits, as_json)


@click.command()
@click.argument("model", type=click.Path())
@click.option("--input", "inputs", type=click.Path(), required=True, metavar="FILE", help="The input: an .npy array, "
              "or an .npz file with x (n, ...) and labels y (n,).")  # fmt: skip
@click.option("--index", type=int, metavar="N", help="Which of several inputs in FILE.")
@click.option("--label", type=int, metavar="K", help="The class to keep. [default: the file's, else the model's own]")
@click.option("--norm", type=click.Choice(["inf", "2", "1", "0"]), default="inf", show_default=True)
@click.option("--clip", nargs=2, type=str, metavar="LOW HIGH", help="The inputs that exist at all. [default: any]")
@click.option("--tolerance", type=float, default=2.0**-10, help="Of the bracket, relative. [default: 0.001]")
@with_options(*verifier_options("auto"), TOOL_DIR, *LIMITS)
def radius(
    model: str,
    inputs: str,
    index: int | None,
    label: int | None,
    norm: Norm,
    clip: tuple[str, str] | None,
    tolerance: float,
    verifier: str,
    options: tuple[str, ...],
    seed: int,
    tool_dir: str | None,
    timeout: float | None,
    memory: float | None,
    as_json: bool,
) -> None:
    """How far around an input MODEL (.onnx) keeps its class: a bracket of a certified and a falsified radius.

    Radii are in raw input units. The certified one is rounded down, the falsified one up.
    """
    from verifkit.cli.radius_answer import Asked

    limits = limits_of(timeout, memory)
    asked = Asked(model, inputs, index, label, norm, clip)
    verifier, chosen = who_is_asked(verifier, options, tool_dir)
    work = partial(_radius, asked, verifier, chosen, limits, seed, tolerance)
    supervise(work, limits, as_json)


@click.command()
@click.argument("model", type=click.Path())
@click.argument("spec", type=click.Path(), required=False)
@with_options(*LIMITS)
def supports(model: str, spec: str | None, timeout: float | None, memory: float | None, as_json: bool) -> None:
    """Which certifiers can take MODEL (.onnx), and which node stops the others; with SPEC (.vnnlib) also which take
    that property of it. Nothing is analysed.
    """
    supervise(partial(_supports, model, spec), limits_of(timeout, memory), as_json)


Said = tuple[int, str, dict[str, Any]]
"""Exit status, the answer as text, the answer as a JSON object."""


def _verify(
    model: str, spec: str, verifier: str, options: dict[str, str], limits: Budget, seed: int, trace: str | None
) -> Said:
    start = time.monotonic()  # imports take half a second on a busy machine
    from verifkit.cli.answers import answer_text, ask, with_trace

    result = ask(model, spec, verifier, with_trace(verifier, options, trace), limits, seed, start)
    status = DEFINITE if result.word in ("sat", "unsat") else FAILURE if result.word == "error" else UNDECIDED
    return status, answer_text(result), result.to_json()


def _bounds(
    model: str,
    spec: str,
    verifier: str,
    options: dict[str, str],
    limits: Budget,
    seed: int,
    shown: tuple[str | None, str | None, int | None],
) -> Said:
    """shown: the one layer asked for, the file to write, the terminal's width."""
    from verifkit.cli.bounds_answer import ask_bounds

    layer, out, width = shown
    answer = ask_bounds(model, spec, verifier, options, limits, seed).only(layer)
    if answer.layers is None:
        status = FAILURE if answer.result.word == "error" else UNDECIDED
    else:
        status = DEFINITE
        if out is not None:
            answer.save(out)
    return status, answer.to_text(entries=layer is not None, width=width), answer.to_json()


def _radius(asked: Asked, verifier: str, options: dict[str, str], limits: Budget, seed: int, tolerance: float) -> Said:
    from verifkit.cli.radius_answer import ask_radius

    answer = ask_radius(asked, verifier, options, limits, seed, tolerance)
    status = VIOLATION if answer.contradicts else DEFINITE if answer.definite else UNDECIDED
    return status, answer.to_text(), answer.to_json()


def _supports(model: str, spec: str | None) -> Said:
    from verifkit.supports import supports as find_out

    found = find_out(model, spec)
    return DEFINITE if found.any_able else UNDECIDED, found.to_text() + "\n", found.to_json()


def who_is_asked(verifier: str, options: tuple[str, ...], tool_dir: str | None) -> tuple[str, dict[str, str]]:
    """The verifier's name and options; --tool-dir stands for both of `vnncomp_tool`. Raises `OptionError`."""
    chosen = parse_options(options)
    if tool_dir is None:
        return verifier, chosen
    if verifier not in ("auto", TOOL):
        raise OptionError(f"--tool-dir asks the tool in it, --verifier asks '{verifier}': leave one of them out")
    return TOOL, {**chosen, "tool_dir": tool_dir}


def limits_of(timeout: float | None, memory: float | None) -> Budget:
    from verifkit.budget import Budget

    return Budget(seconds=timeout, memory_bytes=as_bytes(memory))


def supervise(question: Callable[[], Said], limits: Budget, as_json: bool) -> None:
    """Asks in a process of its own, prints the answer and exits with its status."""
    from verifkit.supervise import Stopped, supervised

    try:
        answer = supervised(partial(_answer, question, as_json), limits)
    except Stopped as stop:
        answer = _without_answer(stop.reason, as_json)
    if answer.err:
        say(answer.err)
    print_out(answer.out, newline=False)
    sys.exit(answer.status)


def _answer(question: Callable[[], Said], as_json: bool) -> Answer:
    """What a command says and ends with; runs in a process of its own."""
    from verifkit.supervise import Answer

    try:
        status, text, values = question()
    except VerifkitError as error:
        return Answer(MISTAKE, "", f"verifkit: {error}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 (an internal failure has its own word and status)
        _LOG.info("internal failure", exc_info=True)
        detail = f"{type(error).__name__}: {error}"
        failure = {"verdict": "UNKNOWN", "word": "error", "reason": "error", "detail": detail}
        return Answer(FAILURE, (json.dumps(failure) if as_json else "error") + "\n", FAILED + detail)
    return Answer(status, json.dumps(values) + "\n" if as_json else text)


def _without_answer(reason: str, as_json: bool) -> Answer:
    """What is said where the process around the verifier had to end it, or found it ended."""
    from verifkit.result import Reason
    from verifkit.supervise import Answer

    failed = reason == "error"
    word = "unknown" if reason == "memout" else reason
    detail = "the verifier's process ended without an answer" if failed else Reason(reason).advice
    verdict = {"verdict": "UNKNOWN", "word": word, "reason": reason, "detail": detail}
    text = json.dumps(verdict) if as_json else f"{word}\nreason: {reason} - {detail}"
    return Answer(FAILURE if failed else UNDECIDED, text + "\n", FAILED + detail if failed else "")

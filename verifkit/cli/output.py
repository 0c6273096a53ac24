"""What every command shares: exit status, the two streams, and options read from text."""

from __future__ import annotations

import os
import sys

import click

from verifkit.errors import OptionError, VerifkitError

DEFINITE, UNDECIDED, MISTAKE, VIOLATION, FAILURE = 0, 1, 2, 3, 4
"""Exit status: a definite verdict or a complete run; unknown or time out; the user's mistake; a soundness violation;
an internal failure."""

TOOL = "vnncomp_tool"
"""The verifier that `--tool-dir` asks."""

FAILED = "verifkit: internal failure, please report it: "


def print_out(text: str, *, newline: bool = True) -> None:
    """Writes to stdout. A reader that has gone is no failure: the exit status still says what there was to say."""
    try:
        sys.stdout.write(text + "\n" * newline)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise VerifkitError(f"stdout cannot be written: {error.strerror}") from None


def say(sentence: str) -> None:
    """Writes to stderr."""
    click.echo(sentence, err=True)


def terminal_width() -> int | None:
    """Columns, or None where the output is no terminal and nothing may be cut."""
    return os.get_terminal_size().columns if sys.stdout.isatty() else None


def parse_options(pairs: tuple[str, ...]) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise OptionError(f"--option takes NAME=VALUE, not '{pair}'")
        options[name] = value
    return options


def as_bytes(gib: float | None) -> int | None:
    """GiB as bytes; raises `OptionError`."""
    if gib is None:
        return None
    if not 0 < gib < 2.0**20:
        raise OptionError(f"--memory takes a positive number of GiB, not {gib:g}")
    return int(gib * 2**30)

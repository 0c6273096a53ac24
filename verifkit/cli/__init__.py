"""The command line: `verifkit verify | bounds | radius | supports | certify | audit | bench | ...`.

The contract (exit status, first line of an answer, plain output where there is no terminal) is `docs/cli.md`. Nothing
heavy is imported before the command that needs it runs.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

import click

from verifkit.cli.asking import bounds, radius, supports, verify
from verifkit.cli.comparing import compare, export, merge
from verifkit.cli.output import DEFINITE, FAILED, FAILURE, MISTAKE, say
from verifkit.cli.smoothing_runs import audit, certify
from verifkit.cli.studying import bench, cite, list_, report
from verifkit.errors import RunnerError, VerifkitError

_LOG = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="verifkit")
@click.option("--debug", is_flag=True, help="Show progress on stderr, and the traceback of an internal failure.")
def cli(debug: bool) -> None:
    """Does this network keep this property on this set of inputs, and how far does the guarantee reach?"""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO if debug else logging.WARNING)  # whatever level a library gives its own loggers
    logging.basicConfig(handlers=[handler], level=handler.level, format="%(message)s")


for _command in (verify, bounds, radius, supports, certify, audit, bench, report, export, merge, compare, list_, cite):
    cli.add_command(_command)


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
        say(f"verifkit: {error.format_message().rstrip('.')}; see `verifkit --help`")
        sys.exit(MISTAKE)
    except VerifkitError as error:
        say(f"verifkit: {error}")
        sys.exit(FAILURE if isinstance(error, RunnerError) else MISTAKE)
    except (KeyboardInterrupt, click.Abort):
        say("verifkit: interrupted; what was written stands")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 (the last resort: an internal failure has its own status)
        _LOG.info("internal failure", exc_info=True)
        say(f"{FAILED}{type(error).__name__}: {error}")
        sys.exit(FAILURE)
    sys.exit(DEFINITE)

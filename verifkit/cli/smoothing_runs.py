"""The commands about runs of a smoothing certifier over a data set: `audit`, `certify`."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from verifkit.cli.asking import LIMITS, Said, limits_of, supervise, verifier_options, with_options
from verifkit.cli.output import DEFINITE, UNDECIDED, VIOLATION, parse_options, print_out

if TYPE_CHECKING:
    from verifkit.budget import Budget
    from verifkit.cli.certify_answer import CertifyAsked

_RHO = click.option("--rho", type=float, default=0.001, show_default=True,
                    help="Chance that the data-set column is wrong.")  # fmt: skip


@click.command()
@click.argument("log", type=click.Path(), metavar="LOG.tsv")
@click.option("--sigma", type=float, required=True, help="Noise level, in raw input units.")
@click.option("--n", "draws", type=int, required=True, metavar="N", help="Draws that bounded each probability.")
@click.option("--alpha", type=float, required=True, metavar="A", help="The claimed chance of error per input.")
@_RHO
@click.option("--radius", "radii", type=float, multiple=True, metavar="R",
              help="Certified accuracy at R; repeatable. [default: the usual ones]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def audit(
    log: str, sigma: float, draws: int, alpha: float, rho: float, radii: tuple[float, ...], as_json: bool
) -> None:
    """Is a smoothing log (idx, label, predict, radius, correct, time, tab-separated) what it says it is?

    Which radii cannot arise, which alpha they fit, where rounding overstates; certified accuracy recomputed. Exit
    status 3 on findings.
    """
    from verifkit.analysis.smoothing.attainable import Claim
    from verifkit.cli.audit_answer import ask_audit, audit_json, audit_text

    found = ask_audit(log, Claim(sigma, draws, alpha), rho, radii)
    print_out(json.dumps(audit_json(found)) if as_json else audit_text(found), newline=as_json)
    if found.findings:
        sys.exit(VIOLATION)


@click.command()
@click.argument("model", type=click.Path())
@click.argument("data", type=click.Path(), metavar="DATA.npz")
@click.option("--out", type=click.Path(), required=True, metavar="LOG.tsv", help="The log; rows in it stand.")
@click.option("--every", type=int, default=1, show_default=True, metavar="K", help="Only inputs 0, K, 2 K, ...")
@click.option("--max", "most", type=int, metavar="M", help="At most M inputs. [default: all]")
@click.option("--radius", "radii", type=float, multiple=True, metavar="R",
              help="Certified accuracy at R; repeatable. Mode anytime stops there.")  # fmt: skip
@click.option("--simultaneous", is_flag=True, help="All certificates hold at once with 1 - alpha (Bonferroni).")
@_RHO
@with_options(*verifier_options("smoothing"), *LIMITS)
def certify(
    model: str,
    data: str,
    out: str,
    every: int,
    most: int | None,
    radii: tuple[float, ...],
    simultaneous: bool,
    rho: float,
    verifier: str,
    options: tuple[str, ...],
    seed: int,
    timeout: float | None,
    memory: float | None,
    as_json: bool,
) -> None:
    """Certify the inputs of DATA.npz (x and labels y), one row of LOG.tsv each, radii rounded down.

    The same command again goes on where it stopped. No input is certified twice: that would spend alpha again.
    """
    from verifkit.cli.certify_answer import CertifyAsked

    limits, chosen = limits_of(timeout, memory), parse_options(options)
    asked = CertifyAsked(model, data, out, verifier, chosen, every, most, radii, simultaneous, rho)
    supervise(partial(_certify, asked, limits, seed), limits, as_json)


def _certify(asked: CertifyAsked, limits: Budget, seed: int) -> Said:
    from verifkit.cli.certify_answer import ask_certify

    answer = ask_certify(asked, limits, seed)
    return DEFINITE if answer.complete else UNDECIDED, answer.to_text(), answer.to_json()

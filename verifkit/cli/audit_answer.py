"""What `verifkit audit` asks and says, without the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from verifkit.analysis.smoothing.attainable import Claim
from verifkit.analysis.smoothing.audit import Audit, Fit, audit
from verifkit.analysis.smoothing.log import read_log
from verifkit.errors import OptionError
from verifkit.radius import shorten

SHOWN_ROWS = 10
"""Rows that a finding names; the JSON object has all."""


def ask_audit(path: str, claim: Claim, rho: float, radii: Sequence[float]) -> Audit:
    """Reads the log and audits it; raises `VerifkitError` for a user's mistake."""
    check_radii(radii)
    return audit(read_log(path), claim, rho=rho, radii=sorted(radii))


def check_radii(radii: Sequence[float]) -> None:
    wrong = [r for r in radii if not 0 <= r < float("inf")]
    if wrong:
        raise OptionError(f"--radius takes a number from 0 on, not {wrong[0]:g}")


def audit_text(found: Audit) -> str:
    claim, count = found.claim, len(found.findings)
    first = "no findings" if not count else "1 finding" if count == 1 else f"{count} findings"
    lines = [
        f"audit: {first} in {found.rows} rows",
        f"claim: n {claim.draws}, alpha {claim.alpha:g}, sigma {claim.sigma:g}; "
        f"the largest possible radius is {shorten(claim.largest, 6)}",
        f"rows: {found.certified} with a radius, {found.abstained} abstentions",
    ]
    if found.certified:
        lines.append(f"claimed: {_fit(found.claimed)}")
        lines += [f"fits: {_fit(fit)}" for fit in found.fitting]
    for finding in found.findings:
        more = len(finding.rows) - SHOWN_ROWS
        shown = ", ".join(map(str, finding.rows[:SHOWN_ROWS])) + (f" and {more} more" if more > 0 else "")
        lines.append(f"finding: {finding.what}; idx {shown}")
    lines += ["", "radius  as printed  recomputed  data set  simultaneous"]
    lines += [
        f"{a.radius:<6g}  {share(a.printed):>10}  {share(a.recomputed):>10}  {share(a.dataset):>8}  "
        f"{share(a.simultaneous):>12}"
        for a in found.accuracy
    ]
    return "\n".join(lines) + "\n"


def share(value: float) -> str:
    """A share of counted rows with four decimals, rounded down; a float just below such a number is that number."""
    return f"{math.floor(value * 1e4 + 1e-6) / 1e4:.4f}"


def audit_json(found: Audit) -> dict[str, Any]:
    return {
        "claim": asdict(found.claim),
        "largest": found.claim.largest,
        "rows": found.rows,
        "certified": found.certified,
        "abstained": found.abstained,
        "claimed": _fit_json(found.claimed),
        "fitting": [_fit_json(fit) for fit in found.fitting],
        "findings": [{"what": finding.what, "rows": list(finding.rows)} for finding in found.findings],
        "rho": found.rho,
        "accuracy": [asdict(a) for a in found.accuracy],
    }


def _fit(fit: Fit) -> str:
    digits = fit.digits if fit.places is None else f"{fit.places} {fit.digits}"
    return f"alpha {fit.alpha:g}: {fit.matched} of {fit.fits.size} radii, rounded {fit.rounding}, {digits}"


def _fit_json(fit: Fit) -> dict[str, Any]:
    return {
        "alpha": fit.alpha,
        "matched": fit.matched,
        "of": int(fit.fits.size),
        "rounding": str(fit.rounding),
        "digits": str(fit.digits),
    }

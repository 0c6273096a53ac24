"""Whether the run's answers can be trusted: contradictions, misses against alpha, and the attacks that an audit added.

Reads all rows, the audit's among them: they contradict like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from verifkit.bench.audit.contradictions import Coverage, MissCount
from verifkit.bench.audit.finding import Contradiction
from verifkit.bench.audit.review import review
from verifkit.bench.rows.frame import audits, grouped, records

LISTED = 100
"""Contradictions on the page at most."""
WHERE = {
    "inside": "inside a certified radius, where none may succeed",
    "outside": "just above an exact radius, where one should: tests the attack and how tight the radius is, no proof",
}


@dataclass(frozen=True)
class AuditCount:
    """Attacks that the study's audit added. where: of `WHERE`; succeeded: those with a confirmed witness."""

    where: str
    verifier: str
    attacks: int
    succeeded: int


@dataclass(frozen=True)
class Soundness:
    """The soundness page. found: violations first, at most `LISTED` of `total`."""

    found: Sequence[Contradiction]
    total: int
    violations: int
    coverage: Coverage
    misses: Sequence[MissCount]
    audits: Sequence[AuditCount]


def soundness(df: pd.DataFrame) -> Soundness:
    """All that the page says of soundness; `df` with the audit's rows."""
    audit = review(df)
    counts = [
        AuditCount(where, verifier, len(own), sum(r["verdict"] == "VIOLATED" for r in own))
        for (where, verifier), own in grouped(records(audits(df)), "audit", "method").items()
    ]
    found = audit.findings
    return Soundness(found[:LISTED], len(found), len(audit.violations), audit.coverage, audit.misses, counts)

"""Whether the run's answers can be trusted: all that the audit knows, as the page and the summary show it.

Reads all rows, the audit's among them: they contradict like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from verifkit.bench.audit.attacks import BEYOND
from verifkit.bench.audit.finding import Contradiction
from verifkit.bench.audit.review import AttackCount, Review, attack_count, review
from verifkit.bench.audit.witnesses import ClassifiedWitness, WitnessClass
from verifkit.bench.report.terminal import checks
from verifkit.bench.rows.frame import audits, grouped, records

LISTED = 100
"""Findings, and counterexamples that are not strict, on the page at most."""
WHERE = {
    "inside": "inside a certified radius: none may succeed",
    "outside": f"at {BEYOND} x an exact radius: should succeed; says how strong the attack is, nothing of soundness",
}


@dataclass(frozen=True)
class AttackLine:
    """The attacks by one verifier that the study's audit added. where: of `WHERE`."""

    where: str
    verifier: str
    count: AttackCount


@dataclass(frozen=True)
class Soundness:
    """The soundness page. found: violations first, at most `LISTED` of all. doubtful: counterexamples that are not
    strict, at most `LISTED` of `doubtful_total`. checks: of `verifkit.bench.report.terminal.checks`.
    """

    audit: Review
    found: Sequence[Contradiction]
    attacks: Sequence[AttackLine]
    doubtful: Sequence[ClassifiedWitness]
    doubtful_total: int
    checks: Sequence[tuple[str, str]]

    @property
    def total(self) -> int:
        return len(self.audit.findings)

    @property
    def violations(self) -> int:
        return len(self.audit.violations)


def soundness(df: pd.DataFrame) -> Soundness:
    """All that the page says of soundness; `df` with the audit's rows."""
    audit = review(df)
    lines = [
        AttackLine(where, verifier, attack_count(own))
        for (where, verifier), own in grouped(records(audits(df)), "audit", "method").items()
    ]
    doubtful = [w for w in audit.witnesses if w.kind is not WitnessClass.STRICT]
    return Soundness(audit, audit.findings[:LISTED], lines, doubtful[:LISTED], len(doubtful), checks(audit))

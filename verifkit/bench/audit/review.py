"""The whole audit of a run in one object: what a report shows, and what the exit status says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from verifkit.bench.audit.attacks import INSIDE, OUTSIDE
from verifkit.bench.audit.contradictions import Coverage, MissCount, coverage, find, misses
from verifkit.bench.audit.finding import Contradiction, in_order
from verifkit.bench.audit.laws import LawCount, check_laws
from verifkit.bench.audit.unattacked import Unattacked, resisted, unattacked
from verifkit.bench.audit.witnesses import ClassifiedWitness, WitnessCount, classified, counted
from verifkit.bench.rows.frame import records


@dataclass(frozen=True)
class AttackCount:
    """The attacks that the study added itself, one kind of them.

    asked: how many. succeeded: found a violation. resisted: looked to the end and found none. undone: neither (time,
    memory, an error, or an attack that cannot take the model).
    """

    asked: int
    succeeded: int
    resisted: int

    @property
    def undone(self) -> int:
        return self.asked - self.succeeded - self.resisted


@dataclass(frozen=True)
class Review:
    """findings: contradictions, broken laws and misses, violations first. laws: how often each order law was checked.

    inside: attacks at radii that were certified; a success is among the findings. outside: attacks a little above exact
    radii; how many succeed says how strong the attack is. unattacked: claims that no attack put to the test, and why.
    witnesses: every counterexample with its class; witness_counts: how many of each, per verifier.
    """

    findings: tuple[Contradiction, ...]
    misses: tuple[MissCount, ...]
    coverage: Coverage
    laws: tuple[LawCount, ...]
    inside: AttackCount
    outside: AttackCount
    unattacked: tuple[Unattacked, ...]
    witnesses: tuple[ClassifiedWitness, ...]
    witness_counts: tuple[WitnessCount, ...]

    @property
    def violations(self) -> tuple[Contradiction, ...]:
        """The findings that set the exit status."""
        return tuple(found for found in self.findings if found.is_violation)


def review(df: pd.DataFrame) -> Review:
    """Audits the rows of a run (`verifkit.bench.rows.frame.load_rows`)."""
    witnesses = classified(df)
    broken, laws = check_laws(df)
    return Review(
        findings=tuple(in_order([*find(df), *broken])),
        misses=tuple(misses(df)),
        coverage=coverage(df),
        laws=tuple(laws),
        inside=_attacks(df, INSIDE),
        outside=_attacks(df, OUTSIDE),
        unattacked=tuple(unattacked(df)),
        witnesses=tuple(witnesses),
        witness_counts=tuple(counted(witnesses)),
    )


def attack_count(rows: Sequence[dict[str, Any]]) -> AttackCount:
    """What became of these attacks."""
    return AttackCount(len(rows), sum(r["verdict"] == "VIOLATED" for r in rows), sum(map(resisted, rows)))


def _attacks(df: pd.DataFrame, why: str) -> AttackCount:
    return attack_count(records(df[df["audit"] == why]))

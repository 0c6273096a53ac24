"""The whole audit of a run in one object: what a report shows, and what the exit status says."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from verifkit.bench.audit.attacks import INSIDE, OUTSIDE
from verifkit.bench.audit.contradictions import Coverage, MissCount, coverage, find, misses
from verifkit.bench.audit.finding import Contradiction, in_order
from verifkit.bench.audit.laws import LawCount, check_laws
from verifkit.bench.audit.witnesses import ClassifiedWitness, WitnessCount, classified, counted
from verifkit.bench.rows.frame import NETWORK, records


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
    radii; how many succeed says how strong the attack is. unattacked: claims about another subject than the network, or
    with a chance to be wrong, about samples: an attack on the network says nothing of them. witnesses: every
    counterexample with its class; witness_counts: how many of each, per verifier.
    """

    findings: tuple[Contradiction, ...]
    misses: tuple[MissCount, ...]
    coverage: Coverage
    laws: tuple[LawCount, ...]
    inside: AttackCount
    outside: AttackCount
    unattacked: int
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
        unattacked=_unattacked(df),
        witnesses=tuple(witnesses),
        witness_counts=tuple(counted(witnesses)),
    )


def _attacks(df: pd.DataFrame, why: str) -> AttackCount:
    own = df[df["audit"] == why]
    resisted = (own["verdict"] == "UNKNOWN") & (own["reason"] == "incomplete")
    return AttackCount(len(own), int((own["verdict"] == "VIOLATED").sum()), int(resisted.sum()))


def _unattacked(df: pd.DataFrame) -> int:
    """Certain claims about the network are attacked; these are the others, about samples."""
    held = [r for r in records(df) if r["verdict"] == "HOLDS" and r["index"] == r["index"]]
    return sum(r["subject"] != NETWORK or r["failure_probability"] > 0 for r in held)

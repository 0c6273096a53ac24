"""Counterexamples by how far they can be trusted: strict, within tolerance, invalid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pandas as pd

from verifkit.bench.audit.contradictions import is_strict
from verifkit.bench.rows.frame import records
from verifkit.verifier import NOT_REPLAYED


class WitnessClass(StrEnum):
    """STRICT: in the set as written, and replayed there. TOLERATED: replayed, but outside the set as written, by no
    more than the competition's 1e-4. INVALID: no replay confirms it, or it lies farther outside."""

    STRICT = "strict"
    TOLERATED = "within 1e-4"
    INVALID = "invalid"


@dataclass(frozen=True)
class ClassifiedWitness:
    """One counterexample. line: of its row; by: which replay confirms it, "" where none does."""

    verifier: str
    instance: str
    line: int
    kind: WitnessClass
    by: str


@dataclass(frozen=True)
class WitnessCount:
    """How many counterexamples of each class a verifier gave."""

    verifier: str
    strict: int
    tolerated: int
    invalid: int


def classified(df: pd.DataFrame) -> list[ClassifiedWitness]:
    """Every counterexample of a run, in the order of the rows; those that a verifier claimed and none saw as well."""
    return list(_classified(df))


def _classified(df: pd.DataFrame) -> Iterator[ClassifiedWitness]:
    for row in records(df):
        kind = witness_class(row)
        if kind is not None:
            witness = row["witness"] if isinstance(row["witness"], dict) else {}
            by = str(witness.get("confirmed_by") or "")
            yield ClassifiedWitness(row["method"], row["instance"], int(row["line"]), kind, by)


def witness_class(row: dict[str, Any]) -> WitnessClass | None:
    """The class of a row's counterexample; None for a row that claims none."""
    witness = row["witness"]
    if not isinstance(witness, dict):
        claimed = row["verdict"] == "VIOLATED" or (row["reason"] == "unconfirmed" and row["detail"] == NOT_REPLAYED)
        return WitnessClass.INVALID if claimed else None
    if not witness.get("confirmed_by"):
        return WitnessClass.INVALID
    if is_strict(witness):
        return WitnessClass.STRICT
    return WitnessClass.TOLERATED if witness.get("within_tolerance") else WitnessClass.INVALID


def counted(found: list[ClassifiedWitness]) -> list[WitnessCount]:
    """Per verifier, in the order of their names."""
    counts = Counter((w.verifier, w.kind) for w in found)
    return [
        WitnessCount(
            name, *(counts[name, kind] for kind in (WitnessClass.STRICT, WitnessClass.TOLERATED, WitnessClass.INVALID))
        )
        for name in sorted({w.verifier for w in found})
    ]

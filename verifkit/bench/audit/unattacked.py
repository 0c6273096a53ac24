"""Claims that no attack put to the test, and why: what a run without a successful attack says nothing about."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pandas as pd

from verifkit.bench.audit.contradictions import sample_key
from verifkit.bench.rows.frame import NETWORK, records
from verifkit.radius import LARGEST

Row = dict[str, Any]


class Reason(StrEnum):
    """Why a claim was not attacked, in the order of a report."""

    SUBJECT = "about the smoothed classifier: an error of the network does not refute it"
    CHANCE = "may be wrong by chance: one error does not refute it"
    PROPERTY = "about a VNN-LIB property: the audit attacks balls around samples"
    SPARSE = "about an l0 ball: no attack takes it"
    UNDONE = "the attack did not end: time, memory, an error, or a model that it cannot take"
    ABSENT = "no attack at that radius: a run without the audit, or cut short"


@dataclass(frozen=True)
class Unattacked:
    """So many answers HOLDS that no attack could refute, for one reason."""

    reason: Reason
    claims: int


def unattacked(df: pd.DataFrame) -> list[Unattacked]:
    """The HOLDS rows that no attack reached, by reason; attacks of the suite and of the audit count alike.

    A ball was attacked where an attack on the same or a larger one looked to the end and found nothing, or one on the
    same or a smaller one succeeded; a VNN-LIB property where an attack on that very property did either.
    """
    attacks: defaultdict[Hashable, list[Row]] = defaultdict(list)
    for row in records(df):
        if row["kind"] == "falsifier" and row["question"] == "verify":
            attacks[_key(row)].append(row)
    reasons = (_reason(row, attacks[_key(row)]) for row in records(df[df["audit"] == ""]) if row["verdict"] == "HOLDS")
    counts = Counter(reason for reason in reasons if reason is not None)
    return [Unattacked(reason, counts[reason]) for reason in Reason if counts[reason]]


def resisted(attack: Row) -> bool:
    """Whether the attack looked to the end and found nothing."""
    return bool(attack["verdict"] == "UNKNOWN" and attack["reason"] == "incomplete")


def _reason(row: Row, attacks: Sequence[Row]) -> Reason | None:
    if row["subject"] != NETWORK:
        return Reason.SUBJECT
    if row["failure_probability"] > 0:
        return Reason.CHANCE
    about_sample = sample_key(row) is not None
    radius = row["certified"] if row["question"] == "radius" else row["radius"]
    if any(_settled(attack, radius) if about_sample else _ended(attack) for attack in attacks):
        return None
    if attacks and not any(map(_ended, attacks)):
        return Reason.UNDONE
    if not about_sample:
        return Reason.PROPERTY
    return Reason.SPARSE if row["norm"] == "0" else Reason.ABSENT


def _settled(attack: Row, radius: float) -> bool:
    if resisted(attack):
        return bool(attack["radius"] >= min(radius, LARGEST))
    return bool(attack["verdict"] == "VIOLATED" and attack["radius"] <= radius)


def _ended(attack: Row) -> bool:
    return resisted(attack) or attack["verdict"] == "VIOLATED"


def _key(row: Row) -> Hashable:
    return sample_key(row) or (row["model_hash"], row["property_hash"], row["norm"])

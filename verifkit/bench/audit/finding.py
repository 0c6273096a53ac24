"""What an audit finds: one sentence, the rows it rests on, and whether it is a violation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ContradictionKind(StrEnum):
    """SOUNDNESS, EXPECTED and LAW are violations; the others are listed and explained."""

    SOUNDNESS = "soundness violation"
    EXPECTED = "differs from a firm expected verdict"
    LAW = "broken order law"
    REPORTED = "disagrees with a reported verdict"
    SEMANTICS = "differs across semantics"
    TOLERATED = "witness only within tolerance"
    UNCONFIRMED = "witness not confirmed"
    MISS = "miss of a probabilistic answer"


_VIOLATIONS = (ContradictionKind.SOUNDNESS, ContradictionKind.EXPECTED, ContradictionKind.LAW)


@dataclass(frozen=True)
class Contradiction:
    """One contradiction. rows: the lines of rows.jsonl that it rests on, counted from 1."""

    kind: ContradictionKind
    sentence: str
    rows: tuple[int, ...]

    @property
    def is_violation(self) -> bool:
        return self.kind in _VIOLATIONS


def in_order(found: list[Contradiction]) -> list[Contradiction]:
    """Violations first, then in the order of the rows."""
    order = list(ContradictionKind)
    return sorted(found, key=lambda c: (order.index(c.kind), c.rows))

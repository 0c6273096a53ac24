"""Two answers to one question by one verifier: are they the same, and can both be right?"""

from __future__ import annotations

from typing import Any

from verifkit.bench.rows.schema import Row
from verifkit.result import Subject, Verdict

DEFINITE = (str(Verdict.HOLDS), str(Verdict.VIOLATED))


def same_answer(one: Row, other: Row) -> bool:
    """Whether verdict, reason and radii are equal; a witness may be another one."""
    return _answer(one) == _answer(other)


def contradict(one: Row, other: Row) -> bool:
    """Whether two answers to the same question exclude each other.

    Only where both are about the same subject, neither may be wrong by chance, and a replay confirms the violation.
    """
    return _refutes(one, other) or _refutes(other, one)


def subject(row: Row) -> str:
    """Whom a definite answer is about."""
    return str((row.guarantee or {}).get("subject", Subject.NETWORK))


def _answer(row: Row) -> tuple[Any, ...]:
    return row.verdict, row.reason, row.certified, row.falsified, row.complete


def _refutes(unsafe: Row, safe: Row) -> bool:
    if safe.verdict != Verdict.HOLDS or _chance(safe) > 0:
        return False
    if safe.question == "radius":  # a witness is always replayed on the network itself
        reached = safe.certified is not None and unsafe.falsified is not None and unsafe.falsified <= safe.certified
        return reached and subject(safe) == Subject.NETWORK
    shown = unsafe.verdict == Verdict.VIOLATED and bool((unsafe.witness or {}).get("confirmed_by"))
    return shown and _chance(unsafe) == 0 and subject(safe) == subject(unsafe)


def _chance(row: Row) -> float:
    return float((row.guarantee or {}).get("failure_probability", 0.0))

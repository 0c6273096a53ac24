"""Certified radii carried from one norm to another, always marked as converted.

An l2 ball of radius r contains the l-inf ball of radius r / sqrt(d) of inputs with d entries, and an l-inf ball of
radius e the l2 ball of radius e. Both hold within the same box of inputs that exist. d is the length of a witness in
the run's own rows; without one nothing is carried from l2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from verifkit.bench.report.sections import by_subject
from verifkit.bench.rows.frame import grouped

Row = dict[str, Any]


def converted_sections(lines: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """For each model with certified radii of both norms: verifiers by subject, own and converted medians.

    lines: of `radius_table`.
    """
    entries = _entries(rows)
    certifying = [line for line in lines if line["norm"] in ("2", "inf") and line["with_radius"]]
    sections = []
    for section in by_subject(certifying, "model"):
        own = [line for part in section["subjects"].values() for line in part]
        if len({line["norm"] for line in own}) == 2:
            d = entries.get(section["model"])
            subjects = {
                subject: [_line(verifier, both, d) for (verifier,), both in grouped(part, "verifier").items()]
                for subject, part in section["subjects"].items()
            }
            sections.append({"model": section["model"], "entries": d, "subjects": subjects})
    return sections


def _line(verifier: str, lines: Sequence[Row], entries: int | None) -> Row:
    """Medians by norm, NaN where unknown; those of `converted_` from the other norm."""
    own: Mapping[str, float] = {line["norm"]: line["median_certified"] for line in lines}
    l2, linf = own.get("2", math.nan), own.get("inf", math.nan)
    to_linf = l2 / math.sqrt(entries) * (1 - 1e-15) if entries else math.nan
    return {"verifier": verifier, "l2": l2, "linf": linf, "converted_l2": linf, "converted_linf": to_linf}


def _entries(rows: Sequence[Row]) -> dict[str, int]:
    """By model label: how many entries its inputs have, as far as a witness says."""
    known: dict[str, int] = {}
    for row in rows:
        x = row["witness"].get("x") if isinstance(row["witness"], dict) else None
        if isinstance(x, list) and x and not isinstance(x[0], list):
            known.setdefault(row["model_label"], len(x))
    return known

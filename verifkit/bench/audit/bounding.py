"""What a row says of a method's bound: its margin, the radii that it certified or left open, whether it was cut off."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from verifkit.bench.rows.frame import NETWORK
from verifkit.radius import TOLERANCE

Row = dict[str, Any]
ATTACKS = ("pgd", "fmn")
"""Whose statistic `loss` is the least value that they saw of what a margin bounds, in double precision."""


@dataclass(frozen=True)
class Answer:
    """What a row says at one radius; margin NaN where it does not tell."""

    row: Row
    radius: float
    holds: bool
    margin: float


def answers(row: Row) -> Iterator[Answer]:
    if row["question"] == "verify":
        if not math.isnan(row["radius"]):
            yield Answer(row, row["radius"], row["verdict"] == "HOLDS", row["margin"])
        return
    if reach(row):
        yield Answer(row, reach(row), True, row["margin"])
    for radius in left_open(row)[:1]:  # the smallest of them says most
        yield Answer(row, radius, False, math.nan)


def is_full(row: Row) -> bool:
    """Whether the row's answer is about the network and was not cut off by anything."""
    definite = row["verdict"] in ("HOLDS", "VIOLATED") or row["reason"] == "incomplete"
    return bool(definite and row["subject"] == NETWORK and not row["failure_probability"] > 0)


def is_bounding(row: Row) -> bool:
    """Whether the row has a proved margin."""
    return row["verdict"] != "VIOLATED" and row["kind"] in ("complete", "incomplete") and math.isfinite(row["margin"])


def has_loss(row: Row) -> bool:
    loss = row["statistics"].get("loss")
    return row["verifier"] in ATTACKS and isinstance(loss, int | float) and math.isfinite(loss)


def reach(row: Row) -> float:
    """The certified radius, 0 where nothing is."""
    return float(row["certified"]) if row["verdict"] == "HOLDS" and row["certified"] > 0 else 0.0


def left_open(row: Row) -> list[float]:
    """The radii that were tried to the end and not decided, smallest first."""
    return sorted(float(r) for r, why in row["undecided"] or () if why == "incomplete")


def is_closed(row: Row) -> bool:
    """Whether bisection came to its end between a radius that holds and one that the method cannot decide."""
    if row["falsified"] == 0 or any(why != "incomplete" for _, why in row["undecided"] or ()):
        return False
    ends = left_open(row)
    return bool(row["complete"]) or (bool(ends) and reach(row) > 0 and ends[0] - reach(row) <= TOLERANCE * ends[0])


def size(one: float, other: float) -> float:
    return 1.0 + abs(one) + abs(other)


def who(row: Row) -> str:
    return f"{row['method']} (row {int(row['line'])})"


def has_margin(row: Row) -> str:
    return f"{who(row)} has margin {row['margin']:.9g}"


def certifies(row: Row) -> str:
    return f"{who(row)} certifies radius {reach(row):.9g}"


def states(answer: Answer) -> str:
    margin = f" with margin {answer.margin:.9g}" if math.isfinite(answer.margin) else ""
    word = "HOLDS" if answer.holds else "UNKNOWN"
    return f"{who(answer.row)} says {word} at radius {answer.radius:.9g}{margin}"

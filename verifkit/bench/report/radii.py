"""Exact, certified and attacked radii of each input side by side: of one model and norm, from rows that ask for one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from verifkit.bench.report.charts.look import style_of
from verifkit.bench.report.scores import CLOSED, certified_radius, falsified_radius, misclassified
from verifkit.bench.rows.frame import NETWORK, grouped

Row = dict[str, Any]
SIDES = {
    "complete": "complete: bracket [certified, falsified]",
    "deterministic": "certified",
    "attack": "attacked: falsified at",
    "probabilistic": "certified, another subject",
}
"""What the columns of each style say, in the order of the page: attacks stand beside what they are about."""


@dataclass(frozen=True)
class Column:
    """One verifier of the table."""

    subject: str
    verifier: str
    style: str


@dataclass(frozen=True)
class Input:
    """One input: the first repeat of each verifier, and the bracket that the complete methods have between them.

    low, high: the largest radius that one of them certified and the least that one falsified; NaN where none did.
    exact: whether that bracket is closed (`CLOSED`). wrong: whether the network itself misclassifies the input.
    """

    name: str
    low: float
    high: float
    exact: bool
    wrong: bool
    rows: Mapping[Column, Row]

    @property
    def order(self) -> float:
        """Where the input stands among others: its exact radius, or the nearest to it that is known."""
        if self.wrong:
            return 0.0
        ends = [self.high, *(reached(row) for c, row in self.rows.items() if c.style == "attack")]
        least = min((end for end in ends if not math.isnan(end)), default=math.inf)
        most = max((reached(row) for c, row in self.rows.items() if c.style != "attack"), default=0.0)
        return least if math.isfinite(least) else most


def side_by_side(rows: Iterable[Row]) -> tuple[list[Column], list[Input]]:
    """The columns, in the order of `SIDES` and within it from loose to tight, and the inputs in that of the rows."""
    asked = [r for r in rows if r["question"] == "radius"]
    looseness: dict[Column, float] = {}
    for (subject, verifier), own in grouped(asked, "subject", "method").items():
        column = Column(subject, verifier, style_of(_kind(own), subject))
        looseness[column] = _looseness(column, own)
    columns = sorted(looseness, key=lambda c: (list(SIDES).index(c.style), -looseness[c]))
    by_name = {(c.subject, c.verifier): c for c in columns}
    inputs: dict[tuple[str, str], dict[Column, Row]] = {}
    for row in asked:
        cells = inputs.setdefault((row["instance"], row["property_hash"]), {})
        column = by_name[row["subject"], row["method"]]
        if column not in cells or row["repeat"] < cells[column]["repeat"]:
            cells[column] = row
    return columns, [_input(name, cells) for (name, _), cells in inputs.items()]


def _looseness(column: Column, rows: Sequence[Row]) -> float:
    """Larger for looser methods, by the median radius; complete methods stay in the order of their names."""
    if column.style == "complete":
        return 0.0
    if column.style == "attack":
        return median(0.0 if misclassified(r) else falsified_radius(r) for r in rows)
    return -median(map(certified_radius, rows))


def reached(row: Row) -> float:
    """The radius that the row gives its input: an attack's falsified one (NaN: none), else the certified one."""
    return float(row["falsified"]) if row["kind"] == "falsifier" else certified_radius(row)


def short_names(inputs: Sequence[Input]) -> dict[str, str]:
    """Names without the words that all begin and end with: "net/test[3] l2 radius" is "test[3]" beside "test[4]"."""
    names = [one.name for one in inputs]
    if len(set(names)) < 2:
        return {name: name for name in names}
    start = _shared(names).rfind("/") + 1
    ending = _shared([name[::-1] for name in names])[::-1]
    end = len(ending) - ending.find(" ") if " " in ending else 0
    return {name: name[start : len(name) - end] or name for name in names}


def _shared(names: Sequence[str]) -> str:
    """The letters that all begin with: those that the first and the last in order have in common."""
    first, last = min(names), max(names)
    return first[: next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def evenly(inputs: Sequence[Input], most: int) -> list[Input]:
    """At most so many inputs in the order of their radii, evenly spaced."""
    ordered = sorted(inputs, key=lambda i: (i.order, i.name))
    if len(ordered) <= most:
        return ordered
    return [ordered[round(k * (len(ordered) - 1) / (most - 1))] for k in range(most)]


def _input(name: str, cells: Mapping[Column, Row]) -> Input:
    complete = [row for c, row in cells.items() if c.style == "complete"]
    low = max((certified_radius(row) for row in complete), default=math.nan)
    high = min((row["falsified"] for row in complete if not math.isnan(row["falsified"])), default=math.nan)
    wrong = any(misclassified(row) for c, row in cells.items() if c.subject == NETWORK)
    return Input(
        name=name,
        low=low or math.nan,
        high=high,
        exact=not wrong and low > 0 and 0 <= high - low <= CLOSED * high,
        wrong=wrong,
        rows=cells,
    )


def _kind(rows: Sequence[Row]) -> str:
    return " / ".join(sorted({r["kind"] for r in rows if r["kind"]}))

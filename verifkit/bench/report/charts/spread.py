"""Radii by verifier: median, middle half and whole range over all inputs, one row each, in groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from verifkit.bench.report.charts.figure import BELOW, LETTER, Figure, Scale, bottom_axis, file_name, line, linear, text
from verifkit.bench.report.charts.look import Look
from verifkit.bench.report.radii import Column, Input
from verifkit.bench.report.scores import certified_radius, falsified_radius
from verifkit.bench.report.terminal import norm_name

GROUPS = {
    "complete": "complete methods: certified, exact where the bracket closes",
    "deterministic": "incomplete methods: certified",
    "attack": "attacks: falsified at",
    "probabilistic": "about another subject, the smoothed classifier: certified",
}
ROW, HEADING, LEFT, WIDTH, RIGHT = 24, 21, 118, 440, 22
COLUMNS = ("verifier", "subject", "kind", "inputs", "least", "lower_quartile", "median", "upper_quartile", "largest")


def spread_figure(
    columns: Sequence[Column], inputs: Sequence[Input], looks: Mapping[str, Look], model: str, norm: str
) -> Figure | None:
    """None where no verifier reached anything. Nothing certified counts as 0, nothing falsified as unbounded."""
    data = [_line(column, inputs) for column in columns]
    values = [v for row in data for v in row[6:] if 0 < v < math.inf]
    if not values:
        return None
    names = max(len(c.verifier) for c in columns)
    left = round(min(210.0, max(LEFT, 24 + LETTER * names)))
    right = left + WIDTH
    scale = linear(values, left, right)
    parts, y = [], 6.0
    marks = []
    for style, group in groupby(zip(columns, data, strict=True), key=lambda pair: pair[0].style):
        marks.append(text(4, y + 15, GROUPS[style], kind="name"))
        y += HEADING
        for column, row in group:
            marks += _marks(looks[column.verifier], row, scale, y + ROW / 2)
            marks.append(text(left - 12, y + ROW / 2 + 4, column.verifier, anchor="end", kind="ink"))
            y += ROW
    parts.append(bottom_axis(scale, 6, y, f"{norm_name(norm)} radius, raw input units"))
    notes = [
        "Marker: median. Thick: middle half. Thin: least to largest.",
        "All inputs count, misclassified ones as 0.",
    ]
    height = round(y + BELOW + 17 * len(notes) + 4)
    parts += [text(4, y + BELOW + 13 + 17 * k, note) for k, note in enumerate(notes)]
    return Figure(
        name=file_name("spread", model, norm),
        title=f"Certified and attacked {norm_name(norm)} radii by verifier, {model}",
        columns=COLUMNS,
        rows=tuple(data),
        body="".join(parts + marks),
        width=right + RIGHT,
        height=height,
    )


def _line(column: Column, inputs: Sequence[Input]) -> tuple[Any, ...]:
    rows = [(one, one.rows[column]) for one in inputs if column in one.rows]
    if column.style == "attack":
        reach = [0.0 if one.wrong else falsified_radius(row) for one, row in rows]
    else:
        reach = [certified_radius(row) for _, row in rows]
    reach.sort()
    kind = rows[0][1]["kind"]
    return column.verifier, column.subject, kind, len(reach), *(quantile(reach, q) for q in (0, 0.25, 0.5, 0.75, 1))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values, between neighbours; infinite where a neighbour that counts is."""
    at = share * (len(ordered) - 1)
    low, rest = math.floor(at), at - math.floor(at)
    if rest < 1e-9:
        return ordered[low]
    return math.inf if math.isinf(ordered[low + 1]) else ordered[low] + rest * (ordered[low + 1] - ordered[low])


def _marks(look: Look, row: Sequence[Any], scale: Scale, y: float) -> list[str]:
    least, low, middle, high, most = row[4:]
    parts = [f'<g class="k{look.colour}">{line(scale(least), y, scale(most), y, "reach")}']
    if low < math.inf:
        parts.append(line(scale(low), y, scale(high), y, "range"))
    parts.append("</g>")
    if middle < math.inf:
        parts.append(look.mark(scale(middle), y))
    if most == math.inf:
        parts.append(text(scale.end + 4, y + 4, "∞"))
    return parts

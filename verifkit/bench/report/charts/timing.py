"""Radius against time: one point for each input and verifier, medians marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from verifkit.bench.report.charts.figure import (
    BELOW,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Figure,
    bottom_axis,
    file_name,
    left_axis,
    linear,
    logarithmic,
)
from verifkit.bench.report.charts.look import Look, legend
from verifkit.bench.report.radii import Column, Input, reached
from verifkit.bench.report.terminal import norm_name

POINTS = 600
"""Of all verifiers in one drawing at most; those that fall on the same four pixels count once."""
COLUMNS = ("input", "verifier", "subject", "kind", "seconds", "radius")


def timing_figure(
    columns: Sequence[Column], inputs: Sequence[Input], looks: Mapping[str, Look], model: str, norm: str
) -> Figure | None:
    """None where no radius has a time. An input without a radius stands at 0; an attack without one is left out."""
    points = {c: _points(c, inputs) for c in columns}
    every = [point for own in points.values() for point in own]
    if not any(0 < radius < math.inf for _, _, radius in every):
        return None
    top = TOP + 22
    bottom, width = top + HEIGHT, LEFT + WIDTH + RIGHT
    across = logarithmic([seconds for _, seconds, _ in every], LEFT, LEFT + WIDTH)
    up = linear([radius for *_, radius in every], bottom, top)
    parts = [left_axis(up, LEFT, LEFT + WIDTH, f"{norm_name(norm)} radius: certified, of attacks falsified")]
    parts.append(bottom_axis(across, top, bottom, "seconds, the verifier's own (logarithmic)"))
    marks, thinned = [], False
    most = max(20, POINTS // len(points))
    for column, own in points.items():
        if own:
            look = looks[column.verifier]
            at = sorted({(4 * round(across(s) / 4), 4 * round(up(r) / 4)) for _, s, r in own if r < math.inf})
            chosen = at if len(at) <= most else [at[round(k * (len(at) - 1) / (most - 1))] for k in range(most)]
            thinned = thinned or len(chosen) < len(at)
            parts.append(look.points(chosen))
            middle = median(r for *_, r in own)
            if middle < math.inf:
                marks.append(look.mark(across(median(s for _, s, _ in own)), up(middle)))
    notes = ["Numbered marker: median time and median radius. At 0: nothing certified, or misclassified."]
    notes += [f"At most {most} points of each verifier are drawn; the data has all."] * thinned
    key, below = legend([looks[c.verifier] for c, own in points.items() if own], bottom + BELOW, width, notes)
    return Figure(
        name=file_name("time", model, norm),
        title=f"{norm_name(norm)} radius against time, {model}",
        columns=COLUMNS,
        rows=tuple(
            (name, c.verifier, c.subject, c.style, seconds, radius)
            for c, own in points.items()
            for name, seconds, radius in own
        ),
        body="".join(parts + marks) + key,
        width=width,
        height=round(below),
    )


def _points(column: Column, inputs: Sequence[Input]) -> list[tuple[str, float, float]]:
    found: list[tuple[str, float, float]] = []
    for one in inputs:
        row: Any = one.rows.get(column)
        if row is not None and not (math.isnan(row["seconds"]) or math.isnan(reached(row))):
            found.append((one.name, row["seconds"], reached(row)))
    return found

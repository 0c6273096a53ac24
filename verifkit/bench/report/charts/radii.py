"""Radii of each input: what complete methods close in on, what is certified and what is attacked, on one axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from verifkit.bench.report.charts.figure import (
    BELOW,
    LEFT,
    LETTER,
    RIGHT,
    TOP,
    WIDTH,
    Figure,
    bottom_axis,
    file_name,
    linear,
    shortened,
    text,
)
from verifkit.bench.report.charts.look import Look, legend
from verifkit.bench.report.radii import Column, Input, evenly, reached, short_names
from verifkit.bench.report.terminal import norm_name
from verifkit.bench.rows.frame import NETWORK

SHOWN = 16
"""Inputs in one drawing at most; its data has all."""
LANE, LEAST, MOST = 5, 22, 60
"""Height of a verifier's lane inside an input's row, and the least and the most height of a row, in pixels."""
COLUMNS = ("input", "verifier", "subject", "kind", "certified", "falsified", "misclassified")


def radii_figure(
    columns: Sequence[Column], inputs: Sequence[Input], looks: Mapping[str, Look], model: str, norm: str
) -> Figure | None:
    """One row for each input, in the order of its radius; None where no radius is known."""
    chosen = evenly(inputs, SHOWN)
    values = [v for one in chosen for v in (one.high, *map(reached, one.rows.values())) if 0 < v < math.inf]
    if not values:
        return None
    names = short_names(inputs)
    labels = max(len(names[one.name]) for one in chosen)
    left = min(200.0, max(float(LEFT), 16 + LETTER * labels))
    scale, width = linear(values, left, LEFT + WIDTH), LEFT + WIDTH + RIGHT
    height = min(MOST, max(LEAST, LANE * (len(columns) + 1)))
    parts, bottom = [], TOP + height * len(chosen)
    for k, one in enumerate(chosen):
        top = TOP + height * k
        if k % 2 == 0:
            parts.append(f'<path class="band" d="M0,{top}H{width}V{top + height}H0z"/>')
        parts.append(text(left - 8, top + height / 2 + 4, shortened(names[one.name], left - 16), anchor="end"))
    parts.append(bottom_axis(scale, TOP, bottom, f"{norm_name(norm)} radius, raw input units"))
    for k, one in enumerate(chosen):
        parts += _marks(one, columns, looks, scale, TOP + height * k, height)
    notes = ["Upright bar: the bracket of the complete methods, the exact radius where it is closed."]
    notes += [f"{len(chosen)} of {len(inputs)} inputs, evenly spaced in the order of their radii."] * (
        len(chosen) < len(inputs)
    )
    bars = any(not math.isnan(one.high) and not one.wrong for one in chosen)
    key, below = legend([looks[c.verifier] for c in columns], bottom + BELOW, width, notes if bars else notes[1:])
    return Figure(
        name=file_name("radii", model, norm),
        title=f"Exact, certified and attacked {norm_name(norm)} radius of each input, {model}",
        columns=COLUMNS,
        rows=tuple(_data(columns, inputs)),
        body="".join(parts) + key,
        width=width,
        height=round(below),
    )


def _marks(
    one: Input, columns: Sequence[Column], looks: Mapping[str, Look], scale: Any, top: float, height: float
) -> list[str]:
    parts = []
    if one.wrong:
        parts.append(text(scale.start + 6, top + height / 2 + 4, "misclassified: no radius about the network"))
    elif not math.isnan(one.high):
        a, b = scale(0 if math.isnan(one.low) else one.low), scale(one.high)
        path = f"M{a:g},{top + 2:g}V{top + height - 2:g}" + (f"H{b:g}V{top + 2:g}z" if b - a > 1 else "")
        parts.append(f'<path class="bracket" d="{path}"/>')
    for lane, column in enumerate(columns, start=1):
        value = reached(one.rows[column]) if column in one.rows else math.nan
        if 0 < value < math.inf and not (one.wrong and column.subject == NETWORK):
            parts.append(looks[column.verifier].points([(scale(value), top + height * lane / (len(columns) + 1))]))
    return parts


def _data(columns: Sequence[Column], inputs: Sequence[Input]) -> list[tuple[Any, ...]]:
    return [
        (one.name, c.verifier, c.subject, row["kind"], row["certified"], row["falsified"], one.wrong)
        for one in inputs
        for c in columns
        if (row := one.rows.get(c)) is not None
    ]

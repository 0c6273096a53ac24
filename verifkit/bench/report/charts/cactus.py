"""Cactus (survival) plots: how many questions each verifier had decided within a time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from verifkit.bench.report.charts.figure import (
    BELOW,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Figure,
    Scale,
    bottom_axis,
    file_name,
    left_axis,
    logarithmic,
    shortened,
)
from verifkit.bench.report.charts.look import Look, legend
from verifkit.bench.report.scores import misclassified, question_of
from verifkit.bench.report.terminal import SMOOTHED_NOTE
from verifkit.bench.rows.frame import NETWORK, grouped

Row = dict[str, Any]
COLUMNS = ("verifier", "subject", "kind", "seconds", "decided")
COUNTED = {
    "verify": "questions decided: HOLDS or VIOLATED (attacks: VIOLATED only)",
    "radius": "inputs with a certified radius, or misclassified (attacks: falsified)",
}
BEST = "first on each"
"""The least time in which any verifier settled each question. It is not the virtual best of `pairs`, whose answers
count by how good they are."""


def cactus_figure(rows: Sequence[Row], looks: Mapping[str, Look], question: str, subject: str) -> Figure | None:
    """rows: of one question and subject. None where nothing was decided in a known time."""
    times = {verifier: _times(own) for (verifier,), own in grouped(rows, "method").items()}
    known = [t for own in times.values() for t in own]
    if not known:
        return None
    kinds = {r["method"]: r["kind"] for r in rows}
    if len(times) > 1 and subject == NETWORK:  # smoothed in other ways they are no answers to one question
        times[BEST] = _first_on_each(rows)
    total = len({_repeat_of(r) for r in rows})
    width, top = LEFT + WIDTH + RIGHT, TOP + 22
    bottom = top + HEIGHT
    across = logarithmic(known, LEFT, LEFT + WIDTH)
    up = Scale(0.0, max(1, total) * 1.04, bottom, top, whole=True)
    parts = [left_axis(up, LEFT, LEFT + WIDTH, f"{COUNTED[question]}, of {total}", lambda v: f"{v:g}")]
    parts.append(bottom_axis(across, top, bottom, "seconds for one of them, the verifier's own (logarithmic)"))
    marks: list[str] = []
    taken: list[tuple[float, float]] = []
    for verifier, own in times.items():
        if own:
            kind = "best" if verifier == BEST else looks[verifier].curve
            parts.append(f'<path class="{kind}" d="{_path(own, across, up)}"/>')
            if verifier != BEST:
                taken.append(_place(own, across, up, taken))
                marks.append(looks[verifier].mark(*taken[-1]))
    attacks = "attacks included" if question == "verify" else "without attacks"
    notes = [f"Dotted, unmarked: {BEST}, the time of whoever settled it first, {attacks}."] * (BEST in times)
    notes += [shortened(note, width) for note in SMOOTHED_NOTE.replace(": ", ":\n").split("\n")] * (
        subject != NETWORK and len(times) > 1
    )
    silent = [v for v, own in times.items() if not own]
    notes += [shortened(f"None decided by: {', '.join(silent)}.", width)] * bool(silent)
    key, below = legend([looks[v] for v, own in times.items() if own and v != BEST], bottom + BELOW, width, notes)
    about = "" if subject == NETWORK else f" about the {subject}"
    what = "Questions decided" if question == "verify" else "Radii found"
    return Figure(
        name=file_name("cactus", question, *subject.split()),
        title=f"{what}{about} against time",
        columns=COLUMNS,
        rows=tuple((v, subject, kinds.get(v, ""), t, k) for v, own in times.items() for k, t in enumerate(own, 1)),
        body="".join(parts + marks) + key,
        width=width,
        height=round(below),
    )


def decided(row: Row) -> bool:
    """Whether the row counts: a verdict; of a radius question a certified radius, or the attack's falsified one."""
    if row["question"] != "radius":
        return row["verdict"] in ("HOLDS", "VIOLATED")
    if row["kind"] == "falsifier":
        return not math.isnan(row["falsified"])
    return misclassified(row) or row["verdict"] in ("HOLDS", "VIOLATED")


def _times(rows: Sequence[Row]) -> list[float]:
    return sorted(r["seconds"] for r in rows if decided(r) and not math.isnan(r["seconds"]))


def _first_on_each(rows: Sequence[Row]) -> list[float]:
    """The least time in which each question was decided. Attacks take part where they can decide: not in radii."""
    best: defaultdict[Any, float] = defaultdict(lambda: math.inf)
    for row in rows:
        certifies = row["question"] != "radius" or row["kind"] != "falsifier"
        if certifies and decided(row) and not math.isnan(row["seconds"]):
            best[_repeat_of(row)] = min(best[_repeat_of(row)], row["seconds"])
    return sorted(best.values())


def _repeat_of(row: Row) -> Any:
    return (*question_of(row), row["instance"], row["repeat"])


def _path(times: Sequence[float], across: Scale, up: Scale) -> str:
    """Steps up at each time, one corner for each pixel at most, and on to the right end."""
    corners: dict[int, float] = {}
    for count, time in enumerate(times, start=1):
        corners[round(across(time))] = up(count)
    path = f"M{next(iter(corners))},{up(0):g}"
    for x, y in corners.items():
        path += f"H{x}V{y:g}"
    return f"{path}H{across.end:g}"


def _place(
    times: Sequence[float], across: Scale, up: Scale, taken: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """Near the right end of the curve, moved left by a marker's width while it would cover another."""
    x = across.end - 14
    while True:
        y = up(sum(across(t) <= x for t in times))
        if x < across.start + 30 or all(math.hypot(x - a, y - b) >= 19 for a, b in taken):
            return x, y
        x -= 10

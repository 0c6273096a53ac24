"""Certified accuracy against radius: step curves of one model and norm."""

from __future__ import annotations

import math
from collections import Counter
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
)
from verifkit.bench.report.charts.look import Look, legend
from verifkit.bench.report.scores import certified_radius, misclassified
from verifkit.bench.report.terminal import norm_name, percent
from verifkit.bench.rows.frame import grouped

Row = dict[str, Any]
Steps = list[tuple[float, float]]
APART = 19.0
"""Pixels between the centers of two markers that do not cover each other."""
NESTED = 3
"""A curve that others cover is drawn wider, by this many of them at most."""
COLUMNS = ("verifier", "subject", "kind", "radius", "share")
HEAD = 22
"""Room above the plot for the name of its axis."""


def accuracy_figure(
    rows: Sequence[Row], lines: Sequence[Row], looks: Mapping[str, Look], model: str, norm: str
) -> Figure | None:
    """Step curves of one model and norm; None where there is nothing worth drawing.

    rows: of that model and norm. lines: theirs of `certified_accuracy`, for what was asked at given radii only.
    """
    steps = curves(rows, lines)
    kinds = {(line["subject"], line["verifier"]): line["kind"] for line in lines}
    drawn = {group: points for group, points in steps.items() if points and group in kinds}
    ends = [p[0] for group, points in drawn.items() for p in points if kinds[group] != "falsifier"]
    ends = [e for e in ends if 0 < e < math.inf] or [p[0] for own in drawn.values() for p in own if 0 < p[0] < math.inf]
    if not ends or not any(len(points) > 1 for points in drawn.values()):
        return None
    right = max(ends) * 1.08
    placed = place_curves(list(drawn.values()), right)
    shown = [looks[verifier] for _, verifier in drawn]
    data = [
        (verifier, subject, kinds[subject, verifier], radius, share)
        for (subject, verifier), points in drawn.items()
        for radius, share in points
    ]
    return Figure(
        name=file_name("accuracy", model, norm),
        title=f"Certified accuracy against {norm_name(norm)} radius, {model}",
        columns=COLUMNS,
        rows=tuple(data),
        **_body(placed, shown, right, norm),
    )


def _body(placed: Sequence[Row], shown: Sequence[Look], right: float, norm: str) -> Row:
    top, bottom = TOP + HEAD, TOP + HEAD + HEIGHT
    across, up = Scale(0.0, right, LEFT, LEFT + WIDTH), Scale(0.0, 1.0, bottom, top)
    name = "share of all inputs that are right and certified (attacks: not falsified)"
    parts = [left_axis(up, LEFT, LEFT + WIDTH, name, lambda v: percent(v).replace(".0", ""))]
    parts.append(bottom_axis(across, top, bottom, f"{norm_name(norm)} radius, raw input units", grid=False))
    for curve, look in zip(placed, shown, strict=True):
        wider = f" w{curve['wider']}" if curve["wider"] else ""
        parts.append(f'<path class="{look.curve}{wider}" transform="translate({LEFT} {top})" d="{curve["path"]}"/>')
    parts += [
        look.mark(LEFT + curve["mark"][0], top + curve["mark"][1]) for curve, look in zip(placed, shown, strict=True)
    ]
    width = LEFT + WIDTH + RIGHT
    key, below = legend(shown, bottom + BELOW, width)
    return {"body": "".join(parts) + key, "width": width, "height": round(below)}


def curves(rows: Sequence[Row], lines: Sequence[Row]) -> dict[tuple[str, str], Steps]:
    """By subject and verifier: (radius up to which it stands, share), from rows that ask for a radius or at some."""
    steps = {(s, v): _steps(own) for (s, v), own in grouped(rows, "subject", "method").items()}
    fixed = grouped((line for line in lines if line["source"] == "verify"), "subject", "verifier")
    return steps | {(s, v): _steps_at_radii(own) for (s, v), own in fixed.items()}


def place_curves(curves: Sequence[Steps], right: float) -> list[Row]:
    """For each curve its path, a place for its marker that covers no other, and how many later curves lie on it."""
    placed: list[Row] = []
    for k, points in enumerate(curves):
        path, _ = _path(points, right, 0.5)
        others = [_corners(other, right) for j, other in enumerate(curves) if j != k]
        along = {part: _path(points, right, part / 20)[1] for part in range(2, 20)}
        places = sorted((_shared(mark, others), abs(part - 10), mark) for part, mark in along.items())
        placed.append({"path": path, "mark": _free([mark for *_, mark in places], [c["mark"] for c in placed])})
    for k, curve in enumerate(placed):
        curve["wider"] = min(NESTED, sum(other["path"] == curve["path"] for other in placed[k + 1 :]))
    return placed


def _free(places: Sequence[tuple[float, int]], taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The first of the places on a curve where a marker covers none that is there; above or below one if all do."""
    for x, y in places:
        if all(math.hypot(x - a, y - b) >= APART for a, b in taken):
            return x, y
    x, y = places[0]
    for step in range(1, 2 * len(taken) + 2):
        shift = (step + 1) // 2 * APART * (1 if step % 2 else -1)
        if 0 <= y + shift <= HEIGHT and all(math.hypot(x - a, y + shift - b) >= APART for a, b in taken):
            return x, y + shift
    return x, y


def _steps(rows: Sequence[Row]) -> Steps:
    """(radius up to which it stands, share), non-increasing; the share certified, or for attacks not yet falsified."""
    rows = [r for r in rows if r["question"] == "radius"]
    if not rows:
        return []
    attack = all(r["kind"] == "falsifier" for r in rows)
    wrong = sum(misclassified(r) for r in rows)
    falsified = [math.inf if math.isnan(r["falsified"]) else r["falsified"] for r in rows if not misclassified(r)]
    reach = falsified if attack else [c for c in map(certified_radius, rows) if c > 0]
    left, points = (len(rows) - wrong if attack else len(reach)), []
    for radius, count in sorted(Counter(reach).items()):
        points.append((radius, left / len(rows)))
        left -= count
    ended = not points or points[-1][0] == math.inf
    return points if ended else [*points, (math.inf, left / len(rows))]


def _steps_at_radii(lines: Sequence[Row]) -> Steps:
    """The same from questions at given radii: a share certified stands up to its radius, one falsified from it on."""
    lines = sorted(lines, key=lambda line: float(line["radius"]))
    if not math.isnan(lines[0]["accuracy"]):
        return [(line["radius"], line["accuracy"]) for line in lines]
    shares = [1 - lines[0]["misclassified"] / lines[0]["rows"], *(line["upper"] for line in lines)]
    return list(zip([*(line["radius"] for line in lines), math.inf], shares, strict=True))


def _path(points: Sequence[tuple[float, float]], right: float, at: float) -> tuple[str, tuple[float, int]]:
    """SVG path of a step curve on whole pixels (short, however many rows), and where along it its number stands."""
    corners = _corners(points, right)
    goal = at * max((x for x, share in corners.items() if share > 0), default=WIDTH)
    path, height = "", -1
    for x, share in corners.items():
        y = round((1 - share) * HEIGHT)
        if y != height:
            path += f"V{y}" if path else f"M0,{y}"
        if share <= 0:
            break  # the rest runs along the axis
        height = y
        path += f"H{x}"
    marked = next(share for x, share in corners.items() if x >= min(goal, max(corners)))
    return path, (round(goal, 1), round((1 - marked) * HEIGHT))


def _corners(points: Sequence[tuple[float, float]], right: float) -> dict[int, float]:
    """The share up to each pixel column where it changes."""
    corners: dict[int, float] = {}
    for radius, share in points:
        corners.setdefault(round(min(radius, right) / right * WIDTH), share)
    return corners


def _shared(mark: tuple[float, float], others: Sequence[dict[int, float]]) -> int:
    """How many of the other curves go through a marker's place, or by it so near that it could be theirs."""
    at, height = mark
    ends = ((next((s for x, s in corners.items() if x >= at), 0.0)) for corners in others)
    return sum(abs((1 - share) * HEIGHT - height) < APART / 2 for share in ends)

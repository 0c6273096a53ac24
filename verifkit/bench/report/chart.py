"""Step curves of certified accuracy against radius, as SVG paths for the report's template."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from verifkit.bench.report.scores import certified_radius, misclassified
from verifkit.bench.rows.frame import grouped

Row = dict[str, Any]
WIDTH, HEIGHT = 640, 260
"""Of a chart's plot area, in pixels."""
COLOURS, DASHES, SHAPES = 6, 4, 5
"""How many there are of each on the page: its style sheet and marker shapes are numbered as here."""
APART = 19.0
"""Pixels between the centers of two markers that do not cover each other."""
NESTED = 3
"""A curve that others cover is drawn wider, by this many of them at most."""


def step_chart(rows: Sequence[Row], lines: Sequence[Row], order: Sequence[str]) -> Row | None:
    """Step curves of one model and norm, as SVG paths; None where there is nothing worth drawing.

    order: every verifier of the report, so that one has the same number and colour in all charts.
    """
    steps = {group: _steps(own) for group, own in grouped(rows, "subject", "method").items()}
    fixed = grouped((line for line in lines if line["source"] == "verify"), "subject", "verifier")
    steps |= {group: _steps_at_radii(own) for group, own in fixed.items()}
    kinds = {(line["subject"], line["verifier"]): line["kind"] for line in lines}
    ends = [p[0] for group, points in steps.items() for p in points if kinds.get(group) != "falsifier"]
    ends = [e for e in ends if 0 < e < math.inf] or [p[0] for own in steps.values() for p in own if 0 < p[0] < math.inf]
    if not ends or not any(len(points) > 1 for points in steps.values()):
        return None
    right = max(ends) * 1.08
    tick = _round_step(right)
    ticks = [(round(k * tick, 12), round(k * tick / right * WIDTH, 1)) for k in range(int(right / tick) + 1)]
    curves: list[Row] = []
    drawn = {group: points for group, points in steps.items() if points and group in kinds}
    for group, points in drawn.items():
        place = order.index(group[1])
        path, _ = _path(points, right, 0.5)
        label = {"number": place + 1, **look(place, kinds[group]), "verifier": group[1], "subject": group[0]}
        others = [_corners(other, right) for name, other in drawn.items() if name != group]
        along = {k: _path(points, right, k / 20)[1] for k in range(2, 20)}
        places = sorted((_shared(mark, others), abs(k - 10), mark) for k, mark in along.items())
        mark = _free([mark for *_, mark in places], [c["mark"] for c in curves])
        curves.append({**label, "path": path, "mark": mark})
    for k, curve in enumerate(curves):
        curve["wider"] = min(NESTED, sum(other["path"] == curve["path"] for other in curves[k + 1 :]))
    return {"curves": curves, "ticks": ticks}


def look(place: int, kind: str) -> Row:
    """Colour, dash and marker of the verifier at that place: no two of the first hundred and twenty share all three.

    Verifiers next to each other differ in colour, those of one colour in marker and dash. The kind chooses the sort of
    dash: long strokes for certificates, short ones where a certificate may be wrong by chance, dots for attacks.
    """
    style = {"falsifier": "attack", "probabilistic": "probabilistic"}.get(kind, "deterministic")
    turn = place // COLOURS
    return {"style": style, "colour": place % COLOURS, "dash": turn % DASHES, "shape": turn % SHAPES}


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


def _steps(rows: Sequence[Row]) -> list[tuple[float, float]]:
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


def _steps_at_radii(lines: Sequence[Row]) -> list[tuple[float, float]]:
    """The same from questions at given radii: a share certified stands up to its radius, one falsified from it on."""
    lines = sorted(lines, key=lambda line: float(line["radius"]))
    if lines[0]["kind"] != "falsifier":
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


def _round_step(right: float) -> float:
    power = 10.0 ** math.floor(math.log10(right / 6))
    return float(next(power * m for m in (1, 2, 5, 10) if power * m * 6 >= right * (1 - 1e-9)))

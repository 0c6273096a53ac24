"""A figure: one drawing as SVG and its data as a table; axes and scales that all figures share.

A drawing is a few hundred short elements on whole or half pixels, styled by classes, so that a page of many stays small
and follows the reader's light or dark ground. As a file of its own it brings its style sheet, for a light ground.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from verifkit.bench.report.terminal import number

WIDTH, HEIGHT = 560, 250
"""Of a chart's plot area, in pixels."""
LEFT, TOP, RIGHT, BELOW = 62, 14, 18, 46
"""Margins around it: tick labels, and below also the name of the axis."""
LETTER = 6.6
"""Pixels that a letter of a label takes, on the safe side: nothing here can measure text."""


@dataclass(frozen=True)
class Figure:
    """One drawing with its data.

    name: of its files. title: what it shows, in one sentence. columns, rows: the data drawn, or more of it than can be
    drawn. body: SVG elements, of width x height pixels; "" where there is nothing to draw.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    body: str
    width: int
    height: int

    def inline(self) -> str:
        """The drawing as an element of a page that has `style_sheet`."""
        return self._svg("", "")

    def file(self) -> str:
        """The drawing as a file of its own: that element with a name space and the style sheet."""
        style = f"<style>{style_sheet('light')}</style>"
        return self._svg(' xmlns="http://www.w3.org/2000/svg"', style) + "\n"

    def _svg(self, space: str, style: str) -> str:
        return (
            f'<svg{space} class="chart" viewBox="0 0 {self.width} {self.height}" role="img" '
            f"aria-label={quoteattr(self.title)}>{style}{self.body}</svg>"
        )

    def csv(self) -> str:
        """The data: a header and a line for each row, numbers in full, nothing for what is absent."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])
        return text.getvalue()


def style_sheet(ground: str) -> str:
    """The rules of all drawings; `ground` "light" adds the colours, which a page has already."""
    folder = files("verifkit.bench.report").joinpath("templates")
    rules = folder.joinpath("chart.css").read_text(encoding="utf-8")
    light = folder.joinpath("light.css").read_text(encoding="utf-8")
    return " ".join((light + rules if ground == "light" else rules).split())


def file_name(*parts: str) -> str:
    """A name for files from what others wrote: at most 80 lower-case letters, digits, dots, dashes and underscores.

    Where that is not what they wrote, the start of a hash keeps names apart that would be one.
    """
    written = "-".join(parts)
    plain = re.sub(r"[^a-z0-9._]+", "-", written.lower()).strip("-.")[:80]
    return plain if plain == written else f"{plain}-{hashlib.sha256(written.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linear or logarithmic; values outside land on the nearer end. whole: of counts."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round values from end to end, five to nine; on a logarithmic scale powers of ten or parts of them."""
        if not self.log:
            step = max(round_step(self.high - self.low), 1.0 if self.whole else 0.0)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return [round(k * step, 12) for k in range(first, last + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        parts = (1,) if len(powers) > 3 else (1, 2, 5)
        each = max(1, len(powers) // 8)
        found = [10.0**p * m for p in powers if p % each == 0 for m in parts]
        return [v for v in found if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]


def round_step(reach: float) -> float:
    """A round step that divides `reach` into at most six parts."""
    power = 10.0 ** math.floor(math.log10(reach / 6))
    return float(next(power * m for m in (1, 2, 5, 10) if power * m * 6 >= reach * (1 - 1e-9)))


def linear(values: Sequence[float], start: float, end: float) -> Scale:
    """From 0 to a little above the largest finite value."""
    high = max((v for v in values if 0 < v < math.inf), default=1.0)
    return Scale(0.0, high * 1.08, start, end)


def logarithmic(values: Sequence[float], start: float, end: float, floor: float = 1e-3) -> Scale:
    """Between round ends around the positive values; none below `floor`, where clocks say little."""
    within = [max(v, floor) for v in values if v > 0 and math.isfinite(v)] or [1.0]
    low, high = min(within), max(within)
    steps = [m * 10.0**p for p in range(-12, 13) for m in (1, 2, 5)]
    below = max(s for s in steps if s <= low * (1 + 1e-9))
    above = min(s for s in steps if s >= high * (1 - 1e-9) and s > below)
    return Scale(below, above, start, end, log=True)


def text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> str:
    """A label. anchor: "start", "middle" or "end"; kind: its class."""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text{attribute(kind)} x="{x:g}" y="{y:g}"{where}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<path class="{kind}" d="M{x1:g},{y1:g}L{x2:g},{y2:g}"/>'


def attribute(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def bottom_axis(scale: Scale, top: float, bottom: float, name: str, *, grid: bool = True, unit: str = "") -> str:
    """Ticks, labels and the axis' name below a plot; grid lines up through it."""
    parts = []
    for value in scale.ticks():
        x = scale(value)
        parts += [line(x, top, x, bottom, "grid")] if grid else []
        parts.append(line(x, bottom, x, bottom + 5, "axis"))
        parts.append(text(x, bottom + 18, number(value) + unit, anchor="middle"))
    parts.append(line(scale.start, bottom, scale.end, bottom, "axis"))
    parts.append(text((scale.start + scale.end) / 2, bottom + 37, name, anchor="middle", kind="name"))
    return "".join(parts)


def left_axis(
    scale: Scale, left: float, right: float, name: str, show: Callable[[float], str] = number, *, above: float = 10
) -> str:
    """Grid lines across a plot with labels to their left; the axis' name stands above its top."""
    parts = []
    for value in scale.ticks():
        y = scale(value)
        parts += [line(left, y, right, y, "grid"), text(left - 8, y + 4, show(value), anchor="end")]
    parts.append(text(4, scale.end - above, name, kind="name"))
    return "".join(parts)


def shortened(words: str, room: float) -> str:
    """As much of a label as fits into `room` pixels; the figure's data has all of it."""
    most = max(4, int(room / LETTER))
    return words if len(words) <= most else words[: most - 1] + "…"

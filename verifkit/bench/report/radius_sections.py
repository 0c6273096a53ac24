"""The page's sections on radii, one per norm and model: summary lines, the inputs side by side, four figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from verifkit.bench.report.charts.look import Look
from verifkit.bench.report.charts.radii import radii_figure
from verifkit.bench.report.charts.spread import spread_figure
from verifkit.bench.report.charts.tightness import tightness_figure
from verifkit.bench.report.charts.timing import timing_figure
from verifkit.bench.report.radii import SIDES, Column, Input, evenly, short_names, side_by_side
from verifkit.bench.report.scores import certified_radius
from verifkit.bench.report.sections import by_subject
from verifkit.bench.report.terminal import ABSENT, bracket_text, radius_text
from verifkit.bench.rows.frame import grouped

Row = dict[str, Any]
INPUTS = 40
"""Lines of a table of inputs side by side at most; the figure's CSV file has all."""
FIGURES = {"spread": spread_figure, "radii": radii_figure, "time": timing_figure, "tightness": tightness_figure}


def radius_sections(lines: Sequence[Row], rows: Sequence[Row], looks: Mapping[str, Look]) -> list[Row]:
    """Sections with exact radii first, then those with the most kinds of methods: what compares most comes first."""
    by_group = grouped((r for r in rows if r["question"] == "radius"), "norm", "model_label")
    sections = by_subject(lines, "norm", "model")
    for section in sections:
        model, norm = section["model"], section["norm"]
        columns, inputs = side_by_side(by_group[norm, model])
        section["figures"] = {name: draw(columns, inputs, looks, model, norm) for name, draw in FIGURES.items()}
        section["subjects"] = {subject: _as_columns(part, columns) for subject, part in section["subjects"].items()}
        section["columns"], names = columns, short_names(inputs)
        section["spans"] = [(SIDES[style], len(list(own))) for style, own in groupby(columns, key=lambda c: c.style)]
        section["inputs"] = [_line(one, names[one.name], columns) for one in evenly(inputs, INPUTS)]
        section["total"] = len(inputs)
    return sorted(sections, key=lambda section: _order({c.style for c in section["columns"]}))


def _as_columns(lines: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """The summary in the order of the table of inputs."""
    places = {(c.subject, c.verifier): k for k, c in enumerate(columns)}
    return sorted(lines, key=lambda line: places[line["subject"], line["verifier"]])


def _order(styles: set[str]) -> tuple[bool, int]:
    return "complete" not in styles, -len(styles)


def _line(one: Input, name: str, columns: Sequence[Column]) -> Row:
    exact = "misclassified" if one.wrong else bracket_text(one.low, one.high)
    return {"name": name, "exact": exact, "closed": one.exact, "cells": [_cell(one, c) for c in columns]}


def _cell(one: Input, column: Column) -> Row:
    """What a verifier says of an input; `look`: "z" where it is no radius."""
    row = one.rows.get(column)
    if row is None:
        return {"text": ABSENT, "look": "z"}
    low, high = certified_radius(row), row["falsified"]
    if column.style == "attack":
        return {"text": radius_text(high, up=True), "look": ""} if high > 0 else _nothing(row, one.wrong, "not found")
    if column.style == "complete" and (low or not math.isnan(high)) and not one.wrong:
        return {"text": bracket_text(low or math.nan, high), "look": ""}
    return {"text": radius_text(low), "look": ""} if low else _nothing(row, one.wrong, "nothing")


def _nothing(row: Row, wrong: bool, words: str) -> Row:
    """Why there is no radius: the smoothed classifier may be right where the network is wrong."""
    if wrong and row["subject"] == "network":
        return {"text": ABSENT, "look": "z"}  # the column of the exact radius says it for all of them
    return {"text": row["reason"] if row["reason"] not in ("", "incomplete") else words, "look": "z"}

"""Every row of the run for the page: as a table of questions against verifiers, and as data that its script filters."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from verifkit.bench.report.scores import certified_radius, misclassified
from verifkit.bench.report.terminal import bracket_text, norm_name, number, radius_text
from verifkit.bench.rows.frame import grouped

Row = dict[str, Any]
OPEN_UP_TO = 40
"""Longer tables of instances start folded."""
PRINTED = 300
"""Lines of such tables that are worth their paper."""


def natural_order(rows: Sequence[Row]) -> list[Row]:
    """By model, instance (numbers in its name by value) and verifier, whatever order the run had."""
    return sorted(rows, key=_natural)


def instance_tables(rows: Sequence[Row], room: int) -> Row:
    """Per model instances against verifiers, in the order of the rows; as many as fit about `room` bytes."""
    models: dict[str, dict[tuple[Any, ...], list[Row]]] = {}
    for row in rows:
        question = tuple(row[c] for c in ("suite", "instance", "question", "norm"))
        models.setdefault(row["model_label"], {}).setdefault(question, []).append(row)
    shown, size, total = [], 0, sum(map(len, models.values()))
    for model, questions in sorted(models.items()):
        columns = list(grouped((r for own in questions.values() for r in own), "subject", "method"))
        size += 900 + sum(len(verifier) + 40 for _, verifier in columns)
        lines = []
        for (_, instance, _, norm), own in questions.items():
            cells = [[cell(r) for r in own if (r["subject"], r["method"]) == column] for column in columns]
            size += len(instance.encode()) + 40 + sum(len(c["text"]) + 50 for cell in cells for c in cell)
            size += 12 * len(columns)
            if size > room:
                break
            lines.append({"instance": instance, "norm": norm, "cells": cells})
        spans = list(Counter(subject for subject, _ in columns).items())
        if lines:
            shown.append({"model": model, "columns": columns, "spans": spans, "lines": lines})
    left = total - sum(len(part["lines"]) for part in shown)
    return {"models": shown, "left": left, "total": total, "open": total <= OPEN_UP_TO, "heavy": total > PRINTED}


def cell(row: Row) -> Row:
    """A verdict, or a bracket of radii; `look` is its style."""
    text, look = row["verdict"], {"HOLDS": "h", "VIOLATED": "v"}.get(row["verdict"], "u")
    if look == "u":
        text = row["reason"] or "UNKNOWN"
    if row["question"] == "radius":
        low, high = certified_radius(row), row["falsified"]
        if misclassified(row):
            text = "misclassified"
        elif low or not math.isnan(high):
            text, look = bracket_text(low or math.nan, high), look if low else "u"
    time = row["seconds"]
    return {"text": text, "look": look, "time": "" if math.isnan(time) else number(time, 2)}


def row_data(rows: Sequence[Row], room: int) -> tuple[str, int]:
    """The rows as JSON for the page's script, at most `room` bytes, and how many are left out.

    An object of lists: each text once, and rows of places in them, then certified, falsified, seconds (null: absent).
    No "<" stands in it, so that no text of others can end the element that holds it.
    """
    texts: dict[str, dict[str, int]] = {
        name: {} for name in ("instance", "model", "norm", "verifier", "subject", "verdict")
    }
    lines: list[str] = []
    size = 200
    for row in rows:
        words = _words(row)
        new = [json.dumps(word) for name, word in words.items() if word not in texts[name]]
        places = [texts[name].get(word, len(texts[name])) for name, word in words.items()]
        line = json.dumps([*places, *_ends(row), _round(row["seconds"])], separators=(",", ":"))
        size += sum(len(word) + 5 * word.count("<") + 1 for word in new) + len(line) + 1
        if size > room:
            break
        for name, word in words.items():
            texts[name].setdefault(word, len(texts[name]))
        lines.append(line)
    lists = json.dumps({name: list(own) for name, own in texts.items()}, separators=(",", ":"))
    data = f'{lists[:-1]},"rows":[{",".join(lines)}]}}'
    return data.replace("<", "\\u003c"), len(rows) - len(lines)


def _natural(row: Row) -> tuple[Any, ...]:
    parts = re.split(r"(\d+)", row["instance"])
    numbered = [(int(part), part) if k % 2 else (0, part) for k, part in enumerate(parts)]
    return row["model_label"], numbered, row["question"], row["norm"], row["method"], row["repeat"]


def _words(row: Row) -> dict[str, str]:
    verdict = row["verdict"] if row["verdict"] in ("HOLDS", "VIOLATED") else row["reason"] or "UNKNOWN"
    if row["question"] == "radius" and misclassified(row):
        verdict = "misclassified"
    return {
        "instance": row["instance"],
        "model": row["model_label"],
        "norm": norm_name(row["norm"]),
        "verifier": row["method"],
        "subject": row["subject"],
        "verdict": verdict,
    }


def _ends(row: Row) -> list[Any]:
    """The bracket as the tables print it: rounded outward to three digits; "inf" for all that the clip box admits."""
    if row["question"] != "radius" or misclassified(row):
        return [None, None]
    ends = []
    for value, up in ((certified_radius(row), False), (float(row["falsified"]), True)):
        known = value > 0
        ends.append(None if not known else "inf" if math.isinf(value) else float(radius_text(value, up=up)))
    return ends


def _round(value: float) -> float | None:
    return None if math.isnan(value) or math.isinf(value) else float(f"{value:.3g}")

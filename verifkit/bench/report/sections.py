"""What the page's tables of verdicts and accuracy say, as records for its templates."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from verifkit.bench.report.charts.accuracy import accuracy_figure
from verifkit.bench.report.charts.look import STYLES, Look, style_of
from verifkit.bench.report.scores import REASONS, certified_radius, shown_kind
from verifkit.bench.rows.frame import NETWORK, grouped

Row = dict[str, Any]
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]*\w)")
"""In a message: a number that is no part of a name."""
STANDINGS = ("certified", "smaller", "falsified", "misclassified", *REASONS, "other")
"""Where an input can stand at a radius: the columns of the table of certified accuracy that add up to its rows."""


def overview(rows: Sequence[Row]) -> Row:
    """What was asked, who answered, and how it went: the head of the page."""
    questions = grouped(rows, "suite", "instance", "model_label", "question", "norm")
    answered = sum(any(r["verdict"] in ("HOLDS", "VIOLATED") for r in q) for q in questions.values())
    started = sorted(r["started"] for r in rows if r["started"])
    asked = [
        {"question": question, "norm": norm, "count": len({key for key in questions if key[3:] == (question, norm)})}
        for question, norm in grouped(rows, "question", "norm")
    ]
    kinds: dict[str, set[str]] = {}
    for row in rows:
        kinds.setdefault(style_of(row["kind"], row["subject"]), set()).add(row["method"])
    return {
        "asked": dict(sorted(grouped(asked, "question").items(), reverse=True)),  # "verify" before "radius"
        "kinds": {style: sorted(kinds[style]) for style in STYLES if style in kinds},
        "questions": len(questions),
        "answered": answered,
        "models": sorted({r["model_name"] for r in rows}),
        "verifiers": len({r["method"] for r in rows}),
        "seconds": sum(r["wall_seconds"] for r in rows if not math.isnan(r["wall_seconds"])),
        "failed": sum(r["reason"] in ("timeout", "memout", "error") for r in rows),
        "from": _minute(started[0]) if started else "",
        "to": _minute(started[-1]) if started else "",
    }


def _minute(time: str) -> str:
    """A time as rows have it, for a reader: UTC, to the minute."""
    return f"{time[:10]} {time[11:16]} UTC" if re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\S*(Z|\+00:00)$", time) else time


def main_table(rows: Sequence[Row]) -> list[Row]:
    """One line for each subject and verifier: how many yes-or-no questions it decided, how many radii it found."""
    lines = []
    for (subject, verifier), own in grouped(rows, "subject", "method").items():
        asked, searched = ([r for r in own if (r["question"] == "radius") is radius] for radius in (False, True))
        times = [r["seconds"] for r in own if not math.isnan(r["seconds"])]
        kinds = sorted({r["kind"] for r in own} - {""})
        lines.append(
            {
                "subject": subject,
                "verifier": verifier,
                "kind": shown_kind(own),
                "style": style_of(" / ".join(kinds), subject),
                "asked": len(asked),
                **{verdict: sum(r["verdict"] == verdict for r in asked) for verdict in ("HOLDS", "VIOLATED")},
                "searched": len(searched),
                "found": sum(certified_radius(r) > 0 for r in searched),
                "falsified": sum(r["falsified"] > 0 for r in searched),
                "median_seconds": median(times) if times else math.nan,
            }
        )
    return sorted(lines, key=lambda line: STYLES.index(line["style"]))


def by_subject(lines: Sequence[Row], *keys: str) -> list[Row]:
    """Lines of a table under the values of `keys`, and inside them by subject: one heading each, never one column."""
    return [
        {**dict(zip(keys, values, strict=True)), "subjects": grouped(part, "subject")}
        for values, part in grouped(lines, *keys).items()
    ]


def verdict_sections(lines: Sequence[Row]) -> list[Row]:
    for line in lines:
        shares = {name: line[name] for name in ("HOLDS", "VIOLATED", *REASONS, "other")}
        line["bar"], start = [], 0.0
        for name, count in shares.items():
            if count:
                share = 100 * count / line["rows"]
                line["bar"].append({"name": name, "x": round(start, 2), "width": round(share, 2)})
                start += share
    sections = by_subject(lines, "question")
    for section in sections:
        own = [r for r in lines if r["question"] == section["question"]]
        section["reasons"] = [r for r in (*REASONS, "other") if any(line[r] for line in own)]
    return sections[::-1]  # "verify" before "radius"


def accuracy_sections(table: Sequence[Row], rows: Sequence[Row], looks: Mapping[str, Look]) -> list[Row]:
    """Per norm and model: the radii, the lines of the table with the best marked, and the figure."""
    sections = by_subject(table, "norm", "model")
    by_group = grouped(rows, "norm", "model_label")
    for section in sections:
        lines = [line for part in section["subjects"].values() for line in part]
        section["radii"] = sorted({line["radius"] for line in lines})
        section["subjects"] = {s: by_verifier(part) for s, part in section["subjects"].items()}
        section["standings"] = [n for n in STANDINGS if any(line[n] for line in lines)]
        model, norm = section["model"], section["norm"]
        section["figure"] = accuracy_figure(by_group[norm, model], lines, looks, model, norm)
    return sections


def by_verifier(lines: Sequence[Row]) -> list[Row]:
    """One line per verifier with its cells by radius; `best` where none about the network is higher.

    Smoothed classifiers are one function for each verifier: no best among them.
    """
    best: dict[float, float] = {}
    for line in lines:
        if line["subject"] == NETWORK and not math.isnan(line["accuracy"]):
            best[line["radius"]] = max(line["accuracy"], best.get(line["radius"], 0.0))
    table = []
    for (verifier,), own in grouped(lines, "verifier").items():
        cells = {c["radius"]: {**c, "best": 0 < c["accuracy"] == best.get(c["radius"])} for c in own}
        table.append({"verifier": verifier, "kind": own[0]["kind"], "rows": own[0]["rows"], "cells": cells})
    return table


def failures(rows: Sequence[Row]) -> list[Row]:
    """What went wrong and why, messages that differ in their numbers alone together, the most frequent first."""
    poor = [r for r in rows if r["verdict"] not in ("HOLDS", "VIOLATED") and (r["detail"] or r["output"])]
    groups = grouped([{**r, "message": NUMBER.sub("#", r["detail"])} for r in poor], "method", "reason", "message")
    lines = []
    for (method, reason, _), own in groups.items():
        detail = own[0]["detail"]
        lines.append(
            {
                "verifier": method,
                "reason": reason,
                "detail": detail if len(detail) <= 500 else f"{detail[:500]} …",
                "varies": any(r["detail"] != detail for r in own),
                "count": len(own),
                "example": own[0]["instance"],
                "output": next((r["output"][-1000:] for r in own if r["output"]), ""),
            }
        )
    return sorted(lines, key=lambda line: -line["count"])

"""One self-contained page about a run, and its tables as CSV files beside it.

The page needs no network, no script and no font. It opens with the contradictions, keeps statements about the network
and about a classifier smoothed from it under separate headings, and draws every chart from the same rows as its tables.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from verifkit.bench.audit.review import review
from verifkit.bench.report.chart import HEIGHT, WIDTH, step_chart
from verifkit.bench.report.scores import (
    REASONS,
    certified_accuracy,
    certified_radius,
    misclassified,
    radius_table,
    verdict_table,
)
from verifkit.bench.report.terminal import norm_name, number, percent, plural, radius_text, seconds
from verifkit.bench.rows.frame import SMOOTHED, grouped, load_rows, records
from verifkit.errors import SuiteError

Row = dict[str, Any]
PAGE_BYTES = 1_900_000
"""A page above this size is made again with a shorter table of instances; rows.jsonl has them all."""
DETAILED = 400
"""Above this many lines of certified accuracy, where each input stands is left to certified_accuracy.csv."""
OPEN_UP_TO = 40
"""Longer tables of instances start folded."""
LISTED = 100
"""Contradictions, failures, and models with tables of their own, at most."""
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]*\w)")
"""In a message: a number that is no part of a name."""
STANDINGS = ("certified", "smaller", "falsified", "misclassified", *REASONS, "other")
"""Where an input can stand at a radius: the columns of the table of certified accuracy that add up to its rows."""


def write_report(out: Path) -> Path:
    """Writes `report.html`, `verdicts.csv`, `radii.csv` and `certified_accuracy.csv` into `out`; returns the page.

    Raises `SuiteError` where the rows cannot be read or the folder cannot be written.
    """
    out = Path(out)
    df = load_rows(out)
    tables = {"verdicts": verdict_table(df), "radii": radius_table(df), "certified_accuracy": certified_accuracy(df)}
    page = render_page(df, tables, _environment(out))
    try:
        for name, table in tables.items():
            table.to_csv(out / f"{name}.csv", index=False)
        (out / "report.html").write_text(page, encoding="utf-8")
    except OSError as why:
        raise SuiteError(f"the report cannot be written to {out}: {why.strerror or why}") from why
    return out / "report.html"


def render_page(df: pd.DataFrame, tables: Mapping[str, pd.DataFrame], environment: Mapping[str, Any]) -> str:
    """The page as text; the same rows give the same page. `tables`: by the names of their CSV files."""
    engine = jinja2.Environment(
        loader=jinja2.PackageLoader("verifkit.bench.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    engine.filters.update(
        number=number, seconds=seconds, percent=percent, norm=norm_name, plural=plural, radius=radius_text
    )
    rows = records(df)
    audit = review(df)
    found = audit.findings
    context = {
        "title": ", ".join(sorted(set(df["suite"]) - {""})) or "run",
        "rows": rows,
        "overview": _overview(rows),
        "contradictions": found[:LISTED],
        "total_contradictions": len(found),
        "violations": len(audit.violations),
        "coverage": audit.coverage,
        "misses": audit.misses,
        "verdicts": _verdict_sections(records(tables["verdicts"])),
        "accuracy": _accuracy_sections(records(tables["certified_accuracy"]), rows)[:LISTED],
        "detailed": len(tables["certified_accuracy"]) <= DETAILED,
        "radii": _sections(records(tables["radii"]), "norm", "model")[:LISTED],
        "failures": _failures(rows)[:LISTED],
        "guarantees": _guarantees(rows),
        "limits": _limits(rows),
        "environment": [pair for pair in _flat(environment) if ".packages." not in pair[0]],
        "packages": [pair for pair in _flat(environment) if ".packages." in pair[0]],
        "subjects": sorted(set(df["subject"])),
        "smoothed": SMOOTHED,
        "width": WIDTH,
        "height": HEIGHT,
        "isnan": math.isnan,
    }
    template = engine.get_template("report.html.j2")
    page = template.render(**context, instances=_instances(rows, PAGE_BYTES))
    if len(page.encode()) > PAGE_BYTES:
        rest = len(template.render(**context, instances=_instances(rows, 0)).encode())
        page = template.render(**context, instances=_instances(rows, PAGE_BYTES - rest))
    return page


def _overview(rows: Sequence[Row]) -> dict[str, Any]:
    """The numbers at the head of the page."""
    questions = grouped(rows, "suite", "instance", "model_label", "question", "norm")
    answered = sum(any(r["verdict"] in ("HOLDS", "VIOLATED") for r in q) for q in questions.values())
    started = sorted(r["started"] for r in rows if r["started"])
    return {
        "questions": len(questions),
        "answered": answered,
        "models": len({r["model_label"] for r in rows}),
        "verifiers": len({r["method"] for r in rows}),
        "seconds": sum(r["wall_seconds"] for r in rows if not math.isnan(r["wall_seconds"])),
        "failed": sum(r["reason"] in ("timeout", "memout", "error") for r in rows),
        "from": started[0] if started else "",
        "to": started[-1] if started else "",
    }


def _sections(lines: Sequence[Row], *keys: str) -> list[Row]:
    """Lines of a table under the values of `keys`, and inside them by subject: one heading each, never one column."""
    return [
        {**dict(zip(keys, values, strict=True)), "subjects": grouped(part, "subject")}
        for values, part in grouped(lines, *keys).items()
    ]


def _verdict_sections(lines: Sequence[Row]) -> list[Row]:
    for line in lines:
        shares = {name: line[name] for name in ("HOLDS", "VIOLATED", *REASONS, "other")}
        line["bar"], start = [], 0.0
        for name, count in shares.items():
            if count:
                share = 100 * count / line["rows"]
                line["bar"].append({"name": name, "x": round(start, 2), "width": round(share, 2)})
                start += share
    sections = _sections(lines, "question")
    for section in sections:
        own = [r for r in lines if r["question"] == section["question"]]
        section["reasons"] = [r for r in (*REASONS, "other") if any(line[r] for line in own)]
    return sections[::-1]  # "verify" before "radius"


def _accuracy_sections(table: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Per norm and model: the radii, the lines of the table with the best marked, and the curves of the chart."""
    sections = _sections(table, "norm", "model")
    by_group = grouped(rows, "norm", "model_label")
    order = sorted({r["method"] for r in rows})
    for section in sections:
        lines = [line for part in section["subjects"].values() for line in part]
        section["radii"] = sorted({line["radius"] for line in lines})
        section["subjects"] = {s: _by_verifier(part) for s, part in section["subjects"].items()}
        section["standings"] = [n for n in STANDINGS if any(line[n] for line in lines)]
        section["chart"] = step_chart(by_group[section["norm"], section["model"]], lines, order)
    return sections


def _by_verifier(lines: Sequence[Row]) -> list[Row]:
    """One line per verifier with its cells by radius; `best` where no certified accuracy of this subject is higher."""
    best: dict[float, float] = {}
    for line in lines:
        if not math.isnan(line["accuracy"]):
            best[line["radius"]] = max(line["accuracy"], best.get(line["radius"], 0.0))
    table = []
    for (verifier,), own in grouped(lines, "verifier").items():
        cells = {c["radius"]: {**c, "best": 0 < c["accuracy"] == best.get(c["radius"])} for c in own}
        table.append({"verifier": verifier, "kind": own[0]["kind"], "rows": own[0]["rows"], "cells": cells})
    return table


def _instances(rows: Sequence[Row], room: int) -> Row:
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
            cells = [[_cell(r) for r in own if (r["subject"], r["method"]) == column] for column in columns]
            size += len(instance.encode()) + 40 + sum(len(c["text"]) + 50 for cell in cells for c in cell)
            size += 12 * len(columns)
            if size > room:
                break
            lines.append({"instance": instance, "norm": norm, "cells": cells})
        spans = list(Counter(subject for subject, _ in columns).items())
        if lines:
            shown.append({"model": model, "columns": columns, "spans": spans, "lines": lines})
    left = total - sum(len(part["lines"]) for part in shown)
    return {"models": shown, "left": left, "open": total <= OPEN_UP_TO}


def _cell(row: Row) -> Row:
    """A verdict, or a bracket of radii; `look` is its style."""
    text, look = row["verdict"], {"HOLDS": "h", "VIOLATED": "v"}.get(row["verdict"], "u")
    if look == "u":
        text = row["reason"] or "UNKNOWN"
    if row["question"] == "radius":
        low, high = certified_radius(row), row["falsified"]
        if misclassified(row):
            text = "misclassified"
        elif low and not math.isnan(high):
            text = f"{radius_text(low)} – {radius_text(high, up=True)}"
        elif low:
            text = f"≥ {radius_text(low)}"
        elif not math.isnan(high):
            text, look = f"< {radius_text(high, up=True)}", "u"
    time = row["seconds"]
    return {"text": text, "look": look, "time": "" if math.isnan(time) else number(time, 2)}


def _failures(rows: Sequence[Row]) -> list[Row]:
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


def _guarantees(rows: Sequence[Row]) -> list[Row]:
    """What each verifier's HOLDS claims; those that claimed nothing are listed as such."""
    lines: list[Row] = []
    for (method,), own in grouped(rows, "method").items():
        stated = [r["guarantee"] for r in own if r["verdict"] == "HOLDS" and isinstance(r["guarantee"], dict)]
        counted = Counter(json.dumps(g, sort_keys=True) for g in stated)
        kinds = ", ".join(sorted({r["kind"] for r in own} - {""})) or "not stated"
        versions = ", ".join(sorted({r["version"] for r in own} - {""}))
        options = own[0]["options"] if isinstance(own[0]["options"], dict) else {}
        head = {"verifier": method, "kind": kinds, "version": versions, "options": _flat(options)}
        lines += [{**head, "guarantee": json.loads(text), "count": n} for text, n in counted.most_common()]
        if not counted:
            lines.append({**head, "guarantee": None, "count": 0})
    return lines


def _limits(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The distinct limits and seeds in force."""

    def distinct(column: str, show: Callable[[float], str]) -> str:
        values = sorted({r[column] for r in rows if not math.isnan(r[column])})
        some = [show(v) for v in values[:20]] + (["…"] if len(values) > 20 else [])
        absent = any(math.isnan(r[column]) for r in rows)
        return ", ".join([*some, *(["none"] if absent else [])]) or "none"

    return [
        ("time limit", distinct("timeout", seconds)),
        ("memory limit", distinct("memory_limit", lambda v: f"{number(v / 2**20, 6)} MiB")),
        ("seed", distinct("seed", lambda v: f"{v:.0f}")),
        ("repeat", distinct("repeat", lambda v: f"{v:.0f}")),
    ]


def _environment(out: Path) -> dict[str, Any]:
    path = out / "environment.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError):
        return {"environment.json": "cannot be read"}
    return found if isinstance(found, dict) else {"environment": found}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested records as (dotted name, text) pairs."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)))
    return pairs

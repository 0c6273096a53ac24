"""One self-contained page about a run, with its tables and figures as files beside it.

The page needs no network, no library and no font, and stands without its one small script. It opens with the
contradictions, keeps statements about the network and about a classifier smoothed from it under separate headings, and
draws every figure from the same rows as its tables.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from verifkit.bench.report.charts.cactus import cactus_figure
from verifkit.bench.report.charts.figure import Figure, style_sheet
from verifkit.bench.report.charts.look import HEADINGS, Look, style_of
from verifkit.bench.report.converted import converted_sections
from verifkit.bench.report.instances import instance_tables, natural_order, row_data
from verifkit.bench.report.methods import environment, flat, guarantees, limits
from verifkit.bench.report.pairs import Contest, contests, pair_table
from verifkit.bench.report.radius_sections import radius_sections
from verifkit.bench.report.scores import certified_accuracy, radius_table, verdict_table
from verifkit.bench.report.sections import accuracy_sections, failures, main_table, overview, verdict_sections
from verifkit.bench.report.soundness import WHERE, soundness
from verifkit.bench.report.terminal import (
    SMOOTHED_NOTE,
    left_out,
    norm_name,
    number,
    percent,
    radius_text,
    seconds,
    smoothed_ones,
)
from verifkit.bench.rows.frame import SMOOTHED, answers, audits, grouped, load_rows, records
from verifkit.bench.rows.whole_file import whole_file
from verifkit.bench.suites.overview import plural

Row = dict[str, Any]
PAGE_BYTES = 1_900_000
"""Above this size the tables of instances hold fewer rows, then the data behind filter and sort does too."""
DETAILED = 400
"""Above this many lines of certified accuracy, where each input stands is left to certified_accuracy.csv."""
SLACK = 2000
"""Bytes for the sentences that say what was left out."""
LISTED = (30, 16, 8, 4)
"""Pairs of model and norm with sections of their own: the first that leaves room for all rows. CSV files have all."""
FAILURES = 100
MANY = 9
"""Above so many columns of verifiers their names stand upright, so that the table fits a page."""


def write_report(out: Path) -> Path:
    """Writes `report.html`, its tables as CSV files and its figures as `figures/NAME.svg` and `.csv`; returns the page.

    Each file is whole or as it was before, the page last. Raises `SuiteError` where the rows cannot be read or the
    folder cannot be written.
    """
    out = Path(out)
    df = load_rows(out)
    tables = {"verdicts": verdict_table(df), "radii": radius_table(df), "certified_accuracy": certified_accuracy(df)}
    pairs = contests(records(answers(df)))
    page, figures = render_page(df, tables, pairs, environment(out))
    tables["pairs"] = pair_table(pairs)
    texts = {f"{name}.csv": table.to_csv(index=False, lineterminator="\n") for name, table in tables.items()}
    for figure in figures:
        texts |= {f"figures/{figure.name}.svg": figure.file(), f"figures/{figure.name}.csv": figure.csv()}
    for name, text in {**texts, "report.html": page}.items():
        with whole_file(out / name) as file:
            file.write(text.encode("utf-8"))
    return out / "report.html"


def render_page(
    df: pd.DataFrame, tables: Mapping[str, pd.DataFrame], pairs: Sequence[Contest], environment: Mapping[str, Any]
) -> tuple[str, list[Figure]]:
    """The page as text and its figures; the same rows give the same. `tables`: by the names of their CSV files."""
    rows = records(answers(df))
    context = {**_context(df, rows, tables, environment), "contests": pairs}
    ordered = natural_order(rows)
    template = _engine().get_template("report.html.j2")

    def render(listed: int, table_room: int, data_room: int) -> str:
        data, left = row_data(ordered, data_room)
        tables = instance_tables(ordered, table_room)
        sections = {name: context[name][:listed] for name in ("radii", "accuracy")}
        left_out = {name: max(0, len(context[name]) - listed) for name in sections}
        more = {"instances": tables, "data": data, "data_left": left, "left_out": left_out}
        return template.render(**{**context, **sections, **more})

    page = render(LISTED[0], PAGE_BYTES, PAGE_BYTES)
    if len(page.encode()) > PAGE_BYTES:
        # Every row for filter and sort comes first; then models' own sections; the table gets what room is left.
        data = len(row_data(ordered, PAGE_BYTES)[0])
        for listed in LISTED:
            room = PAGE_BYTES - len(render(listed, 0, 0).encode()) - SLACK
            if data <= room:
                break
        page = render(listed, max(0, room - data), room)
    return page, context["figures"]


def _engine() -> jinja2.Environment:
    engine = jinja2.Environment(
        loader=jinja2.PackageLoader("verifkit.bench.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    engine.filters.update(
        number=number, seconds=seconds, percent=percent, norm=norm_name, plural=plural, radius=radius_text
    )
    return engine


def looks_of(rows: Sequence[Row]) -> dict[str, Look]:
    """By method: number, colour, marker and dash, the same in every figure of the report."""
    looks = {}
    for place, ((method,), own) in enumerate(grouped(rows, "method").items()):
        kinds = " / ".join(sorted({r["kind"] for r in own} - {""}))
        looks[method] = Look(method, place, style_of(kinds, own[0]["subject"]), own[0]["subject"])
    return looks


def _context(
    df: pd.DataFrame, rows: Sequence[Row], tables: Mapping[str, pd.DataFrame], environment: Mapping[str, Any]
) -> Row:
    """Everything that the templates read but the tables of instances."""
    looks = looks_of(rows)
    accuracy = accuracy_sections(records(tables["certified_accuracy"]), rows, looks)
    radii = radius_sections(records(tables["radii"]), rows, looks)
    cactus = [
        cactus_figure(own, looks, question, subject)
        for (question, subject), own in sorted(grouped(rows, "question", "subject").items(), key=_verify_first)
        if question in ("verify", "radius")
    ]
    cactus = [figure for figure in cactus if figure]
    figures = [f for section in radii for f in section["figures"].values() if f]
    figures += [section["figure"] for section in accuracy if section["figure"]] + cactus
    recorded = flat(next(iter(environment.values()))) if len(environment) == 1 else flat(environment)
    script, style = (_template_file(name) for name in ("report.js", "report.css"))
    return {
        "title": ", ".join(sorted(set(df["suite"]) - {""})) or "run",
        "rows": rows,
        "overview": overview(rows),
        "main": grouped(main_table(rows), "subject"),
        "sound": soundness(df),
        "total": len(df),
        "attacks": len(audits(df)),
        "replaced": left_out(df),
        "where": WHERE,
        "verdicts": verdict_sections(records(tables["verdicts"])),
        "accuracy": accuracy,
        "detailed": len(tables["certified_accuracy"]) <= DETAILED,
        "radii": radii,
        "converted": converted_sections(records(tables["radii"]), rows),
        "cactus": cactus,
        "glance": _at_a_glance(radii),
        "failures": failures(rows)[:FAILURES],
        "guarantees": guarantees(rows),
        "limits": limits(rows),
        "environments": sorted(environment),
        "environment": [pair for pair in recorded if "packages." not in pair[0]],
        "packages": [pair for pair in recorded if "packages." in pair[0]],
        "subjects": sorted(set(df["subject"])),
        "smoothed": SMOOTHED,
        "smoothed_note": SMOOTHED_NOTE,
        "smoothed_ones": smoothed_ones(df),
        "many": MANY,
        "styles": HEADINGS,
        "figures": figures,
        "isnan": math.isnan,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": f"{style} {style_sheet('page')}",
    }


def _at_a_glance(radii: Sequence[Row]) -> list[Figure]:
    """The first figure of each norm, two at most."""
    by_norm: dict[str, Figure] = {}
    for section in radii:
        if section["figures"]["spread"]:
            by_norm.setdefault(section["norm"], section["figures"]["spread"])
    return list(by_norm.values())[:2]


def _verify_first(item: tuple[tuple[Any, ...], Any]) -> tuple[bool, str]:
    return item[0][0] != "verify", item[0][1]


def _template_file(name: str) -> str:
    return files("verifkit.bench.report").joinpath("templates", name).read_text(encoding="utf-8")

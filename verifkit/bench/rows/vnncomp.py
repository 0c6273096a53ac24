"""A result folder in the layout of the verification competition's results, for one verifier.

`FOLDER/TOOL/results.csv`, headerless: `category,onnx,vnnlib,prepare_time,result,run_time`. For each `sat` the
counterexample in `FOLDER/TOOL/CATEGORY/NET_PROPERTY.counterexample.gz`, where the competition's scripts look for it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verifkit.bench.rows.schema import Row
from verifkit.bench.rows.store import iterate_rows
from verifkit.bench.rows.whole_file import whole_file
from verifkit.errors import SuiteError
from verifkit.result import counterexample_text


@dataclass(frozen=True)
class Exported:
    """table: the file `results.csv`. rows: how many it has. left_out: the verifier's rows about no VNN-LIB file."""

    table: Path
    rows: int
    left_out: int


def export_vnncomp(folder: Path, verifier: str, options: Mapping[str, str], year: str = "") -> Exported:
    """Writes `folder/vnncomp/VERIFIER`.

    options: what tells the verifier from its namesakes, values as on the command line. year: goes in front of the
    category in the folder's name (`2026_acasxu`), as in the competition's own results.

    Raises `SuiteError` where there is nothing to export, or two rows are about one instance.
    """
    rows, left_out = _rows_of(folder, verifier, options)
    tool = folder / "vnncomp" / verifier
    named = {id(row): name for row, name in zip(rows, _names(rows), strict=True)}
    for row in rows:
        if row.word == "sat" and row.witness is not None:
            category = f"{year}_{row.suite}" if year else row.suite
            with whole_file(tool / category / f"{named[id(row)]}.counterexample.gz") as file:
                outputs = [
                    math.nan if y is None else y for y in row.witness["y"]
                ]  # the scripts replay, whatever it says
                text = counterexample_text(row.witness["x"], outputs)
                file.write(gzip.compress(text.encode(), mtime=0))
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for row in rows:  # loading is inside the run: nothing is prepared
        writer.writerow([row.suite, row.model, row.property, 0.0, row.word, row.wall_seconds])
    with whole_file(tool / "results.csv") as file:
        file.write(lines.getvalue().encode())
    return Exported(tool / "results.csv", len(rows), left_out)


def _rows_of(folder: Path, verifier: str, options: Mapping[str, str]) -> tuple[list[Row], int]:
    own = [row for row in iterate_rows(folder) if row.verifier == verifier]
    if not own:
        names = sorted({row.verifier for row in iterate_rows(folder)})
        raise SuiteError(f"'{folder}' has no rows of '{verifier}', only of {', '.join(names) or 'nobody'}")
    own = [row for row in own if all(_told(row.options.get(name)) == value for name, value in options.items())]
    rows = [row for row in own if row.question == "verify" and row.index is None]
    if not rows:
        raise SuiteError(f"'{folder}' has no rows of '{verifier}' with these options about VNN-LIB files")
    by_instance: defaultdict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_instance[row.suite, row.model, row.property].append(row)
    for (_, model, prop), several in by_instance.items():
        if len(several) > 1:
            raise SuiteError(
                f"{len(several)} rows of '{verifier}' about {model} and {prop} differ in {_differing(several)}, "
                "and results.csv has room for one: name options with --option NAME=VALUE, or run into another folder"
            )
    return rows, len(own) - len(rows)


def _told(value: Any) -> str:
    """An option's value as the command line writes it."""
    return (
        "+".join(map(_told, value))
        if isinstance(value, list)
        else value
        if isinstance(value, str)
        else json.dumps(value)
    )


def _differing(rows: Iterable[Row]) -> str:
    """The options, limits and numbers in which rows about one instance differ."""
    limits = ("timeout", "memory_limit", "node_limit", "sample_limit", "seed", "repeat")
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        for name, value in (*row.options.items(), *((name, getattr(row, name)) for name in limits)):
            seen[name].add(_told(value))
    return ", ".join(name for name, values in seen.items() if len(values) > 1) or "nothing that decides them"


def _names(rows: Iterable[Row]) -> list[str]:
    """NET_PROPERTY for each row; where two would be the same, the network's folder stands in front."""
    pairs = [(Path(row.model), Path(row.property)) for row in rows]
    short = [f"{model.stem}_{prop.stem}" for model, prop in pairs]
    often = Counter((row.suite, name) for row, name in zip(rows, short, strict=True))
    return [
        name if often[row.suite, name] == 1 else f"{model.parent.name}_{name}"
        for row, name, (model, _) in zip(rows, short, pairs, strict=True)
    ]

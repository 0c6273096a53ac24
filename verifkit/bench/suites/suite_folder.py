"""Reading a VNN-COMP benchmark folder, and the small tools that both kinds of suite are read with.

A benchmark folder holds a headerless `instances.csv` with the columns `onnx,vnnlib,timeout`; the files it names may be
gzipped, their names in the CSV without `.gz`. Expected verdicts are looked up in an `expected.csv` in the folder's
parent or in the folder itself, with the columns `benchmark,onnx,vnnlib,timeout,expected,firmness,disputed`.

Everything a suite names is looked for at once: a missing file is one `SuiteError`, before anything runs.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from verifkit.bench.suites.instance import Instance
from verifkit.budget import Budget
from verifkit.errors import SuiteError

Expected = dict[tuple[str, str, str], tuple[str, str]]


def read_folder(folder: Path, *, only: Sequence[str] = (), limit: int | None = None) -> list[Instance]:
    """The instances of a VNN-COMP benchmark folder, whose name is their suite.

    only: glob patterns, where there are any: an instance is read if one of them fits its model or its property as
    `instances.csv` writes them, or its id. limit: the most instances, the first ones. What is left out may be missing.
    """
    table = folder / "instances.csv"
    name = folder.resolve().name
    expected = _expected(folder)
    instances: list[Instance] = []
    for number, cells in enumerate(csv.reader(io.StringIO(read_text(table))), start=1):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != 3:
            raise SuiteError(f"'{table}', line {number}: {len(cells)} columns, not onnx,vnnlib,timeout")
        onnx, vnnlib, seconds = (cell.strip() for cell in cells)
        identity, where = f"{stem(onnx)}/{stem(vnnlib)}", f"'{table}', line {number}"
        if only and not any(fnmatchcase(text, p) for p in only for text in (onnx, vnnlib, identity)):
            continue
        if limit is not None and len(instances) == limit:
            break
        word, firmness = expected.get((name, onnx, vnnlib), ("", ""))
        instances.append(
            Instance(
                id=identity,
                suite=name,
                model_path=find_file(folder, onnx, where),
                model_name=onnx,
                property_path=find_file(folder, vnnlib, where),
                property_name=vnnlib,
                expected=word if word in ("sat", "unsat") else None,
                firmness=firmness or None,
                limits=Budget(seconds=_seconds(seconds, where)),
            )
        )
    if not instances:
        which = f" whose model, property or id fits {' or '.join(map(repr, only))}" if only else ""
        raise SuiteError(f"'{table}' lists no instance{which}")
    return instances


def _expected(folder: Path) -> Expected:
    """(benchmark, onnx, vnnlib) to (expected, firmness), of the `expected.csv` files that are there."""
    found: Expected = {}
    for table in (folder.resolve().parent / "expected.csv", folder / "expected.csv"):
        if not table.is_file():
            continue
        reader = csv.DictReader(io.StringIO(read_text(table)))
        missing = {"benchmark", "onnx", "vnnlib", "expected"} - set(reader.fieldnames or ())
        if missing:
            raise SuiteError(f"'{table}' lacks the column '{min(missing)}' in its first line")
        for row in reader:
            key = (row["benchmark"], row["onnx"], row["vnnlib"])
            found[key] = (row["expected"] or "", row.get("firmness") or "")
    return found


def _seconds(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise SuiteError(f"{where}: the time limit must be a positive number of seconds, not '{text}'")
    return seconds


def find_file(folder: Path, name: str, where: str) -> str:
    """The path of the file `name` in `folder`, or of `name.gz`. Raises `SuiteError` starting with `where`."""
    for candidate in (folder / name, folder / f"{name}.gz"):
        if os.path.isfile(candidate):  # never raises, whatever the name
            return str(candidate.resolve())
    raise SuiteError(f"{where}: there is no file '{folder / name}'")


def read_text(path: Path) -> str:
    """The text of a small file. Raises `SuiteError`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SuiteError(f"'{path}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SuiteError(f"'{path}' is not a text file in UTF-8") from None


def stem(name: str) -> str:
    """A file's name without folders and without `.gz`, `.onnx`, `.vnnlib`."""
    base = Path(name).name.removesuffix(".gz")
    return base.removesuffix(".onnx").removesuffix(".vnnlib").removesuffix(".npz")

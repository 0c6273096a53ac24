"""The log format of published smoothing runs, read and written: `idx label predict radius correct time`, by tabs.

One row for each input; abstention is predict -1 with radius 0.0. A radius is kept as the text it was printed as: what
its digits could stand for is a question of its own (`verifkit.analysis.smoothing.audit`).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import IO

from verifkit.errors import SuiteError
from verifkit.radius import format_radius

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
ABSTAIN = -1
DIGITS = 6
"""Decimals of a radius that is written; rounded down."""


@dataclass(frozen=True)
class Row:
    """One input. radius: as printed. predict: a class, or -1 for an abstention. time: as printed."""

    idx: int
    label: int
    predict: int
    radius: Decimal
    correct: bool
    time: str = "0:00:00"

    @classmethod
    def certified(cls, idx: int, label: int, predict: int, radius: float, seconds: float) -> Row:
        """The row of a certificate, its radius rounded down; an abstention is `predict` -1."""
        shown = Decimal(format_radius(radius if predict != ABSTAIN else 0.0, DIGITS))
        return cls(idx, label, predict, shown, predict == label, str(timedelta(seconds=round(seconds, 3))))

    def to_text(self) -> str:
        radius = f"{self.radius:f}" if self.radius else "0.0"
        return "\t".join((str(self.idx), str(self.label), str(self.predict), radius, str(int(self.correct)), self.time))


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Adds rows to the log, with its header where there is none yet; each is on disk before the next is made."""
    try:
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            _lock(file, path)
            if file.tell() == 0:
                file.write("\t".join(COLUMNS) + "\n")
            for row in rows:
                file.write(row.to_text() + "\n")
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise SuiteError(f"'{path}' cannot be written: {error.strerror}") from None


def _lock(file: IO[str], path: str | Path) -> None:
    """Until the file is closed; raises `SuiteError` where another process has it."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SuiteError(f"'{path}' is being written by another process") from None


def mend(path: str | Path) -> None:
    """Drops what a run that was cut off left of its last row."""
    try:
        with open(path, "r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    except OSError as error:
        raise SuiteError(f"'{path}' cannot be written: {error.strerror}") from None


def read_log(path: str | Path) -> tuple[Row, ...]:
    """All rows of a log. Raises `SuiteError` with the line that is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SuiteError(f"'{path}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SuiteError(f"'{path}' cannot be read as text: a smoothing log is tab-separated text") from None
    lines = [(at, line) for at, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise SuiteError(f"'{path}' is empty: a smoothing log has the columns {' '.join(COLUMNS)}")
    header = [name.strip() for name in lines[0][1].split("\t")]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise SuiteError(
            f"'{path}' has no column {', '.join(missing)}: a smoothing log begins with the tab-separated line "
            f"{' '.join(COLUMNS)}"
        )
    if len(lines) == 1:
        raise SuiteError(f"'{path}' has no rows")
    return tuple(_row(path, at, header, line.split("\t")) for at, line in lines[1:])


def _row(path: str | Path, at: int, header: list[str], fields: list[str]) -> Row:
    if len(fields) != len(header):
        raise SuiteError(f"'{path}', line {at}: {len(fields)} fields under {len(header)} columns")
    cells = {name: field.strip() for name, field in zip(header, fields, strict=True)}

    def whole(name: str, least: int | None = None, most: int | None = None) -> int:
        try:
            value = int(cells[name])
        except ValueError:
            raise SuiteError(f"'{path}', line {at}: {name} is '{cells[name]}', not a whole number") from None
        if (least is not None and value < least) or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"{least} to {most}"
            raise SuiteError(f"'{path}', line {at}: {name} is {value}, not {limits}")
        return value

    try:
        radius = Decimal(cells["radius"])
    except InvalidOperation:
        raise SuiteError(f"'{path}', line {at}: radius is '{cells['radius']}', not a number") from None
    if not radius.is_finite() or radius < 0 or not math.isfinite(float(radius)):
        raise SuiteError(f"'{path}', line {at}: radius is {cells['radius']}, not a number from 0 on")
    return Row(
        whole("idx", 0),
        whole("label", 0),
        whole("predict", ABSTAIN),
        radius,
        bool(whole("correct", 0, 1)),
        cells["time"],
    )

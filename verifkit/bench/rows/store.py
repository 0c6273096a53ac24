"""The rows on disk: `OUT/rows.jsonl`, one JSON object per line, appended by one process at a time.

A row is appended in one write of a whole line. What the process has written survives its own death at once; it is
forced to the disk at most once a second and on closing, so a power failure costs at most the last second. A last line
without its newline is a row whose writing was cut off: it is dropped when the folder is opened again. Any other line
that is no row is an error: someone else wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from verifkit.bench.rows.lock import lock_to_write
from verifkit.bench.rows.schema import Row
from verifkit.budget import Budget
from verifkit.errors import SuiteError

ROWS = "rows.jsonl"
_SYNC_SECONDS = 1.0
_BLOCK = 65536


def row_key(
    *,
    model_hash: str,
    property_hash: str,
    verifier: str,
    options: Mapping[str, Any],
    limits: Budget,
    seed: int,
    repeat: int,
) -> str:
    """sha256 over everything that decides a row; `limits` as they were asked for, None where none was."""
    asked = [limits.seconds, limits.memory_bytes, limits.nodes, limits.samples]
    parts = [model_hash, property_hash, verifier, dict(options), asked, seed, repeat]
    text = json.dumps(parts, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def evidence_name(key: str) -> str:
    """The file of a row's evidence, relative to its result folder."""
    return f"evidence/{key}.npz"


def copied_key(key: str, number: int) -> str:
    """The key of the `number`-th further input with the very same content."""
    return hashlib.sha256(f"{key} {number}".encode()).hexdigest()


def read_rows(folder: str | os.PathLike[str]) -> list[Row]:
    """The rows of an output folder, without locking or changing it; a torn last line is left out.

    Raises `SuiteError` where there are none to read or a line is no row.
    """
    return list(iterate_rows(folder))


def iterate_rows(folder: str | os.PathLike[str]) -> Iterator[Row]:
    """The same one by one, so that a long run is read without holding it."""
    path = Path(folder) / ROWS
    try:
        with open(path, "rb") as file:
            yield from _parse(path, file)
    except OSError as error:
        raise SuiteError(f"'{path}' cannot be read: {error.strerror}; `verifkit bench` writes it") from None


def _parse(path: Path, lines: Iterable[bytes]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):  # the torn last one
            return
        try:
            row = Row.from_json(json.loads(line))
        except (ValueError, SuiteError) as error:
            raise SuiteError(
                f"'{path}', line {number} is no row ({error}): remove that line, or write to another folder"
            ) from None
        yield row


class RowStore:
    """The one writer of an output folder; a context manager. `keys` are those of the rows that stand.

    The rows themselves are not held: a long run would fill the memory with them. `read_rows` has them.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Makes the folder where needed, locks it and drops a torn last line. Raises `SuiteError`."""
        self.folder = Path(folder)
        self.path = self.folder / ROWS
        self._synced = time.monotonic()
        self._lock = lock_to_write(self.folder)
        try:
            self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> None:
        """Opens the rows, reads them, and cuts a torn line off."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            self._file = os.open(self.path, flags, 0o644)
        except OSError as error:
            raise SuiteError(f"'{self.path}' cannot be written: {error.strerror}") from None
        try:
            self.keys = {row.key for row in iterate_rows(self.folder)}
            self._size = _cut_off(self._file)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, row: Row) -> None:
        """Writes one row. Raises `SuiteError` where the disk takes no more; what stood before stays whole."""
        line = row.to_line()
        try:
            if (
                os.fstat(self._file).st_size > self._size
            ):  # whatever was added is no row of this run, which has the lock
                os.ftruncate(self._file, self._size)
            written = os.write(self._file, line)
            while written < len(line):  # a disk that is nearly full takes a part
                written += os.write(self._file, line[written:])
            self._size += len(line)
            self.keys.add(row.key)
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self._sync()
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise SuiteError(f"'{self.path}' cannot be written: {error.strerror}; what stands there is kept") from None

    def _sync(self) -> None:
        os.fsync(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Forces the rows to the disk and gives the lock back."""
        try:
            os.ftruncate(self._file, self._size)
            self._sync()
        except OSError as error:
            raise SuiteError(f"'{self.path}' cannot be written: {error.strerror}") from None
        finally:
            os.close(self._file)
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cut_off(file: int) -> int:
    """Drops what follows the last newline of an open file; its size then."""
    size = end = os.fstat(file).st_size
    while end:
        start = max(0, end - _BLOCK)
        os.lseek(file, start, os.SEEK_SET)
        newline = os.read(file, end - start).rfind(b"\n")
        end = start + newline + 1
        if newline >= 0:
            break
    if end != size:
        os.ftruncate(file, end)
    return end

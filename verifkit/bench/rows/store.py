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
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from verifkit.bench.rows.schema import Row
from verifkit.budget import Budget
from verifkit.errors import SuiteError

ROWS = "rows.jsonl"
LOCK = ".lock"
_SYNC_SECONDS = 1.0


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


def read_rows(folder: str | os.PathLike[str]) -> list[Row]:
    """The rows of an output folder, without locking or changing it; a torn last line is left out.

    Raises `SuiteError` where there are none to read or a line is no row.
    """
    path = Path(folder) / ROWS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SuiteError(f"'{path}' cannot be read: {error.strerror}; `verifkit bench` writes it") from None
    return _parse(path, data[: data.rfind(b"\n") + 1])


def _parse(path: Path, data: bytes) -> list[Row]:
    rows = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            rows.append(Row.from_json(json.loads(line)))
        except (ValueError, SuiteError) as error:
            raise SuiteError(
                f"'{path}', line {number} is no row ({error}): remove that line, or write to another folder"
            ) from None
    return rows


class RowStore:
    """The one writer of an output folder; a context manager. `rows` are those that stood when it was opened."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Makes the folder where needed, locks it and drops a torn last line. Raises `SuiteError`."""
        self.folder = Path(folder)
        self.path = self.folder / ROWS
        self._synced = time.monotonic()
        if self.folder.exists() and not self.folder.is_dir():
            raise SuiteError(f"the output '{self.folder}' is a file, not a folder: name another")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise SuiteError(f"the output folder '{self.folder}' cannot be written: {error.strerror}") from None
        try:
            if not _take(self._lock):
                raise SuiteError(f"another run is writing to '{self.folder}': wait for it, or name another folder")
            self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> None:
        """Opens the rows, reads them, and cuts a torn line off."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            self._file = os.open(self.path, flags, 0o644)
            data = self.path.read_bytes()
        except OSError as error:
            raise SuiteError(f"'{self.path}' cannot be written: {error.strerror}") from None
        self._size = data.rfind(b"\n") + 1
        try:
            self.rows = _parse(self.path, data[: self._size])
            if self._size != len(data):
                os.ftruncate(self._file, self._size)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, row: Row) -> None:
        """Writes one row. Raises `SuiteError` where the disk takes no more; what stood before stays whole."""
        line = json.dumps(row.to_json(), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        try:
            if (
                os.fstat(self._file).st_size > self._size
            ):  # whatever was added is no row of this run, which has the lock
                os.ftruncate(self._file, self._size)
            written = os.write(self._file, line)
            while written < len(line):  # a disk that is nearly full takes a part
                written += os.write(self._file, line[written:])
            self._size += len(line)
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


def _take(lock: int) -> bool:
    """Takes the lock of an open file, which ends with the process; False where another process holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise SuiteError(f"the output folder cannot be locked: {error.strerror}; name one on a local disk") from None
    return True

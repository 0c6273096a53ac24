"""One process at a time writes to a result folder: a lock on `OUT/.lock`, which ends with the process."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from verifkit.bench.rows.whole_file import unwritable
from verifkit.errors import SuiteError

LOCK = ".lock"


def lock_to_write(folder: Path) -> int:
    """Makes the folder where needed and locks it; the lock's descriptor, to be closed. Raises `SuiteError`."""
    if folder.exists() and not folder.is_dir():
        raise SuiteError(f"the output '{folder}' is a file, not a folder: name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    except OSError as error:
        raise SuiteError(f"the output folder '{folder}' cannot be written: {error.strerror}") from None
    try:
        if not _take(lock):
            raise SuiteError(f"another run is writing to '{folder}': wait for it, or name another folder")
    except BaseException:
        os.close(lock)
        raise
    return lock


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """The folder locked for the length of the block. Raises `SuiteError`."""
    lock = lock_to_write(folder)
    try:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """No run begins to write to the folder during the block; nothing in it is made or changed. Raises `SuiteError`."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    except FileNotFoundError:  # copied without it
        yield
        return
    except OSError as error:
        raise unwritable(folder / LOCK, error) from None
    try:
        if not _take(lock, shared=True):
            raise SuiteError(f"a run is writing to '{folder}': wait for it")
        yield
    finally:
        os.close(lock)


def _take(lock: int, *, shared: bool = False) -> bool:
    """Takes the lock of an open file; False where another process holds it. Windows has no shared ones."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise SuiteError(f"the output folder cannot be locked: {error.strerror}; name one on a local disk") from None
    return True

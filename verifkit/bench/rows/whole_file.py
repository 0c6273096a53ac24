"""Files that are whole or not there: written beside their place and moved into it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from verifkit.errors import SuiteError


def unwritable(path: str | os.PathLike[str], error: OSError) -> SuiteError:
    """The sentence for a file or folder that takes no more."""
    return SuiteError(f"'{path}' cannot be written: {error.strerror or error}")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write, which takes the place of `path` at the end of the block; folders are made.

    Where the block or the disk fails, `path` stays as it was and nothing is left beside it. Raises `SuiteError` for
    every `OSError`.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None

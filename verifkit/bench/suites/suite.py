"""Loading a suite: a TOML file (`suite_file`) or a VNN-COMP benchmark folder (`suite_folder`)."""

from __future__ import annotations

import os
from pathlib import Path

from verifkit.bench.suites.instance import Suite, distinct
from verifkit.bench.suites.suite_file import read_suite_file
from verifkit.bench.suites.suite_folder import read_folder
from verifkit.errors import SuiteError


def load_suite(path: str | os.PathLike[str], *, own_verifiers: bool = True) -> Suite:
    """The suite in a TOML file or a VNN-COMP benchmark folder.

    own_verifiers: it will be put to the verifiers that it names itself, so that an optional package which one of them
    lacks is a mistake. Raises `SuiteError`.
    """
    source = Path(path)
    if os.path.isdir(source):  # never raises, whatever the name
        return Suite(source.resolve().name, distinct(read_folder(source)))
    if not os.path.exists(source):
        raise SuiteError(f"suite '{source}' does not exist: name a TOML file or a VNN-COMP benchmark folder")
    return read_suite_file(source, own_verifiers=own_verifiers)

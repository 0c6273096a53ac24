"""`OUT/environment.json`: the machines and packages that rows were measured on, by the short hash that rows name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verifkit.bench.rows.whole_file import whole_file
from verifkit.errors import SuiteError

ENVIRONMENTS = "environment.json"


def read_environments(folder: Path) -> dict[str, dict[str, Any]]:
    """Short hash -> environment; empty where there is no file. Raises `SuiteError` where it is not what we write."""
    path = folder / ENVIRONMENTS
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SuiteError(f"'{path}' cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SuiteError(f"'{path}' is not valid JSON ({error}): move it away and run again") from None
    if not isinstance(known, dict):
        raise SuiteError(f"'{path}' is no JSON object: move it away and run again")
    return known


def add_environments(folder: Path, added: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds environments to the folder's file, which is never half written. Raises `SuiteError`."""
    known = read_environments(folder)
    if added.keys() <= known.keys():
        return
    with whole_file(folder / ENVIRONMENTS) as file:
        file.write((json.dumps({**known, **added}, indent=1) + "\n").encode())

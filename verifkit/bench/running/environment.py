"""What a measurement ran on: processor, memory, Python, packages. Kept once per output folder, by hash."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import psutil

from verifkit.bench.rows.environments import add_environments


def environment() -> dict[str, Any]:
    """The machine and the installed packages; nothing in it names a person or a place."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": packages(),
    }


def usable_cores() -> int:
    """The cores that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def packages() -> dict[str, str]:
    """Names and versions of the installed distributions, sorted."""
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # another kind of system
        pass
    return platform.processor() or platform.machine()


def short_hash(values: dict[str, Any]) -> str:
    """The name under which rows refer to an environment."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def record(folder: Path, current: dict[str, Any] | None = None) -> str:
    """Adds an environment, by default the present one, to `folder/environment.json` where it lacks it; its short hash.

    Raises `SuiteError` where the file cannot be written or is not what this function writes.
    """
    current = environment() if current is None else current
    name = short_hash(current)
    add_environments(folder, {name: current})
    return name

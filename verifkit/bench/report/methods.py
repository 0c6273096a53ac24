"""What each verifier's answers claim, and under which options, limits, seeds and hardware they were had."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verifkit.bench.report.scores import shown_kind
from verifkit.bench.report.terminal import number, seconds
from verifkit.bench.rows.frame import grouped

Row = dict[str, Any]


def guarantees(rows: Sequence[Row]) -> list[Row]:
    """What each verifier's HOLDS claims; those that claimed nothing are listed as such."""
    lines: list[Row] = []
    for (method,), own in grouped(rows, "method").items():
        stated = [r["guarantee"] for r in own if r["verdict"] == "HOLDS" and isinstance(r["guarantee"], dict)]
        counted = Counter(json.dumps(g, sort_keys=True) for g in stated)
        versions = ", ".join(sorted({r["version"] for r in own} - {""}))
        options = own[0]["options"] if isinstance(own[0]["options"], dict) else {}
        head = {"verifier": method, "kind": shown_kind(own), "version": versions, "options": flat(options)}
        lines += [{**head, "guarantee": json.loads(text), "count": n} for text, n in counted.most_common()]
        if not counted:
            lines.append({**head, "guarantee": None, "count": 0})
    return lines


def limits(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The distinct limits and seeds in force."""

    def distinct(column: str, show: Callable[[float], str]) -> str:
        values = sorted({r[column] for r in rows if not math.isnan(r[column])})
        some = [show(v) for v in values[:20]] + (["…"] if len(values) > 20 else [])
        absent = any(math.isnan(r[column]) for r in rows)
        return ", ".join([*some, *(["none"] if absent else [])]) or "none"

    return [
        ("time limit", distinct("timeout", seconds)),
        ("memory limit", distinct("memory_limit", lambda v: f"{number(v / 2**20, 6)} MiB")),
        ("node limit", distinct("node_limit", lambda v: f"{v:.0f}")),
        ("sample limit", distinct("sample_limit", lambda v: f"{v:.0f}")),
        ("seed", distinct("seed", lambda v: f"{v:.0f}")),
        ("repeat", distinct("repeat", lambda v: f"{v:.0f}")),
    ]


def environment(out: Path) -> dict[str, Any]:
    path = out / "environment.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError):
        return {"environment.json": "cannot be read"}
    return found if isinstance(found, dict) else {"environment": found}


def flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested records as (dotted name, text) pairs."""
    if not isinstance(values, Mapping):
        return [(prefix or "value", str(values))]
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            pairs += flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)))
    return pairs

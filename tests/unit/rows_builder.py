"""Synthetic rows of a run, as the runner writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from verifkit.bench.rows.schema import SCHEMA

NETWORK = {
    "subject": "network",
    "semantics": "real",
    "arithmetic": "float",
    "failure_probability": 0.0,
    "scope": "per input",
    "assumptions": [],
}
SMOOTHED = NETWORK | {"subject": "smoothed classifier", "arithmetic": "float", "failure_probability": 0.001}
KINDS = {"crown": "incomplete", "milp": "complete", "pgd": "falsifier", "smoothing": "probabilistic"}


def witness(*, rational: bool | None = True, onnxruntime: bool = True, written: bool = True) -> dict[str, Any]:
    """A witness; rational None: no exact replay could be had."""
    replays = [{"arithmetic": "onnxruntime", "y": [0.0, 1.0], "unsafe": onnxruntime}]
    replays.append({"arithmetic": "float64", "y": [0.0, 1.0], "unsafe": True})
    if rational is not None:
        replays.append({"arithmetic": "rational", "y": [0.0, 1.0], "unsafe": rational})
    by = "onnxruntime" if onnxruntime else "rational"
    fields = {"x": [0.5], "y": [0.0, 1.0], "confirmed_by": by, "in_written_set": written, "within_tolerance": True}
    return {**fields, "replays": replays}


def row(verifier: str = "crown", verdict: str = "HOLDS", **changes: Any) -> dict[str, Any]:
    """One row with every key; a question about a property file unless `radius_row` or changes say otherwise."""
    reason = changes.get("reason", "incomplete" if verdict == "UNKNOWN" else None)
    other = reason if reason in ("timeout", "error") else "unknown"
    holds = SMOOTHED if KINDS.get(verifier) == "probabilistic" else NETWORK
    base: dict[str, Any] = {
        "schema": SCHEMA,
        "key": "k",
        "suite": "toy",
        "instance": "prop_1",
        "question": "verify",
        "model": "net.onnx",
        "model_hash": "m" * 64,
        "property": "prop_1.vnnlib",
        "property_hash": "p1",
        "norm": "inf",
        "radius": None,
        "index": None,
        "label": None,
        "grid": None,
        "audit": None,
        "predicted": None,
        "expected": None,
        "firmness": None,
        "verifier": verifier,
        "options": {},
        "version": "0.1.0",
        "timeout": 60.0,
        "memory_limit": 2**31,
        "node_limit": None,
        "sample_limit": None,
        "seed": 0,
        "repeat": 0,
        "verdict": verdict,
        "reason": reason,
        "word": {"HOLDS": "unsat", "VIOLATED": "sat"}.get(verdict, other),
        "detail": "",
        "guarantee": {"HOLDS": holds, "VIOLATED": NETWORK | {"arithmetic": "exact"}}.get(verdict),
        "kind": KINDS.get(verifier),
        "margin": None,
        "witness": witness() if verdict == "VIOLATED" else None,
        "counts": None,
        "evidence": None,
        "certified": None,
        "falsified": None,
        "complete": None,
        "undecided": None,
        "wall_seconds": 2.0,
        "verifier_seconds": 1.0,
        "load_seconds": 0.5,
        "cpu_seconds": 1.0,
        "peak_memory_bytes": 10**8,
        "started": "2025-01-01T00:00:00Z",
        "environment": "abc123",
        "output": None,
        "statistics": {},
    }
    return base | changes


def radius_row(
    verifier: str = "crown",
    certified: float | None = None,
    falsified: float | None = None,
    index: int = 0,
    **changes: Any,
) -> dict[str, Any]:
    """One row that asks how far the guarantee reaches around sample `index` (label 0, predicted 0)."""
    wrong = falsified == 0
    verdict = "VIOLATED" if wrong else "HOLDS" if certified else "UNKNOWN"
    sample = {"question": "radius", "index": index, "label": 0, "predicted": 1 if wrong else 0}
    names = {"instance": f"sample {index}", "property": f"test.npz[{index}] linf radius", "property_hash": f"s{index}"}
    ends = {"certified": certified, "falsified": falsified, "witness": None if falsified is None else witness()}
    return row(verifier, verdict, **{**sample, **names, **ends, "undecided": [], "complete": False, **changes})


def write(out: Path, rows: list[dict[str, Any]], tail: str = "") -> Path:
    """Writes `out/rows.jsonl` (and `tail`, a torn line) and an `environment.json`."""
    out.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (out / "rows.jsonl").write_text(text + tail)
    (out / "environment.json").write_text(json.dumps({"abc123": {"python": "3.11.7", "packages": {"numpy": "2.0.0"}}}))
    return out

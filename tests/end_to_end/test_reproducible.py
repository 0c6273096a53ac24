"""The same seed and budgets in nodes and draws: the same verdicts, radii and counts, whatever runs beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from verifkit.bench.rows.store import read_rows
from verifkit.bench.running.runner import run
from verifkit.bench.suites.suite import load_suite
from verifkit.budget import Budget

ZOO = Path(__file__).resolve().parents[2] / "benchmarks"
MEASURED = {
    *("wall_seconds", "verifier_seconds", "load_seconds", "cpu_seconds", "peak_memory_bytes", "started", "environment"),
    "memory_limit",  # a share of what was free
}
SUITE = f"""
name = "zoo"
timeout = 300
[[verifiers]]
name = "crown"
[[verifiers]]
name = "alpha_crown"
[[verifiers]]
name = "bab"
[[verifiers]]
name = "milp"
[[verifiers]]
name = "smoothing"
options = {{ sigma = 0.25, n = 2000 }}
[[verifiers]]
name = "smoothing"
options = {{ sigma = 0.5, n = 2000, mode = "anytime" }}
[[verifiers]]
name = "pixeldp"
options = {{ mechanism = "analytic", scale = 0.25, n = 2000 }}
[[verifiers]]
name = "pgd"
[[robustness]]
model = "{ZOO}/zoo/digits-2x50.onnx"
inputs = "{ZOO}/suites/digits-samples.npz"
radii = [0.08, 0.11]
clip = [0.0, 1.0]
indices = [4, 6]
verifiers = ["crown", "alpha_crown", "bab", "milp", "pgd"]
[[radius]]
model = "{ZOO}/zoo/digits-2x50.onnx"
inputs = "{ZOO}/suites/digits-samples.npz"
clip = [0.0, 1.0]
indices = [8]
verifiers = ["crown", "alpha_crown", "bab", "milp"]
[[radius]]
model = "{ZOO}/zoo/digits-3x100-noise-0.25.onnx"
inputs = "{ZOO}/suites/digits-samples.npz"
norm = "2"
indices = [1, 2]
verifiers = ["smoothing", "pixeldp"]
"""


def answers(out: Path) -> dict[str, dict[str, Any]]:
    """Every field that is no measurement, by key."""
    rows = {row.key: row.to_json() for row in read_rows(out)}
    return {key: {name: value for name, value in row.items() if name not in MEASURED} for key, row in rows.items()}


@pytest.mark.slow
def test_the_same_seed_and_budgets_give_the_same_rows(tmp_path: Path) -> None:
    limits = Budget(nodes=3, samples=1000)
    (tmp_path / "suite.toml").write_text(SUITE)
    suite = load_suite(tmp_path / "suite.toml")
    for name, jobs in (("one", 1), ("two", 2), ("three", 2)):
        run(suite, out=tmp_path / name, jobs=jobs, limits=limits, seed=7)
    first = answers(tmp_path / "one")
    assert len(first) == 4 * 5 + 4 + 2 * 3
    cut = {row["verifier"] for row in first.values() if row["reason"] == "incomplete"}
    assert {"bab", "milp"} <= cut  # the budgets were felt
    assert {row["statistics"]["samples"] for row in first.values() if row["verifier"] == "pixeldp"} == {1000}
    for name in ("two", "three"):
        again = answers(tmp_path / name)
        assert again.keys() == first.keys()
        for key, row in first.items():
            assert again[key] == row, (name, row["verifier"], row["instance"])

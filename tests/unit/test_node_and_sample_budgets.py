"""Budgets in nodes and draws are kept by every method that has any, and give the same answer again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verifkit import registry
from verifkit.budget import Budget
from verifkit.io.onnx import load_model
from verifkit.query import Query, robustness_family
from verifkit.result import Reason, Result, Verdict

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ZOO = BENCHMARKS / "zoo"
SAMPLES = np.load(BENCHMARKS / "suites" / "digits-samples.npz")


def question(model: str, index: int, radius: str, norm: Any = "inf") -> Query:
    """Robustness of a zoo network around a sample; l-inf balls are clipped to the pixels' range."""
    loaded = load_model(ZOO / f"{model}.onnx")
    x, label = SAMPLES["x"][index].reshape(loaded.input_shape), int(SAMPLES["y"][index])
    return robustness_family(loaded, x, label, norm, clip=(0, 1) if norm == "inf" else None).at(Fraction(radius))


def told(result: Result) -> tuple[Any, ...]:
    numbers = {k: v for k, v in result.statistics.items() if "seconds" not in k}
    return result.verdict, result.reason, result.detail, numbers


@pytest.mark.parametrize(
    ("name", "count", "model", "index", "radius", "nodes"),
    [
        ("bab", "splits", "digits-conv-small", 8, "0.075", 2),
        ("milp", "nodes", "digits-2x50", 6, "0.08", 1),
        ("reluplex", "splits", "digits-3x100", 8, "0.03", 2),
    ],
)
def test_nodes_are_kept(name: str, count: str, model: str, index: int, radius: str, nodes: int) -> None:
    verifier, query = registry.create(name, {}), question(model, index, radius)
    results = [verifier.verify(query, budget=Budget(nodes=nodes, seconds=100)) for _ in range(2)]
    assert results[0].verdict is Verdict.UNKNOWN, results[0]
    assert results[0].reason is Reason.INCOMPLETE
    assert float(results[0].statistics[count]) == nodes
    assert told(results[0]) == told(results[1])


@pytest.mark.parametrize("name", ["smoothing", "pixeldp"])
def test_draws_are_kept(name: str) -> None:
    options: dict[str, Any] = {
        "smoothing": {"sigma": 0.25},
        "pixeldp": {"scale": 0.25, "mechanism": "analytic", "eta": 0.001},
    }
    verifier, query = (
        registry.create(name, {**options[name], "n": 5000}),
        question("digits-3x100-noise-0.25", 1, "0.1", "2"),
    )
    few, enough, more = (verifier.verify(query, budget=Budget(samples=n)) for n in (105, 1000, 10**6))
    assert (few.verdict, few.reason) == (Verdict.UNKNOWN, Reason.INCOMPLETE)
    assert "a budget of 105 draws" in few.detail
    assert enough.statistics["samples"] == 1000
    assert more.statistics["samples"] == 5100
    assert enough.verdict is more.verdict is Verdict.HOLDS
    assert told(enough) == told(verifier.verify(query, budget=Budget(samples=1000)))

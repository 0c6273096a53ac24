"""The zoo as a table: `python -m benchmarks.zoo.table` prints accuracies and median l-inf radii of every network.

Accuracies are the manifest's. Radii are measured over the sample inputs: `crown`'s certified, `pgd`'s falsified one.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from verifkit.io.onnx import load_model
from verifkit.query import robustness_family
from verifkit.radius import shorten
from verifkit.registry import create

FOLDER = Path(__file__).resolve().parent
SAMPLES = {"digits": FOLDER.parent / "suites" / "digits-samples.npz", "spirals": FOLDER / "toy-samples.npz"}
HEADS = ("network", "nonlinear units", "test accuracy", "under PGD (eps)", "certified by crown", "falsified by pgd")


def radii(entry: dict[str, Any]) -> tuple[float, float]:
    """Median certified and falsified l-inf radius within [0, 1]; a misread sample counts as 0."""
    model = load_model(FOLDER / entry["file"])
    certified, falsified = [], []
    with np.load(SAMPLES[entry["data"]]) as samples:
        for x, y in zip(samples["x"], samples["y"], strict=True):
            found = create("crown").radius(robustness_family(model, x, int(y), "inf", (0, 1)))
            certified.append(found.certified.value if found.certified is not None else 0.0)
            falsified.append(found.falsified.value if found.falsified is not None else float("inf"))
    return median(certified), median(falsified)


def row(entry: dict[str, Any]) -> tuple[str, ...]:
    """One network's cells."""
    network = load_model(FOLDER / entry["file"]).network
    assert network is not None
    accuracy, (low, high) = entry["accuracy"], radii(entry)
    attacked = f"{100 * accuracy['test under attack']:.1f} % ({accuracy['attack']['eps']})"
    return (f"`{Path(entry['file']).stem}`", str(network.n_nonlinear()), f"{100 * accuracy['test']:.1f} %", attacked,
            shorten(low), shorten(high, up=True))  # fmt: skip


def main() -> None:
    """Print the table in Markdown."""
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    for cells in (HEADS, ("---",) * len(HEADS), *map(row, manifest["networks"])):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

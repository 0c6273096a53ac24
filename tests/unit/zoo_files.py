"""Where the zoo's files are, and the scripts behind them: what its tests share."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT / "benchmarks" / "zoo"
SUITES = ROOT / "benchmarks" / "suites"
MANIFEST = json.loads((ZOO / "manifest.json").read_text(encoding="utf-8"))
FOREST = json.loads((ZOO / "forest.json").read_text(encoding="utf-8"))
"""The one model of the zoo that is no network, and so no case of `networks`."""
networks = pytest.mark.parametrize("entry", [pytest.param(entry, id=entry["file"]) for entry in MANIFEST["networks"]])


def script(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """A module under benchmarks/, which is no part of the installed package."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module(name)


def data_of(entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The data that the network was trained on, with its split."""
    pytest.importorskip("sklearn")
    if entry["data"] == "digits":
        return script(monkeypatch, "benchmarks.zoo.samples").digits()
    return script(monkeypatch, "benchmarks.zoo.toy").spirals()


def samples_of(entry: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The inputs and labels that suites put to the network."""
    file = SUITES / "digits-samples.npz" if entry["data"] == "digits" else ZOO / "toy-samples.npz"
    with np.load(file) as archive:
        return archive["x"], archive["y"]

"""Small tools with the VNN-COMP scripts, written by the tests: each run script is a few lines of shell."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from verifkit.io.onnx import model_from_network
from verifkit.model import Model
from verifkit.network import dense_network

RESULTS = '"$5"'
"""What a run script writes its answer to."""


def write_tool(folder: Path, run: str, prepare: str = "exit 0") -> Path:
    """The folder of a tool whose scripts do `prepare` and `run`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in (("install_tool.sh", "exit 0"), ("prepare_instance.sh", prepare), ("run_instance.sh", run)):
        script = folder / name
        script.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        script.chmod(0o755)
    return folder


def says(*lines: str) -> str:
    """A run script that answers with these lines."""
    return f"printf '%s\\n' {' '.join(repr(line) for line in lines)} > {RESULTS}"


def folding() -> Model:
    """y_0 = relu(x_0) - relu(x_1), of two inputs: y_0 >= 1/2 at (1, 0), and at no input with x_0 < 1/2."""
    weights = [np.eye(2), np.array([[1.0, -1.0]])]
    return model_from_network(dense_network(weights, [np.zeros(2), np.zeros(1)]), "folding")

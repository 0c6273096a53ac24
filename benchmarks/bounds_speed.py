"""Linear bounds against auto_LiRPA's figures: `python -m benchmarks.bounds_speed [--float32] [--only TEXT]`.
With `--precisions` float32 against float64 instead: what it gains in time, and loses of the margins.

Margins "label less every other class" of the batches in `bounds_reference.csv` of the public instances (environment
variable VERIFKIT_VNNCOMP, else ../shared/vnncomp), and their cost in forward passes: an eager float32 forward of the
same batch in torch on the same thread, in the same run. Times are the least of several runs.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.region import Region
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows
from verifkit.analysis.slopes import Ascent, raise_rows
from verifkit.budget import Budget, Clock
from verifkit.io.onnx import load_model
from verifkit.io.vnnlib import load_property
from verifkit.maps import Reshape
from verifkit.model import Model
from verifkit.network import Network
from verifkit.ops import Activation, Affine
from verifkit.weighted_maps import Conv, Dense

ROOT = Path(os.environ.get("VERIFKIT_VNNCOMP", Path(__file__).resolve().parents[2] / "shared" / "vnncomp"))
ROWS, LAYERS = Ascent(20), Ascent(10)
SECONDS = 1.0
"""How long a method is run again and again for its least time, after at least three runs."""


def references() -> dict[tuple[str, str, int], dict[str, dict[str, Any]]]:
    """(set, network, batch) -> method -> its forward passes and the margin of each property."""
    found: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    with (ROOT / "bounds_reference.csv").open() as file:
        for row in csv.DictReader(file):
            group = found.setdefault((row["benchmark"], row["onnx"], int(row["batch"])), {})
            entry = group.setdefault(row["method"], {"passes": float(row["forward_passes_per_batch"]), "margins": {}})
            entry["margins"][row["vnnlib"]] = float(row["worst_margin"])
    return found


def stored(path: Path) -> Path:
    return path if path.exists() else path.with_name(path.name + ".gz")


def question(folder: str, names: list[str], model: Model, dtype: type) -> tuple[Region, list[Rows]]:
    """The boxes of several properties as one batch, and the rows "label less every other class" of each.

    The label is the network's own at the middle of the box, which is the reference's: on one instance (256x2, property
    12) it is not the property's.
    """
    props = [load_property(stored(ROOT / folder / name)) for name in names]
    ends = [p.input_set.floats(model.dtype) for p in props]  # type: ignore[union-attr]
    lower, upper = (np.stack([e[k].reshape(model.input_shape) for e in ends]).astype(dtype) for k in (0, 1))
    labels = np.argmax(model.call((lower / 2 + upper / 2).astype(model.dtype)).reshape(len(props), -1), axis=1)
    return Region(lower, upper), [margin_rows(int(label), model.n_outputs) for label in labels]


def margin_rows(label: int, count: int) -> Rows:
    rows = np.delete(np.eye(count)[[label]] - np.eye(count), label, axis=0)
    size = count - 1
    return Rows(rows, None, None, None, np.zeros(size), np.zeros(size, dtype=bool), np.arange(size), size)


def least(run: Callable[[], Any], count: int = 3) -> tuple[float, Any]:
    """The least CPU seconds of several runs (one thread), and what the last one gave."""
    times, result, began = [], None, time.perf_counter()
    while len(times) < count or (time.perf_counter() - began < SECONDS and len(times) < 200):
        start = time.process_time()
        result = run()
        times.append(time.process_time() - start)
    return min(times), result


def forward_seconds(network: Network, region: Region) -> float:
    """One eager float32 forward of the batch in torch: a linear layer, a convolution or a ReLU at a time."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    steps: list[Callable[[Any], Any]] = []
    for node in network.nodes[1:]:
        if isinstance(node, Activation):
            steps.append(torch.relu)
            continue
        assert isinstance(node, Affine)
        linear = node.maps[0]
        if isinstance(linear, Reshape):
            steps.append(lambda x: x.reshape(x.shape[0], -1))
            continue
        assert isinstance(linear, Dense | Conv)
        weight = torch.tensor(linear.weight, dtype=torch.float32)
        bias = None if node.bias is None else torch.tensor(node.bias, dtype=torch.float32)
        if isinstance(linear, Dense):
            steps.append(partial(functional.linear, weight=weight, bias=None if bias is None else bias.reshape(-1)))
        else:
            flat = None if bias is None else bias[0, :, 0, 0].contiguous()
            pads = [p for p, _ in linear.pads]
            steps.append(partial(functional.conv2d, weight=weight, bias=flat, stride=linear.strides, padding=pads))
    x = torch.tensor(region.lower.astype(np.float32)).reshape(-1, *network.input_shape[1:])

    def forward() -> Any:
        y = x
        for step in steps:
            y = step(y)
        return y

    expected = network.evaluate(region.lower).reshape(x.shape[0], -1)
    with torch.no_grad():
        assert np.allclose(forward().reshape(x.shape[0], -1).numpy(), expected, rtol=1e-3, atol=1e-3)
        return least(forward, 50)[0]


def margins(network: Network, region: Region, rows: list[Rows], method: str) -> list[float]:
    """The worst margin of each property."""
    clock = Clock(Budget())
    if method == "alpha-CROWN":
        analysis = analyse(network, region, CROWN_RELAXATIONS, clock, ascent=LAYERS)
        return [_raised(analysis.one(k), each, clock) for k, each in enumerate(rows)]
    table = {} if method == "IBP" else CROWN_RELAXATIONS
    analysis = analyse(network, region, table, clock, tighten=method == "CROWN")
    return [float(lower.min()) for lower in analysis.rows_each(rows)]


def _raised(analysis: LinearAnalysis, rows: Rows, clock: Clock) -> float:
    compact = analysis.compact
    assert compact is not None
    start = {k: compact.rows_of(k, v) for k, v in analysis.starts([rows]).items()}
    return float(raise_rows(compact, start, None, np.full((1, 1), np.inf), ROWS, clock).lower.min())


def groups(only: str, method: str) -> Iterator[tuple[str, str, int, str, dict[str, Any], Network, Model]]:
    """Set, network's file, batch, method, the reference's entry, and the network."""
    for (folder, onnx, batch), methods in references().items():
        if only not in onnx:
            continue
        model = load_model(stored(ROOT / folder / onnx))
        assert model.network is not None
        network = model.network.without_max()
        for name, theirs in methods.items():
            if method in ("", name):
                yield folder, onnx, batch, name, theirs, network, model


def against_theirs(only: str, method: str, dtype: type) -> None:
    print("| network | batch | method | forward passes | theirs | ratio | worst margin short by |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for folder, onnx, batch, name, theirs, network, model in groups(only, method):
        files = list(theirs["margins"])
        region, rows = question(folder, files, model, dtype)
        unit = forward_seconds(network, region)
        seconds, ours = least(partial(margins, network, region, rows, name))
        short = max(
            (theirs["margins"][file] - mine) / max(1.0, abs(theirs["margins"][file]))
            for file, mine in zip(files, ours, strict=True)
        )
        passes = seconds / unit
        print(
            f"| {Path(onnx).stem} | {batch} | {name} | {passes:.1f} | {theirs['passes']:.1f} | "
            f"{passes / theirs['passes']:.2f} | {max(0.0, short):.1e} |",
            flush=True,
        )


def float32_against_float64(only: str, method: str) -> None:
    """Both side by side in one run. Margins in float32 are lower by rounding, outwards, and in alpha-CROWN by a search
    that goes another way."""
    print("| network | batch | method | float64 | float32 | time | margin lost, relative to max(1, margin) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for folder, onnx, batch, name, theirs, network, model in groups(only, method):
        times, found = {}, {}
        for dtype in (np.float64, np.float32):
            region, rows = question(folder, list(theirs["margins"]), model, dtype)
            times[dtype], found[dtype] = least(partial(margins, network, region, rows, name), 2)
        lost = max(
            (double - single) / max(1.0, abs(double))
            for double, single in zip(found[np.float64], found[np.float32], strict=True)
        )
        double, single = times[np.float64], times[np.float32]
        print(
            f"| {Path(onnx).stem} | {batch} | {name} | {1e3 * double:.1f} ms | {1e3 * single:.1f} ms | "
            f"{single / double:.2f} | {lost:.1e} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--float32", action="store_true", help="analyses in single precision")
    parser.add_argument("--precisions", action="store_true", help="float32 against float64")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--method", default="", help="one method")
    arguments = parser.parse_args()
    if arguments.precisions:
        float32_against_float64(arguments.only, arguments.method)
    else:
        against_theirs(arguments.only, arguments.method, np.float32 if arguments.float32 else np.float64)


if __name__ == "__main__":
    main()

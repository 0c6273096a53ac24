"""What the runner costs beside the verifiers, and how its memory grows: `python -m benchmarks.runner_overhead`.

Overhead of an instance: the row's wall time, from the start of its worker to its end, less the verifier's own; beside
it what the whole run took for each instance. The verifier is `interval` on a network of four ReLUs, which takes a
millisecond. Memory: the resident size of the runner's process when so many rows are done, without the fork server.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from verifkit.bench.rows.schema import Row
from verifkit.bench.rows.store import iterate_rows
from verifkit.bench.running.runner import run
from verifkit.bench.suites.suite import load_suite

MARKS = (1, 1000, 2500, 5000, 7500, 10000)


def write_model(path: Path) -> None:
    """Two inputs, four ReLUs, three outputs."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (2, 4), "b1": (4,), "w2": (4, 3), "b2": (3,)}
    tensors = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 2]), ("y", [1, 3]))]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_suite(folder: Path, count: int) -> Path:
    """A suite of `count` questions about one network, each around another point."""
    write_model(folder / "small.onnx")
    points = np.random.default_rng(1).random((count, 2)).astype(np.float32)
    np.savez(folder / "points.npz", x=points, y=np.zeros(count, np.int64))
    (folder / "suite.toml").write_text(
        "timeout = 20\n[[verifiers]]\nname = 'interval'\n"
        "[[robustness]]\nmodel = 'small.onnx'\ninputs = 'points.npz'\nradii = [0.01]\n"
    )
    return folder / "suite.toml"


def overhead(count: int, jobs: int) -> str:
    """A line: milliseconds for each instance."""
    with tempfile.TemporaryDirectory() as place:
        folder, times = Path(place), []
        suite = load_suite(write_suite(folder, count))
        run(suite, out=folder / "out", jobs=jobs, audit=False, progress=lambda *_: times.append(time.perf_counter()))
        rows = list(iterate_rows(folder / "out"))
    beside = sorted(1000 * (row.wall_seconds - (row.verifier_seconds or 0.0)) for row in rows)
    inside = 1000 * statistics.fmean(row.verifier_seconds or 0.0 for row in rows)
    cpu = 1000 * statistics.fmean(row.cpu_seconds or 0.0 for row in rows)
    whole = 1000 * (times[-1] - times[0]) / (count - 1)
    return (
        f"{count} instances, jobs {jobs}: row wall less verifier: median {statistics.median(beside):.1f} ms, mean "
        f"{statistics.fmean(beside):.1f}, 95 of 100 below {beside[int(0.95 * count)]:.1f}; verifier {inside:.2f} ms; "
        f"CPU of a worker, the verifier's included, {cpu:.1f} ms; "
        f"the run took {whole:.1f} ms for each"
    )


def memory(count: int, jobs: int) -> list[str]:
    """Lines: MiB of the runner when so many rows are done, and when the tables are written."""
    me, seen = psutil.Process(), []

    def look(done: int, total: int, row: Row) -> None:
        if done in MARKS or done == total:
            seen.append(f"{done} rows: {me.memory_info().rss / 2**20:.1f} MiB")

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        suite = load_suite(write_suite(folder, count))
        run(suite, out=folder / "out", jobs=jobs, progress=look)
        seen.append(f"with the tables written: {me.memory_info().rss / 2**20:.1f} MiB")
        began = time.perf_counter()
        run(suite, out=folder / "out", jobs=jobs)
        spent = time.perf_counter() - began
        seen.append(f"the same again, no row to run: {me.memory_info().rss / 2**20:.1f} MiB, {spent:.1f} s")
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10000)
    given = parser.parse_args()
    print(f"load of the machine: {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores", flush=True)
    for line in memory(given.rows, 2):
        print(line, flush=True)
    for jobs in (1, 2):
        print(overhead(given.instances, jobs), flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""A third party's verifier that does what a verifier must not do, installed as a distribution of its own; and a suite.

`hostile` is registered through entry-point metadata in a folder on the search path, as any plug-in is: child processes
find it the same way.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason
from verifkit.verifier import Verifier

MARK = "VERIFKIT_TEST_MARK"
"""An environment variable by which the processes of one test are told from all others."""


@dataclass(frozen=True, kw_only=True)
class Hostile(Verifier):
    """mode: what it does. seconds: how long, where it takes time. note: a file to write once it is at it."""

    mode: str = "holds"
    seconds: float = 0.05
    note: str = ""

    name = "hostile"
    capabilities = Capabilities(
        kinds={"inf": Kind.COMPLETE, "2": Kind.COMPLETE},
        paper=Paper("none2026", "Nobody", "None", "Nowhere", 2026),
        operators=None,
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        if self.note:
            Path(self.note).touch()
        getattr(self, f"_{self.mode}")(query)
        if self.mode == "false":
            return Outcome.violated([query.prop.input_set.lower[0]] * query.model.n_inputs)
        if self.mode == "holds":
            proof = Guarantee(arithmetic=Arithmetic.FLOAT)
            return Outcome.holds(proof, None, statistics={"draw": int(rng.integers(1000)), "ratio": np.float64("inf")})
        return Outcome.unknown(Reason.INCOMPLETE)

    def _holds(self, query: Query) -> None:
        time.sleep(self.seconds)

    def _false(self, query: Query) -> None:
        pass

    def _abort(self, query: Query) -> None:
        os.abort()

    def _segfault(self, query: Query) -> None:
        ctypes.string_at(8)

    def _hang(self, query: Query) -> None:
        while True:
            time.sleep(1)

    def _native(self, query: Query) -> None:
        """Sleeps in C without letting the interpreter's lock go, as a solver's bug does."""
        ctypes.PyDLL(None).sleep(int(self.seconds))

    def _allocate(self, query: Query) -> None:
        hoard = []
        while True:
            hoard.append(np.ones(2**20))
            time.sleep(0.002)

    def _garbage(self, query: Query) -> None:
        sys.stdout.write('{"verdict": "HOLDS"}\n')
        sys.stdout.buffer.write(b"\xff\x00{]\n" * 1000)
        os.write(2, b"\x1b[31mnoise" * 100)
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b'{"id": 0, "ended": "exit"}\n')
            except OSError:
                continue

    def _leave(self, query: Query) -> None:
        sys.exit(3)

    def _quit(self, query: Query) -> None:
        os._exit(0)

    def _server(self, query: Query) -> None:
        """Kills the process that started it."""
        os.kill(os.getppid(), signal.SIGKILL)
        self._hang(query)

    def _worker(self, query: Query) -> None:
        """Kills the process that started the one that started it: on a cluster the Dask worker, else the runner."""
        psutil.Process(psutil.Process().ppid()).parent().kill()
        self._hang(query)

    def _error(self, query: Query) -> None:
        raise RuntimeError("the solver is out of sorts")

    def _family(self, query: Query) -> None:
        """Leaves a child, a child in a session of its own, and a grandchild whose parent has ended; then hangs."""
        self._litter(query)
        self._hang(query)

    def _litter(self, query: Query) -> None:
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        twice = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"  # noqa: E501
        subprocess.Popen(sleep)
        subprocess.Popen(sleep, start_new_session=True)
        subprocess.run([sys.executable, "-c", twice], check=True)


def install(folder: Path) -> list[str]:
    """Writes the distribution's metadata into `folder`; the search path entries that a process needs to find it."""
    info = folder / "hostile-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    plugins = "hostile = hostile:Hostile\nmalicious = malicious:Malicious\nliar = malicious:Liar\n"
    (info / "entry_points.txt").write_text(f"[verifkit.verifiers]\n{plugins}")
    return [str(folder), str(Path(__file__).parent)]


def write_model(path: Path, seed: int = 0) -> None:
    """A network with 2 inputs, 4 ReLU and 3 outputs, its weights from `seed`."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (2, 4), "b1": (4,), "w2": (4, 3), "b2": (3,)}
    tensors = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1, 2])], [value("y", TensorProto.FLOAT, [1, 3])], tensors
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_property(path: Path, bound: float = 1e6) -> None:
    """Inputs in [0, 1]; unsafe: output 0 at least `bound`."""
    lines = [f"(declare-const X_{i} Real)" for i in range(2)] + [f"(declare-const Y_{i} Real)" for i in range(3)]
    lines += [f"(assert (>= X_{i} 0.0))\n(assert (<= X_{i} 1.0))" for i in range(2)]
    path.write_text("\n".join([*lines, f"(assert (>= Y_0 {bound:.1f}))"]) + "\n")


def write_folder(folder: Path, count: int = 3, timeout: float = 5) -> Path:
    """A VNN-COMP benchmark folder of one network and `count` different properties that hold."""
    folder.mkdir(parents=True)
    write_model(folder / "net.onnx")
    rows = []
    for i in range(count):
        write_property(folder / f"p{i}.vnnlib", 1e6 + i)
        rows.append(f"net.onnx,p{i}.vnnlib,{timeout}")
    (folder / "instances.csv").write_text("\n".join(rows) + "\n")
    return folder


def marked(mark: str) -> list[psutil.Process]:
    """The living processes that carry the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until_gone(mark: str, seconds: float) -> list[psutil.Process]:
    """The marked processes that are still there after `seconds`; returns at once when there are none."""
    deadline = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left

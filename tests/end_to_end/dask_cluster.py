"""A scheduler and workers as separate processes on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.end_to_end.hostile import MARK, marked

MEMORY = "3GiB"
"""Of each worker."""


@dataclass
class DaskCluster:
    """A context manager. folder: for its files. path: the workers' search path. threads: of each worker."""

    folder: Path
    path: Sequence[str]
    threads: int = 1
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> DaskCluster:
        self.folder.mkdir()
        self.file = self.folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard")
        deadline = time.monotonic() + 60
        while not self.file.exists() or not self.file.read_text().endswith("}"):
            assert self.scheduler.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.address: str = json.loads(self.file.read_text())["address"]
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            kill_group(process)
        for left in marked(self.mark):
            left.kill()

    def add_worker(self, *, nanny: bool = False) -> subprocess.Popen[bytes]:
        options = ["--nthreads", str(self.threads), "--host", "127.0.0.1", "--no-dashboard"]
        options += [
            "--memory-limit",
            MEMORY,
            "--local-directory",
            str(self.folder / "scratch"),
            "--nanny" if nanny else "--no-nanny",
        ]
        worker = self._start("worker", *options)
        self.workers.append(worker)
        return worker

    def processes(self) -> set[int]:
        """Everything that runs in the cluster, the workers' own processes included."""
        return {process.pid for process in marked(self.mark)}

    def _start(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        here = str(Path(__file__).parents[2])
        environ = {**os.environ, MARK: self.mark, "PYTHONPATH": os.pathsep.join([here, *self.path])}
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", str(self.file), *options],
                env=environ,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the process and all of its group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


def wait_until_only(cluster: DaskCluster, pids: set[int], seconds: float = 5.0) -> set[int]:
    """The processes beside `pids` that the cluster still has after `seconds`; returns at once when there are none."""
    deadline = time.monotonic() + seconds
    while (left := cluster.processes() - pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left

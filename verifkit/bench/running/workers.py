"""One worker process seen from its parent: started, watched, ended."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from verifkit.processes import (
    adopt_orphans,
    descendants,
    die_with_parent,
    kill,
    kill_group,
    resident_bytes,
)

GRACE = 1.0
"""Seconds past its limit after which a worker is killed: one that keeps its time itself has answered by then."""
_MOST_OUTPUT = 16 * 2**20


class Worker(ABC):
    """A process with its limits: `seconds` of wall time and `memory` bytes of resident memory, or None.

    Its children count as part of it. `look` must be called many times a second.
    """

    pid: int

    def __init__(self, folder: Path, seconds: float | None, memory: int | None, close: Sequence[int]) -> None:
        from verifkit.bench.running.worker import OUTPUT

        self.folder, self.seconds, self.memory = folder, seconds, memory
        self.peak, self.cpu_seconds = 0, 0.0
        self.reason = "exit"
        self._started = time.perf_counter()
        self.wall_seconds = 0.0
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        self._output = os.open(folder / OUTPUT, flags, 0o600)
        self._start(close)

    @abstractmethod
    def _start(self, close: Sequence[int]) -> None:
        """Starts the process; `close` are the parent's descriptors that it must not keep."""

    @abstractmethod
    def _ended(self) -> int | None:
        """The exit code (minus the signal's number, where one ended it), or None while it runs."""

    def look(self) -> dict[str, Any] | None:
        """Enforces the limits; how the process ended, once it has."""
        family = [self.pid, *descendants(self.pid)]
        self.peak = max(self.peak, resident_bytes(family))
        code = self._ended()
        if code is not None:
            kill(family[1:])
            self.wall_seconds = time.perf_counter() - self._started
            os.close(self._output)
            return {"ended": self.reason, "status": code}
        if self.reason == "exit":
            if self.memory is not None and self.peak > self.memory:
                self.reason = "memout"
                self.kill()
            elif self.seconds is not None and time.perf_counter() - self._started > self.seconds + GRACE:
                self.reason = "timeout"
                self.kill()
        if os.fstat(self._output).st_size > _MOST_OUTPUT:
            os.ftruncate(self._output, 0)
        return None

    def kill(self) -> None:
        """Ends the process and its descendants; `look` notices."""
        family = descendants(self.pid)
        kill_group(self.pid)
        kill([self.pid, *family])

    def usage(self) -> dict[str, Any]:
        return {
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": self.cpu_seconds,
            "peak_memory_bytes": self.peak,
        }


class ForkedWorker(Worker):
    """A fork of the present process, which has one thread and everything loaded."""

    def _start(self, close: Sequence[int]) -> None:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            os.setsid()
            die_with_parent(parent)
            adopt_orphans()
            self._settle(close)
            from verifkit.bench.running.worker import run_job

            run_job(self.folder)
            sys.stdout.flush()
            sys.stderr.flush()
            status = 0
        finally:
            os._exit(status)  # whatever happens, this process never returns into the server's loop

    def _settle(self, close: Sequence[int]) -> None:
        """Makes the fork a process of its own: signals, standard streams, no descriptor of the server."""
        import resource

        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(self._output, 1)
        os.dup2(self._output, 2)
        for descriptor in (*close, nothing, self._output):
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.enable()

    def _ended(self) -> int | None:
        if sys.platform == "win32" or not hasattr(os, "waitid"):
            raise OSError("forked workers need Linux")
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        kill_group(self.pid)  # before the number is given back
        _, status, used = os.wait4(self.pid, 0)
        self.cpu_seconds = used.ru_utime + used.ru_stime
        self.peak = max(self.peak, used.ru_maxrss * 1024)
        return os.waitstatus_to_exitcode(status)


class SpawnedWorker(Worker):
    """A new interpreter; CPU time is what was last seen of it, up to one look ago."""

    def _start(self, close: Sequence[int]) -> None:
        # -c with the present search path: as `multiprocessing` does it, nothing of the working directory is imported
        code = (
            "import sys; sys.path[:] = sys.argv[2:]; import faulthandler; faulthandler.enable(); "
            "from verifkit.bench.running.worker import main; main(sys.argv[1])"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(self.folder), *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def _ended(self) -> int | None:
        try:
            seen = psutil.Process(self.pid).cpu_times()
            self.cpu_seconds = max(self.cpu_seconds, seen.user + seen.system + _below(seen))
        except psutil.Error:
            pass
        code = self._process.poll()
        if code is not None:
            self._process.wait()
        return code


def _below(seen: Any) -> float:
    """The CPU seconds of children that were waited for, where the system tells."""
    return float(getattr(seen, "children_user", 0.0) + getattr(seen, "children_system", 0.0))

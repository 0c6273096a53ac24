"""The process between the runner and its workers: starts them, keeps their limits, and ends them when the runner ends.

A process of its own, rather than the fork server of `multiprocessing`, for three promises that one cannot make. It is
the parent of the workers, so the system tells it (and it alone) when one ends, and what that one and its children used.
It watches them from outside, so a worker that hangs in native code with the interpreter's lock held is ended like any
other. And it notices the death of the runner, however sudden, as the end of its own input, and then ends every worker
with all its descendants. Should it be killed itself, the kernel ends the workers (`PR_SET_PDEATHSIG`, Linux).

It loads the heavy modules, and those of the verifiers in question, once; a worker is a fork that finds them loaded. It
makes no onnxruntime session and does no computation, and it has one thread: forking is safe. Where forking is not
(macOS, Windows) every worker is a new interpreter, with the same limits.

Protocol: one JSON object per line. In: `{"id", "seconds", "memory"}`, a job whose folder is `DIRECTORY/ID`; or `{"id",
"stop": true}`, which kills it (it ends like any other, unless it has ended before). Out: first
`{"directory", "method"}`, then for each job `{"id", "ended", "status", "wall_seconds", "cpu_seconds",
"peak_memory_bytes"}`, where `ended` is "exit", "timeout" or "memout"; what the job has to say is in its folder. Lines
are short, so that neither side ever waits for the other to read.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import queue
import selectors
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from verifkit.bench.running.workers import ForkedWorker, SpawnedWorker, Worker
from verifkit.processes import (
    adopt_orphans,
    children,
    die_with_parent,
    kill,
    outlive_parent,
)

TICK = 0.025
"""Seconds between two looks at the workers' time and memory."""
# Our own dependencies, some of which are otherwise imported on first use: by every single worker, that is.
_BASE = (
    "numpy",
    "onnx",
    "onnxruntime",
    "array_api_compat.numpy",
    "scipy.sparse",
    "scipy.special",
    "highspy",
    "verifkit.io.onnx",
    "verifkit.io.vnnlib",
    "verifkit.bench.running.worker",
)
_PROBE_SECONDS = 60.0
_LAST_WORDS_SECONDS = 5.0
_LOG = logging.getLogger(__name__)


class Server:
    """The event loop. `settings`: "parent" (pid of the runner), "method" (fork or spawn), "verifiers" (names)."""

    def __init__(self, settings: Mapping[str, Any], source: int, replies: int) -> None:
        self.method: str = settings["method"]
        self.verifiers: Sequence[str] = settings["verifiers"]
        self.source, self.replies = source, replies
        self.directory = Path(tempfile.mkdtemp(prefix="verifkit-"))
        self.workers: dict[int, Worker] = {}

    def run(self) -> None:
        """Serves until the input ends, then ends every worker and removes the directory."""
        try:
            self._reply({"directory": str(self.directory), "method": self.method})
            for message in self._messages():
                if message is not None:
                    self._start(message)
                self._look()
        finally:
            self._end_all()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _messages(self) -> Iterator[dict[str, Any] | None]:
        """Requests as they come; None when it is time to look at the workers. Ends with the input."""
        if self.method == "fork":
            return _selected(self.source, self.workers)
        return _queued(self.source, self.workers)

    def _start(self, message: Mapping[str, Any]) -> None:
        number = int(message["id"])
        if message.get("stop"):
            if number in self.workers:
                self.workers[number].kill()
            return
        folder = self.directory / str(number)
        kind = ForkedWorker if self.method == "fork" else SpawnedWorker
        self.workers[number] = kind(folder, message["seconds"], message["memory"], close=(self.source, self.replies))

    def _look(self) -> None:
        """Enforces the limits, and reports the workers that have ended."""
        for number, worker in list(self.workers.items()):
            ended = worker.look()
            if ended is not None:
                del self.workers[number]
                if self.method == "fork":
                    worker.cpu_seconds += self._end_strays()
                self._reply({"id": number, **ended, **worker.usage()})

    def _end_strays(self) -> float:
        """Ends what workers have left behind and this process has inherited; the CPU seconds they used."""
        seconds = 0.0
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            ours = {worker.pid for worker in self.workers.values()}
            strays = [pid for pid in children(os.getpid()) if pid not in ours]
            if not strays:
                break
            kill(strays)
            for pid in strays:  # killed: they end at once
                try:
                    used = os.wait4(pid, 0)[2]
                except ChildProcessError:
                    continue
                seconds += used.ru_utime + used.ru_stime
        return seconds

    def _end_all(self) -> None:
        for worker in self.workers.values():
            worker.kill()
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while self.workers and time.monotonic() < deadline:
            for number, worker in list(self.workers.items()):
                if worker.look() is not None:
                    del self.workers[number]
            time.sleep(0.002)
        if self.method == "fork":
            self._end_strays()

    def _reply(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the runner has died: the input ends as well
            os.write(self.replies, json.dumps(message).encode() + b"\n")


def _selected(source: int, workers: Mapping[int, Worker]) -> Iterator[dict[str, Any] | None]:
    """POSIX: wakes up for a request, for a worker's end (through SIGCHLD), and at every tick while workers run."""
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if sys.platform == "linux" else os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select(TICK if workers else None)}
            if woken in ready:
                os.read(woken, 4096)
            if source in ready:
                data = os.read(source, 65536)
                if not data:
                    return
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    yield json.loads(line)
            yield None


def _queued(source: int, workers: Mapping[int, Worker]) -> Iterator[dict[str, Any] | None]:
    """Where forks are not used a thread may read the input, which no selector can do for a pipe on Windows."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        with os.fdopen(source, "rb", closefd=False) as stream:
            for line in stream:
                lines.put(line)
        lines.put(b"")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=TICK if workers else None)
        except queue.Empty:
            yield None
            continue
        if not line:
            return
        yield json.loads(line)
        yield None


def preload(verifiers: Sequence[str]) -> None:
    """Imports what workers will need. A verifier's module is first imported by a fork, which may crash or hang."""
    for module in _BASE:
        importlib.import_module(module)
    if _threads() > 1:
        _LOG.warning("a library has started a thread of its own: workers are forked from more than one thread")
    for name in verifiers:
        if _survives(name):
            _load(name)
    gc.collect()
    gc.freeze()  # forks then share these pages for good


def _load(name: str) -> None:
    """Imports the verifier `name` with the optional packages it declares."""
    from verifkit import registry

    capabilities = registry.verifier_class(name).capabilities
    for module in capabilities.modules:
        importlib.import_module(module)


def _survives(name: str) -> bool:
    """Whether importing the verifier works in a fork and leaves it with one thread, so that it may be forked again."""
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            die_with_parent(server)
            _load(name)
            status = 0 if _threads() == 1 else 2
        except BaseException:  # noqa: BLE001 (the worker that needs it reports what is wrong)
            pass
        finally:
            os._exit(status)
    deadline = time.monotonic() + _PROBE_SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.005)
    kill([pid])
    os.waitpid(pid, 0)
    return False


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def main(settings: Mapping[str, Any]) -> None:
    """The whole life of the server: its input and its replies are the standard streams that it was started with."""
    source, replies = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # what an imported module prints is no reply
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the runner's affair
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if settings["method"] == "fork":
        die_with_parent(settings["parent"])  # while loading, nothing else would notice
        adopt_orphans()
        preload(settings["verifiers"])
        outlive_parent()  # from here on the end of the input says it, and leaves time to clean up
    Server(settings, source, replies).run()

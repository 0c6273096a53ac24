"""Questions put to verifiers in processes of their own, with limits that hold: the runner's side of the fork server.

    with Isolation(["milp"]) as isolation:
        isolation.submit({"kind": "answer", ...}, seconds=20, memory=2**30)
        reply = isolation.next()

A worker that outlives its seconds is killed within 2 s, one that outgrows its memory within two ticks (a twentieth of
a second; what it takes in between is not bounded), both with all their descendants. Standard input is empty; what a
worker prints goes to a file whose last lines a failure quotes. Results come back as JSON in a file of the job's own
folder: nothing that a verifier prints can be taken for a result, nothing that it leaves behind can hold a pipe open,
and no object of a worker is ever unpickled here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import psutil

from verifkit.bench.rows.whole_file import whole_file
from verifkit.bench.running.worker import EVIDENCE, JOB, OUTPUT, RESULT, UNWRITTEN
from verifkit.errors import RunnerError, SuiteError, VerifkitError
from verifkit.processes import can_fork, end_marked

Method = Literal["fork", "spawn"]

# As `multiprocessing` does it: the search path of this process, and nothing of the working directory.
_BOOT = (
    "import sys, json; settings = json.loads(sys.argv[1]); sys.path[:] = settings['path']; "
    "from verifkit.bench.running.forkserver import main; main(settings)"
)
# Read when a library is loaded: one thread each, none before a fork (onnxruntime from 1.29 on starts one that sends
# usage data, unless told not to), and the same hashes every time.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "BLIS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONHASHSEED": "0",
}
_MARK = "VERIFKIT_RUN"
"""By which the processes of a run are told from others, where the one that watches over them was killed."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PROBE_BYTES = 65536
_LINES = 30
_WAKE_SECONDS = 0.5
_LAST_BYTES = 8192
_MOST_RESULT = 2**28
"""Bytes of one answer: a counterexample of a large image takes a few million."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """How a job ended: "exit" (with or without a result), "timeout" or "memout".

    result: what the job wrote, None if it did not come to that. status: the exit code, minus a signal's number.
    output: the last lines it printed, None where it printed nothing. evidence: whether it left evidence where
    `Isolation.submit` was told to put it.
    """

    id: int
    ended: str
    status: int
    result: dict[str, Any] | None
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    output: str | None
    evidence: bool


class Isolation:
    """A running fork server; a context manager, whose end leaves no process and no file behind."""

    def __init__(self, verifiers: Sequence[str], *, method: Method | None = None) -> None:
        """verifiers: the names whose modules are loaded ahead. method: how workers start; default: what is safe."""
        self.method: Method = method or ("fork" if can_fork() else "spawn")
        self._verifiers = list(verifiers)
        self._next = 0
        self._evidence: dict[int, Path] = {}
        self._directory: Path | None = None
        self._left: list[Path] = []
        self._mark = uuid.uuid4().hex

    def __enter__(self) -> Self:
        self._start()
        return self

    def _start(self) -> None:
        settings = {
            "path": sys.path,
            "parent": os.getpid(),
            "method": self.method,
            "verifiers": self._verifiers,
        }
        environ = {**os.environ, **_ENVIRONMENT, _MARK: self._mark}
        try:
            self._log = tempfile.TemporaryFile(prefix="verifkit-")  # noqa: SIM115 (open as long as the server runs)
        except OSError as error:
            raise SuiteError(f"no temporary file can be written: {error.strerror or error}") from None
        self._server = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environ,
            start_new_session=True,  # an interrupt from the terminal reaches the runner alone
        )
        self._over = threading.Event()
        threading.Thread(target=_keep_going, args=(self._server.pid, self._over), daemon=True).start()
        try:
            self._directory = Path(self._receive()["directory"])
        except BaseException:
            self._close()
            raise

    def restart(self) -> None:
        """A new server in place of one that was killed; the jobs that ran are lost, folders stay where they are."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._over.set()
        self._server.kill()
        with contextlib.suppress(BrokenPipeError):
            self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
        self._log.close()
        end_marked(_MARK, self._mark)
        if self._directory is not None:
            self._left.append(self._directory)
        self._evidence.clear()
        self._start()

    @property
    def directory(self) -> Path:
        """Where jobs and their files lie, and where the runner may keep what they share; removed at the end."""
        if self._directory is None:
            raise RuntimeError("the fork server is not running")
        return self._directory

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def submit(
        self, job: Mapping[str, Any], *, seconds: float | None, memory: int | None, evidence: Path | None = None
    ) -> int:
        """Starts a job at once, in a process of its own; its number. evidence: the file that its evidence goes to."""
        number, self._next = self._next, self._next + 1
        folder = self.directory / str(number)
        try:
            folder.mkdir()
            (folder / JOB).write_text(json.dumps(job), encoding="utf-8")
        except OSError as error:
            raise self._full(error.errno) from None
        if evidence is not None:
            self._evidence[number] = evidence
        self._send({"id": number, "seconds": seconds, "memory": memory})
        return number

    def stop(self, number: int) -> None:
        """Kills a job that nobody waits for any more; its reply comes all the same."""
        self._send({"id": number, "stop": True})

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._server.stdin is not None
        try:
            self._server.stdin.write(json.dumps(message).encode() + b"\n")
            self._server.stdin.flush()
        except (BrokenPipeError, ValueError):  # ValueError: closed on this side, by another thread
            raise self._gone() from None

    def next(self) -> Reply:
        """Waits for a job to end.

        Raises `RunnerError` if the server was killed, and `SuiteError` where a disk takes no more: what a worker could
        not write, or could not do for that reason, is no answer.
        """
        told = self._receive()
        folder = self.directory / str(told["id"])
        try:
            result = _result(folder / RESULT)
            for unwritten in folder.glob(f"{UNWRITTEN}*"):
                number = unwritten.name.removeprefix(UNWRITTEN)
                # Other reasons than a full disk, as a limit of its own, are the worker's.
                if number.isdecimal() and (int(number) == errno.ENOSPC or not self._takes_more()):
                    raise self._full(int(number))
            target = self._evidence.pop(told["id"], None)
            left = target is not None and _copied(folder / EVIDENCE, target)
            reply = Reply(result=result, output=_last_lines(folder / OUTPUT), evidence=left, **told)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        why = None if result is None else result.get("errno")
        if (result is None or why in _FULL) and not self._takes_more():  # even without what that worker had written
            raise self._full(why)
        return reply

    def _full(self, number: int | None) -> SuiteError:
        why = os.strerror(number or errno.ENOSPC)
        return SuiteError(f"the temporary folder '{self.directory}' cannot be written: {why}; set TMPDIR to another")

    def _takes_more(self) -> bool:
        """Whether the temporary folder can be written to."""
        probe = self.directory / "probe"
        try:
            with open(probe, "wb") as file:
                file.write(bytes(_PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            return False
        finally:
            probe.unlink(missing_ok=True)
        return True

    def _receive(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._gone()
        message: dict[str, Any] = json.loads(line)
        return message

    def _gone(self) -> VerifkitError:
        if self._directory is not None and not self._takes_more():
            return self._full(None)
        self._log.seek(0)
        words = self._log.read().decode(errors="replace").strip().splitlines()
        why = f" ({words[-1]})" if words else ""
        return RunnerError(f"the process that starts the workers has ended unexpectedly{why}; the same command goes on")

    def _close(self) -> None:
        """Ends the input: the server then ends its workers, cleans up and ends itself."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._server.stdin.close()
        try:
            self._server.wait(timeout=10)
            self._over.set()
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()
        self._log.close()
        if self._server.returncode:
            end_marked(_MARK, self._mark)
        for folder in (self._directory, *self._left):  # the server has removed its own, unless it was killed
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _keep_going(pid: int, over: threading.Event) -> None:
    """Wakes the server where a job has stopped it (SIGSTOP): it would keep no limit, and the study would not end."""
    while not over.wait(_WAKE_SECONDS):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                os.kill(pid, signal.SIGCONT)
        except (psutil.Error, OSError):
            return


def _result(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file that a worker may have written, or anything that runs in it: None where it is none.

    JSON in the narrow sense, so that it can be written again: no infinities, and text that UTF-8 can hold.
    """
    data = _last_bytes(path, _MOST_RESULT + 1)
    try:
        found = None if data is None or len(data) > _MOST_RESULT else json.loads(data)
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _last_lines(path: Path) -> str | None:
    text = (_last_bytes(path, _LAST_BYTES) or b"").decode("utf-8", errors="replace")
    lines = text.strip().splitlines()[-_LINES:]
    return "\n".join(lines) or None


def _copied(path: Path, target: Path) -> bool:
    """Whether there was a file to copy to `target`."""
    with _opened(path) as source:
        if source is not None:
            with whole_file(target) as file:
                shutil.copyfileobj(source, file)
        return source is not None


def _last_bytes(path: Path, most: int) -> bytes | None:
    """The end of a regular file; None where there is none."""
    with _opened(path) as file:
        if file is None:
            return None
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most))
        return file.read(most)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | None]:
    """A regular file; None where there is none. No link in its place is followed, no pipe waited for."""
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        yield None
        return
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        yield None
        return
    with os.fdopen(number, "rb") as file:
        yield file

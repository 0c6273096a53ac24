"""Where the questions of a study are answered: the one thing that differs between this machine and a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from verifkit.bench.rows.schema import Row
from verifkit.bench.rows.store import evidence_name
from verifkit.bench.running.answers import Task, answered_row, failed_row
from verifkit.bench.running.inspection import Asked, inspect_models
from verifkit.bench.running.isolation import Isolation, Method
from verifkit.bench.suites.instance import Instance
from verifkit.errors import RunnerError

_IDLE_DEATHS = 3
"""How often the fork server may end with nothing to do before the run gives up."""


class Engine(Protocol):
    """A context manager. Its end, by an exception too, leaves no process and no file behind."""

    @property
    def memory_bytes(self) -> int:
        """The resident memory that each worker may take where its question has no limit of its own."""

    def inspect(self, instances: Sequence[Instance]) -> list[Asked]:
        """Every instance inspected, in the order given (`verifkit.bench.running.inspection`)."""

    def rows(self, tasks: Iterable[Task]) -> Iterator[Row]:
        """One row for each task, whatever becomes of its worker, in the order in which they are done."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def job_of(task: Task, *, evidence: bool = False) -> dict[str, Any]:
    """What a worker is told (`verifkit.bench.running.worker.answer`). evidence: whether to keep it in a file."""
    return {
        "kind": "answer",
        "ready": task.asked.ready,
        "number": task.asked.number,
        "verifier": task.contender.name,
        "options": task.contender.options,
        "limits": asdict(task.limits),
        "seed": task.seed,
        "evidence": evidence,
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class LocalEngine:
    """This machine: workers of a fork server, `jobs` at a time.

    verifiers: the names whose modules are loaded ahead. memory_bytes: for a worker. machine: the environment's short
    hash, as rows name it. evidence: the result folder that gets the evidence of definite answers, None for none.
    """

    def __init__(
        self,
        verifiers: Sequence[str],
        jobs: int,
        memory_bytes: int,
        machine: str,
        method: Method | None = None,
        evidence: Path | None = None,
    ) -> None:
        self._isolation = Isolation(verifiers, method=method)
        self._jobs, self._memory, self._machine, self._evidence = jobs, memory_bytes, machine, evidence

    @property
    def memory_bytes(self) -> int:
        return self._memory

    def __enter__(self) -> Self:
        self._isolation.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._isolation.__exit__(kind, error, trace)

    def inspect(self, instances: Sequence[Instance]) -> list[Asked]:
        return inspect_models(self._isolation, instances, self._jobs, self._memory)

    def rows(self, tasks: Iterable[Task]) -> Iterator[Row]:
        waiting = deque(tasks)
        running: dict[int, tuple[Task, str]] = {}
        idle_deaths = 0
        while waiting or running:
            while waiting and waiting[0].asked.error is not None:
                task = waiting.popleft()
                yield failed_row(task, task.asked.error or "", now(), self._machine)
            try:
                while waiting and len(running) < self._jobs and waiting[0].asked.error is None:
                    running[self._submit(waiting[0])] = waiting[0], now()
                    waiting.popleft()
                ended = self._isolation.next() if running else None
            except RunnerError:
                idle_deaths += not running
                if idle_deaths > _IDLE_DEATHS:
                    raise
                self._isolation.restart()
                suspects = [task for task, _ in running.values()]
                running.clear()
                for task in suspects:
                    yield self._alone(task)
                continue
            if ended is not None:
                task, started = running.pop(ended.id)
                yield answered_row(task, ended, started, self._machine)

    def _submit(self, task: Task) -> int:
        limits = task.limits
        return self._isolation.submit(
            job_of(task, evidence=self._evidence is not None),
            seconds=limits.seconds,
            memory=limits.memory_bytes,
            evidence=None if self._evidence is None else self._evidence / evidence_name(task.key),
        )

    def _alone(self, task: Task) -> Row:
        """One of those that ran when the server was killed: should it be killed again, this one has done it."""
        started = now()
        try:
            self._submit(task)
            return answered_row(task, self._isolation.next(), started, self._machine)
        except RunnerError:
            self._isolation.restart()
            why = "the process that starts the workers was killed twice while this verifier ran, once with no other"
            return failed_row(task, why, started, self._machine)

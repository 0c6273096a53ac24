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
        while waiting or running:
            while waiting and len(running) < self._jobs:
                task, started = waiting.popleft(), now()
                if task.asked.error is not None:
                    yield failed_row(task, task.asked.error, started, self._machine)
                    continue
                limits = task.limits
                number = self._isolation.submit(
                    job_of(task, evidence=self._evidence is not None),
                    seconds=limits.seconds,
                    memory=limits.memory_bytes,
                    evidence=None if self._evidence is None else self._evidence / evidence_name(task.key),
                )
                running[number] = (task, started)
            if running:
                reply = self._isolation.next()
                task, started = running.pop(reply.id)
                yield answered_row(task, reply, started, self._machine)

"""Runs a suite: every instance to every verifier, each in a process of its own, every answer a row.

First each model is inspected once (`verifkit.bench.running.worker.inspect`), which gives the hashes that the rows' keys
are
made of; then the rows that do not stand yet are run, in an order shuffled by the seed. Whatever happens to a worker,
its row is written; whatever happens to the runner, the same command goes on where it stopped.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from verifkit import registry
from verifkit.bench.rows.schema import Row
from verifkit.bench.rows.store import RowStore, row_key
from verifkit.bench.running import environment
from verifkit.bench.running.answers import Contender, Task, answered_row, failed_row
from verifkit.bench.running.inspection import Asked, inspect_models
from verifkit.bench.running.isolation import Isolation, Method
from verifkit.bench.suites.instance import Suite
from verifkit.errors import OptionError, SuiteError
from verifkit.processes import memory_available
from verifkit.result import Reason

Progress = Callable[[int, int, Row], None]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSummary:
    """rows: all that the suite asks for. written: run now. standing: there already. errors: written with an error."""

    rows: int
    written: int
    standing: int
    errors: int


def run(
    suite: Suite,
    *,
    out: str | os.PathLike[str],
    verifiers: Sequence[tuple[str, Mapping[str, Any]]] | None = None,
    timeout: float | None = None,
    memory_bytes: int | None = None,
    jobs: int | None = None,
    seed: int = 0,
    repeats: int = 1,
    progress: Progress | None = None,
    method: Method | None = None,
) -> RunSummary:
    """Writes the rows of `suite` that do not stand in `out` yet.

    verifiers: (name, options) pairs in place of the suite's own; every instance is then put to each of them, whatever
    its group says. timeout: seconds, in place of the suite's and the instances' own. memory_bytes: for each worker;
    default: an equal share of the machine's memory. jobs: workers at a time; default: the usable cores. repeats: how
    often each question is asked, with seeds `seed`, `seed + 1`, ... progress: called with (rows done, rows in all, row)
    after each row. method: how workers are started; default: what is safe here.

    Raises `SuiteError`, `UnknownVerifier`, `OptionError` or `MissingPackage` before anything runs, and `SuiteError`
    where `out` takes no more. After an interrupt no process is left, and the same call goes on.
    """
    jobs = environment.usable_cores() if jobs is None else jobs
    for what, number in (("jobs", jobs), ("repeats", repeats)):
        if number < 1:
            raise OptionError(f"{what} must be at least 1, not {number}")
    for limit in (timeout, memory_bytes):
        if limit is not None and not 0 < limit < float("inf"):
            raise OptionError(f"a limit must be a positive number, not {limit}")
    chosen = suite.verifiers if verifiers is None else verifiers
    if not chosen:
        raise SuiteError(f"suite '{suite.name}' names no verifiers: add [[verifiers]] to it, or name them")
    contenders = [_contender(name, options) for name, options in chosen]
    share = memory_bytes or memory_available() // jobs
    with RowStore(out) as store:
        machine = environment.record(store.folder)
        with Isolation([c.name for c in contenders], method=method) as isolation:
            asked = inspect_models(isolation, suite.instances, jobs, share)
            tasks = [
                _task(question, contender, timeout, memory_bytes, share, seed, repeat)
                for question in asked
                for contender in contenders
                if verifiers is not None or contender.name in (question.instance.verifiers or (contender.name,))
                for repeat in range(repeats)
            ]
            return _run_tasks(isolation, store, tasks, jobs, seed, machine, progress)


def _contender(name: str, options: Mapping[str, Any]) -> Contender:
    """Raises where the verifier does not exist, cannot be configured so, or lacks a package."""
    verifier = registry.create(name, options)
    verifier.require_usable()
    version = "unknown"
    for entry in importlib.metadata.entry_points(group=registry.GROUP, name=name):
        if entry.dist is not None:
            version = f"{entry.dist.name} {entry.dist.version}"
    kinds = {str(norm): str(kind) for norm, kind in verifier.capabilities.kinds.items()}
    return Contender(name, _plain(verifier.options()), version, kinds)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them, so that a row read back holds the same."""
    return {
        key: list(value)
        if isinstance(value, tuple)
        else value
        if value is None or isinstance(value, bool | int | float | str)
        else str(value)
        for key, value in options.items()
    }


def _task(
    asked: Asked,
    contender: Contender,
    timeout: float | None,
    memory_bytes: int | None,
    share: int,
    seed: int,
    repeat: int,
) -> Task:
    limit = asked.instance.timeout if timeout is None else timeout
    key = row_key(
        model_hash=asked.model_hash,
        property_hash=asked.property_hash,
        verifier=contender.name,
        options=contender.options,
        timeout=limit,
        memory_limit=memory_bytes,
        seed=seed,
        repeat=repeat,
    )
    return Task(key, asked, contender, limit, share, seed + repeat, repeat)


def _run_tasks(
    isolation: Isolation,
    store: RowStore,
    tasks: Sequence[Task],
    jobs: int,
    seed: int,
    machine: str,
    progress: Progress | None,
) -> RunSummary:
    distinct = {task.key: task for task in tasks}
    standing = distinct.keys() & {row.key for row in store.rows}
    waiting = [task for key, task in distinct.items() if key not in standing]
    random.Random(seed).shuffle(waiting)
    _LOG.info("%d rows to run, %d stand already", len(waiting), len(standing))
    done, errors = len(standing), 0
    for row in _rows(isolation, waiting, jobs, machine):
        store.append(row)
        done += 1
        errors += row.reason == Reason.ERROR
        if progress is not None:
            progress(done, len(distinct), row)
    return RunSummary(len(distinct), len(waiting), len(standing), errors)


def _rows(isolation: Isolation, tasks: Iterable[Task], jobs: int, machine: str) -> Iterator[Row]:
    """The rows of the tasks, as they are done; `jobs` at a time."""
    waiting = deque(tasks)
    running: dict[int, tuple[Task, str]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            task = waiting.popleft()
            started = datetime.now(UTC).isoformat(timespec="milliseconds")
            if task.asked.error is not None:
                yield failed_row(task, task.asked.error, started, machine)
                continue
            job = {
                "kind": "answer",
                "ready": task.asked.ready,
                "number": task.asked.number,
                "verifier": task.contender.name,
                "options": task.contender.options,
                "timeout": task.timeout,
                "memory_limit": task.memory_limit,
                "seed": task.seed,
            }
            number = isolation.submit(job, seconds=task.timeout, memory=task.memory_limit)
            running[number] = (task, started)
        if running:
            reply = isolation.next()
            task, started = running.pop(reply.id)
            yield answered_row(task, reply, started, machine)

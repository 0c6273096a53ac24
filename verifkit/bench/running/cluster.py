"""A study on an existing engine: the tasks go to the workers of a Dask cluster, the rows come back here.

The client keeps two tasks for each thread of the workers on the way and no more, however long the study. Each becomes
one process on the worker's machine (`verifkit.bench.running.plugin`), with the limits it has locally. Model and
property travel as content: a worker needs no file of this machine.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import logging
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dask
from dask.utils import parse_timedelta
from distributed import Future, KilledWorker

from verifkit import registry
from verifkit.bench.rows.schema import SCHEMA, Row
from verifkit.bench.rows.store import evidence_name
from verifkit.bench.rows.whole_file import whole_file
from verifkit.bench.running import environment
from verifkit.bench.running.answers import Contender, Task, answered_row, failed_row
from verifkit.bench.running.engine import job_of, now
from verifkit.bench.running.inspection import Asked, asked_of, unusable
from verifkit.bench.running.parcels import Post
from verifkit.bench.running.plugin import StudyPlugin, Terms, introduce, receive, work
from verifkit.bench.running.scheduler import connect
from verifkit.bench.running.workshop import Done, Lost, Missing, Order, Outcome, Unprepared
from verifkit.bench.suites.instance import Instance
from verifkit.errors import OptionError, RunnerError, SuiteError, VerifkitError

_PER_THREAD = 2
_CHUNK = 32
_AT_ONCE = 64
_LOOK_SECONDS = 1.0
_PATIENT_SECONDS = 5.0
_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _Errand:
    """An order on its way. make: builds it anew for every try. losses: tries that ended with the worker's end."""

    make: Callable[[], Order]
    losses: int = 0
    alone: bool = False


class ClusterEngine:
    """The workers of a Dask cluster, with as many rows at a time as they have threads.

    jobs: at most so many at a time. memory_bytes: for each worker process; None: the least share of a thread among the
    workers that are there at the start. folder: of the rows, where the workers' environments are noted. evidence: the
    result folder that gets the evidence of definite answers, None for none.
    """

    def __init__(
        self,
        where: str,
        contenders: Sequence[Contender],
        jobs: int | None,
        memory_bytes: int | None,
        folder: Path,
        evidence: Path | None = None,
    ) -> None:
        self._where, self._folder, self._evidence = where, folder, evidence
        self._jobs = None if where == "slurm" else jobs
        self._cores = jobs
        self._memory = memory_bytes
        self._terms = _terms(contenders)
        self._name = f"verifkit-{uuid.uuid4().hex}"
        self._post = Post()
        self._keys, self._numbers = itertools.count(), itertools.count()
        self._machines: dict[str, str] = {}
        self._sent: set[tuple[str, str]] = set()
        self._slots, self._seen, self._looked = 0, time.monotonic(), 0.0
        configured = dask.config.get("verifkit.patience", None if where == "slurm" else "5 minutes")
        self._patience: float = float("inf") if configured is None else parse_timedelta(configured)

    def __enter__(self) -> Self:
        self._client = connect(self._where, self._cores)
        self._running: dict[Future[Any], _Errand] = {}
        self._ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        try:
            self._seen, told = time.monotonic(), False
            while not self._threads():
                if time.monotonic() - self._seen > _PATIENT_SECONDS and not told:
                    told = True
                    _LOG.warning("waiting for the first worker at '%s'", self._where)
                time.sleep(0.1)
            share = self._agree()
            self._memory = self._memory or share
            self._client.register_plugin(StudyPlugin(self._terms), name=self._name)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def memory_bytes(self) -> int:
        """The resident memory that each worker process may take."""
        assert self._memory is not None
        return self._memory

    def _agree(self) -> int:
        """Compares the installations; the least share of memory. Raises `OptionError` before anything has run."""
        versions: Any = self._client.get_versions(packages=["verifkit"])
        found = {"the scheduler": versions["scheduler"]}
        found.update((f"the worker at {address}", what) for address, what in versions["workers"].items())
        for who, what in found.items():
            other = what["packages"].get("verifkit")
            if other != self._terms.version:
                raise OptionError(
                    f"{who} has {f'verifkit {other}' if other else 'no verifkit'}, not {self._terms.version} as here: "
                    f"install the same version"
                )
        shares: list[int] = []
        for address, (wrong, share) in self._client.run(introduce, self._terms).items():
            if wrong is not None:
                raise OptionError(f"the worker at {address} {wrong}: install the same there")
            shares.append(share)
        return min(shares)

    def _close(self) -> None:
        """Calls everything off: the workers kill their processes when the plugin leaves them."""
        for future in self._running:
            future.cancel()
        self._running.clear()
        with contextlib.suppress(Exception):  # the scheduler may have gone, and with it everything there is to close
            self._client.unregister_worker_plugin(self._name)
        cluster = self._client.cluster
        self._client.close()
        if cluster is not None:
            cluster.close()

    def inspect(self, instances: Sequence[Instance]) -> list[Asked]:
        groups: dict[str, list[Instance]] = {}
        for instance in instances:
            groups.setdefault(instance.model_path, []).append(instance)
        errands: dict[_Errand, tuple[list[Instance], int]] = {}
        for group in groups.values():
            for start in range(0, len(group), _CHUNK):
                chunk = group[start : start + _CHUNK]
                first = next(self._numbers)
                for _ in chunk[1:]:
                    next(self._numbers)
                errands[_Errand(partial(self._inspection, chunk, first))] = (chunk, first)
        found: dict[Instance, Asked] = {}
        for errand, outcome in self._outcomes(errands):
            chunk, first = errands[errand]
            if not isinstance(outcome, Done):
                found.update(unusable(chunk, _words(outcome, errand)))
            else:
                found.update(asked_of(chunk, outcome.reply, "", first))
        return [found[instance] for instance in instances]

    def rows(self, tasks: Iterable[Task]) -> Iterator[Row]:
        asked: dict[_Errand, Task] = {}
        for task in tasks:
            if task.asked.error is not None:
                yield failed_row(task, task.asked.error, now(), self._machine(None))
            else:
                asked[_Errand(partial(self._question, task))] = task
        for errand, outcome in self._outcomes(asked):
            task = asked[errand]
            if isinstance(outcome, Done):
                if self._evidence is not None and outcome.evidence is not None:
                    with whole_file(self._evidence / evidence_name(task.key)) as file:
                        file.write(outcome.evidence)
                yield answered_row(task, outcome.reply, outcome.started, self._machine(outcome.machine))
            else:
                yield failed_row(task, _words(outcome, errand), now(), self._machine(None))

    def _inspection(self, chunk: Sequence[Instance], first: int) -> Order:
        questions = tuple(self._post.question(number, i) for number, i in enumerate(chunk, start=first))
        return Order(self._post.model(chunk[0].model_path), questions, self.memory_bytes)

    def _question(self, task: Task) -> Order:
        asked = task.asked
        return Order(
            model=self._post.model(asked.instance.model_path),
            questions=(self._post.question(asked.number, asked.instance),),
            inspection_memory=self.memory_bytes,
            job=job_of(task, evidence=self._evidence is not None),
            seconds=task.limits.seconds,
            memory=task.limits.memory_bytes,
            hashes=(asked.model_hash, asked.property_hash),
        )

    def _outcomes(self, errands: Iterable[_Errand]) -> Iterator[tuple[_Errand, Outcome]]:
        """What has become of each errand, in the order in which they are done. Raises `RunnerError`.

        One that has lost its worker more than once is done again at the end, with nothing beside it: what it shared a
        worker with is not blamed for it.
        """
        coming = iter(errands)
        again: deque[tuple[_Errand, str | None]] = deque()
        suspect: deque[_Errand] = deque()
        more = True
        while more or again or suspect or self._running:
            window = min(self._jobs or 2**31, _PER_THREAD * self._threads())
            while (more or again) and len(self._running) < window:
                if again:
                    self._submit(*again.popleft())
                elif (errand := next(coming, None)) is not None:
                    self._submit(errand, None)
                else:
                    more = False
            if suspect and window and not self._running:
                self._submit(suspect.popleft(), None)
            for errand, outcome in self._collect():
                if isinstance(outcome, Missing):
                    self._send(outcome)
                    again.append((errand, outcome.address))
                    continue
                if isinstance(outcome, Lost):
                    _LOG.info("a question has lost its worker: %s", outcome.why)
                    errand.losses += outcome.times
                    if errand.losses == 1:
                        again.append((errand, None))
                        continue
                    if not errand.alone:
                        errand.alone = True
                        suspect.append(errand)
                        continue
                yield errand, outcome

    def _submit(self, errand: _Errand, address: str | None) -> None:
        """address: of the worker that has been sent what it lacked; others may take it where that one has gone."""
        wish: dict[str, Any] = {} if address is None else {"workers": [address], "allow_other_workers": True}
        key = (self._name, next(self._keys))
        future = self._client.submit(work, self._name, errand.make(), key=key, **wish)
        self._running[future] = errand
        future.add_done_callback(self._ended.put)

    def _collect(self) -> list[tuple[_Errand, Outcome]]:
        """Waits a while for the next outcome, and takes all others that are there."""
        ended: list[Future[Any]] = []
        try:
            ended.append(self._ended.get(timeout=_LOOK_SECONDS))
            while len(ended) < _AT_ONCE:
                ended.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        done = [future for future in ended if future.status == "finished"]
        try:
            results = dict(zip(done, self._client.gather(done), strict=True))
        except Exception:  # noqa: BLE001 (the one concerned says it again below)
            results = {}
        return [(self._running.pop(f), results[f] if f in results else self._outcome(f)) for f in ended]

    def _outcome(self, future: Future[Any]) -> Outcome:
        try:
            outcome: Outcome = future.result()
        except KilledWorker as error:
            return Lost(f"the one at {error.last_worker.address} was gone", error.allowed_failures + 1)
        except (CancelledError, OSError):
            raise self._gone() from None
        except VerifkitError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise RunnerError(f"a worker failed with {what}; the same command goes on") from error
        return outcome

    def _send(self, missing: Missing) -> None:
        for digest in missing.digests:
            if (missing.workshop, digest) in self._sent:
                continue
            parcel = self._post.whole(digest)
            if parcel.digest != digest:
                raise SuiteError(f"'{parcel.name}' has changed while the study ran: start the same command again")
            replies = self._client.run(
                receive, self._name, missing.workshop, parcel, workers=[missing.address], on_error="return"
            )
            wrong = replies.get(missing.address)
            if isinstance(wrong, VerifkitError):
                raise RunnerError(f"the worker at {missing.address} failed: {wrong}")
            if wrong is None:  # else it could not be reached: if it has not gone, it will ask again
                self._sent.add((missing.workshop, digest))

    def _threads(self) -> int:
        """The workers' threads, asked for once a second. Raises `RunnerError` where there have been none for long."""
        clock = time.monotonic()
        if clock - self._looked < _LOOK_SECONDS:
            return self._slots
        try:
            self._slots = sum(self._client.nthreads().values())
        except (OSError, RuntimeError):
            raise self._gone() from None
        self._looked = time.monotonic()
        if self._slots:
            self._seen = clock
        elif clock - self._seen > self._patience:
            raise RunnerError(
                f"the scheduler at '{self._where}' has had no workers for {self._patience:g} s; start some, and the "
                f"same command goes on"
            )
        return self._slots

    def _gone(self) -> RunnerError:
        return RunnerError(f"the scheduler at '{self._where}' has gone; once it is back, the same command goes on")

    def _machine(self, found: dict[str, Any] | None) -> str:
        """The short hash of the environment that answered, noted in the folder; None: of this one, nobody else's."""
        key = "" if found is None else environment.short_hash(found)
        if key not in self._machines:
            self._machines[key] = environment.record(self._folder, found)
        return self._machines[key]


def _terms(contenders: Sequence[Contender]) -> Terms:
    modules: set[str] = set()
    for contender in contenders:
        modules.update(registry.verifier_class(contender.name).capabilities.modules)
    versions = {contender.name: contender.version for contender in contenders}
    return Terms(importlib.metadata.version("verifkit"), SCHEMA, versions, sorted(modules))


def _words(outcome: Outcome, errand: _Errand) -> str:
    if isinstance(outcome, Lost):
        return f"it lost its worker {errand.losses} times; the last time {outcome.why}"
    return outcome.why if isinstance(outcome, Unprepared) else ""

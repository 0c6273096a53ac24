"""The worker's side of a study on a cluster: a fork server of its own, and the files and models it has been sent.

A Dask worker has threads, so it never forks: it starts the fork server, a separate interpreter with one thread, and
every question is answered in a process that the server makes. Nothing here outlives the study: the plugin closes the
server when it is taken off the worker, when the worker ends, and when there has been nothing to do for a while (the
client may have died without a word). A task that Dask calls off has its process killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from verifkit import registry
from verifkit.bench.rows.schema import SCHEMA
from verifkit.bench.running.engine import now
from verifkit.bench.running.environment import environment
from verifkit.bench.running.inspection import SECONDS, why_not
from verifkit.bench.running.isolation import Isolation, Reply
from verifkit.bench.running.parcels import Parcel, Question
from verifkit.errors import RunnerError, VerifkitError
from verifkit.processes import memory_available

_IDLE_SECONDS = 60.0
_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Terms:
    """What client and workers must agree on. verifiers: the distribution that brings each; modules: what they need."""

    version: str
    schema: int
    verifiers: Mapping[str, str]
    modules: Sequence[str]


@dataclass(frozen=True)
class Order:
    """What a worker is asked to do: inspect the questions, and put the only one to a verifier where there is a job.

    job: what a worker process is told, but for the folder. seconds, memory: its limits. hashes: of model and property,
    as an inspection has found them.
    """

    model: Parcel
    questions: tuple[Question, ...]
    inspection_memory: int
    job: dict[str, Any] | None = None
    seconds: float | None = None
    memory: int | None = None
    hashes: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Missing:
    """The parcels, by digest, that the workshop lacks; it will be sent them."""

    address: str
    workshop: str
    digests: tuple[str, ...]


@dataclass(frozen=True)
class Lost:
    """The fork server or the worker has ended below the order, so many times: it may be tried again."""

    why: str
    times: int = 1


@dataclass(frozen=True)
class Unprepared:
    """Another machine could inspect the question, this one could not."""

    why: str


@dataclass(frozen=True)
class Done:
    """How the order's process ended; started: UTC. machine: the environment that it ran in."""

    reply: Reply
    started: str
    machine: dict[str, Any]


Outcome = Missing | Lost | Unprepared | Done


def differs(terms: Terms) -> str | None:
    """In words, what this installation has not got as the client has it."""
    here = importlib.metadata.version("verifkit")
    if (here, SCHEMA) != (terms.version, terms.schema):
        return f"has verifkit {here} (rows of schema {SCHEMA}), not {terms.version} (schema {terms.schema}) as here"
    for name, version in terms.verifiers.items():
        found = registry.version(name)
        if found != version:
            return f"has {found or 'nothing'} for verifier '{name}', not {version} as here"
    for module in terms.modules:
        if importlib.util.find_spec(module) is None:
            return f"lacks the package '{module}'"
    return None


def introduce(terms: Terms, dask_worker: Worker) -> tuple[str | None, int]:
    """What differs from the client's installation, and the bytes of memory for each of the worker's threads."""
    limit = dask_worker.memory_manager.memory_limit or memory_available()
    return differs(terms), int(limit) // dask_worker.state.nthreads


def work(name: str, order: Order) -> Outcome:
    """The Dask task: hands the order to the study's plugin on this worker, and blocks until it is done."""
    worker = get_worker()
    plugin = worker.plugins.get(name)
    if not isinstance(plugin, StudyPlugin):
        return Lost("the study is over on this worker")
    return plugin.work(worker.get_current_task(), order)


async def receive(name: str, workshop: str, parcel: Parcel, dask_worker: Worker) -> None:
    """Keeps a parcel that the workshop has said it lacks; one that has closed needs it no more."""
    plugin = dask_worker.plugins.get(name)
    if isinstance(plugin, StudyPlugin):
        await asyncio.to_thread(plugin.keep, workshop, parcel)


class StudyPlugin(WorkerPlugin):
    """Owns the workshop of one study on one worker; opens it for the first order."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms

    def setup(self, worker: Worker) -> None:
        self._address = worker.address
        self._lock = threading.Lock()
        self._workshop: Workshop | None = None
        self._closed = False
        self._called_off: set[Hashable] = set()
        self._watch = asyncio.create_task(self._rest())

    async def teardown(self, worker: Worker) -> None:
        self._watch.cancel()
        await asyncio.to_thread(self._close)

    def transition(self, key: Hashable, start: str, finish: str, **kwargs: Any) -> None:
        """A running task that is released has been called off: by the client, or because the client has gone."""
        if start == "executing" and finish == "released":
            self._called_off.add(key)
            if self._workshop is not None:
                self._workshop.stop(key)

    def work(self, key: Hashable, order: Order) -> Outcome:
        """Raises `RunnerError` where nothing can be done on this worker."""
        workshop = self._open()
        if workshop is None:
            return Lost("the worker was closing")
        try:
            missing = workshop.missing(order)
            if missing:
                return Missing(self._address, workshop.name, missing)
            return workshop.work(key, order)
        except (VerifkitError, OSError) as error:
            if self._closed or workshop.over or isinstance(error, RunnerError):
                return Lost(str(error))
            raise RunnerError(f"the worker at {self._address} failed: {error}") from None
        finally:
            with self._lock:
                workshop.users -= 1
                workshop.used = time.monotonic()

    def _open(self) -> Workshop | None:
        """The workshop with one user more; None where the worker is closing."""
        with self._lock:
            if self._closed:
                return None
            if self._workshop is not None and self._workshop.over:
                self._workshop.close()
                self._workshop = None
            if self._workshop is None:
                wrong = differs(self._terms)
                if wrong is not None:
                    raise RunnerError(f"the worker at {self._address} {wrong}")
                try:
                    self._workshop = Workshop(list(self._terms.verifiers), self._called_off)
                except (RunnerError, OSError) as error:
                    raise RunnerError(f"the worker at {self._address} failed: {error}") from None
            self._workshop.users += 1
            return self._workshop

    def keep(self, workshop: str, parcel: Parcel) -> None:
        with self._lock:
            if self._workshop is not None and self._workshop.name == workshop:
                self._workshop.keep(parcel)

    async def _rest(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.to_thread(self._close_if_idle)

    def _close_if_idle(self) -> None:
        with self._lock:
            workshop = self._workshop
            if workshop is None or workshop.users or time.monotonic() - workshop.used < _IDLE_SECONDS:
                return
            self._workshop = None
        workshop.close()

    def _close(self) -> None:
        self._closed = True
        workshop = self._workshop
        if workshop is not None:
            workshop.close()  # the orders below it end as lost
        with self._lock:  # one that was being opened meanwhile
            if self._workshop is not None and self._workshop is not workshop:
                self._workshop.close()


class Workshop:
    """A fork server that many threads use at a time, with its files and inspected models.

    name: no other one has it. users, used: orders being done now, and the end of the last one. called_off: the keys of
    orders that must not start any more.
    """

    def __init__(self, verifiers: Sequence[str], called_off: Set[Hashable]) -> None:
        self.name = uuid.uuid4().hex
        self.users, self.used = 0, time.monotonic()
        self.over = False
        self._machine = environment()
        self._isolation = Isolation(verifiers)
        self._isolation.__enter__()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Reply]] = {}
        self._numbers: dict[Hashable, int] = {}
        self._called_off = called_off
        self._files: dict[str, Path] = {}
        self._loading: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._inspected: dict[int, tuple[str, str]] = {}
        self._reader = threading.Thread(target=self._read, name="verifkit-replies", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Ends every process of the workshop and removes its files."""
        self._isolation.__exit__(None, None, None)
        self._reader.join(timeout=10)

    def missing(self, order: Order) -> tuple[str, ...]:
        """The parcels that the order needs and that have to be sent."""
        needed = {order.model.digest: order.model}
        needed.update((q.file.digest, q.file) for q in order.questions if q.number not in self._inspected)
        return tuple(d for d, parcel in needed.items() if parcel.content is None and d not in self._files)

    def keep(self, parcel: Parcel) -> None:
        self._files[parcel.digest] = parcel.unpack(Path(tempfile.mkdtemp(dir=self._isolation.directory)))

    def work(self, key: Hashable, order: Order) -> Outcome:
        """Does the order; blocks. Raises `RunnerError` where the workshop ends meanwhile."""
        ready = self._isolation.directory / f"model-{order.model.digest}"
        started = now()
        with self._loading[order.model.digest]:
            ready.mkdir(exist_ok=True)
            if order.job is None:
                return Done(self._inspect(key, order, ready), started, self._machine)
            (question,) = order.questions
            if question.number not in self._inspected:
                reply = self._inspect(key, order, ready)
                if question.number not in self._inspected:
                    return Unprepared(why_not(reply))
        if self._inspected[question.number] != order.hashes:
            return Unprepared("the worker reads the model or the property otherwise than the one that inspected it")
        started = now()
        job = {**order.job, "ready": str(ready), "number": question.number}
        return Done(self._ask(key, job, order.seconds, order.memory), started, self._machine)

    def _inspect(self, key: Hashable, order: Order, ready: Path) -> Reply:
        with tempfile.TemporaryDirectory(dir=self._isolation.directory) as folder:
            places = {}
            for parcel in (order.model, *(q.file for q in order.questions)):
                if parcel.digest not in places:
                    kept = self._files.get(parcel.digest)
                    places[parcel.digest] = str(kept or parcel.unpack(Path(tempfile.mkdtemp(dir=folder))))
            model = places[order.model.digest]
            placed = [q.placed(model, places[q.file.digest]) for q in order.questions]
            job = {
                "kind": "inspect",
                "model_path": model,
                "ready": str(ready),
                "instances": [instance.to_json() for instance in placed],
                "numbers": [q.number for q in order.questions],
            }
            reply = self._ask(key, job, SECONDS, order.inspection_memory)
        result = reply.result or {}
        for question, found in zip(order.questions, result.get("instances", ()), strict=False):
            if "error" not in found:
                self._inspected[question.number] = (result["model_hash"], found["property_hash"])
        return replace(reply, result=None if reply.result is None else _renamed(reply.result, order, places))

    def _ask(self, key: Hashable, job: Mapping[str, Any], seconds: float | None, memory: int | None) -> Reply:
        future: Future[Reply] = Future()
        with self._lock:
            if self.over or key in self._called_off:
                raise RunnerError("the order was called off")
            number = self._isolation.submit(job, seconds=seconds, memory=memory)
            self._waiting[number], self._numbers[key] = future, number
        try:
            return future.result()
        finally:
            with self._lock:
                self._numbers.pop(key, None)

    def stop(self, key: Hashable) -> None:
        """Kills the process of an order that was called off."""
        with self._lock, contextlib.suppress(RunnerError):
            if key in self._numbers:
                self._isolation.stop(self._numbers[key])

    def _read(self) -> None:
        """Hands the replies to those who wait, until the server ends."""
        try:
            while True:
                reply = self._isolation.next()
                with self._lock:
                    future = self._waiting.pop(reply.id)
                future.set_result(reply)
        except (RunnerError, OSError, ValueError) as error:  # ValueError: closed below the reading
            with self._lock:
                self.over = True
                waiting = list(self._waiting.values())
            for future in waiting:
                future.set_exception(RunnerError(str(error)))


def _renamed(result: Any, order: Order, places: Mapping[str, str]) -> Any:
    """The result, where an error names a file of this machine, with the name that the client has for it."""
    if isinstance(result, Mapping):
        return {k: _renamed(v, order, places) for k, v in result.items()}
    if isinstance(result, list):
        return [_renamed(v, order, places) for v in result]
    if not isinstance(result, str):
        return result
    first = order.questions[0].instance
    result = result.replace(places[order.model.digest], first.model_path)
    for question in order.questions:
        instance = question.instance
        path = instance.property_path if instance.sample is None else instance.sample.inputs
        result = result.replace(places[question.file.digest], str(path))
    return result

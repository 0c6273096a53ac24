"""A fork server on a worker's machine, with the files and models that it has been sent.

A Dask worker has threads, so it never forks: it starts the fork server, a separate interpreter with one thread, and
every question is answered in a process that the server makes. Nothing here is Dask's.
"""

from __future__ import annotations

import contextlib
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

from verifkit.bench.running.engine import now
from verifkit.bench.running.environment import environment
from verifkit.bench.running.inspection import SECONDS, why_not
from verifkit.bench.running.isolation import Isolation, Reply
from verifkit.bench.running.parcels import Parcel, Question
from verifkit.errors import RunnerError, VerifkitError


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
    """How the order's process ended; started: UTC. machine: the environment that it ran in. evidence: the content of
    the file with the answer's evidence, where the job asked for it and there is any."""

    reply: Reply
    started: str
    machine: dict[str, Any]
    evidence: bytes | None = None


Outcome = Missing | Lost | Unprepared | Done


class Workshop:
    """A fork server that many threads use at a time, with its files and inspected models.

    name: no other one has it. users, used: orders being done now, and the end of the last one. called_off: the keys of
    orders that must not start any more.
    """

    def __init__(self, verifiers: Sequence[str], called_off: Set[Hashable]) -> None:
        self.name = uuid.uuid4().hex
        self.users, self.used = 0, time.monotonic()
        self._failure: VerifkitError | None = None
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

    @property
    def over(self) -> bool:
        """Whether the server has ended."""
        return self._failure is not None

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
        if not job.get("evidence"):
            return Done(self._ask(key, job, order.seconds, order.memory), started, self._machine)
        with tempfile.TemporaryDirectory(dir=self._isolation.directory) as folder:
            file = Path(folder) / "evidence"
            reply = self._ask(key, job, order.seconds, order.memory, file)
            return Done(reply, started, self._machine, file.read_bytes() if reply.evidence else None)

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

    def _ask(
        self,
        key: Hashable,
        job: Mapping[str, Any],
        seconds: float | None,
        memory: int | None,
        evidence: Path | None = None,
    ) -> Reply:
        future: Future[Reply] = Future()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if key in self._called_off:
                raise RunnerError("the order was called off")
            number = self._isolation.submit(job, seconds=seconds, memory=memory, evidence=evidence)
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
        except Exception as error:  # noqa: BLE001 (closed below the reading, or whatever else: nobody may wait for ever)
            failure = error if isinstance(error, VerifkitError) else RunnerError(str(error))
            with self._lock:
                self._failure = failure
                waiting = list(self._waiting.values())
            for future in waiting:
                future.set_exception(failure)


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

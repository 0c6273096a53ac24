"""What runs inside a Dask worker: it owns the workshop of a study (`verifkit.bench.running.workshop`), and closes it.

Nothing here outlives the study: the plugin closes the workshop when it is taken off the worker, when the worker ends,
and when there has been nothing to do for a while (the client may have died without a word). A task that Dask calls off
has its process killed.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from verifkit import registry
from verifkit.bench.rows.schema import SCHEMA
from verifkit.bench.running.parcels import Parcel
from verifkit.bench.running.workshop import Lost, Missing, Order, Outcome, Workshop
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
            ended = isinstance(error, RunnerError) or (workshop.over and isinstance(error, OSError))
            if self._closed or ended:
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

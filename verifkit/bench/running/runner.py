"""Runs a suite: every instance to every verifier, each in a process of its own, every answer a row.

First each model is inspected once (`verifkit.bench.running.worker.inspect`), which gives the hashes that the rows' keys
are made of; then the rows that do not stand yet are run, in an order shuffled by the seed; then the audit's attacks on
what was certified, which are rows as well. Whatever happens to a
worker, its row is written; whatever happens to the runner, the same command goes on where it stopped.
"""

from __future__ import annotations

import logging
import os
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from verifkit import registry
from verifkit.bench.audit.attacks import DEFAULT, Attacker, Claims
from verifkit.bench.rows.schema import Row
from verifkit.bench.rows.store import RowStore, copied_key, iterate_rows, row_key
from verifkit.bench.rows.tables import write_tables
from verifkit.bench.running import environment
from verifkit.bench.running.answers import Contender, Task
from verifkit.bench.running.engine import Engine, LocalEngine
from verifkit.bench.running.inspection import Asked
from verifkit.bench.running.isolation import Method
from verifkit.bench.suites.instance import Instance, Suite
from verifkit.budget import Budget
from verifkit.errors import MissingPackage, OptionError
from verifkit.processes import memory_available
from verifkit.result import Reason

Progress = Callable[[int, int, Row], None]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSummary:
    """rows: all that the suite asks for. written: run now. standing: there already. errors: written with an error.

    attacks: the rows that the audit added, now or before; not counted among the others. foreign: rows in the folder
    that answer what this suite does not ask, or under other limits.
    """

    rows: int
    written: int
    standing: int
    errors: int
    attacks: int = 0
    foreign: int = 0


def run(
    suite: Suite,
    *,
    out: str | os.PathLike[str],
    verifiers: Sequence[tuple[str, Mapping[str, Any]]] | None = None,
    limits: Budget = Budget(),  # noqa: B008 (frozen)
    jobs: int | None = None,
    seed: int | None = None,
    repeats: int | None = None,
    progress: Progress | None = None,
    method: Method | None = None,
    evidence: bool = False,
    cluster: str | None = None,
    audit: bool = True,
) -> RunSummary:
    """Writes the rows of `suite` that do not stand in `out` yet; at the end all rows as Parquet and CSV.

    verifiers: (name, options) pairs in place of the suite's own; every instance is then put to each of them, whatever
    its group says. limits: those that are set replace the suite's, its groups' and its verifiers' own; memory is for
    each worker, by default an equal share of the machine's. jobs: workers at a time; default: the usable cores. seed,
    repeats: in place of the suite's. progress: called with (rows done, rows in all, row) after each row. method: how
    workers are started; default: what is safe here. evidence: whether the evidence of definite answers is kept in
    `out/evidence`. cluster: the Dask scheduler whose workers answer (`running.cluster.scheduler.connect`); jobs: then
    at most that many rows at a time, by default all their threads. audit: whether what was certified is then attacked
    (`verifkit.bench.audit.attacks`).

    Raises `SuiteError`, `UnknownVerifier`, `OptionError` or `MissingPackage` before anything runs, and `SuiteError`
    where `out` takes no more. After an interrupt no process is left, and the same call goes on.
    """
    seed = suite.seed if seed is None else seed
    repeats = suite.repeats if repeats is None else repeats
    for what, number in (("jobs", jobs), ("repeats", repeats)):
        if number is not None and number < 1:
            raise OptionError(f"{what} must be at least 1, not {number}")
    if not 0 <= seed < 2**63 - repeats:
        raise OptionError(f"the seed must lie between 0 and 2^63, not {seed}: tables hold it in 64 bits")
    if verifiers is not None:
        suite = suite.put_to(verifiers)
    suite.require_verifiers()
    contenders = [(choice, _contender(choice.name, choice.options)) for choice in suite.verifiers]
    with RowStore(out) as store:
        attacker = _default_attacker() if audit else None
        everyone = [contender for _, contender in contenders]
        loaded = everyone if attacker is None else [*everyone, attacker]
        place = _engine(cluster, loaded, jobs, limits.memory_bytes, store.folder, method, evidence=evidence)
        with place as engine:
            asked = engine.inspect(suite.instances)
            tasks = [
                _task(question, contender, limits.over(choice.limits), engine.memory_bytes, seed, repeat)
                for question in asked
                for choice, contender in contenders
                if choice.takes(question.instance)
                for repeat in range(repeats)
            ]
            claims = Claims() if audit else None
            summary = _run_tasks(engine, store, tasks, seed, progress, claims=claims)
            if claims is not None:
                added = _attacks(claims, everyone, attacker)
                wave = _attack(engine, store, added, limits, seed, progress, summary.rows)
                summary = replace(summary, attacks=wave.rows, errors=summary.errors + wave.errors)
        write_tables(store.folder)
        return replace(summary, foreign=len(store.keys) - summary.rows - summary.attacks)


def _attack(
    engine: Engine,
    store: RowStore,
    added: Sequence[tuple[Instance, Contender]],
    limits: Budget,
    seed: int,
    progress: Progress | None,
    before: int,
) -> RunSummary:
    """The audit's wave. Of the command's limits the one on memory holds; an attack has little time of its own."""
    limits = Budget(memory_bytes=limits.memory_bytes)
    asked = engine.inspect(list(dict.fromkeys(instance for instance, _ in added)))
    found = {question.instance: question for question in asked}
    tasks = [_task(found[instance], contender, limits, engine.memory_bytes, seed, 0) for instance, contender in added]
    return _run_tasks(engine, store, tasks, seed, progress, before=before)


def _attacks(
    claims: Claims, contenders: Sequence[Contender], default: Contender | None
) -> list[tuple[Instance, Contender]]:
    """The questions that the audit adds, each with the falsifier to put it to."""
    known = {Attacker.of(c.name, c.options, c.kinds): c for c in (*contenders, default) if c is not None}
    own = [attacker for attacker, contender in known.items() if contender is not default]
    other = next((attacker for attacker, contender in known.items() if contender is default), None)
    return [(instance, known[attacker]) for instance, attacker in claims.attacks(own, other)]


def _default_attacker() -> Contender | None:
    """None where it is not installed."""
    return _contender(DEFAULT, {}) if DEFAULT in registry.names() else None


def _engine(
    cluster: str | None,
    contenders: Sequence[Contender],
    jobs: int | None,
    memory_bytes: int | None,
    folder: Path,
    method: Method | None,
    *,
    evidence: bool,
) -> Engine:
    kept = folder if evidence else None
    if cluster is not None:
        try:
            from verifkit.bench.running.cluster.engine import ClusterEngine
        except ModuleNotFoundError as error:
            raise MissingPackage(
                f"--cluster needs the package '{error.name}': run `pip install 'verifkit[cluster]'`"
            ) from None
        return ClusterEngine(cluster, contenders, jobs, memory_bytes, folder, kept)
    jobs = environment.usable_cores() if jobs is None else jobs
    share = memory_bytes or memory_available() // jobs
    return LocalEngine([c.name for c in contenders], jobs, share, environment.record(folder), method, kept)


def _contender(name: str, options: Mapping[str, Any]) -> Contender:
    """Raises where the verifier does not exist, cannot be configured so, or lacks a package."""
    verifier = registry.create(name, options)
    verifier.require_usable()
    kinds = {str(norm): str(kind) for norm, kind in verifier.capabilities.kinds.items()}
    return Contender(name, _plain(verifier.options()), registry.version(name) or "unknown", kinds)


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


def _task(asked: Asked, contender: Contender, limits: Budget, share: int, seed: int, repeat: int) -> Task:
    """share: the bytes that hold where no limit on memory was asked for."""
    wanted = limits.over(asked.instance.limits)
    key = row_key(
        model_hash=asked.model_hash,
        property_hash=asked.property_hash,
        verifier=contender.name,
        options=contender.options,
        limits=wanted,
        seed=seed,
        repeat=repeat,
    )
    in_force = replace(wanted, memory_bytes=wanted.memory_bytes or share)
    return Task(key, asked, contender, in_force, seed + repeat, repeat)


def _distinct(tasks: Sequence[Task]) -> dict[str, Task]:
    """The tasks by key. A question that is asked twice is run once; another sample or model with the same content is
    another input, which no denominator may lose: it gets a key, and an answer, of its own.
    """
    found: dict[str, Task] = {}
    copies: defaultdict[str, dict[Instance, str]] = defaultdict(dict)
    for task in tasks:
        keys, question = copies[task.key], task.asked.instance.bare()
        if question not in keys:
            keys[question] = copied_key(task.key, len(keys)) if keys else task.key
        found[keys[question]] = replace(task, key=keys[question])
    return found


def _run_tasks(
    engine: Engine,
    store: RowStore,
    tasks: Sequence[Task],
    seed: int,
    progress: Progress | None,
    *,
    claims: Claims | None = None,
    before: int = 0,
) -> RunSummary:
    """Runs what does not stand yet. claims: gets all rows of the tasks. before: rows that were done before these."""
    distinct = _distinct(tasks)
    standing = distinct.keys() & store.keys
    waiting = [task for key, task in distinct.items() if key not in standing]
    random.Random(seed).shuffle(waiting)
    _LOG.info("%d rows to run, %d stand already", len(waiting), len(standing))
    if claims is not None and standing:
        for row in iterate_rows(store.folder):
            if row.key in distinct:
                claims.add(row, distinct[row.key].asked.instance)
    done, errors = before + len(standing), 0
    for row in engine.rows(waiting):
        store.append(row)
        done += 1
        errors += row.reason == Reason.ERROR
        if claims is not None:
            claims.add(row, distinct[row.key].asked.instance)
        if progress is not None:
            progress(done, before + len(distinct), row)
    return RunSummary(len(distinct), len(waiting), len(standing), errors)

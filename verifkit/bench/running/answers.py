"""Makes a row of what a worker's end has left: an answer, a mistake, a limit that was hit, or a crash."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any

from verifkit.bench.rows.schema import Row
from verifkit.bench.rows.store import evidence_name
from verifkit.bench.running.inspection import Asked
from verifkit.bench.running.isolation import Reply
from verifkit.bench.suites.instance import RADIUS, Instance
from verifkit.budget import Budget
from verifkit.result import Reason, Verdict


@dataclass(frozen=True)
class Contender:
    """A verifier with its options, as the rows record them."""

    name: str
    options: dict[str, Any]
    version: str
    kinds: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """One row to be: who is asked what, within which limits."""

    key: str
    asked: Asked
    contender: Contender
    limits: Budget
    seed: int
    repeat: int


def _blank(task: Task, started: str, machine: str) -> Row:
    """The row before anything is known of the answer."""
    asked, instance = task.asked, task.asked.instance
    sample = instance.sample
    return Row(
        key=task.key,
        suite=instance.suite,
        instance=instance.id,
        question=instance.question,
        model=instance.model_name,
        model_hash=asked.model_hash,
        property=_property_name(instance),
        property_hash=asked.property_hash,
        norm=asked.norm,
        radius=None if sample is None or sample.radius is None else float(sample.radius),
        index=None if sample is None else sample.index,
        label=None if sample is None else sample.label,
        grid=None if instance.grid is None else [float(radius) for radius in instance.grid],
        audit=instance.audit,
        predicted=asked.predicted,
        expected=instance.expected,
        firmness=instance.firmness,
        verifier=task.contender.name,
        options=task.contender.options,
        version=task.contender.version,
        timeout=task.limits.seconds,
        memory_limit=task.limits.memory_bytes,
        node_limit=task.limits.nodes,
        sample_limit=task.limits.samples,
        seed=task.seed,
        repeat=task.repeat,
        verdict=str(Verdict.UNKNOWN),
        reason=str(Reason.ERROR),
        word="error",
        detail="",
        guarantee=None,
        kind=None if asked.norm is None else task.contender.kinds.get(asked.norm),
        margin=None,
        witness=None,
        counts=None,
        evidence=None,
        certified=None,
        falsified=None,
        complete=None,
        undecided=[] if instance.question == RADIUS else None,
        wall_seconds=0.0,
        verifier_seconds=None,
        load_seconds=None,
        cpu_seconds=None,
        peak_memory_bytes=None,
        started=started,
        environment=machine,
        output=None,
        statistics={},
    )


def _property_name(instance: Instance) -> str:
    """The suite's name for it, with the clip box of a sample: another one makes another question of the same radius."""
    clip = None if instance.sample is None else instance.sample.clip
    return instance.property_name if clip is None else f"{instance.property_name} in [{clip[0]}, {clip[1]}]"


def failed_row(task: Task, why: str, started: str, machine: str) -> Row:
    """The row of an instance that cannot be asked: a model or a property that cannot be read or do not fit."""
    return replace(_blank(task, started, machine), detail=why)


def answered_row(task: Task, reply: Reply, started: str, machine: str) -> Row:
    """The row of a worker that has ended, in whatever way."""
    row = replace(
        _blank(task, started, machine),
        wall_seconds=round(reply.wall_seconds, 6),
        cpu_seconds=round(reply.cpu_seconds, 6),
        peak_memory_bytes=reply.peak_memory_bytes,
        evidence=evidence_name(task.key) if reply.evidence else None,
    )
    result = reply.result
    if result is not None and "verdict" in result:
        answered = _answered(row, result)
        return answered or replace(row, detail="what the worker left is no answer", output=reply.output)
    if result is not None and "error" in result:
        return replace(row, detail=str(result["error"]), output=None if result.get("mistake") else reply.output)
    if reply.ended == "memout" or (result is not None and result.get("memout")):
        used = f"{reply.peak_memory_bytes / 2**20:.0f} MiB"
        return replace(row, reason=str(Reason.MEMOUT), word="unknown", detail=f"stopped at {used} of resident memory")
    if reply.ended == "timeout":
        return replace(row, reason=str(Reason.TIMEOUT), word="timeout", detail="stopped: it did not keep its time")
    return replace(
        row, detail=f"the worker ended without an answer ({describe_status(reply.status)})", output=reply.output
    )


def _answered(row: Row, result: Mapping[str, Any]) -> Row | None:
    """The row with the worker's answer, None where that is none: a verifier's own code runs in the worker."""
    if not result.keys() <= _ANSWER.keys() or not all(_fits(result[key], _ANSWER[key]) for key in result):
        return None
    found = {**dict.fromkeys(_ANSWER), **result}
    odd = [pair for pair in found["undecided"] or () if not (isinstance(pair, list) and len(pair) == 2)]
    if found["verdict"] not in tuple(Verdict) or found["reason"] not in (None, *Reason) or odd:
        return None
    if not all(_fits(radius, _REAL) for radius, _ in found["undecided"] or ()):
        return None
    proved = found["guarantee"] is not None and (row.question != RADIUS or found["certified"])
    if found["verdict"] == Verdict.HOLDS and not proved:
        return None
    return replace(row, **result)


_REAL = (int, float)
_NUMBER = (*_REAL, NoneType)
_ANSWER: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("verdict", "word", "detail"), (str,)),
    **dict.fromkeys(("reason", "evidence"), (str, NoneType)),
    **dict.fromkeys(("guarantee", "witness", "counts"), (dict, NoneType)),
    **dict.fromkeys(("margin", "certified", "falsified", "verifier_seconds", "load_seconds"), _NUMBER),
    "statistics": (dict,),
    "complete": (bool, NoneType),
    "undecided": (list, NoneType),
}
"""What a worker may say, and in which types."""


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    """Whether it is of one of the types. JSON's whole numbers may lie beyond all floats, and a truth value is none."""
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) and not (isinstance(value, int) and abs(value) > sys.float_info.max)


def describe_status(status: int) -> str:
    """An exit code in words; negative: the number of the signal that ended the process."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"

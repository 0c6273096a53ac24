"""Looks at every model of a suite once, before its instances are run: hashes, the model's own predictions, mistakes.

A model or property that cannot be used becomes an error of its instances (each verifier gets a row that says so), and
the others go on.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verifkit.bench.running.isolation import Isolation, Reply
from verifkit.bench.suites.instance import Instance
from verifkit.errors import SuiteError

SECONDS = 600.0
"""For loading one model and building all its questions."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An instance, inspected. ready, number: where model and question lie for the workers; error: why they do not."""

    instance: Instance
    model_hash: str
    property_hash: str
    norm: str | None = None
    predicted: int | None = None
    ready: str = ""
    number: int = 0
    error: str | None = None


def inspect_models(isolation: Isolation, instances: Sequence[Instance], jobs: int, memory: int) -> list[Asked]:
    """Every instance inspected, in the order given; one process for each model, `jobs` at a time."""
    groups: dict[str, list[Instance]] = {}
    for instance in instances:
        groups.setdefault(instance.model_path, []).append(instance)
    waiting = deque(groups)
    running: dict[int, tuple[str, str]] = {}
    found: dict[Instance, Asked] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            model = waiting.popleft()
            ready = tempfile.mkdtemp(prefix="model-", dir=isolation.directory)
            job = {
                "kind": "inspect",
                "model_path": model,
                "ready": ready,
                "instances": [instance.to_json() for instance in groups[model]],
                "numbers": list(range(len(groups[model]))),
            }
            running[isolation.submit(job, seconds=SECONDS, memory=memory)] = (model, ready)
        reply = isolation.next()
        model, folder = running.pop(reply.id)
        found.update(asked_of(groups[model], reply, folder))
    return [found[instance] for instance in instances]


def asked_of(instances: Sequence[Instance], reply: Reply, ready: str, first: int = 0) -> dict[Instance, Asked]:
    """What the inspection of some instances of one model has found; they are numbered from `first` on."""
    result = reply.result
    if result is None or "instances" not in result:
        return unusable(instances, why_not(reply))
    asked = {}
    for number, (instance, found) in enumerate(zip(instances, result["instances"], strict=True), start=first):
        if "error" in found:
            asked[instance] = _broken(instance, result["model_hash"], found["error"])
        else:
            fields: dict[str, Any] = {"ready": ready, "number": number, **found}
            asked[instance] = Asked(instance=instance, model_hash=result["model_hash"], **fields)
    return asked


def unusable(instances: Sequence[Instance], why: str) -> dict[Instance, Asked]:
    """Instances of one model that cannot be asked about."""
    model_hash = _file_hash(instances[0].model_path)
    return {i: _broken(i, model_hash, why) for i in instances}


def why_not(reply: Reply) -> str:
    """Why an inspection has found nothing."""
    if reply.result is not None and reply.result.get("instances"):
        return str(reply.result["instances"][0].get("error"))
    if reply.result is not None and reply.result.get("mistake"):
        return str(reply.result["error"])
    if reply.ended == "timeout":
        return f"the model and its properties were not loaded within {SECONDS:g} s"
    if reply.ended == "memout" or (reply.result is not None and reply.result.get("memout")):
        return "the model and its properties do not fit into the memory limit"
    last = f": {reply.output.splitlines()[-1]}" if reply.output else ""
    return f"loading the model failed (exit status {reply.status}){last}"


def _broken(instance: Instance, model_hash: str, why: str) -> Asked:
    """The property's hash is then of what was written, not of what it means."""
    if instance.property_path is not None:
        property_hash = _file_hash(instance.property_path)
    else:
        property_hash = hashlib.sha256(repr(instance.sample).encode()).hexdigest()
    norm = "inf" if instance.sample is None else instance.sample.norm
    return Asked(instance=instance, model_hash=model_hash, property_hash=property_hash, norm=norm, error=why)


def _file_hash(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise SuiteError(f"'{path}' cannot be read: {error.strerror}") from None

"""Every installed verifier answers tiny questions whose answers are known, each in a process of its own.

The network has class 0 where relu(x_0 + x_1) + relu(x_0 - x_1) stays below a threshold. Over [-1, 1] x [-1, 1] the sum
reaches 2, and 3 if each ReLU is relaxed by itself: at the threshold 2.5 a complete method has to search, and an
incomplete one must run its solver before it may give up. At 1.5 there are violations, but not at the center. A tiny set
is proved by everybody.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from verifkit import registry
from verifkit.bench.running.answers import describe_status
from verifkit.bench.running.environment import usable_cores
from verifkit.bench.running.forkserver import BASE
from verifkit.bench.running.inspection import Asked, inspect_models
from verifkit.bench.running.isolation import Isolation, Reply
from verifkit.bench.suites.instance import Instance, Sample
from verifkit.budget import Budget
from verifkit.capabilities import Kind
from verifkit.input_sets import Norm
from verifkit.io.onnx_writer import write_onnx
from verifkit.network import dense_network
from verifkit.processes import memory_available
from verifkit.result import Reason, Verdict

NORMS: tuple[Norm, ...] = ("inf", "2", "1", "0")
CENTER = (0.25, 0.125)
HIGH, LOW = "holds", "is violated"
THRESHOLDS = {HIGH: 2.5, LOW: 1.5}
TINY, WIDE = "0.0625", "1.25"

UNDECIDED = str(Reason.INCOMPLETE)
"""What an incomplete method may say of a question that it cannot decide."""

ASKED: dict[Kind, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    Kind.COMPLETE: ((HIGH, WIDE, ("HOLDS",)), (LOW, WIDE, ("VIOLATED",))),
    Kind.INCOMPLETE: ((HIGH, TINY, ("HOLDS",)), (HIGH, WIDE, ("HOLDS", UNDECIDED))),
    Kind.FALSIFIER: ((LOW, WIDE, ("VIOLATED",)),),
    Kind.PROBABILISTIC: ((HIGH, TINY, ("HOLDS",)),),
}
"""The questions to each kind of method: model, radius, and the answers that are right."""

QUICK = 2.0
"""Seconds for a question to a verifier that loads no package of its own: one that hangs must not take all the time."""

KILLED_LATER = 1.0
"""Seconds after its limit at which a worker that does not keep it is killed."""

OK, WRONG, FAILED, LATE = "ok", "wrong", "failed", "not answered in time"


@dataclass(frozen=True)
class Checked:
    """How a verifier did: `state` is OK, WRONG, FAILED (a crash, or no definite answer) or LATE; detail says more."""

    name: str
    state: str
    detail: str = ""
    seconds: float | None = None

    @property
    def bad(self) -> bool:
        return self.state in (WRONG, FAILED)


@dataclass(frozen=True)
class _Question:
    name: str
    right: tuple[str, ...]
    asked: Asked
    seconds: float


def self_check(names: Sequence[str], seconds: float) -> list[Checked]:
    """The registered verifiers `names`, none of which lacks anything, in at most about `seconds`; in the order given.
    Where starting processes takes more than half of that, they still get half of it.

    Raises `RunnerError` where no process can be started.
    """
    start = time.monotonic()
    modules = {name: registry.verifier_class(name).capabilities.modules for name in names}
    light = [name for name in names if modules[name].keys() <= set(BASE)]
    # The others load their packages each in its own process; torch takes longest.
    heavy = sorted((name for name in names if name not in light), key=lambda name: "torch" in modules[name])
    found: dict[str, Checked] = {}
    with tempfile.TemporaryDirectory(prefix="verifkit-") as folder, Isolation(light) as isolation:
        limits = dict.fromkeys(light, QUICK) | dict.fromkeys(heavy, seconds)
        questions = _questions(isolation, Path(folder), limits)
        deadline = max(start + seconds, time.monotonic() + seconds / 2)
        for checked in _answers(isolation, questions, deadline):
            found[checked.name] = _together(found.get(checked.name), checked)
    return [found[name] for name in names]


def _together(before: Checked | None, now: Checked) -> Checked:
    """What two questions to one verifier say of it: the worse of both, the time of both."""
    if before is None:
        return now
    worse = max(before, now, key=lambda checked: (OK, LATE, FAILED, WRONG).index(checked.state))
    return replace(worse, seconds=round((before.seconds or 0.0) + (now.seconds or 0.0), 3))


def _questions(isolation: Isolation, folder: Path, limits: Mapping[str, float]) -> list[_Question]:
    """The questions to the verifiers named, each with its limit: the quick ones come first."""
    inputs = folder / "center.npz"
    np.savez(inputs, x=np.array([CENTER], dtype=np.float32), y=np.array([0]))
    for model, threshold in THRESHOLDS.items():
        weights = [np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([[0.0, 0.0], [1.0, 1.0]])]
        network = dense_network(weights, [np.zeros(2), np.array([threshold, 0.0])])
        (folder / f"{model}.onnx").write_bytes(write_onnx(network))
    wanted: list[tuple[str, tuple[str, ...], Instance]] = []
    for name in limits:
        kinds = registry.verifier_class(name).capabilities.kinds
        norm = next(norm for norm in NORMS if norm in kinds)
        for model, radius, right in ASKED[kinds[norm]]:
            wanted.append((name, right, _instance(folder, model, radius, norm)))
    distinct = list(dict.fromkeys(instance for _, _, instance in wanted))
    found = dict(zip(distinct, inspect_models(isolation, distinct, 1, memory_available()), strict=True))
    questions = [_Question(name, right, found[instance], limits[name]) for name, right, instance in wanted]
    again = [q.name in {other.name for other in questions[:k]} for k, q in enumerate(questions)]
    order = sorted(range(len(questions)), key=lambda k: (questions[k].seconds, again[k]))
    return [questions[k] for k in order]


def _instance(folder: Path, model: str, radius: str, norm: Norm) -> Instance:
    sample = Sample(inputs=str(folder / "center.npz"), index=0, label=0, norm=norm, radius=radius, clip=("-1", "1"))
    what = f"l{norm} {radius}"
    path = str(folder / f"{model}.onnx")
    return Instance(id=what, suite="check", model_path=path, model_name=model, property_name=what, sample=sample)


def _answers(isolation: Isolation, questions: Sequence[_Question], deadline: float) -> Iterator[Checked]:
    jobs, waiting, late = usable_cores(), deque(questions), set[str]()
    running: dict[int, _Question] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            question = waiting.popleft()
            if question.name in late:
                continue
            left = deadline - KILLED_LATER - time.monotonic()
            if question.asked.error is not None:
                yield Checked(question.name, FAILED, question.asked.error)
            elif left <= 0:
                yield Checked(question.name, LATE, "its turn did not come")
            else:
                running[_submit(isolation, question, min(left, question.seconds), jobs)] = question
        if running:
            reply = isolation.next()
            checked = _judged(running.pop(reply.id), reply)
            late |= {checked.name} if checked.state == LATE else set()
            yield checked


def _submit(isolation: Isolation, question: _Question, seconds: float, jobs: int) -> int:
    memory = memory_available() // jobs
    job = {
        "kind": "answer",
        "ready": question.asked.ready,
        "number": question.asked.number,
        "verifier": question.name,
        "options": {},
        "limits": asdict(Budget(seconds=seconds, memory_bytes=memory)),
        "seed": 0,
    }
    return isolation.submit(job, seconds=seconds, memory=memory)


def _judged(question: _Question, reply: Reply) -> Checked:
    name, seconds, result = question.name, round(reply.wall_seconds, 3), reply.result
    if result is None or "verdict" not in result:
        if reply.ended == "timeout":
            return Checked(name, LATE, "it was stopped", seconds)
        last = reply.output.splitlines()[-1] if reply.output else "it printed nothing"
        why = describe_status(reply.status) if result is None else str(result.get("error", "out of memory"))
        return Checked(name, FAILED, f"{why}: {last}" if result is None else why, seconds)
    verdict, reason = str(result["verdict"]), str(result["reason"])
    if verdict in question.right or reason in question.right:
        return Checked(name, OK, "", seconds)
    said = verdict if result["reason"] is None else f"{verdict} ({reason}: {result['detail']})"
    what = f"it says {said} of a question that {question.asked.instance.model_name}"
    if verdict != str(Verdict.UNKNOWN):
        return Checked(name, WRONG, what, seconds)
    late = reason == str(Reason.TIMEOUT)
    return Checked(name, LATE if late else FAILED, "it ran out of time" if late else what, seconds)

"""What a study would ask, before anything runs: `verifkit bench SUITE --check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from verifkit import registry
from verifkit.bench.suites.instance import RADIUS, Choice, Instance, Suite
from verifkit.budget import Budget
from verifkit.verifier import Verifier


@dataclass(frozen=True)
class _Row:
    """A row to be, but for its seed: `number` is its verifier's place in the suite."""

    instance: Instance
    number: int
    limits: Budget


def overview(suite: Suite, *, limits: Budget, jobs: int, seed: int, repeats: int) -> str:
    """Lines that say who would be asked what, within which limits, and how long that may take at most.

    limits: in place of the suite's; jobs: rows at a time. Questions that are asked twice count once, as they are run.
    Raises `SuiteError`, `UnknownVerifier`, `OptionError` or `MissingPackage` as a run would.
    """
    suite.require_verifiers()
    verifiers = [registry.create(choice.name, choice.options) for choice in suite.verifiers]
    for verifier in verifiers:
        verifier.require_usable()
    rows = _rows(suite, limits)
    models = len({row.instance.model_path for row in rows})
    questions = len({row.instance.bare() for row in rows})
    lines = [
        f"{suite.name}: {plural(questions, 'question')} about {plural(models, 'model')}, "
        f"{plural(len(suite.verifiers), 'verifier')}, {plural(len(rows) * repeats, 'row')}",
        "questions:",
        *_aligned(_question_lines(rows, repeats)),
        "verifiers:",
        *_aligned(_verifier_lines(suite.verifiers, verifiers, rows, repeats)),
        "limits of each row:",
        *_limit_lines(rows),
        f"seed: {seed}" + (f" to {seed + repeats - 1}, each question with each" if repeats > 1 else ""),
        f"worst case: {_worst(rows, repeats, jobs)}",
    ]
    return "\n".join(lines)


def _rows(suite: Suite, limits: Budget) -> list[_Row]:
    found: dict[tuple[Instance, int, Budget], _Row] = {}
    for instance in suite.instances:
        for number, choice in enumerate(suite.verifiers):
            if choice.takes(instance):
                own = limits.over(choice.limits).over(instance.limits)
                found[instance.bare(), number, own] = _Row(instance, number, own)
    return list(found.values())


def _question_lines(rows: Sequence[_Row], repeats: int) -> list[tuple[str, ...]]:
    asked: dict[tuple[str, str, str], set[Instance]] = {}
    answers: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        key = (_kind(row.instance), row.instance.model_name, _about(row.instance))
        asked.setdefault(key, set()).add(row.instance.bare())
        answers[key] += repeats
    return [(*key, plural(len(asked[key]), "question"), plural(answers[key], "row")) for key in asked]


def _kind(instance: Instance) -> str:
    return "decide" if instance.question != RADIUS else "radius" if instance.grid is None else "curve"


def _about(instance: Instance) -> str:
    if instance.sample is None:
        return "VNN-LIB"
    radii = instance.grid
    return f"l{instance.sample.norm}" + ("" if radii is None else f" at {len(radii)} radii, {radii[0]} to {radii[-1]}")


def _verifier_lines(
    choices: Sequence[Choice], verifiers: Sequence[Verifier], rows: Sequence[_Row], repeats: int
) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for number, (choice, verifier) in enumerate(zip(choices, verifiers, strict=True)):
        own = [row.instance for row in rows if row.number == number]
        norms = (i.sample.norm for i in own if i.sample is not None)
        refused = Counter(norm for norm in norms if norm not in verifier.capabilities.kinds)
        name = choice.name if choice.label in ("", choice.name) else f"{choice.label} ({choice.name})"
        options = " ".join(f"{key}={value}" for key, value in choice.options.items()) or "default options"
        note = ", ".join(f"{n * repeats} of them unsupported: it has no l{norm}" for norm, n in refused.items())
        lines.append((name, options, plural(len(own) * repeats, "row") + (f", {note}" if note else "")))
    return lines


def _limit_lines(rows: Sequence[_Row]) -> list[str]:
    limits = [row.limits for row in rows]
    memory = [None if own.memory_bytes is None else own.memory_bytes / 2**30 for own in limits]
    return [
        f"  timeout: {_range([own.seconds for own in limits], ' s')}",
        f"  memory: {_range(memory, ' GiB', none='an equal share of what the machine has')}",
        f"  nodes: {_range([own.nodes for own in limits])}",
        f"  samples: {_range([own.samples for own in limits])}",
    ]


def _range(values: Sequence[float | None], unit: str = "", *, none: str = "none") -> str:
    set_ = [value for value in values if value is not None]
    if not set_:
        return none
    low, high = f"{min(set_):.12g}", f"{max(set_):.12g}"
    return (low if low == high else f"{low} to {high}") + unit + (f", or {none}" if len(set_) < len(values) else "")


def _worst(rows: Sequence[_Row], repeats: int, jobs: int) -> str:
    """The time of all rows if each takes its limit."""
    seconds = [row.limits.seconds for row in rows]
    free = sum(s is None for s in seconds)
    if free:
        return f"no bound, for {plural(free * repeats, 'row')} without a timeout"
    total = repeats * sum(s for s in seconds if s is not None) / jobs
    return f"{_duration(total)} with {plural(jobs, 'worker')}, and what loading the models takes"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _aligned(lines: Iterable[tuple[str, ...]]) -> list[str]:
    """Indented columns, the last one as long as it is."""
    table = list(lines)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in table]

"""Two result folders side by side: what was lost, gained, contradicted, and how the times compare.

A row of A and one of B are a pair where model, property, question, verifier, options, seed and repeat are the same,
whatever their limits: other limits, packages and machines are named as caveats.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verifkit.bench.rows.agreement import DEFINITE, contradict
from verifkit.bench.rows.environments import read_environments
from verifkit.bench.rows.schema import Row
from verifkit.bench.rows.speed import Speed, speed_of
from verifkit.bench.rows.store import read_rows

_LIMITS = ("timeout", "memory_limit", "node_limit", "sample_limit")
_MACHINE = ("cpu", "usable_cores", "memory_bytes", "platform", "python")
Pair = tuple[Row, Row]


@dataclass(frozen=True)
class Change:
    """What became of one question put to one verifier: `before` in A, `after` in B."""

    verifier: str
    instance: str
    model: str
    before: str
    after: str


@dataclass(frozen=True)
class Comparison:
    """contradicted: both answers cannot be right. lost, gained: definite verdicts. otherwise: other definite verdicts
    that do not exclude each other (another subject, or one that may be wrong by chance). smaller, larger: certified
    radii; nearer, farther: falsified ones. only_a, only_b: rows without a partner. caveats: sentences.
    """

    rows_a: int
    rows_b: int
    pairs: int
    same: int
    contradicted: list[Change]
    lost: list[Change]
    gained: list[Change]
    otherwise: list[Change]
    smaller: list[Change]
    larger: list[Change]
    nearer: list[Change]
    farther: list[Change]
    only_a: list[Change]
    only_b: list[Change]
    caveats: list[str]
    speeds: list[Speed]

    @property
    def regressed(self) -> bool:
        """Whether B has lost a definite verdict or a part of a certified radius."""
        return bool(self.lost or self.smaller)


def compare_folders(a: Path, b: Path, *, tolerance: float = 1e-3, seed: int = 0) -> Comparison:
    """tolerance: relative, below which radii count as equal. seed: of the bootstrap. Raises `SuiteError`."""
    # The attacks that an audit adds follow from the other rows: they are no questions of the study.
    rows_a, rows_b = ([row for row in read_rows(folder) if row.audit is None] for folder in (a, b))
    pairs, only_a, only_b, crossed = _paired(rows_a, rows_b)
    label = _labels([*rows_a, *rows_b])
    found: dict[str, list[Change]] = {name: [] for name in _KINDS}
    found["contradicted"] = [_change(label, *pair) for pair in crossed if contradict(*pair)]
    same = 0
    for pair in pairs:
        kinds = [] if contradict(*pair) else _kinds(*pair, tolerance)
        same += not kinds and not contradict(*pair)
        for kind in kinds:
            found[kind].append(_change(label, *pair))
    return Comparison(
        rows_a=len(rows_a),
        rows_b=len(rows_b),
        pairs=len(pairs),
        same=same,
        only_a=[_change(label, row, None) for row in only_a],
        only_b=[_change(label, None, row) for row in only_b],
        caveats=_caveats(pairs, read_environments(a), read_environments(b)),
        speeds=_speeds(label, pairs, seed),
        **found,
    )


_KINDS = ("contradicted", "lost", "gained", "otherwise", "smaller", "larger", "nearer", "farther")


def _identity(row: Row) -> tuple[Any, ...]:
    return (row.model_hash, row.property_hash, row.question, *_contender(row), row.seed, row.repeat)


def _contender(row: Row) -> tuple[str, str]:
    return row.verifier, json.dumps(row.options, sort_keys=True)


def _paired(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> tuple[list[Pair], list[Row], list[Row], list[Pair]]:
    """Pairs, what has no partner in B and in A, and every combination about one question.

    Where a folder asked under several limits, those with the same limits are partners first, then in order.
    """
    groups: defaultdict[tuple[Any, ...], tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((rows_a, rows_b)):
        for row in rows:
            groups[_identity(row)][side].append(row)
    pairs: list[Pair] = []
    only_a: list[Row] = []
    only_b: list[Row] = []
    crossed: list[Pair] = []
    for of_a, of_b in groups.values():
        crossed += [(one, other) for one in of_a for other in of_b]
        left = list(of_b)
        rest = []
        for row in of_a:
            twin = next((other for other in left if other.key == row.key), None)
            if twin is None:
                rest.append(row)
            else:
                left.remove(twin)
                pairs.append((row, twin))
        pairs += zip(rest, left, strict=False)
        only_a += rest[len(left) :]
        only_b += left[len(rest) :]
    return pairs, only_a, only_b, crossed


def _kinds(a: Row, b: Row, tolerance: float) -> list[str]:
    """What differs between two rows that do not contradict each other."""
    had, has = a.verdict in DEFINITE, b.verdict in DEFINITE
    if had != has:  # said once, whatever became of the bracket's other end
        return ["lost" if had else "gained"]
    kinds = []
    if a.verdict != b.verdict:
        kinds.append("otherwise")
    elif differs(a.certified or 0.0, b.certified or 0.0, tolerance):
        kinds.append("smaller" if (b.certified or 0.0) < (a.certified or 0.0) else "larger")
    before, after = (math.inf if row.falsified is None else row.falsified for row in (a, b))
    if differs(before, after, tolerance):
        kinds.append("nearer" if after < before else "farther")
    return kinds


def differs(one: float, other: float, tolerance: float) -> bool:
    """Whether two radii are apart by more than `tolerance` times the larger one; infinity is apart from all others."""
    if math.isinf(one) or math.isinf(other):
        return one != other
    return abs(one - other) > tolerance * max(one, other)


def _change(label: Mapping[tuple[str, str], str], a: Row | None, b: Row | None) -> Change:
    row = a or b
    assert row is not None
    return Change(label[_contender(row)], row.instance, row.model, _words(a), _words(b))


def _words(row: Row | None) -> str:
    if row is None:
        return "-"
    said = row.verdict if row.reason is None else f"{row.verdict} ({row.reason})"
    if row.question == "radius":
        ends = ["?" if end is None else f"{end:.6g}" for end in (row.certified, row.falsified)]
        said += f" [{ends[0]}, {ends[1]}]"
    return said


def _labels(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """A verifier's name, with the options that tell it from its namesakes in either folder."""
    options: dict[tuple[str, str], dict[str, Any]] = {_contender(row): row.options for row in rows}
    labels = {}
    for (name, key), own in options.items():
        others = [values for (other, _), values in options.items() if other == name]
        told = [k for k in own if any(values.get(k) != own[k] for values in others)]
        words = ", ".join(f"{k}={own[k] if isinstance(own[k], str) else json.dumps(own[k])}" for k in told)
        labels[name, key] = f"{name} ({words})" if words else name
    return labels


def _speeds(label: Mapping[tuple[str, str], str], pairs: Sequence[Pair], seed: int) -> list[Speed]:
    """One for each verifier, in order of name, and one for all."""
    by_verifier: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_verifier[label[_contender(pair[0])]].append(pair)
    groups = [*sorted(by_verifier.items()), *([("all", list(pairs))] if len(by_verifier) > 1 else [])]
    return [speed_of(name, own, np.random.default_rng(seed)) for name, own in groups]


def _caveats(pairs: Sequence[Pair], known_a: Mapping[str, Any], known_b: Mapping[str, Any]) -> list[str]:
    """What else differs between the two, in sentences."""
    found: Counter[str] = Counter()
    for a, b in pairs:
        for name in (*_LIMITS, "version"):
            before, after = getattr(a, name), getattr(b, name)
            if before != after:
                found[f"{name}: {_value(before)} in A, {_value(after)} in B"] += 1
    said = [f"{text} ({count} of {len(pairs)} pairs)" for text, count in found.most_common()]
    machines = {(a.environment, b.environment) for a, b in pairs if a.environment != b.environment}
    for one, other in sorted(machines):
        if one not in known_a or other not in known_b:
            said.append(f"environment {one} in A, {other} in B; what they are is not recorded in environment.json")
            continue
        before, after = known_a[one], known_b[other]
        said += [
            f"{name}: {before.get(name)} in A, {after.get(name)} in B"
            for name in _MACHINE
            if before.get(name) != after.get(name)
        ]
        packages = [values.get("packages", {}) for values in (before, after)]
        changed = [n for n in sorted({*packages[0], *packages[1]}) if packages[0].get(n) != packages[1].get(n)]
        if changed:
            told = ", ".join(f"{n} {packages[0].get(n, 'none')} -> {packages[1].get(n, 'none')}" for n in changed)
            said.append(f"packages: {told}")
    return list(dict.fromkeys(said))


def _value(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

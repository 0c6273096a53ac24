"""Attacks that a study adds by itself: inside every radius that was certified, and a little above exact ones.

Inside, a success is a soundness violation: a row like any other, which `contradictions` then meets with the claim.
Where a complete method closed its bracket, an attack at `BEYOND` times the upper end should succeed; whether it does
says how strong the attack is, and nothing of soundness.

Only claims about the network that no chance can excuse are attacked. A classifier smoothed from the network is another
function, which an input on which the network errs does not refute; attacking it would take samples of its own, and is
not done.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from verifkit.bench.rows.schema import Row
from verifkit.bench.suites.instance import Instance, Sample
from verifkit.budget import Budget
from verifkit.capabilities import Kind
from verifkit.radius import LARGEST, TOLERANCE
from verifkit.result import Subject

INSIDE, OUTSIDE = "inside", "outside"
SECONDS = 5.0
"""For one attack, at most; less where the claim itself had less."""
BEYOND = 1.05
"""How far outside an exact radius an attack is tried."""
DEFAULT = "pgd"
"""The attack where the suite names none for a norm."""


@dataclass(frozen=True, eq=False)
class Attacker:
    """A falsifier with its options, as rows record them. norms: those it takes."""

    name: str
    options: Mapping[str, Any]
    norms: frozenset[str]

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any], kinds: Mapping[str, str]) -> Attacker:
        """kinds: by norm, of which those of a falsifier count."""
        return cls(name, options, frozenset(norm for norm, kind in kinds.items() if kind == Kind.FALSIFIER))


def is_attacked(row: Row) -> bool:
    """Whether the row claims something of the network itself, with certainty, that an attack could refute."""
    claim = row.guarantee or {}
    return row.verdict == "HOLDS" and claim.get("subject") == Subject.NETWORK and not claim.get("failure_probability")


class Claims:
    """What a study's own rows say, as far as its audit has to know it: little, however many rows there are."""

    def __init__(self) -> None:
        self._balls: dict[tuple[str, Sample], _Ball] = {}

    def add(self, row: Row, instance: Instance) -> None:
        """Takes note of one row and its question."""
        if instance.sample is not None and instance.audit is None:
            around = replace(instance.sample, radius=None)
            ball = self._balls.setdefault((instance.model_path, around), _Ball(around, instance))
            ball.add(row, instance, instance.sample.radius)

    def attacks(self, own: Sequence[Attacker], default: Attacker | None) -> list[tuple[Instance, Attacker]]:
        """The questions to add, each with the attack to put it to; the same rows in any order give the same list.

        own: the suite's falsifiers, which attack the norms that they take. default: attacks the others. What the study
        asked of an attack already is not asked again.
        """
        found: list[tuple[Instance, Attacker]] = []
        for _, ball in sorted(self._balls.items(), key=lambda item: repr(item[0])):
            norm = ball.around.norm
            chosen = [a for a in own if norm in a.norms] or [a for a in (default,) if a is not None and norm in a.norms]
            for why, radius in ball.questions():
                new = [a for a in chosen if (_text(a.name, a.options), float(radius)) not in ball.asked]
                found += [(ball.asking(why, radius), a) for a in new]
        return found


@dataclass
class _Ball:
    """What was answered about one sample in one norm and clip box."""

    around: Sample
    first: Instance
    held: dict[float, str] = field(default_factory=dict)
    certified: float = 0.0
    exact: float = math.inf
    asked: set[tuple[str, float]] = field(default_factory=set)
    seconds: float = 0.0

    def add(self, row: Row, instance: Instance, radius: str | None) -> None:
        self.first = min(self.first, instance, key=lambda i: i.id)
        if radius is not None and row.kind == Kind.FALSIFIER:
            self.asked.add((_text(row.verifier, row.options), float(radius)))
        if not is_attacked(row):
            return
        self.seconds = max(self.seconds, SECONDS if row.timeout is None else min(row.timeout, SECONDS))
        if radius is not None:
            self.held[float(radius)] = radius
        elif row.certified is not None and row.certified > 0:
            self.certified = max(self.certified, row.certified)
            closed = row.falsified is not None and row.falsified - row.certified <= TOLERANCE * row.falsified
            if row.kind == Kind.COMPLETE and row.falsified and closed:
                self.exact = min(self.exact, row.falsified)

    def questions(self) -> list[tuple[str, str]]:
        """(why, radius) pairs. A radius that the suite itself asks about keeps its text: it is the same question."""
        inside = dict(self.held)
        if self.certified:
            largest = min(self.certified, LARGEST)
            inside.setdefault(largest, decimal_text(largest))
        found = [(INSIDE, inside[radius]) for radius in sorted(inside)]
        beyond = self.exact * BEYOND
        if math.isfinite(beyond) and beyond not in inside:
            found.append((OUTSIDE, decimal_text(beyond)))
        return found

    def asking(self, why: str, radius: str) -> Instance:
        base = self.first
        place, norm = f"[{self.around.index}]", self.around.norm
        at = f" l{norm} {radius if radius in self.held.values() else repr(float(radius))}"
        return replace(
            base,
            id=f"{_before(base.id, place)}{at} (attack {why})",
            property_name=f"{_before(base.property_name, place)}{at}",
            sample=replace(self.around, radius=radius),
            expected=None,
            firmness=None,
            limits=Budget(seconds=self.seconds or SECONDS, memory_bytes=base.limits.memory_bytes),
            verifiers=None,
            grid=None,
            audit=why,
        )


def decimal_text(value: float) -> str:
    """Exactly `value`, digit by digit: a radius that is written means the decimal, and this one must mean the float."""
    return format(Decimal(value), "f")


def _before(name: str, place: str) -> str:
    """`name` up to `place` and with it: the sample, without what is asked about it."""
    head, found, _ = name.partition(place)
    return head + (found or place)


def _text(name: str, options: Mapping[str, Any]) -> str:
    return json.dumps([name, dict(options)], sort_keys=True, default=str)

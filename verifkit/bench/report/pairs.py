"""Verifiers two by two, and about the network a virtual best: over the questions both were asked, about one subject.

The better answer comes first: a verdict against none, or the larger certified radius (of attacks the smaller falsified
one). Where the answers are as good, the faster one wins time. Ties are counted by themselves, never split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pandas as pd

from verifkit.bench.report.charts.cactus import decided
from verifkit.bench.report.scores import certified_radius, question_of
from verifkit.bench.rows.frame import NETWORK, grouped

Row = dict[str, Any]
SAME_RADIUS = 2e-3
"""Radii whose ratio is within this of 1 count as equal: twice what bisection stops at."""
SAME_TIME = 0.1
"""Times within a tenth of each other count as equal,"""
CLOCK = 1e-3
"""and so do all below a millisecond more than the other."""


@dataclass(frozen=True)
class Pair:
    """shared: questions both were asked. ahead: the first's answer is better. tied: both answered, as well; of these it
    was `faster`, or as fast (`same_time`)."""

    shared: int
    ahead: int
    tied: int
    faster: int
    same_time: int


@dataclass(frozen=True)
class Share:
    """One verifier's part in the virtual best: answered questions; best or tied best answer; alone so; fastest best."""

    verifier: str
    asked: int
    answered: int
    best: int
    alone: int
    fastest: int


@dataclass(frozen=True)
class Contest:
    """Pairs of one question and subject, certifiers among themselves and attacks among themselves.

    shares: in the virtual best; none about smoothed classifiers, which are one function for each verifier.
    answered: questions to which some verifier has an answer: a verdict, or a certified (attacks: falsified) radius.
    """

    question: str
    subject: str
    attacks: bool
    verifiers: tuple[str, ...]
    pairs: Mapping[tuple[str, str], Pair]
    shares: tuple[Share, ...]
    questions: int
    answered: int


def contests(rows: Sequence[Row]) -> list[Contest]:
    """By question and subject; attacks, which answer only one way, never meet certifiers. Lone verifiers have none."""
    split = [{**row, "attacks": row["kind"] == "falsifier", "worth": worth(row)} for row in rows]
    found = []
    for (question, subject, attacks), own in grouped(split, "question", "subject", "attacks").items():
        by_verifier = {v: _answers(part) for (v,), part in grouped(own, "method").items()}
        if len(by_verifier) > 1:
            found.append(_contest(question, subject, attacks, by_verifier))
    return sorted(found, key=lambda contest: contest.question != "verify")


def pair_table(found: Sequence[Contest]) -> pd.DataFrame:
    """One line for each ordered pair of verifiers, with the counts of `Pair`."""
    lines = [
        {"question": c.question, "subject": c.subject, "verifier": a, "against": b, **asdict(pair)}
        for c in found
        for (a, b), pair in c.pairs.items()
    ]
    columns = ("question", "subject", "verifier", "against", *(f.name for f in fields(Pair)))
    return pd.DataFrame(lines, columns=list(columns))


def _answers(rows: Sequence[Row]) -> dict[Any, Row]:
    return {(*question_of(r), r["instance"], r["repeat"]): r for r in rows}


def _contest(question: str, subject: str, attacks: bool, answers: Mapping[str, Mapping[Any, Row]]) -> Contest:
    names = tuple(answers)
    pairs = {(a, b): _pair(answers[a], answers[b]) for a in names for b in names if a != b}
    asked = {key for own in answers.values() for key in own}
    best = {name: {"best": 0, "alone": 0, "fastest": 0} for name in names}
    for key in asked:
        own = {name: rows[key] for name, rows in answers.items() if key in rows}
        top = [n for n in own if own[n]["worth"] > 0 and all(_compare(own[n], other) >= 0 for other in own.values())]
        times = {n: own[n]["seconds"] for n in top if not math.isnan(own[n]["seconds"])}
        for n in top:
            best[n]["best"] += 1
            best[n]["alone"] += len(top) == 1
            best[n]["fastest"] += n in times and all(_faster(t, times[n]) <= 0 for t in times.values())
    shares = (
        []
        if subject != NETWORK
        else [
            Share(name, len(own), sum(r["worth"] > 0 for r in own.values()), **best[name])
            for name, own in answers.items()
        ]
    )
    answered = sum(any(rows[key]["worth"] > 0 for rows in answers.values() if key in rows) for key in asked)
    return Contest(question, subject, attacks, names, pairs, tuple(shares), len(asked), answered)


def _pair(first: Mapping[Any, Row], second: Mapping[Any, Row]) -> Pair:
    shared = [(row, second[key]) for key, row in first.items() if key in second]
    results = [_compare(a, b) for a, b in shared]
    both = [(a, b) for (a, b), r in zip(shared, results, strict=True) if r == 0 and min(a["worth"], b["worth"]) > 0]
    times = [_faster(a["seconds"], b["seconds"]) for a, b in both]
    return Pair(len(shared), results.count(1), len(both), times.count(1), times.count(0))


def worth(row: Row) -> float:
    """The larger the better, 0 for no answer: 1 for a verdict, a certified radius, one over a falsified radius."""
    if row["question"] != "radius":
        return float(decided(row))
    if row["kind"] == "falsifier":
        return 0.0 if math.isnan(row["falsified"]) else math.inf if row["falsified"] == 0 else 1 / row["falsified"]
    return certified_radius(row)


def _compare(one: Row, other: Row) -> int:
    """1, 0 or -1: whether the first row's answer is better, as good or worse."""
    a, b = one["worth"], other["worth"]
    if a == b or (min(a, b) > 0 and max(a, b) <= min(a, b) * (1 + SAME_RADIUS)):
        return 0
    return 1 if a > b else -1


def _faster(one: float, other: float) -> int:
    """1, 0 or -1: whether the first time is less, as good (or one is unknown) or more."""
    if math.isnan(one) or math.isnan(other):
        return 0
    if abs(one - other) <= max(CLOCK, SAME_TIME * max(one, other)):
        return 0
    return 1 if one < other else -1

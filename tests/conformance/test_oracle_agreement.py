"""Random questions against the exact oracle: complete methods agree with it, others never claim too much."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from verifkit import registry
from verifkit.query import Query
from verifkit.result import Reason, Result, Verdict
from verifkit.testing.oracle import ToyNet
from verifkit.testing.samples import Sample, Truth, describe_property, describe_toy, is_unsafe, sample_of
from verifkit.testing.shrink import shrink
from verifkit.testing.toys import random_question, random_toy
from verifkit.verifier import Verifier

TOTAL = 5000
QUICK = 500
BLOCK = 25
RELUS = 14

EXACT = {"smt": registry.create("smt"), "reluplex, rational": registry.create("reluplex", {"arithmetic": "rational"})}
"""Methods that decide ties as well."""

COMPLETE = {
    **EXACT,
    "auto": registry.create("auto"),
    "bab": registry.create("bab"),
    "bab, phase": registry.create("bab", {"branching": "phase"}),
    "milp": registry.create("milp"),
    "reluplex": registry.create("reluplex"),
}
VERIFIERS = {**COMPLETE, **{name: registry.create(name) for name in ("crown", "interval", "pgd")}}


@dataclass
class Tally:
    """How often each verifier gave each verdict, by what the oracle says; and what went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def text(self) -> str:
        return "\n".join([f"{n:5d}  {what}" for what, n in sorted(self.counts.items())] + self.wrong)


def problem(name: str, result: Result, toy: ToyNet, query: Query, truth: Truth) -> str | None:
    """What is wrong with an answer, or None."""
    if result.verdict is Verdict.HOLDS and (truth.violated or name == "pgd"):
        return "says HOLDS"
    if result.verdict is Verdict.VIOLATED and not truth.violated:
        return "says VIOLATED"
    if result.witness is not None and not is_unsafe(toy, query.prop, result.witness.x, query.model.dtype):
        return "shows a witness that is none"
    if result.verdict is Verdict.UNKNOWN and name in COMPLETE:
        if not truth.in_band or name in EXACT:
            return f"does not decide: {result.reason}, {result.detail}"
        if result.reason is not Reason.UNCONFIRMED:
            return f"does not decide a tie for the wrong reason: {result.reason}, {result.detail}"
    return None


def ask(number: int, tally: Tally) -> None:
    rng = np.random.default_rng([20260101, number])
    toy, prop = random_question(rng, random_toy(rng, max_relus=RELUS, magnitudes=number % 10 == 9))
    sample = sample_of(f"question {number}", toy, prop)
    exact = ("is violated" if sample.truth.violated else "holds") + (", in the band" if sample.truth.in_band else "")
    for name, verifier in VERIFIERS.items():

        def wrong(asked: Sample, name: str = name, verifier: Verifier = verifier) -> str | None:
            return problem(name, verifier.verify(asked.query), asked.toy, asked.query, asked.truth)

        result = verifier.verify(sample.query)
        reason = f" ({result.reason})" if result.reason else ""
        tally.counts[f"{name}: {result.verdict}{reason} where it {exact}"] += 1
        if problem(name, result, toy, sample.query, sample.truth) is not None:
            small = shrink(sample, lambda smaller: wrong(smaller) is not None)
            tally.wrong.append(
                f"{sample.name}: {name} {wrong(small)}; exact margin {small.truth.margin}, "
                f"made smaller:\n{describe_toy(small.toy)}\n{describe_property(small.prop)}"
            )


def ask_all(first: int, last: int) -> None:
    tally = Tally()
    for number in range(first, last):
        ask(number, tally)
    print(tally.text())  # noqa: T201 (pytest shows it on demand: -rP)
    assert not tally.wrong, tally.text()


@pytest.mark.parametrize("first", range(0, QUICK, BLOCK))
def test_agreement(first: int) -> None:
    ask_all(first, first + BLOCK)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(QUICK, TOTAL, 500))
def test_agreement_on_all(first: int) -> None:
    ask_all(first, first + 500)

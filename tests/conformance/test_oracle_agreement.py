"""Random questions against the exact oracle: complete methods agree with it, others never claim too much."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from verifkit import registry
from verifkit.query import Query
from verifkit.result import Reason, Result, Verdict
from verifkit.testing.oracle import OracleAnswer, ToyNet
from verifkit.testing.samples import describe_property, describe_toy, is_unsafe
from verifkit.testing.toys import ask_oracle, random_question, random_toy, to_model

TOTAL = 2000
QUICK = 300
BLOCK = 50
COMPLETE = ("milp", "auto")
VERIFIERS = ("interval", "crown", "milp", "auto", "pgd")


@dataclass
class Tally:
    """How often each verifier gave each verdict, by what the oracle says; and what went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def text(self) -> str:
        return "\n".join([f"{n:5d}  {what}" for what, n in sorted(self.counts.items())] + self.wrong)


def problem(name: str, result: Result, toy: ToyNet, query: Query, truth: OracleAnswer) -> str | None:
    """What is wrong with an answer, or None."""
    if result.verdict is Verdict.HOLDS and (truth.violated or name == "pgd"):
        return "says HOLDS"
    if result.verdict is Verdict.VIOLATED and not truth.violated:
        return "says VIOLATED"
    if result.witness is not None and not is_unsafe(toy, query.prop, result.witness.x, query.model.dtype):
        return "shows a witness that is none"
    if result.verdict is Verdict.UNKNOWN and name in COMPLETE:
        if not truth.in_band:
            return f"does not decide: {result.reason}, {result.detail}"
        if result.reason is not Reason.UNCONFIRMED:
            return f"does not decide a tie for the wrong reason: {result.reason}, {result.detail}"
    return None


def ask(number: int, tally: Tally) -> None:
    rng = np.random.default_rng([20260101, number])
    toy, prop = random_question(rng, random_toy(rng, magnitudes=number % 10 == 9))
    truth, query = ask_oracle(toy, prop), Query(to_model(toy), prop)
    exact = ("is violated" if truth.violated else "holds") + (", in the band" if truth.in_band else "")
    for name in VERIFIERS:
        result = registry.create(name).verify(query)
        reason = f" ({result.reason})" if result.reason else ""
        tally.counts[f"{name}: {result.verdict}{reason} where it {exact}"] += 1
        wrong = problem(name, result, toy, query, truth)
        if wrong is not None:
            tally.wrong.append(
                f"question {number}: {name} {wrong}; exact margin {float(truth.margin)!r}, "
                f"witness {truth.witness}\n{describe_toy(toy)}\n{describe_property(prop)}"
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
@pytest.mark.timeout(1800)
def test_agreement_on_all() -> None:
    ask_all(0, TOTAL)

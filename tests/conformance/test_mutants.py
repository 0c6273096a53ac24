"""The conformance suite finds every one of the deliberate mistakes in `mutants`, and none without them."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.conformance.mutants import MUTANTS, Mutant
from verifkit import registry
from verifkit.testing import checks_contract, checks_power
from verifkit.testing.conformance import Check, ConformanceError, checks_for

QUERIES = 48
POWER = {rule.name for rule in checks_power.RULES}
CONTRACT = {rule.name for rule in checks_contract.RULES}
OPTIONS = {"milp": {"start": False}}
"""A descent before the solver finds most violations by itself: the solver's mistakes would go unseen behind it."""


def ordered(verifier: str) -> list[Check]:
    """The suite's checks, those of the interface (which these mistakes leave alone, and which take time) last.

    A solver's mistakes mostly show in what it fails to decide.
    """

    def late(check: Check) -> tuple[bool, bool]:
        return check.name in CONTRACT, verifier == "milp" and check.name not in POWER

    return sorted(checks_for(registry.create(verifier, OPTIONS.get(verifier)), queries=QUERIES), key=late)


def first_failure(verifier: str) -> str | None:
    """The name of the first check that fails and what it says, or None."""
    for check in ordered(verifier):
        try:
            check()
        except ConformanceError as error:
            return f"{check.name}: {error}"
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_mutant_is_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.create(mutant.verifier)  # so that every module that takes a function by name is there to be patched
    mutant.apply(monkeypatch)
    assert first_failure(mutant.verifier) is not None, f"survives: {mutant.description}"


@pytest.mark.parametrize("verifier", sorted({m.verifier for m in MUTANTS}))
def test_unmutated_passes(verifier: str) -> None:
    failure = first_failure(verifier)
    assert failure is None, failure


def test_enough_mutants() -> None:
    counts = Counter(m.verifier for m in MUTANTS)
    assert set(counts) == {"alpha_crown", "crown", "interval", "milp"}
    assert sum(counts.values()) >= 20
    assert len({str(m) for m in MUTANTS}) == len(MUTANTS)

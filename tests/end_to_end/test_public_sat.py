"""No incomplete method proves a public instance that has a counterexample.

Each method is asked about each network in a process of its own, which is ended at its limits: what has no answer by
then says nothing. `-o junit_family=xunit1 --junitxml=FILE` keeps the words, as the property "words" of each test.
"""

from __future__ import annotations

import csv
import itertools
import os
from functools import partial
from pathlib import Path

import pytest

from verifkit.budget import Budget
from verifkit.capabilities import Kind
from verifkit.cli.answers import ask
from verifkit.registry import names, verifier_class
from verifkit.supervise import Answer, Stopped, supervised

ROOT = Path(os.environ.get("VERIFKIT_VNNCOMP") or Path(__file__).resolve().parents[3] / "shared" / "vnncomp")
EXPECTED = ROOT / "expected.csv"

SECONDS = 10.0
"""For a question."""

LOADING = 10.0
"""Seconds more that a question may take from outside: files are read, and a solver's step is not interrupted."""

MEMORY = 5 * 2**30

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not EXPECTED.is_file(),
        reason=f"no public instances in {ROOT}: set VERIFKIT_VNNCOMP to the folder with expected.csv",
    ),
]


def violated() -> dict[tuple[str, str], list[str]]:
    """(set, network) -> the properties that it is known to violate."""
    found: dict[tuple[str, str], list[str]] = {}
    if EXPECTED.is_file():
        for row in csv.DictReader(EXPECTED.read_text(encoding="utf-8").splitlines()):
            if row["expected"] == "sat":
                found.setdefault((row["benchmark"], row["onnx"]), []).append(row["vnnlib"])
    return found


def bounding() -> list[str]:
    """The installed verifiers that prove boxes and never find anything."""
    capabilities = {name: verifier_class(name).capabilities for name in names()}
    return [n for n, c in capabilities.items() if c.kinds.get("inf") is Kind.INCOMPLETE and not c.missing_modules()]


def stored(path: Path) -> Path:
    return path if path.exists() else path.with_name(path.name + ".gz")


def answers(folder: Path, network: str, specs: list[str], name: str, log: Path) -> Answer:
    """Writes one word for each property, as soon as it is known."""
    for spec in specs:
        budget = Budget(seconds=SECONDS)
        result = ask(str(stored(folder / network)), str(stored(folder / spec)), name, {}, budget, 0)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{result.word if result.reason is None else result.reason}\n")
    return Answer(0, "")


CASES = violated()


@pytest.mark.parametrize("name", bounding())
@pytest.mark.parametrize(("folder", "network"), CASES, ids=lambda v: Path(v).name)
def test_a_violated_property_is_not_proved(
    folder: str, network: str, name: str, tmp_path: Path, record_property
) -> None:  # type: ignore[no-untyped-def]
    specs, log = CASES[folder, network], tmp_path / "words"
    log.touch()
    limits = Budget(seconds=len(specs) * (SECONDS + LOADING), memory_bytes=MEMORY)
    why = "unasked"
    try:
        supervised(partial(answers, ROOT / folder, network, specs, name, log), limits)
    except Stopped as stopped:
        why = stopped.reason
    words = log.read_text(encoding="utf-8").split()
    shown = list(itertools.islice(itertools.chain(words, itertools.repeat(why)), len(specs)))
    record_property("words", " ".join(shown))
    assert "error" not in shown, f"{name} fails on {folder}/{network}: {shown}"
    proved = [spec for spec, word in zip(specs, words, strict=False) if word == "unsat"]
    assert not proved, f"{name} proves {proved} of {folder}/{network}, which are violated"

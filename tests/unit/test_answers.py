"""From what a worker has left to a row: only an answer is taken for one."""

from __future__ import annotations

from typing import Any

import pytest

from verifkit.bench.rows.schema import Row
from verifkit.bench.running.answers import Contender, Task, answered_row
from verifkit.bench.running.inspection import Asked
from verifkit.bench.running.isolation import Reply
from verifkit.bench.running.worker import _verdict_fields
from verifkit.bench.suites.instance import Instance, Sample
from verifkit.budget import Budget
from verifkit.result import Reason, Result, Verdict

ANSWER = {
    "verdict": "HOLDS",
    "reason": None,
    "word": "unsat",
    "detail": "",
    "guarantee": {"subject": "network"},
    "margin": 0.5,
    "witness": None,
    "counts": None,
    "statistics": {"margin": 0.5},
    "verifier_seconds": 0.1,
    "load_seconds": 0.1,
}
BRACKET = {"certified": 0.1, "falsified": None, "complete": False, "undecided": [[0.2, "incomplete"]]}


def row_of(result: dict[str, Any], radius: str | None = "0.1") -> Row:
    sample = Sample(inputs="s.npz", index=3, label=1, norm="inf", radius=radius, clip=("0", "1.0"))
    instance = Instance(
        id="i", suite="s", model_path="m", model_name="m", property_name="s.npz[3] linf 0.1", sample=sample
    )
    asked = Asked(instance=instance, model_hash="m", property_hash="p", norm="inf")
    task = Task("key", asked, Contender("v", {}, "1", {"inf": "complete"}), Budget(), 0, 0)
    ended = {
        "ended": "exit",
        "status": 0,
        "wall_seconds": 1.0,
        "cpu_seconds": 1.0,
        "peak_memory_bytes": 1,
        "evidence": False,
    }
    return answered_row(task, Reply(id=0, result=result, output="last words", **ended), "now", "here")


def test_an_answer_is_taken() -> None:
    row = row_of(ANSWER)
    assert (row.verdict, row.margin, row.key, row.output) == ("HOLDS", 0.5, "key", None)
    row = row_of(ANSWER | BRACKET, radius=None)
    assert (row.certified, row.undecided) == (0.1, [[0.2, "incomplete"]])
    assert Row.from_json(row.to_json()) == row


def test_the_clip_box_is_part_of_the_name() -> None:
    assert row_of(ANSWER).property == "s.npz[3] linf 0.1 in [0, 1.0]"


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "forged"},
        {"verifier": "milp"},
        {"verdict": "PERHAPS"},
        {"reason": "whim"},
        {"detail": None},
        {"guarantee": None},
        {"guarantee": "surely"},
        {"witness": []},
        {"statistics": []},
        {"statistics": None},
        {"margin": "wide"},
        {"margin": True},
        {"margin": 10**400},
        {"verifier_seconds": [1]},
        {"undecided": [3]},
        {"undecided": [[0.1, "incomplete", 4]]},
        {"undecided": [["far", "incomplete"]]},
        {"complete": "yes"},
    ],
)
def test_anything_else_is_an_error(changes: dict[str, Any]) -> None:
    row = row_of(ANSWER | changes)
    assert (row.verdict, row.reason, row.detail) == ("UNKNOWN", "error", "what the worker left is no answer")
    assert (row.key, row.output) == ("key", "last words")


@pytest.mark.parametrize("certified", [None, 0, "far", 10**400])
def test_a_radius_that_holds_is_a_number_above_zero(certified: Any) -> None:
    assert row_of(ANSWER | BRACKET | {"certified": certified}, radius=None).reason == "error"


def test_the_margin_of_several_cases_is_the_least_of_all_of_them() -> None:
    def found(statistics: dict[str, float], cases: int) -> float | None:
        result = Result(
            verdict=Verdict.UNKNOWN,
            reason=Reason.INCOMPLETE,
            detail="",
            guarantee=None,
            evidence=None,
            verifier="v",
            query_digest="",
            seed=0,
            wall_seconds=0.0,
            cpu_seconds=0.0,
            statistics=statistics,
        )
        return _verdict_fields(result, cases)["margin"]  # type: ignore[no-any-return]

    assert found({"margin": 0.5}, 1) == 0.5
    assert found({"margin": 0.5}, 2) is None  # of one case, which of them nobody knows
    assert found({"case 0: margin": 0.5, "case 1: margin": 0.25}, 2) == 0.25
    assert found({"case 0: margin": 0.5}, 2) is None
    assert found({"margin": float("inf")}, 1) is None
    assert found({}, 0) is None

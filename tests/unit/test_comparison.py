"""Two result folders compared: cases worked out by hand, and intervals that cover as often as they say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.unit.rows_builder import radius_row, row, write
from verifkit.bench.rows.comparison import Comparison, compare_folders
from verifkit.bench.rows.speed import LEAST, geometric_mean, speed_of
from verifkit.bench.rows.store import read_rows
from verifkit.cli import cli


def compared(tmp_path: Path, a: list[dict[str, Any]], b: list[dict[str, Any]], **how: Any) -> Comparison:
    for name, rows in (("A", a), ("B", b)):
        write(tmp_path / name, [{**r, "key": f"{name}{i}", **r} for i, r in enumerate(rows)])
    return compare_folders(tmp_path / "A", tmp_path / "B", **how)


def ask(tmp_path: Path, *more: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["compare", str(tmp_path / "A"), str(tmp_path / "B"), *more])
    return result.exit_code, result.stdout, result.stderr


def q(n: int, verifier: str = "crown", verdict: str = "HOLDS", **changes: Any) -> dict[str, Any]:
    return row(verifier, verdict, instance=f"p{n}", property_hash=f"p{n}", **changes)


def test_what_became_of_verdicts(tmp_path: Path) -> None:
    a = [q(0), q(1), q(2, verdict="UNKNOWN"), q(3), q(4), q(6, "milp", "VIOLATED")]
    b = [
        q(0),
        q(1, verdict="UNKNOWN", reason="timeout"),
        q(2),
        q(3, verdict="VIOLATED"),
        q(5),
        q(6, "milp", "VIOLATED"),
    ]
    found = compared(tmp_path, a, b)
    assert (found.rows_a, found.rows_b, found.pairs, found.same) == (6, 6, 5, 2)
    assert [(c.instance, c.before, c.after) for c in found.lost] == [("p1", "HOLDS", "UNKNOWN (timeout)")]
    assert [c.instance for c in found.gained] == ["p2"]
    assert [(c.instance, c.before, c.after) for c in found.contradicted] == [("p3", "HOLDS", "VIOLATED")]
    assert ([c.instance for c in found.only_a], [c.instance for c in found.only_b]) == (["p4"], ["p5"])
    status, said, error = ask(tmp_path)
    assert status == 3
    assert "CONTRADICTED: 1" in said
    assert "soundness violation" in error


def test_status_says_regressions(tmp_path: Path) -> None:
    compared(tmp_path, [q(0)], [q(0)])
    assert ask(tmp_path)[0] == 0
    compared(tmp_path, [q(0)], [q(0, verdict="UNKNOWN")])
    assert ask(tmp_path)[0] == 1
    compared(tmp_path, [q(0, verdict="UNKNOWN")], [q(0)])
    assert ask(tmp_path)[0] == 0
    compared(tmp_path, [radius_row(certified=0.1)], [radius_row(certified=0.09)])
    assert ask(tmp_path)[0] == 1
    assert ask(tmp_path, "--tolerance", "0.2")[0] == 0


def test_only_the_same_question_put_the_same_way_is_a_pair(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"model_hash": "x"}, {"property_hash": "x"}, {"question": "radius"}, {"verifier": "lp"}, {"options": {"a": 1}},
        {"seed": 1}, {"repeat": 1},
    ]  # fmt: skip
    for change in changes:
        found = compared(tmp_path, [q(0)], [q(0) | change])
        assert (found.pairs, len(found.only_a), len(found.only_b)) == (0, 1, 1), change
    assert compared(tmp_path, [q(0)], [q(0, timeout=5.0, memory_limit=1, node_limit=3)]).pairs == 1


def test_several_limits_in_one_folder(tmp_path: Path) -> None:
    a = [q(0, timeout=1.0, key="k1", verdict="UNKNOWN"), q(0, timeout=9.0, key="k9")]
    found = compared(tmp_path, a, list(reversed(a)))
    assert (found.pairs, found.same, found.caveats) == (2, 2, [])
    found = compared(tmp_path, a, [q(0, timeout=9.0, key="k9"), q(0, timeout=4.0, key="k4", verdict="VIOLATED")])
    assert found.pairs == 2
    assert len(found.contradicted) == 1  # whatever row it is the partner of


def test_answers_that_may_be_wrong_by_chance_contradict_nothing(tmp_path: Path) -> None:
    found = compared(tmp_path, [q(0, "smoothing")], [q(0, "smoothing", "VIOLATED")])
    assert (len(found.contradicted), len(found.otherwise)) == (0, 1)
    assert ask(tmp_path)[0] == 0
    sure = {**(q(0, "smoothing")["guarantee"]), "failure_probability": 0.0}
    found = compared(tmp_path, [q(0, "smoothing", guarantee=sure)], [q(0, "smoothing", "VIOLATED")])
    assert (len(found.contradicted), len(found.otherwise)) == (0, 1)  # another subject


def test_a_violation_that_no_replay_confirms_contradicts_nothing(tmp_path: Path) -> None:
    """As in the audit of a merged folder."""
    found = compared(tmp_path, [q(0, "milp")], [q(0, "milp", "VIOLATED", witness=None)])
    assert (len(found.contradicted), len(found.otherwise)) == (0, 1)
    assert len(compared(tmp_path, [q(0, "milp")], [q(0, "milp", "VIOLATED")]).contradicted) == 1


def test_radii(tmp_path: Path) -> None:
    a = [
        radius_row("milp", c, f, i)
        for i, (c, f) in enumerate([(1, 2), (1, 2), (1, 2), (1, None), (None, 2), (1, 2), (0.1, 0.2)])
    ]
    b = [
        radius_row("milp", c, f, i)
        for i, (c, f) in enumerate([(1.0005, 2), (0.9, 2), (1.1, 1.5), (1, 3), (0.5, 2), (1, None), (0.3, 0.4)])
    ]
    found = compared(tmp_path, a, b)
    named = {
        k: [c.instance for c in getattr(found, k)]
        for k in ("smaller", "larger", "nearer", "farther", "gained", "contradicted")
    }
    assert named == {
        "smaller": ["sample 1"], "larger": ["sample 2"], "nearer": ["sample 2", "sample 3"], "farther": ["sample 5"],
        "gained": ["sample 4"], "contradicted": ["sample 6"],
    }  # fmt: skip
    assert found.same == 1
    assert found.contradicted[0].before == "HOLDS [0.1, 0.2]"


def test_speed_is_the_geometric_mean_over_questions(tmp_path: Path) -> None:
    def timed(n: int, seconds: float, peak: int, **changes: Any) -> dict[str, Any]:
        return q(n, verifier_seconds=seconds, peak_memory_bytes=peak, **changes)

    a = [
        timed(0, 2.0, 100),
        timed(1, 1.0, 100),
        timed(1, 4.0, 100, repeat=1),
        timed(2, 9.0, 100, verdict="UNKNOWN", reason="timeout"),
    ]
    b = [
        timed(0, 1.0, 100),
        timed(1, 2.0, 50),
        timed(1, 2.0, 200, repeat=1),
        timed(2, 1.0, 100, verdict="UNKNOWN", reason="timeout"),
    ]
    (speed,) = compared(tmp_path, a, b).speeds
    assert (speed.verifier, speed.pairs, speed.questions) == ("crown", 3, 2)
    assert speed.speed is not None
    assert speed.speed.ratio == pytest.approx(math.sqrt(2.0))  # question 0: 2; question 1: sqrt(0.5 * 2) = 1
    assert (speed.speed.low, speed.memory) == (None, 1.0)
    assert speed.left_out == {"both out of time or memory": 1}


def test_what_has_no_ratio_is_counted_by_its_reason(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (q(0, verdict="UNKNOWN", reason="timeout"), q(0), "only A out of time or memory"),
        (q(1), q(1, verdict="UNKNOWN", reason="memout"), "only B out of time or memory"),
        (q(2), q(2, verdict="UNKNOWN"), "other answers"),
        (q(3, verdict="UNKNOWN", reason="error"), q(3, verdict="UNKNOWN", reason="error"), "no answer"),
        (q(4), q(4, guarantee=q(4, "smoothing")["guarantee"]), "other subjects"),
        (q(5, verifier_seconds=None, wall_seconds=0.0), q(5), "no time measured"),
        (
            radius_row(certified=1, undecided=[[2.0, "timeout"]]),
            radius_row(certified=1),
            "only A out of time or memory",
        ),
    ]
    for a, b, why in cases:
        (speed,) = compared(tmp_path, [a], [b]).speeds
        assert (speed.pairs, speed.speed, speed.left_out) == (0, None, {why: 1})


def test_verifiers_have_ratios_of_their_own_and_one_together(tmp_path: Path) -> None:
    names = [("crown", {}), ("milp", {"gap": 1}), ("milp", {"gap": 2})]
    a = [q(n, name, options=o, verifier_seconds=2.0 * k) for n in range(6) for k, (name, o) in enumerate(names, 1)]
    b = [q(n, name, options=o, verifier_seconds=1.0) for n in range(6) for name, o in names]
    speeds = {s.verifier: s for s in compared(tmp_path, a, b).speeds}
    ratios = {name: s.speed.ratio for name, s in speeds.items() if s.speed is not None}
    assert ratios == pytest.approx({"crown": 2, "milp (gap=1)": 4, "milp (gap=2)": 6, "all": 48 ** (1 / 3)})
    assert speeds["all"].questions == 6
    text = ask(tmp_path)[1]
    assert "milp (gap=2)" in text
    assert "6.000 to 6.000" in text


def test_what_else_differs_is_said(tmp_path: Path) -> None:
    a = [q(n, timeout=5.0, environment="e1") for n in range(3)]
    b = [q(n, timeout=60.0 if n else 5.0, environment="e2", version="0.2.0") for n in range(3)]
    compared(tmp_path, a, b)
    for name, number, cpu in (("A", "e1", "one"), ("B", "e2", "two")):
        packages = {"numpy": "2.1" if name == "A" else "2.4", "same": "1"}
        (tmp_path / name / "environment.json").write_text(json.dumps({number: {"cpu": cpu, "packages": packages}}))
    found = compare_folders(tmp_path / "A", tmp_path / "B")
    assert found.caveats == [
        "version: 0.1.0 in A, 0.2.0 in B (3 of 3 pairs)",
        "timeout: 5 in A, 60 in B (2 of 3 pairs)",
        "cpu: one in A, two in B",
        "packages: numpy 2.1 -> 2.4",
    ]


def test_json_holds_all_of_it(tmp_path: Path) -> None:
    rows = [q(n) for n in range(30)]
    compared(tmp_path, rows, [q(n, verdict="UNKNOWN") for n in range(30)])
    status, said, _ = ask(tmp_path, "--json", "--seed", "3")
    assert status == 1
    assert len(json.loads(said)["lost"]) == 30
    assert "... and 10 more" in ask(tmp_path)[1]


@pytest.mark.parametrize("n", [8, 40])
def test_intervals_cover_the_true_ratio_as_often_as_they_say(n: int) -> None:
    truth, rng, covered, runs = math.log(1.3), np.random.default_rng(n), 0, 400
    for _ in range(runs):
        interval = geometric_mean(rng.normal(truth, 0.5, n), rng)
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 1.3 <= interval.high
    assert 0.92 <= covered / runs <= 0.98  # three standard deviations of 400 runs at 0.95: 0.033


def test_the_interval_is_the_seeds_and_needs_enough_questions() -> None:
    logs = np.random.default_rng(0).normal(size=20)
    assert geometric_mean(logs, np.random.default_rng(1)) == geometric_mean(logs, np.random.default_rng(1))
    assert geometric_mean(logs[: LEAST - 1], np.random.default_rng(1)).low is None


def test_intervals_of_many_questions_need_little_memory(tmp_path: Path) -> None:
    write(tmp_path, [q(n, verifier_seconds=1.0 + n % 7) for n in range(1000)])
    rows = read_rows(tmp_path)
    speed = speed_of("crown", list(zip(rows, reversed(rows), strict=True)), np.random.default_rng(0)).speed
    assert speed is not None
    assert speed.low is not None
    assert speed.low <= speed.ratio == pytest.approx(1.0)

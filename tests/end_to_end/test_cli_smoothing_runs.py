"""`verifkit certify` and `verifkit audit` as a user meets them."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.test_cli import ROOT, ZOO, mistake, run
from verifkit.analysis.smoothing.log import COLUMNS, read_log

SAMPLES = ROOT / "benchmarks" / "suites" / "digits-samples.npz"
NOISY = ZOO / "digits-conv-small-noise-0.25.onnx"
QUICK = ("--option", "n=2000", "--option", "sigma=0.25")
CLAIM = ("--sigma", 0.25, "--n", 2000, "--alpha", 0.001)

HEADER = "\t".join(COLUMNS) + "\n"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "log.tsv"
    done = run("certify", NOISY, SAMPLES, "--verifier", "smoothing", *QUICK, "--out", path)
    assert done.returncode == 0, done
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == f"certify: 10 of 10 inputs in {path}"
    assert "wrong with probability at most 0.001 per input" in done.stdout
    assert "all rows hold at once with probability at least 0.9900" in done.stdout
    return path


def test_a_run_writes_a_log_that_the_audit_finds_clean(log: Path) -> None:
    rows = read_log(log)
    assert [row.idx for row in rows] == list(range(10))
    assert log.read_text().startswith(HEADER)
    assert sum(row.correct for row in rows) >= 8
    assert all(row.correct == (row.predict == row.label) for row in rows)
    done = run("audit", log, *CLAIM, "--radius", 0.25, "--radius", 0)
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert lines[0] == "audit: no findings in 10 rows"
    assert "fits: alpha 0.001: 10 of 10 radii, rounded down, 6 decimals" in lines
    table = [line.split() for line in lines if line[:1].isdigit()]
    assert [row[0] for row in table] == ["0", "0.25"]
    reach = sum(row.correct and row.radius >= Decimal("0.25") for row in rows) / 10
    assert float(table[1][1]) == float(table[1][2]) == reach


def test_a_run_goes_on_where_it_stopped_and_certifies_nothing_twice(log: Path, tmp_path: Path) -> None:
    part = tmp_path / "log.tsv"
    whole = log.read_text().splitlines(keepends=True)
    part.write_text("".join(whole[:4]) + whole[4][:7])
    (tmp_path / "log.tsv.run.json").write_text(Path(f"{log}.run.json").read_text())
    done = run("certify", NOISY, SAMPLES, *QUICK, "--out", part, "--json")
    assert done.returncode == 0, done
    answer = json.loads(done.stdout)
    assert (answer["rows"], answer["stood"], answer["complete"]) == (10, 3, True)
    assert answer["total"] == pytest.approx(0.01)
    columns = [[line.rsplit("\t", 1)[0] for line in text] for text in (whole, part.read_text().splitlines(True))]
    assert columns[0] == columns[1]  # but for the time


def test_the_log_of_another_run_is_left_alone(log: Path) -> None:
    before = log.read_bytes()
    for other in (("--seed", 1), ("--every", 2), ("--option", "alpha=0.01"), ("--simultaneous",)):
        assert "is the log of another run" in mistake("certify", NOISY, SAMPLES, *QUICK, "--out", log, *other)
    assert log.read_bytes() == before
    strange = log.with_name("strange.tsv")
    strange.write_text(HEADER)
    assert "another run" in mistake("certify", NOISY, SAMPLES, *QUICK, "--out", strange)


def test_simultaneous_certificates_share_alpha(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "log.tsv"
    done = run("certify", NOISY, SAMPLES, *QUICK, "--max", 3, "--simultaneous", "--out", out, "--json")
    answer = json.loads(done.stdout)
    assert answer["alpha"] == pytest.approx(0.001 / 3)
    assert answer["total"] <= 0.001 * (1 + 1e-12)
    assert run("audit", out, "--sigma", 0.25, "--n", 2000, "--alpha", answer["alpha"]).returncode == 0


def test_anytime_stops_at_the_radii_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "log.tsv"
    anytime = ("--option", "mode=anytime", "--radius", 0.1, "--radius", 0.02)
    done = run("certify", NOISY, SAMPLES, *anytime, "--every", 5, "--out", out, "--json")
    assert done.returncode == 0, done
    accuracy = json.loads(done.stdout)["accuracy"]
    assert [a["radius"] for a in accuracy] == [0.02, 0.1]
    assert all(0.09 < float(row.radius) < 0.7 for row in read_log(out))


def test_out_of_time_keeps_the_rows(tmp_path: Path) -> None:
    out = tmp_path / "log.tsv"
    done = run("certify", NOISY, SAMPLES, "--option", "n=100000000", "--timeout", 3, "--out", out)
    assert done.returncode == 1, done
    assert done.stdout.splitlines()[0].startswith(("certify: 0 of 10", "timeout"))


def test_faults_are_findings(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    rows = ["0\t1\t1\t0.953\t1\t0:00:15", "1\t1\t-1\t0.0\t0\t0:00:15", "2\t1\t2\t0.922\t0\t0:00:15"]
    path.write_text(HEADER + "\n".join(rows) + "\n")
    claim = ("--sigma", 0.25, "--n", 100_000, "--alpha", 0.001)
    done = run("audit", path, *claim)
    assert done.returncode == 3, done
    assert "1 finding in 3 rows" in done.stdout
    assert "they were rounded to nearest (alpha = 0.001), by up to 0.000136; idx 0" in done.stdout
    answer = json.loads(run("audit", path, *claim, "--json").stdout)
    assert answer["findings"][0]["rows"] == [0]
    assert answer["certified"] == 2


@pytest.mark.parametrize(
    ("text", "claim", "sentence"),
    [
        ("", (0.25, 100, 0.001), "is empty"),
        ("idx\tlabel\n0\t1\n", (0.25, 100, 0.001), "no column predict, radius, correct, time"),
        (HEADER + "0\t1\t1\tfar\t1\t0\n", (0.25, 100, 0.001), "line 2: radius is 'far', not a number"),
        (HEADER + "0\t1\t1\t-0.1\t1\t0\n", (0.25, 100, 0.001), "line 2: radius is -0.1"),
        (HEADER + "0\t1\t1\t0.1\t1\t0\n", (0, 100, 0.001), "sigma must be a positive number, not 0"),
        (HEADER + "0\t1\t1\t0.1\t1\t0\n", (0.25, 0, 0.001), "n must be at least 1, not 0"),
        (HEADER + "0\t1\t1\t0.1\t1\t0\n", (0.25, 100, 1), "alpha must lie strictly between 0 and 1, not 1"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, claim: tuple[float, int, float], sentence: str) -> None:
    path = tmp_path / "log.tsv"
    path.write_text(text)
    sigma, n, alpha = claim
    assert sentence in mistake("audit", path, "--sigma", sigma, "--n", n, "--alpha", alpha)


def test_data_that_do_not_fit_are_mistakes(tmp_path: Path) -> None:
    def asked(*more: object, x: object = None, y: object = None) -> str:
        data = SAMPLES
        if x is not None:
            data = tmp_path / "data.npz"
            np.savez(data, x=x, y=y)
        return mistake("certify", NOISY, data, *QUICK, "--out", tmp_path / "log.tsv", *more)

    good = np.zeros((2, 64), np.float32)
    assert "has shape [63], that is 63 entries, but model" in asked(x=good[:, 1:], y=np.array([0, 1]))
    assert "label of input 1" in asked(x=good, y=np.array([0, 10]))
    assert "no finite float32" in asked(x=np.where(np.eye(2, 64) > 0, np.nan, good), y=np.array([0, 1]))
    assert "holds no inputs" in asked(x=good[:0], y=np.zeros(0, int))
    assert "sigma > 0" in asked("--option", "sigma=0")
    assert "least n that can is 10" in asked("--option", "n=9", "--option", "n0=1")
    assert "least n that can is 14" in asked("--option", "n=13", "--option", "n0=1", "--simultaneous")
    assert "takes smoothing" in mistake("certify", NOISY, SAMPLES, "--verifier", "milp", "--out", tmp_path / "log.tsv")
    assert "whole numbers from 1 on" in asked("--every", 0)
    assert "strictly between 0 and 1" in asked("--rho", 1)
    assert "a number from 0 on" in asked("--radius", -1)
    assert "cannot be written" in mistake("certify", NOISY, SAMPLES, *QUICK, "--out", tmp_path / "no" / "log.tsv")
    assert not (tmp_path / "log.tsv").exists()


def test_equal_inputs_have_draws_of_their_own(tmp_path: Path) -> None:
    """The data-set column takes rows to be independent."""
    x = np.load(SAMPLES)["x"][:1]
    np.savez(tmp_path / "same.npz", x=np.repeat(x, 5, axis=0), y=np.zeros(5, dtype=int))
    done = run("certify", NOISY, tmp_path / "same.npz", *QUICK, "--out", tmp_path / "log.tsv")
    assert done.returncode == 0, done
    assert len({row.radius for row in read_log(tmp_path / "log.tsv")}) > 1


def test_a_log_is_written_by_one_process(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "log.tsv"
    done = run("certify", NOISY, SAMPLES, *QUICK, "--max", 1, "--out", out)
    assert done.returncode == 0, done
    with out.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "by another process" in mistake("certify", NOISY, SAMPLES, *QUICK, "--max", 1, "--out", out)

"""The command line as a user meets it: words, exit status, one clear sentence for each mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.hostile import MARK, install, wait_until_gone
from verifkit.supervise import Answer

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT / "benchmarks" / "zoo"
PROPS = ROOT / "benchmarks" / "suites" / "props"
PUBLIC = Path(os.environ.get("VERIFKIT_VNNCOMP", ROOT.parent / "shared" / "vnncomp"))

MODEL = ZOO / "digits-2x50.onnx"
HOLDING = PROPS / "lead-of-8.vnnlib"
VIOLATED = PROPS / "patch-on-8.vnnlib"


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "verifkit.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload,no-any-return]


def mistake(*arguments: object, **options: object) -> str:
    """Runs a command that must end as the user's mistake, and returns its sentence."""
    done = run(*arguments, **options)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""
    return done.stderr


def test_a_property_that_holds() -> None:
    done = run("verify", MODEL, HOLDING, "--timeout", 60)
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[0] == "unsat"
    assert "guarantee: about the network" in done.stdout
    assert done.stderr == ""


def test_a_property_that_is_violated_shows_its_replayed_witness() -> None:
    done = run("verify", MODEL, VIOLATED)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "sat"
    assert lines[-1].startswith("((X_0 ")
    assert "(Y_9 " in lines[-1]


def test_json_is_one_object_and_nothing_else() -> None:
    done = run("verify", MODEL, VIOLATED, "--json")
    answer = json.loads(done.stdout)
    assert (answer["verdict"], answer["word"]) == ("VIOLATED", "sat")
    assert answer["witness"]["replays"][0]["unsafe"] is True
    assert len(answer["witness"]["x"]) == 64


def test_unknown_says_why_and_what_to_do() -> None:
    done = run("verify", MODEL, HOLDING, "--verifier", "interval")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "unknown"
    assert lines[1].startswith("reason: incomplete - ")
    assert lines[2].startswith("advice: ")


def test_unsupported_names_who_can() -> None:
    done = run("verify", MODEL, HOLDING, "--verifier", "smoothing")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "unknown"
    assert "unsupported" in done.stdout
    assert "milp" in done.stdout


def test_time_out_is_kept_and_is_a_word() -> None:
    start = time.monotonic()
    done = run("verify", MODEL, HOLDING, "--verifier", "milp", "--timeout", "0.001")
    assert done.stdout.splitlines()[0] == "timeout"
    assert done.returncode == 1
    assert time.monotonic() - start < 10


def test_memory_limit_is_a_reason() -> None:
    done = run("verify", MODEL, HOLDING, "--verifier", "milp", "--memory", "0.01")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "unknown"
    assert "memout" in done.stdout


def test_options_reach_the_verifier() -> None:
    assert "no option 'stepz'" in mistake("verify", MODEL, HOLDING, "--verifier", "pgd", "--option", "stepz=3")
    assert "type int" in mistake("verify", MODEL, HOLDING, "--verifier", "pgd", "--option", "steps=many")
    assert "NAME=VALUE" in mistake("verify", MODEL, HOLDING, "--option", "steps")


def test_each_mistake_is_one_sentence(tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("this is no network\n")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(MODEL.read_bytes()[:5000])
    wrong = tmp_path / "wrong.vnnlib"
    wrong.write_text("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0))(assert (<= X_0 1))")
    broken = tmp_path / "broken.vnnlib"
    broken.write_text("(declare-const X_0 Real)\n(assert (<= X_0 1)")
    assert "does not exist" in mistake("verify", tmp_path / "none.onnx", HOLDING)
    assert "text.onnx" in mistake("verify", text, HOLDING)
    assert "cut.onnx" in mistake("verify", cut, HOLDING)
    assert "inputs" in mistake("verify", MODEL, wrong)
    assert "line 2" in mistake("verify", MODEL, broken)
    assert "none.vnnlib" in mistake("verify", MODEL, tmp_path / "none.vnnlib")
    assert "no verifier is called 'crwon'; did you mean 'crown'?" in mistake(
        "verify", MODEL, HOLDING, "--verifier", "crwon"
    )
    assert "must be a positive number" in mistake("verify", MODEL, HOLDING, "--timeout", "-1")
    assert "no such command" in mistake("verfy").lower()
    assert "missing argument" in mistake("verify", MODEL).lower()
    assert "suite" in mistake("bench", tmp_path / "none.toml")
    assert "rows.jsonl" in mistake("report", tmp_path)


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    suite = ROOT / "benchmarks" / "suites" / "quick.toml"
    assert "taken" in mistake("bench", suite, "--out", taken)
    assert "out" in mistake("bench", suite, "--out", taken / "out")


def test_a_seed_or_a_stage_that_makes_no_sense() -> None:
    assert "seed" in mistake("verify", MODEL, HOLDING, "--seed", -1)
    assert "its own stages" in mistake("verify", MODEL, HOLDING, "--option", "stages=pgd+auto")


def test_trace_shows_the_steps_of_a_verifier_that_has_some(tmp_path: Path) -> None:
    file = tmp_path / "steps.txt"
    for _ in range(2):  # the file starts afresh
        done = run("verify", MODEL, VIOLATED, "--verifier", "reluplex", "--trace", file)
        assert done.stdout.startswith("sat"), done
    text = file.read_text()
    assert text.count("unsafe region 7: 64 inputs") == 1
    assert "    1  " in text
    assert "does not show its steps" in mistake("verify", MODEL, VIOLATED, "--verifier", "milp", "--trace", file)
    nowhere = tmp_path / "missing" / "steps.txt"
    assert "cannot be written" in mistake("verify", MODEL, VIOLATED, "--verifier", "reluplex", "--trace", nowhere)


def test_list_prints_the_exact_name_first_and_cuts_nothing() -> None:
    done = run("list", env={**os.environ, "COLUMNS": "20"})
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert names == [
        "ai2", "alpha_crown", "auto", "bab", "crown", "crown_ibp", "dual", "fastlin", "fastlip", "fmn",
        "foolbox_attack", "interval", "lp", "lp_cvxpy", "marabou", "milp", "pgd", "pixeldp", "reluplex", "sdp",
        "smoothing", "smt", "vnncomp_tool", "zonotope",
    ]  # fmt: skip
    assert "…" not in done.stdout


def test_cite_prints_bibtex() -> None:
    assert run("cite", "crown").stdout.startswith("@inproceedings{zhang2018crown,")


HEAVY = ("torch", "scipy.stats", "pandas", "sklearn", "cvxpy", "z3", "matplotlib", "jinja2", "rich")


def test_verify_imports_nothing_heavy() -> None:
    # Python itself lists every import on stderr, those of the process that holds the verifier too.
    done = run("verify", MODEL, HOLDING, env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    loaded = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.stdout.splitlines()[0] == "unsat"
    assert {"verifkit.analysis.bab.phase_search", "onnxruntime"} <= loaded
    assert loaded.isdisjoint(HEAVY), loaded & set(HEAVY)


@pytest.mark.parametrize(
    ("mode", "word", "status"),
    [("quit", "error", 4), ("leave", "error", 4), ("segfault", "error", 4), ("native", "timeout", 1)],
)
def test_a_verifier_that_dies_or_hangs_still_gives_an_answer(mode: str, word: str, status: int, tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, install(tmp_path))), MARK: str(tmp_path)}
    start = time.monotonic()
    options = ["--verifier", "hostile", "--option", f"mode={mode}", "--option", "seconds=60", "--timeout", 2]
    done = run("verify", MODEL, HOLDING, *options, env=environ)
    assert time.monotonic() - start < 6
    assert done.stdout.splitlines()[0] == word
    assert done.returncode == status
    assert not wait_until_gone(str(tmp_path), 2.0)


def test_a_plugin_that_cannot_be_loaded_takes_nothing_from_the_others(tmp_path: Path) -> None:
    package = tmp_path / "broken-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[verifkit.verifiers]\nbroken = broken_plugin:Broken\n")
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('boom at import')\n")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    listed = run("list", env=environ)
    assert listed.returncode == 0
    assert "boom at import" in listed.stdout
    assert run("verify", MODEL, HOLDING, "--verifier", "smoothing", env=environ).stdout.startswith("unknown\n")
    assert "boom at import" in mistake("verify", MODEL, HOLDING, "--verifier", "broken", env=environ)


def test_a_reader_that_has_gone_does_not_change_the_exit_status() -> None:
    command = f"{sys.executable} -m verifkit.cli list | true; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0


def test_limits_that_are_no_limits_are_mistakes() -> None:
    for value in ("nan", "inf", "1e300", "-1"):
        assert "--memory takes" in mistake("verify", MODEL, HOLDING, "--memory", value)
    assert "type int" in mistake("verify", MODEL, HOLDING, "--verifier", "pgd", "--option", "starts=inf")


def test_two_regions_name_both_deciders(tmp_path: Path) -> None:
    single = tmp_path / "two.vnnlib"
    pixels = "".join(f"(declare-const X_{i} Real)" for i in range(64)) + "".join(
        f"(declare-const Y_{j} Real)" for j in range(10)
    )
    zero = " ".join(f"(<= X_{i} 0) (>= X_{i} 0)" for i in range(64))
    one = " ".join(f"(<= X_{i} 0.5) (>= X_{i} 0.4)" for i in range(64))
    single.write_text(f"{pixels}(assert (or (and {zero} (>= Y_0 100)) (and {one} (>= Y_0 7))))")
    done = run("verify", MODEL, single, "--json")
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "HOLDS"
    assert "bab" in answer["detail"]
    assert any(name.startswith("case 1: ") for name in answer["statistics"])


def test_bench_and_report_on_a_tiny_suite(tmp_path: Path) -> None:
    suite = tmp_path / "tiny.toml"
    suite.write_text(
        f'name = "tiny"\n[[verifiers]]\nname = "crown"\n[[verifiers]]\nname = "pgd"\n'
        f'[[vnnlib]]\nmodel = "{MODEL}"\nproperty = "{VIOLATED}"\nexpected = "sat"\n'
    )
    done = run("bench", suite, "--out", tmp_path / "out", "--jobs", 1)
    assert done.returncode == 0, done.stderr
    assert "report:" in done.stdout
    assert (tmp_path / "out" / "report.html").exists()
    again = run("bench", suite, "--out", tmp_path / "out", "--jobs", 1)
    assert "0 run now, 2 stood already" in again.stderr
    assert run("report", tmp_path / "out").returncode == 0


def test_a_contradiction_sets_the_exit_status(tmp_path: Path) -> None:
    suite = tmp_path / "lie.toml"
    suite.write_text(
        f'name = "lie"\n[[verifiers]]\nname = "pgd"\n'
        f'[[vnnlib]]\nmodel = "{MODEL}"\nproperty = "{VIOLATED}"\nexpected = "unsat"\n'
    )
    done = run("bench", suite, "--out", tmp_path / "out", "--jobs", 1)
    rows = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    forged = json.loads(rows[0])
    forged |= {"key": "0" * 64, "verifier": "liar", "verdict": "HOLDS", "word": "unsat", "witness": None}
    forged |= {"kind": "complete", "reason": None}
    (tmp_path / "out" / "rows.jsonl").write_text("\n".join([*rows, json.dumps(forged)]) + "\n")
    assert run("report", tmp_path / "out").returncode == 3
    assert done.returncode in (0, 3)


needs_public = pytest.mark.skipif(not PUBLIC.exists(), reason="no public instances: set VERIFKIT_VNNCOMP")


@needs_public
@pytest.mark.parametrize(
    ("model", "prop", "word"),
    [
        ("test_nano", "test_nano", "unsat"),
        ("test_tiny", "test_tiny", "unsat"),
        ("test_small", "test_small", "unsat"),
        ("test_sat", "test_prop", "sat"),
        ("test_unsat", "test_prop", "unsat"),
    ],
)
def test_the_public_sanity_checks(model: str, prop: str, word: str) -> None:
    done = run("verify", PUBLIC / "test" / f"{model}.onnx", PUBLIC / "test" / f"{prop}.vnnlib", "--timeout", 60)
    assert done.stdout.splitlines()[0] == word


ACAS = [
    ("2_7", 2), ("1_4", 2), ("3_4", 2), ("4_1", 2), ("5_4", 2),
    ("2_4", 3), ("3_7", 3), ("5_4", 4), ("4_7", 4), ("2_1", 4),
]  # fmt: skip


@needs_public
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_acas_xu_within_a_minute_each() -> None:
    expected = {}
    for line in (PUBLIC / "expected.csv").read_text().splitlines()[1:]:
        _, onnx, vnnlib, _, word, *_ = line.split(",")
        expected[Path(onnx).name, Path(vnnlib).name] = word
    decided = 0
    for network, prop in ACAS:
        onnx, vnnlib = f"ACASXU_run2a_{network}_batch_2000.onnx", f"prop_{prop}.vnnlib"
        folder = PUBLIC / "acasxu"
        done = run("verify", folder / "onnx" / onnx, folder / "vnnlib" / vnnlib, "--timeout", 60)
        word = done.stdout.splitlines()[0]
        if word in ("sat", "unsat"):
            decided += 1
            assert word == expected[onnx, vnnlib], (network, prop)
    assert decided >= 8


def leaves_a_child_that_holds_the_pipe() -> Answer:
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)


@pytest.mark.skipif(sys.platform != "linux", reason="forked verifiers need Linux")
def test_a_child_that_outlives_its_verifier_does_not_hold_the_answer_up() -> None:
    # In a process of its own, so that pytest's other children are none of its business.
    program = (
        "import time\n"
        "from tests.end_to_end.test_cli import leaves_a_child_that_holds_the_pipe as work\n"
        "from verifkit.budget import Budget\n"
        "from verifkit.supervise import Stopped, supervised\n"
        "try:\n    supervised(work, Budget())\nexcept Stopped as stop:\n    assert stop.reason == 'error'\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=30, check=True)

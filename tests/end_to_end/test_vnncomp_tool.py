"""Tools of the competition behind the interface: what they may do wrong, and that no word is taken for more."""

from __future__ import annotations

import time
import uuid
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.fake_tools import folding, says, write_tool
from tests.end_to_end.hostile import MARK, wait_until_gone
from tests.end_to_end.test_cli import HOLDING, MODEL, VIOLATED, mistake, run
from verifiers.external.vnncomp_tool import handed_on
from verifkit import registry
from verifkit.bench.rows.store import read_rows
from verifkit.budget import Budget
from verifkit.errors import OptionError
from verifkit.input_sets import Box, LpBall
from verifkit.io.vnnlib import parse_property
from verifkit.model import Model
from verifkit.network import dense_network
from verifkit.properties import Constraint, Polyhedron, Property, misclassified
from verifkit.query import Query, robustness_family
from verifkit.result import Arithmetic, Reason, Result, Verdict
from verifkit.testing import checks_capabilities, checks_contract
from verifkit.testing.conformance import checks_for

FOLDING = folding()
F = Fraction


def query(high: str = "1", bound: str = "0.5", *, strict: bool = False) -> Query:
    """Inputs in [0, high] x [0, 1]; unsafe: y_0 >= bound, or > where strict."""
    row = Constraint(outputs=((0, F(-1)),), bound=-F(bound), strict=strict)
    region = Box((F(0), F(0)), (F(high), F(1)))
    return Query(FOLDING, Property(region, (Polyhedron((row,)),), 1))


def ask(folder: Path, asked: Query | None = None, seconds: float | None = 20.0, **options: str) -> Result:
    tool = registry.create("vnncomp_tool", {"tool_dir": str(folder), **options})
    return tool.verify(asked or query(), budget=Budget(seconds=seconds))


def test_unsat_is_the_tools_word(tmp_path: Path) -> None:
    result = ask(write_tool(tmp_path / "oracle", says("unsat")), query("0.25"))
    assert (result.verdict, result.word) == (Verdict.HOLDS, "unsat")
    assert result.guarantee is not None
    assert (result.guarantee.arithmetic, result.guarantee.assumptions) == (Arithmetic.SOLVER, ("the word of oracle",))
    assert result.statistics["tool"] == "oracle"


def test_a_folder_with_the_usual_name_is_called_after_its_parent(tmp_path: Path) -> None:
    result = ask(write_tool(tmp_path / "nnenum" / "vnncomp_scripts", says("holds")), query("0.25"))
    assert result.detail == "nnenum says unsat"


@pytest.mark.parametrize(
    "lines",
    [
        ("sat", "((X_0 1.0) (X_1 0.0) (Y_0 77.0))"),
        ("violated", "((X_0 1e0)", "(X_1 0E+5))"),
        ("sat", "((X_0 0.75) (X_1 (/ 1 4)))"),
        ("sat", "((X_0 1.00001) (X_1 -1e-9))"),  # outside by a tolerance: moved into the box
    ],
)
def test_sat_is_a_replayed_witness(tmp_path: Path, lines: tuple[str, ...]) -> None:
    result = ask(write_tool(tmp_path, says(*lines)))
    assert result.verdict is Verdict.VIOLATED, result.detail
    assert result.witness is not None
    assert result.witness.output[0] >= 0.5
    assert query().prop.input_set.contains(result.witness.x)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("sat",), "there is none"),
        (("sat", "((X_0 1.0) (Y_0 1.0))"), "it has no X_1"),
        (("sat", "((X_0 0.5) (X_1 0.5) (Y_0 99.0))"), "did not replay"),
        (("sat", "((X_0 1e300) (X_1 1e300))"), "did not replay"),
    ],
)
def test_sat_without_a_witness_that_is_one(tmp_path: Path, lines: tuple[str, ...], told: str) -> None:
    result = ask(write_tool(tmp_path, says(*lines)))
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.UNCONFIRMED)
    assert told in result.detail


@pytest.mark.parametrize(
    ("script", "reason", "told"),
    [
        (says("unknown"), Reason.INCOMPLETE, "says unknown"),
        (says("timeout"), Reason.TIMEOUT, "says timeout"),
        (f"echo no GPU; {says('error')}", Reason.ERROR, "says error; its last lines: no GPU"),
        ("echo one; echo two >&2; exit 7", Reason.ERROR, "exit status 7; its last lines: one | two"),
        (f"{says('unsat')}; exit 1", Reason.ERROR, "exit status 1; it printed nothing"),
        (f"{says('unsat')}; kill -SEGV $$", Reason.ERROR, "signal 11"),
        ("echo done", Reason.ERROR, "wrote no result; its last lines: done"),
        (': > "$5"', Reason.ERROR, "wrote no result"),
        ('mkdir "$5"', Reason.ERROR, "wrote no result"),
        ('mkfifo "$5"', Reason.ERROR, "wrote no result"),
        ('head -c 10000 /dev/zero > "$5"', Reason.ERROR, "result is none"),
        (says("UNSAT, I think"), Reason.ERROR, "result is none: 'UNSAT, I think'"),
        (f"yes '{'x' * 80}' | head -c 20000000; exit 3", Reason.ERROR, "exit status 3; its last lines: "),
    ],
)
def test_whatever_is_no_answer_is_unknown(tmp_path: Path, script: str, reason: Reason, told: str) -> None:
    result = ask(write_tool(tmp_path, script), query("0.25"))
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, reason)
    assert told in result.detail
    assert len(result.detail) < 600
    assert "\n" not in result.detail


def test_scripts_that_cannot_be_run(tmp_path: Path) -> None:
    tool = write_tool(tmp_path / "tool", says("unsat"), prepare="echo no licence; exit 2")
    result = ask(tool, query("0.25"))
    assert result.reason is Reason.ERROR
    assert "prepare_instance.sh ended with exit status 2; its last lines: no licence" in result.detail
    write_tool(tool, says("unsat"))
    (tool / "run_instance.sh").chmod(0o644)
    assert "run_instance.sh cannot be started: it is not executable: run `chmod +x" in ask(tool).detail
    (tool / "run_instance.sh").unlink()
    assert "run_instance.sh cannot be started: there is no such file" in ask(tool).detail
    (tool / "prepare_instance.sh").write_text("#!/no/such/interpreter\n")
    assert "prepare_instance.sh cannot be started: No such file" in ask(tool).detail


def test_what_a_tool_is_told(tmp_path: Path) -> None:
    copy = f'cp "$3" "$4" . && echo "$1 $2 $6 $(pwd)" > told; {says("unknown")}'
    tool = write_tool(tmp_path / "tool", copy)
    asked = query("0.1", strict=True)
    ask(tool, asked, category="acasxu")
    assert (tool / "told").read_text().split() == ["v1", "acasxu", "19", str(tool)]
    assert (tool / "model.onnx").read_bytes() == FOLDING.onnx_bytes
    told = parse_property((tool / "property.vnnlib").read_text())
    assert told == handed_on(asked)
    assert told.input_set == Box((F(0), F(0)), (F(float(np.float32(0.1))), F(1)))  # 0.1 in float32 is more than 1/10
    assert not told.unsafe[0].constraints[0].strict
    ask(tool, asked, seconds=None)
    assert (tool / "told").read_text().split()[2] == "1000000"


def test_every_box_of_a_property_is_asked(tmp_path: Path) -> None:
    first, second = Box((F(0), F(0)), (F(1, 4), F(1))), Box((F(3, 4), F(0)), (F(1), F(1)))
    row = Constraint(outputs=((0, F(-1)),), bound=F(-1, 2))
    prop = Property(query().prop.input_set, (Polyhedron((row,), first), Polyhedron((row,), second)), 1)
    knows = f'if grep -q "X_0 0.25" "$4"; then {says("unsat")}; else {says("unknown")}; fi'
    assert ask(write_tool(tmp_path / "one", knows), Query(FOLDING, prop)).reason is Reason.INCOMPLETE
    assert ask(write_tool(tmp_path / "all", says("unsat")), Query(FOLDING, prop)).verdict is Verdict.HOLDS


def test_what_no_tool_is_asked(tmp_path: Path) -> None:
    tool = write_tool(tmp_path, says("unsat"))
    everything = Query(FOLDING, Property(query().prop.input_set, (Polyhedron(()),), 1))
    assert ask(tool, everything).verdict is Verdict.VIOLATED
    round_one = LpBall((F(0), F(0)), F(1, 4), "2")
    assert ask(tool, Query(FOLDING, Property(round_one, query().prop.unsafe, 1))).reason is Reason.UNSUPPORTED
    mixed = Constraint(outputs=((0, F(1)),), bound=F(0), inputs=((0, F(1)),))
    coupled = Query(FOLDING, Property(query().prop.input_set, (Polyhedron((mixed,)),), 1))
    assert ask(tool, coupled).reason is Reason.UNSUPPORTED
    black = Model("black", (2,), (1,), lambda x: x[:, :1], "none")
    assert "no ONNX form" in ask(tool, Query(black, query().prop)).detail


HANGS = 'trap "" TERM INT HUP; (trap "" TERM; sleep 600) & setsid sleep 600 & (setsid sleep 600 &) ; sleep 600'


@pytest.mark.parametrize("where", ["prepare", "run"])
def test_a_hanging_tool_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    hangs = f"{says('unsat')}; {HANGS}" if where == "run" else HANGS
    tool = write_tool(tmp_path, **{"run": says("unsat"), where: hangs})
    start = time.monotonic()
    result = ask(tool, query("0.25"), seconds=1.0)
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.TIMEOUT)
    assert time.monotonic() - start < 3.0
    assert not wait_until_gone(mark, 1.0)


def test_a_tool_that_ends_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    tool = write_tool(tmp_path, f"(setsid sleep 600 &); sleep 600 & {says('unsat')}")
    assert ask(tool, query("0.25"), seconds=None).verdict is Verdict.HOLDS
    assert not wait_until_gone(mark, 1.0)


def test_a_killed_question_takes_its_tool_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    write_tool(tmp_path / "tool", HANGS)
    start = time.monotonic()
    done = run("verify", MODEL, HOLDING, "--tool-dir", tmp_path / "tool", "--memory", "0.02")
    assert done.stdout.startswith("unknown\nreason: memout")
    assert time.monotonic() - start < 60
    assert not wait_until_gone(mark, 3.0)


def test_a_radius_by_a_tool(tmp_path: Path) -> None:
    """A tool that knows the answer: unsafe as soon as the ball reaches x_0 >= 1/2."""
    high = "$(grep '<= X_0' \"$4\" | tr -dc '0-9.\\n' | cut -c2-)"
    knows = f'if [ "$(echo "{high} > 0.5" | awk \'{{print ($1 > $3)}}\')" = 1 ]; then {says("unknown")}; else {says("unsat")}; fi'  # noqa: E501
    tool = registry.create("vnncomp_tool", {"tool_dir": str(write_tool(tmp_path, knows))})
    model = folding_classifier()
    radius = tool.radius(robustness_family(model, [0.25, 0.0], 1, clip=(0, 1)), budget=Budget(seconds=30))
    assert radius.certified is not None
    assert 0.2 < radius.certified.value <= 0.25


def folding_classifier() -> Model:
    """Class 1 while x_0 < 1/2."""
    from verifkit.io.onnx import model_from_network

    weights = [np.eye(2), np.array([[1.0, 0.0], [0.0, 0.0]])]
    return model_from_network(dense_network(weights, [np.zeros(2), np.array([0.0, 0.5])]), "classifier")


class TestCommandLine:
    def test_tool_dir_stands_for_the_verifier(self, tmp_path: Path) -> None:
        write_tool(tmp_path / "tool", says("unsat"))
        done = run("verify", MODEL, HOLDING, "--tool-dir", tmp_path / "tool", "--timeout", 30)
        assert done.returncode == 0
        assert done.stdout.splitlines()[:2] == ["unsat", "detail: tool says unsat"]
        assert "solver arithmetic; assumes the word of tool" in done.stdout
        assert done.stderr == ""

    def test_mistakes(self, tmp_path: Path) -> None:
        write_tool(tmp_path / "tool", says("unsat"))
        without = mistake("verify", MODEL, HOLDING, "--verifier", "vnncomp_tool")
        assert "needs the option 'tool_dir': name the folder" in without
        assert "is no folder" in mistake("verify", MODEL, HOLDING, "--tool-dir", tmp_path / "none")
        two = mistake("verify", MODEL, HOLDING, "--tool-dir", tmp_path / "tool", "--verifier", "milp")
        assert "leave one of them out" in two
        suite = tmp_path / "suite.toml"
        suite.write_text(f"[[vnnlib]]\nmodel = '{MODEL}'\nproperty = '{HOLDING}'\n")
        assert "needs the option" in mistake("bench", suite, "--verifiers", "vnncomp_tool", "--out", tmp_path / "o")

    def test_it_is_listed_and_never_proposed(self) -> None:
        (line,) = [line for line in run("list").stdout.splitlines() if line.startswith("vnncomp_tool ")]
        assert "option tool_dir" in line
        unsupported = run("verify", MODEL, HOLDING, "--verifier", "smoothing").stdout
        assert "milp" in unsupported
        assert "vnncomp_tool" not in unsupported
        (line,) = [
            line for line in run("supports", MODEL, HOLDING).stdout.splitlines() if line.startswith("vnncomp_tool ")
        ]
        assert line.split()[1] == "no"
        assert "needs the option 'tool_dir'; name the folder" in line

    def test_a_false_unsat_is_found_by_the_audit(self, tmp_path: Path) -> None:
        liar, honest = write_tool(tmp_path / "liar", says("unsat")), write_tool(tmp_path / "honest", says("unknown"))
        suite = tmp_path / "suite.toml"
        suite.write_text(
            f"timeout = 30\n[[verifiers]]\nname = 'pgd'\n"
            f"[[vnnlib]]\nmodel = '{MODEL}'\nproperty = '{VIOLATED}'\nverifiers = ['pgd']\n"
        )
        arguments = ["bench", suite, "--out", tmp_path / "out", "--tool-dir", liar, "--tool-dir", honest]
        done = run(*arguments)
        assert done.returncode == 3, done
        assert "soundness violation" in done.stderr
        rows = {row.options.get("tool_dir", "pgd"): row.word for row in read_rows(tmp_path / "out")}
        assert rows == {str(liar): "unsat", str(honest): "unknown", "pgd": "sat"}
        assert "0 run now, 3 stood already" in run(*arguments).stderr
        more = run(*arguments[:2], "--out", tmp_path / "more", "--verifiers", "crown", "--tool-dir", honest)
        assert "2 rows: 2 run now" in more.stderr


def test_a_radius_on_the_command_line(tmp_path: Path) -> None:
    write_tool(tmp_path / "tool", says("unsat"))
    np.save(tmp_path / "x.npy", np.zeros(64, dtype=np.float32))
    done = run("radius", MODEL, "--input", tmp_path / "x.npy", "--clip", 0, 0.001, "--tool-dir", tmp_path / "tool")
    assert done.returncode == 0, done
    assert "the word of tool" in done.stdout or "certified" in done.stdout


def test_a_conformance_run_needs_a_tool() -> None:
    with pytest.raises(OptionError, match="needs the option 'tool_dir'"):
        checks_for(registry.create("vnncomp_tool"))


def test_the_suite_of_conformance_with_a_tool_that_knows_nothing(tmp_path: Path) -> None:
    """The interface's promises: options, silence, repeatability, budget, refusals."""
    tool = registry.create("vnncomp_tool", {"tool_dir": str(write_tool(tmp_path, says("unknown")))})
    found = {check.name: check for check in checks_for(tool, queries=4)}
    for name in (
        *(rule.name for rule in (*checks_capabilities.RULES, *checks_contract.RULES)),
        "witnesses_are_violations",
    ):
        found[name]()


def test_the_query_handed_on_is_no_easier() -> None:
    rows = misclassified(0, 2)
    asked = Query(folding_classifier(), Property(Box((F(1, 10),) * 2, (F(1, 3),) * 2), rows, 2))
    region = handed_on(asked).input_set
    assert isinstance(region, Box)
    assert all(low <= F(1, 10) and high >= F(1, 3) for low, high in zip(region.lower, region.upper, strict=True))

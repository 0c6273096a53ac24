"""`verifkit doctor`: what it says of this installation, and that wrong, broken and slow certifiers are named."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.end_to_end.test_cli import run
from verifkit import registry
from verifkit.bench.running.self_check import self_check
from verifkit.cli import cli
from verifkit.cli.doctor import Certifier, Diagnosis, Package

doctor = importlib.import_module("verifkit.cli.doctor")  # the package names the command so

PLUGIN = '''
import os, time
from dataclasses import dataclass
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.functions import Relu
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason
from verifkit.verifier import Verifier

CAPABILITIES = Capabilities(
    kinds={"inf": Kind.COMPLETE}, activations=frozenset({Relu}), paper=Paper("p", "A", "T", "V", 2026)
)

@dataclass(frozen=True, kw_only=True)
class Liar(Verifier):
    """Says that everything holds."""
    name = "liar"
    capabilities = CAPABILITIES
    def _decide(self, query, clock, rng):
        return Outcome.holds(Guarantee(arithmetic=Arithmetic.FLOAT), None)

@dataclass(frozen=True, kw_only=True)
class Crasher(Liar):
    """Ends its process."""
    name = "crasher"
    def _decide(self, query, clock, rng):
        os.abort()

@dataclass(frozen=True, kw_only=True)
class Raiser(Liar):
    """Breaks down."""
    name = "raiser"
    def _decide(self, query, clock, rng):
        raise ZeroDivisionError("no pivot")

@dataclass(frozen=True, kw_only=True)
class Shy(Liar):
    """Decides nothing, though it says that it is complete."""
    name = "shy"
    def _decide(self, query, clock, rng):
        return Outcome.unknown(Reason.INCOMPLETE, "no idea")

@dataclass(frozen=True, kw_only=True)
class Sleeper(Liar):
    """Takes its time."""
    name = "sleeper"
    def _decide(self, query, clock, rng):
        time.sleep(600)
'''
NAMES = ("liar", "crasher", "raiser", "shy", "sleeper")


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    info = tmp_path / "bad-1.0.dist-info"
    info.mkdir()
    (tmp_path / "bad_verifiers.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    entries = "\n".join(f"{name} = bad_verifiers:{name.title()}" for name in NAMES)
    (info / "entry_points.txt").write_text(f"[verifkit.verifiers]\n{entries}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("bad_verifiers", None)
    registry._entry_points.cache_clear()
    yield
    registry._entry_points.cache_clear()
    registry.verifier_class.cache_clear()


def test_what_it_says_of_this_installation() -> None:
    done = run("doctor")
    assert done.returncode == 0, done
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("all is well: ")
    facts = dict(line.split(": ", 1) for line in lines[1 : lines.index("")])
    assert set(facts) == {
        "verifkit",
        "python",
        "platform",
        "cores",
        "threads",
        "workers start by",
        "memory",
        "gurobi",
    }
    (tool,) = [line for line in lines if line.startswith("vnncomp_tool ")]
    assert tool.split()[1] == "no"
    assert "needs the option 'tool_dir'" in tool
    (numpy,) = [line for line in lines if line.startswith("numpy ")]
    assert numpy.split()[2] == "-"
    for name in ("crown", "pgd", "bab"):
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert line.split()[1:3] == ["yes", "ok"]


def test_those_that_answer_wrongly_are_named(plugins: None) -> None:
    found = {checked.name: checked for checked in self_check([*NAMES, "crown", "milp"], 40.0)}
    assert list(found) == [*NAMES, "crown", "milp"]
    states = {name: checked.state for name, checked in found.items()}
    assert states == {
        "liar": "wrong",
        "crasher": "failed",
        "raiser": "failed",
        "shy": "failed",
        "sleeper": "not answered in time",
        "crown": "ok",
        "milp": "ok",
    }
    assert found["liar"].detail == "it says HOLDS of a question that is violated"
    assert "SIGABRT" in found["crasher"].detail
    assert "ZeroDivisionError: no pivot" in found["raiser"].detail
    assert "UNKNOWN (incomplete: no idea) of a question that" in found["shy"].detail
    assert [name for name, checked in found.items() if checked.bad] == ["liar", "crasher", "raiser", "shy"]


def diagnosis(*certifiers: Certifier) -> Diagnosis:
    return Diagnosis({"python": "x"}, (Package("z3-solver", "smt", ">=4", None),), certifiers)


@pytest.mark.parametrize(
    ("certifiers", "status", "summary"),
    [
        ((Certifier("a", "", "ok"), Certifier("b", "needs z3")), 0, "all is well: 1 of 2 certifiers usable, 1 checked"),
        ((Certifier("a", "", "not answered in time"),), 0, "1 usable, 0 checked; not answered in time: a"),
        ((Certifier("a", "", "wrong", bad=True), Certifier("b", "", "ok")), 4, "something is wrong with a"),
    ],
)
def test_its_status(
    monkeypatch: pytest.MonkeyPatch, certifiers: tuple[Certifier, ...], status: int, summary: str
) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda: diagnosis(*certifiers))
    text = CliRunner().invoke(cli, ["doctor"])
    assert text.exit_code == status
    first = text.output.splitlines()[0]
    assert first.replace("certifiers ", "").replace("1 of 1", "1").endswith(summary.replace("certifiers ", ""))
    assert "z3-solver  missing  smt    pip install 'verifkit[smt]'" in text.output
    told = CliRunner().invoke(cli, ["doctor", "--json"])
    assert told.exit_code == status
    values = json.loads(told.output)
    assert values["well"] is (status == 0)
    assert values["packages"][0]["version"] is None
    assert [c["name"] for c in values["certifiers"]] == [c.name for c in certifiers]


def test_packages_come_from_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [
        "numpy>=2.1",
        'no-such-package>=4.13; extra == "smt"',
        'verifkit[smt]; extra == "cvc5"',
        'verifkit[torch,smt]; extra == "all"',
        'numpy>=1; extra == "torch"',
        'no-such-solver>=2.0; python_version < "3.12" and extra == "marabou"',
    ]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: wanted)
    numpy, missing, old = doctor._packages()
    assert (numpy.name, numpy.extra, numpy.advice) == ("numpy", "-", "")
    assert (missing.version, missing.extra, missing.wanted) == (None, "smt", ">=4.13")
    assert missing.advice == "pip install 'verifkit[smt]'"
    assert old.advice == "pip install 'verifkit[marabou]', where python_version < \"3.12\""


def test_what_a_certifier_lacks(plugins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._lacks("crown") == ""
    monkeypatch.setattr("verifkit.capabilities._installed", lambda module: False)
    assert doctor._lacks("smt") == "needs z3: pip install 'verifkit[smt]'"
    (tmp_path / "bad_verifiers.py").write_text("import no_such_module\n")
    assert doctor._lacks("liar").startswith("cannot be loaded: verifier 'liar'")
    assert doctor._certifier("liar", doctor._lacks("liar"), None).bad


def test_a_broken_licence_is_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("gurobipy")
    (tmp_path / "gurobi.lic").write_text("nothing\n")
    monkeypatch.setenv("GRB_LICENSE_FILE", str(tmp_path / "gurobi.lic"))
    told = doctor._gurobi()
    assert "licence" in told
    assert "GRB_LICENSE_FILE" in told
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    assert "cannot be used: it ended without a word" in doctor._gurobi()

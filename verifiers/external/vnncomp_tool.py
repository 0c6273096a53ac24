"""Any tool that has the scripts of the competition VNN-COMP: alpha-beta-CROWN, nnenum, NeuralSAT, this project itself.

Paper: Brix, Müller, Bak, Johnson, Liu, "First three years of the international verification of neural networks
competition (VNN-COMP)", International Journal on Software Tools for Technology Transfer 25, 2023.
The tool gets the model's own ONNX bytes and the property over the effective box as VNN-LIB 1.0; strict rows are written
closed, which makes the unsafe set larger and so only HOLDS harder. `prepare_instance.sh`, then `run_instance.sh` run
within the time; what they have started is ended. A counterexample counts once it is replayed; the tool's own outputs
are passed over.
Guarantee: HOLDS is the tool's word (arithmetic `solver`), about the network, and says whose.
"""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from verifkit.analysis.region import member
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import OptionError
from verifkit.input_sets import Box
from verifkit.io.vnncomp_results import ToolAnswer, read_results
from verifkit.io.vnnlib import write_property
from verifkit.properties import Polyhedron, Property
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason
from verifkit.solvers.script_process import Ended, run_script
from verifkit.verifier import Verifier

PREPARE, RUN = "prepare_instance.sh", "run_instance.sh"
VERSION = "v1"

NO_LIMIT = 1_000_000
"""Seconds that a tool is told where there is no limit: its script must be told some."""

LARGEST = 2**27
"""Bytes of a results file that are read."""

USUAL = ("vnncomp_scripts", "scripts")
"""What the folder of the scripts is mostly called inside a tool's own: the tool is then named after the latter."""


@dataclass(frozen=True, kw_only=True)
class VnncompTool(Verifier):
    """tool_dir: the folder with the tool's scripts, already installed. category: the name of the benchmark that they
    are told; some tools choose their settings by it.
    """

    tool_dir: str = ""
    category: str = "test"

    name: ClassVar[str] = "vnncomp_tool"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.COMPLETE},
        operators=None,
        file=True,
        required={"tool_dir": "name the folder of the tool's VNN-COMP scripts, as in `--tool-dir DIR`"},
        paper=Paper(
            "brix2023vnncomp",
            "Brix, Christopher and Müller, Mark Niklas and Bak, Stanley and Johnson, Taylor T. and Liu, Changliu",
            "First three years of the international verification of neural networks competition (VNN-COMP)",
            "STTT",
            2023,
        ),
    )

    def __post_init__(self) -> None:
        if self.tool_dir and not Path(self.tool_dir).is_dir():
            raise OptionError(f"vnncomp_tool's tool_dir '{self.tool_dir}' is no folder: name the one with {RUN}")

    @property
    def tool(self) -> str:
        """What the tool is called: its folder's name."""
        folder = Path(self.tool_dir).resolve()
        return folder.parent.name if folder.name in USUAL and folder.parent.name else folder.name

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        if any(not disjunct.constraints for disjunct in query.prop.unsafe):  # no tool reads `true`
            return Outcome.violated(member(query))
        assert query.model.onnx_bytes is not None
        with tempfile.TemporaryDirectory(prefix="verifkit-", ignore_cleanup_errors=True) as folder:
            model, spec, results = (Path(folder, name) for name in ("model.onnx", "property.vnnlib", "results.txt"))
            try:
                model.write_bytes(query.model.onnx_bytes)
                spec.write_text(write_property(handed_on(query)), encoding="utf-8")
            except OSError as error:
                return Outcome.unknown(Reason.ERROR, f"the temporary folder cannot be written: {error.strerror}")
            statistics: dict[str, float | int | str] = {"tool": self.tool}
            for script, more in ((PREPARE, False), (RUN, True)):
                clock.check()
                started = clock.elapsed
                told = [str(results), _seconds(clock)] if more else []
                ended = self._run(script, [str(model), str(spec), *told], clock)
                statistics[f"{script.partition('_')[0]} seconds"] = round(clock.elapsed - started, 6)
                failure = self._failure(script, ended)
                if failure is not None:
                    return Outcome.unknown(*failure, statistics=statistics)
            return self._concluded(_answer(results, query.model.n_inputs), ended, statistics)

    def _run(self, script: str, arguments: list[str], clock: Clock) -> Ended:
        folder = Path(self.tool_dir).resolve()
        path = folder / script
        if not path.is_file():
            return Ended("start", output="there is no such file")
        if not os.access(path, os.X_OK):
            return Ended("start", output=f"it is not executable: run `chmod +x {script}` there")
        return run_script([str(path), VERSION, self.category, *arguments], folder, clock)

    def _failure(self, script: str, ended: Ended) -> tuple[Reason, str] | None:
        """Why a script's end is no answer; None where it came to its own."""
        if ended.how == "timeout":
            return Reason.TIMEOUT, f"{self.tool} was stopped in {script}: it did not keep its time"
        if ended.how == "start":
            return Reason.ERROR, f"{self.tool}'s {script} cannot be started: {ended.output}"
        if ended.how == "lost":
            return Reason.ERROR, f"the process that watched {self.tool}'s {script} has ended"
        if ended.status != 0:
            how = f"exit status {ended.status}" if ended.status > 0 else f"signal {-ended.status}"
            return Reason.ERROR, f"{self.tool}'s {script} ended with {how}{_words(ended)}"
        return None

    def _concluded(self, answer: ToolAnswer | None, ended: Ended, statistics: dict[str, float | int | str]) -> Outcome:
        """The outcome of what stands in the results file."""
        if answer is None or not answer.first:
            what = f"{self.tool}'s {RUN} wrote no result{_words(ended)}"
            return Outcome.unknown(Reason.ERROR, what, statistics=statistics)
        if answer.word is None:
            what = f"{self.tool}'s result is none: {answer.first[:60]!r}{_words(ended)}"
            return Outcome.unknown(Reason.ERROR, what, statistics=statistics)
        says = f"{self.tool} says {answer.word}"
        if answer.word == "unsat":
            proof = Guarantee(arithmetic=Arithmetic.SOLVER, assumptions=(f"the word of {self.tool}",))
            return Outcome.holds(proof, None, detail=says, statistics=statistics)
        if answer.word == "sat" and answer.inputs is not None:
            return Outcome.violated(answer.inputs, detail=says, statistics=statistics)
        if answer.word == "sat":
            what = f"{says}, but its counterexample cannot be read: {answer.problem}"
            return Outcome.unknown(Reason.UNCONFIRMED, what, statistics=statistics)
        reasons = {"timeout": Reason.TIMEOUT, "error": Reason.ERROR}
        words = _words(ended) if answer.word == "error" else ""
        return Outcome.unknown(reasons.get(answer.word, Reason.INCOMPLETE), says + words, statistics=statistics)


def handed_on(query: Query) -> Property:
    """The property that a tool is asked: over the effective box, its strict rows closed. If it holds, so does ours."""
    assert isinstance(query.prop.input_set, Box)
    lower, upper = query.prop.input_set.floats(query.model.dtype)
    unsafe = tuple(
        Polyhedron(tuple(replace(row, strict=False) for row in disjunct.constraints)) for disjunct in query.prop.unsafe
    )
    return Property(Box(tuple(lower.tolist()), tuple(upper.tolist())), unsafe, query.prop.n_outputs)


def _seconds(clock: Clock) -> str:
    """The time limit that a tool is told: whole seconds, since many scripts reckon in the shell."""
    return str(NO_LIMIT if math.isinf(clock.remaining) else max(1, math.floor(clock.remaining)))


def _answer(results: Path, n_inputs: int) -> ToolAnswer | None:
    """What the results file says; None where it is not there, or is no file to be read."""
    if not results.is_file():
        return None
    try:
        with open(results, "rb") as file:
            return read_results(file.read(LARGEST).decode("utf-8", errors="replace"), n_inputs)
    except OSError:
        return None


def _words(ended: Ended) -> str:
    last = ended.last_lines()
    return f"; its last lines: {last}" if last else "; it printed nothing"

"""An SMT solver in a process of its own, which is ended when the time is up, whatever it is doing."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from verifkit.budget import Clock
from verifkit.result import Reason
from verifkit.solvers.smt_child import Answer

_BOOT = (
    "import sys, json; settings = json.loads(sys.argv[1]); sys.path[:] = settings['path']; "
    "from verifkit.solvers.smt_child import main; main(settings['backend'], settings['parent'])"
)

LONGEST = 1e6
"""Seconds; the system's own waiting calls take no much longer limit."""


@dataclass(frozen=True)
class Conversation:
    """What came back. solver: name and version, empty where it did not come to that. answers: of the first formulas, in
    order. reason, why: what ended it before the last one or a model; None where nothing did.
    """

    solver: str
    answers: tuple[Answer, ...]
    reason: Reason | None = None
    why: str = ""


def installed(module: str) -> bool:
    """Whether the solver's package is there; nothing is imported to find out."""
    return importlib.util.find_spec(module) is not None


class SolverProcess:
    """Starts at once, so that the solver loads while the question is written; a context manager that leaves nothing.

    backend: "z3" or "cvc5".
    """

    def __init__(self, backend: str) -> None:
        settings = {"path": sys.path, "backend": backend, "parent": os.getpid()}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> SolverProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):  # what was never sent cannot be
                if pipe is not None:
                    pipe.close()
        self._process.wait()

    def decide(self, text: str, rows: Sequence[str], variables: Sequence[str], clock: Clock) -> Conversation:
        """The formulas `text` and one of `rows`, in order, up to the first that is satisfied. To be called once."""
        job = json.dumps({"text": text, "rows": list(rows), "variables": list(variables)}).encode()
        limit = clock.remaining if clock.remaining < LONGEST else None
        reason: Reason | None = None
        try:
            out, err = self._process.communicate(job, timeout=limit)
        except subprocess.TimeoutExpired:
            reason = Reason.TIMEOUT
            self._process.kill()
            out, err = self._process.communicate()
        lines = [json.loads(line) for line in out.decode().splitlines(keepends=True) if line.endswith("\n")]
        solver = str(lines[0]["solver"]) if lines else ""
        answers = tuple(Answer(**line) for line in lines[1:])
        finished = len(answers) == len(rows) or (bool(answers) and answers[-1].status == "sat")
        if finished:
            return Conversation(solver, answers)
        if reason is not None:
            return Conversation(solver, answers, reason)
        return Conversation(solver, answers, *_death(self._process.returncode, err.decode(errors="replace")))


def _death(status: int, err: str) -> tuple[Reason, str]:
    """Why a solver ended without an answer."""
    last = err.strip().splitlines()[-1:] or [f"exit status {status}"]
    if status == -9 or "MemoryError" in err or "bad_alloc" in err or "out of memory" in err:
        return Reason.MEMOUT, "the solver's process was ended, most likely for its memory"
    return Reason.ERROR, f"the solver's process ended: {last[0]}"

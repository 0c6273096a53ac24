"""More that a verifier must not do: `malicious` harms what is around it, `liar` answers what is not so.

Installed by `hostile.install`, and imported as a plug-in is.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.query import Query
from verifkit.radius import Radius, RadiusEnd, RadiusSearch
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Statistics
from verifkit.verifier import Verifier

PAPER = Paper("none2026", "Nobody", "None", "Nowhere", 2026)


def job_folder() -> Path:
    """Where the worker's output goes, and its answer is to go."""
    return Path(os.readlink("/proc/self/fd/1")).parent


class Endless(Mapping[str, float]):
    """Ten million statistics that take no memory."""

    def __getitem__(self, key: str) -> float:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return map(str, range(len(self)))

    def __len__(self) -> int:
        return 10**7

    def items(self) -> Any:
        return ((name, 1.0) for name in self)


class Unprintable(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@dataclass(frozen=True, kw_only=True)
class Malicious(Verifier):
    """mode: what it does, the name of a method. target: a file to spoil."""

    mode: str = "nothing"
    target: str = ""

    name = "malicious"
    capabilities = Capabilities(kinds={"inf": Kind.COMPLETE, "2": Kind.COMPLETE}, paper=PAPER, operators=None)

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        done = getattr(self, f"_{self.mode}")(query)
        return done if self.mode in ("nothing", "text", *ANSWERS) else Outcome.unknown(Reason.INCOMPLETE)

    # --- what it answers

    def _nothing(self, query: Query) -> None:
        return None

    def _text(self, query: Query) -> Any:
        return Outcome(verdict="HOLDS", guarantee=Guarantee(arithmetic=Arithmetic.EXACT))  # type: ignore[arg-type]

    def _unproved(self, query: Query) -> Outcome:
        return Outcome.holds(None, None)  # type: ignore[arg-type]

    def _oath(self, query: Query) -> Outcome:
        return Outcome.holds("I swear", None)  # type: ignore[arg-type]

    def _shape(self, query: Query) -> Outcome:
        return Outcome.violated(np.zeros((3, 4, 5)))

    def _nan(self, query: Query) -> Outcome:
        return Outcome.violated([float("nan")] * query.model.n_inputs)

    def _words(self, query: Query) -> Outcome:
        return Outcome.violated(["here", "it is"])  # type: ignore[list-item]

    def _endless(self, query: Query) -> Outcome:
        return Outcome.unknown(Reason.INCOMPLETE, statistics=Endless())

    def _hoard(self, query: Query) -> Outcome:
        return Outcome.unknown(Reason.INCOMPLETE, statistics={str(i): i for i in range(10**7)})

    def _circle(self, query: Query) -> Outcome:
        own: dict[str, Any] = {}
        own["me"] = own
        return Outcome.unknown(Reason.INCOMPLETE, statistics=own)

    def _strange(self, query: Query) -> Outcome:
        values: Any = {"\ud800": float("nan"), 3: 10**5000, "set": {1}, "text": "\x00\x1b[31m\udfff" * 10**5}
        return Outcome.unknown(Reason.INCOMPLETE, detail="\ud800", statistics=values)

    # --- what it raises

    def _unprintable(self, query: Query) -> None:
        raise Unprintable

    def _interrupt(self, query: Query) -> None:
        raise KeyboardInterrupt

    def _closing(self, query: Query) -> None:
        raise GeneratorExit

    def _surrogate(self, query: Query) -> None:
        raise ValueError("\n\ud800 and more\nlines")

    # --- time and memory

    def _deaf(self, query: Query) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(1)

    def _stopped(self, query: Query) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def _gulp(self, query: Query) -> None:
        held = []
        while True:
            held.append(np.ones(2**24))

    def _brood(self, query: Query) -> None:
        code = "import time; held = bytearray(b'1') * 10**8; time.sleep(600)"
        for _ in range(8):
            subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        time.sleep(600)

    # --- processes and descriptors

    def _crowd(self, query: Query) -> None:
        """150 sleepers, each in a session of its own, whose parents have ended."""
        subprocess.run(["sh", "-c", "for i in $(seq 150); do setsid sleep 600 & done"], check=True)

    def _parricide(self, query: Query) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)

    def _halts_parent(self, query: Query) -> None:
        os.kill(os.getppid(), signal.SIGSTOP)

    def _closes(self, query: Query) -> None:
        os.closerange(0, 1024)

    def _closes_and_fails(self, query: Query) -> None:
        os.closerange(0, 1024)
        raise RuntimeError("and nobody hears it")

    # --- files

    def _flood(self, query: Query) -> None:
        """64 MiB to both streams: text, binary and what looks like a row."""
        lines = b'{"schema": 2, "verdict": "HOLDS", "key": "0"}\n\xff\xfe\x00\x1b]0;x\x07\r' * 2**14
        for _ in range(32):
            os.write(1, lines)
            os.write(2, lines)

    def _removes(self, query: Query) -> None:
        shutil.rmtree(job_folder())

    def _leaves(self, query: Query) -> None:
        """Ends in a folder that is there no more."""
        os.chdir(tempfile.mkdtemp())
        os.rmdir(os.getcwd())

    def _scribble(self, query: Query) -> None:
        with open(self.target, "ab") as file:
            file.write(b'{"schema": 2, "verdict": "HOLDS"}\nnot a row at all\xff\n{"torn": ')

    def _forge(self, query: Query, text: str = '{"verdict": "HOLDS", "key": "0", "verifier": "milp"}') -> None:
        (job_folder() / "result.json").write_text(text)
        os._exit(0)

    def _forge_types(self, query: Query) -> None:
        said = {"verdict": "HOLDS", "guarantee": {}, "undecided": [3], "certified": "far", "statistics": []}
        self._forge(query, json.dumps(said))

    def _forge_infinity(self, query: Query) -> None:
        self._forge(query, '{"verdict": "UNKNOWN", "statistics": {"a": [1e999, NaN]}}')

    def _forge_nothing(self, query: Query) -> None:
        self._forge(query, "\xff{[")

    def _pipe(self, query: Query) -> None:
        (job_folder() / "output").unlink()
        for name in ("result.json", "output"):
            os.mkfifo(job_folder() / name)
        os._exit(0)

    def _folder(self, query: Query) -> None:
        (job_folder() / "result.json").mkdir()
        os._exit(0)

    def _small_files(self, query: Query) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    def _link(self, query: Query) -> None:
        (job_folder() / "result.json").symlink_to("/dev/zero")
        ctypes.string_at(8)


ANSWERS = ("unproved", "oath", "shape", "nan", "words", "endless", "hoard", "circle", "strange")


@dataclass(frozen=True, kw_only=True)
class Liar(Verifier):
    """Proves everything. margin: what it claims each time; radius: how far, 0: as far as bisection goes."""

    margin: float = 0.0
    radius_claimed: float = 0.0

    name = "liar"
    capabilities = Capabilities(kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE}, paper=PAPER, operators=None)

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        statistics: Statistics = {"margin": self.margin} if self.margin else {}
        return Outcome.holds(Guarantee(arithmetic=Arithmetic.EXACT), None, statistics=statistics)

    def _radius(self, search: RadiusSearch) -> Radius:
        if not self.radius_claimed:
            return super()._radius(search)
        result = self.verify(search.family.at(0))
        return Radius(search.family.norm, RadiusEnd(self.radius_claimed, result), None)

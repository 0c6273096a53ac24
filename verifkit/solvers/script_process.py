"""Another tool's script, run to its end or its time limit; nothing that it started is left."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verifkit.budget import Clock

_BOOT = (
    "import sys, json; settings = json.loads(sys.argv[1]); sys.path[:] = settings['path']; "
    "from verifkit.solvers.script_child import main; main(settings)"
)

GRACE = 0.3
"""Seconds past the limit that a script has to end by itself."""

_SLACK = 2.0
"""Seconds past that in which the process that watches it has to say how it ended."""

_LINES, _CHARACTERS = 6, 400


@dataclass(frozen=True)
class Ended:
    """how: "exit", "timeout", "start" (it could not be started: `output` is the system's reason) or "lost" (the process
    that watched it is gone). status: the exit status, or minus the number of the signal that ended it.
    """

    how: str
    status: int = 0
    output: str = ""

    def last_lines(self) -> str:
        """The end of what it printed, as one line."""
        lines = [" ".join(line.split()) for line in self.output.splitlines()]
        text = " | ".join([line for line in lines if line][-_LINES:])
        return "".join(c if c.isprintable() else "?" for c in text[-_CHARACTERS:])


def run_script(command: Sequence[str], folder: Path, clock: Clock) -> Ended:
    """Runs the command in `folder`, in a session of its own, until the time on the clock is up."""
    seconds = None if clock.budget.seconds is None else clock.remaining + GRACE
    settings = {"path": sys.path, "command": list(command), "folder": str(folder), "seconds": seconds}
    watcher = subprocess.Popen(
        [sys.executable, "-c", _BOOT, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert watcher.stdin is not None
    assert watcher.stdout is not None
    try:
        limit = None if seconds is None else seconds + _SLACK
        if not select.select([watcher.stdout], [], [], limit)[0]:
            return Ended("timeout")
        said = watcher.stdout.readline()
        return Ended("lost") if not said.endswith(b"\n") else _read(said)
    finally:
        watcher.stdin.close()  # which tells it to end everything, should it still be at it
        try:
            watcher.wait(_SLACK)
        except subprocess.TimeoutExpired:
            watcher.kill()
            watcher.wait()
        watcher.stdout.close()


def _read(said: bytes) -> Ended:
    values = json.loads(said)
    return Ended(str(values["ended"]), int(values["status"]), str(values["output"]))

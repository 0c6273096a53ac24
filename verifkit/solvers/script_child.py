"""The process between a verifier and another tool's script: ends the script and everything it started, come what may.

It watches the script's time, keeps the last of what the script prints, and when the script ends, or its time is up, or
the process that wanted it is gone (its own input ends), it leaves none of the script's descendants: on Linux those
whose parents have ended come to it. This side imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from verifkit.processes import adopt_orphans, descendants, kill, kill_group

POLL = 0.01
"""Seconds between two looks."""

LAST = 8192
"""Bytes of the script's output that are kept."""

_ENDING = 1.0
"""Seconds in which killed processes are waited for."""


def main(settings: Mapping[str, Any]) -> None:
    """settings: "command" (list), "folder" (to run in), "seconds" (None: no limit). Prints one JSON object: "ended"
    ("exit", "timeout", or "start" where the command could not be started), "status", "output".
    """
    adopt_orphans()
    deadline = None if settings["seconds"] is None else time.monotonic() + settings["seconds"]
    try:
        script = subprocess.Popen(
            settings["command"],
            cwd=settings["folder"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        _tell("start", 0, error.strerror or str(error))
        return
    output = _Output(script)
    try:
        ended = _watch(script, output, deadline)
    finally:
        kill_group(script.pid)
        _end_all()
    output.read_more(_ENDING)
    status = script.wait()
    if ended is not None:
        _tell(ended, status, output.text())


class _Output:
    """The last of what a script prints, read without ever waiting for it."""

    def __init__(self, script: subprocess.Popen[bytes]) -> None:
        assert script.stdout is not None
        self.descriptor = script.stdout.fileno()
        os.set_blocking(self.descriptor, False)
        self._kept = b""
        self.ended = False

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.descriptor, 65536)
            self.ended = not data
            self._kept = (self._kept + data)[-LAST:]

    def read_more(self, seconds: float) -> None:
        """All that is left, once nobody writes any more."""
        deadline = time.monotonic() + seconds
        while not self.ended and time.monotonic() < deadline:
            self.read()

    def text(self) -> str:
        return self._kept.decode("utf-8", errors="replace")


def _watch(script: subprocess.Popen[bytes], output: _Output, deadline: float | None) -> str | None:
    """How it ended; None where nobody wants to know any more. The script is not waited for yet."""
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        selector.register(output.descriptor, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(POLL):
                if key.fd == output.descriptor:
                    output.read()
                elif not os.read(key.fd, 4096):
                    return None
            if output.ended and output.descriptor in selector.get_map():
                selector.unregister(output.descriptor)
            if _has_ended(script):
                return "exit"
            if deadline is not None and time.monotonic() > deadline:
                return "timeout"


def _has_ended(script: subprocess.Popen[bytes]) -> bool:
    """Whether it has, leaving it to be waited for where the system can, so that its group's number stays its own."""
    if sys.platform == "win32" or not hasattr(os, "waitid"):
        return script.poll() is not None
    return os.waitid(os.P_PID, script.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_all() -> None:
    """Kills whatever is below this process, until nothing is; the script itself is left to be waited for."""
    deadline = time.monotonic() + _ENDING
    while time.monotonic() < deadline:
        below = [pid for pid in descendants(os.getpid()) if _alive(pid)]
        if not below:
            return
        kill(below)
        time.sleep(0.002)


def _alive(pid: int) -> bool:
    """Whether the process is more than an entry that waits to be read."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):  # ended, or no Linux: then there is nothing that tells
        return False


def _tell(ended: str, status: int, output: str) -> None:
    print(json.dumps({"ended": ended, "status": status, "output": output}), flush=True)  # noqa: T201 (it is read)

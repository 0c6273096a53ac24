"""Runs one question in a process of its own and keeps its limits from outside, whatever happens inside.

A verifier may hang in native code, crash, exit or print: the process around it still gives one answer. The child's
stdout is its stderr, so nothing but the answer reaches the reader.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

from verifkit.budget import Budget
from verifkit.processes import adopt_orphans, can_fork, descendants, die_with_parent, kill, resident_bytes

GRACE = 1.0
"""Seconds past the limit that a verifier has to end by itself."""

POLL = 0.02
"""Seconds between two looks."""


@dataclass(frozen=True)
class Answer:
    """What a command ends with: exit status, text for stdout, sentence for stderr (empty: none)."""

    status: int
    out: str
    err: str = ""


class Stopped(Exception):
    """No answer came: a limit was passed (`reason` "timeout" or "memout"), or the process ended without one ("error").

    The reasons are those of `verifkit.result.Reason`, as text: this side of the fork loads nothing heavy.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def supervised(work: Callable[[], Answer], limits: Budget) -> Answer:
    """The answer of `work` (picklable, where a process cannot fork), run in a child; raises `Stopped`.

    Nothing that the child started is left when this returns or is interrupted.
    """
    deadline = None if limits.seconds is None else time.monotonic() + limits.seconds + GRACE
    context: Any = multiprocessing.get_context("fork" if can_fork() else "spawn")
    reader, writer = context.Pipe(duplex=False)
    adopt_orphans()
    child = context.Process(target=_inside, args=(work, writer, os.getpid()))
    child.start()
    writer.close()
    assert child.pid is not None
    try:
        while not reader.poll(POLL):
            # What it started may hold the pipe open after it: its own end counts, unless its answer came just before.
            if not child.is_alive() and not reader.poll():
                raise Stopped("error")
            if deadline is not None and time.monotonic() > deadline:
                raise Stopped("timeout")
            if limits.memory_bytes is not None:
                used = resident_bytes([child.pid, *descendants(child.pid)])
                if used > limits.memory_bytes:
                    raise Stopped("memout")
        return _read(reader)
    finally:
        kill([child.pid, *descendants(os.getpid())])
        child.join()
        kill(descendants(os.getpid()))  # what was orphaned meanwhile came to us


def _read(reader: Connection) -> Answer:
    """The child's answer; never unpickled, so that nothing a verifier leaves in the pipe is run."""
    try:
        return Answer(**json.loads(reader.recv_bytes()))
    except (EOFError, OSError, ValueError, TypeError):
        raise Stopped("error") from None


def _inside(work: Callable[[], Answer], writer: Connection, parent: int) -> None:
    die_with_parent(parent)
    if hasattr(os, "setsid"):
        os.setsid()  # an interrupt at the terminal is the parent's to handle
    sys.stdout.flush()
    os.dup2(2, 1)
    writer.send_bytes(json.dumps(asdict(work())).encode())

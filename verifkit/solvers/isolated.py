"""A call into a solver that may not look at the clock for a long time, in a process that is killed when the time is up.

HiGHS looks at the clock only between the steps of its presolve, a conic solver not at all while it sets up, and none
can be stopped from outside. A forked child has the model as it is; a thread could be left behind, but not ended, and
takes the process down when that ends first.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from verifkit.budget import Clock
from verifkit.processes import can_fork, die_with_parent, kill

GRACE = 0.3
"""Seconds past the limit that a call has to end by itself."""


def isolated(
    work: Callable[[Callable[[Any], None]], Any], told: Callable[[Any], None], clock: Clock, *, always: bool = False
) -> Any:
    """What `work(tell)` returns, run in a child that is killed once the time is up; None where it had no answer.

    tell(news), called in the child, has told(news) called here. What the child changes of this process's objects is
    lost; results and news are pickled. Where the system cannot fork, `work` runs here; also where the
    time has no limit, unless `always`: for a solver that may crash or print.
    """
    if (clock.budget.seconds is None and not always) or not can_fork():
        return work(told)
    deadline = time.monotonic() + clock.remaining + GRACE
    reader, writer = multiprocessing.Pipe(duplex=False)
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _serve(work, writer, parent)
    writer.close()
    try:
        while reader.poll(None if math.isinf(deadline) else max(0.0, deadline - time.monotonic())):
            final, news = reader.recv()
            if final:
                return news
            told(news)
        return None
    except (EOFError, OSError):  # the child was killed, or failed
        return None
    finally:
        reader.close()
        kill([child])
        os.waitpid(child, 0)


def _serve(work: Callable[[Callable[[Any], None]], Any], writer: Connection, parent: int) -> None:
    """The child's life; does not return."""
    status = 1
    try:
        die_with_parent(parent)
        gc.freeze()  # a collection would touch, and so copy, every page that the parent has
        writer.send((True, work(lambda news: writer.send((False, news)))))
        status = 0
    finally:
        os._exit(status)

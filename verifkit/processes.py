"""What the operating system knows about processes: their descendants, resident memory, and how to bind and end them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def can_fork() -> bool:
    """Whether a process may fork and go on safely: on Linux; macOS has fork, but its own libraries do not survive."""
    return sys.platform == "linux"


def die_with_parent(parent: int) -> None:
    """Linux: the kernel kills this process when the thread that started it ends, hung or not; elsewhere nothing.

    `parent` is the process that should be the parent still: if it is not, it has died already and so does this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def outlive_parent() -> None:
    """Takes `die_with_parent` back."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Linux: descendants whose parents end become children of this process, so that none is lost sight of."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, children before grandchildren; those that end meanwhile may be missing."""
    found: list[int] = []
    pending = [pid]
    while pending:
        below = children(pending.pop())
        found += below
        pending += below
    return found


def children(pid: int) -> list[int]:
    """The children of `pid`. On Linux from the kernel's own lists, in microseconds: it is asked many times a second."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:  # ended, or no Linux
        return [] if sys.platform == "linux" else _slow_children(pid)
    found: list[int] = []
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{task}"):  # a kernel built without these lists
                return _slow_children(pid)
        except OSError:  # the thread has just ended
            continue
    return found


def _slow_children(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def resident_bytes(pids: Iterable[int]) -> int:
    """The resident memory of the processes together; pages that they share count each time."""
    total = 0
    for pid in pids:
        try:
            if sys.platform == "linux":
                with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                    total += int(file.read().split()[1]) * _PAGE
            else:
                total += _slow_resident_bytes(pid)
        except (OSError, IndexError):  # ended meanwhile
            continue
    return total


def _slow_resident_bytes(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def kill(pids: Iterable[int]) -> None:
    """Ends the processes at once, with no say of their own."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError, OSError):
            os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)  # there, both end it at once


def kill_group(leader: int) -> None:
    """Ends every process of the group that `leader` leads; the leader must not have been waited for yet."""
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)


def end_marked(name: str, value: str, seconds: float = 5.0) -> None:
    """Ends every process that was started with the environment variable `name` set to `value`, whoever its parent is.

    Looks again until none is left, or the seconds are over: some may start others meanwhile.
    """
    import psutil

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(name) == value:
                    found.append(process.pid)
        if not found:
            return
        kill(found)


def memory_available() -> int:
    """Bytes of memory that this machine, or the container around this process, has in all."""
    import psutil

    total = int(psutil.virtual_memory().total)
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):  # no such container, or "max"
            continue
    return total

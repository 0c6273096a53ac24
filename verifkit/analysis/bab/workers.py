"""Processes that share the work on batches: each takes its share of a batch, in step with the others.

In step, so that a search goes the same way however long a share takes. A helper is forked from the searching process,
knows what it has computed already, and ends when its pipe does.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np

R = TypeVar("R")


class Workers(Generic[R]):
    """Applies `work` to batches of entries, given as arrays with an entry each, alone until `start`.

    join: the results of consecutive shares of a batch as one, with where each share began. fewest: entries that a
    share must have to be worth sending. processes: how many there are to be, this one included; 1 where the system
    cannot fork. A batch should be as large from the start as suits all of them: when helpers come, and whether they
    stay, depends on time, and must not lead a search another way.
    """

    def __init__(
        self,
        work: Callable[..., R],
        join: Callable[[Sequence[R], Sequence[int]], R],
        *,
        fewest: int,
        processes: int,
    ) -> None:
        self.work, self.join, self.fewest = work, join, fewest
        self.processes = processes if hasattr(os, "fork") else 1
        self._pipes: list[Connection] = []
        self._children: list[int] = []
        self._asked = False

    def __enter__(self) -> Workers[R]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pipe in self._pipes:
            pipe.close()
        for child in self._children:
            os.waitpid(child, 0)
        self._pipes, self._children = [], []

    @property
    def count(self) -> int:
        """Helpers besides this process."""
        return len(self._pipes)

    def start(self) -> None:
        """Forks the helpers, the first time only."""
        if self._asked:
            return
        self._asked = True
        for _ in range(self.processes - 1):
            here, there = multiprocessing.Pipe()
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    for pipe in (*self._pipes, here):  # else none would see the pipe's end
                        pipe.close()
                    self._serve(there)
                    status = 0
                finally:
                    os._exit(status)
            there.close()
            self._pipes.append(here)
            self._children.append(child)

    def _serve(self, pipe: Connection) -> None:
        while True:
            try:
                share = pipe.recv()
            except EOFError:
                return
            with np.errstate(all="ignore"):
                pipe.send(self.work(*share))

    def apply(self, *batch: np.ndarray) -> R:
        """What `work` says of a batch."""
        count = batch[0].shape[0]
        parts = min(1 + len(self._pipes), max(1, count // self.fewest))
        shares = np.array_split(np.arange(count), parts)
        for pipe, share in zip(self._pipes, shares[1:], strict=False):
            with suppress(OSError):  # it may have been killed: seen below
                pipe.send(tuple(array[share] for array in batch))
        found = [self.work(*(array[shares[0]] for array in batch))]
        for pipe, share in zip(tuple(self._pipes), shares[1:], strict=False):
            try:
                found.append(pipe.recv())
            except (EOFError, OSError):  # somebody killed the helper: its share is done here, and it is asked no more
                self._pipes.remove(pipe)
                pipe.close()
                found.append(self.work(*(array[share] for array in batch)))
        return self.join(found, [int(share[0]) for share in shares])

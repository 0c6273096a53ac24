"""Processes that help to examine boxes: each takes its share of a batch, in step with the others.

In step, so that a search goes the same way however long a share takes. A helper is forked from the searching process,
knows the chain already, and ends when its pipe does.
"""

from __future__ import annotations

import multiprocessing
import os
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType

import numpy as np

from verifkit.analysis.box_examination import Bounded, Disjuncts, examine
from verifkit.analysis.chain_bounds import ChainBounds

FEWEST = 32
"""Boxes that a helper's share must have to be worth sending."""


class BoxWorkers:
    """Examines batches, alone until `start`."""

    def __init__(self, bounds: ChainBounds, disjuncts: Disjuncts) -> None:
        self.bounds, self.disjuncts = bounds, disjuncts
        self._pipes: list[Connection] = []
        self._children: list[int] = []
        self._asked = False

    def __enter__(self) -> BoxWorkers:
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

    def start(self, helpers: int) -> None:
        """Forks helpers, the first time only; none where the system cannot fork."""
        if self._asked or helpers < 1 or not hasattr(os, "fork"):
            return
        self._asked = True
        for _ in range(helpers):
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
                lower, upper = pipe.recv()
            except EOFError:
                return
            with np.errstate(all="ignore"):
                pipe.send(examine(self.bounds, self.disjuncts, lower, upper))

    def examine(self, lower: np.ndarray, upper: np.ndarray) -> Bounded:
        """What `examine` says of boxes (B, n)."""
        parts = min(1 + len(self._pipes), max(1, lower.shape[0] // FEWEST))
        shares = np.array_split(np.arange(lower.shape[0]), parts)
        for pipe, share in zip(self._pipes, shares[1:], strict=False):
            with suppress(OSError):  # it may have been killed: seen below
                pipe.send((lower[share], upper[share]))
        found = [examine(self.bounds, self.disjuncts, lower[shares[0]], upper[shares[0]])]
        for pipe, share in zip(tuple(self._pipes), shares[1:], strict=False):
            try:
                found.append(pipe.recv())
            except (EOFError, OSError):  # somebody killed the helper: its share is done here, and it is asked no more
                self._pipes.remove(pipe)
                pipe.close()
                found.append(examine(self.bounds, self.disjuncts, lower[share], upper[share]))
        return Bounded.joined(found, [int(share[0]) for share in shares])

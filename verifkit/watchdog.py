"""Keeps the limits of a single `verify` from outside the verifier: time with a little grace, memory by polling."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TextIO

from verifkit.budget import Budget
from verifkit.result import Reason

GRACE = 1.0
"""Seconds past the limit that a verifier has to end by itself."""

POLL = 0.05
"""Seconds between two looks."""


class Watchdog:
    """A thread that ends the process where the verifier inside does not keep its limits itself.

    It then prints the word and the reason as `verify` would have, and exits with status 1.
    """

    def __init__(self, limits: Budget, out: TextIO, *, as_json: bool) -> None:
        self._deadline = None if limits.seconds is None else time.monotonic() + limits.seconds + GRACE
        self._bytes = limits.memory_bytes
        self._out, self._as_json = out, as_json
        self._done = threading.Event()

    def __enter__(self) -> Watchdog:
        if self._deadline is not None or self._bytes is not None:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _watch(self) -> None:
        import psutil

        process = psutil.Process()
        while not self._done.wait(POLL):
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._end(Reason.TIMEOUT)
            if self._bytes is not None and process.memory_info().rss > self._bytes:
                self._end(Reason.MEMOUT)

    def _end(self, reason: Reason) -> None:
        word = "timeout" if reason is Reason.TIMEOUT else "unknown"
        if self._as_json:
            text = json.dumps({"verdict": "UNKNOWN", "word": word, "reason": str(reason), "detail": reason.advice})
        else:
            text = f"{word}\nreason: {reason} - {reason.advice}"
        self._out.write(text + "\n")
        self._out.flush()
        os._exit(1)

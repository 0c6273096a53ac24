"""What a verifier may spend, and the clock that watches it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from verifkit.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits on one question; None means no limit.

    seconds: wall time. memory_bytes: resident memory of the process (kept by the process around a verifier: the
    command line and the runner). samples: draws of a probabilistic method. nodes: subproblems of a search
    (`smt` has none to count).
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    samples: int | None = None
    nodes: int | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "memory_bytes", "samples", "nodes"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise OptionError(f"the budget's {name} must be a positive number, not {value}")

    def over(self, base: Budget) -> Budget:
        """Each limit that is set here, and in place of the others those of `base`."""
        own = {name: value for name, value in vars(self).items() if value is not None}
        return replace(base, **own)


class BudgetExhausted(Exception):
    """Raised by `Clock.check` inside a verifier and caught by `Verifier.verify`, whose result keeps the text: how far a
    method came, where it has anything to say.
    """


class Clock:
    """A running budget: starts when made."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    @property
    def elapsed(self) -> float:
        """Wall seconds since the start."""
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        """CPU seconds of this process since the start."""
        return time.process_time() - self._cpu

    @property
    def remaining(self) -> float:
        """Wall seconds left; infinite without a limit, never negative."""
        limit = self.budget.seconds
        return math.inf if limit is None else max(0.0, limit - self.elapsed)

    def check(self) -> None:
        """Raises `BudgetExhausted` once the time is up. Cheap: call it in every loop."""
        if self.remaining <= 0:
            raise BudgetExhausted

    def share(self, fraction: float = 1.0) -> Budget:
        """A budget of `fraction` of the time left, same other limits.

        Raises `BudgetExhausted` where none is left.
        """
        self.check()
        if self.budget.seconds is None:
            return self.budget
        return replace(self.budget, seconds=max(self.remaining * fraction, 1e-3))

"""What a whole run may claim: the chance of error spent input by input, and what it adds up to over a data set.

Three readings of one run at alpha per input over m inputs, and none may be passed off as another:
per input (each certificate is wrong with probability at most alpha), simultaneous (all hold at once: Bonferroni,
or Holm, Scandinavian Journal of Statistics 6, 1979, for one radius), and about the accuracy (at most so many of the m
certificates are wrong: Cohen, Rosenfeld, Kolter, ICML 2019, appendix).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np

from verifkit.errors import OptionError


class AlphaLedger:
    """Keeps a run to its chance of error. `per_input` is all that one input may spend, over all its attempts.

    A second attempt at an input (an abstention, say) is a second chance to be wrong: it is refused unless the attempts
    before left enough of the input's share.
    """

    def __init__(self, per_input: float) -> None:
        _probability("alpha", per_input)
        self.per_input = per_input
        self._spent: dict[Hashable, list[float]] = {}

    def spend(self, key: Hashable, alpha: float | None = None) -> float:
        """Books an attempt at the input `key` before it is made, and returns its alpha: all that is left by default.

        Raises `OptionError` where the input has not that much left.
        """
        left = self.left(key)
        asked = left if alpha is None else alpha
        if not 0 < asked <= left:
            past = f"{self.spent(key):g} of alpha = {self.per_input:g}"
            raise OptionError(
                f"input {key} has spent {past}: certifying it again needs alpha of its own, set aside beforehand"
            )
        self._spent.setdefault(key, []).append(asked)
        return asked

    def spent(self, key: Hashable) -> float:
        return math.fsum(self._spent.get(key, ()))

    def left(self, key: Hashable) -> float:
        return max(0.0, self.per_input - self.spent(key)) if key in self._spent else self.per_input

    @property
    def inputs(self) -> int:
        return len(self._spent)

    @property
    def total(self) -> float:
        """Chance that any certificate of the run is wrong, at most (a union bound)."""
        return min(1.0, math.fsum(a for attempts in self._spent.values() for a in attempts) * (1 + 1e-15))


def bonferroni(alpha: float, inputs: int) -> float:
    """The alpha of each of `inputs` certificates that are to hold simultaneously with probability 1 - alpha."""
    _probability("alpha", alpha)
    _inputs(inputs)
    share = alpha / inputs
    return share if share * inputs <= alpha else math.nextafter(share, 0.0)


def p_values(counts: Any, draws: int, sigma: float, radius: float) -> np.ndarray:
    """P[Bin(draws, Phi(radius / sigma)) >= count], rounded up: of "this input is not robust at `radius`"."""
    from scipy.special import betainc, ndtr  # 0.3 s to import: only where a run is summed up

    wins = np.asarray(counts, dtype=float)
    tail = betainc(np.maximum(wins, 1.0), draws - np.maximum(wins, 1.0) + 1.0, ndtr(radius / sigma) * (1 + 1e-13))
    return np.minimum(1.0, np.where(wins >= 1.0, tail, 1.0) * (1 + 1e-10))


def holm(p: Any, alpha: float) -> np.ndarray:
    """Which of m hypotheses Holm's procedure rejects: any of them falsely, with probability at most alpha."""
    _probability("alpha", alpha)
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    steps = values[order] <= alpha / np.arange(values.size, 0, -1) * (1 - 1e-15)
    rejected = np.zeros(values.size, dtype=bool)
    rejected[order[: values.size if steps.all() else int(np.argmin(steps))]] = True
    return rejected


def errors_allowed(inputs: int, alpha: float, rho: float) -> int:
    """BinomialQuantile(1 - rho; inputs, alpha): more certificates are wrong with probability at most rho.

    `inputs` counts every input that was asked about. With the certified ones alone the count would be chosen after the
    fact, and where they are few they may be the wrong ones.
    """
    from scipy.special import betainc

    _probability("alpha", alpha)
    _probability("rho", rho)
    _inputs(inputs)
    low, high = -1, inputs  # P[Bin > inputs] = 0
    while high - low > 1:
        middle = (low + high) // 2
        exceeded = betainc(middle + 1.0, float(inputs - middle), alpha) * (1 + 1e-10)
        low, high = (low, middle) if exceeded <= rho else (middle, high)
    return high


def accuracy_lower(certified: int, inputs: int, alpha: float, rho: float) -> float:
    """Share of the inputs whose certificate is right, at least, with probability 1 - rho; `certified` counts all."""
    return max(0, certified - errors_allowed(inputs, alpha, rho)) / inputs


def _probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise OptionError(f"{name} must lie strictly between 0 and 1, not {value}")


def _inputs(inputs: int) -> None:
    if inputs < 1:
        raise OptionError(f"a run has one input or more, not {inputs}")

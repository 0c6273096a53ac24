"""The tableau: every basic variable as a linear form over the nonbasic ones.

A pivot swaps a basic and a nonbasic variable: the basic one's row is solved for the nonbasic one, which is then
replaced in every other row. The set of solutions never changes. In floats the tableau is computed afresh from the
definitions every few pivots, so that rounding does not build up; in rationals every row is integers over one
denominator, divided by their common factor after each pivot.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from fractions import Fraction

import numpy as np

from verifkit.analysis.reluplex.delta import Number
from verifkit.analysis.reluplex.system import System
from verifkit.budget import Clock

REFRESH = 24
"""Pivots in floats between two computations from the definitions."""

NOISE = 1e-11
"""Coefficients in floats below this share of the largest one of their row count as zero."""


class Stalled(Exception):
    """Floating point got stuck: a singular basis, values beyond its range, or too many pivots."""


class Tableau(ABC):
    """basic: the variable of each row; nonbasic: the variable of each column; place: variable -> row or column."""

    def __init__(self, system: System, clock: Clock) -> None:
        self.system, self.clock = system, clock
        self.basic = list(system.definitions)
        self.nonbasic = [v for v in range(len(system.variables)) if v not in system.definitions]
        self.place = {v: k for order in (self.basic, self.nonbasic) for k, v in enumerate(order)}
        self._is_basic = [v in system.definitions for v in range(len(system.variables))]

    def is_basic(self, variable: int) -> bool:
        return self._is_basic[variable]

    @abstractmethod
    def row(self, basic: int) -> list[tuple[int, Number]]:
        """The basic variable's form: (nonbasic variable, coefficient), zeros left out."""

    @abstractmethod
    def column(self, nonbasic: int) -> list[tuple[int, Number]]:
        """Where a nonbasic variable occurs: (basic variable, coefficient), zeros left out."""

    def pivot(self, leaving: int, entering: int) -> None:
        """The basic variable `leaving` and the nonbasic variable `entering` change places."""
        i, j = self.place[leaving], self.place[entering]
        self._solve(i, j)
        self.basic[i], self.nonbasic[j] = entering, leaving
        self.place[entering], self.place[leaving] = i, j
        self._is_basic[entering], self._is_basic[leaving] = True, False

    @abstractmethod
    def _solve(self, i: int, j: int) -> None:
        """Solves row i for column j and replaces it in every other row."""


class RationalTableau(Tableau):
    """Exact: row i is integers[i] over dens[i]."""

    def __init__(self, system: System, clock: Clock) -> None:
        super().__init__(system, clock)
        self.integers: list[list[int]] = []
        self.dens: list[int] = []
        for terms in system.definitions.values():
            den = math.lcm(*(c.denominator for _, c in terms))
            row = [0] * len(self.nonbasic)
            for v, c in terms:
                row[self.place[v]] = int(c * den)
            self.integers.append(row)
            self.dens.append(den)

    def row(self, basic: int) -> list[tuple[int, Number]]:
        i = self.place[basic]
        den = self.dens[i]
        return [(v, Fraction(c, den)) for v, c in zip(self.nonbasic, self.integers[i], strict=True) if c]

    def column(self, nonbasic: int) -> list[tuple[int, Number]]:
        j = self.place[nonbasic]
        return [(v, Fraction(r[j], d)) for v, r, d in zip(self.basic, self.integers, self.dens, strict=True) if r[j]]

    def _solve(self, i: int, j: int) -> None:
        # den x_i = sum_k a_k x_k gives a_j x_j = den x_i - sum_(k != j) a_k x_k.
        a = self.integers[i][j]
        sign = 1 if a > 0 else -1
        solved = [-sign * v for v in self.integers[i]]
        solved[j] = sign * self.dens[i]
        top = abs(a)
        for k, row in enumerate(self.integers):
            c = row[j]
            if k == i or not c:
                continue
            self.clock.check()
            new = [v * top + c * s for v, s in zip(row, solved, strict=True)]
            new[j] = c * solved[j]
            self._set(k, new, self.dens[k] * top)
        self._set(i, solved, top)

    def _set(self, i: int, row: list[int], den: int) -> None:
        common = math.gcd(den, *row)
        self.integers[i] = row if common == 1 else [v // common for v in row]
        self.dens[i] = den // common


class FloatTableau(Tableau):
    """In float64, with a fresh start from the definitions every `REFRESH` pivots."""

    def __init__(self, system: System, clock: Clock) -> None:
        super().__init__(system, clock)
        count = len(system.variables)
        #: the definitions as D v = 0 over all variables: v itself less its form
        self.equations = np.zeros((len(self.basic), count))
        for i, (v, terms) in enumerate(system.definitions.items()):
            self.equations[i, v] = 1.0
            for w, c in terms:
                self.equations[i, w] = -_float(c)
        self.pivots = 0
        self.matrix: np.ndarray = -self.equations[:, self.nonbasic]

    def row(self, basic: int) -> list[tuple[int, Number]]:
        values = self.matrix[self.place[basic]]
        small = NOISE * float(np.abs(values).max(initial=0.0))
        return [(v, c) for v, c in zip(self.nonbasic, values.tolist(), strict=True) if abs(c) > small]

    def column(self, nonbasic: int) -> list[tuple[int, Number]]:
        return [(v, c) for v, c in zip(self.basic, self.matrix[:, self.place[nonbasic]].tolist(), strict=True) if c]

    def pivot(self, leaving: int, entering: int) -> None:
        super().pivot(leaving, entering)
        self.pivots += 1
        if self.pivots % REFRESH == 0:
            self._refresh()

    def _solve(self, i: int, j: int) -> None:
        solved = -self.matrix[i] / self.matrix[i, j]
        solved[j] = 1.0 / self.matrix[i, j]
        column = self.matrix[:, j].copy()
        self.matrix[:, j] = 0.0
        self.matrix += np.outer(column, solved)
        self.matrix[i] = solved

    def _refresh(self) -> None:
        try:
            self.matrix = -np.linalg.solve(self.equations[:, self.basic], self.equations[:, self.nonbasic])
        except np.linalg.LinAlgError:
            raise Stalled("a singular basis") from None
        if not np.isfinite(self.matrix).all():
            raise Stalled("values beyond the range of floats")


def _float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        raise Stalled("values beyond the range of floats") from None

"""Bounds of every variable on a stack, each knowing where it came from.

A bound is *given* (by the question, or by a phase on the way down the search tree), or *derived* from a row of the
tableau and the bounds of the row's other variables. Traced back to given bounds, a derived one is a linear combination
of definitions: that is what a Farkas certificate needs.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from verifkit.analysis.reluplex.delta import Number

LOWER, UPPER = 0, 1
"""The two ends of a variable."""


@dataclass(frozen=True, eq=False)
class Derived:
    """A bound on `variable` by its row: variable = sum of coefficient * other, with the bound of each other one used.

    entries: (other variable, coefficient, where its bound came from: None for a given one). serial: later bounds have
    larger ones.
    """

    variable: int
    entries: tuple[tuple[int, Number, Derived | None], ...]
    serial: int


class BoundStack:
    """ends[LOWER][v] <= v <= ends[UPPER][v]; why[side][v]: None where given."""

    def __init__(self, lower: list[Number], upper: list[Number]) -> None:
        self.ends = [list(lower), list(upper)]
        self.why: list[list[Derived | None]] = [[None] * len(lower), [None] * len(upper)]
        self._trail: list[tuple[int, int, Number, Derived | None]] = []
        self._serial = 0

    def mark(self) -> int:
        """Where the stack is now, for `undo`."""
        return len(self._trail)

    def undo(self, mark: int) -> None:
        """Takes back every bound set since."""
        while len(self._trail) > mark:
            side, variable, end, why = self._trail.pop()
            self.ends[side][variable], self.why[side][variable] = end, why

    def tighter(self, side: int, variable: int, end: Number) -> bool:
        now = self.ends[side][variable]
        return bool(end > now if side == LOWER else end < now)

    def set(self, side: int, variable: int, end: Number, why: Derived | None = None) -> None:
        self._trail.append((side, variable, self.ends[side][variable], self.why[side][variable]))
        self.ends[side][variable], self.why[side][variable] = end, why

    def derive(self, side: int, variable: int, row: list[tuple[int, Number]]) -> Derived:
        """The bound that a row puts on its basic variable on one side, as it would be set."""
        self._serial += 1
        used = tuple((v, c, self.why[side if c > 0 else 1 - side][v]) for v, c in row)
        return Derived(variable, used, self._serial)

    def implied(self, side: int, row: list[tuple[int, Number]]) -> Number:
        """The least (LOWER) or greatest (UPPER) value that a row's bounds allow."""
        total: Number = 0
        for v, c in row:
            total = total + c * self.ends[side if c > 0 else 1 - side][v]
        return total


def explain(lower: Derived | None, upper: Derived | None) -> dict[int, Number]:
    """Multipliers of definitions that show what two bounds on one variable v, derived or given, say together.

    A derived bound is a form F with v = F at every execution, by definitions alone. The sum of multiplier * (variable -
    its definition) is then F of the lower bound less F of the upper one (v itself for a given one): positive by the
    given bounds where the lower end lies above the upper one. Multipliers of undefined variables mean nothing.
    """
    total: dict[int, Number] = defaultdict(int)
    factors: dict[Derived, Number] = defaultdict(int)
    waiting: list[tuple[int, Derived]] = []

    def add(why: Derived | None, factor: Number) -> None:
        if why is not None:
            if why not in factors:
                heapq.heappush(waiting, (-why.serial, why))
            factors[why] += factor

    add(lower, -1)
    add(upper, 1)
    while waiting:  # the latest first: it may rest on any earlier one
        why = heapq.heappop(waiting)[1]
        factor = factors[why]
        total[why.variable] += factor
        for v, c, source in why.entries:
            total[v] -= factor * c
            add(source, factor * c)
    return dict(total)


def only(multipliers: Mapping[int, Number], defined: Mapping[int, object]) -> dict[int, Number]:
    """The multipliers of defined variables, zeros left out."""
    return {v: m for v, m in multipliers.items() if m and v in defined}

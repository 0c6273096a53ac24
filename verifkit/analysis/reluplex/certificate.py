"""Farkas certificates in exact arithmetic: multipliers that contradict given bounds, whoever found them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from verifkit.analysis.reluplex.delta import Number
from verifkit.analysis.reluplex.system import System


def least_value(
    system: System, multipliers: Mapping[int, Fraction], lower: Sequence[Number], upper: Sequence[Number]
) -> Number:
    """The least value of sum multiplier * (v - definition of v) within the bounds; the form is zero at every solution.

    Exact. Minus infinity where a term has no bound.
    """
    form: dict[int, Fraction] = {}
    for v, m in multipliers.items():
        form[v] = form.get(v, Fraction(0)) + m
        for w, c in system.definitions[v]:
            form[w] = form.get(w, Fraction(0)) - m * c
    total: Number = Fraction(0)
    for v, c in form.items():
        if not c:
            continue
        end = lower[v] if c > 0 else upper[v]
        if isinstance(end, float):
            return -math.inf
        total = total + c * end
    return total


def contradicts(
    system: System, multipliers: Mapping[int, Number], lower: Sequence[Number], upper: Sequence[Number]
) -> dict[int, Fraction] | None:
    """The multipliers as rationals if they prove that nothing satisfies the definitions within the bounds, else None.

    multipliers: of defined variables, floats or rationals. What rounding left of a multiplier whose variable has no
    bound on the side that it needs is dropped first; any multipliers make a valid form, so that loses no soundness.
    """
    kept = {}
    for v, m in multipliers.items():
        if not isinstance(m, Fraction) and not math.isfinite(m):
            return None
        if m and not isinstance(lower[v] if m > 0 else upper[v], float):
            kept[v] = Fraction(m)
    return kept if least_value(system, kept, lower, upper) > 0 else None

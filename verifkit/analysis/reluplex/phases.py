"""The two phases of a pair: which bounds they set, when bounds leave no choice, and how to say so."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from fractions import Fraction

from verifkit.analysis.reluplex.bounds import LOWER, UPPER, Derived
from verifkit.analysis.reluplex.delta import Number
from verifkit.analysis.reluplex.simplex import Simplex
from verifkit.analysis.reluplex.system import Pair, System

Phase = tuple[Pair, bool]
"""A pair and its phase: True for b >= 0 (then f = b), False for b <= 0 (then f = 0)."""


def phase_bounds(pair: Pair, phase: bool) -> tuple[tuple[int, int], ...]:
    """The sides and variables where a phase puts a bound of 0."""
    return ((LOWER, pair.b), (UPPER, pair.slack)) if phase else ((UPPER, pair.b), (UPPER, pair.f))


def given_bounds(system: System, phases: Sequence[Phase]) -> tuple[list[Number], list[Number]]:
    """The bounds of the question and of the phases: what a certificate may use."""
    lower, upper = list(system.lower), list(system.upper)
    for pair, phase in phases:
        for side, v in phase_bounds(pair, phase):
            if side == LOWER:
                lower[v] = max(lower[v], Fraction(0))
            else:
                upper[v] = min(upper[v], Fraction(0))
    return lower, upper


def evident(
    simplex: Simplex, pair: Pair, vain: Container[Derived]
) -> Iterator[tuple[bool, Derived | None, Derived | None]]:
    """Phases that derived bounds seem to leave no choice about, with the bound (lower, upper) that clashes with the
    other phase. Bounds in `vain` are left out."""
    (low, high), (why_low, why_high) = simplex.bounds.ends, simplex.bounds.why
    for phase, v in ((True, pair.b), (True, pair.f), (False, pair.slack)):
        why = why_low[v]
        if why is not None and low[v] > simplex.tolerance[v] and why not in vain:
            yield phase, why, None
    why = why_high[pair.b]
    if why is not None and high[pair.b] < -simplex.tolerance[pair.b] and why not in vain:
        yield False, None, why


def phase_text(names: Sequence[str], pair: Pair, phase: bool) -> str:
    b, f = names[pair.b], names[pair.f]
    return f"{b} >= 0, {f} = {b}" if phase else f"{b} <= 0, {f} = 0"

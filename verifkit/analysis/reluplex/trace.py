"""Every step of a run as a line of text that can be read aloud."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TextIO

from verifkit.analysis.reluplex.delta import Delta, Number, small
from verifkit.analysis.reluplex.system import System

CONSTANT = "1"
"""The name of the variable that is 1."""

LONGEST = 14
"""Characters of a rational that is written out; a longer one is shown as the decimal it is about."""


class Trace:
    """Numbered lines, indented by the depth of the search; without a stream nothing is written or worked out."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream, self._step, self.depth = stream, 0, 0
        self.on = stream is not None

    def heading(self, text: str) -> None:
        if self._stream is not None:
            first = self._stream.seekable() and self._stream.tell() == 0
            self._stream.write(f"{text}\n" if first else f"\n{text}\n")

    def step(self, text: str) -> None:
        if self._stream is not None:
            self._step += 1
            self._stream.write(f"{self._step:5d}  {'  ' * self.depth}{text}\n")

    def tableau(self, system: System, rows: Sequence[tuple[int, list[tuple[int, Number]]]]) -> None:
        """The bounds of every variable, the pairs, and the initial tableau."""
        if self._stream is None:
            return
        names = system.names
        lines = ["bounds:"]
        for name, low, high in zip(names, system.lower, system.upper, strict=True):
            below = "" if low == -math.inf else f"{show(low)} <= "
            above = "" if high == math.inf else f" <= {show(high)}"
            if name != CONSTANT:
                lines.append(f"       {below}{name}{above}")
        pairs = ", ".join(f"({names[p.b]}, {names[p.f]})" for p in system.pairs) or "none"
        lines += [f"pairs (b, f) with f = max(0, b): {pairs}", "initial tableau:"]
        lines += [f"       {names[basic]} = {combination(row, names)}" for basic, row in rows]
        self._stream.write("\n".join([*lines, "steps:", ""]))


def combination(terms: Sequence[tuple[int, Number]], names: Sequence[str]) -> str:
    """A linear form as it is read."""
    parts = []
    for v, c in terms:
        size = show(abs(c))
        term = size if names[v] == CONSTANT else names[v] if size == "1" else f"{size} {names[v]}"
        parts.append(("- " if c < 0 else "+ ") + term)
    return " ".join(parts).removeprefix("+ ") or "0"


def multipliers(found: Mapping[int, Fraction], names: Sequence[str]) -> str:
    return ", ".join(f"{names[v]}: {show(m)}" for v, m in sorted(found.items()))


def show(value: Number) -> str:
    """A number, short: rationals in full where that is short, else about."""
    if isinstance(value, Delta):
        return f"{show(value.real)} {'-' if value.delta < 0 else '+'} {show(abs(small(value)))} delta"
    if isinstance(value, Fraction):
        text = str(value)
        return text if len(text) <= LONGEST else f"~{_float(value):.6g}"
    return f"{value:.6g}"


def _float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")

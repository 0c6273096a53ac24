"""How far a guarantee reaches: a bracket [certified, falsified], never one bare number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

import numpy as np

from verifkit.budget import Clock
from verifkit.input_sets import float_above
from verifkit.query import QueryFamily
from verifkit.result import Reason, Result, Verdict

TOLERANCE = 2.0**-10
"""How wide a bracket may stay, relative to its upper end, unless a caller says otherwise."""

LARGEST = 2.0**60
"""Where doubling ends: a radius beyond it is "everything" for floats of any use."""


def format_radius(value: float, digits: int = 4) -> str:
    """`value` with `digits` decimals, rounded *down*: a printed certified radius never says more than was certified."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR))


def shorten(value: float, digits: int = 3, *, up: bool = False) -> str:
    """`value` with `digits` significant digits, rounded down, or `up` for a falsified radius."""
    context = Context(prec=digits, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    return f"{context.create_decimal(Decimal(value)):g}" if value else "0"


@dataclass(frozen=True)
class RadiusEnd:
    """One end of the bracket with the result that establishes it."""

    value: float
    result: Result


@dataclass(frozen=True)
class Radius:
    """certified: the largest radius shown to hold; falsified: the smallest shown to be violated; either may be None.

    undecided: the radii tried that stayed UNKNOWN, with their reasons. norm: of the radius, in raw input units. Each
    end names its verifier: the upper one may come from a falsifier that was asked beside. `misclassified`: the center
    itself is a violation, so no radius can hold. `complete`: the certified ball is all that the clip box admits.
    `detail`: why the question could not be taken, where it could not. `center`: a probabilistic method's answer at the
    center, where it certifies nothing: whether it abstains, or what it answers instead.
    """

    norm: str
    certified: RadiusEnd | None
    falsified: RadiusEnd | None
    undecided: tuple[tuple[float, Reason], ...] = ()
    complete: bool = False
    detail: str = ""
    center: Result | None = None

    @property
    def misclassified(self) -> bool:
        return self.falsified is not None and self.falsified.value == 0

    def closed(self, tolerance: float) -> bool:
        """Whether nothing is left to search for: misclassified, all of the clip box certified, or a small gap."""
        if self.misclassified or self.complete:
            return True
        if self.certified is None or self.falsified is None:
            return False
        return self.falsified.value - self.certified.value <= tolerance * self.falsified.value

    def to_json(self) -> dict[str, Any]:
        def end(e: RadiusEnd | None) -> dict[str, Any] | None:
            return None if e is None else {"value": e.value, "result": e.result.to_json()}

        return {
            "norm": self.norm,
            "certified": end(self.certified),
            "falsified": end(self.falsified),
            "undecided": [[r, str(why)] for r, why in self.undecided],
            "misclassified": self.misclassified,
            "complete": self.complete,
            "detail": self.detail,
            "center": None if self.center is None else self.center.to_json(),
        }


@dataclass(frozen=True, eq=False)
class RadiusSearch:
    """What a method needs to bracket a radius.

    tolerance: how wide the bracket may stay, relative to its upper end. falsified: an upper end that is known already.
    """

    family: QueryFamily
    clock: Clock
    seed: int
    tolerance: float = TOLERANCE
    falsified: RadiusEnd | None = None

    @property
    def floor(self) -> float:
        """The smallest radius worth asking about: half the spacing of the model's floats at the center's largest entry.

        A smaller l-inf ball holds no other input that the model can be fed; at a center of zero, 2^-100.
        """
        largest = max((abs(c) for c in self.family.center), default=0)
        spacing = np.spacing(np.asarray(float(largest), dtype=self.family.model.dtype))
        return max(float(spacing) / 2 if largest else 0.0, 2.0**-100)


def merge(norm: str, brackets: Iterable[Radius]) -> Radius:
    """The largest certified and the smallest falsified end of several brackets of one question.

    What one left undecided and another decided is dropped.
    """
    found = list(brackets)
    certified = max((r.certified for r in found if r.certified is not None), key=lambda e: e.value, default=None)
    falsified = min((r.falsified for r in found if r.falsified is not None), key=lambda e: e.value, default=None)
    low = 0.0 if certified is None else certified.value
    high = math.inf if falsified is None else falsified.value
    undecided = tuple((r, why) for bracket in found for r, why in bracket.undecided if low <= r <= high)
    return Radius(norm, certified, falsified, undecided, any(r.complete for r in found))


class _Bracket:
    """Both ends as they close in, and what stayed undecided."""

    def __init__(self, ask: Callable[[float], Result | None], falsified: RadiusEnd | None, falsifying: bool) -> None:
        self.ask, self.falsifying = ask, falsifying
        self.certified: RadiusEnd | None = None
        self.falsified = falsified
        self.undecided: list[tuple[float, Reason]] = []

    def holds(self, radius: float) -> bool | None:
        """Whether to look above `radius` (True) or below it; None once the budget is spent."""
        result = self.ask(radius)
        if result is None:
            return None
        if result.verdict is Verdict.HOLDS:
            self.certified = RadiusEnd(radius, result)
            return True
        if result.verdict is Verdict.VIOLATED:
            self.falsified = RadiusEnd(radius, result)
            return False
        if self.falsifying and result.reason is Reason.INCOMPLETE:
            return True
        self.undecided.append((radius, result.reason or Reason.ERROR))
        return False


def bisect(
    search: RadiusSearch, ask: Callable[[float], Result | None], *, start: float = 1 / 64, falsifying: bool = False
) -> Radius:
    """Brackets the radius by asking at doubling radii from `start`, then by bisection.

    ask(radius) returns the result there, or None once the budget is spent. Stops when the gap is at most the search's
    tolerance times its upper end. Neither end is capped: doubling goes on until the ball covers the clip box, halving
    down to the spacing of floats; in l0 only whole numbers are asked about. Where an upper end is known, the search
    starts below it. `falsifying`: the method only ever finds violations, so the search looks for the smallest violated
    radius instead of the largest certified.
    """
    family, known = search.family, search.falsified
    bracket = _Bracket(ask, known, falsifying)
    low, high, complete = 0.0, None if known is None else known.value, False
    whole = family.norm == "0"
    if high == 0.0:
        return Radius(family.norm, None, known)
    if not bracket.holds(0.0):
        return Radius(family.norm, None, bracket.falsified, tuple(bracket.undecided))
    if high is None:
        low, high, complete = _enclose(family, bracket, 1.0 if whole else start)
    while high is not None and high - low > (1.0 if whole else search.tolerance * high) and high > search.floor:
        middle = float((low + high) // 2) if whole else (low + high) / 2
        answer = bracket.holds(middle)
        if answer is None:
            break
        low, high = (middle, high) if answer else (low, middle)
    return Radius(
        family.norm,
        bracket.certified,
        bracket.falsified,
        tuple(bracket.undecided),
        complete and bracket.certified is not None,
    )


def _enclose(family: QueryFamily, bracket: _Bracket, start: float) -> tuple[float, float | None, bool]:
    """(largest radius to go up from, smallest to go down from or None, whether the whole clip box was passed)."""
    reach = None if family.reach is None else float(float_above([family.reach])[0])
    low, radius = 0.0, start
    while radius < LARGEST:
        if reach is not None and radius >= reach:
            radius = max(reach, low)
            answer = bracket.holds(radius)
            return (radius, None, True) if answer else (low, radius if answer is False else None, False)
        answer = bracket.holds(radius)
        if answer is None:
            return low, None, False
        if not answer:
            return low, radius, False
        low, radius = radius, radius * 2
    return low, None, False

"""How far a guarantee reaches: a bracket [certified, falsified], never one bare number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

from verifkit.query import QueryFamily
from verifkit.result import Reason, Result, Verdict

SMALLEST = 2.0**-20
"""Below this radius (input units) the search stops halving."""


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

    undecided: the radii tried that stayed UNKNOWN, with their reasons. norm: of the radius, in raw input units.
    `misclassified`: the center itself is a violation, so no radius can hold. `complete`: the certified ball is all
    that the clip box admits.
    """

    norm: str
    certified: RadiusEnd | None
    falsified: RadiusEnd | None
    undecided: tuple[tuple[float, Reason], ...] = ()
    complete: bool = False

    @property
    def misclassified(self) -> bool:
        return self.falsified is not None and self.falsified.value == 0

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
        }


def bisect(
    family: QueryFamily,
    ask: Callable[[float], Result | None],
    *,
    tolerance: float,
    start: float = 1 / 64,
    falsifying: bool = False,
) -> Radius:
    """Brackets the radius by asking at doubling or halving radii from `start`, then by bisection.

    ask(radius) returns the result there, or None once the budget is spent. Stops when the gap is at most `tolerance`
    times its upper end. No cap: doubling goes on until the ball covers the clip box, or 2**60. `falsifying`: the
    method only ever finds violations, so the search looks for the smallest violated radius instead of the largest
    certified one.
    """
    certified: RadiusEnd | None = None
    falsified: RadiusEnd | None = None
    undecided: list[tuple[float, Reason]] = []

    def go_up(radius: float) -> bool | None:
        nonlocal certified, falsified
        result = ask(radius)
        if result is None:
            return None
        if result.verdict is Verdict.HOLDS:
            certified = RadiusEnd(radius, result)
            return True
        if result.verdict is Verdict.VIOLATED:
            falsified = RadiusEnd(radius, result)
            return False
        if falsifying and result.reason is Reason.INCOMPLETE:
            return True
        undecided.append((radius, result.reason or Reason.ERROR))
        return False

    low, high, complete = _enclose(family, go_up, start)
    while high is not None and high - low > tolerance * high and high > SMALLEST:
        middle = (low + high) / 2
        answer = go_up(middle)
        if answer is None:
            break
        low, high = (middle, high) if answer else (low, middle)
    return Radius(family.norm, certified, falsified, tuple(undecided), complete and certified is not None)


def _enclose(
    family: QueryFamily, go_up: Callable[[float], bool | None], start: float
) -> tuple[float, float | None, bool]:
    """(largest radius to go up from, smallest to go down from or None, whether the whole clip box was passed)."""
    if not go_up(0.0):
        return 0.0, None, False
    reach = family.reach if family.norm == "inf" else None
    low, radius = 0.0, start
    while radius < 2.0**60:
        if reach is not None and radius >= reach:
            radius = max(float(reach), low)
            answer = go_up(radius)
            return (radius, None, True) if answer else (low, radius if answer is False else None, False)
        answer = go_up(radius)
        if answer is None:
            return low, None, False
        if not answer:
            return low, radius, False
        low, radius = radius, radius * 2
    return low, None, False

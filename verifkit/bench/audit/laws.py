"""Order laws: what theory proves of one method's bound beside another's, checked on the rows of a run.

A broken law means that one of the two bounds is not what its method computes: too high, and unsound, or too low.
Compared are margins of the same question (`Row.margin`) and radii, of methods whose settings make the law one:

- Fast-Lin, the convex outer polytope's dual and, over a box and without reduction, the zonotope are the same bound,
  since their relaxations of the layers before are the same too.
- CROWN <= alpha-CROWN only where both have the same bounds of the layers (`layer_iterations = 0`): slopes that adapt to
  tighter ones may be worse. For the same reason the triangles' linear program, which stands on CROWN's bounds of the
  layers, is above CROWN and such an alpha-CROWN, but need not be above Fast-Lin or an alpha-CROWN that raises layers.
- Interval <= linear program, which keeps the intervals, of networks without max pooling: there the program's relaxation
  of a maximum may leave the interval.
- A margin is no larger than the value at any input that an attack has seen.
- At radius 0 the bounds are the forward pass.
- A smaller ball gives no smaller bound by intervals or by linear programs whose bounds of the layers come from linear
  programs; CROWN's, and programs over those, may lose by it. Of exact methods a contradiction is what breaks this.

Nothing else is a law: intervals may beat CROWN and Fast-Lin. Answers cut off by a limit break nothing.

Radii: bisection asks equal methods the same radii, so that their closed brackets agree; twice its tolerance is granted.
Of ordered methods the looser one must be monotone for its radius to be the smaller: below it, it holds throughout, and
so does the tighter one. Of the others only answers at the very same radius are compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any

import pandas as pd

from verifkit.bench.audit.bounding import (
    Answer,
    Row,
    answers,
    certifies,
    has_loss,
    has_margin,
    is_bounding,
    is_closed,
    is_full,
    left_open,
    reach,
    size,
    states,
    who,
)
from verifkit.bench.audit.contradictions import source
from verifkit.bench.audit.finding import Contradiction, ContradictionKind
from verifkit.bench.rows.frame import grouped, records
from verifkit.radius import TOLERANCE

ROUNDED = 1e-6
"""What outward rounding may cost a margin, relative to 1 + both margins."""
SOLVED = 1e-4
"""The same where a linear program's tolerances come in."""
POINT = 1e-3
"""The same at radius 0, where a center that is no float32 has a small box around it."""


@dataclass(frozen=True)
class LawCount:
    """How often a law could be checked in a run, and how often it was broken."""

    law: str
    checked: int
    broken: int


@dataclass(frozen=True)
class _Method:
    """A verifier with what its options, and the statistics of its answer, must say."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)

    def made(self, row: Row) -> bool:
        options = row["options"] if isinstance(row["options"], dict) else {}
        given = options.get("precision", "float64") == "float64"
        return row["verifier"] == self.name and given and all(options.get(k) == v for k, v in self.options.items())

    def bounded(self, row: Row) -> bool:
        return self.made(row) and all(row["statistics"].get(k) == v for k, v in self.statistics.items())


@dataclass(frozen=True)
class _Order:
    """lower's bound is at most upper's, or `equal` to it. monotone: so is lower's, in the radius. pooling: also of
    networks with max pooling."""

    law: str
    lower: _Method
    upper: _Method
    norms: frozenset[str]
    equal: bool = False
    monotone: bool = False
    pooling: bool = True
    slack: float = ROUNDED


_FASTLIN, _DUAL, _ZONOTOPE = _Method("fastlin"), _Method("dual"), _Method("zonotope", statistics={"reduced": 0})
_CROWN, _ALPHA = _Method("crown"), _Method("alpha_crown", {"layer_iterations": 0})
_INTERVAL, _LP, _LP_LP = _Method("interval"), _Method("lp", {"tighten": "crown"}), _Method("lp", {"tighten": "lp"})
_BOX, _PROGRAM, _ALL = frozenset({"inf"}), frozenset({"inf", "1"}), frozenset({"inf", "2", "1"})
_ORDERS = (
    _Order("Fast-Lin and the convex outer polytope's dual are one bound", _FASTLIN, _DUAL, _ALL, equal=True),
    _Order("over a box Fast-Lin and the zonotope are one bound", _FASTLIN, _ZONOTOPE, _BOX, equal=True),
    _Order("over a box the dual and the zonotope are one bound", _DUAL, _ZONOTOPE, _BOX, equal=True),
    _Order("alpha-CROWN, with CROWN's bounds of the layers, is no looser than CROWN", _CROWN, _ALPHA, _ALL),
    _Order("the linear program is no looser than CROWN", _CROWN, _LP, _PROGRAM, slack=SOLVED),
    _Order("the linear program is no looser than alpha-CROWN on its layers", _ALPHA, _LP, _PROGRAM, slack=SOLVED),
    *(
        _Order("the linear program is no looser than intervals", _INTERVAL, lp, _PROGRAM, False, True, False, SOLVED)
        for lp in (_LP, _LP_LP)
    ),
)
_MONOTONE = ((_INTERVAL, ROUNDED), (_LP_LP, SOLVED))
_SMALLER = "a smaller ball has no smaller bound by intervals and by linear programs throughout"
_SEEN = "a margin is no larger than the value at an input that an attack has seen"
_FORWARD = "at radius 0 a bound is the forward pass"
_NAMES = "ai2 alpha_crown crown crown_ibp dual fastlin interval lp lp_cvxpy zonotope"
_EXACT_AT_POINTS = tuple(_Method(name) for name in _NAMES.split())


@dataclass(frozen=True)
class _Check:
    """One comparison; said, of the two rows, is only made where the law is broken."""

    law: str
    rows: tuple[Row, Row]
    kept: bool
    said: Callable[[], str]


def check_laws(df: pd.DataFrame) -> tuple[list[Contradiction], list[LawCount]]:
    """The broken laws, and how often each law could be checked at all."""
    rows = [{**r, "statistics": r["statistics"] if isinstance(r["statistics"], dict) else {}} for r in records(df)]
    checks = [*_orders(rows), *_seen(rows), *_points(rows), *_monotone(rows)]
    found = [_broken(check) for check in checks if not check.kept]
    checked, broken = Counter(c.law for c in checks), Counter(c.law for c in checks if not c.kept)
    return found, [LawCount(law, checked[law], broken[law]) for law in sorted(checked)]


def _broken(check: _Check) -> Contradiction:
    one, _ = check.rows
    lines = tuple(dict.fromkeys(int(row["line"]) for row in check.rows))
    where = f"for instance {one['instance']} of model {one['model_label']}"
    return Contradiction(ContradictionKind.LAW, f"{check.said()}, {where}, but {check.law}.", lines)


def _orders(rows: Sequence[Row]) -> Iterator[_Check]:
    """Margins of verdicts and radii, of two methods on one question."""
    pooled = {r["model_hash"] for r in rows if any(name.endswith("max nodes") for name in r["statistics"])}
    known = {r["model_hash"] for r in rows if r["verifier"] in ("interval", "lp") and "margin" in r["statistics"]}
    for (model, _, norm, question), own in grouped(rows, "model_hash", "property_hash", "norm", "question").items():
        for order in _ORDERS:
            if norm not in order.norms or not (order.pooling or model in known - pooled):
                continue
            lower = [r for r in own if order.lower.made(r) and is_full(r)]
            upper = [r for r in own if order.upper.made(r) and is_full(r)]
            for low, high in product(lower, upper):
                yield from (_margins if question == "verify" else _radii)(order, low, high)


def _margins(order: _Order, low: Row, high: Row) -> Iterator[_Check]:
    if not (order.lower.bounded(low) and order.upper.bounded(high) and is_bounding(low) and is_bounding(high)):
        return
    gap = low["margin"] - high["margin"]
    excess = abs(gap) if order.equal else gap
    kept = excess <= order.slack * size(low["margin"], high["margin"])
    yield _Check(order.law, (low, high), kept, lambda: f"{has_margin(low)} and {has_margin(high)}")


def _radii(order: _Order, low: Row, high: Row) -> Iterator[_Check]:
    """The methods' statistics are not asked for: an answer at the certified radius says nothing of the others."""
    if order.lower.statistics or order.upper.statistics:
        return
    own, other = reach(low), reach(high)

    def said() -> str:
        return f"{certifies(low)} and {certifies(high)}"

    if order.equal and is_closed(low) and is_closed(high):
        yield _Check(order.law, (low, high), abs(own - other) <= 2 * TOLERANCE * max(own, other), said)
    elif order.monotone and is_closed(high):
        yield _Check(order.law, (low, high), other >= own * (1 - 2 * TOLERANCE), said)
    elif own:
        yield _Check(order.law, (low, high), own not in left_open(high), said)


def _seen(rows: Sequence[Row]) -> Iterator[_Check]:
    """Margins against what attacks came to."""
    asked = [r for r in rows if r["question"] == "verify" and is_full(r)]
    for own in grouped(asked, "model_hash", "property_hash", "norm").values():
        for high in (r for r in own if has_loss(r)):
            loss = float(high["statistics"]["loss"])
            for low in (r for r in own if is_bounding(r)):
                kept = low["margin"] - loss <= ROUNDED * size(low["margin"], loss)
                yield _Check(_SEEN, (low, high), kept, _against(low, high, loss))


def _points(rows: Sequence[Row]) -> Iterator[_Check]:
    """At radius 0, against an attack's value at the only input there is, else the largest margin."""
    asked = [r for r in rows if r["radius"] == 0 and is_full(r)]
    for own in grouped(asked, "model_hash", "property_hash", "norm").values():
        bounding = [r for r in own if is_bounding(r) and any(m.made(r) for m in _EXACT_AT_POINTS)]
        values = [(float(r["statistics"]["loss"]), r) for r in own if has_loss(r)]
        values = values or [(r["margin"], r) for r in bounding]
        if values:
            value, best = max(values, key=lambda pair: pair[0])
            for row in (r for r in bounding if r is not best):
                kept = value - row["margin"] <= POINT * size(value, row["margin"])
                yield _Check(_FORWARD, (row, best), kept, _against(row, best, value))


def _monotone(rows: Sequence[Row]) -> Iterator[_Check]:
    """One method about one sample at different radii."""
    about = [{**r, "source": source(r)} for r in rows if not math.isnan(r["index"]) and is_full(r)]
    keys = ("suite", "model_hash", "source", "index", "norm", "label", "method")
    for method, slack in _MONOTONE:
        for own in grouped([r for r in about if method.made(r)], *keys).values():
            said = [answer for row in own for answer in answers(row)]
            for small, large in permutations(said, 2):
                if small.radius < large.radius * (1 - ROUNDED):
                    yield from _shrunk(small, large, slack)


def _shrunk(small: Answer, large: Answer, slack: float) -> Iterator[_Check]:
    if math.isfinite(small.margin) and math.isfinite(large.margin):
        kept = large.margin - small.margin <= slack * size(small.margin, large.margin)
    elif large.holds:
        kept = small.holds
    else:
        return
    yield _Check(_SMALLER, (small.row, large.row), kept, lambda: f"{states(small)} and {states(large)}")


def _against(low: Row, high: Row, value: float) -> Callable[[], str]:
    return lambda: f"{has_margin(low)} and {who(high)} the value {value:.9g}"

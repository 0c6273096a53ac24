"""What is left of a verifier's claims after checking them: nobody is trusted about its own success."""

from __future__ import annotations

import math
from dataclasses import replace

from verifkit.capabilities import Kind
from verifkit.confirm import confirm
from verifkit.input_sets import rational
from verifkit.query import QueryFamily
from verifkit.radius import Radius, RadiusEnd
from verifkit.result import Arithmetic, Guarantee, Reason, Result, Semantics, Subject, Verdict


def guarantee_fault(guarantee: Guarantee | None, kind: Kind) -> str | None:
    """Why a method of this kind cannot give this guarantee; None if it can."""
    if kind is Kind.FALSIFIER or not isinstance(guarantee, Guarantee):
        return "claimed HOLDS without being able to prove it"
    chance = guarantee.failure_probability
    if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance < 1:
        return f"stated a failure probability of {chance!r}"
    if (chance > 0) != (kind is Kind.PROBABILISTIC):
        return "stated a failure probability that does not fit it"
    words = ((guarantee.subject, Subject), (guarantee.semantics, Semantics), (guarantee.arithmetic, Arithmetic))
    for word, known in words:
        if not isinstance(word, known):
            return f"stated {word!r}, which is no {known.__name__.lower()}"
    if guarantee.subject is Subject.SMOOTHED and kind is not Kind.PROBABILISTIC:
        return "claimed a smoothed classifier without a failure probability"
    return None


def vetted_radius(family: QueryFamily, radius: Radius, kind: Kind, name: str, known: RadiusEnd | None) -> Radius:
    """The bracket without an end that does not stand: a certified one needs a HOLDS with a guarantee that the kind can
    give, a falsified one a counterexample that replays within its radius.

    name: of the verifier. known: a falsified end that was vetted before.
    """
    if not isinstance(radius, Radius) or radius.norm != family.norm:
        nothing = f"{name} answered no question about an l{family.norm} radius"
        return Radius(family.norm, None, known, ((0.0, Reason.ERROR),), detail=nothing)
    certified, falsified, undecided, detail = radius.certified, radius.falsified, radius.undecided, radius.detail
    if certified is not None:
        fault = _certified_fault(certified, kind)
        if fault is not None:
            undecided, detail, certified = (*undecided, (0.0, Reason.ERROR)), f"{name} {fault}", None
    if falsified is not None and falsified is not known and not _replays(family, falsified):
        undecided, falsified = (*undecided, (_number(falsified), Reason.UNCONFIRMED)), known
        detail = detail or f"{name} named a falsified radius whose counterexample does not replay"
    reach = family.reach
    whole = certified is not None and reach is not None and certified.value >= float(reach)
    center = radius.center if radius.center is not None and radius.center.verdict is Verdict.UNKNOWN else None
    return replace(
        radius,
        certified=certified,
        falsified=falsified,
        undecided=undecided,
        complete=radius.complete and whole,
        detail=detail,
        center=center,
    )


def _certified_fault(end: RadiusEnd, kind: Kind) -> str | None:
    if not 0 <= end.value < math.inf:
        return f"certified a radius of {end.value}"
    if not isinstance(end.result, Result) or end.result.verdict is not Verdict.HOLDS:
        return "certified a radius without a verdict HOLDS"
    return guarantee_fault(end.result.guarantee, kind)


def _replays(family: QueryFamily, end: RadiusEnd) -> bool:
    """Whether the end's counterexample, replayed again, is one within its radius."""
    if not isinstance(end.result, Result) or end.result.witness is None or not 0 <= end.value < math.inf:
        return False
    return confirm(family.at(rational(end.value)), end.result.witness.x) is not None


def _number(end: RadiusEnd) -> float:
    return end.value if 0 <= end.value < math.inf else 0.0

"""Reluplex: simplex over pairs (b, f) that a ReLU binds, with repairs and lazy splits. Complete for ReLU networks.

Paper: Katz, Barrett, Dill, Julian, Kochenderfer, "Reluplex: an efficient SMT solver for verifying deep neural
networks", CAV 2017. The procedure is in `verifkit.analysis.reluplex`, written to be read; its tableau is its own, no
solver is called. In rational arithmetic every question is decided, ties included. In floats the search is faster:
every solution is replayed, every refuted branch carries Farkas multipliers that are checked in rationals, and a branch
where either fails is searched again in rationals.
Guarantee: HOLDS about the network, real semantics; exact arithmetic in the rational mode, rounded in the float mode
(its root bounds come from CROWN with outward rounding).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, TextIO

import numpy as np

from verifkit.analysis.interval import Bounds
from verifkit.analysis.linear import analyse
from verifkit.analysis.refute import conclude
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.reluplex.search import Found, Search, Settings, Unsettled
from verifkit.analysis.reluplex.system import Encoding, System
from verifkit.analysis.reluplex.tableau import Stalled
from verifkit.analysis.reluplex.trace import Trace
from verifkit.analysis.rows import rows_of
from verifkit.budget import BudgetExhausted, Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.confirm import confirm
from verifkit.errors import OptionError
from verifkit.evidence import FarkasTree, FarkasTrees
from verifkit.functions import Relu
from verifkit.ops import Max
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Verdict
from verifkit.verifier import Verifier

COUNTED = ("pivots", "repairs", "splits", "deduced phases", "tightened bounds", "leaves", "branches in rationals")
"""The steps that the statistics count."""


@dataclass(frozen=True)
class _Bounded:
    """What the bounds alone say. refuted: disjunct -> the row that refutes it, and its bound; order: of the others, the
    likeliest violation first. margin: a lower bound on the violation. bounds: of every node, or None (then the encoding
    computes its own)."""

    refuted: dict[int, tuple[int, float]]
    order: list[int]
    margin: float
    bounds: list[Bounds] | None


@dataclass(frozen=True, kw_only=True)
class Reluplex(Verifier):
    """arithmetic: "float" (faster, checked in rationals) or "rational". splits_after: repairs of a pair before it is
    split; 0 splits every pair before any repair. trace: a file to which every step is appended as a line of text."""

    arithmetic: Literal["float", "rational"] = "float"
    splits_after: int = 5
    trace: str = ""

    name: ClassVar[str] = "reluplex"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.COMPLETE, "1": Kind.COMPLETE},
        operators=frozenset({Max}),
        activations=frozenset({Relu}),
        coupling=True,
        paper=Paper(
            "katz2017reluplex",
            "Katz, Guy and Barrett, Clark and Dill, David L. and Julian, Kyle and Kochenderfer, Mykel J.",
            "Reluplex: an efficient SMT solver for verifying deep neural networks",
            "CAV",
            2017,
        ),
    )

    def __post_init__(self) -> None:
        if self.arithmetic not in ("float", "rational"):
            raise OptionError(f"reluplex's arithmetic is 'float' or 'rational', not '{self.arithmetic}'")
        if self.splits_after < 0:
            raise OptionError(f"reluplex's splits_after is a number of repairs, not {self.splits_after}")

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        with self._stream() as stream:
            trace, known = Trace(stream), self._bound(query, clock)
            if isinstance(known, Outcome):
                trace.heading("CROWN's bounds refute every unsafe region: no tableau is needed")
                return known

            def accept(x: Sequence[float]) -> bool:
                return confirm(query, np.array(x)) is not None

            settings = Settings(self.splits_after, clock, trace, accept)
            try:
                return self._search(query, known, settings)
            except BudgetExhausted:
                share = f"{100 * settings.closed / len(known.order):.3g} % of the case tree is refuted"
                detail = share if known.bounds is None else f"{share}; margin >= {known.margin:.6g}"
                spent = Reason.INCOMPLETE if clock.remaining > 0 else Reason.TIMEOUT  # the splits, or the time
                return Outcome.unknown(spent, detail, statistics=_statistics(known, settings))
            except (Unsettled, Stalled) as gap:
                return Outcome.unknown(Reason.UNCONFIRMED, str(gap), statistics=_statistics(known, settings))
            except OverflowError:
                why = "a coefficient lies beyond all floats"
                return Outcome.unknown(Reason.UNCONFIRMED, why, statistics=_statistics(known, settings))

    @contextmanager
    def _stream(self) -> Iterator[TextIO | None]:
        if not self.trace:
            yield None
            return
        try:
            with open(self.trace, "a", encoding="utf-8") as stream:
                yield stream
        except OSError as error:  # also a disk that is full at a later step
            raise OptionError(f"the trace '{self.trace}' cannot be written: {error.strerror}") from None

    def _bound(self, query: Query, clock: Clock) -> _Bounded | Outcome:
        """CROWN's bounds, and the outcome if they suffice; in rationals nothing is taken from floats."""
        count = len(query.prop.unsafe)
        if self.arithmetic == "rational":
            return _Bounded({}, list(range(count)), -np.inf, None)
        rows, region = rows_of(query.prop), region_of(query)
        analysis = analyse(query.network.without_max(), region, CROWN_RELAXATIONS, clock)
        lower = analysis.property_rows(rows)[0]
        outcome = conclude(query, rows, lower, analysis)
        if outcome.verdict is Verdict.HOLDS:
            return outcome
        refuted = {n: found for n, found in enumerate(rows.refuting(lower)) if found is not None}
        order = sorted(set(range(count)) - set(refuted), key=lambda n: rows.gap(lower, n))
        finite = all(np.isfinite(end).all() for ends in analysis.bounds for end in ends)
        return _Bounded(refuted, order, rows.margin(lower), analysis.bounds if finite else None)

    def _search(self, query: Query, known: _Bounded, settings: Settings) -> Outcome:
        """One run for each disjunct that is open."""
        inputs, network = query.prop.input_set, query.network.without_max()
        encoding = Encoding(network, inputs, known.bounds, query.model.dtype, settings.clock)
        refuted: dict[int, FarkasTree | tuple[int, float]] = dict(known.refuted)
        for number in known.order:
            disjunct = query.prop.unsafe[number]
            system = encoding.with_rows(disjunct.constraints)
            sizes = f"{len(system.inputs)} inputs, {len(system.pairs)} pairs, {len(disjunct.constraints)} rows"
            settings.trace.heading(f"unsafe region {number}: {sizes}; {self.arithmetic} arithmetic")
            result = _run(system, settings, exact=self.arithmetic == "rational")
            if isinstance(result, Found):
                statistics = _statistics(known, settings)
                return Outcome.violated(np.array(result.x, dtype=object), statistics=statistics)
            refuted[number] = result
        trees = tuple(refuted[number] for number in range(len(query.prop.unsafe)))
        evidence = FarkasTrees(encoding.intermediate, encoding.chord, trees)
        exact = known.bounds is None and not known.refuted
        proof = Guarantee(arithmetic=Arithmetic.EXACT if exact else Arithmetic.ROUNDED)
        return Outcome.holds(proof, evidence, statistics=_statistics(known, settings))


def _run(system: System, settings: Settings, *, exact: bool) -> Found | FarkasTree:
    if not exact:
        try:
            return Search(system, settings, exact=False).run()
        except Stalled as stalled:  # the numbers of the question itself are beyond floats
            settings.trace.step(f"in rationals: {stalled}")
    return Search(system, settings, exact=True).run()


def _statistics(known: _Bounded, settings: Settings) -> dict[str, float | int | str]:
    margin = {} if known.margin == -np.inf else {"margin": known.margin}
    return {**margin, **{name: settings.counts[name] for name in COUNTED}}

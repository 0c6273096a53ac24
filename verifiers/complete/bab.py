"""Branch and bound: the question is split until linear bounds refute every part, or a point is unsafe.

Papers: Bunel et al., "Branch and bound for piecewise linear neural network verification", JMLR 2020; Wang et al.,
"Beta-CROWN", NeurIPS 2021. Where few inputs vary, their box is bisected (`verifkit.analysis.bab.input_search`). Else
ReLUs are split by phase (`phase_search`, on `phase_bounds`), in turns with searches for the bounds of narrow layers
(`narrow_layers`). Either way points are moved downhill from where the bounds are least, and replayed.
Guarantee: HOLDS about the network, real semantics, rounded arithmetic: every part's bound is rigorous.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import numpy as np

from verifkit.analysis.bab.box_examination import Disjuncts
from verifkit.analysis.bab.chain import Chain, chain_of
from verifkit.analysis.bab.chain_attack import ChainAttack
from verifkit.analysis.bab.input_search import InputSearch
from verifkit.analysis.bab.l1_ball import without_ball
from verifkit.analysis.bab.narrow_layers import NarrowLayers
from verifkit.analysis.bab.phase_bounds import PhaseBounds
from verifkit.analysis.bab.phase_search import PhaseSearch
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.refute import conclude
from verifkit.analysis.region import Region, member, region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.analysis.slopes import Ascent
from verifkit.budget import BudgetExhausted, Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import OptionError
from verifkit.functions import Relu
from verifkit.network import Network
from verifkit.ops import Max
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Verdict
from verifkit.solvers.leaf_program import LeafAttack, solve_leaf
from verifkit.verifier import Verifier

Branching = Literal["auto", "input", "phase"]

FEW = 16
"""Inputs up to which "auto" bisects their box."""

TASTE, MOST = 1e9, 256
"""Where more inputs vary, it bisects for about so many products, and at most so many boxes, before it splits phases."""

UNITS, CLEAR = 64, 5000
"""With no more undecided units than this it gives bisection so many boxes, then splits phases: where a network is flat
next to the unsafe set, boxes must be as small as the margin all along the edge of the flat part."""

ASCENT = Ascent(10, 0.4, 0.85)
"""How the bounds of the layers are raised before a search by phases."""

ROUND, GROWTH = 500, 4
"""Splits after which a search by phases gives way to those for the bounds of narrow layers, and how much longer each
next one is."""


@dataclass(frozen=True, kw_only=True)
class Bab(Verifier):
    """branching: "input" bisects the box of inputs, "phase" splits ReLUs; "auto" bisects where few inputs vary.

    batch: parts that are bounded together. processes: how many share the work, this one included.
    """

    branching: Branching = "auto"
    batch: int = 64
    processes: int = 1

    name: ClassVar[str] = "bab"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.COMPLETE, "1": Kind.COMPLETE},
        operators=frozenset({Max}),
        activations=frozenset({Relu}),
        coupling=True,
        paper=Paper(
            "wang2021betacrown",
            "Wang, Shiqi and Zhang, Huan and Xu, Kaidi and Lin, Xue and Jana, Suman and Hsieh, Cho-Jui and Kolter, "
            "J. Zico",
            "Beta-CROWN: efficient bound propagation with per-neuron split constraints for neural network robustness "
            "verification",
            "NeurIPS",
            2021,
        ),
    )

    def __post_init__(self) -> None:
        if self.branching not in get_args(Branching):
            raise OptionError(
                f"bab's branching must be one of {', '.join(get_args(Branching))}, not '{self.branching}'"
            )
        if self.batch < 1 or self.processes < 1:
            raise OptionError("bab needs batch >= 1 and processes >= 1")

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        network, region, rows = query.network.without_max(), region_of(query), rows_of(query.prop)
        if np.bincount(rows.disjunct, minlength=rows.n_disjuncts).min() == 0:  # no row at all: every input is unsafe
            return Outcome.violated(member(query))
        analysis = analyse(network, region, CROWN_RELAXATIONS, clock)
        root = conclude(query, rows, analysis.property_rows(rows), analysis)
        if root.verdict is Verdict.HOLDS:
            return root
        try:
            return self._searched(query, network, region, rows, analysis, clock)
        except BudgetExhausted:
            return Outcome.unknown(Reason.TIMEOUT, root.detail, statistics=root.statistics)

    def _searched(
        self, query: Query, network: Network, region: Region, rows: Rows, analysis: LinearAnalysis, clock: Clock
    ) -> Outcome:
        """What a search says where linear bounds do not suffice."""
        network, box, rows = without_ball(network, region, rows)
        by_phase = self.branching == "phase"
        if self.branching == "auto":
            by_phase = int((box.lower < box.upper).sum()) > FEW
        if by_phase or box is not region:
            analysis = analyse(network, box, CROWN_RELAXATIONS, clock, ascent=ASCENT if by_phase else None)
        chain = chain_of(network, analysis.bounds, rows)
        if chain is None:
            return Outcome.unknown(Reason.UNSUPPORTED, "bab: the network's layers are too large for dense matrices")
        disjuncts = Disjuncts.of(rows)
        search = InputSearch(query, chain, disjuncts, clock, batch=self.batch, processes=self.processes)
        first = self._boxes(chain, search.bounds.work, by_phase=by_phase)
        if first is None:
            return search.run(clock.budget.nodes)
        if first:
            tasted = search.run(min(first, clock.budget.nodes or first))
            if not (tasted.reason is Reason.INCOMPLETE or (by_phase and tasted.reason is Reason.UNCONFIRMED)):
                return tasted
        return self._by_phase(query, chain, disjuncts, clock)

    def _boxes(self, chain: Chain, work: float, *, by_phase: bool) -> int | None:
        """How many boxes are examined before phases are split; None for as many as it takes."""
        if self.branching == "phase":
            return 0
        if by_phase:
            return int(min(MOST, TASTE / work))
        return CLEAR if self.branching == "auto" and chain.undecided <= UNITS else None

    def _by_phase(self, query: Query, chain: Chain, disjuncts: Disjuncts, clock: Clock) -> Outcome:
        """Searches by phases that grow, in turns with longer ones for the bounds of narrow layers, as long as those
        could be enough."""
        narrow = NarrowLayers(chain, disjuncts, clock, self.batch, self.processes, solve_leaf)
        nodes, splits, turn, rounds = clock.budget.nodes, 0, ROUND, 0
        while True:
            left = None if nodes is None else nodes - splits
            limit = left if not narrow.numbers or (rounds and not narrow.promising) else min(turn, left or turn)
            outcome = self._search(query, narrow, disjuncts, clock, limit)
            if outcome.reason is not Reason.INCOMPLETE or limit == left:
                return outcome
            splits, turn, rounds = splits + turn, turn * GROWTH, rounds + 1
            boxes = narrow.round(turn)
            if boxes is not None:
                statistics = {**outcome.statistics, "rounds of a narrow layer": rounds}
                proof = Guarantee(arithmetic=Arithmetic.ROUNDED)
                return Outcome.holds(proof, boxes, detail="by bounds of a narrow layer", statistics=statistics)
            if clock.remaining <= 0:
                return replace(outcome, reason=Reason.TIMEOUT)

    def _search(
        self, query: Query, narrow: NarrowLayers, disjuncts: Disjuncts, clock: Clock, nodes: int | None
    ) -> Outcome:
        """One search by phases, of so many splits at most."""
        bounds = PhaseBounds(narrow.chain, disjuncts)
        attack = ChainAttack(query, bounds.chain, disjuncts, bounds.base.matrices)
        near = LeafAttack(bounds, attack, clock)
        search = PhaseSearch(bounds, clock, self.batch, self.processes, near.at, solve_leaf)
        found = search.run(bounds.whole(np.arange(disjuncts.rows.shape[0])), nodes)
        statistics: dict[str, float | int | str] = {"splits": search.splits, "least violation tried": attack.least}
        if found.witness is not None:
            return Outcome.violated(found.witness, statistics=statistics)
        if found.reason is None:
            bounds_of = tuple(narrow.proved.values())
            tree = None if found.tree is None else replace(found.tree, unit_bounds=bounds_of)
            return Outcome.holds(Guarantee(arithmetic=Arithmetic.ROUNDED), tree, statistics=statistics)
        detail = f"{search.open} parts open after {search.splits} splits, margin >= {found.margin:.6g}"
        return Outcome.unknown(found.reason, detail, statistics={**statistics, "margin": found.margin})

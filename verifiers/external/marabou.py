"""Marabou, an SMT-based complete solver for networks of ReLU, leaky ReLU and max pooling, over boxes.

Papers: Katz et al., "The Marabou framework for verification and analysis of deep neural networks", CAV 2019; Wu et al.,
"Marabou 2.0: a versatile formal analyzer of neural networks", CAV 2024.
CROWN bounds come first; what they do not refute is asked disjunct by disjunct. Marabou gets our own lowered network
(compared with onnxruntime on load) with CROWN's bounds, not the ONNX file: a slip of its parser cannot become a wrong
HOLDS. Each question is asked twice at most: with the unsafe rows relaxed by all that Marabou's tolerances may hide,
where "unsat" refutes the disjunct; and, if the point found does not replay, with the rows tightened by as much, for a
point that does. Between the two lies UNKNOWN(unconfirmed).
Guarantee: HOLDS about the network, real semantics, solver arithmetic; rounded where CROWN's bounds refute everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar

import numpy as np

from verifkit.analysis.linear import analyse
from verifkit.analysis.refute import conclude
from verifkit.analysis.region import member, region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.analysis.tolerance import hidden_by_tolerance
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.confirm import confirm
from verifkit.functions import LeakyRelu, Relu
from verifkit.ops import Max
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Verdict
from verifkit.solvers.marabou import TOLERANCE, MarabouQuery, Said, ask
from verifkit.solvers.mixed_program import SolverLost, Unfit
from verifkit.verifier import Verifier


@dataclass(frozen=True, kw_only=True)
class Marabou(Verifier):
    """No options: Marabou's own search, by itself, on one thread."""

    name: ClassVar[str] = "marabou"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.COMPLETE},
        operators=frozenset({Max}),
        activations=frozenset({Relu, LeakyRelu}),
        coupling=True,
        modules={"maraboupy": "marabou"},
        paper=Paper(
            "wu2024marabou",
            "Wu, Haoze and Isac, Omri and Zeljić, Aleksandar and Tagomori, Teruhiro and Daggitt, Matthew and Kokke, "
            "Wen and Refaeli, Idan and Amir, Guy and Julian, Kyle and Bassan, Shahaf and Huang, Pei and Lahav, Ori and "
            "Wu, Min and Zhang, Min and Komendantskaya, Ekaterina and Katz, Guy and Barrett, Clark",
            "Marabou 2.0: a versatile formal analyzer of neural networks",
            "CAV",
            2024,
        ),
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        network, region, rows = query.network.without_max(), region_of(query), rows_of(query.prop)
        if any(not disjunct.constraints for disjunct in query.prop.unsafe):  # every input is unsafe
            return Outcome.violated(member(query))
        analysis = analyse(network, region, CROWN_RELAXATIONS, clock)
        lower = np.asarray(analysis.property_rows(rows)[0])
        by_bounds = conclude(query, rows, lower, analysis)
        if by_bounds.verdict is Verdict.HOLDS:
            return by_bounds
        still_open = [n for n, refuted in enumerate(rows.refuting(lower)) if refuted is None]
        still_open.sort(key=lambda n: rows.gap(lower, n))  # the likeliest violation first
        try:
            with rows.reported(lower):
                task = MarabouQuery(network.cast(region.lower), analysis.bounds, clock)
                hidden = 2.0 * hidden_by_tolerance(network, analysis.bounds, rows, task.tolerance)
                return _search(query, task, rows, hidden, still_open, clock)
        except Unfit as unfit:
            return Outcome.unknown(Reason.UNCONFIRMED, str(unfit))
        except SolverLost as lost:
            return Outcome.unknown(Reason.ERROR, str(lost))


def _search(
    query: Query, task: MarabouQuery, rows: Rows, hidden: np.ndarray, still_open: list[int], clock: Clock
) -> Outcome:
    """Every disjunct in `still_open`, first relaxed, then, where a point does not replay, tightened."""
    unconfirmed = ""
    statistics: dict[str, float | int | str] = {"relus": len(task.relus), "disjuncts asked": 0, "splits": 0}
    for number in still_open:
        mine = np.flatnonzero(rows.disjunct == number)
        for sign in (1.0, -1.0):
            said = ask(task, task.rows(rows, mine, sign * hidden[mine]), clock)
            _count(statistics, said)
            if said is None or said.word == "TIMEOUT":
                return Outcome.unknown(Reason.TIMEOUT, statistics=statistics)
            if said.word == "unsat":
                break
            if said.word != "sat" or said.columns is None:
                return Outcome.unknown(Reason.ERROR, f"Marabou says {said.word}", statistics=statistics)
            x = task.point(said.columns)
            if confirm(query, x) is not None:
                return Outcome.violated(x, statistics=statistics)
        if sign < 0:  # the first time a point was found
            unconfirmed = f"a disjunct is reached only within Marabou's tolerance, {hidden[mine].max():.3g} in its rows"
    if unconfirmed:
        return Outcome.unknown(Reason.UNCONFIRMED, unconfirmed, statistics=statistics)
    name = f"Marabou {version('maraboupy')}"
    proof = Guarantee(
        arithmetic=Arithmetic.SOLVER,
        assumptions=(f"{name} where it says unsat, up to {TOLERANCE:g} in each of its variables",),
    )
    return Outcome.holds(proof, None, statistics=statistics)


def _count(statistics: dict[str, float | int | str], said: Said | None) -> None:
    statistics["disjuncts asked"] = int(statistics["disjuncts asked"]) + 1
    statistics["splits"] = int(statistics["splits"]) + (0 if said is None else said.splits)

"""The triangle relaxation as a linear program, one for each row of the unsafe set, from CROWN's bounds of every layer.

Paper: Ehlers, "Formal verification of piece-wise linear feed-forward neural networks" (Planet), ATVA 2017: the
relaxation is section 3's, without its case splits. The programs are `verifkit.solvers.triangle_program`. The solver's
word is never taken: its dual values become lines and multipliers of a backward pass (`verifkit.analysis.triangle`),
whose bound is the program's optimum to about 1e-9 of its terms and holds whatever the solver did.
Guarantee: HOLDS about the network, real semantics, rounded arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from verifkit.analysis.linear import analyse
from verifkit.analysis.refute import conclude
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import rows_of
from verifkit.analysis.triangle import TRIANGULAR
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import OptionError
from verifkit.ops import Max
from verifkit.query import Query
from verifkit.result import Outcome
from verifkit.solvers.triangle_bounds import property_bounds, tightened
from verifkit.verifier import Verifier

Tighten = Literal["crown", "lp"]


@dataclass(frozen=True, kw_only=True)
class Lp(Verifier):
    """tighten: where the bounds of the layers come from: "crown", or "lp" for two linear programs for each unit that
    CROWN leaves unstable, layer by layer (tighter, and many times slower).
    """

    tighten: Tighten = "crown"

    name: ClassVar[str] = "lp"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "1": Kind.INCOMPLETE},
        operators=frozenset({Max}),
        activations=TRIANGULAR,
        coupling=True,
        paper=Paper(
            "ehlers2017planet",
            'Ehlers, R{\\"u}diger',
            "Formal verification of piece-wise linear feed-forward neural networks",
            "ATVA",
            2017,
        ),
    )

    def __post_init__(self) -> None:
        if self.tighten not in get_args(Tighten):
            raise OptionError(f"lp's tighten must be one of {', '.join(get_args(Tighten))}, not '{self.tighten}'")

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        network, rows = query.network.without_max(), rows_of(query.prop)
        analysis = analyse(network, region_of(query), CROWN_RELAXATIONS, clock)
        with rows.reported(analysis.property_rows(rows)[0]):
            if self.tighten == "lp":
                analysis = tightened(analysis, CROWN_RELAXATIONS, clock)
            lower, own = property_bounds(analysis, rows, clock)
        return conclude(query, rows, lower, analysis, lines=own.lines, held=own.held)

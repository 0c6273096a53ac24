"""Zonotopes: every value an affine form in shared symbols, activations by parallel lines (DeepZ).

Papers: Gehr et al., "AI2: safety and robustness certification of neural networks with abstract interpretation", IEEE
S&P 2018, for the domain; Singh et al., "Fast and effective robustness certification", NeurIPS 2018, for the
transformers. The forms are `verifkit.analysis.affine_forms`, their way through a network `verifkit.analysis.zonotope`,
the transformers `verifkit.analysis.parallel`. Guarantee: HOLDS about the network, real semantics, rounded arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from verifkit.analysis.parallel import PARALLEL_RELAXATIONS
from verifkit.analysis.refute import conclude
from verifkit.analysis.region import region_of
from verifkit.analysis.rows import rows_of
from verifkit.analysis.zonotope import zonotopes
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import OptionError
from verifkit.ops import Max, Product
from verifkit.query import Query
from verifkit.result import Outcome
from verifkit.verifier import Verifier


@dataclass(frozen=True, kw_only=True)
class Zonotope(Verifier):
    """DeepZ in all norms, intersected with interval bounds.

    generators: how many symbols a node may keep, those that move it most; the others become an interval around it, and
    time and memory stay bounded. A ball's input entries are kept beside them. 0 (the default) keeps all, or as many as
    half a gigabyte for each node holds.
    """

    generators: int = 0

    name: ClassVar[str] = "zonotope"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE, "1": Kind.INCOMPLETE, "0": Kind.INCOMPLETE},
        operators=frozenset({Max, Product}),
        activations=frozenset(PARALLEL_RELAXATIONS),
        coupling=True,
        paper=Paper(
            "singh2018deepz",
            "Singh, Gagandeep and Gehr, Timon and Mirman, Matthew and Pueschel, Markus and Vechev, Martin",
            "Fast and effective robustness certification",
            "NeurIPS",
            2018,
        ),
    )

    def __post_init__(self) -> None:
        if self.generators < 0:
            raise OptionError(f"zonotope's generators must be a number >= 0, not {self.generators}")

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        network = query.network.without_max()
        analysis = zonotopes(network, region_of(query), clock, generators=self.generators or None)
        rows = rows_of(query.prop)
        outcome = conclude(query, rows, analysis.property_rows(rows), analysis.linear)
        return replace(outcome, statistics={**outcome.statistics, "reduced": int(analysis.reduced)})

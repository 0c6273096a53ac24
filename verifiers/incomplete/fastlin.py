"""Fast-Lin: parallel lines around every unstable ReLU, rows pulled back to the input, layer by layer.

Paper: Weng et al., "Towards fast computation of certified robustness for ReLU networks", ICML 2018. Theorem 3.5 is
`verifkit.analysis.backward.lower_bounds` with the lines of slope u / (u - l) of `verifkit.analysis.parallel`.
Guarantee: HOLDS about the network, real semantics, rounded arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from verifkit.analysis.parallel import FASTLIN_RELAXATIONS
from verifkit.analysis.precision import Precision, check_precision
from verifkit.analysis.refute import refute, refute_batch
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.ops import Max
from verifkit.query import Query
from verifkit.result import Outcome
from verifkit.verifier import Verifier


@dataclass(frozen=True, kw_only=True)
class FastLin(Verifier):
    """Fast-Lin, intersected with interval bounds.

    precision: the floats of the analysis. In float32 the bounds are as safe and looser, which costs most where they are
    far apart (`benchmarks/RESULTS.md`); a network with a weight that is no float32 is refused.
    """

    precision: Precision = "float64"

    name: ClassVar[str] = "fastlin"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE, "1": Kind.INCOMPLETE},
        operators=frozenset({Max}),
        activations=frozenset(FASTLIN_RELAXATIONS),
        coupling=True,
        paper=Paper(
            "weng2018fastlin",
            "Weng, Tsui-Wei and Zhang, Huan and Chen, Hongge and Song, Zhao and Hsieh, Cho-Jui and Daniel, Luca and "
            "Boning, Duane and Dhillon, Inderjit",
            "Towards fast computation of certified robustness for ReLU networks",
            "ICML",
            2018,
        ),
    )

    def __post_init__(self) -> None:
        check_precision(self.name, self.precision)

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        return refute(query, FASTLIN_RELAXATIONS, clock, precision=self.precision)

    def _decide_batch(
        self, queries: Sequence[Query], clock: Clock, rngs: Sequence[np.random.Generator]
    ) -> list[Outcome]:
        return refute_batch(queries, FASTLIN_RELAXATIONS, clock, precision=self.precision)

"""CROWN-IBP: interval bounds inside the network, one backward pass from the unsafe rows.

Paper: Zhang et al., "Towards stable and efficient training of verifiably robust neural networks", ICLR 2020, section 3.
The backward pass is `verifkit.analysis.backward.lower_bounds`, with CROWN's lines on intervals. Guarantee: HOLDS about
the network, real semantics, rounded arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from verifkit.analysis.precision import Precision, check_precision
from verifkit.analysis.refute import refute, refute_batch
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.ops import Max, Product
from verifkit.query import Query
from verifkit.result import Outcome
from verifkit.verifier import Verifier


@dataclass(frozen=True, kw_only=True)
class CrownIbp(Verifier):
    """A little dearer than interval propagation, far cheaper than CROWN.

    precision: the floats of the analysis. In float32 the bounds are as safe and looser, which costs most where they are
    far apart (`benchmarks/RESULTS.md`); a network with a weight that is no float32 is refused.
    """

    precision: Precision = "float64"

    name: ClassVar[str] = "crown_ibp"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE, "1": Kind.INCOMPLETE},
        operators=frozenset({Max, Product}),
        activations=frozenset(CROWN_RELAXATIONS),
        coupling=True,
        paper=Paper(
            "zhang2020crownibp",
            "Zhang, Huan and Chen, Hongge and Xiao, Chaowei and Gowal, Sven and Stanforth, Robert and Li, Bo and "
            "Boning, Duane and Hsieh, Cho-Jui",
            "Towards stable and efficient training of verifiably robust neural networks",
            "ICLR",
            2020,
        ),
    )

    def __post_init__(self) -> None:
        check_precision(self.name, self.precision)

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        return refute(query, CROWN_RELAXATIONS, clock, tighten=False, precision=self.precision)

    def _decide_batch(
        self, queries: Sequence[Query], clock: Clock, rngs: Sequence[np.random.Generator]
    ) -> list[Outcome]:
        return refute_batch(queries, CROWN_RELAXATIONS, clock, tighten=False, precision=self.precision)

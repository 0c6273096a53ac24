"""CROWN: activations replaced by lines, rows pulled back to the input, every layer's bounds found that way.

Paper: Zhang et al., "Efficient neural network robustness certification with general activation functions", NeurIPS
2018. Theorem 3.2 is `verifkit.analysis.backward.lower_bounds`, table 2's lines are `verifkit.analysis.relaxation`.
Products are replaced by McCormick's planes. Guarantee: HOLDS about the network, real semantics, rounded arithmetic.
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
class Crown(Verifier):
    """CROWN with adaptive ReLU slopes, intersected with interval bounds.

    Boxes by their corners, l1 and l2 balls by the dual norm (with a clip box: by the best mixture of ball and box).
    precision: the floats of the analysis. In float32 the bounds are as safe and looser, which costs most where they are
    far apart (`benchmarks/RESULTS.md`); a network with a weight that is no float32 is refused.
    """

    precision: Precision = "float64"

    name: ClassVar[str] = "crown"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE, "1": Kind.INCOMPLETE},
        operators=frozenset({Max, Product}),
        activations=frozenset(CROWN_RELAXATIONS),
        coupling=True,
        paper=Paper(
            "zhang2018crown",
            "Zhang, Huan and Weng, Tsui-Wei and Chen, Pin-Yu and Hsieh, Cho-Jui and Daniel, Luca",
            "Efficient neural network robustness certification with general activation functions",
            "NeurIPS",
            2018,
        ),
    )

    def __post_init__(self) -> None:
        check_precision(self.name, self.precision)

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        return refute(query, CROWN_RELAXATIONS, clock, precision=self.precision)

    def _decide_batch(
        self, queries: Sequence[Query], clock: Clock, rngs: Sequence[np.random.Generator]
    ) -> list[Outcome]:
        return refute_batch(queries, CROWN_RELAXATIONS, clock, precision=self.precision)

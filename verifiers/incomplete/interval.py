"""Interval bound propagation (IBP): each value's range from its inputs' ranges, layer by layer.

Paper: Gowal et al., "On the effectiveness of interval bound propagation for training verifiably robust models", 2018;
the unsafe rows are merged into the last affine layer ("elision of the last layer", section 3 there).
Guarantee: HOLDS about the network, real semantics, rounded arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from verifkit.analysis.interval import INTERVAL_RULES
from verifkit.analysis.precision import Precision, check_precision
from verifkit.analysis.refute import refute, refute_batch
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.ops import Max, Product
from verifkit.query import Query
from verifkit.result import Outcome
from verifkit.verifier import Verifier


@dataclass(frozen=True, kw_only=True)
class Interval(Verifier):
    """Interval bound propagation. An l0, l1 or l2 ball is enclosed in its bounding box.

    precision: the floats of the analysis. In float32 the bounds are as safe and looser, which costs most where they are
    far apart (`benchmarks/RESULTS.md`); a network with a weight that is no float32 is refused.
    """

    precision: Precision = "float64"

    name: ClassVar[str] = "interval"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE, "1": Kind.INCOMPLETE, "0": Kind.INCOMPLETE},
        operators=frozenset({Max, Product}),
        activations=frozenset(INTERVAL_RULES),
        coupling=True,
        paper=Paper(
            "gowal2018ibp",
            "Gowal, Sven and Dvijotham, Krishnamurthy and Stanforth, Robert and Bunel, Rudy and Qin, Chongli and "
            "Uesato, Jonathan and Arandjelovic, Relja and Mann, Timothy and Kohli, Pushmeet",
            "On the effectiveness of interval bound propagation for training verifiably robust models",
            "arXiv:1810.12715",
            2018,
        ),
    )

    def __post_init__(self) -> None:
        check_precision(self.name, self.precision)

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        # No lines at all: the shared backward pass then stops at the last activations and uses their intervals.
        return refute(query, {}, clock, precision=self.precision)

    def _decide_batch(
        self, queries: Sequence[Query], clock: Clock, rngs: Sequence[np.random.Generator]
    ) -> list[Outcome]:
        return refute_batch(queries, {}, clock, precision=self.precision)

"""The convex outer adversarial polytope: a feasible point of the dual of its linear program, by a dual network.

Paper: Wong and Kolter, "Provable defenses against adversarial examples via the convex outer adversarial polytope", ICML
2018. The dual network of theorem 1 is the backward pass `verifkit.analysis.backward.lower_bounds` with
D = u / (u - l) on both sides of an unstable unit, equation 8, and the input terms of a ball, a box, or both.
Guarantee: HOLDS about the network, real semantics, rounded arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from verifkit.analysis.parallel import OUTER_POLYTOPE
from verifkit.analysis.precision import Precision, check_precision
from verifkit.analysis.refute import refute, refute_batch
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.ops import Max
from verifkit.query import Query
from verifkit.result import Outcome
from verifkit.verifier import Verifier


@dataclass(frozen=True, kw_only=True)
class Dual(Verifier):
    """The polytope's bound for ReLU networks, intersected with interval bounds.

    precision: the floats of the analysis. In float32 the bounds are as safe and looser, which costs most where they are
    far apart (`benchmarks/RESULTS.md`); a network with a weight that is no float32 is refused.
    """

    precision: Precision = "float64"

    name: ClassVar[str] = "dual"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE, "1": Kind.INCOMPLETE},
        operators=frozenset({Max}),
        activations=frozenset(OUTER_POLYTOPE),
        coupling=True,
        paper=Paper(
            "wong2018provable",
            "Wong, Eric and Kolter, J. Zico",
            "Provable defenses against adversarial examples via the convex outer adversarial polytope",
            "ICML",
            2018,
        ),
    )

    def __post_init__(self) -> None:
        check_precision(self.name, self.precision)

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        return refute(query, OUTER_POLYTOPE, clock, precision=self.precision)

    def _decide_batch(
        self, queries: Sequence[Query], clock: Clock, rngs: Sequence[np.random.Generator]
    ) -> list[Outcome]:
        return refute_batch(queries, OUTER_POLYTOPE, clock, precision=self.precision)

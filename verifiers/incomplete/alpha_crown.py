"""alpha-CROWN: CROWN with lower slopes that are optimised, for every row and every layer of their own.

Paper: Xu et al., "Fast and complete: enabling complete verification with rapid and massively parallel incomplete
verifiers", ICLR 2021, section 3.1. The ascent is `verifkit.analysis.slopes`. It starts from CROWN's slopes and keeps
the best iterate, so that no bound is worse than CROWN's for the same bounds of the layers before. Guarantee: HOLDS
about the network, real semantics, rounded arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from verifkit.analysis.precision import Precision, check_precision
from verifkit.analysis.refute import refute_raised
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.slopes import Ascent
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import OptionError
from verifkit.ops import Max, Product
from verifkit.query import Query
from verifkit.result import Outcome
from verifkit.verifier import Verifier


@dataclass(frozen=True, kw_only=True)
class AlphaCrown(Verifier):
    """iterations: gradient steps for the unsafe rows; layer_iterations: for each unstable unit's bounds. rate: the
    first step, in units of a slope's range. decay: its factor.

    early_stop: a row that is refuted is not raised further; without it the margin in the statistics is the best found.
    precision: the floats of the analysis. In float32 the bounds are as safe and looser, which costs most where they are
    far apart (`benchmarks/RESULTS.md`); a network with a weight that is no float32 is refused.
    """

    iterations: int = 20
    layer_iterations: int = 10
    rate: float = 0.4
    decay: float = 0.85
    early_stop: bool = True
    precision: Precision = "float64"

    def __post_init__(self) -> None:
        check_precision(self.name, self.precision)
        if min(self.iterations, self.layer_iterations) < 0 or not 0 < self.rate < np.inf or not 0 < self.decay <= 1:
            raise OptionError(
                "alpha_crown needs iterations and layer_iterations >= 0, a finite rate > 0, 0 < decay <= 1"
            )

    name: ClassVar[str] = "alpha_crown"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE, "1": Kind.INCOMPLETE},
        operators=frozenset({Max, Product}),
        activations=frozenset(CROWN_RELAXATIONS),
        coupling=True,
        paper=Paper(
            "xu2021alphacrown",
            "Xu, Kaidi and Zhang, Huan and Wang, Shiqi and Wang, Yihan and Jana, Suman and Lin, Xue and Hsieh, Cho-Jui",
            "Fast and complete: enabling complete verification with rapid and massively parallel incomplete verifiers",
            "ICLR",
            2021,
        ),
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        layers = Ascent(self.layer_iterations, self.rate, self.decay)
        ascent = replace(layers, iterations=self.iterations)
        return refute_raised(
            query,
            CROWN_RELAXATIONS,
            clock,
            layers,
            ascent,
            early_stop=self.early_stop,
            precision=self.precision,
        )

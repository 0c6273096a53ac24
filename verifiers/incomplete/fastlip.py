"""Fast-Lip: the margin at the center against a bound on the gradient over the region.

Paper: Weng et al., "Towards fast computation of certified robustness for ReLU networks", ICML 2018, section 3. The
gradient's bounds are `verifkit.analysis.lipschitz.gradient_bounds`, the dual norm is `least_fall` there. Guarantee:
HOLDS about the network, real semantics, rounded arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np

from verifkit.analysis.interval import Bounds
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.lipschitz import (
    SLOPE_RULES,
    gradient_bounds,
    inner_point,
    least_fall,
    row_bounds,
    shrunk,
)
from verifkit.analysis.parallel import PARALLEL_RELAXATIONS
from verifkit.analysis.refute import conclude
from verifkit.analysis.region import Region, region_of
from verifkit.analysis.rounding import down, inflate
from verifkit.analysis.rows import Rows, rows_of
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import OptionError
from verifkit.network import Network
from verifkit.ops import Max, Product
from verifkit.query import Query
from verifkit.result import Outcome
from verifkit.verifier import Verifier


@dataclass(frozen=True, kw_only=True)
class FastLip(Verifier):
    """The value of each row at the center, less what its gradient's bounds let it fall.

    shells: how many concentric shells the gradient is bounded on, each with layer bounds of its own: 1 is the plain
    bound, more are tighter and take proportionally longer (the paper's code has 30).
    """

    shells: int = 1

    name: ClassVar[str] = "fastlip"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "2": Kind.INCOMPLETE, "1": Kind.INCOMPLETE},
        operators=frozenset({Max, Product}),
        activations=frozenset(SLOPE_RULES),
        coupling=True,
        paper=Paper(
            "weng2018fastlip",
            "Weng, Tsui-Wei and Zhang, Huan and Chen, Hongge and Song, Zhao and Hsieh, Cho-Jui and Boning, Duane and "
            "Dhillon, Inderjit S. and Daniel, Luca",
            "Towards fast computation of certified robustness for ReLU networks",
            "ICML",
            2018,
        ),
    )

    def __post_init__(self) -> None:
        if not 1 <= self.shells <= 10_000:
            raise OptionError(f"fastlip: shells must lie between 1 and 10000, not {self.shells}")

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        network, region, rows = query.network.without_max(), region_of(query), rows_of(query.prop)
        point = inner_point(region)
        lower = analyse(network, Region(point, point), {}, clock).property_rows(rows)[0]
        for inner, outer in pairwise(k / self.shells for k in range(self.shells + 1)):
            analysis = analyse(network, shrunk(region, point, outer), PARALLEL_RELAXATIONS, clock)
            clock.check()
            if lower.size:
                gradient = gradient_bounds(network, analysis.bounds, _coefficients(analysis, rows))
                fall = inflate(np.array(outer - inner)) * least_fall(gradient, region, point)[0]
                lower = down(lower + down(fall))
        # The last shell is the whole set: its layers are the answer's. Its lines are not what the rows rest on.
        return replace(conclude(query, rows, np.where(np.isnan(lower), -np.inf, lower), analysis), evidence=None)


def _coefficients(analysis: LinearAnalysis, rows: Rows) -> dict[int, Bounds]:
    """The rows as bounds on the coefficients of the output's and, where they mention inputs, the input's entries."""
    network: Network = analysis.network
    batch, last = analysis.region.batch, len(network.nodes) - 1
    found = {last: _shaped(row_bounds(rows.outputs, rows.output_error), batch, network.output_shape)}
    if rows.inputs is not None:
        found[0] = _shaped(row_bounds(rows.inputs, rows.input_error), batch, network.input_shape)
    return found


def _shaped(bounds: Bounds, batch: int, shape: tuple[int, ...]) -> Bounds:
    low, high = (np.broadcast_to(end.reshape(1, -1, *shape), (batch, len(end), *shape)) for end in bounds)
    return low, high

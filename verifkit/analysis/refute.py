"""From bounds to an outcome: the last step that the linear incomplete verifiers share."""

from __future__ import annotations

from collections.abc import Mapping

from verifkit.analysis.linear import LinearAnalysis, analyse
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import Relaxation
from verifkit.analysis.rows import rows_of
from verifkit.budget import Clock
from verifkit.evidence import Leaf
from verifkit.functions import ScalarFunction
from verifkit.ops import Activation, Product
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason


def refute(
    query: Query, relaxations: Mapping[type[ScalarFunction], Relaxation], clock: Clock, *, tighten: bool = True
) -> Outcome:
    """HOLDS if for every disjunct some row can never be satisfied, else UNKNOWN(incomplete) with the margin."""
    network = query.network.without_max() if relaxations else query.network
    analysis = analyse(network, region_of(query), relaxations, clock, tighten=tighten)
    rows = rows_of(query.prop)
    lower = analysis.property_rows(rows)[0]
    found = rows.refuting(lower)
    margin = rows.margin(lower)
    statistics = {"margin": margin}
    refuting = [f for f in found if f is not None]
    if len(refuting) < len(found):
        open_ones = len(found) - len(refuting)
        detail = f"{open_ones} of {len(found)} unsafe regions not excluded; margin >= {margin:.6g}"
        return Outcome.unknown(Reason.INCOMPLETE, detail, statistics=statistics)
    guarantee = Guarantee(arithmetic=Arithmetic.ROUNDED)
    return Outcome.holds(guarantee, _leaf(analysis, refuting), statistics=statistics)


def _leaf(analysis: LinearAnalysis, refuting: list[tuple[int, float]]) -> Leaf:
    read = {p for n in analysis.network.nodes if isinstance(n, Activation | Product) for p in n.parents}
    intermediate = {k: analysis.bounds[k] for k in sorted(read)}
    return Leaf(intermediate, analysis.lines, tuple(refuting), analysis.planes)

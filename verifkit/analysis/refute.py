"""From bounds to an outcome: the last step that the linear incomplete verifiers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from verifkit.analysis.layers import layer_bounds
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.precision import Precision, float_of, rounding_node
from verifkit.analysis.region import region_of, stacked
from verifkit.analysis.relaxation import Relaxation
from verifkit.analysis.rows import Rows, rows_of
from verifkit.analysis.slopes import Ascent, raise_rows
from verifkit.budget import Clock
from verifkit.evidence import Held, Leaf, Lines
from verifkit.functions import ScalarFunction
from verifkit.ops import Activation, Max, Product
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason

Relaxations = Mapping[type[ScalarFunction], Relaxation]


def refute(
    query: Query,
    relaxations: Relaxations,
    clock: Clock,
    *,
    tighten: bool = True,
    precision: Precision = "float64",
) -> Outcome:
    """HOLDS if for every disjunct some row can never be satisfied, else UNKNOWN(incomplete) with the margin."""
    return refute_batch([query], relaxations, clock, tighten=tighten, precision=precision)[0]


def refute_batch(
    queries: Sequence[Query],
    relaxations: Relaxations,
    clock: Clock,
    *,
    tighten: bool = True,
    precision: Precision = "float64",
) -> list[Outcome]:
    """The same for several queries about one network, with one analysis for all input sets of a kind."""
    rounded = rounding_node(queries[0].network, precision)
    if rounded is not None:
        return [Outcome.unknown(Reason.UNSUPPORTED, rounded)] * len(queries)
    network = queries[0].network.without_max() if relaxations else queries[0].network
    found: dict[int, Outcome] = {}
    for places, region in stacked([region_of(query, float_of(precision)) for query in queries]):
        analysis = analyse(network, region, relaxations, clock, tighten=tighten)
        rows = [rows_of(queries[place].prop) for place in places]
        for entry, (place, lower) in enumerate(zip(places, analysis.rows_each(rows), strict=True)):
            found[place] = conclude(queries[place], rows[entry], lower, analysis.one(entry))
    return [found[place] for place in range(len(queries))]


def refute_raised(
    query: Query,
    relaxations: Relaxations,
    clock: Clock,
    layers: Ascent,
    ascent: Ascent,
    *,
    early_stop: bool,
    precision: Precision = "float64",
) -> Outcome:
    """The same with slopes that are optimised, for the bounds of every layer and for every unsafe row.

    layers, ascent: how the bounds of the layers, and how the unsafe rows are raised. early_stop: a row that is refuted
    is left as it is.
    """
    rounded = rounding_node(query.network, precision)
    if rounded is not None:
        return Outcome.unknown(Reason.UNSUPPORTED, rounded)
    region = region_of(query, float_of(precision))
    analysis = analyse(query.network.without_max(), region, relaxations, clock, ascent=layers)
    compact, rows = analysis.compact, rows_of(query.prop)
    if compact is None or not rows.outputs.shape[0]:
        return conclude(query, rows, analysis.property_rows(rows), analysis)
    start = {k: compact.rows_of(k, v) for k, v in analysis.starts([rows]).items()}
    goal = rows.bound[None] if early_stop else np.full((1, rows.bound.size), np.inf)
    raised = raise_rows(compact, start, None, goal, ascent, clock)
    lines = {k: replace(analysis.lines[k], lower_slope=compact.spread(k, v)) for k, v in raised.slopes.items()}
    return conclude(query, rows, analysis.certain([rows], raised.lower), analysis, lines=lines)


def conclude(
    query: Query,
    rows: Rows,
    lower: np.ndarray,
    analysis: LinearAnalysis,
    *,
    lines: Mapping[int, Lines] | None = None,
    held: Held | None = None,
) -> Outcome:
    """An outcome from rigorous lower bounds (R,) or (1, R) on the rows of an unsafe set.

    analysis: of the query's region alone; the bounds came from it and from lines and multipliers of the rows' own.
    """
    lower = np.reshape(lower, -1).astype(np.float64)  # the thresholds are: nothing is rounded in comparing
    found = rows.refuting(lower)
    margin = rows.margin(lower)
    statistics: dict[str, float | int | str] = {"margin": margin}
    groups = sum(isinstance(node, Max) for node in query.network.nodes)
    if groups:  # bounds of the maxima are not ordered as those of linear maps and activations are
        statistics["max nodes"] = groups
    bounds = layer_bounds(query.network, analysis)
    refuting = [f for f in found if f is not None]
    if len(refuting) < len(found):
        open_ones = len(found) - len(refuting)
        detail = f"{open_ones} of {len(found)} unsafe regions not excluded; margin >= {margin:.6g}"
        return Outcome.unknown(Reason.INCOMPLETE, detail, statistics=statistics, bounds=bounds)
    leaf = _leaf(analysis, refuting, lines or {}, held or {})
    return Outcome.holds(Guarantee(arithmetic=Arithmetic.ROUNDED), leaf, statistics=statistics, bounds=bounds)


def _leaf(analysis: LinearAnalysis, refuting: list[tuple[int, float]], lines: Mapping[int, Lines], held: Held) -> Leaf:
    read = {p for n in analysis.network.nodes if isinstance(n, Activation | Product) for p in n.parents}
    intermediate = {k: analysis.bounds[k] for k in sorted(read)}
    return Leaf(intermediate, {**analysis.lines, **lines}, tuple(refuting), analysis.planes, held)

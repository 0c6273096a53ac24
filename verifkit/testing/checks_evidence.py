"""The evidence of a HOLDS says something true: bounds contain values, lines bound activations, solver bounds are low.

Evidence of other kinds passes unread; a verifier without evidence has nothing to fail here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np

from verifkit.capabilities import Kind
from verifkit.evidence import Evidence, Leaf, SolverBound
from verifkit.input_sets import LpBall, Norm
from verifkit.network import Network
from verifkit.ops import Activation, Product
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.result import Verdict
from verifkit.testing import toys
from verifkit.testing.checks import EXACT_NORMS, Rule, Trial
from verifkit.testing.crossings import crossed_line, crossed_plane
from verifkit.testing.gallery import Exhibit
from verifkit.testing.oracle import ToyNet
from verifkit.testing.questions import supported
from verifkit.testing.samples import Sample, float_points, judge, row_minimum

COUNT = 24
"""Questions per norm whose evidence is read."""

FAR = 2**14
"""A bound that no toy network comes near, so that a method says HOLDS and shows what it computed."""

POINTS = 1000
TOLERANCE = 1e-9
"""Of the float64 evaluation that sampled values come from."""


def _proving(trial: Trial) -> list[Norm]:
    return trial.of_kind(Kind.COMPLETE, Kind.INCOMPLETE)


def _reads(trial: Trial) -> bool:
    return bool(_proving(trial)) and not trial.verifier.capabilities.robustness_only


def outputs_far(prop: Property, coupling: bool) -> Property:
    """Unsafe: any output (or its negative, or its sum with every input) at most -FAR. Its evidence bounds them all."""
    one = Fraction(1)
    rows = []
    for j in range(prop.n_outputs):
        for sign in (one, -one):
            inputs = tuple((i, sign) for i in range(prop.n_inputs)) if coupling and sign > 0 else ()
            rows.append(Constraint(outputs=((j, sign),), bound=Fraction(-FAR), inputs=inputs))
            third = ((j, sign / 3), ((j + 1) % prop.n_outputs, one))  # a coefficient that is no float
            rows.append(Constraint(outputs=third, bound=Fraction(-FAR)))
    return replace(prop, unsafe=tuple(Polyhedron((row,)) for row in rows))


def _far_samples(trial: Trial, norm: Norm) -> Iterator[Sample]:
    read = False
    for number, sample in enumerate(trial.samples(norm, COUNT // 2 if norm == "2" else COUNT)):
        if number == 4 and not read:
            return  # evidence of another kind: nothing here reads it
        prop = outputs_far(sample.prop, trial.verifier.capabilities.coupling)
        yield Sample(sample.name, sample.toy, prop, sample.truth, query := Query(sample.query.model, prop))
        read = read or isinstance(_proof(trial, query), Leaf)


def _proof(trial: Trial, query: Query) -> Evidence | None:
    result = trial.ask(query)
    return result.evidence if result.verdict is Verdict.HOLDS else None


def _least(sample: Sample, disjunct: int, row: int) -> float:
    """The row's least value: exact, or for an l2 ball over samples (which lies above it)."""
    region = sample.prop.input_set
    if not isinstance(region, LpBall) or region.norm == "1":
        return float(row_minimum(sample.toy, sample.prop, disjunct, row))
    rng = np.random.default_rng(3)
    x = float_points(rng, region, POINTS)
    if region.norm == "0":
        x = np.array([[float(c) for c in region.center]])
    y = toys.to_network(sample.toy).evaluate(x)
    constraint = sample.prop.unsafe[disjunct].constraints[row]
    value = sum((float(v) * y[:, j] for j, v in constraint.outputs), np.zeros(len(x)))
    return float(sum((float(v) * x[:, i] for i, v in constraint.inputs), value).min())


def stated_bounds_are_low(trial: Trial) -> None:
    """The bound that a HOLDS states for a row never exceeds the row's exact least value."""
    for norm in _proving(trial):
        for sample in _far_samples(trial, norm):
            proof = _proof(trial, sample.query)
            if not isinstance(proof, Leaf):
                continue
            for disjunct, (_, bound) in enumerate(proof.refuting_row):
                least = _least(sample, disjunct, 0)
                if bound > least + TOLERANCE * (1.0 + abs(least)):
                    row = sample.prop.unsafe[disjunct].constraints[0].canonical()
                    sentence = f"it bounds '{row}' below by {bound!r}, but the row reaches {least!r} ({sample.name})"
                    trial.fail("stated_bounds_are_low", sentence, sample.reproducer())


def solver_bounds_are_low(trial: Trial) -> None:
    """The bound that a solver proved on a disjunct's violation never exceeds the exact one, tolerance apart."""
    for norm in (n for n in _proving(trial) if n in EXACT_NORMS):
        for sample in trial.samples(norm, COUNT):
            proof = _proof(trial, sample.query)
            boxed = any(d.box is not None for d in sample.prop.unsafe)
            if boxed or not isinstance(proof, SolverBound):
                continue
            for disjunct, bound in zip(sample.prop.unsafe, proof.bounds, strict=True):
                margin = judge(sample.toy, replace(sample.prop, unsafe=(disjunct,))).margin
                assert margin is not None
                if bound > float(margin) + 1e-6 * (1.0 + abs(float(margin))):
                    sentence = f"it states a violation of at least {bound!r}, but {float(margin)!r} is reached"
                    trial.fail("solver_bounds_are_low", f"{sentence} ({sample.name})", sample.reproducer())


def evidence_refutes_everything(trial: Trial) -> None:
    """The evidence of a HOLDS speaks of every disjunct, and what it states suffices: bounds beyond the thresholds."""
    for norm in _proving(trial):
        for sample in trial.samples(norm, COUNT):
            proof, unsafe = _proof(trial, sample.query), sample.prop.unsafe
            if any(d.box is not None for d in unsafe):
                continue
            problem = None
            if isinstance(proof, Leaf):
                problem = _leaf_gap(proof, unsafe)
            elif isinstance(proof, SolverBound) and (len(proof.bounds) != len(unsafe) or not min(proof.bounds) >= 0):
                problem = f"its bounds {proof.bounds} on the disjuncts' violations prove nothing"
            if problem is not None:
                trial.fail("evidence_refutes_everything", f"{problem} ({sample.name})", sample.reproducer())


def _leaf_gap(proof: Leaf, unsafe: tuple[Polyhedron, ...]) -> str | None:
    """Rows are numbered through all disjuncts."""
    rows = [(number, row) for number, disjunct in enumerate(unsafe) for row in disjunct.constraints]
    if len(proof.refuting_row) != len(unsafe):
        return f"{len(proof.refuting_row)} rows are named for {len(unsafe)} disjuncts"
    for number, (index, bound) in enumerate(proof.refuting_row):
        owner, row = rows[index]
        beyond = Fraction(bound) > row.bound or (row.strict and Fraction(bound) == row.bound)
        if owner != number or not beyond:
            return f"for disjunct {number} it names row {index} of disjunct {owner} and {bound!r}, no refutation"
    return None


def intermediate_bounds_hold(trial: Trial) -> None:
    """Pre-activation bounds of a HOLDS contain the exact range, on toys, and every sampled value, on the gallery."""
    for norm in _proving(trial):
        for sample in _far_samples(trial, norm):
            proof = _proof(trial, sample.query)
            if isinstance(proof, Leaf):
                _sampled_inside(trial, proof, toys.to_network(sample.toy, outer=(1,)), sample.query, sample)
                if norm in ("inf", "1"):
                    _range_inside(trial, proof, sample)
        for exhibit in supported(trial.verifier.capabilities):
            for radius in (Fraction(1), Fraction(1, 32)):
                query = _exhibit_query(exhibit, norm, radius)
                proof = _proof(trial, query)
                if isinstance(proof, Leaf):
                    _sampled_inside(trial, proof, exhibit.network, query, None)
                    _exhibit_rows(trial, proof, exhibit, query)


def _exhibit_query(exhibit: Exhibit, norm: Norm, radius: Fraction) -> Query:
    from verifkit.testing.checks_capabilities import region_around

    region = region_around(exhibit.network.n_inputs, norm)
    if isinstance(region, LpBall) and norm != "0":
        region = replace(region, radius=radius)
    elif not isinstance(region, LpBall):
        region = replace(region, lower=(-radius,) * region.size, upper=(radius,) * region.size)
    return Query(exhibit.model, outputs_far(Property(region, (), 2), False))


def _exhibit_rows(trial: Trial, proof: Leaf, exhibit: Exhibit, query: Query) -> None:
    x = _points(query, exhibit.network)
    y = exhibit.network.evaluate(x).reshape(len(x), -1)
    for disjunct, (_, bound) in zip(query.prop.unsafe, proof.refuting_row, strict=True):
        row = disjunct.constraints[0]
        least = float(sum((float(v) * y[:, j] for j, v in row.outputs), np.zeros(len(y))).min())
        if bound > least + TOLERANCE * (1.0 + abs(least)):
            sentence = f"gallery network '{exhibit.name}': '{row.canonical()}' is bounded by {bound!r}, above {least!r}"
            trial.fail("stated_bounds_are_low", sentence)


def _points(query: Query, network: Network) -> np.ndarray:
    region = query.prop.input_set
    x = float_points(np.random.default_rng(11), region, POINTS)
    if isinstance(region, LpBall) and region.norm == "0":
        middle = np.array([float(c) for c in region.center])
        x = np.where(np.arange(len(x))[:, None] % region.size == np.arange(region.size), x, middle)
    return x.reshape(-1, *network.input_shape)


def _graph_of(proof: Leaf, network: Network) -> Network:
    """The network that the evidence numbers its nodes by: as it is, or without `Max`."""
    for candidate in (network, network.without_max()):
        read = {p for n in candidate.nodes if isinstance(n, Activation | Product) for p in n.parents}
        if set(proof.intermediate) <= read:
            return candidate
    return network


def _sampled_inside(trial: Trial, proof: Leaf, network: Network, query: Query, sample: Sample | None) -> None:
    graph = _graph_of(proof, network)
    x = _points(query, graph)
    values = graph.values(x)
    for index, (lower, upper) in proof.intermediate.items():
        value = values[index]
        slack = TOLERANCE * (1.0 + np.abs(value))
        outside = (value < np.asarray(lower) - slack) | (value > np.asarray(upper) + slack)
        if outside.any():
            at = np.argwhere(outside)[0]
            place = tuple(at[1:].tolist())
            sentence = (
                f"pre-activation {place} of node '{graph.nodes[index].name}' is {value[tuple(at)]!r} at a sampled "
                f"input, outside [{np.asarray(lower)[0][place]!r}, {np.asarray(upper)[0][place]!r}]"
            )
            trial.fail("intermediate_bounds_hold", sentence, "" if sample is None else sample.reproducer())


def _range_inside(trial: Trial, proof: Leaf, sample: Sample) -> None:
    """The exact range of every pre-activation, by the oracle on the network cut off there."""
    graph = toys.to_network(sample.toy, outer=(1,))
    read = [n.parents[0] for _, n in graph.activations()]
    for layer, index in enumerate(read, 1):
        if index not in proof.intermediate:
            continue
        lower, upper = (np.asarray(end).reshape(-1) for end in proof.intermediate[index])
        skips = tuple((s, k) for s, k in sample.toy.skips if k <= layer)
        cut = ToyNet(sample.toy.weights[:layer], sample.toy.biases[:layer], skips)
        for unit in range(cut.n_outputs):
            for sign, end in ((1, lower), (-1, -upper)):
                row = Constraint(outputs=((unit, Fraction(sign)),), bound=Fraction(0))
                prop = Property(sample.prop.input_set, (Polyhedron((row,)),), cut.n_outputs)
                least = row_minimum(cut, prop, 0, 0)
                if Fraction(float(end[unit])) > least if np.isfinite(end[unit]) else end[unit] > 0:
                    sentence = (
                        f"pre-activation {unit} of layer {layer} reaches {sign * float(least)!r}, beyond its bound "
                        f"{sign * float(end[unit])!r} ({sample.name})"
                    )
                    trial.fail("intermediate_bounds_hold", sentence, sample.reproducer())


def lines_bound_activations(trial: Trial) -> None:
    """Every line (or plane) of a HOLDS lies on its side of the activation (or product) over the whole range; for ReLU
    and for products in exact rationals."""
    for norm in _proving(trial):
        proofs = [(_proof(trial, s.query), toys.to_network(s.toy, outer=(1,))) for s in _far_samples(trial, norm)] + [
            (_proof(trial, _exhibit_query(e, norm, radius)), e.network)
            for e in supported(trial.verifier.capabilities)
            for radius in (Fraction(1), Fraction(1, 32))
        ]
        for proof, network in proofs:
            if isinstance(proof, Leaf):
                graph = _graph_of(proof, network)
                for index, lines in proof.lines.items():
                    node = graph.nodes[index]
                    if isinstance(node, Activation) and node.parents[0] in proof.intermediate:
                        _fail_if(trial, crossed_line(node, lines, proof.intermediate[node.parents[0]]))
                for index, planes in proof.planes.items():
                    node = graph.nodes[index]
                    if isinstance(node, Product) and set(node.parents) <= set(proof.intermediate):
                        ends = [proof.intermediate[p] for p in node.parents]
                        _fail_if(trial, crossed_plane(node, planes, *ends))


def _fail_if(trial: Trial, sentence: str | None) -> None:
    if sentence is not None:
        trial.fail("lines_bound_activations", sentence)


RULES = (
    Rule("evidence_refutes_everything", evidence_refutes_everything, _reads, soundness=True),
    Rule("lines_bound_activations", lines_bound_activations, _reads, soundness=True),
    Rule("intermediate_bounds_hold", intermediate_bounds_hold, _reads, soundness=True),
    Rule("stated_bounds_are_low", stated_bounds_are_low, _reads, soundness=True),
    Rule("solver_bounds_are_low", solver_bounds_are_low, _reads, soundness=True),
)

"""Checks the evidence of searches by phases from scratch: every leaf's bound, and that the leaves cover everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from verifiers.complete.bab import ASCENT
from verifkit.analysis.bab.box_examination import Disjuncts, examine
from verifkit.analysis.bab.chain import Chain, Layer, chain_of
from verifkit.analysis.bab.chain_bounds import ChainBounds
from verifkit.analysis.bab.l1_ball import without_ball
from verifkit.analysis.bab.phase_bounds import Parts, PhaseBounds
from verifkit.analysis.linear import analyse
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import rows_of
from verifkit.budget import Budget, Clock
from verifkit.evidence import BoxTree, Evidence, LayerBoxes, PhaseTree, UnitBound
from verifkit.input_sets import Box
from verifkit.io.onnx import model_from_network
from verifkit.network import dense_network
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query


def _in_order(bounds: PhaseBounds, tree: PhaseTree) -> np.ndarray:
    """The place of each of the bounds' units among those of the tree."""
    place = {(int(node), int(unit)): k for k, (node, unit) in enumerate(tree.units)}
    order = np.array([place[node, unit] for node, unit in bounds.places.tolist()], dtype=np.int64)
    assert len(place) == order.size == tree.units.shape[0]
    assert np.array_equal(bounds.ends[0], tree.low[order])
    assert np.array_equal(bounds.ends[1], tree.high[order])
    return order


def leaf_margins(bounds: PhaseBounds, tree: PhaseTree) -> tuple[Parts, np.ndarray]:
    """The leaves of a tree, which must cover what it is of, and their bounds, each taken alone.

    bounds: of the same question, with the bounds of units that the tree takes for granted.
    """
    order = _in_order(bounds, tree)
    split = {int(part): k for k, part in enumerate(tree.parent)}
    leaf = {int(part): k for k, part in enumerate(tree.leaf)}
    assert len(split) == tree.parent.size
    assert len(leaf) == tree.leaf.size
    pending = [(number, int(d), np.zeros(order.size, dtype=np.int8)) for number, d in enumerate(tree.disjuncts)]
    parts, seen = [], set()
    while pending:
        number, disjunct, phase = pending.pop()
        assert number not in seen
        seen.add(number)
        assert (number in split) != (number in leaf)
        if number in leaf:
            k = leaf[number]
            whole = phase[order][None], tree.weight[k][order][None], tree.mix[k][None]
            parts.append(Parts(np.array([disjunct]), *whole))
            continue
        k = split[number]
        for child, sign in ((int(tree.first[k]), 1), (int(tree.first[k]) + 1, -1)):
            fixed = phase.copy()
            fixed[tree.unit[k]] = sign
            pending.append((child, disjunct, fixed))
    assert seen == set(range(tree.parts))
    margins = np.array([bounds.examined(part).margin[0] for part in parts])
    return Parts.joined(parts), margins


def refuted_leaves(bounds: PhaseBounds, tree: PhaseTree) -> int:
    """Checks that a tree refutes every disjunct; how many leaves it has."""
    assert sorted(tree.disjuncts.tolist()) == list(range(bounds.disjuncts.rows.shape[0]))
    parts, margins = leaf_margins(bounds, tree)
    assert bounds.refuted(parts, margins).all()
    return len(parts)


def refuted_boxes(chain: Chain, disjuncts: Disjuncts, tree: BoxTree) -> int:
    """Checks that a tree refutes every disjunct over the chain's box; how many boxes the bounds refute."""
    bounds, place = ChainBounds(chain), {int(parent): k for k, parent in enumerate(tree.parent)}
    pending, leaves = [(0, chain.lower, chain.upper)], 0
    while pending:
        number, lower, upper = pending.pop()
        found = examine(bounds, disjuncts, lower[None], upper[None])
        if number not in place:
            assert found.place.size == 0
            leaves += 1
            continue
        k = place[number]
        # What the tree cut off, the bounds cut off.
        assert np.allclose(tree.lower[k], found.lower[0], rtol=0, atol=1e-9)
        assert np.allclose(tree.upper[k], found.upper[0], rtol=0, atol=1e-9)
        below, above = tree.upper[k].copy(), tree.lower[k].copy()
        dim = int(tree.dim[k])
        below[dim] = above[dim] = tree.at[k]
        first = int(tree.first[k])
        pending += [(first, tree.lower[k], below), (first + 1, above, tree.upper[k])]
    return leaves


Known = dict[tuple[int, int, bool], float]
"""Bounds that are proved: node, unit, whether of the negative."""


def chain_by_phase(query: Query) -> tuple[Chain, Disjuncts]:
    """The chain that a search by phases is about."""
    network, region, rows = without_ball(query.network.without_max(), region_of(query), rows_of(query.prop))
    analysis = analyse(network, region, CROWN_RELAXATIONS, Clock(Budget()), ascent=ASCENT)
    chain = chain_of(network, analysis.bounds, rows)
    assert chain is not None
    return chain, Disjuncts.of(rows)


def _improved(chain: Chain, known: Known, tree: PhaseTree | None = None) -> Chain:
    """With what is known of its units; where a tree is given, with what that takes for granted and no more."""
    taken = {}
    if tree is not None:
        taken = dict(zip(map(tuple, tree.units.tolist()), np.stack([tree.low, tree.high], 1).tolist(), strict=True))
    layers = []
    for layer in chain.layers:
        low, high = layer.low.copy(), layer.high.copy()
        for place, unit in enumerate(zip(layer.node.tolist(), layer.kept.tolist(), strict=True)):
            low[place] = max(low[place], known.get((*unit, False), -np.inf))
            high[place] = min(high[place], -known.get((*unit, True), -np.inf))
            if layer.relu[place] and unit in taken:
                assert taken[unit][0] <= low[place]
                assert taken[unit][1] >= high[place]
                low[place], high[place] = taken[unit]
        layers.append(replace(layer, low=low, high=high))
    return replace(chain, layers=tuple(layers))


def _proved(chain: Chain, known: Known, found: UnitBound) -> None:
    """Checks a bound of a unit, and adds it to what is known."""
    assert found.tree is not None
    k = next(k for k, la in enumerate(chain.layers) if ((la.node == found.node) & (la.kept == found.unit)).any())
    layer = chain.layers[k]
    place, sign = (
        np.flatnonzero((layer.node == found.node) & (layer.kept == found.unit))[:1],
        -1.0 if found.negated else 1.0,
    )
    bias = sign * layer.bias[place] - found.bound
    error = layer.error[place] + 1e-15 * (np.abs(bias) + abs(found.bound))
    none, infinite = np.full(1, -1), np.full(1, np.inf)
    row = Layer(sign * layer.weight[place], bias, error, none > 0, none, none + 1, -infinite, infinite)
    part = _improved(Chain((*chain.layers[:k], row), chain.inputs, chain.lower, chain.upper, None), known, found.tree)
    refuted_leaves(PhaseBounds(part, Disjuncts(np.zeros((1, 1), dtype=np.int64), none > 0)), found.tree)
    known[found.node, found.unit, found.negated] = found.bound


def recheck(query: Query, evidence: Evidence | None) -> int:
    """Checks what a search by phases left as evidence; how many leaves refute the question itself."""
    assert isinstance(evidence, PhaseTree | LayerBoxes)
    chain, disjuncts = chain_by_phase(query)
    known: Known = {}
    for found in sorted(evidence.unit_bounds, key=lambda found: found.node):
        _proved(chain, known, found)
    if isinstance(evidence, PhaseTree):
        return refuted_leaves(PhaseBounds(_improved(chain, known, evidence), disjuncts), evidence)
    chain = _improved(chain, known)
    k = next(k for k, la in enumerate(chain.layers) if np.array_equal(evidence.units, np.stack([la.node, la.kept], 1)))
    layer = chain.layers[k]
    assert (evidence.lower <= layer.after(layer.low)).all()
    assert (evidence.upper >= layer.after(layer.high)).all()
    assert evidence.tree is not None
    places = np.arange(layer.bias.size)
    above = Chain(chain.layers[k + 1 :], places, evidence.lower, evidence.upper, None)
    return refuted_boxes(above, disjuncts, evidence.tree)


def least_output(seed: int, widths: Sequence[int], margin: float, spread: float = 1.0) -> Query:
    """Whether the output of a random network of float32 weights gets within `margin` below the least that samples give,
    on the box [-spread, spread]."""
    rng = np.random.default_rng(seed)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [np.float32(rng.normal(size=s) * 1.6 / np.sqrt(s[1])).astype(float) for s in shapes]
    biases = [np.float32(rng.normal(size=s[0]) * 0.3).astype(float) for s in shapes]
    network = dense_network(weights, biases)
    least = float(network.evaluate(rng.uniform(-spread, spread, size=(20000, widths[0]))).min())
    row = Constraint(((0, Fraction(1)),), Fraction(least - margin), False, ())
    box = Box((Fraction(-spread),) * widths[0], (Fraction(spread),) * widths[0])
    return Query(model_from_network(network, "random"), Property(box, (Polyhedron((row,)),), 1))

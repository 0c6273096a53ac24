"""Bounds of narrow layers: they refute what a plain search by phases does not, and hold at every sampled point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.phase_evidence import chain_by_phase, least_output, recheck
from verifiers.complete.bab import Bab
from verifkit.analysis.bab.narrow_layers import NarrowLayers
from verifkit.analysis.bab.phase_bounds import PhaseBounds
from verifkit.analysis.bab.phase_search import PhaseSearch
from verifkit.budget import Budget, Clock
from verifkit.evidence import LayerBoxes, PhaseTree
from verifkit.query import Query
from verifkit.result import Reason, Verdict

WIDTHS = (5, 12, 2, 12, 12, 12, 12, 1)


def _narrow(query: Query, clock: Clock | None = None) -> NarrowLayers:
    chain, disjuncts = chain_by_phase(query)
    return NarrowLayers(chain, disjuncts, clock or Clock(Budget()), 64, 1)


def _values(query: Query, count: int) -> list[np.ndarray]:
    """Of every node, at random points and corners of the box [-1, 1]."""
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 1, size=(count, query.network.n_inputs))
    x[: count // 2] = np.sign(x[: count // 2])
    return query.network.values(x)


def test_a_narrow_layer_decides_what_phases_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifiers.complete.bab.ROUND", 32)
    query = least_output(1, WIDTHS, 0.05)
    narrow = _narrow(query)
    assert narrow.numbers == [1, 3]
    bounds = PhaseBounds(narrow.chain, narrow.disjuncts)
    plain = PhaseSearch(bounds, Clock(Budget()), 64, 1)
    assert plain.run(bounds.whole(np.zeros(1, dtype=np.int64)), 400).reason is Reason.INCOMPLETE
    result = Bab(branching="phase").verify(query)
    assert result.verdict is Verdict.HOLDS
    assert int(result.statistics["splits"]) < 100
    boxes = result.evidence
    assert isinstance(boxes, LayerBoxes)
    assert boxes.unit_bounds
    assert recheck(query, boxes) > 1
    values = _values(query, 20000)
    for (node, unit), low, high in zip(boxes.units.tolist(), boxes.lower, boxes.upper, strict=True):
        after = np.maximum(values[node][:, unit], 0)
        assert after.min() >= low - 1e-12
        assert after.max() <= high + 1e-12
    for found in boxes.unit_bounds:
        sign = -1.0 if found.negated else 1.0
        assert (sign * values[found.node][:, found.unit]).min() >= found.bound - 1e-12
    # A box that is larger, or a bound that is better, than what was proved is found out.
    with pytest.raises(AssertionError):
        recheck(query, replace(boxes, upper=boxes.upper * 0.999))
    better = (replace(boxes.unit_bounds[0], bound=boxes.unit_bounds[0].bound + 0.01), *boxes.unit_bounds[1:])
    with pytest.raises(AssertionError):
        recheck(query, replace(boxes, unit_bounds=better))


@pytest.mark.parametrize(
    ("widths", "seed", "kind", "bounds"),
    [
        ((4, 10, 4, 10, 1), 6, PhaseTree, 3),
        ((6, 12, 4, 4, 12, 1), 2, PhaseTree, 1),
        ((6, 12, 4, 4, 12, 1), 1, LayerBoxes, 2),
    ],
)
def test_bounds_of_units_are_part_of_the_evidence(
    monkeypatch: pytest.MonkeyPatch, widths: tuple[int, ...], seed: int, kind: type, bounds: int
) -> None:
    monkeypatch.setattr("verifiers.complete.bab.ROUND", 32)
    query = least_output(seed, widths, 0.3)
    result = Bab(branching="phase").verify(query)
    assert result.verdict is Verdict.HOLDS
    evidence = result.evidence
    assert isinstance(evidence, PhaseTree | LayerBoxes)
    assert isinstance(evidence, kind)
    assert len(evidence.unit_bounds) == bounds
    assert recheck(query, evidence) > 10
    with pytest.raises(AssertionError):
        recheck(query, replace(evidence, unit_bounds=evidence.unit_bounds[1:]))


def test_bounds_hold_whatever_a_round_comes_to() -> None:
    for seed, widths, splits in ((1, WIDTHS, 4), (6, (4, 10, 4, 10, 1), 8), (2, (6, 12, 4, 4, 12, 1), 8)):
        query = least_output(seed, widths, 0.05 if widths == WIDTHS else 0.3)
        narrow = _narrow(query)
        chain = narrow.chain
        assert narrow.round(splits) is None
        assert narrow.proved
        values, improved = _values(query, 5000), 0
        for old, layer in zip(chain.layers[:-1], narrow.chain.layers[:-1], strict=True):
            assert (layer.low >= old.low).all()
            assert (layer.high <= old.high).all()
            improved += int((layer.low > old.low).sum() + (layer.high < old.high).sum())
            for place in range(layer.bias.size):
                z = values[layer.node[place]][:, layer.kept[place]]
                assert z.min() >= layer.low[place] - 1e-12
                assert z.max() <= layer.high[place] + 1e-12
        assert improved == len(narrow.proved)


@pytest.mark.parametrize("reached", [(True, True), (True, False), (False, True)])
def test_a_box_counts_only_where_all_its_ends_are_proved(
    monkeypatch: pytest.MonkeyPatch, reached: tuple[bool, bool]
) -> None:
    narrow, said = _narrow(least_output(1, (6, 12, 4, 4, 12, 1), 0.3)), []

    def pretended(*_: object) -> bool:
        said.append(reached[len(said) % 2])
        return said[-1]

    monkeypatch.setattr(NarrowLayers, "_search", pretended)
    assert (narrow.round(1) is not None) == all(reached)
    assert len(said) >= 2


def test_the_best_bound_of_a_unit_is_kept() -> None:
    narrow = _narrow(least_output(1, WIDTHS, 0.05))
    assert narrow.round(4) is None
    assert narrow.proved
    before = narrow.chain.layers[1]
    for found in tuple(narrow.proved.values()):
        narrow._keep(replace(found, bound=found.bound - 0.5))
        assert narrow.proved[found.node, found.unit, found.negated] is found
    after = narrow.chain.layers[1]
    assert np.array_equal(after.low, before.low)
    assert np.array_equal(after.high, before.high)


def test_which_layers_are_narrow() -> None:
    assert _narrow(least_output(1, (4, 8, 8, 1), 0.05)).numbers == [1]
    assert _narrow(least_output(1, (4, 8, 40, 1), 0.05)).numbers == []


def test_time_ends_a_round() -> None:
    clock = Clock(Budget(seconds=1e-9))
    narrow = _narrow(least_output(1, WIDTHS, 0.05), clock)
    assert narrow.round(10**6) is None
    assert not narrow.proved

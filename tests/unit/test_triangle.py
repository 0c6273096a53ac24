"""From multipliers to bounds: sound whatever they are, the program's optimum where they are optimal."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.region import Region, region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import Rows, rows_of
from verifkit.analysis.triangle import Multipliers, Triangle, row_lines, safe_bounds, triangles
from verifkit.budget import Budget, Clock
from verifkit.functions import LeakyRelu
from verifkit.network import Network, dense_network
from verifkit.properties import Property
from verifkit.query import Query
from verifkit.testing.checks_evidence import outputs_far
from verifkit.testing.samples import row_minimum
from verifkit.testing.toys import random_region, random_toy, to_model


def crown(network: Network, low: float, high: float) -> LinearAnalysis:
    ends = (np.full((1, *network.input_shape), end) for end in (low, high))
    return analyse(network, Region(*ends), CROWN_RELAXATIONS, Clock(Budget()))


def drawn(rng: np.random.Generator, analysis: LinearAnalysis, count: int, wild: bool) -> Multipliers:
    """Multipliers that no solver would give; wild: negative ones, NaN and infinities among them."""

    def values(size: int) -> np.ndarray:
        found = rng.choice([0.0, 1.0, 4.0], (count, size)) * rng.random((count, size))
        if wild:
            at = rng.random((count, size)) < 0.2
            found[at] = rng.choice([-1.0, -np.inf, np.inf, np.nan, 1e300], int(at.sum()))
        return found

    shapes = triangles(analysis)
    rows = {k: (values(s.lower.size), values(s.lower.size), values(s.lower.size)) for k, s in shapes.items()}
    read = {analysis.network.nodes[k].parents[0]: s.lower.size for k, s in shapes.items()}
    return Multipliers(rows, {k: (values(size), values(size)) for k, size in read.items()})


def test_the_parts_of_a_unit() -> None:
    lower = np.array([-1.0, 0.0, -2.0, 0.0, -3.0, 1.0])
    upper = np.array([3.0, 2.0, 0.0, 0.0, 1.0, 1.0])
    shape = Triangle(np.zeros(6), lower, upper)
    np.testing.assert_array_equal(shape.on, [False, True, False, True, False, True])
    np.testing.assert_array_equal(shape.unstable, [True, False, False, False, True, False])
    np.testing.assert_array_equal(shape.rise, [0.75, 0, 0, 0, 0.25, 0])


@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_any_multipliers_give_a_sound_bound(seed: int, wild: bool) -> None:
    rng = np.random.default_rng(seed)
    toy = random_toy(rng)
    prop = outputs_far(Property(random_region(rng, toy.n_inputs), (), toy.n_outputs), True)
    query, rows = Query(to_model(toy), prop), rows_of(prop)
    analysis = analyse(query.network, region_of(query), CROWN_RELAXATIONS, Clock(Budget()))
    multipliers = drawn(rng, analysis, rows.bound.size, wild)
    alone = row_lines(analysis, multipliers).backward(analysis, analysis.starts([rows]))
    alone = np.asarray(analysis.certain([rows], alone))[0]
    lower, _ = safe_bounds(analysis, rows, multipliers)
    assert (lower >= np.asarray(analysis.property_rows(rows))[0]).all()
    for number, (bound, best) in enumerate(zip(alone, lower, strict=True)):
        least = row_minimum(toy, prop, number, 0)
        assert bound == -np.inf or Fraction(bound) <= least
        assert Fraction(best) <= least


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.125, 1.0, 2.0])
def test_lines_between_the_corners_lines_bound_a_leaky_unit(slope: float) -> None:
    rng = np.random.default_rng(3)
    function = LeakyRelu(np.array(slope))
    network = dense_network([rng.normal(size=(8, 2)), rng.normal(size=(1, 8))], [np.zeros(8), np.zeros(1)], function)
    analysis = crown(network, -1.0, 1.0)
    lines = row_lines(analysis, drawn(rng, analysis, 20, False)).lines[2]
    lower, upper = analysis.bounds[1]
    for share in np.linspace(0.0, 1.0, 33):
        z = np.clip(lower + share * (upper - lower), lower, upper)[:, None]
        value, slack = function(z), 1e-12 * (1.0 + np.abs(z))
        assert (lines.lower_slope * z + lines.lower_offset <= value + slack).all()
        assert (lines.upper_slope * z + lines.upper_offset >= value - slack).all()


def test_a_lower_row_and_the_chord_together_are_a_bound_of_the_pre_activation() -> None:
    # z = x in [-1, 3]: 0 <= chord says z >= -1 (times 3/4), z <= chord says z <= 3 (times 1/4).
    analysis = crown(dense_network([np.eye(1), np.eye(1)], [np.zeros(1), np.zeros(1)]), -1.0, 3.0)
    one, none = np.ones((1, 1)), np.zeros((1, 1))
    for rows, held in (((one, none, one), (0.75, 0.0)), ((none, one, one), (0.0, 0.25))):
        found = row_lines(analysis, Multipliers({2: rows}, {}))
        np.testing.assert_allclose([side.item() for side in found.held[1]], held, rtol=1e-12)


def test_a_row_that_was_not_solved_keeps_the_bound_of_the_analysis() -> None:
    rng = np.random.default_rng(7)
    toy = random_toy(rng, n_inputs=2, n_outputs=2, hidden=[5, 5], weights="gaussian")
    prop = outputs_far(Property(random_region(rng, 2), (), 2), False)
    query, rows = Query(to_model(toy), prop), rows_of(prop)
    analysis = analyse(query.network, region_of(query), CROWN_RELAXATIONS, Clock(Budget()))
    kept = np.arange(rows.bound.size) % 2 == 0
    lower, found = safe_bounds(analysis, rows, drawn(rng, analysis, kept.size, False).only(kept))
    own = np.asarray(analysis.property_rows(rows))[0]
    np.testing.assert_array_equal(lower[~kept], own[~kept])
    again = np.asarray(found.backward(analysis, analysis.starts([rows])))[0]
    np.testing.assert_allclose(again[~kept], own[~kept], rtol=1e-9, atol=1e-9)


def test_no_rows() -> None:
    none = np.zeros(0)
    rows = Rows(np.zeros((0, 1)), None, None, None, none, none.astype(bool), none.astype(np.int64), 1)
    analysis = crown(dense_network([np.eye(1), np.eye(1)], [np.zeros(1), np.zeros(1)]), -1.0, 3.0)
    assert safe_bounds(analysis, rows, Multipliers({}, {}))[0].size == 0

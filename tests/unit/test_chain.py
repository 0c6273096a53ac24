"""Networks of every shape as reduced chains: the same values, exactly, within the errors that are carried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tests.unit.chains import (
    box_of,
    carried_errors,
    chain_for,
    exact_layers,
    exact_rows,
    points,
    random_box,
    random_rows,
)
from verifkit.analysis.bab.box_examination import Disjuncts
from verifkit.analysis.bab.chain import Chain
from verifkit.analysis.bab.chain_bounds import ChainBounds
from verifkit.analysis.bab.phase_bounds import PhaseBounds
from verifkit.exact import evaluate_exactly
from verifkit.functions import Relu
from verifkit.input_sets import Box
from verifkit.maps import Identity, Place, Reshape, Select, Sum
from verifkit.network import Network
from verifkit.properties import Property
from verifkit.testing.graphs import BUILDERS, Graph
from verifkit.weighted_maps import Dense, Scale


def _same_twice() -> Network:
    """x + x, and h - h, which is 0 only once it is summed."""
    graph = Graph(1, 3, seed=21)
    start = graph.affine((0, 0), Identity((1, 3)), Identity((1, 3)))
    h = graph.activate(graph.dense(start, 4), Relu())
    twice = graph.affine((h, h), Identity((1, 4)), Dense(graph.weights(4, 4, fan_in=4), outer=(1,)))
    none = graph.affine((h, h), Identity((1, 4)), Scale(np.full((1, 4), -1.0)))
    graph.dense(graph.activate(graph.affine((twice, none), *[Identity((1, 4))] * 2), Relu()), 2)
    return graph.network()


def _divided_twice() -> Network:
    """h / 3 + h / 7: neither is a float, nor is their sum."""
    graph = Graph(1, 3, seed=22)
    h = graph.activate(graph.dense(0, 4), Relu())
    shares = [Scale(np.full((1, 4), by), divide=True) for by in (3.0, 7.0)]
    graph.dense(graph.activate(graph.affine((h, h), *shares), Relu()), 2)
    return graph.network()


def _read_by_two() -> Network:
    """A ReLU that the next layer and the one after read, and a pre-activation that is read as it is, too."""
    graph = Graph(1, 3, seed=23)
    z = graph.dense(0, 4)
    h = graph.activate(z, Relu())
    second = graph.activate(graph.dense(h, 4), Relu())
    third = graph.affine((second, h, z), *(Dense(graph.weights(3, 4, fan_in=4), outer=(1,)) for _ in range(3)))
    graph.dense(graph.activate(third, Relu()), 2)
    return graph.network()


def _relu_of_relu() -> Network:
    """On the input, of another, of a reshaped one; and the network ends in one."""
    graph = Graph(1, 4, seed=24)
    at = graph.activate(graph.activate(0, Relu()), Relu())
    at = graph.activate(graph.dense(at, 4), Relu())
    at = graph.affine((at,), Reshape((1, 4), (1, 2, 2)), bias=False)
    at = graph.activate(
        graph.affine((graph.activate(at, Relu()), at), Identity((1, 2, 2)), Identity((1, 2, 2))), Relu()
    )
    at = graph.affine((at,), Reshape((1, 2, 2), (1, 4)), bias=False)
    graph.activate(graph.affine((at, 0), *(Dense(graph.weights(2, 4, fan_in=4), outer=(1,)) for _ in "ab")), Relu())
    return graph.network()


def _gathered() -> Network:
    """Concatenation, repeats, sums, and an input that skips all layers."""
    graph = Graph(1, 3, seed=25)
    h = graph.activate(graph.dense(0, 3), Relu())
    both = graph.affine((h, 0), Place(np.array([[0, 2, 4]]), (1, 6)), Place(np.array([[1, 3, 5]]), (1, 6)), bias=False)
    picked = graph.affine((both,), Select((1, 6), np.array([[0, 1, 1], [5, 4, 0]])), bias=False)
    total = graph.affine((graph.activate(picked, Relu()),), Sum((2, 3), (1,), keepdims=False))
    shaped = graph.affine((total,), Reshape((2,), (1, 2)), bias=False)
    graph.affine((shaped, 0), *(Dense(graph.weights(2, n, fan_in=n), outer=(1,)) for n in (2, 3)))
    return graph.network()


def _dead_ends() -> Network:
    """A deeper branch that leads nowhere, and units that are off, or constant, whatever comes in."""
    graph = Graph(1, 3, seed=26)
    weight = graph.weights(5, 3, fan_in=3)
    weight[1] = 0.0
    h = graph.activate(graph.affine((0,), Dense(weight, (1,)), bias=np.array([[0.1, 0.7, -99.0, -0.1, 99.0]])), Relu())
    graph.activate(graph.dense(graph.activate(graph.dense(graph.dense(h, 3), 3), Relu()), 2), Relu())
    graph.dense(graph.activate(graph.dense(h, 4), Relu()), 2)
    return graph.network()


def _nothing_varies() -> Network:
    """Every unit of a layer is off: the output is a constant."""
    graph = Graph(1, 3, seed=27)
    off = graph.affine((0,), Dense(graph.weights(3, 3, fan_in=3), outer=(1,)), bias=np.full((1, 3), -99.0))
    graph.dense(graph.activate(graph.dense(graph.activate(off, Relu()), 3), Relu()), 2)
    return graph.network()


def _only_input() -> Network:
    graph = Graph(1, 3)
    graph.affine((0,), Reshape((1, 3), (3,)), bias=False)
    return graph.network()


NETWORKS: dict[str, Callable[[], Network]] = {
    name: BUILDERS[name][0] for name in ("linear", "relu", "max", "max_pool", "conv", "residual", "branches")
}
NETWORKS |= {
    f.__name__.strip("_"): f
    for f in (
        _same_twice,
        _divided_twice,
        _read_by_two,
        _relu_of_relu,
        _gathered,
        _dead_ends,
        _nothing_varies,
        _only_input,
    )
}


def _times(network: Network, factor: float) -> Network:
    """With every weight, bias and divisor times a number."""
    return Network(tuple(node.cast(lambda array: array * factor) for node in network.nodes))


def _asked(name: str, seed: int, factor: float, *, fixed: int, coupled: bool) -> tuple[Network, Property, Chain]:
    rng = np.random.default_rng([7, seed])
    network = _times(NETWORKS[name](), factor).without_max()
    prop = random_rows(rng, random_box(rng, network.n_inputs, fixed=fixed), network.n_outputs, coupled=coupled)
    found = chain_for(network, prop)
    assert found is not None
    return network, prop, found[0]


CASES = [(1.0, 0, False), (1.0, 1, True), (1e3, 1, False), (1e-30, 0, True)]


@pytest.mark.parametrize(("factor", "fixed", "coupled"), CASES)
@pytest.mark.parametrize("name", NETWORKS)
def test_values_agree_exactly(name: str, factor: float, fixed: int, coupled: bool) -> None:
    network, prop, chain = _asked(name, 1, factor, fixed=fixed, coupled=coupled)
    assert isinstance(prop.input_set, Box)
    assert chain.inputs.tolist() == list(range(network.n_inputs - fixed))
    errors = carried_errors(chain)
    for x in points(np.random.default_rng(3), prop.input_set, 6):
        layers = exact_layers(chain, [x[k] for k in chain.inputs.tolist()])
        for layer, values, error in zip(chain.layers[:-1], layers, errors, strict=False):
            for node in set(layer.node.tolist()):
                exact = evaluate_exactly(Network(network.nodes[: node + 1]), x)
                for unit in np.flatnonzero(layer.node == node).tolist():
                    truth = exact[layer.kept[unit]]
                    assert abs(values[unit] - truth) <= error[unit]
                    assert Fraction(layer.low[unit]) <= truth <= Fraction(layer.high[unit])
        for value, error, truth in zip(layers[-1], errors[-1], exact_rows(network, prop, x), strict=True):
            # The stored bound of a row is rounded up: what is stored may lie below the truth, and not above it.
            assert value - error <= truth <= value + error + Fraction(1, 2**55)


@pytest.mark.parametrize(("factor", "fixed", "coupled"), CASES)
@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_lie_below_the_rows(name: str, factor: float, fixed: int, coupled: bool) -> None:
    network, prop, chain = _asked(name, 2, factor, fixed=fixed, coupled=coupled)
    assert isinstance(prop.input_set, Box)
    rng = np.random.default_rng(4)
    share = np.sort(rng.uniform(size=(2, 2, chain.inputs.size)), axis=1)
    share[0] = [[0.0], [1.0]]
    boxes = chain.lower + share * (chain.upper - chain.lower)
    bounds = ChainBounds(chain)
    found = bounds.forms(boxes[:, 0], np.minimum(boxes[:, 1], chain.upper)).lower
    assert np.isfinite(found).all()
    whole = np.arange(3)[:, None]
    by_phase = PhaseBounds(chain, Disjuncts(whole, np.zeros(3, dtype=bool)))
    margins = by_phase.examined(by_phase.whole(np.arange(3))).margin
    for low, high, least in [*zip(boxes[:, 0], boxes[:, 1], found, strict=True), (chain.lower, chain.upper, margins)]:
        lower, upper = (np.array([float(v) for v in end]) for end in (prop.input_set.lower, prop.input_set.upper))
        lower[chain.inputs], upper[chain.inputs] = low, np.minimum(high, chain.upper)
        for x in points(rng, box_of(lower, upper), 8):
            assert all(Fraction(a) <= b for a, b in zip(least.tolist(), exact_rows(network, prop, x), strict=True))


@pytest.mark.parametrize("name", ["dead_ends", "nothing_varies", "same_twice", "max_pool"])
def test_what_is_folded_away_is_only_as_certain_as_its_bounds(name: str) -> None:
    rng = np.random.default_rng(9)
    network = NETWORKS[name]().without_max()
    prop = random_rows(rng, random_box(rng, network.n_inputs, fixed=1), network.n_outputs)
    found = chain_for(network, prop, looser=0.1)
    assert found is not None
    chain, _ = found
    errors = carried_errors(chain)[-1]
    assert isinstance(prop.input_set, Box)
    for x in points(rng, prop.input_set, 6):
        values = exact_layers(chain, [x[k] for k in chain.inputs.tolist()])[-1]
        for value, error, truth in zip(values, errors, exact_rows(network, prop, x), strict=True):
            assert abs(value - truth) <= error + Fraction(1, 2**55)


def test_chains_are_reduced() -> None:
    network, _, chain = _asked("dead_ends", 1, 1.0, fixed=1, coupled=False)
    # Of the first layer the unit that is off and the constant one are gone, and the dead branch with its layers.
    assert [layer.bias.size for layer in chain.layers[:1]] == [3]
    assert len(chain.layers) == 3 + 1
    assert len(network.nodes) > 8
    _, _, chain = _asked("only_input", 1, 1.0, fixed=0, coupled=False)
    assert len(chain.layers) == 1
    _, _, chain = _asked("nothing_varies", 1, 1.0, fixed=0, coupled=False)
    assert chain.layers[0].bias.size == 1  # one stands for all that are off


def test_a_point_is_a_chain_too() -> None:
    rng = np.random.default_rng(5)
    network = NETWORKS["residual"]()
    prop = random_rows(rng, random_box(rng, 3, fixed=3), 2)
    found = chain_for(network, prop)
    assert found is not None
    chain, _ = found
    x = [chain.lower[0]]
    (values,) = ChainBounds(chain).forms(np.array([x]), np.array([x])).lower
    assert isinstance(prop.input_set, Box)
    exact = exact_rows(network, prop, list(prop.input_set.lower))
    assert np.allclose(values, [float(v) for v in exact], rtol=0, atol=1e-12)


def test_too_large_a_network_has_no_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    network = NETWORKS["relu"]()
    prop = random_rows(rng, random_box(rng, 3), 2)
    assert chain_for(network, prop) is not None
    monkeypatch.setattr("verifkit.analysis.bab.chain.ENTRIES", 20)
    assert chain_for(network, prop) is None


def test_what_is_unbounded_proves_nothing() -> None:
    rng = np.random.default_rng(8)
    network = NETWORKS["read_by_two"]()
    prop = random_rows(rng, random_box(rng, 3), 2)
    found = chain_for(network, prop)
    assert found is not None
    chain, rows = found
    for bad in (np.nan, np.inf):
        layers = list(chain.layers)
        error = layers[1].error.copy()
        error[0] = bad
        layers[1] = replace(layers[1], error=error)
        broken = replace(chain, layers=tuple(layers))
        with np.errstate(all="ignore"):
            lower = ChainBounds(broken).forms(chain.lower[None], chain.upper[None]).lower
            bounds = PhaseBounds(broken, Disjuncts.of(rows))
            margin = bounds.examined(bounds.whole(np.arange(2))).margin
        assert not (lower > -np.inf).any()
        assert not (margin > -np.inf).any()

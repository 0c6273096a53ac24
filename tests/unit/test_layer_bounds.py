"""Bounds of every layer: computed when looked at, about the network as asked, tight where the analysis is."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest

from verifkit.analysis.interval import propagate
from verifkit.analysis.layers import filled
from verifkit.analysis.region import region_of
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.cli.bounds_answer import BoundsAnswer
from verifkit.functions import Relu
from verifkit.input_sets import Box
from verifkit.io.onnx import load_model, model_from_network
from verifkit.layer_bounds import Layer, LayerBounds, Phases, hull
from verifkit.network import Network, dense_network
from verifkit.properties import Constraint, Polyhedron, Property, robustness
from verifkit.query import Query
from verifkit.registry import create
from verifkit.result import Outcome, Reason, Result
from verifkit.testing.gallery import exhibits
from verifkit.testing.graphs import BUILDERS
from verifkit.verifier import Verifier

NAMES = ("interval", "crown")
LAYERED = dense_network(
    [np.array([[1.0, -1.0], [0.5, 0.25], [-1.0, 2.0]]), np.array([[1.0, -2.0, 0.5], [-1.0, 1.0, 1.0]])],
    [np.array([0.0, 0.25, -0.5]), np.array([0.125, 0.0])],
)


def ask(network: Network, *, verifier: str = "crown", radius: str = "0.25", norm: str = "inf") -> Result:
    n = network.n_inputs
    prop = robustness(np.linspace(-0.5, 0.5, n), 0, radius, norm, n_outputs=network.n_outputs)
    return create(verifier).verify(Query(model_from_network(network, "net"), prop))


def layers_of(result: Result) -> dict[str, Layer]:
    assert result.bounds is not None
    return dict(result.bounds.layers)


@pytest.mark.parametrize("verifier", NAMES)
def test_every_node_is_a_layer_by_its_name_before_and_after_activation(verifier: str) -> None:
    layers = layers_of(ask(LAYERED, verifier=verifier))
    assert list(layers) == ["input", "affine1", "act1", "affine2"]
    assert [layer.kind for layer in layers.values()] == ["input", "affine", "relu", "affine"]
    assert [layer.index for layer in layers.values()] == [0, 1, 2, 3]
    assert all(layer.lower.shape == layer.upper.shape == node.shape
               for layer, node in zip(layers.values(), LAYERED.nodes, strict=True))  # fmt: skip
    assert all((layer.lower <= layer.upper).all() for layer in layers.values())
    np.testing.assert_allclose(layers["affine1"].lower, [-1.5, -0.0625, 0.25])
    np.testing.assert_allclose(layers["affine1"].upper, [-0.5, 0.3125, 1.75])
    np.testing.assert_allclose(layers["act1"].lower, [0.0, 0.0, 0.25])
    assert layers["affine1"].phases == Phases(active=1, inactive=1, unstable=1)
    assert layers["act1"].phases is layers["affine2"].phases is None


def test_phases_at_zero() -> None:
    layer = Layer(1, "z", (), "affine", np.array([0.0, -1.0, 0.0, -1.0]), np.array([0.0, 0.0, 2.0, 1.0]), kinked=True)
    assert layer.phases == Phases(active=2, inactive=1, unstable=1)


@pytest.mark.parametrize("verifier", NAMES)
@pytest.mark.parametrize("exhibit", exhibits(), ids=lambda e: e.name)
def test_no_layer_is_wider_than_its_interval_and_all_contain_samples(exhibit: object, verifier: str) -> None:
    network: Network = exhibit.network  # type: ignore[attr-defined]
    x = np.linspace(-0.5, 0.5, network.n_inputs)
    query = Query(exhibit.model, robustness(x, 0, "0.25", n_outputs=network.n_outputs))  # type: ignore[attr-defined]
    layers = layers_of(create(verifier).verify(query))
    assert list(layers) == [node.name for node in network.nodes]
    region = region_of(query)
    plain = propagate(network, region.lower, region.upper)
    share = np.random.default_rng(0).random((200, *network.input_shape))
    values = network.values(region.lower + share * (region.upper - region.lower))
    for layer in layers.values():
        lower, upper = (end[0] for end in plain[layer.index])
        assert (layer.lower >= lower).all()
        assert (layer.upper <= upper).all()
        assert (values[layer.index] >= layer.lower - 1e-9).all()
        assert (values[layer.index] <= layer.upper + 1e-9).all()


def test_stable_entries_and_the_output_have_backward_passes_of_their_own() -> None:
    rng = np.random.default_rng(3)
    widths = [4, 8, 8, 3]
    weights = [rng.normal(size=(b, a)) for a, b in pairwise(widths)]
    network = dense_network(weights, [rng.normal(size=b) for b in widths[1:]])
    layers = layers_of(ask(network, radius="0.05"))
    intervals = layers_of(ask(network, verifier="interval", radius="0.05"))
    stable = (intervals["affine2"].lower >= 0) | (intervals["affine2"].upper <= 0)
    assert stable.any()
    for name, chosen in (("affine2", stable), ("affine3", slice(None))):
        ours, theirs = (layer.upper - layer.lower for layer in (layers[name], intervals[name]))
        assert (ours[chosen] < 0.9 * theirs[chosen]).all()


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
def test_the_output_layer_says_at_least_what_the_margin_says(norm: str) -> None:
    network = BUILDERS["residual"][0]()
    box = robustness(np.linspace(-0.5, 0.5, 3), 0, "0.25", norm, n_outputs=2).input_set
    unsafe = (Polyhedron((Constraint(outputs=((1, 1),), bound=0),)),)  # type: ignore[arg-type]
    query = Query(model_from_network(network, "net"), Property(box, unsafe, 2))
    for verifier in NAMES:
        result = create(verifier).verify(query)
        last = list(layers_of(result).values())[-1]
        assert last.lower.reshape(-1)[1] >= float(result.statistics["margin"]) - 1e-12


@pytest.mark.parametrize("name", ["max", "max_pool"])
def test_layers_of_a_maximum_are_those_of_the_maximum_itself(name: str) -> None:
    network = BUILDERS[name][0]()
    layers = layers_of(ask(network))
    (index,) = (k for k, node in enumerate(network.nodes) if type(node).__name__ == "Max")
    layer, node = layers[network.nodes[index].name], network.nodes[index]
    parent = layers[network.nodes[node.parents[0]].name]
    assert layer.kind == "max"
    assert (layer.lower >= node.evaluate([parent.lower])).all()
    assert (layer.upper <= node.evaluate([parent.upper])).all()


def test_a_point_has_layers_of_no_width() -> None:
    for layer in layers_of(ask(LAYERED, radius="0")).values():
        np.testing.assert_allclose(layer.lower, layer.upper, atol=1e-14)


def test_layers_are_computed_on_the_first_look_and_once() -> None:
    calls = []

    def compute() -> dict[int, tuple[np.ndarray, np.ndarray]]:
        calls.append(1)
        return {k: (np.zeros(n.shape), np.ones(n.shape)) for k, n in enumerate(LAYERED.nodes)}

    bounds = LayerBounds(LAYERED, compute)
    assert hull([bounds]) is bounds
    assert not calls
    assert bounds.layers is bounds.layers
    assert calls == [1]


def test_nan_says_nothing_and_a_node_without_bounds_is_no_layer() -> None:
    ends = np.array([[np.nan, 0.0, 1.0]])
    layers = LayerBounds(LAYERED, lambda: {1: (ends, ends)}).layers
    assert list(layers) == ["affine1"]
    assert layers["affine1"].lower.tolist() == [-np.inf, 0.0, 1.0]
    assert layers["affine1"].upper.tolist() == [np.inf, 0.0, 1.0]


def test_a_name_that_occurs_twice_is_told_apart() -> None:
    network = dense_network([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)])
    object.__setattr__(network.nodes[3], "name", "affine1")
    layers = LayerBounds(network, lambda: {k: (np.zeros(2), np.ones(2)) for k in range(4)}).layers
    assert list(layers) == ["input", "affine1", "act1", "affine1#3"]


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_a_pickled_result_keeps_its_layers(norm: str) -> None:
    result = ask(LAYERED, norm=norm)
    again = layers_of(pickle.loads(pickle.dumps(result)))
    for name, layer in layers_of(result).items():
        np.testing.assert_array_equal(again[name].lower, layer.lower)
        np.testing.assert_array_equal(again[name].upper, layer.upper)
        assert (again[name].kind, again[name].phases) == (layer.kind, layer.phases)


def test_infinite_ends_are_named_in_text_and_null_in_json() -> None:
    ends = np.array([-np.inf, -1.0 / 3.0]), np.array([np.inf, 1.0 / 3.0])
    layer = Layer(1, "a/very/long/name/of/a/tensor", (), "exp", *ends)
    answer = BoundsAnswer(ask(LAYERED), {layer.name: layer}, 1, "", 0.0, 0.0)
    assert answer.to_text(entries=False, width=None).split()[-6:] == ["-inf", "inf", "inf", "-", "-", "-"]
    assert "[       -inf,        inf]" in answer.to_text(entries=True, width=None)
    assert "[-0.33333334, 0.33333334]" in answer.to_text(entries=True, width=None)
    assert max(map(len, answer.to_text(entries=False, width=70).splitlines()[4:])) <= 70
    assert json.loads(json.dumps(answer.to_json(), allow_nan=False))["layers"][0]["lower"] == [None, -1.0 / 3.0]


# --- several cases ------------------------------------------------------------------------------------------------


def two_cases(bound: int) -> Query:
    """Unsafe: the first output at most `bound`, for inputs in one of two small boxes."""
    row = Constraint(outputs=((0, 1),), bound=bound)  # type: ignore[arg-type]
    boxes = [Box((a, a), (b, b)) for a, b in ((-1, 0), (2, 3))]  # type: ignore[arg-type]
    unsafe = tuple(Polyhedron((row,), box) for box in boxes)
    return Query(model_from_network(LAYERED, "net"), Property(Box((-9, -9), (9, 9)), unsafe, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", [-100, 0], ids=["holds", "unknown"])
def test_several_cases_have_their_hull(bound: int) -> None:
    query = two_cases(bound)
    layers = layers_of(create("crown").verify(query))
    parts = [layers_of(create("crown").verify(case)) for case in query.cases()]
    assert len(parts) == 2
    np.testing.assert_array_equal(layers["input"].lower, [-1, -1])
    np.testing.assert_array_equal(layers["input"].upper, [3, 3])
    for name, layer in layers.items():
        np.testing.assert_array_equal(layer.lower, np.minimum(parts[0][name].lower, parts[1][name].lower))
        np.testing.assert_array_equal(layer.upper, np.maximum(parts[0][name].upper, parts[1][name].upper))
    assert layers["affine1"].phases is not None


def test_no_hull_where_a_part_is_missing() -> None:
    bounds = layers_of(ask(LAYERED))
    known = LayerBounds(LAYERED, lambda: {k.index: (k.lower, k.upper) for k in bounds.values()})
    assert hull([]) is None
    assert hull([known, None]) is None


@dataclass(frozen=True, kw_only=True)
class Half(Verifier):
    """Bounds the first case and gives up on the others."""

    name: ClassVar[str] = "half"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE}, activations=frozenset({Relu}), paper=Paper("x", "X", "X", "X", 2026)
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        region = query.prop.input_set
        first = isinstance(region, Box) and region.lower[0] < 0
        bounds = LayerBounds(query.network, dict) if first else None
        return Outcome.unknown(Reason.INCOMPLETE, bounds=bounds)


def test_an_answer_without_bounds_of_every_case_has_none() -> None:
    query = two_cases(0)
    assert Half().verify(query).bounds is None
    assert Half().verify(query.cases()[0]).bounds is not None


def test_methods_without_bounds_have_none() -> None:
    query = two_cases(0)
    for name in ("pgd", "milp"):
        assert create(name).verify(query).bounds is None


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_onnx_tensors() -> None:
    import onnx

    path = "benchmarks/zoo/digits-conv-residual.onnx"
    model = load_model(path)
    graph = onnx.load(path).graph
    tensors = {graph.input[0].name, *(name for node in graph.node for name in node.output)}
    result = create("crown").verify(Query(model, robustness(np.full(64, 0.5), 0, "0.01", n_outputs=10)))
    layers = layers_of(result)
    assert set(layers) <= tensors
    assert next(iter(layers)) == graph.input[0].name
    assert list(layers)[-1] == graph.output[0].name
    assert len(layers) == len(model.network.nodes)  # type: ignore[union-attr]


def test_filled_gives_the_rest_their_intervals() -> None:
    box = (np.array([[-0.5, -0.5]]), np.array([[0.5, 0.5]]))
    plain = propagate(LAYERED, *box)
    found = filled(LAYERED, {0: box})
    for index, (lower, upper) in enumerate(plain):
        np.testing.assert_array_equal(found[index][0], lower)
        np.testing.assert_array_equal(found[index][1], upper)
    tight = (np.full((1, 3), -0.25), np.full((1, 3), 0.125))
    found = filled(LAYERED, {0: box, 1: tight})
    np.testing.assert_array_equal(found[1][1], np.minimum(tight[1], plain[1][1]))
    np.testing.assert_array_equal(found[2][0], np.zeros((1, 3)))
    assert (found[3][1] < plain[3][1]).all()

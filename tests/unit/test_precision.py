"""Analyses in float32: nothing in float64 on the way, every exact value inside, never HOLDS against the oracle.

At a single point a bound's width is what rounding is thought to have cost and nothing else: where it is too little, the
exact value lies outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.unit.test_windows import Chain
from verifkit.analysis.layers import layer_bounds
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.refute import Relaxations
from verifkit.analysis.region import Region, region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import rows_of
from verifkit.analysis.slopes import Ascent
from verifkit.analysis.windows import WindowPass
from verifkit.budget import Budget, Clock
from verifkit.errors import OptionError
from verifkit.evidence import Leaf
from verifkit.exact import RATIONAL, evaluate_exactly
from verifkit.functions import Clip, Elu, LeakyRelu, Relu
from verifkit.input_sets import Box
from verifkit.io.onnx import model_from_network
from verifkit.network import Network, dense_network
from verifkit.properties import Constraint, Polyhedron, Property, misclassified
from verifkit.query import Query
from verifkit.registry import create
from verifkit.result import Reason, Verdict
from verifkit.testing.checks_evidence import outputs_far
from verifkit.testing.conformance import Check, checks_for
from verifkit.testing.gallery import exhibits
from verifkit.testing.samples import row_minimum, sample_of
from verifkit.testing.toys import random_question, random_region, random_toy, to_model

F = Fraction
NAMES = ("interval", "crown", "crown_ibp", "fastlin", "dual", "alpha_crown")
SINGLE = {"precision": "float32"}
METHODS: Mapping[str, tuple[Relaxations, dict[str, Any]]] = {
    "interval": ({}, {}),
    "crown": (CROWN_RELAXATIONS, {}),
    "crown_ibp": (CROWN_RELAXATIONS, {"tighten": False}),
    "alpha_crown": (CROWN_RELAXATIONS, {"ascent": Ascent(4)}),
}


def analysed(network: Network, region: Region, method: str) -> LinearAnalysis:
    relaxations, options = METHODS[method]
    return analyse(network.without_max() if relaxations else network, region, relaxations, Clock(Budget()), **options)


def single(lower: np.ndarray, upper: np.ndarray) -> Region:
    return Region(lower.astype(np.float32), upper.astype(np.float32))


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_precision_is_one_of_two(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name}'s precision must be one of float64, float32, not 'float16'"):
        create(name, {"precision": "float16"})


def line(weight: float, bias: float = 0.0) -> Network:
    return dense_network([np.array([[weight]])], [np.array([bias])])


@pytest.mark.parametrize(
    "network",
    [
        line(0.1),
        line(1.0, 0.1),
        line(1e39),
        line(1e-46),
        *(
            dense_network([np.eye(1), np.eye(1)], [np.zeros(1), np.zeros(1)], f)
            for f in (LeakyRelu(0.1), LeakyRelu(np.array(0.1)), Elu(0.1), Clip(-0.1, 0.5), Clip(-0.5, np.array([0.1])))
        ),
    ],
    ids=lambda n: "",
)
def test_weights_that_are_no_float32_are_refused(network: Network) -> None:
    assert network.beyond_float32 is not None
    model = replace(model_from_network(line(1.0), "line"), network=network)
    row = Constraint(outputs=((0, F(1)),), bound=F(-(10**40)))
    query = Query(model, Property(Box((F(0),), (F(1),)), (Polyhedron((row,)),), 1))
    for name in ("interval", "crown", "alpha_crown"):
        if create(name).capabilities.refusal(query) is None:
            result = create(name, SINGLE).verify(query)
            assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.UNSUPPORTED)
            assert "weights that are float32 numbers" in result.detail
            assert create(name).verify(query).verdict is Verdict.HOLDS


def test_weights_that_are_float32_are_not() -> None:
    for network in (line(float(np.float32(0.1))), line(1e-45 * 0), line(float(np.float32(1e38)))):
        assert network.beyond_float32 is None
    for function in (LeakyRelu(float(np.float32(0.1))), Elu(0.5), Clip(-np.inf, np.float32(0.1)), Relu()):
        assert dense_network([np.eye(1), np.eye(1)], [np.zeros(1), np.zeros(1)], function).beyond_float32 is None


# --- nothing is float64 on the way ----------------------------------------------------------------------------------


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from arrays_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from arrays_in(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from arrays_in(getattr(value, field.name))


def chain(seed: int) -> Network:
    """Convolutions that are bounded by windows."""
    built = Chain((2, 7, 8), seed).conv(3, (3, 2), pads=((1, 1), (0, 1))).function(Relu()).conv(4, (3, 3))
    return built.function(LeakyRelu(0.25)).conv(2, (2, 2), strides=(2, 1)).network()


NETWORKS = {e.name: e.network for e in exhibits()} | {"windows": chain(0)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_array_is_float32(name: str, method: str) -> None:
    network = NETWORKS[name]
    known = {type(n.function) for _, n in network.activations()} <= set(CROWN_RELAXATIONS)
    if not known:
        pytest.skip("a function that no method knows")
    center = np.random.default_rng(1).uniform(0.25, 0.75, (2, *network.input_shape))
    for some in (slice(0, 1), slice(0, 2)):
        analysis = analysed(network, single(center[some] - 0.25, center[some] + 0.25), method)
        unit = np.broadcast_to(np.eye(network.n_outputs).reshape(-1, *network.output_shape)[None],
                               (center[some].shape[0], network.n_outputs, *network.output_shape))  # fmt: skip
        found = analysis.backward({len(analysis.network.nodes) - 1: unit.astype(np.float32)})
        compact = [] if analysis.compact is None else [analysis.compact.bounds, analysis.compact.relaxed]
        kept = [analysis.bounds, analysis.lines, analysis.planes, found, compact]
        assert {a.dtype for a in arrays_in(kept)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", NAMES)
def test_evidence_is_float32(name: str) -> None:
    exhibit = next(e for e in exhibits() if e.name == "relu")
    n = exhibit.network.n_inputs
    prop = outputs_far(Property(Box((F(-1),) * n, (F(1),) * n), (), exhibit.network.n_outputs), True)
    proof = create(name, SINGLE).verify(Query(exhibit.model, prop)).evidence
    assert isinstance(proof, Leaf)
    assert {a.dtype for a in arrays_in([proof.intermediate, proof.lines])} == {np.dtype(np.float32)}


# --- exact values at a point ----------------------------------------------------------------------------------------


def scaled(seed: int, scale: float, widths: tuple[int, ...]) -> Network:
    """Weights of that size that cancel: rows come in pairs that differ little."""
    rng = np.random.default_rng(seed)
    weights = [np.float32(scale * rng.normal(size=(b, a))).astype(float) for a, b in pairwise(widths)]
    for w in weights[1:]:
        half = w.shape[1] // 2
        w[:, half : 2 * half] = np.float32(-w[:, :half] * (1.0 + 1e-6 * rng.normal(size=w[:, :half].shape)))
    biases = [np.float32(scale * rng.normal(size=len(w))).astype(float) for w in weights]
    return dense_network(weights, biases)


def exact_values(network: Network, x: np.ndarray) -> list[tuple[Fraction, ...]]:
    point = [F(float(v)) for v in x.reshape(-1)]
    return [evaluate_exactly(Network(network.nodes[: k + 1]), point) for k in range(len(network.nodes))]


def rational_networks() -> dict[str, Network]:
    gallery = {
        e.name: e.network for e in exhibits() if all(type(n.function) in RATIONAL for _, n in e.network.activations())
    }
    sized = {f"{scale:g} {widths}": scaled(k, scale, widths)
             for k, scale in enumerate((1e-30, 1e-12, 1e-3, 1.0, 1e3, 1e8))
             for widths in ((3, 8, 8, 2), (4, 300, 300, 2), (400, 20, 3))}  # fmt: skip
    return gallery | sized | {f"windows {seed}": chain(seed) for seed in range(3)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", POINTS := rational_networks())
def test_exact_values_at_a_point(name: str, method: str) -> None:
    network = POINTS[name]
    rng = np.random.default_rng(7)
    for _ in range(2):
        x = np.float32(rng.normal(size=(1, *network.input_shape)))
        analysis = analysed(network, Region(x, x), method)
        exact = exact_values(network, x)
        for layer in layer_bounds(network, analysis).layers.values():
            low, high = layer.lower.reshape(-1).tolist(), layer.upper.reshape(-1).tolist()
            for a, value, b in zip(low, exact[layer.index], high, strict=True):
                assert (a == -np.inf or F(a) <= value) and (b == np.inf or value <= F(b)), layer.name  # noqa: PT018


@pytest.mark.parametrize("seed", range(6))
def test_windows_at_a_point(seed: int) -> None:
    """Asked for directly: at a point no unit is left open for a backward pass."""
    network = chain(seed).cast(np.zeros(1, dtype=np.float32))
    x = np.float32(np.random.default_rng(seed).normal(size=(1, *network.input_shape)) * 10.0 ** (seed - 3))
    analysis = analysed(network, Region(x, x), "crown")
    last = len(network.nodes) - 1
    order = list(range(last, -1, -1))
    each = np.arange(network.n_outputs)
    windows = WindowPass(network, order, analysis.bounds, analysis.lines, Region(x, x))
    low, minus_high = windows.lower(each, 1.0), windows.lower(each, -1.0)
    assert low.dtype == minus_high.dtype == np.float32
    exact = exact_values(chain(seed), x)[-1]
    for a, value, b in zip(low[0].tolist(), exact, minus_high[0].tolist(), strict=True):
        assert F(a) <= value <= -F(b)


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_no_float32(name: str) -> None:
    """1/3 and 1 + 2^-40, of large values that cancel in the row."""
    network = dense_network([np.array([[1.0], [1.0]])], [np.array([2.0**30, 2.0**30])])
    row = ((0, 1 + F(1, 2**40)), (1, F(-1))), ((0, F(1, 3)), (1, F(-1, 3)))
    for outputs, value in zip(row, (F(2**30, 2**40), F(0)), strict=True):
        unsafe = (Polyhedron((Constraint(outputs=outputs, bound=F(0)),)),)
        query = Query(model_from_network(network, "large"), Property(Box((F(0),), (F(0),)), unsafe, 2))
        found = create(name, SINGLE).verify(query).statistics["margin"]
        assert F(float(found)) <= value
        assert found > -1e4


def test_rows_in_float32_carry_what_was_rounded() -> None:
    coefficients = [F(1, 3), 1 + F(1, 2**40), F(1, 10**44), F(2**60 + 1), F(-7, 11), F(3, 4)]
    row = Constraint(outputs=tuple(enumerate(coefficients)), bound=F(1, 3), inputs=((0, F(1, 7)),))
    exact = Property(Box((F(0),), (F(1),)), (Polyhedron((row,)),), 6)
    rows = rows_of(exact).held_in(np.dtype(np.float32))
    assert rows.inputs is not None
    assert rows.output_error is not None
    assert rows.input_error is not None
    assert {a.dtype for a in (rows.outputs, rows.inputs, rows.output_error, rows.input_error)} == {np.dtype(np.float32)}
    assert rows.bound.dtype == np.float64
    pairs = [*zip(rows.outputs[0], rows.output_error[0], coefficients, strict=True)]
    for near, error, value in [*pairs, (rows.inputs[0, 0], rows.input_error[0, 0], F(1, 7))]:
        assert abs(F(float(near)) - value) <= F(float(error)) <= abs(value) * F(1, 2**23) + F(1, 10**44)
    assert rows.output_error[0, 5] == 0


# --- sets, questions, batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_rows_lie_below_their_exact_minimum_and_near_float64(seed: int) -> None:
    rng = np.random.default_rng(seed)
    toy = random_toy(rng, max_relus=8, magnitudes=seed % 4 == 3)
    prop = outputs_far(Property(random_region(rng, toy.n_inputs), (), toy.n_outputs), True)
    query, rows = Query(to_model(toy), prop), rows_of(prop)
    if query.network.beyond_float32 is not None:
        return
    exact = [row_minimum(toy, prop, number, 0) for number in range(len(prop.unsafe))]
    for method in METHODS:
        each = [analysed(query.network, region_of(query, dtype), method) for dtype in (np.float32, np.float64)]
        low, wanted = (np.asarray(a.property_rows(rows))[0].astype(float) for a in each)
        size = 1.0 + sum(float(np.abs(end).max()) for bounds in each[1].bounds for end in bounds)
        for bound, least in zip(low.tolist(), exact, strict=True):
            assert F(bound) <= least
        assert (np.abs(low - wanted) <= 1e-4 * size * (1.0 + np.abs(rows.outputs).sum(axis=1))).all()


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_never_holds_against_the_oracle(first: int) -> None:
    decided = 0
    for number in range(first, first + 50):
        rng = np.random.default_rng([77, number])
        toy, prop = random_question(rng, random_toy(rng, max_relus=14, magnitudes=number % 10 == 9))
        sample = sample_of(f"question {number}", toy, prop)
        for name in NAMES:
            verdict = create(name, SINGLE).verify(sample.query).verdict
            assert verdict is not Verdict.HOLDS or not sample.truth.violated, (number, name)
            decided += verdict is Verdict.HOLDS
    assert decided > 30


@pytest.mark.parametrize("name", ["interval", "crown", "fastlin"])
def test_a_batch_is_answered_as_one_by_one(name: str) -> None:
    exhibit = next(e for e in exhibits() if e.name == "relu")
    n, m = exhibit.network.n_inputs, exhibit.network.n_outputs
    boxes = [Box((F(-k, 9),) * n, (F(k, 7),) * n) for k in range(1, 5)]
    queries = [Query(exhibit.model, Property(box, misclassified(0, m), m)) for box in boxes]
    verifier = create(name, SINGLE)
    for together, query in zip(verifier.verify_batch(queries), queries, strict=True):
        alone = verifier.verify(query)
        assert together.verdict is alone.verdict
        assert together.statistics["margin"] == pytest.approx(alone.statistics["margin"], abs=1e-4)


def conformance() -> list[Check]:
    return [check for name in ("interval", "crown") for check in checks_for(create(name, SINGLE), queries=12)]


@pytest.mark.parametrize("check", conformance(), ids=str)
def test_conformance(check: Check) -> None:
    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_conformance_of_all(name: str) -> None:
    for check in checks_for(create(name, SINGLE), queries=64):
        check()

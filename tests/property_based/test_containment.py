"""Every bound of every incomplete verifier contains what the network computes at thousands of inputs of the set."""

from __future__ import annotations

import zlib
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verifkit.capabilities import Kind
from verifkit.functions import Relu, ScalarFunction, Sigmoid, Tanh
from verifkit.input_sets import Box, InputSet, LpBall, Norm
from verifkit.io.onnx import load_model, model_from_network
from verifkit.network import dense_network
from verifkit.properties import Property, misclassified
from verifkit.query import Query
from verifkit.registry import create, names, verifier_class
from verifkit.testing.containment import Sampled, sampled
from verifkit.testing.gallery import Exhibit, exhibits
from verifkit.testing.oracle import ToyNet
from verifkit.testing.strategies import questions
from verifkit.testing.toys import to_network

SAMPLES = 10000
RADII = (Fraction(0), Fraction(1, 20), Fraction(3, 10), Fraction(1))


def bounding() -> list[str]:
    """The installed verifiers that bound layers."""
    capabilities = {name: verifier_class(name).capabilities for name in names()}
    return [
        name
        for name, c in capabilities.items()
        if set(c.kinds.values()) == {Kind.INCOMPLETE} and not c.missing_modules()
    ]


def conic(name: str) -> bool:
    """Whether the verifier solves cone programs: it is asked less often."""
    return "cvxpy" in verifier_class(name).capabilities.modules


QUICK = [name for name in bounding() if not conic(name)]


def region_of_kind(kind: str, radius: Fraction, n: int) -> InputSet:
    """box; slab: a box with fixed entries; l1, l2: a ball; l1 cut, l2 cut: one whose clip box takes a part of it, the
    center too; l0: within a clip box."""
    center = tuple(Fraction(k, 8) for k in np.linspace(-4, 4, n).astype(int).tolist())
    box = Box(tuple(c - radius for c in center), tuple(c + radius for c in center))
    if kind == "box":
        return box
    if kind == "slab":
        return Box(
            tuple(c if k % 2 else low for k, (c, low) in enumerate(zip(center, box.lower, strict=True))), box.upper
        )
    norm: Norm = "1" if "l1" in kind else "2" if "l2" in kind else "0"
    if norm == "0":
        clip = Box(tuple(c - radius for c in center), tuple(c + radius / 2 for c in center))
        return LpBall(center, Fraction(n // 2), "0", clip)
    if "cut" not in kind:
        return LpBall(center, radius, norm)
    low = center[0] + radius / 4  # the first entry of the center lies outside
    clip = Box((low, *(c - radius / 3 for c in center[1:])), (low + radius, *(c + radius / 2 for c in center[1:])))
    return LpBall(center, radius, norm, clip)


KINDS = {"inf": ("box", "slab"), "2": ("l2", "l2 cut"), "1": ("l1", "l1 cut"), "0": ("l0",)}


@cache
def samples_of(exhibit: Exhibit, kind: str, radius: Fraction) -> tuple[Query, Sampled]:
    model = exhibit.model
    region = region_of_kind(kind, radius, model.n_inputs)
    query = Query(model, Property(region, misclassified(0, model.n_outputs), model.n_outputs))
    return query, sampled(query, samples=SAMPLES, seed=zlib.crc32(f"{exhibit.name} {kind} {radius}".encode()))


def cases(name: str, exhibit: Exhibit) -> list[tuple[str, Fraction]]:
    """Every input set that the verifier takes with this network."""
    capabilities = verifier_class(name).capabilities
    found = [(kind, radius) for norm in capabilities.kinds for kind in KINDS[norm] for radius in RADII]
    return [(k, r) for k, r in found if capabilities.refusal(_question(exhibit, k, r)) is None]


def _question(exhibit: Exhibit, kind: str, radius: Fraction) -> Query:
    region = region_of_kind(kind, radius, exhibit.model.n_inputs)
    return Query(exhibit.model, Property(region, misclassified(0, exhibit.model.n_outputs), exhibit.model.n_outputs))


PAIRS = [
    (name, exhibit)
    for name in bounding()
    for exhibit in exhibits()
    if not exhibit.stops(*(lambda c: (c.operators, c.activations))(verifier_class(name).capabilities))  # type: ignore[arg-type]
]


def check(name: str, exhibit: Exhibit, chosen: list[tuple[str, Fraction]], **options: str) -> None:
    for kind, radius in chosen:
        query, found = samples_of(exhibit, kind, radius)
        result = create(name, options).verify(query)
        try:
            found.check(result)
        except AssertionError as error:
            raise AssertionError(f"{exhibit.name}, {kind} of radius {radius}: {error}") from None


@pytest.mark.parametrize(("name", "exhibit"), PAIRS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_gallery(name: str, exhibit: Exhibit) -> None:
    found = cases(name, exhibit)
    rng = np.random.default_rng(zlib.crc32(f"{name} {exhibit.name}".encode()))
    chosen = [found[k] for k in rng.permutation(len(found))[: 1 if conic(name) else 2]]
    check(name, exhibit, chosen)


SINGLE = [(name, exhibit) for name, exhibit in PAIRS if "precision" in verifier_class(name).__dataclass_fields__]


@pytest.mark.parametrize(("name", "exhibit"), SINGLE, ids=lambda v: v if isinstance(v, str) else v.name)
def test_gallery_in_float32(name: str, exhibit: Exhibit) -> None:
    found = cases(name, exhibit)
    rng = np.random.default_rng(zlib.crc32(f"{name} {exhibit.name}".encode()))
    check(name, exhibit, [found[int(rng.integers(len(found)))]], precision="float32")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "exhibit"), SINGLE, ids=lambda v: v if isinstance(v, str) else v.name)
def test_gallery_in_float32_with_every_input_set(name: str, exhibit: Exhibit) -> None:
    check(name, exhibit, cases(name, exhibit), precision="float32")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "exhibit"), PAIRS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_gallery_with_every_input_set(name: str, exhibit: Exhibit) -> None:
    check(name, exhibit, cases(name, exhibit))


def check_question(name: str, toy: ToyNet, prop: Property) -> None:
    """The layers over all cases hold the samples of each; each case's margin lies below its samples."""
    query = Query(model_from_network(to_network(toy), "toy"), prop)
    verifier = create(name)
    if verifier.capabilities.refusal(query) is not None or not query.cases():
        return
    whole = verifier.verify(query)
    for k, case in enumerate(query.cases()):
        found = sampled(case, samples=400, seed=k)
        found.check(replace(whole, statistics={}))
        found.check(verifier.verify(case))


EVERY = ("box", "l1", "l2")


@pytest.mark.parametrize("name", bounding())
@pytest.mark.parametrize("bias", [(-4, -4, -4), (-4, 1, -4), (0, -4, 4)], ids=["all", "some", "mixed"])
def test_units_that_are_surely_zero(name: str, bias: tuple[int, int, int]) -> None:
    """They take no part in a sum that a residual connection makes of them."""
    rng = np.random.default_rng(5)

    def weights(rows: int, columns: int) -> tuple[tuple[Fraction, ...], ...]:
        return tuple(tuple(Fraction(int(v), 8) for v in row) for row in rng.integers(-8, 9, (rows, columns)))

    biases = ((Fraction(0),) * 4, tuple(map(Fraction, bias)), (Fraction(1, 8),) * 4, (Fraction(0),) * 2)
    toy = ToyNet((weights(4, 3), weights(3, 4), weights(4, 3), weights(2, 4)), biases, ((1, 3), (0, 2)))
    for kind in ("box", "l2"):
        check_question(name, toy, Property(region_of_kind(kind, Fraction(1, 8), 3), misclassified(0, 2), 2))


@pytest.mark.parametrize("name", QUICK)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(question=questions(kinds=EVERY, strict=False))
def test_random_networks(name: str, question: tuple[ToyNet, Property]) -> None:
    check_question(name, *question)


@pytest.mark.slow
@pytest.mark.parametrize("name", bounding())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(question=questions(kinds=EVERY))
def test_many_random_networks(name: str, question: tuple[ToyNet, Property]) -> None:
    check_question(name, *question)


@pytest.mark.parametrize("name", QUICK)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    function=st.sampled_from([Relu(), Sigmoid(), Tanh()]),
    kind=st.sampled_from([kind for kinds in KINDS.values() for kind in kinds]),
    radius=st.sampled_from(RADII),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_random_weights(
    name: str, seed: int, function: ScalarFunction, kind: str, radius: Fraction, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 9, int(rng.integers(2, 6)))
    weights = [scale * rng.normal(size=(b, a)) for a, b in zip(widths, [*widths[1:], 3], strict=True)]
    model = model_from_network(dense_network(weights, [rng.normal(size=len(w)) for w in weights], function), "random")
    region = region_of_kind(kind, radius, model.n_inputs)
    query = Query(model, Property(region, misclassified(0, 3), 3))
    verifier = create(name)
    if verifier.capabilities.refusal(query) is None:
        sampled(query, samples=1000, seed=seed).check(verifier.verify(query))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["box", "l2 cut", "l1 cut"])
@pytest.mark.parametrize("file", ["digits-2x50", "digits-2x50-tanh", "digits-conv-small", "digits-conv-residual"])
@pytest.mark.parametrize("name", QUICK)
def test_zoo(name: str, file: str, kind: str) -> None:
    model = load_model(f"benchmarks/zoo/{file}.onnx")
    radius = {"box": Fraction(1, 50), "l2 cut": Fraction(1, 5), "l1 cut": Fraction(1, 2)}[kind]
    query = Query(model, Property(region_of_kind(kind, radius, model.n_inputs), misclassified(0, 10), 10))
    verifier = create(name)
    if verifier.capabilities.refusal(query) is None:
        sampled(query, samples=SAMPLES).check(verifier.verify(query))


# --- the check itself: what it must not let through ---------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kinds in KINDS.values() for kind in kinds])
@pytest.mark.parametrize("radius", RADII)
def test_samples_lie_in_the_set_and_reach_its_ends(kind: str, radius: Fraction) -> None:
    exhibit = next(e for e in exhibits() if e.name == "relu")
    query, found = samples_of(exhibit, kind, radius)
    box = query.prop.input_set.bounding_box() if isinstance(query.prop.input_set, LpBall) else query.prop.input_set
    low, high = found.seen.low[0].reshape(-1), found.seen.high[0].reshape(-1)
    lower, upper = (np.array([float(v) for v in end]) for end in (box.lower, box.upper))
    assert (low >= lower - 1e-6).all()
    assert (high <= upper + 1e-6).all()
    if "cut" not in kind:  # a box around a ball that is cut may be wider than what is left
        np.testing.assert_allclose(low, lower, atol=1e-6)
        np.testing.assert_allclose(high, upper, atol=1e-6)


def test_a_bound_that_is_a_little_too_tight_is_found() -> None:
    from verifkit.layer_bounds import LayerBounds

    exhibit = next(e for e in exhibits() if e.name == "sigmoid")
    for kind in ("box", "l2", "l1 cut"):
        query, found = samples_of(exhibit, kind, Fraction(3, 10))
        result = create("crown").verify(query)
        assert result.bounds is not None
        for index in range(len(exhibit.network.nodes)):
            ends = {layer.index: (layer.lower, layer.upper) for layer in result.bounds.layers.values()}
            low, high = found.seen.low[index], found.seen.high[index]
            ends[index] = (ends[index][0], high - 1e-3 * (high - low))
            forged = LayerBounds(exhibit.network, lambda ends=ends: ends)
            with pytest.raises(AssertionError, match=f"node {index} "):
                found.check(replace(result, bounds=forged))
        with pytest.raises(AssertionError, match="margin"):
            found.check(replace(result, statistics={"margin": found.least + 1e-6}))

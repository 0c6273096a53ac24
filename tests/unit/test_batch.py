"""Questions asked together: the answers they get alone, one analysis for many, and claims that are checked."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest

from verifkit import registry
from verifkit.analysis import refute
from verifkit.analysis.linear import WIDE
from verifkit.budget import Budget, Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.evidence import Leaf
from verifkit.functions import Relu
from verifkit.input_sets import Box, InputSet, LpBall
from verifkit.io.onnx import model_from_network
from verifkit.model import Model, digest_of
from verifkit.network import dense_network
from verifkit.properties import Constraint, Polyhedron, Property, misclassified
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Result, Verdict
from verifkit.testing.conformance import ConformanceError, checks_for
from verifkit.testing.graphs import BUILDERS, Graph
from verifkit.verifier import Verifier

LINEAR = tuple(n for n in registry.names() if registry.verifier_class(n)._decide_batch is not Verifier._decide_batch)
"""The installed verifiers that answer a batch in one pass."""

N = 4


def dense(*widths: int, seed: int = 0) -> Model:
    graph, at = Graph(1, N, seed=seed), 0
    for width in widths:
        at = graph.activate(graph.dense(at, width), Relu())
    graph.dense(at, 2)
    return model_from_network(graph.network(), f"dense {widths} {seed}")


MODELS: dict[str, Callable[[], Model]] = {
    "narrow": lambda: dense(8, 6),
    "wide": lambda: dense(WIDE + 10, 9, seed=1),
    "residual": lambda: model_from_network(BUILDERS["residual"][0](), "residual"),
    "conv": lambda: model_from_network(BUILDERS["conv"][0](), "conv"),
    "branches": lambda: model_from_network(BUILDERS["branches"][0](), "branches"),
}


def region(n: int, kind: str, number: int) -> InputSet:
    rng = np.random.default_rng([number, n])
    center = tuple(Fraction(int(v), 8) for v in rng.integers(-8, 9, n))
    radius = Fraction(int(rng.integers(1, 12)), 32)
    box = Box(tuple(c - radius for c in center), tuple(c + radius / 2 for c in center))
    if kind == "box":
        return box
    return LpBall(center, radius, kind[1], box if "clipped" in kind else None)  # type: ignore[arg-type]


KINDS = ("box", "l1", "l2", "l2 clipped", "box", "l1 clipped", "box", "l2")


def far(bound: int = -100) -> tuple[Polyhedron, ...]:
    """No output is so low."""
    one = Fraction(1)
    rows = [Constraint(outputs=((k, one), (1 - k, one / 3)), bound=Fraction(bound)) for k in (0, 1)]
    return tuple(Polyhedron((row,)) for row in rows)


def questions(model: Model, kinds: Sequence[str] = KINDS) -> list[Query]:
    one = Fraction(1)
    coupled = Polyhedron((Constraint(outputs=((1, one),), bound=Fraction(-9), inputs=((0, one),)),))
    unsafe = itertools.cycle([misclassified(0, 2), far(), (*far(), coupled), misclassified(1, 2), (coupled,)])
    sets = (region(model.n_inputs, kind, k) for k, kind in enumerate(kinds))
    return [Query(model, Property(each, rows, 2)) for each, rows in zip(sets, unsafe, strict=False)]


def halves(model: Model) -> Query:
    """Two disjuncts with boxes of their own."""
    box = Box((Fraction(-1),) * model.n_inputs, (Fraction(1),) * model.n_inputs)
    rows = far()[0].constraints
    left, right = replace(box, upper=(Fraction(0), *box.upper[1:])), replace(box, lower=(Fraction(0), *box.lower[1:]))
    return Query(model, Property(box, (Polyhedron(rows, left), Polyhedron(rows, right)), 2))


def same(many: Result, one: Result) -> None:
    assert (many.verdict, many.reason, many.verifier) == (one.verdict, one.reason, one.verifier)
    assert (many.query_digest, many.seed, many.guarantee) == (one.query_digest, one.seed, one.guarantee)
    margin = one.statistics["margin"]
    assert many.statistics["margin"] == pytest.approx(margin, rel=1e-9, abs=1e-9)
    assert many.bounds is not None
    assert one.bounds is not None
    assert list(many.bounds.layers) == list(one.bounds.layers)
    for name, layer in one.bounds.layers.items():
        other = many.bounds.layers[name]
        assert other.lower.shape == layer.lower.shape
        scale = 1.0 + float(np.abs(layer.lower).max() + np.abs(layer.upper).max())
        np.testing.assert_allclose(other.lower / scale, layer.lower / scale, rtol=0, atol=1e-9)
        np.testing.assert_allclose(other.upper / scale, layer.upper / scale, rtol=0, atol=1e-9)
    if isinstance(one.evidence, Leaf):
        assert isinstance(many.evidence, Leaf)
        assert [row for row, _ in many.evidence.refuting_row] == [row for row, _ in one.evidence.refuting_row]
        assert set(many.evidence.intermediate) == set(one.evidence.intermediate)
        assert set(many.evidence.lines) == set(one.evidence.lines)
        assert all(end.shape[0] == 1 for ends in many.evidence.intermediate.values() for end in ends)


# --- one pass -------------------------------------------------------------------------------------------------------


def test_linear_verifiers_have_a_pass_of_their_own() -> None:
    assert {"interval", "crown", "crown_ibp", "fastlin", "dual"} <= set(LINEAR)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", LINEAR)
def test_together_as_alone(name: str, model: str) -> None:
    verifier, asked = registry.create(name), questions(MODELS[model]())
    for many, query in zip(verifier.verify_batch(asked, seed=3), asked, strict=True):
        same(many, verifier.verify(query, seed=3))


@pytest.mark.parametrize("kind", ["box", "l1", "l2", "l2 clipped"])
@pytest.mark.parametrize("name", LINEAR)
def test_one_property_at_many_places(name: str, kind: str) -> None:
    """A test set at one radius: rows of one number, so that they are pulled back together."""
    verifier, model = registry.create(name), MODELS["narrow"]()
    for rows in (misclassified(0, 2), far()):
        asked = [Query(model, Property(region(N, kind, k), rows, 2)) for k in range(6)]
        together = verifier.verify_batch(asked)
        for many, query in zip(together, asked, strict=True):
            same(many, verifier.verify(query))
        if rows == far():
            assert {many.verdict for many in together} == {Verdict.HOLDS}


@pytest.mark.parametrize("name", LINEAR)
def test_one_analysis_for_each_kind_of_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    analyse = refute.analyse

    def counting(network: object, asked: object, *args: object, **kwargs: object) -> object:
        batches.append(asked.batch)  # type: ignore[attr-defined]
        return analyse(network, asked, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(refute, "analyse", counting)
    registry.create(name).verify_batch(questions(MODELS["narrow"]()))
    assert sorted(batches) == [2, 3, 3]  # l1, l2 and boxes


@pytest.mark.parametrize("name", LINEAR)
def test_what_overflows_proves_nothing(name: str) -> None:
    """Regions of the batch that end in infinities and NaNs leave the others as they are."""
    weight = np.array([[1.0, -1.0], [1.0, 1.0]])
    network = dense_network([weight * 1e30] * 6 + [weight], [np.zeros(2)] * 7)
    digest = digest_of(b"huge")
    model = Model("huge", (2,), (2,), network.evaluate, digest, dtype=np.float64, network=network)
    one = Fraction(1)
    unsafe = (Polyhedron((Constraint(outputs=((0, one), (1, -one)), bound=-one),)),)
    zero = Fraction(0)
    boxes = [Box((-one * k, -one * k), (one * k, one)) for k in (1, 10**150, 10**200)] + [
        Box((zero, zero), (zero, zero))
    ]
    verifier = registry.create(name)
    asked = [Query(model, Property(box, unsafe, 2)) for box in boxes]
    verdicts = [r.verdict for r in verifier.verify_batch(asked)]
    assert verdicts == [verifier.verify(query).verdict for query in asked]
    assert verdicts == [Verdict.UNKNOWN] * 3 + [Verdict.HOLDS]


# --- all sorts of questions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crown", "interval", "zonotope", "pgd"])
def test_answers_keep_their_places(name: str) -> None:
    verifier = registry.create(name)
    one, two = MODELS["narrow"](), MODELS["residual"]()
    nothing = Query(one, Property(region(N, "box", 1), (), 2))
    refused = Query(one, Property(replace(region(N, "l1", 1), norm="0", clip=region(N, "box", 1)), far(), 2))
    pairs = zip(questions(one), questions(two), strict=True)
    asked = [q for pair in pairs for q in pair] + [nothing, refused, halves(one), halves(two)]
    order = np.random.default_rng(2).permutation(len(asked))
    asked = [asked[k] for k in order]
    results = verifier.verify_batch(asked)
    for many, query in zip(results, asked, strict=True):
        alone = verifier.verify(query)
        assert (many.verdict, many.reason, many.query_digest) == (alone.verdict, alone.reason, query.digest)
    reasons = {r.reason for r in results}
    assert (Reason.UNSUPPORTED in reasons) == ("0" not in verifier.capabilities.kinds)
    assert verifier.verify_batch([]) == []


def test_the_time_is_shared_out() -> None:
    asked = questions(MODELS["wide"](), ["box"] * 5)
    start = time.perf_counter()
    results = registry.create("crown").verify_batch(asked)
    took = time.perf_counter() - start
    assert len({r.wall_seconds for r in results}) == 1
    assert 0 < sum(r.wall_seconds for r in results) <= took


# --- claims and budgets ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Claims(Verifier):
    """Answers every question of a batch alike."""

    name: ClassVar[str] = "claims"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.INCOMPLETE, "1": Kind.FALSIFIER, "2": Kind.PROBABILISTIC},
        activations=frozenset({Relu}),
        coupling=True,
        paper=Paper("nobody2026", "Nobody", "Claims", "nowhere", 2026),
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        return Outcome.unknown(Reason.INCOMPLETE)

    def _decide_batch(
        self, queries: Sequence[Query], clock: Clock, rngs: Sequence[np.random.Generator]
    ) -> list[Outcome]:
        return [self._claim(query) for query in queries]

    def _claim(self, query: Query) -> Outcome:
        return Outcome.holds(Guarantee(arithmetic=Arithmetic.ROUNDED), None)


def asked_of(kind: str) -> list[Query]:
    return [Query(q.model, replace(q.prop, unsafe=far())) for q in questions(MODELS["narrow"](), [kind] * 3)]


def test_what_a_kind_of_method_cannot_claim() -> None:
    def words(kind: str) -> set[tuple[Verdict, Reason | None]]:
        return {(r.verdict, r.reason) for r in Claims().verify_batch(asked_of(kind))}

    assert words("box") == {(Verdict.HOLDS, None)}
    assert words("l1") == {(Verdict.UNKNOWN, Reason.ERROR)}  # a falsifier proves nothing
    assert words("l2") == {(Verdict.UNKNOWN, Reason.ERROR)}  # and this kind of method not without a chance of failure


class Unbacked(Claims):
    """Without a guarantee."""

    def _claim(self, query: Query) -> Outcome:
        return Outcome(verdict=Verdict.HOLDS)


class Chancy(Claims):
    """With a chance of failure that a method of this kind must not have."""

    def _claim(self, query: Query) -> Outcome:
        return Outcome.holds(Guarantee(arithmetic=Arithmetic.ROUNDED, failure_probability=0.1), None)


@pytest.mark.parametrize("verifier", [Unbacked(), Chancy()], ids=lambda v: type(v).__name__)
def test_guarantees_that_do_not_fit(verifier: Verifier) -> None:
    for result in verifier.verify_batch(asked_of("box")):
        assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.ERROR)


@dataclass(frozen=True, kw_only=True)
class Points(Claims):
    """Shows one input for all questions."""

    value: float = 0.0

    def _claim(self, query: Query) -> Outcome:
        return Outcome.violated(np.full(query.model.n_inputs, self.value))


@pytest.mark.parametrize("kind", ["box", "l1"])
@pytest.mark.parametrize("value", [0.0, 1e6, np.nan, np.inf, -np.inf])
def test_witnesses_are_replayed(kind: str, value: float) -> None:
    for result in Points(value=value).verify_batch(asked_of(kind)):
        assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.UNCONFIRMED)


def test_a_witness_of_one_question_is_none_of_another() -> None:
    """Unsafe are inputs near 0, where one of the sets lies."""
    row = Constraint(outputs=((0, Fraction(1)),), bound=Fraction(1000), inputs=((0, Fraction(10**4)),))
    here, away = (Box((Fraction(c) - Fraction(1, 8),) * N, (Fraction(c) + Fraction(1, 8),) * N) for c in (0, 2))
    model = MODELS["narrow"]()
    asked = [Query(model, Property(box, (Polyhedron((row,)),), 2)) for box in (away, here, away)]
    assert [r.verdict for r in Points().verify_batch(asked)] == [Verdict.UNKNOWN, Verdict.VIOLATED, Verdict.UNKNOWN]


class TooFew(Claims):
    """Leaves the last question out."""

    def _decide_batch(
        self, queries: Sequence[Query], clock: Clock, rngs: Sequence[np.random.Generator]
    ) -> list[Outcome]:
        return super()._decide_batch(queries, clock, rngs)[:-1]


class TooMany(Claims):
    """Answers one question twice."""

    def _decide_batch(
        self, queries: Sequence[Query], clock: Clock, rngs: Sequence[np.random.Generator]
    ) -> list[Outcome]:
        return super()._decide_batch([*queries, queries[0]], clock, rngs)


class NoMemory(Claims):
    """Needs more than there is."""

    def _claim(self, query: Query) -> Outcome:
        raise MemoryError


@pytest.mark.parametrize(
    ("verifier", "reason"), [(TooFew(), Reason.ERROR), (TooMany(), Reason.ERROR), (NoMemory(), Reason.MEMOUT)]
)
def test_no_answer_is_taken_for_anothers(verifier: Verifier, reason: Reason) -> None:
    for result in verifier.verify_batch(asked_of("box")):
        assert (result.verdict, result.reason) == (Verdict.UNKNOWN, reason)


class Slow(Claims):
    """Takes its time over a larger network."""

    def _claim(self, query: Query) -> Outcome:
        if query.model.name != "dense (3,) 0":
            time.sleep(0.6)
        return super()._claim(query)


def test_the_budget_is_that_of_all() -> None:
    """Once it is spent, what was not begun ends in a timeout; what was answered before stays."""
    quick, slow, third = dense(3), dense(4, seed=1), dense(5, seed=2)
    box = region(N, "box", 1)
    asked = [Query(model, Property(box, far(), 2)) for model in (quick, quick, slow, third, third, slow)]
    reasons = [r.reason for r in Slow().verify_batch(asked, budget=Budget(seconds=1.0))]
    assert reasons == [None, None, None, Reason.TIMEOUT, Reason.TIMEOUT, None]


@pytest.mark.parametrize("name", ["crown", "interval", "lp", "pgd"])
def test_a_batch_without_time(name: str) -> None:
    results = registry.create(name).verify_batch(asked_of("box"), budget=Budget(seconds=1e-9))
    assert {r.reason for r in results} == {Reason.TIMEOUT}


# --- the conformance suite's check ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wrapped(Verifier):
    """CROWN, to be spoilt."""

    name: ClassVar[str] = "wrapped"
    capabilities: ClassVar[Capabilities] = registry.verifier_class("crown").capabilities

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        return registry.create("crown")._decide(query, clock, rng)

    def _decide_batch(
        self, queries: Sequence[Query], clock: Clock, rngs: Sequence[np.random.Generator]
    ) -> list[Outcome]:
        return self._spoilt(registry.create("crown")._decide_batch(queries, clock, rngs))

    def _spoilt(self, outcomes: list[Outcome]) -> list[Outcome]:
        return outcomes


class Swaps(Wrapped):
    """Gives the answers in another order."""

    def _spoilt(self, outcomes: list[Outcome]) -> list[Outcome]:
        return outcomes[::-1]


class Repeats(Wrapped):
    """Gives the first answer to all."""

    def _spoilt(self, outcomes: list[Outcome]) -> list[Outcome]:
        return outcomes[:1] * len(outcomes)


class Loses(Wrapped):
    """Leaves one out."""

    def _spoilt(self, outcomes: list[Outcome]) -> list[Outcome]:
        return outcomes[1:]


class Loosens(Wrapped):
    """States margins that it did not find."""

    def _spoilt(self, outcomes: list[Outcome]) -> list[Outcome]:
        return [
            replace(o, statistics={"margin": float(o.statistics["margin"]) - 0.01 * k}) for k, o in enumerate(outcomes)
        ]


class Breaks(Wrapped):
    """Breaks down."""

    def _spoilt(self, outcomes: list[Outcome]) -> list[Outcome]:
        raise ZeroDivisionError


def check_batches(verifier: Verifier) -> None:
    next(c for c in checks_for(verifier, queries=8) if c.name == "batches_answer_alike")()


def test_the_check_lets_a_sound_batch_pass() -> None:
    check_batches(Wrapped())


@pytest.mark.parametrize(
    ("verifier", "sentence"),
    [
        (Swaps(), "but alone"),
        (Repeats(), "but alone"),
        (Loses(), "did not answer every query"),
        (Loosens(), "the margin is"),
        (Breaks(), "ZeroDivisionError"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Verifier) else "",
)
def test_the_check_finds_spoilt_batches(verifier: Verifier, sentence: str) -> None:
    with pytest.raises(ConformanceError, match=sentence):
        check_batches(verifier)

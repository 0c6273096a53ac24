"""The interface's promises: options, repeatability, budgets, silence, and results that say what they must."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import os
import pickle
import random
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np

from verifkit import registry
from verifkit.budget import Budget
from verifkit.capabilities import Kind
from verifkit.evidence import Witness
from verifkit.io.onnx import model_from_network
from verifkit.model import Model
from verifkit.network import Network, dense_network
from verifkit.properties import Property, misclassified
from verifkit.query import Query
from verifkit.result import Reason, Result, Subject, Verdict
from verifkit.testing.batches import batch_questions
from verifkit.testing.checks import ConformanceError, Rule, Trial
from verifkit.testing.checks_capabilities import plain_query, region_around
from verifkit.testing.gallery import exhibits
from verifkit.testing.questions import easy_sample, supported
from verifkit.testing.samples import Sample
from verifkit.verifier import Verifier

TINY = Budget(seconds=0.05)
GRACE = 1.0
"""Seconds that a verifier may run over a tiny budget."""


def _some_queries(trial: Trial) -> list[Query]:
    """A few questions of every norm: easy ones, random ones, a gallery network."""
    queries = []
    for norm in trial.norms:
        if norm != "2" or trial.kind(norm) is not Kind.PROBABILISTIC:
            samples: list[Sample] = trial.samples(norm, 6)
            queries += [s.query for s in samples]
        queries += [easy_sample(norm, 0, trial.seed, holds, False).query for holds in (True, False)]
        queries += [plain_query(supported(trial.verifier.capabilities)[-1], norm)]
    return queries


def options_are_data(trial: Trial) -> None:
    """The class is a frozen dataclass with a default for every option; instances compare, pickle, rebuild."""
    verifier = trial.verifier
    cls = type(verifier)
    if not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen:
        trial.fail("options_are_data", "its class is no frozen dataclass")
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            trial.fail("options_are_data", f"option '{field.name}' has no default")
    if inspect.isabstract(cls) or not verifier.name or not cls.__doc__:
        trial.fail("options_are_data", "its class is abstract, nameless or without documentation")
    copies = [pickle.loads(pickle.dumps(verifier)), dataclasses.replace(verifier)]
    if verifier.name in registry.names() and registry.verifier_class(verifier.name) is cls:
        copies.append(registry.create(verifier.name, verifier.options()))
        copies.append(registry.create(verifier.name, {k: _as_text(v) for k, v in verifier.options().items()}))
    for copy in copies:
        if copy != verifier or copy.options() != verifier.options():
            trial.fail("options_are_data", f"a copy differs: {copy.describe()} is not {verifier.describe()}")
        if copy.describe() != verifier.describe() or " at 0x" in verifier.describe():
            trial.fail("options_are_data", f"its description is not stable: {verifier.describe()}")


def _as_text(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _summary(result: Result) -> dict[str, object]:
    """What must repeat: all but times."""
    kept = {k: v for k, v in result.statistics.items() if "second" not in k and "time" not in k}
    witness = None if result.witness is None else result.witness.x
    counts = result.to_json()["counts"]
    return {
        "verdict": result.verdict,
        "reason": result.reason,
        "witness": witness,
        "counts": counts,
        "guarantee": result.guarantee,
        "statistics": json.dumps(kept, sort_keys=True),
    }


def same_seed_same_answer(trial: Trial) -> None:
    """Asked again with the same seed, in another order and by a pickled copy: same verdict, witness and statistics."""
    queries = _some_queries(trial)
    copy = Trial(pickle.loads(pickle.dumps(trial.verifier)), trial.queries, trial.seed)
    first = [_summary(trial.ask(q)) for q in queries]
    second = [_summary(copy.ask_again(q)) for q in reversed(queries)][::-1]
    for query, one, two in zip(queries, first, second, strict=True):
        if one != two:
            parts = [f"{k}: {one[k]} then {two[k]}" for k in one if one[k] != two[k]]
            trial.fail("same_seed_same_answer", f"two answers to one question: {'; '.join(parts)}", query.prop.name)


def results_are_whole(trial: Trial) -> None:
    """A result carries what its verdict needs, its guarantee fits the method's kind, and it pickles and prints."""
    for query in _some_queries(trial):
        result = trial.ask(query)
        problem = _problem(trial, query, result)
        if problem is not None:
            trial.fail("results_are_whole", f"{problem} ({result.verdict}, norm {query.norm})")
        again = pickle.loads(pickle.dumps(result))
        if json.dumps(again.to_json(), allow_nan=False) != json.dumps(result.to_json(), allow_nan=False):
            trial.fail("results_are_whole", "a pickled result reads differently")


def _problem(trial: Trial, query: Query, result: Result) -> str | None:
    if (result.reason is None) == (result.verdict is Verdict.UNKNOWN):
        return f"the reason is {result.reason}"
    if result.reason is Reason.ERROR:
        return f"its own check refused the outcome: {result.detail}"
    if (result.verifier, result.query_digest, result.seed) != (trial.verifier.name, query.digest, trial.seed):
        return "the result is labelled with another verifier, question or seed"
    if (result.verdict is Verdict.VIOLATED) != isinstance(result.evidence, Witness):
        return f"its evidence is {type(result.evidence).__name__}"
    if result.verdict is not Verdict.UNKNOWN and result.guarantee is None:
        return "it has no guarantee"
    if result.verdict is not Verdict.HOLDS or result.guarantee is None:
        return None
    probabilistic = trial.kind(query.norm) is Kind.PROBABILISTIC
    if (0.0 < result.guarantee.failure_probability < 1.0) != probabilistic:
        return f"its failure probability is {result.guarantee.failure_probability}"
    wanted = Subject.SMOOTHED if probabilistic else Subject.NETWORK
    return None if result.guarantee.subject is wanted else f"its subject is the {result.guarantee.subject}"


@cache
def _large_model() -> Model:
    """20 inputs, four layers of 200 ReLUs: seconds of work for a linear bound, hopeless for a search."""
    rng = np.random.default_rng(5)
    sizes = [20, 200, 200, 200, 200, 2]
    weights = [(rng.normal(size=(n, m)) * np.sqrt(2 / m)).astype(np.float32) for m, n in pairwise(sizes)]
    plain = dense_network(weights, [np.zeros(n) for n in sizes[1:]])
    return model_from_network(Network(plain.nodes), "large")


def budget_is_kept(trial: Trial) -> None:
    """A tiny budget on a larger network ends about in time, with a verdict, a timeout, or the method's giving up."""
    norm = trial.norms[0]
    model = _large_model() if supports_relu(trial) else exhibits()[0].model
    query = Query(model, Property(region_around(model.n_inputs, norm), misclassified(0, 2), 2))
    trial.ask_again(query, budget=TINY)  # imports, caches
    took, result = [], None
    for _ in range(3):  # a busy machine may stall one try
        start = time.perf_counter()
        result = trial.ask_again(query, budget=TINY)
        took.append(time.perf_counter() - start)
        if took[-1] <= GRACE + (TINY.seconds or 0.0):
            break
    else:
        trial.fail("budget_is_kept", f"a budget of {TINY.seconds} s took {min(took):.1f} s")
    assert result is not None
    allowed = (None, Reason.TIMEOUT, Reason.INCOMPLETE, Reason.UNCONFIRMED)
    if result.reason not in allowed:
        trial.fail("budget_is_kept", f"a tiny budget ends in UNKNOWN({result.reason}: {result.detail})")
    instant = trial.ask_again(query, budget=Budget(seconds=1e-9))
    if instant.reason is not Reason.TIMEOUT:
        trial.fail("budget_is_kept", f"a budget of a nanosecond gives {instant.verdict}({instant.reason})")


def supports_relu(trial: Trial) -> bool:
    return any(e.name == "relu" for e in supported(trial.verifier.capabilities))


def global_state_is_untouched(trial: Trial) -> None:
    """Neither NumPy's nor Python's global generator moves; nothing is printed and no warning is given."""
    queries = _some_queries(trial)
    before = pickle.dumps((np.random.get_state(), random.getstate()))  # noqa: NPY002 (it must stay as it is)
    errors = np.geterr()
    with warnings.catch_warnings(record=True) as caught, _printed() as text:
        warnings.simplefilter("always")
        for query in queries:
            trial.ask_again(query)
    if pickle.dumps((np.random.get_state(), random.getstate())) != before:  # noqa: NPY002
        trial.fail("global_state_is_untouched", "a global random generator has moved")
    if np.geterr() != errors:
        trial.fail("global_state_is_untouched", "NumPy's error handling has changed")
    if text:
        trial.fail("global_state_is_untouched", f"it prints: {text[0][:200]!r}")
    if caught:
        trial.fail("global_state_is_untouched", f"it warns: {caught[0].message}")


@contextmanager
def _printed() -> Iterator[list[str]]:
    """What is written to stdout and stderr meanwhile, by Python and by native code; empty for nothing."""
    found: list[str] = []
    kept = os.dup(1), os.dup(2)
    text = io.StringIO()
    with tempfile.TemporaryFile() as sink, redirect_stdout(text), redirect_stderr(text):
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield found
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
            sink.seek(0)
            written = text.getvalue() + sink.read().decode(errors="replace")
            if written:
                found.append(written)


def batches_answer_alike(trial: Trial) -> None:
    """Asked together, questions get the answers that they get one by one, in their order, however they are mixed; all
    of them end when the time of the batch is up."""
    queries = _batches(trial)
    together = _asked_together(trial, queries, Budget(seconds=60.0 * len(queries)))
    for query, many in zip(queries, together, strict=True):
        problem = _problem(trial, query, many) or _difference(trial.ask(query), many)
        if problem is not None:
            trial.fail("batches_answer_alike", f"in a batch: {problem} (norm {query.norm})", query.prop.name)
    late = _asked_together(trial, queries, Budget(seconds=1e-9))
    for query, result, timely in zip(queries, late, together, strict=True):
        asked = trial.verifier.capabilities.refusal(query) is None and len(query.cases()) == 1
        if result.reason is not Reason.TIMEOUT and (asked or _difference(timely, result) is not None):
            trial.fail("batches_answer_alike", f"a batch's budget of a nanosecond gives {result.verdict}")
    if _asked_together(trial, [], Budget()):
        trial.fail("batches_answer_alike", "an empty batch has answers")


def _batches(trial: Trial) -> list[Query]:
    """Questions about one network and about others. None that is an exact tie: rounding may go either way there.

    Few for a method that answers a batch one by one.
    """
    cls, norms = type(trial.verifier), trial.norms
    few = cls._decide_batch is Verifier._decide_batch
    queries = []
    for norm in norms[:1] if few else norms:
        queries += batch_questions(norm, trial.verifier.capabilities, few=few)
        queries += [easy_sample(norm, 0, trial.seed, holds, False).query for holds in (True, False)]
        samples: list[Sample] = [] if few else trial.samples(norm, 8)
        queries += [s.query for s in samples if not s.truth.in_band]
    order = np.random.default_rng(trial.seed).permutation(len(queries))
    return [queries[k] for k in order]


def _asked_together(trial: Trial, queries: list[Query], budget: Budget) -> list[Result]:
    try:
        results = trial.verifier.verify_batch(queries, budget=budget, seed=trial.seed)
    except Exception as error:
        raise ConformanceError(
            f"verifier '{trial.verifier.name}' raises {type(error).__name__} ({error}) instead of answering a batch"
        ) from error
    if len(results) != len(queries):
        trial.fail("batches_answer_alike", f"{len(results)} answers to {len(queries)} questions")
    return results


def _difference(one: Result, many: Result) -> str | None:
    """What two answers to one question differ in: verdict, reason, or a margin by more than rounding."""
    if (one.verdict, one.reason) != (many.verdict, many.reason):
        return f"{many.verdict} ({many.reason}: {many.detail}), but alone {one.verdict} ({one.reason}: {one.detail})"
    here, there = one.statistics.get("margin"), many.statistics.get("margin")
    if here is None and there is None:
        return None
    if not isinstance(here, int | float) or not isinstance(there, int | float):
        return f"the margin is {there}, but alone {here}"
    near = here == there or abs(here - there) <= 1e-6 * (1.0 + abs(here))
    return None if near else f"the margin is {there!r}, but alone {here!r}"


def radius_is_a_bracket(trial: Trial) -> None:
    """`radius` brackets: certified lies below falsified, both ends bear their own verdict, the center counts; asked at
    the certified radius, a deterministic method says HOLDS again."""
    from verifkit.query import QueryFamily

    for norm in trial.norms:
        sample = easy_sample(norm, 0, trial.seed, True, False)
        region = sample.prop.input_set
        box = region.bounding_box() if hasattr(region, "bounding_box") else region
        center = tuple((a + b) / 2 for a, b in zip(box.lower, box.upper, strict=True))
        clip = type(box)(tuple(c - Fraction(1, 4) for c in center), tuple(c + Fraction(1, 4) for c in center))
        family = QueryFamily(sample.query.model, center, norm, misclassified(0, 2), clip)
        radius = trial.verifier.radius(family, budget=Budget(seconds=2.0), seed=trial.seed)
        low, high = radius.certified, radius.falsified
        if low is not None and low.result.verdict is not Verdict.HOLDS and low.value > 0:
            trial.fail("radius_is_a_bracket", f"certified {low.value}, but the result there is {low.result.verdict}")
        if high is not None and high.result.verdict is not Verdict.VIOLATED:
            trial.fail("radius_is_a_bracket", f"falsified {high.value}, but the result there is {high.result.verdict}")
        if low is not None and high is not None and low.value >= high.value:
            trial.fail("radius_is_a_bracket", f"certified {low.value} is not below falsified {high.value}")
        if low is None or low.value == 0 or trial.kind(norm) is Kind.PROBABILISTIC:
            continue
        again = trial.verifier.verify(family.at(Fraction(low.value)), budget=Budget(seconds=10.0), seed=trial.seed)
        if again.verdict is not Verdict.HOLDS and again.reason is not Reason.TIMEOUT:
            trial.fail("radius_is_a_bracket", f"certified {low.value}, but asked there it says {again.word}")


RULES = (
    Rule("options_are_data", options_are_data),
    Rule("results_are_whole", results_are_whole, soundness=True),
    Rule("same_seed_same_answer", same_seed_same_answer),
    Rule("global_state_is_untouched", global_state_is_untouched),
    Rule("budget_is_kept", budget_is_kept),
    Rule("radius_is_a_bracket", radius_is_a_bracket),
    Rule("batches_answer_alike", batches_answer_alike, soundness=True),
)

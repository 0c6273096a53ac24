"""Draws are keyed by their number: whatever is asked for at a time, in whatever order, they are the same."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from verifkit.analysis.smoothing.noise import Gaussian, Uniform
from verifkit.analysis.smoothing.sampling import BLOCK, Sampler, key_from
from verifkit.budget import Budget, BudgetExhausted, Clock
from verifkit.errors import ModelError

CLOCK = Clock(Budget())
KEY = (1, 2, 2**32 - 1)


def three_classes(x: np.ndarray) -> np.ndarray:
    return np.stack([x[:, 0], x[:, 1], -x[:, 0] - x[:, 1]], axis=1)


def sampler(call: object = three_classes, key: tuple[int, ...] = KEY) -> Sampler:
    return Sampler(call, np.zeros(2, dtype=np.float32), Gaussian(0.5), key)  # type: ignore[arg-type]


def test_votes_do_not_depend_on_what_is_asked_for_at_a_time() -> None:
    whole = sampler().votes(1, 0, 9000, CLOCK)
    for size in (1000, 256, 300, 37, 4097):
        apart = sampler()
        parts = [apart.votes(1, at, min(size, 9000 - at), CLOCK) for at in range(0, 9000, size)]
        assert (np.concatenate(parts) == whole).all()
    backwards = sampler()
    assert [int(backwards.votes(1, i, 1, CLOCK)[0]) for i in (8999, 5000, 3)] == whole[[8999, 5000, 3]].tolist()
    assert (sampler().tally(1, 0, 9000, CLOCK) == np.bincount(whole)).all()
    scores = np.concatenate(list(sampler().scores(1, 10, 700, CLOCK)))
    assert scores.shape == (700, 3)
    assert (scores.argmax(axis=1) == whole[10:710]).all()


def test_streams_and_keys_are_different_draws() -> None:
    first = sampler().votes(0, 0, 1000, CLOCK)
    assert (first != sampler().votes(1, 0, 1000, CLOCK)).any()
    assert (first != sampler(key=(1, 2, 3)).votes(0, 0, 1000, CLOCK)).any()
    assert key_from(np.random.default_rng(0)) == key_from(np.random.default_rng(0))
    assert key_from(np.random.default_rng(0)) != key_from(np.random.default_rng(1))


def test_the_model_always_sees_whole_blocks() -> None:
    seen = []

    def call(x: np.ndarray) -> np.ndarray:
        seen.append((x.shape, x.dtype))
        return three_classes(x)

    short = sampler(call)
    for start, count in ((0, 3), (255, 2), (1000, 10_000)):
        short.votes(2, start, count, CLOCK)
    assert set(seen) == {((BLOCK, 2), np.dtype(np.float32))}


def test_memory_does_not_grow_with_the_number_of_draws() -> None:
    wide = Sampler(lambda x: x[:, :4], np.zeros(3000), Uniform(1.0), KEY)
    wide.tally(0, 0, 10 * BLOCK, CLOCK)
    tracemalloc.start()
    wide.tally(0, 0, 60 * BLOCK, CLOCK)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * BLOCK * 3000 * 8


def test_time_is_looked_at_between_calls() -> None:
    clock = Clock(Budget(seconds=1e-9))
    with pytest.raises(BudgetExhausted):
        sampler().votes(0, 0, 1, clock)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(ModelError, match="no finite numbers"):
        sampler(lambda x: np.where(x[:, :1] > 0.5, bad, x)).votes(0, 0, 1000, CLOCK)


def test_two_answers_to_one_input_are_an_error() -> None:
    rng = np.random.default_rng(0)

    def dropout(x: np.ndarray) -> np.ndarray:
        return np.asarray(x * rng.integers(0, 2, size=x.shape))

    def batch_norm(x: np.ndarray) -> np.ndarray:
        return np.asarray((x - x.mean(axis=0)) / x.std(axis=0))

    for call in (dropout, batch_norm):
        with pytest.raises(ModelError, match="two different answers to one input"):
            sampler(call).votes(0, 0, 1, CLOCK)


def test_rounding_is_no_other_answer() -> None:
    rng = np.random.default_rng(0)
    shaky = sampler(lambda x: three_classes(x) * (1 + 1e-6 * rng.standard_normal((len(x), 1))))
    assert shaky.votes(0, 0, 300, CLOCK).shape == (300,)

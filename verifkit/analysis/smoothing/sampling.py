"""Draws of a classifier under noise, keyed by their number: the same draw whatever is asked for at a time.

Draw i of stream s is row i % BLOCK of block i // BLOCK, and block b of stream s has its own generator, seeded by (key,
s, b). The model is always called with exactly BLOCK rows, so that its arithmetic does not depend on how many draws are
asked for; surplus rows are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from verifkit.analysis.smoothing.noise import Noise
from verifkit.budget import Clock
from verifkit.errors import ModelError

BLOCK = 256
"""Rows of every model call: part of what a seed means, so it is fixed."""

GROUP, LARGEST = 16, 2**22
"""Blocks that are drawn before any of them is put to the model, and how many numbers they may hold together."""

SAME = 1e-3
"""Two answers to one input may differ by this share of the largest score: rounding does, dropout does not."""

Key = tuple[int, ...]


def key_from(rng: np.random.Generator) -> Key:
    """Four words from a verifier's generator, which is itself seeded by (seed, query, verifier)."""
    return tuple(int(v) for v in rng.integers(0, 2**32, size=4, dtype=np.uint64))


class Sampler:
    """call: maps (BLOCK, d) of the center's float type to finite scores (BLOCK, K), row by row (a `Model` does).
    center: (d,), float32 or float64. key: see `key_from`. name: what errors call the model.

    Raises `ModelError` where scores are not finite, and where the model answers one input in two ways (dropout left
    on, batch statistics): the first block is put to it twice, with other company the second time.
    """

    def __init__(
        self,
        call: Callable[[np.ndarray], np.ndarray],
        center: np.ndarray,
        noise: Noise,
        key: Key,
        name: str | None = None,
    ) -> None:
        self.call, self.center, self.noise, self.key = call, center, noise, key
        called = getattr(call, "name", None) if name is None else name
        self._who = "the model" if called is None else f"model '{called}'"
        self.group = max(1, min(GROUP, LARGEST // (BLOCK * center.size)))
        self._space = np.empty((self.group, BLOCK, center.size), dtype=center.dtype)  # fresh memory costs page faults
        self._entropy = np.array(key, dtype=np.uint32)
        self._checked = False
        self._last: tuple[int, int, np.ndarray] | None = None

    def votes(self, stream: int, start: int, count: int, clock: Clock) -> np.ndarray:
        """The class with the highest score (the first of several) in draws start .. start + count - 1: (count,)."""
        labels = np.empty(count, dtype=np.int64)
        done = 0
        for scores in self.scores(stream, start, count, clock):
            labels[done : done + len(scores)] = scores.argmax(axis=1)
            done += len(scores)
        return labels

    def tally(self, stream: int, start: int, count: int, clock: Clock) -> np.ndarray:
        """How often each class wins in those draws: (K,); memory does not grow with `count`."""
        counts: np.ndarray | None = None
        for scores in self.scores(stream, start, count, clock):
            found = np.bincount(scores.argmax(axis=1), minlength=scores.shape[1])
            counts = found if counts is None else counts + found
        assert counts is not None
        return counts

    def scores(self, stream: int, start: int, count: int, clock: Clock) -> Iterator[np.ndarray]:
        """The scores in those draws, (rows, K), some rows at a time."""
        end = start + count
        while start < end:
            block, first = divmod(start, BLOCK)
            number = min(self.group, (end - 1) // BLOCK - block + 1)
            stop = min(end - block * BLOCK, number * BLOCK)
            yield self._blocks(stream, block, number, clock)[first:stop]
            start = block * BLOCK + stop

    def _blocks(self, stream: int, first: int, number: int, clock: Clock) -> np.ndarray:
        """All scores of some blocks, (number * BLOCK, K).

        First all of their noise, then all calls, one block each: in turn, each finds the caches filled by the other,
        which costs small models 10 % (benchmarks/sampling_speed.py).
        """
        if number == 1 and self._last is not None and self._last[:2] == (stream, first):
            return self._last[2]
        inputs = [self._inputs(stream, first + k, self._space[k]) for k in range(number)]
        parts = []
        for each in inputs:
            clock.check()
            parts.append(self.call(each))
        scores = parts[0] if number == 1 else np.concatenate(parts)
        self._check_finite(scores)
        if not self._checked:
            self._check_repeats(inputs[0], parts[0])
            self._checked = True
        self._last = stream, first + number - 1, parts[-1]
        return scores

    def _inputs(self, stream: int, block: int, space: np.ndarray) -> np.ndarray:
        seeds = np.random.SeedSequence(self._entropy, spawn_key=(stream, block))
        return self.noise.apply(self.center, np.random.Generator(np.random.SFC64(seeds)), BLOCK, space)

    def _check_finite(self, scores: np.ndarray) -> None:
        if not np.isfinite(scores).all():
            raise ModelError(f"{self._who} gives outputs that are no finite numbers under noise")

    def _check_repeats(self, inputs: np.ndarray, scores: np.ndarray) -> None:
        """Half of the rows once more, in another order and beside copies of the first row."""
        half = BLOCK // 2
        again = np.concatenate([inputs[half - 1 :: -1], np.repeat(inputs[:1], half, axis=0)])
        expected = np.concatenate([scores[half - 1 :: -1], np.repeat(scores[:1], half, axis=0)])
        repeated = self.call(again)
        self._check_finite(repeated)
        if np.abs(repeated - expected).max() > SAME * max(np.abs(scores).max(), 1e-300):
            raise ModelError(
                f"{self._who} gives two different answers to one input: is it in training mode (dropout, batch norm)?"
            )

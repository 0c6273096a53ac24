"""How much faster: geometric means of paired time ratios, with bootstrap intervals over the questions.

A ratio is of one question put to one verifier twice, never of different ones. Only pairs with the same answer count,
neither of which ran out of time or memory: what a limit cut off has no time of its own.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from verifkit.bench.rows.agreement import DEFINITE, subject
from verifkit.bench.rows.schema import Row
from verifkit.result import Reason

RESAMPLES = 10_000
LEVEL = 0.95
LEAST = 5
"""Questions for an interval: of fewer a bootstrap knows too little."""
_AT_ONCE = 2**22


@dataclass(frozen=True)
class Interval:
    """A geometric mean of ratios with the ends of its interval, None where there are too few questions."""

    ratio: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Speed:
    """verifier: with its options, or "all". pairs: that count. questions: that they are about. speed: time of A over
    time of B; above 1, B is faster. memory: median of B's peak over A's. left_out: pairs that do not count, by why.
    """

    verifier: str
    pairs: int
    questions: int
    speed: Interval | None
    memory: float | None
    left_out: dict[str, int]


def speed_of(verifier: str, pairs: Sequence[tuple[Row, Row]], rng: np.random.Generator) -> Speed:
    """What paired rows (A, B) say; several about one question (repeats, verifiers) count as their geometric mean."""
    times: defaultdict[Hashable, list[float]] = defaultdict(list)
    peaks: list[float] = []
    left_out: Counter[str] = Counter()
    for a, b in pairs:
        why = left_out_for(a, b)
        if why is not None:
            left_out[why] += 1
            continue
        times[a.model_hash, a.property_hash, a.question].append(math.log(_seconds(a, b) / _seconds(b, a)))
        if a.peak_memory_bytes and b.peak_memory_bytes:
            peaks.append(b.peak_memory_bytes / a.peak_memory_bytes)
    logs = [sum(values) / len(values) for values in times.values()]
    return Speed(
        verifier=verifier,
        pairs=sum(map(len, times.values())),
        questions=len(logs),
        speed=geometric_mean(logs, rng) if logs else None,
        memory=float(np.median(peaks)) if peaks else None,
        left_out=dict(left_out),
    )


def left_out_for(a: Row, b: Row) -> str | None:
    """Why the times of two rows say nothing together; None where they do."""
    ended = [_cut_off(row) for row in (a, b)]
    if all(ended):
        return "both out of time or memory"
    if any(ended):
        return f"only {'A' if ended[0] else 'B'} out of time or memory"
    if (a.verdict, a.reason) != (b.verdict, b.reason) or (a.certified is None) != (b.certified is None):
        return "other answers"
    if a.verdict not in DEFINITE and a.reason not in (Reason.INCOMPLETE, Reason.UNCONFIRMED):
        return "no answer"
    if subject(a) != subject(b):
        return "other subjects"
    if not (_seconds(a, b) > 0 and _seconds(b, a) > 0):
        return "no time measured"
    return None


def _cut_off(row: Row) -> bool:
    limits = (Reason.TIMEOUT, Reason.MEMOUT)
    return row.reason in limits or any(why in limits for _, why in row.undecided or ())


def _seconds(row: Row, other: Row) -> float:
    """Inside the verifier where both rows have that, else of the whole worker."""
    if row.verifier_seconds is not None and other.verifier_seconds is not None:
        return row.verifier_seconds
    return row.wall_seconds


def geometric_mean(logs: Iterable[float], rng: np.random.Generator) -> Interval:
    """The mean of `logs`, one for each question, and its 95 % percentile interval, both exponentiated.

    The percentiles are those of the expanded interval (Hesterberg, "What teachers should know about the bootstrap",
    The American Statistician 69, 2015, section 3.3): plain ones are too narrow for few questions, as a normal interval
    is that takes the sample's variance for the population's.
    """
    values = np.asarray(list(logs), dtype=np.float64)
    n, middle = len(values), float(np.mean(values))
    if n < LEAST:
        return Interval(math.exp(middle), None, None)
    tail = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - LEVEL) / 2)))
    means = np.concatenate([_resampled(values, count, rng) for count in _counts(n)])
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(math.exp(middle), math.exp(low), math.exp(high))


def _counts(n: int) -> list[int]:
    """Resamples at a time: all of them would not fit for many questions."""
    step = max(1, _AT_ONCE // n)
    return [min(step, RESAMPLES - done) for done in range(0, RESAMPLES, step)]


def _resampled(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    means: np.ndarray = values[rng.integers(len(values), size=(count, len(values)))].mean(axis=1)
    return means

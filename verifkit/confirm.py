"""Replays a candidate counterexample: nothing is called VIOLATED before it passed here.

A candidate is confirmed by onnxruntime on the original bytes in the model's own precision, or by exact rational
evaluation under `real` semantics. Where both can be had and the exact one says that the point is safe, the point is no
witness, whatever the floats say: no definite verdict may differ from the exact one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from verifkit.evidence import Replay, Witness
from verifkit.exact import can_evaluate_exactly, evaluate_exactly
from verifkit.input_sets import Box, InputSet, LpBall, float_above, float_below
from verifkit.properties import Property
from verifkit.query import Query

COMPETITION_TOLERANCE = Fraction(1, 10_000)


def confirm(query: Query, candidate: Sequence[Fraction] | np.ndarray) -> Witness | None:
    """The witness at or next to `candidate` (flat), or None where no replay confirms one.

    The point is first moved to the nearest input that the model can be fed (floats of its precision inside the set as
    written, else inside the effective one); failing that, the candidate itself is tried in exact arithmetic. Every
    point tried lies in the effective input set. A candidate in rationals is replayed exactly even where floats call it
    safe: whoever reckons in them may have found a tie.
    """
    exact = tuple(candidate) if all(isinstance(v, Fraction) for v in candidate) else ()
    for x in _feedable(query, candidate):
        witness = _replay(query, x, exactly=x == exact)
        if witness is not None:
            return witness
    return None


def violates(prop: Property, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
    """Whether (x, y) lies in the unsafe set, exactly."""
    return any(all(row.satisfied(x, y) for row in disjunct.constraints) for disjunct in prop.unsafe)


def in_effective_set(region: InputSet, x: Sequence[Fraction], dtype: type[np.floating[Any]]) -> bool:
    """Exact membership in the effective set: the widened box, or the ball as written."""
    if isinstance(region, LpBall):
        return region.contains(x)
    lower, upper = region.floats(dtype)
    return all(Fraction(lo) <= v <= Fraction(hi) for lo, v, hi in zip(lower.tolist(), x, upper.tolist(), strict=True))


def _fractions(values: np.ndarray) -> tuple[Fraction, ...]:
    return tuple(Fraction(v) for v in values.astype(np.float64).reshape(-1).tolist())


def _feedable(query: Query, candidate: Sequence[Fraction] | np.ndarray) -> Iterator[tuple[Fraction, ...]]:
    """Points of the effective set to try: floats of the model's precision, then the candidate as it is.

    Of a box first those in it as written, then those in the widened one.
    """
    region, dtype = query.prop.input_set, query.model.dtype
    point = np.array([float(v) for v in np.asarray(candidate, dtype=object).reshape(-1)])
    if point.size != query.prop.n_inputs or not np.isfinite(point).all():
        return
    if isinstance(region, Box):
        with np.errstate(over="ignore"):  # far outside: the box cuts it off
            fed = point.astype(dtype)
        inner = float_above(region.lower, dtype), float_below(region.upper, dtype)
        strict = np.clip(fed, *inner).astype(np.float64)
        if (inner[0] <= inner[1]).all():  # a point of the box as written, where one will do
            yield _fractions(strict)
        widened = np.clip(fed.astype(np.float64), *region.floats(dtype))
        if not np.array_equal(strict, widened):
            yield _fractions(widened)
    else:
        yield from _in_ball(region, point, dtype)
    exact = tuple(Fraction(v) for v in np.asarray(candidate, dtype=object).reshape(-1))
    if in_effective_set(region, exact, dtype):
        yield exact


SHRINKS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4)
"""By how much a point is moved towards the center, since rounding may leave the ball, until the exact test passes."""


def _in_ball(region: LpBall, point: np.ndarray, dtype: type[np.floating[Any]]) -> Iterator[tuple[Fraction, ...]]:
    """The point in the ball and its clip box: as floats of the model's precision, and where none is, in rationals."""
    center = np.array([float(c) for c in region.center])
    box = region.clip
    for shrink in SHRINKS:
        near = (center + (point - center) * (1.0 - shrink)).astype(dtype)
        if box is not None:  # the floats inside the box: its ends may be none
            low, high = float_above(box.lower, dtype), float_below(box.upper, dtype)
            near = np.clip(near, low, np.maximum(low, high))
        if not np.isfinite(near).all():
            break
        x = _fractions(near)
        if region.contains(x):
            yield x
            return
    if box is None:
        return
    for shrink in SHRINKS:  # an entry that the box fixes to no float, say
        left = Fraction(1) - Fraction(shrink)
        moved = ((Fraction(p) - c) * left + c for p, c in zip(point.tolist(), region.center, strict=True))
        x = tuple(min(max(v, lo), hi) for v, lo, hi in zip(moved, box.lower, box.upper, strict=True))
        if region.contains(x):
            yield x
            return


def _replay(query: Query, x: tuple[Fraction, ...], *, exactly: bool) -> Witness | None:
    model, prop = query.model, query.prop
    replays: dict[str, Replay] = {}
    fed = np.array([float(v) for v in x])
    if all(Fraction(v) == e for v, e in zip(fed.astype(model.dtype).astype(np.float64).tolist(), x, strict=True)):
        replays["onnxruntime"] = _float_replay("onnxruntime", model(fed[None])[0], prop, x)
    network = model.network
    if network is not None:
        y = network.evaluate(fed.reshape(network.input_shape))
        replays["float64"] = _float_replay("float64", y, prop, x)
        if can_evaluate_exactly(network) and (exactly or any(r.unsafe for r in replays.values())):
            exact = evaluate_exactly(network, x)
            replays["rational"] = Replay("rational", tuple(map(float, exact)), violates(prop, x, exact))
    by = _confirming(replays)
    if by is None:
        return None
    written = prop.input_set.contains(x)
    close = written or _within(prop.input_set, x, COMPETITION_TOLERANCE)
    return Witness(x, tuple(replays.values()), by, written, close)


def _confirming(replays: dict[str, Replay]) -> str | None:
    """Which replay confirms the witness: the exact one decides where there is one."""
    if "rational" in replays:
        if not replays["rational"].unsafe:
            return None
        return "onnxruntime" if "onnxruntime" in replays and replays["onnxruntime"].unsafe else "rational"
    if "onnxruntime" in replays and replays["onnxruntime"].unsafe:
        # Without an exact evaluation the double-precision one must not contradict.
        return "onnxruntime" if replays.get("float64", replays["onnxruntime"]).unsafe else None
    return None


def _float_replay(name: str, output: np.ndarray, prop: Property, x: tuple[Fraction, ...]) -> Replay:
    flat = np.asarray(output, dtype=np.float64).reshape(-1)
    unsafe = bool(np.isfinite(flat).all()) and violates(prop, x, _fractions(flat))
    return Replay(name, tuple(flat.tolist()), unsafe)


def _within(region: InputSet, x: tuple[Fraction, ...], tolerance: Fraction) -> bool:
    box = region if isinstance(region, Box) else region.bounding_box()
    return all(low - tolerance <= v <= high + tolerance for low, v, high in zip(box.lower, x, box.upper, strict=True))

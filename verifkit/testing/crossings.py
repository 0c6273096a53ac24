"""Where a line crosses the function, or a plane the product, that it is to bound."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction

import numpy as np

from verifkit.evidence import Lines, Planes
from verifkit.functions import Relu, ScalarFunction
from verifkit.ops import Activation, Product

Ends = tuple[np.ndarray, np.ndarray]
"""Lower and upper bounds of one node, `(1, *shape)`."""

ROUNDING = 1e-12
"""What a function's float64 value may be off, relative to 1 + |value|."""


def crossed_line(node: Activation, lines: Lines, ends: Ends) -> str | None:
    """A sentence on the first line that crosses the node's function on its range, or None.

    For ReLU in exact rationals at 9 points and at 0; else in float64 at 200 points. Rows that have lines of their own
    are looked at one by one.
    """
    parts = [np.asarray(getattr(lines, f.name), dtype=np.float64) for f in fields(lines)]
    own = [part.ndim > np.asarray(ends[0]).ndim for part in parts]
    rows = max((part.shape[1] for part, mine in zip(parts, own, strict=True) if mine), default=1)
    each = (
        Lines(*(part[:, row] if mine else part for part, mine in zip(parts, own, strict=True))) for row in range(rows)
    )
    return next((found for row in each if (found := _crossed_line(node, row, ends)) is not None), None)


def _crossed_line(node: Activation, lines: Lines, ends: Ends) -> str | None:
    columns = [np.asarray(a, dtype=np.float64).reshape(-1) for a in ends]
    parts = _flat(ends, lines.lower_slope, lines.lower_offset, lines.upper_slope, lines.upper_offset)
    exact = isinstance(node.function, Relu)
    for unit, (low, high, a, b, c, d) in enumerate(zip(*columns, *parts, strict=True)):
        grid = np.concatenate([np.linspace(low, high, 9 if exact else 200), np.clip([0.0], low, high)])
        grid = np.clip(grid, low, high)
        if exact:
            wrong = any(_relu_crossed(z, a, b, c, d) for z in grid.tolist())
        else:
            value = np.asarray(_of_unit(node, unit)(grid))
            slack = ROUNDING * (1.0 + np.abs(value))
            wrong = bool(((a * grid + b > value + slack) | (c * grid + d < value - slack)).any())
        if wrong:
            return (
                f"on [{low!r}, {high!r}] a line of '{node.name}' (unit {unit}) crosses {node.function.name}: "
                f"below {a!r} z + {b!r}, above {c!r} z + {d!r}"
            )
    return None


def crossed_plane(node: Product, planes: Planes, left: Ends, right: Ends) -> str | None:
    """A sentence on the first plane that crosses the product, or None: in exact rationals, at the corners of each
    entry's box (where it would show first), or on the diagonal where both factors are one value."""
    columns = [np.asarray(a, dtype=np.float64).reshape(-1) for a in (*left, *right)]
    below = _flat(left, planes.lower_left, planes.lower_right, planes.lower_offset)
    above = _flat(left, planes.upper_left, planes.upper_right, planes.upper_offset)
    same = node.parents[0] == node.parents[1]
    for unit, (a, b, c, d, *plane) in enumerate(zip(*columns, *below, *above, strict=True)):
        diagonal = [(z, z) for z in np.clip(np.linspace(a, b, 9), a, b).tolist()]
        for x, y in diagonal if same else [(x, y) for x in (a, b) for y in (c, d)]:
            least, most = _height(plane[:3], x, y), _height(plane[3:], x, y)
            if not least <= Fraction(x) * Fraction(y) <= most:
                return (
                    f"a plane of '{node.name}' (unit {unit}) crosses x y on [{a!r}, {b!r}] x [{c!r}, {d!r}] at "
                    f"({x!r}, {y!r}): below {plane[:3]!r}, above {plane[3:]!r}"
                )
    return None


def _flat(ends: Ends, *parts: np.ndarray) -> list[np.ndarray]:
    shape = np.asarray(ends[0]).shape
    return [np.broadcast_to(np.asarray(part, dtype=np.float64), shape).reshape(-1) for part in parts]


def _of_unit(node: Activation, unit: int) -> ScalarFunction:
    """The node's function with the parameters of one flat entry."""
    return node.function.cast(lambda values: np.broadcast_to(np.asarray(values), node.shape).reshape(-1)[unit])


def _height(plane: list[float], x: float, y: float) -> Fraction:
    p, q, offset = (Fraction(v) for v in plane)
    return p * Fraction(x) + q * Fraction(y) + offset


def _relu_crossed(z: float, a: float, b: float, c: float, d: float) -> bool:
    at = Fraction(z)
    value = max(at, Fraction(0))
    return Fraction(a) * at + Fraction(b) > value or Fraction(c) * at + Fraction(d) < value

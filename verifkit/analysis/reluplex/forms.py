"""Exact linear forms: every value of a ReLU network over a few variables, in integers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from verifkit.budget import Clock
from verifkit.exact import rational_entries
from verifkit.maps import LinearMap
from verifkit.ops import Affine


@dataclass(frozen=True, eq=False)
class Forms:
    """One form per row: integers (size, columns) over the common denominator `den`. Column 0 belongs to the constant.

    The integers are an object array. A form over fewer columns than there are by now has zeros there.
    """

    integers: np.ndarray
    den: int

    @property
    def size(self) -> int:
        return int(self.integers.shape[0])

    def widened(self, columns: int) -> Forms:
        more = np.zeros((self.size, columns - self.integers.shape[1]), dtype=object)
        return Forms(np.concatenate([self.integers, more], axis=1), self.den)

    def row(self, index: int) -> np.ndarray:
        """One form as an object array of Fractions (columns,)."""
        return np.array([Fraction(v, self.den) for v in self.integers[index]], dtype=object)


def as_integers(values: Iterable[Any]) -> tuple[np.ndarray, int]:
    """Finite floats or rationals as integers over one denominator."""
    ratios = [v.as_integer_ratio() for v in values]
    den = math.lcm(*(q for _, q in ratios))
    return np.array([p * (den // q) for p, q in ratios], dtype=object), den


def unit_forms(places: Sequence[int], columns: int) -> Forms:
    """The forms that are one column each."""
    integers = np.zeros((len(places), columns), dtype=object)
    integers[np.arange(len(places)), places] = 1
    return Forms(integers, 1)


def affine_forms(node: Affine, parents: Sequence[Forms], columns: int, clock: Clock) -> Forms:
    """The node's forms from those of its parents, over `columns` columns."""
    terms = [_mapped(m, p.widened(columns), clock) for m, p in zip(node.maps, parents, strict=True)]
    if node.bias is not None:
        bias, den = as_integers(np.asarray(node.bias, dtype=np.float64).reshape(-1).tolist())
        integers = np.zeros((bias.size, columns), dtype=object)
        integers[:, 0] = bias
        terms.append(Forms(integers, den))
    den = math.lcm(*(t.den for t in terms))
    total = sum((t.integers * (den // t.den) for t in terms), np.zeros_like(terms[0].integers))
    return Forms(total, den)


def _mapped(linear: LinearMap, forms: Forms, clock: Clock) -> Forms:
    entries: dict[int, list[tuple[int, Fraction]]] = {}
    for row, column, value in rational_entries(linear):
        entries.setdefault(row, []).append((column, value))
    den = math.lcm(*(value.denominator for terms in entries.values() for _, value in terms))
    integers = np.zeros((math.prod(linear.out_shape), forms.integers.shape[1]), dtype=object)
    for row, terms in entries.items():
        clock.check()
        weights = np.array([int(value * den) for _, value in terms], dtype=object)
        integers[row] = weights @ forms.integers[[column for column, _ in terms]]
    return Forms(integers, den * forms.den)

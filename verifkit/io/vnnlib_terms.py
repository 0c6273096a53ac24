"""The values that VNN-LIB 1.0 formulas are built from: exact literals, linear terms, rows and junctions.

A variable is an int here: input `X_i` is `i`, output `Y_j` is `~j`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

MAX_DIGITS = 4000
"""The most decimal digits of a number, its exponent written out (Python itself stops at 4300)."""

NUMBER = re.compile(r"([+-]?)(?=\.?\d)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?", re.ASCII)
MAX_BITS = 14_000
"""The most bits of a numerator or denominator that arithmetic may give: a little over `MAX_DIGITS` digits."""


class Row(NamedTuple):
    """sum of coefficient * variable <= bound (< where strict); `terms` is sorted, free of zeros and never empty."""

    terms: tuple[tuple[int, Fraction], ...]
    bound: Fraction
    strict: bool


@dataclass(slots=True, eq=False)
class Junction:
    """A conjunction or a disjunction; an empty one is true or false."""

    conjunction: bool
    children: list[Row | Junction] = field(default_factory=list)

    def add(self, child: Row | Junction) -> None:
        """Put a child in; one of the same kind dissolves, its children taking its place."""
        if isinstance(child, Junction) and child.conjunction == self.conjunction:
            self.children.extend(child.children)
        else:
            self.children.append(child)


class Term:
    """A linear expression under construction. It has one owner, so that merging may reuse the larger part."""

    __slots__ = ("constant", "parts")

    def __init__(self, constant: Fraction, parts: dict[int, Fraction]) -> None:
        self.constant, self.parts = constant, parts

    def scale(self, factor: Fraction) -> Term:
        if factor != 1:
            self.constant *= factor
            self.parts = {key: value * factor for key, value in self.parts.items()}
        return self

    def plus(self, other: Term) -> Term:
        small, large = (self, other) if len(self.parts) <= len(other.parts) else (other, self)
        for key, value in small.parts.items():
            large.parts[key] = large.parts[key] + value if key in large.parts else value
        large.constant += small.constant
        return large


def number(text: str) -> Fraction | None:
    """The exact value of a decimal literal; None where the text is not one or has more than `MAX_DIGITS` digits."""
    match = NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, whole, tail, exponent = match.groups()
    tail = tail or ""
    size = len(whole) + len(tail)
    if size > MAX_DIGITS or (exponent and len(exponent) > 6):
        return None
    power = (int(exponent) if exponent else 0) - len(tail)
    if size + power > MAX_DIGITS or -power > MAX_DIGITS:
        return None
    value = int(sign + whole + tail)
    return Fraction(value * 10**power) if power >= 0 else Fraction(value, 10**-power)


def combine(head: str, terms: list[Term]) -> Term:
    """Apply `+`, `-`, `*` or `/` to its operands; raises `ValueError` saying why where the result is not linear."""
    total = terms[0]
    if head == "-" and len(terms) == 1:
        return total.scale(Fraction(-1))
    for term in terms[1:]:
        if head == "+":
            total = total.plus(term)
        elif head == "-":
            total = total.plus(term.scale(Fraction(-1)))
        elif head == "*":
            if total.parts and term.parts:
                raise ValueError("a product of two variables: only linear arithmetic is allowed")
            total = total.scale(term.constant) if total.parts else term.scale(total.constant)
        else:
            if term.parts:
                raise ValueError("division by a variable: only linear arithmetic is allowed")
            if not term.constant:
                raise ValueError("division by zero")
            total = total.scale(1 / term.constant)
    return total


def compare(head: str, terms: list[Term], negated: bool) -> Row | Junction:
    """A comparison, or a chain of them, as rows: their conjunction, or the disjunction of their negations.

    Raises `ValueError` where a number has grown beyond `MAX_DIGITS` digits.
    """
    result = Junction(conjunction=not negated)
    strict = (head in ("<", ">")) != negated
    for left, right in pairwise(terms):
        if head in ("<=", "<", "="):  # its negation is right < left, or right <= left
            result.add(_row(right, left, strict) if negated else _row(left, right, strict))
        if head in (">=", ">", "="):
            result.add(_row(left, right, strict) if negated else _row(right, left, strict))
    return result.children[0] if len(result.children) == 1 else result


def _row(small: Term, large: Term, strict: bool) -> Row | Junction:
    """small <= large (< where strict); a comparison of constants is the empty conjunction or disjunction."""
    parts = dict(small.parts)
    for key, value in large.parts.items():
        parts[key] = parts[key] - value if key in parts else -value
    bound = large.constant - small.constant
    kept = tuple(sorted((key, value) for key, value in parts.items() if value))
    if not kept:
        return Junction(conjunction=bound > 0 if strict else bound >= 0)
    for value in (bound, *(value for _, value in kept)):
        if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
            raise ValueError(f"the arithmetic gives a number of more than {MAX_DIGITS} digits")
    return Row(kept, bound, strict)

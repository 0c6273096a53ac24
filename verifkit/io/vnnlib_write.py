"""A property as VNN-LIB 1.0 text, in the forms that the public files use wherever they suffice."""

from __future__ import annotations

from fractions import Fraction

from verifkit.errors import PropertyError
from verifkit.input_sets import Box
from verifkit.io.vnnlib_terms import MAX_BITS, MAX_DIGITS
from verifkit.properties import Constraint, Polyhedron, Property


def write_property(prop: Property) -> str:
    """VNN-LIB 1.0 text that reads back as a property with the same digest.

    A rational that is not a finite decimal is written as a quotient, such as (/ 1 3). Raises `PropertyError` for an
    `LpBall`, which linear arithmetic cannot describe (an l0 or l1 ball only at exponential length), and for a number of
    more than 4000 digits.
    """
    box = prop.input_set
    if not isinstance(box, Box):
        raise PropertyError(f"VNN-LIB cannot describe an l{box.norm} ball: only boxes can be written")
    lines = [f"; {part}" for part in prop.name.splitlines() if part.strip()]
    lines += [f"(declare-const X_{i} Real)" for i in range(box.size)]
    lines += [f"(declare-const Y_{j} Real)" for j in range(prop.n_outputs)]
    for i, (low, high) in enumerate(zip(box.lower, box.upper, strict=True)):
        lines += [f"(assert (>= X_{i} {literal(low)}))", f"(assert (<= X_{i} {literal(high)}))"]
    if not prop.unsafe:
        lines.append("(assert false)")
    elif len(prop.unsafe) == 1 and _plain(prop.unsafe[0]):
        lines += [f"(assert {_row(row)})" for row in prop.unsafe[0].constraints]
    else:
        lines += ["(assert (or", *(f"    {_conjunction(disjunct, box)}" for disjunct in prop.unsafe), "))"]
    return "\n".join(lines) + "\n"


def literal(value: Fraction) -> str:
    """An exact decimal, or a quotient of two integers where there is none (or none short enough)."""
    numerator, denominator = value.as_integer_ratio()
    if max(numerator.bit_length(), denominator.bit_length()) > MAX_BITS:
        raise PropertyError(f"a number of more than {MAX_DIGITS} digits cannot be written")
    twos = (denominator & -denominator).bit_length() - 1
    rest, fives = denominator >> twos, 0
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    sign = "-" if numerator < 0 else ""
    if rest == 1 and places <= MAX_DIGITS:
        scaled = abs(numerator) * 10**places // denominator
        if scaled.bit_length() <= MAX_BITS and len(digits := str(scaled)) <= MAX_DIGITS:
            digits = digits.zfill(places + 1)
            whole = len(digits) - places
            return sign + digits[:whole] + ("." + digits[whole:] if places else "")
    top, bottom = str(abs(numerator)), str(denominator)
    if max(len(top), len(bottom)) > MAX_DIGITS:
        raise PropertyError(f"a number of more than {MAX_DIGITS} digits cannot be written")
    return f"(/ {sign}{top} {bottom})"


def _plain(disjunct: Polyhedron) -> bool:
    """Whether the rows may stand as assertions of their own: none of them would be read as a bound of the input set."""
    return disjunct.box is None and all(row.outputs for row in disjunct.constraints)


def _conjunction(disjunct: Polyhedron, region: Box) -> str:
    rows = [] if disjunct.box is None else _bounds(disjunct.box, region)
    rows += [_row(row) for row in disjunct.constraints]
    return f"(and {' '.join(rows)})" if rows else "true"


def _bounds(box: Box, region: Box) -> list[str]:
    """The ends of a disjunct's box that cut the input set."""
    rows = []
    for i in range(region.size):
        if box.lower[i] > region.lower[i]:
            rows.append(f"(>= X_{i} {literal(box.lower[i])})")
        if box.upper[i] < region.upper[i]:
            rows.append(f"(<= X_{i} {literal(box.upper[i])})")
    return rows


def _row(row: Constraint) -> str:
    less, more = ("<", ">") if row.strict else ("<=", ">=")
    terms = [(f"Y_{j}", v) for j, v in row.outputs] + [(f"X_{i}", v) for i, v in row.inputs]
    if len(terms) == 1 and terms[0][1] == 1:
        return f"({less} {terms[0][0]} {literal(row.bound)})"
    if len(terms) == 1 and terms[0][1] == -1:
        return f"({more} {terms[0][0]} {literal(-row.bound)})"
    if len(terms) == 2 and row.bound == 0 and sorted(v for _, v in terms) == [-1, 1]:
        small, large = sorted(terms, key=lambda term: -term[1])
        return f"({less} {small[0]} {large[0]})"
    parts = [name if v == 1 else f"(* {literal(v)} {name})" for name, v in terms]
    left = "0" if not parts else parts[0] if len(parts) == 1 else f"(+ {' '.join(parts)})"
    return f"({less} {left} {literal(row.bound)})"

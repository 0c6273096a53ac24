"""A VNN-COMP results file: a word on the first line, and after `sat` the counterexample.

    sat
    ((X_0 0.25)
     (X_1 -1e-3)
     (Y_0 1.5))

Older tools write `holds` and `violated` for `unsat` and `sat`. Inputs and outputs are flat, in C order. What a tool
says of its outputs is passed over: the model is asked again.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from fractions import Fraction

from verifkit.io.vnnlib_terms import MAX_BITS, Term, combine, number

WORDS = {
    **{word: word for word in ("unsat", "sat", "unknown", "timeout", "error")},
    "holds": "unsat",
    "violated": "sat",
}
"""What the first line may be, and the competition's word for it."""

_TOKEN = re.compile(r"[()]|[^\s()]+")
_INPUT = re.compile(r"X_(\d{1,9})", re.ASCII)
_ARITHMETIC = frozenset({"+", "-", "*", "/"})


@dataclass(frozen=True)
class ToolAnswer:
    """word: the competition's, or None where the first line is none of `WORDS`. first: that line as it stands.

    inputs: the counterexample's, exact; None where there is none, or none that can be read: `problem` says why.
    """

    word: str | None
    first: str
    inputs: tuple[Fraction, ...] | None = None
    problem: str = ""


def read_results(text: str, n_inputs: int) -> ToolAnswer:
    """The answer in the text of a results file about a model of `n_inputs` inputs; whatever is wrong is told, not
    raised.
    """
    first, _, rest = text.lstrip("\ufeff").partition("\n")
    first = first.strip()
    word = WORDS.get(first.lower())
    if word != "sat":
        return ToolAnswer(word, first)
    try:
        return ToolAnswer(word, first, _counterexample(rest, n_inputs))
    except ValueError as error:
        return ToolAnswer(word, first, None, str(error))


def _counterexample(text: str, n_inputs: int) -> tuple[Fraction, ...]:
    """Every input's value; raises `ValueError` saying what is wrong. Nothing recurses, however deep the text nests."""
    found: dict[int, Fraction] = {}
    stack: list[list[str | Term]] = [[]]
    for token in _TOKEN.findall(text):
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise ValueError("its parentheses do not match")
            closed = _closed(stack.pop(), found)
            if closed is not None:
                stack[-1].append(closed)
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise ValueError("it breaks off")
    if not found:
        raise ValueError("there is none")
    missing = next((i for i in range(n_inputs) if i not in found), None)
    if missing is not None:
        raise ValueError(f"it has no X_{missing}")
    return tuple(found[i] for i in range(n_inputs))


def _closed(parts: list[str | Term], found: dict[int, Fraction]) -> Term | None:
    """Keeps (X_i value) in `found`; the value of an arithmetic term; None for any other list."""
    head = parts[0] if parts else None
    if not isinstance(head, str):
        return None
    if head in _ARITHMETIC:
        if len(parts) == 1:
            raise ValueError(f"'{head}' has nothing to work on")
        value = combine(head, [_term(part) for part in parts[1:]])
        if max(value.constant.numerator.bit_length(), value.constant.denominator.bit_length()) > MAX_BITS:
            raise ValueError("its arithmetic gives a number that is too long")
        return value
    name = _INPUT.fullmatch(head)
    if name is None:
        return None
    if len(parts) != 2:
        raise ValueError(f"{head} has {len(parts) - 1} values")
    index, exact = int(name[1]), _term(parts[1]).constant
    if abs(exact) > sys.float_info.max:
        raise ValueError(f"{head} is beyond the range of floats")
    if found.setdefault(index, exact) != exact:
        raise ValueError(f"{head} has two values")
    return None


def _term(part: str | Term) -> Term:
    """A literal (a decimal, or a quotient such as 1/3) as a constant."""
    if isinstance(part, Term):
        return part
    top, slash, bottom = part.partition("/")
    values = number(top), number(bottom) if slash else Fraction(1)
    if values[0] is None or not values[1]:
        raise ValueError(f"'{part[:40]}' is not a number")
    return Term(values[0] / values[1], {})

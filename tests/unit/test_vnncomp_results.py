"""Results files of VNN-COMP: the words, old and new, and counterexamples in every notation that tools write."""

from __future__ import annotations

from fractions import Fraction

import pytest

from verifkit.io.vnncomp_results import read_results


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("unsat\n", "unsat"),
        ("unsat", "unsat"),
        ("holds\n", "unsat"),
        ("HOLDS\r\n", "unsat"),
        (" timeout \nwhatever", "timeout"),
        ("\ufeffunknown\n", "unknown"),
        ("error\n", "error"),
        ("", None),
        ("\nunsat\n", None),
        ("unsat sat\n", None),
        ("unsatisfiable\n", None),
        ("verified: unsat\n", None),
    ],
)
def test_words(text: str, word: str | None) -> None:
    answer = read_results(text, 2)
    assert (answer.word, answer.inputs) == (word, None)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("((X_0 0.25)\n(X_1 -2)\n(Y_0 1.5))", ("0.25", "-2")),
        ("((X_1 1)(X_0 0)(Y_0 nan))", ("0", "1")),
        ("(X_0 1e-3)\n(X_1 +.5E2)\n(Y_0 1)", ("0.001", "50")),
        ("((X_0 1/3) (X_1 -2/4))", ("1/3", "-1/2")),
        ("((X_0 (/ 1 3)) (X_1 (- (/ 1.0 4))))", ("1/3", "-1/4")),
        ("( ( X_0\t0.1 ) ( X_1 0.1 ) ( X_0 0.10 ) )", ("1/10", "1/10")),
    ],
)
@pytest.mark.parametrize("word", ["sat", "violated"])
def test_counterexamples(word: str, text: str, values: tuple[str, ...]) -> None:
    answer = read_results(f"{word}\n{text}\n", 2)
    assert answer.word == "sat"
    assert answer.inputs == tuple(map(Fraction, values)), answer.problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is none"),
        ("see the log", "there is none"),
        ("((X_0 0.25) (Y_0 1))", "it has no X_1"),
        ("((X_0 nan) (X_1 1))", "'nan' is not a number"),
        ("((X_0 0x10) (X_1 1))", "'0x10' is not a number"),
        ("((X_0 1/0) (X_1 1))", "'1/0' is not a number"),
        ("((X_0 (/ 1 0)) (X_1 1))", "division by zero"),
        ("((X_0 1) (X_1 1e999999999))", "'1e999999999' is not a number"),
        ("((X_0 1) (X_1 1e400))", "X_1 is beyond the range of floats"),
        ("((X_0 1) (X_0 2) (X_1 1))", "X_0 has two values"),
        ("((X_0 1 2) (X_1 1))", "X_0 has 2 values"),
        ("((X_0 1) (X_1 0.", "it breaks off"),
        ("((X_0 1) (X_1 1))) (", "its parentheses do not match"),
        ("((X_0 (+)) (X_1 1))", "'+' has nothing to work on"),
        ("(" * 100_000, "it breaks off"),
    ],
)
def test_what_is_no_counterexample(text: str, problem: str) -> None:
    answer = read_results(f"sat\n{text}\n", 2)
    assert (answer.word, answer.inputs, answer.problem) == ("sat", None, problem)


def test_arithmetic_cannot_grow_without_bound() -> None:
    square = "9" * 4000
    for _ in range(4):
        square = f"(* {square} {square})"
    answer = read_results(f"sat\n((X_0 {square}))\n", 1)
    assert answer.problem == "its arithmetic gives a number that is too long"

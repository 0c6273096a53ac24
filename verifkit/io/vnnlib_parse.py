"""VNN-LIB 1.0 text to declared sizes and assertions in negation normal form.

One compiled expression cuts the text into tokens and a loop over them does the rest: nothing recurses, so the depth of
nesting is limited by memory alone. Positions are worked out only when an error needs one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NoReturn

from verifkit.errors import VnnlibError
from verifkit.io.vnnlib_terms import MAX_DIGITS, NUMBER, Junction, Term, combine, compare, number

_TOKEN = re.compile(r'[()]|[^\s()";|]+|;[^\n]*|"[^"]*"|\|[^|]*\||["|]')
_VARIABLE = re.compile(r"([XY])_(0|[1-9]\d{0,8})", re.ASCII)
_LOGIC = frozenset({"and", "or", "not"})
_COMPARISONS = frozenset({"<=", ">=", "<", ">", "="})
_ARITHMETIC = frozenset({"+", "-", "*", "/"})
_IGNORED = frozenset({"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"})
_VERSION_2 = frozenset({"vnnlib-version", "declare-network", "declare-input", "declare-output"})
_ONE = Fraction(1)


@dataclass(slots=True)
class Script:
    """What a file says: how many variables, the plain bounds asserted at the top level, and every other assertion.

    `lower` and `upper` hold the tightest closed bound of an input; `root` is the conjunction of all else.
    """

    n_inputs: int
    n_outputs: int
    lower: dict[int, Fraction]
    upper: dict[int, Fraction]
    root: Junction


@dataclass(slots=True)
class _Frame:
    """An opened list: its head, the token of its parenthesis, and what has been read of it.

    Under an odd number of `not`s `negated` is set: a disjunction then collects as a conjunction and the other way
    round. `into` is where a logical list puts its children, the parent's own junction where the kinds agree.
    """

    head: str
    start: int
    negated: bool
    into: Junction | None = None
    count: int = 0
    terms: list[Term] = field(default_factory=list)


class Reader:
    """One pass over the tokens of one text; `read` returns the script or raises `VnnlibError`."""

    def __init__(self, text: str, source: str = "") -> None:
        self.text = text.replace("\r\n", "\n").replace("\r", "\n")
        self.source = source
        self.tokens: list[str] = _TOKEN.findall(self.text)
        if ";" in self.text:
            self.tokens = [token for token in self.tokens if token[0] != ";"]
        self.at = 0
        self.variables: dict[str, int] = {}
        self.numbers: dict[str, Fraction] = {}
        self.lower: dict[int, Fraction] = {}
        self.upper: dict[int, Fraction] = {}
        self.root = Junction(conjunction=True)

    def read(self) -> Script:
        tokens = self.tokens
        if not tokens:
            self.fail("the text holds no VNN-LIB command: it is empty, or all comments", 0)
        while self.at < len(tokens):
            if self._plain_bound():
                continue
            start = self.at
            if tokens[start] != "(":
                what = "a ')' too many" if tokens[start] == ")" else f"stray text {_shown(tokens[start])}"
                self.fail(f"{what}, where the '(' of a command is expected", start)
            self.at += 1
            self._command(self._next("the name of a command", start), start)
        return Script(self._size("X"), self._size("Y"), self.lower, self.upper, self.root)

    def fail(self, what: str, token: int) -> NoReturn:
        """Raise the error at the position of a token (past the last one: at the end of the text)."""
        offset, seen = len(self.text.rstrip()), -1
        for match in _TOKEN.finditer(self.text):
            seen += not match[0].startswith(";")
            if seen == token:
                offset = match.start()
                break
        line = self.text.count("\n", 0, offset) + 1
        raise VnnlibError(what, line, offset - self.text.rfind("\n", 0, offset), self.source)

    # commands

    def _plain_bound(self) -> bool:
        """Read `(assert (<= X_i number))`, or leave everything as it is: nearly all of a large file is this line."""
        words = self.tokens[self.at : self.at + 8]
        if len(words) < 8 or words[1] != "assert" or words[6] != ")" or words[7] != ")":
            return False
        index = self.variables.get(words[4], -1)
        if index < 0 or words[0] != "(" or words[2] != "(":
            return False
        value = self._literal(words[5])
        if value is None:
            return False
        if words[3] == "<=":
            if index not in self.upper or value < self.upper[index]:
                self.upper[index] = value
        elif words[3] == ">=":
            if index not in self.lower or value > self.lower[index]:
                self.lower[index] = value
        else:
            return False
        self.at += 8
        return True

    def _command(self, name: str, start: int) -> None:
        if name == "declare-const":
            self._declare(start)
        elif name == "declare-fun":
            self._declare(start, function=True)
        elif name == "assert":
            self._formula(start)
            self._expect(")", start)
        elif name in _IGNORED:
            self._skip(start)
        elif name in _VERSION_2:
            self.fail("this is VNN-LIB 2.0, which is not supported yet: write the property in VNN-LIB 1.0", start)
        else:
            self.fail(f"unknown command {_shown(name)}: expected assert, declare-const or declare-fun", start + 1)

    def _declare(self, start: int, *, function: bool = False) -> None:
        name = self._next("the name of a variable", start)
        match = _VARIABLE.fullmatch(name)
        if match is None:
            self.fail(f"bad variable name {_shown(name)}: inputs are X_0, X_1, ..., outputs Y_0, Y_1, ...", self.at - 1)
        if name in self.variables:
            self.fail(f"variable {name} is declared twice", self.at - 1)
        if function:
            self._expect("(", start)
            self._expect(")", start)
        self._expect("Real", start)
        self._expect(")", start)
        index = int(match[2])
        self.variables[name] = index if match[1] == "X" else ~index

    def _skip(self, start: int) -> None:
        depth = 1
        while depth:
            word = self._next("')'", start)
            if word in ('"', "|"):
                self.fail(f"the {word} here is never closed by another {word}", self.at - 1)
            depth += (word == "(") - (word == ")")

    def _size(self, letter: str) -> int:
        count = sum((key >= 0) == (letter == "X") for key in self.variables.values())
        kind = "input" if letter == "X" else "output"
        if not count:
            self.fail(f"no {kind} is declared: expected (declare-const {letter}_0 Real)", len(self.tokens))
        for index in range(count):
            if f"{letter}_{index}" not in self.variables:
                what = f"{letter}_{index} is not declared, but there are {count} {kind}s: they must be numbered from 0"
                self.fail(what + " without gaps", len(self.tokens))
        return count

    # formulas

    def _formula(self, start: int) -> None:
        """Read one formula into the root, whose list is the parent of everything at the top level."""
        frames = [_Frame("assert", start, negated=False, into=self.root)]
        while True:
            token, frame = self.at, frames[-1]
            word = self._next("a formula or a term", frame.start)
            if word == "(":
                frames.append(self._open(frame, token))
            elif word == ")":
                if len(frames) == 1:
                    self.fail("')' where a formula is expected", token)
                self._close(frames.pop(), frames[-1])
            elif frame.into is not None:
                if word not in ("true", "false"):
                    self.fail(f"{_shown(word)} where a formula is expected, such as (<= X_0 1)", token)
                frame.count += 1
                frame.into.add(Junction(conjunction=(word == "true") != frame.negated))
            else:
                frame.count += 1
                frame.terms.append(self._atom(word, token))
            if len(frames) == 1:
                return

    def _open(self, parent: _Frame, start: int) -> _Frame:
        head = self._next("an operator", start)
        logical = parent.into is not None
        if head in ("(", ")") or head not in (_LOGIC | _COMPARISONS | _ARITHMETIC):
            self.fail(
                f"unknown operator {_shown(head)}: expected and, or, not, <=, >=, <, >, =, +, -, * or /", start + 1
            )
        if logical != (head not in _ARITHMETIC):
            wanted = "a formula (true or false)" if logical else "a term (a number)"
            self.fail(f"'{head}' where {wanted} is expected", start + 1)
        if parent.head == "not" and parent.count:
            self.fail("'not' takes one formula, found a second", start)
        parent.count += 1
        if parent.into is None or head in _COMPARISONS:
            return _Frame(head, start, parent.negated)
        if head == "not":
            return _Frame(head, start, not parent.negated, into=parent.into)
        conjunction = (head == "and") != parent.negated
        into = parent.into if parent.into.conjunction == conjunction else Junction(conjunction)
        return _Frame(head, start, parent.negated, into=into)

    def _close(self, frame: _Frame, parent: _Frame) -> None:
        head, start = frame.head, frame.start
        if head in _LOGIC:
            if head == "not" and frame.count != 1:
                self.fail(f"'not' takes one formula, found {frame.count}", start)
            assert frame.into is not None
            assert parent.into is not None
            if frame.into is not parent.into:
                parent.into.add(frame.into)
        elif head in _COMPARISONS:
            if frame.count < 2:
                self.fail(f"'{head}' takes at least two terms, found {frame.count}", start)
            assert parent.into is not None
            try:
                parent.into.add(compare(head, frame.terms, frame.negated))
            except ValueError as error:
                self.fail(str(error), start)
        else:
            if not frame.count or (head == "/" and frame.count == 1):
                self.fail(f"'{head}' takes at least {'two terms' if head == '/' else 'one term'}", start)
            try:
                parent.terms.append(combine(head, frame.terms))
            except ValueError as error:
                self.fail(str(error), start)

    def _atom(self, word: str, token: int) -> Term:
        key = self.variables.get(word)
        if key is not None:
            return Term(Fraction(0), {key: _ONE})
        value = self._literal(word)
        if value is None:
            self._refuse_atom(word, token)
        return Term(value, {})

    def _refuse_atom(self, word: str, token: int) -> NoReturn:
        digits = word.lstrip("+-")
        if _VARIABLE.fullmatch(word):
            self.fail(f"variable {word} is not declared", token)
        if word in ("true", "false"):
            self.fail(f"'{word}' where a term (a number) is expected", token)
        if NUMBER.fullmatch(word):
            self.fail(f"the number {_shown(word)} has more than {MAX_DIGITS} digits", token)
        if digits[:1].isdigit() or digits.startswith("."):
            self.fail(f"bad number {_shown(word)}", token)
        self.fail(f"unknown symbol {_shown(word)}: expected a declared variable or a number", token)

    def _literal(self, word: str) -> Fraction | None:
        value = self.numbers.get(word)
        if value is None:
            value = number(word)
            if value is not None:
                self.numbers[word] = value
        return value

    # tokens

    def _next(self, wanted: str, opened: int) -> str:
        if self.at >= len(self.tokens):
            self.fail(f"this '(' is never closed: the text ends where {wanted} is expected", opened)
        self.at += 1
        return self.tokens[self.at - 1]

    def _expect(self, wanted: str, opened: int) -> None:
        word = self._next(f"'{wanted}'", opened)
        if word != wanted:
            self.fail(f"{_shown(word)} where '{wanted}' is expected", self.at - 1)


def _shown(word: str) -> str:
    """A token as a message quotes it, cut to a length that can be read."""
    return f"'{word}'" if len(word) <= 40 else f"'{word[:37]}...'"

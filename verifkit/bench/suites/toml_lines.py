"""On which line of a TOML text each key stands: what `tomllib`, which reads the values, does not say.

The text has been accepted by `tomllib`, so that nothing is checked here a second time.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

Path = tuple[str | int, ...]
"""Keys from the top down, an integer for a place in an array, counted from 0: ("radius", 1, "norm")."""

_TOKEN = re.compile(
    r"""
    (?P<space> [ \t\r]+ | \#[^\n]* )
  | (?P<newline> \n )
  | (?P<string> \"{3} (?:\\.|[^\\])*? \"{3}(?!\") | '{3} .*? '{3}(?!') | " (?:\\.|[^"\\])* " | '[^']*' )
  | (?P<mark> [\[\]{}=,.] )
  | (?P<bare> [^\s\[\]{}=,.\#"']+ )
    """,
    re.VERBOSE | re.DOTALL,
)


def key_lines(text: str) -> Mapping[Path, int]:
    """The line, counted from 1, of every key, table header and array entry of a valid TOML text."""
    return _Scanner(text).lines


class _Scanner:
    """Walks over the text once; `lines` fills as it goes."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._tokens: list[tuple[str, str, int]] = []
        self._next = 0
        self._arrays: dict[Path, int] = {}  # arrays of tables: how many tables each has so far
        line = 1
        for match in _TOKEN.finditer(text):
            kind, token = str(match.lastgroup), match.group()
            if kind != "space":
                self._tokens.append((kind, token, line))
            line += token.count("\n")
        self._document()

    def _document(self) -> None:
        table: Path = ()
        while self._next < len(self._tokens):
            if self._skip("\n"):
                continue
            if self._skip("["):
                many = self._skip("[")
                table = self._key((), many=many)
                self._skip("]")
                if many:
                    self._skip("]")
            else:
                self._pair(table)

    def _pair(self, table: Path) -> None:
        path = self._key(table)
        self._skip("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._skip("["):
            self._array(path)
        elif self._skip("{"):
            while not self._skip("}"):
                if not (self._skip(",") or self._skip("\n")):
                    self._pair(path)
        else:  # a string, or the parts of a number or a date
            while self._next < len(self._tokens) and self._peek() not in (",", "]", "}", "\n"):
                self._next += 1

    def _array(self, path: Path) -> None:
        place = 0
        while not self._skip("]"):
            if self._skip(",") or self._skip("\n"):
                continue
            entry = (*path, place)
            self.lines[entry] = self._tokens[self._next][2]
            self._value(entry)
            place += 1

    def _key(self, table: Path, *, many: bool = False) -> Path:
        """The path of a key or header, perhaps dotted, below `table`. many: the header opens a further `[[table]]`."""
        path = table
        while True:
            kind, token, line = self._tokens[self._next]
            self._next += 1
            path = (*path, str(tomllib.loads(f"key = {token}")["key"]) if kind == "string" else token)
            self.lines.setdefault(path, line)
            last = not self._skip(".")
            if last and many:
                self._arrays[path] = self._arrays.get(path, 0) + 1
            if path in self._arrays:
                path = (*path, self._arrays[path] - 1)
                self.lines.setdefault(path, line)
            if last:
                return path

    def _peek(self) -> str:
        return self._tokens[self._next][1]

    def _skip(self, mark: str) -> bool:
        """Whether the next token is `mark`, which is then behind us. A string is never a mark: it keeps its quotes."""
        if self._next == len(self._tokens) or self._peek() != mark:
            return False
        self._next += 1
        return True

"""A study file's tables and values, and readers for them that name file, line, table and key of every mistake.

Numbers stay decimals as written: 0.02 means 1/50.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from verifkit.bench.suites import toml_lines
from verifkit.bench.suites.suite_folder import find_file, read_text
from verifkit.bench.suites.zoo import PREFIX, find_zoo_file
from verifkit.budget import Budget
from verifkit.errors import SuiteError, did_you_mean

LIMITS = frozenset({"timeout", "memory", "nodes", "samples"})
_GROUP = LIMITS | {"verifiers"}
_BALLS = _GROUP | {"model", "models", "inputs", "norm", "norms", "clip", "indices"}
KEYS: Mapping[str, frozenset[str]] = {
    "": LIMITS | {"name", "seed", "repeats", "verifiers", "vnnlib", "robustness", "radius", "curve", "folder"},
    "verifiers": LIMITS | {"name", "options", "label"},
    "vnnlib": _GROUP | {"model", "models", "property", "properties", "expected"},
    "robustness": _BALLS | {"radii"},
    "radius": _BALLS,
    "curve": _BALLS | {"radii"},
    "folder": _GROUP | {"path", "only", "limit"},
}
"""What each table may hold; "" is the file outside all tables."""

_TOP = "the top of the file, before the first [[...]]"
_HINTS: Mapping[str, str] = {
    "Invalid value": "a text stands in quotes",
    "Cannot overwrite a value": "the key is there twice",
    "Invalid initial character for a key part": "a table in { } stays on one line",
}
"""What helps with the mistakes that `tomllib` words for those who know TOML."""

MOST = 10_000
"""Of the numbers that one `{ from, to, step }` may stand for."""


@dataclass(frozen=True)
class Table:
    """One table: its name in KEYS, its place in the file, and what it holds."""

    file: Path
    lines: Mapping[toml_lines.Path, int]
    name: str
    path: toml_lines.Path
    values: Mapping[str, Any]

    def check_keys(self) -> None:
        """Raises `SuiteError` for the first key that this table does not have, saying where it belongs."""
        known = KEYS[self.name]
        for key in self.values:
            if key in known:
                continue
            homes = [f"[[{name}]]" if name else _TOP for name, keys in KEYS.items() if key in keys and key not in KEYS]
            hint = f"it belongs to {', '.join(homes)}; " if homes else did_you_mean(key, known)
            if self.name == "verifiers" and not homes:
                hint += "options of the verifier stand in `options = { ... }`; "
            raise self.at(key).wrong(f"unknown here; {hint}known: {', '.join(sorted(known))}")

    def at(self, key: str) -> Value:
        return Value(self, key, (*self.path, key), self.values.get(key))

    def get(self, key: str) -> Value | None:
        return self.at(key) if key in self.values else None

    def __getitem__(self, key: str) -> Value:
        """Raises `SuiteError` where the key is missing."""
        if key not in self.values:
            raise self.at(key).wrong("missing")
        return self.at(key)

    def one_or_many(self, one: str, many: str) -> list[Value]:
        """The value of the key `one`, or the entries of the list `many`; none where neither is there."""
        if one in self.values and many in self.values:
            raise self.at(many).wrong(f"'{one}' is there as well: write one of them")
        if isinstance(self.values.get(one), list):
            raise self.at(one).wrong(f"takes one; a list is written '{many} = {self.at(one).shown()}'")
        return self.at(many).entries() if many in self.values else [self.at(one)] * (one in self.values)

    def tables(self, key: str) -> Iterator[Table]:
        """The tables of the array `[[key]]`, none where there is none."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self.at(key).wrong(f"takes tables, each written [[{key}]]")
        for number, values in enumerate(value):
            table = Table(self.file, self.lines, key, (*self.path, key, number), values)
            table.check_keys()
            yield table

    def limits(self) -> Budget:
        """What this table says of limits."""
        seconds, memory, nodes, samples = (self.get(key) for key in ("timeout", "memory", "nodes", "samples"))
        return Budget(
            seconds=None if seconds is None else float(seconds.positive("seconds")),
            memory_bytes=None if memory is None else math.ceil(memory.positive("GiB", most=2**20) * 2**30),
            nodes=None if nodes is None else nodes.whole(least=1),
            samples=None if samples is None else samples.whole(least=1),
        )


@dataclass(frozen=True)
class Value:
    """One value of a table, or an entry of a list in it; `path` is where it stands."""

    table: Table
    key: str
    path: toml_lines.Path
    value: Any

    def wrong(self, what: str) -> SuiteError:
        places = (self.path[:n] for n in range(len(self.path), 0, -1))
        line = next((f", line {self.table.lines[p]}" for p in places if p in self.table.lines), "")
        number = self.table.path[-1] + 1 if self.table.path and isinstance(self.table.path[-1], int) else 0
        table = f", [[{self.table.name}]] number {number}" if number else ""
        return SuiteError(f"study '{self.table.file}'{line}{table}, key '{self.key}': {what}")

    def takes(self, what: str) -> SuiteError:
        return self.wrong(f"takes {what}, not {self.shown()}")

    def shown(self) -> str:
        """The value as the file has it, shortened."""
        text = _shown(self.value)
        return text if len(text) <= 60 else f"{text[:57]}..."

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value.strip() or "\0" in self.value:
            raise self.takes("a text")
        return self.value

    def entries(self) -> list[Value]:
        """Of a list that is not empty."""
        if not isinstance(self.value, list):
            raise self.takes(f"a list, [{self.shown()}]")
        if not self.value:
            raise self.takes("a list of at least one entry")
        return [Value(self.table, self.key, (*self.path, i), entry) for i, entry in enumerate(self.value)]

    def number(self) -> Decimal:
        """A decimal that floats can hold: what is not 0 lies within 1e-300 and 1e300."""
        value = Decimal(self.value) if _is_number(self.value) else None
        if value is None or not value.is_finite():
            raise self.takes("a number")
        if value != 0 and not -300 <= value.adjusted() < 300:
            raise self.takes("a number that is 0 or between 1e-300 and 1e300")
        return value

    def positive(self, unit: str, *, most: int | None = None) -> Decimal:
        value = self.number() if _is_number(self.value) else Decimal(0)
        if value <= 0 or (most is not None and value > most):
            raise self.takes(f"a positive number of {unit}" + (f", at most {most}" if most else ""))
        return value

    def whole(self, *, least: int) -> int:
        value = self.value  # 1e6 is whole as well
        if not _is_number(value) or not least <= value < 2**63 or value != int(value):
            raise self.takes(f"a whole number, at least {least}")
        return int(value)

    def numbers(self) -> list[Decimal]:
        """Of a list, or of `{ from = a, to = b, step = s }`: a, a + s, ..., b, in decimal arithmetic."""
        if isinstance(self.value, dict):
            return self._steps(self.value)
        if not isinstance(self.value, list) or not self.value:
            raise self.takes("a list of numbers or { from = a, to = b, step = s }")
        return [entry.number() for entry in self.entries()]

    def _steps(self, given: Mapping[str, Any]) -> list[Decimal]:
        if set(given) != {"from", "to", "step"}:
            raise self.takes("a list of numbers or { from = a, to = b, step = s }")
        first, last, step = (
            Value(self.table, f"{self.key}.{name}", (*self.path, name), given[name]).number()
            for name in ("from", "to", "step")
        )
        if step <= 0 or last < first:
            raise self.takes("steps upwards: from <= to, and a step above 0")
        count = (last - first) / step
        if count != count.to_integral_value():
            raise self.wrong(f"steps of {step} from {first} do not meet {last}")
        if count >= MOST:
            raise self.wrong(f"these are {count + 1:.0f} numbers: at most {MOST}")
        return [Decimal(f"{(first + k * step).normalize():f}") for k in range(int(count) + 1)]

    def file_path(self) -> str:
        """The path of the file named: relative to the study file, perhaps gzipped, or in the zoo."""
        name, kind = self.text(), {"models": "model", "properties": "property"}.get(self.key, self.key)
        try:
            if name.startswith(PREFIX):
                return find_zoo_file(name, kind, self.table.file)
            return find_file(self.table.file.parent, name, "")
        except SuiteError as error:
            raise self.wrong(str(error).removeprefix(": ")) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """As TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Decimal):
        return str(value) if value.is_finite() else str(float(value))
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_shown(entry)}" for key, entry in value.items()) + " }"
    return repr(value) if isinstance(value, str) else str(value)


def read_tables(path: Path) -> Table:
    """The file outside all tables. Raises `SuiteError` where it is no TOML."""
    text = read_text(path)
    try:
        content = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        hint = next((f"; {hint}" for start, hint in _HINTS.items() if str(error).startswith(start)), "")
        raise SuiteError(f"study '{path}' is not valid TOML: {error}{hint}") from None
    except (RecursionError, ValueError):  # brackets in brackets in brackets; an integer of thousands of digits
        raise SuiteError(f"study '{path}' cannot be read: its values are too deep or too long") from None
    top = Table(path, toml_lines.key_lines(text), "", (), content)
    top.check_keys()
    return top

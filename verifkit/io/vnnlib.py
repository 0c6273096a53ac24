"""VNN-LIB 1.0 files as properties, and properties as VNN-LIB 1.0 files.

A file describes the counterexample: what its assertions admit is the unsafe set. Reading distributes them into
disjunctive normal form. A bound on one input that is asserted outside every `or` shapes the input set; one inside a
disjunct shapes that disjunct's box. Where the top level leaves an input open but every disjunct bounds it, the input
set is the smallest box around the disjuncts. Numbers are kept exactly as written.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from verifkit.errors import PropertyError
from verifkit.input_sets import Box
from verifkit.io.vnnlib_parse import Reader, Script
from verifkit.io.vnnlib_terms import Junction, Row
from verifkit.io.vnnlib_write import write_property
from verifkit.properties import Constraint, Polyhedron, Property

__all__ = ["load_property", "parse_property", "save_property", "write_property"]

MAX_DISJUNCTS = 1_000_000
MAX_ROWS = 10_000_000
"""The size of normal form at which reading gives up: disjuncts, and rows in all of them together."""

_HUGE = 10**15
Ends = dict[int, Fraction]
Piece = tuple[Ends, Ends, tuple[Constraint, ...]]


def load_property(path: str | os.PathLike[str]) -> Property:
    """Read a `.vnnlib` or `.vnnlib.gz` file; where `path` is missing and `path.gz` exists, that one.

    The property is named after the file, without `.gz`. Raises `PropertyError` for a file that cannot be read, and
    `VnnlibError`, with line and column, for text that is not VNN-LIB 1.0.
    """
    file = Path(path)
    if not file.exists() and file.with_name(file.name + ".gz").is_file():
        file = file.with_name(file.name + ".gz")
    name = file.name.removesuffix(".gz")
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise PropertyError(f"there is no property file {path}") from None
    except IsADirectoryError:
        raise PropertyError(f"{path} is a folder, not a property file") from None
    except OSError as error:
        raise PropertyError(f"cannot read {path}: {error.strerror}") from None
    if data[:2] == b"\x1f\x8b" or file.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise PropertyError(f"{file} is not a whole gzip file: {error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PropertyError(f"{file} is not a text file: byte {error.start} is not UTF-8") from None
    if "\0" in text:
        raise PropertyError(f"{file} is not a text file: it holds zero bytes")
    return _normal_form(Reader(text, str(file)).read(), name, f"{file}: ")


def parse_property(text: str, name: str = "") -> Property:
    """Read VNN-LIB 1.0 text. Raises `VnnlibError` with line and column, and `PropertyError` for an unbounded input."""
    return _normal_form(Reader(text, name).read(), name, f"{name}: " if name else "")


def save_property(prop: Property, path: str | os.PathLike[str]) -> None:
    """Write a property as VNN-LIB 1.0, gzipped where `path` ends in `.gz`.

    Raises `PropertyError` where VNN-LIB cannot say it (see `write_property`) or the file cannot be written.
    """
    data = write_property(prop).encode()
    file = Path(path)
    try:
        file.write_bytes(gzip.compress(data, mtime=0) if file.suffix == ".gz" else data)
    except OSError as error:
        raise PropertyError(f"cannot write {path}: {error.strerror}") from None


def _normal_form(script: Script, name: str, where: str) -> Property:
    lower, upper = dict(script.lower), dict(script.upper)
    common = list(_narrowed([part for part in script.root.children if isinstance(part, Row)], lower, upper, {}))
    pieces: list[Piece] = []
    made: dict[int, Constraint] = {}
    for chosen in _distributed(_pruned([p for p in script.root.children if isinstance(p, Junction)], where)):
        low: Ends = {}
        high: Ends = {}
        own = list(_narrowed(chosen, low, high, made))
        pieces.append((low, high, (*common, *own)))
    box, pieces = _input_box(script.n_inputs, lower, upper, pieces, where)
    unsafe = []
    for low, high, rows in pieces:
        region = _cut(box, low, high) if low or high else None
        if region is not None or not (low or high):
            unsafe.append(Polyhedron(rows, region))
    return Property(box, tuple(unsafe), script.n_outputs, name).normal_form()


def _narrowed(rows: Iterable[Row], lower: Ends, upper: Ends, made: dict[int, Constraint]) -> Iterator[Constraint]:
    """Move the bounds on single inputs into `lower` and `upper`; yield the other rows, and the strict bounds as well.

    `made` remembers the constraint of a row that many disjuncts share.
    """
    for row in rows:
        key, scale = row.terms[0]
        bound = len(row.terms) == 1 and key >= 0
        if bound:
            end = row.bound / scale
            if scale > 0 and (key not in upper or end < upper[key]):
                upper[key] = end
            elif scale < 0 and (key not in lower or end > lower[key]):
                lower[key] = end
        if not bound or row.strict:
            if id(row) not in made:
                made[id(row)] = Constraint(
                    outputs=tuple((~k, v) for k, v in row.terms if k < 0),
                    inputs=tuple((k, v) for k, v in row.terms if k >= 0),
                    bound=row.bound,
                    strict=row.strict,
                )
            yield made[id(row)]


def _pruned(choices: list[Row | Junction], where: str) -> list[Row | Junction]:
    """The conjunction of `choices` without its unsatisfiable branches, so that every path through it is a disjunct.

    Refuses a formula whose normal form would not fit, before it is built: both sizes are known exactly.
    """
    root = Junction(conjunction=True, children=choices)
    sizes: dict[int, tuple[int, int]] = {}
    todo: list[tuple[Junction, bool]] = [(root, False)]
    while todo:
        node, ready = todo.pop()
        if ready:
            sizes[id(node)] = _size(node, sizes)
        else:
            todo.append((node, True))
            todo.extend((child, False) for child in node.children if isinstance(child, Junction))
    disjuncts, rows = sizes[id(root)]
    if disjuncts > MAX_DISJUNCTS or rows > MAX_ROWS:
        many = f"{disjuncts} disjuncts with {rows} rows" if rows < _HUGE else f"more than {_HUGE:.0e} rows"
        raise PropertyError(
            f"{where}the disjunctive normal form would have {many}, the limit is {MAX_DISJUNCTS} disjuncts with "
            f"{MAX_ROWS} rows in all: split the property into several files"
        )
    return root.children if disjuncts else [Junction(conjunction=False)]


def _size(node: Junction, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Disjuncts and rows of a node's normal form, from those of its children; drops a disjunction's empty branches."""
    disjuncts, rows = (1, 0) if node.conjunction else (0, 0)
    kept = []
    for child in node.children:
        count, length = (1, 1) if isinstance(child, Row) else sizes[id(child)]
        if node.conjunction:
            disjuncts, rows = disjuncts * count, rows * count + disjuncts * length
        else:
            disjuncts, rows = disjuncts + count, rows + length
        if count or node.conjunction:
            kept.append(child)
    node.children = kept
    return min(disjuncts, _HUGE), min(rows, _HUGE)


def _distributed(choices: list[Row | Junction]) -> Iterator[list[Row]]:
    """The disjuncts of a conjunction, in the order written.

    What is chosen and what is still to do are linked lists that alternatives share, so nothing is copied on the way.
    """
    start: Any = None
    for part in reversed(choices):
        start = (part, start)
    alternatives: list[tuple[Any, Any]] = [(None, start)]
    while alternatives:
        chosen, goals = alternatives.pop()
        while goals is not None:
            part, goals = goals
            if isinstance(part, Row):
                chosen = (part, chosen)
            elif part.conjunction:
                for child in reversed(part.children):
                    goals = (child, goals)
            else:
                alternatives.extend((chosen, (child, goals)) for child in reversed(part.children))
                break
        else:
            rows = []
            while chosen is not None:
                row, chosen = chosen
                rows.append(row)
            rows.reverse()
            yield rows


def _input_box(n: int, lower: Ends, upper: Ends, pieces: list[Piece], where: str) -> tuple[Box, list[Piece]]:
    """The input set, and the disjuncts that meet it: from the top level where it bounds every input, else the hull."""
    for i in sorted(lower.keys() & upper.keys()):
        if lower[i] > upper[i]:
            raise PropertyError(f"{where}no input is left: X_{i} is at least {lower[i]} and at most {upper[i]}")
    if len(lower) == n and len(upper) == n:
        return Box(tuple(lower[i] for i in range(n)), tuple(upper[i] for i in range(n))), pieces
    met = []
    ends: list[Box] = []
    for low, high, rows in pieces:
        full_low = {**lower, **{i: max(v, lower.get(i, v)) for i, v in low.items()}}
        full_high = {**upper, **{i: min(v, upper.get(i, v)) for i, v in high.items()}}
        if any(full_low[i] > full_high[i] for i in full_low.keys() & full_high.keys()):
            continue
        _all_bounded(n, full_low, full_high, where + ("" if len(pieces) == 1 else "in one of the disjuncts, "))
        met.append((low, high, rows))
        ends.append(Box(tuple(full_low[i] for i in range(n)), tuple(full_high[i] for i in range(n))))
    if not ends:
        _all_bounded(n, lower, upper, where)
    hull_low = tuple(min(column) for column in zip(*(box.lower for box in ends), strict=True))
    hull_high = tuple(max(column) for column in zip(*(box.upper for box in ends), strict=True))
    return Box(hull_low, hull_high), met


def _all_bounded(n: int, lower: Ends, upper: Ends, where: str) -> None:
    for side, ends in (("lower", lower), ("upper", upper)):
        if len(ends) < n:
            i = next(i for i in range(n) if i not in ends)
            raise PropertyError(f"{where}input X_{i} has no {side} bound: every input needs both")


def _cut(box: Box, low: Ends, high: Ends) -> Box | None:
    lower, upper = list(box.lower), list(box.upper)
    for i, end in low.items():
        lower[i] = max(lower[i], end)
    for i, end in high.items():
        upper[i] = min(upper[i], end)
    if any(lower[i] > upper[i] for i in low.keys() | high.keys()):
        return None
    return Box(tuple(lower), tuple(upper))

"""Several result folders made into a new one; the given ones are only read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from verifkit.bench.rows.agreement import contradict, same_answer
from verifkit.bench.rows.environments import add_environments, read_environments
from verifkit.bench.rows.lock import reading, writing
from verifkit.bench.rows.schema import Row
from verifkit.bench.rows.store import ROWS, evidence_name, iterate_rows
from verifkit.bench.rows.tables import write_tables
from verifkit.bench.rows.whole_file import whole_file
from verifkit.errors import SuiteError


@dataclass(frozen=True)
class Merged:
    """rows: in the new folder. same: left out, the same answer stands. other: left out, an earlier folder's answer
    stands (only where that was asked for). contradictions: keys of which both answers were kept. missing: rows whose
    evidence was not in its folder any more.
    """

    rows: int
    same: int
    other: int
    contradictions: int
    missing: int


def merge_folders(folders: Sequence[Path], out: Path, *, first: bool = False) -> Merged:
    """Writes the rows of `folders`, in their order, to the new folder `out`, with environments, evidence and tables.

    Two rows with one key are the same question put twice. The same answer is kept once. Answers that contradict each
    other are both kept: the audit has to see them. Others (a time out here, an answer there) are refused, or, with
    `first`, the one of the folder named first is kept.

    Raises `SuiteError`; a folder that someone is writing to is refused, and so is an `out` that has rows.
    """
    if len({folder.resolve() for folder in [*folders, out]}) != len(folders) + 1:
        raise SuiteError("the folders to merge and the new one must all be different")
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(reading(folder))
        kept, counts = _choose(folders, first=first)
        locks.enter_context(writing(out))
        if (out / ROWS).exists() and (out / ROWS).stat().st_size:
            raise SuiteError(f"'{out}' has rows already: name a new folder")
        for folder in folders:
            add_environments(out, read_environments(folder))
        rows = [_with_evidence(row, name, folder, out) for row, name, folder in _named(kept)]
        with whole_file(out / ROWS) as file:
            for row in rows:
                file.write(row.to_line())
        write_tables(out)
    missing = sum(row.evidence is not None for row, _ in kept) - sum(row.evidence is not None for row in rows)
    return replace(counts, rows=len(rows), missing=missing)


_Kept = list[tuple[Row, Path]]


def _choose(folders: Sequence[Path], *, first: bool) -> tuple[_Kept, Merged]:
    """The rows to keep, each with its folder, and the counts of the others."""
    kept: _Kept = []
    by_key: dict[str, list[int]] = {}
    same = other = contradictions = 0
    for folder in folders:
        for row in iterate_rows(folder):
            standing = [kept[i] for i in by_key.get(row.key, ())]
            if any(same_answer(row, known) for known, _ in standing):
                same += 1
                continue
            if any(contradict(row, known) for known, _ in standing):
                contradictions += 1
            elif standing and first:
                other += 1
                continue
            elif standing:
                known, where = standing[0]
                raise SuiteError(
                    f"'{where}' and '{folder}' have different answers of {row.verifier} to {row.instance}, "
                    f"{_words(known)} and {_words(row)}: --first keeps that of the folder named first"
                )
            by_key.setdefault(row.key, []).append(len(kept))
            kept.append((row, folder))
    return kept, Merged(len(kept), same, other, contradictions, 0)


def _words(row: Row) -> str:
    if row.question == "radius":
        return f"[{row.certified}, {row.falsified}]"
    return row.verdict + (f" ({row.reason})" if row.reason else "")


def _named(kept: _Kept) -> Iterator[tuple[Row, str, Path]]:
    """Each row with the name that its evidence gets: two rows with one key have files of their own."""
    seen: dict[str, int] = {}
    for row, folder in kept:
        seen[row.key] = number = seen.get(row.key, 0) + 1
        yield row, evidence_name(row.key if number == 1 else f"{row.key}-{number}"), folder


def _with_evidence(row: Row, name: str, folder: Path, out: Path) -> Row:
    """The row with its evidence copied; without, where the file is not there any more."""
    if row.evidence is None:
        return row
    try:
        source = open(folder / row.evidence, "rb")  # noqa: SIM115 (closed below; what fails is told apart)
    except FileNotFoundError:
        return replace(row, evidence=None)
    except OSError as error:
        raise SuiteError(f"'{folder / row.evidence}' cannot be read: {error.strerror}") from None
    with source, whole_file(out / name) as file:
        shutil.copyfileobj(source, file)
    return replace(row, evidence=name)

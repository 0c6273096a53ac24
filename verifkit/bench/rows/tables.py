"""`OUT/rows.parquet` and `OUT/rows.csv`, made from `OUT/rows.jsonl` in batches: a long run needs no more memory.

Columns are `Row`'s fields in their order (`docs/rows.md`). Records, which differ from verifier to verifier, are JSON
text in both; a list is a list in Parquet and JSON text in CSV; a null is an empty cell in CSV. pyarrow is imported only
where Parquet is written: no worker ever loads it.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import itertools
import json
import typing
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifkit.bench.rows.schema import SCHEMA, Row
from verifkit.bench.rows.store import iterate_rows
from verifkit.bench.rows.whole_file import whole_file
from verifkit.errors import SuiteError

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET, CSV = "rows.parquet", "rows.csv"
COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
_BATCH = 500


def write_tables(folder: Path) -> tuple[Path, Path]:
    """Both files of a result folder, from its rows; their paths.

    Raises `SuiteError` where the rows cannot be read or a file cannot be written; the old files then stay.
    """
    _write_csv(folder)
    _write_parquet(folder)
    return folder / PARQUET, folder / CSV


def _write_csv(folder: Path) -> None:
    with whole_file(folder / CSV) as file:
        writer = csv.writer(codecs.getwriter("utf-8")(file, "backslashreplace"), lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(getattr(row, name)) for name in COLUMNS] for row in iterate_rows(folder))


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(value) if isinstance(value, dict | list) else value


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _write_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(pa)
    schema = pa.schema(
        [pa.field(name, kind) for name, (kind, _) in columns.items()], metadata={"verifkit.schema": str(SCHEMA)}
    )
    with whole_file(folder / PARQUET) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in _batches(folder):
            arrays = []
            for name, (kind, convert) in columns.items():
                try:
                    values = [None if (v := getattr(row, name)) is None else convert(v) for row in batch]
                    arrays.append(pa.array(values, kind))
                except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
                    raise SuiteError(f"a row of '{folder}' does not fit its column '{name}' ({error})") from None
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def _batches(folder: Path) -> Iterator[list[Row]]:
    rows = iterate_rows(folder)
    while batch := list(itertools.islice(rows, _BATCH)):
        yield batch


def _columns(pa: Any) -> dict[str, tuple[pa.DataType, Callable[[Any], Any]]]:
    """Each column's type in Parquet, and how a value that is there becomes one."""
    kinds: dict[Any, tuple[pa.DataType, Callable[[Any], Any]]] = {
        str: (pa.string(), _encodable),
        int: (pa.int64(), int),
        float: (pa.float64(), float),
        bool: (pa.bool_(), bool),
        list[float]: (pa.list_(pa.float64()), list),
        list[list[Any]]: (
            pa.list_(pa.struct([("radius", pa.float64()), ("reason", pa.string())])),
            lambda tried: [{"radius": radius, "reason": reason} for radius, reason in tried],
        ),
        dict[str, Any]: (pa.string(), _text),
    }
    columns = {}
    for name, hint in typing.get_type_hints(Row).items():
        stated = [part for part in typing.get_args(hint) if part is not type(None)]
        columns[name] = kinds[hint if hint in kinds else stated[0]]
    return {**columns, "started": (pa.timestamp("ms", tz="UTC"), datetime.fromisoformat)}


def _encodable(text: str) -> str:
    """Half of a surrogate pair, which a file's name may hold, has no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()

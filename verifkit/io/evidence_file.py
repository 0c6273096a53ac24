"""Evidence in a file: one `.npz` archive that holds every class of `verifkit.evidence` whole, and no pickle.

The arrays lie in the archive as they are; what they hang on is JSON text beside them (`structure`), a list of nodes.
A node is `[kind, contents]`: a class of `verifkit.evidence` with its fields, `tuple` or `map` (pairs). The contents are
plain JSON values, or objects with one key: `node`, the number of a later node; `array`, a name in the archive;
`rational` ("1/3"); `float` (an infinity or NaN). A tree of any depth is read and written without recursion.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from verifkit import evidence as classes
from verifkit.errors import EvidenceError
from verifkit.evidence import Evidence

_STRUCTURE = "structure"
_CLASSES: Mapping[str, Callable[..., Any]] = {
    name: value
    for name, value in vars(classes).items()
    if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == classes.__name__
}


@dataclass(frozen=True)
class KeptEvidence:
    """evidence: what was kept. query: the digest of the query that it is about. verifier: who left it."""

    evidence: Evidence
    query: str
    verifier: str


def save_evidence(file: BinaryIO, kept: KeptEvidence) -> None:
    """Writes an `.npz` archive; arrays of torch become NumPy's. Raises `OSError`, and `EvidenceError` for a value that
    no class of `verifkit.evidence` holds."""
    writer = _Writer()
    text = json.dumps(
        {"query": kept.query, "verifier": kept.verifier, "nodes": writer.nodes(kept.evidence)},
        allow_nan=False,
        separators=(",", ":"),
    )
    arrays: dict[str, Any] = {_STRUCTURE: np.frombuffer(text.encode(), np.uint8), **writer.arrays}
    np.savez_compressed(file, **arrays)


def load_evidence(path: str | os.PathLike[str]) -> KeptEvidence:
    """What `save_evidence` wrote. Raises `EvidenceError` where the file is missing or something else."""
    try:
        with open(path, "rb") as file, np.load(io.BytesIO(file.read()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise EvidenceError(f"evidence '{os.fspath(path)}' cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EvidenceError(f"'{os.fspath(path)}' is no evidence file ({error})") from None
    try:
        structure = json.loads(arrays.pop(_STRUCTURE).tobytes())
        evidence = _read(structure["nodes"], arrays)
        return KeptEvidence(evidence, structure["query"], structure["verifier"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise EvidenceError(f"'{os.fspath(path)}' is no evidence file ({type(error).__name__}: {error})") from None


class _Writer:
    """Gives every container a number, parents before children, and every array a name."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        self._found: list[Any] = []

    def nodes(self, root: Evidence) -> list[Any]:
        self._found = [root]
        return [self._node(value) for value in self._found]  # grows while it is walked

    def _node(self, value: Any) -> list[Any]:
        if isinstance(value, tuple | list):
            return ["tuple", [self._content(part) for part in value]]
        if isinstance(value, Mapping):
            return ["map", [[self._content(key), self._content(part)] for key, part in value.items()]]
        name = type(value).__name__
        if _CLASSES.get(name) is not type(value):
            raise EvidenceError(f"evidence holds a {name}, which no evidence file can")
        return [name, {f.name: self._content(getattr(value, f.name)) for f in dataclasses.fields(value)}]

    def _content(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, np.bool_):
            return bool(value)
        if isinstance(value, int | np.integer):
            return int(value)
        if isinstance(value, float | np.floating):
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        if isinstance(value, Fraction):
            return {"rational": f"{value.numerator:x}/{value.denominator:x}"}
        if isinstance(value, tuple | list | Mapping) or dataclasses.is_dataclass(value):
            self._found.append(value)
            return {"node": len(self._found) - 1}
        if id(value) not in self._names:
            name = self._names[id(value)] = f"a{len(self.arrays)}"
            self.arrays[name] = _plain(value)
        return {"array": self._names[id(value)]}


def _plain(value: Any) -> np.ndarray:
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if array.dtype.hasobject:
        raise EvidenceError(f"evidence holds a {type(value).__name__}, which no evidence file can")
    return array


def _read(nodes: list[Any], arrays: Mapping[str, np.ndarray]) -> Any:
    """The first node; children stand behind their parents, so they are made first."""
    made: dict[int, Any] = {}

    def content(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, what),) = value.items()
        if kind == "node":
            return made[what]
        if kind == "array":
            return arrays[what]
        if kind == "float":
            return float(what)
        if kind != "rational":
            raise ValueError(f"no content is of the kind {kind!r}")
        above, below = what.split("/")
        return Fraction(int(above, 16), int(below, 16))

    for number in range(len(nodes) - 1, -1, -1):
        kind, contents = nodes[number]
        if kind == "tuple":
            made[number] = tuple(content(part) for part in contents)
        elif kind == "map":
            made[number] = {content(key): content(part) for key, part in contents}
        else:
            made[number] = _CLASSES[kind](**{name: content(part) for name, part in contents.items()})
    return made[0]

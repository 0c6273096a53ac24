"""Files of the zoo by name: "zoo:digits-2x50" is `benchmarks/zoo/digits-2x50.onnx` of verifkit's repository.

The zoo is no part of the installed package. It is looked for in the folders above the study file, so that a checkout's
own studies take its own files; then in the checkout that verifkit runs from, so that a study may lie anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import verifkit
from verifkit.errors import SuiteError, did_you_mean

PREFIX = "zoo:"
ZOO: Mapping[str, tuple[str, ...]] = {
    "model": ("zoo/{}.onnx",),
    "inputs": ("zoo/{}-samples.npz", "suites/{}-samples.npz"),
    "property": ("suites/props/{}.vnnlib",),
}
"""Where a name of each kind may lie, from `benchmarks/` on."""


def find_zoo_file(name: str, kind: str, near: Path) -> str:
    """The path of the file that `name`, with its prefix, means in the study file `near`. Raises `SuiteError`."""
    folder = _benchmarks(near)
    if folder is None:
        raise SuiteError(
            f"there is no zoo for '{name}': it lies in benchmarks/zoo of verifkit's repository, so put the study into "
            "a checkout of it, or name the file by its path"
        )
    known = {
        found.relative_to(folder).as_posix().removeprefix(before).removesuffix(after): found
        for before, after in (pattern.split("{}") for pattern in ZOO[kind])
        for found in folder.glob(f"{before}*{after}")
    }
    word = name.removeprefix(PREFIX)
    if word not in known:
        hint = did_you_mean(word, known)
        raise SuiteError(f"the zoo holds no {kind} '{word}'; {hint}there are: {', '.join(sorted(known))}")
    return str(known[word])


def _benchmarks(near: Path) -> Path | None:
    checkout = Path(verifkit.__file__).resolve().parents[1]
    for folder in (*near.resolve().parents, checkout):
        if (folder / "benchmarks" / "zoo" / "manifest.json").is_file():
            return folder / "benchmarks"
    return None

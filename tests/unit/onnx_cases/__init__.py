"""Every lowered operator with every accepted combination of its attributes, as small ONNX models.

`CASES` lists them by operator; `all_cases` gives the models themselves, each node alone and in a residual block. Inputs
of any size of a few units are inside the domain of every model.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.unit.onnx_cases import (
    arithmetic,
    constants,
    functions,
    moves,
    normalisation,
    reductions,
    resize,
    windows,
)
from tests.unit.onnx_cases.case import Case

FAMILIES = (arithmetic, windows, moves, functions, reductions, normalisation, resize, constants)

CASES: dict[str, list[Case]] = {op: list(cases) for family in FAMILIES for op, cases in family.CASES.items()}
"""The cases by operator; the same ones, with the same weights, in every run."""


def all_cases(step: int = 1) -> Iterator[tuple[str, bytes]]:
    """(name, ONNX bytes) for each operator x attributes x {alone, in a residual block}; every `step`-th case only."""
    for op, cases in CASES.items():
        for number, case in enumerate(cases[::step]):
            for residual in (False, True):
                where = "residual" if residual else "alone"
                yield f"{op}/{number * step}/{where}: {case}", case.build(residual=residual)

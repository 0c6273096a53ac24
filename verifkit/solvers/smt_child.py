"""The process that an SMT solver runs in: reads one job from its input, prints an answer a line, and ends.

A process of its own, because a solver deep in rational arithmetic looks at no time limit and may take all memory: it is
ended from outside. This side imports nothing but the solver.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from verifkit.processes import die_with_parent


@dataclass(frozen=True)
class Answer:
    """What a solver says of one formula.

    status: "sat", "unsat", or "unknown", of which `why` is the solver's reason. values: of the variables asked for,
    where sat, numerator and denominator in hexadecimal (decimal conversion of long integers is limited, and slow).
    """

    status: str
    values: list[tuple[str, str]] = field(default_factory=list)
    why: str = ""
    conflicts: int = 0
    decisions: int = 0
    seconds: float = 0.0

    def point(self) -> list[Fraction]:
        return [Fraction(int(p, 16), int(q, 16)) for p, q in self.values]


def in_hexadecimal(value: Fraction) -> tuple[str, str]:
    return f"{value.numerator:x}", f"{value.denominator:x}"


def main(backend: str, parent: int) -> None:
    """`backend`: the module `verifkit.solvers.<backend>_solver` with `name()` and `solve(text, variables)`.

    The job: "text" that all formulas share, "rows" that each adds, "variables" whose values are wanted. Ends after the
    first formula that is satisfied.
    """
    die_with_parent(parent)
    sys.set_int_max_str_digits(0)  # numbers of rational arithmetic grow long
    solver = importlib.import_module(f"verifkit.solvers.{backend}_solver")
    job = json.loads(sys.stdin.buffer.read())
    _tell({"solver": solver.name()})
    for rows in job["rows"]:
        started = time.perf_counter()
        answer: Answer = solver.solve(f"{job['text']}\n{rows}", job["variables"])
        _tell({**asdict(answer), "seconds": time.perf_counter() - started})
        if answer.status == "sat":
            break


def _tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201 (the parent reads it)

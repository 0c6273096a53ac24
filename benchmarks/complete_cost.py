"""What the complete methods cost as networks grow: seconds and nodes against unstable ReLUs.

    python -m benchmarks.complete_cost --out results/cost.jsonl --plot docs/cost.svg    # about eight minutes
    python -m benchmarks.complete_cost --out results/cost.jsonl --table                 # only print what stands in FILE

Random networks of two hidden layers, three for each size, over the box [-1, 1]^n, for n = 3 and n = 8. The least output
over the box is found by many descents before any method is asked, and two questions are asked of each network: does
the output stay above a threshold 5 % of its range below that value (to be proved: that it holds is for the methods to
say), and above one 5 % over it (to be refuted: it is violated, for the point is known)? Seconds are of the call alone,
in one process that has loaded the method. A method that leaves most questions to be proved at a size open is asked
nothing larger; one that leaves most of those to be refuted open is asked no larger ones of these. Rows that stand in
FILE are not run again. Exit status 3 if two methods contradict each other, or a method the known point.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import click
import numpy as np

from benchmarks.cost_figures import INPUTS, KINDS, METHODS, SEEDS, WIDTHS, Key, Row, hopeless, plot, table, wrong
from verifkit.analysis.descent import descend
from verifkit.analysis.linear import analyse
from verifkit.analysis.linear_analysis import LinearAnalysis
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.budget import Budget, Clock
from verifkit.input_sets import Box
from verifkit.io.onnx import model_from_network
from verifkit.model import Model
from verifkit.network import dense_network
from verifkit.ops import Activation
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query
from verifkit.registry import create, names
from verifkit.result import Verdict
from verifkit.verifier import Verifier

MARGIN = 0.05
"""Between the threshold and the least output, in units of the output's range."""

STARTS, STEPS = 1024, 150
"""Of the descents that look for the least and the largest output."""


@dataclass(frozen=True)
class Subject:
    """A random network and the two questions about it: weights of variance 2 / fan-in, biases of deviation 0.1."""

    inputs: int
    width: int
    seed: int

    @cached_property
    def model(self) -> Model:
        rng, sizes = (
            np.random.default_rng([self.inputs, self.width, self.seed]),
            [self.inputs, self.width, self.width, 1],
        )
        weights = [(rng.normal(size=(b, a)) * np.sqrt(2 / a)).astype(np.float32) for a, b in pairwise(sizes)]
        biases = [(rng.normal(size=b) * 0.1).astype(np.float32) for b in sizes[1:]]
        return model_from_network(dense_network(weights, biases), f"{self.inputs}-{self.width}-{self.seed}")

    def query(self, threshold: float, sign: int = 1) -> Query:
        """Is the output, times `sign`, above the threshold on the whole box?"""
        row = Constraint(outputs=((0, Fraction(sign)),), bound=Fraction(threshold))
        box = Box((Fraction(-1),) * self.inputs, (Fraction(1),) * self.inputs)
        return Query(self.model, Property(box, (Polyhedron((row,)),), 1))

    @cached_property
    def bounds(self) -> LinearAnalysis:
        query = self.query(0.0)
        return analyse(query.network, region_of(query), CROWN_RELAXATIONS, Clock(Budget()))

    @cached_property
    def unstable(self) -> int:
        """ReLUs whose input CROWN cannot tell the sign of."""
        nodes = self.bounds.network.nodes
        ends = [self.bounds.bounds[node.parents[0]] for node in nodes if isinstance(node, Activation)]
        return sum(int(((lower < 0) & (upper > 0)).sum()) for lower, upper in ends)

    def _least(self, sign: int) -> float:
        """The least value of the output, times `sign`, that descents to an unreachable threshold find."""
        ends = self.bounds.bounds[-1]
        below = math.floor(float(ends[0].min() if sign > 0 else -ends[1].max())) - 1.0
        rng = np.random.default_rng(self.seed)
        found = descend(self.query(below, sign), STARTS, STEPS, 0.5, Clock(Budget()), rng)
        return below + found.loss

    @cached_property
    def thresholds(self) -> dict[str, float]:
        """For each kind of question, exact in float32."""
        least, largest = self._least(1), -self._least(-1)
        gap = MARGIN * (largest - least)
        return {"holds": float(np.float32(least - gap)), "violated": float(np.float32(least + gap))}


def seconds_used() -> float:
    """CPU seconds of this process and of its children that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in both)


def ask(label: str, verifier: Verifier, subject: Subject, kind: str, limit: float) -> Row:
    """One question to one method."""
    threshold, unstable = subject.thresholds[kind], subject.unstable
    query = subject.query(threshold)
    cpu, wall = seconds_used(), time.perf_counter()
    result = verifier.verify(query, budget=Budget(seconds=limit))
    wall, cpu = time.perf_counter() - wall, seconds_used() - cpu
    nodes = int(result.statistics.get(METHODS[label].nodes, 0))
    told = nodes if nodes or result.verdict is not Verdict.UNKNOWN else None
    return Row(label, subject.inputs, subject.width, subject.seed, kind, unstable, threshold, str(result.verdict),
               None if result.reason is None else str(result.reason), wall, cpu, limit, told,
               result.to_json()["statistics"])  # fmt: skip


def installed(labels: Sequence[str]) -> dict[str, Verifier]:
    """The methods that can be asked, each loaded by a small question; a line on stderr for the others."""
    found = {}
    for label in labels:
        method = METHODS[label]
        if method.verifier not in names():
            print(f"{label}: left out, no verifier is called '{method.verifier}'", file=sys.stderr)
            continue
        verifier = create(method.verifier, method.options)
        missing = verifier.capabilities.missing_modules()
        if missing:
            print(f"{label}: left out, it needs {', '.join(missing)}", file=sys.stderr)
            continue
        for kind in KINDS:
            ask(label, verifier, Subject(3, 3, 0), kind, 20.0)
        found[label] = verifier
    return found


def work(found: dict[Key, Row], verifiers: Mapping[str, Verifier], limit: float) -> Iterator[Row]:
    """Asks what is not in `found` yet, smaller networks first; the caller adds what comes."""
    for inputs in INPUTS:
        over: set[tuple[str, str]] = set()
        for width in WIDTHS:
            subjects = [Subject(inputs, width, seed) for seed in SEEDS]
            for label, kind in product(verifiers, KINDS):
                if (label, kind) in over:
                    continue
                mine = [found[key] for seed in SEEDS if (key := (label, inputs, width, seed, kind)) in found]
                for subject in subjects:
                    if (label, inputs, width, subject.seed, kind) not in found and not hopeless(mine):
                        row = ask(label, verifiers[label], subject, kind, limit)
                        mine.append(row)
                        yield row
                if hopeless(mine):
                    over.add((label, kind))
            over |= {(label, "violated") for label in verifiers if (label, "holds") in over}


@click.command()
@click.option("--out", "file", type=click.Path(path_type=Path), required=True)
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="draw it, to a .svg, .png or .pdf file")
@click.option("--table", "show", is_flag=True, help="only print what stands in the file")
@click.option("--method", "labels", multiple=True, type=click.Choice(list(METHODS)), help="only this one, repeatable")
@click.option("--timeout", default=10.0, show_default=True, help="seconds for each question")
def main(file: Path, picture: Path | None, show: bool, labels: tuple[str, ...], timeout: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = {row.key: row for row in (Row(**json.loads(line)) for line in lines)}
    for row in () if show else work(found, installed(labels or tuple(METHODS)), timeout):
        found[row.key] = row
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(row)) + "\n")
        print(f"{row.method:11s} {row.inputs} inputs 2x{row.width:<3d} seed {row.seed} {row.kind:9s}"
              f"{row.verdict:9s}{row.wall_s:6.2f} s  {row.nodes} {METHODS[row.method].nodes}", flush=True)  # fmt: skip
    rows = list(found.values())
    print(table(rows))
    if picture is not None:
        plot(rows, picture)
    bad = wrong(rows)
    print("\n".join(bad or [f"\n{len(rows)} answers, no two of which contradict each other"]))
    sys.exit(3 if bad else 0)


if __name__ == "__main__":
    main()

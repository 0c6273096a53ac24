"""Certified radii of every method on digits test images, and their margins at one fixed radius.

`python -m benchmarks.radii --out FILE` appends one row per (network, norm, method, image) to a CSV file as it goes, and
skips what is there already; `--at RADIUS` asks at that radius instead of searching for the largest.
`python -m benchmarks.radii --table FILE...` prints the tables. Images are the first of the digits test split, inputs
stay in [0, 1]. Seconds are CPU time of the process, one thread. A misread image has the radius 0 and is asked nothing.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from benchmarks.zoo.samples import digits
from verifkit.budget import Budget
from verifkit.input_sets import Norm, rational
from verifkit.io.onnx import load_model
from verifkit.model import Model
from verifkit.query import QueryFamily, robustness_family
from verifkit.radius import TOLERANCE, shorten
from verifkit.registry import create
from verifkit.result import Reason, Verdict
from verifkit.verifier import Verifier

ZOO = Path(__file__).resolve().parent / "zoo"
NETWORKS = ("digits-2x50", "digits-conv-small", "digits-3x100")
NORMS: tuple[Norm, ...] = ("inf", "2", "1")
ATTACK, EXACT = "fmn", "milp"
METHODS = (ATTACK, "interval", "crown_ibp", "fastlin", "dual", "crown", "zonotope", "fastlip", "fastlip(shells=30)",
           "ai2", "alpha_crown", "lp", EXACT)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One answer. radius: the one asked about, or None where the largest was sought.

    status: "closed" or "open" (the method's own bracket), "timeout", "misread"; at a radius the verdict.
    certified, falsified: ends of the bracket. margin: of the worst disjunct, at a radius.
    """

    network: str
    norm: str
    method: str
    image: int
    radius: float | None
    status: str
    certified: float | None = None
    falsified: float | None = None
    margin: float | None = None
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, str, int, float | None]:
        return self.network, self.norm, self.method, self.image, self.radius


def read(paths: Iterable[Path]) -> list[Row]:
    """The rows of the files that exist, the last for each key."""
    found = {}
    for path in filter(Path.exists, paths):
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                numbers = {n: float(line[n]) if line[n] else None
                           for n in ("radius", "certified", "falsified", "margin")}  # fmt: skip
                row = Row(line["network"], line["norm"], line["method"], int(line["image"]), status=line["status"],
                          seconds=float(line["seconds"]), **numbers)  # fmt: skip
                found[row.key] = row
    return list(found.values())


def made(method: str) -> Verifier:
    """The verifier that "name" or "name(option=value, ...)" describes."""
    name, _, text = method.removesuffix(")").partition("(")
    return create(name, dict(part.strip().split("=") for part in text.split(",") if part))


def search(verifier: Verifier, family: QueryFamily, budget: Budget) -> dict[str, str | float | None]:
    """The method's own bracket, with no attack beside it."""
    wall = time.perf_counter()
    found = verifier.radius(family, budget=budget, attack=False)
    wall = time.perf_counter() - wall
    late = any(why is Reason.TIMEOUT for _, why in found.undecided) or wall > 0.99 * (budget.seconds or math.inf)
    closed = found.closed(TOLERANCE)
    return {
        "status": "closed" if closed else "timeout" if late else "open",
        "certified": None if found.certified is None else found.certified.value,
        "falsified": None if found.falsified is None else found.falsified.value,
    }


def ask(verifier: Verifier, family: QueryFamily, radius: float, budget: Budget) -> dict[str, str | float | None]:
    """The verdict and the margin at one radius."""
    result = verifier.verify(family.at(rational(radius)), budget=budget)
    status = result.verdict if result.verdict is not Verdict.UNKNOWN else result.reason
    margin = result.statistics.get("margin")
    return {"status": str(status).lower(), "margin": float(margin) if isinstance(margin, (int, float)) else None}


def work(options: argparse.Namespace, done: set[tuple[str, str, str, int, float | None]]) -> Iterator[Row]:
    """Asks what is not done yet; norms first, then networks, then images."""
    data = digits()
    x, y = data.x[data.test], data.y[data.test]
    first, last = options.images
    models: dict[str, Model] = {name: load_model(ZOO / f"{name}.onnx") for name in options.networks}
    verifiers, budget = {name: made(name) for name in options.methods}, Budget(seconds=options.timeout)
    for norm in options.norms:
        for network, model in models.items():
            for image in range(first, last):
                label = int(y[image])
                family: QueryFamily | None = None
                misread = int(np.argmax(model(x[image : image + 1]))) != label
                for method, verifier in verifiers.items():
                    key = (network, norm, method, image, options.at)
                    if key in done or norm not in verifier.capabilities.kinds:
                        continue
                    if misread:
                        yield Row(*key, status="misread", certified=0.0, falsified=0.0)
                        continue
                    family = family or robustness_family(model, x[image], label, norm, (0, 1))
                    started = time.process_time()
                    found = (search(verifier, family, budget) if options.at is None
                             else ask(verifier, family, options.at, budget))  # fmt: skip
                    yield Row(*key, **found, seconds=time.process_time() - started)  # type: ignore[arg-type]


def run(options: argparse.Namespace) -> None:
    """Appends the rows that the file lacks."""
    done = {row.key for row in read([options.out])}
    fresh = not options.out.exists()
    with options.out.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        if fresh:
            writer.writeheader()
        for row in work(options, done):
            writer.writerow(asdict(row))
            file.flush()


def share(rows: Iterable[Row], ends: dict[int, float]) -> str:
    """Mean certified over mean end of the images that have one, and of how many."""
    pairs = [(row.certified or 0.0, ends[row.image]) for row in rows if row.image in ends]
    if not pairs:
        return "–"
    return f"{sum(c for c, _ in pairs) / sum(e for _, e in pairs):.3f} ({len(pairs)})"


def searched(rows: list[Row]) -> Iterator[tuple[str, ...]]:
    """The table of one network and norm: a line for each method."""
    yield "method", "mean certified", "of exact (images)", "of attack (images)", "seconds", "time-outs", "images"
    right = [row for row in rows if row.status != "misread"]
    exact = {r.image: r.falsified for r in right if r.method == EXACT and r.status == "closed" and r.falsified}
    attack = {r.image: r.falsified for r in right if r.method == ATTACK and r.falsified}
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        asked = [row for row in own if row.status != "misread"]
        ends = [row.falsified if method == ATTACK else row.certified for row in own]
        shown = shorten(mean(e or 0.0 for e in ends), up=method == ATTACK)
        yield (
            f"`{method}`" + (" (falsified)" if method == ATTACK else ""),
            shown,
            share(asked, exact) if method != ATTACK else f"{_looser(exact, attack)}",
            share(asked, attack) if method != ATTACK else "–",
            f"{mean(row.seconds for row in asked):.3g}" if asked else "–",
            str(sum(row.status == "timeout" for row in asked)),
            str(len(own)),
        )


def _looser(exact: dict[int, float], attack: dict[int, float]) -> str:
    both = exact.keys() & attack.keys()
    return f"{sum(attack[k] for k in both) / sum(exact[k] for k in both):.3f} ({len(both)})" if both else "–"


def asked_at(rows: list[Row]) -> Iterator[tuple[str, ...]]:
    """The table of one network, norm and radius."""
    yield "method", "holds", "violated", "mean margin", "least margin", "seconds", "time-outs", "images read right"
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method and row.status != "misread"]
        margins = [row.margin for row in own if row.margin is not None]
        yield (
            f"`{method}`",
            str(sum(row.status == "holds" for row in own)),
            str(sum(row.status == "violated" for row in own)),
            f"{mean(margins):.4f} ({len(margins)})" if margins else "–",
            f"{min(margins):.4f}" if margins else "–",
            f"{mean(row.seconds for row in own):.3g}",
            str(sum(row.status == "timeout" for row in own)),
            str(len(own)),
        )


def unsound(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Pairs of a radius certified and a smaller one falsified, whoever found them."""
    found: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        if row.status != "misread":
            found.setdefault((row.network, row.norm, row.image), []).append(row)
    return [
        (one, other)
        for group in found.values()
        for one in group
        for other in group
        if one.certified is not None and other.falsified is not None and one.certified >= other.falsified
    ]


def _place(known: Sequence[str], name: str) -> int:
    return known.index(name) if name in known else len(known)


def tables(paths: list[Path]) -> None:
    """Every table in Markdown, and the check that no certified radius lies above a falsified one."""
    rows = read(paths)
    groups: dict[tuple[str, str, float | None], list[Row]] = {}
    for row in sorted(rows, key=lambda r: (_place(NORMS, r.norm), _place(NETWORKS, r.network), r.image)):
        groups.setdefault((row.norm, row.network, row.radius), []).append(row)
    for (norm, network, radius), group in groups.items():
        group.sort(key=lambda r: (_place(METHODS, r.method.partition("(")[0]), r.method))
        misread = len({row.image for row in group if row.status == "misread"})
        asked = f" at {radius}" if radius is not None else ""
        print(f"\n`{network}`, {'l-' if norm == 'inf' else 'l'}{norm}{asked}; {misread} misread\n")
        lines = list(searched(group) if radius is None else asked_at(group))
        shown = [k for k in range(len(lines[0])) if any(line[k] != "–" for line in lines[1:])]
        for place, cells in enumerate(lines):
            print(f"| {' | '.join(cells[k] for k in shown)} |")
            if place == 0:
                print(f"|{' --- |' * len(shown)}")
    bad = unsound(rows)
    count = sum(row.certified is not None and row.status != "misread" for row in rows)
    print(f"\n{count} certified radii, {len(bad)} of them at or above a falsified one")
    for pair in bad:
        print(*pair)


def main() -> None:
    """Runs or prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the CSV file to append to")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="print the tables of these files")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--norms", nargs="+", choices=NORMS, default=NORMS)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="names, with options as in fastlip(shells=30)")
    parser.add_argument("--images", type=int, nargs=2, default=(0, 100), metavar=("FIRST", "END"))
    parser.add_argument("--timeout", type=float, default=5.0, help="wall seconds for an image and method")
    parser.add_argument("--at", type=float, metavar="RADIUS", help="ask at this radius instead of searching")
    options = parser.parse_args()
    if (options.out is None) == (options.table is None):
        sys.exit("give either --out or --table")
    if options.table:
        tables(options.table)
    else:
        run(options)


if __name__ == "__main__":
    main()

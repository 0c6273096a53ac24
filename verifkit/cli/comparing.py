"""The commands about whole result folders: `export`, `merge`, `compare`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from verifkit.cli.output import UNDECIDED, VIOLATION, parse_options, print_out, say

if TYPE_CHECKING:
    from verifkit.bench.rows.comparison import Change, Comparison
    from verifkit.bench.rows.speed import Speed

LISTED = 20
"""Changes of one kind that the text shows; the JSON object has them all."""


@click.command()
@click.argument("folder", type=click.Path(), metavar="DIR")
@click.option(
    "--vnncomp", metavar="VERIFIER", help="In place of that: DIR/vnncomp/VERIFIER, as the competition has it."
)
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Tells VERIFIER from its namesakes.")
@click.option("--year", default="", metavar="YYYY", help="In front of the category in the folders of counterexamples.")
def export(folder: str, vnncomp: str | None, options: tuple[str, ...], year: str) -> None:
    """Write DIR/rows.parquet and DIR/rows.csv again from DIR/rows.jsonl."""
    if vnncomp is None:
        if options or year:
            raise click.UsageError("--option and --year go with --vnncomp VERIFIER")
        from verifkit.bench.rows.tables import write_tables

        for path in write_tables(Path(folder)):
            print_out(str(path))
        return
    from verifkit.bench.rows.vnncomp import export_vnncomp

    done = export_vnncomp(Path(folder), vnncomp, parse_options(options), year)
    if done.left_out:
        say(f"{done.left_out} rows are about no VNN-LIB file and have no place in it")
    print_out(f"{done.table}")


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(), metavar="DIR...")
@click.option("--out", required=True, type=click.Path(), metavar="NEW", help="The new result folder.")
@click.option("--first", is_flag=True, help="Of two answers to one question keep that of the folder named first.")
def merge(folders: tuple[str, ...], out: str, first: bool) -> None:
    """Make one result folder of several, which stay as they are."""
    from verifkit.bench.rows.merging import merge_folders

    done = merge_folders([Path(folder) for folder in folders], Path(out), first=first)
    print_out(f"{done.rows} rows in {out}; {done.same} more were there twice with the same answer")
    if done.other:
        print_out(f"{done.other} other answers were left out for those of folders named before")
    if done.missing:
        print_out(f"{done.missing} rows had evidence that is not there any more")
    if done.contradictions:
        print_out(f"{done.contradictions} answers contradict another one to the same question; all of them are kept")


@click.command()
@click.argument("a", type=click.Path(), metavar="A")
@click.argument("b", type=click.Path(), metavar="B")
@click.option("--tolerance", type=click.FloatRange(min=0, max=1), default=1e-3, show_default=True, metavar="T",
              help="Radii closer than T times the larger one are equal.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object and nothing else.")
def compare(a: str, b: str, tolerance: float, seed: int, as_json: bool) -> None:
    """Compare result folder B with A: verdicts and radii lost and gained, contradictions, times, memory."""
    from verifkit.bench.rows.comparison import compare_folders

    found = compare_folders(Path(a), Path(b), tolerance=tolerance, seed=seed)
    print_out(json.dumps(dataclasses.asdict(found), allow_nan=False) if as_json else to_text(found))
    if found.contradicted:
        say("soundness violation: the two folders have answers that contradict each other")
        sys.exit(VIOLATION)
    if found.regressed:
        sys.exit(UNDECIDED)


def to_text(found: Comparison) -> str:
    """Plain lines: a summary, what changed, a table of ratios, caveats."""
    lines = [
        f"{found.pairs} pairs of rows, {found.same} with the same answer; {len(found.only_a)} rows only in A, "
        f"{len(found.only_b)} only in B"
    ]
    kinds = (
        ("CONTRADICTED", found.contradicted),
        ("definite verdict lost", found.lost),
        ("definite verdict gained", found.gained),
        ("other verdict, not excluded", found.otherwise),
        ("certified radius smaller", found.smaller),
        ("certified radius larger", found.larger),
        ("falsified radius nearer", found.nearer),
        ("falsified radius farther", found.farther),
        ("only in A", found.only_a),
        ("only in B", found.only_b),
    )
    for title, changes in kinds:
        lines += _section(title, changes)
    lines += ["", "speed: A's time over B's, above 1 where B is faster; geometric mean and 95 % bootstrap interval"]
    lines += _table([_cells(speed) for speed in found.speeds])
    left_out = [f"left out of {s.verifier}: {n} pairs, {why}" for s in found.speeds for why, n in s.left_out.items()]
    lines += [line for line in left_out if not line.startswith("left out of all:") or len(found.speeds) == 1]
    if found.caveats:
        lines += ["", *(f"caveat: {text}" for text in found.caveats)]
    return "\n".join(lines)


def _section(title: str, changes: list[Change]) -> list[str]:
    if not changes:
        return []
    shown = [f"  {c.verifier}  {c.model}  {c.instance}: {c.before} -> {c.after}" for c in changes[:LISTED]]
    more = [f"  ... and {len(changes) - LISTED} more; --json has all"] if len(changes) > LISTED else []
    return ["", f"{title}: {len(changes)}", *shown, *more]


def _cells(speed: Speed) -> tuple[str, ...]:
    ratio = speed.speed
    middle = "-" if ratio is None else f"{ratio.ratio:.3f}"
    ends = "-" if ratio is None or ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
    memory = "-" if speed.memory is None else f"{speed.memory:.3f}"
    return speed.verifier, str(speed.pairs), str(speed.questions), middle, ends, memory


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    heads = ("verifier", "pairs", "questions", "speed", "interval", "memory B/A")
    widths = [max(len(row[k]) for row in (heads, *rows)) for k in range(len(heads))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in (heads, *rows)
    ]

"""Whole processes on public instances, beside what other tools took for the same ones.

    python -m benchmarks.peers --out results/peers.jsonl            # the rows of peers.csv, one after another
    python -m benchmarks.peers --out results/all.jsonl --all acasxu # every instance of a set, at its own limit
    python -m benchmarks.peers --out results/peers.jsonl --table    # the table in benchmarks/RESULTS.md

Each instance is `verifkit verify MODEL SPEC` with its defaults and nothing else running, ended at the limit. Rows that
stand in FILE are not run again. PAR-2 counts an undecided instance as twice the limit. The instances are looked for in
$VERIFKIT_VNNCOMP, else in ../shared/vnncomp.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import click

ROOT = Path(os.environ.get("VERIFKIT_VNNCOMP") or Path(__file__).resolve().parents[2] / "shared" / "vnncomp")
LIMIT = 60.0
SPARE = 20.0
"""Seconds after which a process that did not keep its limit is killed."""

DECIDED = ("sat", "unsat")
Key = tuple[str, str, str]


def read(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((ROOT / name).read_text(encoding="utf-8").splitlines()))


def stored(path: Path) -> Path:
    return path if path.exists() else path.with_name(path.name + ".gz")


def run(key: Key, limit: float, verifier: str | None) -> dict[str, object]:
    """One process: its word, wall and CPU seconds, and what it said on stdout."""
    folder, network, spec = key
    command = [sys.executable, "-m", "verifkit.cli", "verify", str(stored(ROOT / folder / network))]
    command += [str(stored(ROOT / folder / spec)), "--timeout", str(limit), "--json"]
    command += [] if verifier is None else ["--verifier", verifier]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit + SPARE, check=False)
        said, errors = done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        said, errors = "", "killed"
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answer = json.loads(said) if said.strip() else {"word": "error", "detail": errors[-300:]}
    kept = {name: answer.get(name) for name in ("word", "reason", "detail", "statistics")}
    return {"benchmark": folder, "onnx": network, "vnnlib": spec, "wall_s": wall, "cpu_s": cpu, "limit": limit, **kept}


def key_of(row: dict[str, str]) -> Key:
    return row["benchmark"], row["onnx"], row["vnnlib"]


def wanted(sets: Iterable[str]) -> list[tuple[Key, float]]:
    """The rows of peers.csv at 60 s, or every instance of the sets at its own limit."""
    if not sets:
        rows = dict.fromkeys(key_of(row) for row in read("peers.csv"))
        return [(key, LIMIT) for key in rows]
    return [(key_of(row), float(row["timeout"])) for row in read("expected.csv") if row["benchmark"] in sets]


def par2(seconds: list[tuple[str, float]], limit: float = LIMIT) -> float:
    return sum(wall if word in DECIDED else 2 * limit for word, wall in seconds) / len(seconds)


def table(found: dict[Key, dict[str, object]]) -> str:
    """PAR-2 and instances decided, tool by tool, on the rows that each peer was run on."""
    peers = read("peers.csv")
    groups = dict.fromkeys((row["tool"], row["benchmark"]) for row in peers)
    lines = [
        "| rows | peer | its PAR-2, decided | verifkit's PAR-2, decided | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for tool, folder in groups:
        rows = [row for row in peers if (row["tool"], row["benchmark"]) == (tool, folder)]
        ours = [found.get(key_of(row)) for row in rows]
        if None in ours:
            continue
        theirs = [(row["verdict"], float(row["wall_s"])) for row in rows]
        mine = [(str(f["word"]), float(str(f["wall_s"]))) for f in ours if f is not None]
        a, b = par2(theirs), par2(mine)
        count = [sum(word in DECIDED for word, _ in each) for each in (theirs, mine)]
        lines.append(f"| {folder}, {len(rows)} | {tool} | {a:.1f}, {count[0]} | {b:.2f}, {count[1]} | {b / a:.2f} |")
    return "\n".join(lines)


def against(found: dict[Key, dict[str, object]]) -> str:
    """For every set with rows in the file: how many are decided, verdicts against a firm line, what is open."""
    expected = {key_of(row): row for row in read("expected.csv")}
    lines = []
    for folder in dict.fromkeys(key[0] for key in found):
        mine = {key: f for key, f in found.items() if key[0] == folder}
        decided = sum(f["word"] in DECIDED for f in mine.values())
        walls = [float(str(f["wall_s"])) for f in mine.values()]
        lines.append(f"{folder}: {decided} of {len(mine)} decided, {sum(walls) / len(walls):.2f} s in the mean")
        for key, f in mine.items():
            row = expected.get(key)
            if f["word"] in DECIDED and row and row["expected"] not in (f["word"], "unknown"):
                lines.append(f"  AGAINST {row['firmness']} {row['expected']}: {key[1]} {key[2]} {f['word']}")
            if f["word"] not in DECIDED:
                lines.append(f"  open: {key[1]} {key[2]}: {f['reason']}, {f['detail']} ({row and row['expected']})")
    return "\n".join(lines)


@click.command()
@click.option("--out", "file", type=click.Path(path_type=Path), required=True)
@click.option("--all", "sets", multiple=True, metavar="SET", help="every instance of a set, repeatable")
@click.option("--only", default="", help="only instances whose names contain this")
@click.option("--timeout", type=float, help="another limit for each")
@click.option("--verifier", help="another verifier than the default")
@click.option("--table", "show", is_flag=True, help="only print what stands in the file")
def main(file: Path, sets: tuple[str, ...], only: str, timeout: float | None, verifier: str | None, show: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    found = {key_of(row): row for row in rows}
    for key, limit in [] if show else wanted(sets):
        if key in found or only not in " ".join(key):
            continue
        found[key] = run(key, timeout or limit, verifier)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(found[key]) + "\n")
        print(f"{found[key]['word']:8s} {found[key]['wall_s']:7.2f} s  {' '.join(key)}", flush=True)
    print(table(found))
    print(against(found))


if __name__ == "__main__":
    main()

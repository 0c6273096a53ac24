"""The summary of a run as text: boxed tables on a terminal, plain aligned lines elsewhere, nothing truncated."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Sequence

import pandas as pd

from verifkit.bench.audit.attacks import BEYOND
from verifkit.bench.audit.contradictions import NORM_NAMES
from verifkit.bench.audit.review import Review, review
from verifkit.bench.report.scores import REASONS, radius_table, verdict_table
from verifkit.bench.rows.frame import SMOOTHED, Row, records
from verifkit.bench.suites.overview import plural
from verifkit.radius import shorten

Table = tuple[list[str], list[list[str]]]
ABSENT = "–"
LISTED = 20
"""Findings in the summary at most; violations stand first."""
_KINDS = ("complete", "incomplete", "falsifier", "probabilistic")
SUBJECT_NOTE = (
    f"Answers about the network and about the {SMOOTHED} are different statements: do not rank them together."
)

SMOOTHED_NOTE = (
    "Each verifier, and each choice of its noise, smooths the network in its own way: these are different functions."
)


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits; a dash for what is absent."""
    if math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text else text


def radius_text(value: float, *, up: bool = False) -> str:
    """Three significant digits, rounded so that no more is said than was shown: down, or `up` for a falsified one."""
    return shorten(value, up=up) if math.isfinite(value) else number(value)


def bracket_text(low: float, high: float) -> str:
    """A closed or open bracket of radii; digits that both ends share are said once: "0.0829–31" is 0.0829 to 0.0831."""
    if math.isnan(low) and math.isnan(high):
        return ABSENT
    if math.isnan(high):
        return f"≥ {radius_text(low)}"
    if math.isnan(low):
        return f"< {radius_text(high, up=True)}"
    a, b = radius_text(low), radius_text(high, up=True)
    if a == b:
        return a
    short = "." in a and len(a) == len(b) and a[:-2] == b[:-2] and b[-2:].isdigit()
    return f"{a}–{b[-2:] if short else b}"


def seconds(value: float) -> str:
    """Seconds with their unit, or minutes and hours where seconds are hard to read."""
    if math.isnan(value):
        return ABSENT
    if value < 120:
        return f"{number(value)} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(value: float) -> str:
    """A share in [0, 1] as a percentage with one decimal."""
    return ABSENT if math.isnan(value) else f"{100 * value:.1f}%"


def norm_name(norm: str) -> str:
    return NORM_NAMES.get(norm, norm or "any set")


def terminal_table(df: pd.DataFrame) -> Table:
    """Column names and rows: the verdict counts; reasons of UNKNOWN that never occur get no column."""
    lines = sorted(records(verdict_table(df)), key=lambda line: (line["question"], *_by_kind(line), line["verifier"]))
    reasons = [r for r in (*REASONS, "other") if any(line[r] for line in lines)]
    columns = ["verifier", "question", "about", "kind", "rows", "HOLDS", "VIOLATED", *reasons, "decided", "median time"]
    rows = [
        [
            *(str(line[c]) for c in ("verifier", "question", "subject", "kind", "rows", "HOLDS", "VIOLATED", *reasons)),
            # A radius is no yes or no: how far the brackets reach is the other table.
            percent(line["decided_percent"] / 100 if line["question"] == "verify" else math.nan),
            seconds(line["median_seconds"]),
        ]
        for line in lines
    ]
    return columns, rows


def terminal_radii(df: pd.DataFrame) -> Table:
    """Column names and rows: median radii per model, norm and verifier; no rows where no radius was asked for."""
    names = {"model": "model", "verifier": "verifier", "subject": "about", "kind": "kind"}
    lines = sorted(records(radius_table(df)), key=_loose_to_tight)
    cut = any(line["cut_short"] for line in lines)
    columns = [
        "norm",
        *names.values(),
        "rows",
        *["cut short"] * cut,
        "median certified",
        "median falsified",
        "tightness (of)",
        "median time",
    ]
    rows = [
        [
            norm_name(line["norm"]),
            *(str(line[c]) for c in (*names, "rows", *["cut_short"] * cut)),
            radius_text(line["median_certified"]),
            radius_text(line["median_falsified"], up=True),
            radius_text(line["tightness"]) + (f" ({line['with_exact']})" if line["with_exact"] else ""),
            seconds(line["median_seconds"]),
        ]
        for line in lines
    ]
    return columns, rows


def _by_kind(line: Row) -> tuple[bool, int]:
    """Order by subject, the network first, and by kind."""
    return line["subject"] == SMOOTHED, _KINDS.index(line["kind"]) if line["kind"] in _KINDS else len(_KINDS)


def _loose_to_tight(line: Row) -> tuple[object, ...]:
    """Order of the radii: within a model, norm and kind by the median, complete methods by name."""
    median = line["median_certified"]
    known = line["kind"] != "complete" and not math.isnan(median)
    return line["model"], line["norm"], *_by_kind(line), median if known else 0.0, line["verifier"]


def verdict_sentence(df: pd.DataFrame) -> list[str]:
    """What a reader must know first: the contradictions, or that there is none, and what was checked."""
    audit = review(df)
    violations = len(audit.violations)
    said = [f"{c.kind}: {c.sentence}" for c in audit.findings[:LISTED]]
    if len(audit.findings) > LISTED:
        said.append(f"and {len(audit.findings) - LISTED} more: see the report")
    if violations:
        first = f"{violations} SOUNDNESS VIOLATION{'S' if violations > 1 else ''} among {plural(len(df), 'row')}"
    elif said:
        first = f"no soundness violation among {plural(len(df), 'row')}; to look at:"
    else:
        seen = audit.coverage
        first = (
            f"no contradiction among {plural(seen.rows, 'row')} ({plural(seen.shared, 'question')} answered by several "
            f"verifiers, {plural(seen.expected, 'answer')} compared with an expected verdict)"
        )
    said += [f"{name}: {words}" for name, words in checks(audit)]
    return [first, *said, *([f"tables: {left_out(df)}"] if left_out(df) else [])]


def smoothed_ones(df: pd.DataFrame) -> int:
    """How many verifiers, or choices of their options, smooth the network: so many functions stand side by side."""
    return len(set(df["method"][df["subject"] == SMOOTHED]))


def left_out(df: pd.DataFrame) -> str:
    """What the tables leave out of the rows in words, "" where nothing."""
    count = int(df["superseded"].sum())
    why = "the same question asked again, of which the row with the largest limits counts"
    return f"{plural(count, 'row')} left out: {why}" if count else ""


def checks(audit: Review) -> list[tuple[str, str]]:
    """What an audit did besides comparing answers, each in a line: its name, and the result."""
    return [
        ("attacks", _attacks(audit)),
        ("order laws", _laws(audit)),
        ("counterexamples", _counterexamples(audit)),
    ]


def _attacks(audit: Review) -> str:
    inside, outside = audit.inside, audit.outside
    said = f"{inside.succeeded or 'none'} of {inside.asked} succeeded inside certified radii"
    said = said if inside.asked else "none inside certified radii"
    said += f", {inside.undone} did not end" if inside.undone else ""
    if outside.asked:
        said += f"; {outside.succeeded} of {outside.asked} at {BEYOND} x exact radii (tells how strong the attack is)"
    claims = sum(part.claims for part in audit.unattacked)
    return said + (f"; {plural(claims, 'answer')} HOLDS not attacked" if claims else "")


def _laws(audit: Review) -> str:
    checked, broken = sum(law.checked for law in audit.laws), sum(law.broken for law in audit.laws)
    return (
        f"{broken or 'none'} of {plural(checked, 'comparison')} between methods broken"
        if checked
        else "nothing to compare"
    )


def _counterexamples(audit: Review) -> str:
    counts = audit.witness_counts
    strict, tolerated, invalid = (sum(getattr(c, name) for c in counts) for name in ("strict", "tolerated", "invalid"))
    if not tolerated and not invalid:
        return f"all {strict} replayed in the set as written" if strict else "none"
    return f"{strict} replayed in the set as written, {tolerated} only within 1e-4 of it, {invalid} invalid"


def render(df: pd.DataFrame, *, console_is_terminal: bool, width: int | None = None) -> str:
    """The whole summary, ending in a newline. `width`: of the terminal, None to ask it; plain text has no width."""
    lines = verdict_sentence(df)
    if len(set(df["subject"])) > 1:
        lines.append(SUBJECT_NOTE)
    if smoothed_ones(df) > 1:
        lines.append(SMOOTHED_NOTE)
    if console_is_terminal:
        return _boxed(lines, _sections(df), width or shutil.get_terminal_size().columns)
    tables = [_plain(*table) for table in (terminal_table(df), terminal_radii(df)) if table[1]]
    return "\n\n".join(["\n".join(lines), *tables]) + "\n"


def _sections(df: pd.DataFrame) -> list[tuple[str, Table]]:
    """The two tables cut into titled ones that say each subject once and fit a terminal."""
    columns, rows = terminal_table(df)
    first, last = columns.index("VIOLATED") + 1, columns.index("decided")
    reasons = columns[first:last]
    merged: list[list[str]] = []
    for row in rows:
        unknown = "\n".join(f"{n} {r}" for n, r in zip(row[first:last], reasons, strict=True) if n != "0")
        merged.append([*row[:first], unknown or "0", *row[last:]])
    short = [*columns[:first], "UNKNOWN", *columns[last:]]
    titles = {"verify": "Does the property hold?", "radius": "How far does it hold?"}
    sections = [
        (f"{titles.get(question, question)} About the {subject}", table)
        for (question, subject), table in _cut((short, merged), ("question", "about"))
    ]
    radii = _cut(terminal_radii(df), ("norm", "model", "about"))
    return sections + [
        (f"{norm} radius, {model}, about the {subject}", table) for (norm, model, subject), table in radii
    ]


def _cut(table: Table, keys: tuple[str, ...]) -> list[tuple[tuple[str, ...], Table]]:
    """One table for each value of the columns `keys`, in the order of the rows, without those columns."""
    columns, rows = table
    places = [columns.index(k) for k in keys]
    kept = [i for i in range(len(columns)) if i not in places]
    parts: dict[tuple[str, ...], list[list[str]]] = {}
    for row in rows:
        parts.setdefault(tuple(row[i] for i in places), []).append([row[i] for i in kept])
    return [(values, ([columns[i] for i in kept], part)) for values, part in parts.items()]


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns two spaces apart, whatever their width."""
    cells = [list(map(_one_line, line)) for line in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _boxed(lines: Sequence[str], sections: Sequence[tuple[str, Table]], width: int) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    file = io.StringIO()
    needed = max((_narrowest(table) for _, table in sections), default=0)
    console = Console(file=file, force_terminal=True, width=max(width, needed))
    alarm = "bold red" if "VIOLATION" in lines[0] else ""
    console.print(Text(lines[0], style=alarm), *map(Text, lines[1:]), sep="\n")
    for title, (columns, rows) in sections:
        console.print()
        console.print(Text(title, style="bold"))
        grid = Grid(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        for column in columns:
            left = column in ("verifier", "kind", "UNKNOWN")
            heading = Text(column.replace(" ", "\n"))
            grid.add_column(heading, overflow="fold", no_wrap=column != "verifier", justify="left" if left else "right")
        for row in rows:
            grid.add_row(*map(Text, row))
        console.print(grid)
    return file.getvalue()


def _narrowest(table: Table) -> int:
    """The least width that cuts no cell: names of verifiers fold at 12 characters, other cells do not fold."""
    columns, rows = table
    width = 0
    for column, *cells in zip(columns, *rows, strict=True):
        lines = [*column.split(), *(line for cell in cells for line in cell.split("\n"))]
        longest = max(map(len, lines))
        width += 2 + (min(longest, 12) if column == "verifier" else longest)
    return width

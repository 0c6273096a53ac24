"""The tables that a paper needs - verdicts, radii, certified accuracy - as LaTeX (booktabs) or Markdown.

Subjects stand under headings of their own and the best is marked among the certificates about the network only.
Captions say the denominators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from verifkit.bench.report.scores import REASONS, REFUSED, certified_accuracy, radius_table, verdict_table
from verifkit.bench.report.sections import by_subject
from verifkit.bench.report.terminal import ABSENT, norm_name, number, radius_text, verdict_sentence
from verifkit.bench.rows.frame import NETWORK, grouped, records
from verifkit.bench.suites.overview import plural

Row = dict[str, Any]
CUT = "Cut short: inputs whose search lost a radius to the limit of time or memory. "
QUESTIONS = {"verify": "Does the property hold?", "radius": "How far does it hold?"}


@dataclass(frozen=True)
class Cell:
    """Text of a table; best: marked bold."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """label: for references. columns: two of text, the others of numbers. groups: heading -> lines."""

    label: str
    title: str
    caption: str
    columns: tuple[str, ...]
    groups: Mapping[str, Sequence[Sequence[Cell]]]


def paper_tables(df: pd.DataFrame) -> list[Table]:
    """Verdicts by question, radii and certified accuracy by norm and model; nothing where nothing was asked."""
    tables = [_verdicts(question, lines) for question, lines in _by(records(verdict_table(df)), "question").items()]
    radii = by_subject(records(radius_table(df)), "norm", "model")
    accuracy = by_subject(records(certified_accuracy(df)), "norm", "model")
    return tables[::-1] + [_radii(section) for section in radii] + [_accuracy(section) for section in accuracy]


def render(df: pd.DataFrame, form: str) -> str:
    """All tables; `form`: "latex" or "markdown". First what is to be known of soundness."""
    write = {"latex": _latex, "markdown": _markdown}[form]
    first, *rest = verdict_sentence(df)
    said = (
        [f"% {' '.join(line.split())}" for line in (first, *rest)]
        if form == "latex"
        else [f"**{_plain(first)}**", *map(_plain, rest)]
    )
    opening = ("\n" if form == "latex" else "\n\n").join(said)
    return "\n\n".join([opening, *(write(table) for table in paper_tables(df))])


def _by(lines: Sequence[Row], column: str) -> dict[str, list[Row]]:
    return {value: own for (value,), own in grouped(lines, column).items()}


def _verdicts(question: str, lines: Sequence[Row]) -> Table:
    reasons = [r for r in (*REASONS, "other") if any(line[r] for line in lines)]
    columns = ("verifier", "kind", "rows", "HOLDS", "VIOLATED", *reasons, "median s", "total s")
    groups = {
        _about(subject): [
            [
                *(Cell(str(line[c])) for c in columns[:-2]),
                Cell(number(line["median_seconds"])),
                Cell(number(line["total_seconds"])),
            ]
            for line in own
        ]
        for subject, own in _by(lines, "subject").items()
    }
    meaning = (
        "HOLDS: some radius above 0 was certified; VIOLATED: the input itself is misclassified. "
        if question == "radius"
        else ""
    )
    caption = (
        f"{meaning}Every row counts, each reason of an undecided one under its own "
        "name. Seconds are the verifier's own, without loading."
    )
    return Table(
        f"verdicts-{question}", QUESTIONS.get(question, question or "Question not stated"), caption, columns, groups
    )


def _radii(section: Row) -> Table:
    norm, model = norm_name(section["norm"]), section["model"]
    cut = any(line["cut_short"] for lines in section["subjects"].values() for line in lines)
    counts = ("verifier", "kind", "inputs", "with radius", "wrong", *["cut short"] * cut)
    columns = (*counts, "median", "mean", "median falsified", "tightness")
    groups = {}
    for (subject,), lines in section["subjects"].items():
        ranked = lines if subject == NETWORK else []
        best = {c: _largest(line[c] for line in ranked) for c in ("median_certified", "mean_certified")}
        groups[_about(subject)] = [
            [
                *(Cell(str(line[c])) for c in ("verifier", "kind", "rows")),
                Cell(ABSENT if line["kind"] in ("falsifier", REFUSED) else str(line["with_radius"])),
                *(Cell(str(line[c])) for c in ("misclassified", *["cut_short"] * cut)),
                *(Cell(radius_text(line[c]), 0 < line[c] == best[c]) for c in best),
                Cell(radius_text(line["median_falsified"], up=True)),
                Cell(ABSENT if not line["with_exact"] else f"{_down(line['tightness'])} ({line['with_exact']})"),
            ]
            for line in lines
        ]
    caption = (
        "In raw input units. Median and mean certified radius over all "
        f"{_inputs(section)}: misclassified ones and those without a certificate count as 0. Median falsified radius: "
        "an input without one counts as unbounded. Tightness: mean of certified / exact over the inputs (their number "
        f"in brackets) whose exact radius a complete method closed in on. {CUT if cut else ''}"
        "Bold: the largest about the network."
    )
    return Table(f"radii-{model}-{section['norm']}", f"{norm} radii of {model}", caption, columns, groups)


def _accuracy(section: Row) -> Table:
    norm, model = norm_name(section["norm"]), section["model"]
    radii = sorted({line["radius"] for own in section["subjects"].values() for line in own})
    groups = {}
    for (subject,), lines in section["subjects"].items():
        ranked = lines if subject == NETWORK else []
        best = {r: _largest(line["accuracy"] for line in ranked if line["radius"] == r) for r in radii}
        table = []
        for verifier, own in _by(lines, "verifier").items():
            cells = {line["radius"]: line for line in own}
            table.append([Cell(verifier), Cell(own[0]["kind"]), *(_share(cells.get(r), best[r]) for r in radii)])
        groups[_about(subject)] = table
    caption = (
        f"By radius, in raw input units: the share of all {_inputs(section)} that "
        "are classified correctly and certified to at least the radius; abstentions, time-outs, errors and "
        "misclassified inputs stay in the denominator. ≤: the share that an attack left, an upper end. "
        "Bold: the highest about the network."
    )
    return Table(
        f"accuracy-{model}-{section['norm']}",
        f"Certified accuracy of {model}, {norm}",
        caption,
        ("verifier", "kind", *(number(r, 4) for r in radii)),
        groups,
    )


def _share(line: Row | None, best: float) -> Cell:
    """Two decimals; a share certified rounded down, what an attack left rounded up."""
    if line is None:
        return Cell(ABSENT)
    if math.isnan(line["accuracy"]):
        return Cell(f"≤ {math.ceil(line['upper'] * 100 - 1e-9) / 100:.2f}")
    return Cell(_down(line["accuracy"]), 0 < line["accuracy"] == best)


def _down(share: float) -> str:
    return f"{math.floor(share * 100 + 1e-9) / 100:.2f}"


def _inputs(section: Row) -> str:
    counts = sorted({line["rows"] for own in section["subjects"].values() for line in own})
    return plural(counts[0], "input") if len(counts) == 1 else f"inputs asked about ({counts[0]} to {counts[-1]})"


def _largest(values: Any) -> float:
    return max((v for v in values if not math.isnan(v)), default=math.nan)


def _about(subject: str) -> str:
    return f"About the {subject}"


LATEX = {
    "\\": r"\textbackslash{}",
    **{c: rf"\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "≤": r"$\leq$",
    "∞": r"$\infty$",
    "–": "--",
    "\n": " ",
    "\r": " ",
}
"""What a letter becomes; the rest stands as it is (UTF-8, as LaTeX reads it)."""


def _sentence(title: str) -> str:
    return title if title.endswith("?") else f"{title}."


def _tex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def _latex(table: Table) -> str:
    """A `table` with booktabs rules; a document that takes it needs `\\usepackage{booktabs}`."""
    width = len(table.columns)
    label = "".join(c if c.isascii() and c.isalnum() else "-" for c in table.label)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(_sentence(table.title))} {_tex(table.caption)}}}",
        rf"\label{{tab:{label}}}",
    ]
    lines += [rf"\begin{{tabular}}{{ll{'r' * (width - 2)}}}", r"\toprule", _tex_row(Cell(c) for c in table.columns)]
    for heading, rows in table.groups.items():
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{_tex(heading)}}}}} \\"]
        lines += [_tex_row(row) for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _tex_row(cells: Any) -> str:
    return " & ".join(rf"\textbf{{{_tex(c.text)}}}" if c.best else _tex(c.text) for c in cells) + r" \\"


def _markdown(table: Table) -> str:
    """One Markdown table for each subject, under its heading."""
    bars = ["---", "---", *["---:"] * (len(table.columns) - 2)]
    parts = [f"### {_plain(table.title)}", _plain(table.caption)]
    for heading, rows in table.groups.items():
        lines = [f"| {' | '.join(map(_plain, table.columns))} |", f"|{'|'.join(bars)}|"]
        lines += [
            f"| {' | '.join(f'**{_plain(c.text)}**' if c.best else _plain(c.text) for c in row)} |" for row in rows
        ]
        parts += [f"**{_plain(heading)}**", "\n".join(lines)]
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Text that Markdown takes as it stands, on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in text)

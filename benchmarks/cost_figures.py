"""What `benchmarks.complete_cost` found: a table, a plot, and the check that no two answers contradict each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from verifkit.result import Verdict

INPUTS = (3, 8)
WIDTHS = (2, 4, 6, 8, 10, 12, 16, 24, 32, 48)
SEEDS = (0, 1, 2)
KINDS = ("holds", "violated")

BAND = 4.0
"""Up to this many times the limit reaches the band of what was left open, in the plot of seconds."""


@dataclass(frozen=True)
class Method:
    """A verifier with options, and which of its statistics is drawn as its nodes. marker, line, colour: in the plot."""

    verifier: str
    options: Mapping[str, str]
    nodes: str
    marker: str
    line: str
    colour: str


METHODS = {
    "bab, input": Method("bab", {"branching": "input"}, "boxes", "o", "-", "#0b4f8a"),
    "bab, phase": Method("bab", {"branching": "phase"}, "splits", "s", "--", "#56a5dc"),
    "milp": Method("milp", {}, "nodes", "D", "-", "#1a1a1a"),
    "smt": Method("smt", {}, "conflicts", "^", "-.", "#c4500a"),
    "reluplex": Method("reluplex", {}, "splits", "v", ":", "#d99a1c"),
}

Key = tuple[str, int, int, int, str]


@dataclass(frozen=True)
class Row:
    """One answer. width: of both hidden layers. unstable: ReLUs that CROWN leaves undecided. kind: what was asked.

    nodes: 0 where the bounds alone decided, or a descent before the search; None where the method was ended before it
    told.
    """

    method: str
    inputs: int
    width: int
    seed: int
    kind: str
    unstable: int
    threshold: float
    verdict: str
    reason: str | None
    wall_s: float
    cpu_s: float
    limit: float
    nodes: int | None
    statistics: Mapping[str, float | int | str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.method, self.inputs, self.width, self.seed, self.kind

    @property
    def open(self) -> bool:
        return self.verdict == Verdict.UNKNOWN


def hopeless(rows: Sequence[Row]) -> bool:
    """Whether most questions of a size and kind are open, so that the median is known without the others."""
    return sum(row.open for row in rows) > len(SEEDS) // 2


def wrong(rows: Sequence[Row]) -> list[str]:
    """The questions on which two methods contradict each other, or one the point that is known."""
    said: dict[tuple[int, int, int, str], dict[str, list[str]]] = {}
    for row in rows:
        if not row.open:
            said.setdefault(row.key[1:], {}).setdefault(row.verdict, []).append(row.method)
    bad = []
    for (inputs, width, seed, kind), verdicts in said.items():
        if len(verdicts) > 1 or (kind == "violated" and Verdict.HOLDS in verdicts):
            bad.append(f"CONTRADICTION: {inputs} inputs, 2x{width}, seed {seed}, asked {kind}: {verdicts}")
    return bad


@dataclass(frozen=True)
class Point:
    """The medians of one method, size and kind. open: whether most questions were left undecided; then `seconds` is the
    limit, and `nodes` what was searched by then, where it is known."""

    unstable: float
    seconds: float
    nodes: float | None
    open: bool


def medians(rows: Sequence[Row], label: str, inputs: int, kind: str) -> dict[int, Point]:
    """By width. What was not asked because the median was known already counts as open."""
    points = {}
    for width in WIDTHS:
        size = [row for row in rows if (row.inputs, row.width) == (inputs, width)]
        mine = [row for row in size if (row.method, row.kind) == (label, kind)]
        if not mine:
            continue
        unstable = median({row.seed: row.unstable for row in size}.values())
        if hopeless(mine):
            told = [row.nodes for row in mine if row.open and row.nodes is not None]
            points[width] = Point(unstable, mine[0].limit, median(told) if told else None, True)
        else:
            seconds = [math.inf if row.open else row.wall_s for row in mine]
            nodes = [math.inf if row.open else row.nodes or 0 for row in mine]
            points[width] = Point(unstable, median(seconds), median(nodes), False)
    return points


def table(rows: Sequence[Row]) -> str:
    """Median seconds and nodes, a line for each size, in Markdown."""
    labels = [label for label in METHODS if any(row.method == label for row in rows)]
    lines = []
    for inputs, kind in product(INPUTS, KINDS):
        lines += [f"\n{inputs} inputs, asked a question that is to be {'proved' if kind == 'holds' else 'refuted'}\n"]
        lines += [f"| hidden | unstable | {' | '.join(f'`{label}`, {METHODS[label].nodes}' for label in labels)} |"]
        lines += ["| --- " * (len(labels) + 2) + "|"]
        each = {label: medians(rows, label, inputs, kind) for label in labels}
        for width in WIDTHS:
            known = [each[label][width] for label in labels if width in each[label]]
            if known:
                cells = [_cell(each[label].get(width)) for label in labels]
                lines += [f"| 2 x {width} | {known[0].unstable:g} | {' | '.join(cells)} |"]
    return "\n".join(lines)


def _cell(point: Point | None) -> str:
    if point is None:
        return "–"
    if point.open:
        return f"> {point.seconds:g} s" + ("" if point.nodes is None else f", > {point.nodes:.0f}")
    return f"{point.seconds:.2g} s, {point.nodes:.0f}"


def plot(rows: Sequence[Row], file: Path) -> None:
    """Medians over the questions to be proved: a row of panels for each number of inputs, seconds left, nodes right.

    A method's line ends in a hollow marker where most questions of a size were left open: in the band above the limit,
    where every method has a height of its own, and at the nodes searched by then. Counts below 1 are on a linear piece
    of the axis.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "complete_cost", "font.size": 10, "axes.titlesize": 10.5})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(INPUTS), 2, figsize=(9.6, 7.4), sharex=True, sharey="col", layout="constrained")
    limit = max(row.limit for row in rows)
    for (seconds, nodes), inputs in zip(axes, INPUTS, strict=True):
        for level, (label, method) in enumerate(METHODS.items()):
            points = list(medians(rows, label, inputs, "holds").values())
            above = limit * BAND ** ((level + 0.7) / (len(METHODS) + 0.4))
            _draw(seconds, method, label, [(p.unstable, above if p.open else p.seconds, p.open) for p in points])
            _draw(nodes, method, "", [(p.unstable, p.nodes, p.open) for p in points if p.nodes is not None])
        seconds.axhspan(limit, BAND * limit, color="0.93", zorder=0)
        seconds.annotate(f"> {limit:g}", (0, limit * BAND**0.5), xycoords=("axes fraction", "data"), xytext=(-7, 0),
                         textcoords="offset points", ha="right", va="center")  # fmt: skip
        seconds.set(yscale="log", title=f"{inputs} inputs: seconds")
        nodes.set(title=f"{inputs} inputs: nodes")
        nodes.set_yscale("symlog", linthresh=1, linscale=0.4)
    axes[0, 0].set_ylim(top=BAND * limit)
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    axes[0, 1].set_ylim(bottom=-0.2)
    for axis in axes.flat:
        axis.title.set_fontweight("bold")
        axis.grid(color="0.88", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set(xlabel="unstable ReLUs")
        axis.set_xlim(left=0)
    handles, texts = axes[0, 0].get_legend_handles_labels()
    counted = [f"{text} ({METHODS[text].nodes})" for text in texts]
    handles.append(mpl.lines.Line2D([], [], linestyle="none", **_hollow("0.3", "o")))
    figure.legend(handles, [*counted, f"undecided in {limit:g} s"], loc="outside lower center", ncols=len(handles),
                  frameon=False, fontsize=9, columnspacing=1.2, handletextpad=0.5)  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)


def _draw(axis: Any, method: Method, label: str, points: Sequence[tuple[float, float, bool]]) -> None:
    """One line; hollow markers where the third entry says that the point is open."""
    axis.plot([x for x, _, _ in points], [y for _, y, _ in points], linestyle=method.line, linewidth=1.6,
              label=label or None, color=method.colour, marker=method.marker, markersize=6)  # fmt: skip
    late = [(x, y) for x, y, is_open in points if is_open]
    axis.plot([x for x, _ in late], [y for _, y in late], linestyle="none", zorder=3,
              **_hollow(method.colour, method.marker))  # fmt: skip


def _hollow(colour: str, marker: str) -> dict[str, Any]:
    return {"marker": marker, "markersize": 6, "markeredgewidth": 1.4, "color": colour, "markerfacecolor": "white"}

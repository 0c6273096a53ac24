"""Tightness: certified over exact radius, of every input whose exact radius a complete method closed in on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from verifkit.bench.report.charts.figure import BELOW, LETTER, Figure, Scale, bottom_axis, file_name, line, text
from verifkit.bench.report.charts.look import Look
from verifkit.bench.report.charts.spread import quantile
from verifkit.bench.report.radii import Column, Input
from verifkit.bench.report.scores import certified_radius
from verifkit.bench.report.terminal import norm_name
from verifkit.bench.rows.frame import NETWORK

ROW, WIDTH, RIGHT = 30, 400, 84
COLUMNS = ("input", "verifier", "kind", "certified", "exact", "tightness")


def tightness_figure(
    columns: Sequence[Column], inputs: Sequence[Input], looks: Mapping[str, Look], model: str, norm: str
) -> Figure | None:
    """One row for each certifier of the network; None where no exact radius is known."""
    known = [one for one in inputs if one.exact]
    data = [
        (one.name, c.verifier, one.rows[c]["kind"], certified_radius(one.rows[c]), one.high)
        for c in columns
        if c.style in ("complete", "deterministic") and c.subject == NETWORK
        for one in known
        if c in one.rows
    ]
    if not data:
        return None
    names = list(dict.fromkeys(row[1] for row in data))
    left = round(min(210.0, 24 + LETTER * max(map(len, names))))
    scale = Scale(0.0, 1.0, left, left + WIDTH)
    bottom = 8 + ROW * len(names)
    parts = [bottom_axis(scale, 8, bottom, "certified radius / exact radius")]
    for k, name in enumerate(names):
        own = sorted(min(1.0, certified / exact) for _, verifier, _, certified, exact in data if verifier == name)
        parts += _row(looks[name], own, scale, 8 + ROW * k + ROW / 2)
        parts.append(text(left - 12, 8 + ROW * k + ROW / 2 + 4, name, anchor="end", kind="ink"))
        parts.append(text(left + WIDTH + 10, 8 + ROW * k + ROW / 2 + 4, f"{len(own)} inputs"))
    height = bottom + BELOW + 20
    note = f"Ticks: inputs, {len(known)} of {len(inputs)} with an exact radius. Marker: median. Thick: middle half."
    return Figure(
        name=file_name("tightness", model, norm),
        title=f"Tightness of {norm_name(norm)} certificates against the exact radius, {model}",
        columns=COLUMNS,
        rows=tuple((*row, row[3] / row[4]) for row in data),
        body="".join(parts) + text(4, height - 8, note),
        width=left + WIDTH + RIGHT,
        height=height,
    )


def _row(look: Look, own: Sequence[float], scale: Scale, y: float) -> list[str]:
    low, middle, high = (quantile(own, share) for share in (0.25, 0.5, 0.75))
    ticks = "".join(f"M{x:g},{y + 4:g}v8" for x in sorted({round(scale(v)) for v in own}))
    return [
        f'<g class="k{look.colour}">{line(scale(low), y - 2, scale(high), y - 2, "range")}'
        f'<path class="reach" d="{ticks}"/></g>',
        look.mark(scale(middle), y - 2, 0.9),
    ]

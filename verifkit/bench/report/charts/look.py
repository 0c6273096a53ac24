"""What a verifier looks like: one number, colour, marker and dash in every figure of a report, and the legend.

Colour says nothing alone: the number stands in the marker, the marker and the dash differ where colours repeat, and the
sort of dash says the kind of statement. Legends have a group for each kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from verifkit.bench.report.charts.figure import LETTER, shortened, text
from verifkit.bench.rows.frame import NETWORK, SMOOTHED

COLOURS, DASHES, SHAPES = 6, 4, 5
"""How many there are of each: the style sheet and the marker shapes are numbered as here."""
OUTLINES = (
    "",
    "M-8,-8H8V8H-8Z",
    "M0,-11.5L11.5,0L0,11.5L-11.5,0Z",
    "M0,-12.5L11.5,8H-11.5Z",
    "M-10.5,0L-5.2,-9H5.2L10.5,0L5.2,9H-5.2Z",
)
"""Of the markers, around their center; the first is a circle."""
SMALL = (
    "m-3.4,0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0-6.8 0z",
    "m-3.2-3.2h6.4v6.4h-6.4z",
    "m0-4.4l4.4 4.4-4.4 4.4-4.4-4.4z",
    "m0-4.4l4.4 7.4h-8.8z",
    "m-4.2 0l2.1-3.7h4.2l2.1 3.7-2.1 3.7h-4.2z",
)
"""The same outlines, small, from their center."""
STYLES = ("complete", "deterministic", "probabilistic", "attack")
HEADINGS = {
    "complete": "complete methods, about the network",
    "deterministic": "certificates, about the network",
    "probabilistic": f"probabilistic, another subject: the {SMOOTHED}",
    "attack": "attacks, about the network: upper ends",
}
ROW, COLUMN = 25, 205
"""Height of a line of a legend and the least width of an entry, in pixels."""


@dataclass(frozen=True)
class Look:
    """place: of the verifier among all of the report. style: of `STYLES`."""

    name: str
    place: int
    style: str
    subject: str

    @property
    def number(self) -> int:
        return self.place + 1

    @property
    def colour(self) -> int:
        return self.place % COLOURS

    @property
    def dash(self) -> int:
        return self.place // COLOURS % DASHES

    @property
    def shape(self) -> int:
        return self.place // COLOURS % SHAPES

    @property
    def curve(self) -> str:
        """The classes of a line: long strokes for certificates, short where one may be wrong by chance, else dots."""
        kind = "" if self.style in ("complete", "deterministic") else f" {self.style}"
        return f"curve k{self.colour}{kind} d{self.dash}"

    def mark(self, x: float, y: float, scale: float = 1.0) -> str:
        """The numbered marker with its center at (x, y)."""
        size = f" scale({scale:g})" if scale != 1 else ""
        shape = f'<path class="dot" d="{OUTLINES[self.shape]}"/>' if self.shape else '<circle class="dot" r="8.5"/>'
        return (
            f'<g class="k{self.colour}" transform="translate({x:g} {y:g}){size}">{shape}'
            f'<text class="n" y="4">{self.number}</text></g>'
        )

    def points(self, places: Iterable[tuple[float, float]]) -> str:
        """Small markers without numbers, in one element: hollow for attacks, ringed for probabilistic answers."""
        kind = {"attack": "hollow", "probabilistic": "ring"}.get(self.style, "full")
        path = "".join(f"M{x:g},{y:g}{SMALL[self.shape]}" for x, y in places)
        return f'<path class="k{self.colour} {kind}" d="{path}"/>' if path else ""


def style_of(kind: str, subject: str = NETWORK) -> str:
    """The style of a verifier of that kind, as `Capabilities` name it, or several joined by a slash."""
    if kind == "falsifier":
        return "attack"
    if kind == "probabilistic" or subject != NETWORK:
        return "probabilistic"
    return "complete" if kind == "complete" else "deterministic"


def legend(looks: Iterable[Look], y: float, width: int, notes: Sequence[str] = ()) -> tuple[str, float]:
    """Entries in groups, each under the words that say what its statements are, then `notes`; and the y below."""
    drawn, parts = list(looks), []
    for style in STYLES:
        own = sorted((one for one in drawn if one.style == style), key=lambda one: one.place)
        if not own:
            continue
        parts.append(text(4, y + 13, HEADINGS[style], kind="name"))
        y += ROW - 3
        room = max(COLUMN, 70 + LETTER * max(len(one.name) for one in own))
        columns = max(1, min(len(own), int((width - 4) / room)))
        for k, one in enumerate(own):
            x, row = 4 + (width - 4) / columns * (k % columns), y + k // columns * ROW + ROW / 2 - 2
            parts.append(f'<path class="{one.curve}" d="M{x:g},{row:g}h50"/>' + one.mark(x + 25, row))
            parts.append(text(x + 58, row + 4, shortened(one.name, width / columns - 62), kind="ink"))
        y += -(-len(own) // columns) * ROW + 3
    for note in notes:
        parts.append(text(4, y + 13, note))
        y += 17
    return "".join(parts), y + 4

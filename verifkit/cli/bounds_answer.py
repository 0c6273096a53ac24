"""What `verifkit bounds` asks and says, without the command line."""

from __future__ import annotations

import difflib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verifkit.budget import Budget, Clock
from verifkit.capabilities import Kind
from verifkit.cli.answers import question
from verifkit.errors import OptionError
from verifkit.layer_bounds import Layer
from verifkit.query import Query
from verifkit.radius import shorten
from verifkit.registry import able, create, verifier_class
from verifkit.result import Reason, Result, Verdict
from verifkit.verifier import Verifier

HEADS = ("layer", "kind", "shape", "size", "lower", "upper", "mean width", "unstable", "active", "inactive")
LEFT = ("layer", "kind", "shape")
"""Columns of text; the others hold numbers."""

TABLE_DIGITS, ENTRY_DIGITS = 4, 8
"""Significant digits of a printed end: a lower one is rounded down, an upper one up."""


@dataclass(frozen=True)
class BoundsAnswer:
    """layers: by name, in the graph's order; None where there are none, and then `why` says the reason in a sentence.

    cases: how many input regions the property is split into.
    """

    result: Result
    layers: Mapping[str, Layer] | None
    cases: int
    why: str
    wall_seconds: float
    cpu_seconds: float

    def only(self, name: str | None) -> BoundsAnswer:
        """The same with one layer; raises `OptionError` where none is called `name`."""
        if name is None or self.layers is None:
            return self
        if name not in self.layers:
            close = difflib.get_close_matches(name, self.layers, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise OptionError(f"no layer is called '{name}'; {hint}there are: {', '.join(self.layers)}")
        return BoundsAnswer(
            self.result, {name: self.layers[name]}, self.cases, self.why, self.wall_seconds, self.cpu_seconds
        )

    def to_text(self, *, entries: bool, width: int | None) -> str:
        """entries: a line for each entry in place of one for each layer. width: of a terminal, which a table then
        fits where it can; None for plain lines."""
        time = f"time: {self.wall_seconds:.3f} s wall, {self.cpu_seconds:.3f} s CPU"
        result = self.result
        if self.layers is None:
            why = f"reason: {self.why}" if result.reason is None else f"reason: {result.reason} - {self.why}"
            return "\n".join(["bounds: none", why, time]) + "\n"
        count = "1 layer" if len(self.layers) == 1 else f"{len(self.layers)} layers"
        lines = [f"bounds: {count} by {result.verifier}, about the network, real semantics, rounded arithmetic"]
        if self.cases > 1:
            lines.append(f"cases: {self.cases}; a layer is the hull of its bounds over them")
        lines += [f"verdict: {result.word}" + (f" - {result.detail}" if result.detail else ""), time, ""]
        if entries:
            lines += [line for layer in self.layers.values() for line in _entries(layer)]
        else:
            lines += _table([_row(layer) for layer in self.layers.values()], width)
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """The object of `verify` with `layers`; its times are those of the whole answer."""
        return {
            **self.result.to_json(),
            "wall_seconds": round(self.wall_seconds, 6),
            "cpu_seconds": round(self.cpu_seconds, 6),
            "layers": None if self.layers is None else [_layer_to_json(layer) for layer in self.layers.values()],
        }

    def save(self, path: str) -> None:
        """Writes NAME.lower and NAME.upper of every layer to an .npz file; raises `OptionError` where it cannot."""
        arrays: dict[str, Any] = {}
        for name, layer in (self.layers or {}).items():
            arrays |= {f"{name}.lower": layer.lower, f"{name}.upper": layer.upper}
        held = io.BytesIO()
        np.savez(held, **arrays)
        try:
            Path(path).write_bytes(held.getvalue())
        except OSError as error:
            raise OptionError(f"--out '{path}' cannot be written: {error.strerror}") from None


def ask_bounds(
    model: str, spec: str, verifier: str, options: Mapping[str, str], limits: Budget, seed: int
) -> BoundsAnswer:
    """Loads the files and puts the question; raises `VerifkitError` for a user's mistake."""
    chosen = create(verifier, options)
    query = question(model, spec, chosen)
    clock = Clock(limits)
    refusal = chosen.capabilities.refusal(query)
    takes = refusal is None
    if refusal is not None or chosen.capabilities.kinds[query.norm] is not Kind.INCOMPLETE:  # it would work for nothing
        why = _others(chosen, query) if refusal is None else f"{chosen.name}: {refusal}; {_who(chosen, query)}"
        result = Result(
            verdict=Verdict.UNKNOWN, reason=Reason.UNSUPPORTED, detail=why, guarantee=None,
            evidence=None, verifier=chosen.name, query_digest=query.digest, seed=seed, wall_seconds=0.0,
            cpu_seconds=0.0,
        )  # fmt: skip
    else:
        result = chosen.verify(query, budget=limits, seed=seed)
    layers = None if result.bounds is None else result.bounds.layers
    cases = len(query.cases())
    why = result.detail
    if layers is None and not cases:
        why = "the unsafe set admits no input: there is nothing to bound"
    elif layers is None and takes and result.reason in (None, Reason.INCOMPLETE):
        why = _others(chosen, query)
    elif layers is None and not why and result.reason is not None:
        why = result.reason.advice
    return BoundsAnswer(result, layers, cases, why, clock.elapsed, clock.cpu)


def _others(chosen: Verifier, query: Query) -> str:
    """That a verifier bounds no layers, and who does."""
    return f"{chosen.name} gives no bounds of layers; {_who(chosen, query)}"


def _who(chosen: Verifier, query: Query) -> str:
    """Which verifiers bound the layers of this question."""
    names = [n for n in able(query) if n != chosen.name]
    who = [n for n in names if set(verifier_class(n).capabilities.kinds.values()) == {Kind.INCOMPLETE}]
    return f"ask {', '.join(who)}" if who else "no installed verifier bounds its layers"


def _row(layer: Layer) -> tuple[str, ...]:
    size = layer.lower.size
    lower, upper = (float(end) if size else math.nan for end in (layer.lower.min(initial=math.inf),
                                                                 layer.upper.max(initial=-math.inf)))  # fmt: skip
    with np.errstate(all="ignore"):
        mean = float((layer.upper - layer.lower).mean()) if size else math.nan
    phases = layer.phases
    counts = ("-", "-", "-") if phases is None else (phases.unstable, phases.active, phases.inactive)
    ends = (_number(lower), _number(upper, up=True), f"{mean:.{TABLE_DIGITS}g}")
    return layer.name, layer.kind, _shape(layer.lower.shape), str(size), *ends, *map(str, counts)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _number(value: float, digits: int = TABLE_DIGITS, *, up: bool = False) -> str:
    """Rounded outward; where the float itself is short it is exact."""
    return shorten(value, digits, up=up) if math.isfinite(value) else str(value)


def _entries(layer: Layer) -> list[str]:
    """A line for each entry, aligned: its index and its range."""
    indices = [f"{layer.name}[{', '.join(map(str, index))}]" for index in np.ndindex(*layer.lower.shape)]
    lows = [_number(v, ENTRY_DIGITS) for v in layer.lower.reshape(-1).tolist()]
    highs = [_number(v, ENTRY_DIGITS, up=True) for v in layer.upper.reshape(-1).tolist()]
    place, low, high = (max(map(len, column), default=0) for column in (indices, lows, highs))
    return [
        f"{i.ljust(place)}  [{a.rjust(low)}, {b.rjust(high)}]" for i, a, b in zip(indices, lows, highs, strict=True)
    ]


def _table(rows: Sequence[tuple[str, ...]], width: int | None) -> list[str]:
    """Plain lines two spaces apart; on a terminal that is too narrow for them, folded by rich."""
    widths = [max(len(row[k]) for row in (HEADS, *rows)) for k in range(len(HEADS))]
    if width is None or sum(widths) + 2 * (len(widths) - 1) <= width:
        return [
            "  ".join(
                cell.ljust(w) if head in LEFT else cell.rjust(w)
                for cell, w, head in zip(row, widths, HEADS, strict=True)
            ).rstrip()
            for row in (HEADS, *rows)
        ]
    return _folded(rows, width)


def _folded(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """The same without sizes, which the shapes tell, and with long names broken; numbers are never cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kept = [k for k, head in enumerate(HEADS) if head != "size"]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    needed = 0
    for k in kept:
        lines = [*HEADS[k].split(), *(row[k] for row in rows)]
        longest = max(map(len, lines))
        needed += 1 + (min(longest, 12) if k == 0 else longest)
        table.add_column(Text("\n".join(HEADS[k].split())), overflow="fold", no_wrap=k > 0,
                         justify="left" if HEADS[k] in LEFT else "right")  # fmt: skip
    for row in rows:
        table.add_row(*(Text(row[k]) for k in kept))
    console = Console(width=max(width, needed), file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def _layer_to_json(layer: Layer) -> dict[str, Any]:
    phases = layer.phases
    return {
        "name": layer.name,
        "index": layer.index,
        "kind": layer.kind,
        "origin": list(layer.origin),
        "shape": list(layer.lower.shape),
        "lower": _flat(layer.lower),
        "upper": _flat(layer.upper),
        "phases": None if phases is None else phases._asdict(),
    }


def _flat(values: np.ndarray) -> list[float | None]:
    """In C order; JSON has no infinities."""
    return [v if math.isfinite(v) else None for v in values.reshape(-1).tolist()]

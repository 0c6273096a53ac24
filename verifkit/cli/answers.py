"""What the command line's commands do and say, without the command line."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from verifkit.budget import Budget
from verifkit.capabilities import Capabilities
from verifkit.errors import OptionError, VerifkitError
from verifkit.evidence import PrivacyCounts, SampleCounts, Witness
from verifkit.input_sets import Box
from verifkit.io.onnx import load_model
from verifkit.io.vnnlib import load_property
from verifkit.query import Query
from verifkit.radius import format_radius
from verifkit.registry import create, names, verifier_class
from verifkit.result import Result, counterexample_text
from verifkit.verifier import Verifier


def ask(
    model: str,
    spec: str,
    verifier: str,
    options: Mapping[str, str],
    limits: Budget,
    seed: int,
    start: float | None = None,
) -> Result:
    """Loads the files and puts the question; raises `VerifkitError` for a user's mistake.

    The verifier gets what loading leaves of the time since `start` (monotonic; by default now), so that it ends by
    itself before the process around ends it.
    """
    start = time.monotonic() if start is None else start
    chosen = create(verifier, options)
    query = question(model, spec, chosen)
    if limits.seconds is not None:
        limits = replace(limits, seconds=max(limits.seconds - (time.monotonic() - start), 1e-3))
    return chosen.verify(query, budget=limits, seed=seed)


def with_trace(verifier: str, options: Mapping[str, str], file: str | None) -> dict[str, str]:
    """The options with `file`, emptied first, for the steps; raises `OptionError` for a verifier that shows none."""
    if file is None:
        return dict(options)
    if "trace" not in create(verifier).options():
        raise OptionError(f"verifier '{verifier}' does not show its steps: --trace is for one with the option 'trace'")
    try:
        with open(file, "w", encoding="utf-8"):
            pass
    except OSError as error:
        raise OptionError(f"the trace '{file}' cannot be written: {error.strerror}") from None
    return {**options, "trace": file}


def question(model: str, spec: str, chosen: Verifier) -> Query:
    """The property in `spec` of the network in `model`; raises `VerifkitError` for a user's mistake."""
    prop = load_property(spec)
    box = prop.input_set if isinstance(prop.input_set, Box) else None
    loaded = load_model(model, require_network=chosen.capabilities.needs_network, box=box)
    return Query(loaded, prop)


def answer_text(result: Result) -> str:
    """The competition's word on a line of its own, then what a person wants to know."""
    lines = [result.word]
    if result.reason is not None:
        lines.append(f"reason: {result.reason} - {result.detail or result.reason.advice}")
        if result.detail:
            lines.append(f"advice: {result.reason.advice}")
    elif result.detail:
        lines.append(f"detail: {result.detail}")
    if result.guarantee is not None:
        lines.append(f"guarantee: {result.guarantee.describe()}")
    lines.append(f"time: {result.wall_seconds:.3f} s wall, {result.cpu_seconds:.3f} s CPU")
    evidence = result.evidence
    if isinstance(evidence, Witness):
        lines += _witness_lines(evidence)
    if isinstance(evidence, SampleCounts):
        told = f"class {evidence.chosen}, p >= {format_radius(evidence.lower, 6)}"
        lines.append(f"certified l{evidence.norm} radius: {format_radius(evidence.radius)} ({told})")
    if isinstance(evidence, PrivacyCounts) and not evidence.released:
        told = f"class {evidence.chosen}, score >= {format_radius(evidence.lower, 6)}"
        lines.append(f"certified l{evidence.norm} radius: {format_radius(evidence.radius)} ({told})")
    return "\n".join(lines) + "\n"


def _witness_lines(witness: Witness) -> list[str]:
    counterexample = counterexample_text(map(float, witness.x), witness.output)
    where = "inside the box as written" if witness.in_written_set else "inside the box widened to floats"
    agree = ", ".join(f"{r.arithmetic} {'unsafe' if r.unsafe else 'safe'}" for r in witness.replays)
    return [f"witness: confirmed by {witness.confirmed_by}, {where} (replays: {agree})", counterexample]


def listing(terminal_width: int | None) -> str:
    """The table of `verifkit list`: the exact name first; wrapped by rich on a terminal, plain lines elsewhere."""
    rows = [_listed(name) for name in names()]
    heads = ("name", "kind by norm", "operators", "needs", "paper")
    if terminal_width is None:
        widths = [max(len(r[k]) for r in (heads, *rows)) for k in range(len(heads))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in (heads, *rows))
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    console = Console(width=terminal_width)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def _listed(name: str) -> tuple[str, str, str, str, str]:
    try:
        return _row(name, verifier_class(name).capabilities)
    except VerifkitError as error:  # one broken plug-in takes nothing from the others
        return name, str(error), "-", "-", "-"


def _row(name: str, capabilities: Capabilities) -> tuple[str, str, str, str, str]:
    by_kind: dict[str, list[str]] = {}
    for norm, kind in capabilities.kinds.items():
        by_kind.setdefault(str(kind), []).append(f"l{norm}")
    kinds = "; ".join(f"{kind} ({', '.join(norms)})" for kind, norms in by_kind.items())
    if capabilities.operators is None:
        operators = "any model that can be called"
    else:
        known = [f.name for f in capabilities.activations] + [o.__name__.lower() for o in capabilities.operators]
        operators = "affine, " + ", ".join(sorted(known))
    missing = capabilities.missing_modules()
    needs = ", ".join(f"{m} (not installed)" if m in missing else m for m in capabilities.modules) or "-"
    return name, kinds, operators, needs, capabilities.paper.short()

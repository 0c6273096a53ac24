"""From rows to tables: verdict counts, certified accuracy, radii.

Every denominator is all the rows of its group: abstentions, time-outs, errors and misclassified inputs stay in it, each
counted under its own name. Statements about the given network and about a classifier smoothed from it are different
statements, so `subject` is a grouping column of every table. Attacks that a study's audit added are in none of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import fmean, median
from typing import Any

import pandas as pd

from verifkit.analysis.smoothing.log import ABSTAIN
from verifkit.bench.rows.frame import NETWORK, Row, answers, grouped, records

REASONS = ("incomplete", "timeout", "memout", "unsupported", "unconfirmed", "error")
REFUSED = "–"
CLOSED = 1e-2
"""A complete method's bracket counts as closed, its radius as exact, when its relative width is at most this."""

MOST_RADII = 40
"""Columns of certified accuracy at most for radii that were asked about by themselves."""
VERDICT_COLUMNS = (
    *("question", "subject", "verifier", "kind", "rows", "HOLDS", "VIOLATED", *REASONS, "other"),
    *("decided_percent", "total_seconds", "median_seconds"),
)
ACCURACY_COLUMNS = (
    *("model", "norm", "subject", "verifier", "kind", "radius", "source", "rows", "certified", "smaller", "falsified"),
    *("misclassified", *REASONS, "other", "accuracy", "upper"),
)
RADIUS_COLUMNS = (
    *("model", "norm", "subject", "verifier", "kind", "rows", "with_radius", "misclassified", "cut_short"),
    *(
        "median_certified",
        "mean_certified",
        "median_falsified",
        "with_falsified",
        "tightness",
        "with_exact",
        "median_seconds",
    ),
)


def verdict_table(df: pd.DataFrame) -> pd.DataFrame:
    """Per question, subject and verifier: the verdicts, each reason of an UNKNOWN under its own name, and times.

    For radius questions HOLDS counts rows in which some radius was certified. Seconds are the verifier's own.
    """
    lines = []
    for group, rows in grouped(records(answers(df)), "question", "subject", "method").items():
        counts = _count_verdicts(rows)
        seconds = [r["seconds"] for r in rows if not math.isnan(r["seconds"])]
        lines.append(
            {
                **dict(zip(("question", "subject", "verifier"), group, strict=True)),
                **counts,
                "kind": shown_kind(rows),
                "rows": len(rows),
                "decided_percent": 100.0 * (counts["HOLDS"] + counts["VIOLATED"]) / len(rows),
                "total_seconds": sum(seconds),
                "median_seconds": median(seconds) if seconds else math.nan,
            }
        )
    return pd.DataFrame(lines, columns=list(VERDICT_COLUMNS))


def certified_accuracy(df: pd.DataFrame, radii: Sequence[float] | None = None) -> pd.DataFrame:
    """Per model, norm, subject and verifier: the share of all rows that are correct and certified to each radius.

    Rows that ask for a radius are used where there are any (source "radius"); else those that ask whether a given
    radius holds, at the radii asked (source "verify"). `smaller`: correct, but certified to less. `incomplete`: the
    bound was too loose, or a probabilistic method abstained. `upper`: the share not shown violated within the radius,
    which no certificate about the same classifier can exceed; absent for probabilistic methods. `radii` None: those of
    the rows' `grid`; without one 0, a few round ones and those asked about. A falsifier certifies nothing: its accuracy
    is absent.
    """
    lines = []
    for (model, norm), rows in grouped(_robustness(df), "model_label", "norm").items():
        wanted = wanted_radii(rows) if radii is None else sorted(set(map(float, radii)))
        for (subject, method), own in grouped(rows, "subject", "method").items():
            asked = [r for r in own if r["question"] == "radius"]
            for radius in wanted:
                used = asked or [r for r in own if math.isclose(r["radius"], radius, rel_tol=1e-9)]
                if used:
                    head = {"model": model, "norm": norm, "subject": subject, "verifier": method}
                    head |= {"kind": shown_kind(used), "radius": radius, "source": "radius" if asked else "verify"}
                    lines.append({**head, **_accuracy(used, radius)})
    return pd.DataFrame(lines, columns=list(ACCURACY_COLUMNS))


def radius_table(df: pd.DataFrame) -> pd.DataFrame:
    """Per model, norm, subject and verifier: what the rows that ask for a radius say.

    Median and mean certified radius run over all rows; a misclassified input counts as 0, and so does a row that
    certified nothing. In the median falsified radius (the upper end) a row without one counts as unbounded and a
    misclassified one as 0, so that the two medians bracket the true one; absent where that makes it infinite.
    `cut_short`: rows whose search lost a radius to time or memory: without the limit they might say more.
    `tightness`: the mean of certified / exact over rows whose exact radius some complete method closed in on
    (`CLOSED`), exact being the upper end of its bracket.
    """
    radius_rows = [r for r in records(answers(df)) if r["question"] == "radius"]
    exact = exact_radii(radius_rows)
    lines = []
    for group, rows in grouped(radius_rows, "model_label", "norm", "subject", "method").items():
        kind = _shared_kind(rows)
        certifies = kind != "falsifier"
        certified = [certified_radius(r) for r in rows] if certifies else []
        upper = median(0.0 if misclassified(r) else falsified_radius(r) for r in rows)
        known = [(certified_radius(r), exact[question_of(r)]) for r in rows if certifies and exact.get(question_of(r))]
        seconds = [r["seconds"] for r in rows if not math.isnan(r["seconds"])]
        lines.append(
            {
                **dict(zip(("model", "norm", "subject", "verifier"), group, strict=True)),
                "kind": shown_kind(rows),
                "rows": len(rows),
                "with_radius": sum(c > 0 for c in certified),
                "misclassified": sum(misclassified(r) for r in rows),
                "cut_short": sum(map(cut_short, rows)),
                "median_certified": median(certified) if certified else math.nan,
                "mean_certified": fmean(certified) if certified else math.nan,
                "median_falsified": upper if math.isfinite(upper) else math.nan,
                "with_falsified": sum(0 < falsified_radius(r) < math.inf for r in rows),
                "tightness": fmean(c / e for c, e in known) if known else math.nan,
                "with_exact": len(known),
                "median_seconds": median(seconds) if seconds else math.nan,
            }
        )
    return pd.DataFrame(lines, columns=list(RADIUS_COLUMNS))


def certified_radius(row: Row) -> float:
    """The radius this row certifies for a correct prediction: 0 where misclassified or nothing was certified."""
    certified = float(row["certified"])
    return 0.0 if math.isnan(certified) or row["verdict"] != "HOLDS" or misclassified(row) else certified


def misclassified(row: Row) -> bool:
    """Whether the center itself is wrong: shown so, or predicted otherwise than labelled.

    A smoothed classifier may be right where the network is wrong: its own answer counts, where it does not abstain.
    """
    if row["subject"] != NETWORK and row["verdict"] == "UNKNOWN":
        own = (row["statistics"] or {}).get("predicted", ABSTAIN)
        return not math.isnan(row["label"]) and own not in (ABSTAIN, row["label"])
    if row["falsified"] == 0 or (row["verdict"] == "VIOLATED" and row["radius"] == 0):
        return True
    both = not (math.isnan(row["predicted"]) or math.isnan(row["label"]))
    return both and row["subject"] == NETWORK and row["predicted"] != row["label"]


def wanted_radii(rows: Sequence[Row]) -> list[float]:
    """The radii that the rows' `grid` asks for, else `default_radii`; those asked about by themselves as well."""
    grid = {float(radius) for row in rows if isinstance(row["grid"], list) for radius in row["grid"]}
    return sorted(grid | _asked(rows)) if grid else default_radii(rows)


def default_radii(rows: Sequence[Row]) -> list[float]:
    """About eight round steps from 0 to the largest certified radius, and the radii asked about."""
    asked = _asked(rows)
    searched = [r for r in rows if r["question"] == "radius"]
    reached = [c for c in map(certified_radius, searched) if 0 < c < math.inf]
    if not reached:
        return sorted(asked | ({0.0} if searched else set()))
    power = 10.0 ** math.floor(math.log10(max(reached) / 8))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m * 8 >= max(reached) * (1 - 1e-9))
    steps = math.ceil(max(reached) / step - 1e-9)
    return sorted({round(k * step, 12) for k in range(steps + 1)} | asked)


def _asked(rows: Sequence[Row]) -> set[float]:
    """The radii asked about by themselves; of more than `MOST_RADII` every k-th, and the largest."""
    asked = sorted({float(r["radius"]) for r in rows if r["question"] == "verify"})
    step = max(1, -(-(len(asked) - 1) // (MOST_RADII - 1)))
    return {*asked[::step], *asked[-1:]}


def _accuracy(rows: Sequence[Row], radius: float) -> dict[str, Any]:
    """Where each row stands at `radius`; the counts add up to `rows`."""
    counts = dict.fromkeys(ACCURACY_COLUMNS[8:-2], 0)
    for row in rows:
        counts[_standing(row, radius)] += 1
    kind = _shared_kind(rows)
    lost = sum(misclassified(r) or _violated_within(r, radius) for r in rows)
    accuracy = math.nan if kind == "falsifier" else counts["certified"] / len(rows)
    upper = math.nan if kind == "probabilistic" else 1 - lost / len(rows)
    return {"rows": len(rows), **counts, "accuracy": accuracy, "upper": upper}


def _standing(row: Row, radius: float) -> str:
    if misclassified(row):
        return "misclassified"
    if row["verdict"] == "HOLDS" and row["question"] == "verify":
        return "certified"
    if row["verdict"] == "HOLDS" and row["certified"] >= radius:
        return "certified"
    if _violated_within(row, radius):
        return "falsified"
    if row["verdict"] == "HOLDS":
        return "smaller"
    return str(row["reason"]) if row["reason"] in REASONS else "other"


def _violated_within(row: Row, radius: float) -> bool:
    if row["question"] == "verify":
        return bool(row["verdict"] == "VIOLATED")
    return bool(row["falsified"] <= radius)


def _robustness(df: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows about balls: those that ask for a radius, and those that ask about one."""
    return [r for r in records(answers(df)) if r["question"] == "radius" or (r["norm"] and not math.isnan(r["radius"]))]


def _count_verdicts(rows: Sequence[Row]) -> dict[str, int]:
    counts = dict.fromkeys(("HOLDS", "VIOLATED", *REASONS, "other"), 0)
    for row in rows:
        name = row["verdict"] if row["verdict"] in ("HOLDS", "VIOLATED") else row["reason"]
        counts[name if name in counts else "other"] += 1
    return counts


def falsified_radius(row: Row) -> float:
    """The radius within which this row shows a violation: infinite where it shows none."""
    return math.inf if math.isnan(row["falsified"]) else float(row["falsified"])


def question_of(row: Row) -> tuple[Any, ...]:
    """What rows must share to have answered the same question about the same subject."""
    return row["model_hash"], row["property_hash"], row["norm"], row["subject"]


def exact_radii(rows: Sequence[Row]) -> dict[Hashable, float]:
    """By question: the upper end of the narrowest bracket that a complete method closed to `CLOSED`."""
    exact: dict[Hashable, float] = {}
    for row in rows:
        low, high = certified_radius(row), row["falsified"]
        if row["kind"] == "complete" and row["property_hash"] and high > 0 and high - low <= CLOSED * high:
            exact[question_of(row)] = min(high, exact.get(question_of(row), math.inf))
    return exact


def cut_short(row: Row) -> bool:
    """Whether a limit of time or memory ended the search of this row, or left a radius in it undecided."""
    lost = {str(entry[-1]) for entry in row["undecided"] if entry} if isinstance(row["undecided"], list) else set()
    return bool(({row["reason"]} | lost) & {"timeout", "memout"})


def shown_kind(rows: Sequence[Row]) -> str:
    """The kind of a method as tables show it: a dash where it refused all of the norm, and so is of no kind there."""
    return REFUSED if all(r["refused"] for r in rows) else _shared_kind(rows)


def _shared_kind(rows: Sequence[Row]) -> str:
    return " / ".join(sorted({str(r["kind"]) for r in rows if r["kind"]})) or "not stated"

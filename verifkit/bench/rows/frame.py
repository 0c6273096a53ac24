"""Rows as a table: one line per (instance, verifier), typed columns, and the labels that reports group by."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from verifkit.bench.rows.store import ROWS, read_rows
from verifkit.errors import SuiteError

Row = Mapping[str, Any]


NETWORK, SMOOTHED = "network", "smoothed classifier"


_TEXT = (
    *("key", "suite", "instance", "question", "model", "model_hash", "property", "property_hash", "norm", "expected"),
    *("firmness", "verifier", "version", "verdict", "reason", "word", "detail", "kind", "started", "environment"),
    *("output", "audit", "evidence"),
)


_NUMBER = (
    *("radius", "index", "label", "predicted", "timeout", "memory_limit", "seed", "repeat", "certified", "falsified"),
    *("node_limit", "sample_limit", "margin"),
    *("wall_seconds", "verifier_seconds", "load_seconds", "cpu_seconds", "peak_memory_bytes"),
)


_ASKED = (
    *("model_hash", "property_hash", "question", "norm", "radius", "index", "instance", "verifier", "seed", "repeat"),
)
"""With the options: what rows share that differ in their limits alone."""
_LIMITS = ("timeout", "node_limit", "sample_limit", "memory_limit")
"""In the order in which larger ones count."""
_SAMPLE = re.compile(r"(?P<file>.+)\[\d+\] .*?(?P<clip> in \[[^\[\]]*\])?", re.DOTALL)
"""A sample's property as rows name it."""


_OBJECT = ("options", "guarantee", "witness", "counts", "undecided", "grid", "statistics")


def load_rows(out: Path) -> pd.DataFrame:
    """The rows of a run, one per line of `out/rows.jsonl`; a torn last line (the runner was killed) is left out.

    Raises `SuiteError` where the folder or file is missing or empty, or another line is no row.
    """
    path = Path(out) / ROWS
    if not path.is_file():
        raise SuiteError(f"{path} does not exist: run `verifkit bench SUITE --out {out}` first")
    rows = [{**row.to_json(), "line": number} for number, row in enumerate(read_rows(out), start=1)]
    if not rows:
        raise SuiteError(f"{path} holds no complete row yet: nothing to report")
    return frame(rows)


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table with a fixed set of columns: text "" where absent, numbers NaN, records None.

    Added: `line` (in rows.jsonl), `method` (the verifier with the options that tell it from its namesakes),
    `model_label` (with the samples' file and clip box where a model has several in that norm), `model_name` (without),
    `refused` (the method supports nothing of that norm, so that its kind is borrowed from another),
    `superseded` (another row answers the same question within larger limits, or later), `subject`, `semantics`,
    `failure_probability`, `seconds` (the verifier's time, else the row's).
    """
    data: dict[str, Any] = {c: pd.Series([_text(r.get(c)) for r in rows], dtype="object") for c in _TEXT}
    for column in _NUMBER:
        data[column] = pd.Series([_number(r.get(column)) for r in rows], dtype="float64")
    for column in _OBJECT:
        data[column] = pd.Series([r.get(column) for r in rows], dtype="object")
    data["complete"] = pd.Series([r.get("complete") is True for r in rows], dtype="bool")
    data["line"] = pd.Series([int(r.get("line", i)) for i, r in enumerate(rows, start=1)], dtype="int64")
    df = pd.DataFrame(data)
    df["method"] = pd.Series(_methods(df), index=df.index, dtype="object")
    df["model_name"] = pd.Series(_model_names(df), index=df.index, dtype="object")
    df["model_label"] = pd.Series(_model_labels(df), index=df.index, dtype="object")
    df["superseded"] = pd.Series(_superseded(df), index=df.index, dtype="bool")
    df["refused"] = pd.Series(_refused(df), index=df.index, dtype="bool")
    df["kind"] = pd.Series(_kinds(df), index=df.index, dtype="object")
    df["subject"] = pd.Series(_subjects(df), index=df.index, dtype="object")
    guarantees = [g if isinstance(g, dict) else {} for g in df["guarantee"]]
    df["semantics"] = pd.Series([_text(g.get("semantics")) for g in guarantees], index=df.index, dtype="object")
    chances = [_number(g.get("failure_probability")) for g in guarantees]
    df["failure_probability"] = pd.Series(chances, index=df.index, dtype="float64")
    df["seconds"] = df["verifier_seconds"].fillna(df["wall_seconds"])
    return df


def answers(df: pd.DataFrame) -> pd.DataFrame:
    """What tables may count: the rows that the suite asked for, one for each question that was put to a verifier.

    Left out are the attacks that a study's audit added, and rows that differ from a kept one in their limits alone.
    """
    return df[(df["audit"] == "") & ~df["superseded"]]


def audits(df: pd.DataFrame) -> pd.DataFrame:
    """The attacks that a study's audit added by itself (`Row.audit`): they test answers and are none."""
    return df[df["audit"] != ""]


def records(df: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries of Python values (an order of magnitude faster than `DataFrame.to_dict`)."""
    names = [str(column) for column in df.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*(df[c].tolist() for c in df.columns), strict=True)]


def grouped(rows: Iterable[dict[str, Any]], *columns: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows by the values of `columns`, in sorted order of those values."""
    groups: defaultdict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[c] for c in columns)].append(row)
    return dict(sorted(groups.items(), key=lambda item: tuple(map(str, item[0]))))


def _methods(df: pd.DataFrame) -> list[str]:
    """The verifier's name, with the options that differ where a name was run with several."""
    options = [o if isinstance(o, dict) else {} for o in df["options"]]
    by_name: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    texts = [{str(k): _option(v) for k, v in own.items()} for own in options]
    for name, text, audit in zip(df["verifier"], texts, df["audit"], strict=True):
        if not audit:  # what an audit adds must not rename what the suite asked
            by_name[name].append(text)
    differing = {
        name: sorted(k for k in set().union(*owns) if len({own.get(k) for own in owns}) > 1)
        for name, owns in by_name.items()
    }
    labels = []
    for name, text in zip(df["verifier"], texts, strict=True):
        told = ", ".join(f"{k}={text[k]}" for k in differing.get(name, ()) if k in text)
        labels.append(f"{name} ({told})" if told else name)
    return labels


def _option(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _superseded(df: pd.DataFrame) -> list[bool]:
    """Whether another row answers the same question to the same verifier within larger limits (the later where equal).

    A question whose content is not known (no hash) is like no other.
    """
    questions = zip(*(df[column].tolist() for column in _ASKED), map(_option, df["options"]), strict=True)
    limits = zip(*(df[column].fillna(math.inf).tolist() for column in _LIMITS), range(len(df)), strict=True)
    counted = zip(questions, limits, df["audit"].tolist(), strict=True)
    kept: dict[tuple[str, ...], tuple[float, ...]] = {}
    keys: list[tuple[str, ...] | None] = []
    for question, limit, audit in counted:
        key = None if audit or not all(question[:2]) else tuple(map(str, question))  # text: NaN equals itself
        keys.append(key)
        if key is not None:
            kept[key] = max(limit, kept.get(key, limit))
    return [key is not None and kept[key][-1] != place for place, key in enumerate(keys)]


def _model_labels(df: pd.DataFrame) -> list[str]:
    """The model's name; where samples of several files or clip boxes were asked about in that norm, also which."""
    named = zip(df["model_name"], df["norm"], df["property"], df["index"], strict=True)
    rows = [(model, norm, "" if math.isnan(index) else _inputs(text)) for model, norm, text, index in named]
    inputs: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for model, norm, own in rows:
        if own:
            inputs[model, norm].add(own)
    return [f"{model}, {own}" if own and len(inputs[model, norm]) > 1 else model for model, norm, own in rows]


def _inputs(name: str) -> str:
    """File and clip box of a sample's property: "a.npz in [0, 1]" of "a.npz[3] linf radius in [0, 1]"."""
    found = _SAMPLE.fullmatch(name)
    return found["file"] + (found["clip"] or "") if found else ""


def _model_names(df: pd.DataFrame) -> list[str]:
    """The model's name, with the start of its hash where two models share a name."""
    pairs = list(zip(df["model"], df["model_hash"], strict=True))
    hashes: defaultdict[str, set[str]] = defaultdict(set)
    for name, digest in pairs:
        hashes[name].add(digest)
    return [f"{name} ({digest[:8]})" if len(hashes[name]) > 1 else name for name, digest in pairs]


def _refused(df: pd.DataFrame) -> list[bool]:
    """Whether all rows of the method in that norm are refusals without a kind."""
    groups = list(zip(df["method"], df["norm"], strict=True))
    told = zip(groups, df["kind"], df["reason"], strict=True)
    taken = {group for group, kind, reason in told if kind or reason != "unsupported"}
    return [group not in taken for group in groups]


def _kinds(df: pd.DataFrame) -> list[str]:
    """The row's kind; where it has none (a crash, a refusal), what the method is in its other rows of that norm."""
    known: dict[tuple[str, str | None], str] = {}
    for method, norm, kind in zip(df["method"], df["norm"], df["kind"], strict=True):
        if kind:
            known.setdefault((method, norm), kind)
            known.setdefault((method, None), kind)
    rows = zip(df["method"], df["norm"], df["kind"], strict=True)
    return [kind or known.get((m, n)) or known.get((m, None), "") for m, n, kind in rows]


def _subjects(df: pd.DataFrame) -> list[str]:
    """Whom the row is about. Only HOLDS names it reliably: a witness is always replayed on the network itself."""
    stated: dict[str, str] = {}
    own: list[str] = []
    for method, verdict, guarantee in zip(df["method"], df["verdict"], df["guarantee"], strict=True):
        subject = _text(guarantee.get("subject")) if isinstance(guarantee, dict) and verdict == "HOLDS" else ""
        own.append(subject)
        if subject:
            stated.setdefault(method, subject)
    rows = zip(own, df["method"], df["kind"], strict=True)
    return [s or stated.get(m) or (SMOOTHED if kind == "probabilistic" else NETWORK) for s, m, kind in rows]


def _text(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _number(value: Any) -> float:
    """NaN for what is absent or not a number."""
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return math.nan

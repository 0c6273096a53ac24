"""Answers that cannot both be right.

Every definite answer is read as a claim: "safe up to this radius" or "unsafe within this radius" (a question without a
radius counts as radius 0). Two claims about the same question contradict each other when the unsafe radius does not
exceed the safe one. Whether that is a soundness violation depends on what was claimed: same subject, same semantics,
a confirmed witness, and failure probability 0 on both sides.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from verifkit.bench.audit.finding import Contradiction, ContradictionKind, in_order
from verifkit.bench.rows.frame import NETWORK, records

NORM_NAMES = {"inf": "l-inf", "1": "l1", "2": "l2", "0": "l0"}


@dataclass(frozen=True)
class MissCount:
    """How often a probabilistic verifier's claims were contradicted; about `alpha * claims` misses were allowed."""

    verifier: str
    subject: str
    claims: int
    misses: int
    alpha: float

    @property
    def allowed(self) -> float:
        return self.alpha * self.claims


@dataclass(frozen=True)
class Coverage:
    """How much there was to contradict: without answers to compare, agreement says nothing.

    compared: pairs of a safe and an unsafe claim about one question. shared: questions that two or more verifiers
    answered definitely. expected: definite answers compared with an expected verdict.
    """

    rows: int
    compared: int
    shared: int
    expected: int


@dataclass(frozen=True)
class _Claim:
    """No semantics: a witness that nothing confirmed. strict: False for one that lies outside the set as written."""

    row: dict[str, Any]
    safe: bool
    radius: float
    subject: str
    semantics: frozenset[str]
    chance: float
    strict: bool = True

    @property
    def line(self) -> int:
        return int(self.row["line"])


def find(df: pd.DataFrame) -> list[Contradiction]:
    """All contradictions, violations first, then in the order of the rows."""
    found = [_judge(safe, unsafe) for safe, unsafe in _pairs(df) if unsafe.radius <= safe.radius]
    found += [c for row in records(df) for c in _against_expected(row)]
    found += [_miss_sentence(m, lines) for m, lines in _misses(df) if m.misses]
    return in_order([c for c in found if c is not None])


def soundness_violations(found: list[Contradiction]) -> bool:
    """Whether a run with these contradictions must exit with status 3."""
    return any(c.is_violation for c in found)


def misses(df: pd.DataFrame) -> list[MissCount]:
    """Per probabilistic verifier: its claims, how many are contradicted, and its alpha."""
    return [m for m, _ in _misses(df)]


def coverage(df: pd.DataFrame) -> Coverage:
    """What `find` had to compare."""
    shared = {
        tuple(c.row[k] for k in ("suite", "model_hash", "instance", "question", "norm"))
        for group in _claims_by_question(df).values()
        for c in group
        if len({other.row["method"] for other in group if other.subject == c.subject}) > 1
    }
    against = sum(_expectation(row) is not None for row in records(df))
    compared = sum(safe.subject == unsafe.subject for safe, unsafe in _pairs(df))
    return Coverage(len(df), compared, len(shared), against)


def _judge(safe: _Claim, unsafe: _Claim) -> Contradiction | None:
    """What the pair amounts to; None where the two are about different subjects or an answer may be wrong by chance."""
    if safe.subject != unsafe.subject or safe.chance or unsafe.chance:
        return None
    said = f"{_safe_words(safe)}, but {_unsafe_words(unsafe)}, for {_where(safe.row)}"
    lines = tuple(dict.fromkeys((safe.line, unsafe.line)))
    if not unsafe.semantics:
        return Contradiction(ContradictionKind.UNCONFIRMED, f"{said}. No replay confirms that witness.", lines)
    if not unsafe.strict:
        where = "outside the set as written, by no more than the competition's tolerance: it establishes no `sat`"
        return Contradiction(ContradictionKind.TOLERATED, f"{said}. That witness lies {where}.", lines)
    if not safe.semantics & unsafe.semantics:
        said += f". The proof is about {_names(safe.semantics)} semantics, the witness about {_names(unsafe.semantics)}"
        return Contradiction(ContradictionKind.SEMANTICS, f"{said}: not the same claim.", lines)
    return Contradiction(ContradictionKind.SOUNDNESS, f"{said}. Both cannot be right.", lines)


def _pairs(df: pd.DataFrame) -> Iterator[tuple[_Claim, _Claim]]:
    """Each safe claim with each unsafe claim about the same question, once."""
    seen: set[tuple[int, int]] = set()
    for group in _claims_by_question(df).values():
        unsafe = [c for c in group if not c.safe]
        for safe in (c for c in group if c.safe):
            for other in unsafe:
                if (safe.line, other.line) not in seen and _comparable(safe.row, other.row):
                    seen.add((safe.line, other.line))
                    yield safe, other


def _claims_by_question(df: pd.DataFrame) -> dict[Hashable, list[_Claim]]:
    """Claims by question; one that asks about a sample at some radius also meets the others about that sample."""
    groups: defaultdict[Hashable, list[_Claim]] = defaultdict(list)
    for row in records(df):
        for claim in _claims(row):
            if row["property_hash"]:
                groups["property", row["model_hash"], row["property_hash"], row["norm"]].append(claim)
            sample = sample_key(row)
            if sample is not None:
                groups["sample", sample].append(claim)
    return groups


def sample_key(row: dict[str, Any]) -> Hashable | None:
    """The ball around a sample that the row asks about, whatever its radius; None where it asks about another set."""
    if math.isnan(row["index"]) or not row["norm"] or not _has_radius(row):
        return None
    label = None if math.isnan(row["label"]) else row["label"]
    return row["suite"], row["model_hash"], source(row), row["index"], row["norm"], label


def source(row: dict[str, Any]) -> tuple[str, str]:
    """The file of the sample and its clip box, from the property's name ("inputs.npz[3] linf 0.1 in [0, 1]").

    "" for either that the name does not tell.
    """
    file, bracket, rest = str(row["property"]).partition(f"[{row['index']:.0f}]")
    return (file, rest.partition(" in ")[2]) if bracket else ("", "")


def _comparable(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows about a sample can contradict each other: asked alike, they must be the very same question."""
    alike = one["question"] == other["question"] and (one["question"] == "radius" or one["radius"] == other["radius"])
    return one["property_hash"] == other["property_hash"] or not alike


def _has_radius(row: dict[str, Any]) -> bool:
    return row["question"] == "radius" or not math.isnan(row["radius"])


def _claims(row: dict[str, Any]) -> Iterator[_Claim]:
    """At most one safe and one unsafe claim."""
    chance = 0.0 if math.isnan(row["failure_probability"]) else row["failure_probability"]
    asked = 0.0 if math.isnan(row["radius"]) else row["radius"]
    semantics = frozenset({row["semantics"]} - {""})
    if row["verdict"] == "HOLDS":
        reach = row["certified"] if row["question"] == "radius" else asked
        if not math.isnan(reach):
            yield _Claim(row, True, reach, row["subject"], semantics, chance)
    reach = row["falsified"] if row["question"] == "radius" else (asked if row["verdict"] == "VIOLATED" else math.nan)
    if not math.isnan(reach):
        definite = row["verdict"] == "VIOLATED"
        guarantee = row["guarantee"] if definite and isinstance(row["guarantee"], dict) else {}
        # A witness is replayed on the network itself, whatever else the row certifies.
        subject = str(guarantee.get("subject") or NETWORK)
        semantics, strict = _confirmed_semantics(row), is_strict(row["witness"])
        yield _Claim(row, False, reach, subject, semantics, chance if definite else 0.0, strict)


def is_strict(witness: Any) -> bool:
    """Whether a witness lies in the input set as written, and not only within a tolerance of it."""
    return not isinstance(witness, dict) or bool(witness.get("in_written_set", True))


def _confirmed_semantics(row: dict[str, Any]) -> frozenset[str]:
    """Under which semantics the row's witness is a violation; empty where nothing confirmed it.

    The exact replay speaks for `real`. Where there is none (a large network, an activation that leaves the rationals),
    the double-precision one does: a sound proof keeps a distance from the boundary far above its rounding.
    """
    witness = row["witness"]
    if not isinstance(witness, dict) or not witness.get("confirmed_by"):
        return frozenset()
    replays = witness.get("replays")
    unsafe = {r.get("arithmetic"): bool(r.get("unsafe")) for r in replays or () if isinstance(r, dict)}
    unsafe.setdefault(witness["confirmed_by"], True)
    real = unsafe.get("rational", unsafe.get("float64", False))
    return frozenset({"real"} if real else ()) | frozenset({"float32"} if unsafe.get("onnxruntime") else ())


def _expectation(row: dict[str, Any]) -> bool | None:
    """Whether the row's definite answer is the expected one; None where there is nothing to compare."""
    said = {"HOLDS": "unsat", "VIOLATED": "sat"}.get(row["verdict"])
    if row["question"] == "radius" or said is None or row["expected"] not in ("sat", "unsat"):
        return None
    return None if row["subject"] != NETWORK and said == "unsat" else said == row["expected"]


def _against_expected(row: dict[str, Any]) -> Iterator[Contradiction]:
    if _expectation(row) is not False or _is_probabilistic(row):
        return
    said = f"{_says(row)} {row['verdict']} where {row['expected']} is {{}} for {_where(row)}"
    if row["verdict"] == "VIOLATED":
        witness = row["witness"] if isinstance(row["witness"], dict) else {}
        by = witness.get("confirmed_by")
        said += f"; its witness is confirmed by {by}" if by else "; no replay confirms its witness"
        said += "" if is_strict(witness) else ", and lies in the float box but not in the written one"
    firm = row["firmness"] == "firm"
    kind = ContradictionKind.EXPECTED if firm else ContradictionKind.REPORTED
    if row["verdict"] == "VIOLATED" and not is_strict(row["witness"]):
        kind = ContradictionKind.TOLERATED
    yield Contradiction(kind, said.format("firmly expected" if firm else "reported") + ".", (int(row["line"]),))


def _is_probabilistic(row: dict[str, Any]) -> bool:
    return bool(row["verdict"] == "HOLDS" and row["failure_probability"] > 0)


def _misses(df: pd.DataFrame) -> Iterator[tuple[MissCount, list[int]]]:
    claims = [r for r in records(df) if _is_probabilistic(r)]
    missed = {int(r["line"]) for r in claims if _expectation(r) is False and r["firmness"] == "firm"}
    for safe, unsafe in _pairs(df):
        if (
            safe.chance
            and unsafe.semantics
            and unsafe.strict
            and unsafe.radius <= safe.radius
            and safe.subject == unsafe.subject
        ):
            missed.add(safe.line)
    for method, subject in sorted({(r["method"], r["subject"]) for r in claims}):
        own = [r for r in claims if (r["method"], r["subject"]) == (method, subject)]
        lines = sorted(missed & {int(r["line"]) for r in own})
        alpha = max(r["failure_probability"] for r in own)
        yield MissCount(method, subject, len(own), len(lines), alpha), lines


def _miss_sentence(count: MissCount, lines: list[int]) -> Contradiction:
    said = (
        f"{count.verifier}: {count.misses} of {count.claims} answers about the {count.subject} are contradicted; each "
        f"may be wrong with probability {count.alpha:g}, which allows about {count.allowed:.3g}."
    )
    return Contradiction(ContradictionKind.MISS, said, tuple(lines))


def _says(row: dict[str, Any]) -> str:
    return f"{row['method']} (row {row['line']}) says"


def _safe_words(claim: _Claim) -> str:
    row = claim.row
    if row["question"] == "radius":
        return f"{row['method']} (row {row['line']}) certifies {_norm(row)} radius {claim.radius:.6g}"
    return f"{_says(row)} HOLDS{_at(row)}"


def _unsafe_words(claim: _Claim) -> str:
    row, by = claim.row, (claim.row["witness"] or {}).get("confirmed_by") if claim.semantics else None
    witness = f"{row['method']} (row {row['line']}) has a witness"
    confirmed = f", confirmed by {by}" if by else ""
    if row["question"] == "radius":
        return f"{witness} within {_norm(row)} radius {claim.radius:.6g}{confirmed}"
    return f"{witness}{_at(row)}{confirmed}"


def _at(row: dict[str, Any]) -> str:
    return "" if math.isnan(row["radius"]) else f" at {_norm(row)} radius {row['radius']:.6g}"


def _norm(row: dict[str, Any]) -> str:
    return NORM_NAMES.get(row["norm"], str(row["norm"]))


def _names(semantics: frozenset[str]) -> str:
    return " and ".join(sorted(semantics)) or "unstated"


def _where(row: dict[str, Any]) -> str:
    return f"instance {row['instance']} of model {row['model_label']}"

"""What is answered: verdict, reason, guarantee, evidence, statistics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Any

from verifkit.arrays import Array
from verifkit.evidence import Counts, Evidence, PrivacyCounts, Witness
from verifkit.layer_bounds import LayerBounds


class Verdict(StrEnum):
    """HOLDS: no input of the set reaches the unsafe set. VIOLATED: a confirmed witness does. UNKNOWN: neither."""

    HOLDS = "HOLDS"
    VIOLATED = "VIOLATED"
    UNKNOWN = "UNKNOWN"


class Reason(StrEnum):
    """Why a verdict is UNKNOWN; `advice` says what to do next."""

    INCOMPLETE = "incomplete"
    TIMEOUT = "timeout"
    MEMOUT = "memout"
    UNSUPPORTED = "unsupported"
    UNCONFIRMED = "unconfirmed"
    ERROR = "error"

    @property
    def advice(self) -> str:
        """One sentence: what a user can do about it."""
        return _ADVICE[self]


_ADVICE = {
    Reason.INCOMPLETE: "this method could not decide it; try a complete verifier, where one takes it (`verifkit list`)",
    Reason.TIMEOUT: "time ran out; raise --timeout or shrink the input set",
    Reason.MEMOUT: "the memory limit was reached; raise --memory or use a cheaper verifier",
    Reason.UNSUPPORTED: "this verifier cannot take this question; `verifkit list` shows which can",
    Reason.UNCONFIRMED: "the answer lies within numerical tolerance of the boundary; an exact method can decide it",
    Reason.ERROR: "the verifier failed; this is a bug worth reporting",
}


class Subject(StrEnum):
    """What the guarantee is about: the given network, or the smoothed classifier built from it."""

    NETWORK = "network"
    SMOOTHED = "smoothed classifier"


class Semantics(StrEnum):
    """REAL: exact arithmetic on the stored weights. FLOAT32: the deployed execution."""

    REAL = "real"
    FLOAT32 = "float32"


class Arithmetic(StrEnum):
    """How the proof was computed.

    EXACT: rationals. ROUNDED: floating point with outward rounding, still a proof. FLOAT: ordinary floating point.
    SOLVER: an external solver's word within its tolerances.
    """

    EXACT = "exact"
    ROUNDED = "rounded"
    FLOAT = "float"
    SOLVER = "solver"


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """What exactly is claimed. A record, not a ladder: no field outranks another.

    failure_probability: 0, or alpha. scope: what that probability counts ("per input" or "simultaneous").
    """

    subject: Subject = Subject.NETWORK
    semantics: Semantics = Semantics.REAL
    arithmetic: Arithmetic
    failure_probability: float = 0.0
    scope: str = "per input"
    assumptions: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for people."""
        chance = f", wrong with probability at most {self.failure_probability:g} {self.scope}"
        assumed = f"; assumes {', '.join(self.assumptions)}" if self.assumptions else ""
        certain = chance if self.failure_probability else ""
        return f"about the {self.subject}, {self.semantics} semantics, {self.arithmetic} arithmetic{certain}{assumed}"


Statistics = Mapping[str, float | int | str]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a verifier's own code returns; `Verifier.verify` checks it and makes the `Result`.

    witness: a candidate input, flat (floats or rationals); it is replayed before anyone calls it a violation.
    bounds: of the values inside the network, from a method that has any.
    """

    verdict: Verdict
    reason: Reason | None = None
    detail: str = ""
    guarantee: Guarantee | None = None
    evidence: Evidence | None = None
    witness: Sequence[Fraction] | Array | None = None
    statistics: Statistics = field(default_factory=dict)
    bounds: LayerBounds | None = field(default=None, compare=False, repr=False)

    @classmethod
    def holds(
        cls,
        guarantee: Guarantee,
        evidence: Evidence | None,
        *,
        detail: str = "",
        statistics: Statistics | None = None,
        bounds: LayerBounds | None = None,
    ) -> Outcome:
        return cls(
            verdict=Verdict.HOLDS,
            guarantee=guarantee,
            evidence=evidence,
            detail=detail,
            statistics=statistics or {},
            bounds=bounds,
        )

    @classmethod
    def violated(
        cls, witness: Sequence[Fraction] | Array, *, detail: str = "", statistics: Statistics | None = None
    ) -> Outcome:
        return cls(verdict=Verdict.VIOLATED, witness=witness, detail=detail, statistics=statistics or {})

    @classmethod
    def unknown(
        cls,
        reason: Reason,
        detail: str = "",
        *,
        statistics: Statistics | None = None,
        bounds: LayerBounds | None = None,
    ) -> Outcome:
        return cls(verdict=Verdict.UNKNOWN, reason=reason, detail=detail, statistics=statistics or {}, bounds=bounds)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A checked answer. `reason` is set exactly where the verdict is UNKNOWN.

    bounds: of every value inside the network over the question's inputs, from a method that has any; None where a case
    of the property was not bounded.
    """

    verdict: Verdict
    reason: Reason | None
    detail: str
    guarantee: Guarantee | None
    evidence: Evidence | None
    verifier: str
    query_digest: str
    seed: int
    wall_seconds: float
    cpu_seconds: float
    statistics: Statistics = field(default_factory=dict)
    bounds: LayerBounds | None = field(default=None, compare=False, repr=False)

    @property
    def word(self) -> str:
        """The competition's word: unsat, sat, unknown, timeout or error."""
        if self.verdict is Verdict.HOLDS:
            return "unsat"
        if self.verdict is Verdict.VIOLATED:
            return "sat"
        return str(self.reason) if self.reason in (Reason.TIMEOUT, Reason.ERROR) else "unknown"

    @property
    def witness(self) -> Witness | None:
        """The confirmed counterexample, if there is one."""
        return self.evidence if isinstance(self.evidence, Witness) else None

    def to_json(self) -> dict[str, Any]:
        """A JSON object: everything but arrays of bounds."""
        return {
            "verdict": str(self.verdict),
            "word": self.word,
            "reason": None if self.reason is None else str(self.reason),
            "detail": self.detail,
            "guarantee": None if self.guarantee is None else guarantee_to_json(self.guarantee),
            "witness": None if self.witness is None else witness_to_json(self.witness),
            "counts": counts_to_json(self.evidence) if isinstance(self.evidence, Counts) else None,
            "verifier": self.verifier,
            "query": self.query_digest,
            "seed": self.seed,
            "wall_seconds": round(self.wall_seconds, 6),
            "cpu_seconds": round(self.cpu_seconds, 6),
            "statistics": {k: _finite(v) for k, v in self.statistics.items()},
        }


def _finite(value: float | int | str) -> float | int | str | None:
    """JSON has no infinities and no NaN."""
    return value if not isinstance(value, float) or math.isfinite(value) else None


def guarantee_to_json(guarantee: Guarantee) -> dict[str, Any]:
    return {
        "subject": str(guarantee.subject),
        "semantics": str(guarantee.semantics),
        "arithmetic": str(guarantee.arithmetic),
        "failure_probability": guarantee.failure_probability,
        "scope": guarantee.scope,
        "assumptions": list(guarantee.assumptions),
    }


def witness_to_json(witness: Witness) -> dict[str, Any]:
    return {
        "x": [float(v) for v in witness.x],
        "x_exact": [str(v) for v in witness.x],
        "y": list(witness.output),
        "confirmed_by": witness.confirmed_by,
        "in_written_set": witness.in_written_set,
        "within_tolerance": witness.within_tolerance,
        "replays": [{"arithmetic": r.arithmetic, "y": list(r.output), "unsafe": r.unsafe} for r in witness.replays],
    }


def counterexample_text(x: Iterable[float], y: Iterable[float]) -> str:
    """A counterexample in the competition's form: ((X_0 v) ... (Y_0 v) ...), flat, in C order."""
    values = [f"({letter}_{i} {float(v)!r})" for letter, vector in (("X", x), ("Y", y)) for i, v in enumerate(vector)]
    return f"({' '.join(values)})"


def counts_to_json(counts: Counts) -> dict[str, Any]:
    if isinstance(counts, PrivacyCounts):
        fields = dataclasses.asdict(counts)
        return {"model": fields.pop("model_digest"), **fields}
    return {
        "selection": list(counts.selection),
        "estimation": list(counts.estimation),
        "chosen": counts.chosen,
        "sigma": counts.sigma,
        "alpha": counts.alpha,
        "lower": counts.lower,
        "rivals": counts.rivals,
        "radius": counts.radius,
        "norm": counts.norm,
        "n": counts.n,
        "mode": counts.mode,
        "runner_up": counts.runner_up,
        "noise": counts.noise,
        "parameters": dict(counts.parameters),
        "center_error": counts.center_error,
        "key": list(counts.key),
        "backend": counts.backend,
        "model": counts.model_digest,
    }

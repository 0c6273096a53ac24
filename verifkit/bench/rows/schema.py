"""One line of `OUT/rows.jsonl`: one instance put to one verifier, with everything needed to judge and repeat it.

Every key is always present; what does not apply is null. `word` is the competition's word for the verdict. Infinities
and NaN, which JSON lacks, are null.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verifkit.errors import SuiteError
from verifkit.result import Verdict

SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """The record of one question to one verifier.

    key: sha256 over what decides the answer (`verifkit.bench.rows.store.row_key`). question: "verify" or "radius".
    model, property: names as the suite writes them; their hashes are of the content. norm, radius: of the ball asked
    about (radius null for a radius question). index, label: of the sample in its `.npz` file. predicted: the model's
    own class at the center. expected, firmness: from the suite. version: of the distribution that brings the verifier.
    timeout, memory_limit, node_limit, sample_limit: the limits in force (seconds, bytes, subproblems, draws). seed:
    what the verifier was given, the run's seed plus `repeat`. grid: of a radius question that asks for a curve, the
    radii at which the certified accuracy is wanted. audit: null, or why the study added this attack by itself:
    "inside", at a radius that some verifier certified, where it must not succeed; "outside", a little above an exact
    radius, where it should (which says something of the attack, nothing of soundness).

    verdict: for a radius question HOLDS where something above 0 is certified, VIOLATED where the center itself is
    misclassified, else UNKNOWN. kind: the verifier's kind for this norm. certified, falsified, complete, undecided: the
    bracket of a radius question (`verifkit.radius.Radius`). wall_seconds: from the start of the worker process to its
    end. margin: what the method could prove of how far the outputs stay away from the unsafe set, a lower bound on the
    least over its parts of the largest violated row; negative where that is open. verifier_seconds: inside the verifier
    alone. load_seconds: reading model and property in the worker. cpu_seconds, peak_memory_bytes: of the worker and its
    children. environment: short hash into `OUT/environment.json`. output: the last lines that a failed worker printed.
    evidence: the file with the evidence, relative to OUT, null where it was not kept.
    """

    schema: int = SCHEMA
    key: str
    suite: str
    instance: str
    question: str
    model: str
    model_hash: str
    property: str
    property_hash: str
    norm: str | None
    radius: float | None
    index: int | None
    label: int | None
    grid: list[float] | None
    audit: str | None
    predicted: int | None
    expected: str | None
    firmness: str | None
    verifier: str
    options: dict[str, Any]
    version: str
    timeout: float | None
    memory_limit: int | None
    node_limit: int | None
    sample_limit: int | None
    seed: int
    repeat: int
    verdict: str
    reason: str | None
    word: str
    detail: str
    guarantee: dict[str, Any] | None
    kind: str | None
    margin: float | None
    witness: dict[str, Any] | None
    counts: dict[str, Any] | None
    evidence: str | None
    certified: float | None
    falsified: float | None
    complete: bool | None
    undecided: list[list[Any]] | None
    wall_seconds: float
    verifier_seconds: float | None
    load_seconds: float | None
    cpu_seconds: float | None
    peak_memory_bytes: int | None
    started: str
    environment: str
    output: str | None
    statistics: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object, keys in the order above."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def to_line(self) -> bytes:
        """The row as a line of `rows.jsonl`, its newline included."""
        return json.dumps(self.to_json(), allow_nan=False, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, values: Any) -> Row:
        """The row of a JSON object; keys it does not know are left out. Raises `SuiteError`."""
        if not isinstance(values, Mapping):
            raise SuiteError("a row is a JSON object")
        if values.get("schema") != SCHEMA:
            raise SuiteError(f"rows of schema {values.get('schema')!r} are not understood, only {SCHEMA}")
        names = [f.name for f in dataclasses.fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise SuiteError(f"the row lacks {', '.join(repr(name) for name in missing)}")
        if values["verdict"] not in tuple(Verdict) or not isinstance(values["verifier"], str):
            raise SuiteError("the row's verdict or verifier is none")
        for name in ("wall_seconds", "verifier_seconds", "certified", "falsified", "radius", "margin"):
            if not isinstance(values[name], int | float | None):
                raise SuiteError(f"the row's {name} is no number")
        return cls(**{name: values[name] for name in names})

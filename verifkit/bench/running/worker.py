"""What happens inside a worker process: read one job from its folder, do it, leave one JSON object there.

There are two kinds of job. "inspect" loads a model (which compares it with onnxruntime), builds the questions of all
its instances, says their hashes, and keeps model and questions ready for the workers to come, so that the loading and
the comparison happen once for each model. "answer" puts one question to one verifier. Only what an inspection wrote is
ever unpickled, and no verifier's code runs in an inspection.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from verifkit import registry
from verifkit.bench.suites.instance import (
    Arrays,
    Instance,
    Question,
    RadiusQuestion,
    build_question,
    predicted_class,
)
from verifkit.budget import Budget
from verifkit.capabilities import Kind
from verifkit.errors import VerifkitError
from verifkit.evidence import Counts
from verifkit.io.evidence_file import KeptEvidence, save_evidence
from verifkit.io.onnx import load_model
from verifkit.model import Model
from verifkit.query import Query, input_norm
from verifkit.radius import Radius, RadiusEnd
from verifkit.result import Reason, Result, Verdict, counts_to_json, guarantee_to_json, witness_to_json
from verifkit.verifier import Verifier

JOB = "job.json"
RESULT = "result.json"
EVIDENCE = "evidence.npz"
OUTPUT = "output"
UNWRITTEN = "unwritten-"
"""With the error's number: the name that the job gets where the disk took no result. Renaming needs no space."""
_MODEL = "model.pickle"
_MOST_STATISTICS = 1000
_LONGEST_TEXT = 10_000


def run_job(folder: Path) -> None:
    """Does the job in `folder` and writes its result there, whatever happens short of the process's death."""
    started = time.perf_counter()
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    left: list[KeptEvidence] = []
    try:
        result = _jsonable(inspect(job) if job["kind"] == "inspect" else answer(job, started, left))
    except VerifkitError as error:
        result = {"error": _words(error), "mistake": True}
    except MemoryError:
        result = {"memout": True}
    except BaseException as error:  # noqa: BLE001 (a verifier may raise anything, SystemExit too: all become a row)
        _print_traceback()
        said = _words(error)
        what = f"{type(error).__name__}: {said}" if said else type(error).__name__
        number = error.errno if isinstance(error, OSError) else None
        result = {"error": f"the verifier failed with {what}", "mistake": False, "errno": number}
    try:
        with _whole(folder / RESULT) as file:
            file.write(json.dumps(result, allow_nan=False).encode())
        if job.get("evidence") and left:  # after the answer, which stands even if this takes too long
            with _whole(folder / EVIDENCE) as file:
                save_evidence(file, left[0])
    except OSError as error:
        (folder / JOB).replace(folder / f"{UNWRITTEN}{error.errno}")
    except VerifkitError:  # evidence of a third party's own kind: the answer stands without it
        _print_traceback()


def _print_traceback() -> None:
    with contextlib.suppress(OSError, ValueError):  # the disk may be full, or the verifier have closed the stream
        traceback.print_exc(file=sys.stderr)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that has its name only once it is whole."""
    beside = path.with_name(f"{path.name}.new")
    with open(beside, "wb") as file:
        yield file
    beside.replace(path)


def _words(error: BaseException) -> str:
    """The first line of what an exception says, if it can be made to say anything."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 (whatever an exception of a verifier does when it is printed)
        return "a message that cannot be printed"
    return _text(lines[0]) if lines else ""


def inspect(job: Mapping[str, Any]) -> dict[str, Any]:
    """Loads the model and builds the questions of `job["instances"]`; keeps them in the folder `job["ready"]`.

    `job["numbers"]`: under which the questions are kept.
    """
    ready = Path(job["ready"])
    if (ready / _MODEL).exists():  # by an earlier inspection
        model: Model = pickle.loads((ready / _MODEL).read_bytes())
    else:
        model = load_model(job["model_path"], require_network=False)
        _keep(ready / _MODEL, model)
    samples: Arrays = {}
    found: list[dict[str, Any]] = []
    for number, values in zip(job["numbers"], job["instances"], strict=True):
        instance = Instance.from_json(values)
        try:
            question = build_question(instance, model, samples)
            norm = question.norm if isinstance(question, RadiusQuestion) else input_norm(question.input_set)
            predicted = predicted_class(instance, model, samples)
        except VerifkitError as error:
            found.append({"error": str(error)})
            continue
        _keep(ready / f"{number}.pickle", question)
        found.append({"property_hash": question.digest, "norm": norm, "predicted": predicted})
    return {"model_hash": model.digest, "instances": found}


def _keep(path: Path, value: Model | Question) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))
    beside.replace(path)  # never half written, whenever the process ends


def answer(job: Mapping[str, Any], started: float, left: list[KeptEvidence]) -> dict[str, Any]:
    """Puts question number `job["number"]` of an inspected model to a verifier, within what is left of the limit.

    left: gets the evidence of a definite answer.
    """
    ready = Path(job["ready"])
    model: Model = pickle.loads((ready / _MODEL).read_bytes())
    question: Question = pickle.loads((ready / f"{job['number']}.pickle").read_bytes())
    verifier = registry.create(job["verifier"], job["options"])
    loaded = time.perf_counter()
    budget = Budget(**job["limits"])
    if budget.seconds is not None:
        budget = replace(budget, seconds=max(budget.seconds - (loaded - started), 1e-3))
    if isinstance(question, RadiusQuestion):
        fields = _ask_radius(verifier, question, model, budget, job["seed"], left)
    else:
        query = Query(model, question)
        result = verifier.verify(query, budget=budget, seed=job["seed"])
        fields = _verdict_fields(result, len(query.cases()))
        _leave(result, left)
    done = time.perf_counter()
    return {**fields, "verifier_seconds": done - loaded, "load_seconds": loaded - started}


def _leave(result: Result, left: list[KeptEvidence]) -> None:
    if result.verdict is not Verdict.UNKNOWN and result.evidence is not None:
        left.append(KeptEvidence(result.evidence, result.query_digest, result.verifier))


def _verdict_fields(result: Result, cases: int = 1) -> dict[str, Any]:
    evidence = result.evidence
    return {
        "verdict": str(result.verdict),
        "reason": None if result.reason is None else str(result.reason),
        "word": result.word,
        "detail": result.detail,
        "guarantee": None if result.guarantee is None else guarantee_to_json(result.guarantee),
        "witness": None if result.witness is None else witness_to_json(result.witness),
        "counts": counts_to_json(evidence) if isinstance(evidence, Counts) else None,
        "margin": _margin(result, cases),
        "statistics": dict(islice(result.statistics.items(), _MOST_STATISTICS)),
    }


def _margin(result: Result, cases: int) -> float | None:
    """The least over all `cases` of the property; None where some were not bounded."""
    names = ["margin"] if cases == 1 else [f"case {k}: margin" for k in range(cases)]
    margins = [result.statistics.get(name) for name in names]
    finite = [m for m in margins if isinstance(m, float) and math.isfinite(m)]
    return min(finite) if finite and len(finite) == cases else None


def _ask_radius(
    verifier: Verifier, question: RadiusQuestion, model: Model, budget: Budget, seed: int, left: list[KeptEvidence]
) -> dict[str, Any]:
    # A suite lists its falsifiers as rows of their own: no attack beside, but for a complete method to start from.
    kind = verifier.capabilities.kinds.get(question.norm)
    complete, proving = kind is Kind.COMPLETE, kind is not Kind.FALSIFIER
    radius = verifier.radius(question.family(model), budget=budget, seed=seed, attack=complete)
    certified, falsified = _end(radius.certified), _end(radius.falsified)
    verdict = Verdict.UNKNOWN
    if certified:
        verdict = Verdict.HOLDS
    elif radius.misclassified:
        verdict = Verdict.VIOLATED
    proof = radius.certified.result if radius.certified and certified else None
    attack = radius.falsified.result if radius.falsified else None
    spoken = proof or attack or radius.center
    if spoken is not None:
        _leave(spoken, left)
    reason, detail = (None, "") if verdict is not Verdict.UNKNOWN else _undecided(radius, proving=proving)
    words = {Verdict.HOLDS: "unsat", Verdict.VIOLATED: "sat"}
    fallback = str(reason) if reason in (Reason.TIMEOUT, Reason.ERROR) else "unknown"
    return {
        **(_NOTHING if spoken is None else _verdict_fields(spoken)),
        "verdict": str(verdict),
        "reason": None if reason is None else str(reason),
        "word": words.get(verdict, fallback),
        "detail": detail or (spoken.detail if spoken is not None else radius.detail),
        "witness": None if attack is None or attack.witness is None else witness_to_json(attack.witness),
        "certified": certified,
        "falsified": falsified,
        "complete": radius.complete,
        "undecided": [[tried, str(why)] for tried, why in radius.undecided],
    }


def _end(end: RadiusEnd | None) -> float | None:
    """The radius at one end of a bracket. Raises `ValueError` for what is none."""
    if end is None:
        return None
    value = float(end.value)
    if not 0 <= value < math.inf:
        raise ValueError(f"a radius of {value}")
    return value


_NOTHING: Mapping[str, Any] = {"guarantee": None, "counts": None, "margin": None, "statistics": {}}


def _undecided(radius: Radius, *, proving: bool) -> tuple[Reason, str]:
    """Why nothing above 0 is certified: the reason at the smallest radius tried, or that none could be tried."""
    if radius.undecided:
        return min(radius.undecided, key=lambda tried: tried[0])[1], ""
    if radius.falsified is not None and not proving:
        return Reason.INCOMPLETE, "a method that only looks for violations certifies no radius; it found a violation"
    if radius.falsified is not None:
        least = f"{radius.falsified.value:.6g}"
        return (
            Reason.INCOMPLETE,
            f"every radius that was tried, down to {least}, is violated; smaller ones were not tried",
        )
    return Reason.TIMEOUT, "no radius could be tried in time"


def _jsonable(value: Any) -> Any:
    """`value` in JSON's own types: what a verifier put into its statistics may be NumPy's, infinite or anything."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {_text(str(k)): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) >= 2**63:
        return _text(hex(value))  # in digits Python writes only the first few thousand
    return value if value is None or isinstance(value, bool | int | float) else _text(str(value))


def _text(text: str) -> str:
    """Something that UTF-8 can hold, and a report can show."""
    kept = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ..."
    return kept.encode("utf-8", "backslashreplace").decode("utf-8")


def main(folder: str) -> None:
    """The whole life of a worker that was started as a new interpreter."""
    run_job(Path(folder))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads and exit handlers of a verifier have no say any more

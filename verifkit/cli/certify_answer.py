"""What `verifkit certify` asks and says, without the command line: a log of one certificate for each input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from verifkit.analysis.smoothing.audit import RADII
from verifkit.analysis.smoothing.center import require_classes
from verifkit.analysis.smoothing.ledger import AlphaLedger, accuracy_lower, bonferroni
from verifkit.analysis.smoothing.log import ABSTAIN, Row, mend, read_log, write_rows
from verifkit.bench.suites.instance import read_samples
from verifkit.budget import Budget, BudgetExhausted, Clock
from verifkit.cli.audit_answer import check_radii, share
from verifkit.errors import OptionError, PropertyError, SuiteError
from verifkit.io.onnx import load_model
from verifkit.model import Model
from verifkit.registry import create


class Certificate(Protocol):
    """What one certificate says: the smoothed classifier answers `chosen` within `radius` (0: abstains)."""

    @property
    def chosen(self) -> int: ...
    @property
    def radius(self) -> float: ...


@runtime_checkable
class Certifies(Protocol):
    """A verifier that certifies an input whatever its class, with failure probability `alpha`."""

    @property
    def alpha(self) -> float: ...

    def certify(
        self, model: Model, x: Any, *, radii: Sequence[float] = (), budget: Budget, seed: int = 0
    ) -> Certificate: ...


@dataclass(frozen=True)
class CertifyAsked:
    """The question as the command line puts it. every, most: which inputs of the file. radii: of the accuracy, and
    where mode "anytime" may stop. simultaneous: all certificates of the run are to hold at once."""

    model: str
    data: str
    out: str
    verifier: str
    options: Mapping[str, str]
    every: int
    most: int | None
    radii: tuple[float, ...]
    simultaneous: bool
    rho: float


@dataclass(frozen=True)
class CertifyAnswer:
    """rows: of the whole log. asked: how many inputs it is to have. stood: rows that stood in it before. alpha: per
    input; total: chance that any of the rows is wrong, at most."""

    rows: tuple[Row, ...]
    asked: int
    stood: int
    alpha: float
    total: float
    rho: float
    radii: tuple[float, ...]
    out: str
    described: str
    wall_seconds: float

    @property
    def complete(self) -> bool:
        return len(self.rows) == self.asked

    @property
    def counts(self) -> tuple[int, int, int]:
        """Rows with a radius, abstentions, rows whose class is the label."""
        return (
            sum(row.radius > 0 for row in self.rows),
            sum(row.predict == ABSTAIN for row in self.rows),
            sum(row.correct for row in self.rows),
        )

    def accuracy(self) -> list[dict[str, float]]:
        """Certified accuracy over the rows, and what of it holds for them all with probability 1 - rho."""
        found = []
        for radius in self.radii if self.rows else ():
            sure = sum(row.correct and float(row.radius) >= radius for row in self.rows)
            lower = accuracy_lower(sure, len(self.rows), self.alpha, self.rho)
            found.append({"radius": radius, "certified": sure / len(self.rows), "dataset": lower})
        return found

    def to_text(self) -> str:
        certified, abstained, correct = self.counts
        lines = [
            f"certify: {len(self.rows)} of {self.asked} inputs in {self.out}"
            + (f", {self.stood} of them stood already" if self.stood else ""),
            f"by: {self.described}",
            f"rows: {certified} with a radius, {abstained} abstentions, {correct} correct",
            f"guarantee: about the smoothed classifier, wrong with probability at most {self.alpha:g} per input; all "
            f"rows hold at once with probability at least {share(1.0 - self.total)}",
            f"time: {self.wall_seconds:.3f} s wall",
            "",
            f"radius  certified  data set (with probability {1 - self.rho:g})",
        ]
        lines += [f"{a['radius']:<6g}  {share(a['certified']):>9}  {share(a['dataset']):>8}" for a in self.accuracy()]
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        return {
            "out": self.out,
            "rows": len(self.rows),
            "asked": self.asked,
            "stood": self.stood,
            "complete": self.complete,
            **dict(zip(("certified", "abstained", "correct"), self.counts, strict=True)),
            "alpha": self.alpha,
            "total": self.total,
            "rho": self.rho,
            "accuracy": self.accuracy(),
            "wall_seconds": round(self.wall_seconds, 6),
        }


def ask_certify(asked: CertifyAsked, limits: Budget, seed: int) -> CertifyAnswer:
    """Certifies every input that the log does not hold yet, row by row; raises `VerifkitError` for a user's mistake.

    An input that stands in the log, an abstention too, is not certified again: a second attempt is a second chance to
    be wrong. Where time runs out, the rows written stand.
    """
    clock = Clock(limits)
    check_radii(asked.radii)
    if asked.every < 1 or (asked.most is not None and asked.most < 1):
        raise OptionError("--every and --max take whole numbers from 1 on")
    if not 0 < asked.rho < 1:
        raise OptionError(f"--rho lies strictly between 0 and 1, not {asked.rho:g}")
    x, y = read_samples(asked.data)
    indices = range(0, len(x), asked.every)[: asked.most]
    if not indices:
        raise SuiteError(f"'{asked.data}' holds no inputs")
    verifier = _certifier(asked, len(indices))
    model = load_model(asked.model, require_network=False)
    fed = _fed(asked.data, x, y, indices, model)
    described = verifier.describe()  # type: ignore[attr-defined]  # it is a `Verifier`
    standing = _standing(asked.out, _run(model, fed, y, described, asked, seed), indices)
    ledger = AlphaLedger(verifier.alpha)
    for row in standing:
        ledger.spend(row.idx)

    def certified() -> Iterator[Row]:
        for at, idx in enumerate(indices):
            if idx in done:
                continue
            started = clock.elapsed
            ledger.spend(idx)
            try:
                budget = limits if limits.seconds is None else clock.share(1.0)
                found = verifier.certify(model, fed[at], radii=asked.radii, budget=budget, seed=_seed(seed, idx))
            except BudgetExhausted:
                return  # the same draws again, once there is time: no second chance
            predict = found.chosen if found.radius > 0 else ABSTAIN
            new.append(Row.certified(idx, int(y[idx]), predict, found.radius, clock.elapsed - started))
            yield new[-1]

    done = {row.idx for row in standing}
    new: list[Row] = []
    write_rows(asked.out, certified())
    rows = (*standing, *new)
    largest = max((float(row.radius) for row in rows), default=0.0)
    usual = tuple(r for r in RADII if r <= largest)
    return CertifyAnswer(
        rows,
        len(indices),
        len(standing),
        verifier.alpha,
        ledger.total,
        asked.rho,
        tuple(sorted(set(asked.radii))) or usual,
        asked.out,
        described,
        clock.elapsed,
    )


def _seed(seed: int, idx: int) -> int:
    """Of one row: equal inputs have draws of their own, as the data-set column takes rows to be independent."""
    return int.from_bytes(hashlib.sha256(f"{seed} {idx}".encode()).digest()[:8], "big")


def _certifier(asked: CertifyAsked, inputs: int) -> Certifies:
    """The verifier, at alpha per input or, simultaneous, at its share of it."""
    verifier = create(asked.verifier, asked.options)
    if not isinstance(verifier, Certifies):
        raise OptionError(
            f"verifier '{asked.verifier}' makes no such certificates: certify takes smoothing; `verifkit radius` asks "
            "any verifier about one input"
        )
    if not asked.simultaneous:
        return verifier
    alpha = repr(bonferroni(verifier.alpha, inputs))
    shared = create(asked.verifier, {**asked.options, "alpha": alpha})
    assert isinstance(shared, Certifies)
    return shared


def _fed(path: str, x: np.ndarray, y: np.ndarray, indices: range, model: Model) -> np.ndarray:
    """The inputs as the model is fed them, (inputs, ...): the certificates are about these numbers."""
    require_classes(model)
    if x[0].size != model.n_inputs:
        raise PropertyError(
            f"each input in '{path}' has shape {list(x.shape[1:])}, that is {x[0].size} entries, but model "
            f"'{model.name}' has {model.n_inputs} inputs (shape {list(model.input_shape)})"
        )
    with np.errstate(over="ignore"):
        fed = x[list(indices)].astype(model.dtype)
    for at, idx in enumerate(indices):
        if not np.isfinite(fed[at]).all():
            kind = np.dtype(model.dtype).name
            raise PropertyError(f"input {idx} in '{path}' holds an entry that is no finite {kind}")
        if not 0 <= y[idx] < model.n_outputs:
            classes = f"model '{model.name}' has {model.n_outputs} classes"
            raise PropertyError(f"the label of input {idx} in '{path}' is {y[idx]}, but {classes}")
    return fed


def _run(
    model: Model, fed: np.ndarray, y: np.ndarray, described: str, asked: CertifyAsked, seed: int
) -> dict[str, Any]:
    """What makes two runs the same: only then may one go on with the other's log."""
    data = hashlib.sha256(np.ascontiguousarray(fed).tobytes() + y.astype(np.int64).tobytes()).hexdigest()
    return {
        "model": model.digest,
        "data": data,
        "verifier": described,
        "every": asked.every,
        "inputs": len(fed),
        "radii": sorted(asked.radii),
        "seed": seed,
    }


def _standing(out: str, run: dict[str, Any], indices: range) -> tuple[Row, ...]:
    """The rows that a run which was cut off left in the log; raises `SuiteError` where it is another run's."""
    beside = Path(f"{out}.run.json")
    if Path(out).exists():
        try:
            same = json.loads(beside.read_text(encoding="utf-8")) == run
        except (OSError, ValueError):
            same = False
        if not same:
            raise SuiteError(
                f"'{out}' is the log of another run: certifying its inputs again would spend alpha again; choose "
                "another --out, or remove it"
            )
        mend(out)
        rows = read_log(out) if Path(out).read_bytes().count(b"\n") > 1 else ()
        if not {row.idx for row in rows} <= set(indices):
            raise SuiteError(f"'{out}' has rows that are not of this run; choose another --out")
        return rows
    try:
        beside.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise SuiteError(f"'{beside}' cannot be written: {error.strerror}") from None
    return ()

"""One instance of a suite: a question by file names, cheap to hold and to send; the worker makes the real thing of it.

An instance is about a VNN-LIB file or about a sample of an `.npz` file (arrays `x` of shape (n, ...) and integer `y` of
shape (n,)). Radii and clip ends are kept as decimal text, so that 0.02 means 1/50 as everywhere else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from verifkit.budget import Budget
from verifkit.errors import PropertyError, SuiteError
from verifkit.input_sets import Box, Norm, center_in, rational
from verifkit.model import Model
from verifkit.properties import Polyhedron, Property, misclassified, robustness
from verifkit.query import QueryFamily

VERIFY = "verify"
RADIUS = "radius"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Row `index` of the file `inputs` with its label; radius None asks how far the guarantee reaches."""

    inputs: str
    index: int
    label: int
    norm: Norm
    radius: str | None
    clip: tuple[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One question of a suite.

    model_path, property_path: the files; model_name, property_name: what reports call them. expected: "unsat", "sat" or
    None where nothing is known; firmness: how well that is known. limits: of each verifier's answer. verifiers: the
    labels or names of the suite's verifiers that it is put to, None for all of them. grid: the radii, as decimal text,
    at which a report wants the certified accuracy (a curve); None where that was not asked. audit: why an attack was
    added to the study (`verifkit.bench.rows.schema.Row`), None for what the suite itself asks.
    """

    id: str
    suite: str
    model_path: str
    model_name: str
    property_path: str | None = None
    property_name: str
    sample: Sample | None = None
    expected: str | None = None
    firmness: str | None = None
    limits: Budget = field(default_factory=Budget)
    verifiers: tuple[str, ...] | None = None
    grid: tuple[str, ...] | None = None
    audit: str | None = None

    @property
    def question(self) -> str:
        """ "verify" or "radius"."""
        return RADIUS if self.sample is not None and self.sample.radius is None else VERIFY

    def bare(self) -> Instance:
        """The question alone, without names, limits and whom it is put to: equal where the same is asked."""
        return Instance(
            id="",
            suite="",
            model_path=self.model_path,
            model_name="",
            property_path=self.property_path,
            property_name="",
            sample=self.sample,
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Instance:
        given = dict(values)
        if given["sample"] is not None:
            clip = given["sample"]["clip"]
            given["sample"] = Sample(**{**given["sample"], "clip": None if clip is None else tuple(clip)})
        for name in ("verifiers", "grid"):
            if given[name] is not None:
                given[name] = tuple(given[name])
        return cls(**{**given, "limits": Budget(**given["limits"])})


@dataclass(frozen=True)
class RadiusQuestion:
    """A `QueryFamily` without its model: what is asked apart from whom it is asked about."""

    center: tuple[Fraction, ...]
    norm: Norm
    unsafe: tuple[Polyhedron, ...]
    clip: Box | None

    def family(self, model: Model) -> QueryFamily:
        return QueryFamily(model, self.center, self.norm, self.unsafe, self.clip)

    @property
    def digest(self) -> str:
        """sha256 of the canonical text."""
        clip = "" if self.clip is None else self.clip.canonical()
        center = " ".join(map(str, self.center))
        parts = [RADIUS, self.norm, center, clip, *sorted(d.canonical() for d in self.unsafe)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


Question = Property | RadiusQuestion
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def build_question(instance: Instance, model: Model, samples: Arrays) -> Question:
    """What the instance asks of `model`; `samples` keeps the `.npz` files read so far.

    Raises `PropertyError` where the question is malformed or does not fit the model.
    """
    if instance.sample is None:
        from verifkit.io.vnnlib import load_property

        assert instance.property_path is not None
        prop = load_property(instance.property_path)
        model.check_fits(prop)
        return prop
    sample = instance.sample
    x = _row(sample, samples)
    if x.size != model.n_inputs:
        raise PropertyError(
            f"sample {sample.index} of '{sample.inputs}' has {x.size} entries, but model '{model.name}' has "
            f"{model.n_inputs} inputs"
        )
    if sample.radius is None:
        clip = None
        if sample.clip is not None:
            low, high = map(rational, sample.clip)
            clip = Box((low,) * x.size, (high,) * x.size)
        family = RadiusQuestion(center_in(x, clip), sample.norm, misclassified(sample.label, model.n_outputs), clip)
        family.family(model).at(0)  # raises here, once, what every radius would
        return family
    return robustness(x, sample.label, sample.radius, sample.norm, n_outputs=model.n_outputs, clip=sample.clip)


def predicted_class(instance: Instance, model: Model, samples: Arrays) -> int | None:
    """The class that the model itself gives the sample; None for a question that is not about a sample."""
    if instance.sample is None:
        return None
    return int(np.argmax(model(_row(instance.sample, samples).reshape(1, -1))[0]))


def _row(sample: Sample, samples: Arrays) -> np.ndarray:
    if sample.inputs not in samples:
        samples[sample.inputs] = read_samples(sample.inputs)
    x, _ = samples[sample.inputs]
    return np.asarray(x[sample.index]).reshape(-1)


def read_samples(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The arrays `x` (n, ...) and `y` (n,) of an `.npz` file. Raises `SuiteError` naming the file."""
    if Path(path).is_file() and not zipfile.is_zipfile(path):
        raise SuiteError(f"'{path}' cannot be read as an .npz file: it is no archive of arrays, as np.savez writes it")
    try:
        with np.load(path, allow_pickle=False) as data:
            missing = [name for name in ("x", "y") if name not in data]
            if missing:
                raise SuiteError(f"'{path}' holds no array '{missing[0]}': it needs x (n, ...) and y (n,)")
            x, y = data["x"], data["y"]
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise SuiteError(f"'{path}' cannot be read as an .npz file of arrays x and y: {error}") from None
    if x.ndim < 2 or y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer) or x.dtype.kind not in "fiu":
        raise SuiteError(
            f"'{path}' needs numbers x of shape (n, ...) and integers y of shape (n,), not x {list(x.shape)} of "
            f"{x.dtype} and y {list(y.shape)} of {y.dtype}"
        )
    return x, y


@dataclass(frozen=True)
class Choice:
    """A verifier as a study wants it: its name and options, what groups call it, and limits in place of theirs."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    limits: Budget = field(default_factory=Budget)

    def takes(self, instance: Instance) -> bool:
        """Whether the instance is put to it."""
        return instance.verifiers is None or self.label in instance.verifiers or self.name in instance.verifiers


@dataclass(frozen=True)
class Suite:
    """Instances, in the order written, and the verifiers to put them to, perhaps none.

    seed, repeats: each question is asked with the seeds `seed`, ..., `seed + repeats - 1`.
    """

    name: str
    instances: tuple[Instance, ...]
    verifiers: tuple[Choice, ...] = ()
    seed: int = 0
    repeats: int = 1

    def require_verifiers(self) -> None:
        """Raises `SuiteError` where there are none to put the instances to."""
        if not self.verifiers:
            raise SuiteError(f"suite '{self.name}' names no verifiers: add [[verifiers]] to it, or name them")

    def put_to(self, verifiers: Sequence[tuple[str, Mapping[str, Any]]]) -> Suite:
        """Every instance put to each of these (name, options) pairs, whatever its group says."""
        free = tuple(replace(instance, verifiers=None) for instance in self.instances)
        return replace(self, instances=free, verifiers=tuple(Choice(name, options) for name, options in verifiers))


def distinct(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """The instances with ids that differ: the second `a/b` becomes `a/b#2`."""
    seen: Counter[str] = Counter()
    result = []
    for instance in instances:
        seen[instance.id] += 1
        count = seen[instance.id]
        result.append(instance if count == 1 else replace(instance, id=f"{instance.id}#{count}"))
    return tuple(result)

"""The groups of a study file, each a table that asks one kind of question: their readers, table to instances."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from verifkit.bench.suites.instance import Arrays, Choice, Instance, Sample, read_samples
from verifkit.bench.suites.suite_folder import read_folder, stem
from verifkit.bench.suites.tables import Table, Value
from verifkit.bench.suites.zoo import PREFIX
from verifkit.budget import Budget
from verifkit.errors import SuiteError, did_you_mean
from verifkit.input_sets import Norm

NORMS: tuple[Norm, ...] = ("0", "1", "2", "inf")


@dataclass(frozen=True)
class Common:
    """What every group starts from; samples: the `.npz` files read so far."""

    suite: str
    limits: Budget
    verifiers: Sequence[Choice]
    samples: Arrays = field(default_factory=dict)

    def restriction(self, table: Table) -> tuple[str, ...] | None:
        """The labels and names of verifiers that the group is put to; None for all."""
        value = table.get("verifiers")
        if value is None:
            return None
        known = dict.fromkeys(word for choice in self.verifiers for word in (choice.label, choice.name))
        words = []
        for entry in value.entries():
            word = entry.text()
            if word not in known:
                raise entry.wrong(
                    f"'{word}' is not among this study's [[verifiers]]; {did_you_mean(word, known)}"
                    f"there are: {', '.join(known) or 'none'}"
                )
            words.append(word)
        return tuple(dict.fromkeys(words))


def _vnnlib(table: Table, common: Common) -> list[Instance]:
    expected = table.get("expected")
    if expected is not None and expected.value not in ("sat", "unsat"):
        raise expected.takes('"sat" or "unsat"')
    properties = table.one_or_many("property", "properties") or [table["property"]]
    return [
        replace(
            shared,
            id=f"{_stem(model)}/{_stem(prop)}",
            property_path=prop.file_path(),
            property_name=_name(prop),
            expected=None if expected is None else str(expected.value),
        )
        for model, shared in _models(table, common)
        for prop in properties
    ]


def _robustness(table: Table, common: Common) -> list[Instance]:
    return _balls(table, common, radii=_radii(table))


def _radius(table: Table, common: Common) -> list[Instance]:
    return _balls(table, common)


def _curve(table: Table, common: Common) -> list[Instance]:
    return _balls(table, common, grid=_radii(table))


def _models(table: Table, common: Common) -> list[tuple[Value, Instance]]:
    """Each model of the group with an instance that lacks its question."""
    limits, verifiers = table.limits().over(common.limits), common.restriction(table)
    models = table.one_or_many("model", "models") or [table["model"]]
    return [
        (
            model,
            Instance(
                id="",
                suite=common.suite,
                model_path=(path := model.file_path()),
                model_name=Path(path).name if model.value.startswith(PREFIX) else Path(model.value).name,
                property_name="",
                limits=limits,
                verifiers=verifiers,
            ),
        )
        for model in models
    ]


def _radii(table: Table) -> list[str]:
    value = table["radii"]
    radii = value.numbers()
    if min(radii) < 0:
        raise value.takes("radii, none of them negative")
    return [str(r) for r in dict.fromkeys(radii)]


def _balls(
    table: Table, common: Common, *, radii: Sequence[str] | None = None, grid: Sequence[str] | None = None
) -> list[Instance]:
    """One instance for each model, norm, sample and radius; without radii the radius is asked for."""
    models, norms, inputs = _models(table, common), _norms(table), table["inputs"]
    # A center may lie outside the clip box if its ball reaches into it; an l0 ball reaches any distance.
    reach = Decimal("inf") if "0" in norms and radii is not None else max(map(Decimal, radii or ("0",)))
    clip, indices, labels = _samples(table, common, inputs, reach)
    if "0" in norms and clip is None:
        raise table.at("clip").wrong("missing: an l0 ball is unbounded without it")
    ends = None if clip is None else (str(clip[0]), str(clip[1]))
    file, name, instances = inputs.file_path(), _name(inputs), []
    asked: Sequence[str | None] = (None,) if radii is None else radii
    for model, shared in models:
        start = f"{_stem(model)}/{stem(name)}"
        for norm in norms:
            for index in indices:
                for radius in asked:
                    what = f"l{norm} {radius or ('radius' if grid is None else 'curve')}"
                    sample = Sample(inputs=file, index=index, label=labels[index], norm=norm, radius=radius, clip=ends)
                    instance = replace(
                        shared,
                        id=f"{start}[{index}] {what}",
                        property_name=f"{name}[{index}] {what}",
                        sample=sample,
                        grid=None if grid is None else tuple(grid),
                    )
                    instances.append(instance)
    return instances


def _norms(table: Table) -> list[Norm]:
    norms: list[Norm] = []
    for value in table.one_or_many("norm", "norms"):
        word = "inf" if value.value == Decimal("inf") else str(value.value)
        norm = next((n for n in NORMS if n == word), None)
        if norm is None:
            hint = did_you_mean(word, NORMS)
            raise value.wrong(f"takes one of {', '.join(NORMS)}, not {value.shown()}" + f"; {hint}".rstrip("; "))
        norms.append(norm)
    return list(dict.fromkeys(norms)) or ["inf"]


def _samples(
    table: Table, common: Common, inputs: Value, reach: Decimal
) -> tuple[tuple[Decimal, Decimal] | None, list[int], list[int]]:
    """The clip's ends, the indices asked about, and the labels of all samples, none further than `reach` outside the
    clip box."""
    file = inputs.file_path()
    if file not in common.samples:
        try:
            common.samples[file] = read_samples(file)
        except SuiteError as error:
            raise inputs.wrong(str(error)) from None
    x, y = common.samples[file]
    indices, clip = _indices(table, inputs, len(y)), _clip(table)
    chosen, labels = x[indices].reshape(len(indices), -1), y[indices]
    if labels.min() < 0:
        raise inputs.wrong(f"sample {indices[int(labels.argmin())]} has the label {labels.min()}: they count from 0")
    broken = ~np.isfinite(chosen).all(axis=1)
    if broken.any():
        raise inputs.wrong(f"sample {indices[int(broken.argmax())]} holds a number that is not finite")
    if clip is not None:
        kind = x.dtype.type if x.dtype.kind == "f" else np.float64
        slack = float(reach) * 1.001  # who is refused here lies outside, however the floats were rounded
        low, high = float(kind(float(clip[0]))) - slack, float(kind(float(clip[1]))) + slack
        outside = ((chosen < low) | (chosen > high)).any(axis=1)
        if outside.any():
            at = int(outside.argmax())
            raise table.at("clip").wrong(
                f"sample {indices[at]} of {inputs.shown()} lies outside it, with entries from {chosen[at].min():g} to "
                f"{chosen[at].max():g}"
            )
    return clip, indices, [int(label) for label in y]


def _clip(table: Table) -> tuple[Decimal, Decimal] | None:
    value = table.get("clip")
    if value is None:
        return None
    if not isinstance(value.value, list) or len(value.value) != 2:
        raise value.takes("two numbers, [low, high]")
    low, high = value.numbers()
    if low > high:
        raise value.takes("two numbers, [low, high]")
    return low, high


def _indices(table: Table, inputs: Value, n: int) -> list[int]:
    value = table.get("indices")
    if value is None:
        if n == 0:
            raise inputs.wrong("it holds no sample")
        return list(range(n))
    if isinstance(value.value, list):
        for entry in value.entries():
            if not isinstance(entry.value, int) or isinstance(entry.value, bool):
                raise entry.takes("whole numbers")
    found = value.numbers()
    for index in found:
        if index != int(index):
            raise value.takes("whole numbers")
        if not 0 <= index < n:
            raise value.wrong(f"{index} is outside 0..{n - 1}, the samples of {inputs.shown()}")
    return [int(index) for index in found]


def _folder(table: Table, common: Common) -> list[Instance]:
    path, only, limit = table["path"], table.get("only"), table.get("limit")
    folder = table.file.parent / path.text()
    if not os.path.isdir(folder):  # never raises, whatever the name
        raise path.wrong(f"there is no folder '{folder}'")
    patterns = () if only is None else [entry.text() for entry in only.entries()]
    most = None if limit is None else limit.whole(least=1)
    limits, verifiers = table.limits(), common.restriction(table)
    try:
        instances = read_folder(folder, only=patterns, limit=most)
    except SuiteError as error:
        raise (only or path).wrong(str(error)) from None
    return [replace(i, verifiers=verifiers, limits=limits.over(i.limits).over(common.limits)) for i in instances]


def _name(file: Value) -> str:
    """What rows call a file: as the study writes it, a file of the zoo by its own name."""
    return Path(file.file_path()).name if file.value.startswith(PREFIX) else str(file.value)


def _stem(file: Value) -> str:
    return stem(_name(file))


GROUPS: Mapping[str, Callable[[Table, Common], list[Instance]]] = {
    "vnnlib": _vnnlib,
    "robustness": _robustness,
    "radius": _radius,
    "curve": _curve,
    "folder": _folder,
}
"""In this order the groups are asked, whatever their order in the file."""

"""Suites as TOML files. Paths are relative to the file; every number of a ball means the decimal as written.

    name = "quick"                      # default: the file's name
    timeout = 20                        # seconds for each instance and verifier; default: no limit

    [[verifiers]]                       # in order; may be left out where the command line names them
    name = "milp"
    options = { }                       # default: the verifier's own defaults

    [[vnnlib]]                          # one question: a VNN-LIB property of a model
    model = "../zoo/digits-2x50.onnx"
    property = "props/a.vnnlib"
    expected = "unsat"                  # or "sat"; default: unknown

    [[robustness]]                      # one question for each (sample, radius)
    model = "../zoo/digits-2x50.onnx"
    inputs = "samples.npz"              # arrays x (n, ...) in the model's raw input space, integers y (n,)
    norm = "inf"                        # "0", "1", "2" or "inf"; default "inf"
    radii = [0.01, 0.02]
    clip = [0.0, 1.0]                   # the inputs that exist at all; default: no limits
    indices = [0, 3]                    # default: all samples

    [[radius]]                          # how far does it reach: one question for each sample
    model = "../zoo/digits-2x50.onnx"
    inputs = "samples.npz"
    norm = "2"
    clip = [0.0, 1.0]
    indices = [0, 3]

    [[folder]]                          # every instance of a VNN-COMP benchmark folder, with its own time limits
    path = "../acasxu"

A group ([[vnnlib]], [[robustness]], [[radius]], [[folder]]) may also have `timeout`, which replaces the suite's (or the
folder's) for it, and `verifiers`, a list of names from [[verifiers]]: the group is put to these alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from verifkit.bench.suites.instance import Instance, Sample, Suite, distinct, read_samples
from verifkit.bench.suites.suite_folder import find_file, read_folder, read_text, stem
from verifkit.budget import Budget
from verifkit.errors import SuiteError
from verifkit.input_sets import Norm

NORMS: tuple[Norm, ...] = ("0", "1", "2", "inf")
_COMMON = frozenset({"timeout", "verifiers"})
_SAMPLES = frozenset({"model", "inputs", "norm", "clip", "indices"}) | _COMMON


def read_suite_file(path: Path) -> Suite:
    """The suite in a TOML file. Raises `SuiteError` naming the file and the key."""
    try:
        content = tomllib.loads(read_text(path), parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"suite '{path}' is not valid TOML: {error}") from None
    top = _Table(path, "", content)
    top.known({"name", "timeout", "verifiers", *_GROUPS})
    name = top.text("name", stem(path.name).removesuffix(".toml"))
    if Path(name).name != name:
        raise top.wrong("name", f"takes a plain name, for it is also a folder's, not {_show(name)}")
    verifiers = tuple(_verifier(table) for table in top.tables("verifiers"))
    common = _Common(name, top.limits(Budget()), tuple(v for v, _ in verifiers))
    instances: list[Instance] = []
    for group, read in _GROUPS.items():
        for table in top.tables(group):
            instances += read(table, common)
    if not instances:
        raise SuiteError(f"suite '{path}' asks nothing: it needs one of {', '.join(f'[[{g}]]' for g in _GROUPS)}")
    return Suite(name, distinct(instances), verifiers)


@dataclass(frozen=True)
class _Common:
    """What every group starts from."""

    suite: str
    limits: Budget
    verifiers: tuple[str, ...]


@dataclass(frozen=True)
class _Table:
    """One table of the file; its readers check a key's type and raise `SuiteError` naming file, table and key."""

    file: Path
    name: str
    values: Mapping[str, Any]

    def wrong(self, key: str, what: str) -> SuiteError:
        place = f", {self.name}" if self.name else ""
        return SuiteError(f"suite '{self.file}'{place}, key '{key}': {what}")

    def known(self, keys: set[str] | frozenset[str]) -> None:
        for key in self.values:
            if key not in keys:
                raise self.wrong(key, f"unknown; known: {', '.join(sorted(keys))}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if value is None:
            raise self.wrong(key, "missing")
        if not isinstance(value, str) or not value:
            raise self.wrong(key, f"takes a text, not {_show(value)}")
        return value

    def limits(self, default: Budget) -> Budget:
        """`default` with what this table says in its place."""
        if "timeout" not in self.values:
            return default
        value = self.values["timeout"]
        if not _is_number(value) or value <= 0:
            raise self.wrong("timeout", f"takes a positive number of seconds, not {_show(value)}")
        return replace(default, seconds=float(value))

    def numbers(self, key: str) -> list[Decimal]:
        value = self.values.get(key)
        if not isinstance(value, list) or not all(map(_is_number, value)):
            raise self.wrong(key, "missing" if value is None else f"takes a list of numbers, not {_show(value)}")
        return [Decimal(v) for v in value]

    def file_at(self, key: str) -> str:
        return find_file(self.file.parent, self.text(key), f"suite '{self.file}', {self.name}, key '{key}'")

    def tables(self, key: str) -> list[_Table]:
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self.wrong(key, f"takes tables, written [[{key}]]")
        return [_Table(self.file, f"[[{key}]] number {i}", v) for i, v in enumerate(value, start=1)]

    def restriction(self, common: _Common) -> tuple[str, ...] | None:
        value = self.values.get("verifiers")
        if value is None:
            return None
        if not isinstance(value, list) or not value:
            raise self.wrong("verifiers", f"takes a list of names, not {_show(value)}")
        for name in value:
            if name not in common.verifiers:
                raise self.wrong("verifiers", f"{_show(name)} is not among this suite's [[verifiers]]")
        return tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool) and Decimal(value).is_finite()


def _show(value: Any) -> str:
    return str(value) if isinstance(value, Decimal) else repr(value)


def _verifier(table: _Table) -> tuple[str, Mapping[str, Any]]:
    table.known({"name", "options"})
    options = table.values.get("options", {})
    if not isinstance(options, dict):
        raise table.wrong("options", f"takes a table, not {_show(options)}")
    return table.text("name"), {key: _plain(value) for key, value in options.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _vnnlib(table: _Table, common: _Common) -> list[Instance]:
    table.known({"model", "property", "expected"} | _COMMON)
    expected = table.values.get("expected")
    if expected not in (None, "sat", "unsat"):
        raise table.wrong("expected", f'takes "sat" or "unsat", not {_show(expected)}')
    model, prop = table.text("model"), table.text("property")
    instance = Instance(
        id=f"{stem(model)}/{stem(prop)}",
        suite=common.suite,
        model_path=table.file_at("model"),
        model_name=Path(model).name,
        property_path=table.file_at("property"),
        property_name=prop,
        expected=expected,
        limits=table.limits(common.limits),
        verifiers=table.restriction(common),
    )
    return [instance]


def _robustness(table: _Table, common: _Common) -> list[Instance]:
    table.known(_SAMPLES | {"radii"})
    radii = table.numbers("radii")
    if not radii or min(radii) < 0:
        raise table.wrong("radii", "takes a list of radii, none of them negative")
    return _samples(table, common, [str(r) for r in radii])


def _radius(table: _Table, common: _Common) -> list[Instance]:
    table.known(_SAMPLES)
    return _samples(table, common, [None])


def _samples(table: _Table, common: _Common, radii: list[str | None]) -> list[Instance]:
    """One instance for each sample and radius; a radius of None asks for the radius."""
    model, inputs = table.text("model"), table.text("inputs")
    norm: Norm | None = next((n for n in NORMS if n == str(table.values.get("norm", "inf"))), None)
    if norm is None:
        raise table.wrong("norm", f"takes one of {', '.join(NORMS)}, not {_show(table.values['norm'])}")
    clip = _clip(table)
    if norm == "0" and clip is None:
        raise table.wrong("clip", "missing: an l0 ball is unbounded without it")
    file = table.file_at("inputs")
    try:
        _, labels = read_samples(file)
    except SuiteError as error:
        raise table.wrong("inputs", str(error)) from None
    shared = Instance(
        id="",
        suite=common.suite,
        model_path=table.file_at("model"),
        model_name=Path(model).name,
        property_name="",
        limits=table.limits(common.limits),
        verifiers=table.restriction(common),
    )
    instances = []
    for index in _indices(table, len(labels)):
        for radius in radii:
            what = f"l{norm} radius" if radius is None else f"l{norm} {radius}"
            sample = Sample(inputs=file, index=index, label=int(labels[index]), norm=norm, radius=radius, clip=clip)
            name = f"{inputs}[{index}] {what}"
            identity = f"{stem(model)}/{stem(inputs)}[{index}] {what}"
            instances.append(replace(shared, id=identity, property_name=name, sample=sample))
    return instances


def _clip(table: _Table) -> tuple[str, str] | None:
    if "clip" not in table.values:
        return None
    ends = table.numbers("clip")
    if len(ends) != 2 or ends[0] > ends[1]:
        raise table.wrong("clip", "takes two numbers, [low, high]")
    return str(ends[0]), str(ends[1])


def _indices(table: _Table, n: int) -> list[int]:
    value = table.values.get("indices", list(range(n)))
    if not isinstance(value, list) or not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        raise table.wrong("indices", f"takes a list of integers, not {_show(value)}")
    for index in value:
        if not 0 <= index < n:
            raise table.wrong("indices", f"{index} is outside 0..{n - 1}, the samples of '{table.values['inputs']}'")
    return value


def _folder(table: _Table, common: _Common) -> list[Instance]:
    table.known({"path"} | _COMMON)
    folder = table.file.parent / table.text("path")
    if not folder.is_dir():
        raise table.wrong("path", f"there is no folder '{folder}'")
    only = table.restriction(common)
    instances = [replace(instance, verifiers=only) for instance in read_folder(folder)]
    return [replace(i, limits=table.limits(i.limits)) for i in instances]


_GROUPS: Mapping[str, Callable[[_Table, _Common], list[Instance]]] = {
    "vnnlib": _vnnlib,
    "robustness": _robustness,
    "radius": _radius,
    "folder": _folder,
}

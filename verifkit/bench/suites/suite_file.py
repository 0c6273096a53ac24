"""Suites as TOML files, study files: the whole format is in `docs/studies.md`."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from verifkit import registry
from verifkit.bench.suites.groups import GROUPS, Common
from verifkit.bench.suites.instance import Choice, Instance, Suite, distinct
from verifkit.bench.suites.suite_folder import stem
from verifkit.bench.suites.tables import Table, Value, read_tables
from verifkit.errors import MissingPackage, SuiteError, VerifkitError


def read_suite_file(path: Path, *, own_verifiers: bool = True) -> Suite:
    """The suite in a TOML file. own_verifiers: it will be put to the verifiers that it names, whose optional packages
    must then be installed. Raises `SuiteError` naming the file, the line and the key."""
    top = read_tables(path)
    named = top.get("name")
    name = stem(path.name).removesuffix(".toml") if named is None else named.text()
    if named is not None and (Path(name).name != name or "\\" in name or name == ".."):
        raise named.takes("a plain name, for it is also a folder's")
    verifiers = _verifiers(top, own_verifiers)
    common = Common(name, top.limits(), verifiers)
    seed, repeats = top.get("seed"), top.get("repeats")
    instances: list[Instance] = []
    for group, read in GROUPS.items():
        for table in top.tables(group):
            instances += read(table, common)
    if not instances:
        raise SuiteError(f"study '{path}' asks nothing: it needs one of {', '.join(f'[[{g}]]' for g in GROUPS)}")
    return Suite(
        name,
        distinct(_with_joint_grids(instances)),
        verifiers,
        seed=0 if seed is None else seed.whole(least=0),
        repeats=1 if repeats is None else repeats.whole(least=1),
    )


def _with_joint_grids(instances: list[Instance]) -> list[Instance]:
    """Curves about the same question, which is run once, with all the radii that any of them wants."""
    wanted: dict[Instance, dict[tuple[str, ...], None]] = {}
    curves = {place: (instance.bare(), instance.grid) for place, instance in enumerate(instances) if instance.grid}
    for bare, grid in curves.values():
        wanted.setdefault(bare, {})[grid] = None
    for place, (bare, _) in curves.items():
        if len(wanted[bare]) > 1:
            radii = {Decimal(radius): radius for other in reversed(wanted[bare]) for radius in other}
            instances[place] = replace(instances[place], grid=tuple(radii[r] for r in sorted(radii)))
    return instances


def _verifiers(top: Table, installed: bool) -> tuple[Choice, ...]:
    choices: list[Choice] = []
    words: dict[str, int] = {}  # labels and names so far, and whose
    asked: dict[tuple[str, str], int] = {}
    for number, table in enumerate(top.tables("verifiers"), start=1):
        choice, described = _verifier(table, installed)
        place = table.get("label") or table["name"]
        if described in asked:
            raise place.wrong(
                f"this is [[verifiers]] number {asked[described]} again: results tell entries apart by options"
            )
        asked[described] = number
        for word in {choice.label, choice.name}:
            owner = words.setdefault(word, number)
            if owner != number and not (word == choice.name == choices[owner - 1].name):
                raise place.wrong(f"'{word}' already stands for [[verifiers]] number {owner}: give a label of its own")
        choices.append(choice)
    return tuple(choices)


def _verifier(table: Table, installed: bool) -> tuple[Choice, tuple[str, str]]:
    """The choice, and the verifier's name with all its options."""
    named, given, label = table["name"], table.get("options"), table.get("label")
    name = named.text()
    if given is not None and not isinstance(given.value, dict):
        raise given.takes("a table, { option = value }")
    options = {key: _plain(value) for key, value in (given.value if given else {}).items()}
    try:
        verifier = registry.create(name, options)
        if installed:
            verifier.require_usable()
    except VerifkitError as error:
        raise _culprit(named, given, options, error).wrong(str(error)) from None
    choice = Choice(name, options, name if label is None else label.text(), table.limits())
    return choice, (name, str(sorted(verifier.options().items())))


def _culprit(named: Value, given: Value | None, options: dict[str, Any], error: VerifkitError) -> Value:
    """What is to blame: the option that fails alone in the same words, else all of them; the name if there are none."""
    if given is None or isinstance(error, MissingPackage):
        return named
    for key, value in options.items():
        try:
            registry.create(named.text(), {key: value})
        except VerifkitError as alone:
            if str(alone) == str(error):
                return Value(given.table, f"options.{key}", (*given.path, key), value)
    try:
        registry.create(named.text())
    except VerifkitError:
        return named
    return given


def _plain(value: Any) -> Any:
    """A TOML value as an option has it."""
    if isinstance(value, Decimal):
        return float(value)
    return [_plain(v) for v in value] if isinstance(value, list) else value

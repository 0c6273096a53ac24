"""Finds certifiers by name, through the entry-point group `verifkit.verifiers`.

The core imports no verifier: ours register exactly as a third party's would, and each is imported when it is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from verifkit.capabilities import Capabilities, Kind
from verifkit.errors import OptionError, UnknownVerifier, VerifkitError, did_you_mean
from verifkit.query import Query

if TYPE_CHECKING:
    from verifkit.verifier import Verifier  # the base class itself asks the registry who else can take a query

GROUP = "verifkit.verifiers"


@cache
def _entry_points() -> Mapping[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}


def names() -> list[str]:
    """Every registered name, sorted. Imports nothing."""
    return sorted(_entry_points())


@cache
def verifier_class(name: str) -> type[Verifier]:
    """The class registered as `name`; raises `UnknownVerifier`, or `VerifkitError` where it cannot be loaded."""
    entry = _entry_points().get(name)
    if entry is None:
        hint = did_you_mean(name, names())
        raise UnknownVerifier(f"no verifier is called '{name}'; {hint}installed: {', '.join(names()) or 'none'}")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a module prints on import gets in front of no answer
            loaded = entry.load()
    except ModuleNotFoundError as error:
        if entry.value.split(".")[0] == "verifiers" and (error.name or "").split(".")[0] == "verifiers":
            raise VerifkitError(
                "the import name 'verifiers' is taken by another package that hides verifkit's certifiers; "
                "uninstall that package or use an environment without it"
            ) from error
        raise VerifkitError(f"verifier '{name}' ({entry.value}) cannot be loaded: {error}") from error
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {error}"
        raise VerifkitError(f"verifier '{name}' ({entry.value}) cannot be loaded: {what}") from error
    if not (isinstance(loaded, type) and hasattr(loaded, "verify") and hasattr(loaded, "capabilities")):
        raise VerifkitError(f"entry point '{name}' ({entry.value}) is not a Verifier class")
    return cast("type[Verifier]", loaded)


def version(name: str) -> str | None:
    """Name and version of the distribution that brings a verifier, "unknown" where it has none; imports nothing.

    None where no verifier is called so.
    """
    entry = _entry_points().get(name)
    if entry is None:
        return None
    return "unknown" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def create(name: str, options: Mapping[str, Any] | None = None) -> Verifier:
    """The verifier `name` with `options` set on its fields; raises `UnknownVerifier` or `OptionError`.

    Values may be strings (from a command line or a suite file): they are read as the field's type.
    """
    cls = verifier_class(name)
    fields = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in (options or {}).items():
        if key not in fields:
            hint = did_you_mean(key, fields)
            raise OptionError(
                f"verifier '{name}' has no option '{key}'; {hint}it has: {', '.join(sorted(fields)) or 'none'}"
            )
        default = getattr(cls(), key)
        values[key] = _read(name, key, value, default)
    return cls(**values)


def _read(name: str, key: str, value: Any, default: Any) -> Any:
    wrong = OptionError(f"option '{key}' of '{name}' takes a value of type {type(default).__name__}, not {value!r}")
    try:
        if isinstance(default, bool):
            text = str(value).lower()
            if text not in ("true", "false"):
                raise wrong
            return text == "true"
        if isinstance(default, int):
            if float(value) != int(float(value)):
                raise wrong
            return int(float(value))
        if isinstance(default, float):
            return float(value)
        if isinstance(default, tuple):
            return tuple(value.split("+")) if isinstance(value, str) else tuple(value)
        return value if default is None else type(default)(value)
    except (TypeError, ValueError, OverflowError):
        raise wrong from None


def able(query: Query) -> list[str]:
    """The names of the installed verifiers that can take `query` without an option being set, sorted."""
    return [name for name, _ in _able(query)]


def substitutes(query: Query, capabilities: Capabilities) -> list[str]:
    """The names of those among them that answer what a verifier of these capabilities is asked for, sorted.

    What only looks for violations is no substitute for what proves, nor what never finds any for what looks for them;
    and an answer about a smoothed classifier is none about the network.
    """
    own = capabilities.kinds.get(query.norm)
    kinds = set(capabilities.kinds.values()) if own is None else {own}
    if kinds == {Kind.FALSIFIER}:
        fitting = {Kind.FALSIFIER, Kind.COMPLETE}
    else:
        fitting = {Kind.COMPLETE, Kind.INCOMPLETE} | (kinds & {Kind.PROBABILISTIC})
    return [name for name, other in _able(query) if other.kinds[query.norm] in fitting]


def falsifiers(query: Query) -> list[str]:
    """The names of those among them that look for violations only, and need no optional package.

    One that does is asked by name: importing another framework takes longer than most answers.
    """
    return [
        name
        for name, capabilities in _able(query)
        if capabilities.kinds[query.norm] is Kind.FALSIFIER and not capabilities.modules
    ]


def _able(query: Query) -> Iterator[tuple[str, Capabilities]]:
    for name in names():
        try:
            capabilities = verifier_class(name).capabilities
        except VerifkitError:  # one broken plug-in takes nothing from the others
            continue
        asked_as_it_is = not capabilities.missing_modules() and not capabilities.required
        if asked_as_it_is and capabilities.refusal(query) is None:
            yield name, capabilities

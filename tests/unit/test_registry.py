"""Plug-ins that misbehave while they are imported."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from verifkit import registry
from verifkit.errors import VerifkitError

Installer = Callable[[str], str]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    """Makes a module of the text given, and registers its class `Made`; the registered name."""

    def install(text: str) -> str:
        (tmp_path / "odd_plugin_module.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        entry = EntryPoint("odd", "odd_plugin_module:Made", registry.GROUP)
        monkeypatch.setattr(registry, "_entry_points", lambda: {"odd": entry})
        monkeypatch.setattr(registry, "verifier_class", registry.verifier_class.__wrapped__)
        return "odd"

    return install


def test_a_module_that_ends_the_program_is_one_that_cannot_be_loaded(installed: Installer) -> None:
    name = installed("import sys\nsys.exit(0)\n")
    with pytest.raises(VerifkitError, match="cannot be loaded: SystemExit: 0"):
        registry.verifier_class(name)


def test_what_a_module_prints_gets_in_front_of_no_answer(
    installed: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    name = installed("print('hello')\nfrom verifiers.incomplete.interval import Interval as Made\n")
    assert registry.verifier_class(name).name == "interval"
    assert capsys.readouterr() == ("", "hello\n")

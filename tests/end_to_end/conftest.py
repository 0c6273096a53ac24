"""Verifiers that tests install as a third party's."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.hostile import MARK, install
from verifkit import registry


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Installs the hostile verifiers for this process and its children; the mark that all of them carry."""
    for entry in install(tmp_path / "plugin"):
        monkeypatch.syspath_prepend(entry)
    registry._entry_points.cache_clear()
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    yield mark
    registry._entry_points.cache_clear()
    registry.verifier_class.cache_clear()

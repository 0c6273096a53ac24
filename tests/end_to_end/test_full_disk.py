"""A disk that takes no more: one sentence that names the place, status 2, whole rows, and the same command goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.end_to_end.hostile import install, write_folder
from tests.unit.rows_builder import radius_row, write
from verifkit.bench.rows.store import ROWS, read_rows

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no file size limits")
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
from verifkit.cli import main
main()
"""
NO_LIMIT = 2**40
COUNT = 6


class Study:
    """A run whose every answer leaves evidence."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        path = [*install(folder / "plugin"), *sys.path]
        self.environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        suite = write_folder(folder / "bench", COUNT)
        self.arguments = [
            "bench",
            str(suite),
            "--verifiers",
            "crown",
            "--out",
            str(self.out),
            "--evidence",
            "--jobs",
            "2",
        ]

    def run(self, limit: int = NO_LIMIT, before: Sequence[str] = (), **environ: str) -> tuple[int, list[str]]:
        """The exit status and the sentences on stderr; no file may grow above `limit` bytes."""
        done = subprocess.run(
            [*before, sys.executable, "-c", LIMITED, str(limit), *self.arguments],
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, [line for line in done.stderr.splitlines() if not line.endswith(f"/{COUNT} rows")]

    def refused(self, *, limit: int = NO_LIMIT, before: Sequence[str] = (), **environ: str) -> str:
        """The one sentence of a run that ends with status 2."""
        status, said = self.run(limit, before, **environ)
        assert (status, len(said)) == (2, 1), said
        assert "cannot be written: " in said[0]
        return said[0]

    def standing(self) -> int:
        """How many rows stand; every line must be one, and no file may be half there."""
        if not self.out.exists():
            return 0
        assert not list(self.out.rglob("*.new"))
        data = (self.out / ROWS).read_bytes() if (self.out / ROWS).exists() else b""
        assert data == b"" or data.endswith(b"\n")
        return len([json.loads(line) for line in data.splitlines()])

    def finish(self) -> None:
        """Space is made: the same command goes on to the end."""
        status, said = self.run()
        assert status == 0, said
        rows = read_rows(self.out)
        assert len({row.key for row in rows}) == len(rows) == COUNT
        assert {row.verdict for row in rows} == {"HOLDS"}
        assert all(row.evidence is not None and (self.out / row.evidence).is_file() for row in rows)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def mounted(size: str, place: Path, after: str = "") -> list[str]:
    """The start of a command that finds a small disk of its own at `place`; skips where that is not permitted."""
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/tmp"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no disk may be mounted here")
    place.mkdir()
    return [
        "unshare",
        "-rm",
        "sh",
        "-c",
        f'mount -t tmpfs -o {size} none {place} && "$@"; rc=$?; {after} exit $rc',
        "sh",
    ]


def test_a_first_file_that_may_not_grow(study: Study) -> None:
    assert f"'{study.out / 'environment.json'}'" in study.refused(limit=500)
    assert study.standing() == 0
    study.finish()


@pytest.mark.slow
def test_files_that_may_not_grow(study: Study) -> None:
    study.finish()
    path, table = study.out / ROWS, study.out / "rows.parquet"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    assert "the temporary folder" in study.refused(limit=300)
    assert f"'{path}'" in study.refused(limit=path.stat().st_size + 500)
    assert study.standing() == 3
    study.finish()
    whole = table.read_bytes()
    assert f"'{table}'" in study.refused(limit=path.stat().st_size + 500)
    assert study.standing() == COUNT
    assert table.read_bytes() == whole
    status, said = study.run()
    assert (status, len(said)) == (0, 1)


def test_a_report_that_may_not_grow(tmp_path: Path) -> None:
    """Of each file of a report the old one stands, or none; never half a page."""
    rows = [radius_row("crown", certified=0.1 + i / 100, index=i) for i in range(5)]
    study = Study(tmp_path)
    study.arguments = ["report", str(write(study.out, rows))]
    said = study.refused(limit=20_000)
    assert f"'{study.out / 'report.html'}'" in said
    made = {path.name for path in study.out.rglob("*")}
    assert {"radii.csv", "figures"} < made
    assert not {"report.html", ".report.html.new"} & made
    assert study.run()[0] == 0
    old = (study.out / "report.html").read_bytes()
    write(study.out, [*rows, radius_row("crown", certified=0.3, index=9)])
    study.refused(limit=20_000)
    assert (study.out / "report.html").read_bytes() == old
    assert "figures" in study.refused(limit=1_000)
    assert not list(study.out.rglob(".*.new"))


@pytest.mark.slow
def test_a_disk_that_fills_up(study: Study, tmp_path: Path) -> None:
    """The result folder on ever larger disks: whatever file meets the end, the rows before it are whole."""
    named = []
    for pages in (1, 2, 3, 4, 6, 8, 12):
        small = tmp_path / f"disk{pages}"
        before = mounted(f"size={4 * pages}k", small, f"cp -r {small}/out {tmp_path}/kept;")
        study.arguments[study.arguments.index("--out") + 1] = str(small / "out")
        named.append(study.refused(before=before).split("/out/")[1][:8])
        study.out = tmp_path / "kept"
        study.standing()
        shutil.rmtree(study.out)
    assert {"evidence", "rows.jso"} <= set(named)
    assert {"rows.csv", "rows.par"} & set(named)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["size=4k", "size=12k", "size=24k", "size=40k", "nr_inodes=5", "nr_inodes=9"])
def test_a_full_temporary_folder(study: Study, tmp_path: Path, size: str) -> None:
    small = tmp_path / "small"
    said = study.refused(before=mounted(size, small), TMPDIR=str(small))
    assert f"the temporary folder '{small}" in said
    assert study.standing() == 0
    study.finish()


def test_a_full_temporary_folder_is_not_the_verifiers_fault(study: Study, tmp_path: Path) -> None:
    small = tmp_path / "small"
    assert f"the temporary folder '{small}" in study.refused(before=mounted("size=24k", small), TMPDIR=str(small))
    assert study.standing() == 0

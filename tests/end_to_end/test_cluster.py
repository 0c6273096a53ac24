"""A study on a Dask cluster of real processes: the rows of a local run, whatever happens to the workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.end_to_end.dask_cluster import DaskCluster, kill_group, wait_until_only
from tests.end_to_end.hostile import MARK, install, wait_until_gone, write_folder
from verifkit import registry
from verifkit.bench.rows.schema import Row
from verifkit.bench.rows.store import read_rows
from verifkit.bench.running import environment
from verifkit.bench.running.answers import Contender, Task
from verifkit.bench.running.runner import RunSummary, run
from verifkit.bench.suites.instance import Suite
from verifkit.bench.suites.suite import load_suite
from verifkit.budget import Budget
from verifkit.errors import OptionError, RunnerError
from verifkit.io.evidence_file import load_evidence

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills process groups")

HOLDS = ("hostile", {"mode": "holds", "seconds": 0.1})
SAME = [
    "instance",
    "verifier",
    "verdict",
    "reason",
    "certified",
    "falsified",
    "detail",
    "predicted",
    "norm",
    "margin",
    "guarantee",
    "witness",
    "counts",
]
SCRIPT = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from verifkit.cli import main
sys.argv[1:] = json.loads(sys.argv[1])
main()
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Installs the hostile verifier for this process; the search path that others need to find it."""
    path = install(tmp_path_factory.mktemp("plugin") / "site")
    with pytest.MonkeyPatch.context() as patch:
        for entry in path:
            patch.syspath_prepend(entry)
        registry._entry_points.cache_clear()
        yield path
    registry._entry_points.cache_clear()
    registry.verifier_class.cache_clear()


@pytest.fixture(scope="module")
def cluster(plugin: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """A scheduler and a worker of two threads, which the tests share and none harms."""
    with DaskCluster(tmp_path_factory.mktemp("dask") / "shared", plugin, threads=2) as shared:
        shared.add_worker()
        yield shared


def ask(folder: Path, out: Path, *verifiers: tuple[str, dict[str, Any]], **how: Any) -> list[Row]:
    run(load_suite(folder), out=out, verifiers=verifiers, **how)
    return read_rows(out)


def comparable(rows: list[Row]) -> dict[str, list[Any]]:
    assert len({row.key for row in rows}) == len(rows)
    return {row.key: [getattr(row, name) for name in SAME] + [row.statistics.get("draw")] for row in rows}


def mixed_suite(folder: Path) -> Suite:
    """VNN-LIB properties, balls and radii; one of the properties cannot be read."""
    write_folder(folder / "bench", count=9)
    (folder / "bench" / "p8.vnnlib").write_text("(declare-const X_0 Real\n")
    rng = np.random.default_rng(3)
    np.savez(folder / "samples.npz", x=rng.uniform(0.2, 0.8, (4, 2)).astype(np.float32), y=np.zeros(4, int))
    group = 'model = "bench/net.onnx"\ninputs = "samples.npz"\n'
    (folder / "mixed.toml").write_text(
        '[[verifiers]]\nname = "interval"\n[[verifiers]]\nname = "hostile"\noptions = {seconds = 0.1}\n'
        f'[[folder]]\npath = "bench"\n[[robustness]]\n{group}radii = [0.01, 0.1]\n[[radius]]\n{group}norm = "2"\n'
        'verifiers = ["interval"]\n'
    )
    return load_suite(folder / "mixed.toml")


def test_a_worker_killed_in_mid_run_costs_no_row(plugin: list[str], tmp_path: Path) -> None:
    suite = mixed_suite(tmp_path)
    run(suite, out=tmp_path / "local", jobs=2)
    expected = comparable(read_rows(tmp_path / "local"))
    assert len(expected) == 38 + 12  # the audit attacks what was claimed of the samples
    with DaskCluster(tmp_path / "dask", plugin) as cluster:
        first, _ = cluster.add_worker(nanny=True), cluster.add_worker()
        killed = []

        def progress(done: int, total: int, row: Row) -> None:
            if done == 12:
                kill_group(first)
                killed.append(done)

        summary = run(suite, out=tmp_path / "out", cluster=cluster.address, progress=progress, evidence=True)
        assert killed
        assert summary == RunSummary(rows=38, written=38, standing=0, errors=2, attacks=12)
        rows = read_rows(tmp_path / "out")
        assert comparable(rows) == expected
        proved = [row for row in rows if row.verifier == "interval" and row.verdict == "HOLDS"]
        assert proved
        for row in proved:
            kept = load_evidence(tmp_path / "out" / str(row.evidence))
            assert (kept.verifier, type(kept.evidence).__name__) == ("interval", "Leaf")
        machines = json.loads((tmp_path / "out" / "environment.json").read_text())
        assert {row.environment for row in rows} <= machines.keys()
        assert run(suite, out=tmp_path / "out", jobs=2).standing == 38  # locally, there is nothing left to do


def test_limits_hold(cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "verifkit.bench.running.cluster.parcels.SMALL", 0
    )  # every file is sent when the worker lacks it
    folder = write_folder(tmp_path / "bench", count=1)
    before = cluster.processes()
    modes = ("native", "allocate", "garbage", "segfault", "false", "litter")
    verifiers = [("hostile", {"mode": mode, "seconds": 600.0}) for mode in modes]
    limits = Budget(seconds=1.5, memory_bytes=400 * 2**20)
    answers = ask(folder, tmp_path / "out", *verifiers, limits=limits, cluster=cluster.address)
    rows = {row.options["mode"]: row for row in answers}
    assert {mode: row.reason for mode, row in rows.items()} == {
        "native": "timeout",
        "allocate": "memout",
        "garbage": "incomplete",
        "segfault": "error",
        "false": "unconfirmed",
        "litter": "incomplete",
    }
    assert rows["native"].wall_seconds < 3.5
    assert rows["allocate"].memory_limit == 400 * 2**20
    assert rows["segfault"].output is not None
    assert "_decide" in rows["segfault"].output
    assert not wait_until_only(cluster, before)


def test_local_and_cluster_go_on_with_each_other(
    cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write_folder(tmp_path / "bench", count=3), tmp_path / "out"
    other = ("interval", {})
    assert run(load_suite(folder), out=out, verifiers=[HOLDS], jobs=1).written == 3
    with monkeypatch.context() as patch:  # the client's machine has a name of its own
        patch.setattr(environment, "environment", lambda: {"cpu": "the client's"})
        summary = run(load_suite(folder), out=out, verifiers=[HOLDS, other], cluster=str(cluster.file), jobs=1)
    assert summary == RunSummary(rows=6, written=3, standing=3, errors=0)
    assert run(load_suite(folder), out=out, verifiers=[HOLDS, other], jobs=1).standing == 6
    rows = read_rows(out)
    machines = json.loads((out / "environment.json").read_text())
    assert {machines[row.environment]["cpu"] for row in rows} == {environment.environment()["cpu"]}
    assert {row.memory_limit for row in rows if row.verifier == "interval"} == {3 * 2**30 // 2}  # a thread's share


def test_more_questions_may_be_inspected_later(cluster: DaskCluster, tmp_path: Path) -> None:
    from verifkit.bench.running.cluster.engine import ClusterEngine

    suite = load_suite(write_folder(tmp_path / "bench", count=3))
    contender = Contender("hostile", {"mode": "holds"}, "hostile 1.0", {})
    limits = Budget(seconds=20, memory_bytes=2**30)
    with ClusterEngine(cluster.address, [contender], None, 2**30, tmp_path) as engine:
        for chosen in (suite.instances[:1], suite.instances):
            asked = engine.inspect(chosen)
            tasks = [Task(a.property_hash, a, contender, limits, 0, 0) for a in asked]
            rows = list(engine.rows(tasks))
            assert {row.key for row in rows} == {task.key for task in tasks}
            assert {row.verdict for row in rows} == {"HOLDS"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_client(cluster: DaskCluster, tmp_path: Path, number: int) -> None:
    note, out = tmp_path / "note", tmp_path / "out"
    folder = write_folder(tmp_path / "bench", count=4, timeout=600)
    before = cluster.processes()
    (tmp_path / "suite.toml").write_text(
        f'[[verifiers]]\nname = "hostile"\noptions = {{mode = "native", seconds = 600.0, note = "{note}"}}\n'
        f'[[folder]]\npath = "{folder.name}"\n'
    )
    arguments = ["bench", str(tmp_path / "suite.toml"), "--out", str(out), "--cluster", cluster.address]
    client = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 40
    while not note.exists():
        assert client.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (worker,) = cluster.workers
    (server,) = (p for p in psutil.Process(worker.pid).children() if p.pid not in before)
    assert "forkserver" in " ".join(server.cmdline())  # started afresh, not forked from a process with threads
    assert server.num_threads() == 1
    client.send_signal(number)
    _, words = client.communicate(timeout=20)
    if number == signal.SIGINT:
        assert client.returncode == 130, words.decode()
        assert words.decode().splitlines()[-1] == "verifkit: interrupted; what was written stands"
        assert not wait_until_only(cluster, before)
    else:  # the worker's own fork server stays a minute, with nothing to do
        left = wait_until_only(cluster, before, 3.0)
        assert len(left) <= 1
    assert run(load_suite(folder), out=out, verifiers=[HOLDS], cluster=cluster.address).written == 4


def test_a_question_that_loses_its_worker_is_an_error_row(cluster: DaskCluster, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bench", count=1)
    rows = ask(folder, tmp_path / "out", ("hostile", {"mode": "server"}), HOLDS, cluster=cluster.address)
    found = {row.options["mode"]: row for row in rows}
    assert found["holds"].verdict == "HOLDS"
    assert (found["server"].reason, found["server"].word) == ("error", "error")
    assert "it lost its worker 3 times" in found["server"].detail


BATCH = """#!/bin/sh
cp "$1" {folder}/job
setsid sh {folder}/job >{folder}/log 2>&1 </dev/null &
echo "Submitted batch job $!"
"""
CANCEL = """#!/bin/sh
echo "$@" >>{folder}/cancelled
kill -- "-$1"
"""


def test_slurm_as_dask_is_configured(plugin: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for `sbatch` and `scancel` that run the job script here."""
    pytest.importorskip("dask_jobqueue", reason="the extra `cluster` is not installed")
    import dask

    for name, text in (("sbatch", BATCH), ("scancel", CANCEL)):
        (tmp_path / name).write_text(text.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    mark = uuid.uuid4().hex
    path = os.pathsep.join([str(Path(__file__).parents[2]), *plugin])
    configured = {
        "cores": 1,
        "processes": 1,
        "memory": "2GiB",
        "queue": "short",
        "walltime": "00:07:00",
        "scheduler-options": {"host": "127.0.0.1", "dashboard_address": ":0"},
        "job-script-prologue": [f"export PYTHONPATH={path} {MARK}={mark}"],
    }
    folder = write_folder(tmp_path / "bench", count=2)
    with pytest.raises(OptionError, match=r"Dask's configuration lacks jobqueue\.slurm\.cores: set it"):
        ask(folder, tmp_path / "out", HOLDS, cluster="slurm")
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in configured.items()}):
        rows = ask(folder, tmp_path / "out", HOLDS, cluster="slurm", jobs=1)
    assert [row.verdict for row in rows] == ["HOLDS"] * 2
    assert all(row.memory_limit == 2**31 for row in rows)
    script = (tmp_path / "job").read_text()
    assert "#SBATCH -p short" in script
    assert "#SBATCH -t 00:07:00" in script
    assert "--nthreads 1 --memory-limit 2.00GiB" in script
    assert (tmp_path / "cancelled").read_text().strip().isdigit()
    assert not wait_until_gone(mark, 10.0)


@pytest.mark.slow
def test_a_question_that_kills_dask_workers_is_an_error_row(plugin: list[str], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bench", count=3)
    with DaskCluster(tmp_path / "dask", plugin) as cluster:
        cluster.add_worker(nanny=True)
        rows = ask(folder, tmp_path / "out", ("hostile", {"mode": "worker"}), HOLDS, cluster=cluster.address)
    assert [r.verdict for r in rows if r.options["mode"] == "holds"] == ["HOLDS"] * 3
    details = [r.detail for r in rows if r.options["mode"] == "worker"]
    assert len(details) == 3
    words = "it lost its worker 8 times; the last time the one at tcp://"
    assert all(words in detail for detail in details), details


def test_without_workers_or_scheduler_the_folder_can_be_resumed(
    plugin: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask

    folder, out = write_folder(tmp_path / "bench", count=30), tmp_path / "out"
    with DaskCluster(tmp_path / "dask", plugin) as cluster, dask.config.set({"verifkit.patience": "2s"}):
        with pytest.raises(RunnerError, match="has had no workers for 2 s; start some"):
            ask(folder, out, HOLDS, cluster=cluster.address)
        cluster.add_worker()
        monkeypatch.setattr("verifkit.bench.running.cluster.scheduler.CONNECT_SECONDS", 3)

        def progress(done: int, total: int, row: Row) -> None:
            if done == 5:
                kill_group(cluster.scheduler)

        with pytest.raises(RunnerError, match=r"the scheduler at '.*' has gone; .* the same command goes on"):
            ask(folder, out, HOLDS, cluster=cluster.address, progress=progress)
    stood = read_rows(out)
    assert 5 <= len(stood) < 30
    assert len(ask(folder, out, HOLDS, jobs=2)) == 30


def test_wrong_addresses_are_told(plugin: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "bench", count=1)
    monkeypatch.setattr("verifkit.bench.running.cluster.scheduler.CONNECT_SECONDS", 1)
    (tmp_path / "broken.json").write_text("{}")
    for where, words in {
        "tcp://127.0.0.1:9": "no Dask scheduler answers at 'tcp://127.0.0.1:9' within 1 s",
        "carrier://pigeon": "no Dask scheduler answers at 'carrier://pigeon'",
        "nowhere": r"--cluster takes a scheduler's address \(tcp://host:port\), .* or slurm, not 'nowhere'",
        str(tmp_path / "broken.json"): "broken.json' is no scheduler file",
        "slurm": "--cluster slurm needs `sbatch`",
    }.items():
        with pytest.raises(OptionError, match=words):
            ask(folder, tmp_path / "out", HOLDS, cluster=where)
    assert read_rows(tmp_path / "out") == []


def test_other_versions_are_told_before_anything_runs(
    cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "bench", count=1)
    monkeypatch.setattr("verifkit.bench.running.cluster.engine.SCHEMA", 99)
    with pytest.raises(OptionError, match=r"the worker at tcp://.* \(rows of schema .*\(schema 99\) as here"):
        ask(folder, tmp_path / "out", HOLDS, cluster=cluster.address, limits=Budget(memory_bytes=2**30))


def test_without_the_extra(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bench", count=1)
    code = """
import sys
for name in ("dask", "distributed", "dask_jobqueue"):
    sys.modules[name] = None
from verifkit.cli import main
main()
"""
    command = [
        sys.executable,
        "-c",
        code,
        "bench",
        str(folder),
        "--verifiers",
        "interval",
        "--out",
        str(tmp_path / "o"),
    ]
    local = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert local.returncode == 0, local.stderr
    there = subprocess.run([*command, "--cluster", "tcp://h:1"], capture_output=True, text=True, timeout=100)
    assert there.returncode == 2
    assert there.stderr == "verifkit: --cluster needs the package 'dask': run `pip install 'verifkit[cluster]'`\n"

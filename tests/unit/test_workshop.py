"""The worker's side of a cluster study, without a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.end_to_end.hostile import write_folder
from verifkit import registry
from verifkit.bench.rows.schema import SCHEMA
from verifkit.bench.running.isolation import Isolation, Reply
from verifkit.bench.running.parcels import Post
from verifkit.bench.suites.suite import load_suite
from verifkit.errors import RunnerError, SuiteError

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

from verifkit.bench.running import plugin as module
from verifkit.bench.running.plugin import StudyPlugin, Terms, differs
from verifkit.bench.running.workshop import Done, Lost, Missing, Order, Unprepared


@pytest.fixture
def terms() -> Terms:
    interval = registry.version("interval")
    assert interval is not None
    return Terms(importlib.metadata.version("verifkit"), SCHEMA, {"interval": interval}, ["numpy"])


@pytest.fixture
def order(tmp_path: Path) -> Order:
    (instance,) = load_suite(write_folder(tmp_path / "bench", count=1)).instances
    post = Post()
    return Order(post.model(instance.model_path), (post.question(5, instance),), 2**30)


def servers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "forkserver" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_every_difference_is_named(terms: Terms) -> None:
    assert differs(terms) is None
    for other, words in (
        (replace(terms, version="0.0.1"), "not 0.0.1"),
        (replace(terms, schema=0), "schema 0"),
        (replace(terms, verifiers={"interval": "verifkit 0.0.1"}), "for verifier 'interval', not verifkit 0.0.1 as"),
        (replace(terms, verifiers={"absent": "x 1"}), "has nothing for verifier 'absent'"),
        (replace(terms, modules=["absent"]), "lacks the package 'absent'"),
    ):
        assert words in str(differs(other))


def test_orders_from_the_first_to_the_last(terms: Terms, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.05)
    job = {"kind": "answer", "verifier": "interval", "options": {}, "seed": 0}
    job["limits"] = {"seconds": 20.0, "memory_bytes": None, "nodes": None, "samples": None}

    async def study() -> None:
        plugin = StudyPlugin(terms)
        plugin.setup(SimpleNamespace(address="tcp://here"))  # type: ignore[arg-type]  # all that it looks at

        async def work(key: str, given: Order) -> Any:
            return await asyncio.to_thread(plugin.work, key, given)

        large = replace(order, model=replace(order.model, content=None))
        missing = await work("large", large)
        assert isinstance(missing, Missing)
        assert missing.digests == (order.model.digest,)
        await asyncio.to_thread(plugin.keep, missing.workshop, order.model)
        inspected = await work("again", large)
        assert isinstance(inspected, Done)
        assert inspected.reply.result is not None
        (found,) = inspected.reply.result["instances"]
        hashes = (inspected.reply.result["model_hash"], found["property_hash"])

        asked = replace(order, job=job, seconds=20.0, memory=2**30, hashes=hashes)
        answer = await work("answer", asked)
        assert isinstance(answer, Done)
        assert answer.reply.result is not None
        assert answer.reply.result["verdict"] == "HOLDS"
        other = await work("other", replace(asked, hashes=(hashes[0], "another")))
        assert isinstance(other, Unprepared)

        plugin.transition("off", "executing", "released")
        assert isinstance(await work("off", asked), Lost)

        assert len(servers()) == 1
        monkeypatch.setattr(module, "_IDLE_SECONDS", 0.0)
        while servers():
            await asyncio.sleep(0.05)
        monkeypatch.setattr(module, "_IDLE_SECONDS", 60.0)
        assert isinstance(await work("later", asked), Done)  # in a new one, which inspects again
        await plugin.teardown(SimpleNamespace())  # type: ignore[arg-type]
        assert not servers()
        assert isinstance(await work("late", asked), Lost)

    asyncio.run(study())


def test_a_disk_that_is_full_is_told_with_its_worker(
    terms: Terms, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(isolation: Isolation) -> Reply:
        raise SuiteError("the temporary folder takes no more")

    monkeypatch.setattr(Isolation, "next", full)

    async def study() -> None:
        plugin = StudyPlugin(terms)
        plugin.setup(SimpleNamespace(address="tcp://here"))  # type: ignore[arg-type]
        with pytest.raises(RunnerError, match="the worker at tcp://here failed: the temporary folder takes no more"):
            await asyncio.to_thread(plugin.work, "key", order)
        await plugin.teardown(SimpleNamespace())  # type: ignore[arg-type]

    asyncio.run(study())


def test_a_worker_that_joins_late_is_checked(terms: Terms, order: Order) -> None:
    async def study() -> None:
        plugin = StudyPlugin(replace(terms, version="0.0.1"))
        plugin.setup(SimpleNamespace(address="tcp://here"))  # type: ignore[arg-type]
        with pytest.raises(RunnerError, match=r"the worker at tcp://here has verifkit .*, not 0\.0\.1"):
            await asyncio.to_thread(plugin.work, "key", order)
        await plugin.teardown(SimpleNamespace())  # type: ignore[arg-type]

    asyncio.run(study())

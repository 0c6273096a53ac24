"""Suites: benchmark folders and TOML files, and one clear sentence for every mistake in them."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest

from verifkit.bench.suites.instance import Choice, Instance, Suite
from verifkit.bench.suites.suite import load_suite
from verifkit.errors import SuiteError

TABLE = "onnx/a.onnx,props/p.vnnlib,116\nonnx/a.onnx,props/q.vnnlib,30.5\n\n"
EXPECTED = """benchmark,onnx,vnnlib,timeout,expected,firmness,disputed
acas,onnx/a.onnx,props/p.vnnlib,116,unsat,firm,0
acas,onnx/a.onnx,props/q.vnnlib,30.5,unknown,reported,1
other,onnx/a.onnx,props/q.vnnlib,30.5,sat,firm,0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A benchmark folder `acas` with a gzipped model."""
    folder = tmp_path / "acas"
    (folder / "onnx").mkdir(parents=True)
    (folder / "props").mkdir()
    (folder / "onnx" / "a.onnx.gz").write_bytes(gzip.compress(b"model"))
    for name in "pq":
        (folder / "props" / f"{name}.vnnlib").write_text("")
    (folder / "instances.csv").write_text(TABLE)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What the TOML suites here are about."""
    (tmp_path / "net.onnx").write_bytes(b"model")
    (tmp_path / "p.vnnlib").write_text("")
    np.savez(tmp_path / "s.npz", x=np.zeros((3, 2, 2)), y=np.array([4, 5, 6]))
    return tmp_path


def suite_of(folder: Path, text: str) -> Suite:
    path = folder / "quick.toml"
    path.write_text(text)
    return load_suite(path)


def test_a_benchmark_folder(folder: Path) -> None:
    (folder.parent / "expected.csv").write_text(EXPECTED)
    suite = load_suite(folder)
    assert (suite.name, suite.verifiers) == ("acas", ())
    first, second = suite.instances
    assert (first.id, first.question, first.expected, first.firmness) == ("a/p", "verify", "unsat", "firm")
    assert first.model_path.endswith("a.onnx.gz")
    assert (first.model_name, first.property_name, first.limits.seconds) == ("onnx/a.onnx", "props/p.vnnlib", 116.0)
    assert (second.expected, second.firmness, second.limits.seconds) == (None, "reported", 30.5)


def test_a_folder_without_expectations(folder: Path) -> None:
    assert [i.expected for i in load_suite(folder).instances] == [None, None]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("onnx/a.onnx,props/p.vnnlib\n", "line 1: 2 columns"),
        (TABLE + "onnx/b.onnx,props/p.vnnlib,1\n", "line 4: there is no file"),
        ("onnx/a.onnx,props/p.vnnlib,soon\n", "must be a positive number of seconds, not 'soon'"),
        ("onnx/a.onnx,props/p.vnnlib,-1\n", "must be a positive number of seconds"),
        ("\n", "lists no instance"),
    ],
)
def test_mistakes_in_a_folder(folder: Path, table: str, words: str) -> None:
    (folder / "instances.csv").write_text(table)
    with pytest.raises(SuiteError, match=r"instances\.csv") as caught:
        load_suite(folder)
    assert words in str(caught.value)


def test_no_folder_and_no_table(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="does not exist"):
        load_suite(tmp_path / "nowhere")
    with pytest.raises(SuiteError, match=r"instances\.csv' cannot be read"):
        load_suite(tmp_path)


def test_every_kind_of_group(files: Path, folder: Path) -> None:
    suite = suite_of(
        files,
        """
        name = "all kinds"
        timeout = 20
        [[verifiers]]
        name = "auto"
        options = { stages = ["pgd", "crown"] }
        [[verifiers]]
        name = "crown"
        [[vnnlib]]
        model = "net.onnx"
        property = "p.vnnlib"
        expected = "sat"
        [[vnnlib]]
        model = "net.onnx"
        property = "p.vnnlib"
        [[robustness]]
        model = "net.onnx"
        inputs = "s.npz"
        radii = [0.1, 2]
        clip = [0.0, 1]
        indices = [2, 0]
        verifiers = ["crown"]
        [[radius]]
        model = "net.onnx"
        inputs = "s.npz"
        norm = 2
        timeout = 7
        [[folder]]
        path = "acas"
        """,
    )
    assert suite.name == "all kinds"
    assert suite.verifiers == (Choice("auto", {"stages": ["pgd", "crown"]}, "auto"), Choice("crown", {}, "crown"))
    assert [i.id for i in suite.instances] == [
        "net/p",
        "net/p#2",
        "net/s[2] linf 0.1",
        "net/s[2] linf 2",
        "net/s[0] linf 0.1",
        "net/s[0] linf 2",
        "net/s[0] l2 radius",
        "net/s[1] l2 radius",
        "net/s[2] l2 radius",
        "a/p",
        "a/q",
    ]
    assert [i.limits.seconds for i in suite.instances] == [20.0] * 6 + [7.0] * 3 + [116.0, 30.5]
    robust, radius = suite.instances[2], suite.instances[6]
    assert robust.sample is not None
    assert (robust.sample.label, robust.sample.radius, robust.sample.clip) == (6, "0.1", ("0.0", "1"))
    assert robust.verifiers == ("crown",)
    assert (radius.question, robust.question) == ("radius", "verify")
    assert [i.suite for i in suite.instances[-2:]] == ["acas", "acas"]
    for instance in suite.instances:
        assert pickle.loads(pickle.dumps(instance)) == instance
        assert Instance.from_json(instance.to_json()) == instance


ROBUST = '[[robustness]]\nmodel = "net.onnx"\ninputs = "s.npz"\nradii = [0.1]\n'
VNNLIB = '[[vnnlib]]\nmodel = "net.onnx"\nproperty = "p.vnnlib"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "is not valid TOML"),
        ("", "asks nothing"),
        ("colour = 1\n" + VNNLIB, "key 'colour': unknown"),
        ("timeout = 'soon'\n" + VNNLIB, "key 'timeout': takes a positive number of seconds, not 'soon'"),
        ("timeout = inf\n" + VNNLIB, "key 'timeout'"),
        ("vnnlib = 3", "key 'vnnlib': takes tables"),
        ("verifiers = ['milp']\n" + VNNLIB, "key 'verifiers': takes tables"),
        ("[[verifiers]]\noptions = {}\n" + VNNLIB, "[[verifiers]] number 1, key 'name': missing"),
        ("[[verifiers]]\nname = 'a'\noptions = 3\n" + VNNLIB, "key 'options': takes a table"),
        ("[[vnnlib]]\nmodel = 'net.onnx'\n", "[[vnnlib]] number 1, key 'property': missing"),
        (VNNLIB + "[[vnnlib]]\nmodel = 'no.onnx'\nproperty = 'p.vnnlib'\n", "[[vnnlib]] number 2, key 'model'"),
        (VNNLIB + "expected = 'HOLDS'\n", "key 'expected'"),
        (VNNLIB + "verifiers = ['crwn']\n", "'crwn' is not among this study's"),
        (ROBUST + "norm = 3\n", "key 'norm': takes one of 0, 1, 2, inf, not 3"),
        (ROBUST + "norm = '0'\n", "key 'clip': missing"),
        (ROBUST + "clip = [1, 0]\n", "key 'clip'"),
        (ROBUST + "indices = [3]\n", "key 'indices': 3 is outside 0..2"),
        (ROBUST + "indices = [true]\n", "key 'indices'"),
        (ROBUST.replace("[0.1]", "[-1]"), "key 'radii'"),
        (ROBUST.replace("[0.1]", "0.1"), "key 'radii'"),
        (ROBUST.replace("[0.1]", "[nan]"), "key 'radii'"),
        (ROBUST.replace("s.npz", "p.vnnlib"), "key 'inputs'"),
        ("[[folder]]\npath = 'gone'\n", "key 'path': there is no folder"),
    ],
)
def test_mistakes_in_a_file(files: Path, text: str, words: str) -> None:
    with pytest.raises(SuiteError, match=r"quick\.toml") as caught:
        suite_of(files, text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_samples_of_the_wrong_kind(files: Path) -> None:
    np.savez(files / "s.npz", x=np.zeros((3, 2)))
    with pytest.raises(SuiteError, match="holds no array 'y'"):
        suite_of(files, ROBUST)
    np.savez(files / "s.npz", x=np.zeros((3, 2)), y=np.zeros(3))
    with pytest.raises(SuiteError, match="integers y"):
        suite_of(files, ROBUST)
    np.savez(files / "s.npz", x=np.array([{}, {}]), y=np.zeros(2, dtype=int))
    with pytest.raises(SuiteError, match=r"cannot be read as an \.npz file"):
        suite_of(files, ROBUST)

"""Study files: the page's example reads and runs, its keys are all keys; and what a study can and cannot say."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import verifkit
from verifkit.bench.report.scores import certified_accuracy
from verifkit.bench.rows.frame import load_rows
from verifkit.bench.rows.store import read_rows
from verifkit.bench.running.runner import run
from verifkit.bench.suites.groups import GROUPS
from verifkit.bench.suites.instance import Choice, Instance, Suite
from verifkit.bench.suites.overview import overview
from verifkit.bench.suites.suite import load_suite
from verifkit.bench.suites.tables import KEYS
from verifkit.budget import Budget
from verifkit.cli import cli
from verifkit.errors import SuiteError, VerifkitError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
ZOO = ROOT / "benchmarks" / "zoo"
BALLS = ("robustness", "radius", "curve")


def study(folder: Path, text: str) -> Suite:
    path = folder / "study.toml"
    path.write_text(text)
    return load_suite(path)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The page's example, and a folder `acas` with what it names there; of the rest of its models there is none."""
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "example.toml").write_text(text)
    folder = tmp_path / "acas"
    (folder / "onnx").mkdir(parents=True)
    model = gzip.compress((ZOO / "digits-3x100.onnx").read_bytes())
    (folder / "onnx" / "a_1_2.onnx.gz").write_bytes(model)
    shutil.copy(ROOT / "benchmarks" / "suites" / "props" / "lead-of-8.vnnlib", folder / "p.vnnlib")
    (folder / "instances.csv").write_text("onnx/gone_2_2.onnx,p.vnnlib,9\nonnx/a_1_2.onnx,p.vnnlib,9\n")
    return tmp_path / "example.toml"


def test_the_example_of_the_page_reads_and_runs(example: Path) -> None:
    suite = load_suite(example)
    assert (suite.name, suite.seed, suite.repeats) == ("example", 0, 1)
    assert [c.label for c in suite.verifiers] == ["crown", "bab", "smoothing-0.25", "smoothing-0.5"]
    out = example.parent / "out"
    summary = run(suite, out=out, jobs=2)
    assert (summary.rows, summary.errors) == (2 + 16 + 4 + 15 + 1, 0)
    everything = read_rows(out)
    assert {row.memory_limit for row in everything} == {2 * 2**30}  # the audit's attacks, too
    rows = [row for row in everything if row.audit is None]
    assert {(row.timeout, row.memory_limit, row.node_limit, row.sample_limit) for row in rows} == {
        (20.0, 2 * 2**30, 10_000, 20_000),
        (5.0, 2 * 2**30, 10_000, 20_000),
    }
    curves = [row for row in rows if row.grid is not None]
    grid = [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]
    assert len(curves) == 15
    assert all(row.question == "radius" and row.grid == grid for row in curves)
    table = certified_accuracy(load_rows(out).query("grid.notna()"), radii=grid)
    for method in ("crown", "smoothing (sigma=0.25)", "smoothing (sigma=0.5)"):
        own = table[table["verifier"] == method]
        assert own["radius"].tolist() == grid
        assert set(own["rows"]) == {5}
        assert own["accuracy"].is_monotonic_decreasing
    assert set(table["subject"]) == {"network", "smoothed classifier"}


def test_the_example_can_be_checked_and_the_count_is_what_is_run(example: Path) -> None:
    done = CliRunner().invoke(cli, ["bench", str(example), "--check", "--jobs", "2"])
    assert done.exit_code == 0, done.output
    assert "example: 25 questions about 4 models, 4 verifiers, 38 rows" in done.output.splitlines()
    assert "smoothing-0.25 (smoothing)  sigma=0.25 n=1000" in done.output
    assert "l2 at 11 radii, 0 to 0.5" in done.output
    assert not (example.parent / "results").exists()


def test_the_keys_of_the_page_are_those_of_the_code() -> None:
    lines = [line.split("|")[1:-1] for line in PAGE.split("## Every key")[1].splitlines() if line.startswith("| `")]
    told: dict[str, set[str]] = {"": {*GROUPS, "verifiers"}, "verifiers": set(), **{group: set() for group in GROUPS}}
    for keys, tables, *_ in lines:
        groups = set(re.findall(r"\[\[(\w+)\]\]", tables))
        groups |= {""} if "top" in tables else set()
        groups |= set(BALLS) if "balls" in tables else set()
        groups |= set(GROUPS) if "groups" in tables else set()
        for group in groups:
            told[group] |= set(re.findall(r"`(\w+)`", keys))
    assert told == KEYS


CROWN = '[[verifiers]]\nname = "crown"\n'
CURVE = '[[curve]]\nmodel = "zoo:digits-2x50"\ninputs = "zoo:digits"\nradii = { from = 0, to = 0.3, step = 0.1 }\n'


def test_lists_are_asked_one_by_one(tmp_path: Path) -> None:
    suite = study(
        tmp_path,
        CURVE.replace('model = "zoo:digits-2x50"', 'models = ["zoo:digits-2x50", "zoo:digits-3x100"]')
        + 'norms = ["1", "inf"]\nindices = { from = 1, to = 5, step = 4 }\n[[vnnlib]]\nmodel = "zoo:digits-2x50"\n'
        'properties = ["zoo:lead-of-8", "zoo:patch-on-8"]\n',
    )
    assert [i.id for i in suite.instances] == [
        "digits-2x50/lead-of-8",
        "digits-2x50/patch-on-8",
        *(f"{m}/digits-samples[{k}] l{p} curve" for m in ("digits-2x50", "digits-3x100") for p in ("1", "inf")
          for k in (1, 5)),
    ]  # fmt: skip
    curve = suite.instances[2]
    assert curve.grid == ("0", "0.1", "0.2", "0.3")
    assert (curve.question, curve.model_name) == ("radius", "digits-2x50.onnx")
    assert Instance.from_json(curve.to_json()) == curve


@pytest.mark.parametrize(
    ("radii", "grid"),
    [
        ("[0.10, 1, 0.1]", ("0.10", "1")),
        ("{ from = 1, to = 1, step = 5 }", ("1",)),
        ("{ from = 0.005, to = 0.02, step = 0.0050 }", ("0.005", "0.01", "0.015", "0.02")),
        ("{ from = 0, to = 20, step = 10 }", ("0", "10", "20")),
        ("{ from = 1e-7, to = 3e-7, step = 1e-7 }", ("1E-7", "2E-7", "3E-7")),
    ],
)
def test_radii_are_decimals_with_both_ends(tmp_path: Path, radii: str, grid: tuple[str, ...]) -> None:
    suite = study(tmp_path, CURVE.replace("{ from = 0, to = 0.3, step = 0.1 }", radii))
    assert {i.grid for i in suite.instances} == {grid}


def test_what_is_asked_twice_is_one_row_with_all_radii(tmp_path: Path) -> None:
    one = "indices = [0]\n"
    more = CURVE.replace("{ from = 0, to = 0.3, step = 0.1 }", "[0.10, 0.25]")
    radius = CURVE.replace("curve", "radius").replace("radii = { from = 0, to = 0.3, step = 0.1 }\n", "")
    suite = study(tmp_path, CROWN + CURVE + one + more + "indices = [0, 1]\n" + radius + one)
    assert "2 rows" in overview(suite, limits=Budget(), jobs=1, seed=0, repeats=1)
    run(suite, out=tmp_path / "out", jobs=1, audit=False)
    assert {row.index: row.grid for row in read_rows(tmp_path / "out")} == {0: [0, 0.1, 0.2, 0.25, 0.3], 1: [0.1, 0.25]}


def test_limits_of_the_verifier_replace_the_groups_and_these_the_studys(tmp_path: Path) -> None:
    suite = study(
        tmp_path,
        "timeout = 20\nmemory = 1.5\nnodes = 1e3\nseed = 7\nrepeats = 2\n"
        + CROWN
        + '[[verifiers]]\nname = "bab"\ntimeout = 3\nsamples = 5\n'
        + CURVE
        + "nodes = 10\ntimeout = 9\nindices = [0]\n",
    )
    assert (suite.seed, suite.repeats) == (7, 2)
    assert suite.instances[0].limits == Budget(seconds=9.0, memory_bytes=3 * 2**29, nodes=10)
    assert suite.verifiers[1] == Choice("bab", {}, "bab", Budget(seconds=3.0, samples=5))
    run(suite, out=tmp_path / "out", jobs=1, limits=Budget(nodes=4), audit=False)
    limits = {(r.verifier, r.timeout, r.node_limit, r.sample_limit, r.seed) for r in read_rows(tmp_path / "out")}
    assert limits == {
        *(("crown", 9.0, 4, None, seed) for seed in (7, 8)),
        *(("bab", 3.0, 4, 5, seed) for seed in (7, 8)),
    }


SMOOTHING = (
    '[[verifiers]]\nname = "smoothing"\nlabel = "a"\noptions = { sigma = 0.25 }\n'
    '[[verifiers]]\nname = "smoothing"\nlabel = "b"\noptions = { sigma = 0.5 }\n'
)


@pytest.mark.parametrize(
    ("verifiers", "taken"),
    [("", "a b crown"), ('["b"]', "b"), ('["smoothing"]', "a b"), ('["crown", "a"]', "a crown")],
)
def test_a_group_names_entries_by_label_or_all_of_a_verifier(tmp_path: Path, verifiers: str, taken: str) -> None:
    suite = study(tmp_path, SMOOTHING + CROWN + CURVE + (f"verifiers = {verifiers}\n" if verifiers else ""))
    assert [c.label for c in suite.verifiers if c.takes(suite.instances[0])] == taken.split()


def test_other_verifiers_take_the_place_of_the_groups_own(tmp_path: Path) -> None:
    suite = study(tmp_path, SMOOTHING + CURVE + 'indices = [0]\nverifiers = ["a"]\n').put_to([("crown", {})])
    run(suite, out=tmp_path / "out", jobs=1, audit=False)
    assert [row.verifier for row in read_rows(tmp_path / "out")] == ["crown"]


def test_a_part_of_a_folder(example: Path) -> None:
    folder = '[[folder]]\npath = "acas"\n'
    for only in ('only = ["a_1*/p"]', 'only = ["zz", "onnx/a*"]'):
        assert [i.id for i in study(example.parent, f"{folder}{only}\n").instances] == ["a_1_2/p"]
    with pytest.raises(SuiteError, match=r"line 3, .*'only': .* lists no instance whose .* fits 'zz'"):
        study(example.parent, folder + 'only = ["zz"]\n')
    with pytest.raises(SuiteError, match=r"line 2, .*'path': .*, line 1: there is no file"):
        study(example.parent, folder + "limit = 1\n")
    suite = study(example.parent, "timeout = 1\nnodes = 5\n" + folder + 'only = ["*/a*"]\nmemory = 1\n')
    assert suite.instances[0].limits == Budget(seconds=9.0, memory_bytes=2**30, nodes=5)


def test_the_zoo_of_the_study_files_own_checkout_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "benchmarks" / "suites"
    (tmp_path / "benchmarks" / "zoo").mkdir(parents=True)
    inside.mkdir()
    shutil.copy(ZOO / "toy-samples.npz", tmp_path / "benchmarks" / "zoo")
    (tmp_path / "benchmarks" / "zoo" / "manifest.json").write_text("{}")
    (tmp_path / "benchmarks" / "zoo" / "own.onnx").write_bytes(b"model")
    text = CURVE.replace("digits-2x50", "own").replace("digits", "toy")
    assert study(inside, text).instances[0].model_path == str(tmp_path / "benchmarks" / "zoo" / "own.onnx")
    with pytest.raises(SuiteError, match=r"line 3, .*'inputs': the zoo holds no inputs 'ty'; did you mean 'toy'"):
        study(inside, text.replace("toy", "ty"))
    monkeypatch.setattr(verifkit, "__file__", str(tmp_path / "lib" / "verifkit" / "__init__.py"))
    (tmp_path / "lib").mkdir()
    (elsewhere := tmp_path.parent / f"{tmp_path.name}-elsewhere").mkdir()
    with pytest.raises(
        SuiteError, match=r"key 'model': there is no zoo for 'zoo:own': .* or name the file by its path"
    ):
        study(elsewhere, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CROWN + CURVE + "colour = 1\n", "line 7, [[curve]] number 1, key 'colour': unknown here; known:"),
        (CROWN + CURVE.replace("radii", "radi"), "line 6, [[curve]] number 1, key 'radi': unknown here; did you mean"),
        (CROWN + CURVE + "\nseed = 1\n", "line 8, [[curve]] number 1, key 'seed': unknown here; it belongs to the top"),
        ("clip = [0, 1]\n" + CURVE, "line 1, key 'clip': unknown here; it belongs to [[robustness]], [[radius]]"),
        (CROWN.replace("crown", "crwn") + CURVE, "line 2, [[verifiers]] number 1, key 'name': no verifier is called"),
        (CROWN + "sigma = 1\n" + CURVE, "line 3, [[verifiers]] number 1, key 'sigma': unknown here; options of the"),
        (SMOOTHING.replace("0.5", "'x'") + CURVE, "line 8, [[verifiers]] number 2, key 'options.sigma': option 'sigm"),
        (SMOOTHING.replace("sigma = 0.5", "sgma = 1") + CURVE, "key 'options.sgma': verifier 'smoothing' has no opti"),
        (SMOOTHING.replace("sigma = 0.5", "sgma = 1") + CURVE, "did you mean 'sigma'?"),
        (SMOOTHING.replace('"b"', '"a"') + CURVE, "line 7, [[verifiers]] number 2, key 'label': 'a' already stands f"),
        (SMOOTHING.replace('"b"', '"crown"') + CROWN + CURVE, "line 10, [[verifiers]] number 3, key 'name': 'crown' "),
        (CROWN + CROWN + CURVE, "line 4, [[verifiers]] number 2, key 'name': this is [[verifiers]] number 1 again"),
        (CROWN + CURVE + "norms = [\n  '2',\n  'l7']\n", "line 9, [[curve]] number 1, key 'norms': takes one of 0, 1"),
        (CURVE + 'norm = "l2"\n', "line 5, [[curve]] number 1, key 'norm': takes one of 0, 1, 2, inf, not 'l2'; did "),
        (CURVE.replace("to = 0.3", "to = 0.35"), "line 4, [[curve]] number 1, key 'radii': steps of 0.1 from 0 do not"),
        (CURVE.replace("to = 0.3", "to = 1e9"), "numbers: at most 10000"),
        (CURVE.replace("to = 0.3", "to = 'x'"), "line 4, [[curve]] number 1, key 'radii.to': takes a number, not 'x'"),
        (CURVE.replace("to = 0.3", "upto = 0.3"), "key 'radii': takes a list of numbers or { from = a, to = b, step "),
        (CURVE.replace("to = 0.3", "to = 1e999999999"), "between 1e-300 and 1e300"),
        (CROWN + CROWN + "label = 'b'\ntimeout = 9\n" + CURVE, "line 5, [[verifiers]] number 2, key 'label': this is"),
        (CURVE + "clip = [0.9, 1]\n", "line 5, [[curve]] number 1, key 'clip': sample 0 of 'zoo:digits' lies outside"),
        (CURVE + 'models = ["a"]\n', "line 5, [[curve]] number 1, key 'models': 'model' is there as well"),
        (CURVE.replace('"zoo:digits-2x50"', '["a"]'), "line 2, [[curve]] number 1, key 'model': takes one; a list is"),
        (CURVE + "indices = []\n", "key 'indices': takes a list of at least one entry"),
        (CURVE + 'verifiers = ["crown"]\n', "'crown' is not among this study's [[verifiers]]; there are: none"),
        ("repeats = 0\n" + CURVE, "line 1, key 'repeats': takes a whole number, at least 1, not 0"),
        ("seed = -1\n" + CURVE, "line 1, key 'seed': takes a whole number, at least 0, not -1"),
        ("memory = '4 GB'\n" + CURVE, "line 1, key 'memory': takes a positive number of GiB"),
        ("nodes = 1.5\n" + CURVE, "line 1, key 'nodes': takes a whole number, at least 1, not 1.5"),
        (CURVE.replace('"zoo:digits-2x50"', "zoo"), "line 2, column 9); a text stands in quotes"),
        (CURVE + CURVE[len("[[curve]]") :], "the key is there twice"),
        ("a = " + "[" * 5000, "too deep or too long"),
        ("a = " + "1" * 5000, "too deep or too long"),
        (CURVE.replace("zoo:digits-2x50", "x" * 5000), "there is no file"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_line_and_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SuiteError, match=r"^study '.*study\.toml'") as caught:
        study(tmp_path, text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros((2, 64)), np.array([0, -1]), "sample 1 has the label -1: they count from 0"),
        (np.full((1, 64), np.nan), np.array([0]), "sample 0 holds a number that is not finite"),
        (np.zeros((0, 64)), np.zeros(0, dtype=int), "it holds no sample"),
    ],
)
def test_samples_that_make_no_sense(tmp_path: Path, x: np.ndarray, y: np.ndarray, words: str) -> None:
    np.savez(tmp_path / "s.npz", x=x, y=y)
    with pytest.raises(SuiteError, match=r"line 3, .* key 'inputs'") as caught:
        study(tmp_path, CURVE.replace('zoo:digits"', 's.npz"'))
    assert words in str(caught.value)


def test_a_ball_may_reach_into_the_clip_box(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.full((1, 64), 3), y=np.array([0]))
    text = CURVE.replace("curve", "robustness").replace('zoo:digits"', 's.npz"').replace("to = 0.3", "to = 2")
    assert len(study(tmp_path, text + "clip = [0, 1]\n").instances) == 21
    assert len(study(tmp_path, text + "clip = [0, 1]\nnorm = '0'\n").instances) == 21
    with pytest.raises(
        SuiteError, match=r"line 5, .*'clip': sample 0 of 's.npz' lies outside it, with entries from 3 t"
    ):
        study(tmp_path, text + "clip = [0, 0.9]\n")


def test_a_clip_end_that_is_no_float_keeps_the_sample(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.full((1, 64), 0.3, dtype=np.float32), y=np.array([0]))
    text = CURVE.replace('zoo:digits"', 's.npz"') + "clip = [0, 0.3]\n"  # 0.3 in float32 is more than 3/10
    assert len(study(tmp_path, text).instances) == 1


def test_a_package_that_is_missing_is_a_mistake_unless_others_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verifkit.capabilities._installed", lambda module: module != "z3")
    text = '[[verifiers]]\nname = "smt"\n' + CURVE
    with pytest.raises(SuiteError, match=r"line 2, .*'name': verifier 'smt' needs the package 'z3': run `pip install"):
        study(tmp_path, text)
    assert load_suite(tmp_path / "study.toml", own_verifiers=False).verifiers[0].name == "smt"
    done = CliRunner().invoke(cli, ["bench", str(tmp_path / "study.toml"), "--check", "--verifiers", "crown"])
    assert "10 questions about 1 model, 1 verifier, 10 rows" in done.output
    with pytest.raises(VerifkitError, match="needs the package 'z3'"):
        overview(load_suite(tmp_path / "study.toml", own_verifiers=False), limits=Budget(), jobs=1, seed=0, repeats=1)


def test_a_check_says_what_cannot_be_asked_and_how_long_the_rest_takes(tmp_path: Path) -> None:
    radius = CURVE.replace("curve", "radius").replace("radii = { from = 0, to = 0.3, step = 0.1 }\n", "")
    curve = CURVE + 'norms = ["0", "2"]\nclip = [0, 1]\n'
    suite = study(tmp_path, SMOOTHING + CROWN + "timeout = 90\n" + curve + radius + 'norm = "2"\nclip = [0, 1]\n')
    text = overview(suite, limits=Budget(), jobs=2, seed=3, repeats=2)
    assert "study: 20 questions about 1 model, 3 verifiers, 120 rows" in text  # the radius questions are the curve's
    assert "40 rows, 20 of them unsupported: it has no l0" in text
    assert "timeout: 90 s, or none" in text
    assert "seed: 3 to 4, each question with each" in text
    assert "worst case: no bound, for 80 rows without a timeout" in text
    text = overview(suite, limits=Budget(seconds=60, memory_bytes=2**29), jobs=2, seed=3, repeats=2)
    assert "worst case: 1 h 0 min with 2 workers" in text
    assert "memory: 0.5 GiB" in text
    with pytest.raises(SuiteError, match="names no verifiers"):
        overview(study(tmp_path, CURVE), limits=Budget(), jobs=1, seed=0, repeats=1)


def test_inputs_of_the_same_content_are_inputs_of_their_own(tmp_path: Path) -> None:
    """Three copies of one image, and two of one model: nothing leaves a denominator for being there twice."""
    for name in ("one.onnx", "two.onnx"):
        (tmp_path / name).write_bytes((ROOT / "benchmarks" / "zoo" / "toy-spirals.onnx").read_bytes())
    x = np.array([[0.37, 0.53]] * 3 + [[0.9, 0.1]], dtype=np.float32)
    np.savez(tmp_path / "images.npz", x=x, y=np.array([1, 1, 1, 0]))
    (tmp_path / "study.toml").write_text(
        '[[verifiers]]\nname = "interval"\n'
        '[[curve]]\nmodels = ["one.onnx", "two.onnx"]\ninputs = "images.npz"\nradii = [0.01]\n'
        '[[radius]]\nmodel = "one.onnx"\ninputs = "images.npz"\nindices = [0]\n'  # asked already
    )
    suite, out = load_suite(tmp_path / "study.toml"), tmp_path / "out"
    summary = run(suite, out=out, jobs=1)
    own = [row for row in read_rows(out) if row.audit is None]
    assert summary.rows == len(own) == len({row.key for row in own}) == 8
    assert sorted((row.model, row.index) for row in own) == [(m, i) for m in ("one.onnx", "two.onnx") for i in range(4)]
    again = run(suite, out=out, jobs=2)
    assert (again.written, again.standing, again.foreign) == (0, 8, 0)
    table = certified_accuracy(load_rows(out).query("audit == ''"), radii=[0.01])
    assert set(table["rows"]) == {4}
    again = run(suite, out=out, jobs=2, limits=Budget(seconds=30))
    assert again.foreign == 8  # the attacks have limits of their own, and stand

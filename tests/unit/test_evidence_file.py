"""Evidence comes back from its file as it went in, for every class and for what verifiers really leave."""

from __future__ import annotations

import dataclasses
import io
import math
import typing
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from verifkit import evidence as ev
from verifkit import registry
from verifkit.budget import Budget
from verifkit.errors import EvidenceError
from verifkit.io.evidence_file import KeptEvidence, load_evidence, save_evidence
from verifkit.io.onnx import load_model
from verifkit.query import robustness_family
from verifkit.testing.questions import easy_sample

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

HALF = Fraction(1, 2)
GRID = np.arange(6.0).reshape(2, 3) / 7
LINES = ev.Lines(GRID, -GRID, GRID + math.inf, np.full((2, 3), np.nan))
PHASES = ev.PhaseTree(*(np.arange(n) for n in range(8)), 8, GRID, GRID[:0])
UNIT = ev.UnitBound(
    1, 2, True, -math.inf, dataclasses.replace(PHASES, unit_bounds=(ev.UnitBound(0, 1, False, 0.1, None),))
)
BOXES = ev.BoxTree(*(np.arange(6, dtype=np.int32) + n for n in range(6)), 13)
FARKAS = ev.Farkas({ev.Variable("b", 3, 4): Fraction(-(7**4000), 3**5000), ev.Variable("one"): Fraction(0)})
SPLIT = ev.PhaseSplit(1, 0, FARKAS, ev.PhaseSplit(2, 5, FARKAS, ev.Farkas({})))
EXAMPLES: list[Any] = [
    ev.Witness((HALF, Fraction(-1, 3)), (ev.Replay("rational", (0.1, 1 / 3), True),), "rational", True, False),
    ev.Leaf({3: (GRID, GRID + 1)}, {4: LINES}, ((3, math.inf),), {5: ev.Planes(*[GRID] * 6)}, {6: (GRID, -GRID)}),
    BOXES,
    dataclasses.replace(PHASES, unit_bounds=(UNIT, UNIT)),
    ev.LayerBoxes(GRID, GRID, GRID, (UNIT,), BOXES),
    ev.FarkasTrees({1: ((HALF,), (Fraction(1),))}, {}, (SPLIT, (3, 0.5), FARKAS)),
    ev.SampleCounts((1, 2), (3, 4), 1, 0.25, 1e-3, 0.9, 0.1, 0.3, "m", 10, parameters=(("a", 1.5),), key=(2**70, 1)),
    ev.PrivacyCounts((1.5,), (2.5,), (), 3, 0, "2", "laplace", 0.1, 1.0, "", 1e-3, 0.1, 0.9, 1.0, 1e-5, 0.2, "m"),
    ev.SolverBound("highs", (0.1, math.nan), 1e-9),
    ev.SolverDistance("gurobi", (), 1e-9),
    ev.Cases((None, ev.Cases((ev.SolverBound("s", (1.0,), 0.0),)))),
]  # fmt: skip


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        alike = isinstance(other, np.ndarray) and one.dtype == other.dtype and one.shape == other.shape
        return alike and one.tobytes() == other.tobytes()
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one):
        names = [f.name for f in dataclasses.fields(one)]
        return type(one) is type(other) and all(same(getattr(one, n), getattr(other, n)) for n in names)
    return type(one) is type(other) and (one == other or (one != one and other != other))


def through(evidence: Any, path: Path) -> Any:
    with open(path, "wb") as file:
        save_evidence(file, KeptEvidence(evidence, "q", "v"))
    kept = load_evidence(path)
    assert (kept.query, kept.verifier) == ("q", "v")
    return kept.evidence


@pytest.mark.parametrize("evidence", EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_class_comes_back(tmp_path: Path, evidence: Any) -> None:
    assert same(through(evidence, tmp_path / "e.npz"), evidence)


def test_the_examples_are_all_there_is() -> None:
    assert {type(example) for example in EXAMPLES} == set(typing.get_args(ev.Evidence))


@pytest.mark.parametrize(
    ("name", "norm"), [("crown", "inf"), ("bab", "inf"), ("smt", "1"), ("reluplex", "inf"), ("milp", "2")]
)
@pytest.mark.parametrize("holds", [True, False])
def test_what_verifiers_leave_comes_back(tmp_path: Path, name: str, norm: Any, holds: bool) -> None:
    verifier = registry.create(name, {})
    for number in range(3):
        query = easy_sample(norm, number, 0, holds, False).query
        result = verifier.verify(query, budget=Budget(seconds=20))
        if result.evidence is not None:
            assert same(through(result.evidence, tmp_path / "e.npz"), result.evidence)
            return
    assert not holds or name in ("milp",), "no evidence was left"


def test_a_tree_deeper_than_the_interpreters_stack(tmp_path: Path) -> None:
    tree: ev.FarkasTree = FARKAS
    for unit in range(20000):
        tree = ev.PhaseSplit(0, unit, tree, ev.Farkas({}))
    read = through(ev.FarkasTrees({}, {}, (tree,)), tmp_path / "e.npz").trees[0]
    for unit in reversed(range(20000)):
        assert (read.unit, same(read.nonnegative, ev.Farkas({}))) == (unit, True)
        read = read.negative
    assert same(read, FARKAS)
    while isinstance(tree, ev.PhaseSplit):  # freed level by level: the interpreter would recurse
        tree = tree.negative


def test_arrays_of_torch_are_kept(tmp_path: Path) -> None:
    bound = torch.tensor([1.5, 2.5], dtype=torch.float32, requires_grad=True)
    read = through(ev.Leaf({0: (bound, bound)}, {}, ()), tmp_path / "e.npz")
    assert same(read.intermediate[0][1], np.float32([1.5, 2.5]))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "e.npz").write_bytes(content)
    with pytest.raises(EvidenceError, match=r"e\.npz' is no evidence file"):
        load_evidence(tmp_path / "e.npz")
    with pytest.raises(EvidenceError, match="cannot be read: No such file"):
        load_evidence(tmp_path / "none.npz")


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", '{"nodes": [["Result", {}]], "query": "", "verifier": ""}', '{"nodes": [["tuple", [{"node": 0}]]]}'],
)
def test_a_foreign_structure_is_refused(tmp_path: Path, text: str) -> None:
    np.savez(tmp_path / "e.npz", structure=np.frombuffer(text.encode(), np.uint8))
    with pytest.raises(EvidenceError, match="is no evidence file"):
        load_evidence(tmp_path / "e.npz")
    np.savez(tmp_path / "o.npz", structure=np.array([object()]))
    with pytest.raises(EvidenceError, match="is no evidence file"):
        load_evidence(tmp_path / "o.npz")


def test_what_no_file_can_hold_is_refused() -> None:
    evidence: Any = ev.Cases((object(),))  # type: ignore[arg-type]
    with pytest.raises(EvidenceError, match="holds a object"):
        save_evidence(io.BytesIO(), KeptEvidence(evidence, "q", "v"))


@pytest.mark.parametrize(
    ("name", "options"),
    [("smoothing", {"sigma": 0.25, "n": 2000}), ("pixeldp", {"scale": 0.25, "mechanism": "analytic", "n": 2000})],
)
def test_what_probabilistic_verifiers_leave_comes_back(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    model = load_model(BENCHMARKS / "zoo" / "digits-3x100-noise-0.25.onnx")
    samples = np.load(BENCHMARKS / "suites" / "digits-samples.npz")
    query = robustness_family(model, samples["x"][1], int(samples["y"][1]), "2").at(Fraction(1, 10))
    result = registry.create(name, options).verify(query)
    assert isinstance(result.evidence, ev.SampleCounts | ev.PrivacyCounts)
    assert same(through(result.evidence, tmp_path / "e.npz"), result.evidence)

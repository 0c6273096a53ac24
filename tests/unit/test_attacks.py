"""Attacks: projections, steps, the nearest violation, and foolbox behind the same interface."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from verifiers.external.foolbox_attack import FoolboxAttack
from verifiers.falsify.fmn import Fmn
from verifkit.analysis.attack import Neighbourhood, neighbourhood_of, surroundings
from verifkit.analysis.nearest import nearest_unsafe
from verifkit.analysis.projection import onto_l1, onto_l2
from verifkit.analysis.region import region_of
from verifkit.analysis.rows import rows_of
from verifkit.budget import Budget
from verifkit.errors import MissingPackage, OptionError
from verifkit.input_sets import Box, Norm, ball
from verifkit.io.onnx import load_model, model_from_network
from verifkit.network import dense_network
from verifkit.properties import Constraint, Polyhedron, Property
from verifkit.query import Query, QueryFamily, robustness_family
from verifkit.registry import create, names
from verifkit.result import Reason, Verdict
from verifkit.testing.conformance import check_verifier
from verifkit.testing.gallery import black_box
from verifkit.verifier import Verifier

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "benchmarks" / "zoo" / "digits-2x50.onnx"
SAMPLES = ROOT / "benchmarks" / "suites" / "digits-samples.npz"
NORMS: tuple[Norm, ...] = ("inf", "2", "1")
ORDER = {"1": 1, "2": 2, "inf": np.inf}
with_foolbox = pytest.mark.skipif(importlib.util.find_spec("foolbox") is None, reason="foolbox is not installed")


@pytest.mark.parametrize("kind", ["around", "wide", "beside"])
@pytest.mark.parametrize(("onto", "order"), [(onto_l1, 1), (onto_l2, 2)])
def test_projections_are_nearest(onto, order: int, kind: str) -> None:  # type: ignore[no-untyped-def]
    """In the set, and at an obtuse angle to every other of its points, which is what makes a point the nearest."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = int(rng.integers(1, 8))
        gap, low, high = 2 * rng.normal(size=(5, n)), -rng.uniform(0, 1.5, (1, n)), rng.uniform(0, 1.5, (1, n))
        if kind == "wide":
            low, high = low - 9, high + 9
        if kind == "beside":  # the center lies outside the box
            shift = 0.7 * rng.normal(size=(1, n))
            low, high = low + shift, high + shift
        start = np.clip(0.0, low, high)
        radius = np.linalg.norm(start[0], order) + rng.uniform(0.01, 2.0, size=(5, 1))
        found = onto(gap, radius, low, high)
        assert ((low <= found) & (found <= high)).all()
        assert (np.linalg.norm(found, order, axis=1) <= radius[:, 0] * (1 + 1e-9)).all()
        others = np.clip(2 * rng.normal(size=(200, n)), low, high)
        for k in range(5):
            length = np.linalg.norm(others - start, order, axis=1)
            room = radius[k, 0] - np.linalg.norm(start[0], order)
            inside = start + (others - start) * np.minimum(1.0, room / np.maximum(length, 1e-12))[:, None]
            assert ((inside - found[k]) @ (gap[k] - found[k])).max() <= 1e-6


def test_a_projection_leaves_what_is_inside() -> None:
    gap = np.array([[0.2, -0.1], [0.0, 0.0]])
    for onto in (onto_l1, onto_l2):
        assert (onto(gap, np.full((2, 1), 0.5), np.full((1, 2), -1.0), np.full((1, 2), np.inf)) == gap).all()
        assert (onto(gap, np.zeros((2, 1)), np.full((1, 2), -1.0), np.full((1, 2), 1.0)) == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_steps_descend_within_the_norm(norm: Norm) -> None:
    rng = np.random.default_rng(1)
    center, unit = rng.normal(size=(1, 4, 5)), np.where(rng.uniform(size=(1, 4, 5)) < 0.2, 0.0, 2.0)
    unit = unit if norm == "inf" else np.ones_like(unit)
    near = Neighbourhood(center, np.full_like(center, -np.inf), np.full_like(center, np.inf), norm, unit)
    gradient = rng.normal(size=(12, 4, 5))
    step = near.downhill(gradient, np.arange(12))
    assert (near.distance(center + step) <= 1 + 1e-12).all()
    assert ((step * gradient).sum(axis=(1, 2)) < 0).all()
    steepest = -(step * gradient).sum(axis=(1, 2))[0]  # the first kind is the steepest step of all
    assert steepest == pytest.approx(near.slope(gradient)[0])
    if norm == "1":
        moved = (step != 0).sum(axis=(1, 2))
        assert moved[:4].tolist() == [1, 2, 1, 2]  # an eighth of 20 entries at most
    zero = near.downhill(np.zeros_like(gradient), np.arange(12))
    assert (zero == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_blocked_entries_are_left_out(norm: Norm) -> None:
    center = np.array([[0.0, 0.5]])
    near = Neighbourhood(center, np.zeros((1, 2)), np.ones((1, 2)), norm, np.ones((1, 2)))
    gradient = np.array([[5.0, 1.0], [-5.0, 1.0]])
    assert near.free(np.repeat(center, 2, axis=0), gradient).tolist() == [[0.0, 1.0], [-5.0, 1.0]]


def test_a_box_is_its_own_neighbourhood() -> None:
    """Corners included, and entries of no width stay where they are."""
    network = dense_network([np.eye(3)], [np.zeros(3)])
    box = Box((Fraction(1, 10), Fraction(-3), Fraction(7)), (Fraction(1, 3), Fraction(5), Fraction(7)))
    region = region_of(Query(model_from_network(network, "eye"), Property(box, (), 3)))
    near, radius = neighbourhood_of(region)
    corners = np.concatenate([region.lower, region.upper])
    assert (near.project(corners, np.full(2, radius)) == corners).all()
    assert near.project(region.upper + 9, np.full(1, radius)).tolist() == region.upper.tolist()


def linear_family(norm: Norm, clip: tuple[float, float] | None) -> tuple[QueryFamily, np.ndarray]:
    """y_0 - y_1 = w . x, so that from the center the distance is (w . c) over the dual norm of w."""
    w = np.array([3.0, -1.0, 0.5, 2.0])
    network = dense_network([np.stack([w, 0 * w])], [np.array([0.25, 0.0])])
    model = model_from_network(network, "linear")
    return robustness_family(model, np.full(4, 0.5), 0, norm, clip=clip), w


@pytest.mark.parametrize("norm", NORMS)
def test_fmn_finds_the_distance_of_a_plane(norm: Norm) -> None:
    family, w = linear_family(norm, None)
    margin = 0.5 * w.sum() + 0.25
    exact = margin / np.linalg.norm(w, {"1": np.inf, "2": 2, "inf": 1}[norm])
    found = Fmn().radius(family).falsified
    assert found is not None
    assert exact * (1 - 1e-7) <= found.value <= exact * (1 + 2e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_a_falsified_radius_is_a_replayed_witness_in_the_clip_box(norm: Norm) -> None:
    family, _ = linear_family(norm, (0, 1))
    found = Fmn().radius(family).falsified
    assert found is not None
    witness = found.result.witness
    assert witness is not None
    x = [float(v) for v in witness.x]
    assert min(x) >= 0
    assert max(x) <= 1
    assert np.linalg.norm(np.array(x) - 0.5, ORDER[norm]) <= found.value * (1 + 1e-12)
    assert found.result.query_digest == family.at(found.value).digest
    again = Fmn().radius(family).falsified
    assert again is not None
    assert again.value == found.value


@pytest.mark.parametrize("norm", NORMS)
def test_fmn_is_no_worse_than_bisected_pgd(norm: Norm) -> None:
    model, samples = load_model(DIGITS), np.load(SAMPLES)
    ratios = []
    for k in (0, 3, 7, 8):
        family = robustness_family(model, samples["x"][k], int(samples["y"][k]), norm, clip=(0, 1))
        ends = [create(name).radius(family).falsified for name in ("fmn", "pgd")]
        assert ends[0] is not None
        assert ends[1] is not None
        ratios.append(ends[0].value / ends[1].value)
    assert max(ratios) <= 1.01
    assert np.mean(ratios) <= 1.001


def test_a_proving_verifier_takes_the_upper_end_of_the_attack_that_looks_for_the_nearest() -> None:
    model, samples = load_model(DIGITS), np.load(SAMPLES)
    family = robustness_family(model, samples["x"][3], int(samples["y"][3]), "2", clip=(0, 1))
    bracket = create("crown").radius(family)
    nearest, bisected = (create(name).radius(family).falsified for name in ("fmn", "pgd"))
    assert bracket.falsified is not None
    assert nearest is not None
    assert bisected is not None
    assert bracket.falsified.value == nearest.value <= bisected.value * 1.002


def test_fmn_answers_at_a_misclassified_center_and_without_time() -> None:
    family, _ = linear_family("2", (0, 1))
    wrong = robustness_family(family.model, np.full(4, 0.5), 1, "2", clip=(0, 1))
    assert Fmn().radius(wrong).misclassified
    hasty = Fmn().radius(family, budget=Budget(seconds=1e-9))
    assert hasty.falsified is None


@pytest.mark.parametrize("norm", NORMS)
def test_fmn_takes_every_kind_of_unsafe_set(norm: Norm) -> None:
    """Rows that must hold together, rows over inputs, strict rows, a box of a disjunct's own, and no row at all."""
    network = dense_network([np.array([[1.0, 1.0], [1.0, -1.0]])], [np.zeros(2)])
    model = model_from_network(network, "pair")
    center, one = (Fraction(0), Fraction(0)), Fraction(1)
    both = Polyhedron((Constraint(((0, -one),), -one, strict=True), Constraint(((1, -one),), -one)))
    mixed = Polyhedron((Constraint(((0, -one),), -one, inputs=((0, one),)),))  # x_0 - y_0 <= -1, that is x_1 >= 1
    boxed = Polyhedron((Constraint(((0, -one),), -one),), Box((-one, -one), (one, Fraction(1, 4))))
    free = Polyhedron(())
    for unsafe, least in ((both, {"inf": 1.0, "2": 1.0, "1": 1.0}), (mixed, dict.fromkeys(NORMS, 1.0)),
                          (boxed, {"inf": 0.75, "2": 0.79, "1": 1.0}), (free, dict.fromkeys(NORMS, 0.0))):  # fmt: skip
        found = Fmn().radius(QueryFamily(model, center, norm, (unsafe,))).falsified
        assert found is not None
        assert least[norm] * (1 - 1e-6) <= found.value <= least[norm] * 1.01 + 1e-9
    assert Fmn().radius(QueryFamily(model, center, norm, ())).falsified is None
    far = Query(model, Property(ball(center, Fraction(1, 2), norm), (both, mixed), 2))
    assert Fmn().verify(far).reason is Reason.INCOMPLETE


def test_nothing_near_is_no_witness() -> None:
    family, _ = linear_family("2", (0, 1))
    rows = rows_of(family.at(0).prop)
    assert nearest_unsafe(family, rows, np.zeros((0, 4))) is None
    assert nearest_unsafe(family, rows, np.full((2, 4), 0.5)) is None
    assert surroundings(family).lower.tolist() == [[0.0] * 4]


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"starts": 0}, {"step_size": 0.0}, {"rate": 1.0}, {"rate": 0.0}, {"step_size": float("nan")}],
)
def test_wrong_options_of_fmn(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        Fmn(**wrong)  # type: ignore[arg-type]


# --- foolbox ----------------------------------------------------------------------------------------------------


def foolbox_family(norm: Norm) -> QueryFamily:
    model, samples = load_model(DIGITS), np.load(SAMPLES)
    return robustness_family(model, samples["x"][3], int(samples["y"][3]), norm, clip=(0, 1))


@with_foolbox
@pytest.mark.skipif("foolbox_attack" in names(), reason="the conformance tests of registered verifiers have it")
def test_foolbox_passes_the_conformance_suite() -> None:
    check_verifier(FoolboxAttack(), queries=8)


@with_foolbox
@pytest.mark.parametrize(
    ("attack", "norm", "share"),
    [("auto", "inf", 1.03), ("auto", "2", 1.03), ("auto", "1", 1.2), ("ead", "1", 1.5), ("noise", "inf", 6.0),
     ("fmn", "2", 1.2)],
)  # fmt: skip
def test_foolbox_brackets_a_radius(attack: str, norm: Norm, share: float) -> None:
    import torch

    family = foolbox_family(norm)
    state = torch.random.get_rng_state()
    own = Fmn().radius(family).falsified
    verifier: Verifier = FoolboxAttack(attack=attack)  # type: ignore[arg-type]
    found = verifier.radius(family).falsified
    assert own is not None
    assert found is not None
    assert found.result.witness is not None
    assert own.value / 1.03 <= found.value <= share * own.value
    again = verifier.radius(family).falsified
    assert again is not None
    assert again.value == found.value
    assert torch.equal(state, torch.random.get_rng_state())


@with_foolbox
def test_foolbox_refuses_a_norm_that_an_attack_does_not_measure() -> None:
    result = FoolboxAttack(attack="ddn").verify(foolbox_family("1").at(1))
    assert result.reason is Reason.UNSUPPORTED
    assert "norm 1" in result.detail


@with_foolbox
def test_foolbox_attacks_what_can_only_be_called() -> None:
    model = black_box()
    center = np.zeros(model.n_inputs)
    label = int(model(center[None])[0].argmax())
    robust = robustness_family(model, center, label, "inf").at(Fraction(1, 2**20))
    assert FoolboxAttack().verify(robust).verdict is Verdict.UNKNOWN
    wrong = robustness_family(model, center, 1 - label, "inf").at(Fraction(1, 2**20))
    assert FoolboxAttack().verify(wrong).verdict is Verdict.VIOLATED


def test_wrong_options_of_foolbox() -> None:
    for wrong in ({"attack": "carlini"}, {"steps": 0}, {"starts": 0}):
        with pytest.raises(OptionError):
            FoolboxAttack(**wrong)  # type: ignore[arg-type]


def test_without_foolbox_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(FoolboxAttack.capabilities, modules={"no_such_foolbox": "attacks"})
    monkeypatch.setattr(FoolboxAttack, "capabilities", absent)
    with pytest.raises(MissingPackage, match=r"verifkit\[attacks\]"):
        FoolboxAttack().verify(linear_family("2", None)[0].at(1))


def test_the_names_are_registered() -> None:
    assert {"fmn", "pgd"} <= set(names())

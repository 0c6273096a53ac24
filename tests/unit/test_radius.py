"""The bracket: bisection with and without an upper end, its limits, and the exact radius by one program."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from verifkit.budget import Budget, Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import OptionError, PropertyError
from verifkit.input_sets import Box, LpBall
from verifkit.io.onnx import load_model, model_from_network
from verifkit.network import dense_network
from verifkit.query import Query, QueryFamily, robustness_family
from verifkit.radius import Radius, RadiusEnd, RadiusSearch, bisect, merge
from verifkit.registry import create
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Result, Verdict
from verifkit.verifier import Verifier

ROOT = Path(__file__).resolve().parents[2]
PAPER = Paper("x", "A", "T", "V", 2026)


@dataclass(frozen=True, kw_only=True)
class UpToEntries(Verifier):
    """Proves l0 balls of up to `limit` entries."""

    limit: float
    name: ClassVar[str] = "up_to_entries"
    capabilities: ClassVar[Capabilities] = Capabilities(kinds={"0": Kind.INCOMPLETE}, paper=PAPER)

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        ball = query.prop.input_set
        assert isinstance(ball, LpBall)
        if ball.radius <= Fraction(self.limit):
            return Outcome.holds(Guarantee(arithmetic=Arithmetic.EXACT), None)
        return Outcome.unknown(Reason.INCOMPLETE)


def threshold_family(threshold: float, center: float = 0.0, clip: tuple[float, float] | None = None) -> QueryFamily:
    """f(x) = (threshold + center - x, 0): class 0 is kept while x < center + threshold."""
    network = dense_network([np.array([[-1.0], [0.0]])], [np.array([threshold + center, 0.0])])
    return robustness_family(model_from_network(network, "threshold"), [center], 0, "inf", clip)


@dataclass(frozen=True, kw_only=True)
class UpTo(Verifier):
    """Proves exactly the questions whose box reaches less than `limit` above its middle; never finds a violation."""

    limit: float
    reason: ClassVar[Reason] = Reason.INCOMPLETE
    name: ClassVar[str] = "up_to"
    capabilities: ClassVar[Capabilities] = Capabilities(kinds={"inf": Kind.INCOMPLETE}, paper=PAPER)

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        box = query.prop.input_set
        assert isinstance(box, Box)
        if (box.upper[0] - box.lower[0]) / 2 <= Fraction(self.limit):
            return Outcome.holds(Guarantee(arithmetic=Arithmetic.EXACT), None)
        return Outcome.unknown(self.reason)


@pytest.mark.parametrize("limit", [3e-6, 0.01, 1 / 64, 0.3, 7.0, 12345.6, 1e9])
def test_bisection_is_neither_capped_nor_stepped(limit: float) -> None:
    found = UpTo(limit=limit).radius(threshold_family(4.0 * limit), tolerance=1e-6, attack=False)
    assert found.certified is not None
    assert limit * (1 - 2e-6) <= found.certified.value <= limit
    assert found.falsified is None
    assert found.undecided
    assert all(limit < r for r, _ in found.undecided)


def test_the_tolerance_is_relative() -> None:
    for tolerance in (0.1, 1e-3, 1e-9):
        found = UpTo(limit=0.3).radius(threshold_family(1.0), tolerance=tolerance, attack=False)
        assert found.certified is not None
        assert 0.3 * (1 - 1.1 * tolerance) <= found.certified.value <= 0.3
    for wrong in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(OptionError, match="tolerance"):
            UpTo(limit=0.3).radius(threshold_family(1.0), tolerance=wrong)


def test_the_falsifiers_upper_end_joins_and_names_its_finder() -> None:
    found = UpTo(limit=0.3).radius(threshold_family(0.5))
    assert found.certified is not None
    assert found.falsified is not None
    assert (found.certified.result.verifier, found.falsified.result.verifier) == ("up_to", "fmn")
    assert 0.5 <= found.falsified.value <= 0.5 * (1 + 2.0**-9)
    assert found.falsified.result.witness is not None
    assert all(found.certified.value < r < found.falsified.value for r, _ in found.undecided)


def test_a_search_starts_below_a_known_upper_end() -> None:
    asked: list[float] = []
    family = threshold_family(10.0)
    known = RadiusEnd(1.0, create("pgd").verify(family.at(20)))

    def ask(radius: float) -> Result:
        asked.append(radius)
        return UpTo(limit=0.7).verify(family.at(Fraction(radius)))

    found = bisect(RadiusSearch(family, Clock(Budget()), 0, 1e-3, known), ask)
    assert max(asked) < 1.0
    assert found.falsified is known


def test_a_center_that_is_misclassified_has_no_radius() -> None:
    for name in ("crown", "milp", "auto", "pgd"):
        found = create(name).radius(threshold_family(-1.0))
        assert found.misclassified
        assert found.certified is None


def test_a_tie_at_the_center_is_no_radius_either() -> None:
    found = create("milp").radius(threshold_family(0.0))
    assert found.misclassified


def test_all_of_the_clip_box() -> None:
    for name in ("crown", "milp", "auto", "interval"):
        found = create(name).radius(threshold_family(2.0, clip=(-1.0, 1.0)))
        assert found.complete, name
        assert found.certified is not None
        assert found.certified.value == 1.0
        assert found.falsified is None


@pytest.mark.parametrize("threshold", [1e-5, 0.125, 3.0, 900.0])
@pytest.mark.parametrize("name", ["milp", "auto"])
@pytest.mark.parametrize("attack", [True, False])
def test_the_exact_radius_by_one_program(threshold: float, name: str, attack: bool) -> None:
    found = create(name).radius(threshold_family(threshold, center=1.0), attack=attack, tolerance=1e-7)
    assert found.certified is not None
    assert found.falsified is not None
    exact = Fraction(threshold + 1.0) - 1  # of the bias as it is stored
    float_away = Fraction(float(np.spacing(np.float32(1.0 + threshold))))  # the effective box reaches that much further
    assert found.certified.value < exact <= Fraction(found.falsified.value) + float_away
    assert found.falsified.value - found.certified.value <= 1e-6 * (1.0 + threshold)
    assert found.closed(0.1)


def digits(index: int, norm: str = "inf") -> QueryFamily:
    model = load_model(ROOT / "benchmarks" / "zoo" / "digits-2x50.onnx")
    data = np.load(ROOT / "benchmarks" / "suites" / "digits-samples.npz")
    return robustness_family(model, data["x"][index], int(data["y"][index]), norm, (0, 1))  # type: ignore[arg-type]


def test_out_of_time_the_bracket_stays_sound_and_says_what_is_open() -> None:
    family = digits(4)
    for seconds in (1e-6, 0.01, 0.1, 0.3, 0.5):
        for name in ("milp", "auto"):
            found = create(name).radius(family, budget=Budget(seconds=seconds))
            assert found.undecided
            assert any(why is Reason.TIMEOUT for _, why in found.undecided), (name, seconds, found.undecided)
            low, high = found.certified, found.falsified
            if low is not None and high is not None:
                assert low.value < high.value
            if low is not None:
                prover = create(low.result.verifier)  # milp's bound so far may lie beyond what CROWN proves
                again = prover.verify(family.at(Fraction(low.value)), budget=Budget(seconds=60))
                assert again.verdict is Verdict.HOLDS


def test_the_l1_radius_by_one_program() -> None:
    # h1 = relu(x1), h2 = relu(x2), unsafe where 2 h1 + h2 >= 3: from 0 that is 3/2 away along x1
    network = dense_network([np.eye(2), np.array([[-2.0, -1.0], [0.0, 0.0]])], [np.zeros(2), np.array([3.0, 0.0])])
    family = robustness_family(model_from_network(network, "corner"), [0.0, 0.0], 0, "1")
    assert isinstance(family.at(1).prop.input_set, LpBall)
    for attack in (True, False):
        found = create("milp").radius(family, budget=Budget(seconds=30), tolerance=1e-6, attack=attack)
        assert found.certified is not None
        assert found.falsified is not None
        assert 1.5 - 1e-6 <= found.certified.value < 1.5 <= found.falsified.value <= 1.5 + 1e-6
        assert found.certified.result.evidence is not None
    clipped = robustness_family(model_from_network(network, "corner"), [0.0, 0.0], 0, "1", (-1, 1))
    found = create("milp").radius(clipped, budget=Budget(seconds=30), tolerance=1e-6)
    assert found.certified is not None
    assert found.falsified is not None
    assert 2.0 - 1e-6 <= found.certified.value < 2.0 <= found.falsified.value <= 2.0 + 1e-6


def test_an_l0_radius_is_a_whole_number_of_entries() -> None:
    # class 0 leads by 3.5 and each entry may take 1 of it: three may change, not four
    network = dense_network([np.array([[-1.0] * 6, [0.0] * 6])], [np.array([3.5, 0.0])])
    model = model_from_network(network, "count")
    for clip, certified in (((0, 1), 3.0), ((0, Fraction(1, 2)), 6.0)):
        family = robustness_family(model, [0.0] * 6, 0, "0", clip)
        found = UpToEntries(limit=certified).radius(family)
        assert found.certified is not None
        assert found.certified.value == certified
        assert found.complete == (certified == 6.0)
        assert all(r == int(r) for r, _ in found.undecided)


@pytest.mark.parametrize("norm", ["inf", "1", "2", "0"])
def test_the_clip_box_ends_the_search_in_every_norm(norm: str) -> None:
    network = dense_network([np.zeros((2, 3))], [np.array([1.0, 0.0])])
    model = model_from_network(network, "constant")
    clip = Box((0, 0, 0), (Fraction(1), Fraction(1), Fraction(1)))  # type: ignore[arg-type]
    family = robustness_family(model, [0.25, 0.5, 0.5], 0, norm, clip)  # type: ignore[arg-type]
    exact = {"inf": 0.75, "1": 1.75, "2": (0.75**2 + 0.5) ** 0.5, "0": 3.0}[norm]
    assert family.reach is not None
    assert float(family.reach) == pytest.approx(exact, rel=1e-15)
    for name in ("interval",) if norm == "0" else ("interval", "crown", "auto"):
        found = create(name).radius(family)
        assert found.complete, name
        assert found.certified is not None
        assert Fraction(found.certified.value) >= family.reach


def test_merging_keeps_the_best_ends() -> None:
    family = digits(8)
    low = create("interval").radius(family)
    high = create("crown").radius(family)
    assert low.certified is not None
    assert high.certified is not None
    both = merge("inf", [low, high, Radius("inf", None, None)])
    assert both.certified is high.certified
    assert both.falsified is not None
    assert all(r >= high.certified.value for r, _ in both.undecided)


def test_what_a_method_cannot_take_is_said() -> None:
    found = create("milp").radius(digits(8, "2"))
    assert found.certified is None
    assert found.undecided == ((0.0, Reason.UNSUPPORTED),)


def test_an_input_on_the_clip_box_as_floats_have_it_is_inside() -> None:
    model = load_model(ROOT / "benchmarks" / "zoo" / "toy-spirals.onnx")
    x = np.array([0.3, 0.25], dtype=np.float32)
    assert Fraction(float(x[0])) > Fraction(3, 10)
    family = robustness_family(model, x, 0, "inf", ("0", "0.3"))  # type: ignore[arg-type]
    assert family.center == (Fraction(3, 10), Fraction(1, 4))
    assert family.at("0.1").prop.input_set.contains((Fraction(3, 10), Fraction(1, 4)))
    beyond = np.nextafter(x, np.float32(1))
    with pytest.raises(PropertyError, match="clip"):
        robustness_family(model, beyond, 0, "inf", ("0", "0.3"))  # type: ignore[arg-type]


@pytest.mark.parametrize("short", [2e-8, 5e-8, 8e-8, 1.1e-7, 3e-7])
def test_a_ball_searched_in_vain_is_certified_with_the_floats_around_it(short: float) -> None:
    # y0 = 1/4 - |x - 1| + (h - h) / 2, where CROWN takes the two h for different values: the program has to decide.
    weight = np.array([[1.0], [-1.0], [1.0], [1.0]])
    last = np.array([[-1.0, -1.0, 0.5, -0.5], [0.0, 0.0, 0.0, 0.0]])
    network = dense_network([weight, last], [np.array([-1.0, 1.0, -1.0, -1.0]), np.array([0.25, 0.0])])
    family = robustness_family(model_from_network(network, "twins"), [1.0], 0)
    milp = create("milp", {"tolerance": 1e-10})
    start = RadiusEnd(0.0, milp.verify(family.at(0)))
    search = RadiusSearch(family, Clock(Budget()), 0)
    certified, _, _ = milp._nearest(search, 0.25 - short, start, None)  # type: ignore[attr-defined]
    assert milp.verify(family.at(Fraction(certified.value))).verdict is Verdict.HOLDS

"""The smoothing verifier: families by norm, modes, records that recompute, and refusals in one sentence."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from verifiers.probabilistic.smoothing import Smoothing
from verifkit.analysis.smoothing.center import center_floats
from verifkit.analysis.smoothing.certificate import Plan, noise_named, predicted, recompute
from verifkit.analysis.smoothing.noise import Ablation, Gaussian, RoundedGaussian
from verifkit.budget import Budget
from verifkit.errors import ModelError, OptionError, PropertyError
from verifkit.evidence import SampleCounts
from verifkit.model import Model
from verifkit.properties import robustness
from verifkit.query import Query, robustness_family
from verifkit.registry import create
from verifkit.result import Arithmetic, Reason, Result, Semantics, Subject, Verdict

SIZE = 4
MARGIN = 0.3


def model(dtype: type = np.float32, size: int = SIZE) -> Model:
    """Class 1 where the first entry is >= -MARGIN: g's exact l2 and l1 radius at 0 is MARGIN."""

    def call(x: np.ndarray) -> np.ndarray:
        margin = x.reshape(len(x), -1)[:, 0] + dtype(MARGIN)
        return np.stack([-margin, margin, np.full_like(margin, -9.0)], axis=1)

    return Model("half-space", (size,), (3,), call, "1" * 64, dtype=dtype)


def ask(verifier: Any, radius: float, norm: str = "2", label: int = 1, **budget: Any) -> Result:
    clip = (-1, 1) if norm == "0" else None
    prop = robustness(np.zeros(SIZE), label, radius, norm, clip=clip, n_outputs=3)
    result: Result = verifier.verify(Query(model(), prop), budget=Budget(**budget))
    return result


def counts_of(result: Result) -> SampleCounts:
    assert isinstance(result.evidence, SampleCounts)
    return result.evidence


@pytest.mark.parametrize("mode", ["fixed", "anytime"])
@pytest.mark.parametrize("runner_up", [False, True])
@pytest.mark.parametrize(
    ("noise", "norm"), [("gaussian", "2"), ("laplace", "1"), ("uniform", "1"), ("auto", "2"), ("auto", "1")]
)
def test_every_family_comes_near_the_exact_radius_and_not_beyond(
    noise: str, norm: str, mode: str, runner_up: bool
) -> None:
    smoothing = create("smoothing", {"noise": noise, "sigma": 0.3, "n": 50_000, "mode": mode, "runner_up": runner_up})
    family = robustness_family(model(), np.zeros(SIZE), 1, norm)  # type: ignore[arg-type]
    certified = smoothing.radius(family).certified
    assert certified is not None
    assert 0.95 * MARGIN < certified.value < MARGIN
    counts = counts_of(certified.result)
    assert (counts.lower, counts.rivals, counts.radius) == recompute(counts)
    assert counts.norm == norm
    assert sum(counts.estimation) == 50_000
    assert ask(smoothing, 0.8 * MARGIN, norm).verdict is Verdict.HOLDS
    assert ask(smoothing, 1.1 * MARGIN, norm).verdict is Verdict.UNKNOWN
    json.dumps(certified.result.to_json(), allow_nan=False)


def test_ablation_answers_l0_questions() -> None:
    size = 64

    def call(x: np.ndarray) -> np.ndarray:
        kept = (x == 1).sum(axis=1)
        return np.stack([np.full(len(x), 3.5), kept.astype(np.float32)], axis=1)

    bright = Model("bright", (size,), (2,), call, "2" * 64)
    smoothing = create("smoothing", {"keep": 4, "n": 2000, "runner_up": True})
    radius = smoothing.radius(robustness_family(bright, np.ones(size), 1, "0", clip=(0, 1)))
    assert radius.certified is not None
    assert radius.certified.value == Ablation(4, size).radius(1 - 1e-6) - 0
    guarantee = radius.certified.result.guarantee
    assert guarantee is not None
    assert (guarantee.subject, guarantee.semantics) == (Subject.SMOOTHED, Semantics.FLOAT32)
    asked = Query(bright, robustness(np.ones(size), 1, 2, "0", clip=(0, 1), n_outputs=2))
    assert smoothing.verify(asked).verdict is Verdict.HOLDS
    default = counts_of(create("smoothing", {"n": 2000}).verify(asked))
    assert dict(default.parameters)["keep"] == 4  # a sixteenth of 64


def test_the_batch_asked_for_changes_nothing() -> None:
    for options in ({}, {"mode": "anytime"}, {"grid": True}, {"runner_up": True, "noise": "laplace"}):
        norm = "1" if "noise" in options else "2"
        answers = []
        for batch in (1, 100, 256, 1000, 10**9):
            smoothing = create("smoothing", {"n0": 70, "n": 3000, "batch": batch, **options})
            answers.append(counts_of(ask(smoothing, 0.05, norm)))
        assert all(found == answers[0] for found in answers)


def test_seeds_and_questions_draw_anew() -> None:
    smoothing = Smoothing(n=1000)
    first, again, other = (smoothing.certify(model(), np.zeros(SIZE), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.key != other.key
    assert first.estimation != other.estimation
    assert smoothing.certify(model(), np.full(SIZE, 0.01)).key != first.key


class TestAnytime:
    """Stops when it may, and says as much as it has drawn for."""

    def test_few_draws_show_a_small_radius(self) -> None:
        fixed, anytime = (ask(create("smoothing", {"mode": mode}), 0.1) for mode in ("fixed", "anytime"))
        assert fixed.verdict is anytime.verdict is Verdict.HOLDS
        assert int(anytime.statistics["samples"]) <= 2000
        assert int(fixed.statistics["samples"]) == 100_100
        counts = counts_of(anytime)
        assert (counts.lower, counts.rivals, counts.radius) == recompute(counts)
        assert 0.1 <= counts.radius < MARGIN

    @pytest.mark.parametrize("runner_up", [False, True])
    def test_a_radius_out_of_reach_ends_it_soon(self, runner_up: bool) -> None:
        result = ask(create("smoothing", {"mode": "anytime", "runner_up": runner_up}), 2 * MARGIN)
        assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.INCOMPLETE)
        assert int(result.statistics["samples"]) < 5000

    def test_time_running_out_leaves_what_was_shown(self) -> None:
        smoothing = create("smoothing", {"mode": "anytime", "n": 10**9})
        family = robustness_family(model(), np.zeros(SIZE), 1, "2")
        certified = smoothing.radius(family, budget=Budget(seconds=0.3)).certified
        assert certified is not None
        assert 0 < certified.value < MARGIN
        counts = counts_of(certified.result)
        assert sum(counts.estimation) < 10**9
        assert recompute(counts)[2] == counts.radius

    def test_abstains_at_radius_zero_where_no_class_leads(self) -> None:
        tied = Model("coin", (1,), (2,), lambda x: np.stack([x[:, 0], -x[:, 0]], axis=1), "3" * 64)
        asked = Query(tied, robustness([0.0], 0, 0, "2", n_outputs=2))
        result = create("smoothing", {"mode": "anytime", "n": 3000}).verify(asked)
        assert result.verdict is Verdict.UNKNOWN
        assert "abstains" in result.detail


class TestGrid:
    """Certificates of the 8-bit pipeline."""

    def test_the_guarantee_is_about_the_deployed_arithmetic(self) -> None:
        seen: list[np.ndarray] = []

        def call(x: np.ndarray) -> np.ndarray:
            seen.append(x.copy())
            return np.stack([x[:, 0], np.float32(0.5) - x[:, 0]], axis=1)

        center = (np.array([200, 17, 0]) / 255).astype(np.float32)
        smoothing = create("smoothing", {"grid": True, "n": 2000})
        asked = Query(Model("m", (3,), (2,), call, "4" * 64), robustness(center, 0, 0.3, "2", n_outputs=2))
        result = smoothing.verify(asked)
        assert result.verdict is Verdict.HOLDS
        assert result.guarantee is not None
        assert (result.guarantee.semantics, result.guarantee.arithmetic) == (Semantics.FLOAT32, Arithmetic.ROUNDED)
        assert not any("Gaussian" in said or "real" in said for said in result.guarantee.assumptions)
        inputs = np.concatenate(seen)
        steps = np.rint(inputs.astype(np.float64) * 255)
        assert (inputs == (steps / 255).astype(np.float32)).all()
        counts = counts_of(result)
        assert counts.noise == "rounded gaussian"
        assert 0 < counts.center_error < 1e-7
        assert recompute(counts)[2] == counts.radius < Gaussian(0.25).radius(counts.lower)

    def test_the_default_states_what_it_assumes(self) -> None:
        guarantee = ask(create("smoothing"), 0.1).guarantee
        assert guarantee is not None
        assert guarantee.assumptions == ("exact Gaussian noise", "the base classifier in real arithmetic")
        assert guarantee.semantics is Semantics.REAL
        assert guarantee.failure_probability == 0.001

    def test_a_center_off_the_grid_is_refused(self) -> None:
        grid = create("smoothing", {"grid": True, "n": 1000})
        result = grid.verify(Query(model(), robustness(np.full(SIZE, 0.3), 1, 0.1, "2", n_outputs=3)))
        assert result.reason is Reason.UNSUPPORTED
        assert "entry 0 of the center, 0.3, is no multiple of 1/255" in result.detail
        radius = grid.radius(robustness_family(model(), np.full(SIZE, 0.3), 1, "2"))
        assert radius.certified is None
        assert "1/255" in radius.detail
        with pytest.raises(PropertyError, match="1/255"):
            grid.certify(model(), np.full(SIZE, 0.3))  # type: ignore[attr-defined]

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_every_pixel_value_is_on_the_grid(self, dtype: type) -> None:
        pixels = (np.arange(256) / 255).astype(dtype)
        exact = [Fraction(float(v)) for v in pixels]
        floats, error = center_floats(exact, RoundedGaussian(0.1), dtype)
        assert (floats == pixels).all()
        assert 0 < error < 1e-6
        assert center_floats([Fraction(k, 255) for k in range(256)], RoundedGaussian(0.1), np.float32)[1] == 0


def test_a_center_that_is_no_float_costs_its_distance() -> None:
    center = [Fraction(1, 10), Fraction(1, 3), Fraction(1, 4)]
    floats, error = center_floats(center, Gaussian(1.0), np.float32)
    exact = math.sqrt(sum(float(c - Fraction(float(v))) ** 2 for c, v in zip(center, floats, strict=True)))
    assert exact <= error <= exact * (1 + 1e-9)
    assert center_floats([Fraction(1, 4)], Gaussian(1.0), np.float32)[1] == 0
    assert center_floats(center, Ablation(1, 3), np.float32)[1] == 0
    counts = Smoothing(n=1000).certify(model(size=3), center)
    assert counts.radius < Gaussian(0.25).radius(counts.lower)


def test_predictions_are_the_binomial_test() -> None:
    from scipy.stats import binomtest

    for counts in ([50, 50], [60, 40], [61, 39, 500], [0, 10, 0], [700, 680, 1], [5]):
        found = predicted(counts, 0.05)
        first, second = [*sorted(counts, reverse=True), 0][:2]
        p_value = binomtest(first, first + second, 0.5).pvalue
        assert found.p_value == pytest.approx(p_value, rel=1e-9)
        assert found.p_value >= p_value or found.p_value == 1
        assert found.label == (int(np.argmax(counts)) if p_value <= 0.05 else None)
    smoothing = Smoothing(n=1000)
    assert smoothing.predict(model(), np.zeros(SIZE)).label == 1
    boundary = np.array([-MARGIN, 0, 0, 0], dtype=np.float32)
    assert smoothing.predict(model(), boundary).label is None
    assert sum(smoothing.predict(model(), boundary).counts) == 1000


def test_a_record_with_other_counts_does_not_recompute() -> None:
    counts = counts_of(ask(create("smoothing", {"n": 1000}), 0.1))
    more = tuple(c + d for c, d in zip(counts.estimation, (-5, 5, 0), strict=True))
    assert recompute(dataclasses.replace(counts, estimation=more))[2] != counts.radius
    assert noise_named(counts.noise, counts.parameters) == Gaussian(0.25)
    with pytest.raises(OptionError, match="no noise is called"):
        noise_named("pink", ())


def test_runner_up_bounds_help_where_no_class_has_half() -> None:
    def call(x: np.ndarray) -> np.ndarray:
        sectors = np.floor((np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) + 0.2) % 1 / 0.2).astype(int)
        return np.eye(5, dtype=np.float32)[np.minimum(sectors, 4) if len(x) else sectors]

    sectors = Model("sectors", (2,), (5,), call, "5" * 64)
    center = np.array([0.1, 0.06])
    alone = Smoothing(n=20_000, mode="fixed").certify(sectors, center)
    apart = Smoothing(n=20_000, runner_up=True).certify(sectors, center)
    assert alone.radius == 0
    assert apart.radius > 0
    assert apart.rivals < 1 - apart.lower
    assert apart.lower < 0.5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sigma": 0}, "sigma > 0"),
        ({"sigma": math.nan}, "sigma > 0"),
        ({"alpha": 0}, "between 0 and 1"),
        ({"n0": 200, "n": 100}, "n0 <= n"),
        ({"noise": "pink"}, "noise is one of"),
        ({"mode": "sometimes"}, "'fixed' or 'anytime'"),
        ({"grid": True, "noise": "laplace"}, "grid mode is for Gaussian noise"),
        ({"grid": True, "sigma": 300.0}, "grid mode takes sigma up to 10"),
        ({"keep": -1}, "keep >= 0"),
        ({"batch": 0}, "batch >= 1"),
        ({"n0": 5, "n": 10, "runner_up": True}, "least n that can is 11"),
        ({"n0": 5, "n": 11, "mode": "anytime"}, "least n that can is 12"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        create("smoothing", options)


@pytest.mark.parametrize("alpha", [0.4, 0.05, 0.001, 1e-9])
@pytest.mark.parametrize("mode", ["fixed", "anytime"])
@pytest.mark.parametrize("runner_up", [False, True])
def test_the_least_n_of_every_plan_certifies(alpha: float, mode: Any, runner_up: bool) -> None:
    with pytest.raises(OptionError, match="the least n that can is") as refused:
        Plan(1, alpha, mode, runner_up)
    least = int(str(refused.value).rsplit(" ", 1)[1])
    plan = Plan(least, alpha, mode, runner_up)
    lower, rivals = plan.bounds((0, least), 1)
    assert lower > rivals
    less = object.__new__(Plan)  # past the refusal
    for name, value in (("n", least - 1), ("alpha", alpha), ("mode", mode), ("runner_up", runner_up)):
        object.__setattr__(less, name, value)
    lower, rivals = less.bounds((0, least - 1), 1)
    assert lower <= rivals


def test_questions_that_do_not_fit_are_refused() -> None:
    laplace = ask(create("smoothing", {"noise": "laplace"}), 0.1)
    assert laplace.reason is Reason.UNSUPPORTED
    assert "laplace noise says nothing about l2 balls" in laplace.detail
    with pytest.raises(PropertyError, match="the input has 3 entries, but model 'half-space' has 4"):
        Smoothing().certify(model(), np.zeros(3))
    many = Query(model(), robustness(np.zeros(SIZE), 1, 0.1, "2", n_outputs=3))
    keeps = create("smoothing", {"noise": "ablation", "keep": 9})
    assert keeps.verify(many).reason is Reason.UNSUPPORTED
    with pytest.raises(OptionError, match="keeps between 1 and all 4 entries, not 9"):
        keeps.certify(model(), np.zeros(SIZE))  # type: ignore[attr-defined]


def test_a_model_with_two_answers_is_an_error() -> None:
    rng = np.random.default_rng(0)
    noisy = Model("dropout", (2,), (2,), lambda x: x * rng.integers(0, 2, x.shape), "6" * 64)
    with pytest.raises(ModelError, match="'dropout' gives two different answers to one input"):
        Smoothing().certify(noisy, [0.1, 0.2])


def test_unknown_answers_keep_their_counts() -> None:
    result = ask(create("smoothing", {"n": 1000}), 0.1, label=0)
    counts = counts_of(result)
    assert (result.verdict, counts.chosen) == (Verdict.UNKNOWN, 1)
    assert counts.radius > 0


def threshold(at: float, dtype: type = np.float32) -> Model:
    """Class 1 where the one input is >= `at`."""

    def call(x: np.ndarray) -> np.ndarray:
        margin = x.reshape(len(x), -1)[:, 0].astype(np.float64) - at
        return np.stack([-margin, margin], axis=1)

    return Model("threshold", (1,), (2,), call, "2" * 64, dtype=dtype)


def test_a_center_between_floats_is_certified_as_far_as_its_distance_from_them_leaves() -> None:
    """Asked at 2^23 + 1/4, where the nearest float is 1/4 away and the next class 1/8."""
    asked = Fraction(2**23) + Fraction(1, 4)
    for label in (0, 1):
        family = robustness_family(threshold(2**23 + 0.125), [asked], label, "2")
        verifier = create("smoothing", {"n": "1000", "noise": "gaussian", "sigma": "5000"})
        result = verifier.verify(family.at(0))
        counts = counts_of(result)
        assert (result.verdict is Verdict.HOLDS) <= (counts.radius > 0)


def test_a_center_beyond_what_is_certified_is_not_certified_at_radius_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifkit.analysis.smoothing.center.FINE", 0)
    family = robustness_family(threshold(1e8 + 1), [Fraction(10**8 + 3)], 0, "2")
    result = create("smoothing", {"n": "1000"}).verify(family.at(0))
    assert result.verdict is Verdict.UNKNOWN
    assert "farther than what is certified" in result.detail
    assert create("smoothing", {"n": "1000"}).radius(family).certified is None


@pytest.mark.parametrize("name", ["smoothing", "pixeldp"])
def test_noise_that_is_lost_between_floats_is_refused(name: str) -> None:
    for center, dtype in ((1e8, np.float32), (1e16, np.float64)):
        family = robustness_family(threshold(center, dtype), [Fraction(center)], 1, "2")
        result = create(name, {}).verify(family.at(0))
        assert result.reason is Reason.UNSUPPORTED, result
        assert "is lost between float" in result.detail
    with pytest.raises(PropertyError, match="is lost between float32s"):
        Smoothing(sigma=1e-5).certify(threshold(200.0), [200.0])


def test_one_output_is_no_classifier() -> None:
    logit = Model("logit", (1,), (1,), lambda x: x.reshape(-1, 1), "3" * 64)
    with pytest.raises(PropertyError, match="has one output"):
        Smoothing().certify(logit, [0.0])
    with pytest.raises(PropertyError, match="has one output"):
        Smoothing().predict(logit, [0.0])


def test_exact_draws_speak_of_float32_only_where_the_model_runs_in_it() -> None:
    for dtype, semantics in ((np.float32, Semantics.FLOAT32), (np.float64, Semantics.REAL)):
        family = robustness_family(model(dtype), np.zeros(SIZE), 1, "2")
        result = create("smoothing", {"grid": "true"}).verify(family.at("0.1"))
        assert result.guarantee is not None
        assert result.guarantee.semantics is semantics


@pytest.mark.parametrize("name", ["smoothing", "pixeldp"])
def test_an_input_beyond_all_floats_is_a_mistake(name: str) -> None:
    family = robustness_family(threshold(0.0), [Fraction(10) ** 39], 1, "2")
    with pytest.raises(PropertyError, match="is no finite float32"):
        create(name).verify(family.at(0))

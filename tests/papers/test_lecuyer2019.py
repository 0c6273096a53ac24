"""Lecuyer et al. 2019 (PixelDP): the released code's numbers, the comparison with Cohen et al., and honest coverage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from verifiers.probabilistic.pixeldp import PixelDp
from verifkit.analysis import privacy
from verifkit.analysis.privacy import SIZES, gaussian_scale, laplace_scale
from verifkit.budget import Budget
from verifkit.errors import ModelError, OptionError
from verifkit.evidence import PrivacyCounts
from verifkit.functions import LeakyRelu, Power
from verifkit.io.callables import model_from_sklearn
from verifkit.io.onnx import model_from_network
from verifkit.model import Model
from verifkit.network import dense_network
from verifkit.properties import robustness
from verifkit.query import Query, robustness_family
from verifkit.registry import create
from verifkit.result import Outcome, Reason, Subject, Verdict
from verifkit.testing.conformance import ConformanceError, checks_for

GOLDEN = [
    ((2000, 0), 0.143562, 0.296609),
    ((1990, 10), 0.140405, 0.226487),
    ((1900, 100), 0.118119, 0.134209),
    ((1600, 400), 0.052697, 0.062127),
    ((1100, 900), 0.002693, 0.004203),
]
"""Top and second votes of 2000 over 10 classes, then the radii under Gaussian and Laplace noise (L .1, eps 1, delta
.05)."""
SCALES = {"gaussian": gaussian_scale(0.1, 1.0, 0.05), "laplace": laplace_scale(0.1, 1.0)}
SATURATION = [
    (0.6, 0.0591, 0.2533), (0.8, 0.2349, 0.8416), (0.9, 0.3902, 1.2816), (0.99, 0.5541, 2.3263), (0.999, 0.568, 3.0902),
]  # fmt: skip
"""p_A, with p_B = 1 - p_A at noise of scale 1, then the sizes of PixelDP (released code) and of Cohen et al."""


# --- the released code ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("votes", "gaussian", "laplace"), GOLDEN)
def test_golden_vectors_of_the_released_code(votes: tuple[int, int], gaussian: float, laplace: float) -> None:
    lower, upper = privacy.released_vote_bounds([0, *votes, *[0] * 7])
    assert SCALES["gaussian"] * privacy.released_gaussian_size(lower, upper).size == pytest.approx(gaussian, abs=1e-6)
    assert SCALES["laplace"] * privacy.released_laplace_size(lower, upper).size == pytest.approx(laplace, abs=1e-6)


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_the_released_code_certifies_nothing(mechanism: str) -> None:
    """It gives the golden radius, says what is wrong with it, and never HOLDS."""
    always = Model("always", (4,), (10,), lambda x: np.tile(np.eye(10, dtype=np.float32)[3], (len(x), 1)), "0" * 64)
    verifier = create("pixeldp", {"released_code": True, "scale": SCALES[mechanism], "mechanism": mechanism})
    result = verifier.verify(Query(always, robustness(np.zeros(4), 3, 0.0, "1", n_outputs=10)))
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.INCOMPLETE)
    assert "no certificate" in result.detail
    assert isinstance(result.evidence, PrivacyCounts)
    assert result.evidence.released
    golden = GOLDEN[0][1 if mechanism == "gaussian" else 2]
    assert result.evidence.radius == pytest.approx(golden, abs=1e-6)
    radius = verifier.radius(robustness_family(always, np.zeros(4), 3, "1"))
    assert radius.certified is None
    assert radius.undecided == ((0.0, Reason.INCOMPLETE),)


def test_a_converged_search_is_a_little_better() -> None:
    lower, upper = privacy.released_vote_bounds([2000, *[0] * 9])
    assert SCALES["gaussian"] * SIZES["gaussian"](lower, upper).size == pytest.approx(0.143683, abs=1e-6)


@pytest.mark.parametrize(("p", "pixeldp", "cohen"), SATURATION)
def test_pixeldp_saturates_where_smoothing_does_not(p: float, pixeldp: float, cohen: float) -> None:
    assert privacy.released_gaussian_size(p, 1 - p).size == pytest.approx(pixeldp, abs=5.1e-5)
    assert NormalDist().inv_cdf(p) == pytest.approx(cohen, abs=5e-5)
    classical, analytic = (SIZES[name](p, 1 - p).size for name in ("gaussian", "analytic"))
    assert pixeldp - 5e-5 <= classical < pixeldp + 5e-4 + 1e-3 * pixeldp
    assert classical < analytic < NormalDist().inv_cdf(p)
    assert SIZES["gaussian"](1.0, 0.0).size < 0.5704


# --- coverage ------------------------------------------------------------------------------------------------------

RUNS = 20_000
CELLS = [
    *((p, classes, 0.05) for p in (0.5, 0.6, 0.9, 0.99, 0.999) for classes in (2, 4)),
    (0.6, 10, 0.05), (0.1, 10, 0.05), (0.5, 2, 0.001), (0.8, 4, 0.001),
]  # fmt: skip
"""(p_A, classes, eta)."""
Bounds = Callable[[Sequence[int], int, float], tuple[float, float]]


def probabilities(p: float, classes: int) -> np.ndarray:
    """p for the first class, and three fifths of what is left for the second."""
    first = (1.0 - p) * (1.0 if classes == 2 else 0.6)
    return np.array([p, first, *[(1.0 - p - first) / max(1, classes - 2)] * (classes - 2)])


def allowed(eta: float) -> int:
    return int(binom.ppf(1 - 1e-6, RUNS, eta))


def failures(p: np.ndarray, eta: float, bounds: Bounds, *, fresh: bool = True, n: int = 400) -> tuple[int, int]:
    """Of `RUNS` certifications those with a wrong bound, and those of a size beyond what the true scores give.

    fresh: whether the class is chosen by draws of its own.
    """
    rng = np.random.default_rng(19)
    selection, estimation = rng.multinomial(100, p, RUNS), rng.multinomial(n, p, RUNS)
    chosen = (selection if fresh else estimation).argmax(axis=1)
    known: dict[tuple[int, ...], bool] = {}
    wrong = beyond = 0
    for row, k in zip(estimation.tolist(), chosen.tolist(), strict=True):
        key = (*row, k)
        if key not in known:
            lower, upper = bounds(row, k, eta)
            known[key] = lower > p[k] or upper < np.delete(p, k).max()
        if known[key]:
            wrong += 1
            lower, upper = bounds(row, k, eta)
            beyond += true_size(p, k) < SIZES["gaussian"](lower, upper).size
    return wrong, beyond


def true_size(p: np.ndarray, k: int) -> float:
    return SIZES["gaussian"](float(p[k]), float(np.delete(p, k).max())).size


@pytest.mark.parametrize(("p", "classes", "eta"), CELLS)
def test_coverage_of_votes(p: float, classes: int, eta: float) -> None:
    wrong, beyond = failures(probabilities(p, classes), eta, privacy.vote_bounds)
    assert beyond <= wrong <= allowed(eta)


def test_the_test_sees_an_eta_that_is_ignored() -> None:
    """The released code's bounds, asked for a chance of .001, and one bound at eta for all classes together."""

    def ignoring(counts: Sequence[int], chosen: int, eta: float) -> tuple[float, float]:
        return privacy.released_vote_bounds(counts)

    def undivided(counts: Sequence[int], chosen: int, eta: float) -> tuple[float, float]:
        return privacy.vote_bounds(counts, chosen, eta * len(counts))

    even = np.array([0.5, 0.5])
    assert failures(even, 0.001, ignoring, fresh=False)[1] > allowed(0.001)
    assert failures(even, 0.05, undivided)[1] > allowed(0.05) // 2
    assert failures(even, 0.05, undivided, fresh=False)[1] > allowed(0.05)
    assert failures(even, 0.05, privacy.vote_bounds)[1] < allowed(0.05) // 2


@pytest.mark.parametrize("n", [400, 20_000], ids=["hoeffding", "bernstein"])
@pytest.mark.parametrize("eta", [0.05, 0.001])
@pytest.mark.parametrize("high", [0.5, 0.7, 0.95])
def test_coverage_of_softmax_means(high: float, eta: float, n: int) -> None:
    """Scores (a, 1 - a) with a = .98 or .02, so that sums are binomial; the first class's expected score is known."""
    ends = np.array([0.98, 0.02])
    mean = float(high * ends[0] + (1 - high) * ends[1])
    rng = np.random.default_rng(5)
    wrong, known = 0, {}
    for wins in rng.binomial(n, high, RUNS).tolist():
        if wins not in known:
            weights = np.array([wins, n - wins])
            sums = [float(weights @ ends), float(weights @ (1 - ends))]
            squares = [float(weights @ ends**2), float(weights @ (1 - ends) ** 2)]
            lower, upper = privacy.mean_bounds(sums, squares, n, 0, eta)
            known[wins] = lower > mean or upper < 1 - mean
        wrong += known[wins]
    assert wrong <= allowed(eta)


# --- the verifier ----------------------------------------------------------------------------------------------------


def stretched(factor: float, radius: float = 0.05) -> Model:
    """A linear classifier whose first layer stretches by `factor` and whose second undoes it, label 0 at the origin.

    Votes under symmetric noise between the two decide like the network itself, so the exact l2 radius is `radius`.
    """
    weights = [np.eye(2) * factor, np.array([[0.6, 0.8], [-0.6, -0.8]]) / factor]
    biases = [np.zeros(2), np.array([radius, -radius])]
    return model_from_network(dense_network(weights, biases, LeakyRelu(1.0)), f"stretched by {factor}")


@pytest.mark.parametrize("after", ["", "affine1"])
@pytest.mark.parametrize("mechanism", ["gaussian", "analytic", "laplace"])
@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0])
def test_a_sensitivity_below_or_above_1_overstates_nothing(factor: float, mechanism: str, after: str) -> None:
    """Radii are in input units whatever the layer before the noise does, and below the exact one."""
    norm, exact = ("1", 0.05 / 0.8) if mechanism == "laplace" else ("2", 0.05)
    for scale in (0.02, 0.1, 0.5):
        verifier = create("pixeldp", {"mechanism": mechanism, "after": after, "scale": scale, "n": 4000})
        found = verifier.radius(robustness_family(stretched(factor), np.zeros(2), 0, norm)).certified
        assert found is not None or scale == 0.5
        if found is not None:
            assert (0.1 * min(exact, scale) if scale < 0.5 else 0.0) < found.value < exact
            counts = found.result.evidence
            assert isinstance(counts, PrivacyCounts)
            assert counts.sensitivity == pytest.approx(factor if after else 1.0, rel=1e-9)
            assert counts.sensitivity >= (factor if after else 1.0)


def test_a_stretched_first_layer_changes_no_certificate() -> None:
    """With all votes for one class the radius is the same to rounding: it is a matter of the votes and the scale."""
    verifier = create("pixeldp", {"after": "affine1"})
    radii = [
        found.certified.value
        for factor in (1e-3, 1.0, 1e3)
        if (found := verifier.radius(robustness_family(stretched(factor, 5.0), np.zeros(2), 0, "2"))).certified
    ]
    assert radii == pytest.approx([0.25 * SIZES["gaussian"](*privacy.vote_bounds([2000, 0], 0, 0.05)).size] * 3)


@pytest.mark.parametrize("scores", ["votes", "softmax"])
def test_verdicts_say_what_they_are_about(scores: str) -> None:
    model = stretched(1.0, 5.0)
    verifier = create("pixeldp", {"scores": scores, "after": "affine1", "eta": 0.01})
    near, far = (verifier.verify(robustness_family(model, np.zeros(2), 0, "2").at(r)) for r in ("0.1", "0.2"))
    assert near.verdict is Verdict.HOLDS
    assert near.guarantee is not None
    assert (near.guarantee.subject, near.guarantee.failure_probability) == (Subject.SMOOTHED, 0.01)
    assert "exact Gaussian noise of scale 0.25 after 'affine1'" in near.guarantee.assumptions
    assert near.to_json()["counts"]["mechanism"] == "gaussian"
    assert (far.verdict, far.reason) == (Verdict.UNKNOWN, Reason.INCOMPLETE)
    assert "certified only to radius 0.1" in far.detail
    wrong = verifier.verify(robustness_family(model, np.zeros(2), 1, "2").at("0.1"))
    assert "answers class 0, not 1" in wrong.detail
    tied = verifier.verify(robustness_family(stretched(1.0, 0.0), np.zeros(2), 0, "2").at(0))
    assert "abstains" in tied.detail


def test_the_center_is_the_one_asked_about() -> None:
    """Where the model reads float32, what is lost on the center's way there is taken off the radius."""
    weights = [np.array([[1.0], [-1.0]], dtype=np.float32)]
    model = model_from_network(dense_network(weights, [np.zeros(2)]), "float32")
    model = Model("float32", (1,), (2,), model.call, model.digest, np.float32)
    counts = [
        create("pixeldp", {"scale": "1024"}).verify(robustness_family(model, [x], 0, "1").at(0)).evidence
        for x in (2.0**20, 2.0**20 + 0.03125 + 2.0**-8)
    ]
    assert all(isinstance(c, PrivacyCounts) for c in counts)
    assert counts[0].radius - counts[1].radius == pytest.approx(2.0**-5 + 2.0**-8)


def test_what_a_mechanism_cannot_say_is_unsupported() -> None:
    laplace = create("pixeldp", {"mechanism": "laplace"})
    result = laplace.verify(robustness_family(stretched(1.0), np.zeros(2), 0, "2").at(0))
    assert result.reason is Reason.UNSUPPORTED
    assert "l1 changes" in result.detail
    square = model_from_network(dense_network([np.eye(2)] * 2, [np.zeros(2)] * 2, Power(2)), "square")
    result = create("pixeldp", {"after": "act1"}).verify(robustness_family(square, np.ones(2), 0, "2").at(0))
    assert result.reason is Reason.UNSUPPORTED
    assert "pow" in result.detail
    hundred = Model("hundred", (1,), (100,), lambda x: np.zeros((len(x), 100)), "0" * 64)
    result = create("pixeldp", {"n": 10, "n0": 1}).verify(robustness_family(hundred, [0.0], 0, "2").at(0))
    assert "the least n that can is 11" in result.detail


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scale": 0}, "scale > 0"),
        ({"scale": float("inf")}, "scale > 0"),
        ({"eta": 0}, "between 0 and 1"),
        ({"eta": 1.5}, "between 0 and 1"),
        ({"n0": 3000}, "n0 <= n"),
        ({"n0": 0}, "n0 <= n"),
        ({"n": 5, "n0": 5}, "least n that can is 6"),
        ({"n": 7, "n0": 5, "scores": "softmax"}, "least n that can is 8"),
        ({"mechanism": "cauchy"}, "one of gaussian"),
        ({"scores": "logits"}, "votes or softmax"),
        ({"released_code": True, "scores": "softmax"}, "released_code"),
        ({"released_code": True, "mechanism": "analytic"}, "released_code"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        create("pixeldp", options)


def test_broken_models_are_one_clear_error() -> None:
    nan = Model("broken", (1,), (2,), lambda x: np.full((len(x), 2), np.nan), "0" * 64)
    rng = np.random.default_rng(0)
    dropout = Model("dropout", (1,), (2,), lambda x: rng.standard_normal((len(x), 2)), "1" * 64)
    query = robustness([0.0], 0, 0.1, "2", n_outputs=2)
    with pytest.raises(ModelError, match="no finite numbers"):
        create("pixeldp").verify(Query(nan, query))
    with pytest.raises(ModelError, match="two different answers"):
        create("pixeldp").verify(Query(dropout, query))
    with pytest.raises(ModelError, match="no ONNX graph"):
        create("pixeldp", {"after": "conv1"}).verify(Query(dropout, query))
    with pytest.raises(ModelError, match="no tensor 'conv1'"):
        create("pixeldp", {"after": "conv1"}).verify(robustness_family(stretched(1.0), np.zeros(2), 0, "2").at(0))


def test_time_out_is_a_reason_and_the_same_seed_gives_the_same_counts() -> None:
    query = robustness_family(stretched(1.0), np.zeros(2), 0, "2").at("0.001")
    slow = create("pixeldp", {"n": 10_000_000}).verify(query, budget=Budget(seconds=0.2))
    assert slow.reason is Reason.TIMEOUT
    first, again, other = (create("pixeldp").verify(query, seed=s).evidence for s in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("slip", "sentence"),
    [
        ({"lower": 0.9999}, "do not show a score >= "),
        ({"upper": 1e-7}, "do not show a score <= "),
        ({"eps": 2.0}, "not apart"),
        ({"radius": 0.5}, "-private for changes of"),
        ({"model_digest": "f" * 64}, "another model"),
    ],
)
def test_the_conformance_suite_sees_through_a_record(slip: dict[str, Any], sentence: str) -> None:
    class Slipping(PixelDp):
        def _outcome(self, counts: PrivacyCounts, label: int, asked: Fraction) -> Outcome:
            return replace(super()._outcome(counts, label, asked), evidence=replace(counts, **slip))

    def check(verifier: PixelDp) -> None:
        next(c for c in checks_for(verifier, queries=1) if c.name == "privacy_counts_recompute")()

    for mechanism in ("gaussian", "analytic"):
        check(create("pixeldp", {"mechanism": mechanism}))  # type: ignore[arg-type]
        with pytest.raises(ConformanceError, match=sentence):
            check(Slipping(mechanism=mechanism))  # type: ignore[arg-type]


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("scores", ["votes", "softmax"])
@pytest.mark.parametrize("mechanism", SIZES)
def test_all_follows_from_the_record(mechanism: str, scores: str, released: bool) -> None:
    if released and (scores == "softmax" or mechanism == "analytic"):
        return
    options = {"mechanism": mechanism, "scores": scores, "released_code": released, "n": 500}
    query = robustness_family(stretched(2.0), np.array([0.1, 0.2]), 0, "1").at(0)
    counts = create("pixeldp", options).verify(query).evidence
    assert isinstance(counts, PrivacyCounts)
    assert privacy.recompute(counts) == (counts.lower, counts.upper, counts.radius)
    assert counts.lower > 0
    assert len(counts.key) == 4


def test_scores_scaled_by_softmax_are_a_classifier_of_their_own() -> None:
    """One vote in three is lost by a landslide: votes choose class 0, softmax means class 1."""

    def call(x: np.ndarray) -> np.ndarray:
        rare = x[:, :1] > NormalDist().inv_cdf(2 / 3)
        return np.concatenate([np.where(rare, -9.0, 0.1), np.where(rare, 9.0, 0.0)], axis=1)

    model = Model("landslide", (1,), (2,), call, "2" * 64)
    for scores, label in (("votes", 0), ("softmax", 1)):
        verifier = create("pixeldp", {"scores": scores, "scale": 1.0, "n": 20_000})
        assert verifier.verify(robustness_family(model, [0.0], label, "2").at(0)).verdict is Verdict.HOLDS


def test_a_random_forest_is_certified_too() -> None:
    """Any model that can be called will do where the noise is at its input."""
    ensemble = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    x = (2.0 * y[:, None] + 0.2 * rng.standard_normal((200, 3))).astype(np.float32)
    forest = ensemble.RandomForestClassifier(n_estimators=10, random_state=0).fit(x, y)
    model = model_from_sklearn(forest, "forest")
    found = create("pixeldp").radius(robustness_family(model, np.zeros(3), 0, "2")).certified
    assert found is not None
    assert 0.1 < found.value < 0.25 * 0.5704
    assert found.result.verdict is Verdict.HOLDS

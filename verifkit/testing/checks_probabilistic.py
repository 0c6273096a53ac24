"""Probabilistic methods: classifiers whose smoothed radius is known exactly, and counts that recompute.

Around a linear two-class model with margin m = w . x + b the class regions are half-spaces, so the classifier smoothed
by isotropic noise has exactly the l2 radius |m| / ||w|| whatever the noise level (Cohen et al. 2019, section 3.1).
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from verifkit.capabilities import Kind
from verifkit.evidence import PrivacyCounts, SampleCounts
from verifkit.input_sets import ball
from verifkit.model import Model
from verifkit.properties import Property, misclassified
from verifkit.query import Query, QueryFamily
from verifkit.result import Verdict
from verifkit.testing import toys
from verifkit.testing.checks import Rule, Trial
from verifkit.testing.oracle import ToyNet

RADII = (Fraction(1, 16), Fraction(1, 4), Fraction(1, 2), Fraction(4))
WEIGHTS = (3, 4)
ALLOWED_MISSES = 1
"""Of the questions below, at the default failure probabilities: two misses have a chance of about one in 30000."""


@lru_cache(maxsize=16)
def linear_classifier(radius: Fraction) -> Model:
    """Label 0 at the origin, with the exact smoothed l2 radius `radius`."""
    norm = math.isqrt(sum(w * w for w in WEIGHTS))
    row = tuple(Fraction(w) for w in WEIGHTS)
    toy = ToyNet(((row, tuple(-v for v in row)),), ((radius * norm, -radius * norm),))
    return toys.to_model(toy, f"linear {radius}")


def robust_query(model: Model, radius: Fraction, label: int = 0) -> Query:
    center = (Fraction(0),) * model.n_inputs
    return Query(model, Property(ball(center, radius, "2"), misclassified(label, 2), 2))


def _asks(trial: Trial) -> bool:
    return "2" in trial.of_kind(Kind.PROBABILISTIC)


def exact_radius_is_not_exceeded(trial: Trial) -> None:
    """HOLDS is not said beyond the exact radius of the smoothed classifier, nor of the class it does not answer."""
    misses = []
    for exact in RADII:
        model = linear_classifier(exact)
        misses += [
            f"HOLDS at {float(exact * factor)}, but the exact radius is {float(exact)}"
            for factor in (Fraction(101, 100), Fraction(3, 2))
            if trial.ask(robust_query(model, exact * factor)).verdict is Verdict.HOLDS
        ]
        if trial.ask(robust_query(model, exact / 8, label=1)).verdict is Verdict.HOLDS:
            misses.append(f"HOLDS of class 1, but the smoothed classifier answers 0 (exact radius {float(exact)})")
    if len(misses) > ALLOWED_MISSES:
        trial.fail("exact_radius_is_not_exceeded", "; ".join(misses))


def stated_radius_is_not_exceeded(trial: Trial) -> None:
    """`radius` certifies no more than the exact radius of the smoothed classifier."""
    misses = []
    for exact in RADII[:3]:
        model = linear_classifier(exact)
        family = QueryFamily(model, (Fraction(0),) * model.n_inputs, "2", misclassified(0, 2))
        certified = trial.verifier.radius(family, seed=trial.seed).certified
        if certified is not None and certified.value > exact:
            misses.append(f"certifies {certified.value}, but the exact radius is {float(exact)}")
    if len(misses) > ALLOWED_MISSES:
        trial.fail("stated_radius_is_not_exceeded", "; ".join(misses))


def never_violated(trial: Trial) -> None:
    """A tie or a wrong label at the center is a violation of the network, not of the smoothed classifier: no VIOLATED
    where the network itself holds."""
    for exact in RADII:
        if trial.ask(robust_query(linear_classifier(exact), exact / 2)).verdict is Verdict.VIOLATED:
            trial.fail("never_violated", f"VIOLATED at half the exact radius {float(exact)}")


def clear_cases_are_certified(trial: Trial) -> None:
    """Where all of the noise falls in one class, a small radius is certified."""
    result = trial.ask(robust_query(linear_classifier(RADII[-1]), Fraction(1, 64)))
    if result.verdict is not Verdict.HOLDS:
        sentence = f"{result.verdict}({result.reason}: {result.detail}) at radius 1/64 where the exact one is 4"
        trial.fail("clear_cases_are_certified", sentence)


def counts_recompute(trial: Trial) -> None:
    """Sample counts give back the stated bound and radius, by an exact binomial tail and the standard library's
    quantile, and do not contradict the true probability."""
    misses = []
    for exact in RADII:
        model = linear_classifier(exact)
        counts = trial.ask(robust_query(model, exact / 4)).evidence
        if not isinstance(counts, SampleCounts):
            continue
        draws, wins = sum(counts.estimation), counts.estimation[counts.chosen]
        if len(counts.estimation) != model.n_outputs or counts.model_digest != model.digest:
            trial.fail("counts_recompute", "the counts are about another model")
        if counts.lower > 0 and binomial_tail(wins, draws, counts.lower) > counts.alpha * (1 + 1e-6):
            sentence = f"{wins} of {draws} do not show p >= {counts.lower!r} at alpha = {counts.alpha}"
            trial.fail("counts_recompute", sentence)
        if counts.lower > 0.5:
            reach = counts.sigma * NormalDist().inv_cdf(counts.lower)
            if counts.radius > reach * (1 + 1e-9):
                trial.fail("counts_recompute", f"radius {counts.radius!r} is stated, {reach!r} follows")
        elif counts.radius > 0:
            trial.fail("counts_recompute", f"radius {counts.radius!r} is stated although p >= {counts.lower!r} only")
        if counts.lower > NormalDist().cdf(float(exact) / counts.sigma):
            misses.append(f"p >= {counts.lower!r} is stated, the exact p is {NormalDist().cdf(float(exact))!r}")
    if len(misses) > ALLOWED_MISSES:
        trial.fail("counts_recompute", "; ".join(misses))


def privacy_counts_recompute(trial: Trial) -> None:
    """Counts of a certificate by differential privacy give back its bounds, its inequality and its radius."""
    for exact in RADII:
        model = linear_classifier(exact)
        counts = trial.ask(robust_query(model, exact / 4)).evidence
        if isinstance(counts, PrivacyCounts) and not counts.released:
            wrong = _privacy_slip(counts, model)
            if wrong:
                trial.fail("privacy_counts_recompute", wrong)


def _privacy_slip(counts: PrivacyCounts, model: Model) -> str:
    """What in the record does not follow from its counts; empty if all does."""
    if len(counts.estimation) != model.n_outputs or counts.model_digest != model.digest:
        return "the counts are about another model"
    if not counts.squares:
        level, draws = counts.eta / model.n_outputs * (1 + 1e-6), counts.draws
        wins = int(counts.estimation[counts.chosen])
        rival = max(int(v) for k, v in enumerate(counts.estimation) if k != counts.chosen)
        if counts.lower > 0 and binomial_tail(wins, draws, counts.lower) > level:
            return f"{wins} of {draws} do not show a score >= {counts.lower!r} at eta = {counts.eta}"
        left = 1.0 - counts.lower
        if counts.upper < left * (1 - 1e-9) and binomial_tail(draws - rival, draws, 1.0 - counts.upper) > level:
            return f"{rival} of {draws} do not show a score <= {counts.upper!r} at eta = {counts.eta}"
    if counts.radius <= 0:
        return ""
    eps, delta, size = counts.eps, counts.delta, counts.radius / counts.scale
    if counts.lower <= math.exp(2 * eps) * counts.upper + (1 + math.exp(eps)) * delta:
        return f"the classes are not apart at eps = {eps!r}, delta = {delta!r}"
    normal = NormalDist()
    needed = normal.cdf(size / 2 - eps / size) - math.exp(eps) * normal.cdf(-size / 2 - eps / size)
    if size > eps * (1 + 1e-9) if counts.mechanism == "laplace" else needed > delta * (1 + 1e-9) + 1e-14:
        return f"noise is not ({eps!r}, {delta!r})-private for changes of {size!r} times its scale"
    return ""


def binomial_tail(wins: int, draws: int, p: float) -> float:
    """P[Bin(draws, p) >= wins], summed term by term."""
    k = np.arange(wins, draws + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, draws + 1)))])
    choose = factorials[draws] - factorials[k] - factorials[draws - k]
    return float(np.exp(choose + k * math.log(p) + (draws - k) * math.log1p(-p)).sum())


RULES = (
    Rule("exact_radius_is_not_exceeded", exact_radius_is_not_exceeded, _asks, soundness=True),
    Rule("stated_radius_is_not_exceeded", stated_radius_is_not_exceeded, _asks, soundness=True),
    Rule("counts_recompute", counts_recompute, _asks, soundness=True),
    Rule("privacy_counts_recompute", privacy_counts_recompute, _asks, soundness=True),
    Rule("never_violated", never_violated, _asks, soundness=True),
    Rule("clear_cases_are_certified", clear_cases_are_certified, _asks),
)

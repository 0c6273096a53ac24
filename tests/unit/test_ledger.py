"""What a run may claim about all of its inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from verifkit.analysis.confidence import clopper_pearson_lower, least_draws
from verifkit.analysis.smoothing.certificate import Plan
from verifkit.analysis.smoothing.ledger import (
    AlphaLedger,
    accuracy_lower,
    bonferroni,
    errors_allowed,
    holm,
    p_values,
)
from verifkit.analysis.smoothing.noise import Gaussian
from verifkit.errors import OptionError


def test_an_abstained_input_is_not_certified_again_for_nothing() -> None:
    ledger = AlphaLedger(0.001)
    assert ledger.spend(7) == 0.001
    with pytest.raises(OptionError, match="input 7 has spent"):
        ledger.spend(7)
    with pytest.raises(OptionError, match="input 7"):
        ledger.spend(7, 1e-9)
    assert ledger.spend(8) == 0.001
    assert ledger.inputs == 2
    assert ledger.total == pytest.approx(0.002)


def test_alpha_set_aside_pays_for_a_second_attempt() -> None:
    ledger = AlphaLedger(0.01)
    assert ledger.spend("a", 0.006) == 0.006
    assert ledger.left("a") == pytest.approx(0.004)
    with pytest.raises(OptionError, match="needs alpha of its own"):
        ledger.spend("a", 0.005)
    ledger.spend("a")
    assert ledger.spent("a") <= 0.01
    assert ledger.left("a") == 0
    assert ledger.total >= 0.01
    for wrong in (0.0, -0.1, math.nan):
        with pytest.raises(OptionError):
            ledger.spend("b", wrong)


def test_the_total_is_a_probability() -> None:
    ledger = AlphaLedger(0.4)
    for key in range(5):
        ledger.spend(key)
    assert ledger.total == 1


@pytest.mark.parametrize("inputs", [1, 3, 7, 500, 10_000])
def test_bonferroni_shares_add_up_to_no_more(inputs: int) -> None:
    assert bonferroni(0.001, inputs) * inputs <= 0.001
    assert bonferroni(0.001, inputs) == pytest.approx(0.001 / inputs)


def test_a_number_of_draws_that_cannot_certify_is_refused() -> None:
    Plan(10, 0.001)
    with pytest.raises(OptionError, match="least n that can is 10"):
        Plan(9, 0.001)
    simultaneous = bonferroni(0.001, 500)
    with pytest.raises(OptionError, match=f"least n that can is {least_draws(simultaneous)}"):
        Plan(18, simultaneous)


@pytest.mark.parametrize(("inputs", "alpha", "rho"), [(500, 0.001, 0.001), (10_000, 0.001, 0.05), (3, 0.05, 1e-6)])
def test_errors_allowed_is_the_binomial_quantile(inputs: int, alpha: float, rho: float) -> None:
    allowed = errors_allowed(inputs, alpha, rho)
    assert allowed == int(binom.ppf(1 - rho, inputs, alpha))
    assert binom.sf(allowed, inputs, alpha) <= rho


def test_the_accuracy_of_a_data_set_is_corrected() -> None:
    assert errors_allowed(500, 0.001, 0.001) == 4
    assert accuracy_lower(300, 500, 0.001, 0.001) == 296 / 500
    assert accuracy_lower(2, 500, 0.001, 0.001) == 0


@pytest.mark.parametrize("count", [0, 1, 500, 990, 1000])
def test_a_p_value_is_the_binomial_tail_at_the_radius(count: int) -> None:
    value = float(p_values(count, 1000, 0.5, 0.7))
    exact = float(binom.sf(count - 1, 1000, norm.cdf(1.4)))
    assert exact <= value
    assert value == pytest.approx(exact, rel=1e-6)


def test_a_p_value_agrees_with_the_certified_radius() -> None:
    radius = Gaussian(0.5).radius(clopper_pearson_lower(950, 1000, 0.01))
    assert p_values(950, 1000, 0.5, radius * (1 - 1e-6)) < 0.01 < p_values(950, 1000, 0.5, radius * (1 + 1e-6))


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05).tolist() == [True, False, False, True]
    assert holm([0.001, 0.02, 0.049], 0.05).tolist() == [True, True, True]
    assert holm([0.06, 1.0], 0.05).tolist() == [False, False]
    assert holm([], 0.05).tolist() == []


def test_holm_keeps_the_family_error_and_rejects_no_less_than_bonferroni() -> None:
    rng, false = np.random.default_rng(0), 0
    for _ in range(4000):
        p = np.concatenate([rng.random(15), rng.random(5) * 1e-3])
        rejected = holm(p, 0.05)
        false += bool(rejected[:15].any())
        assert (rejected >= (p <= 0.05 / 20 * (1 - 1e-12))).all()
    assert false <= binom.ppf(1 - 1e-6, 4000, 0.05)


@pytest.mark.parametrize("wrong", [0.0, 1.0, -1.0, math.nan])
def test_probabilities_are_probabilities(wrong: float) -> None:
    for call in (
        lambda: AlphaLedger(wrong),
        lambda: bonferroni(wrong, 2),
        lambda: Plan(10, wrong),
        lambda: holm([0.1], wrong),
        lambda: errors_allowed(5, 0.1, wrong),
        lambda: errors_allowed(5, wrong, 0.1),
    ):
        with pytest.raises(OptionError, match="between 0 and 1"):
            call()
    with pytest.raises(OptionError, match="one input or more"):
        bonferroni(0.1, 0)

"""Values and derivatives of every function against high precision, in both precisions, for NumPy and torch."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from tests.unit.reference_functions import CASES, DIGITS, Case
from verifkit.analysis.accuracy import slope_error, value_error
from verifkit.analysis.bends import BENDS
from verifkit.analysis.interval import INTERVAL_RULES
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.functions import Clip, Elu, LeakyRelu, Power, Relu, ScalarFunction

COUNT = 200
SMOOTH = [case for case in CASES if type(case.function) in BENDS]


def points(case: Case, dtype: type, *, radius: float = 30.0) -> np.ndarray:
    """Of many sizes inside the domain, next to special points among them."""
    rng = np.random.default_rng(len(case.name))
    x = rng.normal(size=COUNT) * rng.choice([1e-12, 1e-3, 1.0, 10.0], COUNT)
    near = rng.choice(case.special, COUNT) + rng.normal(size=COUNT) * 1e-9
    x = np.clip(np.where(rng.random(COUNT) < 0.25, near, x), -radius, radius).astype(dtype)
    return np.abs(x) + np.finfo(dtype).tiny if case.positive or case.pole else x


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_values_are_as_accurate_as_stated(case: Case, dtype: type, library: str) -> None:
    x = points(case, dtype)
    function = case.cast(x)
    if library == "numpy":
        value, error = function(x), value_error(function, function(x))
    else:
        torch = pytest.importorskip("torch")
        value = case.function.cast(lambda v: torch.tensor(v, dtype=torch.tensor(x).dtype))(torch.tensor(x)).numpy()
        error = value_error(function, value)
    assert value.dtype == dtype
    with mpmath.workdps(DIGITS):
        for at, found, off in zip(x.tolist(), value.tolist(), error.tolist(), strict=True):
            assert abs(case.exact(mpmath.mpf(at)) - found) <= off, at


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", SMOOTH, ids=lambda c: c.name)
def test_derivatives_are_as_accurate_as_stated(case: Case, dtype: type) -> None:
    x = points(case, dtype, radius=20.0)
    function = case.cast(x)
    slope = function.derivative(x)
    error = slope_error(function, slope)
    assert slope.dtype == dtype
    step = mpmath.mpf(10) ** -30
    with mpmath.workdps(120):
        for at, found, off in zip(x.tolist(), slope.tolist(), error.tolist(), strict=True):
            if isinstance(function, Elu) and at == 0:
                continue  # a kink: one side's slope will do
            middle = mpmath.mpf(at)
            width = step * abs(middle) if case.positive or case.pole else step
            exact = (case.exact(middle + width) - case.exact(middle - width)) / (2 * width)
            assert abs(exact - found) <= off * (1 + 1e-9) + abs(exact) * 1e-25, at


def test_derivatives_at_kinks_are_one_sided() -> None:
    zero = np.zeros(1)
    for function, sides in ((Relu(), (0, 1)), (LeakyRelu(np.array(-2.0)), (-2, 1)), (Elu(3.0), (3, 1))):
        assert function.derivative(zero)[0] in sides
    clip = Clip(np.array(-1.0), np.array(2.0))
    assert set(clip.derivative(np.array([-1.0, 0.0, 2.0, 3.0])).tolist()) <= {0.0, 1.0}


def test_parameters_broadcast_and_are_cast_with_the_network() -> None:
    x = np.array([[[-1.0, 2.0, -3.0]]])  # a leading axis in front of the node's shape (1, 3)
    leaky = LeakyRelu(np.array([[0.5, 0.25, -2.0]]))
    np.testing.assert_array_equal(leaky(x), [[[-0.5, 2.0, 6.0]]])
    single = leaky.cast(lambda v: v.astype(np.float32))
    assert isinstance(single, LeakyRelu)
    assert single.slope.dtype == np.float32
    assert single(x.astype(np.float32)).dtype == np.float32
    clip = Clip(np.array([[-np.inf, 0.0, -1.0]]), np.array(1.0)).cast(lambda v: v.astype(np.float32))
    np.testing.assert_array_equal(clip(x.astype(np.float32)), [[[-1.0, 1.0, -1.0]]])


@pytest.mark.parametrize("exponent", [2, 3, 7, 12, 31])
def test_powers_are_repeated_products(exponent: int) -> None:
    x = np.array([-1.5, -1.0, 0.0, 0.5, 1.0, 3.0])
    np.testing.assert_allclose(Power(exponent)(x), x**exponent, rtol=1e-13)
    np.testing.assert_allclose(Power(exponent).derivative(x), exponent * x ** (exponent - 1), rtol=1e-13)


def test_every_function_has_a_rule_everywhere() -> None:
    functions = set(ScalarFunction.__subclasses__())
    here = {f for f in functions if f.__module__ == "verifkit.functions"}
    assert here == set(INTERVAL_RULES) == set(CROWN_RELAXATIONS)
    assert here == {type(case.function) for case in CASES}

"""Ranges and lines hold with a library as bad as is assumed: values and slopes off by nearly what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from tests.unit.reference_functions import CASES, Case, in_domain, intervals
from tests.unit.test_interval import outside
from tests.unit.test_relaxation import crossing, lines_of, parts
from verifkit.analysis.accuracy import SLOPES, VALUES, Accuracy, slope_error, value_error
from verifkit.analysis.bends import BENDS
from verifkit.analysis.ranges import function_bounds
from verifkit.evidence import Lines
from verifkit.functions import Exp, Power, Reciprocal, ScalarFunction, Sqrt

COUNT = 150
LIBRARY = [c for c in CASES if type(c.function) in BENDS and not isinstance(c.function, Power | Sqrt | Reciprocal)]
Method = Callable[[ScalarFunction, np.ndarray], np.ndarray]


def spoilt(method: Method, accuracies: Mapping[type[ScalarFunction], Accuracy], sign: int) -> Method:
    """The method with 0.7 of the error that is allowed added (it has some of its own); exact values stay exact."""

    def spoil(function: ScalarFunction, x: np.ndarray) -> np.ndarray:
        value = method(function, x)
        stated = accuracies[type(function)]
        u = float(np.finfo(value.dtype).eps) / 2
        error = (0.7 * 2 * u) * (stated.relative * np.abs(value) + stated.absolute)
        straight = (x >= 0) if function.name == "elu" else (value == 0)
        return np.asarray(np.where(straight, value, value + sign * error), dtype=value.dtype)

    return spoil


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", LIBRARY, ids=lambda c: c.name)
def test_ranges_and_lines_allow_for_the_stated_errors(
    case: Case, dtype: type, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(case.function)
    monkeypatch.setattr(kind, "__call__", spoilt(kind.__call__, VALUES, sign))
    monkeypatch.setattr(kind, "derivative", spoilt(kind.derivative, SLOPES, sign))
    lower, upper = intervals(case, dtype, COUNT, seed=7, scales=(1e-6, 1e-3, 0.1, 1.0, 5.0))
    kept = in_domain(case, lower, upper)
    lower, upper = lower[kept], upper[kept]
    function = case.cast(lower)
    assert outside(case, function_bounds(function, lower, upper), lower, upper) is None
    lines = lines_of(function, lower, upper)
    known = np.isfinite(lines.lower_offset) & np.isfinite(lines.upper_offset)
    assert crossing(case, Lines(*(p[known] for p in parts(lines))), lower[known], upper[known]) is None


def test_errors_grow_with_the_value_and_the_exponent() -> None:
    x = np.array([0.0, 1.0, 8.0])
    error = value_error(Exp(), x)
    assert 0 < error[0] < 1e-300
    assert error[2] == pytest.approx(8 * error[1])
    assert error[1] == pytest.approx(8 * np.finfo(np.float64).eps)
    assert value_error(Power(30), x)[1] == pytest.approx(10 * value_error(Power(3), x)[1])
    assert slope_error(Power(3), x)[1] > 0


def test_a_function_of_which_nothing_is_known_is_refused() -> None:
    class Unknown(Exp):
        pass

    with pytest.raises(KeyError):
        value_error(Unknown(), np.ones(1))

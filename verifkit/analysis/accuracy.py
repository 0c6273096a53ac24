"""How far the computed value and derivative of a scalar function may be from the exact ones.

The libraries (NumPy, scipy, torch on a CPU or a GPU) state at most four units in the last place for each of their own
functions, and less than two were measured; what is assumed here is twice what they state, more where a function is
composed of several. Sine and cosine near their zeros, and the logarithm near 1, are given an absolute part too, since
a relative one would rest on how the library reduces its argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from verifkit.analysis.rounding import tiny
from verifkit.arrays import Array, epsilon, namespace
from verifkit.functions import (
    Abs,
    Clip,
    Cos,
    Elu,
    Erf,
    Exp,
    LeakyRelu,
    Log,
    Power,
    Reciprocal,
    Relu,
    ScalarFunction,
    Sigmoid,
    Sign,
    Sin,
    Softplus,
    Sqrt,
    Tanh,
)


@dataclass(frozen=True)
class Accuracy:
    """|computed - exact| <= 2 u (relative |computed| + absolute), underflow apart; u is the unit roundoff.

    So both are numbers of units in the last place, `absolute` of those of 1.
    """

    relative: float = 0.0
    absolute: float = 0.0

    def error(self, computed: Array) -> Array:
        """The bound, entry by entry; zero for an accuracy of (0, 0), which means exact."""
        xp = namespace(computed)
        if not (self.relative or self.absolute):
            return xp.zeros_like(computed)
        u = epsilon(computed)
        lost = 2.0 * u * self.absolute + (2.0 + self.relative) * tiny(computed)
        return (2.0 * u * self.relative) * xp.abs(computed) + lost


EXACT = Accuracy()

VALUES: Mapping[type[ScalarFunction], Accuracy] = {
    Relu: EXACT,
    Abs: EXACT,
    Sign: EXACT,
    Clip: EXACT,
    LeakyRelu: Accuracy(2),
    Sqrt: Accuracy(2),
    Reciprocal: Accuracy(2),
    Exp: Accuracy(8),
    Log: Accuracy(8, 2),
    Sin: Accuracy(8, 8),
    Cos: Accuracy(8, 8),
    Sigmoid: Accuracy(16),
    Tanh: Accuracy(16),
    Erf: Accuracy(16),
    Softplus: Accuracy(24),
    Elu: Accuracy(12),
}

SLOPES: Mapping[type[ScalarFunction], Accuracy] = {
    Sqrt: Accuracy(4),
    Reciprocal: Accuracy(4),
    Exp: Accuracy(8),
    Log: Accuracy(2),
    Sin: Accuracy(8, 8),
    Cos: Accuracy(8, 8),
    Sigmoid: Accuracy(24),
    Tanh: Accuracy(24),
    Erf: Accuracy(24, 4),  # the rounding of x^2 in exp(-x^2) costs x^2 exp(-x^2) < 1/2 ulp
    Softplus: Accuracy(24),
    Elu: Accuracy(12),
}


def value_error(function: ScalarFunction, computed: Array) -> Array:
    """A bound on |computed - exact| for a value of `function` that was computed as `computed`.

    Raises KeyError for a function of which nothing is known.
    """
    return _power(function, VALUES).error(computed)


def slope_error(function: ScalarFunction, computed: Array) -> Array:
    """The same for a value of `function.derivative`."""
    return _power(function, SLOPES).error(computed)


def _power(function: ScalarFunction, table: Mapping[type[ScalarFunction], Accuracy]) -> Accuracy:
    # Repeated multiplication: as many roundings as factors.
    return Accuracy(function.exponent) if type(function) is Power else table[type(function)]

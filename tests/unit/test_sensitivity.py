"""Operator norms and sensitivities are upper bounds, hardly above what exact matrices and attacks show."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest

from verifkit.analysis import sensitivity as module
from verifkit.analysis.sensitivity import Unbounded, column_norm, row_norm, sensitivity, spectral_norm
from verifkit.functions import (
    Abs,
    Clip,
    Elu,
    Erf,
    Exp,
    LeakyRelu,
    Power,
    Relu,
    ScalarFunction,
    Sigmoid,
    Sin,
    Softplus,
    Sqrt,
    Tanh,
)
from verifkit.maps import Adjoint, Identity, LinearMap, Reshape, Select, Sum
from verifkit.network import Network, dense_network
from verifkit.ops import Activation, Affine, Input, Max, Product
from verifkit.weighted_maps import BatchedDense, Conv, Dense, Scale

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def conv(
    weight: np.ndarray, shape: tuple[int, ...], stride: Any = 1, pad: Any = 0, dilation: Any = 1, groups: int = 1
) -> Conv:
    """One number for all axes, or a tuple with one for each."""
    axes = len(shape) - 2

    def each(value: Any) -> tuple[Any, ...]:
        return value if isinstance(value, tuple) else (value,) * axes

    pads = tuple(p if isinstance(p, tuple) else (p, p) for p in each(pad))
    return Conv(weight, shape, each(stride), pads, each(dilation), groups)


MAPS: dict[str, LinearMap] = {
    "dense": Dense(normal(30, 40)),
    "tall": Dense(normal(40, 3), (2,)),
    "ones": Dense(np.ones((50, 20))),
    "rank one": Dense(np.outer(normal(20), normal(30))),
    "zero": Dense(np.zeros((4, 5))),
    "tiny": Dense(1e-160 * normal(6, 5)),
    "huge": Dense(1e150 * normal(6, 5)),
    "mixed": Dense(normal(8, 8) * 10.0 ** RNG.integers(-8, 8, (8, 8))),
    "scale": Scale(normal(3, 4)),
    "division": Scale(normal(3, 4), divide=True),
    "identity": Identity((3, 4)),
    "reshape": Reshape((3, 4), (12,)),
    "repeats": Select((5,), np.array([0, 0, 0, 1, -1, 2])),
    "sum": Sum((3, 5), (1,)),
    "batched": BatchedDense(normal(3, 4, 5), 2),
    "digits": conv(normal(16, 1, 4, 4), (1, 1, 8, 8), stride=2, pad=1),
    "plain": conv(normal(6, 3, 3, 3), (1, 3, 8, 8), pad=1),
    "unpadded": conv(normal(6, 3, 3, 3), (1, 3, 7, 6)),
    "lopsided": conv(normal(8, 2, 3, 3), (1, 4, 9, 8), stride=(2, 3), pad=((1, 0), (0, 2)), dilation=(2, 1), groups=2),
    "gaps": conv(normal(4, 3, 2, 2), (1, 3, 9, 9), stride=3, pad=1),
    "line": conv(normal(8, 3, 5), (1, 3, 40), stride=3, pad=1, dilation=2),
    "solid": conv(normal(3, 2, 2, 2, 2), (1, 2, 4, 5, 3), stride=2, pad=1),
    "transposed": Adjoint(conv(normal(6, 3, 3, 3), (1, 3, 8, 8), stride=2, pad=1)),
}  # fmt: skip
maps = pytest.mark.parametrize("name", MAPS)


def matrix(linear: LinearMap) -> np.ndarray:
    """(outputs, inputs), by applying the map to every unit vector."""
    size = math.prod(linear.in_shape)
    images = linear.apply(np.eye(size).reshape(size, *linear.in_shape))
    return images.reshape(size, -1).T


@maps
def test_norms_are_upper_bounds_and_hardly_above(name: str) -> None:
    dense = matrix(MAPS[name])
    with np.errstate(under="ignore"):
        exact = {
            "columns, l1": (column_norm(MAPS[name], "1"), np.abs(dense).sum(axis=0).max()),
            "rows, l1": (row_norm(MAPS[name]), np.abs(dense).sum(axis=1).max()),
            "columns, l2": (column_norm(MAPS[name], "2"), np.sqrt((dense**2).sum(axis=0).max())),
            "spectral": (spectral_norm(MAPS[name]), np.linalg.svd(dense, compute_uv=False)[0]),
        }
    for what, (found, value) in exact.items():
        assert found >= value * (1 - 1e-15), what
        if name not in ("tiny", "huge"):  # squares underflow or overflow: still bounds
            assert found <= value * (1 + 1e-9) + 1e-150, what


@pytest.mark.parametrize("name", ["dense", "ones", "rank one", "mixed"])
def test_the_spectral_norm_is_rounded_up(name: str) -> None:
    """Against forty digits: the routine's own value is no proof."""
    linear = MAPS[name]
    assert isinstance(linear, Dense)
    with mpmath.workdps(40):
        gram = mpmath.matrix(np.asarray(linear.weight).tolist())
        gram = gram.T * gram
        exact = mpmath.sqrt(max(mpmath.eigsy(gram, eigvals_only=True)))
    assert exact <= spectral_norm(linear) <= exact * (1 + 1e-9)


CONVS = [name for name, linear in MAPS.items() if isinstance(linear, Conv)]


@pytest.mark.parametrize("name", CONVS)
def test_the_circular_convolution_bounds_the_padded_one(name: str) -> None:
    linear = MAPS[name]
    assert isinstance(linear, Conv)
    exact = np.linalg.svd(matrix(linear), compute_uv=False)[0]
    assert exact * (1 - 1e-15) <= module._circular_norm(linear) <= 1.4 * exact


def test_the_circular_bound_is_its_own_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an image that wraps around it is no longer an estimate; and in pieces it is the same."""
    weight = normal(4, 3, 3, 3)
    linear = conv(weight, (1, 3, 8, 8), pad=1, stride=2)
    period = 10  # what the padded image has
    circular = np.zeros((4 * (period // 2) ** 2, 3 * period**2))
    for o, i, a, b, row, column in np.ndindex(4, 3, 3, 3, period // 2, period // 2):
        place = (2 * row + a - 1) % period, (2 * column + b - 1) % period
        circular[(o * 5 + row) * 5 + column, (i * period + place[0]) * period + place[1]] += weight[o, i, a, b]
    exact = np.linalg.svd(circular, compute_uv=False)[0]
    whole = module._circular_norm(linear)
    assert exact * (1 - 1e-15) <= whole <= exact * (1 + 1e-9)
    monkeypatch.setattr(module, "ENTRIES", 100)
    assert module._circular_norm(linear) == pytest.approx(whole, rel=1e-10)


def test_a_convolution_of_any_size_has_a_norm() -> None:
    """Far beyond a matrix; the power method from below is close."""
    linear = conv(normal(16, 3, 7, 7), (1, 3, 64, 64), stride=2, pad=3)
    found = spectral_norm(linear)
    x = normal(*linear.in_shape)
    for _ in range(60):
        x = linear.adjoint(linear.apply(x))
        x /= np.linalg.norm(x)
    reached = np.linalg.norm(linear.apply(x))
    assert reached <= found <= 1.05 * reached
    assert spectral_norm(linear) is found  # kept


# --- networks ------------------------------------------------------------------------------------------------------

FUNCTIONS: list[ScalarFunction] = [
    Relu(), LeakyRelu(0.1), LeakyRelu(-3.0), Abs(), Clip(np.array(-0.1), np.array(0.5)), Elu(0.5), Elu(4.0), Sigmoid(),
    Tanh(), Erf(), Softplus(), Sin(),
]  # fmt: skip


@pytest.mark.parametrize(
    "function", FUNCTIONS, ids=lambda f: f"{f.name} {getattr(f, 'slope', getattr(f, 'alpha', ''))}"
)
def test_slopes_are_the_largest_anywhere(function: ScalarFunction) -> None:
    x = np.linspace(-8, 8, 160_001)
    steepest = float(np.abs(np.diff(function(x)) / np.diff(x)).max())
    slope = module.SLOPES[type(function)](function)
    assert slope >= steepest * (1 - 1e-9)
    assert slope <= max(1.0, steepest * 1.001)
    assert slope < 1.0 or steepest > 0.99


@pytest.mark.parametrize(("change", "measure"), [("1", "1"), ("1", "2"), ("2", "2")])
@pytest.mark.parametrize("seed", range(5))
def test_no_pair_of_inputs_moves_further(change: Any, measure: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    widths = (6, 8, 7, 5)
    weights = [rng.standard_normal(s) for s in zip(widths[1:], widths, strict=False)]
    network = dense_network(weights, [rng.standard_normal(w) for w in widths[1:]], FUNCTIONS[seed])
    bound = sensitivity(network, change, measure)
    x = 3 * rng.standard_normal((4000, 6))
    step = rng.standard_normal((4000, 6))
    if change == "1":  # the steepest directions are along axes
        step = np.eye(6)[rng.integers(0, 6, 4000)]
    y = x + 1e-3 * step
    moved = network.evaluate(y) - network.evaluate(x)
    ratio = np.linalg.norm(moved, int(measure), axis=1) / np.linalg.norm(y - x, int(change), axis=1)
    assert ratio.max() <= bound


def test_one_layer_is_exact_and_layers_multiply() -> None:
    first, second = normal(5, 4), normal(3, 5)
    one, two = dense_network([first], [np.zeros(5)]), dense_network([first, second], [np.zeros(5), np.zeros(3)])
    l1, l2 = (lambda w, q: np.linalg.norm(w, q, axis=0).max()), (lambda w: np.linalg.norm(w, 2))
    assert sensitivity(one, "1", "1") == pytest.approx(l1(first, 1))
    assert sensitivity(one, "1", "2") == pytest.approx(l1(first, 2))
    assert sensitivity(one, "2", "2") == pytest.approx(l2(first))
    assert sensitivity(two, "1", "1") == pytest.approx(l1(first, 1) * l1(second, 1))
    assert sensitivity(two, "2", "2") == pytest.approx(l2(first) * l2(second))
    ways = l1(first, 1) * l1(second, 2), l1(first, 2) * l2(second)
    assert sensitivity(two, "1", "2") == pytest.approx(min(ways))


def test_sums_maxima_and_residuals() -> None:
    nodes: list[Any] = [Input(shape=(4,), name="x")]
    nodes.append(Affine(shape=(4,), parents=(0,), name="a", maps=(Dense(2 * np.eye(4)),)))
    nodes.append(Affine(shape=(4,), parents=(0, 1), name="s", maps=(Identity((4,)), Identity((4,)))))
    network = Network(tuple(nodes))
    assert sensitivity(network, "2", "2") == pytest.approx(3.0)
    groups = np.array([[0, 1], [1, 2], [2, -1]])
    nodes.append(Max(shape=(3,), parents=(2,), name="m", groups=groups, parent_shape=(4,)))
    network = Network(tuple(nodes))
    assert sensitivity(network, "2", "2") == pytest.approx(3.0 * math.sqrt(2))
    assert sensitivity(network, "1", "1") == pytest.approx(6.0)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 2000, 4))
    moved = network.evaluate(x) - network.evaluate(y)
    assert (np.linalg.norm(moved, axis=1) <= 3 * math.sqrt(2) * np.linalg.norm(x - y, axis=1)).all()


@pytest.mark.parametrize("function", [Power(2), Exp(), Sqrt()], ids=lambda f: f.name)
def test_functions_without_a_largest_slope_are_refused(function: ScalarFunction) -> None:
    nodes = (
        Input(shape=(2,), name="x"),
        Activation(shape=(2,), parents=(0,), name="act", function=function, origin=("node7",)),
    )
    with pytest.raises(Unbounded, match=f"{function.name} \\(node 'node7'\\)"):
        sensitivity(Network(nodes), "2", "2")


def test_products_l1_from_l2_and_overflow_are_refused() -> None:
    product = Network((Input(shape=(2,), name="x"), Product(shape=(2,), parents=(0, 0), name="xx")))
    with pytest.raises(Unbounded, match="Product"):
        sensitivity(product, "2", "2")
    plain = dense_network([np.eye(2)], [np.zeros(2)])
    with pytest.raises(Unbounded, match="l1"):
        sensitivity(plain, "2", "1")
    with pytest.raises(Unbounded, match="floating point"):
        sensitivity(dense_network([1e200 * np.eye(2)] * 2, [np.zeros(2)] * 2), "2", "2")

"""The linear maps that only ONNX models bring: sums, batched matrices, the transpose of a convolution; and moves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from verifkit.exact import evaluate_exactly
from verifkit.io.onnx import model_from_bytes, model_from_network
from verifkit.maps import Adjoint, LinearMap, Place, Select, Shape, Sum
from verifkit.network import Network
from verifkit.ops import Affine, Input
from verifkit.weighted_maps import BatchedDense, Conv, Scale


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng([7, *shape]).standard_normal(shape).astype(np.float32).astype(np.float64)


def sums() -> Iterator[LinearMap]:
    for shape in ((3,), (1, 4), (2, 3, 2)):
        for count in range(len(shape) + 1):
            for axes, keepdims in itertools.product(itertools.combinations(range(len(shape)), count), (True, False)):
                yield Sum(shape, axes, keepdims)


def transposes() -> Iterator[LinearMap]:
    for n, batch, groups, stride, dilation, pads in itertools.product(
        (1, 2), (1, 2), (1, 2), (1, 2, 3), (1, 2), ((0, 0), (1, 2))
    ):
        shape = (batch, 4, *(8, 6)[:n])
        weight = numbers(6, 4 // groups, *(2, 3)[:n])
        yield Adjoint(Conv(weight, shape, (stride,) * n, (pads,) * n, (dilation,) * n, groups))
    yield Adjoint(Scale(numbers(2, 3)))
    yield Adjoint(Adjoint(Conv(numbers(2, 1, 2), (1, 1, 4), (1,), ((0, 0),), (1,))))


def batches() -> Iterator[LinearMap]:
    for shape, rows in itertools.product(((2, 4, 3), (1, 2, 3), (2, 3, 1, 2)), (1, 3)):
        yield BatchedDense(numbers(*shape), rows)


def moves() -> Iterator[LinearMap]:
    """Places without repeats, with holes, and with repeats."""
    for index in ([[3, 1], [0, 2]], [[5, -1, 0]], [-1, -1], [[0, 0], [3, 0]], [[4, -1], [4, 1]]):
        yield Select((2, 3), np.array(index))
        yield Adjoint(Select((2, 3), np.array(index)))
    yield Place(np.array([[4, 0], [1, 3]]), (5,))
    yield Place(np.array([2, 1, 0]), (3, 2))


MAPS = [*sums(), *transposes(), *batches(), *moves()]


def matrix_of(linear: LinearMap) -> np.ndarray:
    entries = linear.entries()
    matrix = np.zeros((math.prod(linear.out_shape), math.prod(linear.in_shape)))
    np.add.at(matrix, (entries.rows, entries.cols), entries.values)
    return matrix


def flat(x: np.ndarray, shape: Shape) -> np.ndarray:
    return x.reshape(-1, math.prod(shape))


def test_apply_adjoint_absolute_and_entries_are_one_matrix() -> None:
    for linear in MAPS:
        matrix = matrix_of(linear)
        assert (matrix != 0).sum(axis=1).max() <= linear.terms
        assert (matrix != 0).sum(axis=0).max() <= linear.adjoint_terms
        x, y = numbers(2, 3, *linear.in_shape), numbers(2, 3, *linear.out_shape)
        assert linear.apply(x).shape == (2, 3, *linear.out_shape)
        assert linear.adjoint(y).shape == (2, 3, *linear.in_shape)
        for ours, given, expected in (
            (linear.apply(x), x, matrix.T), (linear.absolute.apply(x), x, np.abs(matrix).T),
        ):  # fmt: skip
            np.testing.assert_allclose(
                flat(ours, linear.out_shape), flat(given, linear.in_shape) @ expected, atol=1e-12
            )
        for ours, expected in ((linear.adjoint(y), matrix), (linear.absolute.adjoint(y), np.abs(matrix))):
            np.testing.assert_allclose(flat(ours, linear.in_shape), flat(y, linear.out_shape) @ expected, atol=1e-12)


def test_in_single_precision_and_in_torch() -> None:
    torch = pytest.importorskip("torch")
    for linear in MAPS[::5]:
        x = numbers(2, *linear.in_shape)
        single = linear.cast(lambda w: np.asarray(w, dtype=np.float32)).apply(x.astype(np.float32))
        assert single.dtype == np.float32
        in_torch = linear.cast(torch.asarray)
        y = in_torch.apply(torch.asarray(x))
        np.testing.assert_allclose(y.numpy(), linear.apply(x), atol=1e-12)
        np.testing.assert_allclose(in_torch.adjoint(y).numpy(), linear.adjoint(linear.apply(x)), atol=1e-10)


@pytest.mark.parametrize("factor", [1.0, 1.0 + 2.0**-40], ids=["float32", "float64"])
def test_written_and_read_again(factor: float) -> None:
    for linear in (*sums(), *transposes(), *batches()):
        scaled = linear.cast(lambda w: w * factor)
        bias = numbers(*linear.out_shape) * factor
        node = Affine(shape=linear.out_shape, parents=(0,), maps=(scaled,), bias=bias, name="y")
        network = Network((Input(shape=linear.in_shape, name="x"), node))
        model = model_from_network(network, "made")
        again = model_from_bytes(model.onnx_bytes or b"", "again").network
        assert again is not None
        x = numbers(3, *linear.in_shape).astype(model.dtype)
        tolerance = 1e-5 if model.dtype is np.float32 else 1e-12
        np.testing.assert_allclose(model.call(x), network.evaluate(x), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(again.evaluate(x), network.evaluate(x), rtol=tolerance, atol=tolerance)


def test_exact_evaluation_goes_through_them() -> None:
    for linear in MAPS[::7]:
        node = Affine(shape=linear.out_shape, parents=(0,), maps=(linear,), name="y")
        network = Network((Input(shape=linear.in_shape, name="x"), node))
        x = np.arange(math.prod(linear.in_shape), dtype=np.float64).reshape(linear.in_shape) / 4
        exact = evaluate_exactly(network, [Fraction(float(v)) for v in x.flat])
        np.testing.assert_allclose(np.array([float(v) for v in exact]), network.evaluate(x).reshape(-1), atol=1e-12)

"""Networks made in memory, written as ONNX: onnxruntime computes what the network does."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import onnx
import pytest

from verifkit.errors import ModelError
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
from verifkit.io.onnx import model_from_bytes, model_from_network
from verifkit.io.onnx_writer import write_onnx
from verifkit.io.runtime import OnnxRunner
from verifkit.maps import Entries, Identity, LinearMap, Place, Reshape, Select, Shape
from verifkit.network import Network, dense_network
from verifkit.ops import Activation, Affine, Input, Max, Node, Product
from verifkit.weighted_maps import Conv, Dense, Scale

SINGLE, DOUBLE = 1.0, 1.0 + 2.0**-40  # weights times DOUBLE are no float32


def numbers(*shape: int, factor: float = SINGLE, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
    return values.astype(np.float64) * factor


def layer(shape: Shape, maps: tuple[LinearMap, ...], bias: np.ndarray | None = None) -> Network:
    """One affine node with as many maps as given, all of the input."""
    node = Affine(shape=maps[0].out_shape, parents=(0,) * len(maps), maps=maps, bias=bias, name="y")
    return Network((Input(shape=shape, name="x"), node))


def agrees(network: Network) -> None:
    model = model_from_network(network, "made")
    assert model.network is network
    assert (model.input_shape, model.output_shape) == (network.input_shape, network.output_shape)
    x = np.random.default_rng(3).standard_normal((5, *network.input_shape)).astype(model.dtype)
    tolerance = 1e-5 if model.dtype is np.float32 else 1e-12
    np.testing.assert_allclose(model.call(x), network.evaluate(x), rtol=tolerance, atol=tolerance)
    assert write_onnx(network) == write_onnx(network) == model.onnx_bytes
    onnx.checker.check_model(onnx.load_from_string(model.onnx_bytes), full_check=True)


SELECTED = np.array([[3, -1, 0], [5, 5, 1]])


@pytest.mark.parametrize("factor", [SINGLE, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("batch", [(), (1,), (2,)], ids=["no batch", "batch of one", "fixed batch"])
def test_every_map(batch: Shape, factor: float) -> None:
    def w(*shape: int) -> np.ndarray:
        return numbers(*shape, factor=factor)

    shape = (*batch, 2, 3)
    size = int(np.prod(shape))
    last = w(*shape) + 3.0 * factor
    room = (*batch, size // (batch[0] if batch else 1) + 2)
    places = np.random.default_rng(1).permutation(int(np.prod(room)))[:size].reshape(shape)
    place = Place(places, room)
    index = np.broadcast_to(SELECTED, (*batch, *SELECTED.shape))
    for linear in (
        Identity(shape), Reshape(shape, (*batch, 3, 2)), Select(shape, index), place, Scale(last),
        Scale(np.abs(last) + 1, divide=True), Dense(w(4, 3), (*batch, 2)),
    ):  # fmt: skip
        agrees(layer(shape, (linear,)))
        agrees(layer(shape, (linear,), w(*linear.out_shape)))
        agrees(layer(shape, (linear, linear, linear), w(*linear.out_shape)))


@pytest.mark.parametrize("factor", [SINGLE, DOUBLE], ids=["float32", "float64"])
def test_convolutions(factor: float) -> None:
    for n, batch, groups, stride, dilation, pads in itertools.product(
        (1, 2, 3), (1, 2), (1, 2), (1, 2), (1, 2), ((0, 0), (1, 2))
    ):
        shape = (batch, 4, *(6, 5, 7)[:n])
        weight = numbers(6, 4 // groups, *(2, 3, 1)[:n], factor=factor)
        linear = Conv(weight, shape, (stride,) * n, (pads,) * n, (dilation,) * n, groups)
        agrees(layer(shape, (linear,), numbers(*linear.out_shape, factor=factor)))


@pytest.mark.parametrize("factor", [SINGLE, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("batch", [(), (1,)], ids=["no batch", "batch of one"])
def test_maxima_products_and_activations(batch: Shape, factor: float) -> None:
    shape = (*batch, 6)
    nodes: list[Node] = [Input(shape=shape, name="x")]
    nodes.append(Affine(shape=shape, parents=(0,), maps=(Dense(numbers(6, 6, factor=factor), batch),), name="a"))
    functions: tuple[ScalarFunction, ...] = (Relu(), Sigmoid(), Tanh())
    nodes += [Activation(shape=shape, parents=(1,), function=f, name="a") for f in functions]  # one name for all
    nodes.append(Product(shape=shape, parents=(2, 3), name="p"))
    groups = np.array([[0, 3, 5], [2, -1, -1], [4, 1, -1]]).reshape(*batch, 3, 3)
    nodes.append(Max(shape=(*batch, 3), parents=(5,), groups=groups, parent_shape=shape, name=""))
    pick = Select(shape, groups[..., 0])
    nodes.append(Affine(shape=(*batch, 3), parents=(6, 4), maps=(Identity((*batch, 3)), pick), name="out"))
    agrees(Network(tuple(nodes)))


NONE = np.array(np.inf)
FUNCTIONS: tuple[ScalarFunction, ...] = (
    Relu(), Sigmoid(), Tanh(), Abs(), Sign(), Exp(), Sin(), Cos(), Erf(), Softplus(), Elu(), Elu(0.5), Power(2),
    Power(5), LeakyRelu(0.25), LeakyRelu(numbers(6)), LeakyRelu(numbers(1, 6)), Clip(np.array(-0.5), np.array(0.75)),
    Clip(np.array(-0.5), NONE), Clip(-NONE, np.array(0.75)), Clip(-NONE, NONE), Clip(-np.abs(numbers(6)), NONE),
    Clip(-np.abs(numbers(1, 6)), np.where(np.arange(6) < 3, np.inf, 0.5)), Clip(numbers(6) - 5, np.array(0.5)),
)  # fmt: skip


@pytest.mark.parametrize("factor", [SINGLE, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_every_function(function: ScalarFunction, factor: float) -> None:
    shape = (1, 6)
    nodes: list[Node] = [Input(shape=shape, name="x")]
    nodes.append(Affine(shape=shape, parents=(0,), maps=(Dense(numbers(6, 6, factor=factor), (1,)),), name="a"))
    nodes.append(Activation(shape=shape, parents=(1,), function=function, name="f"))
    network = Network(tuple(nodes))
    if isinstance(function, Erf) and factor != SINGLE:
        with pytest.raises(ModelError, match=r"'erf' of node 'f' .* no Erf for doubles"):
            write_onnx(network)
        return
    agrees(network)
    again = model_from_bytes(write_onnx(network), "again").network
    assert again is not None
    x = numbers(3, *shape)
    np.testing.assert_allclose(again.evaluate(x), network.evaluate(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", [SINGLE, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("function", [Sqrt(), Log(), Reciprocal()], ids=lambda f: f.name)
def test_functions_with_a_domain(function: ScalarFunction, factor: float) -> None:
    """Behind exp, all inputs are inside it."""
    shape = (1, 4)
    nodes: list[Node] = [Input(shape=shape, name="x")]
    nodes.append(Affine(shape=shape, parents=(0,), maps=(Scale(0.5 * factor * np.ones(shape)),), name="a"))
    nodes.append(Activation(shape=shape, parents=(1,), function=Exp(), name="e"))
    nodes.append(Activation(shape=shape, parents=(2,), function=function, name="f"))
    agrees(Network(tuple(nodes)))


def test_a_parameter_decides_about_the_precision_too() -> None:
    for function, dtype in (
        (Elu(0.1), np.float64),
        (Elu(0.5), np.float32),
        (LeakyRelu(0.1), np.float64),
        (Clip(np.array(0.1), NONE), np.float64),
        (Clip(np.array(0.5), NONE), np.float32),
    ):
        network = dense_network([numbers(2, 2), numbers(2, 2)], [numbers(2), numbers(2)], function)
        assert model_from_network(network, "m").dtype is dtype


@pytest.mark.parametrize("function", [Relu(), Sigmoid(), Tanh()])
def test_a_plain_perceptron_is_read_back(function: ScalarFunction) -> None:
    network = dense_network([numbers(4, 3), numbers(2, 4)], [numbers(4), numbers(2)], function)
    agrees(network)
    again = model_from_bytes(write_onnx(network), "again").network
    assert again is not None
    assert [n.name for n in again.nodes] == [n.name for n in network.nodes]
    x = numbers(7, 3)
    np.testing.assert_array_equal(again.evaluate(x), network.evaluate(x))


def test_a_batch_axis_of_one_becomes_dynamic() -> None:
    for shape, dynamic in (((1, 3), True), ((3,), False), ((2, 3), False)):
        model = model_from_network(layer(shape, (Dense(numbers(2, 3), shape[:-1]),)), "made")
        assert isinstance(model.call, OnnxRunner)
        assert model.call.batched == dynamic
        (axis, *_) = onnx.load_from_string(model.onnx_bytes or b"").graph.input[0].type.tensor_type.shape.dim
        assert (axis.dim_param == "N") == dynamic


def test_float32_where_exact_else_double() -> None:
    weight = numbers(2, 3)
    assert model_from_network(dense_network([weight], [np.zeros(2)]), "s").dtype is np.float32
    for other in (weight * DOUBLE, weight + 1e300, weight * 1e-300):
        assert model_from_network(dense_network([other], [np.zeros(2)]), "d").dtype is np.float64


def test_an_input_alone() -> None:
    model = model_from_network(Network((Input(shape=(1, 2), name="x"),)), "nothing")
    np.testing.assert_array_equal(model(np.array([[1.0, 2.0]])), [[1.0, 2.0]])


def test_what_cannot_be_written() -> None:
    with pytest.raises(ModelError, match="infinite or NaN"):
        write_onnx(dense_network([np.array([[np.inf]])], [np.zeros(1)]))

    class Cube(ScalarFunction):
        name = "cube"

        def __call__(self, x: np.ndarray) -> np.ndarray:
            return x**3

        def derivative(self, x: np.ndarray) -> np.ndarray:
            return 3 * x**2

    with pytest.raises(ModelError, match="'cube' of node 'act1'"):
        write_onnx(dense_network([numbers(2, 2), numbers(2, 2)], [numbers(2), numbers(2)], Cube()))


def test_a_map_of_another_class_is_written_as_its_matrix() -> None:
    class Twice(LinearMap):
        """Its entries are all that the writer knows of it."""

        in_shape, out_shape, terms = (1, 3), (1, 2), 3
        matrix = numbers(2, 3)

        def apply(self, x: np.ndarray) -> np.ndarray:
            return x @ self.matrix.T

        def adjoint(self, y: np.ndarray) -> np.ndarray:
            return y @ self.matrix

        absolute = property(lambda self: self)

        def entries(self) -> Entries:
            rows, cols = np.nonzero(self.matrix)
            return Entries(rows, cols, self.matrix[rows, cols])

        def cast(self, convert: object) -> Twice:
            return self

    agrees(layer((1, 3), (Twice(),)))


def test_bytes_do_not_change() -> None:
    """The written form is part of a model's digest: it changes on purpose or not at all."""
    network = dense_network([np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, -1.0]])], [np.zeros(2), np.ones(1)])
    first = write_onnx(network)
    assert write_onnx(dense_network([np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, -1.0]])],
                                    [np.zeros(2), np.ones(1)])) == first  # fmt: skip
    assert hashlib.sha256(first).hexdigest() == model_from_network(network, "m").digest

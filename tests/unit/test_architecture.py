"""Architectures: shapes are torch's, the ONNX file computes what torch does, what does not fit is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from verifkit.errors import OptionError  # noqa: E402
from verifkit.functions import Relu as ReluFunction  # noqa: E402
from verifkit.io.onnx import model_from_bytes  # noqa: E402
from verifkit.ops import Activation, Max  # noqa: E402
from verifkit.training.architecture import Architecture, Classifier, dense  # noqa: E402
from verifkit.training.layers import (  # noqa: E402
    Conv,
    Dense,
    Flatten,
    Layer,
    MaxPool,
    Relu,
    Reshape,
    Residual,
    Sigmoid,
    Tanh,
    shapes,
)

HEAD: tuple[Layer, ...] = (Flatten(), Dense(3))
ARCHITECTURES = {
    "linear": dense(4, (), 2),
    "relu": dense(4, (5, 6), 3),
    "sigmoid": dense(4, (5,), 3, Sigmoid()),
    "tanh": dense(4, (5,), 3, Tanh()),
    "reshape": Architecture((18,), (Reshape((2, 3, 3)), Conv(4, 2), Relu(), *HEAD)),
    "conv": Architecture((2, 5, 4), (Conv(4, 3, stride=2, padding=2), Relu(), Conv(3, 2), Tanh(), *HEAD)),
    "maxpool": Architecture((1, 5, 5), (Conv(3, padding=1), MaxPool(), Relu(), MaxPool(2, 1), *HEAD)),
    "identity": Architecture((2, 4, 4), (Residual((Conv(2, padding=1), Relu(), Conv(2, padding=1))), Relu(), *HEAD)),
    "projected": Architecture(
        (2, 4, 4), (Residual((Conv(5, stride=2, padding=1), Relu()), shortcut=(Conv(5, 1, stride=2),)), *HEAD)
    ),
    "nested": Architecture((4,), (Residual((Dense(4), Residual((Relu(), Dense(4))))), Sigmoid(), Dense(2))),
    "ends in a block": Architecture((3,), (Dense(3), Residual((Relu(), Dense(3))))),
}
every = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)


def random_classifier(architecture: Architecture, seed: int = 0) -> Classifier:
    """Fresh parameters, the biases random as well."""
    generator = torch.Generator().manual_seed(seed)
    initial = architecture.initial(generator)
    drawn = [p.detach() + (p.ndim == 1) * torch.randn(p.shape, generator=generator) for p in initial.parameters]
    return Classifier(architecture, tuple(drawn))


@every
def test_the_file_computes_what_torch_does_on_batches(architecture: Architecture) -> None:
    classifier = random_classifier(architecture)
    data = classifier.onnx()
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    x = np.random.default_rng(0).standard_normal((7, *architecture.input_shape)).astype(np.float32)
    ours = classifier(torch.from_numpy(x)).numpy()
    model = model_from_bytes(data, "made")
    assert model.network is not None
    assert model.input_shape == (1, *architecture.input_shape)
    assert ours.shape == (7, architecture.n_classes)
    np.testing.assert_allclose(model(x.reshape(7, -1)), ours, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.network.evaluate(x[:, None].astype(float))[:, 0], ours, rtol=1e-5, atol=1e-5)


@every
def test_the_file_holds_the_parameters_and_depends_on_nothing_else(architecture: Architecture) -> None:
    classifier = random_classifier(architecture)
    proto = onnx.load_from_string(classifier.onnx())
    floats = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert sum(int(np.prod(t.dims)) for t in floats) == architecture.n_parameters
    assert architecture.n_parameters == sum(p.numel() for p in classifier.parameters)
    assert classifier.onnx() == random_classifier(architecture).onnx() != random_classifier(architecture, 1).onnx()
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert proto.graph.output[0].name == "logits"
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)


def test_layers_are_written_as_their_own_operators() -> None:
    """What other tools read best: no gathers for pooling, no bias beside its convolution."""
    architecture = Architecture(
        (16,),
        (
            Reshape((1, 4, 4)),
            Conv(2, padding=1),
            Relu(),
            MaxPool(),
            Residual((Conv(2, padding=1), Relu())),
            Flatten(),
            Dense(3),
        ),
    )
    proto = onnx.load_from_string(random_classifier(architecture).onnx())
    operators = [node.op_type for node in proto.graph.node]
    assert operators == ["Reshape", "Conv", "Relu", "MaxPool", "Conv", "Relu", "Add", "Flatten", "MatMul", "Add"]
    network = model_from_bytes(proto.SerializeToString(), "made").network
    assert network is not None
    units = Counter(type(node).__name__ for node in network.nodes if isinstance(node, Activation | Max))
    assert units == {"Activation": 2, "Max": 1}
    assert all(isinstance(node.function, ReluFunction) for _, node in network.activations())


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    pool=st.booleans(),
)
def test_windows_are_those_of_torch(size: tuple[int, int], kernel: int, stride: int, padding: int, pool: bool) -> None:
    layer: Layer = MaxPool(kernel, stride) if pool else Conv(3, kernel, stride, padding)
    shape = (2, *size)
    if min(size) + 2 * (0 if pool else padding) < kernel:
        with pytest.raises(OptionError, match="needs more than"):
            layer.out_shape(shape)
        return
    parameters = iter([torch.zeros(s) for s in layer.parameter_shapes(shape)])
    assert tuple(layer.forward(torch.zeros(1, *shape), parameters).shape) == (1, *layer.out_shape(shape))


def test_a_description_names_every_layer_in_order() -> None:
    assert str(dense(4, (5,), 3)) == "input 4, dense 5, relu, dense 3"
    projected = "residual (conv 5 of 3x3 stride 2 padding 1, relu; shortcut: conv 5 of 1x1 stride 2 padding 0)"
    assert str(ARCHITECTURES["projected"]) == f"input 2x4x4, {projected}, flatten, dense 3"
    assert "reshape 2x3x3" in str(ARCHITECTURES["reshape"])
    assert "max pool 2x2 stride 1" in str(ARCHITECTURES["maxpool"])


def test_equal_descriptions_are_equal_values() -> None:
    assert dense(4, (5,), 3) == dense(4, [5], 3)
    assert len({dense(4, (5,), 3), dense(4, (5,), 3), dense(4, (5,), 3, Tanh())}) == 2
    assert shapes((Reshape((1, 2, 2)), Flatten()), (4,)) == [(4,), (1, 2, 2), (4,)]


@pytest.mark.parametrize(
    ("input_shape", "layers", "match"),
    [
        ((4,), (), "needs layers"),
        ((0,), (Dense(3),), "positive input shape"),
        ((1, 2, 2), (Dense(3),), "flatten them first"),
        ((4,), (Dense(0),), "dense layer of 0"),
        ((4,), (Conv(2), *HEAD), "reshape them first"),
        ((4,), (MaxPool(), *HEAD), "reshape them first"),
        ((1, 4, 4), (Conv(0), *HEAD), "channels, kernel, stride >= 1"),
        ((1, 4, 4), (Conv(2, padding=-1), *HEAD), "padding >= 0"),
        ((1, 4, 4), (MaxPool(2, 0), *HEAD), "kernel, stride >= 1"),
        ((1, 2, 2), (Conv(2), *HEAD), "needs more than"),
        ((4,), (Reshape((1, 2, 3)), *HEAD), "another number of entries"),
        ((1, 4, 4), (Conv(2),), "vector of scores"),
        ((1, 4, 4), (Residual((Conv(2),)), *HEAD), "shortcut"),
    ],
)
def test_what_does_not_fit_is_a_mistake(input_shape: tuple[int, ...], layers: tuple[Layer, ...], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        Architecture(input_shape, layers)


def test_parameters_of_another_architecture_are_a_mistake() -> None:
    with pytest.raises(OptionError, match="not those of the architecture"):
        Classifier(dense(4, (5,), 3), random_classifier(dense(4, (6,), 3)).parameters)

"""A network's architecture as a frozen value, and a classifier: an architecture with its parameters in torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from verifkit.errors import OptionError
from verifkit.maps import Shape
from verifkit.training import layers as chain
from verifkit.training.layers import Activation, Dense, Layer, Noise, Relu
from verifkit.training.onnx_file import OnnxFile


@dataclass(frozen=True)
class Architecture:
    """Layers one after the other, from inputs of `input_shape` (without the batch axis) to scores (n_classes,).

    Raises `OptionError` where a layer does not fit the one before it, or the output is not flat.
    """

    input_shape: Shape
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not self.layers or min(self.input_shape, default=0) < 1:
            raise OptionError(f"an architecture needs layers and a positive input shape, not {self.input_shape}")
        if len(self.output_shape) != 1:
            raise OptionError(f"an architecture ends in a vector of scores, not in shape {self.output_shape}")
        places = [index for index, layer in enumerate(self.layers) if isinstance(layer, Noise)]
        if len(places) > 1 or len(self.layers) - 1 in places:
            raise OptionError("an architecture has noise in one place at most, and a layer behind it")

    def __str__(self) -> str:
        return f"input {'x'.join(map(str, self.input_shape))}, {chain.describe(self.layers)}"

    @property
    def output_shape(self) -> Shape:
        return chain.shapes(self.layers, self.input_shape)[-1]

    @property
    def n_classes(self) -> int:
        return self.output_shape[0]

    @property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        """Of all parameters, input side first: weights (n_out, ...), biases (n_out,)."""
        return chain.parameter_shapes(self.layers, self.input_shape)

    @property
    def n_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.parameter_shapes)

    def initial(self, generator: torch.Generator) -> Classifier:
        """A fresh classifier with parameters drawn from `generator` (float32, gradients on).

        Weights are uniform of variance 2 / fan-in (He et al., "Delving deep into rectifiers", ICCV 2015), whatever the
        activation; biases zero.
        """
        parameters = []
        for shape in self.parameter_shapes:
            if len(shape) == 1:
                parameters.append(torch.zeros(shape, requires_grad=True))
                continue
            reach = math.sqrt(6 / math.prod(shape[1:]))
            # Not the constructors of torch.nn: they draw from the global random state.
            weight = torch.empty(shape).uniform_(-reach, reach, generator=generator)
            parameters.append(weight.requires_grad_())
        return Classifier(self, tuple(parameters))


@dataclass(frozen=True, eq=False)
class Classifier:
    """An architecture with parameters, of the shapes and in the order of `architecture.parameter_shapes`."""

    architecture: Architecture
    parameters: tuple[torch.Tensor, ...]

    def __post_init__(self) -> None:
        given = tuple(tuple(p.shape) for p in self.parameters)
        if given != self.architecture.parameter_shapes:
            raise OptionError(f"parameters of shapes {given} are not those of the architecture '{self.architecture}'")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The scores (B, n_classes) of a batch (B, *input_shape)."""
        return chain.forward(self.architecture.layers, x, iter(self.parameters))

    def detached(self) -> Classifier:
        """The same values, through which no gradient flows to the parameters."""
        return Classifier(self.architecture, tuple(p.detach() for p in self.parameters))

    def onnx(self) -> bytes:
        """The classifier as an ONNX file (opset 13, float32): input (N, *input_shape), output (N, n_classes).

        Its values are named `input`, then by layer (`conv1`, `relu1`, `conv2`, ...), and the output `logits`. The same
        parameters give the same bytes. `verifkit.io.onnx.model_from_bytes` reads it back as a model with its network.
        """
        file, architecture = OnnxFile(), self.architecture
        parameters = iter([p.detach().numpy() for p in self.parameters])
        output = chain.write(architecture.layers, file, "input", parameters, "logits")
        return file.content(("input", architecture.input_shape), (output, architecture.output_shape))


def dense(n_in: int, hidden: Sequence[int], n_out: int, activation: Activation | None = None) -> Architecture:
    """A multilayer perceptron: dense layers of the hidden widths and n_out with `activation` (default ReLU) between."""
    between = activation or Relu()
    layers: list[Layer] = [layer for width in hidden for layer in (Dense(width), between)]
    return Architecture((n_in,), (*layers, Dense(n_out)))

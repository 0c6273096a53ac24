"""The layers that an architecture is made of: for each its shape, its parameters, its torch form and its ONNX form.

Shapes here leave the batch axis out. A layer is a frozen value without parameters of its own: it says which shapes
they have, and draws them from an iterator in that order, in torch as in ONNX. A new kind of layer is a new class.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from verifkit.errors import OptionError
from verifkit.maps import Shape
from verifkit.training.onnx_file import OnnxFile


class Layer(ABC):
    """One step of a network. `kind` names its values in the ONNX file; `str(layer)` is its description for people."""

    kind: ClassVar[str]

    @abstractmethod
    def out_shape(self, shape: Shape) -> Shape:
        """The shape of its output for inputs of `shape`. Raises `OptionError` where the layer does not fit."""

    def parameter_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """The shapes of its parameters, for inputs of `shape`: weights (n_out, ...), biases (n_out,)."""
        return ()

    @abstractmethod
    def forward(self, x: torch.Tensor, parameters: Iterator[torch.Tensor]) -> torch.Tensor:
        """(B, *shape) -> (B, *out_shape); takes as many of `parameters` as it has."""

    @abstractmethod
    def write(self, file: OnnxFile, x: str, parameters: Iterator[np.ndarray], name: str) -> None:
        """Append the layer to the file: it reads tensor `x` and gives tensor `name`."""


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer of `width` outputs, with bias, on flat inputs."""

    width: int

    kind: ClassVar[str] = "dense"

    def __str__(self) -> str:
        return f"dense {self.width}"

    def out_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1 or self.width < 1:
            raise OptionError(f"a dense layer of {self.width} units takes flat inputs, not {shape}: flatten them first")
        return (self.width,)

    def parameter_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return (self.width, shape[0]), (self.width,)

    def forward(self, x: torch.Tensor, parameters: Iterator[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.linear(x, next(parameters), next(parameters))

    def write(self, file: OnnxFile, x: str, parameters: Iterator[np.ndarray], name: str) -> None:
        product = f"{name}/map0"
        weight = file.constant(next(parameters).T, f"{product}/weight")
        file.step("MatMul", [x, weight], product)
        bias = file.constant(next(parameters)[None], f"{name}/bias")  # (1, width): one row of the batch
        file.step("Add", [product, bias], name)


@dataclass(frozen=True)
class Conv(Layer):
    """A two-dimensional convolution with bias on inputs (channels, height, width), the same along both axes.

    channels: of the output. kernel, stride, padding: in pixels; the padding is with zeros.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0

    kind: ClassVar[str] = "conv"

    def __str__(self) -> str:
        return f"conv {self.channels} of {self.kernel}x{self.kernel} stride {self.stride} padding {self.padding}"

    def out_shape(self, shape: Shape) -> Shape:
        if min(self.channels, self.kernel, self.stride) < 1 or self.padding < 0:
            raise OptionError(f"a convolution needs channels, kernel, stride >= 1 and padding >= 0, not '{self}'")
        return (self.channels, *_windows(self, shape, self.kernel, self.stride, self.padding))

    def parameter_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return (self.channels, shape[0], self.kernel, self.kernel), (self.channels,)

    def forward(self, x: torch.Tensor, parameters: Iterator[torch.Tensor]) -> torch.Tensor:
        weight, bias = next(parameters), next(parameters)
        return torch.nn.functional.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)

    def write(self, file: OnnxFile, x: str, parameters: Iterator[np.ndarray], name: str) -> None:
        weight = file.constant(next(parameters), f"{name}/weight")
        bias = file.constant(next(parameters), f"{name}/bias")
        file.step("Conv", [x, weight, bias], name, kernel_shape=[self.kernel] * 2, strides=[self.stride] * 2,
                  pads=[self.padding] * 4)  # fmt: skip


@dataclass(frozen=True)
class MaxPool(Layer):
    """The maximum over windows of kernel x kernel pixels, `stride` apart, without padding."""

    kernel: int = 2
    stride: int = 2

    kind: ClassVar[str] = "maxpool"

    def __str__(self) -> str:
        return f"max pool {self.kernel}x{self.kernel} stride {self.stride}"

    def out_shape(self, shape: Shape) -> Shape:
        if min(self.kernel, self.stride) < 1:
            raise OptionError(f"max pooling needs kernel, stride >= 1, not '{self}'")
        return (shape[0], *_windows(self, shape, self.kernel, self.stride, 0))

    def forward(self, x: torch.Tensor, parameters: Iterator[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.max_pool2d(x, self.kernel, stride=self.stride)

    def write(self, file: OnnxFile, x: str, parameters: Iterator[np.ndarray], name: str) -> None:
        file.step("MaxPool", [x], name, kernel_shape=[self.kernel] * 2, strides=[self.stride] * 2)


@dataclass(frozen=True)
class Reshape(Layer):
    """The same numbers, in C order, in another shape."""

    shape: Shape

    kind: ClassVar[str] = "reshape"

    def __str__(self) -> str:
        return f"reshape {'x'.join(map(str, self.shape))}"

    def out_shape(self, shape: Shape) -> Shape:
        if math.prod(shape) != math.prod(self.shape):
            raise OptionError(f"inputs of shape {shape} cannot be reshaped to {self.shape}: another number of entries")
        return self.shape

    def forward(self, x: torch.Tensor, parameters: Iterator[torch.Tensor]) -> torch.Tensor:
        return x.reshape(len(x), *self.shape)

    def write(self, file: OnnxFile, x: str, parameters: Iterator[np.ndarray], name: str) -> None:
        file.step("Reshape", [x, file.integers([-1, *self.shape], f"{name}/shape")], name)


@dataclass(frozen=True)
class Flatten(Layer):
    """All entries in one axis, in C order."""

    kind: ClassVar[str] = "flatten"

    def __str__(self) -> str:
        return "flatten"

    def out_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def forward(self, x: torch.Tensor, parameters: Iterator[torch.Tensor]) -> torch.Tensor:
        return x.reshape(len(x), -1)

    def write(self, file: OnnxFile, x: str, parameters: Iterator[np.ndarray], name: str) -> None:
        file.step("Flatten", [x], name, axis=1)


class Activation(Layer):
    """A scalar function of every entry; `operator` is its ONNX name."""

    operator: ClassVar[str]
    function: ClassVar[Callable[[torch.Tensor], torch.Tensor]]

    def __str__(self) -> str:
        return self.kind

    def out_shape(self, shape: Shape) -> Shape:
        return shape

    def forward(self, x: torch.Tensor, parameters: Iterator[torch.Tensor]) -> torch.Tensor:
        return type(self).function(x)

    def write(self, file: OnnxFile, x: str, parameters: Iterator[np.ndarray], name: str) -> None:
        file.step(self.operator, [x], name)


@dataclass(frozen=True)
class Relu(Activation):
    """max(x, 0)."""

    kind, operator, function = "relu", "Relu", staticmethod(torch.relu)


@dataclass(frozen=True)
class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    kind, operator, function = "sigmoid", "Sigmoid", staticmethod(torch.sigmoid)


@dataclass(frozen=True)
class Tanh(Activation):
    """The hyperbolic tangent."""

    kind, operator, function = "tanh", "Tanh", staticmethod(torch.tanh)


@dataclass(frozen=True)
class Noise(Layer):
    """The place where PixelDP adds noise: in training (`verifkit.training.noise.PrivateNoise`) and in certifying.

    The network itself has no noise: here it passes its input on, and its ONNX file names the tensor in its metadata.
    mechanism: "gaussian" for changes of the input in l2, "laplace" in l1. scale: standard deviation, or Laplace's b,
    for each unit that the layers before it can stretch a change by: in raw input units.
    """

    mechanism: Literal["gaussian", "laplace"]
    scale: float

    kind: ClassVar[str] = "noise"

    def __str__(self) -> str:
        return f"{self.mechanism} noise {self.scale:g}"

    def out_shape(self, shape: Shape) -> Shape:
        if self.mechanism not in ("gaussian", "laplace") or not (self.scale > 0 and math.isfinite(self.scale)):
            raise OptionError(f"noise is gaussian or laplace with a positive scale, not '{self}'")
        return shape

    def forward(self, x: torch.Tensor, parameters: Iterator[torch.Tensor]) -> torch.Tensor:
        return x

    def write(self, file: OnnxFile, x: str, parameters: Iterator[np.ndarray], name: str) -> None:
        raise AssertionError("noise is no step of the file: `write` notes its place")


@dataclass(frozen=True)
class Residual(Layer):
    """body(x) + shortcut(x) (He et al., "Deep residual learning for image recognition", CVPR 2016).

    An empty shortcut is the identity; another one is needed where the body changes the shape. No activation follows the
    sum: put one behind it.
    """

    body: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()

    kind: ClassVar[str] = "residual"

    def __str__(self) -> str:
        shortcut = f"; shortcut: {describe(self.shortcut)}" if self.shortcut else ""
        return f"residual ({describe(self.body)}{shortcut})"

    def out_shape(self, shape: Shape) -> Shape:
        if any(isinstance(layer, Noise) for layer in (*self.body, *self.shortcut)):
            raise OptionError("noise stands outside of residual blocks: around it, the block's input would go without")
        body, shortcut = shapes(self.body, shape)[-1], shapes(self.shortcut, shape)[-1]
        if body != shortcut:
            raise OptionError(f"a residual block's body gives shape {body}, but its shortcut {shortcut}")
        return body

    def parameter_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return parameter_shapes(self.body, shape) + parameter_shapes(self.shortcut, shape)

    def forward(self, x: torch.Tensor, parameters: Iterator[torch.Tensor]) -> torch.Tensor:
        body = forward(self.body, x, parameters)
        return body + forward(self.shortcut, x, parameters)

    def write(self, file: OnnxFile, x: str, parameters: Iterator[np.ndarray], name: str) -> None:
        body = write(self.body, file, x, parameters)
        file.step("Add", [body, write(self.shortcut, file, x, parameters)], name)


def shapes(layers: Sequence[Layer], shape: Shape) -> list[Shape]:
    """The shapes of all values along the layers, the input's first. Raises `OptionError` where a layer does not fit."""
    found = [shape]
    for layer in layers:
        found.append(layer.out_shape(found[-1]))
    return found


def parameter_shapes(layers: Sequence[Layer], shape: Shape) -> tuple[Shape, ...]:
    """The shapes of all parameters of the layers, input side first."""
    along = shapes(layers, shape)
    return tuple(p for layer, at in zip(layers, along[:-1], strict=True) for p in layer.parameter_shapes(at))


def forward(layers: Sequence[Layer], x: torch.Tensor, parameters: Iterator[torch.Tensor]) -> torch.Tensor:
    """The layers one after the other on a batch (B, *shape)."""
    for layer in layers:
        x = layer.forward(x, parameters)
    return x


def write(
    layers: Sequence[Layer], file: OnnxFile, x: str, parameters: Iterator[np.ndarray], output: str | None = None
) -> str:
    """Append the layers to the file, reading tensor `x`; returns the last tensor's name, which `output` may give."""
    for index, layer in enumerate(layers):
        if isinstance(layer, Noise):
            file.noise_after(x)
            continue
        name = output if output is not None and index == len(layers) - 1 else file.name(layer.kind)
        layer.write(file, x, parameters, name)
        x = name
    return x


def describe(layers: Sequence[Layer]) -> str:
    """The layers in words, input side first."""
    return ", ".join(map(str, layers))


def _windows(layer: Layer, shape: Shape, kernel: int, stride: int, padding: int) -> Shape:
    """How many windows fit along height and width."""
    if len(shape) != 3:
        raise OptionError(f"'{layer}' takes inputs (channels, height, width), not {shape}: reshape them first")
    room = [n + 2 * padding - kernel for n in shape[1:]]
    if min(room) < 0:
        raise OptionError(f"'{layer}' needs more than the {shape[1]}x{shape[2]} pixels that it is given")
    return tuple(n // stride + 1 for n in room)

"""Training under noise: at the input, for randomized smoothing, or after a layer, for PixelDP.

Papers: Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019, section
3.3; Lecuyer et al., "Certified robustness to adversarial examples with differential privacy", IEEE S&P 2019, section
III.B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from verifkit.errors import OptionError
from verifkit.maps import Shape
from verifkit.training import layers as chain
from verifkit.training.architecture import Classifier
from verifkit.training.layers import Conv, Dense, Flatten, Layer, Noise, Reshape


@dataclass(frozen=True)
class GaussianNoise:
    """Cross-entropy at x + N(0, sigma^2 I), fresh noise for every batch.

    sigma: standard deviation in raw input units, positive. The noisy inputs are not clipped: the smoothed classifier
    asks about them as they are.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise OptionError(f"the noise's sigma must be a positive number, not {self.sigma}")

    def __call__(
        self, classifier: Classifier, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return torch.nn.functional.cross_entropy(classifier(x + self.sigma * noise), y)


@dataclass(frozen=True)
class PrivateNoise:
    """Cross-entropy with noise where the architecture has its `Noise` layer, fresh for every batch.

    The noise is scaled by how far the layers before it stretch a change of the input, as their weights are at that
    step, so that nothing is gained by stretching more; the loss has a gradient through that too. Those layers must be
    affine. Their matrix is made anew at each step: for inputs of up to about a thousand entries.
    """

    def __call__(
        self, classifier: Classifier, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        layers, parameters = classifier.architecture.layers, iter(classifier.parameters)
        place = next((k for k, layer in enumerate(layers) if isinstance(layer, Noise)), None)
        if place is None:
            raise OptionError("training with PrivateNoise needs a Noise layer in the architecture")
        noise = layers[place]
        assert isinstance(noise, Noise)
        before = layers[:place]
        stretch = stretching(before, classifier.parameters, classifier.architecture.input_shape, noise.mechanism)
        value = chain.forward(before, x, parameters)
        noisy = value + noise.scale * stretch * _drawn(noise, value, generator)
        return torch.nn.functional.cross_entropy(chain.forward(layers[place:], noisy, parameters), y)


def stretching(
    layers: Sequence[Layer], parameters: Sequence[torch.Tensor], shape: Shape, mechanism: str
) -> torch.Tensor | float:
    """How far affine layers stretch a change of their input: l2 to l2 for "gaussian", l1 to l1 for "laplace".

    In float32, with a gradient: for training. What a certificate rests on is `verifkit.analysis.sensitivity`. Raises
    `OptionError` where a layer is not affine.
    """
    if not all(isinstance(layer, Conv | Dense | Flatten | Reshape) for layer in layers):
        raise OptionError(f"the layers before the noise must be affine, not '{chain.describe(layers)}'")
    if not layers:
        return 1.0
    size = math.prod(shape)
    points = torch.cat([torch.zeros(1, size), torch.eye(size)]).reshape(size + 1, *shape)
    images = chain.forward(layers, points, iter(parameters)).reshape(size + 1, -1)
    columns = images[1:] - images[:1]
    if mechanism == "laplace":
        return columns.abs().sum(dim=1).max()
    return torch.linalg.eigvalsh(columns @ columns.T)[-1].clamp(min=1e-30).sqrt()


def _drawn(noise: Noise, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Noise of scale 1 in the shape of `like`."""
    if noise.mechanism == "gaussian":
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)
    # The difference of two exponentials; 1 - u is never 0.
    first, second = (torch.rand(like.shape, generator=generator, dtype=like.dtype) for _ in range(2))
    return torch.log1p(-first) - torch.log1p(-second)

"""Gaussian noise augmentation, which prepares a classifier for randomized smoothing at the same sigma.

Paper: Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019, section
3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from verifkit.errors import OptionError
from verifkit.training.architecture import Classifier


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

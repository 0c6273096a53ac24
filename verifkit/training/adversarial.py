"""Adversarial training: cross-entropy at the worst input that projected gradient descent finds in an l-inf ball.

Paper: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to adversarial attacks", ICLR
2018, equation 2.1 (the saddle point) and section 2.1 (PGD). It makes attacks harder; it certifies nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from verifkit.errors import OptionError
from verifkit.training.architecture import Classifier


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Cross-entropy at inputs perturbed by `steps` signed gradient steps from a random start, within eps of the data.

    eps: l-inf radius in raw input units, positive. step_size: of a step, in units of eps; the default, a quarter with 7
    steps, is the paper's for CIFAR-10. clip: the inputs that exist at all, None for no limits.
    """

    eps: float
    steps: int = 7
    step_size: float = 0.25
    clip: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not (self.eps > 0 and math.isfinite(self.eps)):
            raise OptionError(f"adversarial training needs a positive number as eps, not {self.eps}")
        if self.steps < 0 or not (self.step_size > 0 and math.isfinite(self.step_size)):
            raise OptionError(f"PGD needs steps >= 0 and step_size > 0, not {self.steps} and {self.step_size}")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise OptionError(f"the clip range {self.clip} is empty: give (low, high) with low < high, or None")

    def perturb(
        self, classifier: Classifier, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Inputs (B, *input_shape) that PGD makes of `x`: within eps of it in every entry, and within `clip`.

        The start is uniform in the ball. Parameters get no gradient from this. Where an entry of `x` lies outside
        `clip`, so may the result.
        """
        attacked = classifier.detached()
        lower, upper = x - self.eps, x + self.eps
        if self.clip is not None:
            low, high = self.clip
            lower, upper = torch.minimum(lower.clamp(min=low), x), torch.maximum(upper.clamp(max=high), x)
        start = torch.empty_like(x).uniform_(-self.eps, self.eps, generator=generator)
        moved = (x + start).clamp(lower, upper)
        for _ in range(self.steps):
            moved.requires_grad_()
            # The sum, not the mean: one input's gradient does not depend on the batch that it is in.
            loss = torch.nn.functional.cross_entropy(attacked(moved), y, reduction="sum")
            (slope,) = torch.autograd.grad(loss, moved)
            moved = (moved.detach() + self.step_size * self.eps * slope.sign()).clamp(lower, upper)
        return moved

    def __call__(
        self, classifier: Classifier, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(classifier(self.perturb(classifier, x, y, generator)), y)

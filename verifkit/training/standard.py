"""Standard training: the cross-entropy of the clean batch."""

from __future__ import annotations

import torch

from verifkit.training.architecture import Classifier


def cross_entropy(classifier: Classifier, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mean cross-entropy of inputs (B, *input_shape) against integer labels (B,); draws nothing."""
    return torch.nn.functional.cross_entropy(classifier(x), y)

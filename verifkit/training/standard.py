"""Standard training: the cross-entropy of the clean batch."""

from __future__ import annotations

import torch

from verifkit.training.dense import Layers, forward


def cross_entropy(layers: Layers, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mean cross-entropy of inputs (B, n_in) against integer labels (B,); draws nothing."""
    return torch.nn.functional.cross_entropy(forward(layers, x), y)

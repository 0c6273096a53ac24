"""The training loop: AdamW with a cosine schedule, every draw from one seeded generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from verifkit.errors import OptionError
from verifkit.training.architecture import Architecture, Classifier
from verifkit.training.standard import cross_entropy

Objective = Callable[[Classifier, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
"""(classifier, inputs (B, *input_shape), labels (B,), generator) -> the scalar loss; may draw from the generator."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train.

    epochs: passes over the data, reshuffled each time. batch_size: inputs in a step; the last of an epoch may be
    smaller. learning_rate: of the first step; it falls to zero along half a cosine. weight_decay: decoupled, on weights
    and not on biases (Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019).
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1:
            raise OptionError(f"training needs epochs >= 0, batch_size >= 1; not {self.epochs}, {self.batch_size}")
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise OptionError(
                f"training needs learning_rate > 0, weight_decay >= 0; not {self.learning_rate}, {self.weight_decay}"
            )


def train(
    architecture: Architecture,
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: int,
    objective: Objective = cross_entropy,
    schedule: Schedule | None = None,
) -> Classifier:
    """Train a classifier of this architecture from scratch; it comes back detached from its gradients.

    x: (n, *input_shape), used as float32; y: (n,) integers in 0..n_classes-1. The same arguments give the same
    parameters on the same machine with the same number of torch threads (another one may add in another order). Raises
    `OptionError`.
    """
    if x.shape[1:] != architecture.input_shape or y.shape != x.shape[:1] or not len(x):
        wanted = ", ".join(map(str, ("n", *architecture.input_shape)))
        raise OptionError(f"training takes inputs ({wanted}) and labels (n,), not {x.shape} and {y.shape}")
    if y.min() < 0 or y.max() >= architecture.n_classes:
        raise OptionError(f"labels lie in {y.min()}..{y.max()}, outside 0..{architecture.n_classes - 1}")
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.tensor(x, dtype=torch.float32)
    labels = torch.tensor(y, dtype=torch.int64)
    classifier = architecture.initial(generator)
    _fit(classifier, inputs, labels, objective, schedule or Schedule(), generator)
    return classifier.detached()


def _fit(
    classifier: Classifier,
    x: torch.Tensor,
    y: torch.Tensor,
    objective: Objective,
    schedule: Schedule,
    generator: torch.Generator,
) -> None:
    """Minimise the objective over the classifier's parameters, in place."""
    weights = [p for p in classifier.parameters if p.ndim > 1]
    biases = [p for p in classifier.parameters if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": weights}, {"params": biases, "weight_decay": 0.0}],
        lr=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
    )
    steps = schedule.epochs * math.ceil(len(x) / schedule.batch_size)
    done = 0
    for _ in range(schedule.epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(schedule.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * (1 + math.cos(math.pi * done / steps)) / 2
            optimizer.zero_grad()
            objective(classifier, x[chosen], y[chosen], generator).backward()
            optimizer.step()
            done += 1

"""Dense ReLU networks as trainable torch layers: initialisation, evaluation, the way back to NumPy and `Network`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from verifkit.functions import Relu
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input, Node
from verifkit.weighted_maps import Dense

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""One (weight, bias) pair per affine layer, input side first: shapes (n_out, n_in) and (n_out,)."""


@dataclass(frozen=True, eq=False)
class DenseWeights:
    """A trained network outside torch. weights[k]: (n_out, n_in), biases[k]: (n_out,), all float32."""

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]

    @property
    def n_parameters(self) -> int:
        return sum(w.size for w in self.weights) + sum(b.size for b in self.biases)


def initial_layers(sizes: Sequence[int], generator: torch.Generator) -> Layers:
    """Fresh layers n_in, hidden..., n_out, drawn from `generator` (float32, gradients on).

    Weights are uniform of variance 2 / fan-in (He et al., "Delving deep into rectifiers", ICCV 2015), biases zero.
    """
    layers = []
    for n_in, n_out in pairwise(sizes):
        reach = math.sqrt(6 / n_in)
        # Not torch.nn.Linear: its constructor draws from the global random state.
        weight = torch.empty(n_out, n_in).uniform_(-reach, reach, generator=generator)
        layers.append((weight.requires_grad_(), torch.zeros(n_out, requires_grad=True)))
    return layers


def forward(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    """The scores (B, n_out) of a batch (B, n_in): ReLU between the layers, none after the last."""
    for weight, bias in layers[:-1]:
        x = torch.relu(torch.nn.functional.linear(x, weight, bias))
    weight, bias = layers[-1]
    return torch.nn.functional.linear(x, weight, bias)


def to_numpy(layers: Layers) -> DenseWeights:
    """Copies of the parameters, detached from torch."""
    return DenseWeights(
        tuple(weight.detach().numpy().copy() for weight, _ in layers),
        tuple(bias.detach().numpy().copy() for _, bias in layers),
    )


def batched_network(trained: DenseWeights) -> Network:
    """The network on inputs of shape (1, n_in).

    Its leading axis of one is what `write_onnx` makes the dynamic batch of the file; `dense_network`, on flat inputs,
    has none.
    """
    last = len(trained.weights)
    nodes: list[Node] = [Input(shape=(1, int(trained.weights[0].shape[1])), name="input")]
    for layer, (weight, bias) in enumerate(zip(trained.weights, trained.biases, strict=True), 1):
        parents = (len(nodes) - 1,)
        affine = Affine(
            shape=(1, int(weight.shape[0])),
            parents=parents,
            name="logits" if layer == last else f"dense{layer}",
            maps=(Dense(weight.astype(np.float64), outer=(1,)),),
            bias=bias.astype(np.float64)[None],
        )
        nodes.append(affine)
        if layer < last:
            parents = (len(nodes) - 1,)
            nodes.append(Activation(shape=affine.shape, parents=parents, name=f"relu{layer}", function=Relu()))
    return Network(tuple(nodes))

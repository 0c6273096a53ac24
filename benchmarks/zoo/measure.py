"""What the manifest says about a network: accuracy clean, under noise and under attack, always of the ONNX file.

Scores that count are onnxruntime's; only the attack's gradients come from the lowered network. No torch is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from verifkit.analysis.gradient import pull_back
from verifkit.analysis.sensitivity import sensitivity
from verifkit.io.noise_layer import noise_split
from verifkit.model import Model
from verifkit.network import Network


@dataclass(frozen=True, kw_only=True)
class Noise:
    """`draws` copies of each input with N(0, sigma^2 I) added, from NumPy's generator with `seed`."""

    sigma: float
    draws: int = 20
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class LayerNoise:
    """`draws` times for each input, noise where the file says, of `scale` times the sensitivity of what comes before.

    mechanism: "gaussian", of which the scale is the standard deviation and changes are measured in l2, or "laplace", in
    l1. From NumPy's generator with `seed`.
    """

    mechanism: Literal["gaussian", "laplace"]
    scale: float
    draws: int = 20
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Attack:
    """l-inf PGD on the margin (Madry et al., ICLR 2018): `restarts` uniform random starts, `steps` signed steps each.

    eps: radius in raw input units; a step is 2.5 eps / steps. Inputs stay in [0, 1]. seed: of NumPy's generator.
    """

    eps: float
    steps: int = 40
    restarts: int = 5
    seed: int = 0


def accuracy(model: Model, x: np.ndarray, y: np.ndarray) -> float:
    """The share of inputs (n, n_inputs) that the model gives their label, run by onnxruntime; four decimals."""
    return round(float(_right(model, x, y).mean()), 4)


def noisy_accuracy(model: Model, x: np.ndarray, y: np.ndarray, noise: Noise | LayerNoise) -> float:
    """Accuracy of the network itself (not of the smoothed classifier) under noise on copies of each input."""
    rng = np.random.default_rng(noise.seed)
    labels = np.tile(y, noise.draws)
    if isinstance(noise, LayerNoise):
        split = noise_split(model)
        assert split.head is not None
        assert split.head.network is not None
        copies, norm = np.tile(split.head(x), (noise.draws, 1)), "1" if noise.mechanism == "laplace" else "2"
        drawn = rng.laplace(size=copies.shape) if norm == "1" else rng.standard_normal(copies.shape)
        return accuracy(split.tail, copies + noise.scale * sensitivity(split.head.network, norm, norm) * drawn, labels)
    copies = np.tile(x, (noise.draws, 1))
    return accuracy(model, copies + noise.sigma * rng.standard_normal(copies.shape), labels)


def attacked_accuracy(model: Model, x: np.ndarray, y: np.ndarray, attack: Attack) -> float:
    """The share of inputs classified right at the input itself and wherever the attack went; four decimals.

    An upper bound on the share that is robust. A success counts where onnxruntime misreads the float32 input.
    """
    assert model.network is not None
    rng = np.random.default_rng(attack.seed)
    standing = _right(model, x, y)
    for _ in range(attack.restarts):
        left = np.flatnonzero(standing)
        if left.size:
            worst = _least_margin(model.network, x[left].astype(np.float64), y[left], attack, rng)
            standing[left] = _right(model, worst.astype(np.float32), y[left])
    return round(float(standing.mean()), 4)


def _right(model: Model, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(model(x).argmax(axis=1) == y)


def _least_margin(
    network: Network, x: np.ndarray, y: np.ndarray, attack: Attack, rng: np.random.Generator
) -> np.ndarray:
    """From a random start each, the input seen on the way where the label's lead over the next class is least."""
    lower, upper = np.maximum(x - attack.eps, 0.0), np.minimum(x + attack.eps, 1.0)
    at = np.clip(x + rng.uniform(-attack.eps, attack.eps, x.shape), lower, upper)
    best, least, everyone = at, np.full(len(x), np.inf), np.arange(len(x))
    for step in range(attack.steps + 1):
        values = network.values(at.reshape(-1, *network.input_shape))
        scores = values[-1].reshape(len(x), -1)
        others = scores.copy()
        others[everyone, y] = -np.inf
        rival = others.argmax(axis=1)
        margin = scores[everyone, y] - scores[everyone, rival]
        closer = margin < least
        best, least = np.where(closer[:, None], at, best), np.where(closer, margin, least)
        if step < attack.steps:
            rows = np.zeros_like(scores)
            rows[everyone, y], rows[everyone, rival] = 1.0, -1.0
            slope = pull_back(network, values, rows.reshape(values[-1].shape)).reshape(x.shape)
            at = np.clip(at - 2.5 * attack.eps / attack.steps * np.sign(slope), lower, upper)
    return best

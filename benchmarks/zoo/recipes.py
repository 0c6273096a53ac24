"""The networks of the zoo: what each is made of, on which data, with which objective, schedule and seed.

All networks on digits take the flat 64 pixels, the convolutional ones reshape them inside, so that one file of samples
serves every network. Their sizes are such that a complete verifier finishes on many images.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.zoo import measure
from benchmarks.zoo.measure import Attack, LayerNoise
from verifkit.training.adversarial import Adversarial
from verifkit.training.architecture import Architecture, dense
from verifkit.training.layers import Conv, Dense, Flatten, Layer, MaxPool, Noise, Relu, Reshape, Residual, Sigmoid, Tanh
from verifkit.training.loop import Objective, Schedule
from verifkit.training.noise import GaussianNoise, PrivateNoise
from verifkit.training.standard import cross_entropy

RELU_MLP = Schedule(epochs=200, batch_size=64, learning_rate=1e-3, weight_decay=0.5)
PRIVATE = Schedule(epochs=120, batch_size=64, learning_rate=2e-3, weight_decay=0.25)
USUAL = Schedule(epochs=200, batch_size=64, learning_rate=2e-3, weight_decay=0.25)
TOY = Schedule(epochs=200, batch_size=64, learning_rate=1e-2, weight_decay=0.02)
EPS = 0.1
"""l-inf radius on digits: of the adversarial training, and of the attack that every network there is measured by."""
DIGITS_ATTACK, TOY_ATTACK = Attack(eps=EPS), Attack(eps=0.03)


def image(*layers: Layer) -> Architecture:
    """A network on digits whose layers work on the 8x8 image, (1, 8, 8)."""
    return Architecture((64,), (Reshape((1, 8, 8)), *layers))


MLP_2X50, MLP_3X100 = dense(64, (50, 50), 10), dense(64, (100, 100, 100), 10)
CONV_SMALL = image(
    Conv(16, kernel=4, stride=2, padding=1), Relu(), Conv(16, kernel=4, stride=2, padding=1), Relu(),
    Flatten(), Dense(50), Relu(), Dense(10),
)  # fmt: skip
RESIDUAL = image(
    Conv(8, kernel=4, stride=2, padding=1), Relu(),
    Residual((Conv(16, stride=2, padding=1), Relu(), Conv(16, padding=1)), shortcut=(Conv(16, kernel=1, stride=2),)),
    Relu(),
    Residual((Conv(16, padding=1), Relu(), Conv(16, padding=1))),
    Relu(), Flatten(), Dense(50), Relu(), Dense(10),
)  # fmt: skip
MAX_POOL = image(Conv(8), Relu(), MaxPool(), Flatten(), Dense(50), Relu(), Dense(10))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One network. `attack` and `noise` are what its robustness is measured with; noise None: not measured."""

    name: str
    architecture: Architecture
    data: Literal["digits", "spirals"] = "digits"
    objective: Objective = cross_entropy
    schedule: Schedule = USUAL
    seed: int = 0
    attack: Attack = DIGITS_ATTACK
    noise: measure.Noise | LayerNoise | None = None

    def training(self) -> dict[str, Any]:
        """The objective by name with its settings."""
        if isinstance(self.objective, GaussianNoise):
            return {"objective": "gaussian noise augmentation", **dataclasses.asdict(self.objective)}
        if isinstance(self.objective, PrivateNoise):
            return {"objective": "noise after a layer (PixelDP)"}
        if isinstance(self.objective, Adversarial):
            return {"objective": "adversarial (l-inf PGD)", **dataclasses.asdict(self.objective)}
        return {"objective": "standard"}


def _noisy(name: str, architecture: Architecture, sigma: float, schedule: Schedule) -> Recipe:
    return Recipe(name=name, architecture=architecture, objective=GaussianNoise(sigma), schedule=schedule,
                  noise=measure.Noise(sigma=sigma))  # fmt: skip


def _private(mechanism: Literal["gaussian", "laplace"], scale: float) -> Recipe:
    """CONV_SMALL with noise after the first convolution, before its ReLU."""
    _, first, *rest = CONV_SMALL.layers
    return Recipe(
        name=f"digits-conv-small-pixeldp-{mechanism}-{scale:g}",
        architecture=image(first, Noise(mechanism, scale), *rest),
        objective=PrivateNoise(),
        schedule=PRIVATE,
        noise=LayerNoise(mechanism=mechanism, scale=scale),
    )


RECIPES = (
    Recipe(name="digits-2x50", architecture=MLP_2X50, schedule=RELU_MLP),
    Recipe(name="digits-3x100", architecture=MLP_3X100, schedule=RELU_MLP),
    _noisy("digits-3x100-noise-0.25", MLP_3X100, 0.25, RELU_MLP),
    Recipe(name="digits-3x100-pgd-0.1", architecture=MLP_3X100, schedule=RELU_MLP, objective=Adversarial(eps=EPS)),
    Recipe(name="digits-2x50-sigmoid", architecture=dense(64, (50, 50), 10, Sigmoid())),
    Recipe(name="digits-2x50-tanh", architecture=dense(64, (50, 50), 10, Tanh())),
    Recipe(name="digits-conv-small", architecture=CONV_SMALL),
    _noisy("digits-conv-small-noise-0.12", CONV_SMALL, 0.12, USUAL),
    _noisy("digits-conv-small-noise-0.25", CONV_SMALL, 0.25, USUAL),
    _noisy("digits-conv-small-noise-0.5", CONV_SMALL, 0.5, USUAL),
    _noisy("digits-conv-small-noise-1", CONV_SMALL, 1.0, USUAL),
    _private("gaussian", 0.25),
    _private("laplace", 0.1),
    Recipe(name="digits-conv-small-pgd-0.1", architecture=CONV_SMALL, objective=Adversarial(eps=EPS)),
    Recipe(name="digits-conv-residual", architecture=RESIDUAL),
    Recipe(name="digits-conv-maxpool", architecture=MAX_POOL),
    Recipe(name="toy-spirals", architecture=dense(2, (16, 16), 3), data="spirals", schedule=TOY,
           attack=TOY_ATTACK),
)  # fmt: skip

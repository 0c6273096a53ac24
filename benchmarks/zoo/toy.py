"""Three interleaved spiral arms in the unit square: two inputs, so that whole decision regions can be drawn.

`python -m benchmarks.zoo.toy` writes `benchmarks/zoo/toy-samples.npz`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.zoo.samples import Data, save_arrays

FILE = Path(__file__).resolve().parent / "toy-samples.npz"
SEED = 0
N_ARMS = 3
TRAIN_PER_ARM, TEST_PER_ARM = 300, 100
TURNS = 0.6
"""How far around the centre each arm goes."""
SPREAD = 0.012
"""Standard deviation of the points around their arm, in raw input units."""
SAMPLES_PER_ARM = 4


def spirals() -> Data:
    """Points (1200, 2) in [0, 1]^2, labels 0..2; of every arm a hundred are for the test.

    An arm goes from 0.06 to 0.45 away from (0.5, 0.5), a point's place along it is uniform, and the arms are a third of
    a turn apart.
    """
    rng = np.random.default_rng(SEED)
    per_arm = TRAIN_PER_ARM + TEST_PER_ARM
    y = np.repeat(np.arange(N_ARMS), per_arm)
    along = rng.uniform(size=y.size)
    angle = 2 * np.pi * (TURNS * along + y / N_ARMS)
    arm = 0.5 + (0.06 + 0.39 * along[:, None]) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = np.clip(arm + SPREAD * rng.standard_normal(arm.shape), 0.0, 1.0)
    test = np.concatenate([np.arange(TEST_PER_ARM) + k * per_arm for k in range(N_ARMS)])
    return Data(x.astype(np.float32), y.astype(np.int64), np.setdiff1d(np.arange(y.size), test), test)


def grid(side: int) -> np.ndarray:
    """(side * side, 2) float32 points of a square grid over [0, 1]^2, the first input varying slowest."""
    ends = np.linspace(0.0, 1.0, side)
    return np.stack(np.meshgrid(ends, ends, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


def samples(data: Data) -> dict[str, np.ndarray]:
    """The first few test points of each arm.

    x: (12, 2) float32; y: (12,) labels; index: (12,) places in the data.
    """
    index = np.concatenate([data.test[data.y[data.test] == arm][:SAMPLES_PER_ARM] for arm in range(N_ARMS)])
    return {"x": data.x[index], "y": data.y[index], "index": index}


def main() -> None:
    """Write the sample file."""
    save_arrays(samples(spirals()), FILE)
    print(f"{FILE.name}: {N_ARMS * SAMPLES_PER_ARM} points")


if __name__ == "__main__":
    main()

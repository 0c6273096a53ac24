"""What stopping early saves: draws for a certified-accuracy curve, fixed plan against mode "anytime".

`python -m benchmarks.anytime_samples [IMAGES]` prints, for noise-trained nets of the zoo, how many images each plan
certifies at the radii asked for, and the draws that it took.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.zoo.samples import digits
from verifiers.probabilistic.smoothing import Smoothing
from verifkit.io.onnx import load_model

ZOO = Path(__file__).resolve().parent / "zoo"
RUNS = (
    ("digits-3x100-noise-0.25", 0.25, (0.25, 0.5, 0.75)),
    ("digits-conv-small-noise-0.25", 0.25, (0.25, 0.5, 0.75)),
    ("digits-conv-small-noise-0.5", 0.5, (0.25, 0.5, 0.75, 1.0)),
)


def curve(plan: Smoothing, name: str, radii: tuple[float, ...], images: int) -> tuple[list[int], np.ndarray, float]:
    """(images certified at each radius, draws per image, seconds)."""
    model, data = load_model(ZOO / f"{name}.onnx"), digits()
    test = data.test[:images]
    certified, draws = [0] * len(radii), []
    start = time.perf_counter()
    for index in test:
        counts = plan.certify(model, data.x[index], radii=radii)
        draws.append(sum(counts.selection) + sum(counts.estimation))
        for k, radius in enumerate(radii):
            certified[k] += int(counts.chosen == data.y[index] and counts.radius >= radius)
    return certified, np.array(draws), time.perf_counter() - start


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for name, sigma, radii in RUNS:
        print(f"{name}, sigma {sigma}, {images} images, radii {radii}")
        totals = []
        for mode in ("fixed", "anytime"):
            certified, draws, seconds = curve(Smoothing(sigma=sigma, mode=mode), name, radii, images)
            totals.append(draws.sum())
            quartiles = np.quantile(draws, [0.25, 0.5, 0.75, 0.9]).astype(int).tolist()
            took = f"draws {draws.sum()}, quartiles and 90 %: {quartiles}; {seconds:.1f} s"
            print(f"  {mode}: certified {certified}; {took}")
        print(f"  {totals[0] / totals[1]:.1f} times fewer draws")


if __name__ == "__main__":
    main()

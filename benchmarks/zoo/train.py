"""Retrains the zoo: `python -m benchmarks.zoo.train` writes every ONNX file and `manifest.json`.

It takes about five minutes of one core.
`--only NAME` retrains one network and brings its entry up to date. The recipes are in `benchmarks.zoo.recipes`. Rerun
on a machine with the same versions and the same `arithmetic` (both in the manifest), the files come out byte for byte
the same; another processor may round otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import sklearn
import torch

from benchmarks.zoo import samples, toy
from benchmarks.zoo.measure import accuracy, attacked_accuracy, noisy_accuracy
from benchmarks.zoo.recipes import RECIPES, Recipe
from benchmarks.zoo.samples import Data
from verifkit.io.onnx import load_model
from verifkit.model import Model
from verifkit.training.architecture import Classifier
from verifkit.training.loop import train

FOLDER = Path(__file__).resolve().parent
COMMAND = "python -m benchmarks.zoo.train"
DATA = {"digits": samples.digits, "spirals": toy.spirals}
AGREEMENT = 1e-4
"""How far the exported file may lie from the trained classifier: float32 sums in another order differ a little."""
INSTRUCTIONS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Read by torch when it starts: the instructions that most processors have, so that fewer of them round differently."""


def build(recipe: Recipe, data: Data, folder: Path) -> dict[str, Any]:
    """Train, export and measure one network; returns its manifest entry."""
    classifier = train(
        recipe.architecture,
        data.x[data.train],
        data.y[data.train],
        seed=recipe.seed,
        objective=recipe.objective,
        schedule=recipe.schedule,
    )
    content = classifier.onnx()
    file = folder / f"{recipe.name}.onnx"
    file.write_bytes(content)
    model = load_model(file)
    _check_export(model, classifier, data.x[data.test])
    assert model.network is not None
    return {
        "file": file.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "data": recipe.data,
        "architecture": str(recipe.architecture),
        "parameters": recipe.architecture.n_parameters,
        "nonlinear units": model.network.n_nonlinear(),
        "command": f"{COMMAND} --only {recipe.name}",
        "training": recipe.training(),
        "seed": recipe.seed,
        "schedule": dataclasses.asdict(recipe.schedule),
        "accuracy": _measured(recipe, model, data),
    }


def _measured(recipe: Recipe, model: Model, data: Data) -> dict[str, Any]:
    """Accuracies of the file; with those under noise and under attack, what was done."""
    x, y = data.x[data.test], data.y[data.test]
    found: dict[str, Any] = {"train": accuracy(model, data.x[data.train], data.y[data.train])}
    found["test"] = accuracy(model, x, y)
    if recipe.noise is not None:
        found["test under noise"] = noisy_accuracy(model, x, y, recipe.noise)
        found["noise"] = dataclasses.asdict(recipe.noise)
    found["test under attack"] = attacked_accuracy(model, x, y, recipe.attack)
    found["attack"] = dataclasses.asdict(recipe.attack)
    return found


def _check_export(model: Model, classifier: Classifier, x: np.ndarray) -> None:
    """The file, run as one batch by onnxruntime, says what the classifier says."""
    ours = classifier(torch.from_numpy(x)).numpy()
    gap = float(np.abs(model(x) - ours).max() / max(1.0, np.abs(ours).max()))
    if not gap <= AGREEMENT:
        raise SystemExit(f"{model.name} differs from the trained network by {gap:.3g}")


def versions() -> dict[str, str]:
    """The packages that the files' bytes depend on, and `arithmetic`, a hash of how torch rounds on this machine."""
    rng = np.random.default_rng(0)
    shapes = ((64, 100), (100, 100), (64, 8, 8, 8), (16, 8, 4, 4))
    x, w, image, kernel = (torch.from_numpy(rng.standard_normal(s).astype(np.float32)).requires_grad_() for s in shapes)
    results = (x @ w, torch.log_softmax(x, 1), torch.tanh(x), torch.sigmoid(x),
               torch.nn.functional.conv2d(image, kernel, stride=2, padding=1))  # fmt: skip
    gradients = torch.autograd.grad(sum(r.square().sum() for r in results), (x, w, image, kernel))
    computed = b"".join(r.detach().contiguous().numpy().tobytes() for r in (*results, *gradients))
    return {
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "onnx": onnx.__version__,
        "arithmetic": hashlib.sha256(computed).hexdigest(),
    }


def _split(data: Data, rule: str, seed: int) -> dict[str, Any]:
    digest = hashlib.sha256(data.test.astype("<i8").tobytes()).hexdigest()
    return {"rule": rule, "seed": seed, "train": len(data.train), "test": len(data.test), "test sha256": digest}


def sources() -> dict[str, Any]:
    """Where the data come from and how they are split."""
    return {
        "digits": {
            "source": "sklearn.datasets.load_digits: the test set of the UCI Optical Recognition of Handwritten Digits",
            "creators": "E. Alpaydin, C. Kaynak",
            "url": "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            "licence": "CC BY 4.0",
            "input": "raw pixels divided by 16: [0, 1]^64, C order of the 8x8 image; shape (N, 64), no further scaling",
            "output": "logits of the classes 0..9, shape (N, 10)",
            "split": _split(
                samples.digits(), "stratified: of each class a fifth, drawn without replacement, is for the test",
                samples.SPLIT_SEED,
            ),
        },
        "spirals": {
            "source": "benchmarks/zoo/toy.py: three spiral arms in the unit square, made from the seed",
            "input": "coordinates in [0, 1]^2, shape (N, 2)",
            "output": "logits of the arms 0..2, shape (N, 3)",
            "split": _split(
                toy.spirals(), f"of each arm the first {toy.TEST_PER_ARM} points are for the test", toy.SEED
            ),
        },
    }  # fmt: skip


def manifest(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What the zoo is, where it comes from and how to make it again."""
    return {
        "command": COMMAND,
        "data": sources(),
        "training": "AdamW, learning rate falling to zero along half a cosine, weight decay on weights only, on the "
        "cross-entropy of the batch itself (standard), of the batch with fresh N(0, sigma^2 I) added (noise), with "
        "fresh noise added after a layer, scaled by how far the layers before it stretch changes of the input "
        "(PixelDP), or of the inputs that PGD makes of it within eps (adversarial: random start, steps of step_size "
        "times eps)",
        "accuracy": "of the ONNX file under onnxruntime. Architectures and schedules were picked among a handful by "
        "test accuracy, so the test figures are slightly optimistic. Under noise: of the network itself, on noisy "
        "copies of each test image, or with noise after the layer that the file names. Under attack: right at the "
        "input and wherever l-inf PGD went, an upper bound on the share that is robust; eps in raw input units",
        "versions": versions(),
        "networks": entries,
    }


def updated(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """The folder's manifest, if it has one, with this entry replaced; the others are kept as they are."""
    file = folder / "manifest.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else manifest([])
    if before["versions"] != versions():
        raise SystemExit(f"{file} was made by other versions, or on a processor that rounds otherwise: retrain all")
    entries = {e["file"]: e for e in [*before["networks"], entry]}
    order = [f"{recipe.name}.onnx" for recipe in RECIPES]
    return manifest([entries[name] for name in order if name in entries])


def main() -> None:
    """Train the zoo, or one network, into `--out` (default: this folder)."""
    parser = argparse.ArgumentParser(description="Retrain the networks of the zoo and write their manifest.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the files (default: the zoo itself)")
    parser.add_argument("--only", choices=[recipe.name for recipe in RECIPES], help="retrain this network alone")
    arguments = parser.parse_args()
    if not INSTRUCTIONS.keys() <= os.environ.keys():  # torch has read them: begin again
        command = [sys.executable, "-m", "benchmarks.zoo.train", *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, env={**INSTRUCTIONS, **os.environ}, check=False).returncode)
    folder, only = arguments.out, arguments.only
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # several threads add in another order
    data = {name: make() for name, make in DATA.items()}
    entries = []
    for recipe in RECIPES:
        if only in (None, recipe.name):
            entries.append(build(recipe, data[recipe.data], folder))
            print(
                f"{entries[-1]['file']}: {entries[-1]['bytes']} bytes, accuracy {entries[-1]['accuracy']}", flush=True
            )
    result = manifest(entries) if only is None else updated(folder, entries[0])
    (folder / "manifest.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

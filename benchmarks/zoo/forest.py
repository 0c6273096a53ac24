"""The zoo's random forest, for the certifiers that only call a model: `python -m benchmarks.zoo.forest`.

Writes `digits-forest-noise-0.25.onnx` and beside it `forest.json`, which is to it what `manifest.json` is to the
networks. The data and their split are those of the networks on digits. It is trained with Gaussian noise, as the base
classifier of a smoothed one should be. A forest has no layers to look into and no gradients: its file is a model
without a lowered network, and what is measured of it comes from calls alone. With the same versions, the file comes out
byte for byte the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import sklearn
from onnx import TensorProto, helper
from sklearn.ensemble import RandomForestClassifier

from benchmarks.zoo.measure import Noise, accuracy, noisy_accuracy
from benchmarks.zoo.samples import Data, digits
from verifkit.io.onnx import load_model

FOLDER = Path(__file__).resolve().parent
NAME = "digits-forest-noise-0.25"
SIGMA, COPIES, SEED = 0.25, 10, 0
TREES, LEAVES = 30, 64
"""With 127 nodes at most to a tree, each node's number is one byte in the file."""
AGREEMENT = 1e-6
"""How far the file's scores, float32 sums over `TREES` trees, may lie from scikit-learn's."""


def train(data: Data) -> RandomForestClassifier:
    """The forest, on `COPIES` noisy copies of each training image."""
    rng = np.random.default_rng(SEED)
    x = np.tile(data.x[data.train], (COPIES, 1))
    x += np.float32(SIGMA) * rng.standard_normal(x.shape, dtype=np.float32)
    forest = RandomForestClassifier(n_estimators=TREES, max_leaf_nodes=LEAVES, random_state=SEED)
    return forest.fit(x, np.tile(data.y[data.train], COPIES))


def to_onnx(forest: RandomForestClassifier) -> bytes:
    """One TreeEnsembleClassifier: float32 inputs (N, n_inputs) to `predict_proba`'s shares (N, n_classes)."""
    trees = [estimator.tree_ for estimator in forest.estimators_]
    inner = [tree.children_left >= 0 for tree in trees]
    leaves = [np.argwhere((tree.value[:, 0] > 0) & ~split[:, None]) for tree, split in zip(trees, inner, strict=True)]
    weights = [tree.value[at[:, 0], 0, at[:, 1]] / len(trees) for tree, at in zip(trees, leaves, strict=True)]
    classes = forest.n_classes_
    ensemble = helper.make_node(
        "TreeEnsembleClassifier",
        ["input"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        nodes_treeids=_joined([np.full(tree.node_count, k) for k, tree in enumerate(trees)]),
        nodes_nodeids=_joined([np.arange(tree.node_count) for tree in trees]),
        nodes_modes=np.where(np.concatenate(inner), "BRANCH_LEQ", "LEAF").tolist(),
        nodes_featureids=_joined([np.maximum(tree.feature, 0) for tree in trees]),
        nodes_values=_joined(
            [np.where(split, _below(tree.threshold), 0) for tree, split in zip(trees, inner, strict=True)]
        ),
        nodes_truenodeids=_joined([np.maximum(tree.children_left, 0) for tree in trees]),
        nodes_falsenodeids=_joined([np.maximum(tree.children_right, 0) for tree in trees]),
        class_treeids=_joined([np.full(len(at), k) for k, at in enumerate(leaves)]),
        class_nodeids=_joined([at[:, 0] for at in leaves]),
        class_ids=_joined([at[:, 1] for at in leaves]),
        class_weights=_joined(weights),
        classlabels_int64s=list(range(classes)),
        post_transform="NONE",
    )
    graph = helper.make_graph(
        [ensemble],
        "forest",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", forest.n_features_in_])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", classes])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _joined(parts: list[np.ndarray]) -> list[Any]:
    return list(np.concatenate(parts).tolist())


def _below(thresholds: np.ndarray) -> np.ndarray:
    """The largest float32 not above each float64 threshold; no float32 input lies between the two."""
    rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def build(data: Data, folder: Path) -> dict[str, Any]:
    """Train, write, compare and measure; returns what `forest.json` says."""
    forest = train(data)
    content = to_onnx(forest)
    file = folder / f"{NAME}.onnx"
    file.write_bytes(content)
    model = load_model(file, require_network=False)
    x, y = data.x[data.test], data.y[data.test]
    noise = Noise(sigma=SIGMA)
    drawn = np.random.default_rng(SEED).standard_normal(x.shape, dtype=np.float32)
    for inputs in (x, x + np.float32(SIGMA) * drawn):
        gap = float(np.abs(model(inputs) - forest.predict_proba(inputs)).max())
        if not gap <= AGREEMENT:
            raise SystemExit(f"{file.name} differs from the trained forest by {gap:.3g}")
    return {
        "file": file.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "data": "digits",
        "output": "shares of the classes 0..9, the mean over the trees, shape (N, 10)",
        "architecture": f"random forest, {TREES} trees of at most {LEAVES} leaves",
        "nodes": sum(estimator.tree_.node_count for estimator in forest.estimators_),
        "command": "python -m benchmarks.zoo.forest",
        "training": {"objective": "gaussian noise augmentation", "sigma": SIGMA, "copies": COPIES},
        "seed": SEED,
        "accuracy": {
            "train": accuracy(model, data.x[data.train], data.y[data.train]),
            "test": accuracy(model, x, y),
            "test under noise": noisy_accuracy(model, x, y, noise),
            "noise": dataclasses.asdict(noise),
        },
        "versions": {"scikit-learn": sklearn.__version__, "numpy": np.__version__, "onnx": onnx.__version__},
    }


def main() -> None:
    """Train the forest into `--out` (default: this folder)."""
    parser = argparse.ArgumentParser(description="Retrain the zoo's random forest and write its record.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the files (default: the zoo itself)")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    record = build(digits(), folder)
    (folder / "forest.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{record['file']}: {record['bytes']} bytes, accuracy {record['accuracy']}")


if __name__ == "__main__":
    main()

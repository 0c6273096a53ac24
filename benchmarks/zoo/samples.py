"""The digits that the zoo is trained and studied on, their split, and the sample file of the quick suite.

`python -m benchmarks.zoo.samples` writes `benchmarks/suites/digits-samples.npz`.

The data are scikit-learn's copy of the test set of the UCI "Optical Recognition of Handwritten Digits" (E. Alpaydin and
C. Kaynak, CC BY 4.0): 1797 images of 8x8 pixels in 0..16. Divided by 16 they lie in [0, 1] and are exact in float32.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

FILE = Path(__file__).resolve().parents[1] / "suites" / "digits-samples.npz"
N_CLASSES = 10
SPLIT_SEED = 0
TEST_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Data:
    """x: (n, n_inputs) float32 in [0, 1]; y: (n,) labels from 0; train, test: sorted indices into both."""

    x: np.ndarray
    y: np.ndarray
    train: np.ndarray
    test: np.ndarray


def digits() -> Data:
    """The 1797 images with their stratified split: of each class a fifth, drawn with `SPLIT_SEED`, is for the test."""
    data = load_digits()
    x = (data.data / 16).astype(np.float32)
    y = data.target.astype(np.int64)
    rng = np.random.default_rng(SPLIT_SEED)
    parts = []
    for label in range(N_CLASSES):
        members = rng.permutation(np.flatnonzero(y == label))
        parts.append(members[: round(TEST_SHARE * len(members))])
    test = np.sort(np.concatenate(parts))
    return Data(x, y, np.setdiff1d(np.arange(len(y)), test), test)


def samples(data: Data) -> dict[str, np.ndarray]:
    """The first image of each class in the test split, whatever the networks make of it.

    x: (10, 64) float32; y: (10,) labels 0..9; index: (10,) places in the original data.
    """
    index = np.array([data.test[data.y[data.test] == label][0] for label in range(N_CLASSES)])
    return {"x": data.x[index], "y": data.y[index], "index": index}


def save_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """An .npz file whose bytes depend on the arrays alone (np.savez stamps its members with the time)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())


def main() -> None:
    """Write the sample file."""
    chosen = samples(digits())
    save_arrays(chosen, FILE)
    print(f"{FILE.name}: images {chosen['index'].tolist()} with labels {chosen['y'].tolist()}")


if __name__ == "__main__":
    main()

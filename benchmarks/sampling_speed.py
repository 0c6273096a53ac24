"""Sampling a smoothed classifier against its physical limit: `python -m benchmarks.sampling_speed [--only TEXT]`.

The limit is what the model's batched forward passes and the noise alone take. All three are CPU seconds of one thread
per batch of 256, taken in turn in one run; medians over the rounds, of the share of the limit as well. With
`--backends` instead: the model as given, the chosen back end, the lowered graph and an eager torch module. Networks:
this repository's zoo and public ones (environment variable VERIFKIT_VNNCOMP, else ../shared/vnncomp).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from verifkit.analysis.smoothing.noise import Ablation, Gaussian, Laplace, Noise, RoundedGaussian, Uniform
from verifkit.analysis.smoothing.sampling import BLOCK, Sampler
from verifkit.budget import Budget, Clock
from verifkit.io.backend import fastest
from verifkit.io.onnx import load_model
from verifkit.model import Model

HERE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("VERIFKIT_VNNCOMP", HERE.parents[1] / "shared" / "vnncomp"))
NETWORKS = (
    HERE / "zoo" / "digits-3x100-noise-0.25.onnx",
    HERE / "zoo" / "digits-conv-small-noise-0.25.onnx",
    ROOT / "mnist_fc" / "onnx" / "mnist-net_256x2.onnx",
    ROOT / "oval21" / "onnx" / "cifar_base_kw.onnx",
)
ROUNDS, BLOCKS = 21, 16


def models(only: str) -> Iterator[Model]:
    for path in NETWORKS:
        if only in path.name and (path.exists() or path.with_name(path.name + ".gz").exists()):
            yield load_model(path, require_network=False)


def families(size: int) -> list[Noise]:
    return [Gaussian(0.25), Laplace(0.18), Uniform(0.87), Ablation(max(1, size // 16), size), RoundedGaussian(0.25)]


def cpu(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def sampling(only: str) -> None:
    print("| network | noise | forward | noise alone | sampling | share of the limit | draws per second |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    clock = Clock(Budget())
    for model in models(only):
        backend = fastest(model)
        center = np.full(model.n_inputs, 128 / 255, dtype=model.dtype)
        for noise in families(model.n_inputs):
            sampler = Sampler(backend, center, noise, (1, 2, 3))
            sampler.votes(0, 0, BLOCK, clock)  # the first block is put to the model twice
            inputs = noise.apply(center, np.random.default_rng(0), BLOCK)
            space = np.empty_like(inputs)
            seconds: list[tuple[float, float, float]] = []
            for k in range(ROUNDS):
                forward = cpu(lambda: [backend(inputs) for _ in range(BLOCKS)])  # noqa: B023 (called at once)
                rng = np.random.Generator(np.random.SFC64(k))
                alone = cpu(lambda: [noise.apply(center, rng, BLOCK, space) for _ in range(BLOCKS)])  # noqa: B023
                both = cpu(lambda: sampler.tally(1, k * BLOCKS * BLOCK, BLOCKS * BLOCK, clock))  # noqa: B023
                seconds.append((forward, alone, both))
            share = np.median([(forward + alone) / both for forward, alone, both in seconds])
            forward, alone, both = (1e3 * float(np.median(column)) / BLOCKS for column in zip(*seconds, strict=True))
            print(
                f"| {model.name.removesuffix('.onnx')} | {noise.name} | {forward:.2f} ms | {alone:.2f} ms | "
                f"{both:.2f} ms | {share:.2f} | {1e3 * BLOCK / both:.0f} |",
                flush=True,
            )


def backends(only: str) -> None:
    import torch

    from verifkit.io.blackbox import torch_module

    torch.set_num_threads(1)
    print("| network | as given | chosen | lowered graph | torch | chosen back end |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in models(only):
        x = np.random.default_rng(0).random((BLOCK, model.n_inputs)).astype(model.dtype)
        backend, imported, network = fastest(model), torch_module(model), model.network
        runs: list[Callable[[], Any]] = [lambda: model(x), lambda: backend(x)]  # noqa: B023 (called below)
        if network is not None:
            runs.append(lambda: network.evaluate(x.reshape(-1, *model.input_shape)))  # noqa: B023
        runs.append(lambda: imported.outputs(x))  # noqa: B023
        times = [f"{1e3 * min(cpu(run) for _ in range(ROUNDS)):.2f} ms" for run in runs]
        if network is None:
            times.insert(2, "-")
        print(f"| {model.name.removesuffix('.onnx')} | {' | '.join(times)} | {backend.name} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", action="store_true", help="compare what can run the model")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    arguments = parser.parse_args()
    if arguments.backends:
        backends(arguments.only)
    else:
        sampling(arguments.only)


if __name__ == "__main__":
    main()

"""Normalisation by stored statistics and by those of the value itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.unit.onnx_cases.case import Case, above, f32

IMAGES = ((1, 4, 3), (2, 4, 2, 3), (1, 4, 2, 1, 3))


def batch() -> Iterator[Case]:
    names = ("h", "s", "b", "m", "v")
    for shape, opset in itertools.product((*IMAGES, (1, 4), (3, 4)), (7, 9, 14, 15, 28)):
        tensors = {"s": f32(4), "b": f32(4), "m": f32(4), "v": above(4)}
        choices: list[dict[str, Any]] = [{}, {"epsilon": 0.1}, {"momentum": 0.5}]
        if opset >= 14:
            choices.append({"training_mode": 0})
        for held in choices:
            yield Case("BatchNormalization", shape, names, held, tensors, opset)
    doubles = {k: v.astype(np.float64) for k, v in tensors.items()}
    yield Case("BatchNormalization", (1, 4, 2), names, {}, doubles, 15, kind=TensorProto.DOUBLE)


def instance() -> Iterator[Case]:
    for shape, opset, held in itertools.product(IMAGES, (7, 13, 22, 28), ({}, {"epsilon": 0.1})):
        tensors = {"s": f32(4), "b": f32(4)}
        yield Case("InstanceNormalization", shape, ("h", "s", "b"), held, tensors, opset)


def layer() -> Iterator[Case]:
    for shape, opset in itertools.product(((1, 4), (2, 4), (2, 3, 4), (1, 2, 3, 2)), (17, 28)):
        for axis in (None, *range(-len(shape), len(shape))):
            held = {} if axis is None else {"axis": axis}
            inner = shape[-1 if axis is None else axis % len(shape) :] if axis is not None else shape[-1:]
            if np.prod(inner) == 1:
                continue
            tensors = {"s": f32(*inner), "b": f32(*inner)}
            yield Case("LayerNormalization", shape, ("h", "s"), held, tensors, opset)
            yield Case("LayerNormalization", shape, ("h", "s", "b"), {**held, "epsilon": 0.1}, tensors, opset)
            yield Case("LayerNormalization", shape, ("h", "s", "b"), {**held, "stash_type": 1}, tensors, opset)


def rms() -> Iterator[Case]:
    for shape, opset in itertools.product(((1, 4), (2, 4), (2, 3, 4)), (23, 28)):
        for axis in (None, *range(-len(shape), len(shape))):
            held = {} if axis is None else {"axis": axis}
            inner = shape[-1:] if axis is None else shape[axis % len(shape) :]
            yield Case("RMSNormalization", shape, ("h", "s"), held, {"s": f32(*inner)}, opset)
            yield Case("RMSNormalization", shape, ("h", "s"), {**held, "epsilon": 0.1}, {"s": f32(*inner)}, opset)
            yield Case("RMSNormalization", shape, ("h", "s"), {**held, "stash_type": 1}, {"s": f32(*inner)}, opset)


def group() -> Iterator[Case]:
    for shape, groups, opset in itertools.product(IMAGES, (1, 2, 4), (21, 28)):
        for held in ({}, {"epsilon": 0.1}, {"stash_type": 1}):
            attributes = {"num_groups": groups, **held}
            tensors = {"s": f32(4), "b": f32(4)}
            yield Case("GroupNormalization", shape, ("h", "s", "b"), attributes, tensors, opset)


CASES = {
    "BatchNormalization": batch(), "InstanceNormalization": instance(), "LayerNormalization": layer(),
    "RMSNormalization": rms(), "GroupNormalization": group(),
}  # fmt: skip

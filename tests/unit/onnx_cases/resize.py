"""Resizing images: every coordinate mode with every rounding, by scales and by sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.unit.onnx_cases.case import F32, Case, ints

COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
IMAGE = (1, 2, 3, 4)
SCALES = ((1, 1, 2, 2), (1, 1, 1.5, 2.25), (1, 1, 0.7, 0.5), (1, 1, 3, 1), (1, 1, 1, 1))
SIZES = ((1, 2, 6, 8), (1, 2, 5, 7), (1, 2, 2, 3), (1, 2, 1, 1))


NONE = np.zeros(0, dtype=F32)


def _scales(*values: float) -> dict[str, np.ndarray]:
    return {"s": np.array(values, dtype=F32)}


def scaled(shape: tuple[int, ...], held: dict[str, Any], scales: Sequence[float], opset: int) -> Case:
    """By scales. In opset 11 an input that is left out is an empty tensor."""
    if opset < 13:
        return Case("Resize", shape, ("h", "none", "s"), held, {"none": NONE, **_scales(*scales)}, opset)
    return Case("Resize", shape, ("h", "", "s"), held, _scales(*scales), opset)


def sized(shape: tuple[int, ...], held: dict[str, Any], sizes: Sequence[int], opset: int) -> Case:
    """By sizes."""
    if opset < 13:
        tensors = {"none": NONE, "size": ints(*sizes)}
        return Case("Resize", shape, ("h", "none", "none", "size"), held, tensors, opset)
    return Case("Resize", shape, ("h", "", "", "size"), held, {"size": ints(*sizes)}, opset)


def resize() -> Iterator[Case]:
    for mode, scales in itertools.product((None, "nearest", "linear"), SCALES):
        held: dict[str, Any] = {} if mode is None else {"mode": mode}
        yield Case("Resize", IMAGE, ("h", "s"), held, _scales(*scales), 10)
    modes = itertools.product((19, 11, 13, 18), (None, *COORDINATES), (None, *ROUNDINGS))
    for i, (opset, where, rounding) in enumerate(modes):
        held = {k: v for k, v in (("coordinate_transformation_mode", where), ("nearest_mode", rounding)) if v}
        for scales in SCALES if opset == 19 else SCALES[i % len(SCALES) :][:1]:
            yield scaled(IMAGE, held, scales, opset)
        for sizes in SIZES if opset == 19 else SIZES[i % len(SIZES) :][:1]:
            yield sized(IMAGE, held, sizes, opset)
    yield from _linear()
    yield from _newer()


def _linear() -> Iterator[Case]:
    for i, (opset, where) in enumerate(itertools.product((19, 11, 13), (None, *COORDINATES))):
        held = {"mode": "linear", **({"coordinate_transformation_mode": where} if where else {})}
        for scales in SCALES if opset == 19 else SCALES[i % len(SCALES) :][:1]:
            yield scaled(IMAGE, held, scales, opset)
        for sizes in SIZES if opset == 19 else SIZES[i % len(SIZES) :][:1]:
            yield sized(IMAGE, held, sizes, opset)
        yield scaled((3, 4), held, (2, 1.5), opset)
        yield scaled((1, 1, 2, 3, 2), held, (1, 1, 2, 1.5, 1), opset)


def _newer() -> Iterator[Case]:
    """The oldest and newest coordinate modes, roi given and not read, axes, and the aspect ratio."""
    half = {"coordinate_transformation_mode": "tf_half_pixel_for_nn"}
    for rounding, scales in itertools.product(ROUNDINGS, SCALES):
        yield Case("Resize", IMAGE, ("h", "r", "s"), {**half, "nearest_mode": rounding},
                   {"r": np.zeros(8, dtype=F32), **_scales(*scales)}, 11)  # fmt: skip
    symmetric = {"coordinate_transformation_mode": "half_pixel_symmetric"}
    for mode, sizes in itertools.product(("nearest", "linear"), SIZES):
        yield sized(IMAGE, {**symmetric, "mode": mode}, sizes, 19)
    for mode, scales in itertools.product(("nearest", "linear"), SCALES):
        yield scaled(IMAGE, {**symmetric, "mode": mode}, scales, 19)
    for mode, axes, policy in itertools.product(
        ("nearest", "linear"), ((2, 3), (-1, -2)), (None, "stretch", "not_larger", "not_smaller")
    ):
        held: dict[str, Any] = {"mode": mode, "axes": axes}
        if policy is None or min(axes) < 0:
            yield scaled(IMAGE, held, (2, 1.5), 18)
        else:
            held["keep_aspect_ratio_policy"] = policy
            yield sized(IMAGE, held, (5, 7), 18)
    yield scaled(IMAGE, {"antialias": 0, "exclude_outside": 0}, (1, 1, 2, 2), 18)
    yield scaled(IMAGE, {"extrapolation_value": 1.0, "cubic_coeff_a": -0.5}, (1, 1, 2, 2), 18)


def upsample() -> Iterator[Case]:
    for mode, scales in itertools.product(
        (None, "nearest", "linear"), ((1.0, 1.0, 2.0, 2.0), (1, 1, 1.5, 2.25), (1.0, 1.0, 3.0, 1.0))
    ):
        held: dict[str, Any] = {} if mode is None else {"mode": mode}
        for shape in (IMAGE, (1, 1, 5, 5)):
            yield Case("Upsample", shape, attributes={**held, "scales": [float(s) for s in scales]}, opset=7)
            yield Case("Upsample", shape, ("h", "s"), held, _scales(*scales), 9)


CASES = {"Resize": resize(), "Upsample": upsample()}

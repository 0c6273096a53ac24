"""Convolution, its transpose, and pooling: kernels, strides, dilations and paddings of every kind."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tests.unit.onnx_cases.case import Case, f32, ints, node, opsets


def windows(op: str) -> Iterator[Case]:
    """Over one to three axes."""
    ceils = (0,) if op == "Conv" else (0, 1)
    counts = (None, 0, 1) if op == "AveragePool" else (None,)
    for n, auto, ceil, count in itertools.product((1, 2, 3), (None, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"),
                                                  ceils, counts):  # fmt: skip
        geometries = (
            (1, 1, 1, (0, 0)), (2, 1, 1, (1, 0)), (2, 2, 1, (0, 1)), (3, 1, 1, (1, 1)), (3, 2, 1, (2, 0)),
            (3, 3, 1, (0, 2)), (2, 1, 2, (1, 1)), (2, 3, 2, (0, 1)), (3, 2, 2, (2, 2)),
        )  # fmt: skip
        for kernel, stride, dilation, (a, z) in geometries[:: 1 if n == 2 else 2]:
            explicit, same = auto in (None, "NOTSET"), auto in ("SAME_UPPER", "SAME_LOWER")
            if (same and dilation > 1) or (ceil and not explicit):
                continue  # refused
            attributes: dict[str, Any] = {"kernel_shape": [kernel] * n}
            if stride > 1:
                attributes["strides"] = [stride, 1, 2][:n]
            if dilation > 1:
                attributes["dilations"] = [dilation, 1, 2][:n] if n > 1 else [dilation]
            if explicit and (a or z):
                attributes["pads"] = [a] * n + [z] * n
            if auto is not None:
                attributes["auto_pad"] = auto
            if ceil:
                attributes["ceil_mode"] = 1
            if count is not None:
                attributes["count_include_pad"] = count
            shape = (1, 2, *(7, 6, 8)[:n])
            opset = 19 if op == "AveragePool" and dilation > 1 else 22 if n == 3 else 11
            if same and op != "Conv" and any(k < s for k, s in zip([kernel] * n, attributes.get("strides", [1] * n),
                                                                   strict=True)):  # fmt: skip
                continue
            yield Case(op, shape, attributes=attributes, opset=opset)


def _computed_bias(shape: tuple[int, ...], channels: int) -> tuple[tuple[Any, ...], dict[str, np.ndarray]]:
    """Nodes that compute 'c', one number per channel, from 'h'."""
    before = (node("Flatten", ["h"], ["flat"], axis=0), node("MatMul", ["flat", "m"], ["row"]),
              node("Reshape", ["row", "size"], ["c"]))  # fmt: skip
    return before, {"m": f32(int(np.prod(shape)), channels), "size": ints(channels)}


def conv() -> Iterator[Case]:
    for i, case in enumerate(windows("Conv")):
        group, kernel = 1 + i % 2, case.attributes["kernel_shape"]
        attributes = {**case.attributes, **({"group": group} if group > 1 else {})}
        if i % 3 == 0:
            attributes.pop("kernel_shape")
        tensors = {"w": f32(4, 2 // group, *kernel)}
        yield replace(case, inputs=("h", "w"), attributes=attributes, tensors=tensors)
        yield replace(case, inputs=("h", "w", "c"), attributes=attributes, tensors={**tensors, "c": f32(4)})
    before, made = _computed_bias((1, 2, 3, 4), 3)
    yield Case("Conv", (1, 2, 3, 4), ("h", "w", "c"), {}, {"w": f32(3, 2, 2, 2), **made}, before=before)
    yield Case("Conv", (2, 2, 3, 4), ("h", "w", ""), {}, {"w": f32(3, 2, 2, 2)})


def conv_transpose() -> Iterator[Case]:
    geometries = (
        (1, 1, 1, 0, (0, 0)), (2, 1, 1, 0, (1, 0)), (2, 2, 1, 1, (0, 0)), (3, 2, 1, 1, (1, 1)), (3, 1, 2, 0, (1, 2)),
        (4, 2, 1, 0, (1, 1)), (2, 3, 1, 2, (0, 1)), (3, 2, 2, 1, (2, 1)), (1, 2, 1, 1, (0, 0)),
    )  # fmt: skip
    for i, (n, (kernel, stride, dilation, extra, (a, z)), auto) in enumerate(
        itertools.product((1, 2, 3), geometries, (None, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"))
    ):
        group = 1 + i % 2
        attributes: dict[str, Any] = {"kernel_shape": [kernel] * n, "strides": [stride] * n}
        if dilation > 1:
            attributes["dilations"] = [dilation] * n
        if extra:
            attributes["output_padding"] = [extra] * n
        if auto in (None, "NOTSET") and (a or z):
            attributes["pads"] = [a] * n + [z] * n
        if auto is not None:
            attributes["auto_pad"] = auto
        if group > 1:
            attributes["group"] = group
        if i % 4 == 0:
            attributes.pop("kernel_shape")
        shape, opset = (1, 4, *(3, 4, 2)[:n]), (11, 22, 7)[i % 3]
        tensors = {"w": f32(4, 3, *[kernel] * n)}
        yield Case("ConvTranspose", shape, ("h", "w"), attributes, tensors, opset=opset)
        tensors = {**tensors, "c": f32(3 * group)}
        yield Case("ConvTranspose", shape, ("h", "w", "c"), attributes, tensors, opset=opset)
    # (3 - 1) * 2 + 3 = 7 places are written: wish for one more, or for fewer of them.
    for wanted, auto, extra in itertools.product((8, 7, 6, 5, 4), (None, "VALID", "SAME_UPPER", "SAME_LOWER"), (0, 1)):
        attributes = {"output_shape": [wanted] * 2, "strides": [2, 2], "output_padding": [extra] * 2}
        if auto is not None:
            attributes["auto_pad"] = auto
        yield Case("ConvTranspose", (1, 2, 3, 3), ("h", "w"), attributes, {"w": f32(2, 2, 3, 3)}, opset=11)
    before, made = _computed_bias((1, 2, 3, 4), 3)
    yield Case("ConvTranspose", (1, 2, 3, 4), ("h", "w", "c"), {}, {"w": f32(2, 3, 2, 2), **made}, before=before)
    yield Case("ConvTranspose", (2, 2, 3, 4), ("h", "w", ""), {}, {"w": f32(2, 3, 2, 2)})


def max_pool() -> Iterator[Case]:
    for case in windows("MaxPool"):
        yield case
        yield replace(case, attributes={**case.attributes, "storage_order": 0}, shape=(2, *case.shape[1:]))


def global_pool(op: str) -> Iterator[Case]:
    shapes = ((1, 2, 3), (2, 3, 4), (1, 2, 3, 4), (1, 1, 1, 1), (1, 3, 2, 2, 3), (2, 1, 2, 1, 2), (1, 2, 5, 1))
    for shape, opset in itertools.product(shapes, (*opsets(op), 13)):
        yield Case(op, shape, opset=opset)


CASES = {
    "Conv": conv(), "ConvTranspose": conv_transpose(), "AveragePool": windows("AveragePool"), "MaxPool": max_pool(),
    "GlobalAveragePool": global_pool("GlobalAveragePool"), "GlobalMaxPool": global_pool("GlobalMaxPool"),
}  # fmt: skip

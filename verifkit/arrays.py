"""The few array operations that the array API standard lacks, for NumPy and torch alike.

Everything in `verifkit.analysis` is written against the array API (through `array-api-compat`); what that standard
does not have - convolution, its transpose, a scatter, the error function - is here, once. torch is never imported by
this module: a torch array brings torch with it.

Shapes: `lead` stands for any number of leading axes; spatial axes are last, `n` of them (1, 2 or 3).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_torch_array

Array = Any
"""A NumPy or torch array; the standard has no common type to name."""


def namespace(x: Array) -> Any:
    """The array API namespace of `x`."""
    # NumPy from 2.1 on follows the standard itself; its array-api-compat wrapper takes 0.15 s to import.
    return np if isinstance(x, np.ndarray) else array_namespace(x)


def like(values: Array, x: Array) -> Array:
    """`values` (NumPy or Python numbers) as an array of the namespace, dtype and device of `x`."""
    if isinstance(x, np.ndarray):
        return np.asarray(values, dtype=x.dtype)
    xp = namespace(x)
    return xp.asarray(values, dtype=x.dtype, device=x.device)


def float_type(x: Array) -> np.dtype[Any]:
    """NumPy's name for the dtype of `x`, an array of either library."""
    return x.dtype if isinstance(x, np.ndarray) else np.dtype(str(x.dtype).rpartition(".")[2])


def epsilon(x: Array) -> float:
    """Unit roundoff of the dtype of `x`: half the distance from 1 to the next float."""
    return _floats(x.dtype)[0] if isinstance(x, np.ndarray) else float(namespace(x).finfo(x.dtype).eps) / 2


def smallest_normal(x: Array) -> float:
    """The smallest normal number of the dtype of `x`."""
    return _floats(x.dtype)[1] if isinstance(x, np.ndarray) else float(namespace(x).finfo(x.dtype).smallest_normal)


@cache
def _floats(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Unit roundoff and smallest normal number: asking NumPy takes longer than a small array's arithmetic."""
    info = np.finfo(dtype)
    return float(info.eps) / 2, float(info.smallest_normal)


def erf(x: Array) -> Array:
    """The error function, elementwise: scipy's for NumPy arrays, torch's for its own."""
    if is_torch_array(x):
        import torch  # a torch array was given, so torch is loaded already

        return torch.erf(x)
    from scipy.special import erf as scipy_erf  # 0.3 s to import, and few networks need it

    return scipy_erf(x)


def take_flat(x: Array, index: np.ndarray, n_axes: int) -> Array:
    """Picks `x.flat[index]` over the last `n_axes` axes of `x`; an index of -1 picks 0.

    Returns shape `lead + index.shape`.
    """
    xp = namespace(x)
    lead = tuple(x.shape[: x.ndim - n_axes])
    flat = xp.reshape(x, (*lead, -1))
    chosen = index.reshape(-1)
    absent = chosen < 0
    picked = flat[..., np.where(absent, 0, chosen)]
    if absent.any():
        picked = xp.where(xp.asarray(absent), like(0.0, x), picked)
    return xp.reshape(picked, (*lead, *index.shape))


def scatter_flat(y: Array, index: np.ndarray, size: int) -> Array:
    """The transpose of `take_flat`: adds `y[..., k]` into place `index[k]` of a last axis of length `size`.

    `y` has shape `lead + index.shape`; returns `lead + (size,)`. Sums where an index occurs more than once.
    """
    xp = namespace(y)
    lead = tuple(y.shape[: y.ndim - index.ndim])
    flat = xp.reshape(y, (*lead, -1))
    chosen = index.reshape(-1)
    if is_torch_array(y):
        kept = np.flatnonzero(chosen >= 0)
        zeros = xp.zeros((*lead, size), dtype=y.dtype, device=y.device)
        where = xp.asarray(chosen[kept], device=y.device)
        return zeros.index_add(-1, where, flat[..., kept])
    order = np.argsort(chosen, kind="stable")
    order = order[chosen[order] >= 0]
    result = np.zeros((*lead, size), dtype=y.dtype)
    if order.size:
        places, starts = np.unique(chosen[order], return_index=True)
        if places.size == order.size:
            result[..., places] = flat[..., order]
        else:
            result[..., places] = np.add.reduceat(flat[..., order], starts, axis=-1)
    return result


def convolve(
    x: Array,
    weight: Array,
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    groups: int,
) -> Array:
    """Cross-correlation as ONNX `Conv` defines it, without bias.

    x: (batch, channels, *spatial); weight: (out_channels, channels / groups, *kernel). Returns
    (batch, out_channels, *spatial_out).
    """
    if is_torch_array(x):
        return _torch_convolve(x, weight, strides, pads, dilations, groups)
    n = len(strides)
    batch, channels = x.shape[:2]
    kernel = weight.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), *pads]) if any(map(any, pads)) else x
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + n)))
    step = tuple(slice(None, None, s) for s in strides)
    hole = tuple(slice(None, None, d) for d in dilations)
    windows = windows[(slice(None), slice(None), *step, *hole)]  # (batch, channels, *out, *kernel)
    out = windows.shape[2 : 2 + n]
    split = windows.reshape(batch, groups, channels // groups, *out, *kernel)
    # -> (batch, groups, *out, channels / groups, *kernel): one matrix product per group
    axes = (0, 1, *range(3, 3 + n), 2, *range(3 + n, 3 + 2 * n))
    columns = split.transpose(axes).reshape(batch, groups, math.prod(out), -1)
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1)
    product = columns @ matrix  # (batch, groups, positions, out_channels / groups)
    return product.transpose(0, 1, 3, 2).reshape(batch, weight.shape[0], *out)


def convolve_transpose(
    y: Array,
    weight: Array,
    *,
    spatial: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    groups: int,
) -> Array:
    """The transpose of `convolve` as a linear map: (batch, out_channels, *out) to (batch, channels, *spatial)."""
    if is_torch_array(y):
        return _torch_convolve_transpose(y, weight, spatial, strides, pads, dilations, groups)
    batch, out_channels = y.shape[:2]
    out, kernel = y.shape[2:], weight.shape[2:]
    per_group = weight.shape[1]
    rows = y.reshape(batch, groups, out_channels // groups, math.prod(out)).transpose(0, 1, 3, 2)
    matrix = weight.reshape(groups, out_channels // groups, -1)
    columns = (rows @ matrix).reshape(batch, groups, *out, per_group, *kernel)
    padded = np.zeros(
        (batch, groups, per_group, *(s + a + b for s, (a, b) in zip(spatial, pads, strict=True))), dtype=y.dtype
    )
    channels_first = np.moveaxis(columns, 2 + len(out), 2)  # (batch, groups, per_group, *out, *kernel)
    for offset in itertools.product(*(range(k) for k in kernel)):
        places = tuple(
            slice(o * d, o * d + s * (size - 1) + 1, s)
            for o, d, s, size in zip(offset, dilations, strides, out, strict=True)
        )
        padded[(slice(None), slice(None), slice(None), *places)] += channels_first[(..., *offset)]
    inner = tuple(slice(a, a + s) for s, (a, _) in zip(spatial, pads, strict=True))
    return padded[(slice(None), slice(None), slice(None), *inner)].reshape(batch, groups * per_group, *spatial)


def _torch_convolve(
    x: Array,
    weight: Array,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    groups: int,
) -> Array:
    from torch.nn import functional  # a torch array was given, so torch is loaded already

    if any(map(any, pads)):
        x = functional.pad(x, [p for pair in reversed(pads) for p in pair])
    conv = (functional.conv1d, functional.conv2d, functional.conv3d)[len(strides) - 1]
    return conv(x, weight, None, tuple(strides), 0, tuple(dilations), groups)


def _torch_convolve_transpose(
    y: Array,
    weight: Array,
    spatial: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    groups: int,
) -> Array:
    from torch.nn import functional

    # torch leaves out input places that no window reaches: pad them back, then cut the padding off.
    transpose = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
    full = transpose[len(strides) - 1](y, weight, None, tuple(strides), 0, 0, groups, tuple(dilations))
    total = [s + a + b for s, (a, b) in zip(spatial, pads, strict=True)]
    missing = [t - f for t, f in zip(total, full.shape[2:], strict=True)]
    full = functional.pad(full, [p for m in reversed(missing) for p in (0, m)])
    inner = tuple(slice(a, a + s) for s, (a, _) in zip(spatial, pads, strict=True))
    return full[(slice(None), slice(None), *inner)]

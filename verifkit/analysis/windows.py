"""Backward bounds of single entries of convolutions: rows that see a window of the image and nothing else.

An entry of a convolution reads a few pixels of the layer before it, and through the layers before that a window that
grows slowly. Its row is kept as that window, with the place of its corner: a chain of convolutions and activations then
costs what the windows hold and not what the images do. Windows may stick out over the edge of an image, where padding
is 0: every number that is gathered there is 0.

The steps and their rounding errors are those of `backward`; the sizes of values are bounded by one number for each
node, as what it costs is below any bound's width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from verifkit.analysis.interval import Bounds
from verifkit.analysis.region import Region, magnitude
from verifkit.analysis.rounding import down, gamma, inflate, tiny
from verifkit.arrays import Array
from verifkit.evidence import Lines, Planes
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input
from verifkit.weighted_maps import Conv

CHUNK = 2**17
"""Entries of the windows that are taken through the network at a time."""


def window_chain(network: Network, index: int, relaxed: Mapping[int, Lines | Planes]) -> list[int] | None:
    """The nodes from `index` down to the input if all are two-dimensional convolutions and relaxed activations, each
    with one parent; None otherwise."""
    chain = [index]
    while not isinstance(node := network.nodes[chain[-1]], Input):
        plain = isinstance(node, Affine) and len(node.maps) == 1 and _plain(node.maps[0])
        if not plain and not (isinstance(node, Activation) and isinstance(relaxed.get(chain[-1]), Lines)):
            return None
        chain.append(node.parents[0])
    return chain if isinstance(network.nodes[index], Affine) else None


def _plain(linear: object) -> bool:
    return (
        isinstance(linear, Conv)
        and isinstance(linear.weight, np.ndarray)
        and len(linear.strides) == 2
        and linear.groups == 1
        and linear.in_shape[0] == 1
        and set(linear.dilations) == {1}
    )


@dataclass(eq=False)
class _Windows:
    """Coefficients (R, channels, height, width) over a node's value, and where in the image each begins."""

    coefficients: np.ndarray
    top: np.ndarray
    left: np.ndarray


@dataclass(frozen=True)
class _Frame:
    """The size of the windows over one node, and where the first and the last of them begin in its image."""

    size: tuple[int, int] = (1, 1)
    first: tuple[int, int] = (0, 0)
    last: tuple[int, int] = (0, 0)

    def through(self, conv: Conv) -> _Frame:
        """The windows over what the convolution reads."""
        kernel, pads = conv.weight.shape[2:], [before for before, _ in conv.pads]
        each = list(zip(self.size, self.first, self.last, conv.strides, kernel, pads, strict=True))
        size, first, last = zip(*(((n - 1) * s + k, a * s - p, b * s - p) for n, a, b, s, k, p in each), strict=True)
        return _Frame((size[0], size[1]), (first[0], first[1]), (last[0], last[1]))


class _View:
    """An image (channels, H, W) through the windows of a frame, 0 beyond its edges, however far they are."""

    def __init__(self, image: np.ndarray, frame: _Frame) -> None:
        self._before = tuple(max(0, -a) for a in frame.first)
        behind = [max(0, b + n - m) for b, n, m in zip(frame.last, frame.size, image.shape[1:], strict=True)]
        padded = np.pad(image, ((0, 0), *zip(self._before, behind, strict=True)))
        self._views = np.lib.stride_tricks.sliding_window_view(padded, frame.size, axis=(1, 2)).transpose(1, 2, 0, 3, 4)
        self.largest = float(np.abs(image).max(initial=0.0))

    def at(self, windows: _Windows) -> np.ndarray:
        """(R, channels, height, width)."""
        top, left = windows.top + self._before[0], windows.left + self._before[1]
        assert min(top.min(), left.min()) >= 0, "a window begins before its frame"  # it would wrap around
        found: np.ndarray = self._views[top, left]
        return found


class WindowPass:
    """Lower bounds on single entries of one convolution, over a box."""

    def __init__(
        self,
        network: Network,
        chain: Sequence[int],
        bounds: Sequence[Bounds],
        relaxed: Mapping[int, Lines | Planes],
        region: Region,
    ) -> None:
        self.network, self.chain = network, chain
        self.reach = {k: float(magnitude(*bounds[k]).max()) for k in chain[1:]}
        self._conv: dict[int, Conv] = {}
        self._lines: dict[int, list[_View | None]] = {}
        self._inside: dict[int, _View] = {}
        self._bias: dict[int, _View] = {}
        rows, columns = network.nodes[chain[0]].shape[-2:]
        frame, self._entries = _Frame(last=(rows - 1, columns - 1)), 1
        for above, index in zip([-1, *chain], chain, strict=False):
            node = network.nodes[index]
            if isinstance(node, Activation):
                lines = relaxed[index]
                assert isinstance(lines, Lines)
                parts = [_image(getattr(lines, f.name)) for f in fields(lines)]
                self._lines[index] = [_View(part, frame) if part.any() else None for part in parts]
            elif isinstance(node, Affine):
                conv = node.maps[0]
                assert isinstance(conv, Conv)
                self._conv[index] = conv
                if node.bias is not None and index != chain[0]:
                    self._bias[index] = _View(_image(node.bias), frame)
                # An activation above leaves nothing beyond its edges; a convolution above does.
                if above in self._conv:
                    self._inside[index] = _View(np.ones(node.shape[1:], dtype=conv.weight.dtype), frame)
                frame = frame.through(conv)
            self._entries = max(self._entries, math.prod(frame.size) * int(node.shape[1]))
        low, high = _image(region.lower), _image(region.upper)
        middle = low / 2 + high / 2
        self._middle = _View(middle, frame)
        self._half = _View(inflate(np.maximum(high - middle, middle - low)), frame)

    def lower(self, chosen: np.ndarray, sign: float) -> Array:
        """Rigorous lower bounds (1, entries) on sign * the flat entries `chosen` of the chain's first node."""
        step = max(1, CHUNK // self._entries)
        parts = [self._chunk(chosen[k : k + step], sign) for k in range(0, chosen.size, step)]
        return np.concatenate(parts)[None]

    def _chunk(self, chosen: np.ndarray, sign: float) -> np.ndarray:
        first, conv = self.network.nodes[self.chain[0]], self._conv[self.chain[0]]
        assert isinstance(first, Affine)
        channel, row, column = np.unravel_index(chosen, first.shape[1:])
        (stride_y, stride_x), ((pad_y, _), (pad_x, _)) = conv.strides, conv.pads
        windows = _Windows(sign * conv.weight[channel], row * stride_y - pad_y, column * stride_x - pad_x)
        none = np.zeros(chosen.size, dtype=conv.weight.dtype)  # in float64 it would hide how much float32 rounds
        constant = none if first.bias is None else sign * first.bias.reshape(-1)[chosen]
        size, slack, steps = np.abs(constant), none, 1
        for index in self.chain[1:]:
            if index in self._conv:
                windows, value, lost = self._through_conv(index, windows)
            elif index in self._lines:
                windows, value, lost = self._through_lines(index, windows)
            else:
                value, lost = self._over_box(windows)
            constant, size, slack, steps = constant + value, size + np.abs(value), slack + lost, steps + 1
        error = gamma(steps + 3, constant) * size + slack * (1.0 + gamma(steps + 4, slack))
        return np.asarray(down(constant - error - tiny(constant)))

    def _through_lines(self, index: int, windows: _Windows) -> tuple[_Windows, np.ndarray, np.ndarray]:
        """A positive coefficient takes the line below, a negative one the line above."""
        low_slope, low_offset, high_slope, high_offset = self._lines[index]
        c, count = windows.coefficients, windows.coefficients[0].size
        none = np.zeros(c.shape[0], dtype=c.dtype)
        pulled, value, size = np.zeros_like(c), none, none
        for part, slope, offset in (
            (np.maximum(c, 0.0), low_slope, low_offset),
            (np.minimum(c, 0.0), high_slope, high_offset),
        ):
            if offset is not None:
                value = value + _dots(part, offset.at(windows))
                size = size + _sizes(part) * offset.largest
            if slope is not None:
                part *= slope.at(windows)
                pulled += part
        reach = self.reach[self.network.nodes[index].parents[0]]
        size = size + _sizes(pulled) * reach
        lost = gamma(count + 8, size) * size + 6 * count * tiny(size) * (1.0 + reach)
        return _Windows(pulled, windows.top, windows.left), value, lost

    def _through_conv(self, index: int, windows: _Windows) -> tuple[_Windows, np.ndarray, np.ndarray]:
        """The transposed convolution of each window."""
        conv, c = self._conv[index], windows.coefficients
        if index in self._inside:
            c = c * self._inside[index].at(windows)
        bias, value = self._bias.get(index), np.zeros(c.shape[0], dtype=c.dtype)
        if bias is not None:
            value = _dots(c, bias.at(windows))
        rows, channels, height, width = c.shape
        _, into, kernel_y, kernel_x = conv.weight.shape
        (stride_y, stride_x), ((pad_y, _), (pad_x, _)) = conv.strides, conv.pads
        flat = c.transpose(0, 2, 3, 1).reshape(-1, channels)
        spread = (flat @ conv.weight.reshape(channels, -1)).reshape(rows, height, width, into, kernel_y, kernel_x)
        spread = spread.transpose(4, 5, 0, 3, 1, 2)
        below = (height - 1) * stride_y + kernel_y, (width - 1) * stride_x + kernel_x
        pulled = np.zeros((rows, into, *below), dtype=c.dtype)
        for y in range(kernel_y):
            for x in range(kernel_x):
                rows_y = slice(y, y + (height - 1) * stride_y + 1, stride_y)
                rows_x = slice(x, x + (width - 1) * stride_x + 1, stride_x)
                pulled[:, :, rows_y, rows_x] += spread[y, x]
        weight = float(np.abs(conv.weight).reshape(channels, -1).sum(axis=1).max())
        terms, reach = c[0].size + conv.adjoint_terms + conv.terms + 8, self.reach[self.network.nodes[index].parents[0]]
        size = _sizes(c) * (weight * reach + (0.0 if bias is None else bias.largest))
        lost = gamma(terms, size) * size * (1.0 + gamma(terms, size))
        lost = lost + 4 * terms * pulled[0].size * tiny(size) * (1.0 + reach)
        return _Windows(pulled, windows.top * stride_y - pad_y, windows.left * stride_x - pad_x), value, lost

    def _over_box(self, windows: _Windows) -> tuple[np.ndarray, np.ndarray]:
        """Least value over the input's box: middle less half width times the sizes of the coefficients."""
        c = windows.coefficients
        value = _dots(c, self._middle.at(windows)) - _dots(np.abs(c), self._half.at(windows))
        size, count = _sizes(c) * (self._middle.largest + self._half.largest), c[0].size
        return value, gamma(2 * count + 6, size) * size + 4 * count * tiny(size)


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("rchw,rchw->r", a, b))


def _sizes(a: np.ndarray) -> np.ndarray:
    """The sum of absolute values of each row."""
    return np.asarray(np.abs(a).reshape(a.shape[0], -1).sum(axis=1))


def _image(values: np.ndarray) -> np.ndarray:
    """`(1, [1,] C, H, W)`, or a node's own `(1, C, H, W)`, as (C, H, W)."""
    return np.asarray(values.reshape(values.shape[-3:]))

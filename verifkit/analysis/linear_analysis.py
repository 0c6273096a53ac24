"""What an analysis by linear bounds found out, and bounds of rows from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verifkit.analysis.backward import lower_bounds
from verifkit.analysis.compact import Compact
from verifkit.analysis.interval import Bounds
from verifkit.analysis.region import Region, magnitude
from verifkit.analysis.rounding import down, gamma, tiny
from verifkit.analysis.rows import Rows
from verifkit.arrays import Array, float_type, like, namespace
from verifkit.evidence import Lines, Planes
from verifkit.network import Network


@dataclass(frozen=True, eq=False)
class LinearAnalysis:
    """bounds: of every node's value. lines, planes: of every activation, or product, that has them, by node index.

    compact: the same without units that are surely 0, for a single region. parts: of a batch that was analysed one by
    one, the analyses.
    """

    network: Network
    region: Region
    bounds: list[Bounds]
    lines: dict[int, Lines] = field(default_factory=dict)
    planes: dict[int, Planes] = field(default_factory=dict)
    compact: Compact | None = None
    parts: tuple[LinearAnalysis, ...] = ()

    def backward(self, rows: Mapping[int, Array]) -> Array:
        """Rigorous lower bounds `(B, R)` on the rows' value: node index -> coefficients `(B, R, *node shape)`."""
        if self.parts:
            xp = namespace(self.region.lower)
            each = [p.backward({k: v[b : b + 1] for k, v in rows.items()}) for b, p in enumerate(self.parts)]
            return xp.concat(each, axis=0)
        with np.errstate(all="ignore"):  # what overflows is infinite or NaN, and proves nothing
            compact = self.compact
            if compact is not None and not compact.loses(rows):
                rows = {k: compact.rows_of(k, v) for k, v in rows.items()}
                return lower_bounds(compact, rows, compact.bounds, compact.relaxed, compact.region, reach=compact.reach)
            relaxed: dict[int, Lines | Planes] = {**self.lines, **self.planes}
            return lower_bounds(self.network, rows, self.bounds, relaxed, self.region)

    def one(self, entry: int) -> LinearAnalysis:
        """The analysis of one region of the batch."""
        if self.region.batch == 1:
            return self
        if self.parts:
            return self.parts[entry]
        some = slice(entry, entry + 1)
        return LinearAnalysis(
            self.network,
            self.region.single()[entry],
            [(lower[some], upper[some]) for lower, upper in self.bounds],
            {k: _cut(lines, some) for k, lines in self.lines.items()},
            {k: _cut(planes, some) for k, planes in self.planes.items()},
        )

    def property_rows(self, rows: Rows) -> Array:
        """Rigorous lower bounds `(B, R)` on the left side of every row of an unsafe set."""
        return namespace(self.region.lower).stack(self.rows_each([rows] * self.region.batch), axis=0)

    def rows_each(self, rows: Sequence[Rows]) -> list[Array]:
        """The same (R,) for each region of the batch, with an unsafe set of its own."""
        counts = {each.outputs.shape[0] for each in rows}
        if self.region.batch > 1 and (self.parts or len(counts) > 1):
            return [self.one(entry).rows_each([each])[0] for entry, each in enumerate(rows)]
        if 0 in counts:  # a disjunct without rows: every input of the set is unsafe
            sample = self.region.lower
            return [namespace(sample).zeros(0, dtype=sample.dtype, device=sample.device) for _ in rows]
        with np.errstate(all="ignore"):
            return list(self.certain(rows, self.backward(self.starts(rows))))

    def starts(self, rows: Sequence[Rows]) -> dict[int, Array]:
        """The rows of unsafe sets, equally many, as coefficients over the output and, where mentioned, the input."""
        last, sample = len(self.network.nodes) - 1, self.region.lower
        rows = [r.held_in(float_type(sample)) for r in rows]
        shape = (len(rows), rows[0].outputs.shape[0])
        start = {last: like(np.stack([r.outputs for r in rows]).reshape(*shape, *self.network.output_shape), sample)}
        if any(r.inputs is not None for r in rows):
            none = np.zeros((shape[1], self.network.n_inputs))
            inputs = np.stack([none if r.inputs is None else r.inputs for r in rows])
            over_input = like(inputs.reshape(*shape, *self.network.input_shape), sample)
            start[0] = start[0] + over_input if last == 0 else over_input  # the output may be the input itself
        return start

    def certain(self, rows: Sequence[Rows], lower: Array) -> Array:
        """Lower bounds on `starts` less what the rounding of the rows' coefficients may have cost; NaN is -inf."""
        xp = namespace(lower)
        rows = [r.held_in(float_type(lower)) for r in rows]
        for errors, node in (
            ([r.output_error for r in rows], len(self.network.nodes) - 1),
            ([r.input_error for r in rows], 0),
        ):
            for entry, error in enumerate(errors):
                if error is None:
                    continue
                reach = xp.reshape(magnitude(*(end[entry] for end in self.bounds[node])), (-1, 1))
                cost = (like(error, lower) @ reach)[:, 0]
                terms = reach.shape[0]
                less = down(lower[entry] - cost * (1.0 + 2.0 * gamma(terms, cost)) - terms * tiny(cost))
                lower = xp.concat([lower[:entry], less[None], lower[entry + 1 :]], axis=0)
        return xp.where(xp.isnan(lower), xp.full_like(lower, -xp.inf), lower)

    def expand(self, rows: np.ndarray) -> Array:
        """`(R, *shape)` as `(B, R, *shape)` in the analysis's arithmetic."""
        array = like(rows, self.region.lower)
        return namespace(array).broadcast_to(array[None], (self.region.batch, *rows.shape))


def joined(parts: tuple[LinearAnalysis, ...], region: Region) -> LinearAnalysis:
    """The analyses of the regions of a batch as one."""
    xp = namespace(region.lower)
    bounds = [tuple(xp.concat(ends, axis=0) for ends in zip(*each, strict=True))
              for each in zip(*(p.bounds for p in parts), strict=True)]  # fmt: skip
    lines = {k: _stacked(Lines, [p.lines[k] for p in parts]) for k in _common([p.lines for p in parts])}
    planes = {k: _stacked(Planes, [p.planes[k] for p in parts]) for k in _common([p.planes for p in parts])}
    return LinearAnalysis(parts[0].network, region, bounds, lines, planes, parts=parts)


def _cut(relaxed: Any, some: slice) -> Any:
    """The entries `some` of lines or planes."""
    return type(relaxed)(*(getattr(relaxed, f.name)[some] for f in dataclasses.fields(relaxed)))


def _common(each: Sequence[Mapping[int, Any]]) -> list[int]:
    return [k for k in each[0] if all(k in other for other in each)]


def _stacked(kind: Any, each: Sequence[Any]) -> Any:
    """Lines, or planes, of several regions as those of a batch."""
    names = [f.name for f in dataclasses.fields(kind)]
    xp = namespace(getattr(each[0], names[0]))
    return kind(*(xp.concat([getattr(e, name) for e in each], axis=0) for name in names))

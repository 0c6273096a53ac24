"""Points moved downhill to become witnesses, on a reduced chain: forward passes and gradients in plain float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from verifkit.analysis.bab.box_examination import Disjuncts
from verifkit.analysis.bab.chain import Chain
from verifkit.analysis.bab.chain_bounds import Matrix
from verifkit.analysis.region import region_of
from verifkit.confirm import confirm
from verifkit.query import Query

CLOSE = 1e-7
"""A margin this close to 0, relative to 1 + the largest output, is a tie as far as floats can tell."""

BEYOND = 1e-6
"""How far beyond 0 a step aims, relative to 1 + the largest output."""

POINTS, STEPS = 16, 10
"""How many points are moved downhill at a time, and how far."""


class ChainAttack:
    """Looks for a witness near given points.

    query: None where points of the chain are no inputs of a question: then none is a witness. matrices: the chain's.
    least: the least loss of any point tried so far, which `nearest` (n,) has for `disjunct`. touched: whether one came
    as close to 0 as `CLOSE`.
    """

    nearest: np.ndarray | None = None
    disjunct = 0

    def __init__(self, query: Query | None, chain: Chain, disjuncts: Disjuncts, matrices: Sequence[Matrix]) -> None:
        self.query, self.chain, self.disjuncts, self._matrices = query, chain, disjuncts, matrices
        self.least, self.touched = np.inf, False
        self._tried = np.inf
        self._fixed = np.zeros(0) if query is None else region_of(query).lower.reshape(-1)

    def values(self, x: np.ndarray) -> np.ndarray:
        """The rows less their bounds at points (P, n): (P, R)."""
        return list(self._forward(x))[-1]

    def loss(self, values: np.ndarray) -> np.ndarray:
        """(P,): at or below 0 the point is unsafe."""
        return np.asarray(values[:, self.disjuncts.rows].max(axis=2).min(axis=1))

    def _forward(self, x: np.ndarray) -> Iterator[np.ndarray]:
        h = x
        for layer, matrix in zip(self.chain.layers[:-1], self._matrices, strict=False):
            z = matrix.forward(h) + layer.bias
            yield z
            h = layer.after(z)
        last = self.chain.layers[-1]
        y = h @ last.weight.T + last.bias
        yield y if self.chain.coupling is None else y + x @ self.chain.coupling.T

    def at(self, points: np.ndarray) -> np.ndarray | None:
        """A confirmed witness near points (P, n), if a few steps downhill lead to one."""
        return self.near(points, self.loss(self.values(points)))

    def near(self, points: np.ndarray, loss: np.ndarray) -> np.ndarray | None:
        """A confirmed witness near points (P, n) of that loss (P,), if a few steps downhill lead to one."""
        if not loss.size or self.query is None:
            return None
        x = points[np.argsort(loss, kind="stable")[:POINTS]]
        half = (self.chain.upper - self.chain.lower) / 2
        for step in range(STEPS + 1):
            values = list(self._forward(x))
            by_disjunct = values[-1][:, self.disjuncts.rows].max(axis=2)
            loss = by_disjunct.min(axis=1)
            best = int(np.argmin(loss))
            if loss[best] < self.least:
                self.least, self.nearest, self.disjunct = float(loss[best]), x[best], int(by_disjunct[best].argmin())
            close = bool(loss[best] <= CLOSE * (1.0 + float(np.abs(values[-1][best]).max())))
            self.touched |= close
            if close and loss[best] < self._tried:  # the nearest input that the model can be fed may be unsafe
                point = self._fixed.copy()
                point[self.chain.inputs] = x[best]
                if confirm(self.query, point) is not None:
                    return np.asarray(point)
                self._tried = float(loss[best])  # what fails to replay is tried again only where it is clearer
            if step == STEPS:
                break
            gradient = self._gradient(values, by_disjunct.argmin(axis=1)) * half
            size = np.maximum((gradient * gradient).sum(axis=1), 1e-300)
            # As far as a linear function would have to go, and a little: a convex one would never get to 0 else, and
            # the violation should be clear.
            beyond = BEYOND * (1.0 + np.abs(values[-1]).max(axis=1))
            length = (loss + beyond) / size
            x = np.clip(x - length[:, None] * gradient * half, self.chain.lower, self.chain.upper)
        return None

    def _gradient(self, values: list[np.ndarray], disjunct: np.ndarray) -> np.ndarray:
        """Of the largest row of each point's disjunct, (P, n)."""
        rows = self.disjuncts.rows[disjunct]
        each = np.arange(rows.shape[0])
        row = rows[each, values[-1][each[:, None], rows].argmax(axis=1)]
        gradient: np.ndarray = self.chain.layers[-1].weight[row]
        for k in range(len(values) - 2, -1, -1):
            relu = self.chain.layers[k].relu
            gradient = self._matrices[k].times(np.where(relu & (values[k] <= 0), 0.0, gradient))
        return gradient if self.chain.coupling is None else gradient + self.chain.coupling[row]

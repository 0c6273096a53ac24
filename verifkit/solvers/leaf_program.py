"""The linear program that is left of a part in which every ReLU's phase is fixed.

The network is an affine function there: minimise t over the inputs with t >= every row of the disjunct and the phases
kept. Nothing that the solver says is trusted: its dual values become multipliers of the part and weights of its rows,
whose bound is then taken as of any others, and its point is a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from verifkit.analysis.bab.chain import Chain
from verifkit.analysis.bab.chain_attack import ChainAttack
from verifkit.analysis.bab.phase_bounds import Parts, PhaseBounds
from verifkit.budget import Clock
from verifkit.solvers.linear_program import Duals, LinearProgram

ENTRIES = 2**17
"""A program with more coefficients than this takes too long to be solved for the sake of a witness."""

PIECES = 3
"""Pieces of the network that are searched, at most, every time that points are tried."""


@dataclass(eq=False)
class LeafAttack:
    """Looks for a witness near points, then at the optimum of the piece of the network that the nearest one lies in.

    Where several rows must hold at once, as in a ball, steps downhill end in the kinks of their maximum.
    """

    bounds: PhaseBounds
    attack: ChainAttack
    clock: Clock
    tried: set[bytes] = field(default_factory=set)

    def at(self, points: np.ndarray) -> np.ndarray | None:
        """A confirmed witness, if one is found near points (P, n)."""
        if self.attack.disjuncts.rows.shape[1] == 1:
            return self.attack.at(points)
        for _ in range(PIECES):
            witness, nearest = self.attack.at(points), self.attack.nearest
            if witness is not None or nearest is None or self.bounds.units * nearest.size > ENTRIES:
                return witness
            part = self.bounds.around(nearest, self.attack.disjunct)
            key = part.phase.tobytes() + part.disjunct.tobytes()
            solved = None if key in self.tried else solve_leaf(self.bounds, part, self.clock)
            self.tried.add(key)
            if solved is None:
                return None
            points = solved[1]
        return self.attack.at(points)


def solve_leaf(bounds: PhaseBounds, part: Parts, clock: Clock) -> tuple[Parts, np.ndarray] | None:
    """The part, a single one, with the program's multipliers and weights, and its point (1, n), if it has an answer.

    All weights are 0 where the phases exclude each other and the multipliers prove it; else they sum to 1.
    """
    chain = bounds.chain
    kept, floor, matrix, constant = _program(bounds, part)
    # First whether the phases can be kept at all: by how much all of them would have to be relaxed.
    found = _least(chain.lower, chain.upper, kept, floor, clock)
    relaxed = 0.0 if found is None else float(found.values[-1])
    if found is not None and relaxed > 0:
        apart = Parts(part.disjunct, part.phase, _positive(found.rows)[None], np.zeros((1, constant.size)))
        if bounds.refuted(apart, bounds.examined(apart).margin)[0]:
            return apart, _point(chain, found)
    # What the solver cannot keep by less than rounding must not leave it without an answer.
    found = _least(chain.lower, chain.upper, -matrix, constant, clock, kept, floor - 2 * max(relaxed, 0.0))
    if found is None or not found.rows[: constant.size].max() > 0:
        return None
    mix = _positive(found.rows[: constant.size])
    weight = _positive(found.rows[constant.size :]) / mix.sum()
    return Parts(part.disjunct, part.phase, weight[None], (mix / mix.sum())[None]), _point(chain, found)


def _program(bounds: PhaseBounds, part: Parts) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What the phases ask, kept @ x >= floor, (U, n), (U,); and the disjunct's rows as matrix @ x + constant."""
    chain, phase = bounds.chain, part.phase[0]
    n = chain.inputs.size
    matrix, constant = np.eye(n), np.zeros(n)
    asked, least = [], []
    for k, layer in enumerate(chain.layers[:-1]):
        matrix, constant = layer.weight @ matrix, layer.weight @ constant + layer.bias
        count, own = bounds.counts[k], phase[bounds.spans[k]]
        asked.append(own[:, None] * matrix[:count])
        least.append(-own * constant[:count])
        on = ~layer.relu | (layer.high > 0)
        on[:count] = own > 0
        matrix, constant = matrix * on[:, None], constant * on
    rows = bounds.disjuncts.rows[part.disjunct[0]]
    last = chain.layers[-1]
    matrix, constant = last.weight[rows] @ matrix, last.weight[rows] @ constant + last.bias[rows]
    if chain.coupling is not None:
        matrix = matrix + chain.coupling[rows]
    kept, floor = np.concatenate([*asked, np.zeros((0, n))]), np.concatenate([*least, np.zeros(0)])
    return kept, floor, matrix, constant


def _least(
    lower: np.ndarray,
    upper: np.ndarray,
    soft: np.ndarray,
    soft_floor: np.ndarray,
    clock: Clock,
    hard: np.ndarray | None = None,
    hard_floor: np.ndarray | None = None,
) -> Duals | None:
    """The least t for which soft @ x + t >= soft_floor and hard @ x >= hard_floor."""
    from scipy import sparse

    program = LinearProgram()
    program.add_columns(np.append(lower, -1e20), np.append(upper, 1e20))
    matrix = np.pad(soft, ((0, 0), (0, 1)), constant_values=1.0)
    floor = soft_floor
    if hard is not None and hard_floor is not None:
        matrix = np.concatenate([matrix, np.pad(hard, ((0, 0), (0, 1)))])
        floor = np.concatenate([floor, hard_floor])
    if not floor.size:
        return None
    program.add_rows(sparse.csr_array(matrix), floor, np.full(floor.size, np.inf))
    return program.minimise(np.append(np.zeros(lower.size), 1.0), clock)


def _positive(duals: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(duals, 0.0))


def _point(chain: Chain, found: Duals) -> np.ndarray:
    return np.asarray(np.clip(found.values[:-1], chain.lower, chain.upper)[None])

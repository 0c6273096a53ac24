"""A rigorous lower bound on a quadratic function over [-1, 1]^N, by shifting eigenvalues.

The function is (1, w)' P (1, w), made of a row and multipliers of constraints (`semidefinite`). Those of w_i^2 <= 1 act
on the diagonal of P, so that they can always be raised until P - t E_00 is positive semidefinite; then t is a bound.
That it is semidefinite is taken neither from a solver nor from an eigenvalue routine: of a factor L it is enough that
P - t E_00 - L L' is small, whatever L is, since |(1, w)|^2 <= N + 1.

Sources: Dathathri et al., "Enabling certification of verification-agnostic networks via memory-efficient semidefinite
programming", NeurIPS 2020, equation 5 (the dual bound by a shift of eigenvalues); Rump, "Verification of positive
definiteness", BIT 46, 2006 (the idea of the check).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from verifkit.analysis.rounding import down, gamma, tiny
from verifkit.analysis.semidefinite import Multipliers, Relaxed

TRIES = 6
"""How often the diagonal is raised further where rounding keeps a factorisation from ending."""


@np.errstate(all="ignore")
def safe_bound(problem: Relaxed, row: int, multipliers: Multipliers) -> float:
    """A rigorous lower bound on the row, whatever the multipliers are; -inf where none is found.

    Their values for w^2 <= 1 are first moved, all by the same, to where the bound is best.
    """
    multipliers = multipliers.safe()
    matrix, lost = problem.matrix(row, multipliers)
    if not np.isfinite(matrix).all():
        return -math.inf
    if not problem.order:
        return float(down(matrix[0] - lost)[0])
    try:
        shift, step = _best_shift(matrix, float(multipliers.box.min(initial=0.0)))
        for _ in range(TRIES):
            moved = replace(multipliers, box=(multipliers.box + shift).clip(0))
            bound = _verified(*problem.matrix(row, moved))
            if bound > -math.inf:
                return bound
            shift, step = shift + step, 8.0 * step
    except np.linalg.LinAlgError:  # an eigenvalue iteration that does not converge
        pass
    return -math.inf


def _best_shift(matrix: np.ndarray, least_box: float) -> tuple[float, float]:
    """The s that makes  c - N s - g' (Q + s)^-1 g  largest, for P = [[c, g'], [g, Q]]; and a step on rounding's scale.

    It is concave in s above minus the least eigenvalue of Q: bisection on its derivative. Not below -least_box.
    """
    eigenvalues, vectors = np.linalg.eigh(matrix[1:, 1:])
    count = eigenvalues.size
    squares = (vectors.T @ matrix[1:, 0]) ** 2
    scale = float(np.abs(eigenvalues).max()) + float(np.sqrt(squares.sum())) + abs(float(matrix[0, 0]))
    step = 1e-14 * count * max(scale, tiny(matrix))
    low = float(-eigenvalues[0]) + step
    high = low + float(np.sqrt(squares.sum() / count)) + step
    for _ in range(100):
        middle = low / 2 + high / 2
        rising = float((squares / (eigenvalues + middle) ** 2).sum()) > count
        low, high = (middle, high) if rising else (low, middle)
    return max(high, -least_box), step


def _verified(matrix: np.ndarray, lost: float) -> float:
    """A lower bound on (1, w)' P (1, w) - lost over [-1, 1]^N from a factor of P - t E_00, for a t chosen here."""
    size = matrix.shape[0]
    constant = float(matrix[0, 0])
    factor = np.zeros_like(matrix)
    try:
        lower = np.linalg.cholesky(matrix[1:, 1:])
    except np.linalg.LinAlgError:
        return -math.inf
    # The last column of a factor of [[Q, g], [g', c - t]] is L^-1 g and 0 below it, for t = c - |L^-1 g|^2.
    column = np.linalg.solve(lower, matrix[1:, 0])
    t = constant - float(column @ column)
    factor[1:, 1:], factor[0, 1:] = lower, column
    shifted = matrix.copy()
    shifted[0, 0] = constant - t
    product = np.abs(factor) @ np.abs(factor).T
    g = gamma(size + 4, matrix)
    residual = np.abs(shifted - factor @ factor.T) + g * (product + np.abs(shifted))
    norm = float(residual.sum(axis=1).max()) * (1.0 + 2.0 * g) + size * size * tiny(matrix)
    lost += 4.0 * gamma(2, matrix) * (abs(constant) + abs(t))
    bound = float(down(np.array(t - (size * norm + lost) * (1.0 + 2.0 * g)), 8))
    return bound if math.isfinite(bound) else -math.inf

"""The unsafe set as a matrix: what a bound method has to bound from below, and when a disjunct is refuted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from verifkit.analysis.rounding import above_in
from verifkit.budget import BudgetExhausted
from verifkit.errors import PropertyError
from verifkit.input_sets import float_above
from verifkit.properties import Constraint, Property


@dataclass(frozen=True, eq=False)
class Rows:
    """Every constraint of every disjunct as one row: outputs @ y + inputs @ x <= bound (or < where strict).

    outputs (R, n_outputs) and inputs (R, n_inputs) are the nearest floats of the coefficients; output_error and
    input_error bound what that rounding changed; inputs and input_error are None where no row mentions an input.
    bound (R,), float64 whatever the coefficients are, is rounded up. disjunct (R,) numbers the disjunct of each row.
    """

    outputs: np.ndarray
    inputs: np.ndarray | None
    output_error: np.ndarray | None
    input_error: np.ndarray | None
    bound: np.ndarray
    strict: np.ndarray
    disjunct: np.ndarray
    n_disjuncts: int

    def held_in(self, dtype: np.dtype[Any]) -> Rows:
        """The same rows with coefficients that are floats of `dtype`, what that rounds being part of the errors."""
        if self.outputs.dtype == dtype:
            return self
        outputs, output_error = _rounded(self.outputs, self.output_error, dtype)
        if self.inputs is None:
            return replace(self, outputs=outputs, output_error=output_error)
        inputs, input_error = _rounded(self.inputs, self.input_error, dtype)
        return replace(self, outputs=outputs, inputs=inputs, output_error=output_error, input_error=input_error)

    def refuted_rows(self, lower: np.ndarray) -> np.ndarray:
        """Which rows (R,) can never be satisfied, given rigorous lower bounds (R,) on their left sides."""
        return np.where(self.strict, lower >= self.bound, lower > self.bound)

    def refuting(self, lower: np.ndarray) -> list[tuple[int, float] | None]:
        """For each disjunct the row that refutes it with the largest margin and that row's bound, or None."""
        refuted = self.refuted_rows(lower)
        found: list[tuple[int, float] | None] = []
        for number in range(self.n_disjuncts):
            rows = np.flatnonzero((self.disjunct == number) & refuted)
            best = rows[np.argmax(lower[rows] - self.bound[rows])] if rows.size else None
            found.append(None if best is None else (int(best), float(lower[best])))
        return found

    def gap(self, lower: np.ndarray, number: int) -> float:
        """The largest (lower - bound) among one disjunct's rows; -inf for a disjunct without rows."""
        return float(max((lower - self.bound)[self.disjunct == number], default=-np.inf))

    def margin(self, lower: np.ndarray) -> float:
        """min over disjuncts of the largest (lower - bound): positive means that everything is refuted."""
        gaps = np.full(self.n_disjuncts, -np.inf)
        np.maximum.at(gaps, self.disjunct, lower - self.bound)
        return float(gaps.min()) if gaps.size else float("inf")

    @contextmanager
    def reported(self, lower: np.ndarray) -> Iterator[None]:
        """Where time runs out inside, the `BudgetExhausted` says what these lower bounds had come to."""
        try:
            yield
        except BudgetExhausted as late:
            raise BudgetExhausted(str(late) or f"best bound {self.margin(lower):.6g}") from None


def rows_of(prop: Property) -> Rows:
    """The rows of a property whose disjuncts carry no box (see `Property.cases`)."""
    rows = [(number, _in_range(row)) for number, disjunct in enumerate(prop.unsafe) for row in disjunct.constraints]
    outputs, output_error = _matrix([row.outputs for _, row in rows], prop.n_outputs)
    inputs, input_error = None, None
    if prop.coupled:
        inputs, input_error = _matrix([row.inputs for _, row in rows], prop.n_inputs)
    return Rows(
        outputs,
        inputs,
        output_error,
        input_error,
        np.array([_above(row.bound) for _, row in rows]),
        np.array([row.strict for _, row in rows], dtype=bool),
        np.array([number for number, _ in rows], dtype=np.int64),
        len(prop.unsafe),
    )


def _rounded(
    values: np.ndarray, error: np.ndarray | None, dtype: np.dtype[Any]
) -> tuple[np.ndarray, np.ndarray | None]:
    """The nearest floats of `dtype`, and how far, rounded up, they may be from what `values` stand for."""
    with np.errstate(over="ignore", under="ignore"):
        near = values.astype(dtype)
        gap = np.abs(values - near.astype(np.float64))
        total = gap if error is None else np.where(gap > 0, np.nextafter(gap + error, np.inf), error)
    return near, above_in(total, dtype) if total.any() else None


def _in_range(row: Constraint) -> Constraint:
    """The same row, scaled by a power of two where its coefficients are far from 1 and would over- or underflow."""
    largest = max((abs(v) for _, v in row.outputs + row.inputs), default=Fraction(1))
    if Fraction(1, 2**100) <= largest <= 2**100:
        return row
    shift = largest.denominator.bit_length() - largest.numerator.bit_length()
    scale = Fraction(2) ** shift
    outputs, inputs = (tuple((k, v * scale) for k, v in terms) for terms in (row.outputs, row.inputs))
    return Constraint(outputs, row.bound * scale, row.strict, inputs)


def _above(bound: Fraction) -> float:
    """The least float that is >= the bound; infinite (never refuted) where it is beyond all floats."""
    try:
        return float(float_above([bound])[0])
    except PropertyError:
        return float("inf")


def _matrix(terms: list[tuple[tuple[int, Fraction], ...]], width: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Nearest floats, and a bound on their errors where any coefficient is not a float."""
    matrix = np.zeros((len(terms), width))
    error = np.zeros((len(terms), width))
    for number, row in enumerate(terms):
        for index, value in row:
            matrix[number, index] = float(value)
            gap = abs(Fraction(matrix[number, index]) - value)
            if gap:
                error[number, index] = float_above([gap])[0]
    return matrix, error if error.any() else None

"""Linear programming in integers: the polytopes of the exact oracle.

Primal simplex with Bland's rule and integer-preserving pivots. A form (an affine function of the polytope's variables)
is a list of integers, constant first, times a denominator that the caller keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

Form = list[int]
"""An affine form over variables v in [0, 1]^n, constant first, times a denominator kept elsewhere."""


class Polytope:
    """{v in R^n : v >= 0 and every added form >= 0} with a feasible vertex, as a simplex dictionary of integers.

    Basic variable `basic[i]` is (rows[i][0] + sum_j rows[i][j] * nonbasic `columns[j]`) / den; column 0 is the
    constant. Variables 0..n-1 are v, the others slacks. Pivots divide exactly by the last denominator (entries stay
    minors of the first tableau), so no fractions appear.
    """

    def __init__(self, n: int) -> None:
        self.n, self.den, self.fresh = n, 1, n
        self.columns = [-1, *range(n)]
        self.basic: list[int] = []
        self.rows: list[Form] = []

    def copy(self) -> Polytope:
        """A copy that may be changed: rows are replaced by a pivot, never written to."""
        other = Polytope(self.n)
        other.den, other.fresh = self.den, self.fresh
        other.columns, other.basic, other.rows = list(self.columns), list(self.basic), list(self.rows)
        return other

    def express(self, form: Form) -> Form:
        """The form in terms of the nonbasic variables, times `den`."""
        n, den = self.n, self.den
        out = [form[c + 1] * den if c < n else 0 for c in self.columns]
        for variable, row in zip(self.basic, self.rows, strict=True):
            if variable < n and (factor := form[variable + 1]):
                out = [a + factor * b for a, b in zip(out, row, strict=True)]
        return out

    def climb(self, objective: Form, enough: Callable[[int], bool] | None = None) -> Form:
        """Maximise an expressed form, moving the vertex; stops early where its constant is `enough`.

        Returns the form as expressed at the new vertex. Bland's rule: always the lowest index, so it cannot cycle.
        """
        while enough is None or not enough(objective[0]):
            entering = min(((c, j) for j, c in enumerate(self.columns) if j and objective[j] > 0), default=None)
            if entering is None:
                return objective
            objective = self._pivot(self._leaving(entering[1]), entering[1], objective)
        return objective

    def _leaving(self, j: int) -> int:
        best, constant, slope = -1, 0, 0
        for i, row in enumerate(self.rows):
            if row[j] < 0:
                # Compare the ratios row[0] / -row[j] and constant / -slope without dividing.
                gap = row[0] * slope - constant * row[j]
                if best < 0 or gap > 0 or (gap == 0 and self.basic[i] < self.basic[best]):
                    best, constant, slope = i, row[0], row[j]
        if best < 0:
            raise ValueError("a linear program of the oracle is unbounded: its region is no polytope")
        return best

    def _pivot(self, r: int, j: int, objective: Form) -> Form:
        pivot, den = self.rows[r], self.den
        new = -pivot[j]

        def moved(row: Form) -> Form:
            a = row[j]
            out = [(x * new + a * c) // den for x, c in zip(row, pivot, strict=True)]
            out[j] = -a
            return out

        self.rows = [moved(row) for row in self.rows]
        self.rows[r] = list(pivot)
        self.rows[r][j] = -den
        self.basic[r], self.columns[j], self.den = self.columns[j], self.basic[r], new
        return moved(objective)

    def append(self, row: Form) -> None:
        """An expressed row >= 0 that the present vertex satisfies."""
        self.basic.append(self.fresh)
        self.rows.append(row)
        self.fresh += 1

    def widen(self) -> None:
        """One more variable >= 0, nonbasic (in the last column), in no row yet."""
        self.rows = [[*row, 0] for row in self.rows]
        self.columns.append(self.fresh)
        self.fresh += 1

    def add(self, form: Form) -> bool:
        """Cut by form >= 0, moving to a vertex that satisfies it; False where there is none."""
        common = math.gcd(*form) or 1
        row = self.climb(self.express([v // common for v in form]), lambda value: value >= 0)
        if row[0] >= 0:
            self.append(row)
        return row[0] >= 0

    def vertex(self) -> list[Fraction]:
        v = [Fraction(0)] * self.n
        for variable, row in zip(self.basic, self.rows, strict=True):
            if variable < self.n:
                v[variable] = Fraction(row[0], self.den)
        return v


def negative(form: Form) -> Form:
    return [-v for v in form]


def least_on_cube(form: Form) -> int:
    """The least value over v in [0, 1]^n."""
    return form[0] + sum(v for v in form[1:] if v < 0)


def combine(coefficients: Sequence[int], forms: Sequence[Form], start: Form) -> Form:
    total = start
    for c, form in zip(coefficients, forms, strict=True):
        if c:
            total = [t + c * f for t, f in zip(total, form, strict=True)]
    return total


def sides(polytope: Polytope, form: Form) -> list[tuple[bool, Polytope]]:
    """The phases (active or not) that a pre-activation takes on a polytope, with the part of it where it does.

    A phase that is reached on the face form = 0 only is left out: the other one covers that face too.
    """
    if least_on_cube(form) >= 0:
        return [(True, polytope)]
    if least_on_cube(negative(form)) >= 0:
        return [(False, polytope)]
    up, down = polytope.copy(), polytope.copy()
    above = up.climb(up.express(form), lambda value: value > 0)
    below = down.climb(down.express(negative(form)), lambda value: value > 0)
    if above[0] <= 0:
        return [(False, polytope)]
    if below[0] <= 0:
        return [(True, polytope)]
    up.add(form)
    down.add(negative(form))
    return [(True, up), (False, down)]


def least_maximum(polytope: Polytope, forms: list[Form]) -> Fraction:
    """min over the polytope of the largest form; moves the vertex to a minimiser."""
    rows = [polytope.express(form) for form in forms]
    top = max(range(len(rows)), key=lambda r: rows[r][0])
    # t >= every form: with t = forms[top] + s and s >= 0 a new variable, the present vertex is feasible at s = 0.
    polytope.widen()
    for r, row in enumerate(rows):
        if r != top:
            polytope.append([*(a - b for a, b in zip(rows[top], row, strict=True)), polytope.den])
    best = polytope.climb(negative([*rows[top], polytope.den]))
    return Fraction(-best[0], polytope.den)


def reaches(polytope: Polytope, forms: Sequence[Form], strict: Sequence[bool]) -> bool:
    """Whether form <= 0 (< 0 where `strict`) holds for all somewhere on the polytope; moves the vertex there."""
    if not all(polytope.add(negative(form)) for form in forms):
        return False
    cuts = [polytope.express(negative(form)) for form, open_ in zip(forms, strict, strict=True) if open_]
    polytope.widen()
    den, zeros = polytope.den, [0] * (len(polytope.columns) - 2)
    for cut in [*cuts, [den, *zeros]]:  # maximise a slack s: form + s <= 0 for every strict row, and s <= 1
        polytope.append([*cut, -den])
    return polytope.climb([0, *zeros, den], lambda slack: slack > 0)[0] > 0

"""The exact oracle: the truth about a small ReLU network, in rational arithmetic.

It walks over the ReLU activation patterns that some input of the set reaches. Each pattern turns the network into one
affine map on one polytope, where every question is a linear program, solved exactly by `simplex`. It takes plain
numbers and shares no code with the lowering or the analyses, so that it can contradict them. Meant for about 12 ReLUs
and up to 4 inputs (an l1 ball of n inputs costs 2^n rows).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

from verifkit.testing.simplex import Form, Polytope, combine, least_maximum, least_on_cube, negative, reaches, sides

Vector = tuple[Fraction, ...]
Matrix = tuple[Vector, ...]


def _vector(values: Any) -> Vector:
    return tuple(Fraction(v.item() if hasattr(v, "item") else v) for v in values)


@dataclass(frozen=True)
class ToyNet:
    """Dense layers: z_k = W_k h_(k-1) + b_k, h_k = relu(z_k), the last z is the output; h_0 is the input.

    `weights[k - 1]`, `biases[k - 1]` belong to layer k. A skip `(s, k)` adds h_s to z_k (0 <= s < k, equal widths).
    Numbers may be given as floats or Fractions and are kept as exact rationals. Raises `ValueError` for a misfit.
    """

    weights: tuple[Matrix, ...]
    biases: tuple[Vector, ...]
    skips: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(tuple(_vector(row) for row in w) for w in self.weights))
        object.__setattr__(self, "biases", tuple(_vector(b) for b in self.biases))
        object.__setattr__(self, "skips", tuple((int(s), int(k)) for s, k in self.skips))
        if not self.weights or len(self.weights) != len(self.biases):
            raise ValueError(f"{len(self.weights)} weight matrices and {len(self.biases)} biases")
        widths = self.widths
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), 1):
            if len(bias) != len(weight) or any(len(row) != widths[k - 1] for row in weight):
                raise ValueError(f"layer {k}: weights or biases do not fit its neighbours")
        for s, k in self.skips:
            if not 0 <= s < k < len(widths) or widths[s] != widths[k]:
                raise ValueError(f"the skip from {s} to {k} joins no two layers of equal width")

    @property
    def widths(self) -> tuple[int, ...]:
        """Lengths of h_0 (the input), h_1, ..., the output."""
        return (len(self.weights[0][0]), *(len(w) for w in self.weights))

    @property
    def n_inputs(self) -> int:
        return self.widths[0]

    @property
    def n_outputs(self) -> int:
        return self.widths[-1]

    @property
    def n_relus(self) -> int:
        return sum(self.widths[1:-1])


def evaluate(net: ToyNet, x: Sequence[Fraction]) -> Vector:
    """The network's exact outputs at `x`."""
    values: list[Vector] = [tuple(Fraction(v) for v in x)]
    last = len(net.weights)
    for k, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True), 1):
        z = [b + sum(w * h for w, h in zip(row, values[-1], strict=True)) for row, b in zip(weight, bias, strict=True)]
        for s, target in net.skips:
            if target == k:
                z = [a + h for a, h in zip(z, values[s], strict=True)]
        values.append(tuple(z) if k == last else tuple(max(v, Fraction(0)) for v in z))
    return values[-1]


@dataclass(frozen=True)
class Region:
    """The box lower <= x <= upper, cut (where `center` is given) by the ball |x - center|_1 <= radius."""

    lower: Vector
    upper: Vector
    center: Vector | None = None
    radius: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lower", _vector(self.lower))
        object.__setattr__(self, "upper", _vector(self.upper))


def l1_ball(center: Sequence[Any], radius: Any, lower: Any = None, upper: Any = None) -> Region:
    """|x - center|_1 <= radius, inside the box lower <= x <= upper where one is given."""
    c, r = _vector(center), _vector([radius])[0]
    low, high = tuple(v - r for v in c), tuple(v + r for v in c)
    if lower is not None:
        low, high = tuple(map(max, low, _vector(lower))), tuple(map(min, high, _vector(upper)))
    return Region(low, high, c, r)


@dataclass(frozen=True)
class Row:
    """outputs . y + inputs . x <= bound, or < where `strict`; `inputs` may be left empty for all zeros."""

    outputs: Vector
    bound: Fraction
    strict: bool = False
    inputs: Vector = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", _vector(self.outputs))
        object.__setattr__(self, "inputs", _vector(self.inputs))
        object.__setattr__(self, "bound", _vector([self.bound])[0])

    def value(self, x: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction:
        """outputs . y + inputs . x - bound: the row is satisfied where this is <= 0 (< 0 if strict)."""
        total = sum((a * v for a, v in zip(self.outputs, y, strict=True)), -self.bound)
        return sum((c * v for c, v in zip(self.inputs, x, strict=True)), total) if self.inputs else total


@dataclass(frozen=True)
class Disjunct:
    """All rows at once, for inputs that also lie in `box` = (lower, upper) where one is given."""

    rows: tuple[Row, ...]
    box: tuple[Vector, Vector] | None = None


@dataclass(frozen=True)
class OracleAnswer:
    """The exact truth.

    violated: some x of the region (and of a disjunct's box) satisfies all rows of that disjunct, strict ones strictly.
    witness, outputs: such an input, of the smallest margin, and the network's outputs there; None where it holds.
    margin: min over disjuncts, min over the disjunct's inputs, max over its rows of outputs . y + inputs . x - bound.
        Without strict rows: violated if and only if margin <= 0. Negative: violated, positive: holds, always. It is
        -inf where a disjunct without rows is reached, inf where no disjunct meets the region.
    nearest: an input where the margin is attained (None for inf).
    max_abs_output: the largest |y_j| over the region, exactly.
    """

    violated: bool
    witness: Vector | None
    outputs: Vector | None
    margin: Fraction | float
    nearest: Vector | None
    max_abs_output: Fraction

    @property
    def band(self) -> Fraction:
        """1e-6 (1 + max|y|): methods in floating point need not decide where |margin| is at most this."""
        return Fraction(1, 10**6) * (1 + self.max_abs_output)

    @property
    def in_band(self) -> bool:
        return -self.band <= self.margin <= self.band


def _denominator(*vectors: Sequence[Fraction]) -> int:
    return math.lcm(*(v.denominator for vector in vectors for v in vector))


def _integers(vector: Sequence[Fraction], denominator: int) -> list[int]:
    return [v.numerator * (denominator // v.denominator) for v in vector]


class _Search:
    """The activation patterns of a network over a region, in integers.

    Inputs are x = lower + v * (upper - lower) with one v in [0, 1] for each input that is not fixed. The forms of
    layer k carry the common denominator `dens[k]`: a positive scale changes no ReLU's phase.
    """

    def __init__(self, net: ToyNet, region: Region) -> None:
        if len(region.lower) != net.n_inputs or len(region.upper) != net.n_inputs:
            raise ValueError(f"a region of {len(region.lower)} inputs for a network of {net.n_inputs}")
        if any(low > high for low, high in zip(region.lower, region.upper, strict=True)):
            raise ValueError("the region is empty")
        self.net, self.region = net, region
        self.free = [i for i, (a, b) in enumerate(zip(region.lower, region.upper, strict=True)) if a < b]
        self.n = len(self.free)
        self.dens = [_denominator(region.lower, region.upper)]
        self.layers: list[tuple[list[list[int]], list[int]]] = []
        for weight, bias in zip(net.weights, net.biases, strict=True):
            scale = _denominator(*weight, bias)
            self.dens.append(self.dens[-1] * scale)
            self.layers.append(([_integers(row, scale) for row in weight], _integers(bias, self.dens[-1])))
        width = [b - a for a, b in zip(region.lower, region.upper, strict=True)]
        self.inputs = []
        for i, (low, span) in enumerate(
            zip(_integers(region.lower, self.dens[0]), _integers(width, self.dens[0]), strict=True)
        ):
            self.inputs.append([low, *(span if i == f else 0 for f in self.free)])
        self.root = self._root()

    def constant(self, value: int) -> Form:
        return [value, *[0] * self.n]

    def _root(self) -> Polytope:
        root, region = Polytope(self.n), self.region
        for j in range(self.n):
            root.add([1, *(-1 if j == k else 0 for k in range(self.n))])
        if region.center is not None and self.n:
            scale = _denominator(region.center, [region.radius], [Fraction(1, self.dens[0])])
            inputs = [[v * (scale // self.dens[0]) for v in form] for form in self.inputs]
            center, (radius,) = _integers(region.center, scale), _integers([region.radius], scale)
            for signs in product((-1, 1), repeat=len(center)):
                start = self.constant(radius + sum(s * c for s, c in zip(signs, center, strict=True)))
                if not root.add(combine([-s for s in signs], inputs, start)):
                    raise ValueError("the region is empty")
        elif region.center is not None:
            gaps = (abs(a - c) for a, c in zip(region.lower, region.center, strict=True))
            if sum(gaps) > region.radius:
                raise ValueError("the region is empty")
        return root

    def leaves(self) -> Iterator[tuple[Polytope, list[Form]]]:
        """Polytopes that cover the region, each with the outputs' forms (denominator `dens[-1]`) on it."""
        return self._layer(self.root, [self.inputs])

    def _layer(self, polytope: Polytope, posts: list[list[Form]]) -> Iterator[tuple[Polytope, list[Form]]]:
        k = len(posts)
        weight, bias = self.layers[k - 1]
        z = [combine(row, posts[-1], self.constant(b)) for row, b in zip(weight, bias, strict=True)]
        for s, target in self.net.skips:
            if target == k:
                factor = self.dens[k] // self.dens[s]
                z = [combine([factor], [h], form) for form, h in zip(z, posts[s], strict=True)]
        if k == len(self.layers):
            yield polytope, z
        else:
            yield from self._neuron(polytope, posts, z, [])

    def _neuron(
        self, polytope: Polytope, posts: list[list[Form]], z: list[Form], done: list[Form]
    ) -> Iterator[tuple[Polytope, list[Form]]]:
        if len(done) == len(z):
            yield from self._layer(polytope, [*posts, done])
            return
        form = z[len(done)]
        for active, side in sides(polytope, form):
            yield from self._neuron(side, posts, z, [*done, form if active else self.constant(0)])

    def point(self, polytope: Polytope) -> Vector:
        """The input at the polytope's vertex."""
        x = list(self.region.lower)
        for i, v in zip(self.free, polytope.vertex(), strict=True):
            x[i] += v * (self.region.upper[i] - self.region.lower[i])
        return tuple(x)


class _Tally:
    """What the leaves seen so far say about one question."""

    def __init__(self, search: _Search, unsafe: Sequence[Disjunct]) -> None:
        self.search, self.unsafe = search, unsafe
        self.margin: Fraction | float = math.inf
        self.nearest: Vector | None = None
        self.witness: Vector | None = None
        self.largest = Fraction(-1)

    def leaf(self, polytope: Polytope, outputs: list[Form]) -> None:
        self._range(polytope.copy(), outputs)
        for disjunct in self.unsafe:
            self._disjunct(polytope.copy(), outputs, disjunct)

    def _range(self, polytope: Polytope, outputs: list[Form]) -> None:
        den = self.search.dens[-1]
        for form in (signed for y in outputs for signed in (y, negative(y))):
            if Fraction(-least_on_cube(negative(form)), den) > self.largest:
                top = polytope.climb(polytope.express(form))
                self.largest = max(self.largest, Fraction(top[0], polytope.den * den))

    def _forms(self, outputs: list[Form], rows: Sequence[Row]) -> tuple[list[Form], int]:
        """outputs . y + inputs . x - bound for every row, and their common denominator."""
        search = self.search
        scale = _denominator(*(row.outputs for row in rows), *(row.inputs for row in rows), [r.bound for r in rows])
        factor = search.dens[-1] // search.dens[0]
        forms = []
        for row in rows:
            (bound,) = _integers([row.bound], scale)
            form = combine(_integers(row.outputs, scale), outputs, search.constant(-bound * search.dens[-1]))
            if row.inputs:
                form = combine([v * factor for v in _integers(row.inputs, scale)], search.inputs, form)
            forms.append(form)
        return forms, scale * search.dens[-1]

    def _disjunct(self, polytope: Polytope, outputs: list[Form], disjunct: Disjunct) -> None:
        forms, den = self._forms(outputs, disjunct.rows)
        if forms and Fraction(max(map(least_on_cube, forms)), den) > self.margin:
            return
        if disjunct.box is not None and not self._restrict(polytope, *disjunct.box):
            return
        moved = polytope.copy()
        value = least_maximum(moved, forms) / den if forms else -math.inf
        if value < self.margin:
            self.margin, self.nearest = value, self.search.point(moved)
            if value < 0:
                self.witness = self.nearest
        if value == 0 and self.witness is None and reaches(polytope, forms, [row.strict for row in disjunct.rows]):
            self.witness = self.search.point(polytope)

    def _restrict(self, polytope: Polytope, lower: Vector, upper: Vector) -> bool:
        """Cut by a box in the inputs; False where nothing is left."""
        search = self.search
        for form, low, high in zip(search.inputs, lower, upper, strict=True):
            for sign, bound in ((1, low), (-1, high)):
                scaled = [sign * v * bound.denominator for v in form]
                scaled[0] -= sign * bound.numerator * search.dens[0]
                if least_on_cube(scaled) < 0 and not polytope.add(scaled):
                    return False
        return True


def _confirm(net: ToyNet, tally: _Tally, unsafe: Sequence[Disjunct]) -> None:
    """The margin must be what plain evaluation finds at the point where it was found."""
    if tally.nearest is None or tally.margin == -math.inf:
        return
    x, y = tally.nearest, evaluate(net, tally.nearest)
    here = [
        d for d in unsafe if d.box is None or all(a <= v <= b for a, v, b in zip(d.box[0], x, d.box[1], strict=True))
    ]
    found = min(max(row.value(x, y) for row in disjunct.rows) for disjunct in here)
    if found != tally.margin:
        raise RuntimeError(f"the oracle contradicts itself: margin {tally.margin}, but {found} by evaluation")


def decide(net: ToyNet, region: Region, unsafe: Sequence[Disjunct]) -> OracleAnswer:
    """The exact answer to: does some input of `region` reach one of the disjuncts of `unsafe`?

    Raises `ValueError` for an empty region or one of another size than the network's input.
    """
    search = _Search(net, region)
    tally = _Tally(search, unsafe)
    for polytope, outputs in search.leaves():
        tally.leaf(polytope, outputs)
    _confirm(net, tally, unsafe)
    return OracleAnswer(
        violated=tally.witness is not None,
        witness=tally.witness,
        outputs=None if tally.witness is None else evaluate(net, tally.witness),
        margin=tally.margin,
        nearest=tally.nearest,
        max_abs_output=tally.largest,
    )

"""What gradient attacks share: the loss of a property, steps that suit a norm, and projections onto balls in boxes.

The loss of a disjunct is the largest violation among its rows, `max_i (a_i y + c_i x - b_i)`: at or below zero the
input is unsafe. Nothing here is rigorous: whatever an attack finds is replayed before it is called a violation.

Sources: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018 (steps in l-inf and
l2); Tramer and Boneh, "Adversarial training and robustness for multiple perturbations", NeurIPS 2019 (sparse steps in
l1); Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML 2021 (balls cut
by a box).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifkit.analysis.gradient import pull_back
from verifkit.analysis.projection import TINY, onto_l1, onto_l2
from verifkit.analysis.region import Region
from verifkit.analysis.rows import Rows
from verifkit.input_sets import float_above, float_below
from verifkit.network import Network
from verifkit.query import QueryFamily

SHARPNESS = 10.0
"""Of the softmax over a disjunct's rows, in units of the spread of their violations."""

UNREACHABLE = 1e300
"""The violation of a row at a point where the network has no finite value."""

DENSEST = 8
"""A step in l1 moves at most one entry in so many: the solutions are sparse."""


def losses_of(rows: Rows, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each point the largest violation among each disjunct's rows, (B, n_disjuncts), and of every row, (B, R).

    Where the network has no value (NaN), or overflowed, every row counts as missed by far.
    """
    batch = y.shape[0]
    left = y.reshape(batch, -1) @ rows.outputs.T
    if rows.inputs is not None:
        left = left + x.reshape(batch, -1) @ rows.inputs.T
    gaps = np.where(np.isfinite(left), left - rows.bound, UNREACHABLE)
    worst = np.full((rows.n_disjuncts, batch), -np.inf)
    np.maximum.at(worst, rows.disjunct, gaps.T)
    return worst.T, gaps


def row_weights(rows: Rows, gaps: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How much each row of each point's disjunct is to be lowered, (B, R): a softmax, so that a kink between two
    rows that are violated alike is not a trap. targets: (B,) the disjunct of each point."""
    mine = rows.disjunct[None] == targets[:, None]
    masked = np.where(mine, gaps, -np.inf)
    top = masked.max(axis=1, keepdims=True)
    spread = np.maximum(top - np.where(mine, gaps, np.inf).min(axis=1, keepdims=True), TINY)
    weights = np.where(mine, np.exp(SHARPNESS * (masked - top) / spread), 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def loss_gradient(network: Network, values: list[np.ndarray], rows: Rows, weights: np.ndarray) -> np.ndarray:
    """The gradient of each point's weighted rows, (B, *input_shape)."""
    gradient: np.ndarray = pull_back(network, values, (weights @ rows.outputs).reshape(values[-1].shape))
    if rows.inputs is not None:
        gradient = gradient + (weights @ rows.inputs).reshape(gradient.shape)
    return gradient


def dealt(rows: Rows, closeness: np.ndarray, starts: int) -> tuple[np.ndarray, np.ndarray]:
    """Which disjunct each start goes for and by which kind of steps, both (starts,).

    Disjuncts are dealt out in turn, those of least `closeness`, (n_disjuncts,), first; each gets all kinds in turn.
    """
    order = np.argsort(closeness, kind="stable")
    turn, place = np.divmod(np.arange(starts), rows.n_disjuncts)
    return order[place], turn + place


def random_points(lower: np.ndarray, upper: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random points and random corners of the box in turn, (count, *input_shape); lower, upper: (1, *input_shape)."""
    share = rng.uniform(size=(count, *lower.shape[1:]))
    share[1::2] = np.round(share[1::2])
    return np.asarray(lower + share * (upper - lower))


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The sets {x in a box, |x - center| <= r} of every radius r.

    center, lower, upper: (1, *input_shape); the box's ends may be infinite. norm: "inf", "1" or "2". unit: what a
    radius of 1 means for each entry, in "inf" only; an entry whose unit is 0 cannot move.
    """

    center: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    norm: str
    unit: np.ndarray

    def distance(self, x: np.ndarray) -> np.ndarray:
        """|x - center|, (B,)."""
        gap = np.abs(_flat(x - self.center))
        if self.norm == "inf":
            return np.asarray((gap / np.maximum(_flat(self.unit), TINY)).max(axis=1))
        return np.asarray(gap.sum(axis=1) if self.norm == "1" else np.linalg.norm(gap, axis=1))

    def slope(self, gradient: np.ndarray) -> np.ndarray:
        """The dual norm of the gradient, (B,): how fast a linear function falls with the radius."""
        size = np.abs(_flat(gradient))
        if self.norm == "inf":
            return np.asarray((size * _flat(self.unit)).sum(axis=1))
        return np.asarray(size.max(axis=1) if self.norm == "1" else np.linalg.norm(size, axis=1))

    def free(self, x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The gradient without the entries whose descent the box blocks."""
        blocked = ((x <= self.lower) & (gradient > 0)) | ((x >= self.upper) & (gradient < 0))
        return np.where(blocked, 0.0, gradient)

    def downhill(self, gradient: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """A direction of descent of norm at most 1 for each point; kinds: (B,) numbers that choose among several.

        In "inf" signs where the kind is even and slopes where it is odd: sign steps suit many inputs; in few dimensions
        steps along the slope reach what corners do not. In "1" the 1, 2, 4, ... steepest entries, in turn.
        """
        flat = _flat(gradient)
        if self.norm == "2":
            direction = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), TINY)
        elif self.norm == "1":
            direction = _sparse_signs(flat, kinds)
        else:
            unit = _flat(self.unit)
            scaled = flat * unit
            slopes = scaled / np.maximum(np.abs(scaled).max(axis=1, keepdims=True), TINY)
            direction = np.where(kinds[:, None] % 2, slopes, np.sign(flat)) * unit
        return np.asarray(-direction.reshape(gradient.shape))

    def project(self, x: np.ndarray, radius: np.ndarray) -> np.ndarray:
        """The nearest points (in l2) within distance `radius`, (B,), and the box.

        A center outside the box is allowed for as long as the ball meets it.
        """
        radius = radius.reshape(-1, *(1,) * (x.ndim - 1))
        if self.norm == "inf":
            reach = radius * self.unit
            near = np.clip(x, self.center - reach, self.center + reach)
            return np.asarray(np.clip(near, self.lower, self.upper))
        gap = _flat(x - self.center)
        low, high = _flat(self.lower - self.center), _flat(self.upper - self.center)
        onto = onto_l1 if self.norm == "1" else onto_l2
        moved = onto(gap, radius.reshape(-1, 1), low, high)
        return np.asarray(np.clip(self.center + moved.reshape(x.shape), self.lower, self.upper))

    def random_within(self, radius: float, count: int, rng: np.random.Generator) -> np.ndarray:
        """Random points within distance `radius` and the box, (count, *input_shape): mostly at its edge."""
        reach = radius * self.unit
        low, high = np.maximum(self.lower, self.center - reach), np.minimum(self.upper, self.center + reach)
        return self.project(random_points(low, high, count, rng), np.full(count, radius))


def neighbourhood_of(region: Region) -> tuple[Neighbourhood, float]:
    """The region as the member of a neighbourhood with this radius; a box is measured by its half width."""
    if region.center is not None and region.radius is not None:
        unit = np.ones_like(region.center)
        near = Neighbourhood(region.center, region.lower, region.upper, region.norm, unit)
        return near, float(region.radius[0])
    center = region.lower / 2 + region.upper / 2
    # A float more than half, so that rounding hides no corner.
    half = np.maximum(region.upper - center, center - region.lower)
    half = half + np.spacing(np.maximum(np.abs(region.lower), np.abs(region.upper)))
    return Neighbourhood(
        center, region.lower, region.upper, "inf", np.where(region.upper > region.lower, half, 0.0)
    ), 1.0


def surroundings(family: QueryFamily) -> Neighbourhood:
    """All the balls of a family at once; the clip box's ends are the outermost floats inside it."""
    shape = (1, *family.model.input_shape)
    center = np.array([float(c) for c in family.center]).reshape(shape)
    low, high = (end.reshape(shape) for end in clip_ends(family))
    return Neighbourhood(center, low, high, family.norm, np.ones(shape))


def clip_ends(family: QueryFamily) -> tuple[np.ndarray, np.ndarray]:
    """The outermost floats of the model's type inside the clip box, (n_inputs,); infinite where there is none."""
    if family.clip is None:
        return np.full(len(family.center), -np.inf), np.full(len(family.center), np.inf)
    dtype = family.model.dtype
    low, high = float_above(family.clip.lower, dtype), float_below(family.clip.upper, dtype)
    return low.astype(np.float64), high.astype(np.float64)


def _sparse_signs(flat: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """For each row the signs of its k steepest entries over k, where k is 1, 2, 4, ... for the kinds 0, 1, 2, ..."""
    batch, entries = flat.shape
    most = max(1, entries // DENSEST)
    counts = 2 ** (kinds % (int(np.log2(most)) + 1))
    size = np.abs(flat)
    ordered = np.partition(size, np.unique(entries - counts), axis=1)
    level = ordered[np.arange(batch), entries - counts][:, None]
    chosen = (size >= level) & (size > 0)
    return np.asarray(np.where(chosen, np.sign(flat), 0.0) / np.maximum(chosen.sum(axis=1, keepdims=True), 1))


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(x.shape[0], -1)

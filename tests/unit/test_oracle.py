"""The exact oracle against hand-computed answers, sampling, and z3 on an encoding of its own."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from verifkit.input_sets import Box, LpBall
from verifkit.properties import Polyhedron, Property
from verifkit.testing import strategies, toys
from verifkit.testing.oracle import Disjunct, OracleAnswer, Region, Row, ToyNet, decide, evaluate, l1_ball

F = Fraction
ABS = ToyNet([[[1], [-1]], [[1, 1]]], [[0, 0], [0]])  # y = |x|
HAT = ToyNet([[[1], [1]], [[1, -2]]], [[0, F(-1, 2)], [0]])  # y = relu(x) - 2 relu(x - 1/2): 1/2 at its top
RELU_SUM = ToyNet([[[1, 0], [0, 1]], [[1, 1]]], [[0, 0], [0]])  # y = relu(x0) + relu(x1)
IDENTITY = ToyNet([[[1, 0], [0, 1]]], [[0, 0]])


def below(bound: object, *, strict: bool = False, inputs: tuple[int, ...] = ()) -> Row:
    """y0 (+ inputs . x) <= bound."""
    return Row((1,), bound, strict, inputs)


def above(bound: Fraction | int, *, strict: bool = False) -> Row:
    """y0 >= bound."""
    return Row((-1,), -F(bound), strict)


def ask(net: ToyNet, region: Region, *rows: Row) -> OracleAnswer:
    return decide(net, region, [Disjunct(rows)])


# --- networks ---------------------------------------------------------------------------------------------------


def test_evaluate_by_hand() -> None:
    net = ToyNet([[[1, 2], [-1, 0.5]], [[2, -1], [0, 3]]], [[-1, 0], [F(1, 3), -1]])
    # x = (1, 1/4): z = (1/2, -7/8), h = (1/2, 0), y = (1 + 1/3, -1).
    assert evaluate(net, (F(1), F(1, 4))) == (F(4, 3), F(-1))


def test_evaluate_residual_by_hand() -> None:
    net = ToyNet([[[1]], [[-3]], [[1]]], [[0], [1], [0]], skips=((1, 2), (0, 3)))
    # x = 2: h1 = 2, z2 = -6 + 1 + 2 = -3, h2 = 0, y = 0 + 2.  x = 1/4: z2 = -3/4 + 1 + 1/4 = 1/2, y = 3/4.
    assert evaluate(net, (F(2),)) == (F(2),)
    assert evaluate(net, (F(1, 4),)) == (F(3, 4),)


def test_numbers_are_kept_exactly() -> None:
    net = ToyNet(np.array([[[0.1]]]), np.array([[np.float32(0.1)]]))
    assert net.weights[0][0][0] == F(0.1)
    assert net.biases[0][0] == F(float(np.float32(0.1)))
    assert isinstance(ToyNet([np.array([[3]])], [np.array([1])]).weights[0][0][0].numerator, int)


@pytest.mark.parametrize(
    ("weights", "biases", "skips"),
    [
        ([], [], ()),
        ([[[1]]], [], ()),
        ([[[1]], [[1, 1]]], [[0], [0]], ()),
        ([[[1]]], [[0, 0]], ()),
        ([[[1], [1]], [[1, 1]]], [[0, 0], [0]], ((0, 1),)),
        ([[[1]]], [[0]], ((1, 1),)),
    ],
)
def test_misfits_are_refused(weights: list, biases: list, skips: tuple) -> None:
    with pytest.raises(ValueError, match=r"layer|weight matrices|skip"):
        ToyNet(weights, biases, skips)


# --- golden answers ---------------------------------------------------------------------------------------------


def test_margin_and_range_of_abs() -> None:
    answer = ask(ABS, Region([-1], [2]), below(-1))
    assert (answer.violated, answer.margin, answer.max_abs_output) == (False, 1, 2)
    assert answer.witness is None
    assert answer.nearest == (0,)
    answer = ask(ABS, Region([-1], [2]), above(F(3, 2)))
    assert (answer.violated, answer.margin) == (True, F(-1, 2))
    assert answer.witness == (2,)
    assert answer.outputs == (2,)


def test_an_interior_maximum() -> None:
    answer = ask(HAT, Region([0], [1]), above(F(1, 2)))
    assert (answer.violated, answer.margin, answer.witness) == (True, 0, (F(1, 2),))
    assert ask(HAT, Region([0], [1]), above(F(3, 4))).margin == F(1, 4)


def test_minimum_at_a_crossing_of_two_rows() -> None:
    # max(y - 1, 1/2 - y) over y = |x| in [0, 2] is least at y = 3/4, with value -1/4.
    answer = ask(ABS, Region([-2], [2]), below(1), above(F(1, 2)))
    assert (answer.margin, answer.violated) == (F(-1, 4), True)
    # max(y - 1/4, 3/4 - y): least at 1/2, with value 1/4.
    assert ask(ABS, Region([-2], [2]), below(F(1, 4)), above(F(3, 4))).margin == F(1, 4)


@pytest.mark.parametrize(("strict", "violated"), [(False, True), (True, False)])
def test_a_tie_with_one_row(strict: bool, violated: bool) -> None:
    answer = ask(ABS, Region([-1], [1]), below(0, strict=strict))
    assert (answer.violated, answer.margin) == (violated, 0)
    assert answer.in_band


def test_a_tie_of_a_closed_row_leaves_room_for_a_strict_one() -> None:
    # y0 >= 1 is touched at x0 = 1; there x1 is free, so that y1 < 0 can be strict.
    region = Region([-1, -1], [1, 1])
    closed, strict = Row((-1, 0), -1), Row((0, 1), 0, strict=True)
    answer = ask(IDENTITY, region, closed, strict)
    assert (answer.margin, answer.violated) == (0, True)
    assert answer.outputs is not None
    assert answer.outputs[0] == 1
    assert answer.outputs[1] < 0
    # With x1 >= 0 there is no room: y1 < 0 is out of reach, y1 <= 0 is not.
    assert not ask(IDENTITY, Region([-1, 0], [1, 1]), closed, strict).violated
    assert ask(IDENTITY, Region([-1, 0], [1, 1]), closed, Row((0, 1), 0)).violated


def test_two_strict_rows_that_exclude_each_other() -> None:
    assert not ask(ABS, Region([-1], [1]), below(F(1, 2), strict=True), above(F(1, 2), strict=True)).violated
    assert not ask(ABS, Region([-1], [1]), below(F(1, 2)), above(F(1, 2), strict=True)).violated
    assert ask(ABS, Region([-1], [1]), below(F(1, 2)), above(F(1, 2))).violated


def test_coupling_rows() -> None:
    # y + x <= b with y = |x|: the least value is 0, on all of [-1, 0].
    assert ask(ABS, Region([-1], [1]), below(F(-1, 8), inputs=(1,))).margin == F(1, 8)
    answer = ask(ABS, Region([-1], [1]), below(0, inputs=(1,)))
    assert (answer.violated, answer.margin) == (True, 0)
    # y - 2x <= -1/2: y - 2x = -x for x >= 0, so -1 at x = 1.
    answer = ask(ABS, Region([-1], [1]), below(F(-1, 2), inputs=(-2,)))
    assert (answer.margin, answer.witness) == (F(-1, 2), (1,))


def test_a_row_on_inputs_alone() -> None:
    # |x| >= 1/2 and x <= 1/4: at x = -1 both hold, by 1/2 and 5/4.
    answer = ask(ABS, Region([-1], [1]), above(F(1, 2)), Row((0,), F(1, 4), inputs=(1,)))
    assert (answer.margin, answer.violated) == (F(-1, 2), True)


def test_l1_balls() -> None:
    # The largest relu(x0) + relu(x1) over |x|_1 <= 1 is 1; over the box around it, 2.
    assert ask(RELU_SUM, l1_ball((0, 0), 1), above(F(5, 4))).margin == F(1, 4)
    assert ask(RELU_SUM, Region([-1, -1], [1, 1]), above(F(5, 4))).margin == F(-3, 4)
    clipped = l1_ball((0, 0), 1, (F(-1, 2), F(-1, 2)), (F(1, 4), F(1, 2)))
    answer = ask(RELU_SUM, clipped, above(F(3, 4)))
    assert (answer.violated, answer.margin, answer.witness) == (True, 0, (F(1, 4), F(1, 2)))
    assert answer.max_abs_output == F(3, 4)


def test_an_l1_ball_that_touches_its_clip_box_in_a_point() -> None:
    answer = ask(RELU_SUM, l1_ball((0, 0), 1, (1, -1), (2, 1)), above(0))
    assert answer.margin == -1
    assert answer.witness == (1, 0)
    assert answer.max_abs_output == 1


def test_a_ball_of_radius_zero_and_a_single_point() -> None:
    for region in (l1_ball((F(1, 2), F(-1)), 0), Region((F(1, 2), F(-1)), (F(1, 2), F(-1)))):
        answer = ask(RELU_SUM, region, above(F(1, 2)))
        assert (answer.violated, answer.margin, answer.witness) == (True, 0, (F(1, 2), -1))
        assert not ask(RELU_SUM, region, above(F(1, 2), strict=True)).violated


def test_one_fixed_input() -> None:
    answer = ask(RELU_SUM, Region([-1, F(1, 3)], [1, F(1, 3)]), above(2))
    assert (answer.margin, answer.nearest, answer.max_abs_output) == (F(2, 3), (1, F(1, 3)), F(4, 3))


def test_disjuncts_and_their_boxes() -> None:
    region = Region([-1], [1])
    far, near = Disjunct((above(2),)), Disjunct((below(F(-1, 4)),))
    assert decide(ABS, region, [far, near]).margin == F(1, 4)
    # |x| <= 0 is reached at 0 only: outside [1/2, 1], missed by 1/2; a box of one point decides by itself.
    assert decide(ABS, region, [Disjunct((below(0),), ((F(1, 2),), (F(1),)))]).margin == F(1, 2)
    assert decide(ABS, region, [Disjunct((below(0),), ((F(0),), (F(0),)))]).violated
    assert decide(ABS, region, [Disjunct((below(0),), ((F(-1),), (F(0),)))]).violated
    # A box that touches the region in one point counts, one that misses it does not.
    assert decide(ABS, region, [Disjunct((above(1),), ((F(1),), (F(2),)))]).witness == (1,)
    missed = decide(ABS, region, [Disjunct((above(-9),), ((F(2),), (F(3),)))])
    assert (missed.violated, missed.margin, missed.nearest) == (False, math.inf, None)
    assert not missed.in_band


def test_no_disjuncts_and_no_rows() -> None:
    assert decide(ABS, Region([-1], [1]), []).margin == math.inf
    everything = decide(ABS, Region([-1], [1]), [Disjunct(())])
    assert everything.violated
    assert everything.margin == -math.inf


def test_a_residual_network() -> None:
    # h1 = relu(x); z2 = -3 h1 + 1 + h1 = 1 - 2 h1; y = relu(z2) + x: the least over [-1, 2] is at x = -1, 1 - 1 = 0;
    # over [0, 2] it is max(1 - x, x): 1/2.
    net = ToyNet([[[1]], [[-3]], [[1]]], [[0], [1], [0]], skips=((1, 2), (0, 3)))
    assert ask(net, Region([0], [2]), below(0)).margin == F(1, 2)
    assert ask(net, Region([-1], [2]), below(0)).violated
    assert ask(net, Region([-1], [2]), below(0)).max_abs_output == 2


def test_an_affine_network_and_a_dead_one() -> None:
    assert ask(ToyNet([[[2, -1]]], [[1]]), Region([-1, -1], [1, 1]), below(-3)).margin == 1
    dead = ToyNet([[[1], [0]], [[5, 7]]], [[-9, 0], [F(1, 3)]])
    answer = ask(dead, Region([-1], [1]), below(F(1, 3)))
    assert (answer.violated, answer.margin, answer.max_abs_output) == (True, 0, F(1, 3))


def test_the_band() -> None:
    answer = ask(ABS, Region([-1], [3]), below(F(-4, 10**6)))
    assert answer.band == F(4, 10**6)
    assert answer.in_band
    assert not ask(ABS, Region([-1], [3]), below(F(-5, 10**6))).in_band


def test_empty_and_misfitting_regions_are_refused() -> None:
    for region in (Region([1], [0]), l1_ball((0,), 1, (2,), (3,)), Region([0, 0], [1, 1])):
        with pytest.raises(ValueError, match="region"):
            ask(ABS, region, below(0))
    with pytest.raises(ValueError, match="region is empty"):
        ask(RELU_SUM, l1_ball((0, 0), 1, (F(3, 4), F(3, 4)), (1, 1)), below(0))
    with pytest.raises(ValueError, match="region is empty"):
        ask(RELU_SUM, l1_ball((0, 0), 1, (F(3, 4), F(3, 4)), (F(3, 4), F(3, 4))), below(0))


# --- against sampling -------------------------------------------------------------------------------------------


def reached(prop: Property, x: tuple[Fraction, ...], y: tuple[Fraction, ...]) -> bool:
    return any(
        all(row.satisfied(x, y) for row in d.constraints) and (d.box is None or d.box.contains(x)) for d in prop.unsafe
    )


def margin_at(prop: Property, x: tuple[Fraction, ...], y: tuple[Fraction, ...]) -> Fraction | float:
    here = [d for d in prop.unsafe if d.box is None or d.box.contains(x)]
    return min((max(row.value(x, y) - row.bound for row in d.constraints) for d in here), default=math.inf)


def check_by_sampling(toy: ToyNet, prop: Property, answer: OracleAnswer, points: list[tuple[Fraction, ...]]) -> None:
    for x in points:
        y = evaluate(toy, x)
        assert margin_at(prop, x, y) >= answer.margin
        assert max(map(abs, y)) <= answer.max_abs_output
        assert answer.violated or not reached(prop, x, y)
    if answer.witness is not None:
        assert answer.outputs == evaluate(toy, answer.witness)
        assert prop.input_set.contains(answer.witness)
        assert reached(prop, answer.witness, answer.outputs)
    if answer.nearest is not None:
        assert margin_at(prop, answer.nearest, evaluate(toy, answer.nearest)) == answer.margin
        assert prop.input_set.contains(answer.nearest)
    if answer.margin != 0:
        assert answer.violated == (answer.margin < 0)


@pytest.mark.parametrize("start", range(0, 200, 25))
def test_no_sample_contradicts_the_oracle(start: int) -> None:
    for seed in range(start, start + 25):
        rng = np.random.default_rng(seed)
        toy, prop = toys.random_question(rng)
        check_by_sampling(toy, prop, toys.ask_oracle(toy, prop), toys.sample_points(rng, prop.input_set, 60))


def test_a_dense_grid_comes_close_to_the_margin() -> None:
    # On a grid of step 1/32, |margin at the nearest grid point - margin| is at most the row's Lipschitz constant / 64.
    for seed in range(15):
        rng = np.random.default_rng(seed)
        toy = toys.random_toy(rng, n_inputs=2, n_outputs=1, hidden=[4, 3], weights="dyadic", residual=False)
        prop = Property(Box((-1, -1), (1, 1)), (Polyhedron((toys.Constraint(((0, F(1)),), F(0)),)),), 1)
        answer = toys.ask_oracle(toy, prop)
        axis = np.arange(-32, 33) / 32
        x = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        y = toys.to_network(toy).evaluate(x)[:, 0]
        lipschitz = 1.0
        for weight in toy.weights:
            lipschitz *= max(sum(abs(float(v)) for v in row) for row in weight)
        assert isinstance(answer.margin, Fraction)
        assert -1e-9 <= y.min() - float(answer.margin) <= lipschitz / 64
        assert -1e-9 <= float(answer.max_abs_output) - np.abs(y).max() <= lipschitz / 64


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.questions())
def test_shrinkable_questions(question: tuple[ToyNet, Property]) -> None:
    toy, prop = question
    rng = np.random.default_rng(0)
    check_by_sampling(toy, prop, toys.ask_oracle(toy, prop), toys.sample_points(rng, prop.input_set, 20))


@settings(max_examples=15, deadline=None)
@given(strategies.seeded_questions())
def test_seeded_questions(question: tuple[ToyNet, Property]) -> None:
    toy, prop = question
    assert toy.n_inputs == prop.n_inputs


# --- against z3 -------------------------------------------------------------------------------------------------


class Z3Question:
    """The question in linear real arithmetic: `If` for every ReLU, variables for x and t only."""

    def __init__(self, toy: ToyNet, prop: Property) -> None:
        self.z3 = z3 = pytest.importorskip("z3")
        self.x = [z3.Real(f"x{i}") for i in range(toy.n_inputs)]
        self.solver = z3.Solver()
        region = prop.input_set
        box = region if isinstance(region, Box) else region.bounding_box()
        self.solver.add(*self.inside(box))
        if isinstance(region, LpBall):
            gaps = [
                z3.If(v >= self.q(c), v - self.q(c), self.q(c) - v) for v, c in zip(self.x, region.center, strict=True)
            ]
            self.solver.add(z3.Sum(gaps) <= self.q(region.radius))
        values = [self.x]
        for k, (weight, bias) in enumerate(zip(toy.weights, toy.biases, strict=True), 1):
            z = [
                z3.Sum([self.q(w) * h for w, h in zip(row, values[-1], strict=True)]) + self.q(b)
                for row, b in zip(weight, bias, strict=True)
            ]
            for s, target in toy.skips:
                if target == k:
                    z = [a + h for a, h in zip(z, values[s], strict=True)]
            values.append(z if k == len(toy.weights) else [self.relu(k, j, v) for j, v in enumerate(z)])
        self.y, self.prop = values[-1], prop

    def q(self, value: Fraction) -> object:
        return self.z3.Q(value.numerator, value.denominator)

    def relu(self, k: int, j: int, z: object) -> object:
        h = self.z3.Real(f"h{k}_{j}")
        self.solver.add(h == self.z3.If(z >= 0, z, 0))
        return h

    def inside(self, box: Box) -> list:
        pairs = zip(box.lower, self.x, box.upper, strict=True)
        return [self.z3.And(self.q(a) <= v, v <= self.q(b)) for a, v, b in pairs]

    def holds_somewhere(self, *, slack: Fraction | None = None, strict: bool = False) -> bool:
        """Whether some disjunct is reached; with `slack`, with every bound moved by it and all rows strict or none."""
        z3, cases = self.z3, []
        for disjunct in self.prop.unsafe:
            parts = [] if disjunct.box is None else self.inside(disjunct.box)
            for row in disjunct.constraints:
                left = z3.Sum(
                    [self.q(v) * self.y[j] for j, v in row.outputs] + [self.q(v) * self.x[i] for i, v in row.inputs]
                )
                bound = self.q(row.bound + (slack or 0))
                open_row = row.strict if slack is None else strict
                parts.append(left < bound if open_row else left <= bound)
            cases.append(z3.And(*parts))
        return self.satisfiable(z3.Or(*cases))

    def exceeds(self, value: Fraction) -> bool:
        return self.satisfiable(self.z3.Or(*[self.z3.Or(y > self.q(value), y < -self.q(value)) for y in self.y]))

    def satisfiable(self, condition: object) -> bool:
        self.solver.push()
        self.solver.add(condition)
        verdict = self.solver.check()
        self.solver.pop()
        assert verdict != self.z3.unknown
        return verdict == self.z3.sat


@pytest.mark.parametrize("start", range(1000, 1120, 20))
def test_z3_agrees(start: int) -> None:
    for seed in range(start, start + 20):
        rng = np.random.default_rng(seed)
        # z3 is slow on long numbers: few of the networks have gaussian weights, and those are small.
        short = seed % 5 > 0
        toy = toys.random_toy(rng, max_relus=6 if short else 4, weights="dyadic" if short else "gaussian")
        toy, prop = toys.random_question(rng, toy)
        answer, question = toys.ask_oracle(toy, prop), Z3Question(toy, prop)
        assert question.holds_somewhere() == answer.violated, seed
        if isinstance(answer.margin, Fraction):
            assert question.holds_somewhere(slack=answer.margin), seed
            assert not question.holds_somewhere(slack=answer.margin, strict=True), seed
        assert not question.exceeds(answer.max_abs_output), seed
        assert answer.max_abs_output == 0 or question.exceeds(answer.max_abs_output * F(999999, 1000000)), seed


# --- the generators ---------------------------------------------------------------------------------------------


def test_questions_are_balanced_and_some_are_ties() -> None:
    answers, verdicts = [], []
    for seed in range(150):
        toy, prop = toys.random_question(np.random.default_rng(seed))
        answers.append(toys.ask_oracle(toy, prop))
        verdicts.append(answers[-1].violated)
    assert 45 <= sum(verdicts) <= 105
    assert sum(a.margin == 0 for a in answers) >= 5
    ties = [a.violated for a in answers if a.margin == 0]
    assert True in ties


def test_the_same_seed_gives_the_same_question() -> None:
    first, second = (toys.random_question(np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_knobs_are_kept() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        toy = toys.random_toy(rng, n_inputs=2, n_outputs=3, hidden=[3, 2], weights="gaussian", magnitudes=True)
        assert toy.widths[0] == 2
        assert toy.widths[-1] == 3
        for value in (v for w in toy.weights for row in w for v in row):
            assert F(float(np.float32(float(value)))) == value
        _, prop = toys.random_question(
            rng,
            toy,
            kinds=("l1",),
            disjuncts=2,
            rows=1,
            strict=True,
            coupled=False,
            boxes=True,
            classifier=False,
            dyadic=True,
        )
        assert isinstance(prop.input_set, LpBall)
        assert len(prop.unsafe) == 2
        for disjunct in prop.unsafe:
            assert disjunct.box is not None
            for row in disjunct.constraints:
                assert row.strict
                assert not row.inputs
                assert F(float(row.bound)) == row.bound
    assert all(toys.random_toy(np.random.default_rng(s), max_relus=12).n_relus <= 12 for s in range(50))


def test_l2_questions_are_placed_by_sampling_and_not_for_the_oracle() -> None:
    toy, prop = toys.random_question(np.random.default_rng(3), kinds=("l2",))
    assert isinstance(prop.input_set, LpBall)
    with pytest.raises(ValueError, match="l2"):
        toys.ask_oracle(toy, prop)


def test_an_inf_ball_is_its_box() -> None:
    prop = Property(LpBall((F(0),), F(1), "inf"), (Polyhedron((toys.Constraint(((0, F(-1)),), F(-2)),)),), 1)
    assert toys.ask_oracle(ABS, prop).margin == 1


def test_networks_compute_what_the_toys_say() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        toy = toys.random_toy(rng, weights="dyadic", residual=seed % 2 == 0)
        x = tuple(F(int(v), 8) for v in rng.integers(-8, 9, toy.n_inputs))
        exact = evaluate(toy, x)
        flat, batched = toys.to_network(toy), toys.to_network(toy, outer=(1,))
        point = np.array([float(v) for v in x])
        # Short dyadic numbers: float64 makes no rounding error at these sizes.
        assert tuple(map(F, flat.evaluate(point).tolist())) == exact
        assert tuple(map(F, batched.evaluate(point[None])[0].tolist())) == exact


def test_a_weight_beyond_float64_is_refused() -> None:
    with pytest.raises(ValueError, match="not exact"):
        toys.to_network(ToyNet([[[F(1, 3)]]], [[0]]))


def test_models_compute_what_the_toys_say() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        toy = toys.random_toy(rng, weights="dyadic", residual=seed % 2 == 0)
        model = toys.to_model(toy)
        x = rng.integers(-8, 9, (5, toy.n_inputs)) / 8
        expected = [[float(v) for v in evaluate(toy, [F(v) for v in row])] for row in x.tolist()]
        np.testing.assert_allclose(model(x.astype(np.float32)), expected, rtol=1e-5, atol=1e-5)

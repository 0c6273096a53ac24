"""Properties: directed rounding, membership, cases, normal form and digest, and every refusal."""

from __future__ import annotations

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from verifkit.errors import PropertyError
from verifkit.input_sets import Box, LpBall, ball, float_above, float_below, rational
from verifkit.properties import Constraint, Polyhedron, Property, misclassified, robustness

F = Fraction
DTYPES = [np.float16, np.float32, np.float64]


def box(*ends):
    return Box(tuple(F(low) for low, _ in ends), tuple(F(high) for _, high in ends))


def y_row(j=0, scale=1, bound=0, *, strict=False):
    return Constraint(outputs=((j, F(scale)),), bound=F(bound), strict=strict)


def x_row(i=0, scale=1, bound=0, *, strict=False):
    return Constraint(outputs=(), inputs=((i, F(scale)),), bound=F(bound), strict=strict)


UNIT = box((0, 1), (0, 1))


class TestRational:
    def test_exact_values(self):
        assert rational("0.1") == F(1, 10)
        assert rational(0.1) == F(0.1)
        assert rational(np.float32(0.1)) == F(float(np.float32(0.1)))
        assert rational(np.int64(3)) == 3
        assert rational("1/3") == F(1, 3)

    @pytest.mark.parametrize("value", [math.nan, math.inf, "x", None, "1/0", np.float32("inf"), [1]])
    def test_what_is_no_number(self, value):
        with pytest.raises(PropertyError, match="is not a finite number"):
            rational(value)


class TestDirectedRounding:
    @pytest.mark.parametrize("dtype", DTYPES)
    @given(value=st.one_of(st.fractions(), st.floats(allow_nan=False, allow_infinity=False).map(F)))
    @example(value=F(1, 3))
    @example(value=F(1, 10**400))
    @example(value=F(-1, 10**400))
    @example(value=F(3, 2**150))
    @example(value=F(2**24 + 1))
    @example(value=F(2**53 + 1))
    @example(value=1 + F(1, 2**24) + F(1, 2**80))  # float64 rounds it to a tie of float32
    @settings(max_examples=80, deadline=None)
    def test_neighbours(self, dtype, value):
        top = F(float(np.finfo(dtype).max))
        if value >= -top:
            low = float_below([value], dtype)
            assert low.dtype == dtype
            assert F(float(low[0])) <= value
            with np.errstate(over="ignore"):
                above = float(np.nextafter(low[0], dtype(np.inf)))
            assert above == math.inf or F(above) > value
        if value <= top:
            high = float_above([value], dtype)
            assert high.dtype == dtype
            assert F(float(high[0])) >= value
            with np.errstate(over="ignore"):
                below = float(np.nextafter(high[0], dtype(-np.inf)))
            assert below == -math.inf or F(below) < value

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_ends_of_the_range(self, dtype):
        top, tiny = F(float(np.finfo(dtype).max)), F(float(np.finfo(dtype).smallest_subnormal))
        for beyond in (top + F(1, 10**30), top * 2, F(10) ** 400):
            assert float_below([beyond], dtype)[0] == np.finfo(dtype).max
            assert float_above([-beyond], dtype)[0] == np.finfo(dtype).min
            with pytest.raises(PropertyError, match=f"beyond the range of {dtype.__name__}"):
                float_above([F(0), beyond], dtype)
            with pytest.raises(PropertyError, match=f"beyond the range of {dtype.__name__}"):
                float_below([F(0), -beyond], dtype)
        assert float_above([top], dtype)[0] == np.finfo(dtype).max
        assert [F(float(v)) for v in float_above([tiny / 3, tiny, -tiny / 3], dtype)] == [tiny, tiny, 0]
        assert [F(float(v)) for v in float_below([tiny / 3, tiny, -tiny / 3], dtype)] == [0, tiny, -tiny]

    def test_nothing_in_nothing_out(self):
        assert float_below([]).shape == float_above([]).shape == (0,)

    def test_generators_and_order(self):
        values = [F(k, 7) for k in range(-20, 20)]
        low, high = float_below(iter(values), np.float32), float_above(iter(values), np.float32)
        assert all(F(float(a)) <= v <= F(float(b)) for a, v, b in zip(low, values, high, strict=True))
        assert ((high == low) == [v.denominator == 1 for v in values]).all()

    def test_the_effective_box(self):
        low, high = box(("1/10", "1/10"), (-1, 2)).floats()
        assert low.dtype == high.dtype == np.float64
        assert low[0] < 0.1 < high[0]
        assert (np.float32(low) == low).all()
        assert (low[1], high[1]) == (-1, 2)
        low, high = box(("1/2", "1/2")).floats(np.float64)
        assert low == high == 0.5


class TestBox:
    def test_membership(self):
        assert UNIT.contains((F(0), F(1)))
        assert not UNIT.contains((F(0), F(1) + F(1, 10**30)))
        with pytest.raises(ValueError, match="argument"):
            UNIT.contains((F(0),))

    def test_intersection(self):
        assert UNIT.intersection(box((-1, "1/2"), (1, 3))) == box((0, "1/2"), (1, 1))
        assert UNIT.intersection(box((2, 3), (0, 1))) is None

    def test_ends_of_any_kind(self):
        assert Box(np.array([0.5], np.float32), ["0.5"]) == box(("1/2", "1/2"))

    @pytest.mark.parametrize(
        ("lower", "upper", "sentence"),
        [
            ((), (), "lower end is empty"),
            ((0,), (1, 2), "1 lower and 2 upper"),
            ((0, 2), (1, 1), "input 1 has lower end 2 above its upper end 1"),
            ((math.nan,), (1,), "nan is not a finite number"),
        ],
    )
    def test_refusals(self, lower, upper, sentence):
        with pytest.raises(PropertyError, match=sentence):
            Box(lower, upper)


class TestBall:
    @pytest.mark.parametrize(
        ("norm", "inside", "outside"),
        [
            ("0", ("1", "0"), ("1/2", "1/2")),
            ("1", ("1/2", "-1/2"), ("1/2", "51/100")),
            ("2", ("3/5", "4/5"), ("3/5", "81/100")),
            ("inf", ("1", "1"), ("1", "101/100")),
        ],
    )
    def test_membership(self, norm, inside, outside):
        region = LpBall((F(0), F(0)), F(1), norm, box((-2, 2), (-2, 2)))
        assert region.contains(tuple(map(F, inside)))
        assert not region.contains(tuple(map(F, outside)))

    def test_the_clip_box_cuts(self):
        region = LpBall((F(0), F(0)), F(1), "2", UNIT)
        assert not region.contains((F(-1, 2), F(0)))
        assert region.bounding_box() == UNIT
        assert LpBall((F(0),), F(2), "1").bounding_box() == box((-2, 2))
        assert LpBall((F(0), F(0)), F(1), "0", UNIT).bounding_box() == UNIT
        assert LpBall((F(0), F(0)), F(1, 2), "0", UNIT).bounding_box() == box((0, 0), (0, 0))

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (((0,), -1, "2"), "radius -1 is negative"),
            (((0,), 1, "3"), "norm '3' is none of"),
            (((0,), 1, "0"), "needs a clip box"),
            (((0,), 1, "2", UNIT), "clip box has 2 entries, the center 1"),
            (((5, 5), 1, "2", UNIT), "outside its clip box"),
            (((), 1, "2"), "center is empty"),
        ],
    )
    def test_refusals(self, arguments, sentence):
        with pytest.raises(PropertyError, match=sentence):
            LpBall(*arguments)

    @pytest.mark.parametrize("norm", ["inf", math.inf])
    def test_an_inf_ball_is_a_box(self, norm):
        assert ball([0.5, 0.5], 1, norm, UNIT) == UNIT

    @pytest.mark.parametrize("norm", [2, 2.0, "2"])
    def test_the_other_balls(self, norm):
        assert ball([0], "1/2", norm) == LpBall((F(0),), F(1, 2), "2")


class TestConstraint:
    def test_terms_are_merged_sorted_and_free_of_zeros(self):
        row = Constraint(outputs=((1, F(1)), (0, F(2)), (1, F(2)), (2, F(0))), bound=F(0))
        assert row.outputs == ((0, 2), (1, 3))
        assert row == Constraint(outputs=((0, F(2)), (1, F(3))), bound=F(0))
        assert hash(row) == hash(pickle.loads(pickle.dumps(row)))

    def test_strict_and_closed(self):
        assert y_row().satisfied((), (F(0),))
        assert not y_row(strict=True).satisfied((), (F(0),))
        both = Constraint(outputs=((0, F(2)),), inputs=((1, F(-1)),), bound=F(1))
        assert both.value((F(9), F(3)), (F(2),)) == 1
        assert both.canonical() == "2*y0 + -1*x1 <= 1"


class TestProperty:
    def test_refusals(self):
        for unsafe, n, sentence in [
            ((), 0, "over 0 outputs"),
            ((Polyhedron((), box((0, 1))),), 1, "box has 1 entries, the input set 2"),
            ((Polyhedron((y_row(3),)),), 3, r"output outside 0\.\.2"),
            ((Polyhedron((x_row(2),)),), 1, r"input outside 0\.\.1"),
        ]:
            with pytest.raises(PropertyError, match=sentence):
                Property(UNIT, unsafe, n)

    def test_cases(self):
        left, right, far = box((0, "1/2"), (0, 1)), box(("1/2", 3), (0, 1)), box((4, 5), (0, 1))
        a, b, c = Polyhedron((y_row(bound=1),)), (y_row(bound=2),), (y_row(bound=3),)
        prop = Property(
            UNIT, (a, Polyhedron(b, left), Polyhedron(c, left), Polyhedron(b, right), Polyhedron(b, far)), 1
        )
        assert [(case.input_set, len(case.unsafe)) for case in prop.cases()] == [
            (UNIT, 1),
            (left, 2),
            (box(("1/2", 1), (0, 1)), 1),
        ]
        assert Property(UNIT, (), 1).cases() == ()
        assert Property(UNIT, (a, a), 1).cases() == (Property(UNIT, (a, a), 1),)

    def test_cases_of_a_ball(self):
        region = LpBall((F(0), F(0)), F(1), "2")
        corner = Polyhedron((y_row(),), box(("9/10", 1), ("9/10", 1)))  # in the bounding box, outside the ball
        (case,) = Property(region, (corner, Polyhedron((y_row(),), UNIT)), 1).cases()
        assert case.input_set == LpBall((F(0), F(0)), F(1), "2", UNIT)
        clipped = LpBall((F(0), F(0)), F(1), "2", UNIT)
        assert Property(clipped, (Polyhedron((), box((-1, "-1/2"), (0, 1))),), 1).cases() == ()

    def test_normal_form(self):
        half = box((0, "1/2"), (0, 1))
        rows = (y_row(), y_row(), x_row(0, 2, 1), Constraint(outputs=(), bound=F(3)))
        assert Property(UNIT, (Polyhedron(rows),), 1).normal_form().unsafe == (Polyhedron((y_row(),), half),)
        assert Property(
            UNIT, (Polyhedron((x_row(0, -2, 0), y_row()), box((-1, 2), (0, 1))),), 1
        ).normal_form().unsafe == (Polyhedron((y_row(),)),)

    @pytest.mark.parametrize(
        ("rows", "kept"),
        [
            ([x_row(0, 2, 1, strict=True)], [Polyhedron((x_row(0, 1, "1/2", strict=True),), box((0, "1/2"), (0, 1)))]),
            ([x_row(0, 3, 3, strict=True)], [Polyhedron((x_row(0, 1, 1, strict=True),))]),
            ([x_row(0, -2, 0, strict=True)], [Polyhedron((x_row(0, -1, 0, strict=True),))]),
            ([x_row(0, 1, 2, strict=True)], [Polyhedron(())]),
            ([x_row(0, 1, 0, strict=True)], []),
            ([x_row(0, 1, -1)], []),
            ([Constraint(outputs=(), bound=F(0), strict=True)], []),
        ],
    )
    def test_normal_form_of_rows_over_one_input(self, rows, kept):
        assert Property(UNIT, (Polyhedron(tuple(rows)),), 1).normal_form().unsafe == tuple(kept)

    def test_digest(self):
        one, two = Polyhedron((y_row(0), y_row(1))), Polyhedron((y_row(1, -1),))
        prop = Property(UNIT, (one, two), 2, "a name")
        same = [
            Property(UNIT, (two, Polyhedron((y_row(1), y_row(0)))), 2),
            Property(UNIT, (one, two, one), 2),
            Property(UNIT, (one, Polyhedron(two.constraints, box((-1, 2), (0, 1)))), 2),
            Property(UNIT, (one, two, Polyhedron((), box((2, 3), (0, 1)))), 2),
            pickle.loads(pickle.dumps(prop)),
        ]
        assert {p.digest for p in same} == {prop.digest}
        different = [
            Property(UNIT, (one, two), 3),
            Property(box((0, 1), (0, 2)), (one, two), 2),
            Property(UNIT, (one,), 2),
            Property(UNIT, (one, Polyhedron((y_row(1, -1, strict=True),))), 2),
            Property(UNIT, (one, Polyhedron(two.constraints, box((0, "1/2"), (0, 1)))), 2),
            Property(LpBall((F(0), F(0)), F(1), "2", UNIT), (one, two), 2),
        ]
        assert len({p.digest for p in different} | {prop.digest}) == len(different) + 1

    def test_coupled(self):
        assert not Property(UNIT, (Polyhedron((y_row(),)),), 1).coupled
        assert Property(UNIT, (Polyhedron((x_row(),)),), 1).coupled


class TestRobustness:
    def test_a_tie_is_unsafe(self):
        prop = robustness(np.full((1, 2), 0.5, np.float32), 1, "0.1", n_outputs=3, clip=(0, "0.55"), name="n")
        assert prop.input_set == box(("0.4", "0.55"), ("0.4", "0.55"))
        assert [d.constraints[0].outputs for d in prop.unsafe] == [((0, -1), (1, 1)), ((1, 1), (2, -1))]
        assert all(d.constraints[0].satisfied((), (F(2), F(2), F(2))) for d in prop.unsafe)
        assert prop.name == "n"

    def test_other_norms(self):
        assert robustness([0, 0], 0, 1, 2, n_outputs=2, clip=UNIT).input_set == LpBall((F(0), F(0)), F(1), "2", UNIT)

    @pytest.mark.parametrize("label", [-1, 3])
    def test_a_label_out_of_range(self, label):
        with pytest.raises(PropertyError, match=rf"label {label} is outside 0\.\.2"):
            misclassified(label, 3)


def test_an_linf_ball_is_a_box() -> None:
    ball = LpBall(
        (Fraction(0), Fraction(0)), Fraction(1), "inf", Box((Fraction(-2), Fraction(0)), (Fraction(2), Fraction(2)))
    )
    prop = Property(ball, (Polyhedron((Constraint(outputs=((0, Fraction(1)),), bound=Fraction(0)),)),), 1)
    assert prop.input_set == Box((Fraction(-1), Fraction(0)), (Fraction(1), Fraction(1)))

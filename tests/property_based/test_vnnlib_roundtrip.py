"""VNN-LIB against random properties and random formulas: nothing is lost, and the normal form means the same."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from verifkit.errors import PropertyError
from verifkit.input_sets import Box
from verifkit.io.vnnlib import parse_property, write_property
from verifkit.properties import Constraint, Polyhedron, Property

N, M = 2, 2
halves = st.integers(-4, 4).map(lambda k: Fraction(k, 2))
rationals = st.one_of(
    halves, st.fractions(max_denominator=50), st.floats(allow_nan=False, allow_infinity=False).map(Fraction)
)
points = st.tuples(st.tuples(*[halves] * N), st.tuples(*[halves] * M))


@st.composite
def boxes(draw, numbers):
    ends = [sorted((draw(numbers), draw(numbers))) for _ in range(N)]
    return Box(tuple(low for low, _ in ends), tuple(high for _, high in ends))


def constraints(numbers):
    terms = st.lists(st.tuples(st.integers(0, 1), st.one_of(st.sampled_from([1, -1, 2]), numbers)), max_size=2)
    return st.builds(
        lambda y, x, bound, strict: Constraint(outputs=tuple(y), inputs=tuple(x), bound=bound, strict=strict),
        terms, terms, numbers, st.booleans(),
    )  # fmt: skip


def properties(numbers):
    disjunct = st.builds(
        lambda rows, box: Polyhedron(tuple(rows), box),
        st.lists(constraints(numbers), max_size=4),
        st.none() | boxes(numbers),
    )
    return st.builds(
        lambda box, unsafe: Property(box, tuple(unsafe), M), boxes(numbers), st.lists(disjunct, max_size=4)
    )


def admits(prop: Property, x, y) -> bool:
    """Whether (x, y) is a counterexample by the normal form, exactly."""
    return prop.input_set.contains(x) and any(
        (d.box is None or d.box.contains(x)) and all(row.satisfied(x, y) for row in d.constraints) for d in prop.unsafe
    )


@given(st.one_of(properties(halves), properties(rationals)))
@settings(max_examples=150, deadline=None)
def test_written_properties_read_back_with_the_same_digest(prop):
    again = parse_property(write_property(prop))
    assert again.digest == prop.digest
    assert again.input_set == prop.input_set
    assert again == parse_property(write_property(again))


@given(properties(halves), points)
@settings(max_examples=150, deadline=None)
def test_the_normal_form_admits_the_same_points(prop, point):
    settled = prop.normal_form()
    assert admits(settled, *point) == admits(prop, *point)
    assert settled.digest == prop.digest
    assert settled.normal_form() == settled
    for case in settled.cases():
        assert all(d.box is None for d in case.unsafe)
    assert any(admits(case, *point) for case in prop.cases()) == admits(prop, *point)


# Random formulas as nested tuples, evaluated here in their own right.

atoms = st.sampled_from(["X_0", "X_1", "Y_0", "Y_1"]) | halves
terms = st.recursive(
    atoms,
    lambda t: st.one_of(
        st.tuples(st.sampled_from(["+", "-"]), st.lists(t, min_size=1, max_size=3)),
        st.tuples(st.just("*"), st.tuples(halves, t)),
        st.tuples(st.just("/"), st.tuples(t, halves.filter(bool))),
    ),
    max_leaves=4,
)
comparisons = st.tuples(st.sampled_from(["<=", ">=", "<", ">", "="]), st.lists(terms, min_size=2, max_size=3))
formulas = st.recursive(
    st.one_of(comparisons, comparisons, st.booleans()),
    lambda f: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), st.lists(f, max_size=3)),
        st.tuples(st.just("not"), st.tuples(f)),
    ),
    max_leaves=8,
)


def shown(node) -> str:
    if isinstance(node, bool):
        return "true" if node else "false"
    if isinstance(node, Fraction):
        return f"{float(node)}"  # halves: exact
    if isinstance(node, str):
        return node
    return f"({' '.join([node[0], *map(shown, node[1])])})"


def meaning(node, x, y):
    if isinstance(node, bool | Fraction):
        return node
    if isinstance(node, str):
        return (x if node[0] == "X" else y)[int(node[2:])]
    head, values = node[0], [meaning(part, x, y) for part in node[1]]
    first, rest = (values[0], values[1:]) if values else (None, [])
    pairs = list(pairwise(values))
    return {
        "and": lambda: all(values),
        "or": lambda: any(values),
        "not": lambda: not first,
        "+": lambda: sum(values),
        "-": lambda: first - sum(rest) if rest else -first,
        "*": lambda: values[0] * values[1],
        "/": lambda: values[0] / values[1],
        "<=": lambda: all(a <= b for a, b in pairs),
        ">=": lambda: all(a >= b for a, b in pairs),
        "<": lambda: all(a < b for a, b in pairs),
        ">": lambda: all(a > b for a, b in pairs),
        "=": lambda: all(a == b for a, b in pairs),
    }[head]()


def read_unless(refusal: str, text: str) -> Property | None:
    """The property, or None where reading is refused in these words."""
    try:
        return parse_property(text)
    except PropertyError as error:
        if refusal not in str(error):
            raise
        return None


HEAD = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1"))


@given(st.lists(formulas, max_size=3), st.lists(points, min_size=10, max_size=10))
@settings(max_examples=200, deadline=None)
def test_formulas_keep_their_meaning(parts, samples):
    bounds = [("<=", [Fraction(-1), name, Fraction(3, 2)]) for name in ("X_0", "X_1")]
    prop = read_unless("no input is left", HEAD + "".join(f"(assert {shown(part)})" for part in [*bounds, *parts]))
    for x, y in samples:
        expected = all(meaning(part, x, y) for part in [*bounds, *parts])
        assert (prop is not None and admits(prop, x, y)) == expected


@given(st.lists(st.tuples(boxes(halves), formulas), min_size=1, max_size=3), st.lists(points, min_size=10, max_size=10))
@settings(max_examples=100, deadline=None)
def test_formulas_over_several_boxes_keep_their_meaning(parts, samples):
    choices = []
    for box, formula in parts:
        inside = [("<=", [box.lower[i], f"X_{i}", box.upper[i]]) for i in range(N)]
        choices.append(("and", [*inside, formula]))
    whole = ("or", choices)
    # refused where no disjunct is left whose box could be the input set
    prop = read_unless("bound: every input needs both", f"{HEAD}(assert {shown(whole)})")
    for x, y in samples:
        assert (prop is not None and admits(prop, x, y)) == meaning(whole, x, y)

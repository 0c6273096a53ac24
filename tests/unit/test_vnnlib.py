"""Reading and writing VNN-LIB 1.0: the normal form, files, and the sentence for every kind of mistake."""

from __future__ import annotations

import gzip
import pickle
import time
from fractions import Fraction

import pytest

from verifkit.errors import PropertyError, VnnlibError
from verifkit.input_sets import Box, LpBall
from verifkit.io.vnnlib import load_property, parse_property, save_property, write_property
from verifkit.io.vnnlib_terms import number
from verifkit.io.vnnlib_write import literal
from verifkit.properties import Constraint, Polyhedron, Property, robustness

HEAD = """; two inputs, two outputs
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
"""
UNIT = "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 0)) (assert (<= X_1 1))\n"


def read(body: str, bounds: str = UNIT) -> Property:
    return parse_property(HEAD + bounds + body)


def row(bound=0, *, strict=False, x=(), y=()):
    return Constraint(outputs=tuple(y), inputs=tuple(x), bound=Fraction(bound), strict=strict)


def box(*ends):
    return Box(tuple(Fraction(low) for low, _ in ends), tuple(Fraction(high) for _, high in ends))


class TestNormalForm:
    def test_a_plain_property(self):
        prop = read("(assert (<= Y_0 Y_1)) (assert (>= Y_1 0.5))")
        assert prop.input_set == box((0, 1), (0, 1))
        rows = (row(y=[(0, 1), (1, -1)]), row("-1/2", y=[(1, -1)]))
        assert prop.unsafe == (Polyhedron(rows),)
        assert prop.n_outputs == 2

    def test_numbers_are_exact(self):
        text = "(assert (<= X_0 1e-1)) (assert (>= X_0 -1.5e-3)) (assert (<= X_1 (- 1.5))) (assert (>= X_1 (- 0 2)))"
        assert read("", text).input_set == box(("-3/2000", "1/10"), (-2, "-3/2"))
        assert read("(assert (<= Y_0 (/ 1 3)))").unsafe[0].constraints[0].bound == Fraction(1, 3)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("0", 0), ("-0.0", 0), ("+2", 2), ("1.", 1), (".5", Fraction(1, 2)), ("-.25e2", -25), ("12E+1", 120),
            ("1e-3", Fraction(1, 1000)), ("007", 7), ("0.1", Fraction(1, 10)),
        ],
    )  # fmt: skip
    def test_literals(self, text, value):
        assert number(text) == value

    @pytest.mark.parametrize(
        "text", ["", "-", ".", "e5", "1e", "1_0", "0x1", "nan", "inf", "--1", "1.2.3", "٣", "1e9999"]
    )
    def test_what_is_no_literal(self, text):
        assert number(text) is None

    def test_disjuncts_and_their_boxes(self):
        prop = read("(assert (or (and (<= X_0 0.5) (<= Y_0 0)) (and (>= X_0 0.5) (<= Y_1 0)) (>= Y_0 9)))")
        assert prop.unsafe == (
            Polyhedron((row(y=[(0, 1)]),), box((0, "1/2"), (0, 1))),
            Polyhedron((row(y=[(1, 1)]),), box(("1/2", 1), (0, 1))),
            Polyhedron((row(-9, y=[(0, -1)]),)),
        )

    def test_inputs_bounded_in_the_disjuncts_only(self):
        prop = read(
            "(assert (or (and (<= X_0 1) (>= X_0 0) (<= Y_0 0)) (and (<= X_0 3) (>= X_0 2) (<= Y_0 0))"
            "            (and (<= X_0 7) (>= X_0 8))))",
            "(assert (>= X_1 0)) (assert (<= X_1 1))",
        )
        assert prop.input_set == box((0, 3), (0, 1))
        assert [d.box for d in prop.unsafe] == [box((0, 1), (0, 1)), box((2, 3), (0, 1))]

    def test_one_disjunct_with_the_only_bounds(self):
        inside = "(>= X_0 0) (<= X_0 1) (>= X_1 0) (<= X_1 1)"
        assert read(f"(assert (or (and {inside} (<= Y_0 0))))", "").unsafe == (Polyhedron((row(y=[(0, 1)]),)),)

    def test_a_strict_input_bound_is_a_closed_end_and_a_strict_row(self):
        prop = read("(assert (< X_0 0.5)) (assert (<= Y_0 0))")
        strict = row("1/2", strict=True, x=[(0, 1)])
        assert prop.input_set == box((0, "1/2"), (0, 1))
        assert prop.unsafe == (Polyhedron((row(y=[(0, 1)]), strict)),)
        inner = read("(assert (or (> (* 2 X_0) 1) (< X_0 5)))")
        assert inner.unsafe == (
            Polyhedron((row("-1/2", strict=True, x=[(0, -1)]),), box(("1/2", 1), (0, 1))),
            Polyhedron(()),
        )
        assert read("(assert (or (and (< X_0 0.5) (>= X_0 0.5))))").unsafe == ()

    def test_bounds_with_coefficients_and_on_the_right(self):
        prop = read("(assert (<= (* 2 X_0) 1)) (assert (>= 0.75 X_1)) (assert (<= (- X_1) -0.25))")
        assert prop.input_set == box((0, "1/2"), ("1/4", "3/4"))

    def test_coupling(self):
        prop = read("(assert (<= (+ Y_0 (* -2 X_1) 1) (- X_0 (/ Y_1 4))))")
        assert prop.unsafe[0].constraints == (row(-1, y=[(0, 1), (1, "1/4")], x=[(0, -1), (1, -2)]),)
        assert prop.coupled

    def test_equality_chains_and_negation(self):
        y0 = row(1, y=[(0, 1)])
        assert read("(assert (= Y_0 1))").unsafe == (Polyhedron((y0, row(-1, y=[(0, -1)]))),)
        assert read("(assert (<= 0 Y_0 1))").unsafe == (Polyhedron((row(y=[(0, -1)]), y0)),)
        assert read("(assert (not (= Y_0 1)))").unsafe == (
            Polyhedron((row(-1, y=[(0, -1)], strict=True),)),
            Polyhedron((row(1, y=[(0, 1)], strict=True),)),
        )
        pushed = read("(assert (not (or (<= Y_0 1) (not (< Y_1 2)) (and true (>= Y_0 3) (> Y_1 4)))))")
        plain = read("(assert (> Y_0 1)) (assert (< Y_1 2)) (assert (or (< Y_0 3) (<= Y_1 4)))")
        assert pushed.digest == plain.digest

    def test_constants(self):
        assert read("(assert (or (and (<= 1 0) (<= Y_0 0)) (and (<= 0 1) (<= Y_1 0))))").unsafe == (
            Polyhedron((row(y=[(1, 1)]),)),
        )
        assert read("(assert (<= (- Y_0 Y_0) 0))").unsafe == (Polyhedron(()),)
        assert read("(assert (< X_0 X_0))").unsafe == ()
        assert read("").unsafe == read("(assert true)").unsafe == (Polyhedron(()),)
        assert read("(assert false)").unsafe == read("(assert (or))").unsafe == read("(assert (not true))").unsafe == ()

    def test_repeated_disjuncts_and_rows(self):
        prop = read("(assert (or (<= Y_0 0) (and (<= Y_0 0) (<= (+ Y_0 1) 1)) (<= Y_1 0)))")
        assert len(prop.unsafe) == 2
        assert len(prop.unsafe[0].constraints) == 1

    def test_declarations_in_any_order_and_ignored_commands(self):
        text = (
            '(set-logic QF_LRA) (set-info :source |a (stray " ; bar|) (set-info :status "x ( ; )")\r\n'
            "(declare-fun Y_0 () Real) (declare-const X_1 Real)\r(declare-fun X_0 () Real)\n"
            "(assert (and (<= 0 X_0 1) (<= 0 X_1 1) (<= Y_0 0))) ; comment (\n(check-sat) (exit)"
        )
        assert parse_property(text).input_set == box((0, 1), (0, 1))

    def test_a_product_of_alternatives(self):
        prop = read("(assert (or (<= Y_0 0) (<= Y_0 1))) (assert (or (<= Y_1 0) (<= Y_1 1)))")
        bounds = [tuple(r.bound for r in d.constraints) for d in prop.unsafe]
        assert bounds == [(0, 0), (0, 1), (1, 0), (1, 1)]


class TestSize:
    @pytest.mark.parametrize("opening", ["(and ", "(or ", "(not (not ", "(and (or "])
    def test_deep_nesting(self, opening):
        depth = 5000
        prop = read(f"(assert {opening * depth}(<= Y_0 1){')' * (depth * opening.count('('))})")
        assert [d.constraints for d in prop.unsafe] == [(row(1, y=[(0, 1)]),)]

    def test_deep_arithmetic(self):
        prop = read(f"(assert (<= {'(+ 1 ' * 5000}Y_0{')' * 5000} 5000))")
        assert prop.unsafe[0].constraints == (row(y=[(0, 1)]),)

    def test_blow_up_is_refused_at_once(self):
        pairs = "".join(f"(assert (or (<= Y_0 {i}) (>= Y_1 {i})))" for i in range(40))
        with pytest.raises(PropertyError, match="would have 1099511627776 disjuncts"):
            read(pairs)
        nested = "(and (or (<= Y_0 1) (<= Y_1 1)) " * 3000 + "true" + ")" * 3000
        with pytest.raises(PropertyError, match="limit is 1000000 disjuncts"):
            read(f"(assert {nested})")
        assert read(pairs + "(assert (or))").unsafe == ()

    def test_a_large_file_is_read_quickly(self):
        n = 3072
        names = "".join(f"(declare-const X_{i} Real)\n" for i in range(n)) + "(declare-const Y_0 Real)\n"
        bounds = "".join(f"(assert (<= X_{i} 0.{i}1))\n(assert (>= X_{i} -0.{i}1))\n" for i in range(n))
        start = time.process_time()
        prop = parse_property(names + bounds + "(assert (<= Y_0 0))")
        assert time.process_time() - start < 1.5  # about 0.05 s: generous, for a loaded machine
        assert prop.n_inputs == n


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "line", "column", "sentence"),
        [
            ("", 1, 1, "it is empty"),
            ("; only a comment\n", 1, 17, "it is empty"),
            ("(assert (<= X_0 1)", 1, 13, "variable X_0 is not declared"),
            ("(declare-const X_0 Real", 1, 1, "this '(' is never closed"),
            ("(declare-const X_0 Real)\n(declare-const Y_0 Real)\n  (assert (<= X_0 1)", 3, 3, "never closed"),
            ("(declare-const X_0 Real))", 1, 25, "too many"),
            ("hello", 1, 1, "stray text 'hello'"),
            ("\n (frobnicate)", 2, 3, "unknown command 'frobnicate'"),
            ("()", 1, 2, "unknown command"),
            ("(vnnlib-version <2.0>)", 1, 1, "VNN-LIB 2.0, which is not supported yet"),
            ("(declare-const Z_0 Real)", 1, 16, "bad variable name 'Z_0'"),
            ("(declare-const X_01 Real)", 1, 16, "bad variable name"),
            ("(declare-const X_0 Int)", 1, 20, "'Int' where 'Real' is expected"),
            ("(declare-const X_0 Real)(declare-const X_0 Real)", 1, 40, "declared twice"),
            ("(set-info :x \"never closed)", 1, 14, "never closed by another"),
            ("(declare-const Y_0 Real)", 1, 25, "no input is declared"),
            ("(declare-const X_0 Real)", 1, 25, "no output is declared"),
            ("(declare-const X_1 Real)(declare-const Y_0 Real)", 1, 49, "X_0 is not declared"),
        ],
    )  # fmt: skip
    def test_commands(self, text, line, column, sentence):
        with pytest.raises(VnnlibError) as caught:
            parse_property(text, "file.vnnlib")
        error = caught.value
        assert sentence in str(error)
        assert (error.line, error.column) == (line, column)
        assert str(error).startswith(f"file.vnnlib, line {error.line}, column {error.column}: ")

    @pytest.mark.parametrize(
        ("formula", "column", "sentence"),
        [
            ("(<= X_7 1)", 5, "variable X_7 is not declared"),
            ("(<= x_0 1)", 5, "unknown symbol 'x_0'"),
            ("(<= X_0 1.2.3)", 9, "bad number '1.2.3'"),
            ("(<= X_0 1e)", 9, "bad number"),
            ("(<= X_0 1e99999)", 9, "more than 4000 digits"),
            ("(<= X_0)", 1, "at least two terms, found 1"),
            ("(<= X_0 (-))", 9, "at least one term"),
            ("(<= X_0 (/ 1))", 9, "at least two terms"),
            ("(<= (* X_0 Y_0) 1)", 5, "product of two variables"),
            ("(<= (/ 1 X_0) 1)", 5, "division by a variable"),
            ("(<= (/ X_0 (- 1 1)) 1)", 5, "division by zero"),
            ("(not)", 1, "'not' takes one formula, found 0"),
            ("(not (<= X_0 1) (<= X_0 2))", 17, "'not' takes one formula"),
            ("(not true false)", 1, "'not' takes one formula, found 2"),
            ("(=> true false)", 2, "unknown operator '=>'"),
            ("((<= X_0 1))", 2, "unknown operator '('"),
            ("()", 2, "unknown operator ')'"),
            ("X_0", 1, "'X_0' where a formula is expected"),
            ("(and X_0)", 6, "'X_0' where a formula is expected"),
            ("(+ 1 2)", 2, "'+' where a formula"),
            ("(<= (and true) 1)", 6, "'and' where a term"),
            ("(<= true 1)", 5, "'true' where a term"),
            ("true true", 6, "'true' where ')' is expected"),
            (f"(<= Y_0 {'(* 1e3000 ' * 5}1{')' * 5})", 1, "gives a number of more than 4000 digits"),
            (f"(<= {'z' * 100} 1)", 5, "zzz...'"),
        ],
    )
    def test_formulas(self, formula, column, sentence):
        with pytest.raises(VnnlibError, match=r"line 7, column") as caught:
            parse_property(f"{HEAD}{UNIT}(assert {formula})")
        assert sentence in str(caught.value)
        assert (caught.value.line, caught.value.column) == (7, 8 + column)

    def test_an_empty_assertion(self):
        with pytest.raises(VnnlibError, match="line 7, column 9: '\\)' where a formula is expected"):
            read("(assert )")

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("(assert (>= X_0 0))", "input X_1 has no lower bound"),
            ("(assert (<= 0 X_0 1)) (assert (>= X_1 0))", "input X_1 has no upper bound"),
            ("(assert (>= X_0 2))" + UNIT, "no input is left: X_0 is at least 2 and at most 1"),
            ("(assert (<= 0 X_0 1)) (assert (or (<= 0 X_1 1) (<= Y_0 0)))", "in one of the disjuncts, input X_1"),
            ("(assert (<= 0 X_0 1)) (assert false)", "input X_1 has no lower bound"),
            ("(assert (or (and (<= 1 X_0 0) (<= 0 X_1 1))))", "input X_0 has no lower bound"),
        ],
    )
    def test_unbounded_and_empty_input_sets(self, text, sentence):
        with pytest.raises(PropertyError) as caught:
            read("", text)
        assert sentence in str(caught.value)

    def test_the_error_pickles(self):
        error = VnnlibError("a ')' too many", 3, 4, "a.vnnlib")
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.line, again.column, again.source) == (str(error), 3, 4, "a.vnnlib")


class TestFiles:
    TEXT = HEAD + UNIT + "(assert (<= Y_0 Y_1))\n"

    def test_plain_gzipped_and_found_by_its_plain_name(self, tmp_path):
        (tmp_path / "a.vnnlib").write_text(self.TEXT)
        (tmp_path / "b.vnnlib.gz").write_bytes(gzip.compress(self.TEXT.encode(), mtime=0))
        (tmp_path / "c.vnnlib").write_bytes(b"\xef\xbb\xbf" + self.TEXT.replace("\n", "\r\n").encode())
        read_as = {name: load_property(tmp_path / name) for name in ("a.vnnlib", "b.vnnlib.gz", "b.vnnlib", "c.vnnlib")}
        assert len({prop.digest for prop in read_as.values()}) == 1
        assert [p.name for p in read_as.values()] == ["a.vnnlib", "b.vnnlib", "b.vnnlib", "c.vnnlib"]
        assert load_property(str(tmp_path / "a.vnnlib")).n_inputs == 2

    @pytest.mark.parametrize(
        ("name", "data", "sentence"),
        [
            ("missing.vnnlib", None, "there is no property file"),
            ("short.vnnlib.gz", gzip.compress(TEXT.encode(), mtime=0)[:-12], "not a whole gzip file"),
            ("plain.vnnlib.gz", TEXT.encode(), "not a whole gzip file"),
            ("broken.vnnlib.gz", gzip.compress(b"x" * 999, mtime=0)[:12] + b"\xff" * 20, "not a whole gzip file"),
            ("binary.vnnlib", b"\x08\x07\xff\xfe\x00", "byte 2 is not UTF-8"),
            ("zeros.vnnlib", b"(assert\0)", "zero bytes"),
            ("empty.vnnlib", b"", "line 1, column 1: the text holds no VNN-LIB command"),
            ("bad.vnnlib", b"(assert", "line 1, column 1: this '(' is never closed"),
            ("open.vnnlib", (HEAD + "(assert (>= X_0 0))").encode(), "input X_1 has no lower bound"),
        ],
    )
    def test_files_that_cannot_be_read(self, tmp_path, name, data, sentence):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(PropertyError) as caught:
            load_property(tmp_path / name)
        assert sentence in str(caught.value)
        assert name in str(caught.value)

    def test_a_folder(self, tmp_path):
        with pytest.raises(PropertyError, match="is a folder"):
            load_property(tmp_path)

    def test_saving(self, tmp_path):
        prop = read("(assert (<= Y_0 Y_1))")
        for name in ("a.vnnlib", "a.vnnlib.gz"):
            save_property(prop, tmp_path / name)
            assert load_property(tmp_path / name).digest == prop.digest
        assert (tmp_path / "a.vnnlib.gz").read_bytes()[:2] == b"\x1f\x8b"
        with pytest.raises(PropertyError, match="cannot write"):
            save_property(prop, tmp_path / "none" / "a.vnnlib")


class TestWriting:
    def test_the_usual_forms(self):
        text = write_property(robustness([Fraction(1, 2)], 1, Fraction(1, 10), n_outputs=3, name="a\nb"))
        assert text == (
            "; a\n; b\n(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
            "(declare-const Y_2 Real)\n(assert (>= X_0 0.4))\n(assert (<= X_0 0.6))\n"
            "(assert (or\n    (and (<= Y_1 Y_0))\n    (and (<= Y_1 Y_2))\n))\n"
        )

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("0", "0"), ("-12", "-12"), ("1/2", "0.5"), ("-1/40", "-0.025"), ("1/3", "(/ 1 3)"), ("-7/6", "(/ -7 6)"),
            ("100", "100"), ("-31/10", "-3.1"),
        ],
    )  # fmt: skip
    def test_literals(self, value, text):
        assert literal(Fraction(value)) == text

    @pytest.mark.parametrize(
        "value",
        [Fraction(5e-324), Fraction(10**3999), Fraction(1, 10**3999), Fraction(1, 2**13000), Fraction(-(10**3998), 7)],
    )
    def test_extreme_numbers_read_back(self, value):
        unit = box((0, 1))
        prop = Property(unit, (Polyhedron((row(value, y=[(0, 1)]),)),), 1)
        assert parse_property(write_property(prop)).digest == prop.digest

    @pytest.mark.parametrize("value", [Fraction(10**5000), Fraction(1, 10**5000), Fraction(10**4100, 3)])
    def test_numbers_without_end_are_refused(self, value):
        with pytest.raises(PropertyError, match="more than 4000 digits"):
            literal(value)

    @pytest.mark.parametrize("norm", ["0", "1", "2"])
    def test_balls_are_refused(self, norm):
        ball = LpBall((Fraction(0),), Fraction(1), norm, box((-1, 1)))
        with pytest.raises(PropertyError, match=f"cannot describe an l{norm} ball"):
            write_property(Property(ball, (), 1))

    @pytest.mark.parametrize(
        "unsafe",
        [
            (),
            (Polyhedron(()),),
            (Polyhedron(()), Polyhedron((row(y=[(0, 1)]),))),
            (Polyhedron((row(1),)), Polyhedron((row(-1), row(y=[(0, 1)])))),
            (Polyhedron((row("1/2", x=[(0, 1)]),)),),
            (Polyhedron((row("1/2", strict=True, x=[(0, -3)]),)),),
            (Polyhedron((row(7, strict=True, x=[(0, 1)]),)),),
            (Polyhedron((row(0, x=[(0, 1), (1, -1)], strict=True),)),),
            (Polyhedron((row(y=[(0, 2)], x=[(1, "1/3")]),), box((-5, "1/2"), (0, 1))),),
            (Polyhedron((), box((0, 1), (0, 1))), Polyhedron((), box((3, 4), (0, 1)))),
        ],
    )
    def test_reads_back_with_the_same_digest(self, unsafe):
        prop = Property(box((0, 1), (0, 1)), unsafe, 2)
        assert parse_property(write_property(prop)).digest == prop.digest

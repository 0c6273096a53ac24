"""Deliberate mistakes in interval, CROWN and MILP, each of which can give a wrong verdict, bound or line.

A mutant replaces a piece of one function's source and puts the changed function wherever the old one is looked up.
Where the source has moved on, `Mutant.apply` says so: the mutant is then to be brought up to date.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest


@dataclass(frozen=True)
class Edit:
    """In `where` ("module:function" or "module:Class.method") the text `old`, found once, becomes `new`."""

    where: str
    old: str
    new: str

    def apply(self, patch: pytest.MonkeyPatch) -> None:
        module_name, _, path = self.where.partition(":")
        module = importlib.import_module(module_name)
        owner: Any = module
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        original = getattr(owner, name)
        source = textwrap.dedent(inspect.getsource(original))
        if source.count(self.old) != 1:
            raise LookupError(f"{self.where} no longer has the text {self.old!r} once: bring this mutant up to date")
        made: dict[str, Any] = {}
        code = compile("from __future__ import annotations\n" + source.replace(self.old, self.new), self.where, "exec")
        exec(code, module.__dict__, made)  # its globals stay the module's, so that other mutants reach it
        patch.setattr(owner, name, made[name])
        if owner is module:
            for other in _modules():
                if vars(other).get(name) is original:
                    patch.setattr(other, name, made[name])
            for table in (v for other in _modules() for v in vars(other).values() if isinstance(v, dict)):
                for key in [k for k, v in table.items() if v is original]:
                    patch.setitem(table, key, made[name])


def _modules() -> list[ModuleType]:
    """Those that may have taken a function by name or put it into a table of rules."""
    return [module for key, module in list(sys.modules.items()) if key.split(".")[0] in ("verifkit", "verifiers")]


@dataclass(frozen=True)
class Mutant:
    """One mistake, made in the code of the registered verifier `verifier`."""

    name: str
    verifier: str
    description: str
    edits: tuple[Edit, ...]

    def apply(self, patch: pytest.MonkeyPatch) -> None:
        for edit in self.edits:
            edit.apply(patch)

    def __str__(self) -> str:
        return f"{self.verifier}-{self.name}"


INTERVAL = "verifkit.analysis.interval"
RANGES = "verifkit.analysis.ranges"
LINEAR = "verifkit.analysis.linear"
BACKWARD = "verifkit.analysis.backward"
COMPACT = "verifkit.analysis.compact"
SPARSE = "verifkit.sparse_maps"
SLOPES = "verifkit.analysis.slopes"
SUPPORT = "verifkit.analysis.support"
LINES = "verifkit.analysis.relaxation"
CURVES = "verifkit.analysis.curves"
BENDS = "verifkit.analysis.bends"
POLYLINES = "verifkit.analysis.polylines"
PRODUCTS = "verifkit.analysis.products"
ENCODING = "verifkit.analysis.encoding"
GROUPS = "verifkit.analysis.max_groups"
REGION = "verifkit.analysis.region"
ROUNDING = "verifkit.analysis.rounding"
ROWS = "verifkit.analysis.rows"
REFUTE = "verifkit.analysis.refute"
MILP = "verifiers.complete.milp"
MIXED = "verifkit.solvers.mixed_program"


def mutant(verifier: str, name: str, description: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(name, verifier, description, tuple(Edit(*edit) for edit in edits))


MUTANTS = (
    # --- interval ---------------------------------------------------------------------------------------------------
    mutant("interval", "swapped-bounds", "an affine node's upper bound is returned as its lower one",
           (f"{INTERVAL}:_affine", "down(center - radius), up(center + radius)",
            "up(center + radius), down(center - radius)")),
    mutant("interval", "signed-radius", "radii go through W instead of |W|",
           (f"{INTERVAL}:_affine", "linear.absolute.apply(reach)", "linear.apply(reach)")),
    mutant("interval", "missing-bias", "the bias is left out",
           (f"{INTERVAL}:_affine", "center = center + node.bias", "center = center + 0.0")),
    mutant("interval", "first-branch-only", "at a join only the first branch's center counts",
           (f"{INTERVAL}:_affine", "(center + c, radius + r)", "(center, radius + r)")),
    mutant("interval", "stale-join", "at a residual join the radius of the second branch is not added",
           (f"{INTERVAL}:_affine", "(center + c, radius + r)", "(center + c, radius)")),
    mutant("interval", "short-radius", "radii are a hundredth too short",
           (f"{INTERVAL}:_affine", "inflate(xp.maximum(upper - middle, middle - lower))",
            "0.99 * xp.maximum(upper - middle, middle - lower)")),
    mutant("interval", "one-ended-activation", "an activation's lower bound is taken at the upper end",
           (f"{RANGES}:_exact", "function(lower), function(upper)", "function(upper), function(upper)")),
    mutant("interval", "max-by-min", "max pooling is bounded by the minimum",
           (f"{INTERVAL}:_max", "(node.evaluate([end]) for end in bounds)",
            "(-node.evaluate([-end]) for end in bounds)")),
    mutant("interval", "product-of-like-ends", "a product is bounded by lower times lower and upper times upper",
           (f"{INTERVAL}:_product", "[a * b for a in left for b in right]",
            "[left[0] * right[0], left[1] * right[1]]")),
    mutant("interval", "square-at-its-ends", "a square is at least the smaller square of its ends",
           (f"{INTERVAL}:_product", "xp.where(crosses, xp.zeros_like(low), low)",
            "xp.where(crosses, xp.minimum(a * a, b * b), low)")),
    mutant("interval", "difference-of-like-ends", "a difference is bounded by lower minus lower",
           (f"{INTERVAL}:_sums", "xp.where(minus, -upper, lower), xp.where(minus, -lower, upper)",
            "xp.where(minus, -lower, lower), xp.where(minus, -upper, upper)")),
    mutant("interval", "floor-under-any-sum", "one weight that is not negative makes a sum positive",
           (f"{INTERVAL}:_cannot_be_negative", "rows = xp.all(", "rows = xp.any(")),
    mutant("interval", "absolute-at-its-ends", "|x| is at least the smaller of |l| and |u|",
           (f"{RANGES}:_absolute", "xp.clip(xp.maximum(lower, -upper), 0.0, None)",
            "xp.minimum(xp.abs(lower), xp.abs(upper))")),
    mutant("interval", "even-powers-as-odd", "an even power is taken as increasing",
           (f"{RANGES}:_power", "if function.exponent % 2:", "if True:")),
    mutant("interval", "wave-between-its-ends", "a sine is bounded by its values at the ends",
           (f"{RANGES}:_wave", "passed = far | (", "passed = far & (")),
    mutant("interval", "crests-of-the-cosine", "the sine has the cosine's crests",
           (f"{RANGES}:_wave", "crest = 0.25 if", "crest = 0.0 if")),
    mutant("interval", "reciprocal-as-increasing", "1 / x is bounded by 1 / l and 1 / u in the wrong order",
           (f"{RANGES}:_reciprocal", "function(upper), function(lower)", "function(lower), function(upper)")),
    mutant("interval", "bent-between-its-ends", "a leaky ReLU of negative slope is bounded by its values at the ends",
           (f"{RANGES}:_bent", "xp.minimum(xp.maximum(zero, lower), upper)", "lower")),
    mutant("interval", "no-rounding", "rounding errors are not accounted for",
           (f"{INTERVAL}:_affine", "g = gamma(node.terms + 1, parents[0][0])", "g = 0.0"),
           (f"{ROUNDING}:inflate", "return x * (1.0 + 2.0 * ulps * epsilon(x)) + tiny(x)", "return x"),
           (f"{ROUNDING}:down", "return x - (namespace(x).abs(x) * (2.0 * ulps * epsilon(x)) + tiny(x))", "return x"),
           (f"{ROUNDING}:up", "return x + (namespace(x).abs(x) * (2.0 * ulps * epsilon(x)) + tiny(x))", "return x")),
    mutant("interval", "written-box", "a box is not widened to floats of the model's precision",
           (f"{REGION}:_region", "box.floats(kind)", "box.floats(np.float64)")),
    mutant("interval", "any-disjunct", "one refuted disjunct is taken for all",
           (f"{REFUTE}:conclude", "if len(refuting) < len(found):", "if found and not refuting:")),
    mutant("interval", "coupling-ignored", "a row's input coefficients are left out",
           (f"{ROWS}:rows_of", "if prop.coupled:", "if False:")),
    mutant("interval", "single-thresholds", "thresholds are rounded to the nearest float32 instead of upwards",
           (f"{ROWS}:rows_of", "_above(row.bound)", "float(np.float32(float(row.bound)))")),
    # --- CROWN ------------------------------------------------------------------------------------------------------
    mutant("crown", "steep-lower-line", "the lower line of an unstable ReLU has slope 3/2",
           (f"{LINES}:crown_relu", "xp.astype(upper > -lower, lower.dtype)",
            "1.5 * xp.astype(upper > -lower, lower.dtype)")),
    mutant("crown", "low-upper-offset", "the chord above a ReLU is a tenth too low",
           (f"{LINES}:relu_lines", "offset = xp.maximum(-chord * lower, upper * (1.0 - chord))",
            "offset = 0.9 * xp.maximum(-chord * lower, upper * (1.0 - chord))")),
    mutant("crown", "no-offset", "the offset of the chord above a ReLU is left out",
           (f"{LINES}:relu_lines", "upper_offset=xp.where(stable, zero, offset)", "upper_offset=zero")),
    mutant("crown", "nearly-active", "a ReLU that may be slightly negative is taken as active",
           (f"{LINES}:relu_lines", "lower >= 0, upper <= 0", "lower >= -0.125 * upper, upper <= 0")),
    mutant("crown", "bulge-at-its-ends", "the line above a concave piece is fitted at the ends of the piece only",
           (f"{CURVES}:_Side.offset", "xp.where(self.bulges, xp.maximum(offset, self._bulge(slope, contact)), offset)",
            "1.0 * offset")),
    mutant("crown", "one-point-of-contact", "a line that meets a concave piece in one point is taken to touch it there",
           (f"{CURVES}:_Side._bulge", "xp.maximum(excess * (stop - t), excess * (start - t))", "0.0 * excess")),
    mutant("crown", "mirrored-pieces", "a function is taken as concave where it is convex",
           (f"{CURVES}:curve_lines", "bends = BENDS[type(function)](function, lower, upper)",
            "bends = BENDS[type(function)](function, lower, upper)\n        "
            "bends = __import__('dataclasses').replace(bends, left=-bends.left, right=-bends.right)")),
    mutant("crown", "turn-at-the-end", "a sine keeps the bend of the range's lower end",
           (f"{BENDS}:_wave", "xp.where(last > first, (last - shift) * math.pi, upper)", "upper")),
    mutant("crown", "wrong-half-turn", "the sine is concave on odd half turns",
           (f"{BENDS}:_wave", "first == 2 * xp.floor(first / 2)", "first != 2 * xp.floor(first / 2)")),
    mutant("crown", "even-power-as-odd", "an even power is taken to bend both ways",
           (f"{BENDS}:_power", "if function.exponent % 2:", "if True:")),
    mutant("crown", "convex-reciprocal-below", "a reciprocal is taken as concave where it is positive",
           (f"{BENDS}:_reciprocal", "xp.where(lower > 0, one, -one)", "xp.where(lower > 0, -one, one)")),
    mutant("crown", "smooth-kink", "the slope of an ELU at its kink is that of its right side",
           (f"{BENDS}:slope_left_of_kink", "isinstance(function, Elu)", "False")),
    mutant("crown", "unmirrored", "the offset below a curve keeps the sign of its mirror image",
           (f"{CURVES}:curve_lines", "Lines(-lower_slope, -lower_offset,", "Lines(-lower_slope, lower_offset,")),
    mutant("crown", "sign-without-its-jump", "at 0 the sign takes the value of the lower end only",
           (f"{POLYLINES}:_corners", "(at[1], first, last)", "(at[1], first, first)")),
    mutant("crown", "clip-at-its-ends", "a line above a clipped value need not reach its corners",
           (f"{POLYLINES}:_edge", "for x, y in corners[1:]:", "for x, y in corners[-1:]:")),
    mutant("crown", "leaky-above-zero", "a leaky ReLU left of 0 has slope 1",
           (f"{POLYLINES}:_corners", "[(negative, function.slope), (positive, 1.0)]",
            "[(negative, 1.0), (positive, 1.0)]")),
    mutant("crown", "swapped-plane", "the plane above a product is mirrored from its own side",
           (f"{PRODUCTS}:product_planes", "_plane_below((-left[1], -left[0]), right)", "_plane_below(left, right)")),
    mutant("crown", "plane-at-one-corner", "a plane below a product lies below one of its corners",
           (f"{PRODUCTS}:_plane_below", "xp.minimum(offset, gap)", "xp.maximum(offset, gap)")),
    mutant("crown", "one-factor-of-two", "a product's second factor is left out of the backward pass",
           (f"{BACKWARD}:_Pass._through_relaxation", "zip(node.parents, slopes, strict=True)",
            "zip(node.parents[:1], slopes[:1], strict=True)")),
    mutant("crown", "wrong-line", "negative coefficients take the lower line's slope",
           (f"{BACKWARD}:_Pass._through_relaxation", "negative * self._rowwise(upper_slope, node)",
            "negative * self._rowwise(lower_slope, node)")),
    mutant("crown", "missing-neuron", "the last neuron of every layer is left out of the backward pass",
           (f"{BACKWARD}:_Pass._through_relaxation", "self._accumulate(parent, pulled, 2)",
            "self._accumulate(parent, pulled * (xp.arange(pulled.shape[-1]) < pulled.shape[-1] - 1), 2)")),
    mutant("crown", "missing-bias", "the backward pass leaves the bias out",
           (f"{BACKWARD}:_Pass._through_affine", "(flat @ xp.reshape(node.bias, (-1, 1)))[..., 0]", "0.0 * slack")),
    mutant("crown", "overwritten-join", "at a join the second path's coefficients replace the first's",
           (f"{BACKWARD}:_Pass._accumulate", "merged = self.pending[parent] + pulled", "merged = pulled")),
    mutant("crown", "sign-of-concretisation", "positive coefficients are bounded at the upper end of the box",
           (f"{SUPPORT}:dot_box", "(flat @ middle)[..., 0] - sizes[..., 0]",
            "(flat @ middle)[..., 0] + sizes[..., 0]")),
    mutant("crown", "dropped-sign", "the sign of a backward upper bound is dropped",
           (f"{LINEAR}:_Builder._tightened", "found = -_where_open(self._rows(index, chosen, -1.0, kinks)",
            "found = _where_open(self._rows(index, chosen, -1.0, kinks)")),
    mutant("crown", "wrong-dual-norm", "an l2 ball takes the dual norm of an l1 ball",
           (f"{SUPPORT}:_split", 'if region.norm == "2"', 'if region.norm == "1"')),
    mutant("crown", "small-ball", "a ball's radius is a tenth too small",
           (f"{REGION}:_rounded", "[radius + shift]", "[radius * Fraction(9, 10)]")),
    mutant("crown", "radius-of-the-clip", "a clipped ball's radius is read off its bounding box",
           (f"{REGION}:_region", "ball[1], inputs.norm",
            "np.minimum(ball[1], (upper - lower).max() / 2), inputs.norm")),
    mutant("crown", "max-of-sums", "max(a, b) becomes a + relu(b + a)",
           ("verifkit.network:_append_pairwise_max", "np.full(left.shape, -1.0)", "np.full(left.shape, 1.0)")),
    mutant("crown", "first-case-only", "of several input regions only the first has to hold",
           ("verifkit.verifier:_combine", "for part in parts:", "for part in parts[:1]:")),
    mutant("crown", "living-units-removed", "units that may be positive are taken out of the network",
           (f"{COMPACT}:Compact._remove_zeros", "~(upper[0] <= 0)", "~(upper[0] <= -_[0])")),
    mutant("crown", "units-without-columns", "a unit that is taken out leaves its neighbour's column behind",
           (f"{SPARSE}:columns", "linear.weight[:, kept]", "linear.weight[:, : kept.size]")),
    mutant("crown", "half-a-clipped-ball", "what the box adds to a clipped ball's bound is left out",
           (f"{SUPPORT}:_split", "total = value + boxed", "total = value")),
    mutant("crown", "decided-by-its-upper-end", "a unit that may be negative is taken as decided by its upper end",
           (f"{LINEAR}:_Builder._tightened", "found = _where_open(self._rows(index, chosen, 1.0, kinks)",
            "found = _where_open(0.0 * upper.reshape(upper.shape[0], -1)[:, chosen]")),
    # --- alpha-CROWN ------------------------------------------------------------------------------------------------
    mutant("alpha_crown", "slopes-beyond-one", "the ascent may leave the range of valid slopes",
           (f"{SLOPES}:_Rows._stepped", "xp.zeros_like(move)), None, 1.0)", "xp.zeros_like(move)), None, 2.0)")),
    mutant("alpha_crown", "missing-constants", "the biases of the rows' own node are left out",
           (f"{SLOPES}:_Rows._bound", "if self.constant is not None:", "if False:")),
    # --- MILP -------------------------------------------------------------------------------------------------------
    mutant("milp", "small-big-m", "the constant that frees an active ReLU is half what it must be",
           (f"{ENCODING}:_rectifier", "sparse.diags_array(high[unstable]) @ pick_d",
            "0.5 * sparse.diags_array(high[unstable]) @ pick_d")),
    mutant("milp", "small-lower-big-m", "the constant that frees an inactive ReLU is half what it must be",
           (f"{ENCODING}:_rectifier", "sparse.csr_array(with_low), -none, -low[unstable]",
            "sparse.csr_array(with_low), -none, -0.5 * low[unstable]")),
    mutant("milp", "no-integrality", "phases may be fractional",
           (f"{ENCODING}:_rectifier", "integer=True", "integer=False")),
    mutant("milp", "undecided-as-active", "a ReLU that may be negative is taken as active",
           (f"{ENCODING}:_rectifier", "(high > 0) & (low < 0)", "(high > 0) & (low < -high)")),
    mutant("milp", "undecided-as-off", "a ReLU that is mostly negative is taken as off",
           (f"{ENCODING}:_rectifier", "living = np.flatnonzero((high > 0) | (slope != 0))",
            "high = np.where(high > -low, high, np.minimum(high, 0.0))\n"
            "    living = np.flatnonzero((high > 0) | (slope != 0))")),
    mutant("milp", "missing-bias", "the bias of an affine node is left out",
           (f"{ENCODING}:_affine", "np.zeros(size) if node.bias is None else", "np.zeros(size) if True else")),
    mutant("milp", "overwritten-join", "at a join only the last branch is encoded",
           (f"{ENCODING}:_affine", "matrix = matrix + encoding.widen(weights @ parent.matrix)",
            "matrix = encoding.widen(weights @ parent.matrix)")),
    mutant("milp", "small-l1-ball", "an l1 ball's radius is a tenth too small",
           (f"{ENCODING}:add_l1_distance", "np.array([reach])", "0.9 * np.array([reach])")),
    mutant("milp", "one-candidate", "only the entry with the best lower bound can be the maximum",
           (f"{GROUPS}:max_groups", "(upper > lower.max(axis=1, keepdims=True)) & ~padding",
            "(upper > upper.max(axis=1, keepdims=True)) & ~padding")),
    mutant("milp", "small-max-big-m", "the constant that frees an entry that is not the maximum is too small",
           (f"{GROUPS}:max_groups", "np.maximum(others - lower, 0.0)", "np.maximum(others - lower, 0.0) / 4")),
    mutant("milp", "leaky-without-its-slope", "a leaky ReLU that may be negative has no slope left of 0",
           (f"{ENCODING}:_rectifier", "np.where(low >= 0, 1.0, slope)", "np.where(low >= 0, 1.0, 0.0 * slope)")),
    mutant("milp", "first-disjunct-only", "only the first open disjunct is searched",
           (f"{MILP}:Milp._search", "for number in task.still_open:", "for number in task.still_open[:1]:")),
    mutant("milp", "coupling-ignored", "the solver's rows leave the input coefficients out",
           (f"{MIXED}:MixedProgram.set_rows", "+= rows.inputs[mine]", "+= 0.0 * rows.inputs[mine]")),
    mutant("milp", "ties-hold", "a bound within the solver's tolerance of zero counts as proof",
           (f"{MILP}:Milp._search", "cleared = 2.0 *", "cleared = -2.0 *")),
    mutant("milp", "unproved-bound", "the solver is given a lower bound on the violation that nothing proves",
           (f"{MILP}:Milp._search", "rows.gap(lower, number) - 1.0, cleared", "0.0, cleared")),
    mutant("milp", "bound-without-threshold", "the proof states a row's lower bound as that of the violation",
           (f"{MILP}:Milp._decide", "task.rows.gap(task.lower, n) for n in",
            "float(task.lower[task.rows.disjunct == n].max()) for n in")),
    mutant("milp", "closed-as-strict", "a witness may touch a strict row",
           ("verifkit.confirm:violates", "row.satisfied(x, y)", "row.value(x, y) <= row.bound")),
)  # fmt: skip

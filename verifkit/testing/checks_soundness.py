"""No definite verdict may differ from the truth."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from verifkit.capabilities import Kind
from verifkit.input_sets import Box, InputSet, LpBall, Norm
from verifkit.properties import Polyhedron
from verifkit.query import Query
from verifkit.result import Verdict
from verifkit.testing.checks import DETERMINISTIC, Rule, Trial, applies_to, deterministic, wrongly_holds
from verifkit.testing.questions import effective_samples, linear_samples, one_bad_disjunct, showing, supported
from verifkit.testing.samples import Sample, describe_property, in_effective_set, is_unsafe

BALLS = 3
"""One question in this many is asked about l2 balls: judging one takes a dense sampling."""


def _share(trial: Trial, norm: Norm) -> list[Sample]:
    return trial.samples(norm, trial.queries // BALLS if norm == "2" else None)


def never_holds_on_a_violation(trial: Trial) -> None:
    """HOLDS is never said of random questions of which the oracle, or dense sampling, knows a violation."""
    for norm in deterministic(trial):
        for sample in _share(trial, norm):
            if wrongly_holds(trial, sample):
                x = ", ".join(map(str, sample.truth.witness or ()))
                trial.fail_sample(
                    "never_holds_on_a_violation",
                    f"HOLDS, but the input ({x}) is a violation",
                    sample,
                    lambda s: wrongly_holds(trial, s),
                )


def _bad_witness(trial: Trial, sample: Sample) -> str | None:
    """What is wrong with a VIOLATED, or None."""
    result = trial.ask(sample.query)
    if result.verdict is not Verdict.VIOLATED:
        return None
    if result.witness is None:
        return "VIOLATED without a witness"
    x, dtype = result.witness.x, sample.query.model.dtype
    if not in_effective_set(sample.prop.input_set, x, dtype):
        return "the witness lies outside the input set"
    if not is_unsafe(sample.toy, sample.prop, x, dtype):
        return "the witness is safe by exact evaluation"
    if sample.truth.violated is False:
        return "VIOLATED, but the oracle proves that the property holds"
    return None


def witnesses_are_violations(trial: Trial) -> None:
    """VIOLATED comes with an input of the effective set that is exactly unsafe, and never where it holds."""
    for norm in deterministic(trial):
        for sample in _share(trial, norm):
            wrong = _bad_witness(trial, sample)
            if wrong is not None:
                trial.fail_sample(
                    "witnesses_are_violations", wrong, sample, lambda s: _bad_witness(trial, s) is not None
                )


def linear_balls_are_exact(trial: Trial) -> None:
    """Linear questions whose exact margin is known for every norm: both sides of the boundary, and exact ties."""
    for norm in (n for n in deterministic(trial) if n != "0"):
        for sample in linear_samples(norm, trial.verifier.capabilities):
            result = trial.ask(sample.query)
            wrong = Verdict.HOLDS if sample.truth.violated else Verdict.VIOLATED
            if result.verdict is wrong:
                sentence = f"{result.verdict} where the margin is exactly {sample.truth.margin} ({sample.name})"
                trial.fail("linear_balls_are_exact", sentence, sample.reproducer())


def effective_box_counts(trial: Trial) -> None:
    """A box whose ends are no floats counts as widened to the nearest ones, for HOLDS and for witnesses."""
    for query, violated in effective_samples():
        result = trial.ask(query)
        wrong = Verdict.HOLDS if violated else Verdict.VIOLATED
        missed = trial.kind("inf") is Kind.COMPLETE and result.verdict is Verdict.UNKNOWN
        if result.verdict is wrong or missed:
            expected = "VIOLATED" if violated else "HOLDS"
            sentence = f"{result.verdict} instead of {expected} on the widened box, for y_0 = 2^24 (x_0 - float32(0.1))"
            trial.fail("effective_box_counts", sentence, describe_property(query.prop))


def gallery_is_sound(trial: Trial) -> None:
    """Networks of every declared kind: HOLDS is never said where a sampled point is a violation."""
    for norm in deterministic(trial):
        for exhibit in supported(trial.verifier.capabilities):
            for sign in (1, -1):
                for radius in (Fraction(1, 2), Fraction(1, 16)):
                    shown = showing(exhibit.name, norm, sign, radius, True, trial.seed)
                    if trial.ask(shown.query).verdict is Verdict.HOLDS:
                        sentence = (
                            f"HOLDS of gallery network '{exhibit.name}', but sampling reaches {shown.sampled:.6g}, "
                            f"below the row's bound {float(shown.query.prop.unsafe[0].constraints[0].bound):.6g}"
                        )
                        trial.fail("gallery_is_sound", sentence, describe_property(shown.query.prop))


def shrinking_keeps_holds(trial: Trial) -> None:
    """After a HOLDS a smaller set is never VIOLATED; a complete method still says HOLDS. A witness never HOLDS."""
    for norm in deterministic(trial):
        for sample in trial.samples(norm, 30):
            result = trial.ask(sample.query)
            if result.verdict is Verdict.HOLDS:
                for smaller in _smaller_sets(sample.prop.input_set):
                    query = Query(sample.query.model, replace(sample.prop, input_set=smaller))
                    verdict = trial.ask(query).verdict
                    # Cutting a set may bring the margin no nearer: it only grows.
                    lost = trial.kind(norm) is Kind.COMPLETE and verdict is not Verdict.HOLDS and not _close(sample)
                    if verdict is Verdict.VIOLATED or lost:
                        sentence = f"HOLDS of a set, but {verdict} of a smaller one ({sample.name})"
                        trial.fail("shrinking_keeps_holds", sentence, sample.reproducer(), smaller.canonical())
            if result.witness is not None:
                x = result.witness.x
                point = Query(sample.query.model, replace(sample.prop, input_set=Box(x, x)))
                if "inf" in trial.norms and trial.ask(point).verdict is Verdict.HOLDS:
                    trial.fail("shrinking_keeps_holds", f"HOLDS of the witness {x} alone", sample.reproducer())


def _close(sample: Sample) -> bool:
    return sample.truth.in_band


def _smaller_sets(region: InputSet) -> list[InputSet]:
    if isinstance(region, LpBall):
        # Around the same center, with the clip box kept: the ball still meets it where the center does.
        if region.norm == "0" or (region.clip is not None and not region.clip.contains(region.center)):
            return []
        return [replace(region, radius=region.radius / 2), replace(region, radius=Fraction(0))]
    middle = tuple((a + b) / 2 for a, b in zip(region.lower, region.upper, strict=True))
    return [Box(region.lower, middle), Box(middle, region.upper), Box(middle, middle)]


def every_disjunct_counts(trial: Trial) -> None:
    """A property with several disjuncts HOLDS only if it holds of each alone, in whatever order they stand."""
    for norm in (n for n in deterministic(trial) if not trial.verifier.capabilities.robustness_only):
        for sample in (s for s in trial.samples(norm, 48) if len(s.prop.unsafe) > 1):
            whole = trial.ask(sample.query).verdict
            for unsafe in (tuple(reversed(sample.prop.unsafe)), *((d,) for d in sample.prop.unsafe)):
                part = _verdict_of(trial, sample, unsafe)
                clash = whole is Verdict.HOLDS and part is Verdict.VIOLATED
                if len(unsafe) == len(sample.prop.unsafe):
                    clash = clash or (whole is Verdict.VIOLATED and part is Verdict.HOLDS)
                if clash:
                    sentence = f"{whole} of the whole property, {part} of some of its disjuncts ({sample.name})"
                    trial.fail("every_disjunct_counts", sentence, sample.reproducer())


def one_bad_disjunct_is_seen(trial: Trial) -> None:
    """Of three disjuncts one is reached, and not the one that a relaxation finds most suspicious: never HOLDS."""
    for norm in (n for n in deterministic(trial) if n in ("inf", "1")):
        for number in range(12):
            sample = one_bad_disjunct(norm, number, trial.seed)
            if wrongly_holds(trial, sample):
                sentence = f"HOLDS, but disjunct {number % 3} of three is reached"
                trial.fail_sample("one_bad_disjunct_is_seen", sentence, sample, lambda s: wrongly_holds(trial, s))


def _verdict_of(trial: Trial, sample: Sample, unsafe: tuple[Polyhedron, ...]) -> Verdict:
    return trial.ask(Query(sample.query.model, replace(sample.prop, unsafe=unsafe))).verdict


RULES = (
    Rule("linear_balls_are_exact", linear_balls_are_exact, applies_to(*DETERMINISTIC), soundness=True),
    Rule(
        "effective_box_counts",
        effective_box_counts,
        lambda t: "inf" in deterministic(t) and not t.verifier.capabilities.robustness_only,
        soundness=True,
    ),
    Rule("never_holds_on_a_violation", never_holds_on_a_violation, applies_to(*DETERMINISTIC), soundness=True),
    Rule("witnesses_are_violations", witnesses_are_violations, applies_to(*DETERMINISTIC), soundness=True),
    Rule(
        "one_bad_disjunct_is_seen",
        one_bad_disjunct_is_seen,
        lambda t: bool(deterministic(t)) and not t.verifier.capabilities.robustness_only,
        soundness=True,
    ),
    Rule("every_disjunct_counts", every_disjunct_counts, applies_to(*DETERMINISTIC), soundness=True),
    Rule(
        "gallery_is_sound",
        gallery_is_sound,
        lambda t: bool(deterministic(t)) and not t.verifier.capabilities.robustness_only,
        soundness=True,
    ),
    Rule("shrinking_keeps_holds", shrinking_keeps_holds, applies_to(*DETERMINISTIC), soundness=True),
)

"""A method does what its kind promises: complete ones decide, incomplete ones prove the easy, falsifiers find it."""

from __future__ import annotations

from fractions import Fraction

from verifkit.capabilities import Kind
from verifkit.functions import Relu
from verifkit.ops import Max
from verifkit.result import Reason, Verdict
from verifkit.testing.checks import EXACT_NORMS, Rule, Trial, applies_to
from verifkit.testing.questions import easy_sample, linear_samples, showing, supported
from verifkit.testing.samples import Sample, describe_property

EASY = 12
"""Easy questions per norm."""


def _indecision(trial: Trial, sample: Sample) -> str | None:
    """How a complete method's answer falls short, or None."""
    result, truth = trial.ask(sample.query), sample.truth
    if result.verdict is Verdict.UNKNOWN:
        why = f"UNKNOWN({result.reason}: {result.detail})"
        if not truth.in_band:
            return f"{why} although the exact margin is {float(truth.margin or 0.0):.3g}"
        return None if result.reason is Reason.UNCONFIRMED else f"{why} on a tie, where only 'unconfirmed' will do"
    expected = Verdict.VIOLATED if truth.violated else Verdict.HOLDS
    return None if result.verdict is expected else f"{result.verdict} instead of {expected}"


def complete_methods_decide(trial: Trial) -> None:
    """Every question with |margin| > 1e-6 (1 + max|y|) is decided, rightly; nearer ones may stay unconfirmed."""
    for norm in trial.of_kind(Kind.COMPLETE):
        hand_made = [] if norm == "0" else list(linear_samples(norm, trial.verifier.capabilities))
        for sample in [*hand_made, *(trial.samples(norm) if norm in EXACT_NORMS else [])]:
            wrong = _indecision(trial, sample)
            if wrong is not None:
                trial.fail_sample("complete_methods_decide", wrong, sample, lambda s: _indecision(trial, s) is not None)


def easy_questions_are_proved(trial: Trial) -> None:
    """Tiny sets with a clear margin are proved: a method that never proves anything is not one."""
    capabilities = trial.verifier.capabilities
    for norm in trial.of_kind(Kind.COMPLETE, Kind.INCOMPLETE):
        for number in range(EASY):
            coupled = capabilities.coupling and not capabilities.robustness_only and number % 4 == 3
            sample = easy_sample(norm, number, trial.seed, True, coupled)
            result = trial.ask(sample.query)
            if result.verdict is not Verdict.HOLDS:
                sentence = (
                    f"{result.verdict}({result.reason}: {result.detail}) where the margin is about 2 on a tiny set"
                )
                trial.fail("easy_questions_are_proved", sentence, sample.reproducer())


def easy_violations_are_found(trial: Trial) -> None:
    """Sets of which every point is a violation by a clear margin are found by falsifiers and complete methods."""
    capabilities = trial.verifier.capabilities
    for norm in trial.of_kind(Kind.COMPLETE, Kind.FALSIFIER):
        for number in range(EASY):
            coupled = capabilities.coupling and not capabilities.robustness_only and number % 4 == 3
            sample = easy_sample(norm, number, trial.seed, False, coupled)
            result = trial.ask(sample.query)
            if result.verdict is not Verdict.VIOLATED:
                sentence = f"{result.verdict}({result.reason}: {result.detail}) where every input of the set is unsafe"
                trial.fail("easy_violations_are_found", sentence, sample.reproducer())


def falsifiers_follow_slopes(trial: Trial) -> None:
    """On a linear network the violation sits at the edge of the set; a falsifier gets there."""
    for norm in (n for n in trial.of_kind(Kind.FALSIFIER) if n != "0"):
        for sample in linear_samples(norm, trial.verifier.capabilities):
            result = trial.ask(sample.query)
            if sample.truth.violated and not sample.truth.in_band and result.verdict is not Verdict.VIOLATED:
                sentence = f"{result.verdict} where a linear network is violated at the edge ({sample.name})"
                trial.fail("falsifiers_follow_slopes", sentence, sample.reproducer())


def falsifiers_prove_nothing(trial: Trial) -> None:
    """A falsifier never says HOLDS, however easy the question."""
    for norm in trial.of_kind(Kind.FALSIFIER):
        for number in range(EASY):
            sample = easy_sample(norm, number, trial.seed, True, False)
            if trial.ask(sample.query).verdict is not Verdict.UNKNOWN:
                trial.fail("falsifiers_prove_nothing", "a definite verdict where it holds", sample.reproducer())


def gallery_is_decided(trial: Trial) -> None:
    """Networks of every declared kind: tiny sets are proved, and a complete method finds sampled violations of
    piecewise linear ones (of others, completeness promises nothing)."""
    for norm in trial.of_kind(Kind.COMPLETE, Kind.INCOMPLETE):
        for exhibit in supported(trial.verifier.capabilities):
            wanted = [(Fraction(1, 2**12), False)]
            if trial.kind(norm) is Kind.COMPLETE and exhibit.needs <= {Relu, Max}:
                wanted.append((Fraction(1, 4), True))
            for radius, violated in wanted:
                shown = showing(exhibit.name, norm, 1, radius, violated, trial.seed)
                result = trial.ask(shown.query)
                expected = Verdict.VIOLATED if violated else Verdict.HOLDS
                if result.verdict is not expected:
                    sentence = (
                        f"{result.verdict}({result.reason}: {result.detail}) instead of {expected} of gallery network "
                        f"'{exhibit.name}', where sampling finds {shown.sampled:.6g}"
                    )
                    trial.fail("gallery_is_decided", sentence, describe_property(shown.query.prop))


def _not_robustness_only(trial: Trial) -> bool:
    proves = trial.of_kind(Kind.COMPLETE, Kind.INCOMPLETE)
    return bool(proves) and not trial.verifier.capabilities.robustness_only


RULES = (
    Rule("easy_questions_are_proved", easy_questions_are_proved, applies_to(Kind.COMPLETE, Kind.INCOMPLETE)),
    Rule("easy_violations_are_found", easy_violations_are_found, applies_to(Kind.COMPLETE, Kind.FALSIFIER)),
    Rule("falsifiers_follow_slopes", falsifiers_follow_slopes, applies_to(Kind.FALSIFIER)),
    Rule("falsifiers_prove_nothing", falsifiers_prove_nothing, applies_to(Kind.FALSIFIER), soundness=True),
    Rule("gallery_is_decided", gallery_is_decided, _not_robustness_only),
    Rule("complete_methods_decide", complete_methods_decide, applies_to(Kind.COMPLETE)),
)

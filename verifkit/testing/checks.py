"""What the checks of the conformance suite share: the trial they run in and the error they raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from verifkit.budget import Budget
from verifkit.capabilities import Kind
from verifkit.input_sets import Norm
from verifkit.properties import Property
from verifkit.query import Query
from verifkit.result import Result, Verdict
from verifkit.testing.samples import Sample, describe_property, random_sample
from verifkit.testing.shrink import shrink
from verifkit.verifier import Verifier

GENEROUS = Budget(seconds=60.0)
"""For questions that take milliseconds: a verifier that hangs still ends."""

EXACT_NORMS: tuple[Norm, ...] = ("inf", "1", "0")
"""The norms whose questions the exact oracle answers."""


class ConformanceError(AssertionError):
    """A verifier breaks its contract; the sentence says which check failed, and what reproduces it."""


@dataclass(eq=False)
class Trial:
    """One verifier under test. queries: random questions per norm. Answers are kept: several checks read them."""

    verifier: Verifier
    queries: int
    seed: int
    _answers: dict[tuple[str, Property, int], Result] = field(default_factory=dict)

    @property
    def norms(self) -> list[Norm]:
        """The declared norms, in a fixed order."""
        return [n for n in ("inf", "1", "2", "0") if n in self.verifier.capabilities.kinds]

    def kind(self, norm: Norm) -> Kind:
        return self.verifier.capabilities.kinds[norm]

    def of_kind(self, *kinds: Kind) -> list[Norm]:
        """The declared norms for which the method is of one of these kinds."""
        return [norm for norm in self.norms if self.kind(norm) in kinds]

    def samples(self, norm: Norm, count: int | None = None) -> list[Sample]:
        """The first `count` (default: all) random questions of a norm that the verifier can be asked."""
        numbers = range(self.queries if count is None else min(count, self.queries))
        return [random_sample(norm, n, self.seed, self.verifier.capabilities) for n in numbers]

    def ask(self, query: Query, seed: int | None = None) -> Result:
        """The verifier's answer; the same question is asked only once."""
        # Not by digest: evidence numbers rows as they are written, and two ways of writing share a digest.
        key = (query.model.digest, query.prop, self.seed if seed is None else seed)
        if key not in self._answers:
            self._answers[key] = self.ask_again(query, key[2])
        return self._answers[key]

    def ask_again(self, query: Query, seed: int | None = None, budget: Budget = GENEROUS) -> Result:
        """The verifier's answer, asked afresh; whatever it raises fails the suite."""
        try:
            return self.verifier.verify(query, budget=budget, seed=self.seed if seed is None else seed)
        except Exception as error:
            raise ConformanceError(
                f"verifier '{self.verifier.name}' raises {type(error).__name__} ({error}) instead of giving an answer\n"
                f"{describe_property(query.prop)}"
            ) from error

    def fail(self, check: str, sentence: str, *reproducer: str) -> NoReturn:
        """Raises `ConformanceError`."""
        raise ConformanceError("\n".join([f"verifier '{self.verifier.name}' fails '{check}': {sentence}", *reproducer]))

    def fail_sample(self, check: str, sentence: str, sample: Sample, still: Callable[[Sample], bool]) -> NoReturn:
        """Like `fail`, with the smallest sample found for which `still(sample)` says that it goes wrong."""
        small = shrink(sample, still)
        self.fail(check, f"{sentence} ({sample.name}, made smaller)", small.reproducer())


@dataclass(frozen=True)
class Rule:
    """One check: `run` raises `ConformanceError`; `applies` says whether it means anything for this verifier.

    soundness: a failure would be a wrong guarantee, so that it can never be declared as expected.
    """

    name: str
    run: Callable[[Trial], None]
    applies: Callable[[Trial], bool] = lambda trial: True
    soundness: bool = False


def applies_to(*kinds: Kind) -> Callable[[Trial], bool]:
    """Whether the verifier is of one of these kinds for some norm."""
    return lambda trial: bool(trial.of_kind(*kinds))


DETERMINISTIC: Sequence[Kind] = (Kind.COMPLETE, Kind.INCOMPLETE, Kind.FALSIFIER)


def deterministic(trial: Trial) -> list[Norm]:
    """The norms for which a verdict is about the network itself."""
    return trial.of_kind(*DETERMINISTIC)


def wrongly_holds(trial: Trial, sample: Sample) -> bool:
    """Whether the verifier says HOLDS of a sample that is known to be violated."""
    return bool(sample.truth.violated) and trial.ask(sample.query).verdict is Verdict.HOLDS

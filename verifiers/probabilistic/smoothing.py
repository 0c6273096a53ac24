"""Randomized smoothing: the classifier g(x) = argmax_c P[f(x + N(0, sigma^2 I)) = c] is robust in l2.

Paper: Cohen, Rosenfeld, Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019. `_certify` is
its algorithm CERTIFY, with theorem 1's R = sigma Phi^-1(p_A) and p_A's Clopper-Pearson lower bound.
Guarantee: HOLDS about the *smoothed* classifier, wrong with probability at most alpha per input, for exact Gaussian
noise and real arithmetic. It only calls the model: no graph, no gradient, no white box.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from verifkit.analysis.confidence import clopper_pearson_lower, gaussian_radius, least_draws
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper, robust_label
from verifkit.errors import ModelError, OptionError
from verifkit.evidence import SampleCounts
from verifkit.input_sets import LpBall, rational
from verifkit.model import Model
from verifkit.query import Query
from verifkit.radius import Radius, RadiusEnd, RadiusSearch
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Subject
from verifkit.verifier import Verifier

CHUNK = 2048
"""Draws per model call: memory stays bounded whatever n."""


@dataclass(frozen=True, kw_only=True)
class Smoothing(Verifier):
    """sigma: noise level in raw input units. n0: draws that choose the class. n: fresh draws that bound its
    probability. alpha: failure probability per input."""

    sigma: float = 0.25
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001

    name: ClassVar[str] = "smoothing"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"2": Kind.PROBABILISTIC},
        operators=None,
        robustness_only=True,
        paper=Paper(
            "cohen2019smoothing",
            "Cohen, Jeremy and Rosenfeld, Elan and Kolter, J. Zico",
            "Certified adversarial robustness via randomized smoothing",
            "ICML",
            2019,
        ),
    )

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and np.isfinite(self.sigma)):
            raise OptionError(f"smoothing needs sigma > 0, not {self.sigma}")
        if not 0 < self.alpha < 1:
            raise OptionError(f"smoothing needs alpha strictly between 0 and 1, not {self.alpha}")
        if self.n0 < 1 or self.n0 > self.n:
            raise OptionError(f"smoothing needs 1 <= n0 <= n, not n0 = {self.n0} and n = {self.n}")
        if self.n < least_draws(self.alpha):
            raise OptionError(
                f"n = {self.n} draws can never certify at alpha = {self.alpha:g}: "
                f"the least n that can is {least_draws(self.alpha)}"
            )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        region, label = query.prop.input_set, robust_label(query)
        assert isinstance(region, LpBall)
        assert label is not None
        counts = self._certify(query.model, region, clock, rng)
        return self._outcome(counts, label, region.radius)

    def _radius(self, search: RadiusSearch) -> Radius:
        """Closed form: one round of sampling certifies its own radius."""
        family, clock, seed = search.family, search.clock, search.seed
        query = family.at(0)
        region, label = query.prop.input_set, robust_label(query)
        assert isinstance(region, LpBall)
        assert label is not None
        outcome = self._checked(query, clock, seed)
        counts = outcome.evidence
        if not isinstance(counts, SampleCounts):
            return Radius(family.norm, None, None, ((0.0, outcome.reason or Reason.ERROR),))
        reached = family.at(rational(counts.radius))
        return Radius(family.norm, RadiusEnd(counts.radius, self._result(reached, outcome, clock, seed)), None)

    def _certify(self, model: Model, ball: LpBall, clock: Clock, rng: np.random.Generator) -> SampleCounts:
        """CERTIFY: n0 draws choose the class, n fresh ones bound its probability."""
        center = np.array([float(c) for c in ball.center])
        selection = self._counts(model, center, self.n0, clock, rng)
        chosen = int(np.argmax(selection))
        estimation = self._counts(model, center, self.n, clock, rng)
        lower = clopper_pearson_lower(int(estimation[chosen]), self.n, self.alpha)
        return SampleCounts(
            tuple(selection.tolist()),
            tuple(estimation.tolist()),
            chosen,
            self.sigma,
            self.alpha,
            lower,
            gaussian_radius(self.sigma, lower),
            model.digest,
        )

    def _counts(
        self, model: Model, center: np.ndarray, draws: int, clock: Clock, rng: np.random.Generator
    ) -> np.ndarray:
        """How often each class wins among `draws` noisy copies of the center, shape (n_outputs,)."""
        counts = np.zeros(model.n_outputs, dtype=np.int64)
        for start in range(0, draws, CHUNK):
            clock.check()
            size = min(CHUNK, draws - start)
            scores = model(center + self.sigma * rng.standard_normal((size, center.size)))
            if not np.isfinite(scores).all():
                raise ModelError(f"model '{model.name}' gives outputs that are no finite numbers under noise")
            counts += np.bincount(scores.argmax(axis=1), minlength=model.n_outputs)
        return counts

    def _outcome(self, counts: SampleCounts, label: int, radius: Fraction) -> Outcome:
        statistics = {"samples": self.n0 + self.n, "certified_radius": counts.radius, "p_lower": counts.lower}
        if counts.lower <= 0.5:
            detail = f"abstains: no class is shown to have more than half of the noise (p >= {counts.lower:.4f})"
            return Outcome.unknown(Reason.INCOMPLETE, detail, statistics=statistics)
        if counts.chosen != label:
            detail = f"the smoothed classifier answers class {counts.chosen}, not {label}, within {counts.radius:.6g}"
            return Outcome.unknown(Reason.INCOMPLETE, detail, statistics=statistics)
        if rational(counts.radius) < radius:
            detail = f"certified only to radius {counts.radius:.6g} in l2"
            return Outcome.unknown(Reason.INCOMPLETE, detail, statistics=statistics)
        guarantee = Guarantee(
            subject=Subject.SMOOTHED,
            arithmetic=Arithmetic.FLOAT,
            failure_probability=self.alpha,
            assumptions=("exact Gaussian noise", "the base classifier in real arithmetic"),
        )
        return Outcome.holds(guarantee, counts, statistics=statistics)

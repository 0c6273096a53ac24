"""PixelDP: a classifier with noise at its input or after a layer is robust as far as that noise is private.

Paper: Lecuyer, Atlidakis, Geambasu, Hsu, Jana, "Certified robustness to adversarial examples with differential
privacy", IEEE S&P 2019: E A_k > e^(2 eps) max E A_i + (1 + e^eps) delta at x keeps class k on top within the size for
which the noise is (eps, delta)-private (proposition 2). Mechanism "analytic": Balle & Wang, ICML 2018.
Guarantee: HOLDS about the *randomised* classifier, which answers the class of the largest expected score, wrong with
probability at most eta per input. The layers behind the noise are only called; those in front of it, if there are any,
need a network, whose sensitivity is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np

from verifkit.analysis import privacy
from verifkit.analysis.sensitivity import Unbounded, sensitivity
from verifkit.analysis.smoothing.center import LostNoise, center_floats, check_spacing
from verifkit.analysis.smoothing.log import ABSTAIN
from verifkit.analysis.smoothing.noise import Gaussian, Laplace, Noise
from verifkit.analysis.smoothing.sampling import Sampler, key_from
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper, robust_label
from verifkit.errors import OptionError, UnsupportedOperator
from verifkit.evidence import PrivacyCounts
from verifkit.input_sets import LpBall, rational
from verifkit.io.backend import fastest
from verifkit.io.noise_layer import NoiseSplit, noise_split
from verifkit.query import Query
from verifkit.radius import Radius, RadiusEnd, RadiusSearch
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Subject
from verifkit.verifier import Verifier

AUTO = "auto"
SELECTION, ESTIMATION = 0, 1
"""Streams of draws: no draw that chose the class is used again to bound its score."""


@dataclass(frozen=True, kw_only=True)
class PixelDp(Verifier):
    """mechanism: "gaussian" as published (l1 and l2 changes), "analytic" for the exact privacy curve of the same noise,
    "laplace" (l1 changes only). scale: of the noise, its standard deviation or Laplace's b, for sensitivity 1; what is
    added is scale times the sensitivity of the layers in front of it, so that scale is in raw input units.
    after: the tensor that noise is added to, "" for the input; "auto": as the model's file says, else the input.
    scores: "votes" for the top class of each draw, "softmax" for the softmax of the outputs. n0: draws that choose the
    class. n: fresh draws that bound its score. eta: failure probability per input. released_code: bounds and search as
    in the authors' code, to compare with; they do not keep their stated probability, so the answer is never HOLDS.
    """

    mechanism: Literal["gaussian", "analytic", "laplace"] = "gaussian"
    scale: float = 0.25
    after: str = AUTO
    scores: Literal["votes", "softmax"] = "votes"
    n0: int = 100
    n: int = 2000
    eta: float = 0.05
    released_code: bool = False

    name: ClassVar[str] = "pixeldp"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"2": Kind.PROBABILISTIC, "1": Kind.PROBABILISTIC},
        operators=None,
        robustness_only=True,
        paper=Paper(
            "lecuyer2019pixeldp",
            "Lecuyer, Mathias and Atlidakis, Vaggelis and Geambasu, Roxana and Hsu, Daniel and Jana, Suman",
            "Certified robustness to adversarial examples with differential privacy",
            "IEEE S&P",
            2019,
        ),
    )

    def __post_init__(self) -> None:
        if self.mechanism not in privacy.SIZES:
            raise OptionError(f"pixeldp's mechanism is one of {', '.join(privacy.SIZES)}, not '{self.mechanism}'")
        if self.scores not in ("votes", "softmax"):
            raise OptionError(f"pixeldp's scores are votes or softmax, not '{self.scores}'")
        if not (self.scale > 0 and np.isfinite(self.scale)):
            raise OptionError(f"pixeldp needs a finite scale > 0, not {self.scale}")
        if not 0 < self.eta < 1:
            raise OptionError(f"pixeldp needs eta strictly between 0 and 1, not {self.eta}")
        if self.n0 < 1 or self.n0 > self.n:
            raise OptionError(f"pixeldp needs 1 <= n0 <= n, not n0 = {self.n0} and n = {self.n}")
        least = privacy.least_draws(self.scores, 2, self.eta)
        if self.n < least and not self.released_code:
            raise OptionError(
                f"n = {self.n} draws can never certify at eta = {self.eta:g}: the least n that can is {least} "
                f"with two classes, and more with more"
            )
        if self.released_code and (self.scores != "votes" or self.mechanism == "analytic"):
            raise OptionError("pixeldp's released_code is about votes under the gaussian or the laplace mechanism")

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        region, label = query.prop.input_set, robust_label(query)
        assert isinstance(region, LpBall)
        assert label is not None
        samples = clock.budget.samples
        if samples is not None and samples < self.n0 + self.n:
            try:
                within = replace(self, n=max(1, samples - self.n0))
            except OptionError as few:
                return Outcome.unknown(Reason.INCOMPLETE, f"pixeldp: a budget of {samples} draws: {few}")
            return within._decide(query, clock, rng)
        refusal = self._refusal(query, region)
        if refusal is not None:
            return refusal
        try:
            split = noise_split(query.model, None if self.after == AUTO else self.after)
            counts = self._certify(query, region, split, clock, rng)
        except (LostNoise, Unbounded, UnsupportedOperator) as error:
            return Outcome.unknown(Reason.UNSUPPORTED, f"pixeldp: {error}")
        return self._outcome(counts, label, region.radius)

    def _radius(self, search: RadiusSearch) -> Radius:
        """Closed form: one round of draws certifies its own radius."""
        family, clock, seed = search.family, search.clock, search.seed
        outcome = self._checked(family.at(0), clock, seed)
        counts = outcome.evidence
        if outcome.reason is not None or not isinstance(counts, PrivacyCounts):
            why = ((0.0, outcome.reason or Reason.ERROR),)
            center = self._result(family.at(0), outcome, clock, seed)
            return Radius(family.norm, None, None, why, False, outcome.detail, center)
        reached = family.at(rational(counts.radius))
        return Radius(family.norm, RadiusEnd(counts.radius, self._result(reached, outcome, clock, seed)), None)

    def _refusal(self, query: Query, region: LpBall) -> Outcome | None:
        """What can be said without any draw."""
        if self.mechanism == "laplace" and region.norm != "1":
            detail = f"pixeldp: Laplace noise is private for l1 changes, not for l{region.norm}; Gaussian noise is"
            return Outcome.unknown(Reason.UNSUPPORTED, detail)
        least = privacy.least_draws(self.scores, query.model.n_outputs, self.eta)
        if self.n < least and not self.released_code:
            detail = (
                f"n = {self.n} draws can never certify one of {query.model.n_outputs} classes at eta = {self.eta:g}: "
                f"the least n that can is {least}"
            )
            return Outcome.unknown(Reason.INCOMPLETE, detail)
        return None

    def _certify(
        self, query: Query, ball: LpBall, split: NoiseSplit, clock: Clock, rng: np.random.Generator
    ) -> PrivacyCounts:
        """n0 draws choose the class, n fresh ones bound the expected scores, and the largest size follows from them."""
        model = query.model
        center, moved = center_floats(ball.center, Laplace(1.0), model.dtype)  # off in l1, so no more in l2
        steepness = 1.0
        if split.head is not None:
            steepness = _sensitivity(split, ball, self.mechanism)
            center = split.head(center[None])[0].astype(split.tail.dtype)
        scale = self.scale * steepness
        noise: Noise = Laplace(scale) if self.mechanism == "laplace" else Gaussian(scale)
        check_spacing(center, scale)
        backend = fastest(split.tail)
        sampler = Sampler(backend, center, noise, key_from(rng), split.tail.name)
        estimation, squares = self._sums(sampler, ESTIMATION, self.n, clock)
        selection = estimation if self.released_code else self._sums(sampler, SELECTION, self.n0, clock)[0]
        chosen = int(np.argmax(selection))
        rules = privacy.released if self.released_code else privacy.certified
        lower, upper, size = rules(self.mechanism, estimation.tolist(), squares.tolist(), self.n, chosen, self.eta)
        return PrivacyCounts(
            selection=tuple(selection.tolist()),
            estimation=tuple(estimation.tolist()),
            squares=tuple(squares.tolist()),
            draws=self.n,
            chosen=chosen,
            norm=ball.norm,
            mechanism=self.mechanism,
            scale=self.scale,
            sensitivity=steepness,
            after=split.tensor,
            eta=self.eta,
            lower=lower,
            upper=upper,
            eps=size.eps,
            delta=size.delta,
            radius=privacy.radius_of(size, self.scale, moved),
            model_digest=model.digest,
            center_error=moved,
            key=sampler.key,
            backend=backend.name,
            released=self.released_code,
        )

    def _sums(self, sampler: Sampler, stream: int, draws: int, clock: Clock) -> tuple[np.ndarray, np.ndarray]:
        """Per class, over `draws` draws: votes (and nothing), or sums of the softmax and of its squares."""
        if self.scores == "votes":
            return sampler.tally(stream, 0, draws, clock), np.zeros(0)
        sums, squares = np.zeros(0), np.zeros(0)
        for outputs in sampler.scores(stream, 0, draws, clock):
            scores = privacy.softmax(outputs)
            found = scores.sum(axis=0), (scores * scores).sum(axis=0)
            sums, squares = (sums + found[0], squares + found[1]) if sums.size else found
        return sums, squares

    def _outcome(self, counts: PrivacyCounts, label: int, asked: Fraction) -> Outcome:
        statistics = {
            "samples": self.n + (0 if counts.released else self.n0),
            "predicted": counts.chosen if counts.radius > 0 and not counts.released else ABSTAIN,
            "certified_radius": counts.radius,
            "p_lower": counts.lower,
            "p_upper": counts.upper,
            "eps": counts.eps,
            "delta": counts.delta,
            "sensitivity": counts.sensitivity,
        }
        why = self._doubt(counts, label, asked)
        if why is not None:
            unknown = Outcome.unknown(Reason.INCOMPLETE, why, statistics=statistics)
            return replace(unknown, evidence=counts)
        law = "Laplace" if self.mechanism == "laplace" else "Gaussian"
        place = f"after '{counts.after}'" if counts.after else "at the input"
        guarantee = Guarantee(
            subject=Subject.SMOOTHED,
            arithmetic=Arithmetic.FLOAT,
            failure_probability=self.eta,
            assumptions=(
                f"exact {law} noise of scale {counts.scale * counts.sensitivity:.6g} {place}",
                f"expected scores ({self.scores}) decide",
                "the base classifier in real arithmetic",
            ),
        )
        return Outcome.holds(guarantee, counts, statistics=statistics)

    def _doubt(self, counts: PrivacyCounts, label: int, asked: Fraction) -> str | None:
        """Why the counts do not show that class `label` stays on top within the asked radius; None if they do."""
        told = f"expected score >= {counts.lower:.4f}, every other <= {counts.upper:.4f}"
        if counts.released:
            return (
                f"the released code gives radius {counts.radius:.6g} for class {counts.chosen}: no certificate, as the "
                f"draws that chose the class bound its score, at {privacy.RELEASED_ETA} whatever eta is"
            )
        if counts.radius <= 0:
            return f"abstains: no class is shown to be ahead of all others ({told})"
        if counts.chosen != label:
            return f"the randomised classifier answers class {counts.chosen}, not {label}, within {counts.radius:.6g}"
        if rational(counts.radius) < asked:
            return f"certified only to radius {counts.radius:.6g} in l{counts.norm} ({told})"
        return None


def _sensitivity(split: NoiseSplit, ball: LpBall, mechanism: str) -> float:
    """Of the layers in front of the noise. Raises `Unbounded`, `UnsupportedOperator`."""
    head = split.head
    assert head is not None
    if head.network is None:
        raise head.unsupported or UnsupportedOperator(head.name, "callable", 0, "it is a black box")
    change: Literal["1", "2"] = "1" if ball.norm == "1" else "2"
    return sensitivity(head.network, change, "1" if mechanism == "laplace" else "2")

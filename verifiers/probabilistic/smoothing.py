"""Randomized smoothing: the classifier g(x) = argmax_c P[f(x + noise) = c] is robust in the noise's norm.

Paper: Cohen, Rosenfeld, Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019. `_certify` is
its algorithm CERTIFY, with theorem 1's R = sigma Phi^-1(p_A) and p_A's Clopper-Pearson lower bound; `predict` is its
PREDICT. Laplace and uniform noise (l1) and ablation (l0) are other families of the same kind (`Noise`).
Guarantee: HOLDS about the *smoothed* classifier, wrong with probability at most alpha per input. It only calls the
model: no graph, no gradient, no white box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np

from verifkit.analysis.smoothing.center import LostNoise, OffGrid, center_floats, check_spacing, require_classes
from verifkit.analysis.smoothing.certificate import Mode, Plan, Prediction, predicted, radius_of
from verifkit.analysis.smoothing.certify import PREDICTION, Target, certify, tally
from verifkit.analysis.smoothing.log import ABSTAIN
from verifkit.analysis.smoothing.noise import Ablation, Gaussian, Laplace, Noise, RoundedGaussian, Uniform
from verifkit.analysis.smoothing.sampling import Sampler, key_from
from verifkit.budget import Budget, Clock
from verifkit.capabilities import Capabilities, Kind, Paper, robust_label
from verifkit.errors import OptionError, PropertyError
from verifkit.evidence import SampleCounts
from verifkit.input_sets import LpBall, Norm, rational
from verifkit.io.backend import fastest
from verifkit.model import Model
from verifkit.query import Query, robustness_family
from verifkit.radius import Radius, RadiusEnd, RadiusSearch, format_radius, shorten
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Semantics, Subject
from verifkit.verifier import Verifier

Family = Literal["auto", "gaussian", "laplace", "uniform", "ablation"]

NORMS: dict[str, Norm] = {"gaussian": "2", "laplace": "1", "uniform": "1", "ablation": "0"}
AUTO: dict[Norm, Family] = {"2": "gaussian", "1": "uniform", "0": "ablation"}
EVERYTHING = (-(2**100), 2**100)
"""A clip box of no effect: what an l0 ball needs one for is to be bounded."""

GRID_SIGMA = 10.0
"""The largest sigma of grid mode: its table, with an entry for each of some 19 * 255 sigma steps, takes 3 s then."""


class WrongNorm(PropertyError):
    """A question in a norm that the chosen noise certifies nothing in."""


@dataclass(frozen=True, kw_only=True)
class Smoothing(Verifier):
    """noise: the family; "auto" is Gaussian for l2, uniform for l1, ablation for l0. sigma: the standard deviation of
    an entry's noise, in raw input units (Laplace: sqrt(2) times its scale; uniform: its width over sqrt(12)).
    keep: entries that ablation keeps; 0 is a sixteenth of them, at least one. n0: draws that choose the class. n: fresh
    draws that bound its probability. alpha: failure probability per input. mode: "fixed" makes n draws; "anytime" stops
    as soon as the asked radius is shown, or shown to be out of reach. runner_up: separate bounds for the chosen class
    and for every other, instead of one with 1 - p_A for the others. grid: Gaussian noise rounded to the grid of
    multiples of 1/255, for inputs on it. batch: draws asked for at a time; it changes no answer.
    """

    noise: Family = "auto"
    sigma: float = 0.25
    keep: int = 0
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    mode: Mode = "fixed"
    runner_up: bool = False
    grid: bool = False
    batch: int = field(default=2048, metadata={"seeds": False})

    name: ClassVar[str] = "smoothing"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"2": Kind.PROBABILISTIC, "1": Kind.PROBABILISTIC, "0": Kind.PROBABILISTIC},
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
        if self.noise not in ("auto", *NORMS):
            raise OptionError(f"smoothing's noise is one of auto, {', '.join(NORMS)}, not {self.noise!r}")
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise OptionError(f"smoothing needs sigma > 0, not {self.sigma}")
        if self.n0 < 1 or self.n0 > self.n:
            raise OptionError(f"smoothing needs 1 <= n0 <= n, not n0 = {self.n0} and n = {self.n}")
        if self.keep < 0 or self.batch < 1:
            raise OptionError(f"smoothing needs keep >= 0 and batch >= 1, not {self.keep} and {self.batch}")
        if self.grid and self.noise not in ("auto", "gaussian"):
            raise OptionError(f"smoothing's grid mode is for Gaussian noise, not for {self.noise} noise")
        if self.grid and self.sigma > GRID_SIGMA:
            raise OptionError(
                f"smoothing's grid mode takes sigma up to {GRID_SIGMA:g}, not {self.sigma}: its inputs are multiples "
                f"of 1/255, and its tables grow with sigma"
            )
        self._plan  # noqa: B018 (refuses what can never certify)

    def certify(
        self,
        model: Model,
        x: Any,
        *,
        radii: Sequence[float] = (),
        budget: Budget = Budget(),  # noqa: B008
        seed: int = 0,
    ) -> SampleCounts:
        """CERTIFY at `x` (numbers, or an array of any shape), whatever its label: the class that the draws choose, and
        the radius within which g answers it. Radius 0: abstains. Norm: that of `noise` ("auto": l2). radii: mode
        "anytime" stops once each of them is shown, or shown to be out of reach.

        Raises `PropertyError` for an input that does not fit the model or the grid, `ModelError` for a broken model,
        and `BudgetExhausted` where time runs out before `mode` has anything to say.
        """
        query = self._question(model, x)
        asked = tuple(rational(radius) for radius in radii)
        return self._certify(query, asked, Clock(budget), self._rng(query, seed))

    def predict(self, model: Model, x: Any, *, budget: Budget = Budget(), seed: int = 0) -> Prediction:  # noqa: B008
        """PREDICT at `x`, from n draws: g's answer, or an abstention; wrong with probability at most alpha."""
        query = self._question(model, x)
        sampler, *_ = self._sampler(query, self._rng(query, seed))
        return predicted(tally(sampler, PREDICTION, 0, self.n, self.batch, Clock(budget)).tolist(), self.alpha)

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        region = query.prop.input_set
        assert isinstance(region, LpBall)
        return self._answer(query, region.radius, clock, rng)

    def _radius(self, search: RadiusSearch) -> Radius:
        """Closed form: one round of sampling certifies its own radius."""
        family, clock, seed = search.family, search.clock, search.seed
        query = family.at(0)

        def answer() -> list[Outcome]:
            return [self._answer(query, None, clock, self._rng(query, seed))]

        outcome = self._guarded([query], clock, answer)[0]
        counts = outcome.evidence
        if outcome.reason is not None or not isinstance(counts, SampleCounts):
            why = ((0.0, outcome.reason or Reason.ERROR),)
            return Radius(
                family.norm, None, None, why, False, outcome.detail, self._result(query, outcome, clock, seed)
            )
        reached = family.at(rational(counts.radius))
        return Radius(family.norm, RadiusEnd(counts.radius, self._result(reached, outcome, clock, seed)), None)

    @property
    def _plan(self) -> Plan:
        return Plan(self.n, self.alpha, self.mode, self.runner_up)

    def _plan_within(self, budget: Budget) -> Plan:
        """The plan with the draws that the budget has left beside those that choose the class.

        Raises `OptionError` where they are too few to certify anything.
        """
        n = self.n if budget.samples is None else min(self.n, max(1, budget.samples - self.n0))
        return replace(self._plan, n=n)

    def _question(self, model: Model, x: Any) -> Query:
        """A query about the input alone, which fixes the draws."""
        require_classes(model)
        if np.asarray(x).size != model.n_inputs:
            raise PropertyError(
                f"the input has {np.asarray(x).size} entries, but model '{model.name}' has {model.n_inputs} "
                f"(shape {list(model.input_shape)})"
            )
        norm = "2" if self.noise == "auto" else NORMS[self.noise]
        return robustness_family(model, x, 0, norm, clip=EVERYTHING if norm == "0" else None).at(0)

    def _family(self, norm: Norm, size: int) -> Noise:
        """The noise that answers questions in `norm`; raises `WrongNorm` where the chosen family does not."""
        name = AUTO[norm] if self.noise == "auto" else self.noise
        if NORMS[name] != norm or (self.grid and norm != "2"):
            raise WrongNorm(f"{'rounded gaussian' if self.grid else name} noise says nothing about l{norm} balls")
        if name == "ablation":
            return Ablation(self.keep or max(1, size // 16), size)
        if name == "gaussian":
            return RoundedGaussian(self.sigma) if self.grid else Gaussian(self.sigma)
        return Laplace(self.sigma / math.sqrt(2)) if name == "laplace" else Uniform(self.sigma * math.sqrt(12))

    def _sampler(self, query: Query, rng: np.random.Generator) -> tuple[Sampler, float, str]:
        """The draws, how far their center is from the asked one, and what runs the model."""
        region, model = query.prop.input_set, query.model
        assert isinstance(region, LpBall)
        noise = self._family(region.norm, region.size)
        center, error = center_floats(region.center, noise, model.dtype)
        if not isinstance(noise, Ablation | RoundedGaussian):
            check_spacing(center, self.sigma)
        backend = fastest(model)
        return Sampler(backend, center, noise, key_from(rng), model.name), error, backend.name

    def _certify(
        self, query: Query, radii: tuple[Fraction, ...], clock: Clock, rng: np.random.Generator
    ) -> SampleCounts:
        """CERTIFY; `radii`: where mode "anytime" may stop."""
        sampler, error, backend = self._sampler(query, rng)
        noise, plan = sampler.noise, self._plan_within(clock.budget)
        target = Target(radii, error) if radii else None
        selection, estimation = certify(sampler, plan, self.n0, target, self.batch, clock)
        chosen = int(np.argmax(selection))
        lower, rivals = plan.bounds(estimation.tolist(), chosen)
        return SampleCounts(
            selection=tuple(selection.tolist()),
            estimation=tuple(estimation.tolist()),
            chosen=chosen,
            sigma=0.0 if isinstance(noise, Ablation) else self.sigma,
            alpha=self.alpha,
            lower=lower,
            rivals=rivals,
            radius=radius_of(noise, lower, rivals, error),
            model_digest=query.model.digest,
            n=plan.n,
            norm=noise.norm,
            noise=noise.name,
            parameters=tuple(noise.parameters().items()),
            mode=self.mode,
            runner_up=self.runner_up,
            center_error=error,
            key=sampler.key,
            backend=backend,
        )

    def _answer(self, query: Query, radius: Fraction | None, clock: Clock, rng: np.random.Generator) -> Outcome:
        label = robust_label(query)
        assert label is not None
        try:
            self._plan_within(clock.budget)
        except OptionError as few:
            return Outcome.unknown(Reason.INCOMPLETE, f"smoothing: a budget of {clock.budget.samples} draws: {few}")
        try:
            counts = self._certify(query, () if radius is None else (radius,), clock, rng)
        except (WrongNorm, OffGrid, LostNoise) as refused:
            return Outcome.unknown(Reason.UNSUPPORTED, f"smoothing: {refused}")
        samples = sum(counts.selection) + sum(counts.estimation)
        predicted = counts.chosen if counts.lower > counts.rivals else ABSTAIN
        shown = {"certified_radius": counts.radius, "p_lower": counts.lower}
        statistics = {"samples": samples, "predicted": predicted, **shown}
        why = _shortfall(counts, label, radius)
        if why is not None:
            return replace(Outcome.unknown(Reason.INCOMPLETE, why, statistics=statistics), evidence=counts)
        return Outcome.holds(_guarantee(counts, query.model.dtype), counts, statistics=statistics)


def _shortfall(counts: SampleCounts, label: int, radius: Fraction | None) -> str | None:
    """Why the counts do not show `label` within the radius; None where they do."""
    if counts.lower <= counts.rivals:
        where = f"p >= {format_radius(counts.lower)}"
        where += f", another class's <= {shorten(counts.rivals, up=True)}" if counts.runner_up else ""
        what = "to be the likeliest" if counts.runner_up else "to have more than half of the noise"
        return f"abstains: no class is shown {what} ({where})"
    if counts.center_error and counts.radius <= 0:
        return f"the nearest floats lie {counts.center_error:.3g} from the asked center, farther than what is certified"
    if counts.chosen != label:
        return f"the smoothed classifier answers class {counts.chosen}, not {label}, within {shorten(counts.radius, 6)}"
    if radius is not None and rational(counts.radius) < radius:
        return f"certified only to radius {shorten(counts.radius, 6)} in l{counts.norm}"
    return None


def _guarantee(counts: SampleCounts, dtype: type[np.floating[Any]]) -> Guarantee:
    """Noise that is drawn exactly leaves only the random bits to be assumed: the certificate is then about the
    arithmetic that the model runs in, where that is float32. Otherwise it is about real arithmetic."""
    exact = {
        Ablation.name: ("independent random bits", "rows answered alike wherever they stand in a batch"),
        RoundedGaussian.name: (
            "inputs read as multiples of 1/255",
            "independent random bits",
            "rows answered alike wherever they stand in a batch",
        ),
    }
    drawn = {"gaussian": "Gaussian", "laplace": "Laplace", "uniform": "uniform"}
    known = counts.noise in exact and dtype is np.float32
    return Guarantee(
        subject=Subject.SMOOTHED,
        semantics=Semantics.FLOAT32 if known else Semantics.REAL,
        arithmetic=Arithmetic.ROUNDED if known else Arithmetic.FLOAT,
        failure_probability=counts.alpha,
        assumptions=exact[counts.noise]
        if known
        else (f"exact {drawn.get(counts.noise, counts.noise)} noise", "the base classifier in real arithmetic"),
    )

"""Attacks of the foolbox package behind this project's interface: an independent falsifier, on an independent import.

Papers: Rauber, Brendel, Bethge, "Foolbox: a Python toolbox to benchmark the robustness of machine learning models",
ICML workshop 2017; Rauber, Zimmermann, Bethge, Brendel, "Foolbox Native", Journal of Open Source Software 5(53), 2020.
The model goes in as onnx2torch imports it, where that cannot be had as its network in torch, and a model that can only
be called is attacked with noise. Guarantee: VIOLATED with a replayed witness; never HOLDS.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from verifkit.analysis.attack import Neighbourhood, losses_of, neighbourhood_of, surroundings
from verifkit.analysis.nearest import nearest_unsafe
from verifkit.analysis.region import region_of
from verifkit.analysis.rows import rows_of
from verifkit.budget import Clock
from verifkit.capabilities import Capabilities, Kind, Paper, robust_label
from verifkit.confirm import confirm
from verifkit.errors import MissingPackage, ModelError, OptionError
from verifkit.input_sets import Norm, rational
from verifkit.io.blackbox import torch_module
from verifkit.model import Model
from verifkit.query import Query
from verifkit.radius import Radius, RadiusEnd, RadiusSearch
from verifkit.result import Outcome, Reason, Verdict
from verifkit.verifier import Verifier

Attack = Literal["auto", "fmn", "ddn", "ead", "pgd", "noise"]

EVERY: tuple[Norm, ...] = ("inf", "2", "1")
NORMS: dict[str, tuple[Norm, ...]] = {"ddn": ("2",), "ead": ("1",)}
"""The norms that an attack measures, where not every one."""

MINIMAL = ("fmn", "ddn", "ead")
"""The attacks that look for the nearest unsafe input, and need no radius."""

TRIED = 3
"""Points that are replayed when any of them looks unsafe."""

REACH = 2.5
"""How far the steps of "pgd" reach together, in units of the radius."""

Tensor = Any
Differentiable = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class FoolboxAttack(Verifier):
    """attack: "fmn", "ddn" (l2 only) and "ead" (l1 only) look for the nearest violation, "pgd" (in l1 sparse descent)
    for any in the set, "noise" without gradients; "auto" decides with "pgd" and looks for a radius with "ddn" in l2,
    with "fmn" in the others. steps: gradient steps from each start; of "noise", draws. starts: how many, in one batch,
    dealt out to the rival classes, the highest scores at the center first.
    """

    attack: Attack = "auto"
    steps: int = 60
    starts: int = 32

    def __post_init__(self) -> None:
        if self.attack not in get_args(Attack):
            raise OptionError(f"foolbox_attack knows {', '.join(get_args(Attack))}, not '{self.attack}'")
        if self.steps < 1 or self.starts < 1:
            raise OptionError(f"foolbox_attack needs steps >= 1 and starts >= 1, not {self.options()}")

    name: ClassVar[str] = "foolbox_attack"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.FALSIFIER, "2": Kind.FALSIFIER, "1": Kind.FALSIFIER},
        operators=None,
        robustness_only=True,
        modules={"foolbox": "attacks", "torch": "attacks", "onnx2torch": "attacks"},
        paper=Paper(
            "rauber2017foolbox",
            "Rauber, Jonas and Brendel, Wieland and Bethge, Matthias",
            "Foolbox: a Python toolbox to benchmark the robustness of machine learning models",
            "Reliable Machine Learning in the Wild Workshop, ICML",
            2017,
        ),
    )

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        if query.norm not in NORMS.get(self.attack, EVERY):
            why = f"foolbox's attack '{self.attack}' does not measure norm {query.norm}"
            return Outcome.unknown(Reason.UNSUPPORTED, why)
        near, radius = neighbourhood_of(region_of(query))
        center = near.project(near.center, np.full(1, radius))
        least, found = _nearest_to_violation(query, center)
        if least > 0 and (near.upper > near.lower).any():
            try:
                points = near.project(self._run(query, near, radius, clock, rng), np.full(self.starts, radius))
            except (AssertionError, RuntimeError, ValueError) as error:
                return Outcome.unknown(Reason.ERROR, f"foolbox fails: {type(error).__name__}: {error}")
            least, found = _nearest_to_violation(query, np.concatenate([center, points]))
        statistics = {"loss": least}
        for x in found if least <= 0 else ():
            clock.check()
            if confirm(query, x) is not None:
                return Outcome.violated(x, statistics=statistics)
        detail = f"foolbox found no violation; least loss {least:.6g}"
        return Outcome.unknown(Reason.INCOMPLETE, detail, statistics=statistics)

    def _radius(self, search: RadiusSearch) -> Radius:
        """The distance of the nearest witness, for an attack that looks for it in a clip box; else by bisection."""
        family, clock, seed = search.family, search.clock, search.seed
        query = family.at(0)
        attack = self._named(family.norm, nearest=True)
        if attack not in MINIMAL or family.norm not in NORMS.get(attack, EVERY) or family.clip is None:
            return super()._radius(search)
        at_center = self.verify(query, budget=clock.share(), seed=seed)
        if at_center.verdict is Verdict.VIOLATED:
            return Radius(family.norm, None, RadiusEnd(0.0, at_center))
        try:
            points = self._run(query, surroundings(family), None, clock, self._rng(query, seed))
        except (AssertionError, RuntimeError, ValueError):
            return Radius(family.norm, None, None, ((0.0, Reason.ERROR),))
        found = nearest_unsafe(family, rows_of(query.prop), points.reshape(len(points), -1))
        if found is None:  # the same attack at other radii would find no more
            return Radius(family.norm, None, None)
        query = family.at(rational(found[0]))
        outcome = self._confirmed(query, Outcome.violated(found[1]))
        return Radius(family.norm, None, RadiusEnd(found[0], self._result(query, outcome, clock, seed)))

    def _named(self, norm: str, *, nearest: bool) -> str:
        """The attack asked for in this norm, to find the nearest violation or any."""
        if self.attack != "auto":
            return self.attack
        if not nearest:
            return "pgd"
        return "ddn" if norm == "2" else "fmn"

    def _run(
        self, query: Query, near: Neighbourhood, radius: float | None, clock: Clock, rng: np.random.Generator
    ) -> np.ndarray:
        """Where the starts end, (starts, *input_shape). radius: None for the nearest unsafe inputs at any distance.

        foolbox knows one lower and one upper bound for all inputs, and steps that suit [0, 1]. So it sees inputs that
        are shifted and scaled there; in l-inf each by its own ends, and otherwise with the box behind a clamp.
        """
        import torch

        boxed = near.norm == "inf" and radius is not None
        low, high = near.lower, near.upper
        if not boxed:
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        width = np.where(high > low, high - low, 1.0)
        function, differentiable = _in_torch(query.model)
        attack = self._named(near.norm, nearest=radius is None) if differentiable else "noise"
        dtype = getattr(torch, np.dtype(query.model.dtype).name)
        shift, scale, lower, upper = (torch.tensor(a, dtype=dtype) for a in (low, width, near.lower, near.upper))

        def scores(z: Tensor) -> Tensor:
            clock.check()
            return function(torch.clamp(shift + scale * z, lower, upper))

        start = np.clip((near.center - low) / width, 0.0, 1.0)
        inputs = torch.tensor(np.repeat(start, self.starts, axis=0), dtype=dtype)
        epsilon = None if attack in MINIMAL else 0.5 if boxed else (radius or 0.0) / float(width.max())
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(int(rng.integers(2**31)))
            z = _attacked(attack, near.norm, self.steps, scores, inputs, _classes(query, near.center), epsilon)
        ended = np.asarray(z.detach().numpy(), dtype=np.float64)
        return np.asarray(np.clip(low + width * np.nan_to_num(ended), near.lower, near.upper))


def _nearest_to_violation(query: Query, points: np.ndarray) -> tuple[float, np.ndarray]:
    """The least loss among the points (B, *input_shape) by the model's own outputs, and the TRIED with the least."""
    flat = points.reshape(len(points), -1)
    losses = losses_of(rows_of(query.prop), query.model(flat), flat)[0].min(axis=1)
    return float(losses.min()), points[np.argsort(losses, kind="stable")[:TRIED]]


def _classes(query: Query, center: np.ndarray) -> np.ndarray:
    """The label, then its rivals by their scores at the center, highest first."""
    label = robust_label(query)
    order = np.argsort(-query.model(center.reshape(1, -1))[0], kind="stable")
    return np.concatenate([[label], order[order != label]])


def _attacked(
    name: str,
    norm: str,
    steps: int,
    scores: Differentiable,
    inputs: Tensor,
    classes: np.ndarray,
    epsilon: float | None,
) -> Tensor:
    """What foolbox's attack makes of the inputs (B, *input_shape), all in [0, 1]; each goes for a class in turn."""
    import torch

    foolbox = _foolbox()

    class Scores(torch.nn.Module):  # type: ignore[misc]
        def forward(self, z: Tensor) -> Tensor:
            return scores(z)

    model = foolbox.PyTorchModel(Scores().eval(), bounds=(0, 1), device="cpu")
    rivals = classes[1:]
    if name == "noise":
        criterion = foolbox.Misclassification(torch.tensor(np.full(len(inputs), classes[0])))
    else:
        targets = rivals[np.arange(len(inputs)) % len(rivals)]
        criterion = foolbox.TargetedMisclassification(torch.tensor(targets))
    return _attack(foolbox.attacks, name, norm, steps)(model, inputs, criterion, epsilons=epsilon)[0]


def _attack(attacks: Any, name: str, norm: str, steps: int) -> Any:
    """The attack of foolbox that goes by this name in this norm."""
    if name == "ddn":
        return attacks.DDNAttack(steps=steps)
    if name == "ead":
        return attacks.EADAttack(steps=steps, decision_rule="L1")
    if name == "fmn":
        return {"inf": attacks.LInfFMNAttack, "2": attacks.L2FMNAttack, "1": attacks.L1FMNAttack}[norm](steps=steps)
    if name == "noise":
        linf, l2 = (
            attacks.LinfRepeatedAdditiveUniformNoiseAttack,
            attacks.L2ClippingAwareRepeatedAdditiveUniformNoiseAttack,
        )
        return (linf if norm == "inf" else l2)(repeats=steps)
    descent = {"inf": attacks.LinfPGD, "2": attacks.L2PGD, "1": attacks.SparseL1DescentAttack}[norm]
    return descent(steps=steps, rel_stepsize=min(1.0, REACH / steps), random_start=True)


def _in_torch(model: Model) -> tuple[Differentiable, bool]:
    """The model on torch tensors, `(B, *input_shape)` to `(B, n_outputs)`, and whether gradients flow through it."""
    import torch

    try:
        imported = torch_module(model)
        return (lambda x: imported(x).reshape(len(x), -1)), True
    except ModelError:
        network = model.network
    if network is not None:
        return (lambda x: network.evaluate(x).reshape(len(x), -1)), True
    return (lambda x: torch.tensor(model(x.detach().numpy().reshape(len(x), -1)), dtype=x.dtype)), False


def _foolbox() -> Any:
    """The package; raises `MissingPackage` where it is installed but cannot be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports scipy.ndimage by an old name
        try:
            import foolbox
        except ImportError as error:
            raise MissingPackage(f"foolbox is installed but cannot be imported: {error}") from error
    return foolbox

"""Declared capabilities are true in both directions: what is declared is taken, what is not is refused by name."""

from __future__ import annotations

from fractions import Fraction

from verifkit.capabilities import Kind
from verifkit.input_sets import Box, InputSet, LpBall, Norm, ball
from verifkit.properties import Constraint, Polyhedron, Property, misclassified
from verifkit.query import Query
from verifkit.result import Reason, Result, Verdict
from verifkit.testing.checks import Rule, Trial, deterministic
from verifkit.testing.gallery import Exhibit, black_box, exhibits, unknown_function

NORMS: tuple[Norm, ...] = ("inf", "1", "2", "0")
RADIUS = Fraction(1, 16)


def region_around(n_inputs: int, norm: Norm) -> InputSet:
    """A small set of the given norm around 0."""
    center = (Fraction(0),) * n_inputs
    if norm == "0":
        return LpBall(center, Fraction(1), "0", Box((-RADIUS,) * n_inputs, (RADIUS,) * n_inputs))
    return ball(center, RADIUS, norm)


def plain_query(exhibit: Exhibit, norm: Norm) -> Query:
    """Robustness of label 0: a question that every verifier which takes the network and the norm can be asked."""
    region = region_around(exhibit.model.n_inputs, norm)
    return Query(exhibit.model, Property(region, misclassified(0, 2), 2))


def _taken(trial: Trial, query: Query, what: str) -> None:
    result = trial.ask(query)
    if result.reason in (Reason.UNSUPPORTED, Reason.ERROR):
        sentence = f"{what} is declared, but the answer is UNKNOWN({result.reason}: {result.detail})"
        trial.fail("capabilities_are_taken", sentence)


def _refused(trial: Trial, query: Query, what: str, names: list[str]) -> None:
    """The answer must be UNKNOWN(unsupported), with one of `names` in its detail."""
    result: Result = trial.ask(query)
    if result.verdict is not Verdict.UNKNOWN or result.reason is not Reason.UNSUPPORTED:
        sentence = f"{what} is not declared, but the answer is {result.verdict} ({result.reason}: {result.detail})"
        trial.fail("capabilities_are_complete", sentence)
    if not any(name in result.detail for name in names):
        trial.fail("capabilities_are_complete", f"the refusal '{result.detail}' names none of {', '.join(names)}")


def _norm(trial: Trial) -> Norm:
    return trial.norms[0]


def capabilities_are_taken(trial: Trial) -> None:
    """Every declared norm, node kind, activation and coupling is answered: no refusal, no error."""
    capabilities = trial.verifier.capabilities
    for exhibit in exhibits():
        known = capabilities.operators is None or exhibit.needs <= capabilities.operators | capabilities.activations
        for norm in trial.norms if known else ():
            _taken(trial, plain_query(exhibit, norm), f"network '{exhibit.name}' under norm {norm}")
    if not capabilities.needs_network and not capabilities.file:
        model = black_box()
        prop = Property(region_around(model.n_inputs, _norm(trial)), misclassified(0, 2), 2)
        _taken(trial, Query(model, prop), "a model that can only be called")
    if not capabilities.robustness_only:
        for norm in trial.norms:
            _taken(trial, _strange(norm, coupled=False), "an unsafe set other than misclassification")
            if capabilities.coupling:
                _taken(trial, _strange(norm, coupled=True), "a constraint that couples inputs and outputs")


def _strange(norm: Norm, *, coupled: bool) -> Query:
    """y_0 <= 1/2 and y_1 - y_0 < 3, or y_1 >= 5, of a linear network; with x_0 in a row where `coupled`."""
    exhibit, one = exhibits()[0], Fraction(1)
    first = Constraint(outputs=((0, one),), bound=Fraction(1, 2), inputs=((0, one),) if coupled else ())
    second = Constraint(outputs=((1, one), (0, -one)), bound=Fraction(3), strict=True)
    third = Constraint(outputs=((1, -one),), bound=Fraction(-5))
    region = region_around(exhibit.model.n_inputs, norm)
    return Query(exhibit.model, Property(region, (Polyhedron((first, second)), Polyhedron((third,))), 2))


def capabilities_are_complete(trial: Trial) -> None:
    """Whatever is not declared is refused as UNKNOWN(unsupported), naming the node, or the norm."""
    capabilities = trial.verifier.capabilities
    for norm in (n for n in NORMS if n not in capabilities.kinds):
        _refused(trial, plain_query(exhibits()[0], norm), f"norm {norm}", [f"norm {norm}"])
    if not capabilities.coupling:
        wanted = ["input", "coupl", "robustness"]
        _refused(trial, _strange(_norm(trial), coupled=True), "a constraint that couples inputs and outputs", wanted)
    if capabilities.robustness_only:
        wanted = ["robustness", "label"]
        _refused(trial, _strange(_norm(trial), coupled=False), "an unsafe set other than misclassification", wanted)
    if capabilities.operators is not None:
        for exhibit in (*exhibits(), unknown_function()):
            stops = exhibit.stops(capabilities.operators, capabilities.activations)
            for norm in trial.norms if stops else ():
                _refused(trial, plain_query(exhibit, norm), f"network '{exhibit.name}'", stops)
    if capabilities.needs_network or capabilities.file:
        model = black_box()
        query = Query(model, Property(region_around(model.n_inputs, _norm(trial)), misclassified(0, 2), 2))
        _refused(trial, query, "a model without a network", [model.name])


def empty_and_full_unsafe_sets(trial: Trial) -> None:
    """An empty unsafe set is never VIOLATED; one that every input reaches (a disjunct without rows) never HOLDS.

    A falsifier proves neither.
    """
    exhibit = exhibits()[0]
    for norm in deterministic(trial):
        region = region_around(exhibit.model.n_inputs, norm)
        nothing = Query(exhibit.model, Property(region, (), 2))
        everything = Query(exhibit.model, Property(region, (Polyhedron(()),), 2))
        nowhere = Verdict.HOLDS if trial.kind(norm) is Kind.FALSIFIER else Verdict.VIOLATED
        for query, wrong in ((nothing, nowhere), (nothing, Verdict.VIOLATED), (everything, Verdict.HOLDS)):
            if trial.ask(query).verdict is wrong:
                kind = "empty" if query is nothing else "full"
                trial.fail("empty_and_full_unsafe_sets", f"{wrong} although the unsafe set is {kind} (norm {norm})")
        missed = region.bounding_box() if isinstance(region, LpBall) else region
        far = Box(tuple(v + 4 for v in missed.lower), tuple(v + 4 for v in missed.upper))
        row = Constraint(outputs=((0, Fraction(1)),), bound=Fraction(10**6))
        elsewhere = Query(exhibit.model, Property(region, (Polyhedron((row,), far),), 2))
        verdict = trial.ask(elsewhere).verdict
        if verdict in (nowhere, Verdict.VIOLATED):
            trial.fail("empty_and_full_unsafe_sets", f"{verdict} where the only disjunct's box misses the input set")


RULES = (
    Rule("capabilities_are_taken", capabilities_are_taken),
    Rule("capabilities_are_complete", capabilities_are_complete),
    Rule(
        "empty_and_full_unsafe_sets",
        empty_and_full_unsafe_sets,
        lambda trial: bool(deterministic(trial)) and not trial.verifier.capabilities.robustness_only,
        soundness=True,
    ),
)

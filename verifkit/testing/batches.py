"""Questions to be asked together: several about one model, of every shape that a batch has to keep apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from verifkit.capabilities import Capabilities
from verifkit.input_sets import Box, InputSet, LpBall, Norm
from verifkit.properties import Constraint, Polyhedron, Property, misclassified
from verifkit.query import Query
from verifkit.testing.checks_capabilities import NORMS, plain_query, region_around
from verifkit.testing.gallery import Exhibit, black_box, exhibits, unknown_function
from verifkit.testing.questions import supported

Unsafe = tuple[Polyhedron, ...]


def batch_questions(norm: Norm, capabilities: Capabilities, *, few: bool = False) -> list[Query]:
    """About one network: sets of several sizes and places, unsafe sets of several shapes; then about other models, and
    such as a verifier with these capabilities refuses. few: only two about the network.
    """
    known = supported(capabilities)
    exhibit = next((e for e in known if e.name == "relu"), known[0])
    sets = list(_sets(exhibit, norm))
    unsafe = list(_unsafe_sets(capabilities))
    pairs = [(sets[k % len(sets)], unsafe[k % len(unsafe)]) for k in range(max(len(sets), len(unsafe)))]
    mine = [Query(exhibit.model, Property(region, rows, 2)) for region, rows in pairs[: 2 if few else None]]
    if not capabilities.robustness_only:
        mine += [Query(exhibit.model, _boxed(sets[0], misses)) for misses in (False, True)]
    others = [plain_query(known[0], norm), plain_query(known[-1], norm)]
    return [*mine, *others, *_refused(norm, capabilities)]


def _sets(exhibit: Exhibit, norm: Norm) -> Iterator[InputSet]:
    """Around 0 and beside it; a point; wide enough to leave most units undecided."""
    for share, shift in ((1, 0), (8, 0), (0, 1), (4, -1), (16, 2), (2, 3)):
        yield moved(region_around(exhibit.model.n_inputs, norm), Fraction(share), Fraction(shift, 8))


def moved(region: InputSet, share: Fraction, shift: Fraction) -> InputSet:
    """A set around 0 made larger by a factor, and moved along the diagonal."""
    if isinstance(region, LpBall):
        center = tuple(c + shift for c in region.center)
        if region.clip is None:
            return replace(region, center=center, radius=region.radius * share)
        clip = moved(region.clip, share, shift)
        assert isinstance(clip, Box)
        return replace(region, center=center, clip=clip)
    return Box(tuple(v * share + shift for v in region.lower), tuple(v * share + shift for v in region.upper))


def _unsafe_sets(capabilities: Capabilities) -> Iterator[Unsafe]:
    """Unsafe sets with no, one and several rows and disjuncts."""
    yield misclassified(0, 2)
    yield misclassified(1, 2)
    if capabilities.robustness_only:
        return
    one = Fraction(1)
    low = Constraint(outputs=((0, one),), bound=Fraction(-7, 8))
    strict = Constraint(outputs=((1, one), (0, -one)), bound=Fraction(-1, 3), strict=True)
    far = Constraint(outputs=((1, -one / 3),), bound=Fraction(-1000))
    mixed = replace(low, inputs=((0, one),)) if capabilities.coupling else strict
    yield (Polyhedron((low, strict)), Polyhedron((far,)))
    yield (Polyhedron((far, mixed)),)
    yield (Polyhedron((mixed,)), Polyhedron((low,)), Polyhedron((strict, far)))
    yield (Polyhedron(()),)  # every input is unsafe
    yield ()  # none is


def _boxed(region: InputSet, misses: bool) -> Property:
    """Two disjuncts with boxes of their own: the halves of the input set, or boxes that miss it."""
    box = region.bounding_box() if isinstance(region, LpBall) else region
    middle = (box.lower[0] + box.upper[0]) / 2
    away = Fraction(4 if misses else 0)
    rows = (Constraint(outputs=((0, Fraction(1)),), bound=Fraction(-100)),)
    halves = ((box.lower[0] + away, middle + away), (middle + away, box.upper[0] + away))
    boxes = [Box((low, *box.lower[1:]), (high, *box.upper[1:])) for low, high in halves]
    return Property(region, tuple(Polyhedron(rows, own) for own in boxes), 2)


def _refused(norm: Norm, capabilities: Capabilities) -> Iterator[Query]:
    """Questions with a norm, a function or a model that is not declared."""
    yield from (plain_query(exhibits()[0], other) for other in NORMS if other not in capabilities.kinds)
    if capabilities.operators is not None:
        yield plain_query(unknown_function(), norm)
    if capabilities.needs_network:
        model = black_box()
        yield Query(model, Property(region_around(model.n_inputs, norm), misclassified(0, 2), 2))

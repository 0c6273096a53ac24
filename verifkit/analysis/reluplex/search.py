"""The Reluplex procedure: simplex, repairs of broken pairs, lazy splits, backtracking.

Source: Katz et al., section 3 (rules Update_b, Update_f, PivotForRelu, ReluSplit, ReluSuccess) and 4 (the stack of
bounds, conflicts). A branch without a solution is closed by a Farkas certificate, checked in rationals
against the bounds that the question and the phases of the branch give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from verifkit.analysis.reluplex.bounds import Derived, explain, only
from verifkit.analysis.reluplex.certificate import contradicts
from verifkit.analysis.reluplex.delta import Number, concrete
from verifkit.analysis.reluplex.phases import Phase, evident, given_bounds, phase_bounds, phase_text
from verifkit.analysis.reluplex.simplex import Conflict, Simplex
from verifkit.analysis.reluplex.system import Pair, System
from verifkit.analysis.reluplex.tableau import Stalled
from verifkit.analysis.reluplex.trace import Trace, multipliers, show
from verifkit.budget import BudgetExhausted, Clock
from verifkit.evidence import Farkas, FarkasTree, PhaseSplit


@dataclass(frozen=True)
class Found:
    """A solution: the values of the flat input."""

    x: tuple[Number, ...]


class Unsettled(Exception):
    """A branch that rationals could not close either: a mistake in the search, never a verdict."""


@dataclass
class _Frame:
    """A pair on the stack: its phase now, the bounds before it, and what refuted its other phase, if that is done."""

    pair: Pair
    phase: bool
    mark: int
    other: FarkasTree | None = None
    deduced: bool = False


@dataclass
class Settings:
    """splits_after: repairs of one pair before it is split; 0 splits every pair before any repair. accept: whether an
    input, found in floats, replays as a solution."""

    splits_after: int
    clock: Clock
    trace: Trace
    accept: Callable[[Sequence[float]], bool]
    counts: Counter[str] = field(default_factory=Counter)
    closed: float = 0.0  # the share of the tree that is refuted, where each split halves a branch


class Search:
    """One run on one system. path: phases that are given from the start; share: of the whole tree, that this is."""

    def __init__(
        self, system: System, settings: Settings, *, exact: bool, path: Sequence[Phase] = (), share: float = 1.0
    ) -> None:
        self.system, self.settings, self.exact, self.path, self.share = system, settings, exact, tuple(path), share
        self.counts, self.trace = settings.counts, settings.trace
        self.simplex = Simplex(system, exact=exact, clock=settings.clock, trace=self.trace, counts=self.counts)
        self.stack: list[_Frame] = []
        self.repairs: Counter[Pair] = Counter()
        self.vain: set[Derived] = set()  # bounds that floats did not suffice to deduce a phase from

    def run(self) -> Found | FarkasTree:
        """A solution, or the tree that shows that there is none. Raises `Unsettled` and `BudgetExhausted`."""
        if self.trace.on:
            self.trace.tableau(self.system, [(v, self.simplex.tableau.row(v)) for v in self.simplex.tableau.basic])
        for pair, phase in self.path:
            self._give(pair, phase)
        while True:
            result = self._branch()
            if isinstance(result, Found):
                return result
            if isinstance(result, Pair):
                self._split(result)
                continue
            tree = self._backtrack(result)
            if tree is not None:
                return tree

    # --- one branch ---------------------------------------------------------------------------------------------------

    def _branch(self) -> Found | Pair | FarkasTree:
        """A solution, the pair to split, or a refutation of the present branch."""
        self.repairs.clear()
        try:
            conflict = self._tighten()
            while conflict is None:
                conflict = self.simplex.check()
                if conflict is not None:
                    break
                if self._deduce():
                    conflict = self._tighten()
                    continue
                broken = [pair for pair in self._undecided() if self._is_broken(pair)]
                if not broken:
                    return self._found()
                pair = self._due(broken)
                if pair is not None:
                    return pair
                if not self._repair(broken[0]):
                    return broken[0]
        except Stalled as stalled:
            return self._in_rationals(str(stalled))
        certificate = self._certificate(conflict[1], conflict[2], self._phases())
        if certificate is None:
            return self._in_rationals("the multipliers of a conflict do not prove it")
        self._say_refuted(conflict, certificate)
        self._close()
        return certificate

    def _tighten(self) -> Conflict | None:
        for pair, _ in self._phases():
            for v in (pair.b, pair.f, pair.slack):
                conflict = self.simplex.crossed(v)
                if conflict is not None:
                    return conflict
        return self.simplex.tighten_all()

    def _phases(self) -> list[Phase]:
        return [*self.path, *((frame.pair, frame.phase) for frame in self.stack)]

    def _undecided(self) -> list[Pair]:
        decided = {pair for pair, _ in self._phases()}
        return [pair for pair in self.system.pairs if pair not in decided]

    def _is_broken(self, pair: Pair) -> bool:
        alpha = self.simplex.alpha
        return bool(abs(alpha[pair.f] - max(alpha[pair.b], 0)) > self.simplex.tolerance[pair.f])

    def _due(self, broken: list[Pair]) -> Pair | None:
        """The pair that is to be split now."""
        if self.settings.splits_after == 0:
            return self._undecided()[0]
        return next((pair for pair in broken if self.repairs[pair] >= self.settings.splits_after), None)

    def _repair(self, pair: Pair) -> bool:
        """Makes f = max(0, b) by moving one of the two (Update_f, Update_b), after a pivot where both are basic
        (PivotForRelu): f at first, the other one the next time. False where neither can move within its bounds."""
        simplex, alpha = self.simplex, self.simplex.alpha
        wanted = {pair.f: max(alpha[pair.b], 0), pair.b: alpha[pair.f]}
        low, high = simplex.bounds.ends
        order = (pair.f, pair.b) if self.repairs[pair] % 2 == 0 else (pair.b, pair.f)
        possible = [v for v in order if low[v] <= wanted[v] <= high[v]]
        free = [v for v in possible if not simplex.tableau.is_basic(v)]
        if not possible or not (free or self._made_nonbasic(possible[0])):
            return False
        v = free[0] if free else possible[0]
        if self.trace.on:
            names, values = self.system.names, f"({show(alpha[pair.b])}, {show(alpha[pair.f])})"
            broken = f"({names[pair.b]}, {names[pair.f]}) = {values} is broken"
            self.trace.step(f"repair: {broken}; {names[v]} := {show(wanted[v])}")
        simplex.update(v, wanted[v])
        self.repairs[pair] += 1
        self.counts["repairs"] += 1
        return True

    def _made_nonbasic(self, basic: int) -> bool:
        """A pivot that takes a variable out of the basis; False where nothing that can move could take its place."""
        low, high = self.simplex.bounds.ends
        others = [(v, c) for v, c in self.simplex.tableau.row(basic) if low[v] < high[v]]
        if not others:
            return False
        entering = max(others, key=lambda entry: abs(entry[1]))[0]
        if self.trace.on:
            names = self.system.names
            self.trace.step(f"pivot: for a repair, {names[entering]} enters, {names[basic]} leaves")
        self.simplex.pivot(basic, entering)
        return True

    def _found(self) -> Found | FarkasTree:
        simplex, system = self.simplex, self.system
        if not self.exact:
            x = tuple(simplex.alpha[v] for v in system.inputs)
            if not self.settings.accept(x):
                return self._in_rationals("a solution in floats does not replay")
        else:
            alpha, (low, high) = simplex.alpha, simplex.bounds.ends
            ordered = [*zip(low, alpha, strict=True), *zip(alpha, high, strict=True)]
            ordered += [(0, alpha[p.b]) if alpha[p.b] > 0 else (alpha[p.b], 0) for p in system.pairs]
            values = concrete(alpha, ordered)
            x = tuple(values[v] for v in system.inputs)
        if self.trace.on:
            shown = ", ".join(f"{system.names[v]} = {show(value)}" for v, value in zip(system.inputs, x, strict=True))
            self.trace.step(f"solution: {shown}")
        return Found(x)

    # --- phases -------------------------------------------------------------------------------------------------------

    def _give(self, pair: Pair, phase: bool) -> None:
        """The bounds of a phase (rule ReluSplit)."""
        for side, v in phase_bounds(pair, phase):
            self.simplex.give(side, v, Fraction(0) if self.exact else 0.0)

    def _split(self, pair: Pair) -> None:
        """Opens two branches, the one that the assignment leans to first."""
        alpha = self.simplex.alpha
        phase = bool(alpha[pair.b] + alpha[pair.f] > 0)
        nodes = self.settings.clock.budget.nodes
        if nodes is not None and self.counts["splits"] >= nodes:
            raise BudgetExhausted
        self.counts["splits"] += 1
        names = self.system.names
        self.trace.step(f"split: ({names[pair.b]}, {names[pair.f]}); first {phase_text(names, pair, phase)}")
        self._push(_Frame(pair, phase, self.simplex.bounds.mark()))

    def _push(self, frame: _Frame) -> None:
        self.stack.append(frame)
        self.trace.depth += 1
        self._give(frame.pair, frame.phase)

    def _backtrack(self, tree: FarkasTree) -> FarkasTree | None:
        """Joins what is refuted on both sides, and turns to the other phase of the last pair that has one left.

        The whole tree, where there is none."""
        while self.stack and self.stack[-1].other is not None:
            frame = self._pop()
            assert frame.other is not None
            sides = (frame.other, tree) if frame.phase else (tree, frame.other)
            tree = PhaseSplit(frame.pair.node, frame.pair.unit, *sides)
        if not self.stack:
            return tree
        frame = self._pop()
        names = self.system.names
        self.trace.step(f"backtrack: now {phase_text(names, frame.pair, not frame.phase)}")
        self._push(_Frame(frame.pair, not frame.phase, frame.mark, tree))
        return None

    def _pop(self) -> _Frame:
        frame = self.stack.pop()
        self.simplex.bounds.undo(frame.mark)
        self.trace.depth -= 1
        return frame

    def _deduce(self) -> bool:
        """Fixes the phases that derived bounds leave no choice about: splits whose other branch is closed at once."""
        any_found = False
        for pair in self._undecided():
            for phase, low, high in list(evident(self.simplex, pair, self.vain)):
                closed = self._certificate(low, high, [*self._phases(), (pair, not phase)])
                if closed is None:
                    self.vain.update(why for why in (low, high) if why is not None)
                    continue
                self.counts["deduced phases"] += 1
                if self.trace.on:
                    names = self.system.names
                    proof = multipliers(self._by_number(closed), names)
                    self.trace.step(f"phase: {phase_text(names, pair, phase)} by its bounds ({proof})")
                self._push(_Frame(pair, phase, self.simplex.bounds.mark(), closed, deduced=True))
                any_found = True
                break
        return any_found

    # --- closing a branch ---------------------------------------------------------------------------------------------

    def _certificate(self, low: Derived | None, high: Derived | None, phases: Sequence[Phase]) -> Farkas | None:
        """Multipliers that prove a conflict against given bounds alone; None where they do not."""
        lower, upper = given_bounds(self.system, phases)
        proof = contradicts(self.system, only(explain(low, high), self.system.definitions), lower, upper)
        return None if proof is None else Farkas({self.system.variables[v]: m for v, m in proof.items()})

    def _by_number(self, certificate: Farkas) -> dict[int, Fraction]:
        place = {variable: v for v, variable in enumerate(self.system.variables)}
        return {place[variable]: m for variable, m in certificate.multipliers.items()}

    def _say_refuted(self, conflict: Conflict, certificate: Farkas) -> None:
        if self.trace.on:
            names = self.system.names
            proof = multipliers(self._by_number(certificate), names)
            self.trace.step(
                f"conflict: no value is left for {names[conflict[0]]}; Farkas multipliers {proof or 'none'}"
            )

    def _close(self) -> None:
        self.counts["leaves"] += 1
        self.settings.closed += self._own_share()

    def _own_share(self) -> float:
        """The part of the tree that the present branch is: each split halves it."""
        return self.share * 0.5 ** sum(not frame.deduced for frame in self.stack)

    def _in_rationals(self, why: str) -> Found | FarkasTree:
        """Hands the present branch to a search in rationals, which decides it."""
        if self.exact:
            raise Unsettled(why)
        self.counts["branches in rationals"] += 1
        self.trace.step(f"in rationals from here: {why}")
        result = Search(self.system, self.settings, exact=True, path=self._phases(), share=self._own_share()).run()
        if not isinstance(result, Found):
            self.trace.step("back in floats: that branch is refuted")
        return result

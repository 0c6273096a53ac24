"""Linear real arithmetic through an SMT solver, Z3 or cvc5: exact, complete for piecewise linear networks.

Papers: Katz, Barrett, Dill, Julian, Kochenderfer, "Reluplex", CAV 2017, section 3, for the network as a formula;
Ehlers, "Formal verification of piece-wise linear feed-forward neural networks", ATVA 2017, for the triangles.
CROWN bounds come first; what they do not refute is asked as one formula for each disjunct, in the exact rationals of
the stored weights: unsatisfiable refutes it, and a model is a rational input, replayed exactly. Phases and triangles in
it come from CROWN bounds in rationals. Ties and strict rows are decided like all others: there is no tolerance.
The solver runs in a process of its own that is ended when the time is up.
Guarantee: HOLDS about the network, real semantics; exact arithmetic, trusting the solver where it says "unsat"; rounded
arithmetic where CROWN's floating-point bounds refute everything and no solver is started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from verifkit.analysis.linear import analyse
from verifkit.analysis.refute import conclude
from verifkit.analysis.region import region_of
from verifkit.analysis.relaxation import CROWN_RELAXATIONS
from verifkit.analysis.rows import rows_of
from verifkit.budget import BudgetExhausted, Clock
from verifkit.capabilities import Capabilities, Kind, Paper
from verifkit.errors import MissingPackage, OptionError
from verifkit.evidence import SolverBound
from verifkit.functions import Abs, Clip, LeakyRelu, Relu
from verifkit.ops import Max
from verifkit.query import Query
from verifkit.result import Arithmetic, Guarantee, Outcome, Reason, Verdict
from verifkit.solvers.smt_formula import Formula, name
from verifkit.solvers.smt_process import Conversation, SolverProcess, installed
from verifkit.solvers.smt_question import encode
from verifkit.verifier import Verifier

Backend = Literal["z3", "cvc5"]


@dataclass(frozen=True, kw_only=True)
class Smt(Verifier):
    """backend: the solver, "z3" or "cvc5" (the package `cvc5`). triangles: whether to add f <= u (z - l) / (u - l) for
    each undecided unit, implied by the rest.
    """

    backend: Backend = "z3"
    triangles: bool = True

    name: ClassVar[str] = "smt"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds={"inf": Kind.COMPLETE, "1": Kind.COMPLETE},
        operators=frozenset({Max}),
        activations=frozenset({Relu, LeakyRelu, Abs, Clip}),
        coupling=True,
        modules={"z3": "smt"},
        paper=Paper(
            "katz2017reluplex",
            "Katz, Guy and Barrett, Clark and Dill, David L. and Julian, Kyle and Kochenderfer, Mykel J.",
            "Reluplex: an efficient SMT solver for verifying deep neural networks",
            "CAV",
            2017,
        ),
    )

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise OptionError(f"smt knows the solvers {', '.join(get_args(Backend))}, not '{self.backend}'")

    def _decide(self, query: Query, clock: Clock, rng: np.random.Generator) -> Outcome:
        if not installed(self.backend):
            raise MissingPackage(
                f"verifier 'smt' with backend={self.backend} needs the package '{self.backend}': "
                f"run `pip install 'verifkit[{self.backend}]'`"
            )
        network, rows, unsafe = query.network.without_max(), rows_of(query.prop), query.prop.unsafe
        analysis = analyse(network, region_of(query), CROWN_RELAXATIONS, clock)
        lower = np.reshape(analysis.property_rows(rows), -1)
        by_bounds = conclude(query, rows, lower, analysis)
        if by_bounds.verdict is Verdict.HOLDS:
            return by_bounds
        gaps = [rows.gap(lower, number) for number in range(rows.n_disjuncts)]
        try:
            with SolverProcess(self.backend) as process:  # which loads the solver meanwhile
                formula = encode(network, query.prop.input_set, query.model.dtype, clock, triangles=self.triangles)
                asked = [n for n, disjunct in enumerate(unsafe) if not formula.refutes(disjunct)]
                asked.sort(key=gaps.__getitem__)  # the likeliest violation first
                rows_asked = [formula.rows(unsafe[n]) for n in asked]
                wanted = [name(variable) for variable in formula.free_inputs()]
                said = process.decide(formula.text(), rows_asked, wanted, clock) if asked else Conversation("none", ())
        except BudgetExhausted:
            return Outcome.unknown(Reason.TIMEOUT, f"no formula yet; {by_bounds.detail}")
        return _concluded(said, formula, asked, gaps)


def _concluded(said: Conversation, formula: Formula, asked: Sequence[int], gaps: Sequence[float]) -> Outcome:
    """The outcome of what the solver said of the disjuncts `asked`, in order; the others are refuted.

    gaps: CROWN's bounds on the violation of every disjunct.
    """
    statistics: dict[str, float | int | str] = {
        "solver": said.solver,
        "undecided units": len(formula.units),
        "disjuncts asked": len(asked),
        "conflicts": sum(answer.conflicts for answer in said.answers),
        "decisions": sum(answer.decisions for answer in said.answers),
    }
    statistics |= {f"disjunct {n}: seconds": a.seconds for n, a in zip(asked, said.answers, strict=False)}
    if said.answers and said.answers[-1].status == "sat":
        return Outcome.violated(formula.point(said.answers[-1].point()), statistics=statistics)
    unsat = {n for n, answer in zip(asked, said.answers, strict=False) if answer.status == "unsat"}
    left = [n for n in asked if n not in unsat]
    if left:
        detail = f"{len(left)} of {len(gaps)} unsafe regions not excluded; margin >= {min(gaps[n] for n in left):.6g}"
        return Outcome.unknown(*_why(said, detail), statistics=statistics)
    trusted = (f"{said.solver} where it says unsat",) if asked else ()
    evidence = SolverBound(said.solver, tuple(max(gap, 0.0) for gap in gaps), 0.0)
    return Outcome.holds(Guarantee(arithmetic=Arithmetic.EXACT, assumptions=trusted), evidence, statistics=statistics)


def _why(said: Conversation, detail: str) -> tuple[Reason, str]:
    """The reason of an UNKNOWN, and the detail with what the solver says of it."""
    if said.reason is not None:
        return said.reason, f"{said.why}; {detail}" if said.why else detail
    why = next(answer.why for answer in said.answers if answer.status == "unknown")
    return Reason.MEMOUT if "memory" in why else Reason.ERROR, f"the solver does not decide: {why}; {detail}"

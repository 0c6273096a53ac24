"""Z3 on one formula of linear real arithmetic. Runs in a process of its own (`smt_child`)."""

from __future__ import annotations

from collections.abc import Sequence

from verifkit.solvers.smt_child import Answer, in_hexadecimal


def name() -> str:
    import z3

    return f"Z3 {z3.get_version_string()}"


def solve(text: str, variables: Sequence[str]) -> Answer:
    """The solver's answer to the formula in SMT-LIB 2 `text`, with values of `variables` where it is satisfied."""
    import z3

    solver = z3.SolverFor("QF_LRA")
    try:
        solver.from_string(text)
        status = str(solver.check())
        effort = {key: solver.statistics().get_key_value(key) for key in solver.statistics().keys()}  # noqa: SIM118
        conflicts, decisions = int(effort.get("conflicts", 0)), int(effort.get("decisions", 0))
        if status == "unknown":
            return Answer(status, [], solver.reason_unknown(), conflicts, decisions)
        values = []
        if status == "sat":
            model = solver.model()
            values = [model.eval(z3.Real(variable), model_completion=True).as_fraction() for variable in variables]
    except z3.Z3Exception as error:
        return Answer("unknown", why=str(error))
    return Answer(status, [in_hexadecimal(value) for value in values], "", conflicts, decisions)

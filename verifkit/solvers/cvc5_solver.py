"""cvc5 on one formula of linear real arithmetic. Runs in a process of its own (`smt_child`)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from verifkit.solvers.smt_child import Answer, in_hexadecimal


def name() -> str:
    import cvc5

    return f"cvc5 {cvc5.__version__}"


def solve(text: str, variables: Sequence[str]) -> Answer:
    """The solver's answer to the formula in SMT-LIB 2 `text`, with values of `variables` where it is satisfied."""
    import cvc5

    solver = cvc5.Solver(cvc5.TermManager())
    solver.setOption("produce-models", "true")
    try:
        parser = cvc5.InputParser(solver)
        symbols = parser.getSymbolManager()
        parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "question")
        while not (command := parser.nextCommand()).isNull():
            command.invoke(solver, symbols)
        result = solver.checkSat()
        effort = dict(solver.getStatistics())
        conflicts, decisions = (int(effort[f"sat::{what}"]["value"]) for what in ("conflicts", "decisions"))
        if not (result.isSat() or result.isUnsat()):
            return Answer("unknown", [], str(result.getUnknownExplanation()), conflicts, decisions)
        values = []
        if result.isSat():
            terms = {term.getSymbol(): term for term in symbols.getDeclaredTerms()}
            values = [Fraction(solver.getValue(terms[variable]).toPythonObj()) for variable in variables]
    except RuntimeError as error:
        return Answer("unknown", why=str(error))
    status = "sat" if result.isSat() else "unsat"
    return Answer(status, [in_hexadecimal(value) for value in values], "", conflicts, decisions)

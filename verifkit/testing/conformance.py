"""The conformance suite: what every certifier must keep, whoever wrote it.

    from verifkit.testing.conformance import check_verifier, checks_for

    check_verifier(MyVerifier())                                            # raises ConformanceError
    @pytest.mark.parametrize("check", checks_for(MyVerifier()), ids=str)    # or check by check
    def test_conformance(check): check()

Which checks run depends on the declared capabilities. The questions are small ReLU networks with an exact oracle,
networks of every node kind judged by sampling, and linear models with closed-form answers; all are drawn from a seed.
A failure names the check and shows the network and the property that reproduce it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from verifkit.errors import MissingPackage, VerifkitError
from verifkit.testing import (
    checks_capabilities,
    checks_contract,
    checks_evidence,
    checks_power,
    checks_probabilistic,
    checks_rewrites,
    checks_soundness,
)
from verifkit.testing.checks import ConformanceError, Rule, Trial
from verifkit.verifier import Verifier

__all__ = ["Check", "ConformanceError", "check_verifier", "checks_for"]

QUERIES = 100
"""Random questions per norm unless told otherwise."""

RULES: tuple[Rule, ...] = (
    *checks_capabilities.RULES,
    *checks_contract.RULES,
    *checks_evidence.RULES,
    *checks_probabilistic.RULES,
    *checks_power.RULES,
    *checks_soundness.RULES,
    *checks_rewrites.RULES,
)
"""Every check, the cheap ones first."""


@dataclass(frozen=True, eq=False)
class Check:
    """One check bound to a verifier; calling it runs it.

    expected_failure: the declared reason why it fails today; then it must fail, so that no declaration outlives its
    cause. Raises `ConformanceError`.
    """

    rule: Rule
    trial: Trial
    expected_failure: str | None = None

    @property
    def name(self) -> str:
        return self.rule.name

    def __str__(self) -> str:
        return f"{self.trial.verifier.name}-{self.name}"

    def __call__(self) -> None:
        if self.expected_failure is None:
            self.rule.run(self.trial)
            return
        try:
            self.rule.run(self.trial)
        except ConformanceError:
            return
        raise ConformanceError(
            f"verifier '{self.trial.verifier.name}' passes '{self.name}', which is declared to fail "
            f"({self.expected_failure}): take the declaration back"
        )


def checks_for(
    verifier: Verifier,
    *,
    queries: int = QUERIES,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Check]:
    """The checks that apply to `verifier`, cheap ones first; they share the verifier's answers.

    queries: random questions per norm. expected_failures: check name -> reason, for failures that are known. Raises
    `VerifkitError` for a name that is no check of this verifier or is a check of soundness, which nothing excuses,
    `MissingPackage` where a package that the verifier needs is not installed, and `OptionError` where an option is.
    """
    missing = verifier.capabilities.missing_modules()
    if missing:
        raise MissingPackage(f"verifier '{verifier.name}' cannot be checked without: {', '.join(missing)}")
    verifier.require_usable()
    trial = Trial(verifier, queries, seed)
    rules = {rule.name: rule for rule in RULES if rule.applies(trial)}
    declared = dict(expected_failures or {})
    for name in declared:
        if name not in rules:
            raise VerifkitError(f"'{name}' is no conformance check of '{verifier.name}'; there are: {', '.join(rules)}")
        if rules[name].soundness:
            raise VerifkitError(f"'{name}' is a check of soundness: its failure cannot be declared as expected")
    return [Check(rule, trial, declared.get(name)) for name, rule in rules.items()]


def check_verifier(
    verifier: Verifier,
    *,
    queries: int = QUERIES,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> None:
    """Runs every check that applies; raises `ConformanceError` at the first that fails. Arguments as `checks_for`."""
    for check in checks_for(verifier, queries=queries, seed=seed, expected_failures=expected_failures):
        check()

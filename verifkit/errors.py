"""The mistakes a user can make, each as one clear sentence.

A verifier's outcome is never an exception: running out of time or memory is a reason in a `Result`. What is raised
here is for the person at the keyboard, and `str(error)` is the whole message.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VerifkitError(Exception):
    """Base of everything verifkit raises on purpose; its text says what is wrong and what to do."""


class ModelError(VerifkitError):
    """A model file that cannot be read, or that does not compute what its graph says."""


class UnsupportedOperator(ModelError):
    """An ONNX node that the lowering does not know.

    `node`, `operator` and `opset` name it; the sentence repeats them with the reason.
    """

    def __init__(self, node: str, operator: str, opset: int, why: str) -> None:
        self.node, self.operator, self.opset, self.why = node, operator, opset, why
        super().__init__(f"node '{node}' ({operator}, opset {opset}) cannot be lowered: {why}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.node, self.operator, self.opset, self.why)


class PropertyError(VerifkitError):
    """A property that is malformed, or does not fit the model it is put to."""


class OptionError(VerifkitError):
    """A verifier's option, a limit or a command-line value that makes no sense."""


class UnknownVerifier(VerifkitError):
    """A name that no installed verifier has."""


class MissingPackage(VerifkitError):
    """An optional package that the chosen verifier needs and that is not installed."""


class SuiteError(VerifkitError):
    """A suite file or benchmark folder that cannot be used, or an output folder that cannot be written."""


class EvidenceError(VerifkitError):
    """An evidence file that cannot be read, or evidence that no file can hold."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "did you mean 'x'? " where one of the known words is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean '{close[0]}'? " if close else ""


class VnnlibError(PropertyError):
    """VNN-LIB text that breaks the grammar: `source` names the file, `line` and `column` count from 1."""

    def __init__(self, what: str, line: int, column: int, source: str = "") -> None:
        self.what, self.line, self.column, self.source = what, line, column, source
        super().__init__(f"{source or 'VNN-LIB text'}, line {line}, column {column}: {what}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.what, self.line, self.column, self.source)


class RunnerError(VerifkitError):
    """The machinery around the verifiers broke down; no mistake of the user's."""

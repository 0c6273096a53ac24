"""What a verifier can be asked, as class data: read before any work, and without importing a solver."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from verifkit.errors import MissingPackage
from verifkit.functions import ScalarFunction
from verifkit.input_sets import Norm
from verifkit.model import Model
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Input, Node
from verifkit.query import Query


class Kind(StrEnum):
    """COMPLETE decides (given time); INCOMPLETE proves or gives up; PROBABILISTIC proves up to a stated chance;
    FALSIFIER only ever finds violations. A complete method is complete on piecewise linear networks; on others that it
    takes, it is as good as its bounds."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    PROBABILISTIC = "probabilistic"
    FALSIFIER = "falsifier"


@dataclass(frozen=True)
class Paper:
    """The work a verifier implements, for `verifkit cite`."""

    key: str
    authors: str
    title: str
    venue: str
    year: int

    def bibtex(self) -> str:
        fields = {"author": self.authors, "title": "{" + self.title + "}", "booktitle": self.venue, "year": self.year}
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@inproceedings{{{self.key},\n{body}\n}}"

    def short(self) -> str:
        first = self.authors.split(" and ")[0].split(",")[0]
        others = " et al." if " and " in self.authors else ""
        return f"{first}{others}, {self.venue} {self.year}"


@dataclass(frozen=True)
class Obstacle:
    """A node that a verifier has no rule for. node: the ONNX nodes it came from, else its own name. what: "activation
    sigmoid", or the node's kind."""

    node: str
    what: str

    def __str__(self) -> str:
        return f"{self.what} (node '{self.node}') is not supported"


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """kinds: what the method is for each norm of the input set ("inf" covers boxes); a norm left out is unsupported.

    operators, activations: the node kinds and scalar functions it has rules for (affine nodes always); None for a
    method that only calls the model. coupling: constraints that mix inputs and outputs. robustness_only: whether the
    unsafe set must be "another class scores at least as high". modules: optional packages needed, with the extra that
    installs them.
    """

    kinds: Mapping[Norm, Kind]
    paper: Paper
    operators: frozenset[type[Node]] | None = frozenset()
    activations: frozenset[type[ScalarFunction]] = frozenset()
    coupling: bool = False
    robustness_only: bool = False
    modules: Mapping[str, str] = field(default_factory=dict)

    @property
    def needs_network(self) -> bool:
        return self.operators is not None

    def missing_modules(self) -> list[str]:
        """The optional packages that are not installed; nothing is imported to find out."""
        return [name for name in self.modules if not _installed(name)]

    def require_modules(self, verifier: str) -> None:
        """Raises `MissingPackage` where an optional package that `verifier` needs is not installed."""
        for module in self.missing_modules():
            raise MissingPackage(
                f"verifier '{verifier}' needs the package '{module}': "
                f"run `pip install 'verifkit[{self.modules[module]}]'`"
            )

    def refusal(self, query: Query) -> str | None:
        """Why this query cannot be taken, naming the node that stops it; None if it can. Does no work."""
        if query.norm not in self.kinds:
            return f"input sets of norm {query.norm} are not supported (only {', '.join(self.kinds)})"
        if query.prop.coupled and not self.coupling:
            return "constraints that mix inputs and outputs are not supported"
        if self.robustness_only and robust_label(query) is None:
            return "only robustness of a label can be asked (some other class scores at least as high)"
        return self.model_refusal(query.model)

    def model_refusal(self, model: Model) -> str | None:
        """Why no question about this model can be taken, whatever it asks; None if some can. Does no work."""
        if not self.needs_network:
            return None
        if model.network is None:
            return str(model.unsupported or f"model '{model.name}' is a black box without a graph")
        obstacle = next(self.obstacles(model.network), None)
        return None if obstacle is None else str(obstacle)

    def obstacles(self, network: Network) -> Iterator[Obstacle]:
        """Every node of the network without a rule, in order; none for a method that only calls the model."""
        if not self.needs_network:
            return
        for node in network.nodes:
            what = self._refused_node(node)
            if what is not None:
                yield Obstacle(", ".join(node.origin) or node.name, what)

    def _refused_node(self, node: Node) -> str | None:
        assert self.operators is not None
        if isinstance(node, Input | Affine):
            return None
        if isinstance(node, Activation):
            return None if type(node.function) in self.activations else f"activation {node.function.name}"
        return None if type(node) in self.operators else type(node).__name__


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that a submodule would be in
        return False


def robust_label(query: Query) -> int | None:
    """The label, if the unsafe set is exactly "another class scores at least as high"; else None."""
    n_outputs, labels, rivals = query.prop.n_outputs, set(), set()
    for disjunct in query.prop.unsafe:
        if len(disjunct.constraints) != 1 or disjunct.box is not None:
            return None
        row = disjunct.constraints[0]
        if row.inputs or row.bound != 0 or row.strict or len(row.outputs) != 2:
            return None
        (first, low), (second, high) = row.outputs
        if low + high != 0:
            return None
        labels.add(first if low > 0 else second)
        rivals.add(second if low > 0 else first)
    return labels.pop() if len(labels) == 1 and len(rivals) == n_outputs - 1 else None

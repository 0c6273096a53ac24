"""What can be done with a model: which certifiers take it, which node stops the others, and what would help.

`verifkit supports MODEL` prints this before anything is asked. Nothing is proved here; the model is read, compared with
onnxruntime, imported a second time through onnx2torch, and laid beside every verifier's declared capabilities.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx

from verifkit.capabilities import Capabilities, Kind, Obstacle
from verifkit.errors import VerifkitError
from verifkit.functions import Abs, Clip, LeakyRelu, Relu, Sign
from verifkit.io.blackbox import compare_imports, torch_module
from verifkit.io.onnx import load_model
from verifkit.io.runtime import session
from verifkit.io.vnnlib import load_property
from verifkit.model import Model
from verifkit.network import Network
from verifkit.ops import Activation, Product
from verifkit.query import Query
from verifkit.registry import able, names, verifier_class

_PIECEWISE_LINEAR = (Abs, Clip, LeakyRelu, Relu, Sign)
_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class Tensor:
    """An input or output of the file. shape: numbers, or a name (or "?") where the file leaves an axis open."""

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Step:
    """Whether something worked, and how or why not."""

    ok: bool
    detail: str


@dataclass(frozen=True)
class Stop:
    """What a verifier has no rule for: the first node with it (ONNX name and operator), and how many have it."""

    node: str
    operator: str
    what: str
    count: int


@dataclass(frozen=True)
class Support:
    """One verifier and this model.

    kinds: the kind by norm, as declared. able: whether it can take the model. reason and advice: why not, and what
    would help; notes: what it must be asked, or cannot promise, where it can. stops: the nodes without a rule.
    """

    name: str
    able: bool
    kinds: Mapping[str, str]
    reason: str = ""
    advice: str = ""
    notes: tuple[str, ...] = ()
    stops: tuple[Stop, ...] = ()

    @property
    def certifies(self) -> bool:
        """Whether it can take the model and does more than look for violations."""
        return self.able and any(kind != Kind.FALSIFIER for kind in self.kinds.values())


@dataclass(frozen=True)
class SupportReport:
    """operators: how many nodes of each type. nonlinear_units: scalar ones, None without a lowered network. question:
    the certifiers that take the property asked about, as it is; None where none was named.
    """

    model: str
    digest: str
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: Mapping[str, int]
    nonlinear_units: int | None
    nonlinear: Mapping[str, int]
    lowering: Step
    torch_import: Step
    verifiers: tuple[Support, ...]
    question: tuple[str, ...] | None = None

    @property
    def any_able(self) -> bool:
        """Whether at least one certifier can take the model, and the property where one was named; methods that only
        look for violations do not count.
        """
        asked = self.question
        return any(v.certifies and (asked is None or v.name in asked) for v in self.verifiers)

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {**asdict(self), "any_able": self.any_able}

    def to_text(self) -> str:
        """Plain lines, nothing cut: facts about the model, then a line for each verifier, its exact name first."""
        rows = [("verifier", "takes it", "kind by norm", "why not, what would help, notes")]
        rows += [(v.name, "yes" if v.able else "no", _kinds_text(v.kinds), _remarks(v)) for v in self.verifiers]
        return "\n".join([*self._facts(), "", *columns(rows)])

    def _facts(self) -> list[str]:
        units = "unknown (no lowered network)" if self.nonlinear_units is None else str(self.nonlinear_units)
        if self.nonlinear:
            units += f" ({_counts_text(self.nonlinear)})"
        facts = [("model", self.model), ("sha256", self.digest), ("opset", str(self.opset))]
        facts += [("input", _tensor_text(t)) for t in self.inputs]
        facts += [("output", _tensor_text(t)) for t in self.outputs]
        facts += [
            ("operators", _counts_text(self.operators)),
            ("nonlinear units", units),
            ("lowering", _step_text(self.lowering)),
            ("torch import", _step_text(self.torch_import)),
        ]
        if self.question is not None:
            facts.append(("property", f"taken by {', '.join(self.question) or 'no installed verifier'}"))
        return [f"{key}: {value}" for key, value in facts]


def supports(path: str | os.PathLike[str], spec: str | os.PathLike[str] | None = None) -> SupportReport:
    """The report on a model file, and on the property in the file `spec` (then without the second import, which takes
    seconds and takes no part in most answers). Raises `ModelError` where the model cannot be
    read or run at all, `PropertyError` where the property cannot be read or is about another model.
    """
    model = load_model(path, require_network=False)
    question = None if spec is None else tuple(able(Query(model, load_property(spec))))
    assert model.onnx_bytes is not None
    proto = onnx.load_from_string(model.onnx_bytes)
    inputs, outputs = _ends(model)
    network = model.network
    return SupportReport(
        model=model.name,
        digest=model.digest,
        opset=max(int(o.version) for o in proto.opset_import if o.domain in _STANDARD),
        inputs=inputs,
        outputs=outputs,
        operators=dict(sorted(Counter(map(_operator, proto.graph.node)).items())),
        nonlinear_units=None if network is None else network.n_nonlinear(),
        nonlinear={} if network is None else _nonlinear(network),
        lowering=_lowering(model),
        torch_import=_torch_import(model) if spec is None else Step(False, "not tried where a property is named"),
        verifiers=_verifiers(model, proto),
        question=question,
    )


def _ends(model: Model) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The file's inputs and outputs, as onnxruntime sees them."""
    running = session(model.onnx_bytes or b"")

    def tensor(value: Any) -> Tensor:
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        return Tensor(value.name, kind, tuple("?" if d is None else d for d in value.shape))

    return tuple(map(tensor, running.get_inputs())), tuple(map(tensor, running.get_outputs()))


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in _STANDARD else f"{node.domain}.{node.op_type}"


def _nonlinear(network: Network) -> dict[str, int]:
    """How many scalar units of each activation or node kind."""
    found: Counter[str] = Counter()
    for node in network.nodes:
        what = node.function.name if isinstance(node, Activation) else type(node).__name__.lower()
        found[what] += int(np.prod(node.shape))
    return {what: n for what, n in sorted(found.items()) if what not in ("input", "affine")}


def _lowering(model: Model) -> Step:
    if model.network is not None:
        return Step(True, "the network computes what onnxruntime does")
    return Step(False, str(model.unsupported or "it is a black box without a graph"))


def _torch_import(model: Model) -> Step:
    try:
        imported = torch_module(model)
        share = compare_imports(model, imported)
    except VerifkitError as error:
        return Step(False, str(error))
    rows = "in batches" if imported.batched else "row by row"
    return Step(True, f"onnx2torch's import, run {rows}, differs from onnxruntime by {share:.2g} of what is allowed")


def _verifiers(model: Model, proto: onnx.ModelProto) -> tuple[Support, ...]:
    operators = {node.name or f"#{k}": _operator(node) for k, node in enumerate(proto.graph.node)}
    found = [_support(name, model, operators) for name in names()]
    able = [v for v in found if v.able]
    return tuple(v if v.able or v.advice else replace(v, advice=_advice(v, able)) for v in found)


def _support(name: str, model: Model, operators: Mapping[str, str]) -> Support:
    """One verifier's line, its advice still open where other verifiers are to be named."""
    broken = "mend or uninstall the package that registers it"
    try:
        capabilities = verifier_class(name).capabilities
    except VerifkitError as error:  # one broken plug-in takes nothing from the others
        return Support(name, False, {}, str(error), broken)
    if not isinstance(capabilities, Capabilities):
        return Support(name, False, {}, f"verifier '{name}' declares no Capabilities", broken)
    kinds = {str(norm): str(kind) for norm, kind in capabilities.kinds.items()}
    missing = capabilities.missing_modules()
    if missing:
        extras = ",".join(sorted({capabilities.modules[module] for module in missing}))
        reason = f"needs {', '.join(missing)}, not installed"
        return Support(name, False, kinds, reason, f"pip install 'verifkit[{extras}]'")
    reason = capabilities.model_refusal(model) or ""
    if not reason and capabilities.required:
        option, what = next(iter(capabilities.required.items()))
        return Support(name, False, kinds, f"needs the option '{option}'", what)
    if not reason:
        return Support(name, True, kinds, notes=_notes(capabilities, model))
    if model.network is not None:
        stops = _stops(list(capabilities.obstacles(model.network)), operators)
        reason = "; ".join(map(_stop_text, stops))
    elif model.unsupported is not None:
        stops = (Stop(model.unsupported.node, model.unsupported.operator, "lowering", 1),)
        reason = f"needs a lowered network, and node '{stops[0].node}' ({stops[0].operator}) cannot be lowered"
    else:
        stops = ()
    return Support(name, False, kinds, reason, stops=stops)


def _stops(obstacles: Sequence[Obstacle], operators: Mapping[str, str]) -> tuple[Stop, ...]:
    first: dict[str, Obstacle] = {}
    for obstacle in obstacles:
        first.setdefault(obstacle.what, obstacle)
    counts = Counter(obstacle.what for obstacle in obstacles)
    return tuple(Stop(o.node, _operators_of(o.node, operators), what, counts[what]) for what, o in first.items())


def _operators_of(node: str, operators: Mapping[str, str]) -> str:
    """The ONNX operators of the nodes that a network node came from, each once."""
    found = [operators[node]] if node in operators else [operators[n] for n in node.split(", ") if n in operators]
    return ", ".join(dict.fromkeys(found))


def _advice(support: Support, able: Sequence[Support]) -> str:
    """The verifiers that can take the model instead, for a norm in common where there is one.

    What only looks for violations is no substitute for what proves, nor an answer about a smoothed classifier for one
    about the network.
    """
    able = [v for v in able if _proves(v) or not _proves(support)]
    alike = [v for v in able if _smooths(support) or not _smooths(v)]
    sharing = [v.name for v in alike if set(v.kinds) & set(support.kinds)]
    if sharing:
        return f"ask {', '.join(sharing)} instead"
    others = "; ".join(
        f"{v.name} for {', '.join(f'l{norm}' for norm in v.kinds)}{'' if v in alike else ' (a smoothed classifier)'}"
        for v in able
    )
    no_rule = "no installed verifier of these norms takes the model: use other operators"
    return f"{no_rule}, or ask {others}" if others else no_rule


def _smooths(support: Support) -> bool:
    return Kind.PROBABILISTIC in support.kinds.values()


def _notes(capabilities: Capabilities, model: Model) -> tuple[str, ...]:
    notes = []
    if Kind.COMPLETE in capabilities.kinds.values() and model.network is not None:
        smooth = sorted(
            {n.function.name for _, n in model.network.activations() if not isinstance(n.function, _PIECEWISE_LINEAR)}
            | {"product" for n in model.network.nodes if isinstance(n, Product)}
        )
        if smooth:
            notes.append(f"complete on piecewise linear networks; this one has {', '.join(smooth)}")
    if capabilities.robustness_only:
        notes.append("can only be asked about robustness of a label")
    if not capabilities.coupling:
        notes.append("takes no constraints that mix inputs and outputs")
    return tuple(notes)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, each column as wide as its widest cell: nothing is cut."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _kinds_text(kinds: Mapping[str, str]) -> str:
    norms: dict[str, list[str]] = {}
    for norm, kind in kinds.items():
        norms.setdefault(kind, []).append(f"l{norm}")
    return "; ".join(f"{kind} ({', '.join(found)})" for kind, found in norms.items()) or "-"


def _remarks(support: Support) -> str:
    return "; ".join(part for part in (support.reason, support.advice, *support.notes) if part)


def _stop_text(stop: Stop) -> str:
    operator = f" ({stop.operator})" if stop.operator else ""
    more = f", and {stop.count - 1} more" if stop.count > 1 else ""
    return f"no rule for {stop.what} at node '{stop.node}'{operator}{more}"


def _step_text(step: Step) -> str:
    return f"{'yes' if step.ok else 'no'}: {step.detail}"


def _counts_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counts.items()) or "none"


def _tensor_text(tensor: Tensor) -> str:
    return f"{tensor.name} {tensor.type} [{', '.join(map(str, tensor.shape))}]"


def _proves(support: Support) -> bool:
    return any(kind != Kind.FALSIFIER for kind in support.kinds.values())

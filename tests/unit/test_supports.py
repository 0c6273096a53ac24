"""`verifkit supports`: what a model file holds, who can take it, what stops the others, and that nothing breaks it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verifkit import supports as reporting
from verifkit.capabilities import Capabilities, Kind, Obstacle, Paper
from verifkit.errors import MissingPackage, ModelError, VerifkitError
from verifkit.functions import Relu, Sigmoid
from verifkit.input_sets import Box
from verifkit.io.onnx import model_from_network
from verifkit.network import dense_network
from verifkit.ops import Max
from verifkit.properties import Property
from verifkit.query import Query
from verifkit.supports import Support, SupportReport, supports

PAPER = Paper("key", "Author", "Title", "Venue", 2024)
node = helper.make_node


def write(folder: Path, nodes: list[onnx.NodeProto], shape: tuple[int | str, ...] = (1, 4), **tensors: Any) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()],
    )
    file = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), file)
    return file


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def layers(*operators: str) -> list[onnx.NodeProto]:
    """MatMul, then the operators, named after their places."""
    names = ["x", *(f"t{k}" for k in range(len(operators))), "y"]
    made = [node("MatMul", ["x", "w"], [names[1]], "product")]
    return made + [node(op, [names[k + 1]], [names[k + 2]], f"{op}_{k}") for k, op in enumerate(operators)]


@pytest.fixture
def relu_report(tmp_path: Path) -> SupportReport:
    return supports(write(tmp_path, layers("Relu"), ("N", 4), w=weight(4, 3)))


def line_of(report: SupportReport, name: str) -> str:
    (line,) = [line for line in report.to_text().splitlines() if line.split(" ")[0] == name]
    return line


class TestReport:
    def test_facts(self, relu_report: SupportReport) -> None:
        facts = relu_report.to_text().split("\n\n")[0].splitlines()
        assert facts[0] == "model: model.onnx"
        assert facts[1] == f"sha256: {relu_report.digest}"
        assert facts[2:8] == [
            "opset: 14",
            "input: x float [N, 4]",
            "output: y float [N, 3]",
            "operators: 1 MatMul, 1 Relu",
            "nonlinear units: 3 (3 relu)",
            "lowering: yes: the network computes what onnxruntime does",
        ]
        assert facts[8].startswith(
            "torch import: yes: onnx2torch's import, run in batches, differs from onnxruntime by"
        )

    def test_json_is_plain(self, relu_report: SupportReport) -> None:
        values = json.loads(json.dumps(relu_report.to_json()))
        assert values["operators"] == {"MatMul": 1, "Relu": 1}
        assert values["any_able"] is True
        (milp,) = [v for v in values["verifiers"] if v["name"] == "milp"]
        assert (milp["able"], milp["kinds"]) == (True, {"inf": "complete", "1": "complete"})

    def test_every_registered_verifier_has_a_line(self, relu_report: SupportReport) -> None:
        assert [v.name for v in relu_report.verifiers] == reporting.names()
        for found in relu_report.verifiers:
            assert line_of(relu_report, found.name).split()[1] == ("yes" if found.able else "no")
        assert line_of(relu_report, "milp").split()[1:] == ["yes", "complete", "(linf,", "l1)"]

    def test_the_node_that_stops_and_who_to_ask(self, tmp_path: Path) -> None:
        report = supports(write(tmp_path, layers("Relu", "Sigmoid", "Sigmoid"), w=weight(4, 3)))
        milp = next(v for v in report.verifiers if v.name == "milp")
        (stop,) = milp.stops
        assert (stop.node, stop.operator, stop.what, stop.count) == ("Sigmoid_1", "Sigmoid", "activation sigmoid", 2)
        line = line_of(report, "milp")
        assert "no rule for activation sigmoid at node 'Sigmoid_1' (Sigmoid), and 1 more; ask " in line
        asked = line.split("ask ")[1].removesuffix(" instead").split(", ")
        able = {v.name for v in report.verifiers if v.able}
        assert {"interval", "crown"} <= set(asked) <= able - {"smoothing", "pixeldp"}  # those are of another subject
        auto = next(v for v in report.verifiers if v.name == "auto")
        assert auto.notes == ("complete on piecewise linear networks; this one has sigmoid",)

    def test_a_model_without_a_white_box(self, tmp_path: Path) -> None:
        nodes = [node("TopK", ["x", "k"], ["v", "i"], "best", axis=1), node("Relu", ["v"], ["y"])]
        report = supports(write(tmp_path, nodes, k=np.array([2])))
        assert not report.lowering.ok
        assert "node 'best' (TopK, opset 14) cannot be lowered" in report.to_text()
        assert report.nonlinear_units is None
        assert report.torch_import.ok
        assert report.any_able
        assert line_of(report, "smoothing").split()[1] == "yes"
        line = line_of(report, "milp")
        assert "needs a lowered network, and node 'best' (TopK) cannot be lowered" in line
        assert "or ask " in line
        assert "smoothing for l2" in line
        assert "(a smoothed classifier)" in line

    def test_a_model_that_neither_import_takes(self, tmp_path: Path) -> None:
        nodes = [node("Hardmax", ["x"], ["y"], "a-name-that-is-too-long-for-any-column" * 9)]
        report = supports(write(tmp_path, nodes))
        assert not report.lowering.ok
        assert not report.torch_import.ok
        assert "(Hardmax, opset 14): onnx2torch has no converter for this operator" in report.torch_import.detail
        assert report.to_text().count("a-name-that-is-too-long-for-any-column" * 9) >= 3
        assert report.any_able

    def test_several_inputs_and_outputs(self, tmp_path: Path) -> None:
        file = write(tmp_path, [node("Add", ["x", "z"], ["y"]), node("Relu", ["x"], ["u"])])
        made = onnx.load(file)
        made.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 4)))
        made.graph.output.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, (1, 4)))
        onnx.save(made, file)
        text = supports(file).to_text()
        assert all(
            line in text for line in ("input: x float [1, 4]", "input: z float [1, 4]", "output: u float [1, 4]")
        )


class TestNothingBreaksIt:
    def test_a_mistake_of_the_user(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="does not exist"):
            supports(tmp_path / "nothing.onnx")
        (tmp_path / "text.onnx").write_text("hello")
        with pytest.raises(ModelError, match="not a complete ONNX model"):
            supports(tmp_path / "text.onnx")

    def test_broken_plugins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real, known = reporting.verifier_class, reporting.names()

        class Undeclared:
            capabilities = "anything"

        def find(name: str) -> Any:
            if name == "broken":
                raise VerifkitError("verifier 'broken' (a.b:C) cannot be loaded: no")
            return Undeclared if name == "undeclared" else real(name)

        monkeypatch.setattr(reporting, "names", lambda: [*known, "broken", "undeclared"])
        monkeypatch.setattr(reporting, "verifier_class", find)
        report = supports(write(tmp_path, layers("Relu"), w=weight(4, 3)))
        assert "verifier 'broken' (a.b:C) cannot be loaded: no; mend or uninstall" in line_of(report, "broken")
        assert "declares no Capabilities" in line_of(report, "undeclared")
        assert line_of(report, "crown").split()[1] == "yes"

    def test_a_missing_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Needy:
            capabilities = Capabilities(
                kinds={"inf": Kind.COMPLETE}, paper=PAPER, modules={"no_such_package.part": "smt", "json": "conic"}
            )

        monkeypatch.setattr(reporting, "names", lambda: ["needy"])
        monkeypatch.setattr(reporting, "verifier_class", lambda name: Needy)
        report = supports(write(tmp_path, layers("Relu"), w=weight(4, 3)))
        line = line_of(report, "needy")
        assert line.endswith("needs no_such_package.part, not installed; pip install 'verifkit[smt]'")
        assert not report.any_able

    def test_without_torch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(model: Any) -> Any:
            raise MissingPackage("the import through torch needs the package 'torch', which is not installed")

        monkeypatch.setattr(reporting, "torch_module", missing)
        report = supports(write(tmp_path, layers("Relu"), w=weight(4, 3)))
        assert "torch import: no: the import through torch needs the package 'torch'" in report.to_text()
        assert report.any_able

    def test_falsifiers_alone_are_not_enough(self, relu_report: SupportReport) -> None:
        pgd = Support("pgd", True, {"inf": "falsifier"})
        assert not replace(relu_report, verifiers=(pgd,)).any_able
        assert replace(relu_report, verifiers=(pgd, Support("x", True, {"2": "probabilistic"}))).any_able
        assert not replace(relu_report, verifiers=(Support("x", False, {"2": "probabilistic"}),)).any_able


class TestCapabilities:
    def test_a_refusal_about_a_model_is_a_refusal_of_every_question(self) -> None:
        weights = [weight(3, 2), weight(3, 3), weight(2, 3)]
        network = dense_network(weights, [weight(3), weight(3), weight(2)], Sigmoid())
        model = model_from_network(network, "m")
        relu_only = Capabilities(kinds={"inf": Kind.COMPLETE}, paper=PAPER, activations=frozenset({Relu}))
        sentence = relu_only.model_refusal(model)
        assert sentence == "activation sigmoid (node 'act1') is not supported"
        query = Query(model, Property(Box((0, 0), (1, 1)), (), 2))
        assert relu_only.refusal(query) == sentence
        assert list(relu_only.obstacles(network)) == [
            Obstacle("act1", "activation sigmoid"),
            Obstacle("act2", "activation sigmoid"),
        ]
        able = Capabilities(kinds={"inf": Kind.INCOMPLETE}, paper=PAPER, activations=frozenset({Relu, Sigmoid}))
        assert able.model_refusal(model) is None
        caller = Capabilities(kinds={"inf": Kind.FALSIFIER}, paper=PAPER, operators=None)
        assert caller.model_refusal(replace(model, network=None)) is None
        assert not list(caller.obstacles(network))

    def test_a_black_box(self) -> None:
        model = replace(model_from_network(dense_network([weight(2, 2)], [weight(2)]), "m"), network=None)
        method = Capabilities(kinds={"inf": Kind.COMPLETE}, paper=PAPER, operators=frozenset({Max}))
        assert method.model_refusal(model) == "model 'm' is a black box without a graph"

    def test_submodules_of_missing_packages(self) -> None:
        method = Capabilities(
            kinds={}, paper=PAPER, modules={"no_such.part": "smt", "json.decoder": "smt", "nope": "smt"}
        )
        assert method.missing_modules() == ["no_such.part", "nope"]

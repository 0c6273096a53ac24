"""The import through onnx2torch: it agrees with onnxruntime or refuses in one sentence, and it has gradients."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.onnx_cases import all_cases
from verifkit.analysis.gradient import pull_back
from verifkit.errors import MissingPackage, ModelError
from verifkit.io import blackbox
from verifkit.io.blackbox import NotImported, compare_imports, gradient, torch_module
from verifkit.io.onnx import model_from_bytes, model_from_network
from verifkit.io.torch_import import convert as converting
from verifkit.io.torch_import import prepare as preparing
from verifkit.model import Model, digest_of
from verifkit.network import dense_network

pytestmark = pytest.mark.skipif(find_spec("onnx2torch") is None, reason="the extra 'torch' is not installed")

F32 = np.float32
RNG = np.random.default_rng(20240601)
Node = onnx.NodeProto
node = helper.make_node


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(F32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def proto(
    nodes: list[Node],
    shape: tuple[int | str, ...] = (1, 4),
    tensors: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 13,
    kind: int = TensorProto.FLOAT,
    outputs: tuple[str, ...] = ("y",),
    inputs: list[onnx.ValueInfoProto] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)] if inputs is None else inputs,
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (tensors or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def model(*arguments: Any, **named: Any) -> Model:
    return model_from_bytes(proto(*arguments, **named).SerializeToString(), "m", require_network=False)


class TestImporting:
    """What the process notices of it."""

    def test_torch_is_not_imported_with_the_module(self) -> None:
        code = "import sys, verifkit.io.blackbox, verifkit.supports; print({'torch', 'onnx2torch'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"

    def test_state_of_torch_is_untouched(self) -> None:
        import torch

        torch_module(model([node("Relu", ["x"], ["y"])]))  # whatever the first import does is done
        registry = import_module("onnx2torch.node_converters.registry")
        before = (torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
        converters = dict(registry._CONVERTER_REGISTRY)
        weights = {"w": normal(4, 3), "b": normal(3)}
        torch_module(model([node("Gemm", ["x", "w", "b"], ["y"])], (1, 4), weights))  # makes a layer of random weights
        after = (torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]
        assert converters == registry._CONVERTER_REGISTRY

    def test_torchvision_without_its_compiled_half(self) -> None:
        """Somebody else may have declared the operators that it misses."""
        code = (
            "import torch\n"
            "try:\n"
            "    import torchvision\n"
            "except RuntimeError:\n"
            "    library = torch.library.Library('torchvision', 'FRAGMENT')\n"
            "    for op in ('nms', 'qnms'):\n"
            "        library.define(op + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
            "from verifkit.io.torch_import.convert import has_converter\n"
            "print(has_converter('Relu', 13), has_converter('LSTM', 13))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["True", "False"]

    @pytest.mark.parametrize("missing", ["torch", "torchvision", "onnx2torch"])
    def test_missing_package(self, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
        converting._packages.cache_clear()
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(MissingPackage, match=rf"'{missing}'.*pip install 'verifkit\[torch\]'"):
            torch_module(model([node("Relu", ["x"], ["y"])]))

    def test_a_model_without_onnx_bytes(self) -> None:
        plain = Model("f", (2,), (2,), lambda x: x, digest_of(b""))
        with pytest.raises(ModelError, match="'f' has no ONNX bytes"):
            torch_module(plain)


REFUSED = {
    "Conv": "its weights are computed from the input",
    "ConvTranspose": "its weights are computed from the input",
    "Resize": "a kept aspect ratio is not restated",
}
"""Operators of which some cases cannot be imported, and what the sentence says then."""


def agrees(data: bytes) -> str | None:
    """None where the import agrees with onnxruntime, the sentence where it is refused."""
    try:
        compare_imports(model_from_bytes(data, "m", require_network=False))
    except ModelError as error:
        return str(error)
    return None


def check_cases(step: int) -> None:
    strange = []
    for name, data in all_cases(step):
        sentence = agrees(data)
        if sentence is not None and REFUSED.get(name.split("/")[0], "?") not in sentence:
            strange.append(f"{name}: {sentence}")
    assert not strange, "\n".join(strange)


class TestEveryOperator:
    """All that the lowering knows, through the generator of its own tests."""

    def test_some_cases_of_each(self) -> None:
        check_cases(100)

    @pytest.mark.slow
    @pytest.mark.timeout(1800)
    def test_every_case(self) -> None:
        check_cases(1)


def ends_in(operator: str, *inputs: str, **attributes: Any) -> list[Node]:
    return [node(operator, inputs, ["y"], "tested", **attributes)]


BEYOND: dict[str, tuple[list[Node], tuple[int, ...], dict[str, np.ndarray], tuple[int, ...]]] = {
    "Floor": (ends_in("Floor", "x"), (1, 4), {}, (7, 13)),
    "Round": (ends_in("Round", "x"), (1, 4), {}, (11, 22)),
    "Atan": (ends_in("Atan", "x"), (1, 4), {}, (7, 22)),
    "Mod": (ends_in("Mod", "x", "c", fmod=1), (1, 4), {"c": F32([0.7])}, (10, 13, 28)),
    "LRN": (ends_in("LRN", "x", size=3, alpha=0.1), (1, 5, 3, 3), {}, (7, 13)),
    "Einsum": (ends_in("Einsum", "x", "w", equation="bij,jk->bik"), (1, 3, 4), {"w": normal(4, 2)}, (12, 28)),
    "ScatterND": (ends_in("ScatterND", "w", "i", "x"), (1, 2), {"w": normal(3, 2), "i": ints(1)[:, None]}, (11, 18)),
    "ScatterElements": (
        ends_in("ScatterElements", "w", "i", "x", axis=1), (1, 2), {"w": normal(1, 4), "i": ints(-1, 1)[None]}, (11, 18)
    ),
    "LessOrEqual": (
        [node("LessOrEqual", ["x", "c"], ["less"]), *ends_in("Where", "less", "x", "z")],
        (1, 4), {"c": F32(0.1), "z": F32(2)}, (12, 16, 22),
    ),
    "And": (
        [node("Greater", ["x", "c"], ["more"]), node("Less", ["x", "z"], ["less"]),
         node("And", ["more", "less"], ["both"]), node("Not", ["both"], ["n"]), *ends_in("Cast", "n", to=1)],
        (1, 4), {"c": F32(0.1), "z": F32(2)}, (9, 13, 22),
    ),
    "ArgMax": ([node("ArgMax", ["x"], ["i"], axis=1), *ends_in("Cast", "i", to=1)], (1, 4), {}, (7, 12, 13)),
    "TopK": ([node("TopK", ["x", "k"], ["v", "i"], axis=1), *ends_in("Relu", "v")], (1, 5), {"k": ints(2)}, (10, 24)),
}  # fmt: skip


class TestBeyondTheLowering:
    """What a model without a white box may hold."""

    @pytest.mark.parametrize("name", BEYOND)
    def test_agrees(self, name: str) -> None:
        nodes, shape, tensors, opsets = BEYOND[name]
        for opset in opsets:
            assert agrees(proto(nodes, shape, tensors, opset=opset).SerializeToString()) is None

    @pytest.mark.parametrize(
        ("nodes", "shape", "tensors", "opset", "sentence"),
        [
            (ends_in("Hardmax", "x"), (1, 4), {}, 13, r"node 'tested' \(Hardmax, opset 13\): onnx2torch has no conv"),
            (ends_in("Asinh", "x"), (1, 4), {}, 9, r"node 'tested' \(Asinh, opset 9\): onnx2torch has no converter"),
            (ends_in("LSTM", "x", "w", "r", hidden_size=2), (1, 1, 3), {"w": normal(1, 8, 3), "r": normal(1, 8, 2)}, 14,
             r"node 'tested' \(LSTM, opset 14\)"),
            ([node("RandomNormalLike", ["x"], ["n"], "noise"), *ends_in("Add", "x", "n")], (1, 4), {}, 13,
             r"node 'noise' \(RandomNormalLike, opset 13\): what it computes is random"),
            ([node("Abs", ["x"], ["a"]), node("Cast", ["a"], ["s"], to=7), node("Reshape", ["s", "f"], ["k"]),
              node("Slice", ["x", "k", "e", "l"], ["p"], "part"), *ends_in("ReduceSum", "p")], (1, 1),
             {"f": ints(1), "e": ints(9), "l": ints(1)}, 13, r"node 'part' \(Slice, opset 13\): an operand that sets"),
            ([node("MaxPool", ["x"], ["m", "i"], "tested", kernel_shape=[2]), node("Cast", ["i"], ["c"], to=1),
              node("Add", ["m", "c"], ["y"])], (1, 1, 4), {}, 13, r"node 'tested' \(MaxPool, opset 13\)"),
            (ends_in("Resize", "x", "", "s", mode="cubic"), (1, 1, 3, 3), {"s": F32([1, 1, 2, 2])}, 13,
             r"node 'tested' \(Resize, opset 13\): resizing by mode 'cubic'"),
            (ends_in("Dropout", "x", "r", "t"), (1, 4), {"r": F32(0.0), "t": np.array(True)}, 13,
             "it is in training mode"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )  # fmt: skip
    def test_refused_by_name(
        self, nodes: list[Node], shape: tuple[int, ...], tensors: dict[str, np.ndarray], opset: int, sentence: str
    ) -> None:
        loaded = model(nodes, shape, tensors, opset=opset)
        with pytest.raises(NotImported, match=sentence) as caught:
            torch_module(loaded)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        assert np.isfinite(loaded(np.full((2, loaded.n_inputs), 0.5))).all()  # it can still be called

    def test_an_operator_of_another_domain(self) -> None:
        made = proto(ends_in("Gelu", "x"))
        made.graph.node[0].domain = "com.microsoft"
        made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        loaded = model_from_bytes(made.SerializeToString(), "m", require_network=False)
        with pytest.raises(NotImported, match=r"node 'tested' \(com.microsoft.Gelu, opset 13\)"):
            torch_module(loaded)


class TestMistakesAreCaught:
    """What onnx2torch converts wrongly by itself never passes for right."""

    WRONG: dict[str, tuple[list[Node], tuple[int, ...], dict[str, np.ndarray]]] = {  # noqa: RUF012
        "CumSum": (ends_in("CumSum", "x", "a"), (1, 4), {"a": ints(1)}),
        "PRelu": (ends_in("PRelu", "x", "s"), (1, 3, 3, 3), {"s": F32([0.1, 0.5, 0.9])}),
        "ReduceMax": (ends_in("ReduceMax", "x", axes=[-2, -1], keepdims=0), (1, 2, 4, 2), {}),
    }

    @pytest.mark.parametrize("operator", WRONG)
    def test_without_its_rule(self, operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded = model(*self.WRONG[operator])
        assert compare_imports(loaded) <= 1
        others = {op: rule for op, rule in preparing.RULES.items() if op != operator}
        monkeypatch.setattr(preparing, "RULES", others)
        with pytest.raises(ModelError, match=rf"model 'm'.*node 'tested' \({operator}, opset 13\)"):
            compare_imports(loaded)

    def test_a_weight_that_differs(self) -> None:
        import torch

        tensors = {"w": normal(4, 4), "v": normal(4, 3)}
        nodes = [node("MatMul", ["x", "w"], ["h"], "first"), node("Relu", ["h"], ["r"], "relu"),
                 node("Gemm", ["r", "v"], ["y"], "second")]  # fmt: skip
        loaded = model(nodes, (1, 4), tensors)
        imported = torch_module(loaded)
        assert compare_imports(loaded, imported) <= 1
        with torch.no_grad():
            for parameter in imported.module.parameters():
                parameter *= 1.001
        with pytest.raises(ModelError, match=r"differs by .*first difference is at node 'second' \(Gemm, opset 13\)"):
            compare_imports(loaded, imported)

    def test_an_undefined_value_must_be_undefined_in_both(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded = model(ends_in("Log", "x"), (1, 2))
        imported = torch_module(loaded)
        assert compare_imports(loaded, imported) <= 1
        other = torch_module(model([node("Abs", ["x"], ["a"]), *ends_in("Log", "a")], (1, 2)))
        with pytest.raises(ModelError, match="does not compute what onnxruntime does"):
            compare_imports(loaded, other)


class TestForms:
    """Files that say the same in another way."""

    def test_weights_listed_as_inputs_and_names_of_any_kind(self) -> None:
        names = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (1, 4)), ("n0", (4, 3)))]
        nodes = [node("MatMul", ["x", "n0"], ["t.1"], "initializers"), node("Relu", ["t.1"], ["a/b"], "a.b"),
                 node("Neg", ["a/b"], ["y"], "a/b")]  # fmt: skip
        made = proto(nodes, tensors={"n0": normal(4, 3)}, inputs=names)
        assert agrees(made.SerializeToString()) is None

    def test_a_dynamic_batch_and_a_fixed_one(self) -> None:
        import torch

        tensors, x = {"w": normal(4, 3), "s": ints(1, 3)}, normal(5, 4)
        open_batch = torch_module(model(ends_in("MatMul", "x", "w"), ("N", 4), tensors))
        fixed = torch_module(model([node("MatMul", ["x", "w"], ["h"]), *ends_in("Reshape", "h", "s")], (1, 4), tensors))
        for imported in (open_batch, fixed):
            assert imported.batched
            y = imported(torch.from_numpy(x[:, None])).numpy()
            assert y.shape == (5, 1, 3)
            np.testing.assert_allclose(y[:, 0], x @ tensors["w"], rtol=1e-5, atol=1e-6)
            assert imported(torch.zeros((0, 1, 4))).shape == (0, 1, 3)

    def test_several_inputs_and_outputs_are_one_flat_vector_each(self) -> None:
        import torch

        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("a", (1, 2)), ("b", (1, 3)))]
        nodes = [node("Concat", ["b", "a"], ["c"], axis=1), node("Relu", ["c"], ["y"]), node("Exp", ["a"], ["z"])]
        loaded = model(nodes, inputs=ends, outputs=("y", "z"))
        assert compare_imports(loaded) <= 1
        x = normal(3, 5)
        expected = np.concatenate([np.maximum(x[:, 2:], 0), np.maximum(x[:, :2], 0), np.exp(x[:, :2])], axis=1)
        np.testing.assert_allclose(torch_module(loaded)(torch.from_numpy(x)).numpy(), expected, rtol=1e-6)

    def test_several_outputs_of_one_node(self) -> None:
        nodes = [node("Split", ["x"], ["b", "a"], axis=1)]
        assert agrees(proto(nodes, outputs=("a", "b")).SerializeToString()) is None

    def test_double_precision(self) -> None:
        loaded = model(ends_in("Tanh", "x"), (1, 4), kind=TensorProto.DOUBLE)
        assert torch_module(loaded).dtype is np.float64
        assert compare_imports(loaded) <= 1

    def test_an_old_opset(self) -> None:
        nodes = [node("Dropout", ["x"], ["d"], ratio=0.3), node("Flatten", ["d"], ["f"]), *ends_in("Softmax", "f")]
        assert agrees(proto(nodes, (1, 2, 2), opset=7).SerializeToString()) is None

    def test_local_functions(self) -> None:
        made = proto([node("Twice", ["x"], ["y"], "call", domain="own")])
        body = [node("Add", ["v", "v"], ["w"])]
        made.functions.append(helper.make_function("own", "Twice", ["v"], ["w"], body, [helper.make_opsetid("", 13)]))
        made.opset_import.append(helper.make_opsetid("own", 1))
        prepared = preparing.prepare(made, "m", converting.has_converter)
        assert [n.op_type for n in prepared.proto.graph.node] == ["Add", "Identity"]


class TestGradient:
    def test_is_the_networks_own(self) -> None:
        network = dense_network([normal(6, 4), normal(3, 6)], [normal(6), normal(3)])
        loaded = model_from_network(network, "dense")
        x, rows = normal(7, 4), normal(7, 3)
        exact = x.astype(np.float64)
        expected = pull_back(network, network.values(exact), rows.astype(np.float64))
        found = gradient(loaded, x, rows)
        assert (found.shape, found.dtype) == (x.shape, np.float32)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        again = gradient(torch_module(loaded), x, rows)
        np.testing.assert_array_equal(found, again)

    def test_of_a_model_without_a_network(self) -> None:
        """Along two directions, against differences of onnxruntime's values in double precision."""
        nodes = [node("TopK", ["x", "k"], ["v", "i"], axis=1), node("Exp", ["v"], ["e"]), *ends_in("MatMul", "e", "w")]
        tensors = {"k": ints(2), "w": RNG.standard_normal((2, 3))}
        loaded = model(nodes, (1, 5), tensors, kind=TensorProto.DOUBLE)
        assert loaded.network is None
        x, rows = RNG.standard_normal((4, 5)), RNG.standard_normal((4, 3))
        found = gradient(loaded, x, rows)
        for seed in (1, 2):
            way = 1e-6 * np.random.default_rng(seed).standard_normal(x.shape)
            change = ((loaded(x + way) - loaded(x - way)) * rows).sum(axis=1)
            np.testing.assert_allclose((2 * way * found).sum(axis=1), change, rtol=1e-5, atol=1e-10)

    def test_is_zero_where_nothing_is_differentiable(self) -> None:
        loaded = model([node("ArgMax", ["x"], ["i"], axis=1), *ends_in("Cast", "i", to=1)])
        np.testing.assert_array_equal(gradient(loaded, normal(3, 4), np.ones((3, 1))), np.zeros((3, 4)))

    def test_callers_settings_do_not_matter(self) -> None:
        import torch

        loaded = model(ends_in("Sigmoid", "x"))
        with torch.no_grad():
            assert (gradient(loaded, normal(2, 4), np.ones((2, 4))) > 0).all()


def test_names_are_public() -> None:
    assert {"compare_imports", "gradient", "torch_module"} <= set(blackbox.__all__)

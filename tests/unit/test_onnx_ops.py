"""Every lowering rule against onnxruntime: each accepted combination of attributes, alone and in a residual block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from tests.unit.onnx_cases import CASES, all_cases
from tests.unit.onnx_cases.case import F32, Case, f32, ints, node, opsets
from verifkit.errors import ModelError, UnsupportedOperator
from verifkit.functions import Clip, Relu
from verifkit.io.lowering.table import RULES
from verifkit.io.onnx import model_from_bytes
from verifkit.maps import Adjoint, Sum
from verifkit.network import Network
from verifkit.ops import Activation, Affine, Max, Product
from verifkit.weighted_maps import Conv

IMAGE = (1, 2, 5, 5)


def test_every_rule_is_generated_at_least_twenty_times() -> None:
    assert set(CASES) == set(RULES)
    assert {op: len(cases) for op, cases in CASES.items() if len(cases) < 20} == {}


def test_every_attribute_of_a_rule_is_given_in_some_case() -> None:
    """Those missing here are refused unless they are left out or say nothing."""
    refused = {("BatchNormalization", "spatial"), ("Cast", "round_mode"), ("CastLike", "round_mode"),
               ("CastLike", "saturate")}  # fmt: skip
    for op, rule in RULES.items():
        if op in ("Constant", "Shape"):
            continue  # the node under test reads what they make
        given = {name for case in CASES[op] for name in case.attributes}
        assert {(op, name) for name in set(rule.attributes) - given} <= refused


def agree(cases: Sequence[Case], *, residual: bool) -> None:
    for number, case in enumerate(cases):
        data = case.build(residual=residual)
        try:
            model = model_from_bytes(data, str(case))
        except Exception as error:
            raise AssertionError(f"case {number}: {case} {case.attributes}") from error
        x = np.random.default_rng(number).standard_normal((3, *case.shape)).astype(model.dtype)
        expected = model.call(x)
        assert model.network is not None
        assert model.network.output_shape == model.output_shape == expected.shape[1:], case
        tolerance = 1e-5 if expected.dtype == model.dtype == F32 else 1e-13 if model.dtype is np.float64 else 1e-6
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        np.testing.assert_allclose(
            model.network.evaluate(x), expected, rtol=0, atol=tolerance * scale, err_msg=str(case)
        )


@pytest.mark.parametrize("op", CASES)
def test_agrees_with_onnxruntime_alone(op: str) -> None:
    agree(CASES[op], residual=False)


@pytest.mark.parametrize("op", CASES)
def test_agrees_with_onnxruntime_in_a_residual_block(op: str) -> None:
    """Some twenty to forty cases of every operator; all of them below."""
    agree(CASES[op][:: max(1, len(CASES[op]) // 20)], residual=True)


@pytest.mark.slow
@pytest.mark.parametrize("op", CASES)
def test_every_case_agrees_with_onnxruntime_in_a_residual_block(op: str) -> None:
    agree(CASES[op], residual=True)


HELD = ("Swish", "Upsample", "Size")
"""Withdrawn after some opset, run by onnxruntime in one only, or tested with nodes that need a newer one."""


def versions_not_generated(op: str) -> list[int]:
    """Opsets in which the operator's definition changed and that no case of it stands for."""
    seen = {case.opset for case in CASES[op] if case.op == op}
    changed = opsets(op, 25)
    ends = [*changed[1:], 29]
    return [v for v, end in zip(changed, ends, strict=True) if not seen & set(range(v, end))]


@pytest.mark.parametrize("op", [op for op in CASES if op not in HELD and versions_not_generated(op)])
def test_other_versions_of_the_operator(op: str) -> None:
    """Some case that the opset allows agrees there, too."""
    for version in versions_not_generated(op):
        moved = [replace(case, opset=version) for case in CASES[op][:: max(1, len(CASES[op]) // 12)]]
        allowed = [case for case in moved if runs(case)]
        assert allowed, version
        agree(allowed, residual=False)


def runs(case: Case) -> bool:
    """Whether the opset allows the case, as we and onnxruntime read it."""
    try:
        model_from_bytes(case.build(residual=False), "m")
    except ModelError as error:
        if isinstance(error, UnsupportedOperator) or "onnxruntime cannot run" in str(error):
            return False
        raise
    return True


def test_all_cases_are_models_with_names_of_their_own() -> None:
    made = list(all_cases(step=50))
    assert len({name for name, _ in made}) == len(made) >= 2 * len(RULES)
    assert {name.split("/")[0] for name, _ in made} == set(RULES)
    again = list(all_cases(step=50))
    assert made == again  # the weights too


def network_of(case: Case) -> Network:
    network = model_from_bytes(case.build(residual=False), "m").network
    assert network is not None
    return network


def nodes_of(case: Case) -> Sequence[Any]:
    return network_of(case).nodes


def test_bias_is_fused_and_division_stays_exact() -> None:
    _, affine = nodes_of(Case("Add", (1, 2), ("v", "c"), tensors={"w": f32(2, 2), "c": f32(2)},
                              before=(node("MatMul", ["h", "w"], ["v"], name="product"),)))  # fmt: skip
    assert isinstance(affine, Affine)
    assert affine.origin == ("product", "tested")
    assert affine.bias is not None
    _, first, second = nodes_of(Case("AveragePool", IMAGE, attributes={"kernel_shape": [3, 3]}))
    assert set(np.unique(first.maps[0].weight)) == {1.0}
    assert second.maps[0].divide
    assert set(np.unique(second.maps[0].factor)) == {9.0}


def test_a_product_that_others_read_keeps_its_own_node() -> None:
    made = (node("MatMul", ["h", "w"], ["v"]), node("Add", ["v", "c"], ["u"]))
    nodes = nodes_of(Case("Add", (1, 2), ("u", "v"), tensors={"w": f32(2, 2), "c": f32(2)}, before=made))
    assert [n.name for n in nodes] == ["x", "v", "u", "z"]
    assert nodes[3].parents == (2, 1)


def test_the_shared_bias_is_not_rounded_twice() -> None:
    tensors = {"c": np.array([1e-9], dtype=F32), "d": np.array([1.0], dtype=F32)}
    nodes = nodes_of(Case("Add", (1,), ("v", "d"), tensors=tensors, before=(node("Add", ["h", "c"], ["v"]),)))
    assert [float(n.bias[0]) for n in nodes[1:]] == [float(F32(1e-9)), 1.0]


def test_a_value_has_the_name_of_its_tensor_whatever_the_rule_made_on_the_way() -> None:
    for case in (
        Case("Softmax", (2, 3)),
        Case("MatMul", (2, 3, 2), ("w", "h"), tensors={"w": f32(2, 4, 3)}),
        Case("Gelu", (1, 3), opset=20),
        Case("ReduceMin", (2, 3)),
        Case("HardSwish", (3,), opset=14),
    ):
        nodes = nodes_of(replace(case, outputs=("v",), after=(node("Tanh", ["v"], ["y"]),)))
        assert [n.name for n in nodes[-2:]] == ["v", "z"]
        assert all(n.origin == ("tested",) for n in nodes[1:-1])


def test_what_is_relu_is_lowered_to_relu() -> None:
    """Methods that know no other function can then decide these networks."""
    zero = {"c": np.zeros((), dtype=F32)}
    for case in (Case("Max", (1, 2), ("h", "c"), tensors=zero), Case("Clip", (1, 2), ("h", "c"), tensors=zero),
                 Case("Clip", (1, 2), attributes={"min": 0.0}, opset=7),
                 Case("LeakyRelu", (2,), attributes={"alpha": 0.0}),
                 Case("ThresholdedRelu", (2,), attributes={"alpha": 0.0})):  # fmt: skip
        _, unit = nodes_of(case)
        assert isinstance(unit, Activation)
        assert isinstance(unit.function, Relu)


def test_the_largest_float_is_no_bound() -> None:
    most = float(np.finfo(F32).max)
    _, unit = nodes_of(Case("Clip", (1, 2), attributes={"min": -most, "max": 2.0}, opset=7))
    assert isinstance(unit.function, Clip)
    assert (float(unit.function.low), float(unit.function.high)) == (-np.inf, 2.0)
    assert len(nodes_of(Case("Clip", (1, 2)))) == 2  # no bound at all: the input itself


def test_convolutions_stay_convolutions() -> None:
    network = network_of(Case("ConvTranspose", (1, 2, 4, 4), ("h", "w"), {"strides": [2, 2]}, {"w": f32(2, 3, 2, 2)}))
    (linear,) = network.nodes[1].maps  # type: ignore[attr-defined]
    assert isinstance(linear, Adjoint)
    assert isinstance(linear.of, Conv)
    _, total, mean = nodes_of(Case("GlobalAveragePool", IMAGE))
    assert isinstance(total.maps[0], Sum)
    assert mean.maps[0].divide
    assert set(np.unique(mean.maps[0].factor)) == {25.0}


def test_softmax_has_no_product_and_does_not_overflow() -> None:
    network = network_of(Case("Softmax", (1, 3)))
    assert not any(isinstance(n, Product | Max) for n in network.nodes)
    with np.errstate(over="ignore"):
        y = network.evaluate(np.array([[1000.0, 0.0, -1000.0]]))
    np.testing.assert_array_equal(y, [[1.0, 0.0, 0.0]])


def test_batch_normalisation_rounds_its_root_only() -> None:
    values = {"s": np.array([1.5], dtype=F32), "b": np.array([0.1], dtype=F32), "m": np.array([0.3], dtype=F32),
              "v": np.array([0.7], dtype=F32)}  # fmt: skip
    _, scaled, moved = nodes_of(Case("BatchNormalization", (1, 1, 2), ("h", "s", "b", "m", "v"), {}, values))
    assert set(scaled.maps[0].factor.reshape(-1)) == {1.5}
    assert set(scaled.bias.reshape(-1)) == {-1.5 * float(F32(0.3))}
    assert moved.maps[0].divide
    root = np.sqrt(np.longdouble(F32(0.7)) + np.longdouble(F32(1e-5)))
    assert set(moved.maps[0].factor.reshape(-1)) == {float(root)}
    assert set(moved.bias.reshape(-1)) == {float(F32(0.1))}


def test_powers_that_are_no_function_of_their_own() -> None:
    ones = Case("Pow", (1, 3), ("h", "e"), tensors={"e": np.array(0.0, dtype=F32)}, outputs=("one",),
                after=(node("Add", ["h", "one"], ["y"]),))  # fmt: skip
    x = np.array([[1.0, 0.0, -2.0]])
    np.testing.assert_array_equal(network_of(ones).evaluate(x), x + 1)
    softmax = Case("Softmax", (3, 1), outputs=("one",), after=(node("Sub", ["h", "one"], ["y"]),))
    np.testing.assert_array_equal(network_of(softmax).evaluate(x.T), x.T - 1)


def test_a_cast_to_double_keeps_the_network() -> None:
    case = Case("Cast", (1, 3), attributes={"to": TensorProto.DOUBLE}, outputs=("d",),
                after=(node("Mul", ["d", "c"], ["y"]),), tensors={"c": np.array(0.1)})  # fmt: skip
    _, scaled = nodes_of(case)
    assert set(scaled.maps[0].factor.reshape(-1)) == {0.1}


def test_masked_infinities_take_no_part() -> None:
    mask = {"m": np.array([True, False]), "c": np.array([np.inf, 3.0], dtype=F32)}
    np.testing.assert_array_equal(
        network_of(Case("Where", (1, 2), ("m", "h", "c"), tensors=mask)).evaluate(np.array([[5.0, 7.0]])), [[5.0, 3.0]]
    )
    assert ints(1).dtype == np.int64

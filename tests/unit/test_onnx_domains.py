"""The comparison on load where a function has no value everywhere, or leaves float32."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verifkit.errors import ModelError
from verifkit.functions import Abs, Exp, Log, Reciprocal, ScalarFunction, Sqrt
from verifkit.input_sets import Box
from verifkit.io.compare import check_defined, compare, further_probes, probes
from verifkit.io.onnx import model_from_bytes
from verifkit.network import Network
from verifkit.ops import Activation, Input

F32 = np.float32


def build(nodes: list[onnx.NodeProto], n: int = 2, **tensors: float) -> bytes:
    held = [numpy_helper.from_array(np.array(v, dtype=F32), k) for k, v in tensors.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, n))],
                              [helper.make_empty_tensor_value_info("y")], held)  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


def node(op: str, *inputs: str, to: str = "y") -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [to])


def unit(function: ScalarFunction, n: int = 2) -> Network:
    source = Input(shape=(1, n), name="x")
    return Network((source, Activation(shape=(1, n), parents=(0,), function=function, name="y")))


def box(low: float, high: float, n: int = 2) -> Box:
    return Box((Fraction(low),) * n, (Fraction(high),) * n)


@pytest.mark.parametrize("op", ["Log", "Sqrt", "Reciprocal"])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_no_value_at_some_probes_is_no_reason_to_refuse(op: str, n: int) -> None:
    model = model_from_bytes(build([node(op, "x")], n), "m")
    assert model.network is not None
    x = np.random.default_rng(0).uniform(0.1, 3, (4, n))
    np.testing.assert_allclose(model(x), model.network.evaluate(x[:, None])[:, 0], rtol=1e-5, atol=1e-6)


def test_a_box_must_lie_where_the_model_has_a_value() -> None:
    data = build([node("Log", "x")])
    assert model_from_bytes(data, "m", box=box(0.5, 2)).network is not None
    for low, high in ((-1, 1), (-2, -1), (0, 1)):
        with pytest.raises(ModelError, match=r"infinite or NaN for inputs of the property's input set: make that set"):
            model_from_bytes(data, "m", box=box(low, high))


def test_too_few_finite_probes() -> None:
    # log(x - 20): a box says where that is defined; without one nothing was compared.
    data = build([node("Sub", "x", "c", to="v"), node("Log", "v")], c=20.0)
    with pytest.raises(ModelError, match=r"infinite or NaN for all but 0 of 26 inputs .* where its inputs lie"):
        model_from_bytes(data, "m")
    assert model_from_bytes(data, "m", box=box(21, 30)).network is not None
    y = np.full((25, 1, 2), np.nan)
    y[:7] = 1.0
    with pytest.raises(ModelError, match="all but 7 of 25"):
        check_defined(np.zeros((25, 1, 2), dtype=F32), y, None, "m", "y")
    y[7] = 1.0
    check_defined(np.zeros((25, 1, 2), dtype=F32), y, None, "m", "y")


def test_overflow_is_no_domain() -> None:
    """In real arithmetic there is a value: the model is broken, as it is without such a function."""
    data = build([node("Mul", "x", "c", to="v"), node("Mul", "v", "c")], c=1e19)
    with pytest.raises(ModelError, match="infinite or NaN for some small inputs: the model is broken"):
        model_from_bytes(data, "m")


def test_what_is_not_finite_must_be_the_same_on_both_sides() -> None:
    x = np.concatenate([probes((1, 2), F32, None, "m"), further_probes((1, 2), F32, None)])
    with np.errstate(all="ignore"):
        roots, logs, inverses = np.sqrt(x), np.log(x), 1 / x
    compare(unit(Sqrt()), x, roots, "m", "y")
    compare(unit(Log()), x, logs, "m", "y")
    compare(unit(Reciprocal()), x, inverses, "m", "y")
    with pytest.raises(ModelError, match="infinite or NaN for some small inputs"):
        compare(unit(Abs()), x, roots, "m", "y")  # NaN where the network has a value
    with pytest.raises(ModelError, match="differs by up to inf"):
        compare(unit(Sqrt()), x, np.where(np.isnan(roots), F32(0), roots), "m", "y")  # a value where it has none
    with pytest.raises(ModelError, match="or the other way round"):
        compare(unit(Log()), x, np.where(np.isinf(logs), F32(np.nan), logs), "m", "y")
    with pytest.raises(ModelError, match="or the other way round"):
        compare(unit(Log()), x, np.where(np.isinf(logs), F32(np.inf), logs), "m", "y")
    with pytest.raises(ModelError, match="or the other way round"):
        compare(unit(Log()), x, np.where(np.isnan(logs), F32(-np.inf), logs), "m", "y")


def test_a_wrong_entry_beside_undefined_ones_is_caught() -> None:
    x = np.concatenate([probes((1, 2), F32, None, "m"), further_probes((1, 2), F32, None)])
    with np.errstate(all="ignore"):
        y = np.log(x)
    for row in np.flatnonzero(np.isfinite(y[:, 0, 0])):
        wrong = y.copy()
        wrong[row, 0, 0] += 1e-3 * max(1.0, abs(float(y[row, 0, 0])))
        with pytest.raises(ModelError, match="differs"):
            compare(unit(Log()), x, wrong, "m", "y")


def test_without_a_network_nothing_tells_a_domain_from_a_broken_model() -> None:
    data = build([node("Log", "x", to="v"), node("Floor", "v")])
    with pytest.raises(ModelError, match="the model is broken"):
        model_from_bytes(data, "m", require_network=False)


def test_a_network_that_overflows_where_the_model_does_not_is_compared_in_double() -> None:
    """log(sum(exp x)): onnxruntime shifts by the maximum first, and stays finite for x = 100."""
    nodes = [node("Mul", "x", "c", to="v"), helper.make_node("ReduceLogSumExp", ["v"], ["y"], axes=[1])]
    model = model_from_bytes(build(nodes, c=12.0), "m")
    assert model.network is not None
    x = np.full((1, 2), 10.0)
    with np.errstate(over="ignore"):
        assert np.isinf(model.network.evaluate(x.astype(F32)[:, None])).all()
    np.testing.assert_allclose(model(x), model.network.evaluate(x[:, None])[:, 0], rtol=1e-6)
    log_softmax = [node("Mul", "x", "c", to="v"), helper.make_node("LogSoftmax", ["v"], ["y"])]
    assert model_from_bytes(build(log_softmax, c=8.0), "m").network is not None


def test_large_values_behind_a_steep_function_excuse_nothing() -> None:
    """exp(30) = 1e13 in between: an output that is off by a hundredth is still caught."""
    x = probes((1, 2), F32, None, "m")
    source = Input(shape=(1, 2), name="x")
    nodes = (source, Activation(shape=(1, 2), parents=(0,), function=Exp(), name="e"),
             Activation(shape=(1, 2), parents=(1,), function=Log(), name="y"))  # fmt: skip
    network = Network(nodes)
    compare(network, x, x, "m", "y")  # log(exp x) is x, up to rounding
    row = int(np.argmax(np.abs(x).max(axis=(1, 2))))
    wrong = x.copy()
    wrong[row] += F32(0.05)
    assert float(np.exp(x[row]).max()) > 1e4
    with pytest.raises(ModelError, match="differs"):
        compare(network, x, wrong, "m", "y")


def test_further_probes_lie_in_the_box() -> None:
    inside = further_probes((1, 3), F32, box(2, 3, 3)).reshape(-1, 3)
    assert len(inside) == 12
    assert ((inside >= 2) & (inside <= 3)).all()
    free = further_probes((1, 3), F32, None).reshape(-1, 3)
    assert (free > 0).all(axis=1).sum() == 8
    np.testing.assert_array_equal(free, further_probes((1, 3), F32, None).reshape(-1, 3))

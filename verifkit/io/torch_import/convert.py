"""onnx2torch itself: the one place that imports it, and that turns what it raises into one sentence."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from verifkit.errors import MissingPackage
from verifkit.io.torch_import.origins import NotImported, message
from verifkit.io.torch_import.prepare import Prepared


@dataclass(frozen=True)
class _Packages:
    """declared: keeps alive what was declared for torchvision; None where nothing had to be."""

    onnx2torch: Any
    converters: Any
    declared: Any


@cache
def _packages() -> _Packages:
    """onnx2torch, imported. Raises `MissingPackage`."""
    try:
        import torch

        declared = _import_torchvision(torch)
        import onnx2torch
        from onnx2torch import node_converters
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"the import through torch needs the package '{error.name}', which is not installed: "
            f"pip install 'verifkit[torch]'"
        ) from None
    return _Packages(onnx2torch, node_converters, declared)


def _import_torchvision(torch: Any) -> Any:
    """Imports torchvision, as onnx2torch will, also where its compiled half does not fit torch's build.

    It then fails on two operators that nothing here uses. Declaring them is enough, and is done only after that
    failure: where the compiled half loads it declares them itself, and twice is an error.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_module("torchvision")
        return library
    return None


def has_converter(operator: str, version: int) -> bool:
    """Whether onnx2torch converts the standard operator as opset `version` defines it. Raises `MissingPackage`."""
    try:
        _packages().converters.get_converter(operation_type=operator, version=version, domain="")
    except NotImplementedError:
        return False
    return True


def convert(prepared: Prepared, name: str) -> Any:
    """The prepared graph as a `torch.fx.GraphModule` in inference mode, on the CPU, its weights without gradients.

    Raises `MissingPackage`, or `NotImported` for the first node that has no converter or whose converter fails.
    """
    packages = _packages()
    import torch

    for node, origin in zip(prepared.proto.graph.node, prepared.origins, strict=True):
        opset = prepared.proto.opset_import[0].version
        if node.domain or not has_converter(node.op_type, opset):
            raise NotImported(name, origin, "onnx2torch has no converter for this operator")
    # Converters make layers with random weights first: the caller's random state must not notice.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that may differ: they are compared
        try:
            module = packages.onnx2torch.convert(prepared.proto)
        except Exception as error:  # noqa: BLE001  converters raise whatever they meet
            raise _failed(prepared, name, error) from None
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _failed(prepared: Prepared, name: str, error: Exception) -> NotImported:
    """The failure with the node whose converter fails on its own; the last node where none does."""
    from onnx import shape_inference
    from onnx2torch.onnx_graph import OnnxGraph

    converters = _packages().converters
    graph = OnnxGraph(shape_inference.infer_shapes(prepared.proto).graph)
    opset = prepared.proto.opset_import[0].version
    for origin, node in zip(prepared.origins, graph.nodes.values(), strict=True):
        try:
            converters.get_converter(operation_type=node.operation_type, version=opset, domain="")(node, graph)
        except Exception as own:  # noqa: BLE001  converters raise whatever they meet
            return NotImported(name, origin, f"onnx2torch cannot convert it: {message(own)}")
    return NotImported(name, prepared.origins[-1], f"onnx2torch cannot convert the graph: {message(error)}")

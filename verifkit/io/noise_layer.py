"""A model cut in two at the place where noise is to be added: what runs once, and what runs for every draw.

A file may name the place in its metadata, as those written by `verifkit.training` do.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from verifkit.errors import ModelError
from verifkit.io.onnx import model_from_bytes
from verifkit.model import Model

NOISE_AFTER = "verifkit.noise_after"
"""The metadata's key: the name of the tensor that noise is added to."""


@dataclass(frozen=True, eq=False)
class NoiseSplit:
    """tensor: what the noise is added to, "" for the input. head: from the input to it, None there; it has a network,
    or `head.unsupported` says why not. tail: from the noisy tensor to the scores."""

    tensor: str
    head: Model | None
    tail: Model


def noise_place(model: Model) -> str | None:
    """The tensor that the model's file names; None without a file or a name in it."""
    return None if model.onnx_bytes is None else _named(onnx.load_from_string(model.onnx_bytes))


def noise_split(model: Model, after: str | None = None) -> NoiseSplit:
    """The model cut at the tensor `after`; None: where its file says, else at its input.

    Raises `ModelError` where there is no such tensor, or where it is not all that the scores depend on. What is found
    is kept on the model, which is immutable.
    """
    known: dict[str | None, NoiseSplit] = model.__dict__.setdefault("_noise_splits", {})
    if after not in known:
        known[after] = _split(model, after)
    return known[after]


def _named(proto: onnx.ModelProto) -> str | None:
    return next((p.value for p in proto.metadata_props if p.key == NOISE_AFTER), None)


def _split(model: Model, after: str | None) -> NoiseSplit:
    if model.onnx_bytes is None:
        if after:
            raise ModelError(f"model '{model.name}' has no ONNX graph: noise can be added at its input only")
        return NoiseSplit("", None, model)
    proto = onnx.load_from_string(model.onnx_bytes)
    tensor = _named(proto) if after is None else after
    if not tensor or tensor in {i.name for i in proto.graph.input}:
        return NoiseSplit("", None, model)
    head, tail = _parts(proto, tensor, model.name)
    return NoiseSplit(
        tensor,
        model_from_bytes(head, f"{model.name} up to '{tensor}'", require_network=False),
        model_from_bytes(tail, f"{model.name} after '{tensor}'", require_network=False),
    )


def _parts(proto: onnx.ModelProto, tensor: str, name: str) -> tuple[bytes, bytes]:
    """ONNX bytes of the graph before and behind the tensor."""
    outputs = [o.name for o in proto.graph.output]
    if tensor in outputs or not any(tensor in node.output for node in proto.graph.node):
        raise ModelError(f"model '{name}' has no tensor '{tensor}' between its input and its output to add noise to")
    given = {t.name for t in proto.graph.initializer}
    inputs = [i.name for i in proto.graph.input if i.name not in given]
    try:
        extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(proto))
        head = extractor.extract_model(inputs, [tensor])
        tail = extractor.extract_model([tensor], outputs)
    except (KeyError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"model '{name}' cannot be cut at '{tensor}': {str(error).splitlines()[0]}") from None
    made = {o for node in tail.graph.node for o in node.output} | given | {tensor, ""}
    around = sorted({i for node in tail.graph.node for i in node.input} - made)
    if around:
        raise ModelError(
            f"noise at '{tensor}' does not cover what model '{name}' computes: '{around[0]}' goes around it"
        )
    return head.SerializeToString(deterministic=True), tail.SerializeToString(deterministic=True)

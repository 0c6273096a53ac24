"""What an ONNX file may hold that is no feed-forward network of floats: each is refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import onnx

from verifkit.errors import ModelError

_DTYPES: dict[int, type[np.floating[Any]]] = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.DOUBLE: np.float64}
_GRAPH_FIELD = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_ALL_NAMED = frozenset({"Concat", "LayerNormalization", "Max", "Mean", "Min", "Sum"})
_POINTER = b"version https://git-lfs"


def check_bytes(data: bytes, name: str) -> None:
    """Refuses bytes that would parse, or fail to, without a word on what they are."""
    if data.startswith(_POINTER):
        raise ModelError(f"'{name}' is a pointer of Git LFS, not the model itself: fetch the file (git lfs pull)")
    graphs = sum(field == _GRAPH_FIELD for field in _top_level_fields(data))
    if graphs > 1:
        raise ModelError(f"'{name}' holds {graphs} models, one after another: save each of them in a file of its own")


def _top_level_fields(data: bytes) -> Iterator[int]:
    """The field numbers of a protobuf message in order; ends where the bytes are none."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        yield tag >> 3
        kind = tag & 7
        if kind == 0:
            _, place = _varint(data, place)
        elif kind == 2:
            length, place = _varint(data, place)
            place += length
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            return


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A variable-length integer of at most ten bytes, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, place


def external_files(model: onnx.ModelProto) -> list[str]:
    """The files, by name, that the model's tensors are kept in."""
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        tensors.extend(a.t for a in node.attribute if a.type == onnx.AttributeProto.TENSOR)
    places = [t.external_data for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL]
    return sorted({e.value for place in places for e in place if e.key == "location"})


def check_external_files(model: onnx.ModelProto, file: Path) -> None:
    """Refuses weights outside the folder of `file`, and those that are not there."""
    folder = file.parent.resolve()
    for place in external_files(model):
        written = PurePath(place.replace("\\", "/"))
        inside = (folder / written).resolve().is_relative_to(folder)
        if written.is_absolute() or ".." in written.parts or not inside:
            raise ModelError(
                f"model '{file.name}' keeps weights in '{place}', outside its own folder, where nothing is read: save "
                f"it again with its weights inside or beside it"
            )
        if not (folder / written).is_file():
            raise ModelError(
                f"model '{file.name}' keeps weights in '{place}', which is not beside it: copy that file there"
            )


def check_model(model: onnx.ModelProto, name: str) -> None:
    """Refuses a model that is to be trained, one without nodes, and one that makes onnxruntime crash."""
    if model.training_info:
        raise ModelError(
            f"model '{name}' holds training information, a second graph that changes its weights: export it for "
            f"inference"
        )
    if not model.graph.node:
        raise ModelError(f"model '{name}' is empty: its graph has no nodes, export it again")
    for node in model.graph.node:
        nameless = "output" if node.op_type == "Split" and not all(node.output) else ""
        if node.op_type in _ALL_NAMED and not all(node.input):
            nameless = "input"
        if nameless:
            raise ModelError(
                f"node '{node.name}' ({node.op_type}) of model '{name}' has an {nameless} without a name, which makes "
                f"onnxruntime crash: name every {nameless}"
            )


def check_sizes(model: onnx.ModelProto, name: str) -> None:
    """Refuses a tensor without entries, as far as ONNX's shape inference sees one: onnxruntime may crash on it."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"the shapes of model '{name}' do not fit together ({str(error).splitlines()[0][:200]}): export it again"
        ) from None
    for value in [*inferred.value_info, *inferred.output]:
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
        if any(size < 1 for size in sizes):
            raise ModelError(
                f"tensor '{value.name}' of model '{name}' has shape {sizes}, without any entry: export it with inputs "
                f"large enough for its windows and scales"
            )


def check_text(model: onnx.ModelProto, name: str) -> None:
    """Refuses names that are no text, which onnxruntime cannot report on."""
    for node in model.graph.node:
        texts = [node.op_type, node.domain, node.name, *node.input, *node.output, *(a.name for a in node.attribute)]
        if not all(isinstance(text, str) for text in texts):
            raise ModelError(f"'{name}' holds names that are no text: the file is damaged, fetch or export it again")


def element_type(inputs: Sequence[onnx.ValueInfoProto], name: str) -> type[np.floating[Any]]:
    """The element type of the inputs, one for all of them: float32 or float64."""
    kinds = {_dtype(value, name): value.name for value in inputs}
    if len(kinds) > 1:
        listed = " and ".join(f"'{tensor}' is {np.dtype(kind).name}" for kind, tensor in kinds.items())
        raise ModelError(f"the inputs of model '{name}' are of different types ({listed}): convert them to one")
    (kind,) = kinds
    return kind


def _dtype(value: onnx.ValueInfoProto, name: str) -> type[np.floating[Any]]:
    elem_type = value.type.tensor_type.elem_type
    if elem_type not in _DTYPES:
        known = elem_type in onnx.TensorProto.DataType.values()
        kind = onnx.TensorProto.DataType.Name(elem_type).lower() if known and elem_type else "unknown"
        raise ModelError(
            f"input '{value.name}' of model '{name}' is of type {kind}; verifkit reads float and double models: "
            f"export it in single precision"
        )
    return _DTYPES[elem_type]


def check_value(value: onnx.ValueInfoProto, name: str) -> None:
    """Refuses an input that is no tensor, or one without a shape."""
    kind = value.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        what = kind.removesuffix("_type").replace("_", " ")
        raise ModelError(
            f"input '{value.name}' of model '{name}' is of type {what}, and verifkit reads tensors only: export the "
            f"model with plain tensors as its inputs"
        )
    if kind is None or not value.type.tensor_type.HasField("shape"):
        raise ModelError(f"input '{value.name}' of model '{name}' has no shape: export it again with a fixed one")

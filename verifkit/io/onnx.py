"""Reading a model from an ONNX file: parse, lower, and compare with onnxruntime before anything is built on it.

`load_model` is the way in. What cannot be read raises `ModelError` with one sentence; an operator that has no rule
raises `UnsupportedOperator`, or is kept in `Model.unsupported` where the caller can do without the white box.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from verifkit.errors import ModelError, UnsupportedOperator
from verifkit.input_sets import Box
from verifkit.io.compare import check_defined, compare, further_probes, probes, settle_batching
from verifkit.io.lowering.dialects import check_bytes, check_external_files, check_sizes, external_files
from verifkit.io.lowering.graph import OnnxGraph, read_graph
from verifkit.io.lowering.table import lower
from verifkit.io.onnx_writer import write_onnx
from verifkit.io.runtime import OnnxRunner
from verifkit.model import Model, digest_of
from verifkit.network import Network


def load_model(path: str | os.PathLike[str], *, require_network: bool = True, box: Box | None = None) -> Model:
    """The model in an `.onnx` or `.onnx.gz` file; `path` may leave the `.gz` out.

    require_network: raise `UnsupportedOperator` where a node cannot be lowered, instead of a model without a network.
    box: an input set of interest, whose corners join the inputs that the import is checked on. Raises `ModelError`.
    """
    file = Path(path)
    if not file.exists() and file.with_name(file.name + ".gz").exists():
        file = file.with_name(file.name + ".gz")
    data = _read(file)
    name = file.name.removesuffix(".gz")
    model = _parse(data, name)
    if external_files(model):
        data = _with_external_data(model, file)
        model = _parse(data, name)
    return _model(model, data, name, require_network=require_network, box=box)


def model_from_bytes(data: bytes, name: str, *, require_network: bool = True, box: Box | None = None) -> Model:
    """The model in ONNX bytes; `name` is what reports call it. Otherwise as `load_model`."""
    model = _parse(data, name)
    missing = external_files(model)
    if missing:
        raise ModelError(
            f"model '{name}' keeps its weights in another file ('{missing[0]}'): load it by its path, or save it "
            f"again with its weights inside"
        )
    return _model(model, data, name, require_network=require_network, box=box)


def model_from_network(network: Network, name: str) -> Model:
    """A network made in memory as a model: written to ONNX, which onnxruntime runs, and compared with that.

    Raises `ModelError` where ONNX cannot say what the network computes.
    """
    data = write_onnx(network)
    graph = read_graph(_parse(data, name), name)
    return _checked(graph, data, name, network, None, None)


def _read(file: Path) -> bytes:
    if not file.exists():
        raise ModelError(f"model file '{file}' does not exist: check the path")
    if file.is_dir():
        raise ModelError(f"'{file}' is a directory: name the .onnx file in it")
    if not file.is_file():
        raise ModelError(f"'{file}' is no regular file: name an .onnx file")
    try:
        data = file.read_bytes()
        if file.suffix == ".gz":
            data = gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise ModelError(f"'{file}' is no complete gzip file: it is damaged or cut short, fetch it again") from None
    except OSError as error:
        raise ModelError(f"model file '{file}' cannot be read: {error.strerror}") from None
    if not data:
        raise ModelError(f"model file '{file}' is empty: fetch or export it again")
    return data


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    check_bytes(data, name)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError(
            f"'{name}' is not a complete ONNX model: it is cut short or another kind of file, fetch or export it again"
        ) from None
    if not model.HasField("graph") or not model.graph.output:
        raise ModelError(f"'{name}' is not a complete ONNX model: it holds no graph, fetch or export it again")
    return model


def _with_external_data(model: onnx.ModelProto, file: Path) -> bytes:
    """The model's bytes with the weights of its other files inside."""
    from onnx import checker, external_data_helper

    check_external_files(model, file)
    try:
        external_data_helper.load_external_data_for_model(model, str(file.parent))
    except (OSError, ValueError, checker.ValidationError) as error:
        raise ModelError(
            f"the weights that model '{file.name}' keeps in other files cannot be read: {str(error).splitlines()[0]}"
        ) from None
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _model(proto: onnx.ModelProto, data: bytes, name: str, *, require_network: bool, box: Box | None) -> Model:
    graph = read_graph(proto, name)
    network, unsupported = None, None
    try:
        try:
            network = lower(graph, name)
        except UnsupportedOperator as error:
            if require_network:
                raise
            check_sizes(proto, name)  # what the lowering would have refused, and onnxruntime may crash on
            unsupported = error
        return _checked(graph, data, name, network, unsupported, box)
    except MemoryError:
        raise ModelError(
            f"model '{name}' has tensors that do not fit into this machine's memory: check its shapes"
        ) from None


def _checked(
    graph: OnnxGraph,
    data: bytes,
    name: str,
    network: Network | None,
    unsupported: UnsupportedOperator | None,
    box: Box | None,
) -> Model:
    """The model, once onnxruntime has run it on a dozen inputs and agrees with the network."""
    runner = OnnxRunner(data, [(p.name, p.shape) for p in graph.inputs], graph.outputs, graph.dtype)
    output = "', '".join(graph.outputs)
    x = probes(graph.input_shape, graph.dtype, box, name)
    y = runner(x)
    if network is not None and not np.isfinite(y).all():
        more = further_probes(graph.input_shape, graph.dtype, box)
        x, y = np.concatenate([x, more]), np.concatenate([y, runner(more)])
        check_defined(x, y, box, name, output)
    compare(network, x, y, name, output)
    if graph.dynamic_batch:
        runner.batched = settle_batching(runner, x, y)
    return Model(
        name=name,
        input_shape=graph.input_shape,
        output_shape=tuple(y.shape[1:]),
        call=runner,
        digest=digest_of(data),
        dtype=graph.dtype,
        onnx_bytes=data,
        network=network,
        unsupported=unsupported,
    )

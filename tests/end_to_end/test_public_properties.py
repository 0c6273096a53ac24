"""Every property file of the public competition sets is read, fits its instances, and survives a round trip."""

from __future__ import annotations

import csv
import gzip
import os
import re
from pathlib import Path

import onnx
import pytest

from verifkit.input_sets import Box
from verifkit.io.vnnlib import load_property, parse_property, write_property

ROOT = Path(os.environ.get("VERIFKIT_VNNCOMP") or Path(__file__).parents[2].parent / "shared" / "vnncomp")
FILES = sorted(path for path in ROOT.rglob("*.vnnlib*") if path.name.endswith((".vnnlib", ".vnnlib.gz")))

pytestmark = pytest.mark.skipif(
    not FILES, reason="no public instances: set VERIFKIT_VNNCOMP or put them in ../shared/vnncomp"
)


def text_of(path: Path) -> str:
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()


def stored(path: Path) -> Path:
    return path if path.exists() else path.with_name(path.name + ".gz")


def width(values, given: set[str]) -> int:
    """Entries of the one tensor among `values` that is not an initializer; a free dimension counts as 1."""
    (shape,) = [v.type.tensor_type.shape for v in values if v.name not in given]
    size = 1
    for dim in shape.dim:
        size *= dim.dim_value or 1
    return size


@pytest.mark.parametrize("folder", sorted({path.relative_to(ROOT).parts[0] for path in FILES}))
def test_every_file_of_a_set(folder):
    for path in (p for p in FILES if p.relative_to(ROOT).parts[0] == folder):
        text, prop = text_of(path), load_property(path)
        assert prop.n_inputs == len(re.findall(r"declare-const X_", text)), path
        assert prop.n_outputs == len(re.findall(r"declare-const Y_", text)), path
        assert isinstance(prop.input_set, Box)
        assert prop.unsafe, path
        assert prop.name == path.name.removesuffix(".gz")
        assert parse_property(write_property(prop)).digest == prop.digest, path


@pytest.mark.parametrize("listing", sorted(ROOT.glob("*/instances.csv")), ids=lambda p: p.parent.name)
def test_properties_fit_their_networks(listing):
    sizes: dict[str, tuple[int, int]] = {}
    properties: dict[str, tuple[int, int]] = {}
    for network, file, *_ in csv.reader(listing.read_text().splitlines()):
        if network not in sizes:
            path = stored(listing.parent / network)
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            graph = onnx.load_from_string(data).graph
            given = {tensor.name for tensor in graph.initializer}
            sizes[network] = width(graph.input, given), width(graph.output, given)
        if file not in properties:
            prop = load_property(listing.parent / file)
            properties[file] = prop.n_inputs, prop.n_outputs
        assert properties[file] == sizes[network], (network, file)

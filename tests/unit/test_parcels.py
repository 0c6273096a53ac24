"""Files sent to another machine arrive as they were, and are known by what they hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from tests.end_to_end.hostile import write_folder, write_model
from verifkit.bench.running.parcels import Parcel, Post
from verifkit.bench.suites.suite import load_suite
from verifkit.errors import SuiteError
from verifkit.io.onnx import load_model


def test_a_model_arrives_with_the_weights_beside_it(tmp_path: Path) -> None:
    write_model(tmp_path / "inside.onnx")
    model = onnx.load(tmp_path / "inside.onnx")
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    parcel = Post().model(str(path))
    assert parcel.content is not None
    assert sorted(parcel.content) == ["net.onnx", "weights.bin"]
    there = parcel.unpack(tmp_path / "there")
    assert load_model(there).digest == load_model(path).digest
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert Post().model(str(path)).digest != parcel.digest


def test_large_files_travel_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite(write_folder(tmp_path / "bench", count=1))
    (instance,) = suite.instances
    small = Post().question(7, instance)
    assert small.file.content is not None
    monkeypatch.setattr("verifkit.bench.running.parcels.SMALL", 10)
    post = Post()
    large = post.question(7, instance)
    assert large.file == replace(small.file, content=None)
    assert post.whole(large.file.digest) == small.file
    placed = large.placed("there/net.onnx", str(small.file.unpack(tmp_path / "there")))
    assert placed == replace(instance, model_path="there/net.onnx", property_path=str(tmp_path / "there" / "p0.vnnlib"))


def test_a_damaged_model_travels_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "net.onnx.gz").write_bytes(b"no gzip file")
    assert Post().model(str(tmp_path / "net.onnx.gz")).content == {"net.onnx.gz": b"no gzip file"}


def test_what_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"'.*missing\.onnx' cannot be read"):
        Post().model(str(tmp_path / "missing.onnx"))
    with pytest.raises(SuiteError, match="nothing is written outside"):
        Parcel("a", "", {"../a": b""}).unpack(tmp_path / "there")

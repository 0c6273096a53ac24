"""Files on their way to another machine: known by what they hold, so that one that has them is not sent them again.

Nothing here is Dask's. A question goes to a worker with the names of its files; the files themselves go along where
they are small, else when the worker says that it lacks them.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from verifkit.bench.suites.instance import Instance
from verifkit.errors import ModelError, SuiteError
from verifkit.io.lowering.dialects import check_external_files, external_files

SMALL = 2**16
"""Bytes up to which the files of a parcel travel with every question that needs them."""


@dataclass(frozen=True)
class Parcel:
    """Files that belong together: a model with the weights it keeps beside it, a property, an `.npz` of samples.

    name: the main file's. digest: sha256 over the names and what they hold. content: the files by their path relative
    to the main file's folder; None where they do not travel along.
    """

    name: str
    digest: str
    content: dict[str, bytes] | None = None

    def unpack(self, folder: Path) -> Path:
        """Writes the files below `folder`; the main file. Raises `SuiteError`."""
        for name, data in (self.content or {}).items():
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise SuiteError(f"'{name}' is no file's name: nothing is written outside a study's own folder")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            except OSError as error:
                raise SuiteError(f"the temporary folder '{folder}' cannot be written: {error.strerror}") from None
        return folder / self.name


@dataclass(frozen=True)
class Question:
    """An instance without its files. number: under which a worker keeps it. file: the property's or the samples'."""

    number: int
    instance: Instance
    file: Parcel

    def placed(self, model: str, file: str) -> Instance:
        """The instance with the files where this machine has them."""
        sample = self.instance.sample
        if sample is None:
            return replace(self.instance, model_path=model, property_path=file)
        return replace(self.instance, model_path=model, sample=replace(sample, inputs=file))


class Post:
    """Makes the parcels of a study's files; keeps what it has found out about those that are not small."""

    def __init__(self) -> None:
        self._large: dict[str, Parcel] = {}
        self._paths: dict[str, tuple[str, bool]] = {}

    def model(self, path: str) -> Parcel:
        """The model at `path` with its external data. Raises `SuiteError` where it cannot be read."""
        return self._parcel(path, model=True)

    def question(self, number: int, instance: Instance) -> Question:
        path = instance.property_path if instance.sample is None else instance.sample.inputs
        assert path is not None
        return Question(number, instance, self._parcel(path, model=False))

    def whole(self, digest: str) -> Parcel:
        """The parcel again, with its content, however large."""
        path, model = self._paths[digest]
        return _parcel(path, model=model)

    def _parcel(self, path: str, *, model: bool) -> Parcel:
        if path in self._large:
            return self._large[path]
        parcel = _parcel(path, model=model)
        assert parcel.content is not None
        if sum(map(len, parcel.content.values())) > SMALL:
            parcel = self._large[path] = replace(parcel, content=None)
            self._paths[parcel.digest] = (path, model)
        return parcel


def _parcel(path: str, *, model: bool) -> Parcel:
    file = Path(path)
    content = {file.name: _read(file)}
    if model:
        for name in _beside(file, content[file.name]):
            content[name] = _read(file.parent / name)
    total = hashlib.sha256()
    for name, data in content.items():
        total.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(data).digest())
    return Parcel(file.name, total.hexdigest(), content)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SuiteError(f"'{file}' cannot be read: {error.strerror}") from None


def _beside(file: Path, data: bytes) -> list[str]:
    """The files beside a model that its weights are kept in; what is wrong with a model, the worker will say."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(gzip.decompress(data) if file.suffix == ".gz" else data)
        check_external_files(model, file)
    except (DecodeError, ModelError, gzip.BadGzipFile, EOFError, zlib.error):
        return []
    return external_files(model)

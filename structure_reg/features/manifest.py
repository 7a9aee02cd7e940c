"""The manifest of a feature store: a JSON file that describes its contents."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from structure_reg.features._checks import check_depth, no_manifest, no_store
from structure_reg.features.files import read_bytes, write_file
from structure_reg.features.lock import starting
from structure_reg.features.tensor_file import DTYPES

FORMAT = 1
MANIFEST, IDS = "manifest.json", "ids.json"
# What reading and checking any JSON may raise.
READING = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)


@dataclass(frozen=True)
class LayerFile:
    """A layer's file, its width d, and the checksum of the rows written so far."""

    file: str
    width: int
    crc32: int


@dataclass(frozen=True)
class Manifest:
    """The encoder, the rows of the dataset, how many are done, and the file of each layer."""

    model: str
    revision: str | None
    preprocessing: Any
    start: int
    stop: int
    step: int
    total: int
    ids_crc32: int
    extraction: Any
    dtype: str | None
    layers: dict[str, LayerFile]
    done: int

    @property
    def rows(self) -> range:
        return range(self.start, self.stop, self.step)

    @property
    def widths(self) -> dict[str, int]:
        return {layer: file.width for layer, file in self.layers.items()}

    def text(self) -> str:
        facts = {
            "format": FORMAT,
            "structure_reg": version("structure-reg"),
            "torch": torch.__version__,
            **vars(self),
            "layers": {layer: vars(file) for layer, file in self.layers.items()},
        }
        return json.dumps(facts, indent=1) + "\n"

    def write(self, directory: Path) -> None:
        write_file(directory / MANIFEST, self.text().encode())


def file_name(position: int, layer: str) -> str:
    """Return the name of a layer's file, which lies in the directory whatever the layer's name."""
    readable = re.sub(r"[^\w.-]", "_", layer, flags=re.ASCII)[:100]
    return f"{position:03d}-{readable}.safetensors"


def as_json(what: str, value: Any) -> Any:
    """Return a value as it is read again."""
    check_depth(what, value)
    return json.loads(json.dumps(value))


def start(
    model: str, revision: str | None, preprocessing: Any, rows: range, total: int, ids_text: str
) -> Manifest:
    """Return the manifest of a store without features."""
    return Manifest(
        model=model,
        revision=revision,
        preprocessing=as_json("preprocessing", preprocessing),
        start=rows.start,
        stop=rows[-1] + 1,
        step=rows.step,
        total=total,
        ids_crc32=zlib.crc32(ids_text.encode()),
        extraction=None,
        dtype=None,
        layers={},
        done=0,
    )


def start_directory(path: Path, manifest: Manifest, ids_text: str) -> None:
    """Write the ids and then the manifest, unless the directory holds files that are not ours."""
    if path.exists() and not path.is_dir():
        raise no_store(path, "a directory", "a file")
    path.mkdir(parents=True, exist_ok=True)
    with starting(path):
        if (path / MANIFEST).is_file():  # started by another process in the meantime
            return
        foreign = {file.name.removesuffix(".tmp") for file in path.iterdir()} - {IDS, MANIFEST}
        if foreign:
            raise no_store(path, "an empty directory or a store", sorted(foreign)[0])
        write_file(path / IDS, ids_text.encode())
        manifest.write(path)


def read(directory: Path) -> Manifest:
    """Read the manifest of a directory, and refuse one that no run can have written."""
    path = directory / MANIFEST
    if not path.is_file():
        raise no_manifest(directory)
    text = read_bytes(path)
    try:
        facts = json.loads(text)
        check_depth("a manifest", facts)
        file_format = facts.pop("format")
        facts.pop("structure_reg"), facts.pop("torch")
        layers = {name: LayerFile(**layer) for name, layer in facts.pop("layers").items()}
        manifest = Manifest(layers=layers, **facts)
        consistent = is_consistent(manifest)
    except READING as error:
        raise no_store(directory, "a manifest of a store", f"{error!r:.500}") from None
    if file_format != FORMAT:
        raise no_store(directory, f"a manifest of format {FORMAT}", file_format)
    if not consistent:
        raise no_store(directory, "a manifest of a store", "values that contradict each other")
    return manifest


def is_consistent(manifest: Manifest) -> bool:
    """Whether counts are counts, rows lie in the dataset, and files have the names we give them."""
    counts = [manifest.start, manifest.stop, manifest.step, manifest.total, manifest.done]
    counts += [layer.width for layer in manifest.layers.values()]
    checksums = [manifest.ids_crc32, *(layer.crc32 for layer in manifest.layers.values())]
    names = [file_name(*layer) for layer in enumerate(manifest.layers)]
    return (
        isinstance(manifest.model, str)
        and isinstance(manifest.revision, str | None)
        and all(type(count) is int and 0 <= count < 2**63 for count in counts)
        and all(type(checksum) is int and 0 <= checksum < 2**32 for checksum in checksums)
        and len(manifest.rows) > 0
        and manifest.stop == manifest.rows[-1] + 1 <= manifest.total
        and manifest.done <= len(manifest.rows)
        and (manifest.dtype in DTYPES if manifest.layers else manifest.dtype is None)
        and (manifest.done > 0) == bool(manifest.layers)
        and [layer.file for layer in manifest.layers.values()] == names
        and all(layer.width > 0 for layer in manifest.layers.values())
    )


def read_ids(directory: Path, manifest: Manifest) -> list[str | int]:
    """Read the ids of the rows, and refuse others than those that the manifest counts."""
    text = read_bytes(directory / IDS) if (directory / IDS).is_file() else b""
    if zlib.crc32(text) != manifest.ids_crc32:
        raise no_store(directory, f"{IDS} of checksum {manifest.ids_crc32}", "another")
    try:
        ids: list[str | int] = json.loads(text)
    except READING as error:
        raise no_store(directory, f"a list in {IDS}", f"{error!r:.500}") from None
    n = len(manifest.rows)
    if not isinstance(ids, list) or len(ids) != n or {type(i) for i in ids} - {str, int}:
        raise no_store(directory, f"{n} strings or integers in {IDS}", "others")
    return ids

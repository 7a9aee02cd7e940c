"""The manifest of a feature store: a JSON file that describes its contents."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from structure_reg.features._checks import no_manifest, no_store
from structure_reg.features.tensor_file import DTYPES, write_text

FORMAT = 1
MANIFEST, IDS = "manifest.json", "ids.json"


@dataclass
class LayerFile:
    """A layer's file, its width d, and the checksum of the rows written so far."""

    file: str
    width: int
    crc32: int


@dataclass
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

    def write(self, directory: Path) -> None:
        facts = {
            "format": FORMAT,
            "structure_reg": version("structure-reg"),
            "torch": torch.__version__,
            **asdict(self),
        }
        write_text(directory / MANIFEST, json.dumps(facts, indent=1) + "\n")


def start(
    model: str, revision: str | None, preprocessing: Any, rows: range, total: int, ids_text: str
) -> Manifest:
    """Return the manifest of a store without features."""
    return Manifest(
        model=model,
        revision=revision,
        preprocessing=json.loads(json.dumps(preprocessing)),
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


def read(directory: Path) -> Manifest:
    """Read the manifest of a directory, and refuse one that no run can have written."""
    path = directory / MANIFEST
    if not path.is_file():
        raise no_manifest(directory)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        file_format = facts.pop("format")
        facts.pop("structure_reg"), facts.pop("torch")
        layers = {name: LayerFile(**layer) for name, layer in facts.pop("layers").items()}
        manifest = Manifest(layers=layers, **facts)
        consistent = is_consistent(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise no_store(directory, "a manifest of a store", f"{error!r}") from None
    if file_format != FORMAT:
        raise no_store(directory, f"a manifest of format {FORMAT}", file_format)
    if not consistent:
        raise no_store(directory, "a manifest of a store", "values that contradict each other")
    return manifest


def is_consistent(manifest: Manifest) -> bool:
    """Whether counts are counts, rows lie in the dataset, and files lie in the directory itself."""
    counts = [manifest.start, manifest.total, manifest.done, manifest.ids_crc32]
    counts += [value for layer in manifest.layers.values() for value in (layer.width, layer.crc32)]
    return (
        all(type(count) is int and count >= 0 for count in counts)
        and len(manifest.rows) > 0
        and manifest.step > 0
        and manifest.rows[-1] < manifest.total
        and manifest.done <= len(manifest.rows)
        and (manifest.dtype in DTYPES if manifest.layers else manifest.done == 0)
        and all(Path(layer.file).name == layer.file for layer in manifest.layers.values())
        and all(layer.width > 0 for layer in manifest.layers.values())
    )

"""What a feature store says of itself, as JSON."""

from __future__ import annotations

import json
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
    """A layer's file, its d, and the checksum of the rows that are done."""

    file: str
    width: int
    crc32: int


@dataclass
class Manifest:
    """Which encoder, which rows of a dataset, how many are done, and the file of each layer."""

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

    def write(self, directory: Path) -> None:
        facts = {
            "format": FORMAT,
            "structure_reg": version("structure-reg"),
            "torch": torch.__version__,
            **asdict(self),
        }
        write_text(directory / MANIFEST, json.dumps(facts, indent=1) + "\n")


def read(directory: Path) -> Manifest:
    """The manifest of a directory; one that no run can have written is refused."""
    path = directory / MANIFEST
    if not path.is_file():
        raise no_manifest(directory)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        written_as = facts.pop("format")
        facts.pop("structure_reg"), facts.pop("torch")
        layers = {name: LayerFile(**layer) for name, layer in facts.pop("layers").items()}
        manifest = Manifest(layers=layers, **facts)
        sound = is_sound(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise no_store(directory, "a manifest of a store", f"{error!r}") from None
    if written_as != FORMAT:
        raise no_store(directory, f"a manifest of format {FORMAT}", written_as)
    if not sound:
        raise no_store(directory, "a manifest of a store", "values that contradict each other")
    return manifest


def is_sound(manifest: Manifest) -> bool:
    """Counts are counts, rows lie in the dataset, and files are in the directory itself."""
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

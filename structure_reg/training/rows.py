"""Rows of one side that stay where they are, in memory or on disk, until they are asked for."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structure_reg._tiles import slices, tile_rows
from structure_reg.training._checks import check_finite, check_layer_rows
from structure_reg.training.inputs import (
    Features,
    as_source,
    joined,
    layer_of,
    layers_of_blend,
    read,
)
from structure_reg.training.shards import Shard

BUDGET = 128 * 2**20  # bytes of one side in float32 up to which all of its rows are held


@dataclass(frozen=True)
class Rows:
    """Rows of one layer, or of the layers of a blend side by side: ``rows[i]`` is in float32."""

    sources: Sequence[Any]  # of shape (n, d) each; tensors, arrays on disk, or shards
    device: torch.device
    scaled: Callable[[Tensor], Tensor] | None = None
    maps: Sequence[mmap.mmap] = ()  # files of which only what is being read shall be in memory

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), sum(source.shape[1] for source in self.sources)

    @property
    def widths(self) -> list[int]:
        return [source.shape[1] for source in self.sources]

    @property
    def group(self) -> Any:
        """The processes that the rows are spread over; None where all of them lie here."""
        return self.sources[0].group if isinstance(self.sources[0], Shard) else None

    @property
    def own(self) -> Rows:
        """The rows that lie here: a sum over all rows is one over these, then over processes."""
        return replace(self, sources=[s.own if isinstance(s, Shard) else s for s in self.sources])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.sources[0])

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Read the rows of a slice, or at different positions in any order; (m, d)."""
        x = joined([read(source, rows, self.device) for source in self.sources])
        x = x if self.scaled is None else self.scaled(x)
        for file in self.maps:
            file.madvise(mmap.MADV_DONTNEED)
        return x

    def blocks(self) -> list[slice]:
        return slices(len(self), tile_rows(128 * self.shape[1]))

    def fit_in_memory(self) -> bool:
        n, d = self.shape
        return 4 * n * d <= BUDGET


def rows_of(function: str, name: str, features: Features, layer: Any, device: Any) -> Rows:
    """Rows of a layer, or of each layer of a blend, without reading them."""
    layers = [layer_of(function, name, features, one) for one in layers_of_blend(layer)]
    sources = [as_source(function, name, x) for x in layers]
    check_layer_rows(function, name, sources)
    own = sources[0].device if isinstance(sources[0], Tensor | Shard) else "cpu"
    maps = [file for x in layers if (file := mapped_file(x)) is not None]
    return Rows(sources, torch.device(own if device is None else device), maps=maps)


def mapped_file(x: Any) -> mmap.mmap | None:
    """The file that NumPy maps for an array or a view of one, if nothing is lost without its pages.

    Pages that were read count as memory of the process as long as they are mapped.
    """
    while isinstance(x, np.ndarray) and not isinstance(x, np.memmap):
        x = x.base
    if not isinstance(x, np.memmap) or x.mode == "c" or not hasattr(mmap, "MADV_DONTNEED"):
        return None  # "c": changes are in memory alone
    file: mmap.mmap | None = x._mmap  # type: ignore[attr-defined]
    return file


def finite_layers(function: str, name: str, rows: Rows) -> list[Tensor]:
    """All rows of every layer in float32, without NaN and infinity."""
    layers = [read(source, slice(None), rows.device) for source in rows.sources]
    for x in layers:
        check_finite(function, name, x)
    return layers


def check_finite_rows(function: str, name: str, rows: Rows) -> None:
    for block in rows.blocks():
        finite_block(function, name, rows, block)


def finite_block(function: str, name: str, rows: Rows, block: slice) -> Tensor:
    x = rows[block]
    check_finite(function, name, x)
    return x

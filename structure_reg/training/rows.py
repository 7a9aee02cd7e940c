"""Rows of one side that stay where they are, in memory or on disk, until they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
        return x if self.scaled is None else self.scaled(x)

    def blocks(self) -> list[slice]:
        return slices(len(self), tile_rows(128 * self.shape[1]))

    def fit_in_memory(self) -> bool:
        n, d = self.shape
        return 4 * n * d <= BUDGET


def rows_of(function: str, name: str, features: Features, layer: Any, device: Any) -> Rows:
    """Rows of a layer, or of each layer of a blend, without reading them."""
    sources = [
        as_source(function, name, layer_of(function, name, features, one))
        for one in layers_of_blend(layer)
    ]
    check_layer_rows(function, name, sources)
    own = sources[0].device if isinstance(sources[0], Tensor | Shard) else "cpu"
    return Rows(sources, torch.device(own if device is None else device))


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

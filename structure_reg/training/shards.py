"""Features whose rows are spread over processes, as one array of which any row can be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structure_reg._distributed import gather_uneven_rows
from structure_reg.training._checks import check_backend, check_shard_rows
from structure_reg.training.inputs import (
    Features,
    as_source,
    has_layers,
    layer_names,
    read,
)
from structure_reg.training.together import agree, gathered, rank_in, together


class Shard:
    """Rows of all processes in rank order, read as an array on disk is; own ones lie here.

    Every process reads the same rows at the same time, and receives all of them.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, own: Any, counts: tuple[int, ...], device: torch.device, group: Any) -> None:
        self.own, self.counts, self.device, self.group = own, counts, device, group
        self.bounds = np.array([0, *accumulate(counts)])  # where each process's rows begin
        self.shape = (sum(counts), own.shape[1])

    def __len__(self) -> int:
        """Return the number of rows on all processes."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Tensor:
        """Read the rows of a slice, or at positions in increasing order; (m, d)."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            cuts = np.clip(self.bounds, start, max(start, stop))
        else:
            cuts = np.searchsorted(rows, self.bounds)
        rank = rank_in(self.group)
        a, b = (int(cut) for cut in cuts[rank : rank + 2])
        before = int(self.bounds[rank])
        own: slice | Tensor
        if isinstance(rows, slice) or a == b:
            own = slice(a - before, b - before) if a < b else slice(0, 0)
        else:
            own = torch.as_tensor(rows[a:b] - before)
        return gather_uneven_rows(
            read(self.own, own, self.device), np.diff(cuts).tolist(), self.group
        )


class ShardedLayers(Mapping[Any, Shard]):
    """Several layers, each of which is opened on all processes when it is asked for."""

    def __init__(
        self, function: str, name: str, features: Features, device: Any, group: Any
    ) -> None:
        self.features = features
        self.names = layer_names(function, name, features)
        self.opened = partial(opened, function, name, device, group)
        self.function, self.name = function, name
        self.counts = self.opened(features, self.names[0]).counts

    def __getitem__(self, layer: Any) -> Shard:
        """Open a layer."""
        shard = self.opened(self.features, layer)
        check_shard_rows(self.function, f"the layers of {self.name}", self.counts, shard.counts)
        return shard

    def __contains__(self, layer: object) -> bool:
        """Return whether there is such a layer, without opening it."""
        return layer in self.names

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the names, or the positions in a list."""
        return iter(self.names)

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self.names)


def sharded(
    function: str, name: str, features: Features, device: Any, group: Any
) -> Shard | ShardedLayers:
    """The rows of all processes; the layers have to have the same names on each of them."""
    several = has_layers(features)
    names = together(lambda: layer_names(function, name, features), group)
    agree(function, {f"layers of {name}": names if several else "one array"}, group)
    if several:
        return ShardedLayers(function, name, features, device, group)
    return opened(function, name, device, group, features)


def opened(
    function: str, name: str, device: Any, group: Any, features: Features, layer: Any = None
) -> Shard:
    """The rows of one array, or of one of several layers, on all processes."""

    def local() -> Any:
        return as_source(function, name, features if layer is None else features[layer])

    source = together(local, group)
    own = source.device if isinstance(source, Tensor) else "cpu"
    device = torch.device(own if device is None else device)
    agree(function, {f"width of {name}": source.shape[1], "kind of device": device.type}, group)
    check_backend(function, device, group)
    return Shard(source, tuple(gathered(len(source), group)), device, group)

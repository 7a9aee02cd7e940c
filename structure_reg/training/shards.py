"""Features whose rows are spread over processes, as one array of which any row can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import accumulate
from operator import getitem
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
        (a, b), before = cuts[rank : rank + 2], self.bounds[rank]
        own: slice | Tensor = slice(0)  # not every file reads an empty list of positions
        if isinstance(rows, slice) and a < b:
            own = slice(a - before, b - before)
        elif a < b:
            own = torch.as_tensor(rows[a:b] - before)
        x = read(self.own, own, self.device)
        return gather_uneven_rows(x, np.diff(cuts).tolist(), self.group)


class ShardedLayers(Mapping[Any, Shard]):
    """Several layers, each of which is opened on all processes when it is asked for."""

    def __init__(
        self, function: str, name: str, features: Features, device: Any, group: Any
    ) -> None:
        self.function, self.name, self.features = function, name, features
        self.device, self.group = device, group
        self.names = layer_names(function, name, features)
        self.counts = self._opened(self.names[0]).counts

    def __getitem__(self, layer: Any) -> Shard:
        """Open a layer."""
        shard = self._opened(layer)
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

    def _opened(self, layer: Any) -> Shard:
        own = partial(getitem, self.features, layer)
        return opened(self.function, self.name, own, self.device, self.group)


def sharded(
    function: str, name: str, features: Features, device: Any, group: Any
) -> Shard | ShardedLayers:
    """The rows of all processes; the layers have to have the same names on each of them."""
    several = has_layers(features)
    names = together(lambda: layer_names(function, name, features), group)
    agree(function, {f"layers of {name}": names if several else "one array"}, group)
    if several:
        return ShardedLayers(function, name, features, device, group)
    return opened(function, name, lambda: features, device, group)


def opened(function: str, name: str, array: Callable[[], Any], device: Any, group: Any) -> Shard:
    """The rows of one array, which each process opens its part of, on all processes."""
    source = together(lambda: as_source(function, name, array()), group)
    own = source.device if isinstance(source, Tensor) else "cpu"
    device = torch.device(own if device is None else device)
    agree(function, {f"width of {name}": source.shape[1], "kind of device": device.type}, group)
    check_backend(function, device, group)
    return Shard(source, tuple(gathered(len(source), group)), device, group)

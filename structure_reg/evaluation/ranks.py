"""Cosine scores for rankings, precise enough to tell nearly parallel rows apart."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._tiles import slices, tile_rows


def tiles(n: int, bytes_per_row: int) -> list[slice]:
    """Return slices of n rows that fit the tile budget."""
    return slices(n, tile_rows(bytes_per_row))


def score_rounding(gallery: Tensor) -> Tensor:
    """Bound the difference between the products of one unit row with two equal rows."""
    longest = gallery.square().sum(-1).amax().sqrt()
    eps = torch.finfo(gallery.dtype).eps
    return 8 * eps * longest + 64 * torch.finfo(torch.float64).eps


def nan_of(*tensors: Tensor) -> Tensor:
    """Return NaN if any value is not finite, otherwise 0: comparisons alone would hide it."""
    return torch.stack([0 * x.sum(dtype=torch.float64) for x in tensors]).sum()
